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
use index::{Found, Matcher, Reader, Scan, Take};
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
    reads::{Deadline, Reads, Turn},
    sight::Sight,
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
/// Questions that one filter is divided into.
const PARTS_MAX: usize = 16;
/// How many times as far a question reaches if much of what L2 gave is not for who asks,
const FURTHER: u64 = 4;
/// and how many events it may come to.
const REACH_MAX: u64 = 20_000;
/// Questions that are remembered while L1 is behind L2.
const RECENT_MAX: usize = 10_000;

/// The way from a filter to L2 and back.
pub struct Inquiry {
    sources: Sources,
    standing: watch::Receiver<Standing>,
    may_be_pruned: bool,
    fresh_for: Duration,
    metrics: Arc<Metrics>,
    under_way: UnderWay<String, Result<Answer, Arc<Failure>>>,
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
    #[error("most of what matches is not for who asks; there may be more")]
    Withheld,
    #[error("stopping")]
    Stopped,
}

impl Failure {
    /// Whether another try may come to something.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Failure::Layer2(Layer2Error::Unavailable(_) | Layer2Error::Behind(_))
                | Failure::Stale
                // A collection makes room.
                | Failure::Write(WriteError::Full)
        )
    }
}

/// What L2 said to a question, and L1 has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    /// Everything from this date on,
    from: Timestamp,
    /// and nothing that was asked for is older.
    is_whole: bool,
}

