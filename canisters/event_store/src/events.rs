//! The events: where in the log each one is, and what keeps others out.
//!
//! Invariants. An event is held when its id is in `ids`; then its entry in the log is `Saved`, and it
//! has exactly the index entries that [`index::keys_of`] gives. An address leads to the version held.
//! Tombstones outlive the events that they name. An event that expires has an entry in `expiries`.
//!
//! What is over is not always out yet: events expire while nobody calls, and an author who vanishes may
//! leave more than one message can take out. Until [`Events::tidy`] has come to them, [`Visible`] hides
//! them from whoever reads.

use std::{borrow::Cow, convert::Infallible, rc::Rc};

use event::{
    Address, Event, EventId, Kind as EventKind, Packed, PublicKey, Timestamp,
    rules::{Effects, Held, Removal, Vanish, expiration},
};
use index::{
    Found, Index, Key, Order, Position, Reader, Scan, Seq, Source, Take, address_digest, keys_of,
    tombstone,
};
use reconcile::Item;
use tree::{Pages, Summary, Totals, Tree};

use crate::{
    dated::Dated,
    log::{Kind, Log},
    memory::{self, Memories, Memory, PAGE_BYTES},
};

/// Enough of a packed event to hold its id, author, date and kind.
const HEAD_BYTES: usize = 160;
/// Events of one who vanishes that are looked for at a time.
const VANISH_EVENTS: usize = 200;
/// In whose name tombstones stand for what no author can delete. No author has this key: it is no
/// point of the curve.
const NOBODY: PublicKey = PublicKey([0; 32]);

/// Of an id, in `ids`.
const ID_PREFIX_BYTES: usize = 8;

pub struct Events {
    log: Log<Memory>,
    /// Of all trees below.
    pages: Rc<Pages<Memory>>,
    /// The start of an id and a seq. The log has the whole id, and settles what the start cannot.
    ids: Keys<{ ID_PREFIX_BYTES + 5 }>,
    /// To the seq of the version held.
    addresses: Tree<16, 5, Memory>,
    tombstones: Keys<16>,
    /// To the date up to which versions stay out.
    address_tombstones: Tree<16, 5, Memory>,
    /// With sums of ids: by them two stores find out where they differ.
    by_created: Keys<14, Totals>,
    by_author: Keys<22>,
    by_kind: Keys<16>,
    by_author_kind: Keys<24>,
    by_tag: Keys<22>,
    /// Date and seq of each event that expires.
    expiries: Keys<{ 8 + 5 }>,
    /// To the date up to which nothing of an author comes.
    vanished: Tree<32, 5, Memory>,
    /// Those of them whose events are not all out yet.
    vanishing: Tree<32, 5, Memory>,
    /// `vanishing`, at hand for every read: nearly always nobody.
    leaving: Vec<Vanish>,
}

impl Events {
    pub fn open(memories: &Memories) -> Events {
        let pages = Rc::new(Pages::open(memories.get(memory::TREES), PAGE_BYTES));
        let vanishing = Tree::open(&pages, memory::VANISHING);
        let leaving = vanishing
            .walk([0; 32]..=[0xff; 32])
            .map(|(who, until)| Vanish { who: PublicKey(who), until: Timestamp(number(until)) });
        Events {
            leaving: leaving.collect(),
            vanishing,
            expiries: Tree::open(&pages, memory::EXPIRIES),
            vanished: Tree::open(&pages, memory::VANISHED),
            log: Log::open(memories.get(memory::LOG_ENTRIES), memories.get(memory::LOG_DATA)),
            ids: Tree::open(&pages, memory::IDS),
            addresses: Tree::open(&pages, memory::ADDRESSES),
            tombstones: Tree::open(&pages, memory::TOMBSTONES),
            address_tombstones: Tree::open(&pages, memory::ADDRESS_TOMBSTONES),
            by_created: Tree::open(&pages, memory::BY_CREATED),
            by_author: Tree::open(&pages, memory::BY_AUTHOR),
            by_kind: Tree::open(&pages, memory::BY_KIND),
            by_author_kind: Tree::open(&pages, memory::BY_AUTHOR_KIND),
            by_tag: Tree::open(&pages, memory::BY_TAG),
            pages,
        }
    }

