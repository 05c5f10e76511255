//! One subscription from REQ to CLOSE: what is stored, EOSE, then what comes.
//!
//! Stored and live stage meet at one number: the stored stage leaves out everything from the horizon
//! on, and the live stage starts at exactly the horizon. Nothing is lost between them and nothing
//! comes twice, however long a slow client takes over the stored events.
//!
//! What L1 cannot know is asked of L2 before anything is sent ([`Inquiry`]); then L1 answers. If L2 is too
//! slow, L1 answers with what it has, and the rest follows after EOSE.
//!
//! What filters with words find (NIP-50) follows what the others do, in order of relevance ([`Searcher`]).
//! They have no live stage: where a new event would stand among those that were sent nobody can say.
//!
//! Of some events L1 has only a stub. Their bodies come from L2 and take their places in the answer;
//! if L2 is too slow, the answer goes on without them and they follow when they come.

mod page;

use std::{collections::HashSet, ops::ControlFlow, pin::pin, sync::Arc};

use event::{EventId, Filter, Packed, Timestamp, Verified};
use index::{Cursor, Matcher, Scan};
use store::{Hold, ReadError, Seq};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep},
};
use tracing::{error, info, warn};

use self::page::{Item, Next, Page};
use crate::{
    backlog::Backlog,
    backoff::backoff,
    deliveries::Deliveries,
    delta::{Delta, Following, Listener},
    inquiry::{Inquiry, Settled, has_lost},
    message::Message,
    metrics::Metrics,
    peers::tapper::Tapper,
    reads::{Reads, Turn},
    revive::{Revival, Whole},
    searcher::{SearchError, Searcher},
    sight::Sight,
    wire::{self, Completeness, Frame, SubscriptionId},
};

/// How often L2 is asked for one answer because collections took some of it away again: before EOSE,
const TRIES_MAX: u32 = 4;
/// and after it, with longer and longer pauses.
const LATE_TRIES_MAX: u32 = 16;

/// What a subscription is made of.
pub struct Streamer {
    pub id: SubscriptionId,
    pub filters: Vec<Filter>,
    /// Who answers those of them that have words in them.
    pub searcher: Option<Arc<Searcher>>,
    pub sight: Sight,
    pub reads: Reads,
    pub delta: Delta,
    pub tapper: Arc<Tapper>,
    pub frames: mpsc::Sender<Frame>,
    pub backlog: Backlog,
    pub revival: Arc<Revival>,
    /// Who asks L2, if there is one.
    pub inquiry: Option<Arc<Inquiry>>,
    pub deliveries: Deliveries,
    pub metrics: Arc<Metrics>,
}

/// What an answer still owes, because only L2 has it.
#[derive(Default)]
struct Owed {
    ids: Vec<EventId>,
    /// Until when the answer waits for bodies: set when the first stub is met.
    deadline: Option<Instant>,
    /// Whether L2 still has to say what else there is.
    is_unsettled: bool,
    /// What was sent, if another filter may find it by its words once more.
    places: Option<HashSet<Seq>>,
    /// What was sent of an answer that may have to be completed later. Some of it may be given up meanwhile
    /// and come once more.
    sent: Option<HashSet<EventId>>,
    /// How often L2 was asked in vain: it is all given up again before it is read.
    tries: u32,
    /// Whether something may be missing that L2 will not give.
    is_partial: bool,
}

/// What the pages of an answer stand on.
#[derive(Clone)]
struct Ground {
    /// What came later is live, but for what was read through since.
    horizon: Seq,
    /// From before L1 came to have all that is asked for. None: the answer is what L1 has.
    hold: Option<Arc<Hold>>,
}

impl Ground {
    /// Whether something was given up that lies between two places of the answer.
    fn has_lost(&self, filters: &[Filter], start: &Cursor, end: &Cursor) -> bool {
        let newest = start.after.map_or(Timestamp(u64::MAX), |after| after.created_at);
        let oldest = end.after.map_or(Timestamp(0), |after| after.created_at);
        self.hold.as_ref().is_some_and(|hold| has_lost(hold, filters, oldest..=newest))
    }
}

