//! Garbage collection: keeps the store below its limit.
//!
//! When what events take with their bodies passes the high mark, the bodies that were not served for
//! the longest time go, until it is down at the low mark. With an L2 a stub stays of each, in the room
//! between the high mark and the limit; when that is full too, the oldest stubs go.
//!
//! A collection looks first (read transactions, a slice at a time) and then has the writer act, in
//! tasks so short that other writes hardly notice; how many events one takes follows from how long
//! the last one took. Whatever it looked at may have changed by then: each task decides anew.

use std::{
    collections::BTreeMap,
    iter::Peekable,
    ops::{Bound, ControlFlow, Range},
    sync::Arc,
    time::{Duration, Instant},
};

use event::{Kind, Packed};
use heed::{Database, types::Bytes};
use index::{Index, Seq, seq_of};
use tokio::sync::watch;

use crate::{
    collect::{Rank, Terms},
    databases::Number,
    room::reserve,
    served::{Arrivals, Minute},
    store::{ReadError, Store},
    usage::Usage,
    writer::{Done, WriteError, Writer},
};

/// Events looked at in one read transaction.
const SLICE_EVENTS_MAX: usize = 4_096;
/// Events of one task of the writer: at first, and at most.
const TASK_EVENTS: usize = 64;
const TASK_EVENTS_MAX: usize = 4_096;
/// Events of one task that has nearly all behind it.
const TASK_EVENTS_LAST: usize = 8;
/// How long a task may keep the writer. One that took longer is followed by a smaller one.
const TASK_TIME_MAX: Duration = Duration::from_millis(10);
/// How often one collection lowers its sights because pages did not come free as reckoned.
const ROUNDS_MAX: usize = 4;

/// When a store is collected, and what goes last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The store's limit: its `Options::bytes_max`.
    pub bytes_max: u64,
    /// A collection starts when events with bodies take so much of it,
    pub high_percent: u8,
    /// and brings them down to this.
    pub low_percent: u8,
    /// Events of these kinds go when no others are left.
    pub protected_kinds: Vec<Kind>,
    /// Whether an L2 holds what is given up here.
    pub has_layer2: bool,
}

impl Policy {
    /// Above this the reserve begins that collections themselves need.
    pub const HIGH_PERCENT_MAX: u8 = 90;

    fn high(&self) -> u64 {
        self.bytes_max / 100 * u64::from(self.high_percent)
    }

    /// What a collection brings events with bodies down to.
    pub fn low(&self) -> u64 {
        self.bytes_max / 100 * u64::from(self.low_percent)
    }

    /// What stubs may take.
    fn stubs(&self) -> u64 {
        self.bytes_max.saturating_sub(self.high() + reserve(self.bytes_max))
    }
}

/// Why somebody looks whether there is something to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Time went by: a collection begins at the high mark.
    Routine,
    /// A write waits for room: it begins at the low mark, and below it a part is given up.
    Wanted,
    /// Whoever runs the relay says so: it begins at the low mark.
    Asked,
}

/// What a collection came to.
#[derive(Clone, Copy, Debug)]
pub struct Collected {
    pub before: Usage,
    pub after: Usage,
    /// Bodies that went.
    pub bodies: u64,
    /// Stubs that went.
    pub stubs: u64,
    pub took: Duration,
}

/// How far the collection is that is under way, in bytes that bodies give up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headway {
    pub done: u64,
    pub total: u64,
}

/// From where to where a collection brings what bodies take.
#[derive(Clone, Copy)]
struct Goal {
    before: u64,
    target: u64,
}

/// Why a collection ended early. What it did until then holds.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The runtime is shutting down.
    #[error("stopped")]
    Stopped,
}

/// The one who makes room. While it lives, writes that find the store full wait for it.
pub struct Collector {
    store: Store,
    writer: Writer,
    policy: Policy,
    protected: Arc<[Kind]>,
    task_events: usize,
    headway: watch::Sender<Headway>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.store.room().leave();
    }
}

