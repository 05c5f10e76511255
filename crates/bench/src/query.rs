//! `aquifer-bench query`: REQs of eight shapes, and how soon they are answered.
//!
//! Every filter is first asked once, and the answer compared with [`Truth`]. Only filters that were
//! answered rightly are timed, and then nothing is parsed: the answer must have as many events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use event::{Event, Filter};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::{
    connection::{Answer, Connection, EventFrame},
    latency::{Latencies, Summary},
    load::Selection,
    process::{Process, Usage},
    progress,
    schedule::Schedule,
    shapes::Shape,
    truth::{self, Truth, Verdict},
};

/// Ask for stored events in eight shapes, and check the answers
///
/// The relay must hold the corpus and nothing else.
#[derive(Args)]
pub struct Query {
    /// The relay
    #[arg(long, value_name = "URL")]
    pub relay: String,

    #[command(flatten)]
    pub selection: Selection,

    #[command(flatten)]
    pub how: HowToAsk,

    /// The relay's process on this machine, to see what it takes
    #[arg(long)]
    pub pid: Option<u32>,
}

#[derive(Args, Clone)]
pub struct HowToAsk {
    /// Which shapes
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Shape::value_variants().to_vec())]
    pub shapes: Vec<Shape>,

    /// Seconds for each shape
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,

    /// Connections, with one request each at a time
    #[arg(long, default_value_t = 2)]
    pub connections: usize,

    /// Requests a second [default: as fast as they are answered]
    #[arg(long)]
    pub rate: Option<f64>,

    /// Different filters of each shape
    #[arg(long, default_value_t = 50)]
    pub filters: usize,

    /// The limit in each filter
    #[arg(long, default_value_t = 500)]
    pub limit: u64,
}

/// How one shape is answered.
#[derive(Clone, Debug, Serialize)]
pub struct Answered {
    pub shape: Shape,
    pub requests_per_second: f64,
    pub events_per_answer: f64,
    /// Until the first event was there.
    pub first: Summary,
    /// Until EOSE.
    pub eose: Summary,
    pub relay_cpu_us_per_request: Option<f64>,
    /// Filters with a wrong answer, which were not timed, and what was wrong with one.
    pub wrong: usize,
    pub complaint: Option<String>,
    /// Answers that were right but for the order within a second.
    pub ties_astray: usize,
    /// Of all answers, without what any relay may answer differently.
    pub digest: String,
}

impl Query {
    pub async fn run(&self) -> Result<Vec<Answered>> {
        let truth = Truth::of(&self.selection.load()?)?;
        ask(&self.relay, &truth, &self.how, self.pid.map(Process)).await
    }
}

/// Asks a relay that holds `truth`.
pub async fn ask(
    relay: &str,
    truth: &Truth,
    how: &HowToAsk,
    process: Option<Process>,
) -> Result<Vec<Answered>> {
    ensure!(how.connections > 0 && how.filters > 0, "nothing to ask");
    let mut shapes = Vec::new();
    for shape in &how.shapes {
        let filters = shape.filters(truth.events(), how.limit, how.filters);
        let mut checked = check(relay, truth, filters).await?;
        let questions = std::mem::take(&mut checked.right);
        let timed = time(relay, questions, how, process, *shape).await?;
        shapes.push(checked.told(*shape, timed));
    }
    Ok(shapes)
}

/// A filter as it is asked, and how many events its answer has.
struct Question {
    filter: String,
    events: usize,
}

#[derive(Default)]
struct Checked {
    right: Vec<Question>,
    wrong: usize,
    complaint: Option<String>,
    ties_astray: usize,
    events: usize,
    answers: usize,
    digest: Sha256,
}

async fn check(relay: &str, truth: &Truth, filters: Vec<Filter>) -> Result<Checked> {
    let mut connection = Connection::open(relay).await?;
    let mut checked = Checked::default();
    for (number, filter) in filters.iter().enumerate() {
        let question = serde_json::to_string(filter)?;
        let mut frames = Vec::new();
        let subscription = format!("check{number}");
        request(&mut connection, &subscription, &question, |frame| frames.push(frame)).await?;
        let found: Vec<Event> = frames.iter().map(read).collect::<Result<_>>()?;
        checked.note(question, filter, &found, truth);
    }
    Ok(checked)
}

fn read(frame: &EventFrame) -> Result<Event> {
    let json = frame.event().context("an EVENT without an event")?;
    Ok(Event::from_json(json.as_bytes())?)
}

impl Checked {
    fn note(&mut self, question: String, filter: &Filter, found: &[Event], truth: &Truth) {
        let verdict = truth::judge(found, &truth.answer(filter), filter);
        self.answers += 1;
        self.events += found.len();
        let mut places: Vec<_> = found.iter().map(truth::place).collect();
        places.sort_unstable();
        for (_, id) in truth::settled(&places, filter) {
            self.digest.update(id.0);
        }
        if let Verdict::Wrong(complaint) = verdict {
            self.wrong += 1;
            self.complaint.get_or_insert(format!("{complaint}: {question:.200}"));
        } else {
            self.ties_astray += usize::from(verdict == Verdict::TiesAstray);
            self.right.push(Question { filter: question, events: found.len() });
        }
    }

