//! Garbage collection: what goes, what stays, and what may be relied on meanwhile.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use event::{EventId, Filter, Kind, Packed, Timestamp, Verified, twin::Author};
use store::{
    Collector, Layer2Change, Occasion, Options, Origin, Outcome, Policy, Seq, Settlement, Store,
    WriteError, Writer,
};

use crate::{all, bodies, cache, everything, folder, note, open, options, outbox, query, stubs};

const LIMIT: usize = 8 << 20;

/// Notes of some thousand bytes, dated one after the other.
fn notes(count: u64) -> Vec<Verified> {
    let note = |number: u64| {
        let content = format!("{number} ").repeat(200 + (number * 7919 % 430) as usize);
        Author::new(1 + (number % 7) as u8).sign(1_000 + number, 1, &[&["t", "x"]], &content)
    };
    (0..count).map(note).collect()
}

/// A limited store, and its clock.
fn open_limited(folder: &Path) -> (Store, Writer, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(6_000));
    let time = clock.clone();
    let options = Options {
        clock: Arc::new(move || Timestamp(time.load(Ordering::Relaxed))),
        bytes_max: LIMIT,
        ..options()
    };
    let (store, writer) = Store::open(folder, options).unwrap();
    (store, writer, clock)
}

fn alone() -> Policy {
    Policy {
        bytes_max: LIMIT as u64,
        high_percent: 70,
        low_percent: 50,
        protected_kinds: vec![],
        has_layer2: false,
    }
}

/// Puts them and lets a collector of this policy make room whenever a write asks for it.
async fn put_collecting(
    store: &Store,
    writer: &Writer,
    policy: &Policy,
    origin: Origin,
    events: Vec<Verified>,
) -> Result<(), WriteError> {
    let mut collector = Collector::new(store.clone(), writer.clone(), policy.clone());
    for events in events.chunks(50) {
        collecting(store, &mut collector, writer.put_all(events.to_vec(), origin)).await?;
    }
    Ok(())
}

/// Has it written, and makes room whenever it asks for some.
async fn collecting<T>(
    store: &Store,
    collector: &mut Collector,
    write: impl Future<Output = Result<T, WriteError>>,
) -> Result<T, WriteError> {
    let mut write = std::pin::pin!(write);
    loop {
        tokio::select! {
            written = &mut write => return written,
            () = collector.wanted() => {}
        }
        collector.collect(store.next_seq(), Occasion::Wanted).await.unwrap();
    }
}

fn ids(events: &[Verified]) -> Vec<EventId> {
    events.iter().map(|event| event.id).collect()
}

#[tokio::test]
async fn ten_times_the_limit_goes_through_a_cache_that_keeps_what_is_asked_for() {
    let folder = folder();
    let events = notes(35_000);
    let count = events.len();
    let report =
        cache::run(folder.path(), LIMIT as u64, events.into_iter(), count, |_, _| {}).await;
    println!("{report:#?}\n{}", report.in_words());
    report.check();
}

#[tokio::test]
async fn what_comes_while_an_answer_is_under_way_goes_last_and_it_hears_of_all_else_that_goes() {
    let folder = folder();
    let (store, writer, clock) = open_limited(folder.path());
    let events = notes(1_600);
    let (old, new) = events.split_at(1_000);
    writer.put_all(old.to_vec(), Origin::Client).await.unwrap();
    let hold = store.hold();
    writer.put_all(new.to_vec(), Origin::Client).await.unwrap();
    // By what was served last, all of the new ones would go first.
    clock.fetch_add(60, Ordering::Relaxed);
    store.note_served((0..1_000).map(Seq));
    let mut collector = Collector::new(store.clone(), writer.clone(), alone());
    let collected = collector.collect(store.next_seq(), Occasion::Asked).await.unwrap().unwrap();
    let held: Vec<bool> = events.iter().map(|event| store.contains(&event.id).unwrap()).collect();
    assert!(held[1_000..].iter().all(|is_held| *is_held), "a new one went");
    let gone: Vec<EventId> =
        events.iter().zip(&held).filter(|(_, is_held)| !**is_held).map(|(e, _)| e.id).collect();
    assert_eq!(gone.len() as u64, collected.bodies);
    assert!(!gone.is_empty());
    let lost = hold.lost().unwrap();
    let lost: Vec<EventId> = lost.iter().map(|stub| Packed::trusted(stub).unwrap().id()).collect();
    assert_eq!(lost, gone);
    // Afterwards they are like all others.
    drop(hold);
    let mut collector =
        Collector::new(store.clone(), writer.clone(), Policy { low_percent: 40, ..alone() });
    collector.collect(store.next_seq(), Occasion::Asked).await.unwrap().unwrap();
    assert!(!store.contains(&new[0].id).unwrap());
}

