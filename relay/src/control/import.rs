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
    desk::Desk,
    protocol::Reply,
    replies::{IDLE_MAX, Input, Replies},
};
use crate::client::{Line, Lines, Tally};

/// Lines of one batch, which one core checks: as many events as the writer puts into one transaction.
const BATCH_LINES_MAX: usize = 1_000;
/// Events of one transaction where nobody else writes: each touches pages all over the file, and those of
/// many events are the same ones.
const ALONE_EVENTS_MAX: usize = 16_000;
/// Bytes of one batch.
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// Faulty lines that are told one by one.
const FAULTS_TOLD_MAX: u64 = 10;

/// Stores what comes, as if clients had published it: so it goes up to L2. The limits that clients are
/// held to do not apply; the rules do.
pub async fn import(input: Input, replies: &mut Replies, desk: &Desk) -> anyhow::Result<Tally> {
    let events_max = if desk.is_alone { ALONE_EVENTS_MAX } else { 1 };
    let mut ahead = Ahead::new(Lines::of(input), desk.store.clone(), events_max);
    let (mut tally, mut done) = (Tally::default(), 0);
    while let Some(batch) = ahead.next_of(events_max).await? {
        for fault in batch.faults {
            if tally.invalid < FAULTS_TOLD_MAX {
                replies.send(&Reply::Note(fault)).await?;
            }
            tally.invalid += 1;
        }
        tally.duplicate += batch.known;
        let writer = &desk.writer;
        let outcomes = match desk.is_alone {
            true => writer.put_at_once(batch.events, Origin::Client).await?,
            false => writer.put_all(batch.events, Origin::Client).await?,
        };
        outcomes.into_iter().for_each(|outcome| count(outcome, &mut tally));
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
/// others are written.
struct Ahead {
    lines: Lines,
    store: Store,
    checking: VecDeque<JoinHandle<Result<CheckedBatch, ReadError>>>,
    batches_max: usize,
}

impl Ahead {
    /// `events_max`: what is taken from it at a time.
    fn new(lines: Lines, store: Store, events_max: usize) -> Ahead {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let batches_max = 2 * cores + events_max / BATCH_LINES_MAX;
        Ahead { lines, store, checking: VecDeque::new(), batches_max }
    }

    /// Batches as one, until it has so many events or there are no more.
    async fn next_of(&mut self, events_max: usize) -> anyhow::Result<Option<CheckedBatch>> {
        let Some(mut all) = self.next().await? else { return Ok(None) };
        while all.events.len() < events_max {
            let Some(more) = self.next().await? else { break };
            all.events.extend(more.events);
            all.faults.extend(more.faults);
            all.known += more.known;
            all.bytes += more.bytes;
        }
        Ok(Some(all))
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