    /// Panics if the structures cannot belong together. That each is what it was, opening has shown.
    pub fn check(&self) {
        let held = self.len();
        let one_each: [&dyn KeySet; 4] =
            [&self.by_created, &self.by_author, &self.by_kind, &self.by_author_kind];
        assert!(one_each.iter().all(|keys| keys.count() == held), "an index is not complete");
        assert!(held <= self.log.length().0, "the log is shorter than the store");
        assert!(self.addresses.len() <= held, "an address leads nowhere");
    }

    /// How many events are held.
    pub fn len(&self) -> u64 {
        self.ids.len()
    }

    pub fn log(&self) -> &Log<Memory> {
        &self.log
    }

    /// All events in negentropy's order.
    pub fn dated(&self) -> Dated<'_, Memory> {
        Dated::new(&self.by_created, &self.log)
    }

    /// The events that are held and not [`Events::visible`], looked for as long as `may_go_on`. None:
    /// that was not long enough.
    pub fn hidden(&self, now: u64, may_go_on: impl Fn() -> bool + Copy) -> Option<Vec<Item>> {
        let mut items = Vec::new();
        let last = expiry_key(Timestamp(now), CANDIDATE_LAST);
        for (key, []) in self.expiries.walk([0; 13]..=last) {
            let held = self.held_at(seq_of(&key)).filter(|_| may_go_on())?;
            items.push(Item { created_at: held.created_at, id: held.id });
        }
        for vanish in &self.leaving {
            let mut leaving = Leaving { vanish, items: &mut items, may_go_on };
            let Ok(is_done) = Scan::new(&vanish.filters()).page(self, &mut leaving);
            if !is_done {
                return None;
            }
        }
        Some(items)
    }

    /// Where the event with this id is, if it is held.
    pub fn find(&self, id: &EventId) -> Option<Seq> {
        let candidates = self.ids.walk(id_key(id, Seq(0))..=id_key(id, CANDIDATE_LAST));
        candidates.map(|(key, [])| seq_of(&key)).find(|seq| self.log.id_at(*seq) == *id)
    }

    /// The packed event at `seq`, if it is held.
    pub fn packed(&self, seq: Seq) -> Option<Vec<u8>> {
        let entry = self.log.entry(seq).filter(|entry| entry.kind == Kind::Saved)?;
        Some(self.log.data(&entry))
    }

    /// The first half of saving: the event is in the log, and [`Events::index`] must follow.
    pub fn append(&mut self, packed: &Packed<'_>, now: u64) -> Seq {
        self.log.append_saved(packed.as_bytes(), now)
    }

    /// The second half of saving: from now on the event at `seq` is found, and what it deletes stays
    /// out. What it removes must be gone by now.
    pub fn index(&mut self, seq: Seq, packed: &Packed<'_>, event: &Event, effects: &Effects) {
        self.ids.insert(&id_key(&event.id, seq), &[]);
        if let Some(address) = event.address() {
            self.addresses.insert(&address_digest(&address), &five(seq.0));
        }
        for (index, key) in keys_of(packed, seq) {
            self.keys_mut(index, |keys, log| keys.put(&key, log));
        }
        for id in &effects.tombstones {
            self.tombstones.insert(&tombstone(id, &event.pubkey), &[]);
        }
        for address in &effects.address_tombstones {
            let until = self.deleted_at(address).max(Some(event.created_at.0)).unwrap_or_default();
            self.address_tombstones.insert(&address_digest(address), &five(until));
        }
        if let Some(date) = expiration(packed) {
            self.expiries.insert(&expiry_key(date, seq), &[]);
        }
        if let Some(vanish) = &effects.vanish {
            self.begin_to_vanish(vanish);
        }
    }

    fn begin_to_vanish(&mut self, vanish: &Vanish) {
        let Vanish { who, until } = *vanish;
        if self.vanished_until(&who).is_some_and(|date| date >= until.0) {
            return;
        }
        self.vanished.insert(&who.0, &five(until.0));
        self.vanishing.insert(&who.0, &five(until.0));
        self.leaving.retain(|other| other.who != who);
        self.leaving.push(*vanish);
    }

    /// Takes an event out, and says so in the log, where this returns. None: it is not held.
    pub fn remove(&mut self, id: &EventId, why: &str, now: u64) -> Option<Seq> {
        let seq = self.find(id)?;
        self.ids.remove(&id_key(id, seq));
        let bytes = self.packed(seq).expect("an id leads to a saved entry");
        let packed = Packed::trusted(&bytes).expect("only whole events are appended");
        for (index, key) in keys_of(&packed, seq) {
            self.keys_mut(index, |keys, log| keys.take(&key, log));
        }
        if let Some(address) = packed.unpack().address() {
            self.addresses.remove(&address_digest(&address));
        }
        if let Some(date) = expiration(&packed) {
            self.expiries.remove(&expiry_key(date, seq));
        }
        self.log.erase(seq);
        Some(self.log.append_removed(id, why, now))
    }

    /// Takes an event out for ever, as an operator wants it. Its author may bring it no more; for what
    /// authors cannot delete there is a tombstone that the rules ask for extra.
    pub fn bar(&mut self, id: &EventId, why: &str, now: u64) -> Option<Seq> {
        let held = self.held_at(self.find(id)?)?;
        let author = match held.kind {
            EventKind::DELETION | EventKind::VANISH => NOBODY,
            _ => held.pubkey,
        };
        self.tombstones.insert(&tombstone(id, &author), &[]);
        self.remove(id, why, now)
    }

    /// Empties the store, tombstones and all. What is left is the log's history without its bodies;
    /// [`Events::tidy`] wipes them.
    pub fn clear(&mut self, now: u64) -> Seq {
        self.pages.clear();
        self.leaving.clear();
        self.log.append_cleared(now)
    }

    /// Takes out what has expired, as long as `may_go_on`. Savers do it first: the rules expect it.
    pub fn expire(&mut self, now: u64, may_go_on: impl Fn() -> bool) {
        while let Some(seq) = self.first_expired(now)
            && may_go_on()
        {
            let entry = self.log.entry(seq).expect("a place in `expiries` is one of the log");
            let id = self.log.id(&entry);
            self.remove(&id, Removal::Expired.as_str(), now);
        }
    }

    /// Does what is left to do, as long as `may_go_on`: what has expired, who is vanishing, and what a
    /// clearing left behind.
    pub fn tidy(&mut self, now: u64, may_go_on: impl Fn() -> bool + Copy) {
        self.expire(now, may_go_on);
        while let Some(vanish) = self.leaving.last().copied()
            && self.take_out(&vanish, now, may_go_on)
        {
            self.vanishing.remove(&vanish.who.0);
            self.leaving.pop();
        }
        self.log.wipe(may_go_on);
    }

    /// When there is something to tidy: the past if that is now.
    pub fn is_untidy_at(&self) -> Option<u64> {
        if !self.leaving.is_empty() || self.log.is_to_be_wiped() {
            return Some(0);
        }
        self.next_expiry()
    }

    /// True: nothing of it is left.
    fn take_out(&mut self, vanish: &Vanish, now: u64, may_go_on: impl Fn() -> bool + Copy) -> bool {
        let mut scan = Scan::new(&vanish.filters());
        loop {
            let mut taken = Taken { vanish, ids: Vec::new(), may_go_on };
            let Ok(is_done) = scan.page(self, &mut taken);
            let is_stuck = taken.ids.is_empty();
            for id in taken.ids {
                if !may_go_on() {
                    return false;
                }
                self.remove(&id, Removal::Vanished.as_str(), now);
            }
            if is_done || is_stuck {
                return is_done;
            }
        }
    }

    /// The events as readers see them at this time.
    pub fn visible(&self, now: u64) -> Visible<'_> {
        let has_expired = self.first_expired(now).is_some();
        Visible { events: self, expired_by: has_expired.then_some(Timestamp(now)) }
    }

    /// As [`Events::visible`], for who has just called [`Events::expire`].
    pub fn not_leaving(&self) -> Visible<'_> {
        Visible { events: self, expired_by: None }
    }

    fn first_expired(&self, now: u64) -> Option<Seq> {
        let key = self.expiries.first()?;
        (expiry_of(&key) <= now).then(|| seq_of(&key))
    }

    fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|key| expiry_of(&key))
    }

    /// The version held of this event.
    pub fn held_at_address(&self, address: &Address) -> Option<Held> {
        self.held_at(Seq(number(self.addresses.get(&address_digest(address))?)))
    }

    pub fn held(&self, id: &EventId) -> Option<Held> {
        self.held_at(self.find(id)?)
    }

    /// Whether `author` deleted the event.
    pub fn is_deleted(&self, id: &EventId, author: &PublicKey) -> bool {
        self.tombstones.contains(&tombstone(id, author))
    }

    /// Whether an operator keeps the event out, that no author can delete.
    pub fn is_barred(&self, id: &EventId) -> bool {
        self.is_deleted(id, &NOBODY)
    }

    pub fn vanished_until(&self, who: &PublicKey) -> Option<u64> {
        self.vanished.get(&who.0).map(number)
    }

    /// Up to which date versions at this address stay out.
    pub fn deleted_at(&self, address: &Address) -> Option<u64> {
        self.address_tombstones.get(&address_digest(address)).map(number)
    }

    fn held_at(&self, seq: Seq) -> Option<Held> {
        let entry = self.log.entry(seq).filter(|entry| entry.kind == Kind::Saved)?;
        let head = self.log.start_of_data(&entry, HEAD_BYTES);
        let packed = Packed::trusted(&head).expect("only whole events are appended");
        Some(Held {
            id: packed.id(),
            pubkey: packed.pubkey(),
            created_at: packed.created_at(),
            kind: packed.kind(),
        })
    }

    fn keys(&self, index: Index) -> &dyn KeySet {
        match index {
            Index::Created => &self.by_created,
            Index::Author => &self.by_author,
            Index::Kind => &self.by_kind,
            Index::AuthorKind => &self.by_author_kind,
            Index::Tag => &self.by_tag,
        }
    }

    fn keys_mut(&mut self, index: Index, change: impl Fn(&mut dyn KeySet, &Log<Memory>)) {
        let keys: &mut dyn KeySet = match index {
            Index::Created => &mut self.by_created,
            Index::Author => &mut self.by_author,
            Index::Kind => &mut self.by_kind,
            Index::AuthorKind => &mut self.by_author_kind,
            Index::Tag => &mut self.by_tag,
        };
        change(keys, &self.log);
    }
}

