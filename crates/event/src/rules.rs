//! What an arriving event does to those already held: NIP-01 versions, NIP-09 deletions, NIP-40
//! expiry, NIP-62 requests to vanish. Both stores follow [`judge`]; it decides and they write.
//!
//! Nothing here depends on the order in which a deletion and its target arrive: a deletion leaves
//! tombstones, by (id, author) and by address, that keep its targets out later. They name the author,
//! so a stranger's deletion blocks nothing. A request to vanish leaves a date, up to which nothing of
//! its author comes (back), its deletions included; what these deleted stays deleted. Requests to
//! vanish themselves are kept: no deletion and no other request touches them.
//!
//! A store takes out what has expired before it asks [`judge`]: an expired version must not keep an
//! older one out only because nobody has swept yet.

use crate::{
    Address, Class, Event, EventId, Filter, Kind, Packed, PublicKey, TagName, Timestamp,
    packed::Value,
};

/// An event that a store holds, as far as the rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: EventId,
    pub pubkey: PublicKey,
    pub created_at: Timestamp,
    pub kind: Kind,
}

/// What a store must be able to look up for [`judge`].
pub trait Holdings {
    type Error;
    /// The event with this id, if it is held.
    fn by_id(&self, id: &EventId) -> Result<Option<Held>, Self::Error>;
    /// The version held of this replaceable or addressable event.
    fn by_address(&self, address: &Address) -> Result<Option<Held>, Self::Error>;
    /// Whether `author` asked for the deletion of the event `id`; or, of a gift wrap, its receiver.
    fn is_deleted(&self, id: &EventId, author: &PublicKey) -> Result<bool, Self::Error>;
    /// Whether the gift wrap `id`, which is held, is for `who`: see [`is_for`].
    fn receives(&self, id: &EventId, who: &PublicKey) -> Result<bool, Self::Error>;
    /// Up to which date the author deleted all versions at this address.
    fn deleted_until(&self, address: &Address) -> Result<Option<Timestamp>, Self::Error>;
    /// Up to which date `who` has vanished.
    fn vanished_until(&self, who: &PublicKey) -> Result<Option<Timestamp>, Self::Error>;
    /// Whether whoever runs the store keeps the event `id` out. Asked only of deletions and requests
    /// to vanish, which their authors cannot delete; others have tombstones in their authors' names.
    fn is_barred(&self, _id: &EventId) -> Result<bool, Self::Error> {
        Ok(false)
    }
    /// Whether a request to vanish from this relay means this store. `ALL_RELAYS` always does.
    fn is_ours(&self, _relay: &str) -> bool {
        false
    }
}

/// What becomes of an arriving event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored, with all that follows from it.
    Save(Effects),
    /// It is held already.
    Duplicate,
    /// A newer version of it is held, or an equally old one with a lower id.
    Superseded,
    /// Its author asked for its deletion, or vanished; of a gift wrap also its receiver.
    Deleted,
    /// Its expiration tag lies in the past.
    Expired,
    /// Its kind is passed on and never stored.
    Ephemeral,
}

/// What a stored event changes besides being there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Events that go, and why.
    pub remove: Vec<(EventId, Removal)>,
    /// Ids that this event's author may not bring (back).
    pub tombstones: Vec<EventId>,
    /// Addresses of which no version up to this event's date may come (back).
    pub address_tombstones: Vec<Address>,
    /// All that this takes goes, and comes no more. There can be any number of them, so `remove`
    /// does not name them.
    pub vanish: Option<Vanish>,
}

/// What one request to vanish takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vanish {
    pub who: PublicKey,
    pub until: Timestamp,
}

/// Why a stored event went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A newer version took its place.
    Superseded,
    /// Its author asked for it.
    Deleted,
    /// Its time was over.
    Expired,
    /// Its author vanished, or, of a gift wrap, its receiver.
    Vanished,
}

impl Removal {
    /// The word that stores and their change feeds use.
    pub fn as_str(self) -> &'static str {
        match self {
            Removal::Superseded => "superseded",
            Removal::Deleted => "deleted",
            Removal::Expired => "expired",
            Removal::Vanished => "vanished",
        }
    }
}

