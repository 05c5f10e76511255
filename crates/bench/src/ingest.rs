//! `aquifer-bench ingest` and `duplicates`: events in, OKs out.
//!
//! An event counts when the relay has said OK. Whether it is on the disk by then is the relay's
//! promise, and not to be seen from outside.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use event::EventId;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};

use crate::{
    connection::{Answer, Connection, Incoming, Outgoing},
    latency::{Latencies, Summary},
    load::{Load, Selection},
    process::{Cost, Process},
    progress,
    schedule::Schedule,
};

/// Publish events and wait for their OKs
///
/// With `--connections 1 --in-flight 1` it shows what a lone client waits for. With `--rate` events are
/// sent when they are due, and their latency counts from then, whether or not the relay keeps up.
#[derive(Args)]
pub struct Ingest {
    #[command(flatten)]
    pub publish: Publish,
}

/// Publish events that the relay has, and see what refusing them costs it
///
/// Fails if it takes one of them for new.
#[derive(Args)]
pub struct Duplicates {
    #[command(flatten)]
    publish: Publish,
}

/// How to publish.
#[derive(Args)]
pub struct Publish {
    /// The relay
    #[arg(long, value_name = "URL")]
    pub relay: String,

    #[command(flatten)]
    pub selection: Selection,

    #[command(flatten)]
    pub how: How,

    /// The relay's process on this machine, to see what it takes
    #[arg(long)]
    pub pid: Option<u32>,
}

#[derive(Args, Clone, Copy)]
pub struct How {
    /// Connections
    #[arg(long, default_value_t = 8)]
    pub connections: usize,

    /// Events that were sent and not answered, over all connections
    #[arg(long, default_value_t = 256)]
    pub in_flight: usize,

    /// Events a second [default: as fast as they are answered]
    #[arg(long)]
    pub rate: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Ingested {
    pub events: u64,
    pub seconds: f64,
    pub events_per_second: f64,
    pub accepted: u64,
    pub duplicate: u64,
    /// By reason.
    pub refused: BTreeMap<String, u64>,
    pub ok: Summary,
    pub relay: Option<Cost>,
}

impl Ingest {
    pub async fn run(&self) -> Result<Ingested> {
        self.publish.run().await
    }
}

impl Duplicates {
    pub async fn run(&self) -> Result<Ingested> {
        let ingested = self.publish.run().await?;
        // Relays word it differently: some say `duplicate:`, some only OK. None may refuse.
        ensure!(ingested.refused.is_empty(), "known events were refused: {:?}", ingested.refused);
        Ok(ingested)
    }
}

impl Publish {
    async fn run(&self) -> Result<Ingested> {
        let load = Arc::new(self.selection.load()?);
        publish(&self.relay, load, self.how, self.pid.map(Process)).await
    }
}

/// Publishes all of `load`.
pub async fn publish(
    relay: &str,
    load: Arc<Load>,
    how: How,
    process: Option<Process>,
) -> Result<Ingested> {
    ensure!(how.connections > 0, "--connections must be at least 1");
    let connections = Connection::open_many(relay, how.connections).await?;
    let progress = progress::events(load.len());
    let schedule = Schedule::new(load.len(), how.rate);
    let before = process.map(Process::usage).transpose()?;
    let started = Instant::now();
    let mut publishing = JoinSet::new();
    for connection in connections {
        let lane = Lane {
            load: load.clone(),
            schedule: schedule.clone(),
            room: Semaphore::new((how.in_flight / how.connections).max(1)),
            flight: Mutex::new(HashMap::new()),
            all_sent: Notify::new(),
            progress: progress.clone(),
        };
        publishing.spawn(lane.run(connection));
    }
    let mut tally = Tally::default();
    while let Some(finished) = publishing.join_next().await {
        tally.add(finished.context("a task panicked")??);
    }
    let took = started.elapsed();
    progress.finish_and_clear();
    let mut ingested = tally.result(took);
    if let (Some(process), Some(before)) = (process, before) {
        ingested.relay = Some(process.cost(before, ingested.events)?);
    }
    Ok(ingested)
}

/// One connection's part.
struct Lane {
    load: Arc<Load>,
    schedule: Arc<Schedule>,
    room: Semaphore,
    /// When each unanswered event was due.
    flight: Mutex<HashMap<EventId, Instant>>,
    all_sent: Notify,
    progress: ProgressBar,
}

impl Lane {
    async fn run(self, connection: Connection) -> Result<Tally> {
        let Connection { mut outgoing, mut incoming } = connection;
        let (sent, tally) =
            tokio::try_join!(self.send_all(&mut outgoing), self.take_answers(&mut incoming))?;
        ensure!(sent == tally.answered, "{sent} events were sent, {} answered", tally.answered);
        Ok(tally)
    }

    async fn send_all(&self, outgoing: &mut Outgoing) -> Result<u64> {
        let mut sent = 0;
        loop {
            // What is queued goes out before anything is waited for.
            let room = match self.room.try_acquire() {
                Ok(room) => room,
                Err(_) => {
                    outgoing.flush().await?;
                    self.room.acquire().await?
                }
            };
            room.forget(); // It is given back when the answer comes.
            let Some((place, due)) = self.schedule.next().await else { break };
            self.flight.lock().unwrap().insert(self.load.id(place), due);
            outgoing.queue(self.load.frame(place)).await?;
            if self.schedule.is_paced() {
                outgoing.flush().await?;
            }
            sent += 1;
        }
        outgoing.flush().await?;
        self.all_sent.notify_one();
        Ok(sent)
    }

    async fn take_answers(&self, incoming: &mut Incoming) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut all_sent = false;
        while !(all_sent && self.flight.lock().unwrap().is_empty()) {
            tokio::select! {
                answer = incoming.next() => self.note(answer?, &mut tally),
                () = self.all_sent.notified() => all_sent = true,
            }
        }
        Ok(tally)
    }

    fn note(&self, answer: Answer, tally: &mut Tally) {
        match answer {
            Answer::Ok { id, accepted, message } => {
                let Some(due) = self.flight.lock().unwrap().remove(&id) else { return };
                tally.note(due.elapsed(), accepted, message);
                self.room.add_permits(1);
                self.progress.inc(1);
            }
            Answer::Refusal(text) => self.progress.suspend(|| eprintln!("the relay says: {text}")),
            Answer::Event(_) | Answer::Eose(_) => {}
        }
    }
}

struct Tally {
    answered: u64,
    accepted: u64,
    duplicate: u64,
    refused: BTreeMap<String, u64>,
    ok: Latencies,
}

impl Default for Tally {
    fn default() -> Tally {
        let ok = Latencies::new();
        Tally { answered: 0, accepted: 0, duplicate: 0, refused: BTreeMap::new(), ok }
    }
}

impl Tally {
    fn note(&mut self, took: Duration, accepted: bool, message: String) {
        self.answered += 1;
        self.ok.record(took);
        if message.starts_with("duplicate") {
            self.duplicate += 1;
        } else if accepted {
            self.accepted += 1;
        } else {
            *self.refused.entry(message).or_default() += 1;
        }
    }

    fn add(&mut self, other: Tally) {
        self.answered += other.answered;
        self.accepted += other.accepted;
        self.duplicate += other.duplicate;
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        self.ok.merge(&other.ok);
    }

    fn result(self, took: Duration) -> Ingested {
        let seconds = took.as_secs_f64();
        Ingested {
            events: self.answered,
            seconds,
            events_per_second: self.answered as f64 / seconds,
            accepted: self.accepted,
            duplicate: self.duplicate,
            refused: self.refused,
            ok: self.ok.summary(),
            relay: None,
        }
    }
}