impl Source for Events {
    type Error = Infallible;
    /// To open a walk takes two to four times as long as to read an event.
    const LEAPS: bool = false;
    type Walk<'a> = Walk<'a>;

    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Walk<'_>, Infallible> {
        Ok(self.keys(index).walk(first, last))
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, Infallible> {
        Ok(self.find(id))
    }

    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, Infallible> {
        Ok(self.packed(seq).map(Cow::Owned))
    }

    fn shows_all(&self) -> bool {
        true
    }
}

/// The events without those that are over.
pub struct Visible<'a> {
    events: &'a Events,
    /// None: of those that are held, none has expired.
    expired_by: Option<Timestamp>,
}

impl Visible<'_> {
    /// Where the event with this id is, if it is to be seen.
    pub fn find(&self, id: &EventId) -> Option<Seq> {
        let seq = self.events.find(id)?;
        if self.hides_nothing() { Some(seq) } else { self.packed(seq).map(|_| seq) }
    }

    /// The packed event at `seq`, if it is to be seen.
    pub fn packed(&self, seq: Seq) -> Option<Vec<u8>> {
        let bytes = self.events.packed(seq)?;
        let hides = !self.hides_nothing() && self.hides(&Packed::trusted(&bytes).ok()?);
        (!hides).then_some(bytes)
    }

    /// Whether the event that is held at `seq` is not to be seen.
    pub fn hides_at(&self, seq: Seq) -> bool {
        !self.hides_nothing() && self.packed(seq).is_none()
    }

    fn hides_nothing(&self) -> bool {
        self.expired_by.is_none() && self.events.leaving.is_empty()
    }

    fn hides(&self, event: &Packed<'_>) -> bool {
        let has_expired = |now| expiration(event).is_some_and(|date| date <= now);
        self.expired_by.is_some_and(has_expired)
            || self.events.leaving.iter().any(|vanish| vanish.takes(event))
    }
}

