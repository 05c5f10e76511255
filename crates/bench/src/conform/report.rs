//! What came of all cases, for people and as JSON.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::Case;

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// What was expected, and what came.
    Failed(String),
    /// What the relay does not do.
    NotOffered(String),
}

/// What came of all.
#[derive(Serialize)]
pub struct Report {
    pub url: String,
    pub passed: usize,
    pub tried: usize,
    pub nips: BTreeMap<&'static str, Score>,
    pub failed: Vec<Told>,
    pub not_offered: Vec<Told>,
}

/// How many cases of a NIP.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Score {
    pub passed: usize,
    pub tried: usize,
    pub not_offered: usize,
}

/// A case, and what is to be said of it.
#[derive(Serialize)]
pub struct Told {
    pub case: &'static str,
    pub why: String,
}

impl Report {
    pub fn of(url: &str, outcomes: Vec<(Case, Outcome)>) -> Report {
        let (passed, tried, nips) = (0, 0, BTreeMap::new());
        let (failed, not_offered) = (Vec::new(), Vec::new());
        let url = url.to_owned();
        let mut report = Report { url, passed, tried, nips, failed, not_offered };
        outcomes.into_iter().for_each(|(case, outcome)| report.add(&case, outcome));
        report
    }

    fn add(&mut self, case: &Case, outcome: Outcome) {
        let score = self.nips.entry(case.nip()).or_default();
        let told = |why| Told { case: case.name, why };
        match outcome {
            Outcome::NotOffered(why) => {
                score.not_offered += 1;
                self.not_offered.push(told(why));
                return;
            }
            Outcome::Passed => {
                score.passed += 1;
                self.passed += 1;
            }
            Outcome::Failed(why) => self.failed.push(told(why)),
        }
        score.tried += 1;
        self.tried += 1;
    }
}

impl Report {
    fn not_offered_by_reason(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut by_reason = BTreeMap::new();
        for Told { case, why } in &self.not_offered {
            by_reason.entry(why.as_str()).or_insert_with(Vec::new).push(*case);
        }
        by_reason
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (why, cases) in self.not_offered_by_reason() {
            match cases.as_slice() {
                [case] => writeln!(f, "not offered  {case}: {why}")?,
                cases => writeln!(f, "not offered  {} cases: {why}", cases.len())?,
            }
        }
        for Told { case, why } in &self.failed {
            writeln!(f, "failed       {case}: {why}")?;
        }
        for (nip, score) in self.nips.iter().filter(|(_, score)| score.tried > 0) {
            writeln!(f, "{nip}  {} of {} passed", score.passed, score.tried)?;
        }
        let (passed, tried) = (self.passed, self.tried);
        write!(f, "{passed} of {tried} cases passed, {} not offered", self.not_offered.len())
    }
}
