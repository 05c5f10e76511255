//! One answer to one message. Nothing is kept between two: the other side holds the state.

use std::ops::Range;

use event::Timestamp;

use crate::{
    Item, Set,
    wire::{
        Bound, FINGERPRINT, Fingerprint, IDS, Malformed, NO_BOUND, Reader, SKIP, VERSION, VERSIONS,
        Writer, fingerprint,
    },
};

/// The smallest limit for an answer: below, a round may not get anywhere.
pub const FRAME_BYTES_MIN: usize = 4_096;
/// What may be written after an answer was found to be full: the bounds and the last fingerprint.
const FRAME_BYTES_SPARE: usize = 200;
/// A range is divided into so many, and one with fewer than twice as many items is told by its ids.
const BUCKETS: u64 = 16;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<E> {
    Malformed(Malformed),
    /// The set could not be read.
    Set(E),
}

impl<E> From<Malformed> for Refusal<E> {
    fn from(malformed: Malformed) -> Refusal<E> {
        Refusal::Malformed(malformed)
    }
}

/// Answers a message out of `set`. The answer has at most `frame_bytes_max` bytes; what does not fit is
/// left to the next round, as one range with its fingerprint. To a version of the protocol that is
/// not ours the answer is ours alone.
pub fn answer<S: Set>(
    set: &S,
    message: &[u8],
    frame_bytes_max: usize,
) -> Result<Vec<u8>, Refusal<S::Error>> {
    debug_assert!(frame_bytes_max >= FRAME_BYTES_MIN);
    let mut reader = Reader::new(message);
    match reader.take(1)?[0] {
        VERSION => {}
        version if VERSIONS.contains(&version) => return Ok(vec![VERSION]),
        _ => return Err(Malformed::Version.into()),
    }
    let full_at = frame_bytes_max - FRAME_BYTES_SPARE;
    let mut answer = Answer { set, full_at, out: Writer::new(), told: 0, has_skipped: false };
    let (mut lower, mut lower_bound) = (0, Bound::at(Timestamp(0)));
    while !reader.is_done() {
        let bound = reader.bound()?;
        let mode = reader.number()?;
        let range = lower..answer.count_below(&bound)?.max(lower);
        lower = range.end;
        let has_room = match mode {
            SKIP => answer.skip(),
            FINGERPRINT => {
                let theirs = reader.take(16)?;
                answer.compare(range, &lower_bound, &bound, theirs)?
            }
            IDS => {
                // Which of ours they lack, they find out by the answer; what we lack is their affair.
                reader.ids()?;
                answer.tell(range, &lower_bound, bound)?
            }
            mode => return Err(Malformed::Mode(mode).into()),
        };
        if !has_room {
            answer.leave_the_rest()?;
            break;
        }
        lower_bound = bound;
    }
    Ok(answer.out.bytes)
}

struct Answer<'a, S> {
    set: &'a S,
    full_at: usize,
    out: Writer,
    /// Up to where something was said of our items.
    told: u64,
    /// There is nothing to say from the last bound on.
    has_skipped: bool,
}

/// Each method writes what is to be said of a range, and says whether there is room for more.
impl<S: Set> Answer<'_, S> {
    fn skip(&mut self) -> bool {
        self.has_skipped = true;
        true
    }

    fn compare(
        &mut self,
        range: Range<u64>,
        lower_bound: &Bound,
        bound: &Bound,
        theirs: &[u8],
    ) -> Result<bool, Refusal<S::Error>> {
        if self.fingerprint(range.clone())? == theirs {
            return Ok(self.skip());
        }
        let start = self.out.bytes.len();
        self.end_skipping(lower_bound);
        let end = range.end;
        self.divide(range, bound)?;
        if self.is_full() {
            self.out.bytes.truncate(start);
            return Ok(false);
        }
        self.told = end;
        Ok(true)
    }

    /// Tells the ids of a range, or the first of them.
    fn tell(
        &mut self,
        range: Range<u64>,
        lower_bound: &Bound,
        mut bound: Bound,
    ) -> Result<bool, Refusal<S::Error>> {
        let start = self.out.bytes.len();
        self.end_skipping(lower_bound);
        let mut ids = Vec::new();
        let (set, full_at) = (self.set, self.full_at);
        set.each(range.clone(), &mut |item| {
            let has_room = start + ids.len() <= full_at;
            if has_room {
                ids.extend_from_slice(&item.id.0);
            } else {
                bound = Bound::before(item);
            }
            has_room
        })
        .map_err(Refusal::Set)?;
        self.told = range.start + ids.len() as u64 / 32;
        self.out.ids(&bound, &ids);
        Ok(!self.is_full())
    }

    fn divide(&mut self, range: Range<u64>, bound: &Bound) -> Result<(), Refusal<S::Error>> {
        let count = range.end - range.start;
        if count < 2 * BUCKETS {
            let mut ids = Vec::new();
            let mut take = |item: Item| {
                ids.extend_from_slice(&item.id.0);
                true
            };
            self.set.each(range, &mut take).map_err(Refusal::Set)?;
            self.out.ids(bound, &ids);
            return Ok(());
        }
        let mut start = range.start;
        for bucket in 0..BUCKETS {
            let end = start + count / BUCKETS + u64::from(bucket < count % BUCKETS);
            let fingerprint = self.fingerprint(start..end)?;
            let bound = if end == range.end { *bound } else { self.bound_at(end)? };
            self.out.fingerprint(&bound, &fingerprint);
            start = end;
        }
        Ok(())
    }

    /// A bound between item `place` and the one before.
    fn bound_at(&self, place: u64) -> Result<Bound, Refusal<S::Error>> {
        let mut pair = Vec::with_capacity(2);
        let mut take = |item| {
            pair.push(item);
            true
        };
        self.set.each(place - 1..place + 1, &mut take).map_err(Refusal::Set)?;
        let [before, after] = &pair[..] else { panic!("a set has the items that it counts") };
        Ok(Bound::between(before, after))
    }

    fn fingerprint(&self, range: Range<u64>) -> Result<Fingerprint, Refusal<S::Error>> {
        let count = range.end - range.start;
        Ok(fingerprint(&self.set.sum(range).map_err(Refusal::Set)?, count))
    }

    fn count_below(&self, bound: &Bound) -> Result<u64, Refusal<S::Error>> {
        match bound.item.created_at {
            NO_BOUND => Ok(self.set.count()),
            _ => self.set.count_below(&bound.item).map_err(Refusal::Set),
        }
    }

    /// Ranges of which nothing was said are told as one.
    fn end_skipping(&mut self, bound: &Bound) {
        if std::mem::take(&mut self.has_skipped) {
            self.out.skip(bound);
        }
    }

    fn is_full(&self) -> bool {
        self.out.bytes.len() > self.full_at
    }

    fn leave_the_rest(&mut self) -> Result<(), Refusal<S::Error>> {
        let rest = self.fingerprint(self.told..self.set.count())?;
        self.out.fingerprint(&Bound::at(NO_BOUND), &rest);
        Ok(())
    }
}
