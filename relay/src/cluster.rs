//! `aquifer cluster`: who the relays of a cluster are, as its canister lists them, and how a relay's taps
//! on the others stand.

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use event::Timestamp;
use interface::pubkey_of;
use layer2::RelayEntry;
use serde_json::{Value, json};

use crate::{
    clock,
    control::{Place, Purpose, Reply, Request},
    db::{RelayFolder, carry_out, not_an_answer},
    l2::Where,
    peers::taps::TapState,
};

/// Show the relays that share a canister
#[derive(Args)]
pub struct Cluster {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ls(Ls),
    Taps(Taps),
}

/// List the relays: since when they are there, when they were last heard of, how far they are behind, and
/// how busy they are
///
/// A relay that runs announces itself every 30 seconds; one that does not any more leaves the list by
/// itself. A store that is no canister has no list.
#[derive(Args)]
struct Ls {
    #[command(flatten)]
    store: Where,

    /// Print a JSON object for each relay, one a line
    #[arg(long)]
    json: bool,
}

/// List the taps of a relay that runs on this machine: which of the other relays it listens to, since when,
/// and why not to the rest
///
/// A tap is open while somebody here wants live events; without one they come by the next poll.
#[derive(Args)]
struct Taps {
    #[command(flatten)]
    folder: RelayFolder,

    /// Print a JSON object for each tap, one a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(arguments: Cluster) -> anyhow::Result<()> {
    match arguments.command {
        Command::Ls(arguments) => ls(arguments).await,
        Command::Taps(arguments) => taps(arguments).await,
    }
}

async fn taps(Taps { folder, json }: Taps) -> anyhow::Result<()> {
    let place = Place::open(&folder.config()?, Purpose::Use).await?;
    let reply = carry_out(&place, &Request::Taps).await;
    place.close().await;
    let taps = match reply? {
        Some(Reply::Taps(taps)) => taps,
        other => return Err(not_an_answer(other)),
    };
    if json {
        for tap in &taps {
            println!("{}", serde_json::to_string(tap)?);
        }
    } else {
        print_taps(&taps, clock::now());
    }
    Ok(())
}

fn print_taps(taps: &[TapState], now: Timestamp) {
    let rows = taps.iter().map(|tap| {
        let since = duration(now.0.saturating_sub(tap.since.0));
        let broke = if tap.is_up { None } else { tap.broke_because.clone() };
        [
            tap.peer.url.clone(),
            short(&tap.peer.key.to_string()),
            if tap.is_up { "up" } else { "down" }.into(),
            since,
            tap.chunks.to_string(),
            tap.events.to_string(),
            broke.unwrap_or_default(),
        ]
    });
    let head = ["RELAY", "KEY", "TAP", "FOR", "CHUNKS", "NEW EVENTS", "BECAUSE"];
    print_table(head, rows.collect());
    if taps.is_empty() {
        println!("no tap is open: nobody here wants live events, or there is no other relay");
    }
}

async fn ls(Ls { store, json }: Ls) -> anyhow::Result<()> {
    let layer2 = store.open()?;
    ensure!(layer2.has_directory(), "{} has no directory of relays", layer2.name());
    let mut entries = layer2.relays().await.context("reading the directory")?;
    entries.sort_by_key(|entry| entry.first_seen);
    if json {
        entries.iter().for_each(|entry| println!("{}", json_of(entry)));
    } else {
        print(&entries, clock::now());
    }
    Ok(())
}

fn key(entry: &RelayEntry) -> String {
    pubkey_of(&entry.info.key).map_or_else(|_| "no key".into(), |key| key.to_string())
}

fn json_of(entry: &RelayEntry) -> Value {
    let info = &entry.info;
    json!({
        "url": info.url,
        "key": key(entry),
        "principal": entry.who.to_text(),
        "version": info.version,
        "first_seen": entry.first_seen,
        "last_seen": entry.last_seen,
        "lag_ms": info.lag_ms,
        "connections": info.connections,
        "subscriptions": info.subscriptions,
    })
}

fn print(entries: &[RelayEntry], now: Timestamp) {
    let ago = |date: u64| format!("{} ago", duration(now.0.saturating_sub(date)));
    let head = ["RELAY", "KEY", "VERSION", "SINCE", "HEARD", "BEHIND", "CLIENTS", "SUBSCRIPTIONS"];
    let rows = entries.iter().map(|entry| {
        let info = &entry.info;
        [
            info.url.clone(),
            short(&key(entry)),
            info.version.clone(),
            ago(entry.first_seen),
            ago(entry.last_seen),
            duration(info.lag_ms / 1_000),
            info.connections.to_string(),
            info.subscriptions.to_string(),
        ]
    });
    print_table(head, rows.collect());
    if entries.is_empty() {
        println!("no relay has announced itself lately");
    }
}

fn short(key: &str) -> String {
    key.chars().take(16).collect()
}

fn print_table<const COLUMNS: usize>(head: [&str; COLUMNS], mut rows: Vec<[String; COLUMNS]>) {
    rows.insert(0, head.map(str::to_owned));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS).map(|column| width(column).unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_the_unit_that_says_something() {
        let told = [0, 119, 120, 7_199, 7_200, 172_800].map(duration);
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
    }
}
