//! The range against a twin that hashes everything anew, by the words of RFC 9162; and against all
//! that can be done to a page.

use event::EventId;
use feed::{Entry, Hash, Mmr, RangeError, empty_root, root_of};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// MTH of RFC 9162, section 2.1.1, over leaves that are hashes already.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let mut k = 1;
            while 2 * k < leaves.len() {
                k *= 2;
            }
            let (left, right) = (naive_root(&leaves[..k]), naive_root(&leaves[k..]));
            Sha256::digest([&[1][..], &left, &right].concat()).into()
        }
    }
}

fn leaves(length: usize) -> Vec<Hash> {
    let leaf = |seq: usize| Entry::Saved(EventId([seq as u8; 32])).leaf(seq as u64, 1_000);
    (0..length).map(leaf).collect()
}

fn mmr(leaves: &[Hash]) -> Mmr<Vec<Hash>> {
    let mut mmr = Mmr::open(Vec::new(), 0);
    leaves.iter().for_each(|leaf| mmr.push(*leaf));
    mmr
}

/// All ranges of all logs of up to so many entries.
fn all_ranges(length_max: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..=length_max).flat_map(|length| {
        (0..=length).flat_map(move |from| (from..=length).map(move |next| (length, from, next)))
    })
}

#[test]
fn every_range_of_every_small_log_completes_to_the_naive_root() {
    for (length, from, next) in all_ranges(34) {
        let leaves = leaves(length);
        let mmr = mmr(&leaves);
        assert_eq!(mmr.root(), naive_root(&leaves));
        let nodes = mmr.prove(from as u64..next as u64);
        let root = root_of(length as u64, from as u64, &leaves[from..next], &nodes);
        assert_eq!(root, Ok(mmr.root()), "{from}..{next} of {length}");
    }
}

#[test]
fn a_reopened_range_is_the_one_that_was_left() {
    let all = leaves(70);
    for length in 0..all.len() {
        let mut nodes = Vec::new();
        let mut grown = Mmr::open(&mut nodes, 0);
        all[..length].iter().for_each(|leaf| grown.push(*leaf));
        let mut reopened = Mmr::open(&mut nodes, length as u64);
        reopened.push(all[length]);
        assert_eq!(reopened.root(), naive_root(&all[..=length]));
        assert_eq!(nodes.len() as u32, 2 * (length as u32 + 1) - (length as u32 + 1).count_ones());
    }
}

#[test]
fn a_proof_of_one_entry_is_its_path_and_of_none_the_root() {
    let mmr = mmr(&leaves(1_024));
    assert_eq!(mmr.prove(700..701).len(), 10);
    assert_eq!(mmr.prove(0..1_024).len(), 0);
    assert_eq!(mmr.prove(1_024..1_024), [mmr.root()]);
    assert_eq!(mmr.prove(3..3), [mmr.root()]);
}

#[test]
fn the_tree_of_version_1_stays() {
    let id = EventId([7; 32]);
    let mut mmr = Mmr::open(Vec::new(), 0);
    assert_eq!(mmr.root(), empty_root());
    mmr.push(Entry::Saved(id).leaf(0, 1_700_000_000));
    mmr.push(Entry::Removed(id, b"deleted").leaf(1, 1_700_000_001));
    mmr.push(Entry::Cleared.leaf(2, 1_700_000_002));
    assert_eq!(
        hex::encode(mmr.root()),
        "68860aa9b81804661946f9d05a710bbfff9c167c294a07b25b59461383b2d482"
    );
}

proptest! {
    #[test]
    fn a_range_of_a_longer_log_completes_to_the_naive_root(
        length in 35usize..600, a: prop::sample::Index, b: prop::sample::Index,
    ) {
        let (a, b) = (a.index(length + 1), b.index(length + 1));
        let (from, next) = (a.min(b), a.max(b));
        let leaves = leaves(length);
        let mmr = mmr(&leaves);
        let nodes = mmr.prove(from as u64..next as u64);
        let root = root_of(length as u64, from as u64, &leaves[from..next], &nodes);
        prop_assert_eq!(root, Ok(naive_root(&leaves)));
    }

    #[test]
    fn no_nodes_and_no_length_make_the_check_panic_or_linger(
        length: u64, first: u64, leaves in 0usize..4, nodes in 0usize..140,
    ) {
        let hashes = vec![[3; 32]; 140];
        root_of(length, first, &hashes[..leaves], &hashes[..nodes]).ok();
        root_of(length, length - leaves as u64 % length.max(1), &hashes[..leaves], &hashes[..nodes]).ok();
    }
}

/// Each way to tamper with a page, on every range that has room for it: the root differs, or there is
/// no root.
#[test]
fn every_tampering_with_every_small_range_is_caught() {
    for (length, from, next) in all_ranges(12).filter(|(_, from, next)| from < next) {
        let all = leaves(length);
        let mmr = mmr(&all);
        let page = &all[from..next];
        let nodes = mmr.prove(from as u64..next as u64);
        let caught = |what: &str, length: usize, from: usize, page: &[Hash], nodes: &[Hash]| {
            let root = root_of(length as u64, from as u64, page, nodes);
            assert_ne!(root, Ok(mmr.root()), "{what} in {from}..{next} of {length}");
        };
        for at in 0..page.len() {
            let mut dropped = page.to_vec();
            dropped.remove(at);
            caught("an entry dropped", length, from, &dropped, &nodes);
            caught("an entry dropped at the log's end", length - 1, from, &dropped, &nodes);
            let mut added = page.to_vec();
            added.insert(at, [9; 32]);
            caught("an entry added", length, from, &added, &nodes);
            caught("an entry added to the log", length + 1, from, &added, &nodes);
            let mut altered = page.to_vec();
            altered[at][31] ^= 1;
            caught("an entry altered", length, from, &altered, &nodes);
            for other in 0..at {
                let mut swapped = page.to_vec();
                swapped.swap(at, other);
                caught("entries swapped", length, from, &swapped, &nodes);
            }
        }
        for at in 0..nodes.len() {
            let mut altered = nodes.clone();
            altered[at][0] ^= 1;
            caught("a node altered", length, from, page, &altered);
            let mut dropped = nodes.clone();
            dropped.remove(at);
            assert_eq!(
                root_of(length as u64, from as u64, page, &dropped),
                Err(RangeError::NodesMissing)
            );
        }
        let extra = [&nodes[..], &[[0; 32]]].concat();
        let root = root_of(length as u64, from as u64, page, &extra);
        assert_eq!(root, Err(RangeError::NodesLeft));
        let beyond = root_of(next as u64 - 1, from as u64, page, &nodes);
        assert_eq!(beyond, Err(RangeError::Beyond));
        if from > 0 {
            caught("a page moved", length, from - 1, page, &nodes);
        }
    }
}
