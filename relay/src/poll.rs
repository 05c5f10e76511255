//! What other relays brought to L2, into L1.
//!
//! The poll follows L2's log by its seq. The place reached is written in the same transaction as the
//! events, so nothing is missed and nothing comes twice, whatever dies in between. A backlog is
//! drained page after page before the next pause, one page being fetched while another is stored.
//! What arrived lately is then read once more, ids alone: that finds nothing unless something is
//! wrong, and so somebody hears of it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use event::{Event, EventId, Packed, Verified, verify};
use interface::id_of;
use layer2::{Change, ChangesFrom, ChangesPage, Detail, Layer2, Layer2Error, What};
use store::{Layer2Change, Mark, Millis, Origin, Outcome, ReadError, Store, Writer};
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    backoff::backoff,
    clock,
    metrics::{self, Metrics},
    own_seqs::OwnSeqs,
};

/// Under this name L1 remembers which L2 its cursor belongs to.
pub const CURSOR_OF: &str = "layer2";

/// How often a page is asked for whose proof does not hold, before the next poll.
const PROOF_TRIES_MAX: u32 = 3;

/// So many answers in a row from who has seen less of the log than we have are no accident: a copy
/// catches up within a second or two.
const BEHIND_ANSWERS_MAX: u32 = 2;

/// What a peer brought, L2's log brings too, within some polls: the peer has to send it up first. After so
/// many, all without a failure, it goes up from here.
const POLLS_BEFORE_ADOPTION: u32 = 12;

/// A relay that was level is behind when one poll has so many pages to fetch.
const PAGES_AT_LEVEL: u32 = 4;

/// The way down from L2.
pub struct Poll {
    pub store: Store,
    pub writer: Writer,
    pub layer2: Arc<dyn Layer2>,
    pub doubt: Arc<Notify>,
    pub own: Arc<OwnSeqs>,
    pub interval: Duration,
    /// How far back what arrived is read once more.
    pub overlap: Duration,
    pub standing: watch::Sender<Standing>,
    pub metrics: Arc<Metrics>,
}

/// How L1 stands to L2's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not asked yet.
    Unknown,
    /// There is more in the log than one page.
    Behind,
    /// It had all there was, one poll ago at most.
    Level,
    /// L2 does not answer.
    Away,
}

