//! What was refused lately and would be refused again, so that it is not checked again.
//!
//! A refusal belongs to the exact text that a client sent, never to the id in it: who sends rubbish
//! under the id of somebody's event, its signature included, must not keep that event out. Texts are
//! known by a hash with a secret key, which nobody can aim at. It is read on the session's own task, so it is
//! the quickest of its sort: a flood may bring hundreds of megabytes a second.

use std::{collections::HashMap, mem, sync::Mutex};

use ahash::RandomState;
use event::{EventId, Timestamp};

use crate::verdict::Rejection;

/// Refusals remembered at a time, twice over: the younger ones, and those before them.
const GENERATION_MAX: usize = 8_192;
/// After so long a refusal is looked into again: a deletion may have been taken back with all of L2.
const GENERATION_SECONDS: u64 = 60;

/// One text that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Text(u64);

/// The refusals of the last one or two minutes.
#[derive(Default)]
pub struct Refusals {
    key: RandomState,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    young: HashMap<Text, (EventId, Rejection)>,
    old: HashMap<Text, (EventId, Rejection)>,
    young_since: Timestamp,
}

impl Refusals {
    pub fn text(&self, json: &str) -> Text {
        Text(self.key.hash_one(json))
    }

    /// Whether this text was refused, under which id and why.
    pub fn find(&self, text: Text, now: Timestamp) -> Option<(EventId, Rejection)> {
        let mut recent = self.recent.lock().expect("no holder panics");
        recent.age(now);
        recent.young.get(&text).or_else(|| recent.old.get(&text)).cloned()
    }

    pub fn note(&self, text: Text, id: EventId, rejection: Rejection, now: Timestamp) {
        let mut recent = self.recent.lock().expect("no holder panics");
        recent.age(now);
        recent.young.insert(text, (id, rejection));
    }
}

impl Recent {
    /// Forgets the old ones when the young ones are many, or a minute old.
    fn age(&mut self, now: Timestamp) {
        let age = now.0.saturating_sub(self.young_since.0);
        if age < GENERATION_SECONDS && self.young.len() < GENERATION_MAX {
            return;
        }
        self.old = mem::take(&mut self.young);
        if age >= 2 * GENERATION_SECONDS {
            self.old.clear();
        }
        self.young_since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(refusals: &Refusals, text: &str, now: u64) {
        let id = EventId([7; 32]);
        refusals.note(refusals.text(text), id, Rejection::Deleted, Timestamp(now));
    }

    fn is_known(refusals: &Refusals, text: &str, now: u64) -> bool {
        refusals.find(refusals.text(text), Timestamp(now)).is_some()
    }

    #[test]
    fn a_refusal_is_of_one_text_and_for_a_time() {
        let refusals = Refusals::default();
        note(&refusals, "a", 1_000);
        assert!(is_known(&refusals, "a", 1_000) && !is_known(&refusals, "a ", 1_000));
        assert!(is_known(&refusals, "a", 1_000 + GENERATION_SECONDS));
        assert!(!is_known(&refusals, "a", 1_000 + 2 * GENERATION_SECONDS));
        note(&refusals, "b", 2_000);
        assert!(!is_known(&refusals, "b", 2_000 + 2 * GENERATION_SECONDS));
    }

    #[test]
    fn no_flood_of_refusals_takes_more_than_its_room() {
        let refusals = Refusals::default();
        for number in 0..5 * GENERATION_MAX {
            note(&refusals, &number.to_string(), 1_000);
        }
        let recent = refusals.recent.lock().unwrap();
        assert!(recent.young.len() + recent.old.len() <= 2 * GENERATION_MAX);
        drop(recent);
        assert!(is_known(&refusals, &(5 * GENERATION_MAX - 1).to_string(), 1_000));
    }
}
