//! What callers rely on, one promise a test.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use event::{EventId, Filter, Timestamp, Verified, twin::Author};
use store::{
    Layer2Change::{Cleared, Removed, Saved},
    Millis, OpenError, Options, Origin, Outcome, Rows, Seq, Settlement, Standing, Store,
    WriteError, Writer,
};

use crate::{all, folder, note, open, options, outbox, query};

async fn save(writer: &Writer, event: &Verified, origin: Origin) -> Seq {
    match writer.put(event.clone(), origin).await.unwrap() {
        Outcome::Saved(seq) => seq,
        other => panic!("not saved: {other:?}"),
    }
}

/// A version of author 1's profile.
fn profile(created_at: u64) -> Verified {
    Author::new(1).sign(created_at, 0, &[], "")
}

fn deletion_of(event: &Verified) -> Verified {
    Author::new(1).sign(200, 5, &[&["e", &event.id.to_string()]], "")
}

/// Where the writer waits at the start of each batch while it is shut.
#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Shuts it until the guard is dropped.
    fn shut(&self) -> Shut<'_> {
        *self.is_shut.lock().unwrap() = true;
        Shut(self)
    }

    fn pass(&self) {
        let is_shut = self.is_shut.lock().unwrap();
        drop(self.opened.wait_while(is_shut, |is_shut| *is_shut).unwrap());
    }
}

struct Shut<'a>(&'a Gate);

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        *self.0.is_shut.lock().unwrap() = false;
        self.0.opened.notify_all();
    }
}

fn open_with_a_gate(folder: &Path, options: Options) -> (Store, Writer, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let passed = gate.clone();
    let clock = Arc::new(move || {
        passed.pass();
        Timestamp(1_000)
    });
    let (store, writer) = Store::open(folder, Options { clock, ..options }).unwrap();
    (store, writer, gate)
}

/// Lets spawned tasks run until they wait for the writer.
async fn let_others_go_first() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn puts_that_wait_together_share_a_commit() {
    let folder = folder();
    let (store, writer, gate) = open_with_a_gate(folder.path(), options());
    let commits = store.stats().unwrap().commits;
    let shut = gate.shut();
    let put = |content: &str| {
        let (writer, event) = (writer.clone(), note(content));
        tokio::spawn(async move { writer.put(event, Origin::Client).await })
    };
    // The first may or may not get a batch of its own; the others then wait behind it together.
    let puts: Vec<_> = ["a", "b", "c", "d", "e", "f"].into_iter().map(put).collect();
    let_others_go_first().await;
    drop(shut);
    for put in puts {
        put.await.unwrap().unwrap();
    }
    assert!((1..=2).contains(&(store.stats().unwrap().commits - commits)));
}

#[tokio::test]
async fn followers_wake_after_the_commit_and_before_the_answer() {
    let folder = folder();
    let (store, writer, gate) = open_with_a_gate(folder.path(), options());
    let mut follower = store.follow();
    let shut = gate.shut();
    let put = tokio::spawn({
        let writer = writer.clone();
        async move { writer.put(note("a"), Origin::Client).await }
    });
    let_others_go_first().await;
    assert!(!follower.has_changed().unwrap());
    drop(shut);
    follower.changed().await.unwrap();
    assert_eq!(*follower.borrow_and_update(), Seq(1));
    assert_eq!(all(&store), [(Seq(0), note("a").id)]);
    put.await.unwrap().unwrap();
    save(&writer, &note("b"), Origin::Client).await;
    assert!(follower.has_changed().unwrap());
    assert_eq!(store.newest(), Some(Seq(1)));
}

#[tokio::test]
async fn what_changes_nothing_costs_no_commit() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    save(&writer, &note("a"), Origin::Client).await;
    writer.apply_layer2(vec![], 7).await.unwrap();
    writer.put_meta("canister", "x".into()).await.unwrap();
    let commits = store.stats().unwrap().commits;
    let mut follower = store.follow();
    follower.mark_unchanged();
    let again = writer.put(note("a"), Origin::Client).await.unwrap();
    assert_eq!(again, Outcome::Duplicate(Some(Seq(0))));
    writer.apply_layer2(vec![], 7).await.unwrap();
    writer.settle(vec![(Seq(9), Settlement::Delivered)]).await.unwrap();
    writer.put_meta("canister", "x".into()).await.unwrap();
    assert_eq!(store.stats().unwrap().commits, commits);
    assert!(!follower.has_changed().unwrap());
}

