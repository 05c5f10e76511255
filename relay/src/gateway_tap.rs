//! The gateway tap: this relay's own L1, which hands delta what was committed, in the order of commits.
//!
//! It wakes when L1 has committed, and reads what is new. Whether a client of this relay brought an event
//! L1 knows by its outbox, which keeps its rows until they have been read here: that is what peers get. Events
//! that never go up they do not get: they are not to have them.

use std::ops::ControlFlow;

use store::{ReadError, Seq, Store};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::delta::{Delta, Live};

/// Events read from L1 at a time: what a late subscriber may wait for delta's table to be free.
const PAGE_EVENTS_MAX: usize = 256;

/// The tap on L1.
pub struct GatewayTap {
    pub store: Store,
    pub delta: Delta,
}

impl GatewayTap {
    /// Follows L1 until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut newest = self.store.follow();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = newest.changed() => if changed.is_err() { return },
            }
            let (delta, store) = (self.delta.clone(), self.store.clone());
            let to = *newest.borrow_and_update();
            // Pages of LMDB may have to come from the disk.
            let read = tokio::task::spawn_blocking(move || catch_up(&delta, &store, to)).await;
            if let Err(error) = read {
                error!(%error, "fan-out failed");
            }
        }
    }
}

fn catch_up(delta: &Delta, store: &Store, to: Seq) {
    loop {
        let from = delta.position();
        if from >= to {
            return;
        }
        match read_page(store, from, to) {
            Ok((page, next)) => delta.hand_out_page(&page, next),
            Err(error) => {
                error!(%error, "L1 cannot be read; live events wait");
                return;
            }
        }
    }
}

fn read_page(store: &Store, from: Seq, to: Seq) -> Result<(Vec<Live>, Seq), ReadError> {
    let mut page = Vec::new();
    let next = store.since(from, to, |seq, event| {
        page.push(Live { seq, packed: event.as_bytes().to_vec(), is_ours: false });
        if page.len() < PAGE_EVENTS_MAX {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    // A peer may begin to listen before the page is handed out.
    let seqs: Vec<Seq> = page.iter().map(|live| live.seq).collect();
    for (live, is_ours) in page.iter_mut().zip(store.in_outbox(&seqs)?) {
        live.is_ours = is_ours;
    }
    Ok((page, next))
}
