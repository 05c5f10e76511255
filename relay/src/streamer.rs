//! One subscription from REQ to CLOSE: what is stored, EOSE, then what comes.
//!
//! Stored and live stage meet at one number: the stored stage leaves out everything from the horizon
//! on, and the live stage starts at exactly the horizon. Nothing is lost between them and nothing
//! comes twice, however long a slow client takes over the stored events.
//!
//! Of some events L1 has only a stub. Their bodies come from L2 and take their places in the answer;
//! if L2 is too slow, the answer goes on without them and they follow when they come.

use std::{collections::BTreeSet, ops::ControlFlow, pin::pin, sync::Arc};

use event::{EventId, Filter, Packed, Timestamp, Verified};
use index::{Found, Matcher, Reader, Scan, Take};
use store::{ReadError, Seq};
use tokio::{sync::mpsc, time::Instant};
use tracing::{error, info};

use crate::{
    delta::{Delta, Following},
    metrics::Metrics,
    reads::{Deadline, Reads, Turn},
    revive::{Revival, Whole},
    wire::{self, Frame, SubscriptionId},
};

/// How much of a subscription's answer is read ahead of a slow client, in bytes of JSON.
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// The same in events.
const PAGE_EVENTS_MAX: usize = 512;

/// What a subscription is made of.
pub struct Streamer {
    pub id: SubscriptionId,
    pub filters: Vec<Filter>,
    pub reads: Reads,
    pub delta: Delta,
    pub frames: mpsc::Sender<Frame>,
    pub revival: Arc<Revival>,
    pub metrics: Arc<Metrics>,
}

/// What an answer still owes, because only L2 has it.
#[derive(Default)]
struct Owed {
    ids: Vec<EventId>,
    /// Until when the answer waits: set when the first stub is met.
    deadline: Option<Instant>,
}

/// Why a streamer ends on its own.
enum End {
    /// The session is gone.
    Gone,
    /// L1 cannot be read.
    Unreadable(ReadError),
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> End {
        End::Unreadable(error)
    }
}

impl Streamer {
    /// Streams until the session ends or takes the subscription away by dropping this future.
    pub async fn run(self) {
        let streamer = Arc::new(self);
        let Err(end) = streamer.clone().stream().await;
        if let End::Unreadable(error) = end {
            error!(%error, "L1 cannot be read; a subscription ends");
            let closed = wire::closed(&streamer.id, "error: the relay cannot read its store");
            let _ = streamer.frames.send(Frame::Text(closed)).await;
        }
    }

    async fn stream(self: Arc<Self>) -> Result<std::convert::Infallible, End> {
        let horizon = self.reads.horizon();
        let mut owed = Owed::default();
        self.send_stored(horizon, &mut owed).await?;
        self.send_what_was_pruned(&mut owed).await?;
        self.send(wire::eose(&self.id)).await?;
        let mut delivered = horizon;
        loop {
            match self.delta.join(&self.id, &self.filters, delivered, &self.frames) {
                Ok(following) => delivered = self.follow(following, &mut owed).await?,
                Err(position) => {
                    delivered = self.send_between(delivered, position, &mut owed).await?;
                }
            }
        }
    }

    /// Waits until the session falls behind the live stage, and sends what the answer still owes.
    async fn follow(&self, mut following: Following, owed: &mut Owed) -> Result<Seq, End> {
        let mut behind = pin!(following.fell_behind());
        while !owed.ids.is_empty() {
            tokio::select! {
                seq = &mut behind => return Ok(seq),
                late = self.revival.fetch_patiently(&owed.ids) => {
                    info!(subscription = %self.id, asked = owed.ids.len(), came = late.len(), "late events");
                    owed.ids.clear();
                    self.send_whole(late.values()).await?;
                }
            }
        }
        Ok(behind.await)
    }

    /// Everything stored before `horizon`, newest first.
    async fn send_stored(self: &Arc<Self>, horizon: Seq, owed: &mut Owed) -> Result<(), End> {
        let Some(newest) = horizon.0.checked_sub(1) else { return Ok(()) };
        let mut scan = Scan::new(&self.filters).up_to(Seq(newest));
        let mut turn = Turn::First;
        loop {
            let metrics = self.metrics.clone();
            let read = self.reads.read(turn, move |store, deadline| {
                let mut page = Page::new(deadline);
                let started = Instant::now();
                let is_done = store.page(&mut scan, &mut page)?;
                metrics.query_page_seconds.observe(started.elapsed().as_secs_f64());
                Ok((page.events, is_done, scan))
            });
            let (page, is_done, behind_page) = read.await.ok_or(End::Gone)??;
            self.send_events(page, owed).await?;
            if is_done {
                return Ok(());
            }
            (scan, turn) = (behind_page, Turn::Further);
        }
    }

