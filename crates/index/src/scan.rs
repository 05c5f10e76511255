//! The merge scan: filters in, events out, newest first and ties by lowest id.
//!
//! Between two pages a scan keeps a [`Cursor`] and nothing else: no transaction, no iterator. So a
//! slow client pins no pages of the store, and a canister can hand the cursor to its caller.

use std::{borrow::Cow, cmp::Reverse, sync::Arc};

use event::{EventId, Filter, Packed, Timestamp};

use crate::{
    Cursor, Index, Key, Matcher, Order, Plan, Seq,
    keys::{TIE_BYTES, reversed_date},
    merge::Merge,
    plan::{Choice, Way, choose},
};

/// A store, as far as scanning goes.
pub trait Source {
    type Error;
    /// Whether to open a walk costs no more than to read an event. Then a scan leaps along several
    /// ways at once rather than look at what lies along one of them.
    const LEAPS: bool;
    /// A walk over keys, ascending: the order in which each of them ends.
    type Walk<'a>: Iterator<Item = Result<Order, Self::Error>>
    where
        Self: 'a;

    /// The keys of `index` from `first` to `last`, both included. The bounds have the index's length.
    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Self::Walk<'_>, Self::Error>;
    /// Where the event with this id is, if it is held.
    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, Self::Error>;
    /// The packed event at `seq`, if it is (still) held and to be seen.
    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, Self::Error>;
    /// Whether every key leads to an event that is to be seen.
    fn shows_all(&self) -> bool;
}

