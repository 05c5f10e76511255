//! One write transaction: what the rules decided, written down.
//!
//! The invariants that this file keeps stand at the top of the crate.

use event::{
    Address, Event, EventId, Packed, PackedError, PublicKey, Timestamp, Verified,
    rules::{Effects, Held, Holdings, Removal, Vanish, Verdict, expiration, is_for, judge},
};
use heed::{PutFlags, RwTxn};
use index::{CREATED_AT_MAX, Found, Reader, Scan, Seq, Take, address_digest, keys_of, tombstone};

use crate::{
    databases::{
        COMPLETE_SINCE, Databases, LAYER2_CURSOR, NEXT_SEQ, SPARES_ALL, expiry_key, expiry_of,
    },
    environment::Environment,
    holds::Stub,
    outbox::Rows,
    snapshot::{View, in_order},
    unannounced::Touched,
};

/// Who brought an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client of this relay: L2 has to hear of it.
    Client,
    /// A client of this relay, and L2 is never to hear of it.
    Local,
    /// Another relay, as it heard of it: L2 is to hear of it from there.
    Peer,
    /// L2, which therefore holds it.
    Layer2,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored, at this place.
    Saved(Seq),
    /// It was here already, at this place.
    Duplicate(Option<Seq>),
    /// A newer version of it is here.
    Superseded,
    /// Its author asked for its deletion.
    Deleted,
    /// Its expiration lies in the past.
    Expired,
    /// Its kind is never stored.
    Ephemeral,
    /// No store can hold it; the text says why.
    Invalid(&'static str),
}

/// One entry of L2's feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer2Change {
    /// L2 stored this event.
    Saved(Verified),
    /// L2 stored the event with this id, which is held here. If it is not any more, a rule took it.
    Held(EventId),
    /// L2 removed the event with this id.
    Removed(EventId),
    /// L2 was emptied by its owner.
    Cleared,
}

/// An event on its way in, packed by the task that brings it: the writer's time is everybody's.
#[derive(Debug)]
pub struct New {
    pub(crate) event: Verified,
    pub(crate) packed: Vec<u8>,
}

impl New {
    pub fn bytes(&self) -> usize {
        self.packed.len()
    }
}

impl From<Verified> for New {
    fn from(event: Verified) -> New {
        New { packed: event.pack(), event }
    }
}

/// As [`Layer2Change`], packed.
#[derive(Debug)]
pub enum NewChange {
    Saved(New),
    Held(EventId),
    Removed(EventId),
    Cleared,
}

impl From<Layer2Change> for NewChange {
    fn from(change: Layer2Change) -> NewChange {
        match change {
            Layer2Change::Saved(event) => NewChange::Saved(New::from(event)),
            Layer2Change::Held(id) => NewChange::Held(id),
            Layer2Change::Removed(id) => NewChange::Removed(id),
            Layer2Change::Cleared => NewChange::Cleared,
        }
    }
}

/// In whose name tombstones stand for what no author can delete. No author has this key: it is no
/// point of the curve.
pub(crate) const NOBODY: PublicKey = PublicKey([0; 32]);

type Result<T> = std::result::Result<T, heed::Error>;

/// A write transaction. Dropped without [`Change::commit`], it leaves no trace.
pub struct Change<'e> {
    pub(crate) databases: &'e Databases<'static>,
    pub(crate) txn: RwTxn<'e>,
    pub(crate) now: Timestamp,
    /// By how much the outbox has grown.
    pub(crate) outbox_bytes: i64,
    /// What followers of the seqs are not told.
    pub(crate) touched: Touched,
    /// What goes for want of room, body and stub.
    pub(crate) given_up: Vec<Stub>,
    /// Which URL means this store.
    is_ours: &'e dyn Fn(&str) -> bool,
    /// Whether what happens is written to the log, as in a store that is shared.
    pub(crate) keeps_log: bool,
    first: Seq,
    pub(crate) next: Seq,
}

