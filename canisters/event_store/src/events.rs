//! The events: where in the log each one is, and what keeps others out.
//!
//! Invariants. An event is held when its id is in `ids`; then its entry in the log is `Saved`, and it
//! has exactly the index entries that [`index::keys_of`] gives. An address leads to the version held.
//! Tombstones outlive the events that they name.

use std::{borrow::Cow, convert::Infallible, rc::Rc};

use event::{
    Address, Event, EventId, Packed, PublicKey, Timestamp,
    rules::{Effects, Held, Holdings, Removal},
};
use index::{Index, Key, Seq, Source, address_digest, keys_of, tombstone};
use tree::{Pages, Summary, Totals, Tree};

use crate::{
    dated::Dated,
    log::{Kind, Log},
    memory::{self, Memories, Memory, PAGE_BYTES},
};

/// Enough of a packed event to hold its id, author, date and kind.
const HEAD_BYTES: usize = 160;

/// Of an id, in `ids`.
const ID_PREFIX_BYTES: usize = 8;

pub struct Events {
    log: Log<Memory>,
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
}

impl Events {
    pub fn open(memories: &Memories) -> Events {
        let pages = Rc::new(Pages::open(memories.get(memory::TREES), PAGE_BYTES));
        Events {
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
    }

    /// Takes an event out, and says so in the log.
    pub fn remove(&mut self, id: &EventId, why: Removal, now: u64) {
        let Some(seq) = self.find(id) else { return };
        self.ids.remove(&id_key(id, seq));
        let bytes = self.packed(seq).expect("an id leads to a saved entry");
        let packed = Packed::trusted(&bytes).expect("only whole events are appended");
        for (index, key) in keys_of(&packed, seq) {
            self.keys_mut(index, |keys, log| keys.take(&key, log));
        }
        if let Some(address) = packed.unpack().address() {
            self.addresses.remove(&address_digest(&address));
        }
        self.log.erase(seq);
        self.log.append_removed(id, why.as_str(), now);
    }

    fn deleted_at(&self, address: &Address) -> Option<u64> {
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

impl Holdings for Events {
    type Error = Infallible;

    fn by_id(&self, id: &EventId) -> Result<Option<Held>, Infallible> {
        Ok(self.find(id).and_then(|seq| self.held_at(seq)))
    }

    fn by_address(&self, address: &Address) -> Result<Option<Held>, Infallible> {
        let seq = self.addresses.get(&address_digest(address)).map(number);
        Ok(seq.and_then(|seq| self.held_at(Seq(seq))))
    }

    fn is_deleted(&self, id: &EventId, author: &PublicKey) -> Result<bool, Infallible> {
        Ok(self.tombstones.contains(&tombstone(id, author)))
    }

    fn deleted_until(&self, address: &Address) -> Result<Option<Timestamp>, Infallible> {
        Ok(self.deleted_at(address).map(Timestamp))
    }
}

impl Source for Events {
    type Error = Infallible;
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
}

/// A set of keys of one length.
type Keys<const N: usize, S = ()> = Tree<N, 0, Memory, S>;

type Walk<'a> = Box<dyn Iterator<Item = Result<Key, Infallible>> + 'a>;

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
        Box::new(keys.map(|(key, [])| Ok(Key::from_bytes(&key))))
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

const CANDIDATE_LAST: Seq = Seq((1 << 40) - 1);

fn id_key(id: &EventId, Seq(seq): Seq) -> [u8; ID_PREFIX_BYTES + 5] {
    let mut key = [0; ID_PREFIX_BYTES + 5];
    key[..ID_PREFIX_BYTES].copy_from_slice(&id.0[..ID_PREFIX_BYTES]);
    key[ID_PREFIX_BYTES..].copy_from_slice(&five(seq));
    key
}

#[cfg(test)]
mod tests {
    use event::{Kind as EventKind, Signature};

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
        events.remove(&EventId(ids[1]), Removal::Deleted, 7);
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
