//! Whether what lies on the disk keeps the store's invariants, each of them by a name.
//!
//! A check works out from the events which rows there must be, and counts those that are there. Where a
//! database has more rows than that, the others belong to no event: only then it is walked, to name
//! some. So a sound store is read once, event by event, and nothing of it is kept in memory.

use std::{ops::ControlFlow, thread};

use event::{
    Event, Packed, PackedError, Timestamp,
    rules::{Effects, Holdings, Verdict, expiration, judge},
    verify,
};
use heed::{Database, types::Bytes};
use index::{CREATED_AT_MAX, Index, Key, Seq, address_digest, keys_of};

use crate::{
    coverage::Range,
    databases::{FORMAT, FORMAT_NAME, Number, OUTBOX_BYTES, expiry_key, expiry_of},
    outbox::OutboxRow,
    past::Past,
    snapshot::Snapshot,
    store::{ReadError, Store},
};

/// Events that are read before their signatures are checked, on all cores.
const BATCH_EVENTS: usize = 2_000;
/// Rows that are named for each invariant.
const EXAMPLES_MAX: usize = 5;

/// What must be true of a store on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    Format,
    Seqs,
    Places,
    Events,
    Stubs,
    Kinds,
    Ids,
    Index(Index),
    Addresses,
    Expiries,
    KeptOut,
    Dates,
    Outbox,
    Aside,
    Local,
    Tapped,
    Served,
    Quiet,
    Covered,
}

impl Invariant {
    /// All of them, in the order in which they are told.
    pub const ALL: [Invariant; 23] = [
        Invariant::Format,
        Invariant::Seqs,
        Invariant::Places,
        Invariant::Events,
        Invariant::Stubs,
        Invariant::Kinds,
        Invariant::Ids,
        Invariant::Index(Index::Created),
        Invariant::Index(Index::Author),
        Invariant::Index(Index::Kind),
        Invariant::Index(Index::AuthorKind),
        Invariant::Index(Index::Tag),
        Invariant::Addresses,
        Invariant::Expiries,
        Invariant::KeptOut,
        Invariant::Dates,
        Invariant::Outbox,
        Invariant::Aside,
        Invariant::Local,
        Invariant::Tapped,
        Invariant::Served,
        Invariant::Quiet,
        Invariant::Covered,
    ];

    /// What people and scripts call it.
    pub fn name(self) -> &'static str {
        match self {
            Invariant::Format => "format",
            Invariant::Seqs => "seqs",
            Invariant::Places => "places",
            Invariant::Events => "events",
            Invariant::Stubs => "stubs",
            Invariant::Kinds => "kinds",
            Invariant::Ids => "ids",
            Invariant::Index(Index::Created) => "index-created",
            Invariant::Index(Index::Author) => "index-author",
            Invariant::Index(Index::Kind) => "index-kind",
            Invariant::Index(Index::AuthorKind) => "index-author-kind",
            Invariant::Index(Index::Tag) => "index-tag",
            Invariant::Addresses => "addresses",
            Invariant::Expiries => "expiries",
            Invariant::KeptOut => "kept-out",
            Invariant::Dates => "dates",
            Invariant::Outbox => "outbox",
            Invariant::Aside => "aside",
            Invariant::Local => "local",
            Invariant::Tapped => "tapped",
            Invariant::Served => "served",
            Invariant::Quiet => "quiet",
            Invariant::Covered => "covered",
        }
    }

    /// What it says.
    pub fn statement(self) -> &'static str {
        match self {
            Invariant::Format => "the store has the format that this version writes",
            Invariant::Seqs => "every event lies below the seq that is given next",
            Invariant::Places => "every event lies in one tree, and stubs lie in theirs",
            Invariant::Stubs => "what only this store has, or L2 refused, has not lost its body",
            Invariant::Events => "every event is whole, has its own id, and its author signed it",
            Invariant::Kinds => {
                "no ephemeral event is held, and none with a date keys cannot order"
            }
            Invariant::Ids => "every event is found by its id, and every id names an event",
            Invariant::Index(_) => "every event has its keys, and every key its event",
            Invariant::Addresses => "of each address one version is held, and it is found there",
            Invariant::Expiries => "every event that expires is due on its date, and no other is",
            Invariant::KeptOut => "nothing is held that its author deleted or vanished with",
            Invariant::Dates => {
                "deletions of addresses and requests to vanish have left their dates"
            }
            Invariant::Outbox => {
                "every row of the outbox stands beside its event, and their bytes are added up"
            }
            Invariant::Aside => "what L2 refused is held, and is not in the outbox as well",
            Invariant::Local => {
                "what L2 is not to hear of is held, and does not wait for L2 as well"
            }
            Invariant::Tapped => {
                "what L2 is to hear of from a peer is held, and does not go up from here as well"
            }
            Invariant::Served => "every date of serving stands beside its event",
            Invariant::Quiet => "every row for what was read through stands beside its event",
            Invariant::Covered => "every note of what is complete has its range of dates",
        }
    }
}

