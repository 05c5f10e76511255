//! What became of the lines of a file.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Each line is counted once.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    pub accepted: u64,
    pub duplicate: u64,
    /// By the reason.
    pub refused: BTreeMap<String, u64>,
    /// Lines that are no event.
    pub invalid: u64,
}

impl Tally {
    pub fn refuse(&mut self, reason: impl Into<String>) {
        *self.refused.entry(reason.into()).or_default() += 1;
    }

    pub fn in_short(&self) -> String {
        let refused: u64 = self.refused.values().sum();
        format!("accepted {}, duplicate {}, refused {refused}", self.accepted, self.duplicate)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.in_short())?;
        if self.invalid > 0 {
            write!(f, ", not an event {}", self.invalid)?;
        }
        self.refused.iter().try_for_each(|(reason, count)| write!(f, "\n  {count} × {reason}"))
    }
}
