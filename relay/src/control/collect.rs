//! One collection, at once. The collector does it, as always; here somebody waits for it.

use std::pin::pin;

use anyhow::Context;

use super::{
    desk::Desk,
    matching::read,
    protocol::{Freed, Reply},
    replies::Replies,
};

/// Has the store collected, and says how far that is until it is done.
pub async fn collect(replies: &mut Replies, desk: &Desk) -> anyhow::Result<Freed> {
    let collector = desk.collector.as_ref().context(
        "this store has no limit (`cache_bytes_max`), so there is nothing to collect it down to",
    )?;
    let mut headway = collector.headway.clone();
    let mut collecting = pin!(collector.collect());
    let outcome = loop {
        tokio::select! {
            outcome = &mut collecting => break outcome.context("the relay is stopping")??,
            Ok(()) = headway.changed() => {
                let now = *headway.borrow_and_update();
                let (done, total, note) = (now.done, Some(now.total), String::new());
                replies.send(&Reply::Progress { done, total, note }).await?;
            }
        }
    };
    let bytes_low = collector.policy.low();
    Ok(match outcome {
        Some(collected) => Freed {
            was_due: true,
            bodies: collected.bodies,
            stubs: collected.stubs,
            bytes_before: collected.before.bytes,
            bytes_after: collected.after.bytes,
            bytes_low,
            took_ms: collected.took.as_millis() as u64,
        },
        None => {
            let store = desk.store.clone();
            Freed::nothing(read(move || store.usage()).await?.bytes, bytes_low)
        }
    })
}
