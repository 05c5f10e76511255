//! L1 against its naive twin, its promises one by one, and what is left of it when it is killed.

mod cache;
mod collection;
mod crash;
mod model;
mod promises;
mod shared;

use std::{collections::BTreeSet, ops::ControlFlow, path::Path, sync::Arc};

use event::{Event, EventId, Filter, Packed, Timestamp, Verified, twin::Author};
use index::{Found, Reader, Scan, Take};
use store::{Options, Policy, Seq, Store, Writer};
use tempfile::TempDir;

/// A folder on a memory disk if there is one: most tests are about order, not about the disk.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A store whose time stands still.
fn open(folder: &Path) -> (Store, Writer) {
    Store::open(folder, options()).unwrap()
}

fn options() -> Options {
    Options { clock: Arc::new(|| Timestamp(1_000)), ..Options::default() }
}

/// A text note of author 1.
fn note(content: &str) -> Verified {
    Author::new(1).sign(100, 1, &[], content)
}

/// Takes `room` events, then says that the page is full.
struct Page {
    events: Vec<Event>,
    room: usize,
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.events.push(found.event().unpack());
        if self.events.len() == self.room { Take::Last } else { Take::More }
    }
}

fn query(store: &Store, filters: &[Filter], room: usize) -> Vec<Event> {
    let mut scan = Scan::new(filters);
    let mut found = Vec::new();
    loop {
        let mut page = Page { events: Vec::new(), room };
        let is_done = store.page(&mut scan, &mut page).unwrap();
        found.extend(page.events);
        if is_done {
            return found;
        }
    }
}

/// All that is held, in the order of commits.
fn all(store: &Store) -> Vec<(Seq, EventId)> {
    let mut found = Vec::new();
    let end = store.since(Seq(0), Seq(u64::MAX), |seq, event| {
        found.push((seq, event.id()));
        ControlFlow::Continue(())
    });
    assert_eq!(end.unwrap(), store.next_seq());
    found
}

fn outbox(store: &Store) -> Vec<(Seq, EventId)> {
    let rows = store.outbox(&BTreeSet::new(), usize::MAX, usize::MAX).unwrap();
    rows.iter().map(|row| (row.seq, Packed::parse(&row.event).unwrap().id())).collect()
}

/// Of the events that are held whole, their places.
fn bodies(store: &Store) -> Vec<Seq> {
    by_form(store, false).into_iter().map(|(seq, _)| seq).collect()
}

/// The events whose bodies were given up.
fn stubs(store: &Store) -> Vec<EventId> {
    by_form(store, true).into_iter().map(|(_, id)| id).collect()
}

fn by_form(store: &Store, is_stub: bool) -> Vec<(Seq, EventId)> {
    let mut found = Vec::new();
    let read = store.since(Seq(0), Seq(u64::MAX), |seq, event| {
        if event.is_stub() == is_stub {
            found.push((seq, event.id()));
        }
        ControlFlow::Continue(())
    });
    read.unwrap();
    found
}

/// A collection by this gives up every body that L2 has, and keeps every stub.
fn everything() -> Policy {
    Policy {
        bytes_max: 1 << 40,
        high_percent: 0,
        low_percent: 0,
        protected_kinds: vec![],
        has_layer2: true,
    }
}
