//! All events as negentropy orders them: oldest first, and by id within a second.
//!
//! The index by date has them the other way round, and within a second by the first bytes of the id
//! alone; ids that share those are told apart by the log. So a second is the unit here: where its keys
//! lie in the tree follows from their number before it, and the rest is turning ranks into places. Sums
//! of ids come out of the tree's inner pages, so that a range of a million events costs as much as
//! one of a hundred.

use std::{cell::Cell, ops::Range};

use event::{EventId, Timestamp};
use ic_stable_structures::Memory;
use index::{CREATED_AT_MAX, Seq, date_of, reversed_date};
use reconcile::{Item, Set};
use tree::{Summary, Totals, Tree};

use crate::{log::Log, room::is_time_to_read};

type Key = [u8; 14];
/// Of a key, what decides the order before the log is asked: the date and the start of the id.
const TIE_BYTES: usize = 9;
const DATE_BYTES: usize = 5;
/// Ids that are read from the log before the first of them is given.
const BLOCK_ITEMS: u64 = 512;

/// The call has done enough.
#[derive(Debug, PartialEq)]
pub struct TooMuch;

/// Events of all kinds and authors, from one date to another.
pub struct Dated<'a, M> {
    keys: &'a Tree<14, 0, M, Totals>,
    log: &'a Log<M>,
    all: Totals,
    /// Those that are in the set, out of all.
    places: Range<u64>,
    /// And are not, though they lie between; in order.
    hidden: Vec<Hidden>,
    /// What the last sum ended with: the next one often begins there.
    summed: Cell<(u64, Totals)>,
}

struct Hidden {
    item: Item,
    /// Its place among all events.
    place: u64,
    /// How many that are not hidden come before it.
    seen_before: u64,
}

/// The events of one second.
struct Second {
    /// Where its first key stands in the tree.
    rank: u64,
    /// Where its first event stands in our order.
    place: u64,
    count: u64,
}

