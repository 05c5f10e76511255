//! How writing goes, told to whoever counts it. The store keeps no metrics of its own.

use std::time::Duration;

use crate::WriteError;

/// Is told what the writer did. It is called on the writer's thread, which everybody waits for.
pub trait Observer: Send + Sync {
    /// A transaction was committed, and synced if it changed anything.
    fn committed(&self, _: Batch) {}
    /// A transaction was not committed; nothing of it is stored.
    fn refused(&self, _: &WriteError) {}
}

/// One transaction.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Events, changes of L2's feed and answered outbox rows that it took.
    pub entries: usize,
    /// From its begin to the end of the sync.
    pub took: Duration,
}

/// Nobody counts.
impl Observer for () {}