/// What became of one invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub invariant: Invariant,
    /// How often it was looked at.
    pub checked: u64,
    /// How often it did not hold.
    pub violations: u64,
    /// The first few of these, in words.
    pub examples: Vec<String>,
}

impl Store {
    /// Checks all invariants of what lies on the disk on one consistent snapshot. `progress` hears how many events have been
    /// read, of how many, and may stop it: then there is no answer. As long as it goes on, LMDB can use
    /// no page again that is freed meanwhile, and a writer that finds the map full waits for the end.
    pub fn verify(
        &self,
        progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Finding>>, ReadError> {
        let snapshot = self.snapshot()?;
        Ok(Check { snapshot: &snapshot, findings: Findings::new() }.run(progress)?)
    }
}

type Result<T, E = heed::Error> = std::result::Result<T, E>;

/// A row of `events`.
type Row<'s> = (Seq, &'s [u8]);

struct Check<'s> {
    snapshot: &'s Snapshot<'s>,
    findings: Findings,
}

impl<'s> Check<'s> {
    fn run(
        mut self,
        mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Finding>>> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        let found = databases.numbers.get(txn, FORMAT_NAME)?;
        self.findings.note(Invariant::Format, found == Some(FORMAT), || format!("it is {found:?}"));
        let total =
            databases.events.len(txn)? + databases.kept.len(txn)? + databases.stubs.len(txn)?;
        let (mut from, mut done) = (0, 0);
        loop {
            let rows = self.rows_from(from)?;
            let Some((Seq(last), _)) = rows.last() else { break };
            (from, done) = (last + 1, done + rows.len() as u64);
            self.check_events(&rows)?;
            if progress(done, total).is_break() {
                return Ok(None);
            }
        }
        self.look_for_strays()?;
        self.check_queues()?;
        Ok(Some(self.findings.0))
    }

