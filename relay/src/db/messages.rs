//! `aquifer messages`.

use clap::{Args, Subcommand};
use event::{EventId, PublicKey, Timestamp};
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;

use super::{RelayFolder, carry_out, confirm, count, not_an_answer};
use crate::{
    clock,
    control::{
        Counted, MessageTotal, MessagesOf, Place, Purpose, ReceiverUsage, RemovedMessages, Reply,
        Request,
    },
    identity::key_of,
    message::Message,
};

const DAY_SECONDS: u64 = 86_400;

/// Look at the messages that a relay holds for people, and take some out
///
/// Messages are events of kinds that are not for everybody (4, 1059, `guarded_kinds`) and name a receiver.
/// What they say is never shown. A relay may run meanwhile: then it does what is asked, as with `aquifer db`.
#[derive(Args)]
pub struct Messages {
    #[command(flatten)]
    folder: RelayFolder,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ls(Ls),
    Usage(Usage),
    Rm(Rm),
}

/// List messages, newest first: id, kind, from, to, date, bytes
#[derive(Args)]
struct Ls {
    /// Only those to this key, in hex or as npub1…
    #[arg(long, value_name = "KEY", value_parser = key)]
    to: Option<PublicKey>,

    /// Print a line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Show what messages take for each receiver, and together, beside what they may
#[derive(Args)]
struct Usage {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Take messages out of this relay, and for good out of the shared store where that lets it
#[derive(Args)]
struct Rm {
    #[command(flatten)]
    which: Chosen,

    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Chosen {
    /// All to this key, in hex or as npub1…
    #[arg(long, value_name = "KEY", value_parser = key)]
    to: Option<PublicKey>,

    /// Those with these ids, in hex
    #[arg(long = "id", value_name = "ID", num_args = 1..)]
    ids: Vec<EventId>,

    /// All that are dated more than so many days back
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u64>,
}

impl Chosen {
    fn which(&self) -> MessagesOf {
        let before = |days: u64| {
            MessagesOf::Before(Timestamp(
                clock::now().0.saturating_sub(days.saturating_mul(DAY_SECONDS)),
            ))
        };
        match (self.to, self.older_than) {
            (Some(key), _) => MessagesOf::To(key),
            (_, Some(days)) => before(days),
            _ => MessagesOf::Ids(self.ids.clone()),
        }
    }
}

/// For clap.
fn key(text: &str) -> Result<PublicKey, String> {
    key_of(text).map_err(|error| error.to_string())
}

/// Runs the command.
pub async fn run(arguments: Messages) -> anyhow::Result<()> {
    let config = arguments.folder.config()?;
    let purpose = match arguments.command {
        Command::Rm(_) => Purpose::Remove,
        _ => Purpose::Use,
    };
    let place = Place::open(&config, purpose).await?;
    let result = match arguments.command {
        Command::Ls(arguments) => ls(&place, &arguments).await,
        Command::Usage(arguments) => usage(&place, &arguments).await,
        Command::Rm(arguments) => rm(&place, &arguments).await,
    };
    place.close().await;
    result
}

async fn ls(place: &Place, arguments: &Ls) -> anyhow::Result<()> {
    let which = arguments.to.map_or(MessagesOf::All, MessagesOf::To);
    let mut answers = place.ask(&Request::Messages(which)).await?;
    while let Some(reply) = answers.next().await? {
        let Reply::Messages(page) = reply else { return Err(not_an_answer(Some(reply))) };
        for message in page {
            print(&message, arguments.json)?;
        }
    }
    Ok(())
}

fn print(message: &Message, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(message)?);
        return Ok(());
    }
    let Message { id, kind, from, to, created_at, bytes } = message;
    let to: Vec<String> = to.iter().map(PublicKey::to_string).collect();
    let to = to.join(",");
    println!("{id}  kind {kind}  from {from}  to {to}  date {created_at}  {bytes} bytes");
    Ok(())
}

async fn usage(place: &Place, arguments: &Usage) -> anyhow::Result<()> {
    let mut answers = place.ask(&Request::MessageUsage).await?;
    let (mut receivers, mut total) = (Vec::new(), None);
    while let Some(reply) = answers.next().await? {
        match reply {
            Reply::MessageUsage(page) => receivers.extend(page),
            Reply::MessageTotal(told) => total = Some(told),
            other => return Err(not_an_answer(Some(other))),
        }
    }
    let total = total.ok_or_else(|| not_an_answer(None))?;
    if arguments.json {
        println!("{}", json!({ "receivers": receivers, "total": total }));
    } else {
        print_usage(&receivers, &total);
    }
    Ok(())
}

fn print_usage(receivers: &[ReceiverUsage], total: &MessageTotal) {
    let of = |max: Option<u64>| max.map_or("no limit".into(), |max| HumanBytes(max).to_string());
    for ReceiverUsage { receiver, messages, bytes, oldest } in receivers {
        let (messages, bytes) = (HumanCount(*messages), HumanBytes(*bytes));
        println!("{receiver}  {messages} messages, {bytes}, the oldest of {oldest}");
    }
    let (messages, bytes) = (HumanCount(total.messages), HumanBytes(total.bytes));
    println!("total         {messages} messages, {bytes} of {}", of(total.bytes_max));
    println!("each receiver {}", of(total.bytes_per_key_max));
    match total.days_max {
        Some(days) => println!("kept          {days} days"),
        None => println!("kept          for ever"),
    }
}

async fn rm(place: &Place, arguments: &Rm) -> anyhow::Result<()> {
    let which = arguments.which.which();
    let Counted { events, before, .. } =
        count(place, &Request::CountMessages(which.clone())).await?;
    if events == 0 {
        println!("no message matches");
        return Ok(());
    }
    if !arguments.yes {
        let question = format!(
            "{events} messages match. Delete them here, and for good from the shared store if it lets this relay?"
        );
        confirm::ask(&question, "yes")?;
    }
    match carry_out(place, &Request::RemoveMessages { which, before }).await? {
        Some(Reply::RemovedMessages(removed)) => print_removed(&removed),
        other => return Err(not_an_answer(other)),
    }
    Ok(())
}

fn print_removed(removed: &RemovedMessages) {
    println!("deleted {} messages from this relay", removed.here);
    if let Some(events) = removed.layer2 {
        println!("deleted {events} messages from the shared store");
    }
    if let Some(why) = &removed.kept_because {
        println!("the shared store keeps them: {why}");
    }
}
