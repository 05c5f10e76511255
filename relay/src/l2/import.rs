//! `aquifer l2 import`: saves the events of a JSONL file in a shared store.
//!
//! Saving is idempotent, so a stopped import is continued by running it again. Some batches are under
//! way at a time, because an update takes the Internet Computer a second or two whatever its size.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use anyhow::ensure;
use clap::Args;
use futures_util::{Stream, TryStreamExt, stream};
use layer2::{Layer2, SaveOutcome};
use serde::Serialize;

use super::{FAILURES_MAX, Where, insist};
use crate::{
    backoff::backoff,
    client::{Lines, Progress},
};

/// Events of one batch. Checking one costs the canister about 3 M of its 40 G instructions.
const BATCH_EVENTS_MAX: usize = 1_000;
/// Bytes of one batch, packed: an ingress message may have 2 MiB.
const BATCH_BYTES_MAX: usize = 1_500_000;
/// Batches under way at a time.
pub const BATCHES_AT_A_TIME: usize = 4;

/// Save the events of a JSONL file in a shared store (one NIP-01 event a line)
///
/// The store checks each event and applies its rules, whatever the order. Lines that are no event are
/// reported with their number. It may be stopped and run again: what is there already is counted as
/// duplicate.
#[derive(Args)]
pub struct Import {
    /// The file, or - for standard input
    file: PathBuf,

    #[command(flatten)]
    at: Where,

    /// Print the summary as one line of JSON
    #[arg(long)]
    json: bool,
}

/// What became of the events.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    saved: u64,
    duplicate: u64,
    /// Not taken, by the store's reason.
    left_out: BTreeMap<String, u64>,
    /// Lines that are no event.
    invalid: u64,
}

impl Summary {
    fn in_short(&self) -> String {
        let left_out: u64 = self.left_out.values().sum();
        format!("saved {}, duplicate {}, left out {left_out}", self.saved, self.duplicate)
    }

    /// Adds what became of others.
    pub fn add(&mut self, other: Summary) {
        self.saved += other.saved;
        self.duplicate += other.duplicate;
        self.invalid += other.invalid;
        for (reason, count) in other.left_out {
            *self.left_out.entry(reason).or_default() += count;
        }
    }

    pub fn tally(&mut self, outcome: SaveOutcome) {
        let reason = match outcome {
            SaveOutcome::Saved(_) => return self.saved += 1,
            SaveOutcome::Duplicate(_) => return self.duplicate += 1,
            SaveOutcome::Superseded => "superseded".to_owned(),
            SaveOutcome::Deleted => "deleted".to_owned(),
            SaveOutcome::Expired => "expired".to_owned(),
            SaveOutcome::Ephemeral => "ephemeral".to_owned(),
            SaveOutcome::TooLarge(limit) => format!("larger than {limit} bytes"),
            SaveOutcome::Invalid(reason) => format!("invalid: {reason}"),
            SaveOutcome::Refused(reason) | SaveOutcome::Other(reason) => reason,
        };
        *self.left_out.entry(reason).or_default() += 1;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.in_short())?;
        if self.invalid > 0 {
            write!(f, ", not an event {}", self.invalid)?;
        }
        self.left_out.iter().try_for_each(|(reason, count)| write!(f, "\n  {count} × {reason}"))
    }
}

/// Runs the command. An error means that it stopped early; what was answered is printed all the same.
pub async fn import(arguments: Import) -> anyhow::Result<()> {
    let store = arguments.at.open()?;
    let lines = Lines::open(&arguments.file).await?;
    let progress = Progress::of_bytes(lines.bytes());
    let mut summary = Summary::default();
    let result = save_all(lines, store.as_ref(), &progress, &mut summary).await;
    progress.finish();
    if arguments.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{summary}");
    }
    result
}

async fn save_all(
    lines: Lines,
    store: &dyn Layer2,
    progress: &Progress,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let saving = batches(lines, progress)
        .map_ok(async |batch| {
            let outcomes = save(batch.events, store, progress).await?;
            anyhow::Ok((outcomes, batch.invalid, batch.bytes))
        })
        .try_buffered(BATCHES_AT_A_TIME);
    let mut saving = std::pin::pin!(saving);
    while let Some((outcomes, invalid, bytes)) = saving.try_next().await? {
        outcomes.into_iter().for_each(|outcome| summary.tally(outcome));
        summary.invalid += invalid;
        progress.advance(bytes, summary.in_short());
    }
    Ok(())
}

/// Some lines of the file.
#[derive(Default)]
struct Batch {
    /// Packed.
    events: Vec<Vec<u8>>,
    /// Of the file.
    bytes: u64,
    /// Lines that are no event.
    invalid: u64,
}

fn batches(lines: Lines, progress: &Progress) -> impl Stream<Item = anyhow::Result<Batch>> {
    stream::try_unfold(lines, async move |mut lines| {
        let mut batch = Batch::default();
        let mut packed_bytes = 0;
        while batch.events.len() < BATCH_EVENTS_MAX && packed_bytes < BATCH_BYTES_MAX {
            let Some(line) = lines.next().await? else { break };
            batch.bytes += line.bytes();
            match line.event() {
                Some(Ok(event)) => {
                    let packed = event.pack();
                    packed_bytes += packed.len();
                    batch.events.push(packed);
                }
                Some(Err(error)) => {
                    batch.invalid += 1;
                    progress.report(&error.to_string());
                }
                None => {}
            }
        }
        Ok((batch.bytes > 0).then_some((batch, lines)))
    })
}

/// Events in the pieces that one call takes.
pub fn pieces(events: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut pieces: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        let has_room = bytes + event.len() <= BATCH_BYTES_MAX;
        bytes += event.len();
        match pieces.last_mut() {
            Some(piece) if has_room && piece.len() < BATCH_EVENTS_MAX => piece.push(event),
            _ => {
                bytes = event.len();
                pieces.push(vec![event]);
            }
        }
    }
    pieces
}

/// Saves a batch, and again what the store wants later; an outcome for each event, in no order.
pub async fn save(
    mut events: Vec<Vec<u8>>,
    store: &dyn Layer2,
    progress: &Progress,
) -> anyhow::Result<Vec<SaveOutcome>> {
    let mut settled = Vec::with_capacity(events.len());
    let mut refusals = 0;
    while !events.is_empty() {
        let outcomes = insist(async || store.save(&events).await, progress).await?;
        let mut later = Vec::new();
        let mut reason = String::new();
        for (event, outcome) in events.into_iter().zip(outcomes) {
            match outcome {
                SaveOutcome::Refused(why) => {
                    later.push(event);
                    reason = why;
                }
                outcome => settled.push(outcome),
            }
        }
        if !later.is_empty() {
            refusals += 1;
            ensure!(refusals <= FAILURES_MAX, "the store refuses events: {reason}");
            progress.report(&format!("the store refuses {} events for now: {reason}", later.len()));
            tokio::time::sleep(backoff(refusals)).await;
        }
        events = later;
    }
    Ok(settled)
}
