//! What every L2 does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use event::{
    Event, EventId, Filter, Kind, Packed, TagName, Timestamp, Verified,
    twin::{self, Author, NaiveStore},
};
use interface::{SAVE_EVENTS_MAX, id_of};
use layer2::{
    Change, ChangesFrom, DeleteOutcome, Deletion, Detail, Layer2, Layer2Error, Role, SaveOutcome,
    What,
};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};
use tokio::runtime::Handle;

use crate::world::PATIENCE;

/// How many lives the random one is.
const CASES: u32 = 12;

type Store = Arc<dyn Layer2>;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn note(author: u8, at: u64, content: &str) -> Event {
    Author::new(author).sign(at, 1, &[], content).into_inner()
}

fn notes(author: u8, count: u64) -> Vec<Event> {
    (0..count).map(|at| note(author, 1_000 + at, "a note")).collect()
}

async fn save(store: &Store, events: &[Event]) -> Vec<SaveOutcome> {
    let packed: Vec<Vec<u8>> = events.iter().map(Event::pack).collect();
    store.save(&packed).await.unwrap()
}

/// Saves what nothing speaks against; says where each is in the log.
async fn save_all(store: &Store, events: &[Event]) -> Vec<u64> {
    let seq = |outcome| match outcome {
        SaveOutcome::Saved(seq) => seq,
        other => panic!("{other:?}"),
    };
    save(store, events).await.into_iter().map(seq).collect()
}

/// An answer, page by page.
async fn query(store: &Store, filters: &[Filter]) -> Vec<Event> {
    pages(store, filters).await.concat()
}

async fn pages(store: &Store, filters: &[Filter]) -> Vec<Vec<Event>> {
    let mut pages = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.query(filters, cursor.as_deref()).await.unwrap();
        pages.push(page.events.iter().map(|bytes| unpack(bytes)).collect());
        match page.cursor {
            Some(next) => cursor = Some(next.into_vec()),
            None => return pages,
        }
    }
}

async fn everything(store: &Store) -> Vec<Event> {
    query(store, &[Filter::default()]).await
}

fn unpack(bytes: &[u8]) -> Event {
    Packed::parse(bytes).expect("a store answers with packed events").unpack()
}

/// The log from somewhere to its end.
async fn log(store: &Store, from: u64, detail: Detail) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut next = from;
    loop {
        let page = store.changes(ChangesFrom::Seq(next), detail).await.unwrap();
        let seqs: Vec<u64> = page.changes.iter().map(|change| change.seq).collect();
        assert!(seqs.is_sorted_by(|one, other| one < other), "{seqs:?}");
        assert!(seqs.iter().all(|seq| (next..page.next).contains(seq)), "{seqs:?}");
        assert!(page.next > next || page.next == page.length, "it gets nowhere");
        changes.extend(page.changes);
        next = page.next;
        if next == page.length {
            return changes;
        }
    }
}

/// What a follower holds who applies these to what it held.
fn follow(held: &mut BTreeMap<EventId, Event>, changes: &[Change]) {
    for change in changes {
        match &change.what {
            What::Saved(bytes) => {
                let event = unpack(bytes);
                held.insert(event.id, event);
            }
            What::Removed { id, .. } => drop(held.remove(&id_of(id).unwrap())),
            What::Gone(_) => {}
            What::Cleared => held.clear(),
        }
    }
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Event>) -> BTreeSet<EventId> {
    events.into_iter().map(|event| event.id).collect()
}

/// What the log says was removed, and why.
fn whys(changes: &[Change]) -> Vec<(EventId, &str)> {
    let why = |change| match change {
        &Change { what: What::Removed { ref id, ref why }, .. } => {
            Some((id_of(id).unwrap(), why.as_str()))
        }
        _ => None,
    };
    changes.iter().filter_map(why).collect()
}

#[track_caller]
fn check_interface<T: std::fmt::Debug>(result: Result<T, Layer2Error>) {
    assert!(matches!(result, Err(Layer2Error::Interface(_))), "{result:?}");
}

