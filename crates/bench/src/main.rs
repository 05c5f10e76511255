//! `aquifer-bench`: measures a nostr relay from outside, over its websocket. Any relay: nothing here
//! knows ours.
//!
//! A file for each mode. What is sent was signed before ([`load`]), what is due does not wait for what
//! was answered ([`schedule`]), and what comes back is checked: a wrong answer is reported, not timed.

mod compare;
mod conform;
mod connection;
mod contender;
mod fanout;
mod idle;
mod ingest;
mod latency;
mod load;
mod machine;
mod measured;
mod process;
mod progress;
mod query;
mod report;
mod schedule;
mod shapes;
mod soak;
mod table;
mod truth;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Measures a nostr relay over its websocket
///
/// First `corpus` writes a file of signed events; then `ingest` publishes them, and `query` asks for
/// them. All latencies are in microseconds and count from when a request was due.
///
///     aquifer-bench corpus --events 100000 corpus.jsonl
///     aquifer-bench ingest --relay ws://127.0.0.1:7777 --corpus corpus.jsonl --pid 4711
///     aquifer-bench query  --relay ws://127.0.0.1:7777 --corpus corpus.jsonl
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,

    /// Print the figures as one line of JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Corpus(load::WriteCorpus),
    Ingest(ingest::Ingest),
    Duplicates(ingest::Duplicates),
    Fanout(fanout::Fanout),
    Query(query::Query),
    Idle(idle::Idle),
    Soak(soak::Soak),
    Compare(compare::Compare),
    Conform(conform::Conform),
    ConformPeers(conform::peers::ConformPeers),
    Fsync(machine::Fsync),
    Verify(machine::Verify),
}

fn main() -> Result<ExitCode> {
    let CommandLine { command, json } = CommandLine::parse();
    // With several in one build TLS has to be told which cryptography to take.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(run(command, json))
}

async fn run(command: Command, json: bool) -> Result<ExitCode> {
    let figures = match command {
        Command::Corpus(mode) => report::figures(mode.run()),
        Command::Ingest(mode) => report::figures(mode.run().await),
        Command::Duplicates(mode) => report::figures(mode.run().await),
        Command::Fanout(mode) => report::figures(mode.run().await),
        Command::Query(mode) => report::figures(mode.run().await),
        Command::Idle(mode) => report::figures(mode.run().await),
        Command::Soak(mode) => report::figures(mode.run().await),
        Command::Compare(mode) => report::figures(mode.run().await),
        // Facts are no figures: who reads them wants to see what failed, and scripts whether anything did.
        Command::Conform(mode) => return mode.run_and_tell(json).await,
        Command::ConformPeers(mode) => report::figures(mode.run().await),
        Command::Fsync(mode) => report::figures(mode.run()),
        Command::Verify(mode) => report::figures(mode.run()),
    }?;
    if json {
        println!("{figures}")
    } else {
        report::print(&figures)
    }
    Ok(ExitCode::SUCCESS)
}