/// What there is little of in a small store are pages: short events with many keys change so many of
/// them at once that neither a batch nor a task of a collection fits at first. Pruning gave up then, and
/// the store took no more writes.
#[tokio::test]
async fn the_smallest_cache_takes_long_batches_of_short_events_with_many_keys() {
    let folder = folder();
    let (store, writer, _) = open_limited(folder.path());
    let topics: Vec<String> = (0..1_000).map(|number| format!("topic {number}")).collect();
    let note = |number: usize| {
        let tags: Vec<[&str; 2]> =
            (0..12).map(|tag| ["t", topics[number * 31 * (tag + 1) % 1_000].as_str()]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
        Author::new((number % 50) as u8 + 1).sign(1_000 + number as u64, 1, &tags, "short")
    };
    let events: Vec<Verified> = (0..24_000).map(note).collect();
    let policy = Policy { high_percent: 60, has_layer2: true, ..alone() };
    let mut collector = Collector::new(store.clone(), writer.clone(), policy);
    let put = writer.put_all(events[..22_000].to_vec(), Origin::Layer2);
    collecting(&store, &mut collector, put).await.unwrap();
    let page = events[22_000..].iter().cloned().map(Layer2Change::Saved).collect();
    let applied = writer.apply_layer2(page, 77);
    assert_eq!(collecting(&store, &mut collector, applied).await.unwrap().len(), 2_000);
    assert_eq!(store.l2_cursor().unwrap(), Some(77));
    assert!(store.stats().unwrap().bytes_on_disk <= LIMIT as u64);
    assert!(store.contains(&events[23_999].id).unwrap());
    // Of what is dated later than what was given up, nothing is missing.
    let since = store.complete_since().unwrap();
    assert!(since > Timestamp(1_000) && since < Timestamp(24_000), "{since:?}");
    let is_held = |event: &Verified| store.contains(&event.id).unwrap();
    assert!(events.iter().filter(|event| event.created_at >= since).all(is_held));
}

#[tokio::test]
async fn who_asks_for_a_collection_gets_the_low_mark_and_below_it_nothing_goes() {
    let folder = folder();
    let (store, writer, _) = open_limited(folder.path());
    writer.put_all(notes(1_600), Origin::Layer2).await.unwrap();
    let policy = Policy { high_percent: 75, low_percent: 40, has_layer2: true, ..alone() };
    let (low, bytes) = (policy.low(), store.usage().unwrap().bytes);
    assert!((low + 1..LIMIT as u64 / 4 * 3).contains(&bytes), "{bytes}");
    let mut collector = Collector::new(store.clone(), writer.clone(), policy);
    let end = store.next_seq();
    assert!(collector.collect(end, Occasion::Routine).await.unwrap().is_none());
    let collected = collector.collect(end, Occasion::Asked).await.unwrap().unwrap();
    let bodies = collected.after.of_bodies();
    assert!((low - low / 8..=low).contains(&bodies), "no more than had to: {bodies} of {low}");
    assert_eq!((collected.bodies, collected.stubs), (stubs(&store).len() as u64, 0));
    let headway = *collector.headway().borrow();
    assert_eq!(headway.done, headway.total, "what had to go went");
    assert!(collector.collect(end, Occasion::Asked).await.unwrap().is_none());
}

#[tokio::test]
async fn without_an_l2_whole_events_go_and_writes_wait_for_it() {
    let folder = folder();
    let (store, writer, _) = open_limited(folder.path());
    let events = notes(8_000);
    put_collecting(&store, &writer, &alone(), Origin::Client, events.clone()).await.unwrap();
    let stats = store.stats().unwrap();
    assert!(stats.bytes_on_disk <= LIMIT as u64);
    assert!((1_000..7_000).contains(&stats.events), "{stats:?}");
    assert_eq!((stats.stubs, stats.outbox), (0, stats.events));
    // In one minute, unserved: the oldest went, and nothing of them is left.
    let held: Vec<EventId> = all(&store).into_iter().map(|(_, id)| id).collect();
    assert_eq!(held, ids(&events[events.len() - held.len()..]));
    assert_eq!(query(&store, &[Filter::default()], 100).len(), held.len());
    assert_eq!(store.complete_since().unwrap(), Timestamp(0));
}

#[tokio::test]
async fn what_l2_has_not_got_keeps_its_body_however_full_the_store_is() {
    let folder = folder();
    let (store, writer, _) = open_limited(folder.path());
    let policy = Policy { has_layer2: true, ..alone() };
    let events = notes(8_000);
    let full = put_collecting(&store, &writer, &policy, Origin::Client, events.clone()).await;
    assert_eq!(full, Err(WriteError::Full));
    let pending = outbox(&store);
    assert_eq!(pending.len(), bodies(&store).len());
    assert_eq!(stubs(&store), []);
    // L2 comes back, refuses one, and takes the rest: now there is room.
    let refused = pending[7];
    let said = |seq: Seq| match seq == refused.0 {
        true => (seq, Settlement::Refused("quota".into())),
        false => (seq, Settlement::Delivered),
    };
    writer.settle(pending.iter().map(|(seq, _)| said(*seq)).collect()).await.unwrap();
    let rest = events[pending.len()..].to_vec();
    put_collecting(&store, &writer, &policy, Origin::Layer2, rest).await.unwrap();
    assert_eq!(store.aside(Seq(0), 9).unwrap()[0].event, events[7].pack());
    assert!(store.stats().unwrap().bytes_on_disk <= LIMIT as u64);
    assert!(store.contains(&events[7_999].id).unwrap());
}

#[tokio::test]
async fn what_was_served_stays_longer_across_a_restart_and_protected_kinds_stay_longest() {
    let folder = folder();
    let (store, writer, clock) = open_limited(folder.path());
    let profile = Author::new(9).sign(1, 0, &[], &"me ".repeat(500));
    let events = notes(1_500);
    writer.put(profile.clone(), Origin::Layer2).await.unwrap();
    writer.put_all(events.clone(), Origin::Layer2).await.unwrap();
    clock.fetch_add(600, Ordering::Relaxed);
    let served: Vec<Seq> = all(&store).iter().map(|(seq, _)| *seq).skip(100).take(50).collect();
    store.note_served(served.clone());
    writer.stop().await;
    drop(store);

    let (store, writer, clock) = open_limited(folder.path());
    clock.fetch_add(1_200, Ordering::Relaxed);
    let policy = Policy { protected_kinds: vec![Kind(0)], has_layer2: true, ..alone() };
    put_collecting(&store, &writer, &policy, Origin::Layer2, notes(2_500)).await.unwrap();
    let whole = bodies(&store);
    assert!(served.iter().all(|seq| whole.contains(seq)));
    assert!(!whole.contains(&Seq(99)));
    assert_eq!(store.get(&profile.id).unwrap(), Some(profile.pack()));
    assert!(store.stats().unwrap().stubs > 500);
}

#[tokio::test]
async fn stubs_that_find_no_room_go_oldest_first_and_leave_a_date() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let events = notes(400);
    writer.put_all(events.clone(), Origin::Layer2).await.unwrap();
    let collect = async |policy, end| {
        let mut collector = Collector::new(store.clone(), writer.clone(), policy);
        collector.collect(end, Occasion::Routine).await.unwrap()
    };
    assert!(collect(everything(), Seq(300)).await.is_some());
    assert_eq!(stubs(&store), ids(&events[..300]));
    assert_eq!(store.complete_since().unwrap(), Timestamp(0));
    // Room for no stub at all; bodies are left alone, they are below this mark.
    let tight = Policy { bytes_max: 4 << 20, high_percent: 90, ..everything() };
    assert!(collect(tight, store.next_seq()).await.is_some());
    assert_eq!(stubs(&store), []);
    assert_eq!(store.complete_since().unwrap(), Timestamp(1_300));
    assert_eq!(bodies(&store).len(), 100);
    // From here on what is older than that date goes whole.
    let late = Author::new(3).sign(500, 1, &[], "late");
    writer.put(late.clone(), Origin::Layer2).await.unwrap();
    assert!(collect(everything(), store.next_seq()).await.is_some());
    assert_eq!(stubs(&store), ids(&events[300..]));
    assert!(!store.contains(&late.id).unwrap());
}

