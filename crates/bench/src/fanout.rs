//! `aquifer-bench fanout`: from an author's keyboard to a thousand readers.
//!
//! One connection publishes at a fixed rate, to the same relay or to another of its cluster, all others hold a subscription that every event matches.
//! Each subscriber notes when each event came; what is told counts from when the event was due.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use corpus::Author;
use event::{Event, EventId, Timestamp};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    connection::{Answer, Connection, Incoming, Outgoing},
    latency::{Latencies, Summary},
    process::{Cost, Process},
    progress,
    schedule::Schedule,
};

const SUBSCRIPTION: &str = "fanout";
/// How long after the last event was published all must have come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Publish to many subscribers, and see when the first and the last of them have each event
#[derive(Args)]
pub struct Fanout {
    /// The relay
    #[arg(long, value_name = "URL")]
    pub relay: String,

    /// Further relays: the subscribers are spread over all of them
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub also: Vec<String>,

    /// Where to publish, if not where the first subscribers are
    #[arg(long, value_name = "URL")]
    pub publish: Option<String>,

    /// Seconds between the last subscription and the first event: relays of a cluster may take a moment to
    /// tell each other
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub settle: f64,

    /// Connections with one subscription each, which every event matches
    #[arg(long, default_value_t = 1_000)]
    pub subscribers: usize,

    /// Events
    #[arg(long, default_value_t = 200)]
    pub events: usize,

    /// Events a second
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,

    /// The relay's process on this machine, to see what it takes
    #[arg(long)]
    pub pid: Option<u32>,
}

/// What came of it. All times count from when an event was due to be published.
#[derive(Clone, Debug, Serialize)]
pub struct FannedOut {
    pub subscribers: usize,
    pub events: usize,
    /// Until the publisher had its OK.
    pub ok: Summary,
    /// Until the first subscriber had it.
    pub first: Summary,
    /// Over all deliveries.
    pub each: Summary,
    /// Until the last subscriber had it.
    pub last: Summary,
    /// Deliveries that did not come, or came twice: both must be none.
    pub missing: usize,
    pub repeated: usize,
    pub relay: Option<Cost>,
}

/// When a subscriber had which event.
type Deliveries = Vec<(usize, Instant)>;

impl Fanout {
    pub async fn run(&self) -> Result<FannedOut> {
        ensure!(self.subscribers > 0 && self.events > 0, "nothing to measure");
        let author = Author::new(now().0, 0);
        let events = self.events(&author);
        let numbers: Arc<HashMap<EventId, usize>> =
            Arc::new(events.iter().enumerate().map(|(number, event)| (event.id, number)).collect());
        let mut subscribers = JoinSet::new();
        for connection in self.subscribe(&author).await? {
            subscribers.spawn(receive(connection, numbers.clone(), self.lasts()));
        }
        sleep(Duration::from_secs_f64(self.settle)).await;
        let process = self.pid.map(Process);
        let before = process.map(Process::usage).transpose()?;
        let (due, ok) = self.publish(&events).await?;
        let mut deliveries = Vec::new();
        while let Some(received) = subscribers.join_next().await {
            deliveries.push(received.context("a task panicked")??);
        }
        let mut result = told(&due, &deliveries);
        result.ok = ok.summary();
        if let (Some(process), Some(before)) = (process, before) {
            result.relay = Some(process.cost(before, self.events as u64)?);
        }
        Ok(result)
    }

    async fn subscribe(&self, author: &Author) -> Result<Vec<Connection>> {
        let relays: Vec<&String> = std::iter::once(&self.relay).chain(&self.also).collect();
        let mut connections = Vec::with_capacity(self.subscribers);
        for (at, relay) in relays.iter().enumerate() {
            let share = self.subscribers / relays.len();
            let rest = usize::from(at < self.subscribers % relays.len());
            connections.extend(subscribe(relay, share + rest, author).await?);
        }
        Ok(connections)
    }