#[tokio::test]
async fn seqs_are_never_used_twice() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    save(&writer, &note("a"), Origin::Client).await;
    let newest = save(&writer, &note("b"), Origin::Client).await;
    writer.settle(vec![(newest, Settlement::Gone)]).await.unwrap();
    assert_eq!(all(&store), [(Seq(0), note("a").id)]);
    drop((store, writer));
    let (store, writer) = open(folder.path());
    assert_eq!(store.next_seq(), Seq(2));
    assert_eq!(save(&writer, &note("b"), Origin::Client).await, Seq(2));
    writer.apply_layer2(vec![Cleared], 1).await.unwrap();
    assert_eq!(save(&writer, &note("c"), Origin::Client).await, Seq(3));
}

#[tokio::test]
async fn what_the_operator_deletes_goes_with_its_row_and_may_come_again() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let (waiting, refused) = (note("waiting"), note("refused"));
    save(&writer, &waiting, Origin::Client).await;
    let row = save(&writer, &refused, Origin::Client).await;
    writer.settle(vec![(row, Settlement::Refused("why".into()))]).await.unwrap();
    let unknown = note("unknown").id;
    writer.delete(vec![waiting.id, unknown, refused.id]).await.unwrap();
    let stats = store.stats().unwrap();
    assert_eq!((stats.events, stats.outbox, stats.aside), (0, 0, 0));
    assert_eq!(save(&writer, &waiting, Origin::Layer2).await, Seq(2));
}

#[tokio::test]
async fn rules_and_limits_have_their_outcomes() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let author = Author::new(1);
    let late = author.sign(index::CREATED_AT_MAX.0 + 1, 1, &[], "");
    let expired = author.sign(10, 1, &[&["expiration", "999"]], "");
    let events = vec![
        profile(10),
        profile(9),
        deletion_of(&note("a")),
        note("a"),
        expired,
        author.sign(10, 20_000, &[], ""),
        late,
    ];
    let outcomes = writer.put_all(events, Origin::Client).await.unwrap();
    assert_eq!(outcomes[0], Outcome::Saved(Seq(0)));
    assert_eq!(outcomes[1], Outcome::Superseded);
    assert_eq!(outcomes[2], Outcome::Saved(Seq(1)));
    assert_eq!(outcomes[3..6], [Outcome::Deleted, Outcome::Expired, Outcome::Ephemeral]);
    assert!(matches!(outcomes[6], Outcome::Invalid(_)));
    assert_eq!(store.stats().unwrap().events, 2);
}

#[tokio::test]
async fn an_older_deletion_of_an_address_takes_nothing_back() {
    let folder = folder();
    let (_store, writer) = open(folder.path());
    let address = format!("0:{}:", Author::new(1).pubkey());
    for date in [200, 150] {
        let deletion = Author::new(1).sign(date, 5, &[&["a", &address]], "");
        save(&writer, &deletion, Origin::Client).await;
    }
    assert_eq!(writer.put(profile(180), Origin::Client).await.unwrap(), Outcome::Deleted);
    save(&writer, &profile(201), Origin::Client).await;
}

#[tokio::test]
async fn a_row_goes_when_what_replaced_its_event_goes_up() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    save(&writer, &profile(1), Origin::Client).await;
    let second = save(&writer, &profile(2), Origin::Client).await;
    assert_eq!(outbox(&store), [(second, profile(2).id)]);
    // L2 has a newer one: it would refuse ours.
    save(&writer, &profile(3), Origin::Layer2).await;
    assert_eq!(outbox(&store), []);
    let gone = save(&writer, &note("a"), Origin::Client).await;
    let deletion = save(&writer, &deletion_of(&note("a")), Origin::Client).await;
    assert_eq!(outbox(&store), [(deletion, deletion_of(&note("a")).id)]);
    // L2's answer to the first comes late.
    writer.settle(vec![(gone, Settlement::Refused("quota".into()))]).await.unwrap();
    assert_eq!(store.aside(Seq(0), 9).unwrap(), []);
}