impl Collector {
    pub fn new(store: Store, writer: Writer, policy: Policy) -> Collector {
        store.room().enter();
        let protected = policy.protected_kinds.clone().into();
        let headway = watch::Sender::default();
        Collector { store, writer, policy, protected, task_events: TASK_EVENTS, headway }
    }

    /// How far it is, whenever it collects.
    pub fn headway(&self) -> watch::Receiver<Headway> {
        self.headway.subscribe()
    }

    /// The end of what can be collected: the place that the next event will get.
    pub fn end(&self) -> Seq {
        self.store.next_seq()
    }

    /// Resolves when a write waits for room.
    pub async fn wanted(&self) {
        self.store.room().wanted().await;
    }

    /// Writes down what was served, of which a collection otherwise knows nothing.
    pub async fn note_served(&self) -> Result<(), CollectError> {
        loop {
            let seqs = self.store.notes().take();
            if seqs.is_empty() {
                return Ok(());
            }
            // Where they find no room they are left out: what they say is no promise.
            let noted = self.writer.note_served(seqs).await;
            if !matches!(noted, Ok(()) | Err(WriteError::Full)) {
                return Ok(noted?);
            }
        }
    }

    /// Collects what lies before `end`, if there is occasion to. None: there was nothing to do.
    pub async fn collect(
        &mut self,
        end: Seq,
        occasion: Occasion,
    ) -> Result<Option<Collected>, CollectError> {
        let store = self.store.clone();
        let _under_way = store.room().start();
        let (started, before) = (Instant::now(), self.usage().await?);
        let target = self.target(&before, occasion);
        if target.is_none() && !self.are_stubs_over(&before) {
            if occasion == Occasion::Wanted {
                self.store.room().note_fruitless();
            }
            return Ok(None);
        }
        self.note_served().await?;
        let bodies = match target {
            Some(target) => {
                let goal = Goal { before: before.of_bodies(), target };
                self.give_up_bodies(end, goal).await?
            }
            None => 0,
        };
        let stubs = self.prune_stubs().await?;
        self.forget_arrivals().await?;
        let after = self.usage().await?;
        if after.bytes >= before.bytes {
            self.store.room().note_fruitless();
        }
        Ok(Some(Collected { before, after, bodies, stubs, took: started.elapsed() }))
    }

    /// What bodies are brought down to, if they have to be.
    fn target(&self, usage: &Usage, occasion: Occasion) -> Option<u64> {
        let (bodies, low) = (usage.of_bodies(), self.policy.low());
        let mark = match occasion {
            Occasion::Routine => self.policy.high(),
            Occasion::Wanted | Occasion::Asked => low,
        };
        if bodies > mark {
            return Some(low);
        }
        // A long event needs pages that lie side by side, and those that are free may not; or the disk
        // is full. Then more has to go, but not all for one.
        (occasion == Occasion::Wanted && bodies > low / 4 * 3).then_some(bodies / 8 * 7)
    }

    /// How many more events may go in one task; none when bodies take no more than they should. A
    /// small store would otherwise give up far too many with the last one.
    async fn task_towards(&self, goal: Goal) -> Result<Option<usize>, CollectError> {
        let Goal { before, target } = goal;
        let usage = self.usage().await?;
        let bodies = usage.of_bodies();
        let (done, total) = (before.saturating_sub(bodies), before - target);
        self.headway.send_replace(Headway { done: done.min(total), total });
        let Some(too_much @ 1..) = bodies.checked_sub(target) else { return Ok(None) };
        let each = bodies / (usage.events - usage.stubs).max(1);
        let enough = (too_much / each.max(1)) as usize;
        Ok(Some(self.task_events.min(enough.max(TASK_EVENTS_LAST))))
    }

    async fn forget_arrivals(&self) -> Result<(), CollectError> {
        match self.writer.forget_arrivals().await {
            // The next collection forgets them.
            Ok(()) | Err(WriteError::Full) => Ok(()),
            Err(cause) => Err(cause.into()),
        }
    }