/// Who takes a scan's events, and says when a page is full.
pub trait Reader {
    /// The next event.
    fn take(&mut self, found: Found<'_>) -> Take;
    /// Whether there is time for more candidates. Asked before the first, when all walks are open: who
    /// then says no gets nowhere. And then after every
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
/// Keys that are counted between two asks for the time.
const KEYS_BETWEEN_ASKS: u64 = 1_024;

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

/// The answer to some filters, in pages.
pub struct Scan {
    filters: Vec<Prepared>,
    after: Option<Position>,
    horizon: Seq,
    shows: Option<Shows>,
}

/// Whether an event may be shown to who asks.
pub type Shows = Arc<dyn Fn(&Packed<'_>) -> bool + Send + Sync>;

struct Prepared {
    plan: Plan,
    /// Which of the plan's ways are taken, as the first page found.
    choice: Option<Choice>,
    /// The way whose keys alone say what matches.
    deciding: Option<Way>,
    matcher: Matcher,
    remaining: u64,
    since: Timestamp,
    until: Timestamp,
}

impl Prepared {
    fn new(filter: &Filter, remaining: u64) -> Prepared {
        let plan = Plan::of(filter);
        Prepared {
            choice: None,
            deciding: plan.deciding_way(filter).cloned(),
            plan,
            matcher: Matcher::new(filter),
            remaining,
            since: filter.since.unwrap_or(Timestamp(0)),
            until: filter.until.unwrap_or(Timestamp(u64::MAX)),
        }
    }

    /// The orders between which its events lie, behind a place. None: there is nothing more.
    fn bounds(&self, after: Option<&Position>) -> Option<(Order, Order)> {
        let mut first = [0; 14];
        first[..5].copy_from_slice(&reversed_date(self.until));
        if let Some(after) = after {
            // From the start of the tie: some of its events may still be to come.
            let mut resumed = [0; 14];
            resumed[..TIE_BYTES].copy_from_slice(&after.tie());
            first = first.max(resumed);
        }
        let mut last = [0xff; 14];
        last[..5].copy_from_slice(&reversed_date(self.since));
        (first <= last).then_some((Order(first), Order(last)))
    }

    /// Adds where its events lie to a merge.
    fn open<'s, S: Source>(
        &mut self,
        source: &'s S,
        after: Option<&Position>,
        merge: &mut Merge<'s, S>,
    ) -> Result<(), S::Error> {
        let Some(bounds) = self.bounds(after) else { return Ok(()) };
        match &self.plan {
            Plan::Nothing => Ok(()),
            Plan::Ids(ids) => {
                // What earlier pages passed over would take as long to pass over again.
                let (first, last) = bounds;
                let mut orders = orders_of(source, ids)?;
                orders.retain(|order| (first..=last).contains(order));
                merge.add_list(orders)
            }
            Plan::Walks(ways) => {
                if self.choice.is_none() {
                    self.choice = Some(choose(ways, source, bounds)?);
                }
                match self.choice.as_ref().expect("it was just made") {
                    Choice::One(way) => merge.add_way(&ways[*way], bounds),
                    Choice::Common(common) => {
                        merge.add_common(common.iter().map(|way| &ways[*way]), bounds)
                    }
                }
            }
        }
    }
}

impl Scan {
    /// A scan of all events that match one of the filters; each filter gives at most its `limit`.
    pub fn new(filters: &[Filter]) -> Scan {
        Scan::resume(filters, &Cursor::start(filters))
    }

    /// The scan of the same filters that had come as far as `cursor`. Filters for which the cursor
    /// has no number give nothing.
    pub fn resume(filters: &[Filter], cursor: &Cursor) -> Scan {
        let left = cursor.remaining.iter().copied().chain(std::iter::repeat(0));
        let filters = filters
            .iter()
            .zip(left)
            .map(|(filter, remaining)| Prepared::new(filter, remaining))
            .collect();
        Scan { filters, after: cursor.after, horizon: Seq(u64::MAX), shows: None }
    }

    /// Leaves out whatever was stored after `horizon`: those events are somebody else's to deliver.
    pub fn up_to(mut self, horizon: Seq) -> Scan {
        self.horizon = horizon;
        self
    }

    /// Passes over what `shows` says no to. That uses up no filter's limit.
    pub fn only(mut self, shows: Shows) -> Scan {
        self.shows = Some(shows);
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
        if self.shows.as_ref().is_some_and(|shows| !shows(&event)) {
            wanting.clear();
        }
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

    fn open<'s, S: Source>(&mut self, source: &'s S) -> Result<Merge<'s, S>, S::Error> {
        let mut merge = Merge::new(source);
        for filter in self.filters.iter_mut().filter(|filter| filter.remaining > 0) {
            filter.open(source, self.after.as_ref(), &mut merge)?;
        }
        Ok(merge)
    }

    /// How many more events there are, as long as `may_go_on`; and whether that is all. Where the
    /// filters are so simple that keys alone say what matches, and no limit is to be kept, no event is
    /// read. Like [`Scan::page`], it goes on where the last call ended.
    pub fn count<S: Source>(
        &mut self,
        source: &S,
        mut may_go_on: impl FnMut() -> bool,
    ) -> Result<(u64, bool), S::Error> {
        let is_open = source.shows_all() && self.shows.is_none();
        if !is_open || !self.filters.iter().all(Prepared::is_counted_by_keys) {
            let mut tally = Tally { count: 0, may_go_on };
            let is_done = self.page(source, &mut tally)?;
            return Ok((tally.count, is_done));
        }
        let mut merge = Merge::new(source);
        for filter in &self.filters {
            if let (Some(way), Some(bounds)) =
                (&filter.deciding, filter.bounds(self.after.as_ref()))
            {
                merge.add_way(way, bounds)?;
            }
        }
        let (mut count, mut group, mut keys) = (0, Vec::new(), 0);
        // Only the first group can be one that was counted before.
        let (mut counted, mut reached) = (self.after, None);
        let mut is_done = true;
        while let Some(order) = merge.next_group(&mut group)? {
            if counted.take().is_some_and(|after| Position::behind(order).key() <= after.key()) {
                continue;
            }
            if keys % KEYS_BETWEEN_ASKS == 0 && !may_go_on() {
                is_done = false;
                break;
            }
            keys += 1;
            reached = Some(order);
            count += group.iter().filter(|seq| **seq <= self.horizon).count() as u64;
        }
        self.after = reached.map(Position::behind).or(self.after);
        Ok((count, is_done))
    }
}

impl Prepared {
    fn is_counted_by_keys(&self) -> bool {
        let decides = self.deciding.is_some() || self.plan == Plan::Nothing;
        decides && self.remaining == u64::MAX
    }
}

struct Tally<F> {
    count: u64,
    may_go_on: F,
}

impl<F: FnMut() -> bool> Reader for Tally<F> {
    fn take(&mut self, _: Found<'_>) -> Take {
        self.count += 1;
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        (self.may_go_on)()
    }
}

fn orders_of<S: Source>(source: &S, ids: &[EventId]) -> Result<Vec<Order>, S::Error> {
    let mut orders = Vec::new();
    for id in ids {
        let Some(seq) = source.seq_of(id)? else { continue };
        let Some(bytes) = source.event(seq)? else { continue };
        let Ok(event) = Packed::trusted(&bytes) else { continue };
        orders.push(Order::new(event.created_at(), id, seq));
    }
    orders.sort_unstable();
    Ok(orders)
}

/// An event that may match, packed.
type Candidate<'s> = (Seq, Cow<'s, [u8]>);
