//! The answers against those of the `negentropy` crate, byte for byte, and whole conversations with it.

use std::collections::BTreeSet;

use event::{EventId, Timestamp};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use proptest::{collection::vec, prelude::*};
use reconcile::{Between, FRAME_BYTES_MIN, Item, Sorted, answer};

fn item(created_at: u64, id: [u8; 32]) -> Item {
    Item { created_at: Timestamp(created_at), id: EventId(id) }
}

/// Many of one second, and ids that share their first bytes.
fn items(most: usize) -> impl Strategy<Value = Vec<Item>> {
    let id = (vec(prop_oneof![Just(0), Just(7), any::<u8>()], 6), any::<[u8; 26]>());
    let id = id.prop_map(|(start, end)| [&start[..], &end].concat().try_into().unwrap());
    let date = prop_oneof![3 => 0u64..40, 1 => Just(1_700_000_000), 1 => any::<u64>()];
    vec((date, id).prop_map(|(date, id)| item(date.min(u64::MAX - 1), id)), 0..most)
}

fn storage(items: &[Item]) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::new();
    for item in items {
        storage.insert(item.created_at.0, Id::from_byte_array(item.id.0)).unwrap();
    }
    storage.seal().unwrap();
    storage
}

fn ids_of(items: &[Item]) -> BTreeSet<[u8; 32]> {
    items.iter().map(|item| item.id.0).collect()
}

/// The conversation that a client of the crate has with us. Every answer must be the crate's.
fn converse(client: &[Item], server: &[Item], frame: usize) -> Result<(), TestCaseError> {
    let (ours, twins) = (Sorted::new(server.to_vec()), storage(server));
    let theirs = storage(client);
    let mut initiator = Negentropy::borrowed(&theirs, frame as u64).unwrap();
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut message = Some(initiator.initiate().unwrap());
    while let Some(sent) = message {
        let answered = answer(&ours, &sent, frame).unwrap();
        let mut twin = Negentropy::borrowed(&twins, frame as u64).unwrap();
        prop_assert_eq!(&answered, &twin.reconcile(&sent).unwrap());
        prop_assert!(answered.len() <= frame);
        message = initiator.reconcile_with_ids(&answered, &mut have, &mut need).unwrap();
    }
    let set = |ids: Vec<Id>| ids.into_iter().map(Id::to_bytes).collect::<BTreeSet<_>>();
    let (client, server) = (ids_of(client), ids_of(server));
    prop_assert_eq!(set(have), client.difference(&server).copied().collect());
    prop_assert_eq!(set(need), server.difference(&client).copied().collect());
    Ok(())
}

/// Two sets that only answer, and somebody between.
fn compare(left: &[Item], right: &[Item], frames: [usize; 2]) -> Result<(), TestCaseError> {
    let sides = [Sorted::new(left.to_vec()), Sorted::new(right.to_vec())];
    let (mut between, question) = Between::begin();
    let mut question = Some(question);
    let mut rounds = 0;
    while let Some(asked) = question {
        let side = usize::from(!between.is_left_asked());
        question = between.take(&answer(&sides[side], &asked, frames[side]).unwrap()).unwrap();
        rounds += 1;
        prop_assert!(rounds < 2_000, "it gets nowhere");
    }
    let (left, right) = (ids_of(left), ids_of(right));
    let found: [BTreeSet<[u8; 32]>; 2] =
        between.finish().map(|ids| ids.iter().map(|id| id.0).collect());
    let expected = [&left - &right, &right - &left];
    prop_assert_eq!(found, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn somebody_between_two_stores_finds_all_differences(
        shared in items(600), left in items(200), right in items(200),
        frames in [prop_oneof![FRAME_BYTES_MIN..9_000, Just(500_000)],
                   prop_oneof![FRAME_BYTES_MIN..9_000, Just(500_000)]],
    ) {
        let mut seen = BTreeSet::new();
        let mut once = |items: Vec<Item>| -> Vec<Item> {
            items.into_iter().filter(|item| seen.insert(item.id.0)).collect()
        };
        let (shared, left, right) = (once(shared), once(left), once(right));
        compare(&[&shared[..], &left].concat(), &[&shared[..], &right].concat(), frames)?;
        compare(&shared, &shared, frames)?;
        compare(&[], &right, frames)?;
        compare(&left, &[], frames)?;
    }

    #[test]
    fn no_answer_makes_who_stands_between_panic(answer in vec(any::<u8>(), 0..200)) {
        Between::begin().0.take(&answer).ok();
        Between::begin().0.take(&[&[0x61][..], &answer].concat()).ok();
    }

    #[test]
    fn a_conversation_finds_all_differences_and_its_answers_are_the_crates(
        shared in items(600), client in items(60), server in items(300),
        frame in prop_oneof![FRAME_BYTES_MIN..9_000, Just(500_000)],
    ) {
        // An id has one date.
        let mut seen = BTreeSet::new();
        let mut once = |items: Vec<Item>| -> Vec<Item> {
            items.into_iter().filter(|item| seen.insert(item.id.0)).collect()
        };
        let (shared, client, server) = (once(shared), once(client), once(server));
        converse(&[&shared[..], &client].concat(), &[&shared[..], &server].concat(), frame)?;
    }

    #[test]
    fn no_message_makes_the_answer_panic(message in vec(any::<u8>(), 0..200), items in items(80)) {
        let set = Sorted::new(items);
        answer(&set, &message, FRAME_BYTES_MIN).ok();
        answer(&set, &[&[0x61][..], &message].concat(), FRAME_BYTES_MIN).ok();
    }

    #[test]
    fn no_change_of_a_message_makes_the_answer_panic(
        client in items(200), server in items(200), at: prop::sample::Index, byte: u8,
    ) {
        let theirs = storage(&client);
        let mut message = Negentropy::borrowed(&theirs, 0).unwrap().initiate().unwrap();
        *at.get_mut(&mut message) = byte;
        answer(&Sorted::new(server), &message, FRAME_BYTES_MIN).ok();
    }
}

#[test]
fn stores_that_differ_in_thousands_are_reconciled_through_small_frames() {
    let numbered = |number: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        item(1_700_000_000 + number / 50, id)
    };
    let server: Vec<Item> = (0..20_000).map(numbered).collect();
    converse(&server[..100], &server, FRAME_BYTES_MIN).unwrap();
    converse(&[], &server, 100_000).unwrap();
    converse(&server, &server[..3], FRAME_BYTES_MIN).unwrap();
    converse(&server[1_000..], &server[..19_000], 500_000).unwrap();
}

#[test]
fn other_versions_are_answered_with_ours_and_other_bytes_not_at_all() {
    let set = Sorted::default();
    assert_eq!(answer(&set, &[0x60], FRAME_BYTES_MIN).unwrap(), [0x61]);
    assert_eq!(answer(&set, &[0x6f, 1, 2], FRAME_BYTES_MIN).unwrap(), [0x61]);
    for message in [&[][..], &[0x70], &[0x61, 0, 0, 3], &[0x61, 0, 33], &[0x61, 0, 0, 2, 9]] {
        answer(&set, message, FRAME_BYTES_MIN).unwrap_err();
    }
}
