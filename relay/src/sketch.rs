//! How many, and how many different: what a COUNT is answered with (NIP-45).

use event::{Filter, PublicKey, TagName};
use sha2::{Digest, Sha256};

use crate::bits::leading_zeros;

/// Registers of a sketch.
const REGISTERS: usize = 256;

/// The answer to a COUNT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    pub is_approximate: bool,
    pub sketch: Option<Sketch>,
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
    pub fn wanted_by(filters: &[Filter]) -> Option<Sketch> {
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

    pub fn add(&mut self, author: &PublicKey) {
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