#[tokio::test]
async fn another_l2_gets_all_bodies_and_stubs_are_forgotten() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let events = notes(2_400);
    writer.put_all(events[..2_399].to_vec(), Origin::Layer2).await.unwrap();
    writer.put(events[2_399].clone(), Origin::Client).await.unwrap();
    let last = store.newest().unwrap();
    writer.settle(vec![(last, Settlement::Refused("quota".into()))]).await.unwrap();
    writer.apply_layer2(Vec::new(), 77).await.unwrap();
    let mut collector = Collector::new(store.clone(), writer.clone(), everything());
    collector.collect(Seq(300), Occasion::Routine).await.unwrap();
    let tight = Policy { bytes_max: 4 << 20, high_percent: 90, ..everything() };
    drop(collector);
    let mut collector = Collector::new(store.clone(), writer.clone(), tight);
    collector.collect(Seq(300), Occasion::Routine).await.unwrap();
    drop(collector);
    let mut collector = Collector::new(store.clone(), writer.clone(), everything());
    collector.collect(Seq(500), Occasion::Routine).await.unwrap();
    assert_eq!((stubs(&store).len(), store.complete_since().unwrap()), (200, Timestamp(1_300)));

    let mut newest = store.follow();
    newest.mark_unchanged();
    writer.turn_to_other_layer2().await.unwrap();
    assert!(newest.has_changed().unwrap(), "who sends the rows up hears of them");
    let sent: Vec<EventId> = outbox(&store).into_iter().map(|(_, id)| id).collect();
    assert_eq!(sent, ids(&events[500..]));
    assert_eq!((stubs(&store), store.aside(Seq(0), 9).unwrap()), (vec![], vec![]));
    assert_eq!(store.complete_since().unwrap(), Timestamp(0));
    assert_eq!(store.l2_cursor().unwrap(), Some(0));
    // What the other L2 has of it, it need not be sent; what it lacks, it is.
    let held = |event: &Verified| Layer2Change::Held(event.id);
    writer.apply_layer2(events[600..].iter().map(held).collect(), 9).await.unwrap();
    assert_eq!(outbox(&store).len(), 100);
}

