//! The endpoints as a replica calls them, against the naive store.

use std::collections::{BTreeMap, BTreeSet};

use candid::Principal;
use event::{
    Event, EventId, Filter, Kind, Packed, Verified,
    twin::{self, Author, NaiveStore},
};
use feed::{certified::Head, verify::check_page};
use ic_certification::HashTree;
use interface::{
    Answer, Argument, ByteBuf, Change, ChangesFrom, ChangesPage, ChangesRequest, Config, Count,
    Done, Encoding, EventBytes, Init, QueryPage, QueryRequest, ReadError, Role, SaveOutcome,
    Upgrade, What,
};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use proptest::{collection::vec, prelude::*};

use crate::{
    changes, config, configure, count, get_events, grant, inspect_message, members, my_role,
    post_upgrade, query_events, reconcile, revoke,
    runtime::{
        ACCEPTED, CALLER, CERTIFIED, CONTROLLER, INSTRUCTIONS, INSTRUCTIONS_STEP, METHOD, NOW,
        STABLE,
    },
    save_events, status, tip,
};

const NOON: u64 = 2_000;

fn principal(number: u8) -> Principal {
    Principal::from_slice(&[number; 10])
}

const CONTROLLER_NO: u8 = 1;
const RELAY: u8 = 2;
const READER: u8 = 3;
const STRANGER: u8 = 9;

/// A freshly installed canister with one relay, which is also the caller.
fn install() {
    install_with(Config::default());
}

fn install_with(config: Config) {
    STABLE.take();
    NOW.set(NOON);
    INSTRUCTIONS.set(0);
    INSTRUCTIONS_STEP.set(0);
    CONTROLLER.set(Some(principal(CONTROLLER_NO)));
    let init = Init { owners: vec![], relays: vec![principal(RELAY)], config: Some(config) };
    crate::init(Some(Argument::Init(init)));
    call_as(RELAY);
}

fn call_as(number: u8) {
    CALLER.set(principal(number));
}

/// A new process over the same stable memory.
fn upgrade() {
    post_upgrade(Some(Argument::Upgrade(None)));
}

fn json(event: &Event) -> EventBytes {
    ByteBuf::from(event.to_json())
}

fn packed(event: &Event) -> EventBytes {
    ByteBuf::from(event.pack())
}

fn save(events: &[&Event]) -> Vec<SaveOutcome> {
    save_events(events.iter().map(|event| packed(event)).collect())
}

fn save_one(event: &Event) -> SaveOutcome {
    save(&[event]).pop().expect("one outcome for one event")
}

fn note(content: &str) -> Verified {
    Author::new(1).sign(1_000, 1, &[], content)
}

#[track_caller]
fn invalid(outcome: SaveOutcome) -> String {
    match outcome {
        SaveOutcome::Invalid(reason) => reason,
        other => panic!("{other:?} is not a refusal for good"),
    }
}

#[track_caller]
fn ok<T, E: std::fmt::Debug>(answer: Answer<T, E>) -> T {
    answer.into_result().expect("the caller may do this")
}

fn unpack(bytes: &EventBytes) -> Event {
    match bytes.first() {
        Some(b'{') => Event::from_json(bytes).unwrap(),
        _ => Packed::parse(bytes).unwrap().unpack(),
    }
}

/// Follows cursors to the end.
fn query(filters: &[Filter], max_bytes: Option<u64>, encoding: Encoding) -> Vec<Event> {
    let mut request = QueryRequest {
        filters: filters.iter().cloned().map(Into::into).collect(),
        max_bytes,
        encoding: Some(encoding),
        ..QueryRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let page: QueryPage = ok(query_events(request.clone()));
        found.extend(page.events.iter().map(unpack));
        match page.cursor {
            None => return found,
            cursor => request.cursor = cursor,
        }
    }
}

fn everything() -> Vec<Event> {
    query(&[Filter::default()], None, Encoding::Packed)
}

const FROM_ZERO: ChangesRequest = ChangesRequest {
    from: ChangesFrom::Seq(0),
    max_bytes: None,
    max_entries: None,
    proof: false,
    ids_only: false,
    encoding: None,
};

/// Follows `next` to the end.
fn log(mut request: ChangesRequest) -> Vec<Change> {
    let mut entries = Vec::new();
    loop {
        let page: ChangesPage = ok(changes(request.clone()));
        assert!(page.next > entries.len() as u64 || page.next == page.length, "stuck");
        entries.extend(page.changes);
        request.from = ChangesFrom::Seq(page.next);
        if page.next == page.length {
            return entries;
        }
    }
}

