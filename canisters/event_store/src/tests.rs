//! The endpoints as a replica calls them, against the naive store.

use std::collections::{BTreeMap, BTreeSet};

use candid::Principal;
use event::{
    Event, EventId, Filter, Kind, Packed, Timestamp, Verified,
    twin::{self, Author, NaiveStore},
};
use feed::{certified::Head, verify::check_page};
use ic_certification::HashTree;
use interface::{
    Answer, Argument, ByteBuf, Change, ChangesFrom, ChangesPage, ChangesRequest, Config, Count,
    DeleteOutcome, Deletion, Done, Encoding, EventBytes, HttpRequest, HttpResponse, Init,
    QueryPage, QueryRequest, ReadError, RelayInfo, Role, SaveOutcome, Upgrade, What,
};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    announce, changes, clear, config, configure, count, delete_events, get_events, grant,
    http_request, inspect_message, members, my_role, post_upgrade, query_events, reconcile, relays,
    revoke,
    runtime::{
        ACCEPTED, ALARM, CALLER, CERTIFIED, CONTROLLER, INSTRUCTIONS, INSTRUCTIONS_STEP, LIQUID,
        METHOD, NOW, PRINTED, STABLE,
    },
    save_events, status, tip, wake,
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
    LIQUID.set(1 << 60);
    PRINTED.take();
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
            What::Gone(_) => {}
            What::Cleared => held.clear(),
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

#[test]
fn whoever_knows_the_last_released_contract_can_call_this_one() {
    use candid_parser::utils::{CandidSource, service_compatible};
    let ours = include_str!("../../../candid/event_store.did");
    let released = include_str!("../../../candid/released/event_store-0.1.0.did");
    service_compatible(CandidSource::Text(ours), CandidSource::Text(released))
        .unwrap_or_else(|difference| panic!("{difference}"));
}

/// What happens to a store.
#[derive(Clone, Debug)]
enum Step {
    /// So many of the arrivals come, in one call.
    Save(usize),
    Pass {
        seconds: u64,
    },
    /// The canister wakes; hurried, it does not get through.
    Wake {
        is_hurried: bool,
    },
    /// An operator takes out an event that arrived.
    Delete {
        which: Index,
        for_ever: bool,
    },
    Clear,
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (1usize..8).prop_map(Step::Save),
        3 => (1u64..4).prop_map(|seconds| Step::Pass { seconds }),
        3 => any::<bool>().prop_map(|is_hurried| Step::Wake { is_hurried }),
        2 => (any::<Index>(), any::<bool>())
            .prop_map(|(which, for_ever)| Step::Delete { which, for_ever }),
        1 => Just(Step::Clear),
        2 => Just(Step::Upgrade),
    ]
}

/// Arrivals, what happens around them, and questions.
fn scenario() -> impl Strategy<Value = (Vec<Verified>, Vec<Step>, Vec<Filter>)> {
    twin::arrivals(30).prop_flat_map(|arrivals| {
        let filters = vec(twin::filter(&arrivals), 0..4);
        (Just(arrivals), vec(step(), 4..20), filters)
    })
}

