//! When clients last got what is held here: what a collection goes by.
//!
//! To serve is to read, and a read must not wait for a write. So what was served is first noted in
//! memory, and the writer takes the notes down now and then; a crash loses some of them, and with
//! them nothing but a little justice. An event that nobody asked for counts as served when it came.

use std::{
    collections::HashSet,
    mem,
    sync::{Mutex, MutexGuard},
};

use event::Timestamp;
use heed::{RoTxn, WithoutTls};
use index::Seq;

use crate::{change::Change, databases::Databases};

/// Notes in memory. What is served beyond it until the writer comes is not noted.
const NOTES_MAX: usize = 1 << 16;
/// Notes that one transaction takes down, so that it stays short.
const NOTES_AT_ONCE: usize = 1_000;
/// A time already written is written anew when it is so much older, in minutes.
const AGAIN_MINUTES: u32 = 5;

/// Minutes since 1970: dates as fine as a collection needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minute(pub u32);

impl From<Timestamp> for Minute {
    fn from(Timestamp(seconds): Timestamp) -> Minute {
        Minute((seconds / 60).try_into().unwrap_or(u32::MAX))
    }
}

/// What was served and is not yet written.
#[derive(Default)]
pub struct Notes(Mutex<HashSet<Seq>>);

impl Notes {
    /// Notes that these went to a client.
    pub fn add(&self, served: impl IntoIterator<Item = Seq>) {
        let mut notes = self.lock();
        for seq in served {
            if notes.len() < NOTES_MAX {
                notes.insert(seq);
            }
        }
    }

    /// The next to be written, in order, as rows lie; none if there are no more.
    pub fn take(&self) -> Vec<Seq> {
        let mut notes = self.lock();
        let mut taken: Vec<Seq> = if notes.len() <= NOTES_AT_ONCE {
            mem::take(&mut *notes).into_iter().collect()
        } else {
            let taken: Vec<Seq> = notes.iter().copied().take(NOTES_AT_ONCE).collect();
            for seq in &taken {
                notes.remove(seq);
            }
            taken
        };
        taken.sort_unstable();
        taken
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Seq>> {
        self.0.lock().expect("nobody panics holding it")
    }
}

impl Change<'_> {
    /// Writes down that these were served by now.
    pub fn note_served(&mut self, served: &[Seq]) -> Result<(), heed::Error> {
        let now = Minute::from(self.now);
        for seq in served {
            let Databases { events, kept, served, .. } = self.databases;
            let written = served.get(&self.txn, &seq.0)?;
            let is_fresh =
                written.is_some_and(|minute| now.0 < minute.saturating_add(AGAIN_MINUTES));
            let has_body = || -> Result<bool, heed::Error> {
                let in_events = events.get(&self.txn, &seq.0)?.is_some();
                Ok(in_events || kept.get(&self.txn, &seq.0)?.is_some())
            };
            if !is_fresh && has_body()? {
                served.put(&mut self.txn, &seq.0, &now.0)?;
            }
        }
        Ok(())
    }

    /// Remembers `first` as the first event of its minute, if it is.
    pub fn note_arrival(&mut self, first: Seq) -> Result<(), heed::Error> {
        let minute = u64::from(Minute::from(self.now).0);
        let arrivals = &self.databases.arrivals;
        let is_new = arrivals.last(&self.txn)?.is_none_or(|(last, _)| last < minute);
        // While the clock stands before the last row, what comes counts as of that minute.
        if is_new { arrivals.put(&mut self.txn, &minute, &first.0) } else { Ok(()) }
    }
}

/// Which events came when, all of it: a row for each minute in which one came.
pub struct Arrivals(Vec<(Seq, Minute)>);

impl Arrivals {
    pub fn read(
        databases: &Databases<'_>,
        txn: &RoTxn<'_, WithoutTls>,
    ) -> Result<Arrivals, heed::Error> {
        let rows = databases.arrivals.iter(txn)?.map(|row| {
            let (minute, first) = row?;
            Ok((Seq(first), Minute(minute.try_into().unwrap_or(u32::MAX))))
        });
        rows.collect::<Result<_, _>>().map(Arrivals)
    }

    /// When the event at `seq` came; the beginning, if that is not known any more.
    pub fn minute_of(&self, seq: Seq) -> Minute {
        let later = self.0.partition_point(|(first, _)| *first <= seq);
        later.checked_sub(1).map_or(Minute(0), |row| self.0[row].1)
    }

    /// The first event that came after `minute`.
    pub fn first_after(&self, minute: Minute) -> Seq {
        let row = self.0.partition_point(|(_, its)| *its <= minute);
        self.0.get(row).map_or(Seq(u64::MAX), |(first, _)| *first)
    }
}
