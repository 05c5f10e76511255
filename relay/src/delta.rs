//! Fan-out: follows L1's order of commits and hands each new event to the subscriptions it concerns.
//!
//! Delta knows nobody who writes. It wakes when L1 has committed, reads what is new, and serialises
//! each event once for all who get it. A subscription whose session cannot take more is taken out and
//! told from which [`Seq`] on it has seen nothing; it then reads L1 itself and comes back. So a slow
//! reader costs the others nothing and loses nothing.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard},
};

use event::{Event, Filter, Packed};
use store::{Seq, Store};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    sight::Sight,
    subscriptions::{Slot, Subscriptions},
    wire::{self, Frame, SubscriptionId},
};

/// Events read from L1 at a time: what a late subscriber may wait for the table to be free.
const PAGE_EVENTS_MAX: usize = 256;

/// The live stage of all subscriptions.
#[derive(Clone)]
pub struct Delta {
    table: Arc<Mutex<Table>>,
}

struct Table {
    subscriptions: Subscriptions<Subscriber>,
    /// All events before this one have been handed out.
    position: Seq,
}

struct Subscriber {
    id: SubscriptionId,
    sight: Sight,
    /// Events before this one reached it another way: it may be ahead of the table's position.
    from: Seq,
    frames: mpsc::Sender<Frame>,
    behind: oneshot::Sender<Seq>,
}

/// A place in the live stage. Dropped, it is given up.
pub struct Following {
    delta: Delta,
    slot: Slot,
    behind: oneshot::Receiver<Seq>,
}

impl Following {
    /// Resolves when the session could not keep up: to the first event that it has not been given.
    pub async fn fell_behind(&mut self) -> Seq {
        match (&mut self.behind).await {
            Ok(seq) => seq,
            // Only giving up the place drops the other end, and then nobody waits here.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.delta.lock().subscriptions.remove(self.slot);
    }
}

impl Delta {
    /// Starts handing out what L1 commits from now on, until `stop`.
    pub fn start(store: &Store) -> Delta {
        let position = *store.follow().borrow();
        let table = Table { subscriptions: Subscriptions::default(), position };
        Delta { table: Arc::new(Mutex::new(table)) }
    }

    /// Adds a subscription whose events before `from` have been delivered. Refused with where the
    /// live stage is, if that is further on: the subscriber has to read L1 up to there first. `joined`
    /// runs before the first live event can come.
    pub fn join(
        &self,
        who: (&SubscriptionId, &Sight),
        filters: &[Filter],
        from: Seq,
        frames: &mpsc::Sender<Frame>,
        joined: impl FnOnce(),
    ) -> Result<Following, Seq> {
        let mut table = self.lock();
        if from < table.position {
            return Err(table.position);
        }
        let (sender, behind) = oneshot::channel();
        let (id, sight) = (who.0.clone(), who.1.clone());
        let subscriber = Subscriber { id, sight, from, frames: frames.clone(), behind: sender };
        let slot = table.subscriptions.insert(filters.to_vec(), subscriber);
        joined();
        Ok(Following { delta: self.clone(), slot, behind })
    }

    /// Everything before this has been handed out.
    pub fn position(&self) -> Seq {
        self.lock().position
    }

    /// Hands out an event that is not stored. A session that is behind does not get it: it could not
    /// be told from where to catch up.
    pub fn pass_on(&self, event: &Event) {
        let packed = event.pack();
        if let Ok(view) = Packed::trusted(&packed) {
            self.lock().hand_out(None, &view);
        }
    }

    /// Follows L1 until `stop`.
    pub async fn follow_commits(self, store: Store, stop: CancellationToken) {
        let mut newest = store.follow();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = newest.changed() => if changed.is_err() { return },
            }
            let (delta, store) = (self.clone(), store.clone());
            let to = *newest.borrow_and_update();
            // Pages of LMDB may have to come from the disk.
            let read = tokio::task::spawn_blocking(move || delta.catch_up(&store, to)).await;
            if let Err(error) = read {
                error!(%error, "fan-out failed");
            }
        }
    }

    fn catch_up(&self, store: &Store, to: Seq) {
        loop {
            let from = self.lock().position;
            if from >= to {
                return;
            }
            let mut page = Vec::new();
            let read = store.since(from, to, |seq, event| {
                page.push((seq, event.as_bytes().to_vec()));
                if page.len() < PAGE_EVENTS_MAX {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            match read {
                Ok(next) => self.lock().hand_out_page(&page, next),
                Err(error) => {
                    error!(%error, "L1 cannot be read; live events wait");
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder panics")
    }
}

impl Table {
    fn hand_out_page(&mut self, page: &[(Seq, Vec<u8>)], next: Seq) {
        for (seq, bytes) in page {
            if let Ok(event) = Packed::trusted(bytes) {
                self.hand_out(Some(*seq), &event);
            }
        }
        self.position = next;
    }

    /// Gives an event to all who want it; one without a seq is stored nowhere.
    fn hand_out(&mut self, seq: Option<Seq>, event: &Packed<'_>) {
        let mut json: Option<Arc<str>> = None;
        let mut full = Vec::new();
        for (slot, subscriber) in self.subscriptions.wanting(event) {
            if seq.is_some_and(|seq| seq < subscriber.from) || !subscriber.sight.shows(event) {
                continue;
            }
            let json = json.get_or_insert_with(|| wire::json_of(event).into());
            let frame = Frame::Live(subscriber.id.clone(), json.clone());
            if subscriber.frames.try_send(frame).is_err() {
                full.push(slot);
            }
        }
        for slot in full {
            if let Some(subscriber) = self.subscriptions.remove(slot) {
                // The session may be gone altogether, and then this goes nowhere.
                let _ = subscriber.behind.send(seq.unwrap_or(self.position.max(subscriber.from)));
            }
        }
    }
}