/// Why a streamer ends on its own.
enum End {
    /// The session is gone.
    Gone,
    /// L1, or the index of words, cannot be read.
    Unreadable(SearchError),
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> End {
        End::Unreadable(error.into())
    }
}

impl Streamer {
    /// Streams until the session ends or takes the subscription away by dropping this future.
    pub async fn run(mut self) {
        let (searches, filters) =
            self.filters.into_iter().partition(|filter: &Filter| filter.search.is_some());
        self.filters = filters;
        let streamer = Arc::new(self);
        let Err(end) = streamer.clone().stream(searches).await;
        if let End::Unreadable(error) = end {
            error!(%error, "L1 cannot be read; a subscription ends");
            let closed = wire::closed(&streamer.id, "error: the relay cannot read its store");
            let _ = streamer.frames.send(Frame::Text(closed)).await;
        }
    }

    /// From here on `filters` are those without words.
    async fn stream(
        self: Arc<Self>,
        searches: Vec<Filter>,
    ) -> Result<std::convert::Infallible, End> {
        // Before the place in the live stage, and given up after it.
        let _demand = self.tapper.demand(&self.filters, &self.sight);
        let may_find_twice = !searches.is_empty() && searches.len() + self.filters.len() > 1;
        let places = may_find_twice.then(HashSet::new);
        let mut owed = Owed { places, ..Owed::default() };
        let (horizon, hint) = self.send_stored(&searches, &mut owed).await?;
        owed.places = None;
        if !owed.is_unsettled {
            owed.sent = None;
        }
        let eose = Frame::Text(wire::eose(&self.id, hint));
        let place = self.frames.reserve().await.map_err(|_| End::Gone)?;
        // EOSE comes with the place in the live stage: who has heard it, and then publishes something that
        // is passed on and not stored, is to hear that too.
        let mut joined = self.join(horizon, || place.send(eose.clone()));
        if joined.is_err() {
            self.send(eose).await?;
        }
        let mut delivered = horizon;
        loop {
            delivered = match joined {
                Ok(following) => self.follow(following, horizon, &mut owed).await?,
                Err(position) => self.send_between(delivered, position, &mut owed).await?,
            };
            joined = self.join(delivered, || ());
        }
    }

    fn join(&self, delivered: Seq, joined: impl FnOnce()) -> Result<Following, Seq> {
        let listener = Listener {
            id: &self.id,
            sight: &self.sight,
            filters: &self.filters,
            frames: &self.frames,
            peer: None,
        };
        self.delta.join(listener, delivered, joined)
    }

    /// Waits until the session falls behind the live stage, and sends what the answer still owes.
    async fn follow(
        self: &Arc<Self>,
        mut following: Following,
        horizon: Seq,
        owed: &mut Owed,
    ) -> Result<Seq, End> {
        let mut behind = pin!(following.fell_behind());
        while !owed.ids.is_empty() || owed.is_unsettled {
            tokio::select! {
                seq = &mut behind => return Ok(seq),
                late = self.revival.fetch_patiently(&owed.ids), if !owed.ids.is_empty() => {
                    info!(subscription = %self.id, asked = owed.ids.len(), came = late.len(), "late events");
                    owed.ids.clear();
                    let late = self.still_shown(late).await?;
                    self.send_whole(&late).await?;
                }
                hold = self.settle_late(owed.tries), if owed.is_unsettled => {
                    let ground = Ground { horizon, hold };
                    if self.send_late(ground, owed).await?.is_break() {
                        owed.is_unsettled = false;
                        owed.sent = None;
                    }
                }
            }
        }
        Ok(behind.await)
    }