pub async fn what_was_saved_is_there_under_its_id_and_no_other(store: Store) {
    let events = notes(1, 30);
    save_all(&store, &events[..20]).await;
    let json = vec![events[20].to_json().into_bytes()];
    assert!(matches!(store.save(&json).await.unwrap()[..], [SaveOutcome::Saved(_)]));
    let asked: Vec<EventId> = events.iter().map(|event| event.id).collect();
    let got = store.get(&asked).await.unwrap();
    let got: BTreeMap<EventId, Event> =
        got.iter().map(|bytes| unpack(bytes)).map(|event| (event.id, event)).collect();
    let expected = events[..21].iter().map(|event| (event.id, event.clone())).collect();
    assert_eq!(got, expected);
    assert!(store.get(&[]).await.unwrap().is_empty());
}

pub async fn each_event_of_a_batch_has_its_outcome(store: Store) {
    let author = Author::new(1);
    let first = author.sign(1_000, 0, &[], "a name").into_inner();
    let newer = author.sign(1_001, 0, &[], "another name").into_inner();
    let unwanted = note(1, 1_002, "unwanted");
    let deletion = author.sign(1_003, 5, &[&["e", &unwanted.id.to_string()]], "").into_inner();
    let mut forged = note(1, 1_004, "forged");
    forged.sig.0[5] ^= 1;
    let mut renamed = note(1, 1_005, "renamed");
    renamed.id.0[5] ^= 1;
    let tags: Vec<&[&str]> = vec![&["t", "x"]; 5_001];
    let batch = [
        newer.clone(),
        first,
        newer,
        deletion,
        unwanted,
        author.sign(1_006, 1, &[&["expiration", "1006"]], "").into_inner(),
        author.sign(1_007, 20_001, &[], "").into_inner(),
        forged,
        renamed,
        note(1, now() + 2_000, "from tomorrow"),
        author.sign(1_008, 1, &tags, "").into_inner(),
        note(1, 1_009, &"x".repeat(131_072)),
    ];
    let mut packed: Vec<Vec<u8>> = batch.iter().map(Event::pack).collect();
    packed.push(b"nonsense".to_vec());
    packed.push(vec![1, 2, 3]);
    packed.push(Vec::new());
    let outcomes = store.save(&packed).await.unwrap();
    let [newer, first, again, deletion, unwanted, expired, ephemeral, rest @ ..] = &outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    let SaveOutcome::Saved(seq) = newer else { panic!("{newer:?}") };
    assert_eq!((first, again), (&SaveOutcome::Superseded, &SaveOutcome::Duplicate(*seq)));
    assert!(matches!(deletion, SaveOutcome::Saved(_)), "{deletion:?}");
    assert_eq!(unwanted, &SaveOutcome::Deleted);
    assert_eq!((expired, ephemeral), (&SaveOutcome::Expired, &SaveOutcome::Ephemeral));
    let reasons = ["signature", "id is not", "future", "tags"];
    for (outcome, reason) in rest.iter().zip(reasons) {
        assert!(
            matches!(outcome, SaveOutcome::Invalid(why) if why.contains(reason)),
            "{outcome:?}"
        );
    }
    assert_eq!(rest[4], SaveOutcome::TooLarge(131_072));
    assert!(rest[5..].iter().all(|outcome| matches!(outcome, SaveOutcome::Invalid(_))));
    assert_eq!(outcomes.len(), packed.len());
    assert_eq!(everything(&store).await.len(), 2);
}

pub async fn what_is_sent_again_changes_nothing(store: Store) {
    let mut events = notes(1, 20);
    events.push(Author::new(1).sign(5, 5, &[&["e", &events[3].id.to_string()]], "").into_inner());
    save_all(&store, &events).await;
    let (held, length) = (everything(&store).await, store.length().await.unwrap());
    let is_known =
        |outcome: &SaveOutcome| matches!(outcome, SaveOutcome::Duplicate(_) | SaveOutcome::Deleted);
    assert!(save(&store, &events).await.iter().all(is_known));
    assert_eq!((everything(&store).await, store.length().await.unwrap()), (held, length));
}

/// More than a page, three in each second.
fn large_notes() -> Vec<Event> {
    let text = "x".repeat(100_000);
    (0..25).map(|number| note(number % 3, 1_000 + u64::from(number / 3), &text)).collect()
}

