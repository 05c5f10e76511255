//! Goes through the messages that L1 holds, newest first and in slices, so that nobody waits for it long.

use std::sync::Arc;

use event::{Filter, Packed};
use index::{Found, Reader, Scan, Take};
use store::{ReadError, Seq};

use crate::{
    message::has_receiver,
    reads::{Deadline, Reads, Turn},
};

/// Why it did not come to the end.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error(transparent)]
    Store(#[from] ReadError),
    #[error("the relay is stopping")]
    Stopping,
}

/// Shows `step` all messages that match, as far as they lie before `end`, and returns what it made of them.
/// The filter has to name kinds that are guarded.
pub async fn walk<S: Send + 'static>(
    reads: &Reads,
    filter: Filter,
    end: Seq,
    mut state: S,
    step: fn(&mut S, &Packed<'_>),
) -> Result<S, Unread> {
    let Some(newest) = end.0.checked_sub(1) else { return Ok(state) };
    let scan = Scan::new(&[filter]).up_to(Seq(newest)).only(Arc::new(has_receiver));
    let (mut scan, mut turn) = (scan, Turn::First);
    loop {
        let read = reads.read(turn, move |store, deadline| {
            let mut page = Page { state, step, deadline };
            let is_done = store.page(&mut scan, &mut page)?;
            Ok((page.state, scan, is_done))
        });
        let (reached, left, is_done) = read.await.ok_or(Unread::Stopping)??;
        if is_done {
            return Ok(reached);
        }
        (state, scan, turn) = (reached, left, Turn::Further);
    }
}

struct Page<S> {
    state: S,
    step: fn(&mut S, &Packed<'_>),
    deadline: Deadline,
}

impl<S> Reader for Page<S> {
    fn take(&mut self, found: Found<'_>) -> Take {
        (self.step)(&mut self.state, &found.event());
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}
