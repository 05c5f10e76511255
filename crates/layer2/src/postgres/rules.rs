//! What the rules look up, for some events at a time: all of it is read beforehand, in a few
//! statements, and what the events change is noted here until it is written, in a few more. So a batch
//! costs about as many round trips as one event.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
};

use event::{
    Address, Event, EventId, Kind, PublicKey, Timestamp,
    rules::{Effects, Held, Holdings, receivers},
};
use index::{address_digest, tombstone};

/// In whose name tombstones stand for what no author can delete. No author has this key: it is no
/// point of the curve.
pub const NOBODY: PublicKey = PublicKey([0; 32]);

pub type Digest = [u8; 16];

/// An event that is held, and where.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub held: Held,
    pub address: Option<Digest>,
    pub seq: i64,
}

/// What of the store matters to some events.
#[derive(Default)]
pub struct Known {
    by_id: HashMap<EventId, Place>,
    by_address: HashMap<Digest, EventId>,
    /// Of gift wraps that are held.
    receivers: HashMap<EventId, Vec<PublicKey>>,
    pub tombstones: HashSet<Digest>,
    pub deleted_until: HashMap<Digest, i64>,
    pub vanished_until: HashMap<PublicKey, i64>,
}

impl Known {
    pub fn hold(&mut self, place: Place) {
        if let Some(address) = place.address {
            self.by_address.insert(address, place.held.id);
        }
        self.by_id.insert(place.held.id, place);
    }

    /// Notes whom a gift wrap is for.
    pub fn address_wrap(&mut self, wrap: &Event) {
        let receivers: Vec<PublicKey> = receivers(wrap).collect();
        if !receivers.is_empty() {
            self.receivers.insert(wrap.id, receivers);
        }
    }

    pub fn place_of(&self, id: &EventId) -> Option<Place> {
        self.by_id.get(id).copied()
    }

    pub fn forget(&mut self, id: &EventId) -> Option<Place> {
        let place = self.by_id.remove(id)?;
        if let Some(address) = place.address {
            self.by_address.remove(&address);
        }
        Some(place)
    }
}

impl Holdings for Known {
    type Error = Infallible;

    fn by_id(&self, id: &EventId) -> Result<Option<Held>, Infallible> {
        Ok(self.place_of(id).map(|place| place.held))
    }

    fn by_address(&self, address: &Address) -> Result<Option<Held>, Infallible> {
        let id = self.by_address.get(&address_digest(address));
        Ok(id.and_then(|id| self.place_of(id)).map(|place| place.held))
    }

    fn is_deleted(&self, id: &EventId, author: &PublicKey) -> Result<bool, Infallible> {
        Ok(self.tombstones.contains(&tombstone(id, author)))
    }

    fn receives(&self, id: &EventId, who: &PublicKey) -> Result<bool, Infallible> {
        Ok(self.receivers.get(id).is_some_and(|receivers| receivers.contains(who)))
    }

    fn deleted_until(&self, address: &Address) -> Result<Option<Timestamp>, Infallible> {
        Ok(self.deleted_until.get(&address_digest(address)).map(|date| Timestamp(*date as u64)))
    }

    fn vanished_until(&self, who: &PublicKey) -> Result<Option<Timestamp>, Infallible> {
        Ok(self.vanished_until.get(who).map(|date| Timestamp(*date as u64)))
    }

    fn is_barred(&self, id: &EventId) -> Result<bool, Infallible> {
        self.is_deleted(id, &NOBODY)
    }
}

/// What the rules may look up for some events: more than they will, and never less.
#[derive(Default)]
pub struct Questions {
    pub ids: Vec<EventId>,
    pub addresses: Vec<Digest>,
    pub tombstones: Vec<Digest>,
    pub people: Vec<PublicKey>,
}

impl Questions {
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Questions {
        let mut questions = Questions::default();
        events.into_iter().for_each(|event| questions.add(event));
        questions
    }

    fn add(&mut self, event: &Event) {
        self.ids.push(event.id);
        self.tombstones.extend([&event.pubkey, &NOBODY].map(|by| tombstone(&event.id, by)));
        self.addresses.extend(event.address().as_ref().map(address_digest));
        self.people.push(event.pubkey);
        for receiver in receivers(event) {
            self.people.push(receiver);
            self.tombstones.push(tombstone(&event.id, &receiver));
        }
        if event.kind == Kind::DELETION {
            self.ids
                .extend(values_of(event, "e").filter_map(|value| value.parse::<EventId>().ok()));
            let named = values_of(event, "a").filter_map(Address::parse);
            self.addresses.extend(named.map(|address| address_digest(&address)));
        }
    }
}

fn values_of<'a>(event: &'a Event, name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = event.tags.iter().filter(move |tag| tag.name() == Some(name));
    named.filter_map(|tag| tag.value())
}

/// What an event leaves behind to keep others out; for the store, and for those that follow it in its
/// batch.
#[derive(Default)]
pub struct KeptOut {
    pub tombstones: Vec<Digest>,
    pub addresses: HashMap<Digest, i64>,
}

impl KeptOut {
    pub fn note(&mut self, event: &Event, effects: &Effects, known: &mut Known) {
        for id in &effects.tombstones {
            let digest = tombstone(id, &event.pubkey);
            if known.tombstones.insert(digest) {
                self.tombstones.push(digest);
            }
        }
        for address in &effects.address_tombstones {
            let until = known.deleted_until.entry(address_digest(address)).or_default();
            *until = (*until).max(event.created_at.0 as i64);
            self.addresses.insert(address_digest(address), *until);
        }
    }
}
