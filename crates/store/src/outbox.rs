//! The outbox's rows: what L2 has yet to hear of. Beside them lies what L2 does not take (aside), what it
//! is never to hear of (local), and what it is to hear of from another relay (tapped).
//!
//! Whatever has one of these rows is only here, so its body is never given up for a stub. A row says
//! since when its event waits and how long it is, and the sum of all lengths is kept as a number, so
//! that to ask how much waits reads no events.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use event::EventId;
use heed::RwTxn;
use index::{Seq, Source};

use crate::{
    change::Change,
    databases::{Databases, OUTBOX_BYTES},
    store::{ReadError, Store},
};

type Result<T> = std::result::Result<T, heed::Error>;

/// An event that L2 has not answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub seq: Seq,
    pub since: Millis,
    /// Packed.
    pub event: Vec<u8>,
}

/// An event that L2 refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    pub seq: Seq,
    pub since: Millis,
    pub reason: String,
    /// Packed.
    pub event: Vec<u8>,
}

/// What L2 said about one outbox row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// L2 holds the event.
    Delivered,
    /// L2 does not take it, for this reason, though the event is sound: it stays here, its row aside.
    Refused(String),
    /// By the rules that L2 keeps the event is over (superseded, deleted, expired), so it goes here too.
    Gone,
    /// It was not asked, and is not to hear of the event.
    Local,
}

/// Which rows an operator means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All that are aside.
    Aside,
    /// Those of these events.
    Of(Vec<EventId>),
}

/// What is known of an event's way to L2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not here, or not any more.
    NotHeld,
    /// L2 has not answered for it, or another relay is to bring it there.
    Waiting,
    /// L2 does not take it, for this reason.
    Aside(String),
    /// L2 is not to hear of it.
    Local,
    /// L2 holds it.
    Shared,
}

/// Unix time in milliseconds, as the machine's clock has it. Nothing is decided by it: it tells people
/// how long something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    pub fn now() -> Millis {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Millis(since_1970.map_or(0, |elapsed| elapsed.as_millis() as u64))
    }
}

/// `since 8 | bytes 4`: a row of the outbox.
#[derive(Clone, Copy)]
pub struct OutboxRow {
    pub since: Millis,
    pub bytes: u32,
}

impl OutboxRow {
    pub fn of(event: &[u8]) -> OutboxRow {
        OutboxRow { since: Millis::now(), bytes: event.len() as u32 }
    }

    pub fn to_bytes(self) -> [u8; 12] {
        let mut row = [0; 12];
        row[..8].copy_from_slice(&self.since.0.to_be_bytes());
        row[8..].copy_from_slice(&self.bytes.to_be_bytes());
        row
    }

    pub fn read(row: &[u8]) -> OutboxRow {
        let (since, bytes) = row.split_at(row.len().min(8));
        OutboxRow { since: Millis(number(since)), bytes: number(bytes) as u32 }
    }
}

/// `since 8 | reason`: a row of what is aside.
fn aside_row(since: Millis, reason: &str) -> Vec<u8> {
    [&since.0.to_be_bytes(), reason.as_bytes()].concat()
}

