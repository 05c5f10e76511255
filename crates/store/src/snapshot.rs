//! One read transaction: the store as it was at one commit.

use std::{borrow::Cow, ops::Bound};

use event::EventId;
use heed::{
    Env, RoRange, RoTxn, WithoutTls,
    types::{Bytes, Unit},
};
use index::{Index, Key, Seq, Source};

use crate::databases::{Databases, NEXT_SEQ};

pub struct Snapshot<'e> {
    pub databases: &'e Databases,
    pub txn: RoTxn<'e, WithoutTls>,
}

impl<'e> Snapshot<'e> {
    pub fn open(
        env: &'e Env<WithoutTls>,
        databases: &'e Databases,
    ) -> Result<Snapshot<'e>, heed::Error> {
        Ok(Snapshot { databases, txn: env.read_txn()? })
    }

    pub fn next_seq(&self) -> Result<Seq, heed::Error> {
        Ok(Seq(self.databases.numbers.get(&self.txn, NEXT_SEQ)?.unwrap_or(0)))
    }
}

impl Source for Snapshot<'_> {
    type Error = heed::Error;
    type Walk<'a>
        = Walk<'a>
    where
        Self: 'a;

    fn walk(&self, index: Index, first: &Key, last: &Key) -> Result<Walk<'_>, heed::Error> {
        let range = (Bound::Included(first.as_ref()), Bound::Included(last.as_ref()));
        Ok(Walk(self.databases.of(index).range(&self.txn, &range)?))
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, heed::Error> {
        Ok(self.databases.ids.get(&self.txn, &id.0)?.map(Seq))
    }

    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, heed::Error> {
        Ok(self.databases.events.get(&self.txn, &seq.0)?.map(Cow::Borrowed))
    }
}

/// A walk over the keys of one index.
pub struct Walk<'a>(RoRange<'a, Bytes, Unit>);

impl Iterator for Walk<'_> {
    type Item = Result<Key, heed::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map(|(key, ())| Key::from_bytes(key)))
    }
}
