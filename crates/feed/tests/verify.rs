//! Pages and tips as a canister gives them, signed by a network of two keys; and all that a replica
//! could make of them.

use std::{sync::LazyLock, time::Duration};

use candid::Principal;
use event::{Event, Timestamp, twin::Author};
use feed::{
    Entry, Hash, Mmr, RangeError,
    certified::{self, Head},
    verify::{ProofError, Proven, Verifier},
};
use ic_certification::{Certificate, Delegation, HashTree, fork, labeled, leaf};
use ic_verify_bls_signature::PrivateKey;
use interface::{ByteBuf, Change, ChangesFrom, ChangesPage, ChangesRequest, RangeProof, Tip, What};
use proptest::{collection::vec, prelude::*};
use serde_cbor::Value;

const NOW: Timestamp = Timestamp(1_700_000_000);
const SUBNET: &[u8] = b"the subnet";
const DER_PREFIX: &[u8; 37] = b"\x30\x81\x82\x30\x1d\x06\x0d\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x01\x02\x01\x06\x0c\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x02\x01\x03\x61\x00";

struct Key(PrivateKey);

impl Key {
    fn new(number: u8) -> Key {
        Key(PrivateKey::deserialize(&[number; 32]).unwrap())
    }

    fn der(&self) -> Vec<u8> {
        [&DER_PREFIX[..], &self.0.public_key().serialize()].concat()
    }

    fn sign(&self, tree: HashTree, delegation: Option<Delegation>) -> Vec<u8> {
        let message = [b"\x0Dic-state-root", &tree.digest()[..]].concat();
        let signature = self.0.sign(&message).serialize().to_vec();
        serde_cbor::to_vec(&Certificate { tree, signature, delegation }).unwrap()
    }
}

fn canister(number: u8) -> Principal {
    Principal::from_slice(&[number; 10])
}

fn time(at: Timestamp) -> HashTree {
    let mut nanos = u128::from(at.0) * 1_000_000_000;
    let mut bytes = Vec::new();
    while nanos > 0x7f {
        bytes.push(nanos as u8 | 0x80);
        nanos >>= 7;
    }
    bytes.push(nanos as u8);
    labeled("time", leaf(bytes))
}

/// What the root key says of the subnet's. `sharded`: in which of the two places its canisters stand.
fn delegation(
    root: &Key,
    subnet: &Key,
    range: (Principal, Principal),
    sharded: bool,
) -> Delegation {
    let ranges = leaf(serde_cbor::to_vec(&vec![range]).unwrap());
    let key = labeled("public_key", leaf(subnet.der()));
    let tree = if sharded {
        let shard = labeled(range.0.as_slice(), ranges);
        fork(
            labeled("canister_ranges", labeled(SUBNET, shard)),
            labeled("subnet", labeled(SUBNET, key)),
        )
    } else {
        labeled("subnet", labeled(SUBNET, fork(labeled("canister_ranges", ranges), key)))
    };
    let certificate = root.sign(fork(tree, time(Timestamp(0))), None);
    Delegation { subnet_id: SUBNET.to_vec(), certificate }
}

fn certificate(
    signer: &Key,
    who: Principal,
    data: &[u8],
    at: Timestamp,
    delegation: Option<Delegation>,
) -> Vec<u8> {
    let data = labeled("certified_data", leaf(data));
    let tree = fork(labeled("canister", labeled(who.as_slice(), data)), time(at));
    signer.sign(tree, delegation)
}

/// A log of seven entries, certified: four events, of which one is gone, a removal, a clearing.
struct Log {
    changes: Vec<Change>,
    mmr: Mmr<Vec<Hash>>,
    certificate: Vec<u8>,
}

