//! Filters made ready for many events: sorted lists, and tag values in their packed spelling.

use std::cmp::Ordering;

use event::{EventId, Filter, Kind, Packed, TagName, Timestamp, packed::Value};

/// A filter that looks at packed events. Agrees with [`Filter::matches`] on every event.
#[derive(Clone, Debug)]
pub struct Matcher {
    ids: Option<Vec<Words>>,
    authors: Option<Vec<Words>>,
    kinds: Option<Vec<Kind>>,
    tags: Vec<(TagName, Vec<Wanted>)>,
    all_tags: Vec<(TagName, Vec<Wanted>)>,
    since: Timestamp,
    until: Timestamp,
    never: bool,
}

/// An id or a key, as numbers in whatever order: wasm compares memory byte by byte.
type Words = [u64; 4];

/// A tag value with its own memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Hex(Words),
    Text(String),
}

impl Matcher {
    pub fn new(filter: &Filter) -> Matcher {
        let wanted = |lists: &std::collections::BTreeMap<TagName, Vec<String>>| {
            lists
                .iter()
                .map(|(name, values)| (*name, sorted(values.iter().map(|value| Wanted::of(value)))))
                .collect()
        };
        let tags: Vec<(TagName, Vec<Wanted>)> = wanted(&filter.tags);
        let all_tags: Vec<(TagName, Vec<Wanted>)> = wanted(&filter.all_tags);
        let ids = filter.ids.as_ref().map(|ids| sorted(ids.iter().map(|id| words(&id.0))));
        let authors =
            filter.authors.as_ref().map(|authors| sorted(authors.iter().map(|it| words(&it.0))));
        let kinds = filter.kinds.as_ref().map(|kinds| sorted(kinds.iter().copied()));
        let since = filter.since.unwrap_or(Timestamp(0));
        let until = filter.until.unwrap_or(Timestamp(u64::MAX));
        let never = never_matches(filter);
        Matcher { ids, authors, kinds, tags, all_tags, since, until, never }
    }

    pub fn matches(&self, event: &Packed<'_>) -> bool {
        !self.never
            && (self.since..=self.until).contains(&event.created_at())
            && has(&self.kinds, &event.kind())
            && has(&self.authors, &words(&event.pubkey().0))
            && has(&self.ids, &words(&event.id().0))
            && self.tags.iter().all(|(name, wanted)| {
                event.values_of(*name).any(|value| position_of(wanted, value).is_some())
            })
            && self.all_tags.iter().all(|(name, wanted)| has_all(event, *name, wanted))
    }
}

/// Whether it is known without looking that nothing can match: a list is empty, or the dates are.
pub(crate) fn never_matches(filter: &Filter) -> bool {
    filter.ids.as_ref().is_some_and(Vec::is_empty)
        || filter.authors.as_ref().is_some_and(Vec::is_empty)
        || filter.kinds.as_ref().is_some_and(Vec::is_empty)
        || filter.tags.values().chain(filter.all_tags.values()).any(Vec::is_empty)
        || filter.since.unwrap_or(Timestamp(0)) > filter.until.unwrap_or(Timestamp(u64::MAX))
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

fn has<T: Ord>(list: &Option<Vec<T>>, item: &T) -> bool {
    list.as_ref().is_none_or(|list| list.binary_search(item).is_ok())
}

fn has_all(event: &Packed<'_>, name: TagName, wanted: &[Wanted]) -> bool {
    let mut found = vec![false; wanted.len()];
    for value in event.values_of(name) {
        if let Some(place) = position_of(wanted, value) {
            found[place] = true;
        }
    }
    found.into_iter().all(|found| found)
}

fn words(bytes: &[u8; 32]) -> Words {
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
}

fn position_of(wanted: &[Wanted], value: Value<'_>) -> Option<usize> {
    wanted.binary_search_by(|wanted| wanted.compare(value)).ok()
}

impl Wanted {
    fn of(text: &str) -> Wanted {
        match text.parse::<EventId>() {
            Ok(EventId(bytes)) => Wanted::Hex(words(&bytes)),
            Err(_) => Wanted::Text(text.to_owned()),
        }
    }

    /// In the order that the derived `Ord` gives to wanted values.
    fn compare(&self, value: Value<'_>) -> Ordering {
        match (self, value) {
            (Wanted::Hex(own), Value::Hex(other)) => own.cmp(&words(other)),
            (Wanted::Text(own), Value::Text(other)) => own.as_str().cmp(other),
            (Wanted::Hex(_), Value::Text(_)) => Ordering::Less,
            (Wanted::Text(_), Value::Hex(_)) => Ordering::Greater,
        }
    }
}