fn sorted(mut events: Vec<Event>) -> Vec<Event> {
    events.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
    events
}

async fn save_large_notes(store: &Store) -> Vec<Event> {
    let events = large_notes();
    for batch in events.chunks(10) {
        save_all(store, batch).await;
    }
    sorted(events)
}

pub async fn an_answer_comes_in_pages_newest_first_and_ties_by_id(store: Store) {
    let events = save_large_notes(&store).await;
    let pages = pages(&store, &[Filter::default()]).await;
    assert!(pages.len() > 1, "it is more than one reply holds");
    assert_eq!(pages.concat(), events);
}

pub async fn a_limit_holds_over_all_pages(store: Store) {
    let events = save_large_notes(&store).await;
    let limited = Filter { limit: Some(22), ..Filter::default() };
    assert_eq!(query(&store, &[limited]).await, events[..22]);
    let nothing = Filter { limit: Some(0), ..Filter::default() };
    assert!(query(&store, &[nothing]).await.is_empty());
    let of = |author: u8, limit| Filter {
        authors: Some(vec![Author::new(author).pubkey()]),
        limit: Some(limit),
        ..Filter::default()
    };
    let mut naive = NaiveStore::default();
    for event in &events {
        naive.save(event);
    }
    let filters = [of(0, 2), of(1, 7), of(1, 3), of(2, 100)];
    assert_eq!(query(&store, &filters).await, naive.query(&filters));
}

pub async fn what_matches_is_counted(store: Store) {
    let mut events = notes(1, 40);
    events.extend(notes(2, 7));
    events.push(Author::new(3).sign(9, 1, &[&["t", "a"], &["t", "b"]], "").into_inner());
    save_all(&store, &events).await;
    let count = async |filters: &[Filter]| store.count(filters).await.unwrap().count;
    let of = |author: u8| Filter {
        authors: Some(vec![Author::new(author).pubkey()]),
        ..Filter::default()
    };
    let t = TagName::new("t").unwrap();
    let tagged = |values: &[&str]| [(t, values.iter().map(|v| (*v).to_owned()).collect())].into();
    assert_eq!(count(&[Filter::default()]).await, 48);
    assert_eq!(count(&[of(2)]).await, 7);
    assert_eq!(count(&[of(1), of(2), of(1)]).await, 47);
    assert_eq!(count(&[Filter { limit: Some(5), ..of(1) }]).await, 5);
    assert_eq!(count(&[Filter { tags: tagged(&["b", "c"]), ..Filter::default() }]).await, 1);
    assert_eq!(count(&[Filter { all_tags: tagged(&["a", "b"]), ..Filter::default() }]).await, 1);
    assert_eq!(count(&[Filter { all_tags: tagged(&["a", "c"]), ..Filter::default() }]).await, 0);
    assert_eq!(count(&[Filter { kinds: Some(vec![Kind(7)]), ..Filter::default() }]).await, 0);
    assert_eq!(count(&[]).await, 0);
}

pub async fn who_follows_while_many_write_misses_nothing(store: Store) {
    const WRITERS: u8 = 8;
    const EACH: u64 = 5;
    let writing = (0..WRITERS).map(|author| {
        let store = store.clone();
        tokio::spawn(async move {
            for event in notes(author, EACH) {
                save_all(&store, &[event]).await;
            }
        })
    });
    let writing: Vec<_> = writing.collect();
    let (mut followed, mut next) = (BTreeMap::new(), 0);
    let following = async {
        while followed.len() < usize::from(WRITERS) * EACH as usize {
            let page = store.changes(ChangesFrom::Seq(next), Detail::Events).await.unwrap();
            follow(&mut followed, &page.changes);
            next = page.next;
        }
    };
    tokio::time::timeout(PATIENCE, following).await.expect("it has passed one by");
    for task in writing {
        task.await.unwrap();
    }
    assert_eq!(next, u64::from(WRITERS) * EACH);
}

