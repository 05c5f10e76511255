//! The merge scan: filters in, events out, newest first and ties by lowest id.
//!
//! Between two pages a scan keeps a [`Cursor`] and nothing else: no transaction, no iterator. So a
//! slow client pins no pages of the store, and a canister can hand the cursor to its caller.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use event::{EventId, Filter, Packed, Timestamp};

use crate::{
    Index, Key, Matcher, Order, Plan, Seq,
    keys::{TIE_BYTES, reversed_date},
};

/// A store, as far as scanning goes.
pub trait Source {
    type Error;
    /// A walk over keys, ascending: the order in which each of them ends.
    type Walk<'a>: Iterator<Item = Result<Order, Self::Error>>
    where
        Self: 'a;

    /// The keys of `index` from `first` to `last`, both included. The bounds have the index's length.
    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Self::Walk<'_>, Self::Error>;
    /// Where the event with this id is, if it is held.
    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, Self::Error>;
    /// The packed event at `seq`, if it is (still) held.
    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, Self::Error>;
}

/// Who takes a scan's events, and says when a page is full.
pub trait Reader {
    /// The next event.
    fn take(&mut self, found: Found<'_>) -> Take;
    /// Whether there is time for more candidates. Asked before the first, and then after every
    /// [`WORK_BYTES`], or after each candidate that is larger than this.
    fn may_go_on(&mut self) -> bool {
        true
    }
}

/// What is done between two asks for the time, in bytes of events that were held against filters.
/// To ask is a system call in a canister, and costs a thirtieth of a candidate.
pub const WORK_BYTES: usize = 8_192;
/// What a candidate costs beside its bytes, in bytes.
const CANDIDATE_BYTES: usize = 200;

/// An event that matches. Its bytes are the reader's to keep.
pub struct Found<'s> {
    pub seq: Seq,
    pub position: Position,
    pub packed: Cow<'s, [u8]>,
}

impl Found<'_> {
    pub fn event(&self) -> Packed<'_> {
        Packed::trusted(&self.packed).expect("the scan has read its head")
    }
}

/// What a [`Reader`] did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Took it, and has room for more.
    More,
    /// Took it, and the page is full.
    Last,
    /// Has no room for it: it starts the next page.
    NotThis,
}

/// An event's place in NIP-01's order. Smaller comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub created_at: Timestamp,
    pub id: EventId,
}

impl Position {
    fn of(event: &Packed<'_>) -> Position {
        Position { created_at: event.created_at(), id: event.id() }
    }

    /// Behind all events that share a tie with this one.
    fn behind(order: Order) -> Position {
        let mut id = [0xff; 32];
        id[..4].copy_from_slice(&order.tie()[5..]);
        Position { created_at: order.created_at(), id: EventId(id) }
    }

    fn key(&self) -> (Reverse<Timestamp>, EventId) {
        (Reverse(self.created_at), self.id)
    }

    fn tie(&self) -> [u8; TIE_BYTES] {
        let mut tie = [0; TIE_BYTES];
        tie.copy_from_slice(Order::new(self.created_at, &self.id, Seq(0)).tie());
        tie
    }
}

/// All that a scan remembers between pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last event looked at; the scan goes on behind it.
    pub after: Option<Position>,
    /// How many events each filter may still give, in the order of the filters.
    pub remaining: Vec<u64>,
}

/// The answer to some filters, in pages.
pub struct Scan {
    filters: Vec<Prepared>,
    after: Option<Position>,
    horizon: Seq,
}

struct Prepared {
    plan: Plan,
    matcher: Matcher,
    remaining: u64,
    since: Timestamp,
    until: Timestamp,
}

impl Scan {
    /// A scan of all events that match one of the filters; each filter gives at most its `limit`.
    pub fn new(filters: &[Filter]) -> Scan {
        let remaining = filters.iter().map(|filter| filter.limit.unwrap_or(u64::MAX)).collect();
        Scan::resume(filters, &Cursor { after: None, remaining })
    }

