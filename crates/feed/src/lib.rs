//! The log of L2 as a feed that can be proven: a Merkle tree over its entries, and what is certified
//! of it.
//!
//! An event proves itself by its id and its signature. What it cannot prove is that nothing was left
//! out beside it, that the order is the store's, and that this is the store of today. So the canister
//! certifies the length and the root of its log ([`certified`]), and a page of the log comes with the
//! few hashes that complete it to that root ([`Mmr::prove`]). Whoever follows the log recomputes the
//! root from the page ([`root_of`]); one signature is checked for a page, not one for an event
//! (`verify`, behind the feature of that name).
//!
//! The tree is the one of RFC 9162, section 2.1: leaves are `H(0x00 | entry)`, nodes `H(0x01 | left |
//! right)`, and a range is divided at the largest power of two below its length. It is kept as a
//! Merkle mountain range: its full subtrees never change again, so they are written once, one after
//! another, and a log that grows rewrites nothing. That is the choice over a chain of hashes, where
//! the proof of an old page is all that came after it.
//!
//! A leaf commits to what lasts ([`Entry`]): an event's id, which commits to all of it but the
//! signature, and not its bytes. So a page can be proven after some of its events were erased.
//!
//! ```
//! use feed::{Entry, Mmr, root_of};
//!
//! let id = event::EventId([7; 32]);
//! let leaves: Vec<_> = (0..5).map(|seq| Entry::Saved(id).leaf(seq, 1_700_000_000)).collect();
//! let mut log = Mmr::open(Vec::new(), 0);
//! leaves.iter().for_each(|leaf| log.push(*leaf));
//! let nodes = log.prove(2..4);
//! assert_eq!(root_of(5, 2, &leaves[2..4], &nodes), Ok(log.root()));
//! ```

pub mod certified;
mod leaf;
mod mmr;
mod range;
#[cfg(feature = "verify")]
pub mod verify;

pub use leaf::Entry;
pub use mmr::{Mmr, Nodes};
pub use range::{RangeError, root_of};

/// SHA-256.
pub type Hash = [u8; 32];

/// The root of a log without entries.
pub fn empty_root() -> Hash {
    use sha2::Digest;
    sha2::Sha256::digest([]).into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    use sha2::Digest;
    sha2::Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Where the tree over `length` leaves, two at least, is divided: RFC 9162's `k`.
fn divide(length: u64) -> u64 {
    1 << (length - 1).ilog2()
}
