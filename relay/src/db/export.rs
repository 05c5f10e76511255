//! `aquifer db export`.

use clap::Args;
use event::Filter;

use super::{filter, not_an_answer};
use crate::{
    client::Output,
    control::{Place, Reply, Request},
};

/// Write the store's events to standard output, one a line, newest first
///
/// What is stored after it began is left out.
#[derive(Args)]
pub struct Export {
    /// Which events, a NIP-01 filter; its limit counts from the newest
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = filter)]
    filter: Filter,

    /// Turn the order round
    #[arg(long)]
    oldest_first: bool,
}

pub async fn export(place: &Place, arguments: Export) -> anyhow::Result<()> {
    let Export { filter, oldest_first } = arguments;
    let mut answers = place.ask(&Request::Export { filter, oldest_first }).await?;
    let mut output = Output::new();
    while let Some(reply) = answers.next().await? {
        match reply {
            Reply::Event(json) if output.write(json.get())? => {}
            Reply::Event(_) => return Ok(()),
            Reply::Note(line) => eprintln!("{line}"),
            other => return Err(not_an_answer(Some(other))),
        }
    }
    output.flush()?;
    eprintln!("wrote {} events", output.written);
    Ok(())
}
