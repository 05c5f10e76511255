//! What happens to events without a seq of its own: they are removed, or come in quietly.
//!
//! Who keeps a list of events up to date reads what is new with [`Store::since`](crate::Store::since) and
//! asks here for the rest. Only the last changes are remembered: whoever is further behind lists anew.

use std::{collections::VecDeque, sync::Mutex};

use event::EventId;

/// How many changes are remembered, 32 bytes each.
const REMEMBERED_MAX: usize = 16_384;

/// The changes of one transaction.
#[derive(Default)]
pub struct Touched {
    ids: Vec<EventId>,
    /// Not all of them are known.
    is_all: bool,
}

impl Touched {
    pub fn note(&mut self, id: EventId) {
        if self.ids.len() < REMEMBERED_MAX {
            self.ids.push(id);
        } else {
            self.is_all = true;
        }
    }

    /// Everything may have changed.
    pub fn note_all(&mut self) {
        self.is_all = true;
    }
}

/// A place in the order of these changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// The last changes.
#[derive(Default)]
pub struct Unannounced(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    /// The place of the first that is remembered.
    first: u64,
    ids: VecDeque<EventId>,
}

impl Unannounced {
    /// After the commit.
    pub fn add(&self, touched: Touched) {
        let mut remembered = self.0.lock().expect("nobody panics holding it");
        if touched.is_all {
            remembered.first += remembered.ids.len() as u64 + 1;
            remembered.ids.clear();
            return;
        }
        remembered.ids.extend(touched.ids);
        let excess = remembered.ids.len().saturating_sub(REMEMBERED_MAX);
        remembered.ids.drain(..excess);
        remembered.first += excess as u64;
    }

    /// Where the next change will be.
    pub fn mark(&self) -> Mark {
        let remembered = self.0.lock().expect("nobody panics holding it");
        Mark(remembered.first + remembered.ids.len() as u64)
    }

    /// What has changed since, or None if that is forgotten.
    pub fn since(&self, mark: Mark) -> Option<Vec<EventId>> {
        let remembered = self.0.lock().expect("nobody panics holding it");
        let skipped = mark.0.checked_sub(remembered.first)?;
        Some(remembered.ids.iter().skip(skipped as usize).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(numbers: std::ops::Range<usize>) -> Touched {
        let mut touched = Touched::default();
        numbers.for_each(|number| touched.note(id(number)));
        touched
    }

    fn id(number: usize) -> EventId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        EventId(id)
    }

    #[test]
    fn what_happened_since_a_mark_is_known_until_it_is_forgotten() {
        let changes = Unannounced::default();
        let start = changes.mark();
        changes.add(touched(0..3));
        let later = changes.mark();
        changes.add(touched(3..5));
        assert_eq!(changes.since(start), Some((0..5).map(id).collect()));
        assert_eq!(changes.since(later), Some((3..5).map(id).collect()));
        assert_eq!(changes.since(changes.mark()), Some(vec![]));
        changes.add(touched(5..REMEMBERED_MAX + 3));
        assert_eq!(changes.since(start), None);
        assert_eq!(changes.since(later).map(|ids| ids.len()), Some(REMEMBERED_MAX));
        let mut all = Touched::default();
        all.note_all();
        let before = changes.mark();
        changes.add(all);
        assert_eq!(changes.since(before), None);
        assert_eq!(changes.since(changes.mark()), Some(vec![]));
        changes.add(touched(0..REMEMBERED_MAX + 1));
        assert_eq!(changes.since(before), None);
    }
}