impl Source for Visible<'_> {
    type Error = Infallible;
    /// To open a walk takes two to four times as long as to read an event.
    const LEAPS: bool = false;
    type Walk<'a>
        = Walk<'a>
    where
        Self: 'a;

    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Walk<'_>, Infallible> {
        self.events.walk(index, first, last)
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, Infallible> {
        self.events.seq_of(id)
    }

    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, Infallible> {
        Ok(self.packed(seq).map(Cow::Owned))
    }

    fn shows_all(&self) -> bool {
        self.hides_nothing()
    }
}

/// Collects what is still held of one who is vanishing.
struct Leaving<'a, F> {
    vanish: &'a Vanish,
    items: &'a mut Vec<Item>,
    may_go_on: F,
}

impl<F: Fn() -> bool> Reader for Leaving<'_, F> {
    fn take(&mut self, found: Found<'_>) -> Take {
        if self.vanish.takes(&found.event()) {
            let Position { created_at, id } = found.position;
            self.items.push(Item { created_at, id });
        }
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        (self.may_go_on)()
    }
}

/// Collects what a request to vanish takes.
struct Taken<'a, F> {
    vanish: &'a Vanish,
    ids: Vec<EventId>,
    may_go_on: F,
}

impl<F: Fn() -> bool> Reader for Taken<'_, F> {
    fn take(&mut self, found: Found<'_>) -> Take {
        if self.vanish.takes(&found.event()) {
            self.ids.push(found.position.id);
        }
        if self.ids.len() < VANISH_EVENTS { Take::More } else { Take::Last }
    }

    fn may_go_on(&mut self) -> bool {
        (self.may_go_on)()
    }
}

