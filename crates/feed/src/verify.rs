//! What a follower of the log checks: that a certificate is the Internet Computer's, of this canister
//! and not stale; that it certifies this length and this root; and that a page completes to them.
//!
//! The certificate is checked on top of `ic-certification` and `ic-verify-bls-signature`, as `ic-agent`
//! does it, and read by `serde_cbor`, which bounds how deep a stranger's CBOR may nest. One page costs
//! two BLS signatures, the subnet's and the delegation's, and three hashes or so for each entry.
//!
//! What a page cannot show is that an event which it calls `gone` had to go: its leaf is the same
//! before and after. Such an entry is explained by a later `removed` or `cleared`, and an event that
//! stays unexplained at the end of the log can be asked for by its id.
//!
//! Event signatures are not looked at: an id does not cover its signature, so what comes by a proven
//! page is verified like any event before it is believed.

use std::time::Duration;

use candid::Principal;
use event::{Event, EventId, Packed, Timestamp};
use ic_certification::{Certificate, Delegation, HashTree, LookupResult, SubtreeLookupResult};
use interface::{Change, ChangesFrom, ChangesPage, ChangesRequest, Tip, What};

use crate::{Entry, Hash, RangeError, certified::Head, root_of};

const STATE_ROOT_DOMAIN: &[u8] = b"\x0Dic-state-root";
/// What comes before the 96 bytes of a BLS key in DER. (IC interface specification, "Certificate".)
const DER_PREFIX: &[u8; 37] = b"\x30\x81\x82\x30\x1d\x06\x0d\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x01\x02\x01\x06\x0c\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x02\x01\x03\x61\x00";