#[tokio::test]
async fn while_another_l2_is_turned_to_nothing_is_given_up() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let events = notes(300);
    writer.put_all(events.clone(), Origin::Layer2).await.unwrap();
    writer.spare_all().await.unwrap();
    let mut collector = Collector::new(store.clone(), writer.clone(), everything());
    collector.collect(store.next_seq(), Occasion::Routine).await.unwrap();
    assert_eq!((bodies(&store).len(), stubs(&store)), (300, vec![]));
    // It outlives the process, and ends when all that is here is on its way.
    drop(collector);
    writer.stop().await;
    drop(store);
    let (store, writer) = open(folder.path());
    let mut collector = Collector::new(store.clone(), writer.clone(), everything());
    collector.collect(store.next_seq(), Occasion::Routine).await.unwrap();
    assert_eq!(stubs(&store), vec![]);
    writer.turn_to_other_layer2().await.unwrap();
    assert_eq!(outbox(&store).len(), 300);
    let sent = outbox(&store).into_iter().map(|(seq, _)| (seq, Settlement::Delivered)).collect();
    writer.settle(sent).await.unwrap();
    collector.collect(store.next_seq(), Occasion::Routine).await.unwrap();
    assert_eq!(stubs(&store).len(), 300);
}

#[tokio::test]
async fn however_much_expires_at_once_a_limited_store_goes_on_taking_events() {
    let folder = folder();
    let (store, writer, clock) = open_limited(folder.path());
    let expiring = |number: u64| {
        let content = "x".repeat(100);
        let tags: [&[&str]; 2] = [&["t", &format!("{}", number % 97)], &["expiration", "9000"]];
        Author::new((number % 50) as u8).sign(1_000 + number * 7_919 % 5_000, 1, &tags, &content)
    };
    let mut kept = 0;
    loop {
        let events = (kept..kept + 100).map(expiring).collect();
        match writer.put_all(events, Origin::Layer2).await {
            Ok(_) => kept += 100,
            Err(cause) => break assert_eq!(cause, WriteError::Full),
        }
    }
    assert!(kept > 5_000, "{kept}");
    clock.store(9_000, Ordering::Relaxed);
    let mut collector = Collector::new(store.clone(), writer.clone(), alone());
    let fresh = (0..50).map(|number| Author::new(1).sign(8_000 + number, 1, &[], "fresh"));
    let fresh: Vec<Verified> = fresh.collect();
    for event in &fresh {
        collecting(&store, &mut collector, writer.put(event.clone(), Origin::Layer2))
            .await
            .unwrap();
    }
    let held = query(&store, &[Filter::default()], 1_000);
    let newest_first: Vec<EventId> = ids(&fresh).into_iter().rev().collect();
    assert_eq!(held.iter().map(|event| event.id).collect::<Vec<_>>(), newest_first);
}