/// A set of keys of one length.
type Keys<const N: usize, S = ()> = Tree<N, 0, Memory, S>;

type Walk<'a> = Box<dyn Iterator<Item = Result<Order, Infallible>> + 'a>;

/// What a tree of keys knows of one of them, which ends in its seq.
trait Known: Summary {
    fn of(key: &[u8], log: &Log<Memory>) -> Self;
}

impl Known for () {
    fn of(_: &[u8], _: &Log<Memory>) {}
}

impl Known for Totals {
    fn of(key: &[u8], log: &Log<Memory>) -> Totals {
        Totals::one(&log.id_at(seq_of(key)).0)
    }
}

/// [`Keys`] of whatever length.
trait KeySet {
    fn put(&mut self, key: &Key, log: &Log<Memory>);
    fn take(&mut self, key: &Key, log: &Log<Memory>);
    fn walk(&self, first: &Key, last: &Key) -> Walk<'_>;
    fn count(&self) -> u64;
}

impl<const N: usize, S: Known> KeySet for Keys<N, S> {
    fn put(&mut self, key: &Key, log: &Log<Memory>) {
        self.insert_with(&fixed(key), &[], |key| S::of(key, log));
    }

    fn take(&mut self, key: &Key, log: &Log<Memory>) {
        self.remove_with(&fixed(key), |key| S::of(key, log));
    }

