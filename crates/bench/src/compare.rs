//! `aquifer-bench compare`: relays side by side, one after the other on the same machine with the same
//! events, first to last and then last to first, so that none profits from its place.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    contender::{Contender, Running},
    fanout::{FannedOut, Fanout},
    idle::{Idle, Idled},
    ingest::{How, Ingested, publish},
    load::{Load, Selection},
    machine::{Fsync, Verify},
    measured::{Compared, Machine, Measured, Pass},
    query::{Answered, HowToAsk, ask},
    shapes::Shape,
    table,
    truth::Truth,
};

/// Events a second: slow enough that one is with everybody before the next is due.
const FAN_OUT_RATE: f64 = 5.0;

/// Compare relays: start each, measure it in all modes, and print one table
///
/// The first contender is the one that all others are compared with. scripts/bench-peers builds them
/// and writes the list.
#[derive(Args)]
pub struct Compare {
    /// The relays, as JSON: `[{"name":…,"version":…,"durable":…,"command":[…,"{folder}","{port}"]}]`
    #[arg(long, value_name = "FILE")]
    contenders: PathBuf,

    /// Signed events; those beyond --stored are published one by one
    #[arg(long, value_name = "FILE")]
    corpus: PathBuf,

    /// Events that each relay stores before it is asked
    #[arg(long, default_value_t = 100_000)]
    stored: usize,

    /// Events published by a lone client that waits for each OK
    #[arg(long, default_value_t = 1_000)]
    lone: usize,

    /// Seconds for each shape of query, and for looking at what the processor can do
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,

    /// Subscribers, and idle connections
    #[arg(long, default_value_t = 1_000)]
    connections: usize,

    /// Events that are published to all subscribers, five a second
    #[arg(long, default_value_t = 100)]
    fanned_out: usize,

    /// How often the whole is done, in turning order
    #[arg(long, default_value_t = 2)]
    passes: usize,

    /// Where relays keep their events meanwhile: the disk that is measured
    #[arg(long, default_value = ".")]
    folder: PathBuf,

    /// Put the table into this file, in place of the one between the marks there
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

impl Compare {
    pub async fn run(&self) -> Result<Compared> {
        let contenders = Contender::list(&self.contenders)?;
        let given = Given::of(self)?;
        let mut relays: Vec<Measured> = contenders.iter().map(Measured::nothing).collect();
        for pass in 0..self.passes {
            let mut order: Vec<usize> = (0..contenders.len()).collect();
            if pass % 2 == 1 {
                order.reverse();
            }
            for place in order {
                eprintln!("pass {} of {}: {}", pass + 1, self.passes, contenders[place].name);
                self.measure(&contenders[place], &given, &mut relays[place]).await;
            }
        }
        let compared = Compared {
            machine: self.machine()?,
            corpus_sha256: given.stored.sha256(),
            stored: given.stored.len(),
            json_bytes_per_event: given.stored.bytes() as f64 / given.stored.len() as f64,
            relays,
        };
        if let Some(file) = &self.write {
            table::put(&table::markdown(&compared), &table::FIGURES, file)?;
        }
        Ok(compared)
    }

    fn machine(&self) -> Result<Machine> {
        let verify = Verify::lasting(self.seconds).run()?;
        Ok(Machine { fsync: Fsync::of(&self.folder).run()?, verify })
    }

    async fn measure(&self, contender: &Contender, given: &Given, into: &mut Measured) {
        match contender.start(&self.folder).await {
            Ok(running) => {
                let mut stage = Stage { compare: self, given, running, into };
                let pass = stage.all().await;
                into.passes.push(pass);
            }
            Err(error) => into.complain("starting", &error),
        }
    }
}

/// What every relay is given.
struct Given {
    stored: Arc<Load>,
    lone: Arc<Load>,
    truth: Truth,
}

impl Given {
    fn of(compare: &Compare) -> Result<Given> {
        let stored = Selection::new(&compare.corpus, 0..compare.stored).load()?;
        let later = compare.stored..compare.stored + compare.lone;
        let lone = Arc::new(Selection::new(&compare.corpus, later).load()?);
        let truth = Truth::of(&stored)?;
        Ok(Given { stored: Arc::new(stored), lone, truth })
    }
}

/// One relay while it runs.
struct Stage<'a> {
    compare: &'a Compare,
    given: &'a Given,
    running: Running,
    into: &'a mut Measured,
}

impl Stage<'_> {
    /// Idle connections come first: later there is memory that was freed and is used again. Queries
    /// come before whatever adds events that the corpus does not have.
    async fn all(&mut self) -> Pass {
        let Given { stored, lone, .. } = self.given;
        let many = How { connections: 8, in_flight: 256, rate: None };
        let one = How { connections: 1, in_flight: 1, rate: None };
        Pass {
            idle: self.idle().await,
            ingest: self.publish("ingest", stored, many).await,
            duplicates: self.publish("duplicates", stored, many).await,
            disk_bytes_per_event: self.disk(),
            shapes: self.query().await,
            lone: self.publish("lone", lone, one).await,
            fanout: self.fanout().await,
        }
    }

    async fn publish(&mut self, what: &str, load: &Arc<Load>, how: How) -> Option<Ingested> {
        let process = Some(self.running.process);
        let published = publish(&self.running.url, load.clone(), how, process).await;
        self.into.take(what, published)
    }

    fn disk(&mut self) -> Option<f64> {
        let events = self.given.truth.events().len() as f64;
        let bytes = self.running.disk_bytes().map(|bytes| bytes as f64 / events);
        self.into.take("its folder", bytes)
    }

    async fn query(&mut self) -> Vec<Answered> {
        let how = HowToAsk {
            shapes: Shape::value_variants().to_vec(),
            seconds: self.compare.seconds,
            connections: 2,
            rate: None,
            filters: 50,
            limit: 500,
        };
        let process = Some(self.running.process);
        let answered = ask(&self.running.url, &self.given.truth, &how, process).await;
        self.into.take("queries", answered).unwrap_or_default()
    }

    async fn fanout(&mut self) -> Option<FannedOut> {
        let fanout = Fanout {
            relay: self.running.url.clone(),
            also: Vec::new(),
            publish: None,
            settle: 0.0,
            subscribers: self.compare.connections,
            events: self.compare.fanned_out,
            rate: FAN_OUT_RATE,
            pid: Some(self.running.process.0),
        };
        self.into.take("fan-out", fanout.run().await)
    }

    async fn idle(&mut self) -> Option<Idled> {
        let idle = Idle {
            relay: self.running.url.clone(),
            pid: self.running.process.0,
            connections: self.compare.connections,
            subscribe: false,
        };
        self.into.take("idle connections", idle.run().await)
    }
}
