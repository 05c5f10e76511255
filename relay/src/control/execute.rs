//! What each request does.

use std::ops::ControlFlow;

use anyhow::Context;
use event::{Filter, Packed};
use serde_json::Value;
use store::{Aside, Finding, Millis, Rows, Seq};
use tokio::sync::mpsc;

use super::{
    collect::collect,
    desk::Desk,
    export::{export, export_oldest_first},
    import::import,
    matching::{MATCHES_MAX, Matching, count_matching, place, progress, read},
    messages,
    protocol::{Checked, Counted, Figures, Outbox, Refused, Reply, Request, Which},
    replies::{Input, Replies},
};
use crate::{
    access::Role,
    costs::Ledger,
    nip86::{Call, Office},
    poll::CURSOR_OF,
};

/// Carries out one request. An error is told to the client.
pub async fn execute(
    request: Request,
    input: Input,
    replies: &mut Replies,
    desk: &Desk,
) -> anyhow::Result<()> {
    let last = match request {
        Request::Stats => Reply::Stats(stats(desk).await?),
        Request::Import => Reply::Imported(import(input, replies, desk).await?),
        Request::Export { filter, oldest_first: false } => {
            return export(filter, replies, desk).await;
        }
        Request::Export { filter, oldest_first: true } => {
            return export_oldest_first(filter, replies, desk).await;
        }
        Request::Count { filter } => Reply::Counted(count(filter, replies, desk).await?),
        Request::Delete { filter, before } => {
            Reply::Deleted { events: delete(filter, Seq(before), replies, desk).await? }
        }
        Request::Outbox => return outbox(replies, desk).await,
        Request::Retry(which) => {
            Reply::Moved { events: desk.writer.retry(rows(which)).await? as u64 }
        }
        Request::GiveUp(which) => {
            Reply::Moved { events: desk.writer.give_up(rows(which)).await? as u64 }
        }
        Request::Verify => Reply::Verified(verify(replies, desk).await?),
        Request::Manage { method, params } => Reply::Managed(manage(method, params, desk).await?),
        Request::Messages(which) => return messages::list(which, replies, desk).await,
        Request::CountMessages(which) => {
            Reply::Counted(messages::count(which, replies, desk).await?)
        }
        Request::RemoveMessages { which, before } => {
            Reply::RemovedMessages(messages::remove(which, Seq(before), replies, desk).await?)
        }
        Request::MessageUsage => return messages::usage(replies, desk).await,
        Request::Taps => {
            let tapper = desk.tapper.as_ref().context("no relay runs here, so it has no taps")?;
            Reply::Taps(tapper.taps())
        }
        Request::Collect => Reply::Collected(collect(replies, desk).await?),
    };
    Ok(replies.send(&last).await?)
}

/// Who may write to the data folder owns the relay.
async fn manage(method: String, params: Vec<Value>, desk: &Desk) -> anyhow::Result<Value> {
    let desk = desk.clone();
    let managing = tokio::task::spawn_blocking(move || {
        let office = Office { moderator: &desk.moderator, store: &desk.store };
        Call::new(method, params).answer(office, Role::Owner)
    });
    managing.await.context("managing the relay")?
}

async fn stats(desk: &Desk) -> anyhow::Result<Figures> {
    let store = desk.store.clone();
    let figures = read(move || {
        let stats = store.stats()?;
        let layer2 = store.meta(CURSOR_OF)?;
        let layer2_costs = match &layer2 {
            Some(layer2) => Ledger::read(&store, layer2)?,
            None => None,
        };
        Ok(Figures {
            events: stats.events,
            stubs: stats.stubs,
            complete_since: store.complete_since()?.0,
            outbox: stats.outbox,
            aside: stats.aside,
            local: stats.local,
            bytes_on_disk: stats.bytes_on_disk,
            bytes_in_use: stats.bytes_in_use,
            next_seq: stats.next_seq.0,
            commits: stats.commits,
            layer2,
            layer2_cursor: store.l2_cursor()?,
            layer2_costs,
        })
    });
    figures.await
}

async fn outbox(replies: &mut Replies, desk: &Desk) -> anyhow::Result<()> {
    let store = desk.store.clone();
    let stats = read(move || store.stats()).await?;
    let oldest_ms = stats.outbox_since.map_or(0, |since| Millis::now().0.saturating_sub(since.0));
    let outbox = Outbox {
        waiting: stats.outbox,
        bytes: stats.outbox_bytes,
        oldest_seconds: oldest_ms / 1_000,
        aside: stats.aside,
        local: stats.local,
    };
    replies.send(&Reply::Outbox(outbox)).await?;
    let mut from = Seq(0);
    loop {
        let store = desk.store.clone();
        let page = read(move || store.aside(from, MATCHES_MAX)).await?;
        let Some(last) = page.last() else { return Ok(()) };
        from = last.seq.next();
        replies.send(&Reply::Aside(page.iter().filter_map(refused).collect())).await?;
    }
}

fn refused(row: &Aside) -> Option<Refused> {
    let event = Packed::trusted(&row.event).ok()?;
    Some(Refused {
        id: event.id().to_string(),
        kind: event.kind().0,
        author: event.pubkey().to_string(),
        reason: row.reason.clone(),
        since: row.since.0 / 1_000,
    })
}

fn rows(which: Which) -> Rows {
    match which {
        Which::Aside => Rows::Aside,
        Which::Ids(ids) => Rows::Of(ids),
    }
}

async fn count(filter: Filter, replies: &mut Replies, desk: &Desk) -> anyhow::Result<Counted> {
    let before = desk.store.next_seq();
    let matching = Matching::new(filter, before, desk, place);
    count_matching(matching, replies).await
}

async fn delete(
    filter: Filter,
    before: Seq,
    replies: &mut Replies,
    desk: &Desk,
) -> anyhow::Result<u64> {
    let mut deleted = 0;
    let mut matching = Matching::new(filter, before, desk, place);
    while let Some(events) = matching.next().await? {
        deleted += events.len() as u64;
        desk.writer.delete(events.into_iter().map(|(_, id)| id).collect()).await?;
        progress(deleted, replies).await?;
    }
    Ok(deleted)
}

/// The check goes on while a client is slow, so that its snapshot does not last for that; and ends
/// with the client.
async fn verify(replies: &mut Replies, desk: &Desk) -> anyhow::Result<Vec<Checked>> {
    let (sender, mut progress) = mpsc::channel(1);
    let store = desk.store.clone();
    let checking = tokio::task::spawn_blocking(move || {
        store.verify(|done, total| match sender.try_send((done, total)) {
            Err(mpsc::error::TrySendError::Closed(_)) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    });
    while let Some((done, total)) = progress.recv().await {
        let note = "events".into();
        replies.send(&Reply::Progress { done, total: Some(total), note }).await?;
    }
    let findings = checking.await.context("checking the store")??;
    let findings = findings.context("the check was stopped")?;
    Ok(findings.into_iter().map(checked).collect())
}

fn checked(finding: Finding) -> Checked {
    let Finding { invariant, checked, violations, examples } = finding;
    let (name, statement) = (invariant.name().into(), invariant.statement().into());
    Checked { invariant: name, statement, checked, violations, examples }
}