#[tokio::test]
async fn what_layer_2_holds_needs_no_row() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let seq = save(&writer, &note("a"), Origin::Client).await;
    let outcomes = writer.apply_layer2(vec![Saved(note("a"))], 1).await.unwrap();
    assert_eq!(outcomes, [Outcome::Duplicate(Some(seq))]);
    assert_eq!(outbox(&store), []);
    save(&writer, &note("b"), Origin::Layer2).await;
    writer.put(note("b"), Origin::Client).await.unwrap();
    assert_eq!(store.outbox_len().unwrap(), 0);
}

#[tokio::test]
async fn what_layer_2_refuses_is_kept_aside_and_can_be_retried() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let a = save(&writer, &note("a"), Origin::Client).await;
    let b = save(&writer, &note("b"), Origin::Client).await;
    let rows = vec![(a, Settlement::Refused("quota".into())), (b, Settlement::Delivered)];
    writer.settle(rows).await.unwrap();
    assert_eq!(outbox(&store), []);
    let aside = store.aside(Seq(0), 9).unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!((aside[0].seq, aside[0].reason.as_str()), (a, "quota"));
    assert_eq!(aside[0].event, note("a").pack());
    assert!(store.contains(&note("a").id).unwrap());
    assert_eq!(writer.retry(Rows::Aside).await.unwrap(), 1);
    assert_eq!(outbox(&store), [(a, note("a").id)]);
    assert_eq!(store.stats().unwrap().aside, 0);
}

#[tokio::test]
async fn what_is_over_at_layer_2_goes_here_too() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let seq = save(&writer, &profile(5), Origin::Client).await;
    writer.settle(vec![(seq, Settlement::Gone)]).await.unwrap();
    assert_eq!((all(&store), outbox(&store)), (vec![], vec![]));
    assert_eq!(query(&store, &[Filter::default()], 9), []);
    // Nothing of it is left that would keep an older version out.
    save(&writer, &profile(4), Origin::Layer2).await;
}

#[tokio::test]
async fn a_removal_at_layer_2_spares_what_it_has_not_answered_for() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    save(&writer, &note("old"), Origin::Layer2).await;
    save(&writer, &note("mine"), Origin::Client).await;
    let changes = vec![Removed(note("old").id), Removed(note("mine").id), Removed(profile(1).id)];
    assert_eq!(writer.apply_layer2(changes, 5).await.unwrap(), []);
    assert_eq!(all(&store), [(Seq(1), note("mine").id)]);
    // Once L2 was seen to hold it, its removal counts.
    let changes = vec![Saved(note("mine")), Removed(note("mine").id)];
    writer.apply_layer2(changes, 7).await.unwrap();
    assert_eq!((all(&store), outbox(&store)), (vec![], vec![]));
}

#[tokio::test]
async fn clearing_layer_2_leaves_what_it_has_not_seen() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    save(&writer, &note("from L2"), Origin::Layer2).await;
    save(&writer, &deletion_of(&note("x")), Origin::Layer2).await;
    let refused = save(&writer, &note("refused"), Origin::Client).await;
    writer.settle(vec![(refused, Settlement::Refused("quota".into()))]).await.unwrap();
    let deletion = save(&writer, &deletion_of(&note("y")), Origin::Client).await;
    let pending = save(&writer, &profile(3), Origin::Client).await;

    let changes = vec![Cleared, Saved(note("new"))];
    let outcomes = writer.apply_layer2(changes, 9).await.unwrap();
    assert_eq!(outcomes, [Outcome::Saved(pending.next())]);
    let held = [
        (refused, note("refused").id),
        (deletion, deletion_of(&note("y")).id),
        (pending, profile(3).id),
        (pending.next(), note("new").id),
    ];
    assert_eq!(all(&store), held);
    assert_eq!(outbox(&store), held[1..3]);
    assert_eq!(query(&store, &[Filter::default()], 2).len(), 4);
    assert_eq!(writer.put(profile(2), Origin::Client).await.unwrap(), Outcome::Superseded);
    // The deletion that came from L2 went with it, ours did not.
    assert_eq!(writer.put(note("y"), Origin::Client).await.unwrap(), Outcome::Deleted);
    save(&writer, &note("x"), Origin::Client).await;
}