/// Whether L1 has by now what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Settled {
    Yes,
    /// Something is missing that L2 may give later.
    NotYet,
    /// Something may be missing, and that is how it stays.
    Never,
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

    /// Sees to it that L1 can answer these filters to who has this sight, as far as L2 helps before
    /// `deadline`.
    pub async fn settle_until(
        self: &Arc<Self>,
        filters: &[Filter],
        sight: &Sight,
        deadline: Instant,
    ) -> Settled {
        if self.is_settled() {
            return Settled::Yes;
        }
        match timeout_at(deadline, self.settle(filters, sight)).await {
            Ok(Ok(())) => Settled::Yes,
            Ok(Err(cause)) if cause.may_pass() => Settled::NotYet,
            Ok(Err(cause)) if matches!(*cause, Failure::Withheld) => Settled::Never,
            Ok(Err(cause)) => {
                warn!(%cause, "L2 is no help with a question; it is answered from L1 alone");
                Settled::Never
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
    pub async fn knows(&self, filters: &[Filter], sight: &Sight) -> bool {
        self.is_settled() || self.gaps(filters, sight).await.is_ok_and(|gaps| gaps.is_empty())
    }

    /// As soon as L2 answers; returns once there is nothing more to wait for.
    pub async fn settle_patiently(self: &Arc<Self>, filters: &[Filter], sight: &Sight) {
        let mut failures = 0u32;
        loop {
            // L2 is asked again when the poll gets through: one asks for all.
            let mut standing = self.standing.clone();
            let is_there = standing.wait_for(|standing| *standing != Standing::Away).await.is_ok();
            match self.settle(filters, sight).await {
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

    async fn settle(
        self: &Arc<Self>,
        filters: &[Filter],
        sight: &Sight,
    ) -> Result<(), Arc<Failure>> {
        let gaps = self.gaps(filters, sight).await.map_err(Arc::new)?;
        if gaps.is_empty() {
            return Ok(());
        }
        if *self.standing.borrow() == Standing::Away {
            return Err(Arc::new(Layer2Error::Unavailable("L2 is away".into()).into()));
        }
        let filled = gaps.into_iter().map(|gap| self.fill(gap, sight));
        join_all(filled).await.into_iter().collect()
    }

    /// Asks L2 until L1 has enough of what this client may see.
    async fn fill(self: &Arc<Self>, gap: Gap, sight: &Sight) -> Result<(), Arc<Failure>> {
        let Gap { filter, questions, .. } = gap;
        let mut times = 1;
        loop {
            let answers = questions.iter().map(|question| {
                let limit = question.limit.map(|limit| limit.saturating_mul(times));
                self.ask(Filter { limit, ..question.clone() })
            });
            let answers = join_all(answers).await.into_iter();
            let answers: Vec<Answer> = answers.collect::<Result<_, _>>()?;
            let is_whole = answers.iter().all(|answer| answer.is_whole);
            // What is withheld uses up no limit; but L2 does not know who asks.
            let (Some(limit), true) = (filter.limit, sight.may_hide(std::slice::from_ref(&filter)))
            else {
                return Ok(());
            };
            let from = answers.iter().map(|answer| answer.from).max();
            let since = from.max(filter.since);
            let here = Filter { since, ..filter.clone() };
            if is_whole || self.has_enough(&here, sight).await.map_err(Arc::new)? {
                return Ok(());
            }
            times *= FURTHER;
            if limit.saturating_mul(times) > REACH_MAX {
                return Err(Arc::new(Failure::Withheld));
            }
        }
    }

    /// What L1 may lack for these filters.
    async fn gaps(&self, filters: &[Filter], sight: &Sight) -> Result<Vec<Gap>, Failure> {
        // L2 does not search, and would answer as if any words would do.
        let is_asked = |filter: &&Filter| filter.limit != Some(0) && filter.search.is_none();
        let filters: Vec<Filter> = filters.iter().filter(is_asked).cloned().collect();
        if filters.is_empty() {
            return Ok(Vec::new());
        }
        let mut standing = self.standing.clone();
        let known = standing.wait_for(|standing| *standing != Standing::Unknown).await;
        let standing = known.map_or(Standing::Away, |standing| *standing);
        if standing == Standing::Behind {
            // Anything may be missing.
            let gaps = filters.into_iter().map(|filter| {
                let mut questions = in_parts(filter.clone());
                questions.retain(|question| !self.is_recent(question));
                Gap { filter, questions, here: None }
            });
            return Ok(gaps.filter(|gap| !gap.questions.is_empty()).collect());
        }
        if !self.may_be_pruned {
            return Ok(Vec::new());
        }
        let (mut gaps, mut turn) = (Vec::new(), Turn::First);
        for filter in filters {
            let reading = self.sources.reads.read(turn, move |store, _| Gap::of(store, filter));
            turn = Turn::Further;
            let Some(gap) = reading.await.ok_or(Failure::Stopped)?? else {
                self.metrics.covered_answers.inc();
                continue;
            };
            match &gap.here {
                Some(here) if self.has_enough(here, sight).await? => {
                    self.metrics.covered_answers.inc();
                }
                _ => gaps.push(gap),
            }
        }
        Ok(gaps)
    }

    /// Whether L1 has as many events as this filter wants, of those that this client may see.
    async fn has_enough(&self, filter: &Filter, sight: &Sight) -> Result<bool, Failure> {
        let filter = std::slice::from_ref(filter);
        let (mut scan, mut turn) = (sight.over(Scan::new(filter), filter), Turn::First);
        loop {
            let reading = self.sources.reads.read(turn, move |store, deadline| {
                let is_done = store.page(&mut scan, &mut Through(deadline))?;
                Ok((scan, is_done))
            });
            let (left, is_done) = reading.await.ok_or(Failure::Stopped)??;
            if is_done {
                return Ok(left.cursor().remaining.contains(&0));
            }
            (scan, turn) = (left, Turn::Further);
        }
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

    async fn ask(self: &Arc<Self>, question: Filter) -> Result<Answer, Arc<Failure>> {
        let this = self.clone();
        let answer = self.under_way.join(name(&question), || {
            async move { this.fetch(&question).await.map_err(Arc::new) }.boxed()
        });
        answer.await
    }

    /// Asks one question and stores what L2 answers.
    async fn fetch(&self, question: &Filter) -> Result<Answer, Failure> {
        let _turn = self.turns.acquire().await.map_err(|_| Failure::Stopped)?;
        let asked_at = name(question);
        for _ in 0..STALE_ANSWERS_MAX {
            match self.fetch_once(question).await {
                Err(Failure::Stale) => tokio::time::sleep(STALE_PAUSE).await,
                Ok(answer) => {
                    self.note_recent(asked_at);
                    return Ok(answer);
                }
                failed => return failed,
            }
        }
        Err(Failure::Stale)
    }

    async fn fetch_once(&self, question: &Filter) -> Result<Answer, Failure> {
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
        let is_whole = limit.is_none_or(|limit| given.count < limit);
        let from = match given.oldest {
            // Of the oldest date there may be more.
            Some(oldest) if !is_whole => Timestamp(oldest.0.saturating_add(1)),
            _ => question.since.unwrap_or(Timestamp(0)),
        };
        info!(events = given.count, new = given.new, from = from.0, "L2 answered a question");
        self.sources.writer.note_covered(question.clone(), from, given.held).await?;
        Ok(Answer { from, is_whole })
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

/// What L1 may lack of a filter's events.
struct Gap {
    filter: Filter,
    /// What has to be asked.
    questions: Vec<Filter>,
    /// What L1 has whole: enough of it answers the filter, too. None: no number of events is enough.
    here: Option<Filter>,
}

impl Gap {
    fn of(store: &Store, filter: Filter) -> Result<Option<Gap>, ReadError> {
        let reach = store.reach(&filter)?;
        let Some(rest) = reach.rest else { return Ok(None) };
        let is_limited = filter.limit.is_some() && rest.ids.is_none();
        let since = filter.since.unwrap_or(Timestamp(0)).max(reach.complete_since);
        let here = is_limited.then(|| Filter { since: Some(since), ..filter.clone() });
        Ok(Some(Gap { filter, questions: in_parts(rest), here }))
    }
}

/// Goes through all there is until its time is over.
struct Through(Deadline);

impl Reader for Through {
    fn take(&mut self, _: Found<'_>) -> Take {
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        !self.0.is_over()
    }
}

/// The filter as questions that are not too long for L2. Of one that would be very many L2 says itself that
/// it is too much.
fn in_parts(filter: Filter) -> Vec<Filter> {
    let mut parts = vec![filter.clone()];
    while let Some(long) = parts.iter().position(|part| part.values() > VALUES_MAX) {
        let mut first = parts.swap_remove(long);
        let rest = leave_half(&mut first);
        match rest {
            Some(rest) if parts.len() + 2 <= PARTS_MAX => parts.extend([first, rest]),
            _ => return vec![filter],
        }
    }
    parts
}

/// Divides the longest list of alternatives, and returns the filter with its other half. None: none has
/// two.
fn leave_half(first: &mut Filter) -> Option<Filter> {
    fn half<T>(list: &mut Vec<T>) -> Vec<T> {
        list.split_off(list.len() / 2)
    }
    let len = |list: Option<usize>| list.unwrap_or(0);
    let ids = len(first.ids.as_ref().map(Vec::len));
    let authors = len(first.authors.as_ref().map(Vec::len));
    let kinds = len(first.kinds.as_ref().map(Vec::len));
    let longest_tag = first.tags.iter().map(|(name, values)| (values.len(), *name)).max();
    let tag = longest_tag.map_or(0, |(len, _)| len);
    let longest = ids.max(authors).max(kinds).max(tag);
    if longest < 2 {
        return None;
    }
    let mut rest = first.clone();
    if ids == longest {
        rest.ids = first.ids.as_mut().map(half);
    } else if authors == longest {
        rest.authors = first.authors.as_mut().map(half);
    } else if kinds == longest {
        rest.kinds = first.kinds.as_mut().map(half);
    } else {
        let (_, name) = longest_tag?;
        let values = first.tags.get_mut(&name).map(half)?;
        rest.tags.insert(name, values);
    }
    Some(rest)
}

fn head(bytes: &[u8]) -> Option<(EventId, Timestamp)> {
    let event = Packed::parse(bytes).ok()?;
    Some((event.id(), event.created_at()))
}

/// One text for each question.
fn name(question: &Filter) -> String {
    serde_json::to_string(question).expect("a filter is JSON")
}

#[cfg(test)]
mod tests {
    use event::Kind;

    use super::*;

    fn tags(lists: usize, values: usize) -> Filter {
        let list = |name: char| {
            let values: Vec<String> =
                (0..values).map(|value| format!("\"{name}{value}\"")).collect();
            format!("\"#{name}\":[{}]", values.join(","))
        };
        let lists: Vec<String> = "tbcdfghijklmnrsuvwxyz".chars().take(lists).map(list).collect();
        Filter::from_json(format!("{{{}}}", lists.join(",")).as_bytes()).unwrap()
    }

    #[test]
    fn a_long_filter_is_divided_into_few_that_are_short_enough_or_not_at_all() {
        let kinds = Some((0..12_000).map(Kind).collect());
        let of_kinds = Filter { kinds, ..Filter::default() };
        for (filter, parts) in [(tags(1, 12_000), 4), (tags(2, 6_000), 8), (of_kinds, 4)] {
            let divided = in_parts(filter.clone());
            assert_eq!(divided.len(), parts);
            assert!(divided.iter().all(|part| part.values() <= VALUES_MAX));
            let values = divided.iter().flat_map(|part| part.tags.values().flatten());
            let values: std::collections::BTreeSet<&String> = values.collect();
            assert_eq!(values.len(), filter.tags.values().map(Vec::len).sum::<usize>());
        }
        // Each list that is divided doubles them.
        for lists in [12, 20] {
            let filter = tags(lists, 12_000 / lists);
            assert_eq!(in_parts(filter.clone()), [filter]);
        }
    }
}