    fn are_stubs_over(&self, usage: &Usage) -> bool {
        self.policy.has_layer2 && usage.of_stubs() > self.policy.stubs()
    }

    /// How many bodies went.
    async fn give_up_bodies(&mut self, end: Seq, goal: Goal) -> Result<u64, CollectError> {
        let mut given_up = 0;
        // What answers under way have just read through goes after all else that is not protected.
        let spared = self.store.holds().spared_from().filter(|from| *from < end);
        let scopes = spared.map(|from| (from, false)).into_iter().chain([(end, true)]);
        for (end, with_protected) in scopes {
            for _ in 0..ROUNDS_MAX {
                let usage = self.usage().await?;
                let Some(too_much) = usage.of_bodies().checked_sub(goal.target) else { break };
                let terms = self.terms(end, with_protected, too_much).await?;
                let Some(terms) = terms else { break };
                let terms = Arc::new(terms);
                for tree in [Tree::Events, Tree::Kept] {
                    if self.give_up(tree, end, &terms, goal, &mut given_up).await? {
                        return Ok(given_up);
                    }
                }
            }
        }
        Ok(given_up)
    }

    /// How much has to go for so many bytes; none if nothing can.
    async fn terms(
        &self,
        end: Seq,
        with_protected: bool,
        bytes: u64,
    ) -> Result<Option<Terms>, CollectError> {
        let (protected, has_layer2) = (self.protected.clone(), self.policy.has_layer2);
        self.read(move |store| {
            let snapshot = store.snapshot()?;
            let arrivals = Arrivals::read(snapshot.databases, &snapshot.txn)?;
            let each = Usage::read(snapshot.databases, &snapshot.txn)?.index_bytes_each();
            drop(snapshot);
            let all = Rank { is_protected: true, served: Minute(u32::MAX) };
            let mut terms = Terms { up_to: all, protected, arrivals, has_layer2 };
            let mut ranks = ranks(store, &terms, end, each)?;
            ranks.retain(|rank, _| with_protected || !rank.is_protected);
            let mut sum = 0;
            let enough = ranks.iter().find(|(_, bytes_of)| {
                sum += **bytes_of;
                sum >= bytes
            });
            let Some(up_to) = enough.or(ranks.last_key_value()).map(|(rank, _)| *rank) else {
                return Ok(None);
            };
            terms.up_to = up_to;
            Ok(Some(terms))
        })
        .await
    }

    /// Has the writer look at the events of one tree, from the oldest, until there is room enough
    /// (true) or all have been looked at.
    async fn give_up(
        &mut self,
        tree: Tree,
        end: Seq,
        terms: &Arc<Terms>,
        goal: Goal,
        given_up: &mut u64,
    ) -> Result<bool, CollectError> {
        let mut from = Some(Seq(0));
        while let Some(start) = from {
            let Some(most) = self.task_towards(goal).await? else { return Ok(true) };
            let for_reading = terms.clone();
            let (seqs, next) = self
                .read(move |store| candidates(store, tree, start..end, most, &for_reading))
                .await?;
            from = next;
            if seqs.is_empty() {
                continue;
            }
            let task = async |writer: &Writer| writer.collect(seqs.clone(), terms.clone()).await;
            let step = self.act(seqs.len(), task).await?;
            *given_up += step.given_up;
            from = seqs.get(step.looked_at).copied().or(next);
        }
        Ok(self.task_towards(goal).await?.is_none())
    }

