//! Random arrivals, brought in every way there is, against the naive store.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use event::{
    Event, EventId, Filter, Packed, Timestamp, Verified,
    twin::{self, NaiveStore},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use store::{
    Collector, Layer2Change, Occasion, Options, Origin, Outcome, Seq, Settlement, Store, Writer,
};
use tokio::runtime::Builder;

use crate::{all, bodies, everything, folder, options, outbox, query, stubs};

/// How a few events are brought.
#[derive(Clone, Copy, Debug)]
enum Way {
    OneByOne(Origin),
    AllAtOnce(Origin),
    Together(Origin),
    Feed,
}

/// What happens between two looks at the store.
#[derive(Clone, Debug)]
struct Step {
    way: Way,
    events: usize,
    /// Outbox rows that are then settled: which, and whether L2 refuses.
    settled: Vec<(Index, bool)>,
    /// Everything before this place is then collected.
    collected: Option<Index>,
    /// Stubs whose bodies then come back, and how many of what is held is served.
    revived: Vec<Index>,
    served: usize,
    reopens: bool,
    /// Seconds that go by then.
    passing: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let origin = || prop::sample::select(&[Origin::Client, Origin::Layer2][..]);
    let way = prop_oneof![
        origin().prop_map(Way::OneByOne),
        origin().prop_map(Way::AllAtOnce),
        origin().prop_map(Way::Together),
        Just(Way::Feed),
    ];
    let settled = vec((any::<Index>(), prop::bool::weighted(0.3)), 0..3);
    let passing = prop_oneof![3 => Just(0), 1 => 1u64..4];
    let collected = prop::option::weighted(0.4, any::<Index>());
    let revived = vec(any::<Index>(), 0..3);
    let reopens = prop::bool::weighted(0.1);
    (way, 1usize..9, settled, (collected, revived, 0usize..4), reopens, passing).prop_map(
        |(way, events, settled, (collected, revived, served), reopens, passing)| Step {
            way,
            events,
            settled,
            collected,
            revived,
            served,
            reopens,
            passing,
        },
    )
}

/// What the store must hold.
#[derive(Default)]
struct Model {
    naive: NaiveStore,
    pending: BTreeSet<EventId>,
    aside: BTreeSet<EventId>,
    next: Seq,
    cursor: Option<u64>,
}

impl Model {
    fn take(&mut self, event: &Verified, origin: Origin, outcome: &Outcome) {
        let is_held = matches!(outcome, Outcome::Saved(_) | Outcome::Duplicate(_));
        assert_eq!(self.naive.save(event), is_held, "{outcome:?}");
        if let Outcome::Saved(seq) = outcome {
            assert_eq!(*seq, self.next);
            self.next = seq.next();
        }
        match (origin, outcome) {
            (Origin::Client, Outcome::Saved(_)) => drop(self.pending.insert(event.id)),
            (Origin::Layer2, Outcome::Saved(_) | Outcome::Duplicate(_)) => {
                self.pending.remove(&event.id);
                self.aside.remove(&event.id);
            }
            _ => {}
        }
        self.forget_what_is_over();
    }

    fn set_time(&mut self, now: u64) {
        self.naive.set_time(Timestamp(now));
        self.forget_what_is_over();
    }

    fn forget_what_is_over(&mut self) {
        let live: BTreeSet<EventId> = self.naive.live().iter().map(|event| event.id).collect();
        self.pending.retain(|id| live.contains(id));
        self.aside.retain(|id| live.contains(id));
    }

    fn settle(&mut self, id: EventId, is_refused: bool) -> Settlement {
        self.pending.remove(&id);
        if is_refused {
            self.aside.insert(id);
            Settlement::Refused("quota".into())
        } else {
            Settlement::Delivered
        }
    }

