//! What L2 was asked about, and has answered: what L1 answers alone from then on.
//!
//! From `Store::complete_since` on L1 has all that L2 has. Of what is older it has what somebody asked
//! for, and here is noted what that was. A filter is noted in its *parts*: one author or any, one kind
//! or any, one value of a tag or any. So whoever asks about some of them later, in whatever company, needs
//! no L2. And the parts that an event belongs to can be listed: to give it up shortens the notes
//! that this makes untrue, and no others.
//!
//! A note is a range of dates in which nothing is missing. One that reaches up to where L1 is complete
//! anyway has no end: it stays true when that date rises, as long as none of its events goes.

use event::{EventId, Filter, Kind, Packed, PublicKey, TagName, Timestamp, packed::Value};
use heed::{RoTxn, WithoutTls};
use sha2::{Digest, Sha256};

use crate::{
    change::Change,
    databases::{COMPLETE_SINCE, Databases},
    store::{ReadError, Store},
};

type Result<T, E = heed::Error> = std::result::Result<T, E>;

/// Notes at most. Beyond it, each new one takes the place of another.
const NOTES_MAX: u64 = 100_000;
/// One note for so many bytes that the store may take, if it is limited.
const BYTES_FOR_A_NOTE: u64 = 1_024;
/// A filter of more parts is not noted: that would keep the writer too long.
const PARTS_MAX: usize = 5_000;

/// What L1 has of the events that match a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// From here on none of them is missing.
    pub complete_since: Timestamp,
    /// What may be missing: the filter, cut down to older events and to what is not known to be here.
    /// None: nothing may.
    pub rest: Option<Filter>,
}

/// Dates, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub from: u64,
    pub until: u64,
}

impl Range {
    pub fn read(bytes: &[u8]) -> Option<Range> {
        let (from, until) = bytes.split_at_checked(8)?;
        let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
        Some(Range { from: number(from)?, until: number(until)? })
    }

    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.from.to_be_bytes());
        bytes[8..].copy_from_slice(&self.until.to_be_bytes());
        bytes
    }

    /// The two as one, if they meet; else the later.
    fn and(self, other: Range) -> Range {
        let meet = self.from <= other.until.saturating_add(1)
            && other.from <= self.until.saturating_add(1);
        match meet {
            true => Range { from: self.from.min(other.from), until: self.until.max(other.until) },
            false if self.until > other.until => self,
            false => other,
        }
    }
}

/// The name of a part: a hash of what it asks for.
type Name = [u8; 16];

/// A part of a filter. `None` asks for nothing in particular.
#[derive(Clone, Copy, Debug)]
struct Part<'f> {
    author: Option<&'f PublicKey>,
    kind: Option<Kind>,
    tag: Option<(TagName, &'f [u8])>,
}

impl Part<'_> {
    fn name(&self) -> Name {
        let mut hash = Sha256::new();
        let mut add = |mark: u8, bytes: &[u8]| {
            hash.update([mark]);
            hash.update(bytes);
        };
        // The value comes last: all before it have their length.
        self.author.inspect(|author| add(1, &author.0));
        self.kind.inspect(|kind| add(2, &kind.0.to_be_bytes()));
        if let Some((letter, value)) = self.tag {
            add(3, &[letter.byte()]);
            add(4, value);
        }
        cut(hash)
    }
}

fn name_of_id(id: &EventId) -> Name {
    cut(Sha256::new().chain_update([0]).chain_update(id.0))
}

fn cut(hash: Sha256) -> Name {
    let mut name = [0; 16];
    name.copy_from_slice(&hash.finalize()[..16]);
    name
}

/// A list of a filter, or the one "any" where it has none.
fn each<T>(list: Option<&[T]>) -> Vec<Option<&T>> {
    list.map_or(vec![None], |list| list.iter().map(Some).collect())
}

/// The tags of a filter that are asked for one value out of some each.
fn alternatives(filter: &Filter) -> Vec<(TagName, &[String])> {
    let any = filter.tags.iter().map(|(letter, values)| (*letter, values.as_slice()));
    let all =
        filter.all_tags.iter().map(|(letter, values)| (*letter, &values[..values.len().min(1)]));
    any.chain(all).collect()
}

/// The parts that a filter is the sum of; None if it is more than a sum, or has too many.
fn parts(filter: &Filter) -> Option<Vec<Name>> {
    let tags: Vec<Option<(TagName, &[u8])>> =
        match (filter.tags.first_key_value(), filter.tags.len()) {
            _ if !filter.all_tags.is_empty() => return None,
            (None, _) => vec![None],
            (Some((letter, values)), 1) => {
                values.iter().map(|value| Some((*letter, value.as_bytes()))).collect()
            }
            (Some(_), _) => return None,
        };
    let (authors, kinds) = (each(filter.authors.as_deref()), each(filter.kinds.as_deref()));
    if authors.len().saturating_mul(kinds.len()).saturating_mul(tags.len()) > PARTS_MAX {
        return None;
    }
    let mut names = Vec::new();
    for author in authors {
        for kind in &kinds {
            for tag in &tags {
                names.push(Part { author, kind: kind.copied(), tag: *tag }.name());
            }
        }
    }
    Some(names)
}

