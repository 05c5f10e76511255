//! Takes out of L2 what this relay has taken out of its messages, where L2 lets it: owners alone may.
//!
//! It is done for good, with tombstones, or the messages would come back with the next relay that brings
//! them. Nobody waits for it, and what does not fit into the queue stays in L2.

use std::sync::Arc;

use event::EventId;
use layer2::{DeleteOutcome, Deletion, Layer2, Layer2Error, Role};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::backoff;

/// Removals that wait for L2.
const QUEUE_MAX: usize = 256;
/// Events of one call.
const CALL_EVENTS_MAX: usize = interface::SAVE_EVENTS_MAX;

/// The way to ask for it. Without an L2 it leads nowhere.
#[derive(Clone)]
pub struct Removals(Option<mpsc::Sender<Removal>>);

/// Events, and why they go.
struct Removal {
    ids: Vec<EventId>,
    why: &'static str,
}

/// What L2 did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// So many were there, and went.
    Events(u64),
    /// We are no owner.
    NotAllowed,
}

impl Removals {
    /// The way, and the task at its end.
    pub fn to(layer2: Arc<dyn Layer2>) -> (Removals, Remover) {
        let (removals, asked) = mpsc::channel(QUEUE_MAX);
        (Removals(Some(removals)), Remover { layer2, asked, has_said: false })
    }

    pub fn nowhere() -> Removals {
        Removals(None)
    }

    pub fn ask(&self, ids: Vec<EventId>, why: &'static str) {
        let Some(removals) = &self.0 else { return };
        let events = ids.len();
        if removals.try_send(Removal { ids, why }).is_err() {
            warn!(events, "L2 keeps messages that went here: too many removals wait for it");
        }
    }
}

/// The task that asks L2.
pub struct Remover {
    layer2: Arc<dyn Layer2>,
    asked: mpsc::Receiver<Removal>,
    /// Whether the log says already what to do.
    has_said: bool,
}

impl Remover {
    /// Works until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let removal = tokio::select! {
                () = stop.cancelled() => return,
                removal = self.asked.recv() => removal,
            };
            let Some(removal) = removal else { return };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.insist(removal) => {}
            }
        }
    }

    /// Waits for an L2 that is away.
    async fn insist(&mut self, Removal { ids, why }: Removal) {
        let mut failures = 0u32;
        loop {
            match remove(self.layer2.as_ref(), &ids, why).await {
                Ok(Removed::Events(events)) => return info!(events, why, "L2 removed messages"),
                Ok(Removed::NotAllowed) => return self.say_what_to_do(),
                Err(Layer2Error::Unavailable(_)) => {
                    failures = failures.saturating_add(1);
                    sleep(backoff(failures)).await;
                }
                Err(cause) => return warn!(%cause, "L2 keeps messages that went here"),
            }
        }
    }

    fn say_what_to_do(&mut self) {
        if !std::mem::replace(&mut self.has_said, true) {
            let what = what_to_do(self.layer2.as_ref());
            warn!("messages that go here stay in L2, which lets its owners alone delete: {what}");
        }
    }
}

/// Has L2 take them out, for good.
pub async fn remove(
    layer2: &dyn Layer2,
    ids: &[EventId],
    why: &str,
) -> Result<Removed, Layer2Error> {
    // To ask costs nothing, to be refused does.
    if layer2.role().await? != Some(Role::Owner) {
        return Ok(Removed::NotAllowed);
    }
    let deletion = Deletion { tombstone: true, why: why.into() };
    let mut removed = 0;
    for ids in ids.chunks(CALL_EVENTS_MAX) {
        for outcome in layer2.delete(ids, &deletion).await? {
            match outcome {
                DeleteOutcome::Removed(_) => removed += 1,
                DeleteOutcome::Forbidden => return Ok(Removed::NotAllowed),
                DeleteOutcome::Unknown | DeleteOutcome::Other(_) => {}
            }
        }
    }
    Ok(Removed::Events(removed))
}

/// For the operator, whom L2 does not let delete.
pub fn what_to_do(layer2: &dyn Layer2) -> String {
    let name = layer2.name();
    let Some(principal) = layer2.principal() else {
        return format!("let this relay's user delete from {name}");
    };
    format!(
        "its owner can delete them (delete_events), or make this relay one: dfx canister call {name} \
         grant '(principal \"{principal}\", variant {{ owner }}, \"\")'"
    )
}