/// The head of the log that a witness shows, if it is what was certified.
#[track_caller]
fn certified_head(witness: &[u8], certificate: &[u8]) -> Head {
    let witness: HashTree = serde_cbor::from_slice(witness).unwrap();
    assert_eq!(CERTIFIED.with_borrow(Vec::clone), witness.digest());
    // There is no subnet here: the twin's certificate is the certified data.
    assert_eq!(certificate, witness.digest());
    Head::of_tree(&witness).expect("a witness shows the log's head")
}

/// Follows `next` to the end, and checks that every page is proven.
#[track_caller]
fn prove_all(mut request: ChangesRequest) {
    request.proof = true;
    loop {
        let page: ChangesPage = ok(changes(request.clone()));
        let proof = page.proof.as_ref().expect("it was asked for");
        let head = certified_head(&proof.witness, &proof.certificate);
        check_page(&head, &request, &page).unwrap();
        request.from = ChangesFrom::Seq(page.next);
        if page.next == page.length && page.changes.is_empty() {
            return;
        }
    }
}

/// What only `client` has and what only the store has, as a client of the `negentropy` crate finds
/// out.
fn reconciled(client: &[Verified], filter: Option<Filter>) -> [BTreeSet<EventId>; 2] {
    let mut storage = NegentropyStorageVector::new();
    for event in client {
        storage.insert(event.created_at.0, Id::from_byte_array(event.id.0)).unwrap();
    }
    storage.seal().unwrap();
    let mut negentropy = Negentropy::borrowed(&storage, 0).unwrap();
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut message = negentropy.initiate().unwrap();
    loop {
        let answer = ok(reconcile(ByteBuf::from(message), filter.clone().map(Into::into)));
        match negentropy.reconcile_with_ids(&answer, &mut have, &mut need).unwrap() {
            Some(next) => message = next,
            None => break,
        }
    }
    [have, need].map(|ids| ids.into_iter().map(|id| EventId(id.to_bytes())).collect())
}

/// The same by looking.
fn difference(client: &[Verified], store: &[Event]) -> [BTreeSet<EventId>; 2] {
    let client: BTreeSet<EventId> = client.iter().map(|event| event.id).collect();
    let store: BTreeSet<EventId> = store.iter().map(|event| event.id).collect();
    [&client - &store, &store - &client]
}

/// What a follower of the log holds in the end.
fn replay(entries: &[Change]) -> BTreeMap<EventId, Event> {
    let mut held = BTreeMap::new();
    for (place, entry) in entries.iter().enumerate() {
        assert_eq!(entry.seq, place as u64);
        match &entry.what {
            What::Saved(bytes) => {
                let event = unpack(bytes);
                held.insert(event.id, event);
            }
            What::Removed { id, .. } => {
                held.remove(&EventId(id[..].try_into().unwrap()));
            }
            What::Gone(_) | What::Cleared => {}
        }
    }
    held
}

fn sorted(mut events: Vec<Event>) -> Vec<Event> {
    events.sort_by_key(|event| event.id);
    events
}

#[test]
fn contract_is_the_one_for_people() {
    use candid_parser::utils::{CandidSource, service_equal};
    let ours = crate::__export_service();
    let theirs = include_str!("../../../candid/event_store.did");
    service_equal(CandidSource::Text(&ours), CandidSource::Text(theirs))
        .unwrap_or_else(|difference| panic!("{difference}\nthe code's:\n{ours}"));
}

