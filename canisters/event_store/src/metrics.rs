//! What was counted since the last install or upgrade. It lies in the heap: a measurement of code that
//! is no longer there is worth nothing, and scrapers expect counters to begin anew.

use interface::{SaveCost, SaveOutcome};

/// Names of [`SaveOutcome`]'s variants, in the order of [`place_of`].
const OUTCOMES: [&str; 10] = [
    "saved",
    "duplicate",
    "superseded",
    "deleted",
    "expired",
    "ephemeral",
    "too_large",
    "invalid",
    "refused",
    "other",
];

#[derive(Default)]
pub struct Metrics {
    outcomes: [u64; OUTCOMES.len()],
    pub last_save: Option<SaveCost>,
    pub last_saved_at: Option<u64>,
    /// The most instructions that one message took.
    pub save_instructions_most: u64,
    pub tidy_instructions_most: u64,
}

impl Metrics {
    pub fn count(&mut self, outcomes: &[SaveOutcome]) {
        outcomes.iter().for_each(|outcome| self.outcomes[place_of(outcome)] += 1);
    }

    /// How often each outcome was given.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.into_iter().zip(self.outcomes)
    }
}

fn place_of(outcome: &SaveOutcome) -> usize {
    match outcome {
        SaveOutcome::Saved(_) => 0,
        SaveOutcome::Duplicate(_) => 1,
        SaveOutcome::Superseded => 2,
        SaveOutcome::Deleted => 3,
        SaveOutcome::Expired => 4,
        SaveOutcome::Ephemeral => 5,
        SaveOutcome::TooLarge(_) => 6,
        SaveOutcome::Invalid(_) => 7,
        SaveOutcome::Refused(_) => 8,
        SaveOutcome::Other(_) => 9,
    }
}