    fn check(&self, store: &Store) {
        let held = all(store);
        assert!(held.is_sorted_by(|one, other| one.0 < other.0));
        let ids = |rows: &[(Seq, EventId)]| rows.iter().map(|(_, id)| *id).collect::<BTreeSet<_>>();
        let live = self.naive.live().iter().map(|event| event.id).collect();
        assert_eq!(ids(&held), live);
        let rows = outbox(store);
        assert!(rows.is_sorted_by(|one, other| one.0 < other.0));
        assert_eq!(ids(&rows), self.pending);
        assert!(rows.iter().all(|row| held.contains(row)));
        let aside = store.aside(usize::MAX).unwrap();
        let aside: Vec<(Seq, EventId)> =
            aside.iter().map(|row| (row.seq, Packed::parse(&row.event).unwrap().id())).collect();
        assert_eq!(ids(&aside), self.aside);
        let stats = store.stats().unwrap();
        assert_eq!(stats.events, held.len() as u64);
        assert_eq!(stats.stubs, stubs(store).len() as u64);
        for id in self.pending.iter().chain(&self.aside) {
            let bytes = store.get(id).unwrap().unwrap();
            assert!(!Packed::trusted(&bytes).unwrap().is_stub(), "nobody else has its body");
        }
        assert_eq!(stats.next_seq, self.next);
        assert_eq!(stats.outbox, self.pending.len() as u64);
        assert_eq!(stats.aside, self.aside.len() as u64);
        assert_eq!(store.l2_cursor().unwrap(), self.cursor);
    }
}

async fn bring(
    writer: &Writer,
    way: Way,
    events: &[Verified],
    cursor: &mut Option<u64>,
) -> (Origin, Vec<Outcome>) {
    match way {
        Way::OneByOne(origin) => {
            let mut outcomes = Vec::new();
            for event in events {
                outcomes.push(writer.put(event.clone(), origin).await.unwrap());
            }
            (origin, outcomes)
        }
        Way::AllAtOnce(origin) => (origin, writer.put_all(events.to_vec(), origin).await.unwrap()),
        Way::Together(origin) => {
            let puts = events.iter().cloned().map(|event| {
                let writer = writer.clone();
                // On this runtime tasks start in the order in which they are spawned.
                tokio::spawn(async move { writer.put(event, origin).await.unwrap() })
            });
            let mut outcomes = Vec::new();
            for put in puts.collect::<Vec<_>>() {
                outcomes.push(put.await.unwrap());
            }
            (origin, outcomes)
        }
        Way::Feed => {
            let next = cursor.unwrap_or(0) + events.len() as u64;
            let changes = events.iter().cloned().map(Layer2Change::Saved).collect();
            *cursor = Some(next);
            (Origin::Layer2, writer.apply_layer2(changes, next).await.unwrap())
        }
    }
}

/// Gives up all bodies before `end` that L2 has.
async fn collect(store: &Store, writer: &Writer, end: Seq) {
    let mut collector = Collector::new(store.clone(), writer.clone(), everything());
    collector.collect(end, Occasion::Routine).await.unwrap();
    let is_before = |seq: &&Seq| **seq < end;
    let (bodies, outbox) = (bodies(store), outbox(store));
    let aside = store.aside(usize::MAX).unwrap();
    let is_only_here = |seq: &Seq| {
        outbox.iter().any(|row| row.0 == *seq) || aside.iter().any(|row| row.seq == *seq)
    };
    assert!(bodies.iter().filter(is_before).all(is_only_here));
}

/// What those who come by a stub do: they bring the body, and L1 keeps it.
fn whole(found: Vec<Event>, arrivals: &[Verified]) -> Vec<Event> {
    let resolve = |event: Event| {
        let whole = arrivals.iter().find(|arrival| arrival.id == event.id).unwrap();
        Event::clone(whole)
    };
    found.into_iter().map(resolve).collect()
}

/// A store that has the time from this clock.
fn open_with(folder: &Path, clock: &Arc<AtomicU64>) -> (Store, Writer) {
    let clock = clock.clone();
    let clock = Arc::new(move || Timestamp(clock.load(Ordering::Relaxed)));
    Store::open(folder, Options { clock, ..options() }).unwrap()
}

