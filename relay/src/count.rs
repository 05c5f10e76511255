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
    inquiry::Inquiry,
    reads::{Deadline, Reads, Turn},
    revive::Revival,
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
}

impl Question {
    /// None: the relay is stopping.
    pub async fn answer(self) -> Option<Result<Tally, ReadError>> {
        let is_known = match &self.inquiry {
            Some(inquiry) => inquiry.knows(&self.filters).await,
            None => true,
        };
        let here = match self.count_here().await? {
            Ok(here) => here,
            Err(error) => return Some(Err(error)),
        };
        if is_known {
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
