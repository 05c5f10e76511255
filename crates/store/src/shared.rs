//! A store that several processes of one machine share: an L2 in a folder.
//!
//! It is a relay's own store with one database more, the log, in which all that happens gets a seq:
//! events that are saved, removals with their reason, and that everything was cleared. Who follows it
//! asks for what came after some seq, whichever process wrote it, so nobody has to be woken. Of an
//! event that went only the removal stays in the log.
//!
//! ```text
//! entry       arrived 8 | 1                 an event was saved; it lies in `events`
//!             arrived 8 | 2 | id 32 | why   an event was removed
//!             arrived 8 | 3                 everything was
//! ```
//! LMDB lets one process write at a time, so seqs become visible in their order. There are no outbox
//! rows here, and nothing is ever given up.

use std::{ops::ControlFlow, path::Path};

use event::{EventId, Kind, Packed, Timestamp, Verified};
use heed::PutFlags;
use index::{Seq, tombstone};

use crate::{
    Options, Origin, Outcome, WriteError, Writer,
    change::{Change, NOBODY, damaged},
    databases::FORMAT_SHARED,
    snapshot::Snapshot,
    store::{OpenError, ReadError, Store, lock_shared},
};

type Result<T, E = heed::Error> = std::result::Result<T, E>;

const SAVED: u8 = 1;
const REMOVED: u8 = 2;
const CLEARED: u8 = 3;

/// How events are taken out by hand.
#[derive(Clone, Debug)]
pub struct ByHand {
    /// Whether they stay out for ever.
    pub for_ever: bool,
    /// What followers of the log are told.
    pub why: String,
}

