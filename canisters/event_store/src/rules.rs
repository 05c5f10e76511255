//! What the rules look up, wherever it is kept.

use std::convert::Infallible;

use event::{
    Address, EventId, Packed, PublicKey, Timestamp,
    rules::{Held, Holdings, is_for},
};

use crate::state::State;

impl Holdings for State {
    type Error = Infallible;

    fn by_id(&self, id: &EventId) -> Result<Option<Held>, Infallible> {
        Ok(self.events.held(id))
    }

    fn by_address(&self, address: &Address) -> Result<Option<Held>, Infallible> {
        Ok(self.events.held_at_address(address))
    }

    fn is_deleted(&self, id: &EventId, author: &PublicKey) -> Result<bool, Infallible> {
        Ok(self.events.is_deleted(id, author))
    }

    fn receives(&self, id: &EventId, who: &PublicKey) -> Result<bool, Infallible> {
        let packed = self.events.find(id).and_then(|seq| self.events.packed(seq));
        let event = packed.as_deref().and_then(|packed| Packed::trusted(packed).ok());
        Ok(event.is_some_and(|event| is_for(&event, who)))
    }

    fn deleted_until(&self, address: &Address) -> Result<Option<Timestamp>, Infallible> {
        Ok(self.events.deleted_at(address).map(Timestamp))
    }

    fn vanished_until(&self, who: &PublicKey) -> Result<Option<Timestamp>, Infallible> {
        Ok(self.events.vanished_until(who).map(Timestamp))
    }

    fn is_barred(&self, id: &EventId) -> Result<bool, Infallible> {
        Ok(self.events.is_barred(id))
    }

    /// The store has no URL: it is wherever one of its relays is.
    fn is_ours(&self, relay: &str) -> bool {
        self.directory.knows(relay)
    }
}