fn read_aside_row(row: &[u8]) -> (Millis, String) {
    let (since, reason) = row.split_at(row.len().min(8));
    (Millis(number(since)), String::from_utf8_lossy(reason).into_owned())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Gives rows of the time before they had dates and lengths both: they count as of now.
pub fn add_dates(databases: &Databases<'static>, txn: &mut RwTxn<'_>) -> Result<()> {
    let Databases { outbox, aside, numbers, .. } = databases;
    let (mut waiting, mut refused, mut bytes) = (Vec::new(), Vec::new(), 0);
    for row in outbox.iter(txn)? {
        let (seq, _) = row?;
        let row = OutboxRow::of(databases.bytes_at(txn, Seq(seq))?.unwrap_or_default());
        bytes += u64::from(row.bytes);
        waiting.push((seq, row.to_bytes()));
    }
    for row in aside.iter(txn)? {
        let (seq, reason) = row?;
        refused.push((seq, aside_row(Millis::now(), &String::from_utf8_lossy(reason))));
    }
    for (seq, row) in waiting {
        outbox.put(txn, &seq, &row)?;
    }
    for (seq, row) in refused {
        aside.put(txn, &seq, &row)?;
    }
    numbers.put(txn, OUTBOX_BYTES, &bytes)
}

impl Change<'_> {
    /// L2 has to hear of the event at this place.
    pub(crate) fn queue(&mut self, seq: Seq, event: &[u8]) -> Result<()> {
        let row = OutboxRow::of(event);
        self.outbox_bytes += i64::from(row.bytes);
        self.databases.outbox.put(&mut self.txn, &seq.0, &row.to_bytes())
    }

    /// Takes the event at this place out of the outbox. False: it was not in there.
    fn unqueue(&mut self, seq: Seq) -> Result<bool> {
        let Some(row) = self.databases.outbox.get(&self.txn, &seq.0)? else { return Ok(false) };
        self.outbox_bytes -= i64::from(OutboxRow::read(row).bytes);
        self.databases.outbox.delete(&mut self.txn, &seq.0)
    }

    /// L2 is never to hear of the event at this place.
    pub(crate) fn keep_local(&mut self, seq: Seq) -> Result<()> {
        self.databases.local.put(&mut self.txn, &seq.0, &())
    }

    /// L2 is to hear of the event at this place from the relay that brought it.
    pub(crate) fn await_from_peer(&mut self, seq: Seq, event: &[u8]) -> Result<()> {
        let row = OutboxRow::of(event).to_bytes();
        self.databases.tapped.put(&mut self.txn, &seq.0, &row)
    }

    /// Puts into the outbox what peers brought before `before` and L2 is not known to have: of the first
    /// `most` of all that they brought. Says how many that were.
    pub fn adopt(&mut self, before: Millis, most: usize) -> Result<usize> {
        let mut due = Vec::new();
        for row in self.databases.tapped.iter(&self.txn)?.take(most) {
            let (seq, row) = row?;
            if OutboxRow::read(row).since < before {
                due.push(Seq(seq));
            }
        }
        for seq in &due {
            self.databases.tapped.delete(&mut self.txn, &seq.0)?;
            let event = self.databases.bytes_at(&self.txn, *seq)?.unwrap_or_default().to_vec();
            self.queue(*seq, &event)?;
        }
        Ok(due.len())
    }

    /// Takes out every row that says that an event is only here: it is gone, or L2 has it.
    pub(crate) fn forget_rows(&mut self, seq: Seq) -> Result<()> {
        let Databases { aside, local, tapped, .. } = self.databases;
        tapped.delete(&mut self.txn, &seq.0)?;
        self.unqueue(seq)?;
        aside.delete(&mut self.txn, &seq.0)?;
        local.delete(&mut self.txn, &seq.0)?;
        Ok(())
    }

    /// Notes L2's answer about one outbox row. A row that is gone by now is no fault: its event may
    /// have been superseded, or come back from L2, while the answer was under way.
    pub fn settle(&mut self, seq: Seq, settlement: &Settlement) -> Result<()> {
        match settlement {
            Settlement::Gone => self.remove(seq),
            // An operator may have given it up while it was under way, too late.
            Settlement::Delivered => {
                self.unqueue(seq)?;
                self.databases.local.delete(&mut self.txn, &seq.0).map(drop)
            }
            Settlement::Refused(reason) if self.unqueue(seq)? => {
                let row = aside_row(Millis::now(), reason);
                self.databases.aside.put(&mut self.txn, &seq.0, &row)
            }
            Settlement::Local if self.unqueue(seq)? => self.keep_local(seq),
            Settlement::Refused(_) | Settlement::Local => Ok(()),
        }
    }

    /// Puts what L2 had refused back into the outbox; says how much it was.
    pub fn retry(&mut self, rows: &Rows) -> Result<usize> {
        let mut retried = 0;
        for seq in self.seqs_of(rows)? {
            if self.databases.aside.delete(&mut self.txn, &seq.0)? {
                let event = self.databases.bytes_at(&self.txn, seq)?.unwrap_or_default().to_vec();
                self.queue(seq, &event)?;
                retried += 1;
            }
        }
        Ok(retried)
    }

    /// Gives up sending: these events stay here and nowhere else. Says how many they were.
    pub fn give_up(&mut self, rows: &Rows) -> Result<usize> {
        let mut given_up = 0;
        for seq in self.seqs_of(rows)? {
            let Databases { aside, tapped, .. } = self.databases;
            let waited = self.unqueue(seq)? || tapped.delete(&mut self.txn, &seq.0)?;
            if waited || aside.delete(&mut self.txn, &seq.0)? {
                self.keep_local(seq)?;
                given_up += 1;
            }
        }
        Ok(given_up)
    }

    fn seqs_of(&self, rows: &Rows) -> Result<Vec<Seq>> {
        match rows {
            Rows::Aside => {
                let rows = self.databases.aside.iter(&self.txn)?;
                rows.map(|row| Ok(Seq(row?.0))).collect()
            }
            Rows::Of(ids) => {
                let seqs = ids.iter().map(|id| self.seq_of(id)).collect::<Result<Vec<_>>>()?;
                Ok(seqs.into_iter().flatten().collect())
            }
        }
    }

    /// Everything that is only here, in order.
    pub(crate) fn all_only_here(&self) -> Result<Vec<Seq>> {
        let Databases { outbox, aside, local, tapped, .. } = self.databases;
        let mut seqs = Vec::new();
        for row in outbox.iter(&self.txn)? {
            seqs.push(Seq(row?.0));
        }
        for row in aside.iter(&self.txn)? {
            seqs.push(Seq(row?.0));
        }
        for row in tapped.iter(&self.txn)? {
            seqs.push(Seq(row?.0));
        }
        for row in local.iter(&self.txn)? {
            seqs.push(Seq(row?.0));
        }
        seqs.sort_unstable();
        Ok(seqs)
    }

    pub(crate) fn is_only_here(&self, seq: Seq) -> Result<bool> {
        self.databases.is_only_here(&self.txn, seq)
    }

    /// What changed of the outbox's size, written down.
    pub(crate) fn note_outbox_bytes(&mut self) -> Result<()> {
        let before = self.databases.numbers.get(&self.txn, OUTBOX_BYTES)?.unwrap_or(0);
        self.set_number(OUTBOX_BYTES, before.saturating_add_signed(self.outbox_bytes))
    }
}

