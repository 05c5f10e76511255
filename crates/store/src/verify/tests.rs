//! A sound store, then every kind of row damaged in turn: the check names the invariant that is hurt.

use std::collections::BTreeSet;

use event::{Verified, twin::Author};
use heed::RwTxn;
use index::tombstone;
use tempfile::TempDir;

use super::*;
use crate::{
    Options, Origin, Settlement, Writer,
    databases::{Databases, NEXT_SEQ},
};

/// The seqs that the events of [`sound`] get, in order.
const NOTE: u64 = 0;
const EXPIRING: u64 = 2;
const REFUSED: u64 = 5;
const LOCAL: u64 = 6;
const TAPPED: u64 = 7;
const UNKNOWN: u64 = 99;

fn events() -> Vec<Verified> {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let address = format!("30023:{}:on water", ann.pubkey());
    vec![
        ann.sign(1_000, 1, &[&["t", "water"]], "a note"),
        ann.sign(1_000, 0, &[], "a profile"),
        ann.sign(1_000, 30_023, &[&["d", "wells"], &["expiration", "99999999999"]], "an article"),
        ann.sign(2_000, 5, &[&["a", &address]], "a deletion"),
        bob.sign(1_000, 62, &[&["relay", "ALL_RELAYS"]], "a request to vanish"),
        ann.sign(1_001, 1, &[], "refused by L2"),
    ]
}

fn sound() -> (TempDir, Store, Writer) {
    let folder = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(folder.path(), Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        writer.put_all(events(), Origin::Client).await.unwrap();
        let refused = Settlement::Refused("it is full".into());
        writer.settle(vec![(Seq(REFUSED), refused)]).await.unwrap();
        let local = Author::new(3).sign(1_000, 1, &[], "L2 never hears of it");
        writer.put(local, Origin::Local).await.unwrap();
        let tapped = Author::new(3).sign(1_001, 1, &[], "L2 is to hear of it from another");
        writer.put(tapped, Origin::Peer).await.unwrap();
    });
    (folder, store, writer)
}

fn findings(store: &Store) -> Vec<Finding> {
    store.verify(|_, _| ControlFlow::Continue(())).unwrap().expect("nobody stops it")
}

fn violated(store: &Store) -> BTreeSet<&'static str> {
    let findings = findings(store);
    let violated = findings.iter().filter(|finding| finding.violations > 0);
    violated
        .map(|finding| {
            assert!(!finding.examples.is_empty(), "{finding:?}");
            finding.invariant.name()
        })
        .collect()
}

/// What is named after this was done to a sound store.
#[track_caller]
fn check(expected: &[&str], damage: impl FnOnce(&Databases<'static>, &mut RwTxn<'_>)) {
    let (_folder, store, _writer) = sound();
    let mut txn = store.inner.environment.env().write_txn().unwrap();
    damage(&store.inner.databases, &mut txn);
    txn.commit().unwrap();
    assert_eq!(violated(&store), expected.iter().copied().collect());
}

#[test]
fn a_sound_store_violates_nothing_and_every_invariant_is_looked_at() {
    let (_folder, store, _writer) = sound();
    for finding in findings(&store) {
        // Nothing was collected, served or read through here.
        let is_empty = matches!(
            finding.invariant,
            Invariant::Stubs | Invariant::Served | Invariant::Quiet | Invariant::Covered
        );
        assert!((finding.checked > 0 || is_empty) && finding.violations == 0, "{finding:?}");
    }
}

#[test]
fn whoever_hears_of_the_progress_may_stop_it() {
    let (_folder, store, _writer) = sound();
    let answer = store.verify(|done, total| {
        assert_eq!((done, total), (8, 8));
        ControlFlow::Break(())
    });
    assert_eq!(answer.unwrap(), None);
}

/// As a collection would, of an event that L2 has.
fn make_stub(to: &Databases<'static>, txn: &mut RwTxn<'_>, seq: u64) {
    let bytes = to.events.get(txn, &seq).unwrap().unwrap().to_vec();
    assert!(to.events.delete(txn, &seq).unwrap());
    to.stubs.put(txn, &seq, &Packed::trusted(&bytes).unwrap().to_stub()).unwrap();
}

