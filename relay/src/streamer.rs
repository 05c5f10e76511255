//! One subscription from REQ to CLOSE: what is stored, EOSE, then what comes.
//!
//! Stored and live stage meet at one number: the stored stage leaves out everything from the horizon
//! on, and the live stage starts at exactly the horizon. Nothing is lost between them and nothing
//! comes twice, however long a slow client takes over the stored events.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use event::{Filter, Packed};
use index::{Found, Matcher, Reader, Scan, Take};
use store::{ReadError, Seq, Store};
use tokio::sync::mpsc;
use tracing::error;

use crate::{
    delta::Delta,
    metrics::Metrics,
    wire::{self, Frame, SubscriptionId},
};

/// How much of a subscription's answer is read ahead of a slow client, in bytes of JSON.
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// The same in events.
const PAGE_EVENTS_MAX: usize = 128;

/// What a subscription is made of.
pub struct Streamer {
    pub id: SubscriptionId,
    pub filters: Vec<Filter>,
    pub store: Store,
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
        let horizon = *self.store.follow().borrow();
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
        let mut cursor = Scan::new(&self.filters).cursor();
        loop {
            let this = self.clone();
            let (page, is_done, behind_page) = read(move || {
                let mut scan = Scan::resume(&this.filters, &cursor).up_to(Seq(newest));
                let mut page = Page::default();
                let started = Instant::now();
                let is_done = this.store.page(&mut scan, &mut page)?;
                this.metrics.query_page_seconds.observe(started.elapsed().as_secs_f64());
                Ok((page.events, is_done, scan.cursor()))
            })
            .await?;
            self.send_events(page).await?;
            if is_done {
                return Ok(());
            }
            cursor = behind_page;
        }
    }

    /// What was committed from `from` up to `to`, in that order: for a subscription that was behind.
    /// Returns how far it came.
    async fn send_between(self: &Arc<Self>, from: Seq, to: Seq) -> Result<Seq, End> {
        let this = self.clone();
        let (page, reached) = read(move || {
            let matchers: Vec<Matcher> = this.filters.iter().map(Matcher::new).collect();
            let mut page = Page::default();
            let reached = this.store.since(from, to, |_, event| {
                if matchers.iter().any(|matcher| matcher.matches(event)) {
                    page.push(event);
                }
                if page.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok((page.events, reached))
        })
        .await?;
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

/// Reads L1 where a page that has to come from the disk holds nobody up.
async fn read<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, End> {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => Ok(read?),
        // The runtime is shutting down, and the session with it.
        Err(_) => Err(End::Gone),
    }
}

/// A page of events as JSON.
#[derive(Default)]
struct Page {
    events: Vec<String>,
    bytes: usize,
}

impl Page {
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
}
