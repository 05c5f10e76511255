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
    Collector, Layer2Change, Millis, Occasion, Options, Origin, Outcome, Seq, Settlement, Store,
    Writer,
};
use tempfile::TempDir;
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
    /// Whether what peers brought then goes up from here.
    adopts: bool,
    reopens: bool,
    /// Seconds that go by then.
    passing: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let origin =
        || prop::sample::select(&[Origin::Client, Origin::Layer2, Origin::Local, Origin::Peer][..]);
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
    let reopens = (prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (way, 1usize..9, settled, (collected, revived, 0usize..4), reopens, passing).prop_map(
        |(way, events, settled, (collected, revived, served), (reopens, adopts), passing)| Step {
            way,
            events,
            settled,
            collected,
            revived,
            served,
            adopts,
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
    local: BTreeSet<EventId>,
    tapped: BTreeSet<EventId>,
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
            (Origin::Local, Outcome::Saved(_)) => drop(self.local.insert(event.id)),
            (Origin::Peer, Outcome::Saved(_)) => drop(self.tapped.insert(event.id)),
            (Origin::Layer2, Outcome::Saved(_) | Outcome::Duplicate(_)) => {
                self.pending.remove(&event.id);
                self.local.remove(&event.id);
                self.tapped.remove(&event.id);
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
        self.local.retain(|id| live.contains(id));
        self.tapped.retain(|id| live.contains(id));
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
        let aside = store.aside(Seq(0), usize::MAX).unwrap();
        let aside: Vec<(Seq, EventId)> =
            aside.iter().map(|row| (row.seq, Packed::parse(&row.event).unwrap().id())).collect();
        assert_eq!(ids(&aside), self.aside);
        let stats = store.stats().unwrap();
        assert_eq!(stats.events, held.len() as u64);
        assert_eq!(stats.stubs, stubs(store).len() as u64);
        let only_here = self.pending.iter().chain(&self.aside).chain(&self.local);
        for id in only_here.chain(&self.tapped) {
            let bytes = store.get(id).unwrap().unwrap();
            assert!(!Packed::trusted(&bytes).unwrap().is_stub(), "nobody else has its body");
        }
        assert_eq!(stats.next_seq, self.next);
        assert_eq!(stats.outbox, self.pending.len() as u64);
        assert_eq!(stats.aside, self.aside.len() as u64);
        assert_eq!(stats.local, self.local.len() as u64);
        assert_eq!(stats.tapped, self.tapped.len() as u64);
        assert_eq!(store.l2_cursor().unwrap(), self.cursor);
    }
}

/// The store and what it must hold, side by side.
struct Both {
    folder: TempDir,
    clock: Arc<AtomicU64>,
    /// None only while it is opened anew.
    opened: Option<(Store, Writer)>,
    model: Model,
    arrivals: Vec<Verified>,
    /// Events in a page of answers.
    room: usize,
}

impl Both {
    fn new(arrivals: Vec<Verified>, room: usize) -> Both {
        let (folder, clock) = (folder(), Arc::new(AtomicU64::new(twin::EXPIRATIONS.start - 3)));
        let opened = Some(open_with(folder.path(), &clock));
        let mut model = Model::default();
        model.set_time(clock.load(Ordering::Relaxed));
        Both { folder, clock, opened, model, arrivals, room }
    }

    fn store(&self) -> &Store {
        &self.opened.as_ref().expect("it is open").0
    }

    fn writer(&self) -> &Writer {
        &self.opened.as_ref().expect("it is open").1
    }

    fn check(&self) {
        self.model.check(self.store());
    }

    /// What happens in one step, with these events.
    async fn take(&mut self, step: Step, events: &[Verified]) {
        self.bring(step.way, events).await;
        self.settle(&step.settled).await;
        self.check();
        if step.adopts {
            self.adopt().await;
            self.check();
        }
        let served = all(self.store()).into_iter().map(|(seq, _)| seq).take(step.served);
        self.store().note_served(served);
        if let Some(place) = step.collected {
            self.collect(Seq(place.index(self.model.next.0 as usize + 1) as u64)).await;
            self.check();
        }
        self.revive(&step.revived).await;
        self.check();
        if step.reopens {
            self.opened = None;
            self.opened = Some(open_with(self.folder.path(), &self.clock));
            self.check();
        }
        if step.passing > 0 {
            self.pass(step.passing).await;
            self.check();
        }
    }

    async fn bring(&mut self, way: Way, events: &[Verified]) {
        let mut cursor = self.model.cursor;
        let (origin, outcomes) = bring(self.writer(), way, events, &mut cursor).await;
        self.model.cursor = cursor;
        assert_eq!(outcomes.len(), events.len());
        for (event, outcome) in events.iter().zip(&outcomes) {
            self.model.take(event, origin, outcome);
        }
    }

    async fn settle(&mut self, settled: &[(Index, bool)]) {
        let rows = outbox(self.store());
        for (which, is_refused) in settled.iter().filter(|_| !rows.is_empty()) {
            let (seq, id) = *which.get(&rows);
            // May be one that was settled a moment ago: then nothing changes.
            let said = match self.model.pending.contains(&id) {
                true => self.model.settle(id, *is_refused),
                false => Settlement::Delivered,
            };
            self.writer().settle(vec![(seq, said)]).await.unwrap();
        }
    }

    /// What peers brought goes up from here.
    async fn adopt(&mut self) {
        let adopted = self.writer().adopt(Millis(u64::MAX)).await.unwrap();
        assert_eq!(adopted, self.model.tapped.len());
        self.model.pending.append(&mut self.model.tapped);
        assert_eq!(self.store().tapped_since().unwrap(), None);
    }

    /// Gives up all bodies before `end` that L2 has.
    async fn collect(&self, end: Seq) {
        let (store, writer) = (self.store(), self.writer());
        let mut collector = Collector::new(store.clone(), writer.clone(), everything());
        collector.collect(end, Occasion::Routine).await.unwrap();
        let is_before = |seq: &&Seq| **seq < end;
        let (bodies, outbox) = (bodies(store), outbox(store));
        let aside = store.aside(Seq(0), usize::MAX).unwrap();
        let held = all(store);
        let other_rows = |row: &(Seq, EventId)| {
            self.model.local.contains(&row.1) || self.model.tapped.contains(&row.1)
        };
        let is_only_here = |seq: &Seq| {
            outbox.iter().any(|row| row.0 == *seq)
                || aside.iter().any(|row| row.seq == *seq)
                || held.iter().any(|row| row.0 == *seq && other_rows(row))
        };
        assert!(bodies.iter().filter(is_before).all(is_only_here));
    }

    async fn revive(&self, revived: &[Index]) {
        let left_over = stubs(self.store());
        for which in revived.iter().filter(|_| !left_over.is_empty()) {
            self.revive_one(which.get(&left_over)).await;
        }
    }

    async fn revive_one(&self, id: &EventId) {
        let event = self.arrivals.iter().find(|event| event.id == *id).unwrap();
        self.writer().revive(vec![event.clone()]).await.unwrap();
        assert_eq!(self.store().get(id).unwrap(), Some(event.pack()));
    }

    /// What expires is read by nobody any more, at once; and a write sweeps it out.
    async fn pass(&mut self, seconds: u64) {
        let now = self.clock.fetch_add(seconds, Ordering::Relaxed) + seconds;
        self.model.set_time(now);
        self.check_answer(&[Filter::default()], self.room);
        assert_eq!(all(self.store()).len(), self.model.naive.live().len());
        self.writer().put_meta("time", now.to_string()).await.unwrap();
    }

    fn check_answer(&self, filters: &[Filter], room: usize) {
        let found = whole(query(self.store(), filters, room), &self.arrivals);
        assert_eq!(found, self.model.naive.query(filters));
    }

    fn check_answers(&self, filters: &[Filter]) {
        self.check_answer(filters, self.room);
        self.check_answer(filters, usize::MAX);
        let expected = self.model.naive.query(filters).len();
        assert_eq!(self.store().count(filters).unwrap(), expected as u64);
    }

    fn check_each(&self) {
        for event in &self.arrivals {
            let is_held = self.model.naive.live().contains(event);
            assert_eq!(self.store().contains(&event.id).unwrap(), is_held);
            let bytes = self.store().get(&event.id).unwrap();
            assert_eq!(bytes.is_some(), is_held);
            let stub = Packed::trusted(&event.pack()).unwrap().to_stub();
            assert!(bytes.is_none_or(|bytes| bytes == event.pack() || bytes == stub));
        }
    }

    /// All bodies go, and come back.
    async fn check_round_trip(&self) {
        self.collect(self.model.next).await;
        for stub in stubs(self.store()) {
            self.revive_one(&stub).await;
        }
        for event in self.model.naive.live() {
            assert_eq!(self.store().get(&event.id).unwrap(), Some(event.pack()));
        }
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
            let mut both = Both::new(arrivals.clone(), room);
            let mut left = &arrivals[..];
            for step in steps {
                let (events, rest) = left.split_at(step.events.min(left.len()));
                left = rest;
                both.take(step, events).await;
                if left.is_empty() {
                    break;
                }
            }
            queries.iter().for_each(|filters| both.check_answers(filters));
            both.check_each();
            both.check_round_trip().await;
        });
    }
}