#[test]
fn a_stub_of_what_layer_2_has_is_sound_and_one_of_what_only_we_have_is_named() {
    check(&[], |to, txn| {
        let row = OutboxRow::read(to.outbox.get(txn, &NOTE).unwrap().unwrap());
        let bytes = to.numbers.get(txn, OUTBOX_BYTES).unwrap().unwrap();
        to.numbers.put(txn, OUTBOX_BYTES, &(bytes - u64::from(row.bytes))).unwrap();
        assert!(to.outbox.delete(txn, &NOTE).unwrap());
        make_stub(to, txn, NOTE);
        to.served.put(txn, &NOTE, &1).unwrap();
    });
    check(&["stubs"], |to, txn| make_stub(to, txn, NOTE));
    check(&["stubs"], |to, txn| make_stub(to, txn, REFUSED));
    check(&["stubs"], |to, txn| make_stub(to, txn, LOCAL));
    check(&["stubs"], |to, txn| make_stub(to, txn, TAPPED));
}

#[test]
fn an_event_in_two_trees_or_in_the_wrong_one_is_named() {
    check(&["places"], |to, txn| {
        let bytes = to.events.get(txn, &NOTE).unwrap().unwrap().to_vec();
        to.kept.put(txn, &NOTE, &bytes).unwrap();
    });
    check(&["places"], |to, txn| {
        let bytes = to.events.get(txn, &NOTE).unwrap().unwrap().to_vec();
        assert!(to.events.delete(txn, &NOTE).unwrap());
        to.stubs.put(txn, &NOTE, &bytes).unwrap();
    });
}

#[test]
fn a_date_of_serving_without_an_event_is_named() {
    check(&["served"], |to, txn| to.served.put(txn, &UNKNOWN, &1).unwrap());
}

#[test]
fn damaged_numbers_are_named() {
    check(&["format"], |to, txn| to.numbers.put(txn, FORMAT_NAME, &99).unwrap());
    check(&["seqs"], |to, txn| to.numbers.put(txn, NEXT_SEQ, &3).unwrap());
}

#[test]
fn an_event_whose_bytes_changed_is_named() {
    check(&["events"], |to, txn| {
        let mut bytes = to.events.get(txn, &NOTE).unwrap().unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        to.events.put(txn, &NOTE, &bytes).unwrap();
    });
}

#[test]
fn an_event_that_is_gone_leaves_rows_that_are_named() {
    let index = ["index-created", "index-author", "index-kind", "index-author-kind", "index-tag"];
    let expected = [&index[..], &["ids", "outbox"]].concat();
    check(&expected, |to, txn| assert!(to.events.delete(txn, &NOTE).unwrap()));
    let expected = [&index[..], &["ids", "outbox", "addresses", "expiries"]].concat();
    check(&expected, |to, txn| assert!(to.events.delete(txn, &EXPIRING).unwrap()));
}

#[test]
fn an_event_of_a_kind_that_is_never_stored_is_named() {
    check(&["kinds", "ids", "index-created", "index-author", "index-kind", "index-author-kind"], {
        |to, txn| {
            let typing = Author::new(1).sign(1_000, 20_001, &[], "typing");
            to.events.put(txn, &7, &typing.pack()).unwrap();
            to.numbers.put(txn, NEXT_SEQ, &8).unwrap();
        }
    });
}

#[test]
fn lost_and_strange_ids_are_named() {
    let id = events()[0].id;
    check(&["ids"], |to, txn| assert!(to.ids.delete(txn, &id.0).unwrap()));
    check(&["ids"], |to, txn| to.ids.put(txn, &id.0, &UNKNOWN).unwrap());
    check(&["ids"], |to, txn| to.ids.put(txn, &[7; 32], &NOTE).unwrap());
}

