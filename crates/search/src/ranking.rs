//! From a question to documents, the best first.
//!
//! Candidates are gathered segment by segment, the newest document first, and ranked when all are there.
//! Between two turns a ranking is a number, and holds no transaction: it can be cut into as many as its
//! caller likes.

use event::{Filter, Kind, Timestamp};
use heed::{RoTxn, WithoutTls};

pub use crate::index_file::Hit;
use crate::{
    Query, Scale, Weight,
    index_file::{Error, Index, Row, Segment},
    postings::{SegmentId, count_of, first_key, last_key, postings_of},
};

/// Documents that one ranking compares. If more hold the words, the older ones are left out.
pub const CANDIDATES_MAX: usize = 100_000;

/// Documents that are looked at between two asks for the time.
const DOCUMENTS_BETWEEN_ASKS: usize = 1_024;

/// What of a filter the index itself knows.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    kinds: Option<Vec<Kind>>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl From<&Filter> for Scope {
    fn from(filter: &Filter) -> Scope {
        Scope { kinds: filter.kinds.clone(), since: filter.since, until: filter.until }
    }
}

impl Scope {
    fn has(&self, row: &Row) -> bool {
        // Dates that the index cuts off are left to whoever looks the event up.
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&row.kind))
            && self.since.is_none_or(|since| row.created_at >= since.min(index::CREATED_AT_MAX))
            && self.until.is_none_or(|until| row.created_at <= until)
    }
}

/// A question on its way.
pub struct Ranking {
    words: Vec<Asked>,
    scope: Scope,
    scale: Scale,
    /// Documents from this number on have been looked at.
    below: u32,
    found: Vec<Candidate>,
    is_cut: bool,
}

struct Asked {
    word: String,
    rarity: f64,
}

struct Candidate {
    score: u32,
    row: Row,
}

impl Index {
    /// Begins to rank what holds all words of `query`.
    pub fn rank(&self, query: &Query, scope: Scope) -> Result<Ranking, Error> {
        let txn = self.env.read_txn()?;
        let segments = self.segments(&txn)?;
        let scale = segments.iter().fold(Scale::default(), |sum, segment| sum.and(segment.scale));
        let mut words = Vec::with_capacity(query.words.len());
        for word in &query.words {
            let mut found = 0;
            for segment in &segments {
                found += self.count(&txn, segment.id, word)?;
            }
            words.push(Asked { word: word.clone(), rarity: scale.rarity(found) });
        }
        let end = segments.last().map_or(0, |segment| segment.end);
        let below = if words.is_empty() { 0 } else { end };
        Ok(Ranking { words, scope, scale, below, found: Vec::new(), is_cut: false })
    }

    /// Looks at documents as long as `may_go_on`, and at some at least. True: that was all.
    pub fn go_on(
        &self,
        ranking: &mut Ranking,
        mut may_go_on: impl FnMut() -> bool,
    ) -> Result<bool, Error> {
        let txn = self.env.read_txn()?;
        let mut segments = self.segments(&txn)?;
        segments.retain(|segment| segment.first < ranking.below);
        for segment in segments.iter().rev() {
            if ranking.is_cut {
                return Ok(true);
            }
            if !self.gather(&txn, segment, ranking, &mut may_go_on)? {
                return Ok(false);
            }
            ranking.below = segment.first;
            if !may_go_on() {
                return Ok(ranking.below == 0);
            }
        }
        Ok(true)
    }