fn event(content: &str) -> Event {
    Author::new(1).sign(1_000, 1, &[], content).into_inner()
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let saved = |content: &str| What::Saved(ByteBuf::from(event(content).pack()));
    let gone = event("gone").id;
    let whats = [
        saved("a"),
        What::Gone(ByteBuf::from(gone.0)),
        saved("b"),
        What::Removed { id: ByteBuf::from(gone.0), why: "deleted".into() },
        What::Saved(ByteBuf::from(event("c").to_json())),
        What::Cleared,
        saved("d"),
    ];
    let mut mmr = Mmr::open(Vec::new(), 0);
    let mut changes = Vec::new();
    for (seq, what) in (0u64..).zip(whats) {
        let arrived = 500 + seq;
        let entry = match &what {
            What::Removed { .. } => Entry::Removed(gone, b"deleted"),
            What::Cleared => Entry::Cleared,
            What::Gone(_) => Entry::Saved(gone),
            What::Saved(_) => {
                Entry::Saved(event(["a", "", "b", "", "c", "", "d"][seq as usize]).id)
            }
        };
        mmr.push(entry.leaf(seq, arrived));
        changes.push(Change { seq, arrived, what });
    }
    let head = Head { length: mmr.length(), root: mmr.root() };
    let (root, subnet) = (Key::new(1), Key::new(2));
    let delegation = delegation(&root, &subnet, (canister(3), canister(8)), true);
    let certificate =
        certificate(&subnet, canister(5), &head.tree().digest(), NOW, Some(delegation));
    Log { changes, mmr, certificate }
});

impl Log {
    fn head(&self) -> Head {
        Head { length: self.mmr.length(), root: self.mmr.root() }
    }

    fn page(&self, from: u64, next: u64) -> ChangesPage {
        let nodes = self.mmr.prove(from..next).into_iter().map(ByteBuf::from).collect();
        ChangesPage {
            changes: self.changes[from as usize..next as usize].to_vec(),
            next,
            length: self.mmr.length(),
            proof: Some(RangeProof {
                certificate: ByteBuf::from(self.certificate.clone()),
                witness: ByteBuf::from(certified::write(&self.head().tree())),
                nodes,
            }),
        }
    }

    fn page_certified_by(&self, certificate: Vec<u8>) -> ChangesPage {
        let mut page = self.page(1, 4);
        page.proof.as_mut().unwrap().certificate = ByteBuf::from(certificate);
        page
    }
}

fn request(from: u64) -> ChangesRequest {
    ChangesRequest {
        from: ChangesFrom::Seq(from),
        max_bytes: None,
        max_entries: None,
        proof: true,
        ids_only: false,
        encoding: None,
    }
}

fn verifier() -> Verifier {
    Verifier::new(&Key::new(1).der(), canister(5), Duration::from_secs(60))
}

fn verify(page: &ChangesPage, from: u64) -> Result<Proven, ProofError> {
    verifier().page(&request(from), page, NOW)
}

#[track_caller]
fn assert_refused(page: &ChangesPage, what: &str) {
    assert!(verify(page, 1).is_err(), "{what}");
}

#[test]
fn every_page_of_an_honest_log_is_proven() {
    let proven = Proven { head: LOG.head(), at: NOW };
    for (from, next) in (0..=7).flat_map(|from| (from..=7).map(move |next| (from, next))) {
        assert_eq!(verify(&LOG.page(from, next), from).unwrap(), proven);
    }
}

#[test]
fn a_page_of_ids_is_proven_by_the_same_nodes() {
    let mut page = LOG.page(0, 7);
    for change in &mut page.changes {
        if let What::Saved(bytes) = &change.what {
            let id = match bytes.first() {
                Some(b'{') => Event::from_json(bytes).unwrap().id.0,
                _ => bytes[1..33].try_into().unwrap(),
            };
            change.what = What::Saved(ByteBuf::from(id));
        }
    }
    let asked = ChangesRequest { ids_only: true, ..request(0) };
    verifier().page(&asked, &page, NOW).unwrap();
    // Ids in the place of events are no answer to somebody who asked for events.
    assert!(matches!(verify(&page, 0), Err(ProofError::Entry { seq: 0, .. })));
}

