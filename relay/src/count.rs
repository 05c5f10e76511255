//! How many events match (NIP-45), and a sketch of how many people they are from.
//!
//! What L1 gave up L2 counts, but L2 does not know who asks, and not what never leaves this relay; so a
//! count with its help is said to be approximate.

use std::{ops::ControlFlow, sync::Arc};

use event::{Filter, PublicKey, TagName};
use index::{Found, Reader, Scan, Take};
use sha2::{Digest, Sha256};
use store::{ReadError, Store};
use tokio::time::timeout;

use crate::{
    ingest::leading_zeros,
    inquiry::Inquiry,
    reads::{Deadline, Reads, Turn},
    revive::Revival,
    sight::Sight,
};

/// Registers of a sketch (NIP-45).
const REGISTERS: usize = 256;

/// One question.
pub struct Question {
    pub filters: Vec<Filter>,
    pub sight: Sight,
    pub reads: Reads,
    pub revival: Arc<Revival>,
    pub inquiry: Option<Arc<Inquiry>>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    pub is_approximate: bool,
    pub sketch: Option<Sketch>,
}

impl Question {
    /// None: the relay is stopping.
    pub async fn answer(self) -> Option<Result<Tally, ReadError>> {
        let is_known = match &self.inquiry {
            Some(inquiry) => inquiry.knows(&self.filters).await,
            None => true,
        };
        let here = match self.count_here().await? {
            Ok(here) => here,
            Err(error) => return Some(Err(error)),
        };
        if is_known {
            return Some(Ok(here));
        }
        let there = self.count_there().await.unwrap_or(0);
        let count = here.count.max(there);
        Some(Ok(Tally { count, is_approximate: true, sketch: None }))
    }

    async fn count_here(&self) -> Option<Result<Tally, ReadError>> {
        let mut scan = self.sight.over(Scan::new(&self.filters), &self.filters);
        let mut sketch = Sketch::wanted_by(&self.filters);
        let (mut count, mut turn) = (0, Turn::First);
        loop {
            let read = self.reads.read(turn, move |store, deadline| {
                let counted = page(store, &mut scan, &mut sketch, deadline)?;
                Ok((counted, scan, sketch))
            });
            let (counted, left, drawn) = match read.await? {
                Ok(read) => read,
                Err(error) => return Some(Err(error)),
            };
            (scan, sketch) = (left, drawn);
            count += counted.0;
            if counted.1.is_break() {
                return Some(Ok(Tally { count, is_approximate: false, sketch }));
            }
            turn = Turn::Further;
        }
    }

    async fn count_there(&self) -> Option<u64> {
        let layer2 = self.revival.layer2.as_ref()?;
        if self.sight.may_hide(&self.filters) {
            return None;
        }
        let answer = timeout(self.revival.patience, layer2.count(&self.filters)).await;
        answer.ok()?.ok().map(|answer| answer.count)
    }
}

/// Counts a page. Breaks when that was the last.
fn page(
    store: &Store,
    scan: &mut Scan,
    sketch: &mut Option<Sketch>,
    mut deadline: Deadline,
) -> Result<(u64, ControlFlow<()>), ReadError> {
    let (count, is_done) = match sketch {
        None => store.count_page(scan, || !deadline.is_over())?,
        Some(sketch) => {
            let mut drawing = Drawing { sketch, count: 0, deadline };
            let is_done = store.page(scan, &mut drawing)?;
            (drawing.count, is_done)
        }
    };
    Ok((count, if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }))
}

/// Counts, and draws each author into a sketch.
struct Drawing<'s> {
    sketch: &'s mut Sketch,
    count: u64,
    deadline: Deadline,
}

impl Reader for Drawing<'_> {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.count += 1;
        self.sketch.add(&found.event().pubkey());
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}

/// HyperLogLog registers over the authors of what was counted. Those of several relays are merged by
/// taking the larger of each, so that one number comes out for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    registers: Box<[u8; REGISTERS]>,
    /// Where in a key the bits are taken from.
    offset: usize,
}

