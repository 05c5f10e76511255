//! What was deleted stays deleted: what the rules say of an event that is not held.

use event::{
    Address, Event, EventId, PublicKey, Timestamp,
    rules::{Held, Holdings, Verdict, judge},
};
use index::{address_digest, tombstone};

use crate::{
    snapshot::Snapshot,
    store::{ReadError, Store},
};

type Result<T> = std::result::Result<T, heed::Error>;

/// The store as [`judge`] sees it when an event comes that was never here: what was deleted stays
/// deleted, and no version is in the way.
pub(crate) struct Past<'s>(pub &'s Snapshot<'s>);

impl Holdings for Past<'_> {
    type Error = heed::Error;

    fn by_id(&self, _: &EventId) -> Result<Option<Held>> {
        Ok(None)
    }

    fn by_address(&self, _: &Address) -> Result<Option<Held>> {
        Ok(None)
    }

    fn is_deleted(&self, id: &EventId, author: &PublicKey) -> Result<bool> {
        let Snapshot { databases, txn, .. } = self.0;
        Ok(databases.tombstones.get(txn, &tombstone(id, author))?.is_some())
    }

    fn receives(&self, _: &EventId, _: &PublicKey) -> Result<bool> {
        Ok(false)
    }

    fn deleted_until(&self, address: &Address) -> Result<Option<Timestamp>> {
        let Snapshot { databases, txn, .. } = self.0;
        let date = databases.address_tombstones.get(txn, &address_digest(address))?;
        Ok(date.map(Timestamp))
    }

    fn vanished_until(&self, who: &PublicKey) -> Result<Option<Timestamp>> {
        let Snapshot { databases, txn, .. } = self.0;
        Ok(databases.vanished.get(txn, &who.0)?.map(Timestamp))
    }
}

impl Store {
    /// Whether an event that L2 gave may be shown: nobody has deleted it here, and it has not expired.
    pub fn lets_in(&self, event: &Event) -> std::result::Result<bool, ReadError> {
        let verdict = judge(&Past(&self.snapshot()?), event, (self.inner.clock)())?;
        Ok(matches!(verdict, Verdict::Save(_)))
    }
}
