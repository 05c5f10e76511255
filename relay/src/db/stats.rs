//! `aquifer db stats`.

use clap::Args;
use indicatif::{HumanBytes, HumanCount};

use super::{conclude, not_an_answer};
use crate::{
    client::Progress,
    control::{Figures, Place, Reply, Request},
};

/// Show how much the store holds, and what waits for the canister
#[derive(Args)]
pub struct Stats {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub async fn stats(place: &Place, arguments: &Stats) -> anyhow::Result<()> {
    let answers = place.ask(&Request::Stats).await?;
    let figures = match conclude(answers, &Progress::of_entries()).await? {
        Some(Reply::Stats(figures)) => figures,
        other => return Err(not_an_answer(other)),
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&figures)?);
    } else {
        print(&figures);
    }
    Ok(())
}

fn print(figures: &Figures) {
    let count = |label: &str, count: u64, about: &str| {
        println!("{label:14} {:>15}   {about}", HumanCount(count).to_string());
    };
    count("events", figures.events, "");
    count("stubs", figures.stubs, "of them: their bodies are in the canister alone");
    if figures.complete_since > 0 {
        count("complete since", figures.complete_since, "Unix time; older events may be missing");
    }
    count("outbox", figures.outbox, "wait to be sent to the canister");
    count("aside", figures.aside, "refused by the canister, and kept");
    count("local", figures.local, "never to be sent to the canister");
    count("next seq", figures.next_seq, "events stored since the beginning");
    count("commits", figures.commits, "");
    let bytes = HumanBytes(figures.bytes_on_disk).to_string();
    let in_use = HumanBytes(figures.bytes_in_use);
    println!("{:14} {bytes:>15}   on disk, {in_use} of it in use", "file");
    match (&figures.layer2, figures.layer2_cursor) {
        (Some(canister), Some(cursor)) => {
            count("L2 cursor", cursor, &format!("of the log of {canister}"));
        }
        _ => println!("L2 cursor      {:>15}   no canister was followed yet", "none"),
    }
}