    /// Those that still belong into the answer: L2 may have been away for hours.
    async fn still_shown(&self, late: Whole) -> Result<Vec<Verified>, End> {
        let sight = self.sight.clone();
        let read = self.reads.read(Turn::Further, move |store, _| {
            let mut shown = Vec::new();
            for event in late.into_values() {
                let packed = event.pack();
                let is_shown = Packed::trusted(&packed).is_ok_and(|event| sight.shows(&event));
                if is_shown && store.lets_in(&event)? {
                    shown.push(event);
                }
            }
            Ok(shown)
        });
        Ok(read.await.ok_or(End::Gone)??)
    }

    /// Sees to it that L1 has what is asked for, if L2 is quick; else that is owed. Returns a hold on it, if
    /// the answer can be held to that.
    async fn settle(&self, owed: &mut Owed) -> Option<Arc<Hold>> {
        let inquiry = self.inquiry.as_ref().filter(|_| !owed.is_unsettled)?;
        if owed.tries < TRIES_MAX {
            owed.tries += 1;
            let hold = self.reads.hold();
            let deadline = Instant::now() + self.revival.patience;
            match inquiry.settle_until(&self.filters, &self.sight, deadline).await {
                Settled::Yes => return Some(Arc::new(hold)),
                Settled::NotYet => {}
                Settled::Never => {
                    owed.is_partial = true;
                    return None;
                }
            }
            // It has waited long enough.
            owed.deadline = Some(deadline);
        }
        owed.is_unsettled = true;
        owed.tries = 0;
        self.metrics.late_answers.inc();
        None
    }

    /// As soon as L2 answers; after a pause, if that came to nothing before.
    async fn settle_late(&self, tries: u32) -> Option<Arc<Hold>> {
        let inquiry = self.inquiry.as_ref()?;
        if tries > 0 {
            sleep(backoff(tries)).await;
        }
        let hold = self.reads.hold();
        inquiry.settle_patiently(&self.filters, &self.sight).await;
        Some(Arc::new(hold))
    }

    /// What the answer would have had, had L2 been quicker. All else of it was sent, or is new, and comes
    /// live. Breaks when that was all, or will not come to more.
    async fn send_late(
        self: &Arc<Self>,
        ground: Ground,
        owed: &mut Owed,
    ) -> Result<ControlFlow<()>, End> {
        let (mut scan, mut turn) = (self.scan(), Turn::First);
        while let Ok(read) = self.read_page(scan, turn, ground.clone()).await? {
            match self.send_page(read, owed).await? {
                Some(rest) => scan = rest,
                None => return Ok(ControlFlow::Break(())),
            }
            turn = Turn::Further;
        }
        owed.tries += 1;
        if owed.tries < LATE_TRIES_MAX {
            return Ok(ControlFlow::Continue(()));
        }
        warn!(subscription = %self.id, "an answer lacks something: it is given up before it is read; the cache is too small");
        Ok(ControlFlow::Break(()))
    }

    /// Everything stored, newest first, then what is found by words. Returns the horizon: what came later
    /// is still to be sent; and whether that was all.
    async fn send_stored(
        self: &Arc<Self>,
        searches: &[Filter],
        owed: &mut Owed,
    ) -> Result<(Seq, Completeness), End> {
        let hold = self.settle(owed).await;
        let has_all = self.inquiry.as_ref().is_none_or(|inquiry| inquiry.has_all());
        owed.sent = (owed.is_unsettled || !has_all).then(HashSet::new);
        let horizon = self.reads.horizon();
        let (mut ground, scan) = (Ground { horizon, hold }, self.scan());
        let mut read = self.next_page(scan, Turn::First, &mut ground, owed).await?;
        let mut end = read.scan.cursor();
        while let Some(scan) = self.send_page(read, owed).await? {
            read = self.next_page(scan, Turn::Further, &mut ground, owed).await?;
            end = read.scan.cursor();
        }
        let mut is_all_found = true;
        for filter in searches {
            is_all_found &= self.send_found(filter, owed).await?;
        }
        let is_alone = self.inquiry.as_ref().is_some_and(|inquiry| inquiry.is_cut_off());
        let is_owed = is_alone || owed.is_partial || owed.is_unsettled || !owed.ids.is_empty();
        let is_owed = is_owed || !is_all_found;
        let is_cut = !is_owed && self.is_cut(end, horizon).await?;
        let hint = if is_owed || is_cut { Completeness::More } else { Completeness::Finish };
        Ok((horizon, hint))
    }

