//! Events in, many at a time: lines are read in batches, batches are checked on all cores, and what
//! holds goes to the writer in the order of the lines.

use std::{collections::VecDeque, thread};

use anyhow::Context;
use event::{Event, Verified, verify};
use store::{Origin, Outcome, ReadError, Store};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{
    Desk, Reply,
    conversation::{IDLE_MAX, Input, Replies},
};
use crate::client::{Line, Lines, Tally};

/// Lines of one batch: as many events as the writer puts into one transaction.
const BATCH_LINES_MAX: usize = 1_000;
/// Bytes of one batch.
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// Faulty lines that are told one by one.
const FAULTS_TOLD_MAX: u64 = 10;

/// Stores what comes, as if clients had published it: so it goes up to L2. The limits that clients are
/// held to do not apply; the rules do.
pub async fn import(input: Input, replies: &mut Replies, desk: &Desk) -> anyhow::Result<Tally> {
    let mut ahead = Ahead::new(Lines::of(input), desk.store.clone());
    let (mut tally, mut done) = (Tally::default(), 0);
    while let Some(batch) = ahead.next().await? {
        for fault in batch.faults {
            if tally.invalid < FAULTS_TOLD_MAX {
                replies.send(&Reply::Note(fault)).await?;
            }
            tally.invalid += 1;
        }
        tally.duplicate += batch.known;
        for outcome in desk.writer.put_all(batch.events, Origin::Client).await? {
            count(outcome, &mut tally);
        }
        done += batch.bytes;
        let note = tally.in_short();
        replies.send(&Reply::Progress { done, total: None, note }).await?;
    }
    Ok(tally)
}

fn count(outcome: Outcome, tally: &mut Tally) {
    match outcome {
        Outcome::Saved(_) => tally.accepted += 1,
        Outcome::Duplicate(_) => tally.duplicate += 1,
        Outcome::Superseded => tally.refuse("a newer version is here"),
        Outcome::Deleted => tally.refuse("its author deleted it"),
        Outcome::Expired => tally.refuse("it has expired"),
        Outcome::Ephemeral => tally.refuse("its kind is never stored"),
        Outcome::Invalid(reason) => tally.refuse(reason),
    }
}

/// Some lines of the file.
#[derive(Default)]
struct Batch {
    lines: Vec<Line>,
    bytes: u64,
}

async fn next_batch(lines: &mut Lines) -> anyhow::Result<Option<Batch>> {
    let mut batch = Batch::default();
    while batch.lines.len() < BATCH_LINES_MAX && batch.bytes < BATCH_BYTES_MAX {
        let line = timeout(IDLE_MAX, lines.next()).await;
        let line = line.with_context(|| format!("no line came in {} s", IDLE_MAX.as_secs()))?;
        let Some(line) = line? else { break };
        batch.bytes += line.bytes();
        batch.lines.push(line);
    }
    Ok((!batch.lines.is_empty()).then_some(batch))
}

/// Batches that are being checked, in the order of the file: so many that all cores have work while
/// one is written.
struct Ahead {
    lines: Lines,
    store: Store,
    checking: VecDeque<JoinHandle<Result<CheckedBatch, ReadError>>>,
    batches_max: usize,
}

impl Ahead {
    fn new(lines: Lines, store: Store) -> Ahead {
        let batches_max = 2 * thread::available_parallelism().map_or(1, usize::from);
        Ahead { lines, store, checking: VecDeque::new(), batches_max }
    }

    async fn next(&mut self) -> anyhow::Result<Option<CheckedBatch>> {
        while self.checking.len() < self.batches_max {
            let Some(batch) = next_batch(&mut self.lines).await? else { break };
            let store = self.store.clone();
            self.checking.push_back(spawn_blocking(move || check(batch, &store)));
        }
        let Some(first) = self.checking.pop_front() else { return Ok(None) };
        Ok(Some(first.await.context("checking events")??))
    }
}

#[derive(Default)]
struct CheckedBatch {
    events: Vec<Verified>,
    /// Events that are held already.
    known: u64,
    /// What is wrong with the other lines.
    faults: Vec<String>,
    bytes: u64,
}

fn check(batch: Batch, store: &Store) -> Result<CheckedBatch, ReadError> {
    let mut checked = CheckedBatch { bytes: batch.bytes, ..CheckedBatch::default() };
    for line in batch.lines {
        match line.event() {
            // What is held was verified when it came: an id stands for one event.
            Some(Ok(event)) if store.contains(&event.id)? => checked.known += 1,
            Some(Ok(event)) => match verify_line(&line, event) {
                Ok(event) => checked.events.push(event),
                Err(fault) => checked.faults.push(fault),
            },
            Some(Err(error)) => checked.faults.push(error.to_string()),
            None => {}
        }
    }
    Ok(checked)
}

fn verify_line(line: &Line, event: Event) -> Result<Verified, String> {
    verify(event).map_err(|invalid| format!("line {}: {invalid}", line.number()))
}
