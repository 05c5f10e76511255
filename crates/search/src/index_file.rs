//! The LMDB file: what is in it, and what a commit does.
//!
//! ```text
//! postings    segment 4 | word            → chunk of postings        see `postings`
//! segments    first document 4            → id 4 | end 4 | documents 4 | gone 4 | length 8
//! documents   document 4                  → seq 5 | created_at 5 | kind 2 | length class 1 | id 6
//! unread      seq 8                       →                          only a stub was there to be read
//! numbers     name                        → number 8                 position, next segment
//! texts       name                        → text                     the stamp
//! ```
//! Numbers are big-endian. Of an id six bytes stand here: enough to order equals, and to notice that the
//! store holds another event at this seq.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use event::{EventId, Kind, Timestamp};
use heed::{
    CommitOrAbort, CommitToken, Database, DatabaseOpener, Env, EnvOpenOptions, OnCommit, PutFlags,
    RoTxn, RwTxn, WithoutTls,
    byteorder::BigEndian,
    types::{Bytes, Str, U32, U64, Unit},
};
use index::Seq;
use tracing::{info, warn};

use crate::{
    Document, Scale, Weight,
    postings::{Chunks, SegmentId, chunk_key},
    weight::{length_class, length_of},
};

/// Another number means other rules of what words are, or another layout.
const FORMAT: u32 = 1;
/// Address space, not disk. It suffices for some hundreds of millions of events.
const MAP_BYTES: usize = 64 << 30;
/// With less address space there is no point.
const MAP_BYTES_MIN: usize = 64 << 20;
const READERS_MAX: u32 = 256;
const DATABASES: u32 = 8;

const POSITION: &str = "position";
const NEXT_SEGMENT: &str = "next segment";
const STAMP: &str = "stamp";

/// Why the index cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file, or the disk, is damaged or full.
    #[error("the index of words: {0}")]
    Failed(#[from] heed::Error),
    #[error("the folder of the index of words: {0}")]
    Folder(#[from] io::Error),
}

/// The index in a folder. Clones are not needed: it is shared behind an `Arc`, one thread writes.
pub struct Index {
    pub(crate) env: Env<WithoutTls>,
    pub(crate) databases: Databases<'static>,
    folder: PathBuf,
}

pub(crate) struct Databases<'e> {
    pub postings: Database<'e, Bytes, Bytes>,
    pub segments: Database<'e, U32<BigEndian>, Bytes>,
    pub documents: Database<'e, U32<BigEndian>, Bytes>,
    unread: Database<'e, U64<BigEndian>, Unit>,
    pub numbers: Database<'e, Str, U64<BigEndian>>,
    texts: Database<'e, Str, Str>,
}

impl OnCommit for Databases<'_> {
    type Committed = Databases<'static>;

    fn on_commit(self, token: &CommitToken) -> Databases<'static> {
        Databases {
            postings: self.postings.on_commit(token),
            segments: self.segments.on_commit(token),
            documents: self.documents.on_commit(token),
            unread: self.unread.on_commit(token),
            numbers: self.numbers.on_commit(token),
            texts: self.texts.on_commit(token),
        }
    }
}

fn create<'e>(
    opener: &DatabaseOpener<'e, WithoutTls>,
    txn: &mut RwTxn<'e>,
) -> Result<Databases<'e>, heed::Error> {
    Ok(Databases {
        postings: opener.create_database(txn, Some("postings"))?,
        segments: opener.create_database(txn, Some("segments"))?,
        documents: opener.create_database(txn, Some("documents"))?,
        unread: opener.create_database(txn, Some("unread"))?,
        numbers: opener.create_database(txn, Some("numbers"))?,
        texts: opener.create_database(txn, Some("texts"))?,
    })
}

/// What happened in the store.
#[derive(Default)]
pub struct Batch {
    /// What is to be found from now on.
    pub documents: Vec<(Seq, Document)>,
    /// Documents whose events the store no longer holds.
    pub gone: Vec<Place>,
    /// Where only a stub was found, which may get its body back.
    pub unread: Vec<Seq>,
    /// What was unread before, and was read now, or is gone.
    pub read: Vec<Seq>,
    /// Everything in the store before this has been read.
    pub position: Seq,
}

/// The number of a document. It rises as documents come, and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub(crate) u32);

impl Place {
    pub const FIRST: Place = Place(0);

    pub fn next(self) -> Place {
        Place(self.0 + 1)
    }
}