/// Does it to both stores.
fn take_step(step: &Step, arrivals: &[Verified], left: &mut &[Verified], naive: &mut NaiveStore) {
    match step {
        Step::Save(number) => {
            let (batch, rest) = left.split_at((*number).min(left.len()));
            *left = rest;
            let encode = if number % 2 == 0 { json } else { packed };
            let outcomes = save_events(batch.iter().map(|event| encode(event)).collect());
            assert_eq!(outcomes.len(), batch.len());
            for (event, outcome) in batch.iter().zip(outcomes) {
                let is_held = matches!(outcome, SaveOutcome::Saved(_) | SaveOutcome::Duplicate(_));
                assert_eq!(is_held, naive.save(event), "{outcome:?} for {event:?}");
            }
        }
        Step::Pass { seconds } => {
            NOW.set(NOW.get() + seconds);
            naive.set_time(Timestamp(NOW.get()));
        }
        Step::Wake { is_hurried } => {
            INSTRUCTIONS_STEP.set(if *is_hurried { 1_500_000_000 } else { 0 });
            wake();
            INSTRUCTIONS.set(0);
            INSTRUCTIONS_STEP.set(0);
        }
        Step::Delete { which, for_ever } => {
            let id = which.get::<Verified>(arrivals).id;
            let how = Deletion { tombstone: *for_ever, why: "spam".into() };
            call_as(CONTROLLER_NO);
            let outcome = delete_events(vec![ByteBuf::from(id.0)], how).pop().unwrap();
            call_as(RELAY);
            let was_there = matches!(outcome, DeleteOutcome::Removed(_));
            // What is over and not yet out can be deleted too.
            assert!(was_there || !naive.delete(&id, *for_ever), "{outcome:?}");
            if was_there {
                naive.delete(&id, *for_ever);
            }
        }
        Step::Clear => {
            call_as(CONTROLLER_NO);
            ok(clear(principal(CONTROLLER_NO).to_text()));
            call_as(RELAY);
            naive.clear();
        }
        Step::Upgrade => upgrade(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn store_agrees_with_the_naive_one(
        (arrivals, steps, filters) in scenario(),
        max_bytes in prop_oneof![Just(None), (1u64..3_000).prop_map(Some)],
    ) {
        install();
        NOW.set(twin::EXPIRATIONS.start - 3);
        let mut naive = NaiveStore::default();
        naive.set_time(Timestamp(NOW.get()));
        let mut left = &arrivals[..];
        for step in steps.into_iter().chain([Step::Save(arrivals.len())]) {
            take_step(&step, &arrivals, &mut left, &mut naive);
            prop_assert_eq!(&everything(), &naive.query(&[Filter::default()]), "after {:?}", step);
        }
        let live = sorted(naive.live().to_vec());
        let expected = naive.query(&filters);
        // As it is, after an upgrade, and when all is tidied up.
        for then in [Step::Upgrade, Step::Wake { is_hurried: false }, Step::Upgrade] {
            prop_assert_eq!(&query(&filters, max_bytes, Encoding::Packed), &expected);
            prop_assert_eq!(&query(&filters, None, Encoding::Json), &expected);
            let wanted = filters.iter().cloned().map(Into::into).collect();
            let counted = Count { count: expected.len() as u64, complete: true };
            prop_assert_eq!(ok(count(wanted)), counted);
            let ids = arrivals.iter().map(|event| ByteBuf::from(event.id.0)).collect();
            let got = ok(get_events(ids, None)).into_iter().flatten().map(|bytes| unpack(&bytes));
            let got: BTreeMap<EventId, Event> = got.map(|event| (event.id, event)).collect();
            prop_assert_eq!(&got.into_values().collect::<Vec<Event>>(), &live);
            let replayed = replay(&log(ChangesRequest { max_bytes, ..FROM_ZERO }));
            prop_assert_eq!(&replayed.into_values().collect::<Vec<Event>>(), &live);
            prove_all(ChangesRequest { max_bytes, ..FROM_ZERO });
            prove_all(ChangesRequest { max_entries: Some(3), ids_only: true, ..FROM_ZERO });
            if status().events == live.len() as u64 {
                if let Some(filter) = filters.first() {
                    let matching = naive.query(std::slice::from_ref(filter));
                    let found = reconciled(&arrivals, Some(filter.clone()));
                    prop_assert_eq!(found, difference(&arrivals, &matching));
                }
                prop_assert_eq!(reconciled(&arrivals, None), difference(&arrivals, &live));
            }
            take_step(&then, &arrivals, &mut left, &mut naive);
        }
        prop_assert_eq!(status().events, live.len() as u64);
        prop_assert!(ALARM.get().is_none_or(|at| at > NOW.get() + 1), "something is left to tidy");
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
    // So long that each is worth asking the time.
    let long = |number: u64| note(&format!("{number}{}", " ".repeat(index::WORK_BYTES)));
    let events: Vec<Verified> = (0..9).map(long).collect();
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
    let all = interface::Filter::default;
    // Without a limit it is counted by keys, which takes no time here.
    assert_eq!(ok(count(vec![all()])), Count { count: 9, complete: true });
    INSTRUCTIONS.set(0);
    let counted = ok(count(vec![interface::Filter { limit: Some(20), ..all() }]));
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
    assert!(accepts(RELAY, "tip"));
    assert!(!accepts(STRANGER, "tip"));
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
    assert_eq!(status.memories.len(), 8);
    assert!(status.stable_bytes > 8 * 65_536);
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

fn id_of(event: &Event) -> ByteBuf {
    ByteBuf::from(event.id.0)
}

/// What the log says about `event`, in order.
fn told_about(event: &Event) -> Vec<What> {
    let is_about = |what: &What| match what {
        What::Saved(bytes) => unpack(bytes) == *event,
        What::Removed { id, .. } | What::Gone(id) => *id == id_of(event),
        What::Cleared => false,
    };
    log(FROM_ZERO).into_iter().map(|entry| entry.what).filter(is_about).collect()
}

fn removed(event: &Event, why: &str) -> What {
    What::Removed { id: id_of(event), why: why.into() }
}

fn contains(text: &str) -> bool {
    STABLE.with_borrow(|memory| {
        memory.borrow().windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn an_event_is_over_the_second_it_expires() {
    install();
    let date = (NOON + 10).to_string();
    let event = Author::new(1).sign(1, 1, &[&["expiration", &date]], "for a while");
    assert_eq!(save_one(&event), SaveOutcome::Saved(0));
    // Soon, and together with others.
    assert_eq!(ALARM.get(), Some(NOON + 70));
    NOW.set(NOON + 9);
    assert_eq!(everything().len(), 1);
    for _ in 0..2 {
        NOW.set(NOON + 10);
        assert_eq!(everything().len(), 0);
        assert_eq!(reconciled(&[], None), difference(&[], &[]));
        assert_eq!(ok(get_events(vec![id_of(&event)], None)), [None]);
        let counted = ok(count(vec![interface::Filter::default()]));
        assert_eq!(counted, Count { count: 0, complete: true });
        assert_eq!(told_about(&event), [What::Gone(id_of(&event))]);
        upgrade();
        assert_eq!(ALARM.get(), Some(NOON + 70));
    }
    NOW.set(NOON + 70);
    wake();
    assert_eq!(told_about(&event), [What::Gone(id_of(&event)), removed(&event, "expired")]);
    assert_eq!((status().events, ALARM.get()), (0, None));
    assert!(!contains("for a while"));
    assert_eq!(save_one(&event), SaveOutcome::Expired);
}

#[test]
fn an_expired_version_keeps_no_older_one_out() {
    install();
    let author = Author::new(1);
    let date = (NOON + 10).to_string();
    let new = author.sign(200, 0, &[&["expiration", &date]], "");
    let old = author.sign(100, 0, &[], "");
    assert_eq!(save(&[&new, &old]), [SaveOutcome::Saved(0), SaveOutcome::Superseded]);
    NOW.set(NOON + 10);
    // Nobody has swept yet: 1 says that it is over.
    assert_eq!(save(&[&new, &old]), [SaveOutcome::Expired, SaveOutcome::Saved(2)]);
}

#[test]
fn what_has_expired_goes_in_rounds_if_there_is_much_of_it() {
    install();
    let expiring = |number: u64| {
        let date = (NOON + 10 + number % 3).to_string();
        Author::new(1).sign(number, 1, &[&["expiration", &date]], "")
    };
    (0..20).for_each(|number| drop(save_one(&expiring(number))));
    NOW.set(NOON + 100);
    let mut held = 20;
    while held > 0 {
        assert_eq!(ALARM.get(), Some(if held == 20 { NOON + 70 } else { NOON + 101 }));
        INSTRUCTIONS.set(0);
        INSTRUCTIONS_STEP.set(1_000_000_000);
        wake();
        INSTRUCTIONS_STEP.set(0);
        INSTRUCTIONS.set(0);
        assert!((held - 4..held).contains(&status().events));
        assert_eq!(everything(), []);
        assert_eq!(reconciled(&[], None), difference(&[], &[]));
        held = status().events;
    }
    assert_eq!(ALARM.get(), None);
}

fn info(url: &str) -> RelayInfo {
    RelayInfo {
        url: url.into(),
        key: ByteBuf::from([2; 32]),
        version: "aquifer 0.1.0".into(),
        connections: 3,
        subscriptions: 5,
        lag_ms: 20,
    }
}

#[test]
fn a_prolific_author_vanishes_at_once_and_is_taken_out_in_rounds() {
    install();
    ok(announce(info("wss://Relay.example/")));
    let (alice, bob) = (Author::new(1), Author::new(2));
    let notes: Vec<Verified> = (0..30).map(|at| alice.sign(at, 1, &[], "mine")).collect();
    let key = alice.pubkey().to_string();
    let wrap = bob.sign(9, 1_059, &[&["p", &key]], "for her");
    let reply = bob.sign(9, 1, &[&["p", &key]], "to her");
    save(&notes.iter().chain([&wrap, &reply]).map(|event| &**event).collect::<Vec<_>>());
    let elsewhere = alice.sign(50, 62, &[&["relay", "wss://other.example"]], "");
    save_one(&elsewhere);
    assert_eq!(everything().len(), 33);
    let here = alice.sign(40, 62, &[&["relay", "wss://relay.example"]], "");
    assert!(matches!(save_one(&here), SaveOutcome::Saved(_)));
    let left = sorted([&reply, &elsewhere, &here].map(|event| Event::clone(event)).to_vec());
    let mut held = status().events;
    assert_eq!(held, 34);
    while held > 3 {
        assert_eq!(sorted(everything()), left);
        assert_eq!(reconciled(&notes, None), difference(&notes, &left));
        assert_eq!(save(&[&notes[7], &wrap]), [SaveOutcome::Deleted, SaveOutcome::Deleted]);
        let replayed = replay(&log(FROM_ZERO)).into_values().collect::<Vec<_>>();
        assert_eq!(replayed, left);
        assert_eq!(ALARM.get(), Some(NOON + 1));
        upgrade();
        assert_eq!(ALARM.get(), Some(NOON + 1));
        INSTRUCTIONS_STEP.set(100_000_000);
        wake();
        INSTRUCTIONS_STEP.set(0);
        INSTRUCTIONS.set(0);
        assert!(status().events < held, "nothing happens");
        held = status().events;
    }
    wake();
    assert_eq!((sorted(everything()), ALARM.get()), (left, None));
    assert_eq!(told_about(&wrap), [What::Gone(id_of(&wrap)), removed(&wrap, "vanished")]);
    assert!(!contains("for her") && !contains("mine"));
    let back = alice.sign(41, 1, &[], "I am back");
    assert!(matches!(save_one(&back), SaveOutcome::Saved(_)));
}

#[test]
fn operators_take_out_what_they_want() {
    install();
    let author = Author::new(1);
    let (a, b) = (note("a"), note("b"));
    let deletion = author.sign(5, 5, &[&["e", &"ab".repeat(32)]], "insults");
    let request = author.sign(5, 62, &[&["relay", "wss://elsewhere.example"]], "");
    save(&[&a, &b, &deletion, &request]);
    let delete = |events: &[&Event], tombstone, why: &str| {
        let ids = events.iter().map(|event| id_of(event)).collect();
        delete_events(ids, Deletion { tombstone, why: why.into() })
    };
    assert_eq!(delete(&[&a], true, ""), [DeleteOutcome::Forbidden]);
    call_as(CONTROLLER_NO);
    let unknown = note("never came");
    let expected = [DeleteOutcome::Removed(4), DeleteOutcome::Unknown, DeleteOutcome::Unknown];
    assert_eq!(delete(&[&a, &unknown, &a], false, "spam"), expected);
    assert_eq!(delete(&[&b, &deletion, &request], true, "").len(), 3);
    assert_eq!(everything(), []);
    assert_eq!(told_about(&a)[1], removed(&a, "spam"));
    assert_eq!(told_about(&b)[1], removed(&b, "removed by the operator"));
    assert!(!contains("insults"));
    let outcomes = save(&[&a, &b, &deletion, &request, &unknown]);
    assert!(matches!(outcomes[0], SaveOutcome::Saved(_)), "it may come back");
    assert_eq!(outcomes[1..4], [const { SaveOutcome::Deleted }; 3]);
    assert!(matches!(outcomes[4], SaveOutcome::Saved(_)));
    assert!(matches!(&delete(&[&a], false, &"ü".repeat(500))[..], [DeleteOutcome::Removed(_)]));
    let What::Removed { why, .. } = told_about(&a).pop().unwrap() else { panic!("it is out") };
    assert_eq!(why, "ü".repeat(100));
    let malformed = delete_events(vec![ByteBuf::from([1; 31])], Deletion::default());
    assert_eq!(malformed, [DeleteOutcome::Other("an id must have 32 bytes, not 31".into())]);
}

#[test]
fn a_cleared_store_is_like_a_new_one_and_its_log_goes_on() {
    install();
    let author = Author::new(1);
    let doomed = author.sign(9, 1, &[], "doomed");
    let deletion = author.sign(10, 5, &[&["e", &doomed.id.to_string()]], "");
    let request = author.sign(9, 62, &[&["relay", "ALL_RELAYS"]], "");
    let date = (NOON + 10).to_string();
    let expiring = author.sign(11, 1, &[&["expiration", &date], &["t", "x"]], "secret");
    let profile = author.sign(12, 0, &[], "me");
    save(&[&deletion, &request, &expiring, &profile]);
    let id = principal(CONTROLLER_NO).to_text();
    assert_eq!(clear(id.clone()), Done::Err("only owners may do this".into()));
    call_as(CONTROLLER_NO);
    let refused = clear("yes".into());
    assert_eq!(refused, Done::Err(format!("to empty this store, confirm with its id: {id}")));
    assert_eq!(everything().len(), 4);
    assert_eq!(clear(id), Done::Ok(()));
    for then in [upgrade as fn(), wake_up, upgrade] {
        assert_eq!((everything(), status().events, status().length), (vec![], 0, 5));
        let entries: Vec<What> = log(FROM_ZERO).into_iter().map(|entry| entry.what).collect();
        let gone = [&deletion, &request, &expiring, &profile].map(|event| What::Gone(id_of(event)));
        assert_eq!(entries[..4], gone);
        assert_eq!(entries[4..], [What::Cleared]);
        prove_all(FROM_ZERO);
        then();
    }
    assert!(!contains("secret"));
    assert_eq!(ALARM.get(), None);
    let all = save(&[&doomed, &expiring, &profile]);
    assert_eq!(all, [SaveOutcome::Saved(5), SaveOutcome::Saved(6), SaveOutcome::Saved(7)]);
    assert_eq!(members().len(), 1);
}

fn wake_up() {
    wake();
}

#[test]
fn relays_have_quotas_that_become_free_again() {
    let quotas = Config {
        relay_events_per_hour: Some(2),
        relay_bytes_per_hour: Some(10_000),
        relay_bytes_total: Some(20_000),
        ..Config::default()
    };
    install_with(quotas);
    let hour = "quota: relay_events_per_hour 2 is used up until 5600";
    let refused = |reason: &str| SaveOutcome::Refused(reason.into());
    let outcomes = save(&[&note("a"), &note("b"), &note("c"), &note("a")]);
    let saved = SaveOutcome::Saved;
    assert_eq!(outcomes, [saved(0), saved(1), refused(hour), SaveOutcome::Duplicate(0)]);
    NOW.set(NOON + 3_599);
    upgrade();
    assert_eq!(save_one(&note("c")), refused(hour));
    NOW.set(NOON + 3_600);
    let long = note(&"x".repeat(10_000));
    assert_eq!(save(&[&long, &note("c")])[0], saved(2));
    let bytes = "quota: relay_bytes_per_hour 10000 is used up until 9200";
    assert_eq!(save_one(&note("c")), refused(bytes));
    NOW.set(NOON + 7_200);
    let long = note(&"y".repeat(10_000));
    assert_eq!(save(&[&long, &note("c")])[0], saved(3));
    NOW.set(NOON + 70_000);
    let total = "quota: relay_bytes_total 20000 is used up until an owner raises it";
    assert_eq!(save_one(&note("c")), refused(total));
    call_as(CONTROLLER_NO);
    ok(grant(principal(STRANGER), Role::Owner, "no relay".into()));
    call_as(STRANGER);
    assert_eq!(save(&[&note("d"), &note("e"), &note("f")]), [saved(4), saved(5), saved(6)]);
    ok(configure(Config { relay_bytes_total: Some(u64::MAX), ..Config::default() }));
    call_as(RELAY);
    assert_eq!(save_one(&note("c")), saved(7));
    call_as(CONTROLLER_NO);
    ok(configure(Config { relay_events_per_hour: Some(0), ..Config::default() }));
    call_as(RELAY);
    NOW.set(NOON + 80_000);
    let none = "quota: relay_events_per_hour 0 is used up until an owner raises it";
    assert_eq!(save_one(&note("g")), refused(none));
}

/// What a save is refused with, and what the status says.
#[track_caller]
fn check_read_only(reason: &str) {
    let said = format!("read-only: {reason}");
    assert_eq!(save_one(&note("new")), SaveOutcome::Refused(said));
    assert_eq!(status().read_only.as_deref(), Some(reason));
    assert_eq!(everything(), [note("old").into_inner()], "reading goes on");
}

#[test]
fn a_store_that_runs_out_of_cycles_becomes_read_only_and_recovers() {
    install();
    save_one(&note("old"));
    LIQUID.set(499_999_999_999);
    let kept = 500_000_000_000
        + u128::from(status().stable_bytes + status().heap_bytes) * 127_000 * 86_400 / (1 << 30)
            * 7;
    let left = "499999999999 cycles are left to spend, and";
    check_read_only(&format!("{left} {kept} are kept back: top the canister up"));
    check_read_only(&format!("{left} {kept} are kept back: top the canister up"));
    LIQUID.set(kept);
    assert_eq!(status().read_only, None);
    assert!(matches!(save_one(&note("new")), SaveOutcome::Saved(_)));
    let said = PRINTED.take();
    assert_eq!(said.iter().filter(|line| line.starts_with("read-only")).count(), 2, "{said:?}");
}

#[test]
fn a_store_that_reaches_its_memory_limit_becomes_read_only_before_it_traps() {
    install();
    // The second time makes up for what the first took.
    save(&[&note("old")]);
    save(&[&note("old")]);
    let bytes = status().stable_bytes;
    call_as(CONTROLLER_NO);
    ok(configure(Config { stable_bytes_max: Some(bytes - 1), ..Config::default() }));
    let wanted = format!("{bytes} bytes of stable memory are needed, and stable_bytes_max is");
    check_read_only(&format!("{wanted} {}", bytes - 1));
    let removed = delete_events(vec![id_of(&note("old"))], Deletion::default());
    assert!(matches!(removed[..], [DeleteOutcome::Removed(_)]), "what makes room is done");
    ok(configure(Config { stable_bytes_max: Some(bytes), ..Config::default() }));
    assert!(matches!(save_one(&note("new")), SaveOutcome::Saved(_)));
}

#[test]
fn no_call_needs_more_memory_than_was_made_ready_for_it() {
    install();
    save(&[&note("first")]);
    save(&[&note("first")]);
    let before = status().stable_bytes;
    let tags: Vec<[String; 2]> =
        (0..1_000).map(|number| ["t".to_owned(), number.to_string()]).collect();
    let tags: Vec<Vec<&str>> =
        tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    let events: Vec<Verified> = (0..20).map(|at| Author::new(1).sign(at, 1, &tags, "")).collect();
    save(&events.iter().map(|event| &**event).collect::<Vec<_>>());
    assert_eq!(everything().len(), 21);
    assert_eq!(status().stable_bytes, before, "it was there already");
}

#[test]
fn a_store_with_little_heap_left_is_read_only_until_that_is_over() {
    install();
    save_one(&note("old"));
    crate::heap_is_low();
    let reason = "the wasm memory is nearly full: raise its limit, then call configure, or upgrade";
    check_read_only(reason);
    call_as(CONTROLLER_NO);
    ok(configure(Config::default()));
    assert!(matches!(save_one(&note("new")), SaveOutcome::Saved(_)));
    crate::heap_is_low();
    upgrade();
    assert_eq!(status().read_only, None);
}

#[test]
fn relays_are_listed_as_long_as_they_are_heard_of() {
    install();
    call_as(CONTROLLER_NO);
    ok(grant(principal(READER), Role::Reader, String::new()));
    ok(grant(principal(4), Role::Relay, String::new()));
    ok(announce(info("ws://127.0.0.1:7778")));
    call_as(READER);
    assert_eq!(announce(info("ws://reader")), Done::Err("only relays are listed".into()));
    call_as(RELAY);
    assert!(announce(info("https://relay.example")).into_result().is_err());
    let short = RelayInfo { key: ByteBuf::from([2; 31]), ..info("wss://relay.example") };
    assert!(announce(short).into_result().is_err());
    let long = RelayInfo { version: "x".repeat(65), ..info("wss://relay.example") };
    assert!(announce(long).into_result().is_err());
    ok(announce(info("wss://relay.example")));
    NOW.set(NOON + 60);
    ok(announce(RelayInfo { lag_ms: 7, ..info("wss://relay.example") }));
    upgrade();
    assert_eq!(relays().len(), 2);
    NOW.set(NOON + 90);
    let [entry] = &relays()[..] else { panic!("one of them is silent") };
    assert_eq!((entry.who, entry.info.lag_ms), (principal(RELAY), 7));
    assert_eq!((entry.first_seen, entry.last_seen), (NOON, NOON + 60));
    call_as(STRANGER);
    assert_eq!(relays(), []);
    call_as(CONTROLLER_NO);
    ok(revoke(principal(RELAY)));
    assert_eq!(relays(), []);
}

fn get(path: &str) -> HttpResponse {
    let (method, url) = ("GET".to_owned(), path.to_owned());
    http_request(HttpRequest { method, url, headers: vec![], body: ByteBuf::new() })
}

#[test]
fn figures_are_served_to_machines_and_people() {
    install_with(Config { relay_bytes_total: Some(u64::MAX), ..Config::default() });
    save(&[&note("a"), &note("b"), &note("a")]);
    NOW.set(NOON + 5);
    ok(announce(info("wss://relay.example")));
    let text = |answer: HttpResponse| String::from_utf8(answer.body.into_vec()).unwrap();
    let metrics = text(get("/metrics?x"));
    for line in [
        "aquifer_events 2",
        "aquifer_log_length 2",
        "aquifer_log_entries_last_day 2",
        "aquifer_saves_total{outcome=\"saved\"} 2",
        "aquifer_saves_total{outcome=\"duplicate\"} 1",
        "aquifer_read_only 0",
        "aquifer_relays 1",
        "aquifer_last_saved_timestamp_seconds 2000",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
    // Each family is announced once, before its first sample.
    let families = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<&str> = families.map(|rest| rest.split(' ').next().unwrap()).collect();
    let mut unique = names.clone();
    unique.dedup();
    assert_eq!(names, unique);
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(names.contains(&name), "{name}");
        line.rsplit(' ').next().unwrap().parse::<u128>().expect("a number");
    }
    LIQUID.set(5);
    save_one(&note("c"));
    let page = text(get("/"));
    for word in ["read-only", "Days of rent left<td>0", "5 seconds ago", "Events<td>2"] {
        assert!(page.contains(word), "{word} is not in\n{page}");
    }
    assert!(text(get("/metrics")).contains("aquifer_read_only 1"));
    assert_eq!(get("/events").status_code, 404);
    let posted = HttpRequest {
        method: "POST".into(),
        url: "/".into(),
        headers: vec![],
        body: ByteBuf::new(),
    };
    assert_eq!(http_request(posted).status_code, 405);
}

#[test]
#[should_panic(expected = "stable memory has layout 2, this version knows layout 1")]
fn memory_that_a_newer_version_laid_out_is_not_touched() {
    install();
    let memories = crate::memory::Memories::open(crate::runtime::stable_memory());
    let layout = memories.get(crate::memory::LAYOUT);
    ic_stable_structures::StableCell::init(layout, 0u32).set(2);
    upgrade();
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

#[test]
fn pages_are_encoded_as_candid_has_it() {
    install();
    save(&[&note("a"), &note("b")]);
    let request =
        || QueryRequest { filters: vec![interface::Filter::default()], ..QueryRequest::default() };
    let expected = candid::encode_one(query_events(request())).unwrap();
    assert_eq!(crate::encode(query_events(request())), expected);
}
