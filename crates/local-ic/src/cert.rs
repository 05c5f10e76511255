//! Keys, state trees and certificates.
//!
//! A certificate signs a tree that holds the requested paths, the time, and the labels of the
//! other top-level branches with their content pruned. No tree of the whole state is ever built,
//! so a certificate costs one BLS signature however large the state is.
//!
//! Every key comes from a public seed. A certificate made here proves nothing to anybody; it lets
//! clients run the very checks they run against the real network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use candid::Principal;
use ic_certification::{Certificate, Delegation, HashTree};
use serde::Serialize;
use sha2::{Digest, Sha256};

const BLS_DER_PREFIX: &[u8; 37] = b"\x30\x81\x82\x30\x1d\x06\x0d\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x01\x02\x01\x06\x0c\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x02\x01\x03\x61\x00";
const STATE_ROOT_DOMAIN: &[u8] = b"\x0Dic-state-root";
/// A delegation is signed anew when it is older than this.
const DELEGATION_NANOS_MAX: u64 = 60_000_000_000;
/// The branches of the Internet Computer's state tree.
const ROOTS: [&str; 7] = [
    "api_boundary_nodes",
    "canister",
    "canister_ranges",
    "request_status",
    "streams",
    "subnet",
    "time",
];

pub fn leb128(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// CBOR with the self-describing tag, as every body of the HTTPS interface.
pub fn cbor(value: &impl Serialize) -> Vec<u8> {
    let mut serializer = serde_cbor::Serializer::new(Vec::new());
    serializer.self_describe().expect("writing to a Vec");
    value.serialize(&mut serializer).expect("plain data");
    serializer.into_inner()
}

pub type Range = (Principal, Principal);

/// A state tree in the making.
#[derive(Default)]
pub struct Tree(BTreeMap<Vec<u8>, Node>);

enum Node {
    Leaf(Vec<u8>),
    Branch(Tree),
}

impl Tree {
    pub fn at_time(time: u64) -> Tree {
        let mut tree = Tree::default();
        tree.insert(&[b"time"], leb128(time));
        tree
    }

    pub fn insert(&mut self, path: &[&[u8]], leaf: Vec<u8>) {
        let (label, rest) = path.split_first().expect("a path has a label");
        if rest.is_empty() {
            self.0.insert(label.to_vec(), Node::Leaf(leaf));
        } else if let Node::Branch(branch) = self.branch(label) {
            branch.insert(rest, leaf);
        }
    }

    fn branch(&mut self, label: &[u8]) -> &mut Node {
        self.0.entry(label.to_vec()).or_insert_with(|| Node::Branch(Tree::default()))
    }

    fn hash_tree(&self) -> HashTree {
        let nodes = self.0.iter().map(|(label, node)| {
            let node = match node {
                Node::Leaf(bytes) => ic_certification::leaf(bytes.clone()),
                Node::Branch(tree) => tree.hash_tree(),
            };
            ic_certification::labeled(label.clone(), node)
        });
        balanced(nodes.collect())
    }

    /// The tree with the branches that were not asked for shown as pruned.
    pub fn witness(&self, is_requested: impl Fn(&str) -> bool) -> HashTree {
        let mut labels: BTreeMap<&[u8], HashTree> = BTreeMap::new();
        for root in ROOTS.iter().filter(|root| !is_requested(root)) {
            let hidden: [u8; 32] = Sha256::digest(root.as_bytes()).into();
            let node = ic_certification::pruned(hidden);
            labels.insert(root.as_bytes(), ic_certification::labeled(*root, node));
        }
        for (label, node) in &self.0 {
            let node = match node {
                Node::Leaf(bytes) => ic_certification::leaf(bytes.clone()),
                Node::Branch(tree) => tree.hash_tree(),
            };
            labels.insert(label, ic_certification::labeled(label.clone(), node));
        }
        balanced(labels.into_values().collect())
    }
}

fn balanced(mut nodes: Vec<HashTree>) -> HashTree {
    match nodes.len() {
        0 => ic_certification::empty(),
        1 => nodes.pop().expect("one node"),
        n => {
            let right = nodes.split_off(n / 2);
            ic_certification::fork(balanced(nodes), balanced(right))
        }
    }
}

/// A subnet's threshold key and the key of its only node.
pub struct SubnetKeys {
    secret: ic_verify_bls_signature::PrivateKey,
    pub der: Vec<u8>,
    pub subnet: Principal,
    node_secret: ic_ed25519::PrivateKey,
    pub node_der: Vec<u8>,
    pub node: Principal,
}

impl SubnetKeys {
    pub fn from_seed(seed: &[u8; 32]) -> SubnetKeys {
        let mut bytes: [u8; 32] = Sha256::digest([b"local-ic bls", &seed[..]].concat()).into();
        bytes[0] &= 0x3f; // Below the order of the group.
        let secret = ic_verify_bls_signature::PrivateKey::deserialize(&bytes)
            .expect("a number below the group order");
        let der = [&BLS_DER_PREFIX[..], &secret.public_key().serialize()[..]].concat();
        let node_secret =
            ic_ed25519::PrivateKey::generate_from_seed(&[b"local-ic node", &seed[..]].concat());
        let node_der = node_secret.public_key().serialize_rfc8410_der();
        SubnetKeys {
            subnet: Principal::self_authenticating(&der),
            node: Principal::self_authenticating(&node_der),
            secret,
            der,
            node_secret,
            node_der,
        }
    }

    pub fn sign_as_node(&self, message: &[u8]) -> Vec<u8> {
        self.node_secret.sign_message(message).to_vec()
    }

    fn sign_tree(&self, tree: HashTree, delegation: Option<Delegation>) -> Vec<u8> {
        let message = [STATE_ROOT_DOMAIN, &tree.digest()[..]].concat();
        cbor(&Certificate {
            tree,
            signature: self.secret.sign(&message).serialize().to_vec(),
            delegation,
        })
    }
}

/// Who signs for one subnet, and on whose authority.
pub struct Authority {
    pub keys: Arc<SubnetKeys>,
    root: Arc<SubnetKeys>,
    ranges: Vec<Range>,
    delegation: Mutex<Option<(u64, Vec<u8>)>>,
}

impl Authority {
    pub fn new(keys: Arc<SubnetKeys>, root: Arc<SubnetKeys>, ranges: Vec<Range>) -> Authority {
        Authority { keys, root, ranges, delegation: Mutex::default() }
    }

    pub fn certify(&self, tree: HashTree, time: u64) -> Vec<u8> {
        self.keys.sign_tree(tree, self.delegation(time))
    }

    /// The root subnet needs none: its key is the one that clients know.
    fn delegation(&self, time: u64) -> Option<Delegation> {
        if self.keys.subnet == self.root.subnet {
            return None;
        }
        let mut cached = self.delegation.lock().unwrap();
        let certificate = match &*cached {
            Some((made, bytes)) if time.abs_diff(*made) < DELEGATION_NANOS_MAX => bytes.clone(),
            _ => {
                let bytes = self.delegation_certificate(time);
                *cached = Some((time, bytes.clone()));
                bytes
            }
        };
        Some(Delegation { subnet_id: self.keys.subnet.as_slice().to_vec(), certificate })
    }

    fn delegation_certificate(&self, time: u64) -> Vec<u8> {
        let mut tree = Tree::at_time(time);
        let subnet = self.keys.subnet.as_slice();
        tree.insert(&[b"subnet", subnet, b"public_key"], self.keys.der.clone());
        self.insert_ranges(&mut tree);
        let tree = tree.witness(|root| matches!(root, "subnet" | "canister_ranges"));
        self.root.sign_tree(tree, None)
    }

    /// Both forms: clients are moving from the first to the second.
    pub fn insert_ranges(&self, tree: &mut Tree) {
        let subnet = self.keys.subnet.as_slice();
        let ranges = cbor(&self.ranges);
        tree.insert(&[b"subnet", subnet, b"canister_ranges"], ranges.clone());
        let shard = self.ranges.first().map_or(&[][..], |(first, _)| first.as_slice());
        tree.insert(&[b"canister_ranges", subnet, shard], ranges);
    }
}

/// What `ic0.data_certificate_copy` gives a query: signed only if it is asked for, and once.
pub struct DataCertificate {
    authority: Arc<Authority>,
    canister: Principal,
    certified_data: Vec<u8>,
    time: u64,
    bytes: OnceLock<Vec<u8>>,
}

impl DataCertificate {
    pub fn new(
        authority: Arc<Authority>,
        canister: Principal,
        certified_data: Vec<u8>,
        time: u64,
    ) -> DataCertificate {
        DataCertificate { authority, canister, certified_data, time, bytes: OnceLock::new() }
    }

    pub fn is_of(&self, certified_data: &[u8], time: u64) -> bool {
        self.time == time && self.certified_data == certified_data
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get_or_init(|| {
            let mut tree = Tree::at_time(self.time);
            let path: [&[u8]; 3] = [b"canister", self.canister.as_slice(), b"certified_data"];
            tree.insert(&path, self.certified_data.clone());
            let tree = tree.witness(|root| root == "canister");
            self.authority.certify(tree, self.time)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ic_certification::{LookupResult, hash_tree::Label};

    fn lookup<'a>(tree: &'a HashTree, path: &[&str]) -> LookupResult<'a> {
        let path: Vec<Label<Vec<u8>>> = path.iter().map(|p| Label::from(*p)).collect();
        tree.lookup_path(&path)
    }

    #[test]
    fn what_was_asked_for_is_found_or_proven_absent_and_the_rest_is_unknown() {
        let mut tree = Tree::at_time(300);
        tree.insert(&[b"canister", b"x", b"controllers"], vec![1]);
        let tree = tree.witness(|root| matches!(root, "canister" | "request_status"));
        assert_eq!(lookup(&tree, &["time"]), LookupResult::Found(&[0xac, 0x02]));
        assert_eq!(lookup(&tree, &["canister", "x", "controllers"]), LookupResult::Found(&[1]));
        assert_eq!(lookup(&tree, &["canister", "x", "module_hash"]), LookupResult::Absent);
        assert_eq!(lookup(&tree, &["request_status", "y"]), LookupResult::Absent);
        assert_eq!(lookup(&tree, &["subnet", "z"]), LookupResult::Unknown);
    }

    #[test]
    fn keys_come_from_the_seed_alone() {
        let (a, b) = (SubnetKeys::from_seed(&[1; 32]), SubnetKeys::from_seed(&[1; 32]));
        assert_eq!((a.der.len(), a.subnet), (133, b.subnet));
        assert_ne!(a.subnet, SubnetKeys::from_seed(&[2; 32]).subnet);
    }
}