    /// Adds what a segment has to the candidates. False: there was no time for all of it.
    fn gather(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
        segment: &Segment,
        ranking: &mut Ranking,
        may_go_on: &mut impl FnMut() -> bool,
    ) -> Result<bool, heed::Error> {
        let mut counted = Vec::with_capacity(ranking.words.len());
        for asked in &ranking.words {
            counted.push((self.count(txn, segment.id, &asked.word)?, asked));
        }
        counted.sort_unstable_by_key(|(count, _)| *count);
        let mut common: Option<Vec<(u32, u32)>> = None;
        for (_, asked) in counted {
            common = Some(self.narrow(txn, segment.id, asked, ranking.scale, common)?);
            if common.as_ref().is_some_and(Vec::is_empty) {
                return Ok(true);
            }
        }
        let mut looked_at = 0;
        for (document, score) in common.unwrap_or_default().into_iter().rev() {
            let at = segment.first.saturating_add(document);
            if at >= ranking.below {
                continue;
            }
            if looked_at == DOCUMENTS_BETWEEN_ASKS {
                if !may_go_on() {
                    ranking.below = at + 1;
                    return Ok(false);
                }
                looked_at = 0;
            }
            looked_at += 1;
            let Some(row) = self.databases.documents.get(txn, &at)? else { continue };
            let row = Row::read(row);
            if !ranking.scope.has(&row) {
                continue;
            }
            if ranking.found.len() >= CANDIDATES_MAX {
                ranking.is_cut = true;
                return Ok(true);
            }
            ranking.found.push(Candidate { score, row });
        }
        Ok(true)
    }

    /// The documents that hold this word, too, with the scores so far.
    fn narrow(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
        segment: SegmentId,
        asked: &Asked,
        scale: Scale,
        before: Option<Vec<(u32, u32)>>,
    ) -> Result<Vec<(u32, u32)>, heed::Error> {
        let scores = Scores::of(scale, asked.rarity);
        let mut found = Vec::new();
        let mut before = before.map(|before| before.into_iter().peekable());
        for chunk in self.chunks(txn, segment, &asked.word)? {
            for (document, weight) in postings_of(chunk?) {
                let Some(before) = &mut before else {
                    found.push((document, scores.score(weight)));
                    continue;
                };
                while before.next_if(|(other, _)| *other < document).is_some() {}
                match before.next_if(|(other, _)| *other == document) {
                    Some((_, score)) => found.push((document, score + scores.score(weight))),
                    None if before.peek().is_none() => return Ok(found),
                    None => {}
                }
            }
        }
        Ok(found)
    }

    fn count(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
        segment: SegmentId,
        word: &str,
    ) -> Result<u64, heed::Error> {
        let mut count = 0;
        for chunk in self.chunks(txn, segment, word)? {
            count += count_of(chunk?);
        }
        Ok(count)
    }

    fn chunks<'t>(
        &self,
        txn: &'t RoTxn<'_, WithoutTls>,
        segment: SegmentId,
        word: &str,
    ) -> Result<impl Iterator<Item = Result<&'t [u8], heed::Error>> + use<'t>, heed::Error> {
        let keys = (first_key(segment, word), last_key(segment, word));
        let keys = (std::ops::Bound::Included(&keys.0[..]), std::ops::Bound::Included(&keys.1[..]));
        let rows = self.databases.postings.range(txn, &keys)?;
        Ok(rows.map(|row| row.map(|(_, chunk)| chunk)))
    }
}

/// The scores of a word, by its weight: there are not many.
struct Scores([u32; 256]);

impl Scores {
    fn of(scale: Scale, rarity: f64) -> Scores {
        Scores(std::array::from_fn(|weight| scale.score(rarity, Weight(weight as u8))))
    }

    fn score(&self, weight: Weight) -> u32 {
        self.0[usize::from(weight.0)]
    }
}

impl Ranking {
    /// Whether more documents hold the words than were compared.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// What was found: the best first, of equals the newest, of these the one with the lowest id.
    pub fn into_hits(mut self) -> Vec<Hit> {
        self.found.sort_unstable_by(|a, b| {
            let by_score = b.score.cmp(&a.score);
            let by_date = b.row.created_at.cmp(&a.row.created_at);
            by_score.then(by_date).then(a.row.id_start.cmp(&b.row.id_start))
        });
        self.found.iter().map(|candidate| candidate.row.hit()).collect()
    }
}