#[test]
fn an_erased_event_proves_as_it_did_before() {
    let mut page = LOG.page(0, 2);
    page.changes[0].what = What::Gone(ByteBuf::from(event("a").id.0));
    verify(&page, 0).unwrap();
}

#[test]
fn every_tampering_with_a_page_is_caught() {
    let honest = LOG.page(1, 6);
    for at in 0..honest.changes.len() {
        let mut dropped = honest.clone();
        dropped.changes.remove(at);
        assert_refused(&dropped, "an entry dropped");
        dropped.next -= 1;
        assert_refused(&dropped, "an entry dropped, and next set back");
        for (seq, change) in (1..).zip(&mut dropped.changes) {
            change.seq = seq;
        }
        assert_refused(&dropped, "an entry dropped, and the others renumbered");
        dropped.length -= 1;
        assert_refused(&dropped, "an entry dropped from all that is said");

        let mut added = honest.clone();
        added.changes.insert(at, Change { seq: 9, ..honest.changes[at].clone() });
        added.next += 1;
        (1..).zip(&mut added.changes).for_each(|(seq, change)| change.seq = seq);
        assert_refused(&added, "an entry added");

        let mut swapped = honest.clone();
        swapped.changes.swap(at, (at + 1) % 5);
        assert_refused(&swapped, "entries swapped");
        (1..).zip(&mut swapped.changes).for_each(|(seq, change)| change.seq = seq);
        assert_refused(&swapped, "entries swapped, and renumbered");

        let mut late = honest.clone();
        late.changes[at].arrived += 1;
        assert_refused(&late, "another time of arrival");
    }
    let mut other = honest.clone();
    other.changes[1].what = What::Saved(ByteBuf::from(event("another").pack()));
    assert_refused(&other, "another event in its place");
    let mut altered = event("b");
    altered.content = "B".into();
    other.changes[1].what = What::Saved(ByteBuf::from(altered.pack()));
    assert!(matches!(verify(&other, 1), Err(ProofError::Entry { seq: 2, .. })));
    let mut excused = honest.clone();
    excused.changes[2].what = What::Removed { id: ByteBuf::from([7; 32]), why: "deleted".into() };
    assert_refused(&excused, "the removal of another event");
    let mut reworded = honest.clone();
    let What::Removed { why, .. } = &mut reworded.changes[2].what else { panic!() };
    *why = "expired".into();
    assert_refused(&reworded, "another reason for a removal");
    let mut cleared = honest.clone();
    cleared.changes[0].what = What::Cleared;
    assert_refused(&cleared, "a clearing in the place of an event");
}

#[test]
fn a_page_that_starts_elsewhere_is_no_answer() {
    assert!(matches!(verify(&LOG.page(2, 4), 1), Err(ProofError::Start)));
    let asked = |time| ChangesRequest { from: ChangesFrom::Arrived(time), ..request(0) };
    verifier().page(&asked(502), &LOG.page(2, 4), NOW).unwrap();
    let early = verifier().page(&asked(503), &LOG.page(2, 4), NOW);
    assert!(matches!(early, Err(ProofError::Start)));
}

