//! The merge scan against the naive store: same events, same order, whatever the pages.

use std::{
    borrow::Cow,
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use event::{
    Event, EventId, Filter, Kind, Packed, Signature, Tag, TagName, Timestamp,
    twin::{self, Author, NaiveStore},
};
use index::{
    Cursor, Found, Index, Key, Matcher, Order, Reader, Scan, Seq, Shows, Source, Take, keys_of,
};
use proptest::{collection::vec, prelude::*};

/// The simplest ordered key store.
#[derive(Default)]
struct Shelf {
    keys: BTreeMap<Index, BTreeSet<Key>>,
    events: BTreeMap<Seq, Vec<u8>>,
    ids: BTreeMap<EventId, Seq>,
    /// How often an event was read.
    reads: Cell<usize>,
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
    const LEAPS: bool = true;
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
        self.reads.set(self.reads.get() + 1);
        Ok(self.events.get(&seq).map(|bytes| Cow::Borrowed(bytes.as_slice())))
    }

    fn shows_all(&self) -> bool {
        self.events.len() == self.ids.len()
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

/// Counts in pages as short as they get.
fn counted(shelf: &Shelf, filters: &[Filter]) -> u64 {
    let (mut scan, mut total) = (Scan::new(filters), 0);
    loop {
        let mut asks = 0;
        let (count, is_done) = scan
            .count(shelf, || {
                asks += 1;
                asks < 2
            })
            .unwrap();
        total += count;
        if is_done {
            return total;
        }
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
        prop_assert_eq!(counted(&shelf, &filters), expected.len() as u64);
        let unlimited: Vec<Filter> =
            filters.iter().map(|filter| Filter { limit: None, ..filter.clone() }).collect();
        prop_assert_eq!(counted(&shelf, &unlimited), naive.query(&unlimited).len() as u64);
    }

    #[test]
    fn what_may_not_be_shown_is_as_if_it_were_not_there(
        (events, filters) in events_and_filters(),
        hidden in 0u8..4,
        room in 1usize..8,
    ) {
        let hidden = twin::Author::new(hidden).pubkey();
        let (mut shown, mut shelf) = (NaiveStore::default(), Shelf::default());
        let mut naive = NaiveStore::default();
        events.iter().for_each(|event| { naive.save(event); });
        naive.live().iter().for_each(|event| shelf.put(event));
        naive.live().iter().filter(|event| event.pubkey != hidden).for_each(|event| {
            shown.save(event);
        });
        let expected = shown.query(&filters);
        let shows: Shows = Arc::new(move |event| event.pubkey() != hidden);
        let mut scan = Scan::new(&filters).only(shows.clone());
        let mut found = Vec::new();
        loop {
            let mut page = Page { events: vec![], room, refuses: false, patience: 2 + room };
            let is_done = scan.page(&shelf, &mut page).unwrap();
            found.extend(page.events);
            if is_done {
                break;
            }
        }
        prop_assert_eq!(&found, &expected);
        let (count, is_done) = Scan::new(&filters).only(shows).count(&shelf, || true).unwrap();
        prop_assert_eq!((count, is_done), (expected.len() as u64, true));
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

/// So many events that no way to find them is short, each with some of four topics, by one of three.
fn crowd() -> (Shelf, Vec<Event>) {
    let authors = [1, 2, 3].map(Author::new);
    let mut shelf = Shelf::default();
    let mut events: Vec<Event> = (0..9_000u64)
        .map(|number| {
            let dice = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let topics = ["a", "b", "c", "d"].iter().enumerate();
            let tags = topics
                .filter(|(at, _)| dice >> at & 1 == 1)
                .map(|(_, topic)| Tag(vec!["t".into(), (*topic).into()]))
                // As many events again that are never found together with a topic.
                .chain((dice & 15 == 0).then(|| Tag(vec!["r".into(), "alone".into()])))
                .chain((dice % 3 == 0).then(|| Tag(vec!["l".into(), "en".into()])));
            let mut id = EventId([0; 32]);
            id.0[..8].copy_from_slice(&dice.wrapping_mul(number | 1).to_be_bytes());
            id.0[24..].copy_from_slice(&number.to_be_bytes());
            Event {
                id,
                pubkey: authors[(dice >> 8) as usize % 3].pubkey(),
                created_at: Timestamp(dice >> 12 & 0xfff),
                kind: Kind((dice >> 7 & 1) as u16),
                tags: tags.collect(),
                content: String::new(),
                sig: Signature([0; 64]),
            }
        })
        .collect();
    events.iter().for_each(|event| shelf.put(event));
    events.sort_by_key(|event| (Reverse(event.created_at), event.id));
    (shelf, events)
}

fn tagged(tags: &[(&str, &[&str])], all_tags: &[(&str, &[&str])]) -> Filter {
    let of = |tags: &[(&str, &[&str])]| {
        let texts = |values: &[&str]| values.iter().map(|it| (*it).to_owned()).collect();
        tags.iter().map(|(name, values)| (TagName::new(name).unwrap(), texts(values))).collect()
    };
    Filter { tags: of(tags), all_tags: of(all_tags), ..Filter::default() }
}

#[test]
fn what_lies_along_several_long_ways_is_found_by_leaping() {
    let (shelf, events) = crowd();
    let author = Some(vec![Author::new(2).pubkey()]);
    let filters = [
        tagged(&[], &[("t", &["a", "b"])]),
        tagged(&[], &[("t", &["a", "b", "c", "d"])]),
        tagged(&[("t", &["a", "b"]), ("l", &["en"])], &[]),
        Filter { authors: author.clone(), ..tagged(&[("t", &["c"])], &[]) },
        Filter { kinds: Some(vec![Kind(1)]), ..tagged(&[("l", &["en"])], &[("t", &["d"])]) },
        Filter {
            since: Some(Timestamp(900)),
            until: Some(Timestamp(3_000)),
            authors: author.clone(),
            ..tagged(&[("t", &["a"])], &[])
        },
        Filter { limit: Some(70), ..tagged(&[], &[("t", &["b", "c"])]) },
    ];
    for filter in filters {
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        let expected: Vec<Event> =
            events.iter().filter(|it| filter.matches(it)).take(limit).cloned().collect();
        let filters = [filter];
        for room in [7, 500, 100_000] {
            assert_eq!(all_pages(&shelf, &filters, room, room == 7), expected, "{filters:?}");
        }
        assert_eq!(counted(&shelf, &filters), expected.len() as u64);
    }
}

#[test]
fn what_lies_along_one_way_only_is_not_read() {
    let (shelf, events) = crowd();
    let reads = |filter: &Filter| {
        shelf.reads.set(0);
        let found = all_pages(&shelf, std::slice::from_ref(filter), 100_000, false).len();
        (found, shelf.reads.get())
    };
    let all_four = tagged(&[], &[("t", &["a", "b", "c", "d"])]);
    let (found, read) = reads(&all_four);
    assert!(found > 400 && read < found + 200, "{read} were read to find {found}");
    // The rarest of them is short: no other way is needed.
    let rare = tagged(&[("t", &["a"]), ("r", &["alone"])], &[]);
    let with_rare =
        events.iter().filter(|it| tagged(&[("r", &["alone"])], &[]).matches(it)).count();
    assert!(with_rare < 1_000, "{with_rare}");
    assert_eq!(reads(&rare), (0, with_rare));
}

#[test]
fn what_keys_alone_decide_is_counted_without_reading() {
    let (shelf, events) = crowd();
    let filters = [
        Filter::default(),
        Filter { kinds: Some(vec![Kind(1)]), since: Some(Timestamp(1_000)), ..Filter::default() },
        Filter { authors: Some(vec![Author::new(1).pubkey()]), ..Filter::default() },
        tagged(&[("t", &["a", "b"])], &[]),
    ];
    let matches = |event: &&Event| filters[1..].iter().any(|filter| filter.matches(event));
    shelf.reads.set(0);
    assert_eq!(counted(&shelf, &filters[..1]), 9_000);
    assert_eq!(counted(&shelf, &filters[1..]), events.iter().filter(matches).count() as u64);
    assert_eq!(shelf.reads.get(), 0);
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

/// Takes all, and has time for so little at a time.
struct Hurried {
    taken: usize,
    turns: usize,
}

impl Reader for Hurried {
    fn take(&mut self, _: Found<'_>) -> Take {
        self.taken += 1;
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        self.turns -= 1;
        self.turns > 0
    }
}

#[test]
fn a_long_list_of_ids_comes_to_its_end_in_however_short_pages() {
    let mut shelf = Shelf::default();
    let content = "x".repeat(600);
    let ids = (0..1_000).map(|at| {
        let note = Author::new(1).sign(1_000 + at, 1, &[], &content);
        shelf.put(&note);
        note.id
    });
    let filters = [Filter { ids: Some(ids.collect()), ..Filter::default() }];
    let (mut scan, mut taken) = (Scan::new(&filters), 0);
    for _ in 0..1_000 {
        let mut page = Hurried { taken: 0, turns: 3 };
        let is_done = scan.page(&shelf, &mut page).unwrap();
        taken += page.taken;
        if is_done {
            assert_eq!(taken, 1_000);
            return;
        }
    }
    panic!("{taken} of 1000 events in 1000 pages");
}
