//! Finding out what a client and this relay lack of each other's events, by negentropy (NIP-77).
//!
//! What matches is listed when a reconciliation begins, and stays as it was until its end: rounds that
//! looked at a changing store would contradict each other. Each is a task of its own, and ends when its
//! client says so, leaves, or is silent for long.

use std::{sync::Arc, time::Duration};

use event::Filter;
use index::{Found, Reader, Scan, Take};
use reconcile::{Item, Refusal, Sorted, answer};
use store::ReadError;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::error;

use crate::{
    reads::{Deadline, Reads, Turn},
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
    Unreadable(#[from] ReadError),
    #[error("closed: the relay is going away")]
    Stopping,
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
        let _place = self.room.clone().try_acquire_owned().map_err(|_| End::NoRoom)?;
        let items = Arc::new(Sorted::new(self.list().await?));
        loop {
            let message = timeout(PATIENCE, messages.recv()).await.map_err(|_| End::Silence)?;
            let Some(message) = message else { return Ok(()) };
            let items = items.clone();
            // A round may add up all ids there are.
            let answering =
                tokio::task::spawn_blocking(move || answer(&*items, &message, ANSWER_BYTES_MAX));
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

    /// All that matches and the client may see.
    async fn list(&self) -> Result<Vec<Item>, End> {
        let filters = [self.filter.clone()];
        let mut scan = self.sight.over(Scan::new(&filters), &filters);
        let (mut items, mut turn) = (Vec::new(), Turn::First);
        loop {
            let read = self.reads.read(turn, move |store, deadline| {
                let mut page = Page { items, deadline };
                let is_done = store.page(&mut scan, &mut page)?;
                Ok((page.items, scan, is_done))
            });
            let (listed, left, is_done) = read.await.ok_or(End::Stopping)??;
            if listed.len() > self.items_max {
                return Err(End::TooMany(self.items_max));
            }
            if is_done {
                return Ok(listed);
            }
            (items, scan, turn) = (listed, left, Turn::Further);
        }
    }
}

/// A list that grows page by page.
struct Page {
    items: Vec<Item>,
    deadline: Deadline,
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        let position = found.position;
        self.items.push(Item { created_at: position.created_at, id: position.id });
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}
