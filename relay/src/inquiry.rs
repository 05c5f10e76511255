//! What L1 cannot answer alone, asked of L2.
//!
//! An answer is not put together from two stores. What L2 gives is stored in L1 first, and then L1
//! answers: so order, limits and rules are those of every other answer. L1 notes what it was given, and
//! whoever asks for the same, or for a part of it, needs no L2.

use std::{
    collections::HashMap,
    ops::RangeBounds,
    sync::{Arc, Mutex},
    time::Duration,
};

use event::{EventId, Filter, Packed, Timestamp, Verified};
use futures_util::{FutureExt, future::join_all};
use index::Matcher;
use layer2::{Layer2, Layer2Error};
use store::{Hold, Outcome, ReadError, Store, WriteError, Writer};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};
use tracing::{debug, info, warn};

use crate::{
    backoff::backoff,
    metrics::Metrics,
    poll::{Standing, read_event},
    reads::{Reads, Turn},
    under_way::UnderWay,
};

/// Questions that L2 is asked at a time. Others wait.
const QUESTIONS_MAX: usize = 16;
/// L2 is asked for so many events more than are wanted: one that goes later does not bring the question back.
const SPARE_EVENTS: u64 = 32;
/// How often a question is asked anew because the poll went past what L2's answer knew of.
const STALE_ANSWERS_MAX: u32 = 3;
/// A copy of L2 that lags catches up within a second or two.
const STALE_PAUSE: Duration = Duration::from_millis(300);
/// Values of one question.
const VALUES_MAX: usize = 5_000;
/// Questions that are remembered while L1 is behind L2.
const RECENT_MAX: usize = 10_000;

/// The way from a filter to L2 and back.
pub struct Inquiry {
    sources: Sources,
    standing: watch::Receiver<Standing>,
    may_be_pruned: bool,
    fresh_for: Duration,
    metrics: Arc<Metrics>,
    under_way: UnderWay<String, Result<(), Arc<Failure>>>,
    recent: Mutex<HashMap<String, Instant>>,
    turns: Semaphore,
}

/// The two stores.
pub struct Sources {
    pub layer2: Arc<dyn Layer2>,
    pub reads: Reads,
    pub writer: Writer,
}

/// Why L2 did not answer a question.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Layer2(#[from] Layer2Error),
    #[error("L1 cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("L1 cannot be written: {0}")]
    Write(#[from] WriteError),
    #[error("L2's answers are older than what is known here")]
    Stale,
    #[error("stopping")]
    Stopped,
}

impl Failure {
    /// Whether another try may come to something.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Failure::Layer2(Layer2Error::Unavailable(_) | Layer2Error::Behind(_)) | Failure::Stale
        )
    }
}

/// Whether L1 has by now what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Settled {
    Yes,
    /// Something is missing that L2 may give later.
    NotYet,
}

impl Inquiry {
    /// `may_be_pruned` says whether events may be missing here of which L1 keeps not even a stub;
    /// `fresh_for`, how long an answer counts while L1 is behind L2.
    pub fn new(
        sources: Sources,
        standing: watch::Receiver<Standing>,
        may_be_pruned: bool,
        fresh_for: Duration,
        metrics: Arc<Metrics>,
    ) -> Inquiry {
        let (under_way, recent) = (UnderWay::default(), Mutex::default());
        let turns = Semaphore::new(QUESTIONS_MAX);
        Inquiry { sources, standing, may_be_pruned, fresh_for, metrics, under_way, recent, turns }
    }

    /// Sees to it that L1 can answer these filters, as far as L2 helps before `deadline`.
    pub async fn settle_until(self: &Arc<Self>, filters: &[Filter], deadline: Instant) -> Settled {
        if self.is_settled() {
            return Settled::Yes;
        }
        match timeout_at(deadline, self.settle(filters)).await {
            Ok(Ok(())) => Settled::Yes,
            Ok(Err(cause)) if cause.may_pass() => Settled::NotYet,
            Ok(Err(cause)) => {
                warn!(%cause, "L2 is no help with a question; it is answered from L1 alone");
                Settled::Yes
            }
            Err(_) => Settled::NotYet,
        }
    }

    /// Whether L2 does not answer, so that nobody knows what it has.
    pub fn is_cut_off(&self) -> bool {
        *self.standing.borrow() == Standing::Away
    }

    /// Whether all that L2 has is here.
    pub fn has_all(&self) -> bool {
        self.is_settled()
    }

    /// Whether L1 can answer these filters by itself.
    pub async fn knows(&self, filters: &[Filter]) -> bool {
        self.is_settled()
            || self.questions(filters).await.is_ok_and(|questions| questions.is_empty())
    }