fn scenario() -> impl Strategy<Value = (Vec<Verified>, Vec<Filter>)> {
    twin::arrivals(30).prop_flat_map(|arrivals| {
        let filters = vec(twin::filter(&arrivals), 0..4);
        (Just(arrivals), filters)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn store_agrees_with_the_naive_one(
        (arrivals, filters) in scenario(),
        batch in 1usize..8,
        max_bytes in prop_oneof![Just(None), (1u64..3_000).prop_map(Some)],
    ) {
        install();
        let mut naive = NaiveStore::default();
        for (number, batch) in arrivals.chunks(batch).enumerate() {
            let encode = if number % 2 == 0 { json } else { packed };
            let outcomes = save_events(batch.iter().map(|event| encode(event)).collect());
            prop_assert_eq!(outcomes.len(), batch.len());
            for (event, outcome) in batch.iter().zip(outcomes) {
                let is_held = matches!(outcome, SaveOutcome::Saved(_) | SaveOutcome::Duplicate(_));
                prop_assert_eq!(is_held, naive.save(event), "{:?} for {:?}", outcome, event);
            }
        }
        let live = sorted(naive.live().to_vec());
        let expected = naive.query(&filters);
        for _ in 0..2 {
            prop_assert_eq!(&query(&filters, max_bytes, Encoding::Packed), &expected);
            prop_assert_eq!(&query(&filters, None, Encoding::Json), &expected);
            if let Some(filter) = filters.first() {
                let matching = naive.query(std::slice::from_ref(filter));
                let found = reconciled(&arrivals, Some(filter.clone()));
                prop_assert_eq!(found, difference(&arrivals, &matching));
            }
            let wanted = filters.iter().cloned().map(Into::into).collect();
            let counted = Count { count: expected.len() as u64, complete: true };
            prop_assert_eq!(ok(count(wanted)), counted);
            prop_assert_eq!(&sorted(everything()), &live);
            let replayed = replay(&log(ChangesRequest { max_bytes, ..FROM_ZERO }));
            prop_assert_eq!(&replayed.into_values().collect::<Vec<Event>>(), &live);
            prove_all(ChangesRequest { max_bytes, ..FROM_ZERO });
            prop_assert_eq!(reconciled(&arrivals, None), difference(&arrivals, &live));
            prove_all(ChangesRequest { max_entries: Some(3), ids_only: true, ..FROM_ZERO });
            // And all of it again after an upgrade.
            upgrade();
        }
    }

    #[test]
    fn second_push_of_an_event_changes_nothing(arrivals in twin::arrivals(20)) {
        install();
        for event in &arrivals {
            let first = save_one(event);
            let (held, length) = (everything(), status().length);
            let second = save_one(event);
            match first {
                SaveOutcome::Saved(seq) => prop_assert_eq!(second, SaveOutcome::Duplicate(seq)),
                other => prop_assert_eq!(second, other),
            }
            prop_assert_eq!((everything(), status().length), (held, length));
        }
    }

    #[test]
    fn no_bytes_are_a_trap(blobs in vec(vec(any::<u8>(), 0..300), 0..8), head in 0u8..3) {
        install();
        let with_head = |mut blob: Vec<u8>| {
            match head {
                0 => {}
                1 => blob.insert(0, 1),
                _ => blob.insert(0, b'{'),
            }
            ByteBuf::from(blob)
        };
        for outcome in save_events(blobs.into_iter().map(with_head).collect()) {
            invalid(outcome);
        }
    }

    #[test]
    fn no_cursor_is_a_trap(cursor in vec(any::<u8>(), 0..80), starts_well: bool) {
        install();
        save(&[&note("a")]);
        let cursor = if starts_well { [&[1, 1][..], &cursor].concat() } else { cursor };
        let filters = vec![interface::Filter::default()];
        let request =
            QueryRequest { filters, cursor: Some(ByteBuf::from(cursor)), ..QueryRequest::default() };
        query_events(request).into_result().ok();
    }
}

#[test]
fn saved_events_are_numbered_and_duplicates_point_at_them() {
    install();
    let (a, b) = (note("a"), note("b"));
    assert_eq!(save(&[&a, &b]), [SaveOutcome::Saved(0), SaveOutcome::Saved(1)]);
    assert_eq!(
        save_events(vec![json(&b), packed(&a)]),
        [SaveOutcome::Duplicate(1), SaveOutcome::Duplicate(0)]
    );
}

#[test]
fn forged_events_are_refused_as_invalid() {
    install();
    let mut changed = note("paid 1").into_inner();
    changed.content = "paid 1000".into();
    assert_eq!(invalid(save_one(&changed)), "id is not the hash of the event");

    let mut rehashed = changed.clone();
    rehashed.id = rehashed.computed_id();
    assert_eq!(invalid(save_one(&rehashed)), "signature does not verify");
    assert_eq!(
        save_events(vec![json(&rehashed)]).pop().map(invalid).as_deref(),
        Some("signature does not verify")
    );

    let mut stolen = note("mine").into_inner();
    stolen.pubkey = Author::new(2).pubkey();
    stolen.id = stolen.computed_id();
    assert_eq!(invalid(save_one(&stolen)), "signature does not verify");
    assert_eq!(status().length, 0);
}

#[test]
fn one_bad_event_does_not_spoil_its_batch() {
    install();
    let mut outcomes = save_events(vec![
        ByteBuf::from("rubbish"),
        packed(&note("a")),
        ByteBuf::new(),
        json(&note("b")),
    ]);
    assert_eq!(outcomes.pop(), Some(SaveOutcome::Saved(1)));
    assert_eq!(invalid(outcomes.pop().unwrap()), "neither JSON nor a packed event");
    assert_eq!(outcomes.pop(), Some(SaveOutcome::Saved(0)));
    assert_eq!(invalid(outcomes.pop().unwrap()), "neither JSON nor a packed event");
}

#[test]
fn limits_are_kept_at_their_borders() {
    install_with(Config {
        event_bytes_max: Some(400),
        tags_max: Some(2),
        future_seconds_max: Some(10),
        ..Config::default()
    });
    let author = Author::new(1);
    let at = |created_at| author.sign(created_at, 1, &[], "");
    assert_eq!(save_one(&at(NOON + 10)), SaveOutcome::Saved(0));
    assert_eq!(invalid(save_one(&at(NOON + 11))), "created_at is too far in the future");
    let tags = [&["x", "1"][..], &["x", "2"], &["x", "3"]];
    assert_eq!(save_one(&author.sign(1, 1, &tags[..2], "")), SaveOutcome::Saved(1));
    assert_eq!(invalid(save_one(&author.sign(1, 1, &tags, ""))), "more than 2 tags");
    let empty = author.sign(1, 1, &[], "").pack().len();
    let longest = author.sign(1, 1, &[], &"x".repeat(400 - empty - 1));
    assert_eq!(longest.pack().len(), 400);
    assert_eq!(save_one(&longest), SaveOutcome::Saved(2));
    assert_eq!(save_events(vec![json(&longest)]), [SaveOutcome::TooLarge(400)]);
}

#[test]
fn dates_that_keys_cannot_order_are_refused() {
    install_with(Config { future_seconds_max: Some(u64::MAX), ..Config::default() });
    let author = Author::new(1);
    let last = index::CREATED_AT_MAX.0;
    assert_eq!(save_one(&author.sign(last, 1, &[], "")), SaveOutcome::Saved(0));
    invalid(save_one(&author.sign(last + 1, 1, &[], "")));
}

#[test]
fn reasons_that_quote_their_sender_are_cut() {
    install();
    let long = format!(r#"{{"id":"{}"}}"#, "é".repeat(10_000));
    assert!(invalid(save_events(vec![ByteBuf::from(long)]).pop().unwrap()).len() <= 200);
}

#[test]
fn a_call_looks_at_so_many_events_and_no_more() {
    install();
    assert_eq!(save_events(vec![ByteBuf::new(); 9_000]).len(), 8_000);
}

#[test]
fn verdicts_become_outcomes() {
    install();
    let author = Author::new(1);
    let old = author.sign(100, 0, &[], "old");
    let new = author.sign(200, 0, &[], "new");
    let doomed = note("doomed");
    let doomed_id = doomed.id.to_string();
    let deletion = author.sign(1_500, 5, &[&["e", &doomed_id]], "");
    assert_eq!(
        save(&[
            &new,
            &old,
            &doomed,
            &deletion,
            &doomed,
            &author.sign(1, 1, &[&["expiration", "1999"]], ""),
            &author.sign(1, 20_001, &[], ""),
        ]),
        [
            SaveOutcome::Saved(0),
            SaveOutcome::Superseded,
            SaveOutcome::Saved(1),
            // 2 says that 1 was removed.
            SaveOutcome::Saved(3),
            SaveOutcome::Deleted,
            SaveOutcome::Expired,
            SaveOutcome::Ephemeral,
        ]
    );
}

#[test]
fn removed_events_leave_their_id_and_a_reason() {
    install();
    let author = Author::new(1);
    let (old, new) = (author.sign(100, 0, &[], "old"), author.sign(200, 0, &[], "new"));
    save(&[&old]);
    NOW.set(NOON + 5);
    save(&[&new]);
    let id = |event: &Event| ByteBuf::from(event.id.0);
    let expected = [
        (NOON, What::Gone(id(&old))),
        (NOON + 5, What::Removed { id: id(&old), why: "superseded".into() }),
        (NOON + 5, What::Saved(packed(&new))),
    ];
    let entries = log(FROM_ZERO).into_iter().map(|entry| (entry.arrived, entry.what));
    assert_eq!(entries.collect::<Vec<_>>(), expected);
    assert!(!STABLE.with_borrow(|memory| memory.borrow().windows(3).any(|text| text == b"old")));
}

#[test]
fn changes_start_at_a_time_of_arrival() {
    install();
    for (at, content) in [(10, "a"), (20, "b"), (20, "c"), (30, "d")] {
        NOW.set(NOON + at);
        save(&[&note(content)]);
    }
    let first = |time| {
        let from = ChangesFrom::Arrived(time);
        let page = ok(changes(ChangesRequest { from, max_entries: Some(1), ..FROM_ZERO }));
        (page.changes.first().map(|entry| entry.seq), page.next, page.length)
    };
    assert_eq!(first(0), (Some(0), 1, 4));
    assert_eq!(first(NOON + 20), (Some(1), 2, 4));
    assert_eq!(first(NOON + 21), (Some(3), 4, 4));
    assert_eq!(first(NOON + 31), (None, 4, 4));
}

#[test]
fn changes_give_ids_or_json_when_asked() {
    install();
    let event = note("a");
    save(&[&event]);
    let what = |request| ok(changes(request)).changes.pop().unwrap().what;
    let ids_only = ChangesRequest { ids_only: true, ..FROM_ZERO };
    assert_eq!(what(ids_only), What::Saved(ByteBuf::from(event.id.0)));
    let as_json = ChangesRequest { encoding: Some(Encoding::Json), ..FROM_ZERO };
    assert_eq!(what(as_json), What::Saved(json(&event)));
}

#[test]
fn a_lagging_replica_says_so() {
    install();
    save(&[&note("a")]);
    let min_seq = |seq| QueryRequest { min_seq: Some(seq), ..QueryRequest::default() };
    assert!(query_events(min_seq(0)).into_result().is_ok());
    assert_eq!(query_events(min_seq(1)), Answer::Err(ReadError::Lagging(1)));
    let from = |seq| ChangesRequest { from: ChangesFrom::Seq(seq), ..FROM_ZERO };
    assert!(ok(changes(from(1))).changes.is_empty());
    assert_eq!(changes(from(2)), Answer::Err(ReadError::Lagging(1)));
}

#[test]
fn events_are_got_by_id_in_the_order_asked() {
    install();
    let (a, b) = (note("a"), note("b"));
    save(&[&a, &b]);
    let id = |event: &Event| ByteBuf::from(event.id.0);
    let ids = vec![id(&b), ByteBuf::from([0; 32]), id(&a)];
    assert_eq!(ok(get_events(ids.clone(), None)), [Some(packed(&b)), None, Some(packed(&a))]);
    assert_eq!(ok(get_events(ids, Some(Encoding::Json)))[0], Some(json(&b)));
    let refused = get_events(vec![ByteBuf::from([0; 31])], None);
    assert_eq!(refused, Answer::Err(ReadError::Invalid("an id must have 32 bytes, not 31".into())));
}

#[test]
fn replies_stay_below_their_limit_and_nothing_is_left_out() {
    install();
    let author = Author::new(1);
    let events: Vec<Verified> =
        (0..30).map(|at| author.sign(at, 1, &[], &"\u{1}".repeat(100_000))).collect();
    let ids = events.iter().map(|event| ByteBuf::from(event.id.0)).collect::<Vec<_>>();
    events.iter().for_each(|event| assert!(matches!(save_one(event), SaveOutcome::Saved(_))));
    let size = |bytes: Vec<usize>| bytes.into_iter().sum::<usize>();
    for encoding in [Encoding::Json, Encoding::Packed] {
        let got = ok(get_events(ids.clone(), Some(encoding)));
        assert!((1..30).contains(&got.len()));
        assert!(size(got.iter().flatten().map(|event| event.len()).collect()) < 1_900_000);
        assert_eq!(query(&[Filter::default()], None, encoding).len(), 30);
        assert_eq!(log(ChangesRequest { encoding: Some(encoding), ..FROM_ZERO }).len(), 30);
    }
}

#[test]
fn a_save_that_runs_out_of_instructions_refuses_the_rest() {
    install();
    let events: Vec<Verified> = (0..6).map(|number| note(&number.to_string())).collect();
    let events: Vec<&Event> = events.iter().map(|event| &**event).collect();
    INSTRUCTIONS_STEP.set(1_200_000_000);
    let outcomes = save(&events);
    let saved = outcomes.iter().filter(|it| matches!(it, SaveOutcome::Saved(_))).count();
    assert!((1..6).contains(&saved), "{outcomes:?}");
    for outcome in &outcomes[saved..] {
        assert_eq!(
            outcome,
            &SaveOutcome::Refused("this call has done enough: send it again".into())
        );
    }
    INSTRUCTIONS.set(0);
    INSTRUCTIONS_STEP.set(0);
    save(&events);
    assert_eq!(everything().len(), 6);
}

#[test]
fn a_deletion_too_large_for_one_call_is_finished_by_the_next() {
    install();
    let author = Author::new(1);
    let notes: Vec<Verified> = (0..9).map(|number| note(&number.to_string())).collect();
    save(&notes.iter().map(|event| &**event).collect::<Vec<_>>());
    let ids: Vec<String> = notes.iter().map(|event| event.id.to_string()).collect();
    let tags: Vec<[&str; 2]> = ids.iter().map(|id| ["e", id]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
    let deletion = author.sign(1_500, 5, &tags, "");
    INSTRUCTIONS_STEP.set(3_000_000_000);
    let outcome = save_one(&deletion);
    assert_eq!(outcome, SaveOutcome::Refused("deleted a part of it: send it again".into()));
    INSTRUCTIONS.set(0);
    INSTRUCTIONS_STEP.set(0);
    assert!((1..9).contains(&everything().len()));
    assert!(matches!(save_one(&deletion), SaveOutcome::Saved(_)));
    assert_eq!(everything(), [deletion.into_inner()]);
}

#[test]
fn a_query_that_runs_out_of_instructions_goes_on_by_its_cursor() {
    install();
    let events: Vec<Verified> = (0..9).map(|number| note(&number.to_string())).collect();
    save(&events.iter().map(|event| &**event).collect::<Vec<_>>());
    let page_of = |cursor| {
        INSTRUCTIONS.set(0);
        INSTRUCTIONS_STEP.set(1_000_000_000);
        let filters = vec![interface::Filter::default()];
        ok(query_events(QueryRequest { filters, cursor, ..QueryRequest::default() }))
    };
    let (first, mut found) = (page_of(None), Vec::new());
    assert_eq!(first.events.len(), 3);
    found.extend(first.events);
    let mut cursor = first.cursor;
    while cursor.is_some() {
        let page = page_of(cursor);
        found.extend(page.events);
        cursor = page.cursor;
    }
    INSTRUCTIONS_STEP.set(0);
    INSTRUCTIONS.set(0);
    assert_eq!(found.iter().map(unpack).collect::<Vec<_>>(), everything());
    INSTRUCTIONS_STEP.set(1_000_000_000);
    let counted = ok(count(vec![interface::Filter::default()]));
    assert_eq!(counted, Count { count: 3, complete: false });
}

#[test]
fn a_question_with_too_many_values_is_refused() {
    install();
    let kinds = Some((0..10_000).map(|kind| kind as u16).collect());
    let filters = vec![interface::Filter { kinds, ..interface::Filter::default() }];
    let refused = "10001 filters and values: at most 10000 in one call";
    assert_eq!(count(filters), Answer::Err(ReadError::Invalid(refused.into())));
}

#[test]
fn roles_decide_who_may_write_and_read() {
    install();
    save(&[&note("a")]);
    call_as(CONTROLLER_NO);
    assert_eq!(grant(principal(READER), Role::Reader, "a friend".into()), Done::Ok(()));
    let check = |who: u8, role: Option<Role>, reads: bool, writes: bool| {
        call_as(who);
        assert_eq!(my_role(), role);
        let read = query_events(QueryRequest::default()).into_result();
        assert_eq!(read.is_ok(), reads, "{role:?} reads");
        assert_eq!(changes(FROM_ZERO).into_result().is_ok(), reads);
        assert_eq!(count(vec![]).into_result().is_ok(), reads);
        assert_eq!(get_events(vec![], None).into_result().is_ok(), reads);
        assert_eq!(members().is_empty(), !reads);
        let wrote = matches!(save_one(&note("a")), SaveOutcome::Duplicate(_));
        assert_eq!(wrote, writes, "{role:?} writes");
        let is_owner = role == Some(Role::Owner);
        let granted = grant(principal(50), Role::Reader, String::new()).into_result();
        assert_eq!(granted.is_ok(), is_owner);
        assert_eq!(revoke(principal(50)).into_result().is_ok(), is_owner);
    };
    check(CONTROLLER_NO, Some(Role::Owner), true, true);
    check(RELAY, Some(Role::Relay), true, true);
    check(READER, Some(Role::Reader), true, false);
    check(STRANGER, None, false, false);
    call_as(CONTROLLER_NO);
    assert_eq!(revoke(principal(RELAY)), Done::Ok(()));
    check(RELAY, None, false, false);
}

#[test]
fn public_reading_opens_reading_only() {
    install_with(Config { public_read: Some(true), ..Config::default() });
    save(&[&note("a")]);
    CALLER.set(Principal::anonymous());
    assert_eq!(everything().len(), 1);
    assert_eq!(save_one(&note("b")), SaveOutcome::Refused("the caller is no relay".into()));
}

#[test]
fn nobody_in_particular_cannot_become_a_member() {
    install();
    call_as(CONTROLLER_NO);
    assert!(grant(Principal::anonymous(), Role::Relay, String::new()).into_result().is_err());
    assert!(grant(principal(5), Role::Relay, "x".repeat(257)).into_result().is_err());
}

#[test]
fn messages_are_turned_away_before_they_cost_anything() {
    install();
    let accepts = |who: u8, method: &str| {
        call_as(who);
        METHOD.set(method.into());
        ACCEPTED.set(false);
        inspect_message();
        ACCEPTED.get()
    };
    assert!(accepts(RELAY, "save_events"));
    assert!(accepts(CONTROLLER_NO, "grant"));
    assert!(accepts(CONTROLLER_NO, "save_events"));
    assert!(!accepts(RELAY, "grant"));
    assert!(!accepts(RELAY, "revoke"));
    assert!(!accepts(STRANGER, "save_events"));
    assert!(!accepts(RELAY, "query_events"));
    assert!(accepts(CONTROLLER_NO, "query_events"));
    assert!(!accepts(CONTROLLER_NO, "no_such_method"));
}

#[test]
fn members_are_credited_with_what_they_bring() {
    install();
    let (a, b) = (note("a"), note("bb"));
    save(&[&a, &b, &a]);
    save(&[&b]);
    let member = members().pop().unwrap();
    assert_eq!((member.who, member.role, member.since), (principal(RELAY), Role::Relay, NOON));
    assert_eq!((member.saved, member.bytes), (2, (a.pack().len() + b.pack().len()) as u64));
    call_as(CONTROLLER_NO);
    ok(grant(principal(RELAY), Role::Owner, "promoted".into()));
    let promoted = members().pop().unwrap();
    assert_eq!((promoted.role, promoted.saved, promoted.since), (Role::Owner, 2, NOON));
}

#[test]
fn upgrades_keep_members_and_config_and_take_either_argument() {
    install_with(Config { tags_max: Some(0), ..Config::default() });
    let tagged = Author::new(1).sign(1, 1, &[&["t", "a"]], "");
    let init = Init { relays: vec![principal(STRANGER)], ..Init::default() };
    post_upgrade(Some(Argument::Init(init)));
    assert_eq!(members().len(), 1);
    invalid(save_one(&tagged));
    post_upgrade(None);
    invalid(save_one(&tagged));
    let config = Some(Config { tags_max: Some(1), ..Config::default() });
    post_upgrade(Some(Argument::Upgrade(Some(Upgrade { config }))));
    assert_eq!(save_one(&tagged), SaveOutcome::Saved(0));
}

#[test]
fn a_canister_installed_by_default_arguments_works() {
    install();
    for argument in [None, Some(Argument::Upgrade(None)), Some(Argument::Init(Init::default()))] {
        STABLE.take();
        crate::init(argument);
        call_as(CONTROLLER_NO);
        assert_eq!(save_one(&note("a")), SaveOutcome::Saved(0));
    }
}

#[test]
fn owners_configure_what_they_name_and_no_more() {
    install();
    let asked = Config { tags_max: Some(0), relay_bytes_total: Some(7), ..Config::default() };
    assert!(configure(asked).into_result().is_err());
    let before = config();
    call_as(CONTROLLER_NO);
    assert_eq!(configure(asked), Done::Ok(()));
    upgrade();
    let after = Config { tags_max: Some(0), relay_bytes_total: Some(7), ..before };
    assert_eq!(config(), after);
    invalid(save_one(&Author::new(1).sign(1, 1, &[&["t", "a"]], "")));
    let too_much = Config { stable_bytes_max: Some(u64::MAX), ..Config::default() };
    assert!(configure(too_much).into_result().is_err());
    assert_eq!(config(), after);
}

#[test]
#[should_panic(expected = "event_bytes_max can be 315666 at most")]
fn a_limit_that_replies_could_not_keep_is_refused() {
    install_with(Config { event_bytes_max: Some(315_667), ..Config::default() });
}

#[test]
#[should_panic(expected = "an index is not complete")]
fn an_upgrade_that_would_lose_an_index_does_not_take_place() {
    use crate::memory::{BY_KIND, Memories, PAGE_BYTES, TREES};
    install();
    save(&[&note("a")]);
    let trees = Memories::open(crate::runtime::stable_memory()).get(TREES);
    let pages = std::rc::Rc::new(tree::Pages::open(trees, PAGE_BYTES));
    let mut by_kind: tree::Tree<16, 0, _> = tree::Tree::open(&pages, BY_KIND);
    by_kind.remove(&by_kind.first().unwrap()).unwrap();
    upgrade();
}

#[test]
#[should_panic(expected = "there is no page file of a version known here")]
fn an_upgrade_over_what_is_no_page_file_does_not_take_place() {
    use ic_stable_structures::Memory as _;
    install();
    let memories = crate::memory::Memories::open(crate::runtime::stable_memory());
    memories.get(crate::memory::TREES).write(0, b"BTR");
    upgrade();
}

#[test]
fn status_counts_what_is_there_and_what_the_last_save_cost() {
    install();
    assert_eq!(status().last_save, None);
    INSTRUCTIONS_STEP.set(1_000);
    save(&[&note("a"), &note("b"), &note("a")]);
    let status = status();
    assert_eq!((status.events, status.length), (2, 2));
    let cost = status.last_save.unwrap();
    assert_eq!(cost.events, 3);
    for part in [cost.decode, cost.verify, cost.index, cost.log] {
        assert!(part > 0 && part % 1_000 == 0);
    }
    assert_eq!(status.memories.len(), 6);
    assert!(status.stable_bytes > 6 * 65_536);
}

#[test]
fn arguments_that_promise_more_than_they_hold_are_refused() {
    // A vec of a billion nulls, in a few bytes.
    let bomb = [&b"DIDL\x01\x6d\x7f\x01\x00"[..], &[0x80, 0x94, 0xeb, 0xdc, 0x03]].concat();
    let refused = std::panic::catch_unwind(|| crate::decode::<(Vec<()>,)>(bomb));
    assert!(refused.is_err());
    let honest = vec![interface::Filter {
        kinds: Some((0..9_999).map(|kind| kind as u16).collect()),
        tags: (b'a'..=b'z')
            .map(|letter| (char::from(letter).into(), vec!["".into(); 400]))
            .collect(),
        ..interface::Filter::default()
    }];
    let bytes = candid::encode_one(&honest).unwrap();
    assert_eq!(crate::decode_one::<Vec<interface::Filter>>(bytes), honest);
    let many = vec![interface::Filter::default(); 10_000];
    let bytes = candid::encode_one(&many).unwrap();
    assert_eq!(crate::decode_one::<Vec<interface::Filter>>(bytes), many);
}

#[test]
fn the_tip_is_certified_by_every_message_that_changes_the_log() {
    install();
    let at_first = tip();
    assert_eq!((at_first.length, &at_first.root[..]), (0, &feed::empty_root()[..]));
    let mut seen = vec![at_first.root];
    for content in ["a", "b", "a"] {
        save(&[&note(content)]);
        let tip = tip();
        let head = certified_head(&tip.witness, &tip.certificate.unwrap());
        assert_eq!((head.length, &head.root[..]), (tip.length, &tip.root[..]));
        seen.push(tip.root);
    }
    assert!(
        seen[0] != seen[1] && seen[1] != seen[2] && seen[2] == seen[3],
        "a duplicate is no entry"
    );
}

#[test]
fn an_upgrade_certifies_the_tip_again_and_catches_up_with_the_log() {
    use ic_stable_structures::Memory as _;
    install();
    save(&[&note("a"), &note("b"), &note("c")]);
    let (before, certified) = (tip(), CERTIFIED.take());
    upgrade();
    assert_eq!((tip().root, CERTIFIED.take()), (before.root.clone(), certified.clone()));
    // As if the tree had been left behind after one entry: that is how an older version leaves it.
    let memories = crate::memory::Memories::open(crate::runtime::stable_memory());
    memories.get(crate::memory::LOG_TREE).write(4, &[1, 0, 0, 0, 0, 0, 0, 0]);
    upgrade();
    assert_eq!((tip().root, CERTIFIED.with_borrow(Vec::clone)), (before.root, certified));
    prove_all(FROM_ZERO);
}

#[test]
fn an_update_call_has_no_proof_and_answers_all_the_same() {
    install();
    save(&[&note("a")]);
    crate::runtime::IS_QUERY.set(false);
    let page = ok(changes(ChangesRequest { proof: true, ..FROM_ZERO }));
    let certificate = tip().certificate;
    crate::runtime::IS_QUERY.set(true);
    assert_eq!((page.changes.len(), page.proof, certificate), (1, None, None));
}

#[test]
fn pages_by_arrival_and_pages_with_nothing_are_proven_too() {
    install();
    for (number, content) in ["a", "b", "c", "d"].iter().enumerate() {
        NOW.set(NOON + number as u64);
        save(&[&note(content)]);
    }
    for time in NOON - 1..NOON + 6 {
        let request = ChangesRequest {
            from: ChangesFrom::Arrived(time),
            max_entries: Some(2),
            proof: true,
            ..FROM_ZERO
        };
        let page = ok(changes(request.clone()));
        let proof = page.proof.as_ref().unwrap();
        check_page(&certified_head(&proof.witness, &proof.certificate), &request, &page).unwrap();
    }
}

#[test]
fn a_set_too_large_to_reconcile_at_once_is_refused_with_advice() {
    install();
    save(&[&note("a"), &note("b")]);
    INSTRUCTIONS_STEP.set(5_000_000_000);
    let kinds = Filter { kinds: Some(vec![Kind(1)]), ..Filter::default() };
    for filter in [None, Some(kinds.into())] {
        let refused = reconcile(ByteBuf::from([0x61, 0, 0, 2, 0]), filter);
        let Answer::Err(ReadError::Other(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("since and until"), "{reason}");
    }
}

#[test]
fn bytes_that_are_no_negentropy_are_refused_and_strangers_too() {
    install();
    let answer = reconcile(ByteBuf::from([0x61, 0, 0, 9]), None);
    assert!(matches!(answer, Answer::Err(ReadError::Invalid(_))), "{answer:?}");
    call_as(STRANGER);
    let message = ByteBuf::from([0x61, 0, 0, 2, 0]);
    assert_eq!(reconcile(message, None), Answer::Err(ReadError::Forbidden));
}
