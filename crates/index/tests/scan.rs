//! The merge scan against the naive store: same events, same order, whatever the pages.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
};

use event::{
    Event, EventId, Filter, Packed, Timestamp,
    twin::{self, NaiveStore},
};
use index::{Cursor, Found, Index, Key, Matcher, Order, Reader, Scan, Seq, Source, Take, keys_of};
use proptest::{collection::vec, prelude::*};

/// The simplest ordered key store.
#[derive(Default)]
struct Shelf {
    keys: BTreeMap<Index, BTreeSet<Key>>,
    events: BTreeMap<Seq, Vec<u8>>,
    ids: BTreeMap<EventId, Seq>,
}

impl Shelf {
    fn put(&mut self, event: &Event) {
        let seq = Seq(self.events.len() as u64);
        let packed = event.pack();
        for (index, key) in keys_of(&Packed::parse(&packed).unwrap(), seq) {
            assert_eq!(key.as_ref().len(), index.key_bytes());
            self.keys.entry(index).or_default().insert(key);
        }
        self.ids.insert(event.id, seq);
        self.events.insert(seq, packed);
    }
}

impl Source for Shelf {
    type Error = Infallible;
    type Walk<'a> = Box<dyn Iterator<Item = Result<Order, Infallible>> + 'a>;

    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Self::Walk<'_>, Infallible> {
        Ok(match self.keys.get(&index) {
            Some(keys) => Box::new(keys.range(*first..=*last).map(|key| Ok(order_of(key)))),
            None => Box::new(std::iter::empty()),
        })
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, Infallible> {
        Ok(self.ids.get(id).copied())
    }

    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, Infallible> {
        Ok(self.events.get(&seq).map(|bytes| Cow::Borrowed(bytes.as_slice())))
    }
}

fn order_of(key: &Key) -> Order {
    Order::of_key(key.as_ref()).unwrap()
}

/// Takes `room` events a page, and may be too small for the last one; runs out of time now and then.
struct Page {
    events: Vec<Event>,
    room: usize,
    refuses: bool,
    patience: usize,
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        if self.events.len() >= self.room {
            return Take::NotThis;
        }
        self.events.push(found.event().unpack());
        let is_full = self.events.len() == self.room;
        if is_full && !self.refuses { Take::Last } else { Take::More }
    }

    fn may_go_on(&mut self) -> bool {
        self.patience = self.patience.saturating_sub(1);
        self.patience > 0
    }
}

fn all_pages(shelf: &Shelf, filters: &[Filter], room: usize, refuses: bool) -> Vec<Event> {
    let mut cursor: Cursor = Scan::new(filters).cursor();
    let mut found = Vec::new();
    loop {
        let mut scan = Scan::resume(filters, &cursor);
        let mut page = Page { events: Vec::new(), room, refuses, patience: 2 + room };
        let is_done = scan.page(shelf, &mut page).unwrap();
        found.extend(page.events);
        if is_done {
            return found;
        }
        assert_ne!(scan.cursor(), cursor, "a page must get somewhere");
        cursor = scan.cursor();
    }
}

fn events_and_filters() -> impl Strategy<Value = (Vec<event::Verified>, Vec<Filter>)> {
    vec(twin::event(), 1..40).prop_flat_map(|events| {
        let filters = vec(twin::filter(&events), 0..4);
        (Just(events), filters)
    })
}

proptest! {
    #[test]
    fn scan_agrees_with_the_naive_store(
        (events, filters) in events_and_filters(),
        room in 1usize..8,
        refuses: bool,
    ) {
        let mut naive = NaiveStore::default();
        events.iter().for_each(|event| { naive.save(event); });
        let mut shelf = Shelf::default();
        naive.live().iter().for_each(|event| shelf.put(event));
        let expected = naive.query(&filters);
        prop_assert_eq!(&all_pages(&shelf, &filters, room, refuses), &expected);
        prop_assert_eq!(&all_pages(&shelf, &filters, usize::MAX / 2, false), &expected);
    }

    #[test]
    fn matcher_agrees_with_the_filter((events, filters) in events_and_filters()) {
        for filter in &filters {
            let matcher = Matcher::new(filter);
            for event in &events {
                let packed = event.pack();
                let packed = Packed::parse(&packed).unwrap();
                prop_assert_eq!(matcher.matches(&packed), filter.matches(event));
            }
        }
    }
}

/// Events that the keys cannot tell apart: one second, ids with equal first bytes.
fn tied(seed: u8) -> Event {
    let mut event = twin::Author::new(1).sign(50, 1, &[], "").into_inner();
    event.id = EventId([9; 32]);
    event.id.0[31] = seed;
    event
}

#[test]
fn events_equal_in_their_keys_come_by_whole_id_across_pages() {
    let mut shelf = Shelf::default();
    for seed in [5, 1, 4, 2, 3] {
        shelf.put(&tied(seed));
    }
    let everything = [Filter::default()];
    for room in 1..6 {
        let found = all_pages(&shelf, &everything, room, room % 2 == 0);
        assert_eq!(found, [1, 2, 3, 4, 5].map(tied));
    }
}

#[test]
fn events_behind_the_horizon_are_left_out() {
    let mut shelf = Shelf::default();
    (0..4).for_each(|seed| shelf.put(&tied(seed)));
    let mut page = Page { events: Vec::new(), room: 9, refuses: false, patience: 99 };
    Scan::new(&[Filter::default()]).up_to(Seq(1)).page(&shelf, &mut page).unwrap();
    assert_eq!(page.events, [0, 1].map(tied));
}

#[test]
fn a_scan_that_finds_nothing_gets_on_page_by_page() {
    let mut shelf = Shelf::default();
    (0..200).for_each(|at| shelf.put(&twin::Author::new(1).sign(at, 1, &[], "")));
    // The keys are there and the events are not, as with those that are hidden.
    let last = shelf.events.pop_first().unwrap();
    shelf.events = BTreeMap::from([last.clone()]);
    let mut scan = Scan::new(&[Filter::default()]);
    let mut page = Page { events: Vec::new(), room: 9, refuses: false, patience: 0 };
    let mut pages = 0;
    loop {
        page.patience = 2;
        let before = scan.cursor();
        if scan.page(&shelf, &mut page).unwrap() {
            break;
        }
        assert_ne!(scan.cursor(), before);
        pages += 1;
    }
    assert!(pages > 3, "{pages}");
    assert_eq!(page.events, [Packed::parse(&last.1).unwrap().unpack()]);
}

#[test]
fn dates_at_the_ends_of_time_are_found() {
    let author = twin::Author::new(1);
    let dates = [0, 1, index::CREATED_AT_MAX.0];
    let mut shelf = Shelf::default();
    dates.iter().for_each(|at| shelf.put(&author.sign(*at, 1, &[], "")));
    let found = |since: u64, until: u64| {
        let filter = Filter {
            since: Some(Timestamp(since)),
            until: Some(Timestamp(until)),
            ..Filter::default()
        };
        let found = all_pages(&shelf, &[filter], 9, false);
        found.iter().map(|event| event.created_at.0).collect::<Vec<u64>>()
    };
    assert_eq!(found(0, u64::MAX), [index::CREATED_AT_MAX.0, 1, 0]);
    assert_eq!(found(0, 0), [0]);
    assert_eq!(found(1, 1), [1]);
    assert_eq!(found(2, u64::MAX), [index::CREATED_AT_MAX.0]);
    assert_eq!(found(u64::MAX, u64::MAX), Vec::<u64>::new());
}