/// A life with everything that the log can tell.
async fn live(store: &Store) {
    let author = Author::new(1);
    let profile = |at| author.sign(at, 0, &[], "a name").into_inner();
    let events = notes(1, 30);
    save_all(store, &events[..10]).await;
    save_all(store, &[profile(1), profile(2)]).await;
    save_all(store, &events[10..20]).await;
    let unwanted = events[12].id.to_string();
    save_all(store, &[author.sign(9, 5, &[&["e", &unwanted]], "").into_inner()]).await;
    store
        .delete(&[events[1].id], &Deletion { tombstone: false, why: "spam".into() })
        .await
        .unwrap();
    save_all(store, &[profile(3)]).await;
    save_all(store, &events[20..]).await;
    save_large_notes(store).await;
}

pub async fn whoever_follows_the_log_from_anywhere_holds_the_same(store: Store) {
    save_all(&store, &notes(2, 5)).await;
    let mut early = BTreeMap::new();
    follow(&mut early, &log(&store, 0, Detail::Events).await);
    let met = store.length().await.unwrap();
    live(&store).await;
    follow(&mut early, &log(&store, met, Detail::Events).await);
    let mut late = BTreeMap::new();
    let changes = log(&store, 0, Detail::Events).await;
    follow(&mut late, &changes);
    let held: BTreeMap<EventId, Event> =
        everything(&store).await.into_iter().map(|event| (event.id, event)).collect();
    assert_eq!((ids(early.values()), ids(late.values())), (ids(held.values()), ids(held.values())));
    assert_eq!(late, held);
    let told: BTreeSet<&str> = whys(&changes).into_iter().map(|(_, why)| why).collect();
    assert_eq!(told, ["deleted", "spam", "superseded"].into());
    let last = changes.last().unwrap();
    assert_eq!(last.seq + 1, store.length().await.unwrap());
}

pub async fn the_log_is_read_from_a_time(store: Store) {
    let before = now();
    live(&store).await;
    let from = async |time| {
        let from = ChangesFrom::Arrived(time);
        store.changes(from, Detail::Ids).await.unwrap()
    };
    let all = log(&store, 0, Detail::Ids).await;
    assert!(all.is_sorted_by_key(|change| change.arrived), "{all:?}");
    assert!(all.iter().all(|change| (before..=now()).contains(&change.arrived)));
    assert_eq!(from(0).await.changes[0], all[0]);
    let middle = all[all.len() / 2].arrived;
    let expected = all.iter().find(|change| change.arrived >= middle).unwrap();
    assert_eq!(&from(middle).await.changes[0], expected);
    let none = from(now() + 1_000).await;
    assert_eq!((none.changes.len(), none.next), (0, none.length));
}

pub async fn the_log_names_ids_only_when_asked(store: Store) {
    let events = notes(1, 3);
    save_all(&store, &events).await;
    let changes = log(&store, 0, Detail::Ids).await;
    let expected: Vec<What> =
        events.iter().map(|event| What::Saved(event.id.0.to_vec().into())).collect();
    assert_eq!(changes.into_iter().map(|change| change.what).collect::<Vec<_>>(), expected);
}

pub async fn who_is_further_than_the_log_is_told_so(store: Store) {
    save_all(&store, &notes(1, 3)).await;
    let at_its_end = store.changes(ChangesFrom::Seq(3), Detail::Events).await.unwrap();
    assert_eq!((at_its_end.changes.len(), at_its_end.next, at_its_end.length), (0, 3, 3));
    let beyond = store.changes(ChangesFrom::Seq(4), Detail::Events).await;
    assert!(matches!(beyond, Err(Layer2Error::Behind(3))), "{beyond:?}");
}

