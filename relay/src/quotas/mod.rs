//! How much messages may take: those to one receiver, and all together.
//!
//! To count what is held is too dear to do with each message, so there are books: an account for each
//! receiver that somebody wrote to lately, and one for all. An account says what a count found in L1, and what
//! came since, which the books learn as everybody does, by following L1. So it knows what other relays
//! brought too, and never says too little; it may say too much, since it is not told of what goes. Only
//! when that would be over the quota, or when nothing was counted yet, L1 is counted again.
//!
//! A client's message has its room reserved before it is written and until the books have met it in L1, all under one
//! lock: however many come at once, they do not go over the quota together. What other relays bring is never
//! refused, and may.

mod books;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use event::{EventId, Packed};
use store::{Seq, Store, Writer};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::books::{Books, Count, Limit, Whose};
use crate::{
    config::terms::{InForce, MessageTerms, OverQuota},
    deliveries::{Deliveries, Fact},
    message::{self, Message},
    metrics::Metrics,
    reads::Reads,
    removals::Removals,
    verdict::Rejection,
    walk::{Unread, walk},
};

/// How often somebody may be quicker to take the room that was found.
const TRIES_MAX: usize = 16;
/// When messages are dropped, so much of the quota comes free beyond what is needed, or each message would
/// cost a count: one part of so many.
const SLACK_PART: u64 = 64;
/// Messages that go at a time.
const DROPPED_MAX: usize = 16_384;
/// How long a message waits for the books to have met what was stored before it.
const MEETING_TIME_MAX: Duration = Duration::from_secs(1);
/// Events of L1 that the books read at a time.
const PAGE_EVENTS_MAX: usize = 1_024;

/// Keeps to the quotas.
pub struct Quotas {
    books: Mutex<Books>,
    in_force: InForce,
    reads: Reads,
    writer: Writer,
    removals: Removals,
    deliveries: Deliveries,
    metrics: Arc<Metrics>,
}

/// What quotas need.
pub struct Parts {
    pub in_force: InForce,
    pub reads: Reads,
    pub writer: Writer,
    pub removals: Removals,
    pub deliveries: Deliveries,
    pub metrics: Arc<Metrics>,
}

/// Room for one message. Dropped, it is free again, unless the message is stored.
pub struct Room {
    quotas: Arc<Quotas>,
    id: EventId,
    is_taken: bool,
}

impl Room {
    /// The message is in L1.
    pub fn take(mut self, seq: Seq) {
        self.is_taken = true;
        self.quotas.books().note_stored(&self.id, seq);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.is_taken {
            self.quotas.books().give_back(&self.id);
        }
    }
}

/// What a count finds.
struct Held {
    bytes: u64,
    /// Beyond this messages are surplus.
    room: u64,
    /// The oldest, if they are to go: newest of them first.
    surplus: VecDeque<(EventId, u64)>,
    collects: bool,
}

impl Held {
    fn add(&mut self, event: &Packed<'_>) {
        let bytes = message::bytes_of(event);
        self.bytes += bytes;
        if self.collects && self.bytes > self.room {
            self.surplus.push_back((event.id(), bytes));
            if self.surplus.len() > DROPPED_MAX {
                self.surplus.pop_front();
            }
        }
    }
}

impl Quotas {
    /// `store` is L1 as it is before anybody writes to it.
    pub fn new(store: &Store, parts: Parts) -> Quotas {
        let Parts { in_force, reads, writer, removals, deliveries, metrics } = parts;
        let books = Mutex::new(Books::new(store.next_seq()));
        Quotas { books, in_force, reads, writer, removals, deliveries, metrics }
    }

    /// Room for a message that a client brings.
    pub async fn admit(self: &Arc<Self>, message: &Message) -> Result<Room, Rejection> {
        let terms = self.in_force.load_full();
        self.books().keep_to(&terms.guarded_kinds);
        let limits = limits_of(message, &terms.messages);
        for limit in &limits {
            self.find_room(limit, message, terms.messages.over_quota).await?;
        }
        for _ in 0..TRIES_MAX {
            let reserved = self.books().reserve(message, &limits);
            match reserved {
                Ok(()) => {
                    return Ok(Room { quotas: self.clone(), id: message.id, is_taken: false });
                }
                Err(limit) => self.find_room(&limit, message, terms.messages.over_quota).await?,
            }
        }
        Err(Rejection::OverQuota(None))
    }

    /// Forgets what was counted: something has gone.
    pub fn count_anew(&self) {
        self.books().forget_counts();
    }

