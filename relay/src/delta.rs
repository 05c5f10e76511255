//! Fan-out: hands each new event to the subscriptions it concerns, in L1's order of commits.
//!
//! Delta knows nobody who writes: what is committed the [gateway tap](crate::gateway_tap) brings, what is
//! passed on and stored nowhere comes from ingest. It serialises each event once for all who get it. A
//! subscription whose session cannot take more is taken out and told from which [`Seq`] on it has seen
//! nothing; it then reads L1 itself and comes back. So a slow reader costs the others nothing and loses
//! nothing. Nothing here waits: the table is held for as long as a look into it takes.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use event::{Event, EventId, Filter, Packed, PublicKey};
use store::{Seq, Store};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    deliveries::Deliveries,
    sight::Sight,
    subscriptions::{Slot, Subscriptions},
    wire::{self, Frame, SubscriptionId},
};

/// Events that were passed on and stored nowhere: so many are remembered, since a client may publish one
/// here and at a peer.
const PASSED_ON_REMEMBERED_MAX: usize = 16_384;

/// The live stage of all subscriptions.
#[derive(Clone)]
pub struct Delta {
    table: Arc<Mutex<Table>>,
    /// The table's position, for those who wait for it.
    positions: watch::Sender<Seq>,
}

struct Table {
    subscriptions: Subscriptions<Subscriber>,
    deliveries: Deliveries,
    /// All events before this one have been handed out.
    position: Seq,
    /// How many of the subscriptions are peers'.
    peers: usize,
    passed_on: Recent,
}

struct Subscriber {
    id: SubscriptionId,
    sight: Sight,
    /// Events before this one reached it another way: it may be ahead of the table's position.
    from: Seq,
    frames: mpsc::Sender<Frame>,
    behind: oneshot::Sender<Seq>,
    /// If it is a peer, which gets only what clients of this relay brought.
    peer: Option<PublicKey>,
}

/// Who joins the live stage.
pub struct Listener<'a> {
    pub id: &'a SubscriptionId,
    pub sight: &'a Sight,
    pub filters: &'a [Filter],
    pub frames: &'a mpsc::Sender<Frame>,
    /// If it is a peer, which gets only what clients of this relay brought.
    pub peer: Option<PublicKey>,
}

/// A committed event.
pub struct Live {
    pub seq: Seq,
    pub packed: Vec<u8>,
    /// Whether a client of this relay brought it, and peers may have it from here.
    pub is_ours: bool,
}

/// By whom an event was brought that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    Client,
    /// A client, and it stays on this relay.
    Local,
    Peer,
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
        self.delta.lock().take_out(self.slot);
    }
}

impl Delta {
    /// A live stage without subscriptions, where L1 is now.
    pub fn new(store: &Store, deliveries: Deliveries) -> Delta {
        let position = store.next_seq();
        let table = Table {
            subscriptions: Subscriptions::default(),
            deliveries,
            position,
            peers: 0,
            passed_on: Recent::default(),
        };
        Delta { table: Arc::new(Mutex::new(table)), positions: watch::Sender::new(position) }
    }

    /// Adds a subscription whose events before `from` have been delivered. Refused with where the
    /// live stage is, if that is further on: the subscriber has to read L1 up to there first. `joined`
    /// runs before the first live event can come.
    pub fn join(
        &self,
        listener: Listener<'_>,
        from: Seq,
        joined: impl FnOnce(),
    ) -> Result<Following, Seq> {
        let mut table = self.lock();
        if from < table.position {
            return Err(table.position);
        }
        let (slot, behind) = table.put_in(listener, from);
        joined();
        Ok(Following { delta: self.clone(), slot, behind })
    }

    /// Adds a subscription to what comes from now on.
    pub fn join_now(&self, listener: Listener<'_>) -> Following {
        let mut table = self.lock();
        let position = table.position;
        let (slot, behind) = table.put_in(listener, position);
        Following { delta: self.clone(), slot, behind }
    }

    /// Whether a peer listens.
    pub fn has_peers(&self) -> bool {
        self.lock().peers > 0
    }