/// Why a poll was cut short.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error(transparent)]
    Layer2(#[from] Layer2Error),
    #[error("L1 cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("L1 cannot be written: {0}")]
    Write(#[from] store::WriteError),
}

/// What a poll knows of those before it.
struct Past {
    failures: u32,
    behind_answers: u32,
    /// Since when no poll has failed.
    level_since: Option<Millis>,
    /// Entries that were looked at a second time and need no third.
    looked_at: HashSet<u64>,
    /// Where L1's removals were at the last two second looks: what was taken out since, while it was on its
    /// way up, is not missing.
    marks: [Mark; 2],
}

impl Poll {
    /// Polls until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(self.interval);
        // Never two polls at once, and no burst of polls after a long one.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut past = Past {
            failures: 0,
            behind_answers: 0,
            level_since: None,
            looked_at: HashSet::new(),
            marks: [self.store.mark(); 2],
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                () = self.own.rung() => ticks.reset(),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.poll(&mut past) => {
                    self.metrics.polls.inc();
                }
            }
            if past.failures > 0 {
                ticks.reset_after(backoff(past.failures));
            }
        }
    }

    async fn poll(&self, past: &mut Past) {
        let drained = match self.drain().await {
            Err(Cut::Layer2(Layer2Error::Behind(length))) => self.wonder(length, past).await,
            drained => drained.inspect(|()| past.behind_answers = 0),
        };
        if let Err(cause) = drained {
            self.note_failure(&cause, past);
            return;
        }
        past.failures = 0;
        past.level_since.get_or_insert_with(Millis::now);
        self.metrics.poll_failing.set(0);
        metrics::stamp(&self.metrics.poll_success_timestamp_seconds);
        if let Err(cause) = self.look_back(past).await {
            debug!(%cause, "what arrived lately cannot be read once more");
        }
        if let Err(cause) = self.adopt(past).await {
            debug!(%cause, "what peers brought cannot be looked through");
        }
    }

    /// Sends up what a peer brought and does not seem to send up itself.
    async fn adopt(&self, past: &Past) -> Result<(), Cut> {
        let patience = (self.interval * POLLS_BEFORE_ADOPTION).as_millis() as u64;
        let due = Millis(Millis::now().0.saturating_sub(patience));
        let is_sure = past.level_since.is_some_and(|since| since < due);
        if is_sure && self.store.tapped_since()?.is_some_and(|since| since < due) {
            let adopted = self.writer.adopt(due).await?;
            self.metrics.tapped_adopted.inc_by(adopted as u64);
            warn!(adopted, "events that a peer brought and did not send to L2 go there from here");
        }
        Ok(())
    }

    fn note_failure(&self, cause: &Cut, past: &mut Past) {
        self.standing.send_replace(Standing::Away);
        past.level_since = None;
        self.metrics.poll_failing.set(1);
        if matches!(cause, Cut::Layer2(Layer2Error::Refused(_))) {
            self.doubt.notify_one();
        }
        let failures = past.failures;
        if failures == 0 || failures.is_power_of_two() {
            warn!(%cause, failures, "L2 cannot be polled; answers come from L1 alone");
        }
        past.failures = failures.saturating_add(1);
    }

    /// Takes over everything that L2 has and L1 has not seen.
    async fn drain(&self) -> Result<(), Cut> {
        let cursor = self.cursor().await?;
        let mut page = self.page_from(cursor).await?;
        let mut pages = 0;
        while page.next < page.length {
            pages += 1;
            // What came since the last poll may well be more than a page.
            if pages == PAGES_AT_LEVEL || *self.standing.borrow() != Standing::Level {
                self.standing.send_replace(Standing::Behind);
            }
            self.metrics.poll_entries_behind.set((page.length - page.next) as i64);
            let next = page.next;
            let (applied, following) = tokio::join!(self.apply(page), self.page_from(next));
            applied?;
            page = following?;
        }
        if page.next > cursor {
            self.apply(page).await?;
        }
        self.metrics.poll_entries_behind.set(0);
        self.standing.send_replace(Standing::Level);
        Ok(())
    }

    /// Where to go on; the start, if L1 followed another L2 before.
    async fn cursor(&self) -> Result<u64, Cut> {
        let name = self.layer2.name();
        match self.store.meta(CURSOR_OF)? {
            Some(followed) if followed == name && !self.store.spares_all()? => {
                Ok(self.store.l2_cursor()?.unwrap_or(0))
            }
            Some(followed) if followed == name => {
                warn!(
                    "to turn to another L2 was begun and not finished: what is held here goes to this one"
                );
                self.start_over().await?;
                Ok(0)
            }
            Some(followed) => {
                warn!(
                    followed,
                    now = name,
                    "another L2 is followed now: what is held here goes there"
                );
                self.start_over().await?;
                Ok(0)
            }
            None => {
                // In this order: a crash between the two only means starting over again.
                self.writer.apply_layer2(Vec::new(), 0).await?;
                self.writer.put_meta(CURSOR_OF, name).await?;
                Ok(0)
            }
        }
    }

    /// Turns to a log of which nothing is known yet.
    async fn start_over(&self) -> Result<(), Cut> {
        self.own.forget();
        self.writer.turn_to_other_layer2().await?;
        self.writer.put_meta(CURSOR_OF, self.layer2.name()).await?;
        Ok(())
    }

    /// Who answered has seen less of the log than we have. A copy may lag; but if the store itself says
    /// so, it was begun anew, and the place we reached means nothing any more.
    async fn wonder(&self, told: u64, past: &mut Past) -> Result<(), Cut> {
        past.behind_answers += 1;
        if past.behind_answers < BEHIND_ANSWERS_MAX {
            debug!(told, "L2 answers from a copy that lags");
            return Ok(());
        }
        past.behind_answers = 0;
        let (length, cursor) = (self.layer2.length().await?, self.cursor().await?);
        if length < cursor {
            error!(
                length,
                cursor,
                "L2 was begun anew: its log is followed from the start, and gets what is held here"
            );
            self.start_over().await?;
            past.looked_at.clear();
            self.drain().await?;
        }
        Ok(())
    }

    /// A page of events from a place on, or from behind what we brought there ourselves.
    async fn page_from(&self, place: u64) -> Result<ChangesPage, Layer2Error> {
        let first = self.own.skip_from(place);
        let page = self.page(ChangesFrom::Seq(first), Detail::Events).await?;
        if page.next < first || page.changes.is_empty() && page.next < page.length {
            let cause = format!("a page from {first} ends at {}", page.next);
            return Err(Layer2Error::Interface(cause));
        }
        Ok(page)
    }

    /// A page that does not prove itself is not used. Another node of the subnet may give a better one.
    async fn page(&self, from: ChangesFrom, detail: Detail) -> Result<ChangesPage, Layer2Error> {
        let mut tries = 1;
        loop {
            match self.layer2.changes(from, detail).await {
                Err(Layer2Error::Unproven(reason)) => {
                    self.metrics.poll_unproven.inc();
                    warn!(?from, reason, tries, "a page of L2's log is not proven; it is not used");
                    if tries == PROOF_TRIES_MAX {
                        return Err(Layer2Error::Unproven(reason));
                    }
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn apply(&self, page: ChangesPage) -> Result<(), Cut> {
        let (next, entries) = (page.next, page.changes.len());
        let oldest = page.changes.first().map(|change| change.arrived);
        let store = self.store.clone();
        let changes = blocking(move || read_changes(&store, page.changes)).await??;
        let new = count_saved(&self.writer.apply_layer2(changes, next).await?);
        if let Some(arrived) = oldest {
            self.metrics.poll_lag_seconds.observe(clock::now().0.saturating_sub(arrived) as f64);
        }
        if new > 0 {
            info!(entries, new, next, "polled");
        } else {
            debug!(entries, next, "polled nothing new");
        }
        Ok(())
    }

    /// Reads once more what arrived lately, and fetches what L1 should know and does not.
    async fn look_back(&self, past: &mut Past) -> Result<(), Cut> {
        let since = clock::now().0.saturating_sub(self.overlap.as_secs().max(1));
        let mark = self.store.mark();
        let cursor = self.cursor().await?;
        let mut recent: Vec<(u64, EventId)> = Vec::new();
        let mut from = ChangesFrom::Arrived(since);
        loop {
            let page = self.page(from, Detail::Ids).await?;
            let passed = page.changes.iter().filter(|change| change.seq < cursor);
            recent.extend(passed.filter_map(saved_id));
            // What lies further on, the next poll reads for the first time.
            if page.changes.is_empty() || page.next >= cursor {
                break;
            }
            from = ChangesFrom::Seq(page.next);
        }
        let fresh = recent.iter().filter(|(seq, _)| !past.looked_at.contains(seq));
        let ids: Vec<EventId> = fresh.map(|(_, id)| *id).collect();
        let (store, [before, last]) = (self.store.clone(), past.marks);
        let missing = blocking(move || {
            let mut missing = store.unknown(&ids)?;
            if !missing.is_empty() {
                let removed = store.touched_since(before)?.unwrap_or_default();
                let removed: HashSet<EventId> = removed.into_iter().collect();
                missing.retain(|id| !removed.contains(id));
            }
            Ok::<_, ReadError>(missing)
        });
        self.make_good(missing.await??).await?;
        past.marks = [last, mark];
        past.looked_at = recent.into_iter().map(|(seq, _)| seq).collect();
        Ok(())
    }

    /// Stores events that the poll has passed and L1 does not hold, unless it knows why.
    async fn make_good(&self, missing: Vec<EventId>) -> Result<(), Cut> {
        if missing.is_empty() {
            return Ok(());
        }
        let given = self.layer2.get(&missing).await?;
        let floor = self.store.complete_since()?;
        let read = move || given.iter().filter_map(|bytes| read_event(bytes).ok()).collect();
        let mut events: Vec<Verified> = blocking(read).await?;
        // What is older may have been given up already.
        events.retain(|event| missing.contains(&event.id) && event.created_at >= floor);
        let missed = count_saved(&self.writer.put_all(events, Origin::Layer2).await?);
        if missed > 0 {
            self.metrics.poll_missed.inc_by(missed as u64);
            error!(missed, "the poll had passed events that L1 did not hold; they are stored now");
        }
        Ok(())
    }
}

/// Reads where checking signatures, or waiting for the disk, holds nobody up.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Cut> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| Layer2Error::Interface(error.to_string()).into())
}

fn count_saved(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Saved(_))).count()
}

