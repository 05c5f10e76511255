//! What lies in the LMDB file: one database for each kind of entry.
//!
//! ```text
//! events              seq                  → packed event     as they came, in order
//! kept                seq                  → packed event     those that outlived a collection
//! stubs               seq                  → stub             those whose bodies only L2 has
//! served              seq                  → minute 4         when a client last got it
//! arrivals            minute               → seq              the first of that minute
//! ids                 id 32                → seq
//! created … tag       index key            →                  five of them, see the crate `index`
//! addresses           address digest 16    → seq              of the version held
//! tombstones          (id, author) 16      →
//! address_tombstones  address digest 16    → date 8           no version up to it may come
//! vanished            public key 32        → date 8           nothing of theirs up to it may come
//! expiries            date 8 | seq 8       →
//! outbox              seq                  → ms 8 | bytes 4   to be sent to L2, since when, how long
//! aside               seq                  → ms 8 | reason    refused by L2, since when
//! local               seq                  →                  never to be sent to L2
//! tapped              seq                  → ms 8 | bytes 4   brought by a peer, which sends it to L2
//! quiet               seq                  →                  read through: old when it came
//! covered             part of a filter 16  → from 8 | until 8 dates of which nothing is missing
//! numbers             name                 → number 8         format, next seq, L2's cursor, …
//! texts               name                 → text             the relay's own
//! log                 seq                  → entry            what happened, where it is shared
//! ```
//! Numbers are 8 bytes, big-endian, so that byte order is their order.
//!
//! An event lies in one of three trees. LMDB gives a page back only when nearly all of it is deleted,
//! and a tree that is only appended to never fills a hole. So `events` is emptied from its old end,
//! page by page, and what is to stay of it moves to `kept`, which fills its holes.

use event::Timestamp;
use heed::{
    CommitOrAbort, CommitToken, Database, DatabaseOpener, Env, OnCommit, RoTxn, RwTxn, WithoutTls,
    byteorder::BigEndian,
    types::{Bytes, Str, U32, U64, Unit},
};
use index::{Index, Seq};

pub type Number = U64<BigEndian>;

/// How many databases there are, for LMDB to make room.
pub const DATABASES: u32 = 25;

/// The layout above. A file with another number was written by another version.
pub const FORMAT: u64 = 5;
/// The layout without `tapped`: with it empty it is ours.
pub const FORMAT_BEFORE_TAPS: u64 = 4;
/// The one before, without `quiet` and `covered`: with these empty it is the next.
pub const FORMAT_BEFORE_COVERAGE: u64 = 3;
/// The one before, whose outbox has no dates and no lengths, and which has no `local`.
pub const FORMAT_BEFORE_DATES: u64 = 2;
/// The one before, without `kept`, `stubs`, `served` and `arrivals`: with these empty it is the next.
pub const FORMAT_BEFORE_COLLECTION: u64 = 1;
/// The layout of a store that is shared: all that is in it is in `log`, too. What lies in a relay's own
/// is not, so that neither can be taken for the other.
pub const FORMAT_SHARED: u64 = 1_002;

// The names in `numbers`.
pub const FORMAT_NAME: &str = "format";
pub const NEXT_SEQ: &str = "next seq";
pub const LAYER2_CURSOR: &str = "layer 2 cursor";
/// In nanoseconds since 1970: two stores that lay in one folder, one after the other, differ in it.
pub const MADE: &str = "made";
pub const COMPLETE_SINCE: &str = "index complete since";
/// 1 while another L2 is turned to.
pub const SPARES_ALL: &str = "spares all";
pub const OUTBOX_BYTES: &str = "outbox bytes";

/// Handles of all databases. They stay valid as long as the environment is open.
pub struct Databases<'e> {
    pub events: Database<'e, Number, Bytes>,
    pub kept: Database<'e, Number, Bytes>,
    pub stubs: Database<'e, Number, Bytes>,
    pub served: Database<'e, Number, U32<BigEndian>>,
    pub arrivals: Database<'e, Number, Number>,
    pub ids: Database<'e, Bytes, Number>,
    indexes: [Database<'e, Bytes, Unit>; Index::ALL.len()],
    pub addresses: Database<'e, Bytes, Number>,
    pub tombstones: Database<'e, Bytes, Unit>,
    pub address_tombstones: Database<'e, Bytes, Number>,
    pub vanished: Database<'e, Bytes, Number>,
    pub expiries: Database<'e, Bytes, Unit>,
    pub outbox: Database<'e, Number, Bytes>,
    pub aside: Database<'e, Number, Bytes>,
    pub local: Database<'e, Number, Unit>,
    pub tapped: Database<'e, Number, Bytes>,
    pub quiet: Database<'e, Number, Unit>,
    pub covered: Database<'e, Bytes, Bytes>,
    pub numbers: Database<'e, Str, Number>,
    pub texts: Database<'e, Str, Str>,
    pub log: Database<'e, Number, Bytes>,
}

