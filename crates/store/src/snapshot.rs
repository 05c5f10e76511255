//! One read transaction: the store as it was at one commit, without what has expired since.

use std::{
    borrow::Cow,
    iter::Peekable,
    ops::{Bound, Range},
};

use event::{EventId, Packed, Timestamp, rules::expiration};
use heed::{
    RoRange, RoTxn, WithoutTls,
    types::{Bytes, Unit},
};
use index::{Index, Key, Order, Seq, Source};

use crate::{
    databases::{Databases, NEXT_SEQ, Number, expiry_of},
    environment::{Environment, ReadTxn},
};

pub struct Snapshot<'e> {
    pub databases: &'e Databases<'static>,
    pub txn: ReadTxn<'e>,
    /// None: of those that are held, none has expired.
    expired_by: Option<Timestamp>,
}

impl<'e> Snapshot<'e> {
    pub fn open(
        environment: &'e Environment,
        databases: &'e Databases<'static>,
        now: Timestamp,
    ) -> Result<Snapshot<'e>, heed::Error> {
        let txn = environment.read()?;
        let first = databases.expiries.first(&txn)?.map(|(key, ())| expiry_of(key).0);
        let expired_by = first.is_some_and(|date| date <= now).then_some(now);
        Ok(Snapshot { databases, txn, expired_by })
    }

    pub fn next_seq(&self) -> Result<Seq, heed::Error> {
        Ok(Seq(self.databases.numbers.get(&self.txn, NEXT_SEQ)?.unwrap_or(0)))
    }

    /// Whether this event is held but over.
    pub fn hides(&self, event: &Packed<'_>) -> bool {
        self.expired_by.is_some_and(|now| expiration(event).is_some_and(|date| date <= now))
    }

    /// What is held but over: what has expired since the last writes.
    pub fn expired(&self) -> Result<Vec<EventId>, heed::Error> {
        let Some(now) = self.expired_by else { return Ok(Vec::new()) };
        let mut expired = Vec::new();
        for row in self.databases.expiries.iter(&self.txn)? {
            let (date, seq) = expiry_of(row?.0);
            if date > now {
                break;
            }
            let bytes = self.databases.bytes_at(&self.txn, seq)?.unwrap_or_default();
            expired.extend(Packed::trusted(bytes).ok().map(|event| event.id()));
        }
        Ok(expired)
    }

    /// The events at these places, in order, wherever they lie.
    pub fn in_order(&self, range: Range<Seq>) -> Result<InOrder<'_>, heed::Error> {
        in_order(self.databases, &self.txn, range)
    }

    fn view(&self) -> View<'_> {
        View { databases: self.databases, txn: &self.txn }
    }
}

impl Source for Snapshot<'_> {
    type Error = heed::Error;
    const LEAPS: bool = true;
    type Walk<'a>
        = Walk<'a>
    where
        Self: 'a;

    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Walk<'_>, heed::Error> {
        self.view().walk_keys(index, first, last)
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, heed::Error> {
        self.view().seq_of(id)
    }

    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, heed::Error> {
        let bytes = self.view().bytes(seq)?;
        let is_seen = |bytes: &&[u8]| Packed::trusted(bytes).is_ok_and(|event| !self.hides(&event));
        Ok(bytes.filter(is_seen).map(Cow::Borrowed))
    }

    fn shows_all(&self) -> bool {
        self.expired_by.is_none()
    }
}

/// A snapshot without what is news to those who follow the store from `horizon` on.
pub struct Before<'s, 'e> {
    pub snapshot: &'s Snapshot<'e>,
    pub horizon: Seq,
}

impl Source for Before<'_, '_> {
    type Error = heed::Error;
    const LEAPS: bool = true;
    type Walk<'a>
        = Walk<'a>
    where
        Self: 'a;

    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Walk<'_>, heed::Error> {
        self.snapshot.walk(index, first, last)
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, heed::Error> {
        self.snapshot.seq_of(id)
    }

    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, heed::Error> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        let is_news = seq >= self.horizon && databases.quiet.get(txn, &seq.0)?.is_none();
        if is_news { Ok(None) } else { self.snapshot.event(seq) }
    }

    fn shows_all(&self) -> bool {
        false
    }
}

/// All that a transaction holds, be it one that reads or one that writes.
#[derive(Clone, Copy)]
pub struct View<'t> {
    pub databases: &'t Databases<'static>,
    pub txn: &'t RoTxn<'t, WithoutTls>,
}

impl<'t> View<'t> {
    fn walk_keys(self, index: Index, first: &Key, last: &Key) -> Result<Walk<'t>, heed::Error> {
        let range = (Bound::Included(first.as_ref()), Bound::Included(last.as_ref()));
        Ok(Walk(self.databases.of(index).range(self.txn, &range)?))
    }

    fn bytes(self, seq: Seq) -> Result<Option<&'t [u8]>, heed::Error> {
        self.databases.bytes_at(self.txn, seq)
    }
}

impl Source for View<'_> {
    type Error = heed::Error;
    const LEAPS: bool = true;
    type Walk<'a>
        = Walk<'a>
    where
        Self: 'a;

    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Walk<'_>, heed::Error> {
        self.walk_keys(index, first, last)
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, heed::Error> {
        Ok(self.databases.ids.get(self.txn, &id.0)?.map(Seq))
    }

    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, heed::Error> {
        Ok(self.bytes(seq)?.map(Cow::Borrowed))
    }

    fn shows_all(&self) -> bool {
        true
    }
}

/// A walk over the keys of one index.
pub struct Walk<'a>(RoRange<'a, Bytes, Unit>);

impl Iterator for Walk<'_> {
    type Item = Result<Order, heed::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.and_then(|(key, ())| Order::of_key(key).ok_or_else(damaged_key)))
    }
}

fn damaged_key() -> heed::Error {
    heed::Error::Decoding("a key of an index is cut off".into())
}

/// What one transaction holds at these places, in order, wherever it lies.
pub fn in_order<'t>(
    databases: &Databases<'_>,
    txn: &'t RoTxn<'_, WithoutTls>,
    range: Range<Seq>,
) -> Result<InOrder<'t>, heed::Error> {
    let range = range.start.0..range.end.0;
    let mut trees = Vec::with_capacity(3);
    for tree in [&databases.events, &databases.kept, &databases.stubs] {
        trees.push(tree.range(txn, &range)?.peekable());
    }
    Ok(InOrder(trees))
}

/// A walk over the three trees of events as if they were one.
pub struct InOrder<'a>(Vec<Peekable<RoRange<'a, Number, Bytes>>>);

impl<'a> Iterator for InOrder<'a> {
    type Item = Result<(Seq, &'a [u8]), heed::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        // An error comes first, so that it is seen.
        let next = |row: &Result<(u64, &[u8]), heed::Error>| row.as_ref().map_or(0, |row| row.0);
        let heads = self.0.iter_mut().enumerate();
        let heads = heads.filter_map(|(at, tree)| Some((next(tree.peek()?), at)));
        let (_, at) = heads.min()?;
        Some(self.0[at].next()?.map(|(seq, bytes)| (Seq(seq), bytes)))
    }
}