/// A few numbers about the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events that can be found.
    pub documents: u64,
    /// Events that could not be read, because only a stub is held of them.
    pub unread: u64,
    pub segments: u64,
    /// Size of the file.
    pub bytes_on_disk: u64,
    /// What of it is in use.
    pub bytes_in_use: u64,
}

impl Index {
    /// Opens the index in `folder`. If there is none, or it has another stamp or is damaged, it begins
    /// anew, at the store's first event.
    pub fn open(folder: &Path, stamp: &str) -> Result<Index, Error> {
        let stamp = format!("{FORMAT} {stamp}");
        match Index::open_as(folder, &stamp) {
            Ok(Some(index)) => return Ok(index),
            Ok(None) => {}
            Err(cause) => warn!(%cause, "the index of words cannot be used"),
        }
        info!("the index of words begins anew");
        remove(folder)?;
        let index = Index::open_as(folder, &stamp)?;
        index.ok_or_else(|| io::Error::other("a new index has another stamp").into())
    }

    /// None: it has another stamp.
    fn open_as(folder: &Path, stamp: &str) -> Result<Option<Index>, Error> {
        fs::create_dir_all(folder)?;
        let env = open_env(folder)?;
        let txn = env.write_txn()?;
        let created = env.create_databases_and_commit(txn, |opener, txn| {
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(create(opener, txn)?))
        })?;
        let CommitOrAbort::Commit(databases) = created else {
            unreachable!("nothing above aborts")
        };
        let index = Index { env, databases, folder: folder.to_owned() };
        let mut txn = index.env.write_txn()?;
        match index.databases.texts.get(&txn, STAMP)? {
            Some(found) if found == stamp => {}
            Some(_) => return Ok(None),
            None => {
                index.databases.texts.put(&mut txn, STAMP, stamp)?;
                txn.commit()?;
                return Ok(Some(index));
            }
        }
        drop(txn);
        Ok(Some(index))
    }

    /// Removes the files. What was opened goes on with what it has; the next to open begins anew.
    pub fn discard(&self) -> Result<(), Error> {
        Ok(remove(&self.folder)?)
    }

    /// Everything in the store before this has been read.
    pub fn position(&self) -> Result<Seq, Error> {
        let txn = self.env.read_txn()?;
        Ok(Seq(self.databases.numbers.get(&txn, POSITION)?.unwrap_or(0)))
    }

    /// Writes a batch: durable when it returns.
    pub fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let mut txn = self.env.write_txn()?;
        let Databases { unread, numbers, .. } = &self.databases;
        for seq in &batch.read {
            unread.delete(&mut txn, &seq.0)?;
        }
        for seq in &batch.unread {
            unread.put(&mut txn, &seq.0, &())?;
        }
        self.forget(&mut txn, &batch.gone)?;
        self.add_segment(&mut txn, &batch.documents)?;
        numbers.put(&mut txn, POSITION, &batch.position.0)?;
        Ok(txn.commit()?)
    }

    /// The first of all documents from `from` on, with their events.
    pub fn documents(&self, from: Place, count: usize) -> Result<Vec<(Place, Hit)>, Error> {
        let txn = self.env.read_txn()?;
        let rows = self.databases.documents.range(&txn, &(from.0..))?.take(count);
        let read = rows.map(|row| row.map(|(at, row)| (Place(at), Row::read(row).hit())));
        Ok(read.collect::<Result<_, _>>()?)
    }

    /// The documents that came last.
    pub fn newest(&self, count: usize) -> Result<Vec<Hit>, Error> {
        let txn = self.env.read_txn()?;
        let rows = self.databases.documents.rev_iter(&txn)?.take(count);
        Ok(rows.map(|row| row.map(|(_, row)| Row::read(row).hit())).collect::<Result<_, _>>()?)
    }

    /// The first of what could not be read, from `from` on.
    pub fn unread(&self, from: Seq, count: usize) -> Result<Vec<Seq>, Error> {
        let txn = self.env.read_txn()?;
        let rows = self.databases.unread.range(&txn, &(from.0..))?.take(count);
        Ok(rows.map(|row| row.map(|(seq, ())| Seq(seq))).collect::<Result<_, _>>()?)
    }

    /// Numbers for people and dashboards.
    pub fn figures(&self) -> Result<Figures, Error> {
        let txn = self.env.read_txn()?;
        let Databases { postings, segments, documents, unread, numbers, texts } = &self.databases;
        let pages = postings.stat(&txn)?.non_free_page_size()
            + segments.stat(&txn)?.non_free_page_size()
            + documents.stat(&txn)?.non_free_page_size()
            + unread.stat(&txn)?.non_free_page_size()
            + numbers.stat(&txn)?.non_free_page_size()
            + texts.stat(&txn)?.non_free_page_size();
        Ok(Figures {
            documents: documents.len(&txn)?,
            unread: unread.len(&txn)?,
            segments: segments.len(&txn)?,
            bytes_on_disk: self.env.real_disk_size()?,
            bytes_in_use: pages as u64,
        })
    }

    /// Takes the rows of documents away, and counts them in their segments.
    fn forget(&self, txn: &mut RwTxn<'_>, gone: &[Place]) -> Result<(), heed::Error> {
        let Databases { documents, segments, .. } = &self.databases;
        for place in gone {
            if !documents.delete(txn, &place.0)? {
                continue;
            }
            let found = segments.get_lower_than_or_equal_to(txn, &place.0)?;
            let Some((first, bytes)) = found else { continue };
            let mut segment = Segment::read(first, bytes);
            segment.gone += 1;
            segments.put(txn, &first, &segment.bytes())?;
        }
        Ok(())
    }

    /// Writes documents as one segment behind all others.
    fn add_segment(
        &self,
        txn: &mut RwTxn<'_>,
        documents: &[(Seq, Document)],
    ) -> Result<(), heed::Error> {
        if documents.is_empty() {
            return Ok(());
        }
        let (first, mut scale) = (self.end(txn)?, Scale::default());
        let mut words: HashMap<&str, Vec<(u32, Weight)>> = HashMap::new();
        for (number, (seq, document)) in documents.iter().enumerate() {
            let number = number as u32;
            let row = Row::of(*seq, document);
            let at = first
                .checked_add(number)
                .ok_or_else(|| full("no more documents can be told apart"))?;
            self.databases.documents.put_with_flags(txn, PutFlags::APPEND, &at, &row.bytes())?;
            scale = scale.with(document.length);
            for (word, times) in &document.words {
                let weight = Weight::new(*times, document.length);
                words.entry(word).or_default().push((number, weight));
            }
        }
        let mut words: Vec<_> = words.into_iter().collect();
        words.sort_unstable_by_key(|(word, _)| *word);
        let id = self.next_segment(txn)?;
        for (word, postings) in words {
            let mut chunks = Chunks::new();
            for posting in postings {
                chunks.add(posting, |number, chunk| self.append(txn, id, word, number, chunk))?;
            }
            chunks.end(|number, chunk| self.append(txn, id, word, number, chunk))?;
        }
        let end = first + documents.len() as u32;
        self.databases.segments.put(
            txn,
            &first,
            &Segment { first, id, end, gone: 0, scale }.bytes(),
        )
    }

    /// Writes a chunk behind all others: later segments have higher ids.
    pub(crate) fn append(
        &self,
        txn: &mut RwTxn<'_>,
        segment: SegmentId,
        word: &str,
        number: u16,
        chunk: &[u8],
    ) -> Result<(), heed::Error> {
        let key = chunk_key(segment, word, number);
        self.databases.postings.put_with_flags(txn, PutFlags::APPEND, &key, chunk)
    }

    /// An id for a segment that is written in this transaction.
    pub(crate) fn next_segment(&self, txn: &mut RwTxn<'_>) -> Result<SegmentId, heed::Error> {
        let numbers = &self.databases.numbers;
        let id = numbers.get(txn, NEXT_SEGMENT)?.unwrap_or(0);
        numbers.put(txn, NEXT_SEGMENT, &(id + 1))?;
        Ok(SegmentId(u32::try_from(id).map_err(|_| full("no more segments can be told apart"))?))
    }

    /// All segments, the oldest first.
    pub(crate) fn segments(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
    ) -> Result<Vec<Segment>, heed::Error> {
        let rows = self.databases.segments.iter(txn)?;
        rows.map(|row| row.map(|(first, bytes)| Segment::read(first, bytes))).collect()
    }

    /// The number that the next document gets.
    fn end(&self, txn: &RoTxn<'_, WithoutTls>) -> Result<u32, heed::Error> {
        let last = self.databases.segments.last(txn)?;
        Ok(last.map_or(0, |(first, bytes)| Segment::read(first, bytes).end))
    }
}

