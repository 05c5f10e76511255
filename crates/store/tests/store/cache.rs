//! A cache under load: ten times more is written than it may hold, and read with a taste for some.
//!
//! Every event has its popularity by Zipf's law, from the start and for good; what is read and is not
//! whole in the cache comes from a second store, its L2, and goes back into it. A twin that evicts at
//! random, and holds as many bodies at any time, shows what the choice of victims is worth.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use event::{Packed, Timestamp, Verified};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use store::{Collector, Options, Origin, Outcome, Policy, Seq, Settlement, Store, Writer};

/// Events written between two looks at the cache; ten minutes go by.
const WRITES: usize = 100;
/// Reads meanwhile, and how many of them are answered together.
const READS: usize = 500;
const PAGE: usize = 50;
/// How much more popular the first is than the n-th: n to this power.
const SKEW: f64 = 1.1;
/// The most popular of so many events are the hot set.
const HOT_SHARE: usize = 200;

/// What came of it.
#[derive(Debug)]
pub struct Report {
    pub packed_bytes: u64,
    pub bytes_max: u64,
    /// The largest that the file ever was.
    pub file_bytes: u64,
    pub hits: Hits,
    pub hot_hits: Hits,
    /// As these, of the twin that evicts at random.
    pub random_hits: Hits,
    pub random_hot_hits: Hits,
    /// Reads of events that were pruned.
    pub beyond: u64,
    pub stubs: u64,
    pub complete_since: Timestamp,
    pub pauses: store::Pauses,
}

/// Reads that found the body in the cache, of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hits {
    pub hits: u64,
    pub reads: u64,
}

impl Hits {
    fn note(&mut self, is_hit: bool) {
        self.hits += u64::from(is_hit);
        self.reads += 1;
    }

    pub fn share(&self) -> f64 {
        self.hits as f64 / self.reads.max(1) as f64
    }
}

/// Writes `events` into a cache of `bytes_max` in `folder`, and reads them.
pub async fn run(folder: &Path, bytes_max: u64, events: &[Verified]) -> Report {
    let mut load = Load::new(folder, bytes_max, events);
    for start in (0..events.len()).step_by(WRITES) {
        load.write(start..(start + WRITES).min(events.len())).await;
        for _ in 0..READS / PAGE {
            load.read_page().await;
        }
        load.look().await;
    }
    load.find_all().await;
    load.report()
}

struct Load<'e> {
    events: &'e [Verified],
    cache: (Store, Writer),
    layer2: (Store, Writer),
    collector: Collector,
    clock: Arc<AtomicU64>,
    random: StdRng,
    /// Event by popularity, the most popular first; and the sum of the shares so far.
    popular: Vec<usize>,
    shares: Vec<f64>,
    is_hot: Vec<bool>,
    written: usize,
    twin: RandomTwin,
    report: Report,
}