/// Why something is not proven. All of them mean the same for its content: do not use it. `Stale` may
/// be a replica that lags, or our clock; the others are a replica that is broken or lies.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("there is no proof")]
    Missing,
    #[error("the {what} cannot be read: {reason}")]
    Malformed { what: &'static str, reason: String },
    #[error("the root key is not a BLS key in DER")]
    RootKey,
    #[error("the signature of the {0} does not verify")]
    Signature(&'static str),
    #[error("the delegation is itself delegated")]
    NestedDelegation,
    #[error("the subnet that signed does not speak for this canister")]
    OtherSubnet,
    #[error("the certificate is {age_s} s old")]
    Stale { age_s: u64 },
    #[error("the certificate is of other data, or of another canister")]
    OtherData,
    #[error("it claims {claimed} entries, and {certified} are certified")]
    Length { claimed: u64, certified: u64 },
    #[error("the page does not start where it was asked to")]
    Start,
    #[error("entry {expected} is called {found}")]
    Order { expected: u64, found: u64 },
    #[error("entry {seq}: {reason}")]
    Entry { seq: u64, reason: String },
    #[error(transparent)]
    Range(#[from] RangeError),
    #[error("the entries are not those of the log")]
    Root,
}

/// What was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    pub head: Head,
    /// When the Internet Computer said so.
    pub at: Timestamp,
}

/// Whom a follower believes.
#[derive(Clone, Debug)]
pub struct Verifier {
    root_key: Vec<u8>,
    canister: Principal,
    age_max: Duration,
}

impl Verifier {
    /// `root_key` is the network's, in DER, as `ic-agent` has it. A certificate may be `age_max` old;
    /// one from the future passes: the signature says that it is not, so our clock is behind.
    pub fn new(root_key: &[u8], canister: Principal, age_max: Duration) -> Verifier {
        Verifier { root_key: root_key.to_vec(), canister, age_max }
    }

    /// Checks what the canister says of its log's end.
    pub fn tip(&self, tip: &Tip, now: Timestamp) -> Result<Proven, ProofError> {
        let certificate = tip.certificate.as_ref().ok_or(ProofError::Missing)?;
        let proven = self.head(certificate, &tip.witness, now)?;
        check_length(tip.length, &proven.head)?;
        if tip.root[..] != proven.head.root { Err(ProofError::Root) } else { Ok(proven) }
    }

    /// Checks that `page` answers `request` with what stands in the log there, nothing left out,
    /// nothing added, in its order. How many entries it has is for the canister to choose; that a
    /// page from an arrival time on starts no later than it should is not proven, from a seq it is.
    pub fn page(
        &self,
        request: &ChangesRequest,
        page: &ChangesPage,
        now: Timestamp,
    ) -> Result<Proven, ProofError> {
        let proof = page.proof.as_ref().ok_or(ProofError::Missing)?;
        let proven = self.head(&proof.certificate, &proof.witness, now)?;
        check_page(&proven.head, request, page)?;
        Ok(proven)
    }

    /// The certified head of the log.
    fn head(
        &self,
        certificate: &[u8],
        witness: &[u8],
        now: Timestamp,
    ) -> Result<Proven, ProofError> {
        let certificate: Certificate = read("certificate", certificate)?;
        let witness: HashTree = read("witness", witness)?;
        self.check_signature(&certificate)?;
        let at = time_of(&certificate)?;
        let age_s = now.0.saturating_sub(at.0);
        if age_s > self.age_max.as_secs() {
            return Err(ProofError::Stale { age_s });
        }
        let path = [b"canister", self.canister.as_slice(), b"certified_data"];
        match certificate.tree.lookup_path(path) {
            LookupResult::Found(digest) if digest == witness.digest() => {}
            _ => return Err(ProofError::OtherData),
        }
        let head = Head::of_tree(&witness).ok_or_else(|| ProofError::Malformed {
            what: "witness",
            reason: "it has no log of a version known here".into(),
        })?;
        Ok(Proven { head, at })
    }

    fn check_signature(&self, certificate: &Certificate) -> Result<(), ProofError> {
        match &certificate.delegation {
            None => check_signed(certificate, &self.root_key, "certificate"),
            Some(delegation) => {
                check_signed(certificate, &self.delegated_key(delegation)?, "certificate")
            }
        }
    }

    /// The key of the subnet that the root key delegates this canister to.
    fn delegated_key(&self, delegation: &Delegation) -> Result<Vec<u8>, ProofError> {
        let certificate: Certificate = read("delegation", &delegation.certificate)?;
        if certificate.delegation.is_some() {
            return Err(ProofError::NestedDelegation);
        }
        check_signed(&certificate, &self.root_key, "delegation")?;
        let subnet = &delegation.subnet_id[..];
        if !ranges_of(&certificate.tree, subnet)?
            .iter()
            .any(|(first, last)| (first..=last).contains(&&self.canister))
        {
            return Err(ProofError::OtherSubnet);
        }
        match certificate.tree.lookup_path([b"subnet", subnet, b"public_key"]) {
            LookupResult::Found(key) => Ok(key.to_vec()),
            _ => Err(ProofError::OtherSubnet),
        }
    }
}

type Ranges = Vec<(Principal, Principal)>;

/// The canisters that a subnet speaks for. They moved to a branch of their own, in shards; both places
/// are in use.
fn ranges_of(tree: &HashTree, subnet: &[u8]) -> Result<Ranges, ProofError> {
    let SubtreeLookupResult::Found(shards) = tree.lookup_subtree([b"canister_ranges", subnet])
    else {
        return match tree.lookup_path([b"subnet", subnet, b"canister_ranges"]) {
            LookupResult::Found(ranges) => read("delegation's ranges", ranges),
            _ => Err(ProofError::OtherSubnet),
        };
    };
    let mut all = Ranges::new();
    for path in shards.list_paths() {
        if let LookupResult::Found(ranges) = shards.lookup_path(&path) {
            all.append(&mut read("delegation's ranges", ranges)?);
        }
    }
    Ok(all)
}

fn check_signed(
    certificate: &Certificate,
    key: &[u8],
    what: &'static str,
) -> Result<(), ProofError> {
    let key = key.strip_prefix(DER_PREFIX).filter(|key| key.len() == 96);
    let message = [STATE_ROOT_DOMAIN, &certificate.tree.digest()].concat();
    let key = key.ok_or(ProofError::RootKey)?;
    ic_verify_bls_signature::verify_bls_signature(&certificate.signature, &message, key)
        .map_err(|()| ProofError::Signature(what))
}

/// LEB128, in nanoseconds.
fn time_of(certificate: &Certificate) -> Result<Timestamp, ProofError> {
    let malformed = || ProofError::Malformed { what: "certificate", reason: "no time".into() };
    let LookupResult::Found(bytes) = certificate.tree.lookup_path([b"time"]) else {
        return Err(malformed());
    };
    if bytes.len() > 10 {
        return Err(malformed());
    }
    let groups = bytes.iter().enumerate();
    let nanos = groups.fold(0u128, |time, (at, byte)| time | u128::from(byte & 0x7f) << (7 * at));
    u64::try_from(nanos / 1_000_000_000).map(Timestamp).map_err(|_| malformed())
}

/// The part of [`Verifier::page`] that comes after the certificate: the page against a head that is
/// believed.
pub fn check_page(
    head: &Head,
    request: &ChangesRequest,
    page: &ChangesPage,
) -> Result<(), ProofError> {
    let proof = page.proof.as_ref().ok_or(ProofError::Missing)?;
    check_length(page.length, head)?;
    let first = check_start(request.from, page)?;
    let nodes = proof.nodes.iter().map(|node| hash_of(node, "proof's node"));
    let nodes: Vec<Hash> = nodes.collect::<Result<_, _>>()?;
    let leaves = (first..).zip(&page.changes);
    let leaves = leaves.map(|(seq, change)| leaf(seq, change, request.ids_only));
    let leaves: Vec<Hash> = leaves.collect::<Result<_, _>>()?;
    let root = root_of(head.length, first, &leaves, &nodes)?;
    if root == head.root { Ok(()) } else { Err(ProofError::Root) }
}

fn check_length(claimed: u64, head: &Head) -> Result<(), ProofError> {
    let certified = head.length;
    if claimed == certified { Ok(()) } else { Err(ProofError::Length { claimed, certified }) }
}

/// The seq that the page starts with.
fn check_start(from: ChangesFrom, page: &ChangesPage) -> Result<u64, ProofError> {
    let first = page.next.checked_sub(page.changes.len() as u64).ok_or(ProofError::Start)?;
    let is_asked_for = match from {
        ChangesFrom::Seq(seq) => first == seq,
        ChangesFrom::Arrived(time) => page.changes.iter().all(|change| change.arrived >= time),
    };
    if is_asked_for { Ok(first) } else { Err(ProofError::Start) }
}

fn leaf(seq: u64, change: &Change, ids_only: bool) -> Result<Hash, ProofError> {
    if change.seq != seq {
        return Err(ProofError::Order { expected: seq, found: change.seq });
    }
    let id = |bytes: &[u8]| hash_of(bytes, "entry's id").map(EventId);
    let entry = match &change.what {
        What::Saved(bytes) if ids_only => Entry::Saved(id(bytes)?),
        What::Saved(bytes) => Entry::Saved(event_id(seq, bytes)?),
        What::Gone(bytes) => Entry::Saved(id(bytes)?),
        What::Removed { id: bytes, why } => Entry::Removed(id(bytes)?, why.as_bytes()),
        What::Cleared => Entry::Cleared,
    };
    Ok(entry.leaf(seq, change.arrived))
}

/// The id that an event's content has, which is also the one that it claims.
fn event_id(seq: u64, bytes: &[u8]) -> Result<EventId, ProofError> {
    let error = |reason: String| ProofError::Entry { seq, reason };
    let event = match bytes.first() {
        Some(b'{') => Event::from_json(bytes).map_err(|reason| error(reason.to_string()))?,
        _ => Packed::parse(bytes).map_err(|reason| error(reason.to_string()))?.unpack(),
    };
    match event.computed_id() {
        id if id == event.id => Ok(id),
        _ => Err(error("its id is not the hash of the event".into())),
    }
}

fn hash_of(bytes: &[u8], what: &'static str) -> Result<Hash, ProofError> {
    let reason = || format!("it has {} bytes, not 32", bytes.len());
    bytes.try_into().map_err(|_| ProofError::Malformed { what, reason: reason() })
}

fn read<T: serde::de::DeserializeOwned>(what: &'static str, cbor: &[u8]) -> Result<T, ProofError> {
    let malformed = |reason: serde_cbor::Error| reason.to_string();
    serde_cbor::from_slice(cbor)
        .map_err(malformed)
        .map_err(|reason| ProofError::Malformed { what, reason })
}