    /// As soon as L2 answers; returns once there is nothing more to wait for.
    pub async fn settle_patiently(self: &Arc<Self>, filters: &[Filter]) {
        let mut failures = 0u32;
        loop {
            // L2 is asked again when the poll gets through: one asks for all.
            let mut standing = self.standing.clone();
            let is_there = standing.wait_for(|standing| *standing != Standing::Away).await.is_ok();
            match self.settle(filters).await {
                Err(cause) if cause.may_pass() && is_there => {
                    debug!(%cause, "L2 still does not answer a question");
                }
                _ => return,
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(backoff(failures)).await;
        }
    }

    /// Whether nothing needs to be asked, which is the rule for a relay that has disk enough.
    fn is_settled(&self) -> bool {
        !self.may_be_pruned && *self.standing.borrow() == Standing::Level
    }

    async fn settle(self: &Arc<Self>, filters: &[Filter]) -> Result<(), Arc<Failure>> {
        let questions = self.questions(filters).await.map_err(Arc::new)?;
        if questions.is_empty() {
            return Ok(());
        }
        if *self.standing.borrow() == Standing::Away {
            return Err(Arc::new(Layer2Error::Unavailable("L2 is away".into()).into()));
        }
        let answers = questions.into_iter().map(|question| self.ask(question));
        join_all(answers).await.into_iter().collect()
    }

    /// What L2 has to be asked for these filters.
    async fn questions(&self, filters: &[Filter]) -> Result<Vec<Filter>, Failure> {
        let mut filters = filters.to_vec();
        // L2 does not search, and would answer as if any words would do.
        filters.retain(|filter| filter.limit != Some(0) && filter.search.is_none());
        if filters.is_empty() {
            return Ok(filters);
        }
        let mut standing = self.standing.clone();
        let known = standing.wait_for(|standing| *standing != Standing::Unknown).await;
        let standing = known.map_or(Standing::Away, |standing| *standing);
        if standing == Standing::Behind {
            // Anything may be missing.
            let mut questions: Vec<Filter> = filters.into_iter().flat_map(in_parts).collect();
            questions.retain(|question| !self.is_recent(question));
            return Ok(questions);
        }
        if !self.may_be_pruned {
            return Ok(Vec::new());
        }
        let metrics = self.metrics.clone();
        let reading = self.sources.reads.read(Turn::First, move |store, _| {
            let floor = store.complete_since()?;
            let mut questions = Vec::new();
            for filter in
                filters.iter().filter(|filter| filter.since.is_none_or(|since| since < floor))
            {
                match question_of(store, filter)? {
                    Some(question) => questions.extend(in_parts(question)),
                    None => {
                        metrics.covered_answers.inc();
                    }
                }
            }
            Ok(questions)
        });
        Ok(reading.await.ok_or(Failure::Stopped)??)
    }

    fn is_recent(&self, filter: &Filter) -> bool {
        let recent = self.recent.lock().expect("nobody panics holding it");
        recent.get(&name(filter)).is_some_and(|asked| asked.elapsed() < self.fresh_for)
    }

    fn note_recent(&self, name: String) {
        let mut recent = self.recent.lock().expect("nobody panics holding it");
        if recent.len() >= RECENT_MAX {
            recent.retain(|_, asked| asked.elapsed() < self.fresh_for);
        }
        if recent.len() < RECENT_MAX {
            recent.insert(name, Instant::now());
        }
    }

    async fn ask(self: &Arc<Self>, question: Filter) -> Result<(), Arc<Failure>> {
        let this = self.clone();
        let answer = self.under_way.join(name(&question), || {
            async move { this.fetch(&question).await.map_err(Arc::new) }.boxed()
        });
        answer.await
    }

    /// Asks one question and stores what L2 answers.
    async fn fetch(&self, question: &Filter) -> Result<(), Failure> {
        let _turn = self.turns.acquire().await.map_err(|_| Failure::Stopped)?;
        let asked_at = name(question);
        for _ in 0..STALE_ANSWERS_MAX {
            match self.fetch_once(question).await {
                Err(Failure::Stale) => tokio::time::sleep(STALE_PAUSE).await,
                Ok(()) => {
                    self.note_recent(asked_at);
                    return Ok(());
                }
                failed => return failed,
            }
        }
        Err(Failure::Stale)
    }

    async fn fetch_once(&self, question: &Filter) -> Result<(), Failure> {
        let limit = question.limit.map(|limit| limit.saturating_add(SPARE_EVENTS));
        let asked = [Filter { limit, ..question.clone() }];
        let mut given = Given::default();
        let mut cursor = None;
        loop {
            self.metrics.inquiries.inc();
            let page = self.sources.layer2.query(&asked, cursor.as_deref()).await?;
            self.store(question, &page.events, page.length, &mut given).await?;
            cursor = page.cursor.map(|cursor| cursor.into_vec());
            if cursor.is_none() {
                break;
            }
        }
        let from = match given.oldest {
            // Of the oldest date there may be more.
            Some(oldest) if limit.is_some_and(|limit| given.count >= limit) => {
                Timestamp(oldest.0.saturating_add(1))
            }
            _ => question.since.unwrap_or(Timestamp(0)),
        };
        info!(events = given.count, new = given.new, from = from.0, "L2 answered a question");
        self.sources.writer.note_covered(question.clone(), from, given.held).await?;
        Ok(())
    }

    /// Stores a page of an answer, as far as it is one.
    async fn store(
        &self,
        question: &Filter,
        page: &[interface::EventBytes],
        length: u64,
        given: &mut Given,
    ) -> Result<(), Failure> {
        let heads: Vec<(EventId, Timestamp)> =
            page.iter().filter_map(|bytes| head(bytes)).collect();
        given.count += heads.len() as u64;
        given.oldest = heads.iter().map(|(_, date)| *date).chain(given.oldest).min();
        let ids: Vec<EventId> = heads.iter().map(|(id, _)| *id).collect();
        let (page, question, all) = (page.to_vec(), question.clone(), ids.clone());
        // What is here whole was checked when it came.
        let reading = self.sources.reads.read(Turn::Further, move |store, _| {
            let lacking = store.without_body(&all)?;
            let is_lacking = |bytes: &&interface::EventBytes| {
                head(bytes).is_some_and(|(id, _)| lacking.contains(&id))
            };
            let events = page.iter().filter(is_lacking).filter_map(|bytes| read_event(bytes).ok());
            Ok(events.filter(|event| question.matches(event)).collect::<Vec<Verified>>())
        });
        let events = reading.await.ok_or(Failure::Stopped)??;
        let told: Vec<EventId> = events.iter().map(|event| event.id).collect();
        let outcomes = self.sources.writer.fill(events, length).await?.ok_or(Failure::Stale)?;
        let is_over =
            |outcome: &Outcome| !matches!(outcome, Outcome::Saved(_) | Outcome::Duplicate(_));
        let over = told.iter().zip(&outcomes).filter(|(_, outcome)| is_over(outcome));
        let over: Vec<EventId> = over.map(|(id, _)| *id).collect();
        given.new += outcomes.iter().filter(|o| matches!(o, Outcome::Saved(_))).count();
        given.held.extend(ids.into_iter().filter(|id| !over.contains(id)));
        Ok(())
    }
}

/// What L2 has answered so far.
#[derive(Default)]
struct Given {
    count: u64,
    new: usize,
    oldest: Option<Timestamp>,
    /// What L1 should hold now.
    held: Vec<EventId>,
}

/// Whether anything was given up since the hold began that these filters ask for, and that has one of these
/// dates.
pub fn has_lost(hold: &Hold, filters: &[Filter], dates: impl RangeBounds<Timestamp>) -> bool {
    let Some(lost) = hold.lost() else { return true };
    if lost.is_empty() {
        return false;
    }
    let matchers: Vec<Matcher> = filters.iter().map(Matcher::new).collect();
    lost.iter().filter_map(|stub| Packed::trusted(stub).ok()).any(|event| {
        dates.contains(&event.created_at())
            && matchers.iter().any(|matcher| matcher.matches(&event))
    })
}

/// What has to be asked of L2 for one filter, if anything.
fn question_of(store: &Store, filter: &Filter) -> Result<Option<Filter>, ReadError> {
    let reach = store.reach(filter)?;
    let Some(rest) = reach.rest else { return Ok(None) };
    if rest.ids.is_none()
        && let Some(limit) = filter.limit
    {
        let since = filter.since.unwrap_or(Timestamp(0)).max(reach.complete_since);
        let complete = Filter { since: Some(since), ..filter.clone() };
        if store.count(&[complete])? >= limit {
            return Ok(None);
        }
    }
    Ok(Some(rest))
}

/// The filter as questions that are not too long for L2.
fn in_parts(filter: Filter) -> Vec<Filter> {
    if filter.values() <= VALUES_MAX {
        return vec![filter];
    }
    let mut rest = filter.clone();
    let mut first = filter;
    match (&mut first, &mut rest) {
        (Filter { ids: Some(ids), .. }, Filter { ids: Some(others), .. }) if ids.len() > 1 => {
            *others = ids.split_off(ids.len() / 2);
        }
        (Filter { authors: Some(authors), .. }, Filter { authors: Some(others), .. })
            if authors.len() > 1 =>
        {
            *others = authors.split_off(authors.len() / 2);
        }
        // L2 says itself if that is too much.
        _ => return vec![first],
    }
    [first, rest].into_iter().flat_map(in_parts).collect()
}

fn head(bytes: &[u8]) -> Option<(EventId, Timestamp)> {
    let event = Packed::parse(bytes).ok()?;
    Some((event.id(), event.created_at()))
}

/// One text for each question.
fn name(question: &Filter) -> String {
    serde_json::to_string(question).expect("a filter is JSON")
}