/// Decides about `event`, which has been verified, at the time `now`.
pub fn judge<H: Holdings>(
    holdings: &H,
    event: &Event,
    now: Timestamp,
) -> Result<Verdict, H::Error> {
    if event.kind.class() == Class::Ephemeral {
        return Ok(Verdict::Ephemeral);
    }
    if event.expiration().is_some_and(|at| at <= now) {
        return Ok(Verdict::Expired);
    }
    if is_kept_out(holdings, event)? {
        return Ok(Verdict::Deleted);
    }
    if holdings.by_id(&event.id)?.is_some() {
        return Ok(Verdict::Duplicate);
    }
    let mut effects = Effects::default();
    if let Some(address) = event.address() {
        if holdings.deleted_until(&address)?.is_some_and(|until| event.created_at <= until) {
            return Ok(Verdict::Deleted);
        }
        match holdings.by_address(&address)? {
            Some(held) if !supersedes(event, &held) => return Ok(Verdict::Superseded),
            Some(held) => effects.remove.push((held.id, Removal::Superseded)),
            None => {}
        }
    }
    if event.kind == Kind::DELETION {
        apply_deletion(holdings, event, &mut effects)?;
    }
    if event.kind == Kind::VANISH && event.vanishes_from(|relay| holdings.is_ours(relay)) {
        effects.vanish = Some(Vanish { who: event.pubkey, until: event.created_at });
    }
    Ok(Verdict::Save(effects))
}