/// Documents that were written together, and what there is to count of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub first: u32,
    pub id: SegmentId,
    /// Behind its last.
    pub end: u32,
    /// Those of them that are gone, and whose postings are still there.
    pub gone: u32,
    /// With those that are gone.
    pub scale: Scale,
}

impl Segment {
    pub fn read(first: u32, bytes: &[u8]) -> Segment {
        let number = |at: usize| u32_at(bytes, at);
        let length = u64::from(number(16)) << 32 | u64::from(number(20));
        let scale = Scale { documents: number(8).into(), length };
        Segment { first, id: SegmentId(number(0)), end: number(4), gone: number(12), scale }
    }

    pub fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..4].copy_from_slice(&self.id.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.end.to_be_bytes());
        bytes[8..12].copy_from_slice(&(self.scale.documents as u32).to_be_bytes());
        bytes[12..16].copy_from_slice(&self.gone.to_be_bytes());
        bytes[16..].copy_from_slice(&self.scale.length.to_be_bytes());
        bytes
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    four.map_or(0, u32::from_be_bytes)
}

/// What is known of a document beside its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub seq: Seq,
    pub created_at: Timestamp,
    pub kind: Kind,
    length_class: u8,
    pub id_start: [u8; 6],
}

/// An event that was found: where it is, and how its id begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub seq: Seq,
    pub id_start: [u8; 6],
}

