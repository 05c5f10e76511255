//! Events out of the store, in pages. Between two pages nothing is held but a place.

use std::{cmp::Reverse, slice};

use event::{Filter, Packed};
use index::{Cursor, Found, Position, Reader, Scan, Take};
use store::{Seq, Store};

use super::{desk::Desk, matching::read, protocol::Reply, replies::Replies};

/// How much is read at a time.
const PAGE_EVENTS_MAX: usize = 1_000;
/// The same in packed bytes.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Newest first, as a client would get them.
pub async fn export(filter: Filter, replies: &mut Replies, desk: &Desk) -> anyhow::Result<()> {
    let Some(newest) = desk.store.newest() else { return Ok(()) };
    let mut stubs = 0;
    let mut next = Some(Scan::new(slice::from_ref(&filter)).cursor());
    while let Some(cursor) = next {
        let (page, behind) = page(&desk.store, &filter, cursor, newest, None).await?;
        stubs += send(page.events.iter(), replies).await?;
        next = behind;
    }
    note_stubs(stubs, replies).await
}

/// Indexes are walked from the newest on, so it goes over them twice: first to note where each page
/// begins, then page by page from the last to the first, each turned round. What is stored meanwhile is
/// left out, and what goes meanwhile goes.
pub async fn export_oldest_first(
    filter: Filter,
    replies: &mut Replies,
    desk: &Desk,
) -> anyhow::Result<()> {
    let Some(newest) = desk.store.newest() else { return Ok(()) };
    let mut begins = vec![Scan::new(slice::from_ref(&filter)).cursor()];
    loop {
        let begin = begins.last().expect("there is one").clone();
        match page(&desk.store, &filter, begin, newest, None).await?.1 {
            Some(behind) => begins.push(behind),
            None => break,
        }
    }
    let (mut end, mut stubs) = (None, 0);
    while let Some(begin) = begins.pop() {
        let next_end = begin.after;
        let (page, _) = page(&desk.store, &filter, begin, newest, end).await?;
        stubs += send(page.events.iter().rev(), replies).await?;
        end = next_end;
    }
    note_stubs(stubs, replies).await
}

/// Says how many events it had to leave out, because their bodies are in L2 alone.
async fn send(
    events: impl Iterator<Item = &Vec<u8>>,
    replies: &mut Replies,
) -> anyhow::Result<u64> {
    let mut json = Vec::new();
    let mut stubs = 0;
    for event in events {
        let event = Packed::trusted(event)?;
        if event.is_stub() {
            stubs += 1;
            continue;
        }
        json.clear();
        event.write_json(&mut json);
        replies.event(&json).await?;
    }
    replies.flush().await?;
    Ok(stubs)
}

async fn note_stubs(stubs: u64, replies: &mut Replies) -> anyhow::Result<()> {
    if stubs > 0 {
        let note =
            "events are left out: this relay gave their bodies up, and the canister has them";
        replies.send(&Reply::Note(format!("{stubs} {note}"))).await?;
    }
    Ok(())
}

/// A page, and where the next begins, if there is one.
async fn page(
    store: &Store,
    filter: &Filter,
    from: Cursor,
    newest: Seq,
    end: Option<Position>,
) -> anyhow::Result<(Page, Option<Cursor>)> {
    let (store, filters) = (store.clone(), [filter.clone()]);
    read(move || {
        let mut scan = Scan::resume(&filters, &from).up_to(newest);
        let mut page = Page { events: Vec::new(), bytes: 0, end };
        let is_done = store.page(&mut scan, &mut page)?;
        Ok((page, (!is_done).then(|| scan.cursor())))
    })
    .await
}

struct Page {
    /// Packed.
    events: Vec<Vec<u8>>,
    bytes: usize,
    /// The last event that may be in it.
    end: Option<Position>,
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        let place = (Reverse(found.position.created_at), found.position.id);
        if self.end.is_some_and(|end| place > (Reverse(end.created_at), end.id)) {
            return Take::NotThis;
        }
        self.bytes += found.packed.len();
        self.events.push(found.packed.into_owned());
        let is_full = self.events.len() >= PAGE_EVENTS_MAX || self.bytes >= PAGE_BYTES_MAX;
        if is_full { Take::Last } else { Take::More }
    }
}