impl OnCommit for Databases<'_> {
    type Committed = Databases<'static>;

    fn on_commit(self, token: &CommitToken) -> Databases<'static> {
        Databases {
            events: self.events.on_commit(token),
            kept: self.kept.on_commit(token),
            stubs: self.stubs.on_commit(token),
            served: self.served.on_commit(token),
            arrivals: self.arrivals.on_commit(token),
            ids: self.ids.on_commit(token),
            indexes: self.indexes.on_commit(token),
            addresses: self.addresses.on_commit(token),
            tombstones: self.tombstones.on_commit(token),
            address_tombstones: self.address_tombstones.on_commit(token),
            vanished: self.vanished.on_commit(token),
            expiries: self.expiries.on_commit(token),
            outbox: self.outbox.on_commit(token),
            aside: self.aside.on_commit(token),
            local: self.local.on_commit(token),
            tapped: self.tapped.on_commit(token),
            quiet: self.quiet.on_commit(token),
            covered: self.covered.on_commit(token),
            numbers: self.numbers.on_commit(token),
            texts: self.texts.on_commit(token),
            log: self.log.on_commit(token),
        }
    }
}

impl Databases<'static> {
    /// Opens them all, and creates those that are not there.
    pub fn create(env: &Env<WithoutTls>) -> Result<Databases<'static>, heed::Error> {
        let txn = env.write_txn()?;
        let all = env.create_databases_and_commit(txn, |opener, txn| {
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(create_all(opener, txn)?))
        })?;
        let CommitOrAbort::Commit(all) = all else { unreachable!("nothing above aborts") };
        Ok(all)
    }

    /// The keys of one index.
    pub fn of(&self, index: Index) -> &Database<'static, Bytes, Unit> {
        &self.indexes[index as usize]
    }

    /// All of them, in the order of [`Index::ALL`].
    pub fn indexes(&self) -> &[Database<'static, Bytes, Unit>] {
        &self.indexes
    }

    /// The event at `seq`: whole, or what is left of it.
    pub fn bytes_at<'t>(
        &self,
        txn: &'t RoTxn<'_, WithoutTls>,
        seq: Seq,
    ) -> Result<Option<&'t [u8]>, heed::Error> {
        for tree in [&self.events, &self.kept, &self.stubs] {
            if let Some(bytes) = tree.get(txn, &seq.0)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Whether L2 does not hold the event at `seq`, as far as is known.
    pub fn is_only_here(&self, txn: &RoTxn<'_, WithoutTls>, seq: Seq) -> Result<bool, heed::Error> {
        Ok(self.outbox.get(txn, &seq.0)?.is_some()
            || self.aside.get(txn, &seq.0)?.is_some()
            || self.local.get(txn, &seq.0)?.is_some()
            || self.tapped.get(txn, &seq.0)?.is_some())
    }
}

fn create_all<'e>(
    opener: &DatabaseOpener<'e, WithoutTls>,
    txn: &mut RwTxn<'e>,
) -> Result<Databases<'e>, heed::Error> {
    let mut indexes = Vec::with_capacity(Index::ALL.len());
    for index in Index::ALL {
        indexes.push(create(opener, txn, index_name(index))?);
    }
    let indexes: [_; Index::ALL.len()] =
        indexes.try_into().unwrap_or_else(|_| unreachable!("one was made for each index"));
    Ok(Databases {
        events: create(opener, txn, "events")?,
        kept: create(opener, txn, "kept")?,
        stubs: create(opener, txn, "stubs")?,
        served: create(opener, txn, "served")?,
        arrivals: create(opener, txn, "arrivals")?,
        ids: create(opener, txn, "ids")?,
        indexes,
        addresses: create(opener, txn, "addresses")?,
        tombstones: create(opener, txn, "tombstones")?,
        address_tombstones: create(opener, txn, "address_tombstones")?,
        vanished: create(opener, txn, "vanished")?,
        expiries: create(opener, txn, "expiries")?,
        outbox: create(opener, txn, "outbox")?,
        aside: create(opener, txn, "aside")?,
        local: create(opener, txn, "local")?,
        tapped: create(opener, txn, "tapped")?,
        quiet: create(opener, txn, "quiet")?,
        covered: create(opener, txn, "covered")?,
        numbers: create(opener, txn, "numbers")?,
        texts: create(opener, txn, "texts")?,
        log: create(opener, txn, "log")?,
    })
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
