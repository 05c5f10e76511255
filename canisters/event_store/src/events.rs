//! The events: where in the log each one is, and what keeps others out.
//!
//! Invariants. An event is held when its id is in `ids`; then its entry in the log is `Saved`, and it
//! has exactly the index entries that [`index::keys_of`] gives. An address leads to the version held.
//! Tombstones outlive the events that they name.

use std::{borrow::Cow, convert::Infallible};

use event::{
    Address, Event, EventId, Packed, PublicKey, Timestamp,
    rules::{Effects, Held, Holdings, Removal},
};
use ic_stable_structures::StableBTreeMap;
use index::{Index, Key, Seq, Source, address_digest, keys_of, tombstone};

use crate::{
    log::{Kind, Log},
    memory::{self, Memories, Memory},
};

/// Enough of a packed event to hold its id, author, date and kind.
const HEAD_BYTES: usize = 160;

pub struct Events {
    log: Log<Memory>,
    ids: StableBTreeMap<[u8; 32], u64, Memory>,
    addresses: StableBTreeMap<[u8; 16], u64, Memory>,
    tombstones: StableBTreeMap<[u8; 16], (), Memory>,
    /// To the date up to which versions stay out.
    address_tombstones: StableBTreeMap<[u8; 16], u64, Memory>,
    by_created: Keys<14>,
    by_author: Keys<22>,
    by_kind: Keys<16>,
    by_author_kind: Keys<24>,
    by_tag: Keys<22>,
}

impl Events {
    pub fn open(memories: &Memories) -> Events {
        Events {
            log: Log::open(memories.get(memory::LOG_ENTRIES), memories.get(memory::LOG_DATA)),
            ids: StableBTreeMap::init(memories.get(memory::IDS)),
            addresses: StableBTreeMap::init(memories.get(memory::ADDRESSES)),
            tombstones: StableBTreeMap::init(memories.get(memory::TOMBSTONES)),
            address_tombstones: StableBTreeMap::init(memories.get(memory::ADDRESS_TOMBSTONES)),
            by_created: StableBTreeMap::init(memories.get(memory::BY_CREATED)),
            by_author: StableBTreeMap::init(memories.get(memory::BY_AUTHOR)),
            by_kind: StableBTreeMap::init(memories.get(memory::BY_KIND)),
            by_author_kind: StableBTreeMap::init(memories.get(memory::BY_AUTHOR_KIND)),
            by_tag: StableBTreeMap::init(memories.get(memory::BY_TAG)),
        }
    }

    /// Panics if the structures cannot belong together. `StableBTreeMap::init` begins a new map where
    /// it finds none it knows; after an upgrade that would be a silent loss.
    pub fn check(&self) {
        let held = self.len();
        let one_each: [&dyn KeySet; 4] =
            [&self.by_created, &self.by_author, &self.by_kind, &self.by_author_kind];
        assert!(one_each.iter().all(|keys| keys.count() == held), "an index is not complete");
        assert!(held <= self.log.length().0, "the log is shorter than the store");
        assert!(self.addresses.len() <= held, "an address leads nowhere");
        // Reading one of each proves that keys and values still have the types they had.
        self.ids.first_key_value();
        self.addresses.first_key_value();
        self.tombstones.first_key_value();
        self.address_tombstones.first_key_value();
        self.by_tag.first_key_value();
    }

    /// How many events are held.
    pub fn len(&self) -> u64 {
        self.ids.len()
    }

    pub fn log(&self) -> &Log<Memory> {
        &self.log
    }

    /// Where the event with this id is, if it is held.
    pub fn find(&self, id: &EventId) -> Option<Seq> {
        self.ids.get(&id.0).map(Seq)
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
        self.ids.insert(event.id.0, seq.0);
        if let Some(address) = event.address() {
            self.addresses.insert(address_digest(&address), seq.0);
        }
        for (index, key) in keys_of(packed, seq) {
            self.keys_mut(index).put(&key);
        }
        for id in &effects.tombstones {
            self.tombstones.insert(tombstone(id, &event.pubkey), ());
        }
        for address in &effects.address_tombstones {
            let until = self.deleted_at(address).max(Some(event.created_at.0));
            self.address_tombstones.insert(address_digest(address), until.unwrap_or_default());
        }
    }

    /// Takes an event out, and says so in the log.
    pub fn remove(&mut self, id: &EventId, why: Removal, now: u64) {
        let Some(seq) = self.ids.remove(&id.0).map(Seq) else { return };
        let bytes = self.packed(seq).expect("an id leads to a saved entry");
        let packed = Packed::trusted(&bytes).expect("only whole events are appended");
        for (index, key) in keys_of(&packed, seq) {
            self.keys_mut(index).take(&key);
        }
        if let Some(address) = packed.unpack().address() {
            self.addresses.remove(&address_digest(&address));
        }
        self.log.erase(seq);
        self.log.append_removed(id, why.as_str(), now);
    }

    fn deleted_at(&self, address: &Address) -> Option<u64> {
        self.address_tombstones.get(&address_digest(address))
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

    fn keys_mut(&mut self, index: Index) -> &mut dyn KeySet {
        match index {
            Index::Created => &mut self.by_created,
            Index::Author => &mut self.by_author,
            Index::Kind => &mut self.by_kind,
            Index::AuthorKind => &mut self.by_author_kind,
            Index::Tag => &mut self.by_tag,
        }
    }
}

impl Holdings for Events {
    type Error = Infallible;

    fn by_id(&self, id: &EventId) -> Result<Option<Held>, Infallible> {
        Ok(self.find(id).and_then(|seq| self.held_at(seq)))
    }

    fn by_address(&self, address: &Address) -> Result<Option<Held>, Infallible> {
        let seq = self.addresses.get(&address_digest(address)).map(Seq);
        Ok(seq.and_then(|seq| self.held_at(seq)))
    }

    fn is_deleted(&self, id: &EventId, author: &PublicKey) -> Result<bool, Infallible> {
        Ok(self.tombstones.contains_key(&tombstone(id, author)))
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

/// The keys of one index. A fixed length saves the map a length before every key.
type Keys<const N: usize> = StableBTreeMap<[u8; N], (), Memory>;

type Walk<'a> = Box<dyn Iterator<Item = Result<Key, Infallible>> + 'a>;

/// [`Keys`] of whatever length.
trait KeySet {
    fn put(&mut self, key: &Key);
    fn take(&mut self, key: &Key);
    fn walk(&self, first: &Key, last: &Key) -> Walk<'_>;
    fn count(&self) -> u64;
}

impl<const N: usize> KeySet for Keys<N> {
    fn put(&mut self, key: &Key) {
        self.insert(fixed(key), ());
    }

    fn take(&mut self, key: &Key) {
        self.remove(&fixed(key));
    }

    fn walk(&self, first: &Key, last: &Key) -> Walk<'_> {
        let keys = self.keys_range(fixed::<N>(first)..=fixed::<N>(last));
        Box::new(keys.map(|key| Ok(Key::from_bytes(&key))))
    }

    fn count(&self) -> u64 {
        self.len()
    }
}

fn fixed<const N: usize>(key: &Key) -> [u8; N] {
    key.as_ref().try_into().expect("all keys of an index have its length")
}