fn saved_id(change: &Change) -> Option<(u64, EventId)> {
    match &change.what {
        What::Saved(id) => Some((change.seq, id_of(id).ok()?)),
        What::Removed { .. } | What::Gone(_) | What::Cleared => None,
    }
}

/// What a page means for L1. An event that is held here was checked when it came.
fn read_changes(store: &Store, changes: Vec<Change>) -> Result<Vec<Layer2Change>, ReadError> {
    let mut ids: Vec<EventId> = changes.iter().filter_map(stated_id).collect();
    let unknown: HashSet<EventId> = store.unknown(&ids)?.into_iter().collect();
    ids.retain(|id| !unknown.contains(id));
    let mut held: HashSet<EventId> = ids.into_iter().collect();
    let read = changes.into_iter().filter_map(|change| {
        let change = match stated_id(&change) {
            Some(id) if held.contains(&id) => Layer2Change::Held(id),
            _ => read_change(change)?,
        };
        match &change {
            Layer2Change::Removed(id) => drop(held.remove(id)),
            Layer2Change::Cleared => held.clear(),
            Layer2Change::Saved(_) | Layer2Change::Held(_) => {}
        }
        Some(change)
    });
    Ok(read.collect())
}

/// The id that a saved event says it has.
fn stated_id(change: &Change) -> Option<EventId> {
    match &change.what {
        What::Saved(bytes) => Packed::parse(bytes).ok().map(|event| event.id()),
        What::Removed { .. } | What::Gone(_) | What::Cleared => None,
    }
}

/// L2 is believed about nothing that can be checked: every event's id and signature are.
fn read_change(change: Change) -> Option<Layer2Change> {
    let seq = change.seq;
    match change.what {
        What::Saved(bytes) => match read_event(&bytes) {
            Ok(event) => Some(Layer2Change::Saved(event)),
            Err(reason) => {
                warn!(seq, reason, "L2 holds what is no event; passed over");
                None
            }
        },
        What::Removed { id, .. } => id_of(&id).ok().map(Layer2Change::Removed),
        What::Gone(_) => None,
        What::Cleared => Some(Layer2Change::Cleared),
    }
}

/// An event from L2, if it is one and its author signed it.
pub(crate) fn read_event(bytes: &[u8]) -> Result<Verified, String> {
    let event = match Packed::parse(bytes) {
        Ok(packed) => packed.unpack(),
        Err(_) if bytes.first() == Some(&b'{') => {
            Event::from_json(bytes).map_err(|error| error.to_string())?
        }
        Err(error) => return Err(error.to_string()),
    };
    verify(event).map_err(|invalid| invalid.to_string())
}
