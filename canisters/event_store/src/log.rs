//! The log: everything that happened to the store, in order, for ever.
//!
//! ```text
//! entries   "AQL" | version 1 | length 8 | data_end 8 | cleared 8 | wiped 8 | unused 28 | entry 16 ...
//! entry     kind 1 | arrived 5 | offset 6 | length 4              numbers are little-endian
//! data      saved: the packed event    removed: id 32 | why       at the entry's offset
//! ```
//! Relays follow the store by this log, so entries are never taken out. When an event goes, its
//! entry turns to [`Kind::Gone`] and its body to zeros; the version byte and the id stay, so that
//! every place in the log keeps its identity. When the whole store is emptied, all entries before that
//! (below `cleared`) are gone at once; their bodies are wiped bit by bit, so far up to `wiped`. `ic_stable_structures::Log` can neither erase nor say
//! when an entry arrived, hence a log of our own. It costs about 1.5 k instructions to append to.

use event::EventId;
use ic_stable_structures::Memory;
use index::Seq;

const MAGIC: [u8; 4] = *b"AQL\x01";
const HEADER_BYTES: u64 = 64;
const ENTRY_BYTES: usize = 16;
/// Of a packed event: its version byte and its id.
const IDENTITY_BYTES: usize = 33;
const PAGE_BYTES: u64 = 65_536;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event was saved, and is held.
    Saved,
    /// An event was saved, and was removed later.
    Gone,
    /// An event was removed; the data says which and why.
    Removed,
    /// The whole store was emptied.
    Cleared,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Saved => 1,
            Kind::Gone => 2,
            Kind::Removed => 3,
            Kind::Cleared => 4,
        }
    }

    fn of_byte(byte: u8) -> Kind {
        match byte {
            1 => Kind::Saved,
            2 => Kind::Gone,
            3 => Kind::Removed,
            4 => Kind::Cleared,
            other => panic!("log entries of kind {other} were written by a newer version"),
        }
    }
}

/// One entry; its data is read when asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// When it was written, in unix seconds. Never less than the entry before has.
    pub arrived: u64,
    offset: u64,
    length: u32,
}

