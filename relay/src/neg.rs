//! Finding out what a client and this relay lack of each other's events, by negentropy (NIP-77).
//!
//! What matches is listed when a reconciliation begins, and stays as it was until its end: rounds that
//! looked at a changing store would contradict each other. Each is a task of its own, and ends when its
//! client says so, leaves, or is silent for long.

use std::{sync::Arc, time::Duration};

use event::Filter;
use reconcile::{Refusal, answer};
use store::ReadError;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::error;

use crate::{
    hot::{HotLists, NoList},
    reads::Reads,
    sight::Sight,
    wire::{self, Frame, SubscriptionId},
};

/// Reconciliations of all clients together: each has its list in memory.
pub const AT_ONCE_MAX: usize = 32;
/// Bytes of one answer; in hex they are twice as many.
const ANSWER_BYTES_MAX: usize = 60_000;
/// How long a client may take for its next message.
const PATIENCE: Duration = Duration::from_secs(60);

/// One reconciliation.
pub struct Reconciliation {
    pub id: SubscriptionId,
    pub filter: Filter,
    pub sight: Sight,
    pub reads: Reads,
    pub items_max: usize,
    pub lists: Arc<HotLists>,
    /// Places for lists.
    pub room: Arc<Semaphore>,
    pub frames: mpsc::Sender<Frame>,
}

/// Why a reconciliation ends before its client says so.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("blocked: more than {0} events match; ask for less")]
    TooMany(usize),
    #[error("blocked: the relay has enough reconciliations under way; try again later")]
    NoRoom,
    #[error("closed: nothing was heard for a minute")]
    Silence,
    #[error("invalid: {0}")]
    Malformed(String),
    #[error("error: the relay cannot read its store")]
    Unreadable(ReadError),
    #[error("closed: the relay is going away")]
    Stopping,
}

impl From<NoList> for End {
    fn from(none: NoList) -> End {
        match none {
            NoList::TooMany(items_max) => End::TooMany(items_max),
            NoList::Unreadable(error) => End::Unreadable(error),
            NoList::Stopping => End::Stopping,
        }
    }
}

/// Whether a filter can be reconciled by. Words order an answer; they make no set of events that two
/// could have in common.
pub fn check(filter: &Filter) -> Result<(), String> {
    match filter.search {
        Some(_) => Err("unsupported: a search is not reconciled".into()),
        None => Ok(()),
    }
}

impl Reconciliation {
    /// Answers the client's messages, until there are no more.
    pub async fn run(self, mut messages: mpsc::Receiver<Vec<u8>>) {
        let Err(end) = self.answer_all(&mut messages).await else { return };
        if let End::Unreadable(error) = &end {
            error!(%error, "L1 cannot be read; a reconciliation ends");
        }
        let _ = self.frames.send(Frame::Text(wire::neg_err(&self.id, &end.to_string()))).await;
    }

    async fn answer_all(&self, messages: &mut mpsc::Receiver<Vec<u8>>) -> Result<(), End> {
        let place = self.room.clone().try_acquire_owned().map_err(|_| End::NoRoom)?;
        let place = Arc::new(place);
        let Reconciliation { filter, sight, reads, items_max, .. } = self;
        let items = self.lists.list(filter, sight, reads, *items_max).await?;
        loop {
            let message = timeout(PATIENCE, messages.recv()).await.map_err(|_| End::Silence)?;
            let Some(message) = message else { return Ok(()) };
            let (items, place) = (items.clone(), place.clone());
            // A round may add up all ids there are, and goes on if nobody waits for it any more.
            let answering = tokio::task::spawn_blocking(move || {
                let _place = place;
                answer(&*items, &message, ANSWER_BYTES_MAX)
            });
            let said = match answering.await.map_err(|_| End::Stopping)? {
                Ok(said) => said,
                Err(Refusal::Malformed(reason)) => return Err(End::Malformed(reason.to_string())),
                Err(Refusal::Set(never)) => match never {},
            };
            let frame = Frame::Text(wire::neg_msg(&self.id, &said));
            if self.frames.send(frame).await.is_err() {
                return Ok(());
            }
        }
    }
}
