//! What the calls of one process came to.
//!
//! A canister is charged for what others ask of it, and nobody tells the asker. So cycles are reckoned
//! from the price list of a subnet of 13 nodes and from what an event was measured to take.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// An ingress message and the execution of an update.
const UPDATE_CYCLES: u64 = 1_200_000 + 5_000_000;
/// A byte of an ingress message.
const BYTE_CYCLES: u64 = 2_000;
/// What surrounds the argument of a call: ids, dates, signature.
const ENVELOPE_BYTES: u64 = 330;
/// The instructions that an event takes in `save_events`, a cycle each: `bench_results.md` of
/// `canister-bench`.
const EVENT_CYCLES: u64 = 1_200_000;

/// Counts as calls are made.
#[derive(Default)]
pub(crate) struct Usage {
    queries: AtomicU64,
    updates: AtomicU64,
    failures: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    cycles: AtomicU64,
}

/// What the calls came to, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageFigures {
    /// Calls that one node answers. A canister is not charged for them.
    pub queries: u64,
    /// Calls that all nodes carry out.
    pub updates: u64,
    /// Calls of either kind that got no answer.
    pub failures: u64,
    /// Arguments, in bytes.
    pub bytes_up: u64,
    /// Answers, in bytes.
    pub bytes_down: u64,
    /// What the updates cost the canister, reckoned.
    pub cycles: u64,
}

/// A call, as far as it is counted.
pub(crate) enum Called {
    Query,
    Update,
}

impl Usage {
    pub fn asked(&self, called: Called, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes_up.fetch_add(bytes, Relaxed);
        match called {
            Called::Query => drop(self.queries.fetch_add(1, Relaxed)),
            Called::Update => {
                self.updates.fetch_add(1, Relaxed);
                let cycles = UPDATE_CYCLES + BYTE_CYCLES * (bytes + ENVELOPE_BYTES);
                self.cycles.fetch_add(cycles, Relaxed);
            }
        }
    }

    pub fn answered(&self, bytes: Option<usize>) {
        match bytes {
            Some(bytes) => self.bytes_down.fetch_add(bytes as u64, Relaxed),
            None => self.failures.fetch_add(1, Relaxed),
        };
    }

    /// So many events were looked at.
    pub fn saved(&self, events: usize) {
        self.cycles.fetch_add(EVENT_CYCLES * events as u64, Relaxed);
    }

    pub fn figures(&self) -> UsageFigures {
        UsageFigures {
            queries: self.queries.load(Relaxed),
            updates: self.updates.load(Relaxed),
            failures: self.failures.load(Relaxed),
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
            cycles: self.cycles.load(Relaxed),
        }
    }
}
