//! `aquifer l2`: what operators do with a shared store itself, without a relay between. A backup is a
//! JSONL file in the order of the store's log; putting one back means saving its events again, so the
//! rules, not this code, decide what a restored store holds.

mod compare;
mod export;
mod import;

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use clap::{Args, Subcommand};
use layer2::{Layer2, Layer2Error};

use crate::{client::Progress, config::Settings, identity::Identity, outbox::backoff};

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
    /// The store, as ic://CANISTER; on a local network
    /// 'ic://CANISTER?gateway=http://127.0.0.1:8000&fetch_root_key=true'
    #[arg(long, value_name = "URL")]
    layer2: Option<String>,

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
    fn open(self) -> anyhow::Result<Arc<dyn Layer2>> {
        let settings = Settings::of_layer2(self.layer2, self.data).over(self.config)?;
        let identity = Identity::open(&settings.data())?;
        let Some(url) = settings.layer2()? else { bail!("which store? Give --layer2 URL") };
        layer2::open(&url, identity.agent_identity())
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
