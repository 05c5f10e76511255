//! `aquifer db gc`.

use clap::Args;
use indicatif::{HumanBytes, HumanCount};

use super::{conclude, not_an_answer};
use crate::{
    client::Progress,
    control::{Freed, Place, Reply, Request},
};

/// Collect garbage now: give up what was not served for the longest time, down to the low mark
///
/// A relay with `cache_bytes_max` does so by itself at the high mark. With a canister only bodies go that
/// are there as well, and come back when somebody asks; without one whole events go for good. The file
/// stays as large as it is (`aquifer db compact` makes it smaller): there is room in it again.
#[derive(Args)]
pub struct Gc {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub async fn gc(place: &Place, arguments: &Gc) -> anyhow::Result<()> {
    let answers = place.ask(&Request::Collect).await?;
    let freed = match conclude(answers, &Progress::of_bytes(Some(0))).await? {
        Some(Reply::Collected(freed)) => freed,
        other => return Err(not_an_answer(other)),
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&freed)?);
    } else {
        print(&freed);
    }
    Ok(())
}

fn print(freed: &Freed) {
    let Freed { bytes_before, bytes_after, bytes_low, .. } = *freed;
    if !freed.was_due {
        let (used, low) = (HumanBytes(bytes_before), HumanBytes(bytes_low));
        return println!("nothing had to go: {used} are in use, and the low mark is {low}");
    }
    let (bodies, stubs) = (HumanCount(freed.bodies), HumanCount(freed.stubs));
    println!("gave up {bodies} bodies and {stubs} stubs in {} ms", freed.took_ms);
    println!("before {bytes_before} bytes in use ({})", HumanBytes(bytes_before));
    println!("after  {bytes_after} bytes in use ({})", HumanBytes(bytes_after));
    if freed.bodies + freed.stubs == 0 {
        println!("nothing can be given up: the rest is protected, or waits for the canister");
    }
}