fn scenario() -> impl Strategy<Value = (Vec<Verified>, Vec<Step>, Vec<Vec<Filter>>)> {
    twin::arrivals(40).prop_flat_map(|arrivals| {
        let queries = vec(vec(twin::filter(&arrivals), 0..4), 8);
        (Just(arrivals), vec(step(), 60), queries)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn store_agrees_with_the_naive_store(
        (arrivals, steps, queries) in scenario(),
        room in 1usize..8,
    ) {
        Builder::new_current_thread().build().unwrap().block_on(async {
            let folder = folder();
            let clock = Arc::new(AtomicU64::new(twin::EXPIRATIONS.start - 3));
            let (mut store, mut writer) = open_with(folder.path(), &clock);
            let mut model = Model::default();
            model.set_time(clock.load(Ordering::Relaxed));
            let mut left = &arrivals[..];
            for step in steps {
                let (events, rest) = left.split_at(step.events.min(left.len()));
                left = rest;
                let (origin, outcomes) =
                    bring(&writer, step.way, events, &mut model.cursor).await;
                assert_eq!(outcomes.len(), events.len());
                for (event, outcome) in events.iter().zip(&outcomes) {
                    model.take(event, origin, outcome);
                }
                let rows = outbox(&store);
                for (which, is_refused) in step.settled {
                    if rows.is_empty() {
                        break;
                    }
                    // May be one that was settled a moment ago: then nothing changes.
                    let (seq, id) = *which.get(&rows);
                    if model.pending.contains(&id) {
                        let said = model.settle(id, is_refused);
                        writer.settle(vec![(seq, said)]).await.unwrap();
                    } else {
                        writer.settle(vec![(seq, Settlement::Delivered)]).await.unwrap();
                    }
                }
                model.check(&store);
                store.note_served(all(&store).iter().map(|(seq, _)| *seq).take(step.served));
                if let Some(place) = step.collected {
                    let end = Seq(place.index(model.next.0 as usize + 1) as u64);
                    collect(&store, &writer, end).await;
                    model.check(&store);
                }
                let left_over = stubs(&store);
                for which in step.revived.iter().filter(|_| !left_over.is_empty()) {
                    let id = which.get(&left_over);
                    let event = arrivals.iter().find(|event| event.id == *id).unwrap();
                    writer.revive(vec![event.clone()]).await.unwrap();
                    assert_eq!(store.get(id).unwrap(), Some(event.pack()));
                }
                model.check(&store);
                if step.reopens {
                    drop((store, writer));
                    (store, writer) = open_with(folder.path(), &clock);
                    model.check(&store);
                }
                if step.passing > 0 {
                    let now = clock.fetch_add(step.passing, Ordering::Relaxed) + step.passing;
                    model.set_time(now);
                    // At once nobody reads it any more, and a write sweeps it out.
                    let expected = model.naive.query(&[Filter::default()]);
                    let found = query(&store, &[Filter::default()], room);
                    assert_eq!(whole(found, &arrivals), expected);
                    assert_eq!(all(&store).len(), model.naive.live().len());
                    writer.put_meta("time", now.to_string()).await.unwrap();
                    model.check(&store);
                }
                if left.is_empty() {
                    break;
                }
            }
            for filters in &queries {
                let expected: Vec<Event> = model.naive.query(filters);
                assert_eq!(&whole(query(&store, filters, room), &arrivals), &expected);
                assert_eq!(&whole(query(&store, filters, usize::MAX), &arrivals), &expected);
                assert_eq!(store.count(filters).unwrap(), expected.len() as u64);
            }
            for event in &arrivals {
                let is_held = model.naive.live().contains(event);
                assert_eq!(store.contains(&event.id).unwrap(), is_held);
                let bytes = store.get(&event.id).unwrap();
                assert_eq!(bytes.is_some(), is_held);
                let stub = Packed::trusted(&event.pack()).unwrap().to_stub();
                assert!(bytes.is_none_or(|bytes| bytes == event.pack() || bytes == stub));
            }
            collect(&store, &writer, model.next).await;
            for stub in stubs(&store) {
                let event = arrivals.iter().find(|event| event.id == stub).unwrap();
                writer.revive(vec![event.clone()]).await.unwrap();
            }
            for event in model.naive.live() {
                assert_eq!(store.get(&event.id).unwrap(), Some(event.pack()));
            }
        });
    }
}
