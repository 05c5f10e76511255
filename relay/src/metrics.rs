//! What the relay counts, for Prometheus.
//!
//! Each relay has a registry of its own, since several may run in one process. A new metric is one line
//! below: its field, what makes it, and its help text; all names begin with `aquifer_`. What somebody
//! keeps anyway, such as the size of the store, is not counted along but asked for with each scrape.

use std::sync::atomic::AtomicU64;

use layer2::UsageFigures;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use store::{Batch, Millis, Observer, Stats, WriteError};

use crate::clock;

/// A counter for each value of one label.
type By = Family<[(&'static str, &'static str); 1], Counter>;

/// For what is too large for whole numbers, or none.
type Float = Gauge<f64, AtomicU64>;

macro_rules! metrics {
    ($($name:ident: $type:ty = $new:expr, $help:literal;)*) => {
        pub struct Metrics {
            $(#[doc = $help] pub $name: $type,)*
            registry: Registry,
        }

        impl Default for Metrics {
            fn default() -> Metrics {
                let mut registry = Registry::with_prefix("aquifer");
                $(let $name: $type = $new;
                registry.register(stringify!($name), $help, $name.clone());)*
                Metrics { $($name,)* registry }
            }
        }
    };
}

metrics! {
    connections: Gauge = Gauge::default(), "Clients that are connected";
    subscriptions: Gauge = Gauge::default(), "Subscriptions that are open";
    reqs: Counter = Counter::default(), "REQs that were taken";
    query_page_seconds: Histogram = seconds(), "Reading one page of stored events";
    events: By = By::default(), "What became of events that clients sent";
    tasks: Gauge = Gauge::default(), "Tasks of the relay: some for each connection and each subscription";
    verify_queue: Gauge = Gauge::default(), "Events that wait for their check";
    commit_seconds: Histogram = seconds(), "One transaction, its sync included";
    commit_entries: Histogram = counts(), "Entries that one transaction took";
    commits_refused: By = By::default(), "Transactions that failed, by reason: full, failed";
    read_only: Gauge = Gauge::default(), "1 if the last write was refused";
    store_events: Gauge = Gauge::default(), "Events held";
    store_bytes: Gauge = Gauge::default(), "Size of the store's file";
    store_used_bytes: Gauge = Gauge::default(), "What of the file is in use";
    store_stubs: Gauge = Gauge::default(), "Events whose bodies only the canister holds";
    complete_since_timestamp_seconds: Gauge = Gauge::default(), "From this date on no event is missing";
    collections: Counter = Counter::default(), "Garbage collections";
    revived: Counter = Counter::default(), "Bodies that came back from the canister";
    inquiries: Counter = Counter::default(), "Pages of old events that the canister was asked for";
    covered_answers: Counter = Counter::default(), "Filters for old events that needed no canister";
    late_answers: Counter = Counter::default(), "Answers that did not wait any longer for the canister";
    search_lag_events: Gauge = Gauge::default(), "Events that the index of words has not read";
    search_documents: Gauge = Gauge::default(), "Events that can be found by their words";
    search_bytes: Gauge = Gauge::default(), "Size of the index of words";
    search_used_bytes: Gauge = Gauge::default(), "What of it is in use";
    coverage_notes: Gauge = Gauge::default(), "Notes of what old events are here";
    outbox_rows: Gauge = Gauge::default(), "Events that wait for the canister";
    outbox_bytes: Gauge = Gauge::default(), "What they take, packed";
    outbox_age_seconds: Gauge = Gauge::default(), "How long the first of them has been waiting";
    outbox_batches: Gauge = Gauge::default(), "Batches on their way to the canister";
    outbox_lag_seconds: Histogram = lags(), "From an event's commit here to the canister's answer";
    outbox_retries: By = By::default(), "Batches to be sent again, by reason";
    aside_rows: Gauge = Gauge::default(), "Events that the canister does not take";
    local_rows: Gauge = Gauge::default(), "Events that never go up to the canister";
    outbox_clear_timestamp_seconds: Gauge = now(), "When the canister last answered for a batch, or none waited";
    poll_success_timestamp_seconds: Gauge = now(), "When the canister was last polled to the end";
    layer2_queries: Counter = Counter::default(), "Questions to L2, which cost it nothing";
    layer2_updates: Counter = Counter::default(), "Calls to L2 that cost it cycles";
    layer2_failures: Counter = Counter::default(), "Calls to L2 that got no answer";
    layer2_bytes_up: Counter = Counter::default(), "Bytes sent to L2";
    layer2_bytes_down: Counter = Counter::default(), "Bytes got from L2";
    layer2_cycles: Counter = Counter::default(), "Cycles that these calls cost L2, reckoned";
    layer2_liquid_cycles: Float = Float::default(), "L2's balance above its freezing threshold";
    layer2_days_left: Float = unknown(), "Days for which that lasts at the present rate";
    layer2_read_only: Gauge = Gauge::default(), "1 if L2 saves nothing at present";
    poll_lag_seconds: Histogram = lags(), "From the arrival of a page's oldest entry at the canister to its commit here";
    polls: Counter = Counter::default(), "Polls of the canister's log that came to an end, failed ones too";
    poll_failing: Gauge = Gauge::default(), "1 if the last poll failed";
    poll_entries_behind: Gauge = Gauge::default(), "Entries of the canister's log not yet taken over";
    poll_unproven: Counter = Counter::default(), "Pages of the canister's log that did not prove themselves";
    peers_known: Gauge = Gauge::default(), "Other relays of the cluster";
    peers_up: Gauge = Gauge::default(), "Those of them that are tapped";
    peer_chunks_served: Gauge = Gauge::default(), "Filters that peers listen with here";
    peers_behind: Counter = Counter::default(), "Times that a peer did not keep up, and missed what came meanwhile";
    demands: Gauge = Gauge::default(), "Subscriptions whose live events peers are asked for";
    demand_chunks: Gauge = Gauge::default(), "Filters that these come to";
    tapped: By = By::default(), "What became of events that peers sent";
    tapped_rows: Gauge = Gauge::default(), "Events from peers that the canister is not known to have";
    tapped_adopted: Counter = Counter::default(), "Those of them that go up from here, since that took too long";
    messages_dropped: Counter = Counter::default(), "Messages that went because newer ones were over the quota";
    messages_swept: Counter = Counter::default(), "Messages that went because they were too old";
    delivery_lines_lost: Counter = Counter::default(), "Lines of the delivery log that are in no file";
    poll_missed: Counter = Counter::default(), "Events that only the poll's second look found";
}

impl Metrics {
    /// One event that a client sent.
    pub fn count_event(&self, outcome: &'static str) {
        self.events.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// One event that a peer sent.
    pub fn count_tapped(&self, outcome: &'static str) {
        self.tapped.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A batch that has to be sent again.
    pub fn count_retry(&self, reason: &'static str) {
        self.outbox_retries.get_or_create(&[("reason", reason)]).inc();
    }

    pub fn note_store(&self, store: &Stats) {
        self.store_events.set(store.events as i64);
        self.store_bytes.set(store.bytes_on_disk as i64);
        self.store_used_bytes.set(store.bytes_in_use as i64);
        self.store_stubs.set(store.stubs as i64);
        self.coverage_notes.set(store.covered as i64);
        self.outbox_rows.set(store.outbox as i64);
        self.outbox_bytes.set(store.outbox_bytes as i64);
        let since = store.outbox_since.unwrap_or_else(Millis::now);
        self.outbox_age_seconds.set((Millis::now().0.saturating_sub(since.0) / 1_000) as i64);
        self.aside_rows.set(store.aside as i64);
        self.local_rows.set(store.local as i64);
        self.tapped_rows.set(store.tapped as i64);
    }

    /// How many lines the delivery log has lost so far.
    pub fn note_lost_lines(&self, lines: u64) {
        reach(&self.delivery_lines_lost, lines);
    }

    /// What the calls to L2 came to.
    pub fn note_usage(&self, used: &UsageFigures) {
        reach(&self.layer2_queries, used.queries);
        reach(&self.layer2_updates, used.updates);
        reach(&self.layer2_failures, used.failures);
        reach(&self.layer2_bytes_up, used.bytes_up);
        reach(&self.layer2_bytes_down, used.bytes_down);
        reach(&self.layer2_cycles, used.cycles);
    }

    /// What L2 has to pay with. `days`: for how long, if it costs anything.
    pub fn note_balance(&self, liquid_cycles: u128, days: Option<f64>, is_read_only: bool) {
        self.layer2_liquid_cycles.set(liquid_cycles as f64);
        self.layer2_days_left.set(days.unwrap_or(f64::INFINITY));
        self.layer2_read_only.set(is_read_only.into());
    }

    /// Everything, as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes every text");
        text
    }
}

/// Sets a counter to what somebody else counts.
fn reach(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// How the store's writer counts.
impl Observer for Metrics {
    fn committed(&self, batch: Batch) {
        self.commit_seconds.observe(batch.took.as_secs_f64());
        self.commit_entries.observe(batch.entries as f64);
        self.read_only.set(0);
    }

    fn refused(&self, cause: &WriteError) {
        let reason = match cause {
            WriteError::Full => "full",
            WriteError::Failed(_) => "failed",
            WriteError::Stopped => return,
        };
        self.commits_refused.get_or_create(&[("reason", reason)]).inc();
        self.read_only.set(1);
    }
}

/// Counts one more of something for as long as it lives.
pub struct Counted(Gauge);

impl Counted {
    pub fn one_of(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Sets a gauge to the time it is.
pub fn stamp(gauge: &Gauge) {
    gauge.set(clock::now().0 as i64);
}

/// From 50 µs to 3 s.
fn seconds() -> Histogram {
    Histogram::new([
        0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0,
    ])
}

/// From 0.1 s to a day.
fn lags() -> Histogram {
    Histogram::new([0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 600.0, 3_600.0, 86_400.0])
}

fn counts() -> Histogram {
    Histogram::new([1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 300.0, 1000.0])
}

/// Until somebody knows.
fn unknown() -> Float {
    let gauge = Float::default();
    gauge.set(f64::INFINITY);
    gauge
}

fn now() -> Gauge {
    let gauge = Gauge::default();
    stamp(&gauge);
    gauge
}
