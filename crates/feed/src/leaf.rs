//! What the tree's leaves commit to.

use event::EventId;
use sha2::{Digest, Sha256};

use crate::Hash;

/// An entry of the log, as far as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// An event was saved. Whether it is still held is not part of it: the leaf must not change when
    /// the event goes.
    Saved(EventId),
    /// An event was removed, and why.
    Removed(EventId, &'a [u8]),
    /// The whole store was emptied.
    Cleared,
}

impl Entry<'_> {
    /// The hash of `0x00 | seq 8 | arrived 8 | class 1 | id 32 | why`, numbers big-endian; a cleared
    /// entry ends after its class. An event's 58 bytes are one block for SHA-256.
    pub fn leaf(&self, seq: u64, arrived: u64) -> Hash {
        let hash = Sha256::new()
            .chain_update([0])
            .chain_update(seq.to_be_bytes())
            .chain_update(arrived.to_be_bytes());
        let hash = match self {
            Entry::Saved(id) => hash.chain_update([1]).chain_update(id.0),
            Entry::Removed(id, why) => hash.chain_update([2]).chain_update(id.0).chain_update(why),
            Entry::Cleared => hash.chain_update([3]),
        };
        hash.finalize().into()
    }
}