    fn rows_from(&self, from: u64) -> Result<Vec<Row<'s>>> {
        self.snapshot.in_order(Seq(from)..Seq(u64::MAX))?.take(BATCH_EVENTS).collect()
    }

    fn check_events(&mut self, rows: &[Row<'s>]) -> Result<()> {
        let next = self.snapshot.next_seq()?;
        for ((seq, bytes), fault) in rows.iter().zip(faults(rows)) {
            let is_sound = fault.is_none();
            self.findings.note(Invariant::Seqs, *seq < next, || format!("seq {seq}, next {next}"));
            self.findings.note(Invariant::Events, is_sound, || {
                format!("seq {seq}: {}", fault.unwrap_or_default())
            });
            // What cannot be read says nothing about its keys.
            if let Ok(event) = read(bytes) {
                self.check_place(*seq, event.is_stub())?;
                self.check_rows_of(*seq, &event)?;
                self.check_rules(*seq, &event.unpack())?;
            }
        }
        Ok(())
    }

    /// Whether an event is in the one tree where it should be, and whole if L2 could not give it back.
    fn check_place(&mut self, seq: Seq, is_stub: bool) -> Result<()> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        let is_in = |tree: &Database<'static, Number, Bytes>| {
            tree.get(txn, &seq.0).map(|bytes| u32::from(bytes.is_some()))
        };
        let (bodies, stubs) =
            (is_in(&databases.events)? + is_in(&databases.kept)?, is_in(&databases.stubs)?);
        let is_right = (bodies, stubs) == if is_stub { (0, 1) } else { (1, 0) };
        self.findings.note(Invariant::Places, is_right, || {
            format!("seq {seq}: {bodies} times among bodies, {stubs} times among stubs")
        });
        if is_stub {
            let is_only_here = databases.is_only_here(txn, seq)?;
            self.findings.note(Invariant::Stubs, !is_only_here, || format!("seq {seq} is a stub"));
        }
        Ok(())
    }

    /// Whether all that must point at an event does.
    fn check_rows_of(&mut self, seq: Seq, packed: &Packed<'_>) -> Result<()> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        let told = || format!("seq {seq}, event {}", packed.id());
        let found = databases.ids.get(txn, &packed.id().0)?;
        self.findings.note(Invariant::Ids, found == Some(seq.0), told);
        for (index, key) in keys_of(packed, seq) {
            let is_there = databases.of(index).get(txn, key.as_ref())?.is_some();
            self.findings.note(Invariant::Index(index), is_there, told);
        }
        let event = packed.unpack();
        if let Some(address) = event.address() {
            let found = databases.addresses.get(txn, &address_digest(&address))?;
            self.findings.note(Invariant::Addresses, found == Some(seq.0), told);
        }
        if let Some(date) = event.expiration() {
            let is_there = databases.expiries.get(txn, &expiry_key(date, seq))?.is_some();
            self.findings.note(Invariant::Expiries, is_there, told);
        }
        Ok(())
    }

    /// Whether the rules would let this event in once more, and its consequences are there.
    fn check_rules(&mut self, seq: Seq, event: &Event) -> Result<()> {
        let past = Past(self.snapshot);
        let verdict = judge(&past, event, Timestamp(0))?;
        let told = || format!("seq {seq}, event {}", event.id);
        let has_place = verdict != Verdict::Ephemeral && event.created_at <= CREATED_AT_MAX;
        self.findings.note(Invariant::Kinds, has_place, told);
        self.findings.note(Invariant::KeptOut, verdict != Verdict::Deleted, told);
        let Verdict::Save(Effects { address_tombstones, vanish, .. }) = verdict else {
            return Ok(());
        };
        for address in &address_tombstones {
            let has_date = past.deleted_until(address)? >= Some(event.created_at);
            self.findings.note(Invariant::Dates, has_date, told);
        }
        if let Some(vanish) = vanish {
            let has_date = past.vanished_until(&vanish.who)? >= Some(vanish.until);
            self.findings.note(Invariant::Dates, has_date, told);
        }
        Ok(())
    }

    /// Looks for rows that belong to no event, wherever there are more rows than events gave cause for.
    fn look_for_strays(&mut self) -> Result<()> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        if self.findings.expects_fewer(Invariant::Ids, databases.ids.len(txn)?) {
            self.look_for_stray_ids()?;
        }
        for index in Index::ALL {
            if self.findings.expects_fewer(Invariant::Index(index), databases.of(index).len(txn)?) {
                self.look_for_stray_keys(index)?;
            }
        }
        if self.findings.expects_fewer(Invariant::Addresses, databases.addresses.len(txn)?) {
            self.look_for_stray_addresses()?;
        }
        if self.findings.expects_fewer(Invariant::Expiries, databases.expiries.len(txn)?) {
            self.look_for_stray_expiries()?;
        }
        Ok(())
    }

    fn look_for_stray_ids(&mut self) -> Result<()> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        for row in databases.ids.iter(txn)? {
            let (id, seq) = row?;
            let is_right = self.event_at(seq)?.is_some_and(|event| event.id().0 == *id);
            self.findings.note_stray(Invariant::Ids, is_right, id, seq);
        }
        Ok(())
    }

    fn look_for_stray_keys(&mut self, index: Index) -> Result<()> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        for row in databases.of(index).iter(txn)? {
            let (key, ()) = row?;
            // A key ends in the seq.
            let seq = number(&key[key.len().saturating_sub(5)..]);
            let is_right = self.event_at(seq)?.is_some_and(|event| {
                keys_of(&event, Seq(seq)).contains(&(index, Key::from_bytes(key)))
            });
            self.findings.note_stray(Invariant::Index(index), is_right, key, seq);
        }
        Ok(())
    }

    fn look_for_stray_addresses(&mut self) -> Result<()> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        for row in databases.addresses.iter(txn)? {
            let (digest, seq) = row?;
            let address = self.event_at(seq)?.and_then(|event| event.unpack().address());
            let is_right = address.is_some_and(|address| address_digest(&address) == *digest);
            self.findings.note_stray(Invariant::Addresses, is_right, digest, seq);
        }
        Ok(())
    }

    fn look_for_stray_expiries(&mut self) -> Result<()> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        for row in databases.expiries.iter(txn)? {
            let (key, ()) = row?;
            let (date, Seq(seq)) = expiry_of(key);
            let is_right =
                self.event_at(seq)?.is_some_and(|event| expiration(&event) == Some(date));
            self.findings.note_stray(Invariant::Expiries, is_right, key, seq);
        }
        Ok(())
    }

    fn check_queues(&mut self) -> Result<()> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        let mut bytes = 0;
        for row in databases.outbox.iter(txn)? {
            let (seq, row) = row?;
            bytes += u64::from(OutboxRow::read(row).bytes);
            let is_held = self.event_at(seq)?.is_some();
            self.findings.note(Invariant::Outbox, is_held, || format!("seq {seq} is not held"));
        }
        let sum = databases.numbers.get(txn, OUTBOX_BYTES)?.unwrap_or(0);
        self.findings.note(Invariant::Outbox, sum == bytes, || format!("{sum} and not {bytes}"));
        for row in databases.aside.iter(txn)? {
            let (seq, _) = row?;
            let is_held = self.event_at(seq)?.is_some();
            self.findings.note(Invariant::Aside, is_held, || format!("seq {seq} is not held"));
            let waits = databases.outbox.get(txn, &seq)?.is_some();
            self.findings.note(Invariant::Aside, !waits, || format!("seq {seq} waits for L2, too"));
        }
        for row in databases.local.iter(txn)? {
            let (seq, ()) = row?;
            let is_held = self.event_at(seq)?.is_some();
            self.findings.note(Invariant::Local, is_held, || format!("seq {seq} is not held"));
            let waits = databases.outbox.get(txn, &seq)?.is_some()
                || databases.aside.get(txn, &seq)?.is_some();
            self.findings.note(Invariant::Local, !waits, || format!("seq {seq} waits for L2, too"));
        }
        for row in databases.tapped.iter(txn)? {
            let (seq, _) = row?;
            let is_held = self.event_at(seq)?.is_some();
            self.findings.note(Invariant::Tapped, is_held, || format!("seq {seq} is not held"));
            let is_ours = databases.outbox.get(txn, &seq)?.is_some()
                || databases.aside.get(txn, &seq)?.is_some()
                || databases.local.get(txn, &seq)?.is_some();
            self.findings.note(Invariant::Tapped, !is_ours, || format!("seq {seq} has two rows"));
        }
        for row in databases.served.iter(txn)? {
            let (seq, _) = row?;
            let is_held = self.event_at(seq)?.is_some();
            self.findings.note(Invariant::Served, is_held, || format!("seq {seq} is not held"));
        }
        for row in databases.quiet.iter(txn)? {
            let (seq, ()) = row?;
            let is_held = self.event_at(seq)?.is_some();
            self.findings.note(Invariant::Quiet, is_held, || format!("seq {seq} is not held"));
        }
        for row in databases.covered.iter(txn)? {
            let (name, range) = row?;
            let is_range = Range::read(range).is_some_and(|range| range.from <= range.until);
            self.findings.note(Invariant::Covered, is_range && name.len() == 16, || {
                format!("a name of {} bytes, a range of {}", name.len(), range.len())
            });
        }
        Ok(())
    }

    fn event_at(&self, seq: u64) -> Result<Option<Packed<'s>>> {
        let Snapshot { databases, txn, .. } = self.snapshot;
        let bytes = databases.bytes_at(txn, Seq(seq))?;
        Ok(bytes.and_then(|bytes| Packed::trusted(bytes).ok()))
    }
}

