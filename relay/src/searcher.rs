//! Answers filters with words in them (NIP-50), from the index of words and L1 together.
//!
//! The index says which documents hold the words, the best first; L1 says which of them are events that
//! are still held and match the rest of the filter, and the client's sight which it may see. A limit
//! cuts what is left, so it is the best that are sent. All of that is read in turns, as any page is, and
//! only some questions are ranked at a time, since their candidates lie in memory.

use std::{ops::ControlFlow, sync::Arc};

use event::Filter;
use index::Matcher;
use search::{Hit, Index, Query, Scope, Words};
use store::{ReadError, Seq, Store};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::{
    metrics::Metrics,
    reads::{Deadline, Reads, Turn},
    sight::Sight,
};

/// Questions that are ranked at a time: each may take some megabytes. Others wait.
const RANKED_AT_ONCE_MAX: usize = 4;

/// The way from words to events.
pub struct Searcher {
    index: Arc<Index>,
    words: Arc<Words>,
    reads: Reads,
    room: Semaphore,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Where the events are in L1, the best first.
    pub places: Vec<Seq>,
    /// Whether a limit kept some back.
    pub is_cut: bool,
    /// Whether all that L1 holds was compared.
    pub is_whole: bool,
}

/// Why words cannot be looked for.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(transparent)]
    Store(#[from] ReadError),
    #[error(transparent)]
    Index(#[from] search::Error),
}

impl Searcher {
    pub fn new(index: Arc<Index>, words: Arc<Words>, reads: Reads) -> Searcher {
        Searcher { index, words, reads, room: Semaphore::new(RANKED_AT_ONCE_MAX) }
    }

    /// Up to the filter's limit, what holds all words of its search and matches the rest of it. None: the
    /// relay is stopping.
    pub async fn find(
        &self,
        filter: &Filter,
        sight: &Sight,
    ) -> Option<Result<Findings, SearchError>> {
        let _room = self.room.acquire().await.ok()?;
        let query =
            Arc::new(Query::parse(filter.search.as_deref().unwrap_or_default(), &self.words));
        let (hits, is_whole) = match self.rank(&query, filter).await? {
            Ok(ranked) => ranked,
            Err(error) => return Some(Err(error)),
        };
        let look = Look {
            hits,
            next: 0,
            matcher: Matcher::new(filter),
            sight: sight.clone(),
            query,
            words: self.words.clone(),
            limit: filter.limit.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX)),
            places: Vec::new(),
            is_cut: false,
        };
        let look = match self.look_up(look).await? {
            Ok(look) => look,
            Err(error) => return Some(Err(error.into())),
        };
        Some(Ok(Findings { places: look.places, is_cut: look.is_cut, is_whole }))
    }

    /// What holds the words, the best first, and whether that is all.
    async fn rank(
        &self,
        query: &Arc<Query>,
        filter: &Filter,
    ) -> Option<Result<(Vec<Hit>, bool), SearchError>> {
        let horizon = self.reads.horizon();
        let (mut ranking, mut turn) = (None, Turn::First);
        loop {
            let (index, query, scope) = (self.index.clone(), query.clone(), Scope::from(filter));
            let read = self.reads.read(turn, move |_, mut deadline| {
                let mut go_on = || {
                    let mut ranking =
                        ranking.take().map_or_else(|| index.rank(&query, scope.clone()), Ok)?;
                    let is_done = index.go_on(&mut ranking, || !deadline.is_over())?;
                    let is_level =
                        index.position()? >= horizon && index.unread(Seq(0), 1)?.is_empty();
                    Ok::<_, search::Error>((ranking, is_done, is_level))
                };
                Ok(go_on())
            });
            match read.await? {
                Ok(Ok((ranking, true, is_level))) => {
                    let is_whole = is_level && !ranking.is_cut();
                    return Some(Ok((ranking.into_hits(), is_whole)));
                }
                Ok(Ok((left, false, _))) => ranking = Some(left),
                Ok(Err(error)) => return Some(Err(error.into())),
                Err(error) => return Some(Err(error.into())),
            }
            turn = Turn::Further;
        }
    }

    async fn look_up(&self, mut look: Look) -> Option<Result<Look, ReadError>> {
        loop {
            let read = self.reads.read(Turn::Further, move |store, deadline| {
                let is_done = look.go_on(store, deadline)?;
                Ok((look, is_done))
            });
            match read.await? {
                Ok((look, true)) => return Some(Ok(look)),
                Ok((left, false)) => look = left,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// How many events of L1 have not been read, and how large the index is.
    pub fn note(&self, metrics: &Metrics) {
        let lag = self.index.position().map(|at| self.reads.horizon().0.saturating_sub(at.0));
        match lag.and_then(|lag| Ok((lag, self.index.figures()?))) {
            Ok((lag, figures)) => {
                metrics.search_lag_events.set((lag + figures.unread) as i64);
                metrics.search_documents.set(figures.documents as i64);
                metrics.search_bytes.set(figures.bytes_on_disk as i64);
                metrics.search_used_bytes.set(figures.bytes_in_use as i64);
            }
            Err(error) => warn!(%error, "the index of words cannot be read for the metrics"),
        }
    }
}

/// Hits that are looked up one after the other.
struct Look {
    hits: Vec<Hit>,
    next: usize,
    matcher: Matcher,
    sight: Sight,
    query: Arc<Query>,
    words: Arc<Words>,
    limit: usize,
    places: Vec<Seq>,
    is_cut: bool,
}

impl Look {
    /// True: there are no more, or no more are wanted.
    fn go_on(&mut self, store: &Store, mut deadline: Deadline) -> Result<bool, ReadError> {
        let Look { hits, next, matcher, sight, query, words, limit, places, is_cut } = self;
        let (hits, first) = (&*hits, *next);
        store.at(hits[first..].iter().map(|hit| hit.seq), |seq, event| {
            let hit = hits[*next];
            *next += 1;
            // Sight comes last but one: it costs more than the filter. Phrases cost the most.
            let is_wanted = event.is_some_and(|event| {
                hit.is(&event.id())
                    && matcher.matches(event)
                    && sight.shows(event)
                    && query.phrases_in(event, words)
            });
            if is_wanted && places.len() >= *limit {
                *is_cut = true;
                return ControlFlow::Break(());
            }
            if is_wanted {
                places.push(seq);
            }
            if deadline.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(*is_cut || *next >= hits.len())
    }
}