    /// Everything before this has been handed out.
    pub fn position(&self) -> Seq {
        self.lock().position
    }

    /// Resolves when the event at this place has been handed out.
    pub async fn passed(&self, seq: Seq) {
        // An error would be the end of `self`.
        let _ = self.positions.subscribe().wait_for(|position| *position > seq).await;
    }

    /// Hands out an event that is not stored, unless it was a moment ago; says whether. A session that is
    /// behind does not get it: it could not be told from where to catch up.
    pub fn pass_on(&self, event: &Event, by: Brought) -> bool {
        let packed = event.pack();
        let Ok(view) = Packed::trusted(&packed) else { return false };
        let mut table = self.lock();
        let is_new = table.passed_on.note(event.id);
        if is_new {
            table.hand_out(None, &view, by == Brought::Client);
        }
        is_new
    }

    /// Hands out a page of what L1 has committed, and is at `next` then.
    pub fn hand_out_page(&self, page: &[Live], next: Seq) {
        let mut table = self.lock();
        for live in page {
            if let Ok(event) = Packed::trusted(&live.packed) {
                table.hand_out(Some(live.seq), &event, live.is_ours);
            }
        }
        table.position = next;
        self.positions.send_replace(next);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder panics")
    }
}

impl Table {
    fn put_in(&mut self, listener: Listener<'_>, from: Seq) -> (Slot, oneshot::Receiver<Seq>) {
        let (sender, behind) = oneshot::channel();
        let Listener { id, sight, filters, frames, peer } = listener;
        self.peers += usize::from(peer.is_some());
        let subscriber = Subscriber {
            id: id.clone(),
            sight: sight.clone(),
            from,
            frames: frames.clone(),
            behind: sender,
            peer,
        };
        (self.subscriptions.insert(filters.to_vec(), subscriber), behind)
    }

    fn take_out(&mut self, slot: Slot) -> Option<Subscriber> {
        let subscriber = self.subscriptions.remove(slot)?;
        self.peers -= usize::from(subscriber.peer.is_some());
        Some(subscriber)
    }

    /// Gives an event to all who want it; one without a seq is stored nowhere.
    fn hand_out(&mut self, seq: Option<Seq>, event: &Packed<'_>, is_ours: bool) {
        let mut json: Option<Arc<str>> = None;
        let message = self.deliveries.message(event);
        let mut full = Vec::new();
        for (slot, subscriber) in self.subscriptions.wanting(event) {
            let is_known = seq.is_some_and(|seq| seq < subscriber.from);
            let is_elsewheres = subscriber.peer.is_some() && !is_ours;
            if is_known || is_elsewheres || !subscriber.sight.shows(event) {
                continue;
            }
            let json = json.get_or_insert_with(|| wire::json_of(event).into());
            let frame = Frame::Live(subscriber.id.clone(), json.clone());
            if subscriber.frames.try_send(frame).is_err() {
                full.push(slot);
            } else if let Some(message) = &message {
                match subscriber.peer {
                    Some(peer) => self.deliveries.forwarded(message, peer),
                    None => self.deliveries.delivered(message, &subscriber.sight, true),
                }
            }
        }
        for slot in full {
            if let Some(subscriber) = self.take_out(slot) {
                // The session may be gone altogether, and then this goes nowhere.
                let _ = subscriber.behind.send(seq.unwrap_or(self.position.max(subscriber.from)));
            }
        }
    }
}

/// The last ids, so that none of them counts twice.
#[derive(Default)]
struct Recent {
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Recent {
    /// False: it was among them.
    fn note(&mut self, id: EventId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > PASSED_ON_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_once_until_it_is_forgotten() {
        let id = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(number as u64).to_le_bytes());
            EventId(id)
        };
        let mut recent = Recent::default();
        assert!((0..PASSED_ON_REMEMBERED_MAX).all(|number| recent.note(id(number))));
        assert!(!recent.note(id(0)));
        assert!(recent.note(id(PASSED_ON_REMEMBERED_MAX)));
        assert!(recent.note(id(0)));
        assert_eq!(recent.ids.len(), recent.order.len());
    }
}
