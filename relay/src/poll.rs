//! What other relays brought to L2, into L1.
//!
//! The poll follows L2's log by its seq. The place reached is written in the same transaction as the
//! events, so nothing is missed and nothing comes twice, whatever dies in between. A backlog is
//! drained page after page before the next pause.

use std::{sync::Arc, time::Duration};

use event::{Event, Verified, verify};
use interface::id_of;
use layer2::{Change, ChangesFrom, ChangesPage, Detail, Layer2, Layer2Error, What};
use store::{Layer2Change, Store, Writer};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::metrics::{self, Metrics};

/// Under this name L1 remembers which L2 its cursor belongs to.
pub const CURSOR_OF: &str = "layer2";

/// The way down from L2.
pub struct Poll {
    pub store: Store,
    pub writer: Writer,
    pub layer2: Arc<dyn Layer2>,
    pub doubt: Arc<Notify>,
    pub interval: Duration,
    pub metrics: Arc<Metrics>,
}

/// Why a poll was cut short.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error(transparent)]
    Layer2(#[from] Layer2Error),
    #[error("L1 cannot be read: {0}")]
    Read(#[from] store::ReadError),
    #[error("L1 cannot be written: {0}")]
    Write(#[from] store::WriteError),
}

impl Poll {
    /// Polls until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(self.interval);
        // Never two polls at once, and no burst of polls after a long one.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let polled = tokio::select! {
                () = stop.cancelled() => return,
                polled = self.drain() => polled,
            };
            match polled {
                Ok(()) => {
                    failures = 0;
                    metrics::stamp(&self.metrics.poll_success_timestamp_seconds);
                }
                Err(cause) => {
                    self.note_failure(&cause, failures);
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    fn note_failure(&self, cause: &Cut, failures: u32) {
        if matches!(cause, Cut::Layer2(Layer2Error::Refused(_))) {
            self.doubt.notify_one();
        }
        if failures == 0 || failures.is_power_of_two() {
            warn!(%cause, failures, "L2 cannot be polled; answers come from L1 alone");
        }
    }

    /// Takes over everything that L2 has and L1 has not seen.
    async fn drain(&self) -> Result<(), Cut> {
        let mut cursor = self.cursor().await?;
        loop {
            let page = self.layer2.changes(ChangesFrom::Seq(cursor), Detail::Events).await?;
            if page.next < cursor || page.changes.is_empty() && page.next < page.length {
                let cause = format!("a page from {cursor} ends at {}", page.next);
                return Err(Layer2Error::Interface(cause).into());
            }
            let (next, is_last) = (page.next, page.next >= page.length);
            let behind = page.length.saturating_sub(next);
            self.metrics.poll_entries_behind.set(behind as i64);
            if next > cursor {
                self.apply(page).await?;
            }
            cursor = next;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Where to go on; the start, if L1 followed another L2 before.
    async fn cursor(&self) -> Result<u64, Cut> {
        let name = self.layer2.name();
        if self.store.meta(CURSOR_OF)?.as_ref() == Some(&name) {
            return Ok(self.store.l2_cursor()?.unwrap_or(0));
        }
        // In this order: a crash between the two only means starting over again.
        self.writer.apply_layer2(Vec::new(), 0).await?;
        self.writer.put_meta(CURSOR_OF, name).await?;
        Ok(0)
    }

    async fn apply(&self, page: ChangesPage) -> Result<(), Cut> {
        let (next, entries) = (page.next, page.changes.len());
        let read = || page.changes.into_iter().filter_map(read_change).collect();
        let changes: Vec<Layer2Change> = match tokio::task::spawn_blocking(read).await {
            Ok(changes) => changes,
            Err(error) => {
                error!(%error, "a page of L2 could not be read");
                return Err(Layer2Error::Interface(error.to_string()).into());
            }
        };
        let outcomes = self.writer.apply_layer2(changes, next).await?;
        let new = outcomes.iter().filter(|o| matches!(o, store::Outcome::Saved(_))).count();
        if new > 0 {
            info!(entries, new, next, "polled");
        } else {
            debug!(entries, next, "polled nothing new");
        }
        Ok(())
    }
}

/// L2 is believed about nothing that can be checked: every event's id and signature are.
fn read_change(change: Change) -> Option<Layer2Change> {
    let seq = change.seq;
    match change.what {
        What::Saved(bytes) => match read_event(&bytes) {
            Ok(event) => Some(Layer2Change::Saved(event)),
            Err(reason) => {
                warn!(seq, reason, "L2 holds what is no event; passed over");
                None
            }
        },
        What::Removed { id, .. } => id_of(&id).ok().map(Layer2Change::Removed),
        What::Gone(_) => None,
        What::Cleared => Some(Layer2Change::Cleared),
    }
}

fn read_event(bytes: &[u8]) -> Result<Verified, String> {
    let event = match event::Packed::parse(bytes) {
        Ok(packed) => packed.unpack(),
        Err(_) if bytes.first() == Some(&b'{') => {
            Event::from_json(bytes).map_err(|error| error.to_string())?
        }
        Err(error) => return Err(error.to_string()),
    };
    verify(event).map_err(|invalid| invalid.to_string())
}
