//! `aquifer db`, `aquifer outbox` and `aquifer messages`: what operators do with a relay's own store, whether the relay runs
//! or not. What a request does stands in [`control`](crate::control); here is what people type and see.

mod confirm;
mod delete;
mod export;
mod gc;
mod import;
mod messages;
mod offline;
mod outbox;
mod stats;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use event::Filter;

pub use self::{
    messages::{Messages, run as run_messages},
    outbox::{Outbox, run as run_outbox},
};
use crate::{
    client::Progress,
    config::{Config, Settings, Source},
    control::{Answers, Counted, Place, Purpose, Reply, Request},
};

/// Which relay on this machine.
#[derive(Args)]
pub struct RelayFolder {
    /// The relay's data folder [default: aquifer-data]
    #[arg(long, value_name = "FOLDER", global = true)]
    data: Option<PathBuf>,

    /// Configuration file of the relay
    #[arg(long, value_name = "FILE", env = "AQUIFER_CONFIG_FILE", global = true)]
    config: Option<PathBuf>,
}

impl RelayFolder {
    /// How that relay is configured.
    pub fn config(self) -> anyhow::Result<Config> {
        Source { flags: Settings::of_data(self.data), file: self.config }.config()
    }
}

/// Look into a relay's own store, fill it, check it, and take things out
///
/// A relay may run on the store meanwhile: then it does what is asked (through control.sock in its data
/// folder), and nothing has to be stopped. Only `compact` and `nuke` want it stopped.
#[derive(Args)]
pub struct Db {
    #[command(flatten)]
    folder: RelayFolder,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Stats(stats::Stats),
    Import(import::Import),
    Export(export::Export),
    Delete(delete::Delete),
    Verify(verify::Verify),
    Gc(gc::Gc),
    Compact(offline::Compact),
    Nuke(offline::Nuke),
}

/// Runs the command.
pub async fn run(arguments: Db) -> anyhow::Result<()> {
    let config = arguments.folder.config()?;
    match arguments.command {
        Command::Compact(arguments) => return offline::compact(&config.data, &arguments),
        Command::Nuke(arguments) => return offline::nuke(&config.data, &arguments),
        _ => {}
    }
    let purpose = match arguments.command {
        Command::Import(_) => Purpose::Fill,
        Command::Gc(_) => Purpose::Collect,
        _ => Purpose::Use,
    };
    let place = Place::open(&config, purpose).await?;
    let result = match arguments.command {
        Command::Stats(arguments) => stats::stats(&place, &arguments).await,
        Command::Import(arguments) => import::import(&place, &arguments).await,
        Command::Export(arguments) => export::export(&place, arguments).await,
        Command::Delete(arguments) => delete::delete(&place, arguments).await,
        Command::Verify(arguments) => verify::verify(&place, &arguments).await,
        Command::Gc(arguments) => gc::gc(&place, &arguments).await,
        Command::Compact(_) | Command::Nuke(_) => unreachable!("they were run above"),
    };
    place.close().await;
    result
}

/// The one reply to a request that matters, with progress until it comes.
pub async fn carry_out(place: &Place, request: &Request) -> anyhow::Result<Option<Reply>> {
    conclude(place.ask(request).await?, &Progress::of_entries()).await
}

/// What a request to count comes to.
async fn count(place: &Place, request: &Request) -> anyhow::Result<Counted> {
    match carry_out(place, request).await? {
        Some(Reply::Counted(counted)) => Ok(counted),
        other => Err(not_an_answer(other)),
    }
}

async fn conclude(mut answers: Answers, progress: &Progress) -> anyhow::Result<Option<Reply>> {
    let mut conclusion = None;
    let result = loop {
        match answers.next().await {
            Ok(Some(Reply::Progress { done, total, note })) => progress.set(done, total, note),
            Ok(Some(Reply::Note(line))) => progress.report(&line),
            Ok(Some(reply)) => conclusion = Some(reply),
            Ok(None) => break Ok(conclusion),
            Err(error) => break Err(error),
        }
    };
    progress.finish();
    result
}

pub fn not_an_answer(reply: Option<Reply>) -> anyhow::Error {
    anyhow::anyhow!("the relay answers something else: {reply:?}")
}

/// For clap: a NIP-01 filter. Words are the running relay's business.
fn filter(text: &str) -> Result<Filter, String> {
    let filter = Filter::from_json(text.as_bytes()).map_err(|error| error.to_string())?;
    match filter.search {
        Some(_) => Err("`search` is not supported here: ask the relay for it".into()),
        None => Ok(filter),
    }
}