/// What one entry of the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// This event, packed, was saved, and is held.
    Saved(&'a [u8]),
    /// An event was removed.
    Removed { id: EventId, why: &'a str },
    /// Everything was removed, and all tombstones.
    Cleared,
}

/// A store in a folder that other processes may have open, too.
#[derive(Clone)]
pub struct Shared {
    store: Store,
    writer: Writer,
}

impl Shared {
    /// Opens the shared store in `folder`, or creates it. A process can have it open once.
    pub fn open(folder: &Path, options: Options) -> Result<Shared, OpenError> {
        let lock = lock_shared(folder)?;
        let (store, writer) = Store::open_as(folder, options, FORMAT_SHARED, lock)?;
        Ok(Shared { store, writer })
    }

    /// For all that can be read in any store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stores events, in order, and says of each what became of it; as [`Writer::put_all`].
    pub async fn save(&self, events: Vec<Verified>) -> Result<Vec<Outcome>, WriteError> {
        self.writer.put_all(events, Origin::Layer2).await
    }

    /// Takes events out; says for each where the log has it. None: it is not held.
    pub async fn remove(
        &self,
        ids: Vec<EventId>,
        how: ByHand,
    ) -> Result<Vec<Option<Seq>>, WriteError> {
        self.writer.remove(ids, how).await
    }

    /// Takes everything out, tombstones too. The log goes on.
    pub async fn clear(&self) -> Result<(), WriteError> {
        self.writer.empty().await
    }

    /// How long the log is: the seq that comes next, whichever process writes it.
    pub fn length(&self) -> Result<Seq, ReadError> {
        Ok(self.store.snapshot()?.next_seq()?)
    }

    /// Gives the log from `from` on to `each`, in order, with the time of arrival, until `each` breaks:
    /// then it has not taken that entry. Says where to go on, and how long the log is.
    pub fn changes(
        &self,
        from: Seq,
        mut each: impl FnMut(Seq, Timestamp, Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(Seq, Seq), ReadError> {
        let snapshot = self.store.snapshot()?;
        let length = snapshot.next_seq()?;
        for row in snapshot.databases.log.range(&snapshot.txn, &(from.0..))? {
            let (seq, bytes) = row?;
            let (arrived, rest) = split(bytes)?;
            let Some(entry) = entry(&snapshot, Seq(seq), rest)? else { continue };
            if each(Seq(seq), arrived, entry).is_break() {
                return Ok((Seq(seq), length));
            }
        }
        Ok((length, length))
    }

    /// The first place in the log of what arrived at `time` or later.
    pub fn first_arrived_at(&self, time: Timestamp) -> Result<Seq, ReadError> {
        let snapshot = self.store.snapshot()?;
        let (mut low, mut high) = (0, snapshot.next_seq()?.0);
        while low < high {
            let middle = low + (high - low) / 2;
            // Arrivals never go back, so what follows a gap decides for the gap.
            let row =
                snapshot.databases.log.get_greater_than_or_equal_to(&snapshot.txn, &middle)?;
            match row
                .map(|(seq, bytes)| Ok::<_, heed::Error>((seq, split(bytes)?.0)))
                .transpose()?
            {
                Some((seq, arrived)) if arrived < time => low = seq + 1,
                _ => high = middle,
            }
        }
        Ok(Seq(low))
    }
}

fn split(entry: &[u8]) -> Result<(Timestamp, &[u8])> {
    let (arrived, rest) = entry.split_first_chunk().ok_or_else(damaged_entry)?;
    Ok((Timestamp(u64::from_be_bytes(*arrived)), rest))
}

/// None: an event that has expired meanwhile.
fn entry<'t>(snapshot: &'t Snapshot<'_>, seq: Seq, bytes: &'t [u8]) -> Result<Option<Entry<'t>>> {
    match bytes.split_first() {
        Some((&SAVED, [])) => {
            let bytes = snapshot.databases.bytes_at(&snapshot.txn, seq)?;
            let bytes = bytes.ok_or_else(damaged_entry)?;
            let event = Packed::trusted(bytes).map_err(damaged)?;
            Ok((!snapshot.hides(&event)).then_some(Entry::Saved(bytes)))
        }
        Some((&REMOVED, rest)) => {
            let (id, why) = rest.split_first_chunk().ok_or_else(damaged_entry)?;
            let why = std::str::from_utf8(why).map_err(|_| damaged_entry())?;
            Ok(Some(Entry::Removed { id: EventId(*id), why }))
        }
        Some((&CLEARED, [])) => Ok(Some(Entry::Cleared)),
        _ => Err(damaged_entry()),
    }
}

fn damaged_entry() -> heed::Error {
    heed::Error::Decoding("an entry of the log is damaged".into())
}

impl Change<'_> {
    /// As [`Change::remove`], because of the rules; the log says so.
    pub fn remove_for(&mut self, seq: Seq, why: &str) -> Result<()> {
        if self.keeps_log {
            self.log_removed(seq, why)?;
        }
        self.remove(seq)
    }

    /// The event at `seq` is being saved.
    pub fn log_saved(&mut self, seq: Seq) -> Result<()> {
        if self.keeps_log { self.put_entry(seq, SAVED, &[]) } else { Ok(()) }
    }

    /// Takes these out by hand, as [`Shared::remove`] says.
    pub fn remove_all(&mut self, ids: &[EventId], how: &ByHand) -> Result<Vec<Option<Seq>>> {
        ids.iter().map(|id| self.remove_by_hand(id, how)).collect()
    }

    /// Takes everything out, as [`Shared::clear`] says. The entries before this one say nothing any
    /// more, so they go as well.
    pub fn empty(&mut self) -> Result<()> {
        let last = self.arrived_last()?;
        self.clear_events()?;
        self.databases.log.clear(&mut self.txn)?;
        let seq = self.next_place();
        self.append(seq, self.now.max(last), CLEARED, &[])
    }

    fn remove_by_hand(&mut self, id: &EventId, how: &ByHand) -> Result<Option<Seq>> {
        let Some(seq) = self.seq_of(id)? else { return Ok(None) };
        if how.for_ever
            && let Some(bytes) = self.bytes_at(seq)?
        {
            let event = Packed::trusted(&bytes).map_err(damaged)?;
            let author = match event.kind() {
                Kind::DELETION | Kind::VANISH => NOBODY,
                _ => event.pubkey(),
            };
            self.databases.tombstones.put(&mut self.txn, &tombstone(id, &author), &())?;
        }
        let place = self.log_removed(seq, &how.why)?;
        self.remove(seq)?;
        Ok(Some(place))
    }

    fn log_removed(&mut self, seq: Seq, why: &str) -> Result<Seq> {
        let place = self.next_place();
        let Some(bytes) = self.bytes_at(seq)? else { return Ok(place) };
        let id = Packed::trusted(&bytes).map_err(damaged)?.id();
        self.databases.log.delete(&mut self.txn, &seq.0)?;
        self.put_entry(place, REMOVED, &[&id.0, why.as_bytes()].concat())?;
        Ok(place)
    }

    fn next_place(&mut self) -> Seq {
        let place = self.next;
        self.next = place.next();
        place
    }

    fn put_entry(&mut self, seq: Seq, kind: u8, data: &[u8]) -> Result<()> {
        // The search by arrival needs an order that no clock is asked to promise.
        let arrived = self.arrived_last()?.max(self.now);
        self.append(seq, arrived, kind, data)
    }

    fn append(&mut self, seq: Seq, arrived: Timestamp, kind: u8, data: &[u8]) -> Result<()> {
        let entry = [&arrived.0.to_be_bytes()[..], &[kind], data].concat();
        self.databases.log.put_with_flags(&mut self.txn, PutFlags::APPEND, &seq.0, &entry)
    }

    fn arrived_last(&self) -> Result<Timestamp> {
        let last = self.databases.log.last(&self.txn)?;
        last.map_or(Ok(Timestamp(0)), |(_, bytes)| Ok(split(bytes)?.0))
    }
}
