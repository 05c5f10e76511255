//! The bytes of index keys.
//!
//! ```text
//! Created                            order
//! Author      pubkey 8             | order
//! Kind        kind 2               | order
//! AuthorKind  pubkey 8 | kind 2    | order
//! Tag         digest 8             | order       digest of letter and value
//!
//! order       !created_at 5 | id 4 | seq 5       all big-endian, so byte order is NIP-01's order
//! ```
//! Tag values are hashed because their authors choose them: a cut value could be aimed at another's.

use std::fmt;

use event::{Address, EventId, Kind, Packed, PublicKey, TagName, Timestamp, packed::Value};
use sha2::{Digest, Sha256};

/// Place of an event in one store's order of commits: not a date, and not another store's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The newest date that keys can order: 5 bytes, the year 36,812. Stores refuse later ones.
pub const CREATED_AT_MAX: Timestamp = Timestamp((1 << 40) - 1);

pub(crate) const ORDER_BYTES: usize = 14;
/// How much of the order comes before the seq: events equal in it are sorted by their whole id.
pub(crate) const TIE_BYTES: usize = 9;
/// The longest key, that of [`Index::AuthorKind`].
pub const KEY_BYTES_MAX: usize = 10 + ORDER_BYTES;

/// One of the five sets of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    Created,
    Author,
    Kind,
    AuthorKind,
    Tag,
}

impl Index {
    pub const ALL: [Index; 5] =
        [Index::Created, Index::Author, Index::Kind, Index::AuthorKind, Index::Tag];

    /// How long all keys of this index are, in bytes.
    pub const fn key_bytes(self) -> usize {
        ORDER_BYTES
            + match self {
                Index::Created => 0,
                Index::Kind => 2,
                Index::Author | Index::Tag => 8,
                Index::AuthorKind => 10,
            }
    }
}

/// A key of any index, or the start of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    length: u8,
}

impl Key {
    pub(crate) const EMPTY: Key = Key { bytes: [0; KEY_BYTES_MAX], length: 0 };

    /// A key as it was stored. At most [`KEY_BYTES_MAX`] bytes; what is longer is cut.
    pub fn from_bytes(bytes: &[u8]) -> Key {
        Key::EMPTY.with(&bytes[..bytes.len().min(KEY_BYTES_MAX)])
    }