impl<'e> Change<'e> {
    pub fn begin(
        environment: &'e Environment,
        databases: &'e Databases<'static>,
        now: Timestamp,
        is_ours: &'e dyn Fn(&str) -> bool,
        keeps_log: bool,
    ) -> Result<Change<'e>> {
        let txn = environment.write()?;
        let next = Seq(databases.numbers.get(&txn, NEXT_SEQ)?.unwrap_or(0));
        Ok(Change {
            databases,
            txn,
            now,
            outbox_bytes: 0,
            touched: Touched::default(),
            given_up: Vec::new(),
            is_ours,
            keeps_log,
            first: next,
            next,
        })
    }

    /// Makes it durable, and returns the next seq. Nothing is synced if nothing was written.
    pub fn commit(mut self) -> Result<Seq> {
        self.set_number(NEXT_SEQ, self.next.0)?;
        self.note_outbox_bytes()?;
        if self.first < self.next && !self.keeps_log {
            self.note_arrival(self.first)?;
        }
        self.txn.commit()?;
        Ok(self.next)
    }

    /// Stores an event if the rules let it in.
    pub fn put(&mut self, new: &New, origin: Origin) -> Result<Outcome> {
        if new.event.created_at > CREATED_AT_MAX {
            return Ok(Outcome::Invalid("created_at is too far in the future"));
        }
        self.make_way(&new.event)?;
        Ok(match judge(self, &new.event, self.now)? {
            Verdict::Save(effects) => Outcome::Saved(self.save(new, origin, &effects)?),
            Verdict::Duplicate => self.meet_again(&new.event.id, origin)?,
            Verdict::Superseded => Outcome::Superseded,
            Verdict::Deleted => Outcome::Deleted,
            Verdict::Expired => Outcome::Expired,
            Verdict::Ephemeral => Outcome::Ephemeral,
        })
    }

    /// Applies a page of L2's feed, in its order. Returns what became of the saved ones.
    pub fn apply_layer2(
        &mut self,
        changes: &[NewChange],
        cursor: Option<u64>,
    ) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                NewChange::Saved(new) => {
                    self.take_for_news(&new.event.id)?;
                    outcomes.push(self.put(new, Origin::Layer2)?);
                }
                NewChange::Held(id) => {
                    self.meet_again(id, Origin::Layer2)?;
                }
                NewChange::Removed(id) => self.remove_as_layer2_did(id)?,
                NewChange::Cleared => self.clear()?,
            }
        }
        if let Some(cursor) = cursor {
            self.set_number(LAYER2_CURSOR, cursor)?;
        }
        Ok(outcomes)
    }

    /// Stores what L2 answered to a question, if L2 knew all of its log then that is known here: else it
    /// may have given what is removed by now. What is older than the date from which on L1 is complete
    /// was stored in L2 long ago, so nobody who waits for what is new is told of it. The rest is new.
    pub fn fill(&mut self, events: &[New], as_of: u64) -> Result<Option<Vec<Outcome>>> {
        if self.databases.numbers.get(&self.txn, LAYER2_CURSOR)?.unwrap_or(0) > as_of {
            return Ok(None);
        }
        let floor = self.complete_since()?;
        let mut outcomes = Vec::with_capacity(events.len());
        for new in events {
            let outcome = self.put(new, Origin::Layer2)?;
            match &outcome {
                Outcome::Saved(seq) if new.event.created_at < floor => {
                    self.databases.quiet.put(&mut self.txn, &seq.0, &())?;
                    self.touched.note(new.event.id);
                }
                Outcome::Duplicate(_) => self.revive(new)?,
                _ => {}
            }
            outcomes.push(outcome);
        }
        Ok(Some(outcomes))
    }

    /// An event of L2's log is news, even if it was read through a moment ago.
    fn take_for_news(&mut self, id: &EventId) -> Result<()> {
        let Some(seq) = self.seq_of(id)? else { return Ok(()) };
        match self.databases.quiet.get(&self.txn, &seq.0)? {
            Some(()) => self.remove(seq),
            None => Ok(()),
        }
    }

    /// Makes the first `most` events from `from` on ready for another L2: whole ones go there, and stubs,
    /// whose bodies L2 had, go. Returns where to go on.
    pub fn offer(&mut self, from: Seq, most: usize) -> Result<Option<Seq>> {
        let mut rows = Vec::new();
        for row in in_order(self.databases, &self.txn, from..self.next)?.take(most) {
            let (seq, bytes) = row?;
            rows.push((seq, Packed::trusted(bytes).map_err(damaged)?.is_stub()));
        }
        for (seq, is_stub) in &rows {
            if *is_stub {
                self.remove(*seq)?;
            } else if !self.is_only_here(*seq)? {
                let bytes = self.bytes_at(*seq)?.unwrap_or_default();
                self.queue(*seq, &bytes)?;
            }
        }
        Ok(rows.last().filter(|_| rows.len() == most).map(|(seq, _)| seq.next()))
    }

    /// From now on nothing is given up: that L2 has it is no longer true.
    pub fn spare_all(&mut self) -> Result<()> {
        self.set_number(SPARES_ALL, 1)
    }

    /// Begins with the log of another L2. What the last one refused, this one may take.
    pub fn start_over(&mut self) -> Result<()> {
        self.retry(&Rows::Aside)?;
        self.databases.numbers.delete(&mut self.txn, SPARES_ALL)?;
        self.databases.numbers.delete(&mut self.txn, COMPLETE_SINCE)?;
        self.databases.covered.clear(&mut self.txn)?;
        self.set_number(LAYER2_CURSOR, 0)
    }

    /// Takes out what the operator names, rows of the outbox included.
    pub fn delete(&mut self, ids: &[EventId]) -> Result<()> {
        for id in ids {
            if let Some(seq) = self.seq_of(id)? {
                self.remove(seq)?;
            }
        }
        Ok(())
    }

    pub fn put_text(&mut self, name: &str, text: &str) -> Result<()> {
        if self.databases.texts.get(&self.txn, name)? == Some(text) {
            return Ok(());
        }
        self.databases.texts.put(&mut self.txn, name, text)
    }

    /// Writes it only if it changes, so that a poll that brought nothing costs no fsync.
    pub(crate) fn set_number(&mut self, name: &str, number: u64) -> Result<()> {
        if self.databases.numbers.get(&self.txn, name)? == Some(number) {
            return Ok(());
        }
        self.databases.numbers.put(&mut self.txn, name, &number)
    }

    fn save(&mut self, new: &New, origin: Origin, effects: &Effects) -> Result<Seq> {
        // Whatever goes here may lose its outbox row with it: the new event has its own or is in L2.
        for (id, why) in &effects.remove {
            if let Some(seq) = self.seq_of(id)? {
                self.remove_for(seq, why.as_str())?;
            }
        }
        let seq = self.next;
        self.next = seq.next();
        self.log_saved(seq)?;
        self.leave_tombstones(&new.event, effects)?;
        if let Some(vanish) = &effects.vanish {
            self.take_out(vanish)?;
        }
        self.insert(seq, &new.event, &new.packed)?;
        match origin {
            Origin::Client => self.queue(seq, &new.packed)?,
            Origin::Local => self.keep_local(seq)?,
            Origin::Peer => self.await_from_peer(seq, &new.packed)?,
            Origin::Layer2 => {}
        }
        Ok(seq)
    }

    /// An event that is held came once more. If L2 sent it, L2 need not be told of it any more.
    fn meet_again(&mut self, id: &EventId, origin: Origin) -> Result<Outcome> {
        let seq = self.seq_of(id)?;
        if let (Some(seq), Origin::Layer2) = (seq, origin) {
            self.forget_rows(seq)?;
        }
        Ok(Outcome::Duplicate(seq))
    }

    /// The feed may be older than what a client put here: an operator of L2 removed the event, then
    /// its author published it again to us. So while L2 has not answered for it, the row decides. What a
    /// peer brought is older news than what L2 says of it.
    fn remove_as_layer2_did(&mut self, id: &EventId) -> Result<()> {
        let Some(seq) = self.seq_of(id)? else { return Ok(()) };
        self.databases.tapped.delete(&mut self.txn, &seq.0)?;
        if self.is_only_here(seq)? { Ok(()) } else { self.remove(seq) }
    }

    /// L2 is empty now: here remains what is only here, and the deletions that this asks for.
    fn clear(&mut self) -> Result<()> {
        let rows = self.all_only_here()?;
        let mut kept = Vec::with_capacity(rows.len());
        for seq in rows {
            kept.extend(self.bytes_at(seq)?.map(|bytes| (seq, bytes)));
        }
        self.clear_events()?;
        for (seq, bytes) in &kept {
            let event = Packed::trusted(bytes).map_err(damaged)?.unpack();
            // They were held together, so none removes another: only tombstones follow from them.
            if let Verdict::Save(effects) = judge(self, &event, Timestamp(0))? {
                self.leave_tombstones(&event, &effects)?;
            }
            self.insert(*seq, &event, bytes)?;
        }
        Ok(())
    }

    pub(crate) fn clear_events(&mut self) -> Result<()> {
        self.touched.note_all();
        let Databases { events, kept, stubs, served, ids, addresses, .. } = self.databases;
        for tree in [events, kept, stubs] {
            tree.clear(&mut self.txn)?;
        }
        served.clear(&mut self.txn)?;
        ids.clear(&mut self.txn)?;
        addresses.clear(&mut self.txn)?;
        let Databases { tombstones, address_tombstones, vanished, expiries, numbers, .. } =
            self.databases;
        self.databases.quiet.clear(&mut self.txn)?;
        self.databases.covered.clear(&mut self.txn)?;
        tombstones.clear(&mut self.txn)?;
        address_tombstones.clear(&mut self.txn)?;
        vanished.clear(&mut self.txn)?;
        expiries.clear(&mut self.txn)?;
        numbers.delete(&mut self.txn, COMPLETE_SINCE)?;
        self.databases.indexes().iter().try_for_each(|index| index.clear(&mut self.txn))
    }

    fn insert(&mut self, seq: Seq, event: &Event, packed: &[u8]) -> Result<()> {
        for (index, key) in keys_of(&Packed::trusted(packed).map_err(damaged)?, seq) {
            self.databases.of(index).put(&mut self.txn, key.as_ref(), &())?;
        }
        if let Some(address) = event.address() {
            self.databases.addresses.put(&mut self.txn, &address_digest(&address), &seq.0)?;
        }
        if let Some(date) = event.expiration() {
            self.databases.expiries.put(&mut self.txn, &expiry_key(date, seq), &())?;
        }
        self.databases.ids.put(&mut self.txn, &event.id.0, &seq.0)?;
        // Seqs only grow, so LMDB need not look for the place and fills its pages to the brim.
        self.databases.events.put_with_flags(&mut self.txn, PutFlags::APPEND, &seq.0, packed)
    }

    /// Takes an event out with all that points at it, its row included. Its tombstones stay.
    pub(crate) fn remove(&mut self, seq: Seq) -> Result<()> {
        let Databases { ids, addresses, expiries, .. } = self.databases;
        let Some(bytes) = self.bytes_at(seq)? else { return Ok(()) };
        let packed = Packed::trusted(&bytes).map_err(damaged)?;
        for (index, key) in keys_of(&packed, seq) {
            self.databases.of(index).delete(&mut self.txn, key.as_ref())?;
        }
        let event = packed.unpack();
        if let Some(address) = event.address() {
            addresses.delete(&mut self.txn, &address_digest(&address))?;
        }
        if let Some(date) = event.expiration() {
            expiries.delete(&mut self.txn, &expiry_key(date, seq))?;
        }
        ids.delete(&mut self.txn, &event.id.0)?;
        self.touched.note(event.id);
        self.forget_rows(seq)?;
        self.databases.quiet.delete(&mut self.txn, &seq.0)?;
        self.take_body(seq)
    }

    /// Empties an event's place in all three trees.
    pub(crate) fn take_body(&mut self, seq: Seq) -> Result<()> {
        let Databases { events, kept, stubs, served, .. } = self.databases;
        for tree in [events, kept, stubs] {
            if tree.delete(&mut self.txn, &seq.0)? {
                break;
            }
        }
        served.delete(&mut self.txn, &seq.0)?;
        Ok(())
    }

    fn leave_tombstones(&mut self, event: &Event, effects: &Effects) -> Result<()> {
        for id in &effects.tombstones {
            let key = tombstone(id, &event.pubkey);
            self.databases.tombstones.put(&mut self.txn, &key, &())?;
        }
        for address in &effects.address_tombstones {
            let until = self.deleted_until(address)?.max(Some(event.created_at));
            let until = until.expect("it is at least this event's date").0;
            let key = address_digest(address);
            self.databases.address_tombstones.put(&mut self.txn, &key, &until)?;
        }
        if let Some(Vanish { who, until }) = effects.vanish {
            let until = self.vanished_until(&who)?.max(Some(until)).unwrap_or(until).0;
            self.databases.vanished.put(&mut self.txn, &who.0, &until)?;
        }
        Ok(())
    }

    /// Removes some of what has expired. Returns how much.
    pub fn expire(&mut self, most: usize) -> Result<usize> {
        for done in 0..most {
            let first = self.databases.expiries.first(&self.txn)?;
            match first.map(|(key, ())| expiry_of(key)) {
                Some((date, seq)) if date <= self.now => {
                    self.remove_for(seq, Removal::Expired.as_str())?;
                }
                _ => return Ok(done),
            }
        }
        Ok(most)
    }

    /// The rules expect that nothing stands in an event's way that has expired, and not all of that may
    /// have been removed.
    fn make_way(&mut self, event: &Event) -> Result<()> {
        let Some(address) = event.address() else { return Ok(()) };
        let held = self.databases.addresses.get(&self.txn, &address_digest(&address))?;
        let Some(seq) = held.map(Seq) else { return Ok(()) };
        let bytes = self.databases.bytes_at(&self.txn, seq)?;
        let held = bytes.map(Packed::trusted).transpose().map_err(damaged)?;
        match held.as_ref().and_then(expiration) {
            Some(date) if date <= self.now => self.remove_for(seq, Removal::Expired.as_str()),
            _ => Ok(()),
        }
    }

    /// Removes all that a request to vanish takes, however much it is.
    fn take_out(&mut self, vanish: &Vanish) -> Result<()> {
        let mut taken = Taken { vanish, seqs: Vec::new() };
        let view = View { databases: self.databases, txn: &self.txn };
        Scan::new(&vanish.filters()).page(&view, &mut taken)?;
        let why = Removal::Vanished.as_str();
        taken.seqs.into_iter().try_for_each(|seq| self.remove_for(seq, why))
    }

    pub(crate) fn seq_of(&self, id: &EventId) -> Result<Option<Seq>> {
        Ok(self.databases.ids.get(&self.txn, &id.0)?.map(Seq))
    }

    /// What is at `seq`, with its own memory.
    pub(crate) fn bytes_at(&self, seq: Seq) -> Result<Option<Vec<u8>>> {
        Ok(self.databases.bytes_at(&self.txn, seq)?.map(<[u8]>::to_vec))
    }

    fn held_at(&self, seq: Option<u64>) -> Result<Option<Held>> {
        let Some(seq) = seq else { return Ok(None) };
        let Some(bytes) = self.databases.bytes_at(&self.txn, Seq(seq))? else { return Ok(None) };
        let event = Packed::trusted(bytes).map_err(damaged)?;
        Ok(Some(Held {
            id: event.id(),
            pubkey: event.pubkey(),
            created_at: event.created_at(),
            kind: event.kind(),
        }))
    }
}