impl<'a, M: Memory> Dated<'a, M> {
    /// All events of the index `keys`, by date.
    pub fn new(keys: &'a Tree<14, 0, M, Totals>, log: &'a Log<M>) -> Dated<'a, M> {
        let all = keys.totals_before(&[0xff; 14], |key| totals_of(log, key));
        let summed = Cell::new((0, Totals::default()));
        Dated { keys, log, all, places: 0..all.count, hidden: Vec::new(), summed }
    }

    /// Without these events, which must be in the index.
    pub fn without(mut self, mut items: Vec<Item>) -> Result<Self, TooMuch> {
        items.sort_unstable();
        items.dedup();
        let hidden = |(item, before): (Item, u64)| {
            check_time()?;
            let place = self.count_before_item(&item);
            Ok(Hidden { item, place, seen_before: place - before })
        };
        self.hidden = items.into_iter().zip(0..).map(hidden).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Of these, the events of the dates from `since` to `until`.
    pub fn between(mut self, since: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        let below = |date| self.count_before(date);
        let start = since.map_or(0, below);
        let end = match until {
            Some(until) if until < CREATED_AT_MAX => below(Timestamp(until.0 + 1)),
            _ => self.all.count,
        };
        self.places = start..end.max(start);
        self
    }

    /// How many of all events are older.
    fn count_before(&self, date: Timestamp) -> u64 {
        match date {
            Timestamp(0) => 0,
            date if date > CREATED_AT_MAX => self.all.count,
            Timestamp(date) => self.all.count - self.keys.rank(&start_of(Timestamp(date - 1))),
        }
    }

    fn second(&self, date: Timestamp) -> Second {
        let rank = self.keys.rank(&start_of(date));
        let place = self.count_before(date);
        Second { rank, place, count: self.all.count - place - rank }
    }

    /// The second in which the event at `place` is. Both orders have the same seconds, so it is the one
    /// that is as far from the other end.
    fn second_at(&self, place: u64) -> (Timestamp, Second) {
        let date = date_of(&self.key(self.all.count - 1 - place));
        (date, self.second(date))
    }

    /// How many of all events come before this one.
    fn count_before_item(&self, item: &Item) -> u64 {
        let date = item.created_at;
        let place = self.count_before(date);
        if item.id == EventId([0; 32]) || date > CREATED_AT_MAX {
            return place;
        }
        let mut tie = start_of(date);
        tie[DATE_BYTES..TIE_BYTES].copy_from_slice(&item.id.0[..TIE_BYTES - DATE_BYTES]);
        let ties = self.items(tie, &end_of_tie(&tie));
        place + self.keys.rank(&tie) - self.keys.rank(&start_of(date))
            + ties.partition_point(|tied| tied.id < item.id) as u64
    }

    /// How many hidden events stand before this place.
    fn hidden_before(&self, place: u64) -> u64 {
        self.hidden.partition_point(|hidden| hidden.place < place) as u64
    }

    /// How many of the set come before a place among all events.
    fn number_of(&self, place: u64) -> u64 {
        let Range { start, end } = self.places;
        let place = place.clamp(start, end);
        place - start - (self.hidden_before(place) - self.hidden_before(start))
    }

    /// The place among all events of one of the set, and for the end of the set its end.
    fn place_of(&self, number: u64) -> u64 {
        let Range { start, end } = self.places;
        let seen_before = start - self.hidden_before(start) + number;
        let moved = self.hidden.partition_point(|hidden| hidden.seen_before <= seen_before);
        (seen_before + moved as u64).min(end)
    }

    fn key(&self, rank: u64) -> Key {
        self.keys.select(rank).expect("ranks are below the count")
    }

    fn totals_before(&self, key: &Key) -> Totals {
        self.keys.totals_before(key, |key| totals_of(self.log, key))
    }

    /// Of the first `place` of all events.
    fn totals_below(&self, place: u64) -> Totals {
        if place == self.all.count {
            return self.all;
        }
        let (date, second) = self.second_at(place);
        let older = match date {
            Timestamp(0) => Totals::default(),
            Timestamp(date) => self.all.minus(self.totals_before(&start_of(Timestamp(date - 1)))),
        };
        match place - second.place {
            0 => older,
            count => older.plus(self.totals_within(date, &second, count)),
        }
    }

    /// Of the first `count` events of a second.
    fn totals_within(&self, date: Timestamp, second: &Second, count: u64) -> Totals {
        let rank = second.rank + count;
        let tie = start_of_tie(&self.key(rank));
        let before = self.totals_before(&tie).minus(self.totals_before(&start_of(date)));
        let equal = rank - self.keys.rank(&tie);
        if equal == 0 {
            return before;
        }
        let ids = self.items(tie, &end_of_tie(&tie)).into_iter().take(equal as usize);
        ids.map(|item| Totals::one(&item.id.0)).fold(before, Totals::plus)
    }

    /// The events with keys from `first` to `last`, in our order.
    fn items(&self, first: Key, last: &Key) -> Vec<Item> {
        let mut items: Vec<Item> =
            self.keys.walk(first..=*last).map(|(key, [])| self.item(&key)).collect();
        items.sort_unstable();
        items
    }

    fn item(&self, key: &Key) -> Item {
        Item { created_at: date_of(key), id: id_at(self.log, key) }
    }

    /// Some events from `place` on: one at least, and not many more than `wanted`.
    fn block(&self, place: u64, wanted: u64) -> Vec<Item> {
        let wanted = wanted.min(BLOCK_ITEMS);
        let (date, second) = self.second_at(place);
        if second.count > wanted {
            return self.block_within(&second, place - second.place, wanted);
        }
        // Whole seconds: this one and newer ones, which come before it in the tree.
        let end = second.rank + second.count;
        let start = end.saturating_sub(wanted);
        let mut items = self.items(self.key(start), &self.key(end - 1));
        let newest = items[items.len() - 1].created_at;
        if start > 0 && newest != date {
            // Where we began to read may be in the middle of a second.
            items.retain(|item| item.created_at != newest);
        }
        items.split_off((place - second.place) as usize)
    }

    /// Some events of one second, from the one on before which `skipped` others come.
    fn block_within(&self, second: &Second, skipped: u64, wanted: u64) -> Vec<Item> {
        let rank = second.rank + skipped;
        let last = (rank + wanted).min(second.rank + second.count) - 1;
        let first = start_of_tie(&self.key(rank));
        let mut items = self.items(first, &end_of_tie(&self.key(last)));
        items.split_off((rank - self.keys.rank(&first)) as usize)
    }
}