    /// The scan of the same filters that had come as far as `cursor`. Filters for which the cursor
    /// has no number give nothing.
    pub fn resume(filters: &[Filter], cursor: &Cursor) -> Scan {
        let left = cursor.remaining.iter().copied().chain(std::iter::repeat(0));
        let filters = filters
            .iter()
            .zip(left)
            .map(|(filter, remaining)| Prepared {
                plan: Plan::of(filter),
                matcher: Matcher::new(filter),
                remaining,
                since: filter.since.unwrap_or(Timestamp(0)),
                until: filter.until.unwrap_or(Timestamp(u64::MAX)),
            })
            .collect();
        Scan { filters, after: cursor.after, horizon: Seq(u64::MAX) }
    }

    /// Leaves out whatever was stored after `horizon`: those events are somebody else's to deliver.
    pub fn up_to(mut self, horizon: Seq) -> Scan {
        self.horizon = horizon;
        self
    }

    /// Where it is now.
    pub fn cursor(&self) -> Cursor {
        let remaining = self.filters.iter().map(|filter| filter.remaining).collect();
        Cursor { after: self.after, remaining }
    }

    /// Gives the next events to `reader` until it has enough. True: there are no more.
    pub fn page<S: Source>(
        &mut self,
        source: &S,
        reader: &mut impl Reader,
    ) -> Result<bool, S::Error> {
        let mut merge = self.open(source)?;
        let mut work = WORK_BYTES;
        // What each group and each event needs, kept for the next.
        let (mut group, mut candidates, mut wanting) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(order) = merge.next_group(&mut group)? {
            if work >= WORK_BYTES {
                if !reader.may_go_on() {
                    return Ok(false);
                }
                work = 0;
            }
            work += self.read(source, &group, &mut candidates)?;
            if candidates.is_empty() {
                self.after = Some(Position::behind(order));
            }
            for (seq, packed) in candidates.drain(..) {
                match self.offer(seq, packed, reader, &mut wanting) {
                    Take::More => {}
                    Take::Last => return Ok(self.is_done()),
                    Take::NotThis => return Ok(false),
                }
            }
            if self.is_done() {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn is_done(&self) -> bool {
        self.filters.iter().all(|filter| filter.remaining == 0)
    }

    /// Reads the events of one group, in order. Returns how much work they are.
    fn read<'s, S: Source>(
        &self,
        source: &'s S,
        group: &[Seq],
        candidates: &mut Vec<Candidate<'s>>,
    ) -> Result<usize, S::Error> {
        let mut bytes = group.len() * CANDIDATE_BYTES;
        for seq in group.iter().copied().filter(|seq| *seq <= self.horizon) {
            let Some(packed) = source.event(seq)? else { continue };
            bytes += packed.len();
            candidates.push((seq, packed));
        }
        if candidates.len() > 1 {
            candidates.sort_by_key(|(_, packed)| {
                Packed::trusted(packed).ok().map(|event| Position::of(&event).key())
            });
        }
        Ok(bytes * self.filters.len())
    }

    /// Passes one candidate to the reader if a filter still wants it, and steps behind it.
    fn offer(
        &mut self,
        seq: Seq,
        packed: Cow<'_, [u8]>,
        reader: &mut impl Reader,
        wanting: &mut Vec<usize>,
    ) -> Take {
        let Ok(event) = Packed::trusted(&packed) else { return Take::More };
        let position = Position::of(&event);
        // The first group of a page may have been begun by the page before.
        if self.after.is_some_and(|after| position.key() <= after.key()) {
            return Take::More;
        }
        wanting.clear();
        wanting.extend((0..self.filters.len()).filter(|at| {
            let filter = &self.filters[*at];
            filter.remaining > 0 && filter.matcher.matches(&event)
        }));
        let take = match wanting[..] {
            [] => Take::More,
            _ => reader.take(Found { seq, position, packed }),
        };
        if take != Take::NotThis {
            wanting.iter().for_each(|at| self.filters[*at].remaining -= 1);
            self.after = Some(position);
        }
        take
    }

    fn open<'s, S: Source>(&self, source: &'s S) -> Result<Merge<'s, S>, S::Error> {
        let mut merge = Merge { streams: Vec::new(), heads: BinaryHeap::new() };
        for filter in self.filters.iter().filter(|filter| filter.remaining > 0) {
            match &filter.plan {
                Plan::Nothing => {}
                Plan::Ids(ids) => merge.add(Stream::List(self.orders_of(source, ids)?))?,
                Plan::Walk(index, prefixes) => {
                    let Some((first, last)) = self.bounds(filter) else { continue };
                    for prefix in prefixes {
                        let (first, last) = (prefix.with(&first.0), prefix.with(&last.0));
                        merge.add(Stream::Walk(source.walk(*index, &first, &last)?))?;
                    }
                }
            }
        }
        Ok(merge)
    }

