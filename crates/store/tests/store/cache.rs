//! A cache under load: ten times more is written than it may hold, and read with a taste for some.
//!
//! Every event has its popularity by Zipf's law, from the start and for good; what is read and is not
//! whole in the cache comes from a second store, its L2, and goes back into it. A twin that evicts at
//! random, and holds as many bodies at any time, shows what the choice of victims is worth. Of events
//! that were written only id, date and a hash are remembered here, so that more of them go through than
//! memory holds. `benches/cache.rs` is the full form, `collection.rs` a small one.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use event::{EventId, Packed, Timestamp, Verified, verify};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use store::{
    Collector, Occasion, Options, Origin, Outcome, Policy, Seq, Settlement, Store, Writer,
};

/// So many times events are written and the cache is looked at; ten minutes go by each time.
const STEPS: usize = 350;
/// Reads for each event that is written, and in how many answers they come between two steps.
const READS_EACH: usize = 5;
const ANSWERS: usize = 10;
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

impl Report {
    /// The one line that matters.
    pub fn in_words(&self) -> String {
        let percent = |hits: Hits| (hits.share() * 1_000.0).round() / 10.0;
        format!(
            "hits: {} % of the hot set ({} % with random eviction), {} % of all ({} %)",
            percent(self.hot_hits),
            percent(self.random_hot_hits),
            percent(self.hits),
            percent(self.random_hits),
        )
    }

    /// Fails if a choice of victims was not worth its while, or too little was written to tell.
    pub fn check(&self) {
        assert!(self.packed_bytes > 10 * self.bytes_max, "{self:?}");
        let missed = |hits: Hits| 1.0 - hits.share();
        assert!(missed(self.hot_hits) < missed(self.random_hot_hits) / 2.0, "{self:?}");
    }
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

/// Writes `count` events into a cache of `bytes_max` in `folder`, and reads them. After each step it
/// tells `progress` how many are written.
pub async fn run(
    folder: &Path,
    bytes_max: u64,
    mut events: impl Iterator<Item = Verified>,
    count: usize,
    mut progress: impl FnMut(usize, &Report),
) -> Report {
    let mut load = Load::new(folder, bytes_max, count);
    let writes = count.div_ceil(STEPS);
    while load.written.len() < count {
        let room = writes.min(count - load.written.len());
        load.write(events.by_ref().take(room).collect()).await;
        for _ in 0..ANSWERS {
            load.answer(READS_EACH * writes / ANSWERS).await;
        }
        load.look().await;
        progress(load.written.len(), &load.report);
    }
    load.find_all();
    load.report()
}

/// What is remembered of an event.
struct Written {
    id: EventId,
    created_at: Timestamp,
    /// Of its packed form.
    hash: u64,
}

fn hash(packed: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    packed.hash(&mut hasher);
    hasher.finish()
}

struct Load {
    cache: (Store, Writer),
    layer2: (Store, Writer),
    collector: Collector,
    clock: Arc<AtomicU64>,
    random: StdRng,
    /// Events by popularity, the most popular first; and the sum of the shares so far.
    popular: Vec<u32>,
    shares: Vec<f64>,
    is_hot: Vec<bool>,
    written: Vec<Written>,
    twin: RandomTwin,
    report: Report,
}

impl Load {
    fn new(folder: &Path, bytes_max: u64, count: usize) -> Load {
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
        let mut popular: Vec<u32> = (0..count as u32).collect();
        popular.shuffle(&mut random);
        let mut is_hot = vec![false; count];
        popular.iter().take(count / HOT_SHARE).for_each(|event| is_hot[*event as usize] = true);
        let mut sum = 0.0;
        let shares = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-SKEW);
            sum
        });
        let report = Report {
            packed_bytes: 0,
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
            shares: shares.collect(),
            cache,
            layer2,
            collector,
            clock,
            popular,
            is_hot,
            written: Vec::with_capacity(count),
            twin: RandomTwin::default(),
            random,
            report,
        }
    }

    /// As clients would bring them, and the outbox take them up.
    async fn write(&mut self, events: Vec<Verified>) {
        assert!(!events.is_empty(), "there are fewer events than were promised");
        for event in &events {
            let packed = event.pack();
            self.report.packed_bytes += packed.len() as u64;
            self.twin.add(self.written.len());
            let (id, created_at) = (event.id, event.created_at);
            self.written.push(Written { id, created_at, hash: hash(&packed) });
        }
        let (store, writer) = &self.cache;
        let collector = &mut self.collector;
        let copy = events.clone();
        let put = async {
            let put = writer.put_all(copy, Origin::Client);
            let mut put = std::pin::pin!(put);
            loop {
                tokio::select! {
                    outcomes = &mut put => break outcomes.unwrap(),
                    () = collector.wanted() => {}
                }
                collector.collect(store.next_seq(), Occasion::Wanted).await.unwrap();
            }
        };
        let (outcomes, above) = tokio::join!(put, self.layer2.1.put_all(events, Origin::Layer2));
        above.unwrap();
        let saved = outcomes.iter().map(|outcome| match outcome {
            Outcome::Saved(seq) => (*seq, Settlement::Delivered),
            other => panic!("not saved: {other:?}"),
        });
        writer.settle(saved.collect()).await.unwrap();
        self.clock.fetch_add(600, Ordering::Relaxed);
    }

    /// One answer to a client. Of what has been pruned, L1 knows nothing: that is L2's to answer. What
    /// it misses comes from L2 in one go, and stays here.
    async fn answer(&mut self, events: usize) {
        let mut missed = Vec::new();
        for _ in 0..events {
            let at = self.some_event();
            if !self.cache.0.contains(&self.written[at].id).unwrap() {
                self.report.beyond += 1;
                continue;
            }
            let is_hit = match self.seq_if_whole(at) {
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
        let packed = self.packed_from_layer2(at);
        verify(Packed::trusted(&packed).unwrap().unpack()).unwrap()
    }

    /// What the second store says was written.
    fn packed_from_layer2(&self, at: usize) -> Vec<u8> {
        let packed = self.layer2.0.get(&self.written[at].id).unwrap().expect("L2 has it");
        assert_eq!(hash(&packed), self.written[at].hash);
        packed
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
            let event = self.popular[rank.min(self.popular.len() - 1)] as usize;
            if event < self.written.len() {
                return event;
            }
        }
    }

    fn seq_if_whole(&self, at: usize) -> Option<Seq> {
        let (seq, bytes) = self.cache.0.find(&self.written[at].id).unwrap()?;
        let packed = Packed::trusted(&bytes).unwrap();
        assert_eq!(packed.id(), self.written[at].id);
        (!packed.is_stub()).then(|| {
            assert_eq!(hash(&bytes), self.written[at].hash);
            seq
        })
    }

    /// Collects, as the relay does now and then, and checks the limit.
    async fn look(&mut self) {
        self.check_limit();
        self.collector.note_served().await.unwrap();
        self.collector.collect(self.cache.0.next_seq(), Occasion::Routine).await.unwrap();
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
    fn find_all(&mut self) {
        self.report.complete_since = self.cache.0.complete_since().unwrap();
        for (at, event) in self.written.iter().enumerate() {
            let is_found = self.cache.0.contains(&event.id).unwrap();
            assert!(is_found || event.created_at < self.report.complete_since);
            if self.seq_if_whole(at).is_none() {
                self.packed_from_layer2(at);
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
