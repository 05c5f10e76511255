//! `canister-bench`: what the event store's work costs, measured on the wasm that is deployed.
//!
//! It installs the canister under PocketIC, fills it from [`corpus`] to each wanted size, and measures
//! there. The canister has no endpoints for this: figures come from cycles ([`canister`]) and from its
//! `status`. They depend on nothing but the code: neither the machine nor its load changes them.
//!
//! ```text
//! canister-bench --store 10000,100000,1000000 --write    measure, and keep the table
//! canister-bench --check                                 fail if 10,000 events got dearer by 5 %
//! ```
//! `POCKET_IC_BIN` names the server, as for every PocketIC client.

mod canister;
mod results;
mod work;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use corpus::Corpus;

use crate::{canister::Canister, results::Results};

const AUTHORS: usize = 2_000;
const SEED: u64 = 1;
/// Events in one call while the store is filled.
const FILL_BATCH: usize = 1_000;
/// How much more than the kept figure passes a check, in percent.
const TOLERANCE_PERCENT: u64 = 5;

/// Measures the event store's canister.
#[derive(Parser)]
struct Arguments {
    /// The module, as scripts/build-canister leaves it.
    #[arg(long, default_value = "target/canister/event_store.wasm.gz")]
    wasm: PathBuf,
    /// Sizes of the store at which to measure, ascending.
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    store: Vec<usize>,
    /// The table of figures.
    #[arg(long, default_value = "canisters/event_store/bench_results.md")]
    results: PathBuf,
    /// Keep the figures measured in the table.
    #[arg(long)]
    write: bool,
    /// Compare the figures measured with those in the table.
    #[arg(long, conflicts_with = "write")]
    check: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.store.is_sorted(), "--store must ascend: the store only grows");
    let measured = measure(&arguments)?;
    print!("{measured}");
    if arguments.check {
        let kept = std::fs::read_to_string(&arguments.results)
            .with_context(|| format!("reading {}", arguments.results.display()))?;
        let dearer = measured.dearer_than(&kept.parse()?, TOLERANCE_PERCENT);
        ensure!(
            dearer.is_empty(),
            "more than {TOLERANCE_PERCENT} % dearer:\n{}",
            dearer.join("\n")
        );
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Results> {
    let wasm = std::fs::read(&arguments.wasm).with_context(|| {
        format!("reading {}: run scripts/build-canister", arguments.wasm.display())
    })?;
    let canister = Canister::install(wasm)?;
    let mut corpus = Corpus::new(SEED, AUTHORS);
    let mut results = Results::new(arguments.store.clone());
    let mut sent = 0;
    let started = Instant::now();
    for (column, size) in arguments.store.iter().enumerate() {
        while sent < *size {
            let events: Vec<_> = corpus.events(FILL_BATCH.min(size - sent)).collect();
            canister.save(&events)?;
            sent += events.len();
            if sent % 50_000 < FILL_BATCH {
                eprintln!("{sent} events after {} s", started.elapsed().as_secs());
            }
        }
        for (work, figure) in work::measure(&canister, &mut corpus, sent)? {
            results.set(work, column, figure);
        }
        sent += work::SAVED;
        // Large stores take an hour: what is known is kept.
        if arguments.write {
            std::fs::write(&arguments.results, results.to_string())?;
        }
    }
    Ok(results)
}
