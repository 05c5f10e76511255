//! Segments into larger ones, and what is gone out of them.
//!
//! A segment's level says how many documents it has, in powers of eight. Once eight neighbours at the new
//! end are of a level or below, they become one, which is of the next. So each document is written
//! anew some five times at most, and a merge reads and writes in order. The largest level is left alone:
//! no merge takes longer than about a second.

use std::{cmp::Reverse, collections::BinaryHeap, iter::Peekable};

use heed::{RoRange, RwTxn, types::Bytes};

use crate::{
    Scale,
    index_file::{Databases, Error, Index, Row, Segment},
    postings::{Chunks, first_key, postings_of, word_of},
};

/// So many of one level make one of the next.
const NEIGHBOURS: usize = 8;
/// Segments of this level, 32,768 documents and more, are not merged any more.
const LEVEL_MAX: u32 = 5;

impl Segment {
    fn level(&self) -> u32 {
        // In powers of eight.
        (self.scale.documents.max(1).ilog2() / 3).min(LEVEL_MAX)
    }

    fn is_worn(&self) -> bool {
        self.gone > 0 && u64::from(self.gone) * 4 >= self.scale.documents
    }
}

impl Index {
    /// Does one merge that is due. False: none is.
    pub fn merge(&self) -> Result<bool, Error> {
        let snapshot = self.env.clone().static_read_txn()?;
        let segments = self.segments(&snapshot)?;
        let Some(due) = due(&segments) else { return Ok(false) };
        let mut txn = self.env.write_txn()?;
        let merged = self.write_merged(&mut txn, &snapshot, due)?;
        let Databases { postings, segments, .. } = &self.databases;
        for segment in due {
            segments.delete(&mut txn, &segment.first)?;
            let keys = first_key(segment.id, "")..first_key(segment.id.next(), "");
            let keys = (
                std::ops::Bound::Included(&keys.start[..]),
                std::ops::Bound::Excluded(&keys.end[..]),
            );
            postings.delete_range(&mut txn, &keys)?;
        }
        // Where nothing is left, it takes the numbers along: they are not used again.
        segments.put(&mut txn, &merged.first, &merged.bytes())?;
        drop(snapshot);
        txn.commit()?;
        Ok(true)
    }

    fn write_merged(
        &self,
        txn: &mut RwTxn<'_>,
        snapshot: &heed::RoTxn<'_, heed::WithoutTls>,
        due: &[Segment],
    ) -> Result<Segment, heed::Error> {
        let (first, end) = (due[0].first, due[due.len() - 1].end);
        let id = self.next_segment(txn)?;
        let mut scale = Scale::default();
        let mut held = vec![false; (end - first) as usize];
        for row in self.databases.documents.range(snapshot, &(first..end))? {
            let (at, row) = row?;
            held[(at - first) as usize] = true;
            scale = scale.with(Row::read(row).length());
        }
        let mut sources = Vec::with_capacity(due.len());
        for segment in due {
            sources.push(Source::open(self, snapshot, segment, first)?);
        }
        let mut order: BinaryHeap<Reverse<(&[u8], usize)>> = BinaryHeap::new();
        for (at, source) in sources.iter_mut().enumerate() {
            order.extend(source.word()?.map(|word| Reverse((word, at))));
        }
        while let Some(Reverse((word, _))) = order.peek().copied() {
            let text = str::from_utf8(word).map_err(|cause| heed::Error::Decoding(cause.into()))?;
            let mut chunks = Chunks::new();
            // Sources are in the order of their documents.
            while let Some(Reverse((_, at))) = order.peek().copied().filter(|next| next.0.0 == word)
            {
                order.pop();
                while let Some(chunk) = sources[at].chunk_of(word)? {
                    let base = sources[at].base;
                    for (document, weight) in postings_of(chunk) {
                        let document = document.saturating_add(base);
                        if held.get(document as usize) == Some(&true) {
                            chunks.add((document, weight), |number, chunk| {
                                self.append(txn, id, text, number, chunk)
                            })?;
                        }
                    }
                }
                order.extend(sources[at].word()?.map(|word| Reverse((word, at))));
            }
            chunks.end(|number, chunk| self.append(txn, id, text, number, chunk))?;
        }
        Ok(Segment { first, id, end, gone: 0, scale })
    }
}

/// The words of one segment, in order.
struct Source<'t> {
    rows: Peekable<RoRange<'t, Bytes, Bytes>>,
    /// What its documents are counted from, as counted in the merged segment.
    base: u32,
}

impl<'t> Source<'t> {
    fn open(
        index: &Index,
        txn: &'t heed::RoTxn<'_, heed::WithoutTls>,
        segment: &Segment,
        first: u32,
    ) -> Result<Source<'t>, heed::Error> {
        let keys = (first_key(segment.id, ""), first_key(segment.id.next(), ""));
        let keys = (std::ops::Bound::Included(&keys.0[..]), std::ops::Bound::Excluded(&keys.1[..]));
        let rows = index.databases.postings.range(txn, &keys)?.peekable();
        Ok(Source { rows, base: segment.first - first })
    }

    /// Its next word.
    fn word(&mut self) -> Result<Option<&'t [u8]>, heed::Error> {
        match self.rows.peek() {
            Some(Ok((key, _))) => Ok(Some(word_of(key))),
            // To be told by whoever takes it.
            Some(Err(_)) => Err(self.rows.next().and_then(Result::err).expect("it was an error")),
            None => Ok(None),
        }
    }

    /// The next chunk, if it is one of this word.
    fn chunk_of(&mut self, word: &[u8]) -> Result<Option<&'t [u8]>, heed::Error> {
        if self.word()? != Some(word) {
            return Ok(None);
        }
        self.rows.next().transpose().map(|row| row.map(|(_, chunk)| chunk))
    }
}

/// Which neighbours are to become one, if any.
fn due(segments: &[Segment]) -> Option<&[Segment]> {
    for level in 0..LEVEL_MAX {
        let run = segments.iter().rev().take_while(|segment| segment.level() <= level).count();
        if run >= NEIGHBOURS {
            return Some(&segments[segments.len() - run..]);
        }
    }
    segments.iter().position(Segment::is_worn).map(|at| &segments[at..=at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postings::SegmentId;

    #[track_caller]
    fn check(documents: &[u64], gone: &[u32], expected: Option<std::ops::Range<usize>>) {
        let segments: Vec<Segment> = documents
            .iter()
            .enumerate()
            .map(|(at, documents)| Segment {
                first: at as u32,
                id: SegmentId(at as u32),
                end: at as u32 + 1,
                gone: gone.get(at).copied().unwrap_or(0),
                scale: Scale { documents: *documents, length: 1 },
            })
            .collect();
        assert_eq!(due(&segments), expected.map(|range| &segments[range]), "{documents:?}");
    }

    #[test]
    fn small_neighbours_at_the_new_end_become_one() {
        check(&[1; 7], &[], None);
        check(&[1; 8], &[], Some(0..8));
        check(&[100, 1, 1, 1, 1, 1, 1, 1, 1], &[], Some(1..9));
        check(&[100; 8], &[], Some(0..8));
        check(&[1 << 20; 20], &[], None);
        check(&[100, 100, 100, 100, 100, 100, 100, 9], &[], Some(0..8));
    }

    #[test]
    fn a_segment_of_which_a_quarter_is_gone_is_written_anew() {
        check(&[100, 100], &[24], None);
        check(&[100, 100], &[25], Some(0..1));
        check(&[100, 0], &[0, 0], None);
    }
}
