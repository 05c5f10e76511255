//! The answering side of negentropy, protocol version 1 (NIP-77 carries it): how two stores find out
//! by a few small messages which events one has and the other lacks.
//!
//! Both have their events in one order, oldest first and by id within a second. A message is a list of
//! ranges of that order, each with a fingerprint of the events in it, or with their ids. Ranges whose
//! fingerprints agree are done; others are divided, until ids are told. A fingerprint is a hash of the
//! number of events and the sum of their ids, so a store that keeps sums answers for a million events
//! without looking at them.
//!
//! The `negentropy` crate cannot be told such sums: its fingerprints have a type that others cannot
//! name, so it adds up every id anew. Hence this side of our own, over a [`Set`] that sums as it can.
//! The crate is the other side in the tests, and the twin: both must answer byte for byte the same.
//!
//! ```text
//! message      0x61 | range ...
//! range        upper bound | mode | payload          the lower bound is the upper one before
//! bound        1 + seconds since the bound before, or 0 for no bound | length | start of an id
//! mode         0: nothing to say    1: fingerprint 16    2: number | id 32 ...
//! ```
//! Numbers are varints, most significant group first.

mod answer;
mod between;
mod sorted;
mod wire;

pub use answer::{FRAME_BYTES_MIN, Refusal, answer};
pub use between::{Between, Strange};
pub use sorted::Sorted;
pub use wire::Malformed;

use std::ops::Range;

use event::{EventId, Timestamp};

/// An event, as far as reconciliation sees it. Ordered as the protocol orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    pub created_at: Timestamp,
    pub id: EventId,
}

/// Items in order, by their place from 0 on. Ranges lie within `0..count`.
pub trait Set {
    type Error;

    /// How many items there are.
    fn count(&self) -> u64;

    /// How many items come before `bound`.
    fn count_below(&self, bound: &Item) -> Result<u64, Self::Error>;

    /// The sum of the ids in a range, as little-endian numbers, mod 2^256.
    fn sum(&self, range: Range<u64>) -> Result<[u8; 32], Self::Error>;

    /// Gives the items of a range in order, until `take` says no.
    fn each(
        &self,
        range: Range<u64>,
        take: &mut dyn FnMut(Item) -> bool,
    ) -> Result<(), Self::Error>;
}

/// Adds an id, or a sum of ids, to a sum of ids.
pub fn add(sum: &mut [u8; 32], more: &[u8; 32]) {
    let mut carry = false;
    for (limb, other) in sum.as_chunks_mut().0.iter_mut().zip(more.as_chunks().0) {
        let (added, over) = u64::from_le_bytes(*limb).overflowing_add(u64::from_le_bytes(*other));
        let (added, over_by_carry) = added.overflowing_add(carry.into());
        *limb = added.to_le_bytes();
        carry = over | over_by_carry;
    }
}

/// Takes a sum of ids out of a larger one.
pub fn subtract(sum: &mut [u8; 32], less: &[u8; 32]) {
    let mut borrow = false;
    for (limb, other) in sum.as_chunks_mut().0.iter_mut().zip(less.as_chunks().0) {
        let (left, under) = u64::from_le_bytes(*limb).overflowing_sub(u64::from_le_bytes(*other));
        let (left, under_by_borrow) = left.overflowing_sub(borrow.into());
        *limb = left.to_le_bytes();
        borrow = under | under_by_borrow;
    }
}
