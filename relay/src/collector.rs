//! Keeps L1 below its limit: collects garbage now and then, and whenever a write waits for room.

use std::{sync::Arc, time::Duration};

use store::{CollectError, Collected, Collector};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{delta::Delta, metrics::Metrics};

/// One collector, and what it has to know.
pub struct Collecting {
    pub collector: Collector,
    /// What has not been handed out live keeps its body until it has.
    pub delta: Delta,
    pub interval: Duration,
    pub metrics: Arc<Metrics>,
}

impl Collecting {
    /// Collects until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_wanted = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => false,
                () = self.collector.wanted() => true,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                collected = self.collect(is_wanted) => self.note(collected),
            }
        }
    }

    async fn collect(&mut self, is_wanted: bool) -> Result<Option<Collected>, CollectError> {
        self.collector.note_served().await?;
        self.collector.collect(self.delta.position(), is_wanted).await
    }

    fn note(&self, collected: Result<Option<Collected>, CollectError>) {
        match collected {
            Ok(None) => {}
            Ok(Some(Collected { before, after, took })) => {
                self.metrics.collections.inc();
                let (took_ms, stubs) = (took.as_millis() as u64, after.stubs);
                let (before, after) = (before.bytes, after.bytes);
                if after < before {
                    info!(before, after, stubs, took_ms, "collected");
                } else {
                    warn!(before, after, stubs, took_ms, "nothing can be given up");
                }
            }
            Err(cause) => error!(%cause, "garbage cannot be collected"),
        }
    }
}
