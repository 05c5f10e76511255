//! `aquifer-bench conform-peers`: the same cases for several relays, and one table of them.

use std::{collections::BTreeSet, fmt::Write, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::{
    How, Relay,
    report::{Report, Told},
};
use crate::{
    contender::Contender,
    table::{self, Marks},
};

/// Between these the table stands.
const MARKS: Marks = Marks { begin: "<!-- conformance -->", end: "<!-- end of conformance -->" };

/// What is as long as this and all hex digits is no word.
const ID_DIGITS_MIN: usize = 16;

/// Try several relays against the NIPs, and print one table
///
/// scripts/bench-peers --conform builds the relays and writes the list.
#[derive(Args)]
pub struct ConformPeers {
    /// The relays, as JSON: `[{"name":…,"version":…,"durable":…,"command":[…,"{folder}","{port}"]}]`
    #[arg(long, value_name = "FILE")]
    contenders: PathBuf,

    /// Where relays keep their events meanwhile
    #[arg(long, default_value = ".")]
    folder: PathBuf,

    /// Put the table into this file, in place of the one between the marks there
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    #[command(flatten)]
    how: How,
}

/// What came of one relay.
#[derive(Serialize)]
pub struct Tried {
    name: String,
    version: String,
    report: Report,
}

impl ConformPeers {
    pub async fn run(&self) -> Result<Vec<Tried>> {
        let mut tried = Vec::new();
        for contender in Contender::list(&self.contenders)? {
            eprintln!("{}", contender.name);
            tried.push(self.try_on(&contender).await?);
        }
        if let Some(file) = &self.write {
            table::put(&markdown(&tried), &MARKS, file)?;
        }
        Ok(tried)
    }

    async fn try_on(&self, contender: &Contender) -> Result<Tried> {
        let running = contender.start(&self.folder).await;
        let running = running.with_context(|| format!("starting {}", contender.name))?;
        let relay = Relay::meet(&running.url, &self.how).await?;
        let report = self.how.try_on(&relay).await?;
        let Contender { name, version, .. } = contender.clone();
        Ok(Tried { name, version, report })
    }
}

/// A NIP a row, a relay a column, and below what failed.
pub fn markdown(tried: &[Tried]) -> String {
    let mut out = String::new();
    let relays = tried.iter().map(|relay| format!("{} {}", relay.name, relay.version));
    table::line(&mut out, "passed of tried", relays);
    table::line(&mut out, "---", tried.iter().map(|_| "---:".into()));
    let scores = tried.iter().flat_map(|relay| &relay.report.nips);
    let nips: BTreeSet<&str> =
        scores.filter(|(_, score)| score.tried > 0).map(|(nip, _)| *nip).collect();
    for nip in nips {
        let name = nip.replace("nip", "NIP-");
        table::line(&mut out, &name, tried.iter().map(|relay| cell(&relay.report, nip)));
    }
    let all = |relay: &Tried| format!("{} of {}", relay.report.passed, relay.report.tried);
    table::line(&mut out, "all", tried.iter().map(all));
    for relay in tried {
        failures(&mut out, relay);
    }
    out
}

fn cell(report: &Report, nip: &str) -> String {
    match report.nips.get(nip) {
        Some(score) if score.tried > 0 => format!("{} of {}", score.passed, score.tried),
        _ => "–".into(),
    }
}

fn failures(out: &mut String, relay: &Tried) {
    if relay.report.failed.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nWhat {} fails:\n", relay.name);
    for Told { case, why } in &relay.report.failed {
        // Random ids would make every table differ from the last.
        let _ = writeln!(out, "- `{case}`: {}", without_ids(why));
    }
}

/// Ids and keys cut out: long runs of hex digits.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, run) = rest.split_at(start);
        let end = run.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(run.len());
        out += before;
        out += if end < ID_DIGITS_MIN { &run[..end] } else { "…" };
        rest = &run[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_cut_out_and_words_are_not() {
        let id = "0123456789abcdef".repeat(4);
        let told = format!("expected a fact, came [\"OK\",\"{id}\",true] facade {id}");
        let expected = "expected a fact, came [\"OK\",\"…\",true] facade …";
        assert_eq!(without_ids(&told), expected);
    }
}
