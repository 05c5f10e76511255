//! `aquifer db compact` and `aquifer db nuke`: what is done to the file itself, so nobody may have it
//! open.

use std::path::Path;

use anyhow::ensure;
use clap::Args;
use indicatif::HumanBytes;
use store::{Compacted, OpenError, Options, Store, is_store};

use super::confirm;

/// Write the store anew without its free pages (the relay has to be stopped)
///
/// The new file takes the place of the old one once it is whole and on the disk, which has to have room
/// for both until then. A relay uses free pages again by itself: this is for giving room back.
#[derive(Args)]
pub struct Compact {}

/// Delete the store with all its events (the relay has to be stopped)
///
/// The relay's key stays. With a canister, the relay fills itself again from there; what waits in the
/// outbox, what the canister refused and what never goes up is lost.
#[derive(Args)]
pub struct Nuke {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub fn compact(data: &Path, Compact {}: &Compact) -> anyhow::Result<()> {
    let folder = crate::store_in(data);
    check_is_store(&folder)?;
    let Compacted { bytes_before, bytes_after } = store::compact(&folder).map_err(stop_it)?;
    println!("before {bytes_before} bytes ({})", HumanBytes(bytes_before));
    println!("after  {bytes_after} bytes ({})", HumanBytes(bytes_after));
    Ok(())
}

pub fn nuke(data: &Path, arguments: &Nuke) -> anyhow::Result<()> {
    let folder = crate::store_in(data);
    check_is_store(&folder)?;
    let warning = match what_is_lost(&folder) {
        Ok(warning) => warning,
        Err(error @ OpenError::InUse(_)) => return Err(stop_it(error)),
        Err(error) => format!("What is in it cannot be read: {error}."),
    };
    if !arguments.yes {
        confirm::ask(&format!("{warning} Delete {}?", folder.display()), "nuke")?;
    }
    store::destroy(&folder).map_err(stop_it)?;
    println!("deleted the store in {}; relay.key is still there", folder.display());
    Ok(())
}

fn check_is_store(folder: &Path) -> anyhow::Result<()> {
    ensure!(
        is_store(folder),
        "there is no store in {}: does --data name the relay's folder?",
        folder.display()
    );
    Ok(())
}

fn what_is_lost(folder: &Path) -> Result<String, OpenError> {
    let (store, _writer) = Store::open(folder, Options::default())?;
    Ok(match store.stats() {
        Ok(stats) => format!(
            "The store holds {} events. {} wait for the canister, {} were refused by it and {} never go \
             up: these are nowhere else.",
            stats.events, stats.outbox, stats.aside, stats.local
        ),
        Err(error) => format!("What is in it cannot be read: {error}."),
    })
}

fn stop_it(error: OpenError) -> anyhow::Error {
    let in_use = matches!(error, OpenError::InUse(_));
    let error = anyhow::Error::from(error);
    if in_use { error.context("this needs the store alone: stop the relay first") } else { error }
}