#[tokio::test]
async fn a_feed_page_that_finds_no_room_is_read_again_from_its_start() {
    let folder = folder();
    let small = Options { bytes_max: 1 << 20, ..options() };
    let (store, writer) = Store::open(folder.path(), small).unwrap();
    writer.apply_layer2(vec![Saved(note("a"))], 1).await.unwrap();
    let large = "x".repeat(200_000);
    let pages = (0..9).map(|number| Saved(note(&format!("{number}{large}"))));
    let changes = std::iter::once(Removed(note("a").id)).chain(pages).collect();
    assert_eq!(writer.apply_layer2(changes, 10).await, Err(WriteError::Full));
    assert_eq!(store.l2_cursor().unwrap(), Some(1));
    // A part of it was applied: in its order, so that to apply it again changes nothing.
    let held: Vec<EventId> = all(&store).into_iter().map(|(_, id)| id).collect();
    let page: Vec<EventId> = (0..9).map(|number| note(&format!("{number}{large}")).id).collect();
    assert!(held.len() < 9 && page.starts_with(&held), "{held:?}");
    assert_eq!(*store.follow().borrow(), Seq(1 + held.len() as u64));
}

#[tokio::test]
async fn a_full_store_says_so_and_can_be_read_and_emptied() {
    let folder = folder();
    let small = Options { bytes_max: 2 << 20, ..options() };
    let (store, writer, gate) = open_with_a_gate(folder.path(), small);
    let large = |number: u64| note(&format!("{number}{}", "x".repeat(100_000)));
    let mut held = Vec::new();
    for number in 0.. {
        match writer.put(large(number), Origin::Client).await {
            Ok(outcome) => assert_eq!(outcome, Outcome::Saved(Seq(number))),
            Err(error) => {
                assert_eq!(error, WriteError::Full);
                break;
            }
        }
        held.push((Seq(number), large(number).id));
    }
    assert!(held.len() > 10);
    assert_eq!(all(&store), held);
    assert_eq!(query(&store, &[Filter::default()], 3).len(), held.len());
    // A small one still fits, also beside a large one in the same batch.
    let shut = gate.shut();
    let put = |event: Verified| {
        let writer = writer.clone();
        tokio::spawn(async move { writer.put(event, Origin::Client).await })
    };
    let before = put(note("before"));
    let_others_go_first().await;
    let (too_large, small) = (put(large(99)), put(note("small")));
    let_others_go_first().await;
    drop(shut);
    assert!(matches!(before.await.unwrap(), Ok(Outcome::Saved(_))));
    assert_eq!(too_large.await.unwrap(), Err(WriteError::Full));
    assert!(matches!(small.await.unwrap(), Ok(Outcome::Saved(_))));
    let gone = held.iter().map(|(seq, _)| (*seq, Settlement::Gone)).collect();
    writer.settle(gone).await.unwrap();
    // The freed pages are free for the commit after the next.
    writer.put_meta("any", "text".into()).await.unwrap();
    save(&writer, &large(100), Origin::Client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_grows_with_the_store_while_others_read() {
    let folder = folder();
    let small = Options { map_bytes: 1 << 20, ..options() };
    let (store, writer) = Store::open(folder.path(), small.clone()).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let read = || {
        let (store, is_over) = (store.clone(), is_over.clone());
        thread::spawn(move || {
            let mut pages = 0;
            while !is_over.load(Ordering::Relaxed) {
                let found = query(&store, &[Filter { limit: Some(20), ..Filter::default() }], 3);
                assert!(found.windows(2).all(|pair| pair[0].created_at >= pair[1].created_at));
                pages += 1;
            }
            pages
        })
    };
    let readers = [read(), read()];
    let padding = "x".repeat(20_000);
    let notes: Vec<Verified> = (0..1_000).map(|n| note(&format!("{n}{padding}"))).collect();
    for events in notes.chunks(50) {
        let outcomes = writer.put_all(events.to_vec(), Origin::Client).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Saved(_))));
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    assert!(store.stats().unwrap().bytes_on_disk > 20_000_000);
    drop((store, writer));
    // A file that is larger than the map at first is opened whole, and grows on.
    let (store, writer) = Store::open(folder.path(), small).unwrap();
    assert_eq!(all(&store).len(), notes.len());
    save(&writer, &note(&"y".repeat(2_000_000)), Origin::Client).await;
}