#[test]
fn nodes_lengths_and_witnesses_of_other_logs_are_caught() {
    let honest = LOG.page(1, 4);
    let mut page = honest.clone();
    page.proof = None;
    assert!(matches!(verify(&page, 1), Err(ProofError::Missing)));
    let mut page = honest.clone();
    page.length += 1;
    assert!(matches!(verify(&page, 1), Err(ProofError::Length { claimed: 8, certified: 7 })));
    let mut page = honest.clone();
    page.proof.as_mut().unwrap().nodes.pop();
    assert!(matches!(verify(&page, 1), Err(ProofError::Range(RangeError::NodesMissing))));
    let mut page = honest.clone();
    page.proof.as_mut().unwrap().nodes.push(ByteBuf::from([0; 32]));
    assert!(matches!(verify(&page, 1), Err(ProofError::Range(RangeError::NodesLeft))));
    let mut page = honest.clone();
    page.proof.as_mut().unwrap().nodes[0] = ByteBuf::from([0; 31]);
    assert!(matches!(verify(&page, 1), Err(ProofError::Malformed { .. })));
    let mut page = honest.clone();
    let shorter = Head { length: 3, root: LOG.head().root };
    page.proof.as_mut().unwrap().witness = ByteBuf::from(certified::write(&shorter.tree()));
    assert!(matches!(verify(&page, 1), Err(ProofError::OtherData)));
    // The rest of the tree pruned: what is needed is not there.
    let pruned: HashTree = ic_certification::pruned(LOG.head().tree().digest());
    page.proof.as_mut().unwrap().witness = ByteBuf::from(certified::write(&pruned));
    assert!(matches!(verify(&page, 1), Err(ProofError::Malformed { what: "witness", .. })));
}

#[test]
fn certificates_are_believed_for_as_long_as_was_said() {
    let page = LOG.page(1, 4);
    let at = |seconds| verifier().page(&request(1), &page, Timestamp(NOW.0 + seconds));
    at(60).unwrap();
    assert!(matches!(at(61), Err(ProofError::Stale { age_s: 61 })));
    verifier().page(&request(1), &page, Timestamp(NOW.0 - 600)).expect("our clock is behind");
}

#[test]
fn certificates_of_others_are_worth_nothing() {
    let (root, subnet, stranger) = (Key::new(1), Key::new(2), Key::new(3));
    let digest = LOG.head().tree().digest();
    let ours = (canister(3), canister(8));
    let check = |certificate| verify(&LOG.page_certified_by(certificate), 1);
    let signed = |signer: &Key, who, delegation| certificate(signer, who, &digest, NOW, delegation);

    let by_root = signed(&root, canister(5), None);
    check(by_root.clone()).unwrap();
    for sharded in [true, false] {
        let honest = delegation(&root, &subnet, ours, sharded);
        check(signed(&subnet, canister(5), Some(honest.clone()))).unwrap();
        let refused = check(signed(&subnet, canister(6), Some(honest.clone())));
        assert!(matches!(refused, Err(ProofError::OtherData)), "another canister of the subnet");
        let refused = check(signed(&stranger, canister(5), Some(honest)));
        assert!(matches!(refused, Err(ProofError::Signature("certificate"))));
        let elsewhere = delegation(&root, &subnet, (canister(6), canister(9)), sharded);
        let refused = check(signed(&subnet, canister(5), Some(elsewhere)));
        assert!(matches!(refused, Err(ProofError::OtherSubnet)));
        let forged = delegation(&stranger, &subnet, ours, sharded);
        let refused = check(signed(&subnet, canister(5), Some(forged)));
        assert!(matches!(refused, Err(ProofError::Signature("delegation"))));
    }
    let refused = check(signed(&subnet, canister(5), None));
    assert!(matches!(refused, Err(ProofError::Signature("certificate"))));

    let mut nested: Certificate = serde_cbor::from_slice(&by_root).unwrap();
    nested.delegation = Some(delegation(&root, &subnet, ours, true));
    let nested = Delegation {
        subnet_id: SUBNET.to_vec(),
        certificate: serde_cbor::to_vec(&nested).unwrap(),
    };
    let refused = check(signed(&subnet, canister(5), Some(nested)));
    assert!(matches!(refused, Err(ProofError::NestedDelegation)));

    let other_root = Verifier::new(&stranger.der(), canister(5), Duration::from_secs(60));
    let refused = other_root.page(&request(1), &LOG.page(1, 4), NOW);
    assert!(matches!(refused, Err(ProofError::Signature("delegation"))));
    let no_key = Verifier::new(b"no key", canister(5), Duration::from_secs(60));
    let refused = no_key.page(&request(1), &LOG.page(1, 4), NOW);
    assert!(matches!(refused, Err(ProofError::RootKey)));
    let elsewhere = Verifier::new(&root.der(), canister(6), Duration::from_secs(60));
    let refused = elsewhere.page(&request(1), &LOG.page(1, 4), NOW);
    assert!(matches!(refused, Err(ProofError::OtherData)));
}

