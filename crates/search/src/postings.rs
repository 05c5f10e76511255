//! Which documents of a segment hold one word, in chunks of the size that LMDB packs best.
//!
//! ```text
//! chunk:   count | first | weight 1 | postings
//! posting: by how much more than the one before | weight 1
//! ```
//! Documents are counted from the first of their segment; numbers are LEB128 varints. The first chunk of
//! a word lies at `segment 4 | word`, the others at `segment 4 | word | 0 | number 2`. No word has a zero
//! byte, so they follow the first.

use crate::{Weight, words::WORD_BYTES_MAX};

/// LMDB puts two of them, with their heads and keys, into one page of 4096 bytes.
const CHUNK_BYTES_MAX: usize = 1_900;

/// The number of a segment, in its keys. Later ones are higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

impl SegmentId {
    pub fn next(self) -> SegmentId {
        SegmentId(self.0 + 1)
    }
}

/// A document as counted from the first of its segment, and what the word counts for there.
pub type Posting = (u32, Weight);

/// The first key of a word in a segment.
pub fn first_key(segment: SegmentId, word: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + WORD_BYTES_MAX + 3);
    key.extend_from_slice(&segment.0.to_be_bytes());
    key.extend_from_slice(word.as_bytes());
    key
}

/// The last key that a word can have.
pub fn last_key(segment: SegmentId, word: &str) -> Vec<u8> {
    key_of(segment, word, u16::MAX)
}

fn key_of(segment: SegmentId, word: &str, chunk: u16) -> Vec<u8> {
    let mut key = first_key(segment, word);
    if chunk > 0 {
        key.push(0);
        key.extend_from_slice(&chunk.to_be_bytes());
    }
    key
}

/// The word in a key.
pub fn word_of(key: &[u8]) -> &[u8] {
    let rest = key.get(4..).unwrap_or_default();
    rest.iter().position(|byte| *byte == 0).map_or(rest, |end| &rest[..end])
}

/// How many postings a chunk has.
pub fn count_of(chunk: &[u8]) -> u64 {
    let mut chunk = chunk;
    u64::from(number(&mut chunk).unwrap_or(0))
}

/// Reads a chunk. A damaged one ends early.
pub fn postings_of(chunk: &[u8]) -> impl Iterator<Item = Posting> {
    let mut rest = chunk;
    let count = number(&mut rest).unwrap_or(0);
    let mut document = 0u32;
    (0..count).map_while(move |_| {
        document = document.wrapping_add(number(&mut rest)?);
        let (weight, after) = rest.split_first()?;
        rest = after;
        Some((document, Weight(*weight)))
    })
}

/// Writes the postings of one word, which come in order, chunk by chunk.
pub struct Chunks {
    chunk: Vec<u8>,
    count: u32,
    last: u32,
    number: u16,
}

impl Chunks {
    pub fn new() -> Chunks {
        Chunks { chunk: Vec::with_capacity(CHUNK_BYTES_MAX), count: 0, last: 0, number: 0 }
    }

    /// Adds a posting; `write` is given a chunk that is full.
    pub fn add<E>(
        &mut self,
        (document, weight): Posting,
        write: impl FnOnce(u16, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // A posting takes six bytes at most, and the count three.
        if self.chunk.len() + 9 > CHUNK_BYTES_MAX {
            self.end(write)?;
        }
        write_number(&mut self.chunk, document - self.last);
        self.chunk.push(weight.0);
        self.last = document;
        self.count += 1;
        Ok(())
    }

    /// Writes what there is.
    pub fn end<E>(&mut self, write: impl FnOnce(u16, &[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.count == 0 {
            return Ok(());
        }
        let mut chunk = Vec::with_capacity(self.chunk.len() + 3);
        write_number(&mut chunk, self.count);
        chunk.extend_from_slice(&self.chunk);
        write(self.number, &chunk)?;
        self.chunk.clear();
        // The next begins with a number of its own.
        (self.count, self.last, self.number) = (0, 0, self.number + 1);
        Ok(())
    }
}

/// The key of a chunk that [`Chunks`] numbered.
pub fn chunk_key(segment: SegmentId, word: &str, number: u16) -> Vec<u8> {
    key_of(segment, word, number)
}

fn write_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn postings_are_read_as_they_were_written(
            documents in prop::collection::btree_map(any::<u32>(), any::<u8>(), 0..3_000),
        ) {
            let postings: Vec<Posting> = documents.into_iter().map(|(at, weight)| (at, Weight(weight))).collect();
            let (mut chunks, mut written) = (Chunks::new(), Vec::new());
            let mut write = |number: u16, chunk: &[u8]| {
                assert_eq!(usize::from(number), written.len());
                assert!(chunk.len() <= CHUNK_BYTES_MAX);
                written.push(chunk.to_vec());
                Ok::<_, ()>(())
            };
            for posting in &postings {
                chunks.add(*posting, &mut write).unwrap();
            }
            chunks.end(&mut write).unwrap();
            let read: Vec<Posting> = written.iter().flat_map(|chunk| postings_of(chunk)).collect();
            prop_assert_eq!(written.iter().map(|chunk| count_of(chunk)).sum::<u64>(), read.len() as u64);
            prop_assert_eq!(read, postings);
        }

        #[test]
        fn a_damaged_chunk_panics_nobody(chunk in prop::collection::vec(any::<u8>(), 0..64)) {
            assert!(postings_of(&chunk).count() <= chunk.len());
        }
    }

    #[test]
    fn the_chunks_of_a_word_stand_between_those_of_its_neighbours() {
        let segment = SegmentId(7);
        let keys = [
            last_key(SegmentId(6), "z"),
            first_key(segment, "tea"),
            chunk_key(segment, "tea", 1),
            last_key(segment, "tea"),
            first_key(segment, "teapot"),
        ];
        assert!(keys.is_sorted());
        keys[1..4].iter().for_each(|key| assert_eq!(word_of(key), b"tea"));
    }
}