#[tokio::test]
async fn stopping_writes_all_that_is_queued() {
    let folder = folder();
    let (store, writer, gate) = open_with_a_gate(folder.path(), options());
    let shut = gate.shut();
    let put = |number: u32| {
        let (writer, event) = (writer.clone(), note(&number.to_string()));
        tokio::spawn(async move { writer.put(event, Origin::Client).await })
    };
    let puts: Vec<_> = (0..50).map(put).collect();
    let_others_go_first().await;
    let stop = tokio::spawn(writer.clone().stop());
    let_others_go_first().await;
    drop(shut);
    stop.await.unwrap();
    for put in puts {
        assert!(matches!(put.await.unwrap(), Ok(Outcome::Saved(_))));
    }
    assert_eq!(all(&store).len(), 50);
    assert_eq!(writer.put(note("late"), Origin::Client).await, Err(WriteError::Stopped));
    writer.stop().await;
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let second = Store::open(folder.path(), options()).err().unwrap();
    assert!(matches!(second, OpenError::InUse(_)), "{second}");
    drop(writer);
    assert!(Store::open(folder.path(), options()).is_err());
    drop(store);
    open(folder.path());
}

#[tokio::test]
async fn outbox_batches_are_bounded_and_never_empty() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    for content in ["a", "b", "c"] {
        save(&writer, &note(content), Origin::Client).await;
    }
    let bytes = note("a").pack().len();
    let but = |seqs: &[u64], events_max, bytes_max| -> Vec<u64> {
        let but = seqs.iter().copied().map(Seq).collect();
        let rows = store.outbox(&but, events_max, bytes_max).unwrap();
        rows.iter().map(|row| row.seq.0).collect()
    };
    let seqs = |events_max, bytes_max| but(&[], events_max, bytes_max);
    assert_eq!(seqs(9, usize::MAX), [0, 1, 2]);
    assert_eq!(seqs(2, usize::MAX), [0, 1]);
    assert_eq!(seqs(9, 2 * bytes), [0, 1]);
    assert_eq!(seqs(9, 2 * bytes - 1), [0]);
    assert_eq!(seqs(9, 1), [0]);
    // What is under way is not sent twice, and takes no room in the next batch.
    assert_eq!(but(&[0, 2], 9, 1), [1]);
    let waiting = store.still_waiting(&[Seq(1), Seq(7)]).unwrap();
    assert_eq!(waiting.iter().map(|row| row.seq.0).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn what_waits_is_added_up_and_has_a_date() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let waits = || {
        let stats = store.stats().unwrap();
        (stats.outbox, stats.outbox_bytes as usize, stats.outbox_since)
    };
    assert_eq!(waits(), (0, 0, None));
    let before = Millis::now();
    let a = save(&writer, &note("a"), Origin::Client).await;
    save(&writer, &note("longer"), Origin::Client).await;
    let (a_bytes, longer_bytes) = (note("a").pack().len(), note("longer").pack().len());
    let (rows, bytes, since) = waits();
    assert_eq!((rows, bytes), (2, a_bytes + longer_bytes));
    assert!(since >= Some(before), "{since:?}");
    writer.settle(vec![(a, Settlement::Refused("quota".into()))]).await.unwrap();
    assert_eq!(waits().1, longer_bytes);
    writer.delete(vec![note("longer").id]).await.unwrap();
    assert_eq!(waits(), (0, 0, None));
    writer.retry(Rows::Of(vec![note("longer").id, note("a").id])).await.unwrap();
    assert_eq!(waits().1, a_bytes);
}

#[tokio::test]
async fn what_is_local_never_waits_and_outlives_what_happens_to_layer_2() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    save(&writer, &note("mine"), Origin::Local).await;
    let standing = |event: &Verified| store.standing(&event.id).unwrap();
    assert_eq!((outbox(&store), standing(&note("mine"))), (vec![], Standing::Local));
    writer.put(note("mine"), Origin::Client).await.unwrap();
    assert_eq!(outbox(&store), [], "a second publication changes nothing");
    writer.apply_layer2(vec![Removed(note("mine").id), Cleared], 1).await.unwrap();
    assert_eq!(standing(&note("mine")), Standing::Local);
    assert!(store.contains(&note("mine").id).unwrap());
    // Somebody else brought it to L2 after all.
    writer.apply_layer2(vec![Saved(note("mine"))], 2).await.unwrap();
    assert_eq!(standing(&note("mine")), Standing::Shared);
    writer.apply_layer2(vec![Removed(note("mine").id)], 3).await.unwrap();
    assert_eq!(standing(&note("mine")), Standing::NotHeld);
}