pub async fn what_was_taken_out_may_come_back_without_a_tombstone_and_never_with_one(store: Store) {
    let request = Author::new(1).sign(1, 62, &[&["relay", "wss://elsewhere"]], "").into_inner();
    let deletion = Author::new(1).sign(1, 5, &[&["e", &"0".repeat(64)]], "").into_inner();
    let events = [note(1, 1, "one"), note(2, 2, "two"), deletion, request];
    let seqs = save_all(&store, &events).await;
    let length = seqs.last().unwrap() + 1;
    let asked: Vec<EventId> = events.iter().map(|event| event.id).collect();
    let delete = async |tombstone| {
        let why = if tombstone { "for ever" } else { "" };
        store.delete(&asked, &Deletion { tombstone, why: why.into() }).await.unwrap()
    };
    let removed: Vec<DeleteOutcome> = (length..length + 4).map(DeleteOutcome::Removed).collect();
    assert_eq!(delete(false).await, removed);
    assert_eq!(delete(false).await, vec![DeleteOutcome::Unknown; 4]);
    assert!(everything(&store).await.is_empty());
    save_all(&store, &events).await;
    assert!(delete(true).await.iter().all(|it| matches!(it, DeleteOutcome::Removed(_))));
    assert_eq!(save(&store, &events).await, vec![SaveOutcome::Deleted; 4]);
    let changes = log(&store, 0, Detail::Ids).await;
    let whys: Vec<&str> = whys(&changes).into_iter().map(|(_, why)| why).collect();
    assert_eq!(whys, [["removed by the operator"; 4], ["for ever"; 4]].concat());
    let long = Deletion { tombstone: false, why: "é".repeat(200) };
    save_all(&store, &[note(3, 1, "")]).await;
    store.delete(&[note(3, 1, "").id], &long).await.unwrap();
    let last = log(&store, 0, Detail::Ids).await.pop().unwrap();
    assert!(matches!(&last.what, What::Removed { why, .. } if *why == "é".repeat(100)), "{last:?}");
}

pub async fn a_cleared_store_is_empty_and_goes_on(store: Store) {
    live(&store).await;
    let events = notes(3, 2);
    save_all(&store, &events).await;
    let for_ever = Deletion { tombstone: true, why: String::new() };
    store.delete(&[events[0].id], &for_ever).await.unwrap();
    let (held, length) = (everything(&store).await, store.length().await.unwrap());
    for confirmation in ["", "yes", "lmdb:/somewhere else"] {
        let refused = store.clear(confirmation).await;
        assert!(matches!(refused, Err(Layer2Error::Refused(_))), "{refused:?}");
    }
    assert_eq!(everything(&store).await, held);
    store.clear(&store.name()).await.unwrap();
    assert!(everything(&store).await.is_empty());
    assert!(store.get(&[held[0].id]).await.unwrap().is_empty());
    let change = log(&store, length, Detail::Events).await;
    assert!(matches!(&change[..], [Change { what: What::Cleared, .. }]), "{change:?}");
    assert_eq!(save_all(&store, &events).await, [length + 1, length + 2], "nothing is kept out");
    let mut late = BTreeMap::new();
    follow(&mut late, &log(&store, 0, Detail::Events).await);
    assert_eq!(ids(late.values()), ids(&events));
}

pub async fn what_has_expired_is_seen_no_more(store: Store) {
    let date = (now() + 2).to_string();
    let event = Author::new(1).sign(1_000, 1, &[&["expiration", &date]], "soon over").into_inner();
    let lasting = note(1, 999, "for ever");
    save_all(&store, &[event.clone(), lasting.clone()]).await;
    let started = Instant::now();
    while everything(&store).await.len() > 1 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(everything(&store).await, [lasting]);
    assert!(store.get(&[event.id]).await.unwrap().is_empty());
    assert_eq!(store.count(&[Filter::default()]).await.unwrap().count, 1);
    assert_eq!(save(&store, &[event.clone(), note(1, 5, "")]).await[0], SaveOutcome::Expired);
    let changes = log(&store, 0, Detail::Events).await;
    assert_eq!(whys(&changes), [(event.id, "expired")]);
}