    /// Dated a second apart, so that no relay takes one for another version of the last.
    fn events(&self, author: &Author) -> Vec<Event> {
        let first = now().0 - self.events as u64;
        let event = |number| {
            let content = format!("The {number}th of some notes that many are waiting for.");
            author.sign(Timestamp(first + number), 1, Vec::new(), content)
        };
        (0..self.events as u64).map(event).collect()
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.events as f64 / self.rate) + PATIENCE
    }

    async fn publish(&self, events: &[Event]) -> Result<(Vec<Instant>, Latencies)> {
        let url = self.publish.as_ref().unwrap_or(&self.relay);
        let Connection { mut outgoing, mut incoming } = Connection::open(url).await?;
        let schedule = Schedule::new(events.len(), Some(self.rate));
        let (due, answered) = tokio::try_join!(
            send(&mut outgoing, events, &schedule),
            take_oks(&mut incoming, events.len())
        )?;
        let mut ok = Latencies::new();
        for (event, due) in events.iter().zip(&due) {
            let at = answered.get(&event.id).context("an event was not answered")?;
            ok.record(at.duration_since(*due));
        }
        Ok((due, ok))
    }
}

async fn send(outgoing: &mut Outgoing, events: &[Event], at: &Schedule) -> Result<Vec<Instant>> {
    let progress = progress::events(events.len());
    let mut all_due = Vec::with_capacity(events.len());
    while let Some((number, due)) = at.next().await {
        outgoing.queue(format!("[\"EVENT\",{}]", events[number].to_json())).await?;
        outgoing.flush().await?;
        all_due.push(due);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(all_due)
}

async fn take_oks(incoming: &mut Incoming, count: usize) -> Result<HashMap<EventId, Instant>> {
    let mut answered = HashMap::new();
    while answered.len() < count {
        if let Answer::Ok { id, accepted, message } = incoming.next().await? {
            ensure!(accepted, "an event was refused: {message}");
            answered.insert(id, Instant::now());
        }
    }
    Ok(answered)
}

/// Connections that have all heard EOSE: from here on everything is live.
async fn subscribe(relay: &str, count: usize, author: &Author) -> Result<Vec<Connection>> {
    let filter = format!("{{\"authors\":[\"{}\"],\"kinds\":[1],\"limit\":1}}", author.pubkey());
    let mut connections = Connection::open_many(relay, count).await?;
    for connection in &mut connections {
        connection.send(format!("[\"REQ\",\"{SUBSCRIPTION}\",{filter}]")).await?;
    }
    for connection in &mut connections {
        while !connection.incoming.next().await?.is_eose_of(SUBSCRIPTION) {}
    }
    Ok(connections)
}

async fn receive(
    mut connection: Connection,
    numbers: Arc<HashMap<EventId, usize>>,
    lasts: Duration,
) -> Result<Deliveries> {
    let mut deliveries = Vec::with_capacity(numbers.len());
    let all = async {
        while deliveries.len() < numbers.len() {
            let Answer::Event(frame) = connection.incoming.next_whenever().await? else { continue };
            let at = Instant::now();
            let number = frame.id().and_then(|id| numbers.get(&id));
            let number = number.with_context(|| format!("nobody published {:.300}", frame.0))?;
            deliveries.push((*number, at));
        }
        anyhow::Ok(())
    };
    // Late is not an error here: what is missing is counted.
    if let Ok(result) = timeout(lasts, all).await {
        result?;
    }
    Ok(deliveries)
}

fn told(due: &[Instant], deliveries: &[Deliveries]) -> FannedOut {
    let [mut first, mut each, mut last] = [(); 3].map(|()| Latencies::new());
    let (mut missing, mut repeated) = (0, 0);
    let mut waits: Vec<Vec<Duration>> = vec![Vec::new(); due.len()];
    for received in deliveries {
        let mut times = vec![0; due.len()];
        for (number, at) in received {
            times[*number] += 1;
            waits[*number].push(at.duration_since(due[*number]));
        }
        missing += times.iter().filter(|times| **times == 0).count();
        repeated += times.iter().filter(|times| **times > 1).count();
    }
    for waits in &waits {
        waits.iter().for_each(|wait| each.record(*wait));
        waits.iter().min().into_iter().for_each(|wait| first.record(*wait));
        waits.iter().max().into_iter().for_each(|wait| last.record(*wait));
    }
    FannedOut {
        subscribers: deliveries.len(),
        events: due.len(),
        ok: Latencies::new().summary(),
        first: first.summary(),
        each: each.summary(),
        last: last.summary(),
        missing,
        repeated,
        relay: None,
    }
}

fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since_1970.expect("it is after 1970").as_secs())
}
