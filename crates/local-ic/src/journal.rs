//! The latest messages that an instance has executed, for the people who watch it.
//!
//! A short ring of facts that is neither saved nor certified: what a program wants to know it finds
//! in canister logs and in answers.

use std::collections::VecDeque;

use candid::Principal;

use crate::wasm::host::Mode;
use crate::wasm::run::Entry;

const ENTRIES_MAX: usize = 100;

/// One execution, as it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Nanoseconds since 1970, in the instance's time.
    pub time: u64,
    pub canister: Principal,
    /// What ran: `update inc`, `reply callback`, `global_timer`.
    pub what: String,
    pub instructions: u64,
    /// What the execution itself cost; not what was sent along.
    pub cycles: u128,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
pub struct Journal(VecDeque<Executed>);

impl Journal {
    pub fn push(&mut self, executed: Executed) {
        if self.0.len() == ENTRIES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(executed);
    }

    /// The latest first.
    pub fn latest(&self) -> impl Iterator<Item = &Executed> {
        self.0.iter().rev()
    }
}

/// What an entry point is called in the journal.
pub fn name(mode: Mode, entry: &Entry) -> String {
    match entry {
        Entry::Export(name) => name.strip_prefix("canister_").unwrap_or(name).to_owned(),
        Entry::Closure(..) | Entry::Nothing => mode.text().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room_for_the_latest() {
        let mut journal = Journal::default();
        for time in 0..=ENTRIES_MAX as u64 {
            journal.push(Executed {
                time,
                canister: Principal::anonymous(),
                what: "update inc".to_owned(),
                instructions: 1,
                cycles: 1,
                error: None,
            });
        }
        let times: Vec<u64> = journal.latest().map(|executed| executed.time).collect();
        assert_eq!(times.len(), ENTRIES_MAX);
        assert_eq!((times[0], times[ENTRIES_MAX - 1]), (ENTRIES_MAX as u64, 1));
    }

    #[test]
    fn entry_points_have_names_for_people() {
        let export = Entry::Export("canister_update inc".to_owned());
        assert_eq!(name(Mode::Update, &export), "update inc");
        assert_eq!(name(Mode::Reply, &Entry::Closure(1, 0)), "reply callback");
    }
}
