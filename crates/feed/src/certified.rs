//! What the canister certifies: a labelled tree whose hash is its certified data.
//!
//! ```text
//! log        length   8 bytes, big-endian
//!            root     32 bytes
//! version    1 byte: 1
//! ```
//! Labels are in byte order, as look-ups need it, and readers look for those they know: others may
//! join them. (IC interface specification, "Certified data" and "Certification encoding".)

use ic_certification::{HashTree, LookupResult, fork, labeled, leaf};

use crate::Hash;

/// How this tree and the leaves under its root are made.
pub const VERSION: u8 = 1;

/// The end of the log: how long it is, and the root over all of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub length: u64,
    pub root: Hash,
}

impl Head {
    /// The tree of which the canister certifies [`HashTree::digest`].
    pub fn tree(&self) -> HashTree {
        let length = labeled("length", leaf(self.length.to_be_bytes()));
        let log = fork(length, labeled("root", leaf(self.root)));
        fork(labeled("log", log), labeled("version", leaf([VERSION])))
    }

    /// What a tree says, if it says so in this version.
    pub fn of_tree(tree: &HashTree) -> Option<Head> {
        let found = |path: &[&str]| match tree.lookup_path(path) {
            LookupResult::Found(bytes) => Some(bytes),
            _ => None,
        };
        if found(&["version"])? != [VERSION] {
            return None;
        }
        let length = found(&["log", "length"])?.try_into().ok()?;
        let root = found(&["log", "root"])?.try_into().ok()?;
        Some(Head { length: u64::from_be_bytes(length), root })
    }
}

/// A tree as it travels: CBOR, with the tag that says so.
pub fn write(tree: &HashTree) -> Vec<u8> {
    let mut cbor = Vec::new();
    let mut serializer = serde_cbor::Serializer::new(&mut cbor);
    serializer.self_describe().expect("a vector takes all bytes");
    serde::Serialize::serialize(tree, &mut serializer).expect("a vector takes all bytes");
    cbor
}
