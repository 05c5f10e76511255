//! Places of L2's log that hold what this relay brought there itself.
//!
//! The outbox hears them with L2's answers, and the poll passes over them: L1 has had these events
//! from the start. To forget a place costs no more than to read an event once again.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::Notify;

/// Places that are remembered. Beyond it the lowest are forgotten: the poll reaches them first, so
/// it has most likely passed them.
const PLACES_MAX: usize = 1 << 16;

/// What the outbox tells the poll.
#[derive(Default)]
pub struct OwnSeqs {
    places: Mutex<BTreeSet<u64>>,
    bell: Notify,
}

impl OwnSeqs {
    /// L2 has said that it holds an event of ours there.
    pub fn note(&self, seq: u64) {
        let mut places = self.lock();
        places.insert(seq);
        if places.len() > PLACES_MAX {
            places.pop_first();
        }
    }

    /// The first place from `cursor` on that is not known to be ours. What lies before it is forgotten.
    pub fn skip_from(&self, mut cursor: u64) -> u64 {
        let mut places = self.lock();
        *places = places.split_off(&cursor);
        while places.first() == Some(&cursor) {
            places.pop_first();
            cursor += 1;
        }
        cursor
    }

    /// L2 knows of something that is not known here: the next poll had better be now.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Waits until somebody rings, or has rung.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// What was said belongs to another log.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.places.lock().expect("nobody panics holding it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unbroken_run_of_our_own_is_passed_over() {
        let own = OwnSeqs::default();
        [3, 7, 8, 9, 11].into_iter().for_each(|seq| own.note(seq));
        assert_eq!(own.skip_from(5), 5);
        assert_eq!(own.skip_from(7), 10);
        assert_eq!(own.skip_from(7), 7);
        assert_eq!(own.skip_from(11), 12);
    }
}
