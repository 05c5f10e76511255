//! `aquifer l2`: what operators do with a shared store itself, without a relay between. A backup is a
//! JSONL file in the order of the store's log; putting one back means saving its events again, so the
//! rules, not this code, decide what a restored store holds.

mod compare;
mod export;
mod import;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::{
    client::Progress,
    config::Settings,
    identity::Identity,
    layer2::{Canister, Layer2Error},
    outbox::backoff,
};

/// Failures in a row that may pass and yet do not: with their pauses about two minutes.
const FAILURES_MAX: u32 = 8;

/// Back up, fill and check a shared store itself
#[derive(Args)]
pub struct L2 {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Export(export::Export),
    Import(import::Import),
    Compare(compare::Compare),
}

/// Which store, and who asks. What is not given here is taken from the configuration file and the
/// environment, as by `aquifer run`.
#[derive(Args)]
struct Where {
    /// The event store canister
    #[arg(long, value_name = "ID")]
    canister: Option<String>,

    /// Where the Internet Computer answers [default: https://icp-api.io]
    #[arg(long, value_name = "URL")]
    gateway: Option<url::Url>,

    /// Trust the root key that the gateway states: for local and test networks only
    #[arg(long)]
    fetch_root_key: bool,

    /// Folder with the key of a relay that the canister has granted [default: aquifer-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// Configuration file of that relay
    #[arg(long, value_name = "FILE", env = "AQUIFER_CONFIG_FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(arguments: L2) -> anyhow::Result<()> {
    match arguments.command {
        Command::Export(arguments) => export::export(arguments).await,
        Command::Import(arguments) => import::import(arguments).await,
        Command::Compare(arguments) => compare::compare(arguments).await,
    }
}

impl Where {
    fn open(self) -> anyhow::Result<Canister> {
        let settings = Settings::of_layer2(
            self.canister,
            self.gateway,
            self.fetch_root_key.then_some(true),
            self.data,
        )
        .over(self.config)?;
        let identity = Identity::open(&settings.data())?;
        let Some(layer2) = settings.layer2()? else { bail!("which canister? Give --canister") };
        Canister::new(&layer2, &identity).context("setting up the agent")
    }
}

/// Makes a call until it succeeds, pausing longer and longer, unless its failure is final.
async fn insist<T>(
    mut call: impl AsyncFnMut() -> Result<T, Layer2Error>,
    progress: &Progress,
) -> Result<T, Layer2Error> {
    let mut failures = 0;
    loop {
        match call().await {
            Err(error @ Layer2Error::Unavailable(_)) if failures < FAILURES_MAX => {
                failures += 1;
                progress.report(&format!("{error}; trying again"));
                tokio::time::sleep(backoff(failures)).await;
            }
            result => return result,
        }
    }
}
