//! What was read from L1 for one client and has not gone out to it, bounded in bytes: a client that asks
//! for much and reads nothing costs the relay no more than this.
//!
//! Frames alone are no measure: 256 of the largest events are 32 MB. Live events need no bound of
//! their own, since all who wait for one share it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Pages under way, of all subscriptions of a connection.
const PAGES_MAX: usize = 4;
/// KiB of stored events in a connection's queue.
const QUEUED_KIB_MAX: usize = 1_024;

/// One connection's. Clones are the same.
#[derive(Clone)]
pub struct Backlog {
    pages: Arc<Semaphore>,
    queued: Arc<Semaphore>,
}

impl Backlog {
    pub fn new() -> Backlog {
        Backlog {
            pages: Arc::new(Semaphore::new(PAGES_MAX)),
            queued: Arc::new(Semaphore::new(QUEUED_KIB_MAX)),
        }
    }

    /// Waits until a page may be read. The place is given up when the page is queued.
    pub async fn page(&self) -> OwnedSemaphorePermit {
        self.pages.clone().acquire_owned().await.expect("nobody closes it")
    }

    /// Waits until so many bytes may be queued.
    pub async fn room(&self, bytes: usize) -> Room<'_> {
        Room(self.queued.acquire_many(kib(bytes)).await.expect("nobody closes it"))
    }

    /// They have gone out.
    pub fn sent(&self, bytes: usize) {
        self.queued.add_permits(kib(bytes) as usize);
    }
}

/// Room for one frame. Dropped, it is free again.
pub struct Room<'b>(SemaphorePermit<'b>);

impl Room<'_> {
    /// The frame is queued: the room is free again when that has gone out.
    pub fn take(self) {
        self.0.forget();
    }
}

/// Something larger than all the room takes all of it.
fn kib(bytes: usize) -> u32 {
    (bytes / 1_024 + 1).min(QUEUED_KIB_MAX) as u32
}
