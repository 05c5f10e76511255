//! The log's Merkle tree in stable memory, and the head of it that is certified.
//!
//! ```text
//! "AQM" | version 1 | length 8 | unused 20 | node 32 ...         the length is little-endian
//! ```
//! The tree follows the log instead of being written along with it: [`Proofs::follow`] adds a leaf for
//! each entry that is new since it was last asked, and is asked once, when a message has changed what
//! it wanted ([`crate::state`]). So no writer can forget it, and a store that was installed before
//! there was a tree gets one with its upgrade.

use feed::{Hash, Mmr, Nodes, certified::Head};
use ic_stable_structures::Memory;
use index::Seq;

use crate::log::{Entry, Kind, Log, write};

const MAGIC: [u8; 4] = *b"AQM\x01";
const HEADER_BYTES: u64 = 32;

pub struct Proofs<M>(Mmr<StableNodes<M>>);

impl<M: Memory> Proofs<M> {
    /// Opens the tree in this memory, or begins one where it is empty.
    pub fn open(memory: M) -> Proofs<M> {
        let mut length = 0;
        if memory.size() > 0 {
            let mut header = [0; 12];
            memory.read(0, &mut header);
            let (magic, bytes) = header.split_at(4);
            assert_eq!(magic, MAGIC, "there is no Merkle tree of a version known here");
            length = u64::from_le_bytes(bytes.try_into().expect("12 less 4 are 8"));
        }
        Proofs(Mmr::open(StableNodes(memory), length))
    }

    /// Takes in the entries that the log has got. Whether there were any.
    pub fn follow<L: Memory>(&mut self, log: &Log<L>) -> bool {
        let Seq(length) = log.length();
        let known = self.0.length();
        for seq in known..length {
            let entry = log.entry(Seq(seq)).expect("it is below the length");
            self.0.push(leaf(log, seq, &entry));
        }
        let has_grown = known < length;
        if has_grown {
            self.0.nodes_mut().write_header(length);
        }
        has_grown
    }

    pub fn head(&self) -> Head {
        Head { length: self.0.length(), root: self.0.root() }
    }

    /// The nodes that complete the entries from `first` up to `next` to the root.
    pub fn complete(&self, first: u64, next: u64) -> Vec<Hash> {
        self.0.prove(first..next)
    }
}

fn leaf<L: Memory>(log: &Log<L>, seq: u64, entry: &Entry) -> Hash {
    let arrived = entry.arrived;
    match entry.kind {
        Kind::Saved | Kind::Gone => feed::Entry::Saved(log.id(entry)).leaf(seq, arrived),
        Kind::Removed => {
            let data = log.data(entry);
            let (id, why) = data.split_first_chunk().expect("it begins with an id");
            feed::Entry::Removed(event::EventId(*id), why).leaf(seq, arrived)
        }
        Kind::Cleared => feed::Entry::Cleared.leaf(seq, arrived),
    }
}

struct StableNodes<M>(M);

impl<M: Memory> StableNodes<M> {
    fn write_header(&mut self, length: u64) {
        write(&self.0, 0, &[&MAGIC[..], &length.to_le_bytes()].concat());
    }
}

impl<M: Memory> Nodes for StableNodes<M> {
    fn read(&self, position: u64) -> Hash {
        let mut node = [0; 32];
        self.0.read(place_of(position), &mut node);
        node
    }

    fn append(&mut self, position: u64, nodes: &[Hash]) {
        write(&self.0, place_of(position), nodes.as_flattened());
    }
}

fn place_of(position: u64) -> u64 {
    HEADER_BYTES + 32 * position
}