impl Entry {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[0] = self.kind.byte();
        bytes[1..6].copy_from_slice(&self.arrived.to_le_bytes()[..5]);
        bytes[6..12].copy_from_slice(&self.offset.to_le_bytes()[..6]);
        bytes[12..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    fn of_bytes(bytes: [u8; ENTRY_BYTES]) -> Entry {
        Entry {
            kind: Kind::of_byte(bytes[0]),
            arrived: number(&bytes[1..6]),
            offset: number(&bytes[6..12]),
            length: number(&bytes[12..]) as u32,
        }
    }
}

fn number(little_endian: &[u8]) -> u64 {
    little_endian.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

pub struct Log<M> {
    entries: M,
    data: M,
    // The rest is a copy of the header, so that reading costs no look at it.
    length: u64,
    data_end: u64,
    cleared: u64,
    wiped: u64,
    arrived_last: u64,
}

impl<M: Memory> Log<M> {
    /// Opens the log in these memories, or begins one where they are empty.
    pub fn open(entries: M, data: M) -> Log<M> {
        let mut log =
            Log { entries, data, length: 0, data_end: 0, cleared: 0, wiped: 0, arrived_last: 0 };
        if log.entries.size() == 0 {
            log.write_header();
            return log;
        }
        let mut header = [0; 36];
        log.entries.read(0, &mut header);
        assert_eq!(header[..4], MAGIC, "there is no log of a version known here");
        log.length = number(&header[4..12]);
        log.data_end = number(&header[12..20]);
        log.cleared = number(&header[20..28]);
        log.wiped = number(&header[28..]);
        assert!(log.data_end <= log.data.size() * PAGE_BYTES, "the log's data is cut off");
        log.arrived_last = match log.length.checked_sub(1) {
            Some(last) => log.entry(Seq(last)).expect("it is below the length").arrived,
            None => 0,
        };
        log
    }

    /// How many entries it has: the seq of the next.
    pub fn length(&self) -> Seq {
        Seq(self.length)
    }

    pub fn append_saved(&mut self, packed: &[u8], now: u64) -> Seq {
        self.append(Kind::Saved, packed, now)
    }

    pub fn append_removed(&mut self, id: &EventId, why: &str, now: u64) -> Seq {
        self.append(Kind::Removed, &[&id.0, why.as_bytes()].concat(), now)
    }

    /// Says that all there was is gone, and makes it so. The bodies are still to be wiped.
    pub fn append_cleared(&mut self, now: u64) -> Seq {
        let seq = self.append(Kind::Cleared, &[], now);
        self.cleared = seq.0;
        self.write_header();
        seq
    }

    pub fn entry(&self, seq: Seq) -> Option<Entry> {
        let entry = self.entry_as_written(seq)?;
        let is_cleared = entry.kind == Kind::Saved && seq.0 < self.cleared;
        Some(if is_cleared { Entry { kind: Kind::Gone, ..entry } } else { entry })
    }

    fn entry_as_written(&self, seq: Seq) -> Option<Entry> {
        if seq.0 >= self.length {
            return None;
        }
        let mut bytes = [0; ENTRY_BYTES];
        self.entries.read(place_of(seq), &mut bytes);
        Some(Entry::of_bytes(bytes))
    }

    /// The data of an entry.
    pub fn data(&self, entry: &Entry) -> Vec<u8> {
        self.start_of_data(entry, usize::MAX)
    }

    /// The data of an entry, cut after `bytes_max`.
    pub fn start_of_data(&self, entry: &Entry, bytes_max: usize) -> Vec<u8> {
        let length = (entry.length as usize).min(bytes_max);
        let mut bytes = Vec::with_capacity(length);
        // SAFETY: the buffer has room for `length` bytes, and reading fills all of them. To fill it with
        // zeros first would cost as much as reading.
        unsafe {
            self.data.read_unsafe(entry.offset, bytes.as_mut_ptr(), length);
            bytes.set_len(length);
        }
        bytes
    }

    /// The id of the event that an entry saved, whether it is still held or not.
    pub fn id(&self, entry: &Entry) -> EventId {
        let identity = self.start_of_data(entry, IDENTITY_BYTES);
        EventId(identity[1..].try_into().expect("an event has a whole identity"))
    }

    /// The id of the event that the entry at `seq` saved. There must be one.
    pub fn id_at(&self, seq: Seq) -> EventId {
        self.id(&self.entry(seq).expect("keys lead to entries"))
    }

    /// Turns a saved entry to a gone one, and overwrites all of its event but the identity.
    pub fn erase(&mut self, seq: Seq) {
        let entry = self.entry_as_written(seq).filter(|entry| entry.kind == Kind::Saved);
        let Some(entry) = entry else { return };
        let zeros = vec![0; (entry.length as usize).saturating_sub(IDENTITY_BYTES)];
        self.data.write(entry.offset + IDENTITY_BYTES as u64, &zeros);
        self.entries.write(place_of(seq), &Entry { kind: Kind::Gone, ..entry }.to_bytes());
    }

    /// Whether bodies are left that a clearing has to wipe.
    pub fn is_to_be_wiped(&self) -> bool {
        self.wiped < self.cleared
    }

    /// Wipes the bodies of cleared events, as long as `may_go_on`.
    pub fn wipe(&mut self, may_go_on: impl Fn() -> bool) {
        if !self.is_to_be_wiped() {
            return;
        }
        while self.is_to_be_wiped() && may_go_on() {
            self.erase(Seq(self.wiped));
            self.wiped += 1;
        }
        self.write_header();
    }

    /// The first entry that arrived at `time` or later.
    pub fn first_arrived_at(&self, time: u64) -> Seq {
        let (mut low, mut high) = (0, self.length);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(Seq(middle)) {
                Some(entry) if entry.arrived < time => low = middle + 1,
                _ => high = middle,
            }
        }
        Seq(low)
    }

    fn append(&mut self, kind: Kind, data: &[u8], now: u64) -> Seq {
        let seq = self.length();
        // The search by arrival needs an order that no clock is asked to promise.
        self.arrived_last = self.arrived_last.max(now);
        let length = u32::try_from(data.len()).expect("a message is far below 4 GiB");
        let entry = Entry { kind, arrived: self.arrived_last, offset: self.data_end, length };
        write(&self.data, entry.offset, data);
        write(&self.entries, place_of(seq), &entry.to_bytes());
        self.length += 1;
        self.data_end += u64::from(length);
        self.write_header();
        seq
    }

    fn write_header(&self) {
        let numbers = [self.length, self.data_end, self.cleared, self.wiped];
        let numbers = numbers.map(u64::to_le_bytes).concat();
        write(&self.entries, 0, &[&MAGIC[..], &numbers].concat());
    }
}

fn place_of(seq: Seq) -> u64 {
    HEADER_BYTES + seq.0 * ENTRY_BYTES as u64
}

/// Writes, and grows the memory first where that is needed. A canister that cannot grow traps: the
/// message is undone as a whole.
pub fn write(memory: &impl Memory, offset: u64, bytes: &[u8]) {
    let pages = (offset + bytes.len() as u64).div_ceil(PAGE_BYTES);
    let missing = pages.saturating_sub(memory.size());
    assert!(missing == 0 || memory.grow(missing) >= 0, "out of stable memory");
    memory.write(offset, bytes);
}

#[cfg(test)]
mod tests {
    use event::twin::Author;
    use ic_stable_structures::VectorMemory;