    /// The orders between which a filter's events lie, given how far the scan has come.
    fn bounds(&self, filter: &Prepared) -> Option<(Order, Order)> {
        let mut first = [0; 14];
        first[..5].copy_from_slice(&reversed_date(filter.until));
        if let Some(after) = &self.after {
            // From the start of the tie: some of its events may still be to come.
            let mut resumed = [0; 14];
            resumed[..TIE_BYTES].copy_from_slice(&after.tie());
            first = first.max(resumed);
        }
        let mut last = [0xff; 14];
        last[..5].copy_from_slice(&reversed_date(filter.since));
        (first <= last).then_some((Order(first), Order(last)))
    }

    fn orders_of<S: Source>(
        &self,
        source: &S,
        ids: &[EventId],
    ) -> Result<std::vec::IntoIter<Order>, S::Error> {
        let mut orders = Vec::new();
        for id in ids {
            let Some(seq) = source.seq_of(id)? else { continue };
            let Some(bytes) = source.event(seq)? else { continue };
            let Ok(event) = Packed::trusted(&bytes) else { continue };
            orders.push(Order::new(event.created_at(), id, seq));
        }
        orders.sort_unstable();
        Ok(orders.into_iter())
    }
}

/// An event that may match, packed.
type Candidate<'s> = (Seq, Cow<'s, [u8]>);

/// Streams of orders, merged.
struct Merge<'s, S: Source + 's> {
    streams: Vec<Stream<S::Walk<'s>>>,
    /// The next order of each stream that has one, as a number: they are compared much.
    heads: BinaryHeap<Reverse<(u128, usize)>>,
}

enum Stream<W> {
    Walk(W),
    List(std::vec::IntoIter<Order>),
}

impl<E, W: Iterator<Item = Result<Order, E>>> Stream<W> {
    fn pull(&mut self) -> Result<Option<u128>, E> {
        let order = match self {
            Stream::Walk(walk) => walk.next().transpose()?,
            Stream::List(orders) => orders.next(),
        };
        Ok(order.map(|order| order.number()))
    }
}

impl<'s, S: Source> Merge<'s, S> {
    fn add(&mut self, mut stream: Stream<S::Walk<'s>>) -> Result<(), S::Error> {
        let head = stream.pull()?;
        self.heads.extend(head.map(|head| Reverse((head, self.streams.len()))));
        self.streams.push(stream);
        Ok(())
    }

    /// Fills `group` with all events that the keys cannot tell apart, each once: nearly always one
    /// event. Returns their order, as far as they share it. None: there are no more.
    fn next_group(&mut self, group: &mut Vec<Seq>) -> Result<Option<Order>, S::Error> {
        group.clear();
        let Some(Reverse((first, _))) = self.heads.peek().copied() else { return Ok(None) };
        while let Some(mut head) = self.heads.peek_mut() {
            let Reverse((order, stream)) = *head;
            if Order::tie_of(order) != Order::tie_of(first) {
                break;
            }
            let seq = Order::seq_of(order);
            if group.last() != Some(&seq) {
                group.push(seq);
            }
            match self.streams[stream].pull()? {
                Some(next) => *head = Reverse((next, stream)),
                None => {
                    PeekMut::pop(head);
                }
            }
        }
        Ok(Some(Order::of_number(first)))
    }
}