/// The notes, as one transaction sees them.
struct Notes<'t> {
    databases: &'t Databases<'static>,
    txn: &'t RoTxn<'t, WithoutTls>,
    /// Below this date they are needed.
    top: u64,
}

impl Notes<'_> {
    fn range(&self, name: &Name) -> Result<Option<Range>> {
        Ok(self.databases.covered.get(self.txn, name)?.and_then(Range::read))
    }

    /// From which date on nothing of a part is missing, by the notes on it and on all that it is part of.
    fn since(&self, part: Part<'_>) -> Result<u64> {
        let mut since = self.top;
        for author in either(part.author) {
            for kind in either(part.kind) {
                for tag in either(part.tag) {
                    if let Some(range) = self.range(&Part { author, kind, tag }.name())?
                        && range.until.saturating_add(1) >= self.top
                    {
                        since = since.min(range.from);
                    }
                }
            }
        }
        Ok(since)
    }
}

/// What was asked for, and "any".
fn either<T>(asked: Option<T>) -> impl Iterator<Item = Option<T>> {
    let any = asked.is_some().then_some(None);
    std::iter::once(asked).chain(any)
}

impl Store {
    /// What L1 has of a filter's events. Never more than is true; what came by one of the ways that the
    /// notes do not know, it may not count.
    pub fn reach(&self, filter: &Filter) -> Result<Reach, ReadError> {
        let snapshot = self.snapshot()?;
        let (databases, txn) = (snapshot.databases, &*snapshot.txn);
        let floor = databases.numbers.get(txn, COMPLETE_SINCE)?.unwrap_or(0);
        let since = filter.since.map_or(0, |since| since.0);
        let top = floor.min(filter.until.map_or(u64::MAX, |until| until.0).saturating_add(1));
        if top <= since {
            return Ok(Reach { complete_since: Timestamp(top), rest: None });
        }
        if let Some(ids) = &filter.ids {
            return Ok(reach_of_ids(databases, txn, ids, top)?);
        }
        Ok(Notes { databases, txn, top }.reach(filter, since)?)
    }
}

/// Ids that are not here, unless L2 was asked for them already.
fn reach_of_ids(
    databases: &Databases<'static>,
    txn: &RoTxn<'_, WithoutTls>,
    ids: &[EventId],
    top: u64,
) -> Result<Reach> {
    let mut missing = Vec::new();
    for id in ids {
        let is_known = databases.ids.get(txn, &id.0)?.is_some()
            || databases.covered.get(txn, &name_of_id(id))?.is_some();
        if !is_known {
            missing.push(*id);
        }
    }
    let complete_since = Timestamp(if missing.is_empty() { 0 } else { top });
    // Of these everything is asked for: what does not match now may match the next time.
    let rest = Filter { ids: Some(missing), ..Filter::default() };
    Ok(Reach { complete_since, rest: Some(rest).filter(|_| complete_since > Timestamp(0)) })
}

impl Notes<'_> {
    fn reach(&self, filter: &Filter, since: u64) -> Result<Reach> {
        let tags = alternatives(filter);
        if parts_to_look_at(filter, &tags) > PARTS_MAX {
            // To look at them all would take longer than to ask.
            let rest = older(filter.clone(), self.top);
            return Ok(Reach { complete_since: Timestamp(self.top), rest: Some(rest) });
        }
        if tags.len() <= 1 && filter.all_tags.is_empty() {
            return self.reach_of_parts(filter, tags.first().copied(), since);
        }
        // More than a sum of parts: what there is of one of its tags there is of it.
        let mut complete_since = self.top;
        for tag in tags {
            let reach = self.reach_of_parts(filter, Some(tag), since)?;
            complete_since = complete_since.min(reach.complete_since.0);
        }
        let rest = (complete_since > since).then(|| older(filter.clone(), complete_since));
        Ok(Reach { complete_since: Timestamp(complete_since), rest })
    }

    fn reach_of_parts(
        &self,
        filter: &Filter,
        tag: Option<(TagName, &[String])>,
        since: u64,
    ) -> Result<Reach> {
        let values = tag.map(|(_, values)| values);
        let (mut authors, mut open_values) = (Vec::new(), Vec::new());
        let mut complete_since = 0;
        for author in each(filter.authors.as_deref()) {
            for kind in each(filter.kinds.as_deref()) {
                for value in each(values) {
                    let tag = tag.zip(value).map(|((letter, _), value)| (letter, value.as_bytes()));
                    let part_since = self.since(Part { author, kind: kind.copied(), tag })?;
                    complete_since = part_since.max(complete_since);
                    if part_since > since {
                        authors.extend(author);
                        open_values.extend(value.cloned());
                    }
                }
            }
        }
        if complete_since <= since {
            return Ok(Reach { complete_since: Timestamp(since), rest: None });
        }
        let mut rest = older(filter.clone(), complete_since);
        authors.dedup();
        rest.authors = rest.authors.map(|_| authors);
        open_values.sort_unstable();
        open_values.dedup();
        if let (1, Some((letter, _))) = (rest.tags.len(), tag) {
            rest.tags.insert(letter, open_values);
        }
        Ok(Reach { complete_since: Timestamp(complete_since), rest: Some(rest) })
    }
}