#[tokio::test]
async fn a_version_that_has_expired_stands_in_no_ones_way() {
    let folder = folder();
    let (store, writer, clock) = open_limited(folder.path());
    let article = |date: u64, tags: &[&[&str]]| {
        let tags = [&[&["d", "wells"][..]], tags].concat();
        Author::new(1).sign(date, 30_023, &tags, "")
    };
    // More expires than one transaction removes, and this comes last.
    let others = (0..2_000).map(|number| {
        let date = format!("{}", 7_000 + number);
        Author::new(2).sign(1_000 + number, 1, &[&["expiration", &date]], "")
    });
    writer.put_all(others.collect(), Origin::Layer2).await.unwrap();
    let newer = article(2_000, &[&["expiration", "9999"]]);
    writer.put(newer, Origin::Layer2).await.unwrap();
    clock.store(10_000, Ordering::Relaxed);
    let older = article(1_500, &[]);
    let outcome = writer.put(older.clone(), Origin::Layer2).await.unwrap();
    assert!(matches!(outcome, Outcome::Saved(_)), "{outcome:?}");
    let held = query(&store, &[Filter::default()], 10);
    assert_eq!(held.iter().map(|event| event.id).collect::<Vec<_>>(), [older.id]);
}

#[tokio::test]
async fn stores_of_earlier_formats_are_taken_over() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    writer.put(note("old"), Origin::Client).await.unwrap();
    let refused = Settlement::Refused("why".into());
    writer.put(note("refused"), Origin::Client).await.unwrap();
    writer.settle(vec![(Seq(1), refused)]).await.unwrap();
    writer.stop().await;
    drop(store);
    for format in [1, 2] {
        set_format(folder.path(), format);
        let (store, writer) = open(folder.path());
        assert_eq!(outbox(&store), [(Seq(0), note("old").id)]);
        assert_eq!(store.stats().unwrap().outbox_bytes, note("old").pack().len() as u64);
        assert_eq!(store.aside(Seq(0), 9).unwrap()[0].reason, "why");
        assert_eq!(store.get(&note("old").id).unwrap(), Some(note("old").pack()));
        writer.stop().await;
        drop(store);
    }
    set_format(folder.path(), 99);
    let refusal = Store::open(folder.path(), options()).err().unwrap().to_string();
    assert!(refusal.contains("format 99"), "{refusal}");
}

/// What a version of this format would have left of two events, one of them refused.
fn set_format(folder: &Path, format: u64) {
    use heed::{
        CommitOrAbort, EnvOpenOptions,
        byteorder::BigEndian,
        types::{Str, U64, Unit},
    };
    // SAFETY: the store was closed.
    let env = unsafe { EnvOpenOptions::new().max_dbs(32).open(folder) }.unwrap();
    let txn = env.write_txn().unwrap();
    let written = env.create_databases_and_commit(txn, |opener, txn| {
        let numbers = opener.create_database::<Str, U64<BigEndian>>(txn, Some("numbers"))?;
        numbers.put(txn, "format", &format)?;
        let outbox = opener.create_database::<U64<BigEndian>, Unit>(txn, Some("outbox"))?;
        outbox.put(txn, &0, &())?;
        let aside = opener.create_database::<U64<BigEndian>, Str>(txn, Some("aside"))?;
        aside.put(txn, &1, "why")?;
        Ok::<_, heed::Error>(CommitOrAbort::<(), ()>::Commit(()))
    });
    written.unwrap();
    env.prepare_for_closing().wait();
}