impl Store {
    /// The oldest events that L2 has not answered for and that are not at the places `but`: at most
    /// `events_max`, and at most `bytes_max` together unless the first alone is longer.
    pub fn outbox(
        &self,
        but: &BTreeSet<Seq>,
        events_max: usize,
        bytes_max: usize,
    ) -> std::result::Result<Vec<Waiting>, ReadError> {
        let snapshot = self.snapshot()?;
        let mut batch: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        for row in snapshot.databases.outbox.iter(&snapshot.txn)? {
            let (seq, row) = row?;
            let (seq, row) = (Seq(seq), OutboxRow::read(row));
            if but.contains(&seq) {
                continue;
            }
            bytes += row.bytes as usize;
            if batch.len() == events_max || bytes > bytes_max && !batch.is_empty() {
                break;
            }
            // A row goes with its event, so the event is there.
            let Some(event) = snapshot.databases.bytes_at(&snapshot.txn, seq)? else { continue };
            batch.push(Waiting { seq, since: row.since, event: event.to_vec() });
        }
        Ok(batch)
    }

    /// Those of the events at these places that L2 has not answered for.
    pub fn still_waiting(&self, seqs: &[Seq]) -> std::result::Result<Vec<Waiting>, ReadError> {
        let snapshot = self.snapshot()?;
        let mut waiting = Vec::with_capacity(seqs.len());
        for seq in seqs {
            let row = snapshot.databases.outbox.get(&snapshot.txn, &seq.0)?;
            let event = snapshot.databases.bytes_at(&snapshot.txn, *seq)?;
            let (Some(row), Some(event)) = (row, event) else { continue };
            let since = OutboxRow::read(row).since;
            waiting.push(Waiting { seq: *seq, since, event: event.to_vec() });
        }
        Ok(waiting)
    }

    /// Which of these places have a row in the outbox: what clients of this relay brought there.
    pub fn in_outbox(&self, seqs: &[Seq]) -> std::result::Result<Vec<bool>, ReadError> {
        let snapshot = self.snapshot()?;
        let (outbox, txn) = (&snapshot.databases.outbox, &snapshot.txn);
        let rows = seqs.iter().map(|seq| Ok(outbox.get(txn, &seq.0)?.is_some()));
        rows.collect()
    }

    /// Since when the first event waits that a peer brought and L2 is not known to have.
    pub fn tapped_since(&self) -> std::result::Result<Option<Millis>, ReadError> {
        let snapshot = self.snapshot()?;
        let first = snapshot.databases.tapped.first(&snapshot.txn)?;
        Ok(first.map(|(_, row)| OutboxRow::read(row).since))
    }

    /// How many events L2 has not answered for.
    pub fn outbox_len(&self) -> std::result::Result<u64, ReadError> {
        let snapshot = self.snapshot()?;
        Ok(snapshot.databases.outbox.len(&snapshot.txn)?)
    }

    /// The oldest events that L2 refused, from this place on, with its reasons.
    pub fn aside(
        &self,
        from: Seq,
        events_max: usize,
    ) -> std::result::Result<Vec<Aside>, ReadError> {
        let snapshot = self.snapshot()?;
        let mut found = Vec::new();
        for row in snapshot.databases.aside.range(&snapshot.txn, &(from.0..))?.take(events_max) {
            let (seq, row) = row?;
            let Some(event) = snapshot.databases.bytes_at(&snapshot.txn, Seq(seq))? else {
                continue;
            };
            let (since, reason) = read_aside_row(row);
            found.push(Aside { seq: Seq(seq), since, reason, event: event.to_vec() });
        }
        Ok(found)
    }

    /// Whether L2 does not hold the event at this place, as far as is known.
    pub fn is_only_here(&self, seq: Seq) -> std::result::Result<bool, ReadError> {
        let snapshot = self.snapshot()?;
        Ok(snapshot.databases.is_only_here(&snapshot.txn, seq)?)
    }

    /// What is known of the way of the event with this id to L2.
    pub fn standing(&self, id: &EventId) -> std::result::Result<Standing, ReadError> {
        let snapshot = self.snapshot()?;
        let Some(seq) = snapshot.seq_of(id)? else { return Ok(Standing::NotHeld) };
        let (Databases { outbox, aside, local, tapped, .. }, txn) =
            (snapshot.databases, &snapshot.txn);
        if outbox.get(txn, &seq.0)?.is_some() || tapped.get(txn, &seq.0)?.is_some() {
            return Ok(Standing::Waiting);
        }
        if let Some(row) = aside.get(txn, &seq.0)? {
            return Ok(Standing::Aside(read_aside_row(row).1));
        }
        let is_local = local.get(txn, &seq.0)?.is_some();
        Ok(if is_local { Standing::Local } else { Standing::Shared })
    }
}
