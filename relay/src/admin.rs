//! `aquifer admin`: what NIP-86 offers admins over HTTP, for whoever may write to the relay's data folder.
//! What the methods do stands in [`nip86`](crate::nip86); here is what people type and see.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    control::{Place, Purpose, Reply, Request},
    db::{RelayFolder, not_an_answer},
};

/// Ban and allow keys, events, kinds and addresses; change what the relay says of itself
///
/// A relay that runs keeps to it at once, and all of it lasts across restarts, in moderation.json in the
/// data folder. It wins over the configuration. Owners and admins named there do the same over HTTP
/// (NIP-86).
#[derive(Args)]
pub struct Admin {
    #[command(flatten)]
    folder: RelayFolder,

    /// Print one line of JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Authors: neither taken nor shown if banned; if `writers` is allowed, those alone are taken
    #[command(subcommand)]
    Key(Key),
    /// Single events, neither taken nor shown if banned
    #[command(subcommand)]
    Event(Event),
    /// Kinds that are taken
    #[command(subcommand)]
    Kind(Kind),
    /// Addresses, or networks as 192.0.2.0/24, that may not connect
    #[command(subcommand)]
    Ip(Ip),
    /// What the relay says of itself (NIP-11)
    #[command(subcommand)]
    Set(Set),
    /// Numbers about the relay's store
    Stats,
    /// Have a running relay read its configuration again, as SIGHUP does
    Reload,
    /// The methods of NIP-86, as owners may call them
    Methods,
}

/// A subject, and why.
#[derive(Args)]
struct Noted {
    /// A key in hex or as npub1…, an event's id, or an address
    subject: String,
    /// Why: shown in lists
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

#[derive(Args)]
struct Subject {
    /// A key in hex or as npub1…, an event's id, a kind, or an address
    subject: String,
}

#[derive(Subcommand)]
enum Key {
    /// Take no more of its events, and show none
    Ban(Noted),
    /// Take the ban back
    Unban(Subject),
    /// Take its events, also where the configuration bans it
    Allow(Noted),
    /// Take that back
    Unallow(Subject),
    /// Those that are banned, and those that are allowed
    List,
}

#[derive(Subcommand)]
enum Event {
    /// Do not take it, and do not show it
    Ban(Noted),
    /// It is in order: take a ban back, and forget reports about it
    Allow(Noted),
    /// Those that are banned, and those found to be in order
    List,
    /// Those that somebody reported (NIP-56) and nobody looked at
    Reported,
}

#[derive(Subcommand)]
enum Kind {
    /// Take events of this kind
    Allow(Subject),
    /// Take none
    Disallow(Subject),
    /// Those that are allowed, if not all are, and those that are not
    List,
}

#[derive(Subcommand)]
enum Ip {
    /// Let nobody connect from there
    Block(Noted),
    /// Take that back
    Unblock(Subject),
    /// Those that are blocked
    List,
}

#[derive(Subcommand)]
enum Set {
    /// Its name
    Name { text: String },
    /// A description
    Description { text: String },
    /// The URL of a square picture
    Icon { url: String },
}

impl Command {
    /// The methods that it takes, with their parameters.
    fn calls(self) -> Vec<(&'static str, Vec<Value>)> {
        let noted =
            |method, Noted { subject, reason }| vec![(method, vec![json!(subject), json!(reason)])];
        let plain = |method, Subject { subject }| vec![(method, vec![json!(subject)])];
        let list =
            |methods: &[&'static str]| methods.iter().map(|method| (*method, vec![])).collect();
        let set = |method, text| vec![(method, vec![Value::String(text)])];
        match self {
            Command::Key(Key::Ban(key)) => noted("banpubkey", key),
            Command::Key(Key::Unban(key)) => plain("unbanpubkey", key),
            Command::Key(Key::Allow(key)) => noted("allowpubkey", key),
            Command::Key(Key::Unallow(key)) => plain("unallowpubkey", key),
            Command::Key(Key::List) => list(&["listbannedpubkeys", "listallowedpubkeys"]),
            Command::Event(Event::Ban(event)) => noted("banevent", event),
            Command::Event(Event::Allow(event)) => noted("allowevent", event),
            Command::Event(Event::List) => list(&["listbannedevents", "listallowedevents"]),
            Command::Event(Event::Reported) => list(&["listeventsneedingmoderation"]),
            Command::Kind(Kind::Allow(kind)) => plain("allowkind", kind),
            Command::Kind(Kind::Disallow(kind)) => plain("disallowkind", kind),
            Command::Kind(Kind::List) => list(&["listallowedkinds", "listdisallowedkinds"]),
            Command::Ip(Ip::Block(ip)) => noted("blockip", ip),
            Command::Ip(Ip::Unblock(ip)) => plain("unblockip", ip),
            Command::Ip(Ip::List) => list(&["listblockedips"]),
            Command::Set(Set::Name { text }) => set("changerelayname", text),
            Command::Set(Set::Description { text }) => set("changerelaydescription", text),
            Command::Set(Set::Icon { url }) => set("changerelayicon", url),
            Command::Stats => list(&["stats"]),
            Command::Reload => list(&["reload"]),
            Command::Methods => list(&["supportedmethods"]),
        }
    }
}

/// Runs the command.
pub async fn run(arguments: Admin) -> anyhow::Result<()> {
    let is_reload = matches!(arguments.command, Command::Reload);
    let config = arguments.folder.config()?;
    let place = Place::open(&config, Purpose::Fill).await?;
    anyhow::ensure!(
        !is_reload || matches!(place, Place::Relay(_)),
        "no relay runs here: it reads its configuration when it starts"
    );
    let mut said = Ok(());
    for (method, params) in arguments.command.calls() {
        said =
            call(&place, method, params).await.map(|result| show(method, &result, arguments.json));
        if said.is_err() {
            break;
        }
    }
    place.close().await;
    said
}

async fn call(place: &Place, method: &str, params: Vec<Value>) -> anyhow::Result<Value> {
    let mut answers = place.ask(&Request::Manage { method: method.into(), params }).await?;
    match answers.next().await? {
        Some(Reply::Managed(result)) => Ok(result),
        other => Err(not_an_answer(other)),
    }
}

fn show(method: &str, result: &Value, as_json: bool) {
    if as_json {
        println!("{}", json!({ method: result }));
        return;
    }
    match result {
        Value::Array(entries) => {
            println!("{} ({})", heading(method), entries.len());
            entries.iter().for_each(|entry| println!("  {}", line(entry)));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| println!("{name:<14} {}", line(value)));
        }
        _ => println!("done"),
    }
}

/// `listbannedpubkeys` lists what people call banned keys.
fn heading(method: &str) -> &'static str {
    match method {
        "listbannedpubkeys" => "banned keys",
        "listallowedpubkeys" => "allowed keys",
        "listbannedevents" => "banned events",
        "listallowedevents" => "events found to be in order",
        "listeventsneedingmoderation" => "events that were reported",
        "listallowedkinds" => "kinds that are taken; if there are none, all but those below",
        "listdisallowedkinds" => "kinds that are not taken",
        "listblockedips" => "blocked addresses",
        _ => "methods",
    }
}

fn line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(entries) => entries.iter().map(line).collect::<Vec<_>>().join(", "),
        Value::Object(entry) => {
            let subject = entry.iter().find(|(name, _)| *name != "reason");
            let subject = subject.map(|(_, subject)| line(subject)).unwrap_or_default();
            match entry.get("reason") {
                Some(reason) => format!("{subject}  {}", line(reason)),
                None => subject,
            }
        }
        value => value.to_string(),
    }
}