    pub(crate) fn with(mut self, more: &[u8]) -> Key {
        let start = usize::from(self.length);
        self.bytes[start..start + more.len()].copy_from_slice(more);
        self.length += more.len() as u8;
        self
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The order part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order(pub(crate) [u8; ORDER_BYTES]);

impl Order {
    /// The order in which a whole key ends. None: the key is too short to be one.
    pub fn of_key(key: &[u8]) -> Option<Order> {
        key.last_chunk().copied().map(Order)
    }

    pub(crate) fn new(created_at: Timestamp, id: &EventId, seq: Seq) -> Order {
        let mut order = [0; ORDER_BYTES];
        order[..5].copy_from_slice(&reversed_date(created_at));
        order[5..TIE_BYTES].copy_from_slice(&id.0[..4]);
        order[TIE_BYTES..].copy_from_slice(&seq.0.to_be_bytes()[3..]);
        Order(order)
    }

    pub(crate) fn tie(&self) -> &[u8] {
        &self.0[..TIE_BYTES]
    }

    pub(crate) fn created_at(&self) -> Timestamp {
        date_of(&self.0)
    }

    /// As a big-endian number, in the order of the bytes.
    pub(crate) fn number(&self) -> u128 {
        let mut bytes = [0; 16];
        bytes[2..].copy_from_slice(&self.0);
        u128::from_be_bytes(bytes)
    }

    pub(crate) fn of_number(number: u128) -> Order {
        let [_, _, order @ ..] = number.to_be_bytes();
        Order(order)
    }

    /// What comes before the seq in an order's number.
    pub(crate) fn tie_of(number: u128) -> u128 {
        number >> SEQ_BITS
    }

    pub(crate) fn seq_of(number: u128) -> Seq {
        Seq((number & ((1 << SEQ_BITS) - 1)) as u64)
    }
}

const SEQ_BITS: usize = 8 * (ORDER_BYTES - TIE_BYTES);

/// The date as keys hold it: counted back from the latest, so that the newest sorts first.
pub fn reversed_date(created_at: Timestamp) -> [u8; 5] {
    let reversed = CREATED_AT_MAX.0 - created_at.0.min(CREATED_AT_MAX.0);
    let mut bytes = [0; 5];
    bytes.copy_from_slice(&reversed.to_be_bytes()[3..]);
    bytes
}

/// The date of a key of [`Index::Created`].
pub fn date_of(key: &[u8; ORDER_BYTES]) -> Timestamp {
    let mut bytes = [0; 8];
    bytes[3..].copy_from_slice(&key[..5]);
    Timestamp(CREATED_AT_MAX.0 - u64::from_be_bytes(bytes))
}

/// The seq of a key of [`Index::Created`].
pub fn seq_of(key: &[u8; ORDER_BYTES]) -> Seq {
    Order::seq_of(Order(*key).number())
}

pub(crate) fn author_prefix(author: &PublicKey) -> Key {
    Key::EMPTY.with(&author.0[..8])
}

pub(crate) fn kind_prefix(kind: Kind) -> Key {
    Key::EMPTY.with(&kind.0.to_be_bytes())
}

pub(crate) fn author_kind_prefix(author: &PublicKey, kind: Kind) -> Key {
    author_prefix(author).with(&kind.0.to_be_bytes())
}

pub(crate) fn tag_prefix(letter: TagName, value: Value<'_>) -> Key {
    let digest = Sha256::new().chain_update([letter.byte()]);
    let digest = match value {
        Value::Hex(bytes) => digest.chain_update([1]).chain_update(bytes),
        Value::Text(text) => digest.chain_update([0]).chain_update(text),
    };
    Key::EMPTY.with(&digest.finalize()[..8])
}

/// All keys under which `event` is found at `seq`. A tag value that stands twice is found once; only
/// the first value of a single-letter tag counts (NIP-01).
pub fn keys_of(event: &Packed<'_>, seq: Seq) -> Vec<(Index, Key)> {
    let order = Order::new(event.created_at(), &event.id(), seq);
    let author = event.pubkey();
    let kind = event.kind();
    let mut tags: Vec<Key> = event.tags().filter_map(tag_of).collect();
    tags.sort_unstable();
    tags.dedup();
    let fixed = [
        (Index::Created, Key::EMPTY),
        (Index::Author, author_prefix(&author)),
        (Index::Kind, kind_prefix(kind)),
        (Index::AuthorKind, author_kind_prefix(&author, kind)),
    ];
    let tags = tags.into_iter().map(|prefix| (Index::Tag, prefix));
    fixed.into_iter().chain(tags).map(|(index, prefix)| (index, prefix.with(&order.0))).collect()
}

fn tag_of(mut tag: event::packed::Values<'_>) -> Option<Key> {
    let Value::Text(name) = tag.next()? else { return None };
    Some(tag_prefix(TagName::new(name)?, tag.next()?))
}

/// A short stand-in for an address, for the map from address to the version held.
pub fn address_digest(address: &Address) -> [u8; 16] {
    let digest = Sha256::new()
        .chain_update(address.pubkey.0)
        .chain_update(address.kind.0.to_be_bytes())
        .chain_update(&address.d);
    cut(digest)
}

/// A short stand-in for "`author` deleted `id`".
pub fn tombstone(id: &EventId, author: &PublicKey) -> [u8; 16] {
    cut(Sha256::new().chain_update(id.0).chain_update(author.0))
}

fn cut(digest: Sha256) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}
