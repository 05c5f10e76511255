//! What clients published here, on its way up to L2.
//!
//! The outbox follows L1's commits. A batch starts with the first event and waits for no later ones:
//! while one batch is under way the next gathers by itself. Nothing leaves the outbox before L2 has
//! answered for it, and what L2 will never take is kept aside with its reason.

use std::{sync::Arc, time::Duration};

use event::Packed;
use layer2::{Layer2, Layer2Error, SaveOutcome};
use rand::Rng;
use store::{Seq, Settlement, Store, Writer};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::metrics::{self, Metrics};

/// Events of one batch. With signature checks one costs the canister about 4 M of its 40 G
/// instructions.
const BATCH_EVENTS_MAX: usize = 500;
/// Bytes of one batch: an ingress message may have 2 MiB.
const BATCH_BYTES_MAX: usize = 1_500_000;
/// The first pause after a failure; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The way up to L2.
pub struct Outbox {
    pub store: Store,
    pub writer: Writer,
    pub layer2: Arc<dyn Layer2>,
    /// Rung when L2 refuses everything: somebody should ask whether we are still granted.
    pub doubt: Arc<Notify>,
    pub metrics: Arc<Metrics>,
}

/// What a push came to.
enum Pushed {
    /// There was nothing to push.
    Nothing,
    /// L2 answered for the batch.
    Settled,
    /// L2 answered, but wants (some of) it again later.
    Later,
}

impl Outbox {
    /// Pushes whatever L1 commits, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let mut newest = self.store.follow();
        let mut batch_events_max = BATCH_EVENTS_MAX;
        let mut failures = 0u32;
        loop {
            newest.mark_unchanged();
            let pushed = tokio::select! {
                () = stop.cancelled() => return,
                pushed = self.push(batch_events_max) => pushed,
            };
            if matches!(pushed, Ok(Pushed::Settled | Pushed::Nothing)) {
                metrics::stamp(&self.metrics.outbox_clear_timestamp_seconds);
            }
            match pushed {
                Ok(Pushed::Settled) => {
                    failures = 0;
                    batch_events_max = BATCH_EVENTS_MAX;
                    continue;
                }
                Ok(Pushed::Nothing) => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        changed = newest.changed() => if changed.is_err() { return },
                    }
                    continue;
                }
                Ok(Pushed::Later) => {}
                Err(Layer2Error::TooLarge(cause)) if batch_events_max > 1 => {
                    batch_events_max /= 2;
                    debug!(%cause, batch_events_max, "batch halved");
                    continue;
                }
                Err(cause) => self.note_failure(&cause, failures),
            }
            failures = failures.saturating_add(1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff(failures)) => {}
            }
        }
    }

    fn note_failure(&self, cause: &Layer2Error, failures: u32) {
        if matches!(cause, Layer2Error::Refused(_)) {
            self.doubt.notify_one();
        }
        // The first failure is news, and so is one that lasts; those between are not.
        if failures == 0 || failures.is_power_of_two() {
            warn!(%cause, failures, "L2 does not take events; they wait here");
        }
    }

    async fn push(&self, events_max: usize) -> Result<Pushed, Layer2Error> {
        let store = self.store.clone();
        let read = move || store.outbox(events_max, BATCH_BYTES_MAX);
        let rows = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return Err(Layer2Error::Unavailable(format!("L1: {error}"))),
            Err(_) => return Ok(Pushed::Nothing),
        };
        if rows.is_empty() {
            return Ok(Pushed::Nothing);
        }
        let started = tokio::time::Instant::now();
        let (seqs, events): (Vec<Seq>, Vec<Vec<u8>>) = rows.into_iter().unzip();
        let outcomes = self.layer2.save(&events).await?;
        let mut settled = Vec::with_capacity(seqs.len());
        let mut wants_later = false;
        for ((seq, event), outcome) in seqs.iter().zip(&events).zip(outcomes) {
            match settlement(event, outcome) {
                Some(settlement) => settled.push((*seq, settlement)),
                None => wants_later = true,
            }
        }
        let count = settled.len();
        if let Err(cause) = self.writer.settle(settled).await {
            error!(%cause, "L2's answer could not be noted; the batch will be sent again");
            return Ok(Pushed::Later);
        }
        info!(events = count, took_ms = started.elapsed().as_millis() as u64, "outbox pushed");
        Ok(if wants_later { Pushed::Later } else { Pushed::Settled })
    }
}

/// What L2's word on an event means for its outbox row; `None`: ask again later.
fn settlement(event: &[u8], outcome: SaveOutcome) -> Option<Settlement> {
    let reason = match outcome {
        SaveOutcome::Saved(_) | SaveOutcome::Duplicate(_) => return Some(Settlement::Delivered),
        SaveOutcome::Superseded | SaveOutcome::Deleted | SaveOutcome::Expired => {
            return Some(Settlement::Gone);
        }
        SaveOutcome::Refused(reason) => {
            warn!(id = %id_of(event), reason, "L2 refuses an event for now");
            return None;
        }
        SaveOutcome::Ephemeral => "its kind is never stored".to_owned(),
        SaveOutcome::TooLarge(limit) => format!("it is larger than {limit} bytes"),
        SaveOutcome::Invalid(reason) | SaveOutcome::Other(reason) => reason,
    };
    error!(id = %id_of(event), reason, "L2 does not take an event; it is kept aside");
    Some(Settlement::Refused(reason))
}

fn id_of(event: &[u8]) -> String {
    Packed::trusted(event).map_or_else(|_| "damaged".into(), |event| event.id().to_string())
}

/// Doubling pauses, a random half off, so that the relays of a cluster do not come back in step.
pub(crate) fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(BACKOFF_MAX).mul_f64(rand::rng().random_range(0.5..=1.0))
}
