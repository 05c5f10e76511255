//! `aquifer-bench soak`: everything at once, for long, to see whether memory grows or errors come.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    connection::{Answer, Connection},
    ingest::{self, How, Ingested},
    latency::{Latencies, Summary},
    load::{Load, Selection},
    process::Process,
    query::request,
    schedule::Schedule,
    shapes::Shape,
    truth::Truth,
};

/// Different filters of each shape.
const FILTERS: usize = 20;
/// Events in an answer.
const LIMIT: u64 = 500;
/// How much longer than planned publishing may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Publish, ask and listen at fixed rates for a long time
///
/// Publishes as many events of the corpus as fall into the time given. What is stored changes meanwhile,
/// so answers are not compared with anything.
#[derive(Args)]
pub struct Soak {
    /// The relay
    #[arg(long, value_name = "URL")]
    pub relay: String,

    #[command(flatten)]
    pub selection: Selection,

    /// The relay's process on this machine
    #[arg(long)]
    pub pid: u32,

    /// How long
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,

    /// Events a second
    #[arg(long, default_value_t = 200.0)]
    pub publish_rate: f64,

    /// Requests a second, of all shapes in turn
    #[arg(long, default_value_t = 20.0)]
    pub query_rate: f64,

    /// Connections that listen to all new events
    #[arg(long, default_value_t = 20)]
    pub subscribers: usize,

    /// Seconds between two looks at memory
    #[arg(long, default_value_t = 5.0)]
    pub sample: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Soaked {
    pub published: Ingested,
    pub queries: Summary,
    /// Events that all listeners together were sent.
    pub delivered: u64,
    pub errors: Vec<String>,
    pub memory: Vec<Sample>,
}

/// One look.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    pub second: f64,
    pub memory_bytes: u64,
}

impl Soak {
    pub async fn run(&self) -> Result<Soaked> {
        ensure!(self.seconds > 0.0 && self.sample > 0.0, "no time to measure in");
        let events = (self.publish_rate * self.seconds).ceil() as usize;
        let load = Arc::new(self.selection.first(events).load()?);
        let seen = Arc::new(Seen::default());
        let listeners = self.listen(&seen).await?;
        let sampling = tokio::spawn(self.sample(seen.clone()));
        let how = How { connections: 2, in_flight: 256, rate: Some(self.publish_rate) };
        let published = ingest::publish(&self.relay, load.clone(), how, Some(Process(self.pid)));
        let (published, queried) = tokio::join!(
            timeout(Duration::from_secs_f64(self.seconds) + PATIENCE, published),
            self.query(&load)
        );
        sampling.abort();
        drop(listeners);
        let memory = std::mem::take(&mut *seen.memory.lock().unwrap());
        let mut errors = std::mem::take(&mut *seen.errors.lock().unwrap());
        let (queries, complaints) = queried?;
        errors.extend(complaints);
        Ok(Soaked {
            published: published.context("the relay cannot keep up with this rate")??,
            queries: queries.summary(),
            delivered: seen.delivered.load(Ordering::Relaxed),
            errors,
            memory,
        })
    }

    async fn listen(&self, seen: &Arc<Seen>) -> Result<JoinSet<()>> {
        let mut listeners = JoinSet::new();
        for mut connection in Connection::open_many(&self.relay, self.subscribers).await? {
            let filter = format!("{{\"since\":{},\"limit\":1}}", corpus::BEGINNING);
            connection.send(format!("[\"REQ\",\"soak\",{filter}]")).await?;
            listeners.spawn(seen.clone().count(connection));
        }
        Ok(listeners)
    }

    fn sample(&self, seen: Arc<Seen>) -> impl Future<Output = ()> + use<> {
        let (process, every) = (Process(self.pid), Duration::from_secs_f64(self.sample));
        async move {
            let started = Instant::now();
            loop {
                match process.memory_bytes() {
                    Ok(memory_bytes) => {
                        let second = started.elapsed().as_secs_f64();
                        seen.memory.lock().unwrap().push(Sample { second, memory_bytes });
                    }
                    Err(error) => seen.complain("looking at memory", &error),
                }
                tokio::time::sleep(every).await;
            }
        }
    }

    /// Nothing is compared here: what is stored changes all the time.
    async fn query(&self, load: &Load) -> Result<(Latencies, Vec<String>)> {
        let truth = Truth::of(load)?;
        let filters = Shape::value_variants()
            .iter()
            .flat_map(|shape| shape.filters(truth.events(), LIMIT, FILTERS));
        let filters: Vec<String> =
            filters.map(|filter| serde_json::to_string(&filter)).collect::<Result<_, _>>()?;
        let count = (self.query_rate * self.seconds).ceil() as usize;
        let schedule = Schedule::new(count, Some(self.query_rate));
        let mut connection = Connection::open(&self.relay).await?;
        let (mut took, mut complaints) = (Latencies::new(), Vec::new());
        while let Some((place, due)) = schedule.next().await {
            let filter = &filters[place % filters.len()];
            match request(&mut connection, &place.to_string(), filter, |_| {}).await {
                Ok(()) => took.record(due.elapsed()),
                Err(error) => {
                    complaints.push(format!("asking: {error:#}"));
                    connection = Connection::open(&self.relay).await?;
                }
            }
        }
        Ok((took, complaints))
    }
}

/// What goes on beside.
#[derive(Default)]
struct Seen {
    delivered: AtomicU64,
    memory: Mutex<Vec<Sample>>,
    errors: Mutex<Vec<String>>,
}

impl Seen {
    async fn count(self: Arc<Self>, mut connection: Connection) {
        loop {
            match connection.incoming.next_whenever().await {
                Ok(Answer::Event(_)) => drop(self.delivered.fetch_add(1, Ordering::Relaxed)),
                Ok(Answer::Refusal(text)) => {
                    return self.errors.lock().unwrap().push(format!("listening: {text}"));
                }
                Ok(Answer::Ok { .. } | Answer::Eose(_)) => {}
                Err(error) => return self.complain("listening", &error),
            }
        }
    }

    fn complain(&self, when: &str, error: &anyhow::Error) {
        self.errors.lock().unwrap().push(format!("{when}: {error:#}"));
    }
}
