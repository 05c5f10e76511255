//! How long messages are kept: those that are older go, at the start and then every hour.
//!
//! Until then [`sight`](crate::sight) hides them, and ingest takes none, so a limit holds from the moment that
//! it is set.

use std::{sync::Arc, time::Duration};

use event::{EventId, Filter, Packed, Timestamp};
use store::{WriteError, Writer};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    clock,
    config::terms::InForce,
    message,
    metrics::Metrics,
    reads::Reads,
    removals::Removals,
    walk::{Unread, walk},
};

const SWEEP_INTERVAL: Duration = Duration::from_secs(3_600);
/// Messages that go at a time.
const SWEPT_MAX: u64 = 10_000;

/// Takes out what is too old.
pub struct Retention {
    pub in_force: InForce,
    pub reads: Reads,
    pub writer: Writer,
    pub removals: Removals,
    pub metrics: Arc<Metrics>,
}

/// Why a sweep did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unread(#[from] Unread),
    #[error(transparent)]
    Unwritten(#[from] WriteError),
}

impl Retention {
    /// Sweeps until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let swept = tokio::select! {
                () = stop.cancelled() => return,
                swept = self.sweep() => swept,
            };
            match swept {
                Ok(0) => {}
                Ok(events) => info!(events, "messages were too old, and went"),
                Err(cause) => error!(%cause, "messages that are too old stay, and are hidden"),
            }
        }
    }

    async fn sweep(&self) -> Result<usize, Failure> {
        let terms = self.in_force.load_full();
        let since = terms.messages.kept_since(clock::now());
        let Some(until) = since.0.checked_sub(1) else { return Ok(0) };
        let until = Some(Timestamp(until));
        let all = message::filter(None, terms.guarded_kinds.clone());
        let filter = Filter { until, limit: Some(SWEPT_MAX), ..all };
        let mut swept = 0;
        loop {
            let end = self.reads.horizon();
            let ids = walk(&self.reads, filter.clone(), end, Vec::new(), note).await?;
            if ids.is_empty() {
                return Ok(swept);
            }
            swept += ids.len();
            self.writer.delete(ids.clone()).await?;
            self.metrics.messages_swept.inc_by(ids.len() as u64);
            self.removals.ask(ids, "older than messages are kept");
        }
    }
}

fn note(ids: &mut Vec<EventId>, event: &Packed<'_>) {
    ids.push(event.id());
}
