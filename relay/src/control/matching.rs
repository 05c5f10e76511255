//! The events of a store that match a filter, some at a time: who deletes or counts them does so while others
//! write.

use std::sync::Arc;

use anyhow::Context;
use event::{EventId, Filter};
use index::{Cursor, Found, Reader, Scan, Take};
use store::{ReadError, Seq, Store};

use super::{
    desk::Desk,
    protocol::{Counted, Reply},
    replies::Replies,
};

/// Events that are looked up at a time; deleted, they are one transaction.
pub const MATCHES_MAX: usize = 1_000;

/// Reads the store where that holds nobody up.
pub async fn read<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(read).await.context("reading the store")??)
}

/// What is made of a match. None: it is none.
type Make<T> = Arc<dyn Fn(&Found<'_>) -> Option<T> + Send + Sync>;

/// The events that match a filter, some at a time.
pub struct Matching<T> {
    filters: [Filter; 1],
    before: Seq,
    store: Store,
    make: Make<T>,
    /// None: there are no more.
    cursor: Option<Cursor>,
}

/// Where an event is.
pub fn place(found: &Found<'_>) -> Option<(Seq, EventId)> {
    Some((found.seq, found.position.id))
}

impl<T: Send + 'static> Matching<T> {
    pub fn new(
        filter: Filter,
        before: Seq,
        desk: &Desk,
        make: impl Fn(&Found<'_>) -> Option<T> + Send + Sync + 'static,
    ) -> Matching<T> {
        let filters = [filter];
        // Before the first seq there is nothing to look for.
        let cursor = (before > Seq(0)).then(|| Scan::new(&filters).cursor());
        Matching { filters, before, store: desk.store.clone(), make: Arc::new(make), cursor }
    }

    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<T>>> {
        let Some(cursor) = self.cursor.take() else { return Ok(None) };
        let (filters, store) = (self.filters.clone(), self.store.clone());
        let make = self.make.clone();
        let last = Seq(self.before.0 - 1);
        let (events, rest) = read(move || {
            let mut scan = Scan::resume(&filters, &cursor).up_to(last);
            let mut page = Page { matches: Vec::new(), make };
            let is_done = store.page(&mut scan, &mut page)?;
            Ok((page.matches, (!is_done).then(|| scan.cursor())))
        })
        .await?;
        self.cursor = rest;
        Ok(Some(events))
    }
}

struct Page<T> {
    matches: Vec<T>,
    make: Make<T>,
}

impl<T> Reader for Page<T> {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.matches.extend((self.make)(&found));
        if self.matches.len() < MATCHES_MAX { Take::More } else { Take::Last }
    }
}

/// How many match, and how many of them are nowhere else.
pub async fn count_matching(
    mut matching: Matching<(Seq, EventId)>,
    replies: &mut Replies,
) -> anyhow::Result<Counted> {
    let mut counted = Counted { events: 0, only_here: 0, before: matching.before.0 };
    while let Some(events) = matching.next().await? {
        let store = matching.store.clone();
        counted.events += events.len() as u64;
        counted.only_here += read(move || {
            let mut only_here = 0;
            for (seq, _) in events {
                only_here += u64::from(store.is_only_here(seq)?);
            }
            Ok(only_here)
        })
        .await?;
        progress(counted.events, replies).await?;
    }
    Ok(counted)
}

pub async fn progress(done: u64, replies: &mut Replies) -> std::io::Result<()> {
    replies.send(&Reply::Progress { done, total: None, note: String::new() }).await
}