#[test]
fn lost_and_strange_keys_of_each_index_are_named() {
    for index in Index::ALL {
        let name = Invariant::Index(index).name();
        check(&[name], |to, txn| {
            let key = to.of(index).first(txn).unwrap().unwrap().0.to_vec();
            assert!(to.of(index).delete(txn, &key).unwrap());
        });
        check(&[name], |to, txn| {
            let mut key = to.of(index).first(txn).unwrap().unwrap().0.to_vec();
            key[0] ^= 1;
            to.of(index).put(txn, &key, &()).unwrap();
        });
    }
}

#[test]
fn lost_and_strange_addresses_are_named() {
    let digest = address_digest(&events()[1].address().unwrap());
    check(&["addresses"], |to, txn| assert!(to.addresses.delete(txn, &digest).unwrap()));
    check(&["addresses"], |to, txn| to.addresses.put(txn, &[7; 16], &NOTE).unwrap());
}

#[test]
fn lost_and_strange_expiries_are_named() {
    let due = |date| expiry_key(Timestamp(date), Seq(EXPIRING));
    check(&["expiries"], |to, txn| {
        assert!(to.expiries.delete(txn, &due(99_999_999_999)).unwrap());
    });
    check(&["expiries"], |to, txn| to.expiries.put(txn, &due(88_888_888_888), &()).unwrap());
}

#[test]
fn what_should_have_been_kept_out_is_named() {
    let events = events();
    let (note, profile) = (&events[0], &events[1]);
    check(&["kept-out"], |to, txn| {
        to.tombstones.put(txn, &tombstone(&note.id, &note.pubkey), &()).unwrap();
    });
    check(&["kept-out"], |to, txn| {
        to.vanished.put(txn, &note.pubkey.0, &1_000).unwrap();
    });
    // By its address: `judge` sees no version there, but a date.
    check(&["kept-out"], |to, txn| {
        let digest = address_digest(&profile.address().unwrap());
        to.address_tombstones.put(txn, &digest, &1_000).unwrap();
    });
}

#[test]
fn dates_that_deletions_should_have_left_are_named() {
    check(&["dates"], |to, txn| to.address_tombstones.clear(txn).unwrap());
    check(&["dates"], |to, txn| to.vanished.clear(txn).unwrap());
}

#[test]
fn rows_for_layer_2_without_an_event_are_named() {
    let row = OutboxRow::of(b"").to_bytes();
    check(&["outbox"], |to, txn| to.outbox.put(txn, &UNKNOWN, &row).unwrap());
    check(&["outbox"], |to, txn| to.numbers.put(txn, OUTBOX_BYTES, &7).unwrap());
    check(&["aside"], |to, txn| to.aside.put(txn, &UNKNOWN, &row).unwrap());
    check(&["aside"], |to, txn| to.aside.put(txn, &NOTE, &row).unwrap());
    check(&["local"], |to, txn| to.local.put(txn, &UNKNOWN, &()).unwrap());
    check(&["local"], |to, txn| to.local.put(txn, &REFUSED, &()).unwrap());
    check(&["tapped"], |to, txn| to.tapped.put(txn, &UNKNOWN, &row).unwrap());
    check(&["tapped"], |to, txn| to.tapped.put(txn, &NOTE, &row).unwrap());
    check(&["tapped"], |to, txn| to.tapped.put(txn, &LOCAL, &row).unwrap());
}

#[test]
fn what_was_read_through_and_is_not_held_is_named_and_so_is_a_note_that_says_nothing() {
    check(&[], |to, txn| {
        to.quiet.put(txn, &NOTE, &()).unwrap();
        to.covered.put(txn, &[7; 16], &Range { from: 1, until: 2 }.bytes()).unwrap();
    });
    check(&["quiet"], |to, txn| to.quiet.put(txn, &UNKNOWN, &()).unwrap());
    check(&["covered"], |to, txn| to.covered.put(txn, &[7; 16], b"short").unwrap());
    check(&["covered"], |to, txn| {
        to.covered.put(txn, &[7; 16], &Range { from: 2, until: 1 }.bytes()).unwrap();
    });
}
