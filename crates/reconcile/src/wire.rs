//! The bytes of a message.

use event::{EventId, Timestamp};
use sha2::{Digest, Sha256};

use crate::Item;

pub const VERSION: u8 = 0x61;
/// The bytes that stand for a version of the protocol.
pub const VERSIONS: std::ops::RangeInclusive<u8> = 0x60..=0x6f;
pub const NO_BOUND: Timestamp = Timestamp(u64::MAX);

pub const SKIP: u64 = 0;
pub const FINGERPRINT: u64 = 1;
pub const IDS: u64 = 2;

pub type Fingerprint = [u8; 16];

/// Where a range ends: before `item`, of whose id only the start is written.
#[derive(Clone, Copy)]
pub struct Bound {
    pub item: Item,
    id_bytes: usize,
}

impl Bound {
    pub fn at(created_at: Timestamp) -> Bound {
        Bound { item: Item { created_at, id: EventId([0; 32]) }, id_bytes: 0 }
    }

    pub fn before(item: Item) -> Bound {
        Bound { item, id_bytes: 32 }
    }

    /// The shortest that parts two neighbours.
    pub fn between(before: &Item, after: &Item) -> Bound {
        let mut bound = Bound::at(after.created_at);
        if before.created_at == after.created_at {
            let pairs = before.id.0.iter().zip(&after.id.0);
            let shared = pairs.take_while(|(one, other)| one == other).count();
            bound.id_bytes = (shared + 1).min(32);
            bound.item.id.0[..bound.id_bytes].copy_from_slice(&after.id.0[..bound.id_bytes]);
        }
        bound
    }
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the message ends in the middle")]
    Truncated,
    #[error("the message is of no version of negentropy")]
    Version,
    #[error("a number in the message is too large")]
    Number,
    #[error("a bound in the message has more than an id")]
    Bound,
    #[error("a range in the message has the unknown mode {0}")]
    Mode(u64),
}

pub struct Reader<'a> {
    bytes: &'a [u8],
    date: u64,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, date: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut number: u64 = 0;
        loop {
            let byte = self.take(1)?[0];
            if number >> (u64::BITS - 7) != 0 {
                return Err(Malformed::Number);
            }
            number = number << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
    }

    pub fn bound(&mut self) -> Result<Bound, Malformed> {
        self.date = match self.number()? {
            0 => NO_BOUND.0,
            date => self.date.saturating_add(date - 1),
        };
        let mut bound = Bound::at(Timestamp(self.date));
        let length = usize::try_from(self.number()?).map_err(|_| Malformed::Bound)?;
        let id = bound.item.id.0.get_mut(..length).ok_or(Malformed::Bound)?;
        id.copy_from_slice(self.take(length)?);
        bound.id_bytes = length;
        Ok(bound)
    }

    /// The ids of a list.
    pub fn ids(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.number()?.checked_mul(32).and_then(|bytes| usize::try_from(bytes).ok());
        self.take(bytes.ok_or(Malformed::Truncated)?)
    }
}

/// A message in the making.
pub struct Writer {
    pub bytes: Vec<u8>,
    date: u64,
}

impl Writer {
    pub fn new() -> Writer {
        Writer { bytes: vec![VERSION], date: 0 }
    }

    pub fn skip(&mut self, bound: &Bound) {
        self.range(bound, SKIP);
    }

    pub fn fingerprint(&mut self, bound: &Bound, fingerprint: &Fingerprint) {
        self.range(bound, FINGERPRINT);
        self.bytes.extend_from_slice(fingerprint);
    }

    /// `ids`: one after another.
    pub fn ids(&mut self, bound: &Bound, ids: &[u8]) {
        self.range(bound, IDS);
        self.number(ids.len() as u64 / 32);
        self.bytes.extend_from_slice(ids);
    }

    fn range(&mut self, bound: &Bound, mode: u64) {
        let date = bound.item.created_at;
        match date {
            NO_BOUND => self.number(0),
            Timestamp(date) => self.number(date.saturating_sub(self.date).saturating_add(1)),
        }
        self.date = date.0;
        self.number(bound.id_bytes as u64);
        self.bytes.extend_from_slice(&bound.item.id.0[..bound.id_bytes]);
        self.number(mode);
    }

    fn number(&mut self, number: u64) {
        let groups = (u64::BITS - number.leading_zeros()).div_ceil(7).max(1);
        for group in (1..groups).rev() {
            self.bytes.push((number >> (7 * group)) as u8 | 0x80);
        }
        self.bytes.push(number as u8 & 0x7f);
    }
}

pub fn fingerprint(sum: &[u8; 32], count: u64) -> Fingerprint {
    let mut counted = Writer { bytes: sum.to_vec(), date: 0 };
    counted.number(count);
    let hash = Sha256::digest(&counted.bytes);
    *hash.first_chunk().expect("a hash has 32 bytes")
}