    fn told(self, shape: Shape, timed: Timed) -> Answered {
        let requests = timed.eose.summary().count as f64;
        Answered {
            shape,
            requests_per_second: requests / timed.took.as_secs_f64(),
            events_per_answer: self.events as f64 / self.answers as f64,
            first: timed.first.summary(),
            eose: timed.eose.summary(),
            relay_cpu_us_per_request: timed.cpu_us.map(|cpu| cpu / requests),
            wrong: self.wrong,
            complaint: self.complaint,
            ties_astray: self.ties_astray,
            digest: hex::encode(&self.digest.finalize()[..8]),
        }
    }
}

struct Timed {
    took: Duration,
    first: Latencies,
    eose: Latencies,
    cpu_us: Option<f64>,
}

/// Asks all questions in turn, for the time given.
async fn time(
    relay: &str,
    questions: Vec<Question>,
    how: &HowToAsk,
    process: Option<Process>,
    shape: Shape,
) -> Result<Timed> {
    let mut timed = Timed {
        took: Duration::ZERO,
        first: Latencies::new(),
        eose: Latencies::new(),
        cpu_us: None,
    };
    if questions.is_empty() {
        return Ok(timed);
    }
    let asking = Arc::new(Asking {
        questions,
        schedule: Schedule::new(how.requests_max(), how.rate),
        over: AtomicBool::new(false),
        number: AtomicUsize::new(0),
    });
    let connections = Connection::open_many(relay, how.connections).await?;
    let before = process.map(Process::usage).transpose()?;
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for connection in connections {
        workers.spawn(asking.clone().run(connection));
    }
    wait(how.seconds, shape).await;
    asking.over.store(true, Ordering::Relaxed);
    while let Some(finished) = workers.join_next().await {
        let (first, eose) = finished.context("a task panicked")??;
        timed.first.merge(&first);
        timed.eose.merge(&eose);
    }
    timed.took = started.elapsed();
    timed.cpu_us = cpu_us(process, before)?;
    Ok(timed)
}

fn cpu_us(process: Option<Process>, before: Option<Usage>) -> Result<Option<f64>> {
    let (Some(process), Some(before)) = (process, before) else { return Ok(None) };
    Ok(Some(process.cost(before, 1)?.cpu_us_per_event))
}

async fn wait(seconds: f64, shape: Shape) {
    let name = shape.to_possible_value().expect("every shape has a name");
    let progress = progress::seconds(seconds.ceil() as u64, name.get_name());
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        progress.inc(1);
    }
    progress.finish_and_clear();
}

impl HowToAsk {
    fn requests_max(&self) -> usize {
        self.rate.map_or(usize::MAX, |rate| (rate * self.seconds).ceil() as usize)
    }
}

/// What all workers share.
struct Asking {
    questions: Vec<Question>,
    schedule: Arc<Schedule>,
    over: AtomicBool,
    number: AtomicUsize,
}

impl Asking {
    async fn run(self: Arc<Self>, mut connection: Connection) -> Result<(Latencies, Latencies)> {
        let (mut first, mut eose) = (Latencies::new(), Latencies::new());
        while !self.over.load(Ordering::Relaxed)
            && let Some((place, due)) = self.schedule.next().await
        {
            let question = &self.questions[place % self.questions.len()];
            let subscription = self.number.fetch_add(1, Ordering::Relaxed).to_string();
            let mut events = 0;
            request(&mut connection, &subscription, &question.filter, |_| {
                if events == 0 {
                    first.record(due.elapsed());
                }
                events += 1;
            })
            .await?;
            eose.record(due.elapsed());
            ensure!(
                events == question.events,
                "{events} events instead of {} for {:.200}",
                question.events,
                question.filter
            );
        }
        Ok((first, eose))
    }
}

/// One REQ until EOSE, and its CLOSE.
pub async fn request(
    connection: &mut Connection,
    subscription: &str,
    filter: &str,
    mut each: impl FnMut(EventFrame),
) -> Result<()> {
    connection.send(format!("[\"REQ\",\"{subscription}\",{filter}]")).await?;
    loop {
        match connection.incoming.next().await? {
            Answer::Event(frame) if frame.is_of(subscription) => each(frame),
            answer if answer.is_eose_of(subscription) => break,
            answer => {
                if let Some(reason) = answer.refusal_of(subscription) {
                    bail!("the relay says {reason:.300} to {filter:.200}");
                }
            }
        }
    }
    connection.send(format!("[\"CLOSE\",\"{subscription}\"]")).await
}