    /// What was committed from `from` up to `to`, in that order: for a subscription that was behind.
    /// Returns how far it came.
    async fn send_between(
        self: &Arc<Self>,
        from: Seq,
        to: Seq,
        owed: &mut Owed,
    ) -> Result<Seq, End> {
        let this = self.clone();
        let read = self.reads.read(Turn::First, move |store, mut deadline| {
            let matchers: Vec<Matcher> = this.filters.iter().map(Matcher::new).collect();
            let mut page = Page::new(deadline);
            let reached = store.since(from, to, |seq, event| {
                if matchers.iter().any(|matcher| matcher.matches(event)) {
                    page.push(seq, event);
                }
                let is_over = page.is_full() || deadline.is_over();
                if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok((page.events, reached))
        });
        let (page, reached) = read.await.ok_or(End::Gone)??;
        self.send_events(page, owed).await?;
        Ok(reached)
    }

    /// Sends a page, the bodies of its stubs in their places.
    async fn send_events(&self, page: Vec<Item>, owed: &mut Owed) -> Result<(), End> {
        let (mut stubs, mut served) = (Vec::new(), Vec::new());
        for item in &page {
            match item {
                Item::Whole(seq, _) => served.push(*seq),
                Item::Stub(id) => stubs.push(*id),
            }
        }
        self.reads.note_served(served);
        let mut revived = self.fetch(&stubs, owed).await;
        for item in page {
            match item {
                Item::Whole(_, json) => self.send(wire::event(&self.id, &json)).await?,
                Item::Stub(id) => match revived.remove(&id) {
                    Some(event) => self.send_whole([&event]).await?,
                    None => owed.ids.push(id),
                },
            }
        }
        Ok(())
    }

    /// Events asked for by id of which L1 does not even have a stub any more.
    async fn send_what_was_pruned(self: &Arc<Self>, owed: &mut Owed) -> Result<(), End> {
        if !self.revival.may_be_pruned || self.filters.iter().all(|filter| filter.ids.is_none()) {
            return Ok(());
        }
        let this = self.clone();
        let read = self.reads.read(Turn::First, move |store, _| {
            let floor = store.complete_since()?;
            let reaches_below = |filter: &&Filter| filter.since.is_none_or(|since| since < floor);
            let filters = this.filters.iter().filter(reaches_below);
            let mut pruned = BTreeSet::new();
            for id in filters.flat_map(|filter| filter.ids.iter().flatten()) {
                if floor > Timestamp(0) && !store.contains(id)? {
                    pruned.insert(*id);
                }
            }
            Ok(pruned.into_iter().collect::<Vec<_>>())
        });
        let pruned = read.await.ok_or(End::Gone)??;
        let found = self.fetch(&pruned, owed).await;
        let is_wanted = |event: &&Verified| self.filters.iter().any(|filter| filter.matches(event));
        self.send_whole(found.values().filter(is_wanted)).await
    }

    /// Asks L2, for as long as this answer has not yet waited too long.
    async fn fetch(&self, ids: &[EventId], owed: &mut Owed) -> Whole {
        if ids.is_empty() {
            return Whole::new();
        }
        let latest = || Instant::now() + self.revival.patience;
        let deadline = *owed.deadline.get_or_insert_with(latest);
        self.revival.fetch_until(ids, deadline).await
    }

    async fn send_whole(&self, events: impl IntoIterator<Item = &Verified>) -> Result<(), End> {
        for event in events {
            self.send(wire::event(&self.id, &event.to_json())).await?;
        }
        Ok(())
    }

    /// Waits while the client is slow: stored events are never dropped.
    async fn send(&self, frame: String) -> Result<(), End> {
        self.frames.send(Frame::Text(frame)).await.map_err(|_| End::Gone)
    }
}

/// A page of events as JSON.
struct Page {
    events: Vec<Item>,
    bytes: usize,
    deadline: Deadline,
}

enum Item {
    Whole(Seq, String),
    Stub(EventId),
}

impl Page {
    fn new(deadline: Deadline) -> Page {
        Page { events: Vec::new(), bytes: 0, deadline }
    }

    fn push(&mut self, seq: Seq, event: &Packed<'_>) {
        if event.is_stub() {
            self.events.push(Item::Stub(event.id()));
            return;
        }
        let json = wire::json_of(event);
        self.bytes += json.len();
        self.events.push(Item::Whole(seq, json));
    }

    fn is_full(&self) -> bool {
        self.events.len() >= PAGE_EVENTS_MAX || self.bytes >= PAGE_BYTES_MAX
    }
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.push(found.seq, &found.event());
        if self.is_full() { Take::Last } else { Take::More }
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}
