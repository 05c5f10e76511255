//! What L2 costs, and how long it can pay for it.
//!
//! A canister that runs dry takes everything with it, and its operator may look at it once a month. So
//! every relay asks it now and then for its balance, and warns. How fast the balance falls is taken
//! from two looks at it that lie some time apart; they are kept in L1, so that a restart does not
//! begin anew. Rent alone is a lower bound that needs no past.

use std::{sync::Arc, time::Duration};

use candid::Nat;
use event::Timestamp;
use layer2::{Layer2, Status, UsageFigures};
use serde::{Deserialize, Serialize};
use store::{Store, Writer};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{clock, metrics::Metrics};

/// How often L2 is asked for its balance.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// Under this name L1 keeps what is known.
const LEDGER: &str = "layer2 costs";
/// Looks that lie closer together say nothing of a rate.
const RATE_SECONDS_MIN: u64 = 3_600;
/// How far back the first look may lie: what was long ago tells little of today.
const RATE_SECONDS_MAX: u64 = 7 * 86_400;
/// With fewer days left than this there is a warning. The canister itself stops saving at 7.
const WARN_DAYS: f64 = 30.0;
/// Between two warnings that say the same.
const WARN_SECONDS: u64 = 86_400;
/// Storage of a GiB for a second, on a subnet of 13 nodes.
const RENT_CYCLES: f64 = 127_000.0;
const GIB: f64 = (1u64 << 30) as f64;
const DAY_SECONDS: f64 = 86_400.0;

/// Watches what L2 costs.
pub struct Costs {
    pub layer2: Arc<dyn Layer2>,
    pub store: Store,
    pub writer: Writer,
    pub metrics: Arc<Metrics>,
}

/// What L1 keeps of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Whose balance it is.
    pub of: String,
    /// The balance, when it was looked at: oldest first.
    looks: Vec<Look>,
    /// What this relay's calls came to, over all its runs.
    pub used: UsageFigures,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Look {
    at: u64,
    /// Above what the freezing threshold keeps.
    liquid_cycles: u128,
}

impl Ledger {
    /// What L1 knows, if it is of this L2.
    pub fn read(store: &Store, of: &str) -> Result<Option<Ledger>, store::ReadError> {
        let kept = store.meta(LEDGER)?;
        let kept: Option<Ledger> = kept.and_then(|text| serde_json::from_str(&text).ok());
        Ok(kept.filter(|ledger| ledger.of == of))
    }

    /// Adds a look. What came before a rise, or long ago, is of no use any more.
    fn note(&mut self, at: Timestamp, liquid_cycles: u128) {
        if self.looks.last().is_some_and(|last| last.liquid_cycles < liquid_cycles) {
            self.looks.clear();
        }
        let oldest = at.0.saturating_sub(RATE_SECONDS_MAX);
        self.looks.retain(|look| look.at >= oldest && look.at < at.0);
        // The first of a stretch and the last are enough.
        if let [.., before, last] = self.looks[..]
            && last.at - before.at < RATE_SECONDS_MIN
        {
            self.looks.pop();
        }
        self.looks.push(Look { at: at.0, liquid_cycles });
    }

    /// Cycles a second that the balance falls by. None: that takes an hour to see.
    pub fn cycles_per_second(&self) -> Option<f64> {
        let (first, last) = (self.looks.first()?, self.looks.last()?);
        let seconds = last.at - first.at;
        let fallen = first.liquid_cycles.saturating_sub(last.liquid_cycles);
        (seconds >= RATE_SECONDS_MIN).then(|| fallen as f64 / seconds as f64)
    }
}

/// How many days the liquid cycles last, at the rate seen and at least at what its memory costs. None:
/// it costs nothing.
pub fn days_left(status: &Status, cycles_per_second: Option<f64>) -> Option<f64> {
    let bytes = (status.stable_bytes + status.heap_bytes) as f64;
    let rent = bytes / GIB * RENT_CYCLES;
    let rate = cycles_per_second.unwrap_or(0.0).max(rent);
    let liquid = number(&status.liquid_cycles) as f64;
    (rate > 0.0 && status.cycles != 0u64).then(|| liquid / rate / DAY_SECONDS)
}

/// A number of the wire. No balance is larger.
pub fn number(nat: &Nat) -> u128 {
    u128::try_from(nat.0.clone()).unwrap_or(u128::MAX)
}

