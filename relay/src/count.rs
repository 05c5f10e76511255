//! How many events match (NIP-45), and a sketch of how many people they are from.
//!
//! What L1 gave up L2 counts, but L2 does not know who asks, and not what never leaves this relay; so a
//! count with its help is said to be approximate.

use std::{ops::ControlFlow, sync::Arc};

use event::Filter;
use index::{Found, Reader, Scan, Take};
use store::{ReadError, Store};
use tokio::time::timeout;

use crate::{
    inquiry::{Inquiry, has_lost},
    reads::{Deadline, Reads, Turn},
    revive::Revival,
    searcher::{SearchError, Searcher},
    sight::Sight,
    sketch::{Sketch, Tally},
};

/// One question.
pub struct Question {
    pub filters: Vec<Filter>,
    pub sight: Sight,
    pub reads: Reads,
    pub revival: Arc<Revival>,
    pub inquiry: Option<Arc<Inquiry>>,
    /// Who knows words.
    pub searcher: Option<Arc<Searcher>>,
}

/// Whether these filters can be counted. What a search finds is counted alone: nobody could tell which of
/// it another filter has counted already.
pub fn check(filters: &[Filter]) -> Result<(), String> {
    if filters.len() > 1 && filters.iter().any(|filter| filter.search.is_some()) {
        return Err("unsupported: a search is counted alone".into());
    }
    Ok(())
}

impl Question {
    /// None: the relay is stopping.
    pub async fn answer(self) -> Option<Result<Tally, SearchError>> {
        if let ([filter], Some(searcher)) = (&self.filters[..], &self.searcher)
            && filter.search.is_some()
        {
            return self.count_found(searcher, filter).await;
        }
        let tally = self.tally().await?;
        Some(tally.map_err(SearchError::from))
    }

    /// What a search finds here. L2 does not search.
    async fn count_found(
        &self,
        searcher: &Searcher,
        filter: &Filter,
    ) -> Option<Result<Tally, SearchError>> {
        let is_all_here = self.inquiry.as_ref().is_none_or(|inquiry| inquiry.has_all());
        let found = searcher.find(filter, &self.sight).await?;
        Some(found.map(|found| Tally {
            count: found.places.len() as u64,
            is_approximate: !(found.is_whole && is_all_here),
            sketch: None,
        }))
    }

    async fn tally(&self) -> Option<Result<Tally, ReadError>> {
        let hold = self.inquiry.as_ref().map(|_| self.reads.hold());
        let is_known = match &self.inquiry {
            Some(inquiry) => inquiry.knows(&self.filters, &self.sight).await,
            None => true,
        };
        let here = match self.count_here().await? {
            Ok(here) => here,
            Err(error) => return Some(Err(error)),
        };
        let is_whole = hold.is_none_or(|hold| !has_lost(&hold, &self.filters, ..));
        if is_known && is_whole {
            return Some(Ok(here));
        }
        let there = self.count_there().await.unwrap_or(0);
        let count = here.count.max(there);
        Some(Ok(Tally { count, is_approximate: true, sketch: None }))
    }

    async fn count_here(&self) -> Option<Result<Tally, ReadError>> {
        let mut scan = self.sight.over(Scan::new(&self.filters), &self.filters);
        let mut sketch = Sketch::wanted_by(&self.filters);
        let (mut count, mut turn) = (0, Turn::First);
        loop {
            let read = self.reads.read(turn, move |store, deadline| {
                let counted = page(store, &mut scan, &mut sketch, deadline)?;
                Ok((counted, scan, sketch))
            });
            let (counted, left, drawn) = match read.await? {
                Ok(read) => read,
                Err(error) => return Some(Err(error)),
            };
            (scan, sketch) = (left, drawn);
            count += counted.0;
            if counted.1.is_break() {
                return Some(Ok(Tally { count, is_approximate: false, sketch }));
            }
            turn = Turn::Further;
        }
    }

    async fn count_there(&self) -> Option<u64> {
        let layer2 = self.revival.layer2.as_ref()?;
        if self.sight.may_hide(&self.filters) {
            return None;
        }
        let answer = timeout(self.revival.patience, layer2.count(&self.filters)).await;
        answer.ok()?.ok().map(|answer| answer.count)
    }
}

/// Counts a page. Breaks when that was the last.
fn page(
    store: &Store,
    scan: &mut Scan,
    sketch: &mut Option<Sketch>,
    mut deadline: Deadline,
) -> Result<(u64, ControlFlow<()>), ReadError> {
    let (count, is_done) = match sketch {
        None => store.count_page(scan, || !deadline.is_over())?,
        Some(sketch) => {
            let mut drawing = Drawing { sketch, count: 0, deadline };
            let is_done = store.page(scan, &mut drawing)?;
            (drawing.count, is_done)
        }
    };
    Ok((count, if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }))
}

/// Counts, and draws each author into a sketch.
struct Drawing<'s> {
    sketch: &'s mut Sketch,
    count: u64,
    deadline: Deadline,
}

impl Reader for Drawing<'_> {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.count += 1;
        self.sketch.add(&found.event().pubkey());
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}