/// How many parts a filter has, over all ways to divide it.
fn parts_to_look_at(filter: &Filter, tags: &[(TagName, &[String])]) -> usize {
    let len = |list: Option<usize>| list.unwrap_or(1);
    let authors = len(filter.authors.as_ref().map(Vec::len));
    let each = authors.saturating_mul(len(filter.kinds.as_ref().map(Vec::len)));
    let values = tags.iter().map(|(_, values)| values.len()).sum::<usize>().max(1);
    each.saturating_mul(values)
}

/// What of a filter lies before a date.
fn older(filter: Filter, date: u64) -> Filter {
    Filter { until: Some(Timestamp(date - 1)), ..filter }
}

impl Change<'_> {
    /// Notes that of `asked` nothing is missing here from `from` on, provided that `held`, which L2
    /// answered, is here.
    pub fn note_covered(
        &mut self,
        asked: &Filter,
        from: Timestamp,
        held: &[EventId],
        notes_max: u64,
    ) -> Result<()> {
        for id in held {
            if self.seq_of(id)?.is_none() {
                return Ok(());
            }
        }
        if let Some(ids) = &asked.ids {
            for id in ids {
                self.put_note(&name_of_id(id), Range { from: 0, until: u64::MAX }, notes_max)?;
            }
            return Ok(());
        }
        let Some(names) = parts(asked) else { return Ok(()) };
        let floor = self.databases.numbers.get(&self.txn, COMPLETE_SINCE)?.unwrap_or(0);
        let until = asked.until.map_or(u64::MAX, |until| until.0);
        let until = if until.saturating_add(1) >= floor { u64::MAX } else { until };
        if from.0 > until {
            return Ok(());
        }
        names
            .iter()
            .try_for_each(|name| self.put_note(name, Range { from: from.0, until }, notes_max))
    }

    fn put_note(&mut self, name: &Name, range: Range, notes_max: u64) -> Result<()> {
        let covered = &self.databases.covered;
        let known = covered.get(&self.txn, name)?.and_then(Range::read);
        let range = known.map_or(range, |known| known.and(range));
        if known == Some(range) {
            return Ok(());
        }
        covered.put(&mut self.txn, name, &range.bytes())?;
        // Names are hashes: whichever comes next is as good as any.
        if known.is_none() && covered.len(&self.txn)? > notes_max {
            let next = covered.get_greater_than(&self.txn, name)?.or(covered.first(&self.txn)?);
            if let Some(next) = next.map(|(name, _)| name.to_vec()) {
                covered.delete(&mut self.txn, &next)?;
            }
        }
        Ok(())
    }

    /// Shortens the notes that are not true any more without this event, which is given up.
    pub fn uncover(&mut self, event: &Packed<'_>) -> Result<()> {
        let covered = &self.databases.covered;
        self.given_up.push(event.to_stub().into());
        if covered.is_empty(&self.txn)? {
            return Ok(());
        }
        covered.delete(&mut self.txn, &name_of_id(&event.id()))?;
        let date = event.created_at().0;
        for name in parts_of(event) {
            let Some(range) = covered.get(&self.txn, &name)?.and_then(Range::read) else {
                continue;
            };
            if !(range.from..=range.until).contains(&date) {
                continue;
            }
            match date + 1 {
                from if from > range.until => drop(covered.delete(&mut self.txn, &name)?),
                from => covered.put(&mut self.txn, &name, &Range { from, ..range }.bytes())?,
            }
        }
        Ok(())
    }
}

/// How many notes there may be in a store that may take so much.
pub fn notes_max(bytes_max: Option<u64>) -> u64 {
    bytes_max.map_or(NOTES_MAX, |bytes| NOTES_MAX.min(bytes / BYTES_FOR_A_NOTE))
}

/// All parts that an event belongs to.
fn parts_of(event: &Packed<'_>) -> Vec<Name> {
    let mut tags: Vec<(TagName, Vec<u8>)> = event.tags().filter_map(tag_of).collect();
    tags.sort_unstable();
    tags.dedup();
    let author = event.pubkey();
    let mut names = Vec::with_capacity(4 * (1 + tags.len()));
    for author in either(Some(&author)) {
        for kind in either(Some(event.kind())) {
            names.push(Part { author, kind, tag: None }.name());
            for (letter, value) in &tags {
                names.push(Part { author, kind, tag: Some((*letter, value)) }.name());
            }
        }
    }
    names
}

/// The tag as a filter asks for it: by its letter and its first value.
fn tag_of(mut tag: event::packed::Values<'_>) -> Option<(TagName, Vec<u8>)> {
    let Value::Text(name) = tag.next()? else { return None };
    let letter = TagName::new(name)?;
    Some((letter, tag.next()?.to_text().into_bytes()))
}