pub async fn who_vanishes_is_gone_and_stays_gone(store: Store) {
    let (one, two) = (Author::new(1), Author::new(2));
    let for_one: &[&[&str]] = &[&["p", &one.pubkey().to_string()]];
    let wrap = two.sign(1_002, 1_059, for_one, "for their eyes").into_inner();
    let reply = two.sign(1_003, 1, for_one, "a reply").into_inner();
    let mut events = notes(1, 10);
    events.extend([wrap.clone(), reply.clone()]);
    save_all(&store, &events).await;
    let request = one.sign(5_000, 62, &[&["relay", "ALL_RELAYS"]], "").into_inner();
    let later = note(1, 5_001, "back again");
    save_all(&store, &[request.clone(), later.clone()]).await;
    assert_eq!(everything(&store).await, [later.clone(), request.clone(), reply.clone()]);
    assert_eq!(save(&store, &[events[0].clone(), wrap]).await, vec![SaveOutcome::Deleted; 2]);
    let mut follower = BTreeMap::new();
    let gone_in_the_log = async {
        loop {
            follow(&mut follower, &log(&store, 0, Detail::Events).await);
            if follower.len() == 3 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone_in_the_log).await.unwrap();
    assert_eq!(ids(follower.values()), ids(&[later, request, reply]));
}

/// What a client of the `negentropy` crate finds out: what only it has, and what only the store has.
async fn differences(
    store: &Store,
    own: &[Event],
    filter: Option<&Filter>,
) -> (BTreeSet<EventId>, BTreeSet<EventId>) {
    let mut storage = NegentropyStorageVector::new();
    for event in own {
        storage.insert(event.created_at.0, Id::from_byte_array(event.id.0)).unwrap();
    }
    storage.seal().unwrap();
    let mut client = Negentropy::borrowed(&storage, 0).unwrap();
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut message = Some(client.initiate().unwrap());
    while let Some(sent) = message {
        let answer = store.reconcile(&sent, filter).await.unwrap();
        message = client.reconcile_with_ids(&answer, &mut have, &mut need).unwrap();
    }
    let ids = |ids: Vec<Id>| ids.into_iter().map(|id| EventId(id.to_bytes())).collect();
    (ids(have), ids(need))
}

pub async fn negentropy_finds_what_differs(store: Store) {
    let mut events = notes(1, 150);
    events.extend(notes(2, 150));
    save_all(&store, &events[10..]).await;
    let own = [&events[..100], &events[105..]].concat();
    let expected = (ids(&events[..10]), ids(&events[100..105]));
    assert_eq!(differences(&store, &own, None).await, expected);
    let of_two = Filter { authors: Some(vec![Author::new(2).pubkey()]), ..Filter::default() };
    let expected = (ids(&[]), ids(&events[200..]));
    assert_eq!(differences(&store, &events[150..200], Some(&of_two)).await, expected);
    let dated = Filter {
        since: Some(Timestamp(1_100)),
        until: Some(Timestamp(1_119)),
        ..Filter::default()
    };
    let (have, need) = differences(&store, &[], Some(&dated)).await;
    assert_eq!((have.len(), need.len()), (0, 40));
}

pub async fn what_was_read_of_some_authors_is_put_back(store: Store) {
    let mut events = notes(1, 20);
    events.extend(notes(2, 20));
    events.extend(notes(3, 20));
    save_all(&store, &events).await;
    let authors = vec![Author::new(1).pubkey(), Author::new(3).pubkey()];
    let theirs = Filter { authors: Some(authors), ..Filter::default() };
    let read = query(&store, &[theirs]).await;
    assert_eq!(ids(&read), ids(events[..20].iter().chain(&events[40..])));
    store.clear(&store.name()).await.unwrap();
    save_all(&store, &read).await;
    assert_eq!(everything(&store).await, read);
}

pub async fn what_makes_no_sense_is_an_error_and_nothing_else(store: Store) {
    let filters = [Filter::default()];
    save_all(&store, &notes(1, 3)).await;
    check_interface(store.query(&filters, Some(&[])).await);
    check_interface(store.query(&filters, Some(b"no cursor")).await);
    check_interface(store.query(&filters, Some(&[1, 0])).await);
    check_interface(store.reconcile(b"", None).await);
    check_interface(store.reconcile(b"?", None).await);
    let kinds = Some(vec![Kind(1); 10_001]);
    let many = [Filter { kinds, ..Filter::default() }];
    check_interface(store.query(&many, None).await);
    check_interface(store.count(&many).await);
    check_interface(store.reconcile(b"a", many.first()).await);
    let too_many = store.save(&vec![Vec::new(); SAVE_EVENTS_MAX + 1]).await;
    assert!(matches!(too_many, Err(Layer2Error::TooLarge(_))), "{too_many:?}");
    assert_eq!(everything(&store).await.len(), 3);
}

pub async fn the_owner_is_told_to_be_one_and_how_much_there_is(store: Store) {
    assert_eq!(store.role().await.unwrap(), Some(Role::Owner));
    let empty = store.status().await.unwrap();
    assert_eq!((empty.events, empty.length), (0, 0));
    let events = notes(1, 30);
    save_all(&store, &events).await;
    store.delete(&[events[4].id], &Deletion::default()).await.unwrap();
    let status = store.status().await.unwrap();
    assert_eq!((status.events, status.length), (29, 31));
    assert_eq!(store.length().await.unwrap(), 31);
    assert!(status.stable_bytes > 0 && status.read_only.is_none());
}

/// Events in order of arrival, how many of them come together, and whom an operator then takes out.
type Life = (Vec<Verified>, Vec<(usize, Option<(Index, bool)>)>, Vec<Vec<Filter>>);

fn life() -> impl Strategy<Value = Life> {
    twin::arrivals(40).prop_flat_map(|arrivals| {
        let removal = prop::option::weighted(0.2, (any::<Index>(), any::<bool>()));
        let steps = vec((1usize..9, removal), arrivals.len());
        let queries = vec(vec(twin::filter(&arrivals), 0..4), 8);
        (Just(arrivals), steps, queries)
    })
}

pub async fn random_arrivals_leave_what_the_naive_store_holds(store: Store) {
    let handle = Handle::current();
    let lives = move || {
        let mut runner = TestRunner::new(ProptestConfig {
            cases: CASES,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let check = |life: Life| {
            handle.block_on(lead(&store, life));
            Ok(())
        };
        runner.run(&life(), check).unwrap();
    };
    tokio::task::spawn_blocking(lives).await.unwrap();
}

async fn lead(store: &Store, (arrivals, steps, queries): Life) {
    store.clear(&store.name()).await.unwrap();
    let mut naive = NaiveStore::default();
    naive.set_time(Timestamp(now()));
    let mut left = &arrivals[..];
    for (count, removal) in steps {
        let (batch, rest) = left.split_at(count.min(left.len()));
        left = rest;
        let events: Vec<Event> = batch.iter().map(|event| Event::clone(event)).collect();
        for (event, outcome) in events.iter().zip(save(store, &events).await) {
            let is_held = matches!(outcome, SaveOutcome::Saved(_) | SaveOutcome::Duplicate(_));
            assert_eq!(naive.save(event), is_held, "{outcome:?} for {event:?}");
        }
        // Of what is held: who vanished may still be on the way out.
        if let Some((which, tombstone)) = removal
            && !naive.live().is_empty()
        {
            let id = which.get(naive.live()).id;
            let deletion = Deletion { tombstone, why: String::new() };
            let outcomes = store.delete(&[id], &deletion).await.unwrap();
            assert!(matches!(outcomes[..], [DeleteOutcome::Removed(_)]), "{outcomes:?}");
            naive.delete(&id, tombstone);
        }
    }
    for filters in &queries {
        let expected = naive.query(filters);
        assert_eq!(query(store, filters).await, expected, "{filters:?}");
        assert_eq!(store.count(filters).await.unwrap().count, expected.len() as u64, "{filters:?}");
    }
    let all: Vec<EventId> = arrivals.iter().map(|event| event.id).collect();
    let got: Vec<Event> = store.get(&all).await.unwrap().iter().map(|b| unpack(b)).collect();
    assert_eq!(ids(&got), ids(naive.live()));
    let none = (BTreeSet::new(), BTreeSet::new());
    assert_eq!(differences(store, naive.live(), None).await, none);
    follows_to(store, naive.live()).await;
}

/// Who vanished goes from the log bit by bit, in some stores.
async fn follows_to(store: &Store, expected: &[Event]) {
    let started = Instant::now();
    loop {
        let mut follower = BTreeMap::new();
        follow(&mut follower, &log(store, 0, Detail::Events).await);
        if ids(follower.values()) == ids(expected) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{follower:?} is not {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
