//! `aquifer l2`: what operators do with a shared store itself, without a relay between. A backup is a
//! JSONL file in the order of the store's log; putting one back means saving its events again, so the
//! rules, not this code, decide what a restored store holds.

mod copy;
mod export;
mod import;
mod status;
mod verify;

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use clap::{Args, Subcommand};
use layer2::{Layer2, Layer2Error};

use crate::{
    backoff::backoff,
    client::Progress,
    config::{Config, Settings},
    identity::Identity,
};

/// Failures in a row that may pass and yet do not: with their pauses about two minutes.
const FAILURES_MAX: u32 = 8;

/// Back up, fill, move, check and watch a shared store itself
///
/// A store is named by its URL, as ic://CANISTER, lmdb:FOLDER or postgres://USER@HOST/DATABASE; a
/// canister of a local network is
/// 'ic://CANISTER?gateway=http://127.0.0.1:8000&fetch_root_key=true'
#[derive(Args)]
pub struct L2 {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Export(export::Export),
    Import(import::Import),
    Verify(verify::Verify),
    Copy(copy::Copy),
    Status(status::Status),
}

/// Who asks. What is not given here is taken from the configuration file and the environment, as by
/// `aquifer run`.
#[derive(Args)]
struct Who {
    /// Folder with the key of a relay that the store has granted [default: aquifer-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// Configuration file of that relay
    #[arg(long, value_name = "FILE", env = "AQUIFER_CONFIG_FILE")]
    config: Option<PathBuf>,
}

/// Which store, where there is only one.
#[derive(Args)]
pub(crate) struct Where {
    /// The store's URL [default: the one in the configuration]
    #[arg(long, value_name = "URL")]
    layer2: Option<String>,

    #[command(flatten)]
    who: Who,
}

/// Runs the command.
pub async fn run(arguments: L2) -> anyhow::Result<()> {
    match arguments.command {
        Command::Export(arguments) => export::export(arguments).await,
        Command::Import(arguments) => import::import(arguments).await,
        Command::Verify(arguments) => verify::verify(arguments).await,
        Command::Copy(arguments) => copy::copy(arguments).await,
        Command::Status(arguments) => status::status(arguments).await,
    }
}

impl Where {
    pub(crate) fn open(self) -> anyhow::Result<Arc<dyn Layer2>> {
        self.who.open(self.layer2.as_deref())
    }
}

impl Who {
    /// Opens the store at a URL, or else the one in the configuration.
    fn open(&self, url: Option<&str>) -> anyhow::Result<Arc<dyn Layer2>> {
        let settings = self.settings(url)?;
        let identity = Identity::open(&settings.data())?;
        let Some(url) = settings.layer2()? else { bail!("which store? Name it by its URL") };
        layer2::open(&url, identity.agent_identity())
    }

    fn config(&self) -> anyhow::Result<Config> {
        self.settings(None)?.resolve()
    }

    /// The relay's data folder.
    fn data(&self) -> anyhow::Result<PathBuf> {
        Ok(self.settings(None)?.data())
    }

    fn settings(&self, layer2: Option<&str>) -> anyhow::Result<Settings> {
        let given = Settings::of_layer2(layer2.map(str::to_owned), self.data.clone());
        given.over(self.config.clone())
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