impl Holdings for Change<'_> {
    type Error = heed::Error;

    fn by_id(&self, id: &EventId) -> Result<Option<Held>> {
        self.held_at(self.databases.ids.get(&self.txn, &id.0)?)
    }

    fn by_address(&self, address: &Address) -> Result<Option<Held>> {
        self.held_at(self.databases.addresses.get(&self.txn, &address_digest(address))?)
    }

    fn is_deleted(&self, id: &EventId, author: &PublicKey) -> Result<bool> {
        Ok(self.databases.tombstones.get(&self.txn, &tombstone(id, author))?.is_some())
    }

    fn receives(&self, id: &EventId, who: &PublicKey) -> Result<bool> {
        let Some(seq) = self.seq_of(id)? else { return Ok(false) };
        let bytes = self.databases.bytes_at(&self.txn, seq)?;
        let event = bytes.map(Packed::trusted).transpose().map_err(damaged)?;
        Ok(event.is_some_and(|event| is_for(&event, who)))
    }

    fn deleted_until(&self, address: &Address) -> Result<Option<Timestamp>> {
        let date = self.databases.address_tombstones.get(&self.txn, &address_digest(address))?;
        Ok(date.map(Timestamp))
    }

    fn vanished_until(&self, who: &PublicKey) -> Result<Option<Timestamp>> {
        Ok(self.databases.vanished.get(&self.txn, &who.0)?.map(Timestamp))
    }

    fn is_barred(&self, id: &EventId) -> Result<bool> {
        self.is_deleted(id, &NOBODY)
    }

    fn is_ours(&self, relay: &str) -> bool {
        (self.is_ours)(relay)
    }
}

/// Collects what a request to vanish takes.
struct Taken<'a> {
    vanish: &'a Vanish,
    seqs: Vec<Seq>,
}

impl Reader for Taken<'_> {
    fn take(&mut self, found: Found<'_>) -> Take {
        if self.vanish.takes(&found.event()) {
            self.seqs.push(found.seq);
        }
        Take::More
    }
}

pub(crate) fn damaged(error: PackedError) -> heed::Error {
    heed::Error::Decoding(error.into())
}
