//! Turns at reading L1: how many reads are under way at once, and who comes next.
//!
//! A page ends after a slice of time, and its reader queues again for the next. Questions that are new
//! have turns of their own: a light one, which has but one page, never waits behind the pages of heavy
//! ones. It only shares the processor with them.

use std::{
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use store::{Hold, ReadError, Seq, Store};
use tokio::sync::Semaphore;

use crate::config::terms::InForce;

/// L1, for as many readers at once as there are cores.
#[derive(Clone)]
pub struct Reads {
    store: Store,
    in_force: InForce,
    first: Arc<Semaphore>,
    further: Arc<Semaphore>,
}

/// Which page a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its first: what it asks may be light.
    First,
    /// Another: it is known to be heavy.
    Further,
}

/// When a page has to end: so long after it was first asked about. To open the walks of a filter is not
/// counted: it takes 20 ms for 10,000 authors, and a page that ended then would come to nothing, for ever.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    time: Duration,
    end: Option<Instant>,
}

impl Deadline {
    fn after(time: Duration) -> Deadline {
        Deadline { time, end: None }
    }

    pub fn is_over(&mut self) -> bool {
        let now = Instant::now();
        match self.end {
            Some(end) => now >= end,
            None => {
                self.end = Some(now + self.time);
                false
            }
        }
    }
}

impl Reads {
    pub fn new(store: Store, in_force: InForce) -> Reads {
        let cores = available_parallelism().map_or(1, |cores| cores.get());
        let turns = || Arc::new(Semaphore::new(cores));
        Reads { store, in_force, first: turns(), further: turns() }
    }

    /// The place that the next event of L1 will get.
    pub fn horizon(&self) -> Seq {
        self.store.next_seq()
    }

    /// An answer begins: what is stored for it is given up last, and it hears what is given up nevertheless.
    pub fn hold(&self) -> Hold {
        self.store.hold()
    }

    /// Notes that these went to a client.
    pub fn note_served(&self, served: Vec<Seq>) {
        self.store.note_served(served);
    }

    /// Waits for a turn, first come, first served, and reads where a page that has to come from the disk
    /// holds nobody up. None: the runtime is shutting down.
    pub async fn read<T: Send + 'static>(
        &self,
        turn: Turn,
        read: impl FnOnce(&Store, Deadline) -> Result<T, ReadError> + Send + 'static,
    ) -> Option<Result<T, ReadError>> {
        let turns = match turn {
            Turn::First => &self.first,
            Turn::Further => &self.further,
        };
        let permit = turns.clone().acquire_owned().await.ok()?;
        let (store, slice) = (self.store.clone(), self.in_force.load().limits.query_slice);
        let reading = tokio::task::spawn_blocking(move || {
            // Held by the read itself: it goes on when who asked for it is gone.
            let _permit = permit;
            read(&store, Deadline::after(slice))
        });
        reading.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use store::Options;

    use super::*;

    #[test]
    fn a_page_gets_somewhere_however_long_it_took_to_begin() {
        let mut deadline = Deadline::after(Duration::ZERO);
        assert!(!deadline.is_over());
        assert!(deadline.is_over());
    }

    #[tokio::test]
    async fn a_new_question_does_not_wait_for_the_pages_of_heavy_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _writer) = Store::open(folder.path(), Options::default()).unwrap();
        let terms = crate::config::terms::TermSettings::default().resolve().unwrap();
        let reads = Reads::new(store, Arc::new(arc_swap::ArcSwap::from_pointee(terms)));
        let taken = reads.further.available_permits() as u32;
        let heavy = reads.further.clone().acquire_many_owned(taken).await.unwrap();
        let further = tokio::spawn({
            let reads = reads.clone();
            async move { reads.read(Turn::Further, |_, _| Ok("further")).await }
        });
        let first = reads.read(Turn::First, |store, _| Ok(store.next_seq())).await;
        assert_eq!(first.unwrap().unwrap(), Seq(0));
        assert!(!further.is_finished());
        drop(heavy);
        assert_eq!(further.await.unwrap().unwrap().unwrap(), "further");
    }
}