    /// What holds the words of this filter, the best first. Returns whether that is all there is.
    async fn send_found(self: &Arc<Self>, filter: &Filter, owed: &mut Owed) -> Result<bool, End> {
        let Some(searcher) = &self.searcher else { return Ok(false) };
        let found = searcher.find(filter, &self.sight).await.ok_or(End::Gone)?;
        let found = found.map_err(End::Unreadable)?;
        let mut left = found.places;
        if let Some(sent) = &owed.places {
            left.retain(|seq| !sent.contains(seq));
        }
        while !left.is_empty() {
            let (page, rest) = self.read_places(left).await?;
            self.send_events(page, owed).await?;
            left = rest;
        }
        // What only L2 has is found nowhere.
        let is_all_here = self.inquiry.as_ref().is_none_or(|inquiry| inquiry.has_all());
        Ok(found.is_whole && !found.is_cut && is_all_here)
    }

    /// As many of the events at these places as make a page, and the places that are left.
    async fn read_places(&self, places: Vec<Seq>) -> Result<(Vec<Item>, Vec<Seq>), End> {
        let deliveries = self.deliveries.clone();
        let read = self.reads.read(Turn::Further, move |store, deadline| {
            let (mut page, mut looked_at) = (Page::new(deadline, deliveries), 0);
            store.at(places.iter().copied(), |seq, event| {
                looked_at += 1;
                // It may have gone a moment ago.
                if let Some(event) = event {
                    page.push(seq, event);
                }
                if page.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok((page.events, places[looked_at..].to_vec()))
        });
        Ok(read.await.ok_or(End::Gone)??)
    }

    /// Whether a filter's limit kept something back that is behind this place.
    async fn is_cut(&self, end: Cursor, horizon: Seq) -> Result<bool, End> {
        let is_full = end.remaining.contains(&0);
        if !is_full || self.filters.len() > 1 {
            // Where one of several ended nobody knows any more.
            return Ok(is_full);
        }
        let next = Cursor { remaining: vec![1], ..end };
        let mut scan = self.scan_from(&next);
        let read = self.reads.read(Turn::First, move |store, deadline| {
            let mut next = Next { is_there: false, deadline };
            let is_done = store.page_before(horizon, &mut scan, &mut next)?;
            // Nobody waits longer for a hint.
            Ok(next.is_there || !is_done)
        });
        Ok(read.await.ok_or(End::Gone)??)
    }

    fn scan(&self) -> Scan {
        self.scan_from(&Cursor::start(&self.filters))
    }

    fn scan_from(&self, start: &Cursor) -> Scan {
        self.sight.over(Scan::resume(&self.filters, start), &self.filters)
    }

    /// The next page of the answer. What L2 gave may be given up before it is read: then L2 is asked again;
    /// but where collections are quicker than answers, later.
    async fn next_page(
        self: &Arc<Self>,
        mut scan: Scan,
        turn: Turn,
        ground: &mut Ground,
        owed: &mut Owed,
    ) -> Result<Read, End> {
        loop {
            match self.read_page(scan, turn, ground.clone()).await? {
                Ok(read) => return Ok(read),
                Err(Lacking(start)) => scan = self.scan_from(&start),
            }
            ground.hold = self.settle(owed).await;
        }
    }

    /// Sends a page. Returns the scan of those that follow, if there are any.
    async fn send_page(&self, read: Read, owed: &mut Owed) -> Result<Option<Scan>, End> {
        let Read { page, is_done, scan, place } = read;
        self.send_events(page, owed).await?;
        // Or those who all wait for their next page would wait for each other.
        drop(place);
        Ok((!is_done).then_some(scan))
    }

    /// The next page of a scan, if nothing of the answer is missing.
    async fn read_page(
        self: &Arc<Self>,
        mut scan: Scan,
        turn: Turn,
        ground: Ground,
    ) -> Result<Result<Read, Lacking>, End> {
        let (place, this) = (self.backlog.page().await, self.clone());
        let read = self.reads.read(turn, move |store, deadline| {
            let (start, started) = (scan.cursor(), Instant::now());
            let mut page = Page::new(deadline, this.deliveries.clone());
            let is_done = store.page_before(ground.horizon, &mut scan, &mut page)?;
            this.metrics.query_page_seconds.observe(started.elapsed().as_secs_f64());
            let mut end = scan.cursor();
            if is_done && end.remaining.iter().any(|left| *left > 0) {
                end.after = None;
            }
            if ground.has_lost(&this.filters, &start, &end) {
                return Ok(Err(Lacking(start)));
            }
            Ok(Ok(Read { page: page.events, is_done, scan, place }))
        });
        Ok(read.await.ok_or(End::Gone)??)
    }

    /// What was committed from `from` up to `to`, in that order: for a subscription that was behind.
    /// Returns how far it came.
    async fn send_between(
        self: &Arc<Self>,
        from: Seq,
        to: Seq,
        owed: &mut Owed,
    ) -> Result<Seq, End> {
        let (_place, this) = (self.backlog.page().await, self.clone());
        let read = self.reads.read(Turn::First, move |store, mut deadline| {
            let matchers: Vec<Matcher> = this.filters.iter().map(Matcher::new).collect();
            let mut page = Page::new(deadline, this.deliveries.clone());
            let reached = store.since(from, to, |seq, event| {
                let is_wanted = matchers.iter().any(|matcher| matcher.matches(event));
                if is_wanted && this.sight.shows(event) {
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
                Item::Whole(seq, ..) => served.push(*seq),
                Item::Stub(_, id) => stubs.push(*id),
            }
        }
        self.reads.note_served(served);
        if let Some(places) = &mut owed.places {
            places.extend(page.iter().map(Item::seq));
        }
        let mut revived = self.fetch(&stubs, owed).await;
        for item in page {
            if owed.sent.as_mut().is_some_and(|sent| !sent.insert(item.id())) {
                continue;
            }
            match item {
                Item::Whole(_, _, json, message) => {
                    self.send_event(&json).await?;
                    self.note_delivered(message.as_deref());
                }
                Item::Stub(_, id) => match revived.remove(&id) {
                    Some(event) => self.send_whole([&event]).await?,
                    None => owed.ids.push(id),
                },
            }
        }
        Ok(())
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
            self.send_event(&event.to_json()).await?;
            self.note_delivered(self.deliveries.message_of(event).as_ref());
        }
        Ok(())
    }

    fn note_delivered(&self, message: Option<&Message>) {
        if let Some(message) = message {
            self.deliveries.delivered(message, &self.sight, false);
        }
    }

    /// Waits while the client is slow: stored events are never dropped.
    async fn send_event(&self, json: &str) -> Result<(), End> {
        let frame = wire::event(&self.id, json);
        let room = self.backlog.room(frame.len()).await;
        self.send(Frame::Stored(frame)).await?;
        room.take();
        Ok(())
    }

    async fn send(&self, frame: Frame) -> Result<(), End> {
        self.frames.send(frame).await.map_err(|_| End::Gone)
    }
}

/// A page that was read, and where to go on.
struct Read {
    page: Vec<Item>,
    is_done: bool,
    scan: Scan,
    /// In the backlog, until the page is queued.
    place: OwnedSemaphorePermit,
}

/// A page of which something was given up, by where it starts.
struct Lacking(Cursor);