/// What was found so far, in the order of [`Invariant::ALL`].
struct Findings(Vec<Finding>);

impl Findings {
    fn new() -> Findings {
        let finding =
            |invariant| Finding { invariant, checked: 0, violations: 0, examples: Vec::new() };
        Findings(Invariant::ALL.map(finding).into())
    }

    fn of(&mut self, invariant: Invariant) -> &mut Finding {
        let mut findings = self.0.iter_mut();
        findings.find(|finding| finding.invariant == invariant).expect("there is one for each")
    }

    fn note(&mut self, invariant: Invariant, holds: bool, example: impl FnOnce() -> String) {
        let finding = self.of(invariant);
        finding.checked += 1;
        if !holds {
            finding.violations += 1;
            if finding.examples.len() < EXAMPLES_MAX {
                finding.examples.push(example());
            }
        }
    }

    /// Whether a database has more rows than were found for events.
    fn expects_fewer(&mut self, invariant: Invariant, rows: u64) -> bool {
        let finding = self.of(invariant);
        rows > finding.checked - finding.violations
    }

    fn note_stray(&mut self, invariant: Invariant, is_right: bool, key: &[u8], seq: u64) {
        if !is_right {
            let hex = |byte: &u8| format!("{byte:02x}");
            let key: String = key.iter().map(hex).collect();
            self.note(invariant, false, || format!("a row for seq {seq} belongs to none: {key}"));
        }
    }
}

/// What is wrong with each of these events in itself, found on all cores.
fn faults(rows: &[Row<'_>]) -> Vec<Option<String>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = rows.len().div_ceil(cores).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> =
            rows.chunks(share).map(|rows| scope.spawn(move || faults_of(rows))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("checking does not panic")).collect()
    })
}

fn faults_of(rows: &[Row<'_>]) -> Vec<Option<String>> {
    let fault = |(_, bytes): &Row<'_>| match read(bytes) {
        // What a stub's author signed is not here.
        Ok(packed) if packed.is_stub() => None,
        Ok(packed) => verify(packed.unpack()).err().map(|invalid| invalid.to_string()),
        Err(error) => Some(error.to_string()),
    };
    rows.iter().map(fault).collect()
}

/// An event, every byte of it checked, or a stub.
fn read(bytes: &[u8]) -> Result<Packed<'_>, PackedError> {
    match Packed::trusted(bytes) {
        Ok(packed) if packed.is_stub() => Ok(packed),
        _ => Packed::parse(bytes),
    }
}

/// A big-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