impl Costs {
    /// Looks now and then, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut counted = UsageFigures::default();
        let mut warned = Timestamp(0);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            let status = tokio::select! {
                () = stop.cancelled() => return,
                status = self.layer2.status() => status,
            };
            match status {
                Ok(status) => self.look(&status, &mut counted, &mut warned).await,
                // Outbox and poll say loudly when L2 is away.
                Err(cause) => debug!(%cause, "L2 does not tell what it costs"),
            }
        }
    }

    async fn look(&self, status: &Status, counted: &mut UsageFigures, warned: &mut Timestamp) {
        let now = clock::now();
        let name = self.layer2.name();
        let kept = Ledger::read(&self.store, &name).ok().flatten();
        let mut ledger = kept.unwrap_or_else(|| Ledger { of: name, ..Ledger::default() });
        ledger.note(now, number(&status.liquid_cycles));
        if let Some(used) = self.layer2.usage() {
            ledger.used = plus(ledger.used, used, *counted);
            *counted = used;
        }
        let days = days_left(status, ledger.cycles_per_second());
        self.metrics.note_balance(number(&status.liquid_cycles), days, status.read_only.is_some());
        if now.0.saturating_sub(warned.0) >= WARN_SECONDS && warn_of(status, days) {
            *warned = now;
        }
        let text = serde_json::to_string(&ledger).expect("numbers and a text are JSON");
        if let Err(cause) = self.writer.put_meta(LEDGER, text).await {
            debug!(%cause, "what L2 costs could not be noted");
        }
    }
}

/// What was used before, and since it was counted last.
fn plus(before: UsageFigures, now: UsageFigures, counted: UsageFigures) -> UsageFigures {
    UsageFigures {
        queries: before.queries + now.queries - counted.queries,
        updates: before.updates + now.updates - counted.updates,
        failures: before.failures + now.failures - counted.failures,
        bytes_up: before.bytes_up + now.bytes_up - counted.bytes_up,
        bytes_down: before.bytes_down + now.bytes_down - counted.bytes_down,
        cycles: before.cycles + now.cycles - counted.cycles,
    }
}

/// Whether there was something to warn of.
fn warn_of(status: &Status, days: Option<f64>) -> bool {
    if let Some(reason) = &status.read_only {
        warn!(reason, "L2 saves nothing; what is published waits here");
        return true;
    }
    match days {
        Some(days) if days < WARN_DAYS => {
            let days = format!("{days:.1}");
            warn!(days, "L2 runs out of cycles at the present rate; top it up");
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    fn status(liquid_cycles: u64, stable_bytes: u64) -> Status {
        Status {
            version: String::new(),
            events: 0,
            length: 0,
            stable_bytes,
            heap_bytes: 0,
            cycles: Nat::from(liquid_cycles),
            liquid_cycles: Nat::from(liquid_cycles),
            read_only: None,
            memories: Vec::new(),
            last_saved_at: None,
            last_save: None,
        }
    }

    fn ledger(looks: &[(u64, u128)]) -> Ledger {
        let mut ledger = Ledger::default();
        looks.iter().for_each(|(at, cycles)| ledger.note(Timestamp(*at), *cycles));
        ledger
    }

    #[test]
    fn a_rate_is_seen_after_an_hour() {
        assert_eq!(ledger(&[(0, 9_000), (HOUR - 1, 8_000)]).cycles_per_second(), None);
        assert_eq!(ledger(&[(0, 9_000), (HOUR, 5_400)]).cycles_per_second(), Some(1.0));
    }

    #[test]
    fn a_rate_begins_anew_when_the_balance_was_topped_up() {
        let looks = [(0, 9_000), (HOUR, 1_800), (HOUR + 600, 99_000), (3 * HOUR, 98_000)];
        let rate = ledger(&looks).cycles_per_second().unwrap();
        assert_eq!(rate, 1_000.0 / (2.0 * 3_600.0 - 600.0));
    }

    #[test]
    fn many_looks_are_kept_as_few() {
        let week: Vec<_> =
            (0..2_000).map(|at| (at * 600, 10_000_000 - u128::from(at) * 600)).collect();
        let ledger = ledger(&week);
        assert!(ledger.looks.len() < 200, "{}", ledger.looks.len());
        assert_eq!(ledger.cycles_per_second(), Some(1.0));
        assert!(ledger.looks[0].at >= 1_999 * 600 - RATE_SECONDS_MAX);
    }

    #[test]
    fn days_left_are_reckoned_from_the_rate_and_at_least_from_the_rent() {
        let day = 127_000 * 86_400;
        let of_a_gib = status(10 * day, 1 << 30);
        assert_eq!(days_left(&of_a_gib, None), Some(10.0));
        assert_eq!(days_left(&of_a_gib, Some(254_000.0)), Some(5.0));
        assert_eq!(days_left(&of_a_gib, Some(1.0)), Some(10.0));
        assert_eq!(days_left(&status(0, 1 << 30), None), None, "it has no cycles to pay with");
    }

    #[test]
    fn what_was_used_adds_up_over_restarts() {
        let used = |updates| UsageFigures { updates, ..UsageFigures::default() };
        let after_first = plus(used(0), used(5), used(0));
        let after_second = plus(after_first, used(7), used(5));
        let restarted = plus(after_second, used(2), used(0));
        assert_eq!(restarted, used(9));
    }
}