#[tokio::test]
async fn what_is_given_up_stays_here_and_goes_up_no_more() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let standing = |event: &Verified| store.standing(&event.id).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(note);
    let seq = save(&writer, &a, Origin::Client).await;
    for event in [&b, &c] {
        save(&writer, event, Origin::Client).await;
    }
    writer.settle(vec![(seq, Settlement::Refused("quota".into()))]).await.unwrap();
    assert_eq!(standing(&a), Standing::Aside("quota".into()));
    assert_eq!(writer.give_up(Rows::Aside).await.unwrap(), 1);
    assert_eq!(writer.give_up(Rows::Of(vec![b.id, profile(1).id])).await.unwrap(), 1);
    let all = [&a, &b, &c].map(standing);
    assert_eq!(all, [Standing::Local, Standing::Local, Standing::Waiting]);
    assert_eq!(writer.retry(Rows::Of(vec![a.id])).await.unwrap(), 0, "it is aside no more");
    assert_eq!(store.stats().unwrap().local, 2);
    // It was under way, and L2 took it.
    writer.settle(vec![(seq, Settlement::Delivered)]).await.unwrap();
    assert_eq!(standing(&a), Standing::Shared);
}

#[tokio::test]
async fn a_follower_goes_on_behind_what_it_saw() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    for content in ["a", "b", "c", "d"] {
        save(&writer, &note(content), Origin::Client).await;
    }
    writer.settle(vec![(Seq(3), Settlement::Gone)]).await.unwrap();
    let mut seen = Vec::new();
    let mut read = |from, to, at_most: usize| {
        seen.clear();
        let next = store.since(Seq(from), Seq(to), |seq, _| {
            seen.push(seq.0);
            if seen.len() == at_most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (next.unwrap().0, seen.clone())
    };
    assert_eq!(read(0, 9, 2), (2, vec![0, 1]));
    assert_eq!(read(2, 9, 2), (4, vec![2]));
    assert_eq!(read(1, 2, 9), (2, vec![1]));
    assert_eq!(read(4, 9, 9), (4, vec![]));
    assert_eq!(read(7, 9, 9), (7, vec![]));
}

#[tokio::test]
async fn meta_and_cursor_survive_a_restart() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    assert_eq!((store.meta("canister").unwrap(), store.l2_cursor().unwrap()), (None, None));
    writer.apply_layer2(vec![], 0).await.unwrap();
    assert_eq!(store.l2_cursor().unwrap(), Some(0));
    writer.put_meta("canister", "aaaaa-aa".into()).await.unwrap();
    writer.apply_layer2(vec![], 42).await.unwrap();
    writer.stop().await;
    drop(store);
    let (store, _writer) = open(folder.path());
    assert_eq!(store.meta("canister").unwrap().as_deref(), Some("aaaaa-aa"));
    assert_eq!(store.l2_cursor().unwrap(), Some(42));
}

#[tokio::test]
async fn what_is_held_at_a_place_is_told_for_each_place() {
    let folder = folder();
    let (store, writer) = open(folder.path());
    let (first, second) = (profile(100), note("second"));
    let gone = save(&writer, &first, Origin::Client).await;
    let held = save(&writer, &second, Origin::Client).await;
    save(&writer, &profile(101), Origin::Client).await;
    let mut told = Vec::new();
    let places = [held, gone, Seq(99), held];
    let read = store.at(places, |seq, event| {
        told.push((seq, event.map(|event| event.id())));
        if told.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    read.unwrap();
    assert_eq!(told, [(held, Some(second.id)), (gone, None), (Seq(99), None)]);
    let made = store.made().unwrap();
    drop((store, writer));
    assert_eq!(open(folder.path()).0.made().unwrap(), made);
}
