//! Keeps L1 below its limit: collects garbage now and then, whenever a write waits for room, and when
//! whoever runs the relay asks for it. All of that is one task, so that collections come one by one.

use std::{future, sync::Arc, time::Duration};

use store::{CollectError, Collected, Collector, Headway, Occasion, Policy, Store, Writer};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{delta::Delta, metrics::Metrics};

/// Operators who wait for the collector. Beyond it, whoever asks waits to ask.
const ASKED_MAX: usize = 4;

type Outcome = Result<Option<Collected>, CollectError>;

/// One collector, and what it has to know.
pub struct Collecting {
    collector: Collector,
    asked: mpsc::Receiver<oneshot::Sender<Outcome>>,
    /// What has not been handed out live keeps its body until it has. None: no relay runs.
    delta: Option<Delta>,
    /// None: it collects when it has to, or is asked.
    interval: Option<Duration>,
    metrics: Arc<Metrics>,
}

/// The way to the collector, for operators.
#[derive(Clone)]
pub struct AskCollector {
    ask: mpsc::Sender<oneshot::Sender<Outcome>>,
    pub policy: Policy,
    /// How far it is.
    pub headway: watch::Receiver<Headway>,
}

impl AskCollector {
    /// Has it collect, after what it does already. None: the collector was stopped.
    pub async fn collect(&self) -> Option<Outcome> {
        let (reply, outcome) = oneshot::channel();
        self.ask.send(reply).await.ok()?;
        outcome.await.ok()
    }
}

/// The collector of a store, still to be run, and the way to it.
pub fn collecting(store: &Store, writer: &Writer, policy: Policy) -> (Collecting, AskCollector) {
    let (ask, asked) = mpsc::channel(ASKED_MAX);
    let collector = Collector::new(store.clone(), writer.clone(), policy.clone());
    let ask = AskCollector { ask, policy, headway: collector.headway() };
    let metrics = Arc::default();
    (Collecting { collector, asked, delta: None, interval: None, metrics }, ask)
}

impl Collecting {
    /// In a relay that runs.
    pub fn beside(self, delta: Delta, interval: Duration, metrics: Arc<Metrics>) -> Collecting {
        Collecting { delta: Some(delta), interval: Some(interval), metrics, ..self }
    }

    /// Collects until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = self.interval.map(interval);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let (occasion, reply) = tokio::select! {
                () = stop.cancelled() => return,
                () = tick(&mut ticks) => (Occasion::Routine, None),
                () = self.collector.wanted() => (Occasion::Wanted, None),
                Some(reply) = self.asked.recv() => (Occasion::Asked, Some(reply)),
            };
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.collect(occasion) => outcome,
            };
            self.note(&outcome);
            if let Some(reply) = reply {
                // Who asked may have left.
                let _ = reply.send(outcome);
            }
        }
    }

    async fn collect(&mut self, occasion: Occasion) -> Outcome {
        self.collector.note_served().await?;
        let end = match &self.delta {
            Some(delta) => delta.position(),
            None => self.collector.end(),
        };
        self.collector.collect(end, occasion).await
    }

    fn note(&self, outcome: &Outcome) {
        match outcome {
            Ok(None) => {}
            Ok(Some(Collected { before, after, took, bodies, stubs: pruned })) => {
                self.metrics.collections.inc();
                let (took_ms, stubs) = (took.as_millis() as u64, after.stubs);
                let (before, after) = (before.bytes, after.bytes);
                if after < before {
                    info!(before, after, bodies, pruned, stubs, took_ms, "collected");
                } else {
                    warn!(before, after, bodies, pruned, stubs, took_ms, "nothing can be given up");
                }
            }
            Err(cause) => error!(%cause, "garbage cannot be collected"),
        }
    }
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => future::pending().await,
    }
}
