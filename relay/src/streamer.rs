//! One subscription from REQ to CLOSE: what is stored, EOSE, then what comes.
//!
//! Stored and live stage meet at one number: the stored stage leaves out everything from the horizon
//! on, and the live stage starts at exactly the horizon. Nothing is lost between them and nothing
//! comes twice, however long a slow client takes over the stored events.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use event::{Filter, Packed};
use index::{Found, Matcher, Reader, Scan, Take};
use store::{ReadError, Seq};
use tokio::sync::mpsc;
use tracing::error;

use crate::{
    delta::Delta,
    metrics::Metrics,
    reads::{Deadline, Reads, Turn},
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
    pub metrics: Arc<Metrics>,
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
        self.send_stored(horizon).await?;
        self.send(wire::eose(&self.id)).await?;
        let mut delivered = horizon;
        loop {
            match self.delta.join(&self.id, &self.filters, delivered, &self.frames) {
                Ok(mut following) => delivered = following.fell_behind().await,
                Err(position) => delivered = self.send_between(delivered, position).await?,
            }
        }
    }

    /// Everything stored before `horizon`, newest first.
    async fn send_stored(self: &Arc<Self>, horizon: Seq) -> Result<(), End> {
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
            self.send_events(page).await?;
            if is_done {
                return Ok(());
            }
            (scan, turn) = (behind_page, Turn::Further);
        }
    }

    /// What was committed from `from` up to `to`, in that order: for a subscription that was behind.
    /// Returns how far it came.
    async fn send_between(self: &Arc<Self>, from: Seq, to: Seq) -> Result<Seq, End> {
        let this = self.clone();
        let read = self.reads.read(Turn::First, move |store, deadline| {
            let matchers: Vec<Matcher> = this.filters.iter().map(Matcher::new).collect();
            let mut page = Page::new(deadline);
            let reached = store.since(from, to, |_, event| {
                if matchers.iter().any(|matcher| matcher.matches(event)) {
                    page.push(event);
                }
                let is_over = page.is_full() || deadline.is_over();
                if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok((page.events, reached))
        });
        let (page, reached) = read.await.ok_or(End::Gone)??;
        self.send_events(page).await?;
        Ok(reached)
    }

    async fn send_events(&self, events: Vec<String>) -> Result<(), End> {
        for json in events {
            self.send(wire::event(&self.id, &json)).await?;
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
    events: Vec<String>,
    bytes: usize,
    deadline: Deadline,
}

impl Page {
    fn new(deadline: Deadline) -> Page {
        Page { events: Vec::new(), bytes: 0, deadline }
    }

    fn push(&mut self, event: &Packed<'_>) {
        let json = wire::json_of(event);
        self.bytes += json.len();
        self.events.push(json);
    }

    fn is_full(&self) -> bool {
        self.events.len() >= PAGE_EVENTS_MAX || self.bytes >= PAGE_BYTES_MAX
    }
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.push(&found.event());
        if self.is_full() { Take::Last } else { Take::More }
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}