impl<M: Memory> Set for Dated<'_, M> {
    type Error = TooMuch;

    fn count(&self) -> u64 {
        self.number_of(self.places.end)
    }

    fn count_below(&self, bound: &Item) -> Result<u64, TooMuch> {
        check_time()?;
        Ok(self.number_of(self.count_before_item(bound)))
    }

    fn sum(&self, range: Range<u64>) -> Result<[u8; 32], TooMuch> {
        check_time()?;
        let (start, end) = (self.place_of(range.start), self.place_of(range.end));
        let below = match self.summed.get() {
            (place, totals) if place == start => totals,
            _ => self.totals_below(start),
        };
        let until = self.totals_below(end);
        self.summed.set((end, until));
        let hidden = self.hidden_before(start) as usize..self.hidden_before(end) as usize;
        let hidden = self.hidden[hidden].iter().map(|hidden| Totals::one(&hidden.item.id.0));
        Ok(hidden.fold(until.minus(below), Totals::minus).sum())
    }

    fn each(&self, range: Range<u64>, take: &mut dyn FnMut(Item) -> bool) -> Result<(), TooMuch> {
        let (mut place, end) = (self.place_of(range.start), self.place_of(range.end));
        while place < end {
            check_time()?;
            for item in self.block(place, end - place).into_iter().take((end - place) as usize) {
                place += 1;
                let is_hidden = self.hidden_before(place) > self.hidden_before(place - 1);
                if !is_hidden && !take(item) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn check_time() -> Result<(), TooMuch> {
    if is_time_to_read() { Ok(()) } else { Err(TooMuch) }
}

/// Before all keys of a date.
fn start_of(date: Timestamp) -> Key {
    let mut key = [0; 14];
    key[..DATE_BYTES].copy_from_slice(&reversed_date(date));
    key
}

/// Before all keys that are equal but for their seq.
fn start_of_tie(key: &Key) -> Key {
    let mut start = *key;
    start[TIE_BYTES..].fill(0);
    start
}

fn end_of_tie(key: &Key) -> Key {
    let mut end = *key;
    end[TIE_BYTES..].fill(0xff);
    end
}

fn totals_of<M: Memory>(log: &Log<M>, key: &Key) -> Totals {
    Totals::one(&id_at(log, key).0)
}

fn id_at<M: Memory>(log: &Log<M>, key: &Key) -> EventId {
    let mut seq = [0; 8];
    seq[3..].copy_from_slice(&key[TIE_BYTES..]);
    log.id_at(Seq(u64::from_be_bytes(seq)))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use event::twin::Author;
    use ic_stable_structures::VectorMemory;
    use index::{Index, keys_of};
    use proptest::{collection::vec, prelude::*};
    use reconcile::Sorted;
    use tree::Pages;

    use super::*;

    type Index14 = Tree<14, 0, VectorMemory, Totals>;

    /// A store of such events and no others: ids are not hashes here, so that they may collide.
    fn store(items: &[Item]) -> (Index14, Log<VectorMemory>) {
        let mut log = Log::open(VectorMemory::default(), VectorMemory::default());
        let pages = Rc::new(Pages::open(VectorMemory::default(), 256));
        let mut keys = Tree::open(&pages, 0);
        let mut event = Author::new(1).sign(1, 1, &[], "").into_inner();
        for item in items {
            (event.id, event.created_at) = (item.id, item.created_at);
            let bytes = event.pack();
            let seq = log.append_saved(&bytes, 1);
            let packed = event::Packed::trusted(&bytes).unwrap();
            let (_, key) = keys_of(&packed, seq)
                .into_iter()
                .find(|(index, _)| *index == Index::Created)
                .expect("every event has a date");
            let key: Key = key.as_ref().try_into().unwrap();
            keys.insert_with(&key, &[], |key| totals_of(&log, key));
        }
        (keys, log)
    }

    /// Few dates and few starts of ids, so that seconds are crowded and ties are common.
    fn item() -> impl Strategy<Value = Item> {
        let date = prop_oneof![
            8 => 0u64..6,
            2 => 1_000u64..1_300,
            1 => Just(CREATED_AT_MAX.0),
        ];
        let id = (vec(0u8..2, 4), any::<[u8; 28]>());
        (date, id).prop_map(|(date, (start, end))| Item {
            created_at: Timestamp(date),
            id: EventId([&start[..], &end].concat().try_into().unwrap()),
        })
    }

    fn taken(set: &impl Set<Error: std::fmt::Debug>, range: Range<u64>, most: usize) -> Vec<Item> {
        let mut taken = Vec::new();
        let take = &mut |item| {
            taken.push(item);
            taken.len() < most
        };
        set.each(range, take).unwrap();
        taken
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_index_by_date_is_a_set_like_sorted_items(
            items in vec(item(), 1..400),
            bounds in vec((item(), 0usize..33), 8),
            (hides, hidden) in (any::<bool>(), vec(any::<prop::sample::Index>(), 0..40)),
            places in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 8),
            (since, until) in (prop::option::of(0u64..1_310), prop::option::of(0u64..1_310)),
        ) {
            let (keys, log) = store(&items);
            let (since, until) = (since.map(Timestamp), until.map(Timestamp));
            let hidden: Vec<Item> =
                hidden.iter().map(|at| *at.get(&items)).filter(|_| hides).collect();
            let set = Dated::new(&keys, &log).between(since, until).without(hidden.clone()).unwrap();
            let is_in = |item: &&Item| {
                since.is_none_or(|since| since <= item.created_at)
                    && until.is_none_or(|until| item.created_at <= until)
                    && !hidden.contains(item)
            };
            let twin = Sorted::new(items.iter().filter(is_in).copied().collect());
            prop_assert_eq!(set.count(), twin.count());
            for (mut bound, length) in bounds {
                bound.id.0[length.min(32)..].fill(0);
                prop_assert_eq!(set.count_below(&bound).unwrap(), twin.count_below(&bound).unwrap());
            }
            let count = set.count();
            let all = taken(&twin, 0..count, usize::MAX);
            prop_assert_eq!(&taken(&set, 0..count, usize::MAX), &all);
            for (a, b) in places {
                let (a, b) = (a.index(count as usize + 1), b.index(count as usize + 1));
                let (start, end) = (a.min(b), a.max(b));
                let range = start as u64..end as u64;
                prop_assert_eq!(set.sum(range.clone()).unwrap(), twin.sum(range.clone()).unwrap());
                prop_assert_eq!(&taken(&set, range.clone(), usize::MAX), &all[start..end]);
                let pair = start as u64..(start as u64 + 2).min(count);
                prop_assert_eq!(taken(&set, pair.clone(), 9), taken(&twin, pair, 9));
            }
        }
    }

    #[test]
    fn a_crowded_second_is_read_in_blocks() {
        let item = |number: u32| {
            let mut id = [0; 32];
            id[2..4].copy_from_slice(&((number * 7 % 900) as u16).to_be_bytes());
            id[28..].copy_from_slice(&number.to_be_bytes());
            Item {
                created_at: Timestamp(5 + u64::from(number.is_multiple_of(1_000))),
                id: EventId(id),
            }
        };
        let items: Vec<Item> = (1..2_500).map(item).collect();
        let (keys, log) = store(&items);
        let (set, twin) = (Dated::new(&keys, &log), Sorted::new(items));
        for range in [0..2_499, 3..1_999, 700..702, 2_490..2_499] {
            assert_eq!(taken(&set, range.clone(), 9_999), taken(&twin, range.clone(), 9_999));
            assert_eq!(set.sum(range.clone()), Ok(twin.sum(range).unwrap()));
        }
    }
}