fn is_kept_out<H: Holdings>(holdings: &H, event: &Event) -> Result<bool, H::Error> {
    let out = match event.kind {
        Kind::VANISH => return holdings.is_barred(&event.id),
        // A deletion cannot be deleted, whichever of the two came first.
        Kind::DELETION => holdings.is_barred(&event.id)?,
        _ => holdings.is_deleted(&event.id, &event.pubkey)?,
    };
    if out || has_vanished(holdings, &event.pubkey, event.created_at)? {
        return Ok(true);
    }
    for receiver in receivers(event) {
        if has_vanished(holdings, &receiver, event.created_at)?
            || holdings.is_deleted(&event.id, &receiver)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whom a gift wrap is for (NIP-59); of other events nobody.
pub fn receivers(event: &Event) -> impl Iterator<Item = PublicKey> {
    let named = event.values_of("p").filter_map(|value| value.parse().ok());
    named.filter(|_| event.kind == Kind::GIFT_WRAP)
}

/// Whether this is a gift wrap for `who`.
pub fn is_for(event: &Packed<'_>, who: &PublicKey) -> bool {
    event.kind() == Kind::GIFT_WRAP
        && event.tags().any(|mut tag| {
            tag.next() == Some(Value::Text("p")) && tag.next() == Some(Value::Hex(&who.0))
        })
}

fn has_vanished<H: Holdings>(
    holdings: &H,
    who: &PublicKey,
    created_at: Timestamp,
) -> Result<bool, H::Error> {
    Ok(holdings.vanished_until(who)?.is_some_and(|until| created_at <= until))
}

impl Vanish {
    /// Where to look for what it takes; [`Vanish::takes`] decides.
    pub fn filters(&self) -> [Filter; 2] {
        let until = Some(self.until);
        let theirs = Filter { authors: Some(vec![self.who]), until, ..Filter::default() };
        let p = TagName::new("p").expect("a letter");
        let wraps = Filter {
            kinds: Some(vec![Kind::GIFT_WRAP]),
            tags: [(p, vec![self.who.to_string()])].into(),
            until,
            ..Filter::default()
        };
        [theirs, wraps]
    }

    /// Whether this event goes: one of theirs, or a gift wrap for them (NIP-59), up to the date.
    pub fn takes(&self, event: &Packed<'_>) -> bool {
        if event.created_at() > self.until || event.kind() == Kind::VANISH {
            return false;
        }
        event.pubkey() == self.who || is_for(event, &self.who)
    }
}

/// When a packed event stops being valid: [`Event::expiration`], without unpacking it.
pub fn expiration(event: &Packed<'_>) -> Option<Timestamp> {
    let mut tags = event.tags();
    let mut tag =
        tags.find_map(|mut tag| (tag.next() == Some(Value::Text("expiration"))).then_some(tag))?;
    let Some(Value::Text(value)) = tag.next() else { return None };
    value.parse().ok().map(Timestamp)
}

/// Newest wins; of two equally old ones the lowest id (NIP-01).
fn supersedes(event: &Event, held: &Held) -> bool {
    (event.created_at, held.id) > (held.created_at, event.id)
}

fn apply_deletion<H: Holdings>(
    holdings: &H,
    deletion: &Event,
    effects: &mut Effects,
) -> Result<(), H::Error> {
    for id in deletion.deleted_ids() {
        match holdings.by_id(&id)? {
            Some(held) if held.pubkey != deletion.pubkey => {
                // Of a gift wrap the receiver asks, whose author's key is gone (NIP-09). An id has one
                // author for ever, so a stranger's request needs no tombstone.
                let is_wrap = held.kind == Kind::GIFT_WRAP;
                if !is_wrap || !holdings.receives(&id, &deletion.pubkey)? {
                    continue;
                }
                effects.remove.push((id, Removal::Deleted));
            }
            Some(held) if matches!(held.kind, Kind::DELETION | Kind::VANISH) => continue,
            Some(_) => effects.remove.push((id, Removal::Deleted)),
            None => {}
        }
        effects.tombstones.push(id);
    }
    for address in deletion.deleted_addresses() {
        if let Some(held) = holdings.by_address(&address)?
            && held.created_at <= deletion.created_at
        {
            effects.remove.push((held.id, Removal::Deleted));
        }
        effects.address_tombstones.push(address);
    }
    effects.remove.sort_unstable_by_key(|(id, _)| *id);
    effects.remove.dedup_by_key(|(id, _)| *id);
    Ok(())
}

impl Event {
    /// Where this event is the newest version, if its kind has versions (NIP-01).
    pub fn address(&self) -> Option<Address> {
        let d = match self.kind.class() {
            Class::Replaceable => String::new(),
            Class::Addressable => self.values_of("d").next().unwrap_or_default().to_owned(),
            Class::Regular | Class::Ephemeral => return None,
        };
        Some(Address { kind: self.kind, pubkey: self.pubkey, d })
    }

    /// When it stops being valid (NIP-40). A value that is no number says nothing.
    pub fn expiration(&self) -> Option<Timestamp> {
        self.values_of("expiration").next()?.parse().ok().map(Timestamp)
    }

    /// Whether this request to vanish is meant for a store that `is_ours` speaks for.
    fn vanishes_from(&self, is_ours: impl Fn(&str) -> bool) -> bool {
        self.values_of("relay").any(|relay| relay == "ALL_RELAYS" || is_ours(relay))
    }

    /// The ids that this deletion request names, each once.
    fn deleted_ids(&self) -> Vec<EventId> {
        sorted(self.values_of("e").filter_map(|value| value.parse().ok()))
    }

    /// The addresses of its own author that this deletion request names, each once.
    fn deleted_addresses(&self) -> Vec<Address> {
        let addresses = self.values_of("a").filter_map(Address::parse);
        sorted(addresses.filter(|address| address.pubkey == self.pubkey))
    }

    fn values_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        // A missing value counts as empty, as NIP-01 has it for `d`.
        let named = self.tags.iter().filter(move |tag| tag.name() == Some(name));
        named.map(|tag| tag.value().unwrap_or_default())
    }
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

impl Address {
    /// Reads `<kind>:<pubkey>:<d>`; `d` may hold colons, and is empty for replaceable kinds, where
    /// whatever stands there is ignored.
    pub fn parse(text: &str) -> Option<Address> {
        let mut parts = text.splitn(3, ':');
        let kind = Kind(parts.next()?.parse().ok()?);
        let pubkey = parts.next()?.parse().ok()?;
        let d = match kind.class() {
            Class::Replaceable => "",
            Class::Addressable => parts.next().unwrap_or_default(),
            Class::Regular | Class::Ephemeral => return None,
        };
        Some(Address { kind, pubkey, d: d.to_owned() })
    }
}