    /// Follows L1 until `stop`.
    pub async fn follow(self: Arc<Self>, store: Store, stop: CancellationToken) {
        let mut newest = store.follow();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = newest.changed() => if changed.is_err() { return },
            }
            let (this, store, to) = (self.clone(), store.clone(), *newest.borrow_and_update());
            let read = tokio::task::spawn_blocking(move || this.catch_up(&store, to)).await;
            if let Err(error) = read {
                error!(%error, "the books of messages failed");
            }
        }
    }

    fn catch_up(&self, store: &Store, to: Seq) {
        loop {
            let (from, guarded) = {
                let mut books = self.books();
                books.keep_to(&self.in_force.load().guarded_kinds);
                (books.position(), books.guarded().to_vec())
            };
            if from >= to {
                return;
            }
            let (mut met, mut events) = (Vec::new(), 0);
            let read = store.since_with_quiet(from, to, |_, event| {
                met.extend(Message::of(event, &guarded));
                events += 1;
                let is_full = events >= PAGE_EVENTS_MAX;
                if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match read {
                Ok(position) => self.books().meet(&met, position),
                Err(error) => {
                    error!(%error, "L1 cannot be read; the books of messages wait");
                    return;
                }
            }
        }
    }

    /// Makes sure that a message has room under a limit, at least for a moment.
    async fn find_room(
        &self,
        limit: &Limit,
        message: &Message,
        over_quota: OverQuota,
    ) -> Result<(), Rejection> {
        let (whose, bytes, drops) =
            (limit.whose, message.bytes, over_quota == OverQuota::DropOldest);
        if self.books().has_room(limit, bytes) {
            return Ok(());
        }
        if bytes > limit.bytes_max {
            return Err(self.refusal(whose));
        }
        let turn = self.books().turn(whose);
        let _turn = turn.lock().await;
        // Somebody else may have counted meanwhile.
        if self.books().has_room(limit, bytes) {
            return Ok(());
        }
        if !drops && self.books().was_counted_lately(whose) {
            return Err(self.refusal(whose));
        }
        if drops && self.books().has_reserved_in(whose) {
            // What is stored and not yet met no count finds, and so it could not go.
            self.meet_all().await;
        }
        let held = self.count(limit, bytes, drops).await?;
        if self.books().has_room(limit, bytes) {
            return Ok(());
        }
        self.drop_surplus(whose, held).await?;
        if self.books().has_room(limit, bytes) { Ok(()) } else { Err(self.refusal(whose)) }
    }

    /// Waits until the books have met what is stored by now, but not for long: if L1 cannot be read, they
    /// never do.
    async fn meet_all(&self) {
        let (stored, mut positions) = (self.reads.horizon(), self.books().positions());
        let _ = timeout(MEETING_TIME_MAX, positions.wait_for(|position| *position >= stored)).await;
    }

    /// Tells of it now and then, and not of each.
    fn refusal(&self, whose: Whose) -> Rejection {
        if let Some(bytes) = self.books().shortage(whose) {
            let done = "refused";
            self.deliveries.note(Fact::OverQuota { receiver: whose, bytes, done, dropped: 0 });
        }
        Rejection::OverQuota(whose)
    }

    /// Counts what L1 holds, and writes it into the books. Who calls this has the account's turn.
    async fn count(&self, limit: &Limit, bytes: u64, collects: bool) -> Result<Held, Rejection> {
        let Limit { whose, bytes_max } = *limit;
        let Count { guarded, end, reserved } = self.books().begin_count(whose);
        let room = bytes_max.saturating_sub(bytes_max / SLACK_PART + bytes + reserved);
        let filter = message::filter(whose, guarded);
        let held = Held { bytes: 0, room, surplus: VecDeque::new(), collects };
        let held = walk(&self.reads, filter, end, held, Held::add).await;
        let held = held.map_err(uncounted)?;
        self.books().note_counted(whose, held.bytes);
        Ok(held)
    }

    /// Takes the oldest messages out, here and where L2 lets us.
    async fn drop_surplus(&self, whose: Whose, held: Held) -> Result<(), Rejection> {
        let Held { bytes, surplus, .. } = held;
        let dropped = surplus.len();
        if dropped == 0 {
            return Ok(());
        }
        let freed: u64 = surplus.iter().map(|(_, bytes)| bytes).sum();
        let ids: Vec<EventId> = surplus.into_iter().map(|(id, _)| id).collect();
        self.writer.delete(ids.clone()).await?;
        self.books().note_left(whose, bytes - freed);
        self.metrics.messages_dropped.inc_by(dropped as u64);
        self.removals.ask(ids, "over quota");
        self.deliveries.note(Fact::OverQuota { receiver: whose, bytes, done: "dropped", dropped });
        Ok(())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no holder panics")
    }
}

fn uncounted(cause: Unread) -> Rejection {
    match cause {
        Unread::Stopping => Rejection::Error("the relay is stopping"),
        Unread::Store(cause) => {
            error!(%cause, "messages cannot be counted");
            Rejection::Error("the relay cannot read its store")
        }
    }
}

/// What a message is held to.
fn limits_of(message: &Message, terms: &MessageTerms) -> Vec<Limit> {
    let of_key = terms
        .bytes_per_key_max
        .map(|bytes_max| message.to.iter().map(move |key| Limit { whose: Some(*key), bytes_max }));
    let of_all = terms.bytes_total_max.map(|bytes_max| Limit { whose: None, bytes_max });
    of_key.into_iter().flatten().chain(of_all).collect()
}
