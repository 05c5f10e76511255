//! What lies in the LMDB file: one database for each kind of entry.
//!
//! ```text
//! events              seq                  → packed event
//! ids                 id 32                → seq
//! created … tag       index key            →                  five of them, see the crate `index`
//! addresses           address digest 16    → seq              of the version held
//! tombstones          (id, author) 16      →
//! address_tombstones  address digest 16    → date 8           no version up to it may come
//! vanished            public key 32        → date 8           nothing of theirs up to it may come
//! expiries            date 8 | seq 8       →
//! outbox              seq                  →                  to be sent to L2
//! aside               seq                  → reason           refused by L2
//! numbers             name                 → number 8         format, next seq, L2's cursor
//! texts               name                 → text             the relay's own
//! ```
//! Numbers are 8 bytes, big-endian, so that byte order is their order.

use event::Timestamp;
use heed::{
    CommitOrAbort, Database, DatabaseOpener, Env, RwTxn, WithoutTls,
    byteorder::BigEndian,
    types::{Bytes, Str, U64, Unit},
};
use index::{Index, Seq};

pub type Number = U64<BigEndian>;

/// How many databases there are, for LMDB to make room.
pub const DATABASES: u32 = 16;

/// The layout above. A file with another number was written by another version.
pub const FORMAT: u64 = 1;

// The names in `numbers`.
pub const FORMAT_NAME: &str = "format";
pub const NEXT_SEQ: &str = "next seq";
pub const LAYER2_CURSOR: &str = "layer 2 cursor";

/// Handles of all databases. They stay valid as long as the environment is open.
pub struct Databases {
    pub events: Database<'static, Number, Bytes>,
    pub ids: Database<'static, Bytes, Number>,
    indexes: [Database<'static, Bytes, Unit>; Index::ALL.len()],
    pub addresses: Database<'static, Bytes, Number>,
    pub tombstones: Database<'static, Bytes, Unit>,
    pub address_tombstones: Database<'static, Bytes, Number>,
    pub vanished: Database<'static, Bytes, Number>,
    pub expiries: Database<'static, Bytes, Unit>,
    pub outbox: Database<'static, Number, Unit>,
    pub aside: Database<'static, Number, Str>,
    pub numbers: Database<'static, Str, Number>,
    pub texts: Database<'static, Str, Str>,
}

impl Databases {
    /// Opens them all, and creates those that are not there.
    pub fn create(env: &Env<WithoutTls>) -> Result<Databases, heed::Error> {
        let txn = env.write_txn()?;
        let all = env.create_databases_and_commit(txn, |opener, txn| {
            let mut indexes = Vec::with_capacity(Index::ALL.len());
            for index in Index::ALL {
                indexes.push(create(opener, txn, index_name(index))?);
            }
            let indexes: [_; Index::ALL.len()] =
                indexes.try_into().unwrap_or_else(|_| unreachable!("one was made for each index"));
            let all = (
                create(opener, txn, "events")?,
                create(opener, txn, "ids")?,
                indexes,
                create(opener, txn, "addresses")?,
                create(opener, txn, "tombstones")?,
                create(opener, txn, "address_tombstones")?,
                create(opener, txn, "vanished")?,
                create(opener, txn, "expiries")?,
                create(opener, txn, "outbox")?,
                create(opener, txn, "aside")?,
                create(opener, txn, "numbers")?,
                create(opener, txn, "texts")?,
            );
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(all))
        })?;
        let CommitOrAbort::Commit(all) = all else { unreachable!("nothing above aborts") };
        let (
            events,
            ids,
            indexes,
            addresses,
            tombstones,
            address_tombstones,
            vanished,
            expiries,
            outbox,
            aside,
            numbers,
            texts,
        ) = all;
        Ok(Databases {
            events,
            ids,
            indexes,
            addresses,
            tombstones,
            address_tombstones,
            vanished,
            expiries,
            outbox,
            aside,
            numbers,
            texts,
        })
    }

    /// The keys of one index.
    pub fn of(&self, index: Index) -> &Database<'static, Bytes, Unit> {
        &self.indexes[index as usize]
    }

    /// All of them, in the order of [`Index::ALL`].
    pub fn indexes(&self) -> &[Database<'static, Bytes, Unit>] {
        &self.indexes
    }
}

/// The key in `expiries`. Those that expire first come first.
pub fn expiry_key(date: Timestamp, seq: Seq) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&date.0.to_be_bytes());
    key[8..].copy_from_slice(&seq.0.to_be_bytes());
    key
}

/// The date and the seq of a key in `expiries`.
pub fn expiry_of(key: &[u8]) -> (Timestamp, Seq) {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let (date, seq) = key.split_at(8);
    (Timestamp(number(date)), Seq(number(seq)))
}

fn create<'e, K: 'static, V: 'static>(
    opener: &DatabaseOpener<'e, WithoutTls>,
    txn: &mut RwTxn<'e>,
    name: &str,
) -> Result<Database<'e, K, V>, heed::Error> {
    opener.create_database(txn, Some(name))
}

fn index_name(index: Index) -> &'static str {
    match index {
        Index::Created => "created",
        Index::Author => "author",
        Index::Kind => "kind",
        Index::AuthorKind => "author_kind",
        Index::Tag => "tag",
    }
}