    fn walk(&self, first: &Key, last: &Key) -> Walk<'_> {
        let keys = Tree::walk(self, fixed(first)..=fixed(last));
        Box::new(keys.map(|(key, [])| Ok(Order::of_key(&key).expect("a key ends in an order"))))
    }

    fn count(&self) -> u64 {
        self.len()
    }
}

fn fixed<const N: usize>(key: &Key) -> [u8; N] {
    key.as_ref().try_into().expect("all keys of an index have its length")
}

/// A number in 5 bytes, big-endian: a seq, or a date that keys can order.
fn five(number: u64) -> [u8; 5] {
    let [0, 0, 0, bytes @ ..] = number.to_be_bytes() else { panic!("{number} is beyond 5 bytes") };
    bytes
}

fn number(bytes: [u8; 5]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The seq in which a key ends.
fn seq_of(key: &[u8]) -> Seq {
    Seq(number(*key.last_chunk().expect("a key is longer than a seq")))
}

fn expiry_key(date: Timestamp, seq: Seq) -> [u8; 8 + 5] {
    let mut key = [0; 8 + 5];
    key[..8].copy_from_slice(&date.0.to_be_bytes());
    key[8..].copy_from_slice(&five(seq.0));
    key
}

fn expiry_of(key: &[u8; 8 + 5]) -> u64 {
    u64::from_be_bytes(*key.first_chunk().expect("a key is longer than a date"))
}

const CANDIDATE_LAST: Seq = Seq((1 << 40) - 1);

fn id_key(id: &EventId, Seq(seq): Seq) -> [u8; ID_PREFIX_BYTES + 5] {
    let mut key = [0; ID_PREFIX_BYTES + 5];
    key[..ID_PREFIX_BYTES].copy_from_slice(&id.0[..ID_PREFIX_BYTES]);
    key[ID_PREFIX_BYTES..].copy_from_slice(&five(seq));
    key
}

#[cfg(test)]
mod tests {
    use event::Signature;

    use super::*;

    fn save(events: &mut Events, id: [u8; 32]) -> Seq {
        let event = Event {
            id: EventId(id),
            pubkey: PublicKey([1; 32]),
            created_at: Timestamp(5),
            kind: EventKind(1),
            tags: Vec::new(),
            content: String::new(),
            sig: Signature([2; 64]),
        };
        let bytes = event.pack();
        let packed = Packed::trusted(&bytes).unwrap();
        let seq = events.append(&packed, 6);
        events.index(seq, &packed, &event, &Effects::default());
        seq
    }

    #[test]
    fn ids_that_start_alike_are_told_apart() {
        let mut events = Events::open(&Memories::open(crate::runtime::stable_memory()));
        let ids = [1, 2, 3].map(|end| [&[9; 31][..], &[end]].concat().try_into().unwrap());
        let seqs = ids.map(|id| save(&mut events, id));
        let find = |events: &Events| ids.map(|id| events.find(&EventId(id)));
        assert_eq!(find(&events), seqs.map(Some));
        events.remove(&EventId(ids[1]), "deleted", 7);
        assert_eq!(find(&events), [Some(seqs[0]), None, Some(seqs[2])]);
        let again = save(&mut events, ids[1]);
        assert_eq!(find(&events), [Some(seqs[0]), Some(again), Some(seqs[2])]);
        assert_eq!(events.find(&EventId([9; 32])), None);
        events.check();
        let sum = ids.iter().map(Totals::one).fold(Totals::default(), Totals::plus);
        let of = |key: &[u8; 14]| Totals::of(key, &events.log);
        assert_eq!(events.by_created.totals_before(&[0xff; 14], of), sum);
    }
}
