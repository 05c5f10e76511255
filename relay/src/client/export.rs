//! `aquifer export`: writes what a relay holds as JSONL.
//!
//! Relays cap answers, so it asks page by page, each up to the oldest date of the one before; events
//! of that second come again and are left out.

use std::collections::HashSet;

use anyhow::{Context, bail, ensure};
use clap::Args;
use event::{Event, EventId, Filter, Timestamp, verify};
use serde_json::value::RawValue;

use super::{Connection, Output};

/// Events asked for at a time.
const PAGE_EVENTS: u64 = 500;
const SUBSCRIPTION: &str = "export";

/// Write a relay's events to standard output, one a line, newest first
///
/// Events whose id or signature is wrong are reported and left out.
#[derive(Args, Debug)]
pub struct Export {
    /// Where to read
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:7777")]
    relay: String,

    /// Which events, a NIP-01 filter; its limit counts events in all
    #[arg(long, value_name = "JSON", default_value = "{}")]
    filter: String,
}

/// Runs the command.
pub async fn export(arguments: Export) -> anyhow::Result<()> {
    let filter = Filter::from_json(arguments.filter.as_bytes()).context("--filter")?;
    // The pages of an export go from new to old, and words put answers in another order.
    ensure!(filter.search.is_none(), "--filter: `search` is not supported here");
    let mut connection = Connection::open(&arguments.relay).await?;
    let mut exporting = Exporting {
        left: filter.limit.unwrap_or(u64::MAX),
        filter,
        tied: HashSet::new(),
        output: Output::new(),
        invalid: 0,
    };
    let result = exporting.run(&mut connection).await;
    connection.close().await;
    eprintln!("wrote {} events", exporting.output.written);
    if exporting.invalid > 0 {
        eprintln!("left out {} that are not valid", exporting.invalid);
    }
    result
}

struct Exporting {
    filter: Filter,
    left: u64,
    /// Ids of the second that the next page starts with.
    tied: HashSet<EventId>,
    output: Output,
    invalid: u64,
}

impl Exporting {
    async fn run(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        while self.left > 0 {
            let page = self.page(connection).await?;
            let Some(oldest) = page.iter().map(|event| event.created_at).min() else { break };
            let new: Vec<&Event> =
                page.iter().filter(|event| !self.tied.contains(&event.id)).collect();
            let found_new = !new.is_empty();
            for event in new.into_iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
                if !self.output.write(&event.to_json())? {
                    return Ok(());
                }
                self.left -= 1;
            }
            if !self.output.flush()? {
                return Ok(());
            }
            if !self.step(oldest, &page, found_new) {
                break;
            }
        }
        Ok(())
    }

    /// Moves on to what is older. False: there is nothing older.
    fn step(&mut self, oldest: Timestamp, page: &[Event], found_new: bool) -> bool {
        if found_new {
            if self.filter.until != Some(oldest) {
                self.tied.clear();
            }
            self.filter.until = Some(oldest);
            let tied = page.iter().filter(|event| event.created_at == oldest);
            self.tied.extend(tied.map(|event| event.id));
            return true;
        }
        // The whole page was known. If the relay had more of this second, there is no asking for it.
        if page.len() as u64 >= PAGE_EVENTS {
            eprintln!("the relay may hold more events of second {oldest} than it gives out");
        }
        self.filter.until = oldest.0.checked_sub(1).map(Timestamp);
        self.tied.clear();
        self.filter.until.is_some()
    }

    /// One page of the relay's answer, without what is not valid.
    async fn page(&mut self, connection: &mut Connection) -> anyhow::Result<Vec<Event>> {
        let asked = Filter {
            limit: Some(PAGE_EVENTS.min(self.left.saturating_add(self.tied.len() as u64))),
            ..self.filter.clone()
        };
        let asked = serde_json::to_string(&asked)?;
        connection.send(format!("[\"REQ\",\"{SUBSCRIPTION}\",{asked}]")).await?;
        let mut page = Vec::new();
        loop {
            let frame = connection.receive().await?;
            match read(&frame) {
                Answer::Event(json) => page.extend(self.check(json)),
                Answer::Eose => break,
                Answer::Closed(reason) => bail!("the relay refuses: {reason}"),
                Answer::Other => eprintln!("the relay says: {frame:.500}"),
            }
        }
        connection.send(format!("[\"CLOSE\",\"{SUBSCRIPTION}\"]")).await?;
        Ok(page)
    }

    fn check(&mut self, json: &str) -> Option<Event> {
        let event = Event::from_json(json.as_bytes()).map_err(anyhow::Error::from);
        match event.and_then(|event| Ok(verify(event)?)) {
            Ok(event) => Some(event.into_inner()),
            Err(error) => {
                self.invalid += 1;
                eprintln!("left out: {error}: {json:.200}");
                None
            }
        }
    }
}

enum Answer<'a> {
    Event(&'a str),
    Eose,
    Closed(String),
    Other,
}

fn read(frame: &str) -> Answer<'_> {
    if let Ok((verb, id, event)) = serde_json::from_str::<(&str, &str, &RawValue)>(frame)
        && id == SUBSCRIPTION
    {
        match verb {
            "EVENT" => return Answer::Event(event.get()),
            "CLOSED" => {
                return Answer::Closed(serde_json::from_str(event.get()).unwrap_or_default());
            }
            // NIP-67 adds a hint to EOSE.
            "EOSE" => return Answer::Eose,
            _ => {}
        }
    }
    match serde_json::from_str::<(&str, &str)>(frame) {
        Ok(("EOSE", SUBSCRIPTION)) => Answer::Eose,
        _ => Answer::Other,
    }
}
