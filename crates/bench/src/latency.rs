//! How long things took, as percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer waits count as this.
const NANOSECONDS_MAX: u64 = 600_000_000_000;

/// Durations, each kept to three digits.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

/// What is told of them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, NANOSECONDS_MAX, 3).expect("the bounds are valid"))
    }

    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_nanos() as u64);
    }

    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub fn summary(&self) -> Summary {
        let us = |nanoseconds: u64| (nanoseconds as f64 / 100.0).round() / 10.0;
        Summary {
            count: self.0.len(),
            p50_us: us(self.0.value_at_quantile(0.5)),
            p99_us: us(self.0.value_at_quantile(0.99)),
            max_us: us(self.0.max()),
        }
    }
}