    /// Takes the oldest stubs out while they take more than their room, and an eighth more; returns how
    /// many.
    async fn prune_stubs(&mut self) -> Result<u64, CollectError> {
        if !self.are_stubs_over(&self.usage().await?) {
            return Ok(0);
        }
        let target = self.policy.stubs() / 8 * 7;
        let (mut from, mut pruned) = (Some(BEFORE_ALL), 0);
        while let Some(start) = from {
            let most = self.task_events;
            let (stubs, next) = self.read(move |store| oldest_stubs(store, start, most)).await?;
            from = next;
            if stubs.is_empty() {
                continue;
            }
            let seqs: Vec<Seq> = stubs.iter().map(seq_of).collect();
            let task = async |writer: &Writer| writer.prune(seqs.clone()).await;
            let step = self.act(seqs.len(), task).await?;
            pruned += step.given_up;
            if step.looked_at < stubs.len() {
                from = Some(step.looked_at.checked_sub(1).map_or(start, |last| stubs[last]));
            }
            if self.usage().await?.of_stubs() <= target {
                break;
            }
        }
        Ok(pruned)
    }

    /// One task of the writer, on so many events: how far it came. The size of the next follows from it.
    async fn act(
        &mut self,
        events: usize,
        task: impl AsyncFnOnce(&Writer) -> Result<Arc<Done>, WriteError>,
    ) -> Result<Step, CollectError> {
        let done = match task(&self.writer).await {
            Ok(done) => done,
            // It wanted more pages than there are free: a smaller one may do. If one event is too
            // much, the others may be less.
            Err(WriteError::Full) => {
                let looked_at = usize::from(events == 1);
                self.task_events = (events / 2).max(1);
                return Ok(Step { looked_at, given_up: 0 });
            }
            Err(cause) => return Err(cause.into()),
        };
        self.store.room().note_step();
        let took = self.store.room().pauses().last;
        if took > TASK_TIME_MAX {
            self.task_events = (self.task_events / 2).max(1);
        } else if took < TASK_TIME_MAX / 3 {
            self.task_events = (self.task_events * 2).min(TASK_EVENTS_MAX);
        }
        Ok(Step { looked_at: done.looked_at(), given_up: done.given_up() as u64 })
    }

    async fn usage(&self) -> Result<Usage, CollectError> {
        self.read(Store::usage).await
    }

    /// Reads where waiting for the disk holds nobody up.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, CollectError> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || read(&store)).await {
            Ok(read) => Ok(read?),
            Err(_) => Err(CollectError::Stopped),
        }
    }
}

/// What one task of the writer came to.
struct Step {
    /// Events that need not be looked at again.
    looked_at: usize,
    given_up: u64,
}

/// Where bodies lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tree {
    Events,
    Kept,
}

/// A key of the index by date.
type CreatedKey = [u8; 14];

/// Older than every event: its keys come in the order of dates, the newest first.
const BEFORE_ALL: CreatedKey = [u8::MAX; 14];

/// How many bytes events of each rank take, with `each` for the keys of one.
fn ranks(
    store: &Store,
    terms: &Terms,
    end: Seq,
    each: u64,
) -> Result<BTreeMap<Rank, u64>, ReadError> {
    let mut ranks = BTreeMap::new();
    for tree in [Tree::Events, Tree::Kept] {
        let mut from = Some(Seq(0));
        while let Some(start) = from {
            let mut note = |_, rank, bytes: usize| {
                *ranks.entry(rank).or_default() += bytes as u64 + each;
                ControlFlow::Continue(())
            };
            from = store.slice(tree, start..end, terms, &mut note)?;
        }
    }
    Ok(ranks)
}

