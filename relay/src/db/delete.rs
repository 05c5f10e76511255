//! `aquifer db delete`.

use clap::Args;
use event::Filter;

use super::{carry_out, confirm, count, filter, not_an_answer};
use crate::control::{Place, Reply, Request};

/// Take the events that match a filter out of this store
///
/// Out of this one alone, and without a tombstone: a client may publish them again, the canister keeps
/// them, and if the relay has to read the canister's log from the start, they come back. To take an
/// event out everywhere and for good, the owner of the canister calls `delete_events` there. What waits
/// for the canister is deleted before it got there.
#[derive(Args)]
pub struct Delete {
    /// Which events, a NIP-01 filter; {} means all
    #[arg(long, value_name = "JSON", value_parser = filter)]
    filter: Filter,

    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub async fn delete(place: &Place, arguments: Delete) -> anyhow::Result<()> {
    let Delete { filter, yes } = arguments;
    let counted = count(place, &Request::Count { filter: filter.clone() }).await?;
    if counted.events == 0 {
        println!("no event matches");
        return Ok(());
    }
    let mut question = format!("{} events match", counted.events);
    if counted.only_here > 0 {
        question += &format!(", of which the canister does not have {}", counted.only_here);
    }
    if !yes {
        confirm::ask(&format!("{question}. Delete them from this store?"), "yes")?;
    }
    match carry_out(place, &Request::Delete { filter, before: counted.before }).await? {
        Some(Reply::Deleted { events }) => println!("deleted {events} events"),
        other => return Err(not_an_answer(other)),
    }
    Ok(())
}