impl<'e> Load<'e> {
    fn new(folder: &Path, bytes_max: u64, events: &'e [Verified]) -> Load<'e> {
        let clock = Arc::new(AtomicU64::new(1_800_000_000));
        let time = clock.clone();
        let options = Options {
            clock: Arc::new(move || Timestamp(time.load(Ordering::Relaxed))),
            ..Options::default()
        };
        let limited = Options { bytes_max: bytes_max as usize, ..options.clone() };
        let cache = Store::open(&folder.join("cache"), limited).unwrap();
        let layer2 = Store::open(&folder.join("layer2"), options).unwrap();
        let policy = Policy {
            bytes_max,
            high_percent: 60,
            low_percent: 50,
            protected_kinds: vec![],
            has_layer2: true,
        };
        let collector = Collector::new(cache.0.clone(), cache.1.clone(), policy);
        let mut random = StdRng::seed_from_u64(7);
        let mut popular: Vec<usize> = (0..events.len()).collect();
        popular.shuffle(&mut random);
        let mut is_hot = vec![false; events.len()];
        popular.iter().take(events.len() / HOT_SHARE).for_each(|event| is_hot[*event] = true);
        let mut sum = 0.0;
        let shares = (1..=events.len()).map(|rank| {
            sum += (rank as f64).powf(-SKEW);
            sum
        });
        let report = Report {
            packed_bytes: events.iter().map(|event| event.pack().len() as u64).sum(),
            bytes_max,
            file_bytes: 0,
            hits: Hits::default(),
            hot_hits: Hits::default(),
            random_hits: Hits::default(),
            random_hot_hits: Hits::default(),
            beyond: 0,
            stubs: 0,
            complete_since: Timestamp(0),
            pauses: cache.0.pauses(),
        };
        Load {
            events,
            shares: shares.collect(),
            cache,
            layer2,
            collector,
            clock,
            popular,
            is_hot,
            written: 0,
            twin: RandomTwin::default(),
            random,
            report,
        }
    }

    /// As a client would bring them, and the outbox take them up.
    async fn write(&mut self, range: std::ops::Range<usize>) {
        let events = self.events[range.clone()].to_vec();
        let (store, writer) = &self.cache;
        let put = writer.put_all(events.clone(), Origin::Client);
        let collector = &mut self.collector;
        let mut put = std::pin::pin!(put);
        let outcomes = loop {
            tokio::select! {
                outcomes = &mut put => break outcomes.unwrap(),
                () = collector.wanted() => {}
            }
            collector.collect(store.next_seq(), true).await.unwrap();
        };
        let saved = outcomes.iter().map(|outcome| match outcome {
            Outcome::Saved(seq) => (*seq, Settlement::Delivered),
            other => panic!("not saved: {other:?}"),
        });
        let saved = saved.collect();
        self.layer2.1.put_all(events, Origin::Layer2).await.unwrap();
        writer.settle(saved).await.unwrap();
        self.written = range.end;
        range.for_each(|event| self.twin.add(event));
        self.clock.fetch_add(600, Ordering::Relaxed);
    }

    /// One answer to a client. Of what has been pruned, L1 knows nothing: that is L2's to answer. What it misses comes from L2 in one go, and stays here.
    async fn read_page(&mut self) {
        let mut missed = Vec::new();
        for _ in 0..PAGE {
            let at = self.some_event();
            if !self.cache.0.contains(&self.events[at].id).unwrap() {
                self.report.beyond += 1;
                continue;
            }
            let is_hit = match self.seq_if_whole(&self.events[at]) {
                Some(seq) => {
                    self.cache.0.note_served([seq]);
                    true
                }
                None => {
                    missed.push(self.body_from_layer2(at));
                    false
                }
            };
            self.note_read(at, is_hit);
        }
        // A cache that is full at the moment need not take them.
        let _ = self.cache.1.revive(missed).await;
        self.level_twin();
    }

    fn body_from_layer2(&self, at: usize) -> Verified {
        let event = &self.events[at];
        assert_eq!(self.layer2.0.get(&event.id).unwrap(), Some(event.pack()));
        event.clone()
    }

    fn note_read(&mut self, at: usize, is_hit: bool) {
        let is_random_hit = self.twin.has(at);
        if !is_random_hit {
            self.twin.add(at);
        }
        self.report.hits.note(is_hit);
        self.report.random_hits.note(is_random_hit);
        if self.is_hot[at] {
            self.report.hot_hits.note(is_hit);
            self.report.random_hot_hits.note(is_random_hit);
        }
    }

    /// One of those that are written, by popularity.
    fn some_event(&mut self) -> usize {
        let all = *self.shares.last().expect("there are events");
        loop {
            let rank = self.shares.partition_point(|sum| *sum < self.random.random_range(0.0..all));
            let event = self.popular[rank.min(self.events.len() - 1)];
            if event < self.written {
                return event;
            }
        }
    }

    fn seq_if_whole(&self, event: &Verified) -> Option<Seq> {
        let (seq, bytes) = self.cache.0.find(&event.id).unwrap()?;
        let packed = Packed::trusted(&bytes).unwrap();
        assert_eq!(packed.id(), event.id);
        (!packed.is_stub()).then(|| {
            assert_eq!(bytes, event.pack());
            seq
        })
    }

    /// Collects, as the relay does now and then, and checks the limit.
    async fn look(&mut self) {
        self.check_limit();
        self.collector.note_served().await.unwrap();
        self.collector.collect(self.cache.0.next_seq(), false).await.unwrap();
        self.check_limit();
        self.level_twin();
    }

    /// It holds as many bodies as the cache.
    fn level_twin(&mut self) {
        let usage = self.cache.0.usage().unwrap();
        self.twin.shrink((usage.events - usage.stubs) as usize, &mut self.random);
    }

    fn check_limit(&mut self) {
        let bytes = self.cache.0.stats().unwrap().bytes_on_disk;
        assert!(bytes <= self.report.bytes_max, "{bytes} bytes on disk");
        self.report.file_bytes = self.report.file_bytes.max(bytes);
    }

    /// Every event that was ever written is still had: whole, or by its stub, or below the date from
    /// which on the index is complete; and then from L2.
    async fn find_all(&mut self) {
        self.report.complete_since = self.cache.0.complete_since().unwrap();
        for event in self.events {
            let is_found = self.cache.0.contains(&event.id).unwrap();
            assert!(is_found || event.created_at < self.report.complete_since);
            if self.seq_if_whole(event).is_none() {
                assert_eq!(self.layer2.0.get(&event.id).unwrap(), Some(event.pack()));
            }
        }
    }

    fn report(mut self) -> Report {
        let usage = self.cache.0.usage().unwrap();
        self.report.stubs = usage.stubs;
        self.report.pauses = self.cache.0.pauses();
        self.report
    }
}

/// Holds events by number, and gives up any of them.
#[derive(Default)]
struct RandomTwin {
    held: Vec<usize>,
    places: HashMap<usize, usize>,
}

impl RandomTwin {
    fn has(&self, event: usize) -> bool {
        self.places.contains_key(&event)
    }

    fn add(&mut self, event: usize) {
        self.places.insert(event, self.held.len());
        self.held.push(event);
    }

    fn shrink(&mut self, to: usize, random: &mut StdRng) {
        while self.held.len() > to {
            let place = random.random_range(0..self.held.len());
            let event = self.held.swap_remove(place);
            self.places.remove(&event);
            if let Some(moved) = self.held.get(place) {
                self.places.insert(*moved, place);
            }
        }
    }
}