/// Up to `most` events for the writer to decide on, and where to go on.
fn candidates(
    store: &Store,
    tree: Tree,
    range: Range<Seq>,
    most: usize,
    terms: &Terms,
) -> Result<(Vec<Seq>, Option<Seq>), ReadError> {
    // Recent events are all moved on or given up, so that the tree empties from its old end. But what
    // came after the last minute that goes stays where it is, unless protected kinds are all that is left.
    let end = match tree {
        Tree::Events if !terms.up_to.is_protected => {
            range.end.min(terms.arrivals.first_after(terms.up_to.served))
        }
        _ => range.end,
    };
    let mut seqs = Vec::new();
    let mut note = |seq, rank, _| {
        if tree == Tree::Events || rank <= terms.up_to {
            seqs.push(seq);
        }
        if seqs.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let next = store.slice(tree, range.start..end, terms, &mut note)?;
    Ok((seqs, next))
}

/// Up to `most` stubs newer than `after`, the oldest first, and where to go on.
fn oldest_stubs(
    store: &Store,
    after: CreatedKey,
    most: usize,
) -> Result<(Vec<CreatedKey>, Option<CreatedKey>), ReadError> {
    let snapshot = store.snapshot()?;
    let range = (Bound::Unbounded, Bound::Excluded(after.as_slice()));
    let (mut stubs, mut last) = (Vec::new(), None);
    let rows = snapshot.databases.of(Index::Created).rev_range(&snapshot.txn, &range)?;
    for row in rows.take(SLICE_EVENTS_MAX) {
        let (key, ()) = row?;
        let Ok(key) = CreatedKey::try_from(key) else { continue };
        if snapshot.databases.stubs.get(&snapshot.txn, &seq_of(&key).0)?.is_some() {
            stubs.push(key);
        }
        last = Some(key);
        if stubs.len() == most {
            break;
        }
    }
    Ok((stubs, last))
}

impl Store {
    /// What the store takes of the disk, and of what.
    pub fn usage(&self) -> Result<Usage, ReadError> {
        let snapshot = self.snapshot()?;
        Ok(Usage::read(snapshot.databases, &snapshot.txn)?)
    }

    /// Shows `each` some events of a tree, with their ranks and the size of their bodies, until it
    /// breaks. Those that L2 has not got are left out: they stay. Returns where to go on, if there are
    /// more.
    fn slice(
        &self,
        tree: Tree,
        range: Range<Seq>,
        terms: &Terms,
        each: &mut impl FnMut(Seq, Rank, usize) -> ControlFlow<()>,
    ) -> Result<Option<Seq>, ReadError> {
        if range.is_empty() {
            return Ok(None);
        }
        let snapshot = self.snapshot()?;
        let (databases, txn) = (snapshot.databases, &snapshot.txn);
        let bodies: &Database<'static, Number, Bytes> = match tree {
            Tree::Events => &databases.events,
            Tree::Kept => &databases.kept,
        };
        let bounds = range.start.0..range.end.0;
        let mut served = databases.served.range(txn, &bounds)?.peekable();
        let mut pending = databases.outbox.range(txn, &bounds)?.peekable();
        let mut refused = databases.aside.range(txn, &bounds)?.peekable();
        let mut local = databases.local.range(txn, &bounds)?.peekable();
        let mut tapped = databases.tapped.range(txn, &bounds)?.peekable();
        for (looked_at, row) in bodies.range(txn, &bounds)?.enumerate() {
            let (seq, bytes) = row?;
            if looked_at == SLICE_EVENTS_MAX {
                return Ok(Some(Seq(seq)));
            }
            let last = row_at(&mut served, seq)?;
            let is_only_here = row_at(&mut pending, seq)?.is_some()
                || row_at(&mut refused, seq)?.is_some()
                || row_at(&mut local, seq)?.is_some()
                || row_at(&mut tapped, seq)?.is_some();
            if terms.has_layer2 && is_only_here {
                continue;
            }
            let Ok(event) = Packed::trusted(bytes) else { continue };
            let rank = terms.rank(Seq(seq), last, event.kind());
            if each(Seq(seq), rank, bytes.len()).is_break() {
                return Ok(Some(Seq(seq).next()));
            }
        }
        Ok(None)
    }
}

/// The value at `seq`, of rows that are gone through in order.
pub(crate) fn row_at<V>(
    rows: &mut Peekable<impl Iterator<Item = Result<(u64, V), heed::Error>>>,
    seq: u64,
) -> Result<Option<V>, heed::Error> {
    while let Some(row) = rows.next_if(|row| row.as_ref().map_or(true, |(at, _)| *at <= seq)) {
        let (at, value) = row?;
        if at == seq {
            return Ok(Some(value));
        }
    }
    Ok(None)
}