impl Hit {
    /// Whether this is the event that was read.
    pub fn is(&self, id: &EventId) -> bool {
        id.0.starts_with(&self.id_start)
    }
}

impl Row {
    fn of(seq: Seq, document: &Document) -> Row {
        let (id_start, _) = document.id.0.split_first_chunk().expect("an id is longer");
        Row {
            seq,
            created_at: document.created_at.min(index::CREATED_AT_MAX),
            kind: document.kind,
            length_class: length_class(document.length),
            id_start: *id_start,
        }
    }

    pub fn read(bytes: &[u8]) -> Row {
        let number = |at: usize, count: usize| {
            let bytes = bytes.get(at..at + count).unwrap_or_default();
            bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let id_start = bytes.get(13..19).and_then(|bytes| bytes.try_into().ok());
        Row {
            seq: Seq(number(0, 5)),
            created_at: Timestamp(number(5, 5)),
            kind: Kind(number(10, 2) as u16),
            length_class: number(12, 1) as u8,
            id_start: id_start.unwrap_or_default(),
        }
    }

    fn bytes(&self) -> [u8; 19] {
        let mut bytes = [0; 19];
        bytes[..5].copy_from_slice(&self.seq.0.to_be_bytes()[3..]);
        bytes[5..10].copy_from_slice(&self.created_at.0.to_be_bytes()[3..]);
        bytes[10..12].copy_from_slice(&self.kind.0.to_be_bytes());
        bytes[12] = self.length_class;
        bytes[13..].copy_from_slice(&self.id_start);
        bytes
    }

    /// As many words as it counts for.
    pub fn length(&self) -> u32 {
        length_of(self.length_class)
    }

    pub fn hit(&self) -> Hit {
        Hit { seq: self.seq, id_start: self.id_start }
    }
}

fn full(what: &'static str) -> heed::Error {
    heed::Error::Io(io::Error::other(what))
}

fn open_env(folder: &Path) -> Result<Env<WithoutTls>, heed::Error> {
    let mut map_bytes = MAP_BYTES;
    loop {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_bytes).max_dbs(DATABASES).max_readers(READERS_MAX);
        // SAFETY: nobody writes to the file but through LMDB: the folder is a relay's own, whose store is
        // locked for its process, and heed refuses to open it twice in one.
        match unsafe { options.open(folder) } {
            Err(heed::Error::Io(cause))
                if cause.kind() == io::ErrorKind::OutOfMemory && map_bytes > MAP_BYTES_MIN =>
            {
                map_bytes /= 2;
            }
            Ok(env) => {
                // A process that was killed while it read would keep pages from being used again.
                env.clear_stale_readers()?;
                return Ok(env);
            }
            Err(cause) => return Err(cause),
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let row = Row {
            seq: Seq(0x01_0203_0405),
            created_at: Timestamp(1_700_000_000),
            kind: Kind(30_023),
            length_class: 31,
            id_start: [1, 2, 3, 4, 5, 6],
        };
        assert_eq!(Row::read(&row.bytes()), row);
        let scale = Scale { documents: 3, length: 1 << 40 };
        let segment = Segment { first: 9, id: SegmentId(7), end: 12, gone: 1, scale };
        assert_eq!(Segment::read(9, &segment.bytes()), segment);
    }
}