    use super::*;

    fn log_of_three() -> (Log<VectorMemory>, [VectorMemory; 2], Vec<u8>) {
        let memories = [VectorMemory::default(), VectorMemory::default()];
        let mut log = Log::open(memories[0].clone(), memories[1].clone());
        let packed = Author::new(1).sign(5, 1, &[], "secret").pack();
        assert_eq!(log.append_saved(&packed, 10), Seq(0));
        assert_eq!(log.append_removed(&EventId([7; 32]), "deleted", 12), Seq(1));
        // A clock that goes back.
        assert_eq!(log.append_saved(&packed, 11), Seq(2));
        (log, memories, packed)
    }

    #[test]
    fn what_was_appended_is_read_back_after_reopening() {
        let (_, [entries, data], packed) = log_of_three();
        let log = Log::open(entries, data);
        assert_eq!(log.length(), Seq(3));
        let entry = log.entry(Seq(0)).unwrap();
        assert_eq!((entry.kind, entry.arrived, log.data(&entry)), (Kind::Saved, 10, packed));
        let entry = log.entry(Seq(1)).unwrap();
        assert_eq!((entry.kind, entry.arrived), (Kind::Removed, 12));
        assert_eq!(log.data(&entry), [&[7; 32][..], b"deleted"].concat());
        assert_eq!(log.entry(Seq(3)), None);
    }

    #[test]
    fn an_erased_event_leaves_its_identity_and_nothing_else() {
        let (mut log, [_, data], packed) = log_of_three();
        log.erase(Seq(0));
        let entry = log.entry(Seq(0)).unwrap();
        assert_eq!((entry.kind, entry.arrived), (Kind::Gone, 10));
        let body = log.data(&entry);
        assert_eq!(body[..33], packed[..33]);
        assert!(body[33..].iter().all(|byte| *byte == 0));
        assert_eq!(log.id(&entry).0, packed[1..33]);
        log.erase(Seq(2));
        assert!(!data.borrow().windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn a_cleared_log_keeps_identities_and_is_wiped_bit_by_bit() {
        let (mut log, [entries, data], packed) = log_of_three();
        assert_eq!(log.append_cleared(20), Seq(3));
        assert_eq!(log.append_saved(&packed, 21), Seq(4));
        let kinds = |log: &Log<VectorMemory>| {
            (0..5).map(|seq| log.entry(Seq(seq)).unwrap().kind).collect::<Vec<_>>()
        };
        let expected = [Kind::Gone, Kind::Removed, Kind::Gone, Kind::Cleared, Kind::Saved];
        assert_eq!(kinds(&log), expected);
        let secrets = || data.borrow().windows(6).filter(|window| window == b"secret").count();
        assert_eq!(secrets(), 3);
        let steps = std::cell::Cell::new(0);
        log.wipe(|| steps.replace(steps.get() + 1) < 1);
        assert_eq!(secrets(), 2);
        let mut log = Log::open(entries, data.clone());
        assert!(log.is_to_be_wiped());
        log.wipe(|| true);
        assert_eq!((secrets(), log.is_to_be_wiped()), (1, false));
        assert_eq!(kinds(&log), expected);
        assert_eq!(log.id(&log.entry(Seq(0)).unwrap()).0, packed[1..33]);
    }

    #[test]
    fn arrivals_are_found_although_a_clock_went_back() {
        let (log, _, _) = log_of_three();
        let found = [0, 10, 11, 12, 13].map(|time| log.first_arrived_at(time).0);
        assert_eq!(found, [0, 0, 1, 1, 3]);
    }

    #[test]
    fn the_layout_of_version_1_stays() {
        let (_, [entries, _], packed) = log_of_three();
        let length = packed.len() as u8;
        let data_end = (2 * packed.len() + 39) as u16;
        let bytes = entries.borrow();
        assert_eq!(bytes[..12], *b"AQL\x01\x03\0\0\0\0\0\0\0");
        assert_eq!(bytes[12..14], data_end.to_le_bytes());
        assert!(bytes[14..64].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[64..80], [1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, length, 0, 0, 0]);
        assert_eq!(bytes[80..96], [3, 12, 0, 0, 0, 0, length, 0, 0, 0, 0, 0, 39, 0, 0, 0]);
    }
}