impl Sketch {
    /// An empty one, if NIP-45 has one for such a question: one filter that asks for kinds with one tag.
    fn wanted_by(filters: &[Filter]) -> Option<Sketch> {
        let [filter] = filters else { return None };
        let is_plain = filter.ids.is_none()
            && filter.authors.is_none()
            && filter.all_tags.is_empty()
            && filter.tags.len() == 1
            && filter.kinds.is_some();
        let (name, values) = filter.tags.first_key_value().filter(|_| is_plain)?;
        let registers = Box::new([0; REGISTERS]);
        Some(Sketch { registers, offset: offset_of(*name, values.first()?) })
    }

    fn add(&mut self, author: &PublicKey) {
        let bytes = &author.0;
        let zeros = leading_zeros(&bytes[self.offset + 1..]);
        let register = &mut self.registers[usize::from(bytes[self.offset])];
        *register = (*register).max(zeros as u8 + 1);
    }

    /// Two hex digits for each register.
    pub fn to_hex(&self) -> String {
        hex::encode(*self.registers)
    }
}

/// The 33rd hex digit of what is asked for, and 8: nobody can make keys that count for more everywhere.
fn offset_of(name: TagName, value: &str) -> usize {
    let address = || value.split(':').nth(1).filter(|_| name.byte().eq_ignore_ascii_case(&b'a'));
    let is_hex = |text: &&str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = match Some(value).filter(is_hex).or_else(|| address().filter(is_hex)) {
        Some(digits) => digits.to_owned(),
        None => hex::encode(Sha256::digest(value)),
    };
    let digit = char::from(digits.as_bytes()[32]).to_digit(16).expect("it is hex");
    digit as usize + 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch_for(filter: &str) -> Option<Sketch> {
        Sketch::wanted_by(&[Filter::from_json(filter.as_bytes()).unwrap()])
    }

    #[test]
    fn the_offset_is_read_from_what_is_asked_for() {
        let id = format!("{}a{}", "0".repeat(32), "0".repeat(31));
        let p = TagName::new("p").unwrap();
        assert_eq!(offset_of(p, &id), 18);
        let a = TagName::new("a").unwrap();
        assert_eq!(offset_of(a, &format!("30023:{id}:water")), 18);
        let hash = hex::encode(Sha256::digest("water"));
        let digit = hash[32..33].to_owned();
        assert_eq!(
            offset_of(TagName::new("t").unwrap(), "water"),
            8 + usize::from_str_radix(&digit, 16).unwrap()
        );
    }

    #[test]
    fn a_register_keeps_the_longest_run_of_zeros() {
        let id = "0".repeat(64);
        let mut sketch = sketch_for(&format!(r##"{{"kinds":[7],"#e":["{id}"]}}"##)).unwrap();
        let mut key = [0; 32];
        (key[8], key[9], key[10]) = (5, 0, 0b0001_0000);
        sketch.add(&PublicKey(key));
        assert_eq!(sketch.registers[5], 8 + 3 + 1);
        (key[9], key[10]) = (0b1000_0000, 0);
        sketch.add(&PublicKey(key));
        assert_eq!(sketch.registers[5], 12);
        assert_eq!(sketch.to_hex().len(), 512);
        assert_eq!(&sketch.to_hex()[10..12], "0c");
    }

    #[test]
    fn only_kinds_with_one_tag_are_sketched() {
        assert!(sketch_for(r##"{"kinds":[1],"#t":["water"]}"##).is_some());
        assert!(sketch_for(r##"{"#t":["water"]}"##).is_none());
        assert!(sketch_for(r##"{"kinds":[1],"#t":["water"],"#d":["x"]}"##).is_none());
        assert!(sketch_for(r#"{"kinds":[1]}"#).is_none());
        assert!(sketch_for(r##"{"kinds":[1],"#t":[]}"##).is_none());
    }
}
