//! `aquifer outbox`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use event::EventId;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::json;

use super::{RelayFolder, carry_out, confirm, not_an_answer};
use crate::control::{self, Place, Purpose, Refused, Reply, Request, Which};

/// Look at what is on its way up to the canister, and decide about what the canister does not take
///
/// A relay may run on the store meanwhile: then it does what is asked, as with `aquifer db`.
#[derive(Args)]
pub struct Outbox {
    #[command(flatten)]
    folder: RelayFolder,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
    Retry(Retry),
    Drop(GiveUp),
}

/// Show how much waits for the canister, and every event that it refused, with the reason
#[derive(Args)]
struct List {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Send events that the canister refused once more, now that it may take them
#[derive(Args)]
struct Retry {
    #[command(flatten)]
    which: Chosen,
}

/// Give events up: they stay on this relay, and never go up from here
///
/// For events that the canister refused, or that still wait. Their bodies are kept, since nobody else has
/// them; `aquifer db delete` takes them out for good.
#[derive(Args)]
struct GiveUp {
    #[command(flatten)]
    which: Chosen,

    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Chosen {
    /// Ids of events, in hex
    #[arg(value_name = "ID")]
    ids: Vec<EventId>,

    /// All that the canister refused
    #[arg(long)]
    all: bool,
}

impl Chosen {
    fn which(&self) -> Which {
        if self.all {
            return Which::Aside;
        }
        Which::Ids(self.ids.clone())
    }
}

/// Runs the command.
pub async fn run(arguments: Outbox) -> anyhow::Result<()> {
    let config = arguments.folder.config()?;
    let place = Place::open(&config, Purpose::Use).await?;
    let result = match arguments.command {
        Command::List(arguments) => list(&place, &arguments).await,
        Command::Retry(arguments) => retry(&place, &arguments).await,
        Command::Drop(arguments) => give_up(&place, &arguments).await,
    };
    place.close().await;
    result
}

async fn list(place: &Place, arguments: &List) -> anyhow::Result<()> {
    let (outbox, aside) = look(place).await?;
    if arguments.json {
        let control::Outbox { waiting, bytes, oldest_seconds, local, .. } = outbox;
        println!(
            "{}",
            json!({
                "waiting": {"events": waiting, "bytes": bytes, "oldest_seconds": oldest_seconds},
                "aside": aside,
                "local": local,
            })
        );
        return Ok(());
    }
    print(&outbox, &aside);
    Ok(())
}

async fn look(place: &Place) -> anyhow::Result<(control::Outbox, Vec<Refused>)> {
    let mut answers = place.ask(&Request::Outbox).await?;
    let (mut outbox, mut aside) = (None, Vec::new());
    while let Some(reply) = answers.next().await? {
        match reply {
            Reply::Outbox(figures) => outbox = Some(figures),
            Reply::Aside(page) => aside.extend(page),
            other => return Err(not_an_answer(Some(other))),
        }
    }
    Ok((outbox.ok_or_else(|| not_an_answer(None))?, aside))
}

fn print(outbox: &control::Outbox, aside: &[Refused]) {
    let control::Outbox { waiting, bytes, oldest_seconds, local, .. } = *outbox;
    print!("waiting   {}", HumanCount(waiting));
    if waiting > 0 {
        let oldest = HumanDuration(Duration::from_secs(oldest_seconds));
        print!(", {}, the oldest for {oldest}", HumanBytes(bytes));
    }
    println!("\nlocal     {}, which never go up", HumanCount(local));
    println!("aside     {}", HumanCount(aside.len() as u64));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    for Refused { id, kind, author, reason, since } in aside {
        let age = HumanDuration(Duration::from_secs(now.saturating_sub(*since)));
        println!("  {id}  kind {kind}, by {author}, since {age}: {reason}");
    }
}

async fn retry(place: &Place, arguments: &Retry) -> anyhow::Result<()> {
    let events = change(place, &Request::Retry(arguments.which.which())).await?;
    println!("put {events} events back into the outbox");
    Ok(())
}

async fn give_up(place: &Place, arguments: &GiveUp) -> anyhow::Result<()> {
    if !arguments.yes {
        let count = match arguments.which.which() {
            Which::Aside => look(place).await?.0.aside,
            Which::Ids(ids) => ids.len() as u64,
        };
        let question = format!("Keep {count} events on this relay alone, and never send them?");
        confirm::ask(&question, "yes")?;
    }
    let events = change(place, &Request::GiveUp(arguments.which.which())).await?;
    println!("gave {events} events up; they stay on this relay");
    Ok(())
}

/// How many events it moved.
async fn change(place: &Place, request: &Request) -> anyhow::Result<u64> {
    match carry_out(place, request).await? {
        Some(Reply::Moved { events }) => Ok(events),
        other => Err(not_an_answer(other)),
    }
}