#[test]
fn a_tip_is_proven_and_a_changed_one_is_not() {
    let tip = Tip {
        length: LOG.head().length,
        root: ByteBuf::from(LOG.head().root),
        certificate: Some(ByteBuf::from(LOG.certificate.clone())),
        witness: ByteBuf::from(certified::write(&LOG.head().tree())),
    };
    assert_eq!(verifier().tip(&tip, NOW).unwrap().head, LOG.head());
    let shorter = Tip { length: 6, ..tip.clone() };
    assert!(matches!(verifier().tip(&shorter, NOW), Err(ProofError::Length { .. })));
    let other = Tip { root: ByteBuf::from([0; 32]), ..tip.clone() };
    assert!(matches!(verifier().tip(&other, NOW), Err(ProofError::Root)));
    let of_an_update = Tip { certificate: None, ..tip };
    assert!(matches!(verifier().tip(&of_an_update, NOW), Err(ProofError::Missing)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_bytes_make_the_check_panic(
        certificate in vec(any::<u8>(), 0..300), witness in vec(any::<u8>(), 0..300),
        body in vec(any::<u8>(), 0..200), next: u64, length: u64,
    ) {
        let mut page = LOG.page(1, 4);
        page.changes[1].what = What::Saved(ByteBuf::from(body));
        verify(&page, 1).unwrap_err();
        page.proof.as_mut().unwrap().witness = ByteBuf::from(witness);
        verify(&page, 1).unwrap_err();
        page.proof.as_mut().unwrap().certificate = ByteBuf::from(certificate);
        (page.next, page.length) = (next, length);
        verify(&page, 1).unwrap_err();
    }

    #[test]
    fn no_other_byte_in_certificate_witness_or_nodes_passes(at: prop::sample::Index, by in 1u8..) {
        let mut page = LOG.page(1, 4);
        let proof = page.proof.as_mut().unwrap();
        let honest = (proof.certificate.clone(), proof.witness.clone());
        let nodes = proof.nodes.iter_mut().flat_map(|node| node.iter_mut());
        let mut bytes: Vec<&mut u8> =
            proof.certificate.iter_mut().chain(proof.witness.iter_mut()).chain(nodes).collect();
        **at.get_mut(&mut bytes) ^= by;
        // Bytes of CBOR have other spellings of the same; what they say must be the same then.
        let says = |bytes: &[u8]| serde_cbor::from_slice(bytes).ok().map(plain);
        let same = says(&proof.certificate) == says(&honest.0) && says(&proof.witness) == says(&honest.1);
        prop_assert!(verify(&page, 1).is_err() || same);
    }
}

/// The same with all texts as bytes: whoever reads labels and leaves takes one for the other.
fn plain(value: Value) -> Value {
    match value {
        Value::Text(text) => Value::Bytes(text.into_bytes()),
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        Value::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, value)| (plain(key), plain(value))).collect())
        }
        Value::Tag(tag, value) => Value::Tag(tag, Box::new(plain(*value))),
        other => other,
    }
}

#[test]
fn cbor_nested_without_end_is_refused() {
    for byte in [0x81, 0xd9, 0xa1, 0x9f] {
        let nested = LOG.page_certified_by(vec![byte; 2_000_000]);
        assert!(matches!(
            verify(&nested, 1),
            Err(ProofError::Malformed { what: "certificate", .. })
        ));
    }
}
