//! `aquifer db import`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::{conclude, not_an_answer};
use crate::{
    client::{Progress, open},
    control::{Place, Reply, Request},
};

/// Store the events of a JSONL file (one NIP-01 event a line), as fast as they can be verified
///
/// They count as published by a client, so they go up to the canister as well. The rules of NIP-01,
/// NIP-09, NIP-40 and NIP-62 apply; the limits that clients are held to do not. strfry's exports can be
/// read as they are. It may be stopped and run again: what is there already is counted as duplicate.
#[derive(Args)]
pub struct Import {
    /// The file, or - for standard input
    file: PathBuf,

    /// Print the summary as one line of JSON
    #[arg(long)]
    json: bool,
}

pub async fn import(place: &Place, arguments: &Import) -> anyhow::Result<()> {
    let (input, bytes) = open(&arguments.file).await?;
    let mut answers = place.ask(&Request::Import).await?;
    let sending = answers.send(input);
    let tally = match conclude(answers, &Progress::of_bytes(bytes)).await? {
        Some(Reply::Imported(tally)) => tally,
        other => return Err(not_an_answer(other)),
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&tally)?);
    } else {
        println!("{tally}");
    }
    sending.await?.context("the input could not be read to its end")
}
