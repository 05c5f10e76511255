//! Live subscriptions, filed so that an event finds the ones it concerns.
//!
//! All fields of a filter must match, so it is enough to find it by its most selective one: each
//! filter is filed under every value of one of its fields, and an event is looked up by its own id,
//! author, tags and kind. What the look-up brings is confirmed by the filter's [`Matcher`].

use std::collections::HashMap;

use event::{EventId, Filter, Kind, Packed, PublicKey, TagName, packed::Value};
use index::Matcher;

/// A subscription's place in the table. Never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u64);

/// The table: `T` is whatever belongs to a subscription.
pub struct Subscriptions<T> {
    next: u64,
    entries: HashMap<Slot, Entry<T>>,
    by_id: HashMap<EventId, Vec<Place>>,
    by_author: HashMap<PublicKey, Vec<Place>>,
    by_tag: HashMap<(TagName, String), Vec<Place>>,
    by_kind: HashMap<Kind, Vec<Place>>,
    rest: Vec<Place>,
}

struct Entry<T> {
    filters: Vec<Filter>,
    matchers: Vec<Matcher>,
    subscriber: T,
}

/// One filter of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    slot: Slot,
    filter: usize,
}

/// The field that a filter is filed under.
enum Shelf<'a> {
    Ids(&'a [EventId]),
    Authors(&'a [PublicKey]),
    Tag(TagName, &'a [String]),
    Kinds(&'a [Kind]),
    Rest,
}

impl<'a> Shelf<'a> {
    /// Ids single out events, tags and authors narrow them down, kinds hardly do.
    fn of(filter: &'a Filter) -> Shelf<'a> {
        if let Some(ids) = &filter.ids {
            return Shelf::Ids(ids);
        }
        // One value of an "all of" list is as good as all of them.
        let all =
            filter.all_tags.iter().map(|(name, values)| (*name, &values[..1.min(values.len())]));
        let any = filter.tags.iter().map(|(name, values)| (*name, &values[..]));
        if let Some((name, values)) = all.chain(any).min_by_key(|(_, values)| values.len()) {
            return Shelf::Tag(name, values);
        }
        match (&filter.authors, &filter.kinds) {
            (Some(authors), _) => Shelf::Authors(authors),
            (None, Some(kinds)) => Shelf::Kinds(kinds),
            (None, None) => Shelf::Rest,
        }
    }
}

impl<T> Default for Subscriptions<T> {
    fn default() -> Self {
        Subscriptions {
            next: 0,
            entries: HashMap::new(),
            by_id: HashMap::new(),
            by_author: HashMap::new(),
            by_tag: HashMap::new(),
            by_kind: HashMap::new(),
            rest: Vec::new(),
        }
    }
}

impl<T> Subscriptions<T> {
    /// Files a subscription under its filters.
    pub fn insert(&mut self, filters: Vec<Filter>, subscriber: T) -> Slot {
        let slot = Slot(self.next);
        self.next += 1;
        for (number, filter) in filters.iter().enumerate() {
            let place = Place { slot, filter: number };
            self.each_drawer(filter, |drawer| drawer.push(place));
        }
        let matchers = filters.iter().map(Matcher::new).collect();
        self.entries.insert(slot, Entry { filters, matchers, subscriber });
        slot
    }

    /// Takes a subscription out. `None` if it is not there (any more).
    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        let entry = self.entries.remove(&slot)?;
        for filter in &entry.filters {
            // Slots only grow, so each drawer is in their order.
            self.each_drawer(filter, |drawer| {
                let first = drawer.partition_point(|place| place.slot < slot);
                let end = drawer.partition_point(|place| place.slot <= slot);
                drawer.drain(first..end);
            });
        }
        Some(entry.subscriber)
    }

    /// The subscriptions that want `event`, each once.
    pub fn wanting(&self, event: &Packed<'_>) -> Vec<(Slot, &T)> {
        let mut places: Vec<Place> = self.rest.clone();
        places.extend(self.by_id.get(&event.id()).into_iter().flatten());
        places.extend(self.by_author.get(&event.pubkey()).into_iter().flatten());
        places.extend(self.by_kind.get(&event.kind()).into_iter().flatten());
        if !self.by_tag.is_empty() {
            for key in event.tags().filter_map(tag_key) {
                places.extend(self.by_tag.get(&key).into_iter().flatten());
            }
        }
        places.sort_unstable();
        let mut wanting: Vec<(Slot, &T)> = Vec::new();
        for Place { slot, filter } in places {
            if wanting.last().is_some_and(|(last, _)| *last == slot) {
                continue;
            }
            let entry = &self.entries[&slot];
            if entry.matchers[filter].matches(event) {
                wanting.push((slot, &entry.subscriber));
            }
        }
        wanting
    }

    /// Runs `file` on every drawer that `filter` belongs in; drawers left empty are taken away.
    fn each_drawer(&mut self, filter: &Filter, mut file: impl FnMut(&mut Vec<Place>)) {
        match Shelf::of(filter) {
            Shelf::Ids(ids) => each(&mut self.by_id, ids.iter().copied(), file),
            Shelf::Authors(authors) => each(&mut self.by_author, authors.iter().copied(), file),
            Shelf::Kinds(kinds) => each(&mut self.by_kind, kinds.iter().copied(), file),
            Shelf::Tag(name, values) => {
                each(&mut self.by_tag, values.iter().map(|value| (name, value.clone())), file);
            }
            Shelf::Rest => file(&mut self.rest),
        }
    }
}

fn each<K: std::hash::Hash + Eq + Clone>(
    shelf: &mut HashMap<K, Vec<Place>>,
    keys: impl Iterator<Item = K>,
    mut file: impl FnMut(&mut Vec<Place>),
) {
    for key in keys {
        let drawer = shelf.entry(key.clone()).or_default();
        file(drawer);
        if drawer.is_empty() {
            shelf.remove(&key);
        }
    }
}

fn tag_key(mut tag: event::packed::Values<'_>) -> Option<(TagName, String)> {
    let Value::Text(name) = tag.next()? else { return None };
    Some((TagName::new(name)?, tag.next()?.to_text()))
}

#[cfg(test)]
mod tests {
    use event::twin;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn the_table_agrees_with_asking_every_filter(
            events in vec(twin::event(), 1..12),
            subscriptions in vec((vec(twin::filter(&[]), 0..4), any::<bool>()), 0..12),
        ) {
            let mut table = Subscriptions::default();
            let mut naive = Vec::new();
            for (number, (filters, stays)) in subscriptions.into_iter().enumerate() {
                let slot = table.insert(filters.clone(), number);
                if stays {
                    naive.push((number, filters));
                } else {
                    prop_assert_eq!(table.remove(slot), Some(number));
                }
            }
            for event in &events {
                let packed = event.pack();
                let packed = Packed::parse(&packed).unwrap();
                let found: Vec<usize> = table.wanting(&packed).iter().map(|(_, n)| **n).collect();
                let expected = naive.iter().filter(|(_, filters)| {
                    filters.iter().any(|filter| filter.matches(event))
                });
                let expected: Vec<usize> = expected.map(|(number, _)| *number).collect();
                prop_assert_eq!(found, expected);
            }
            prop_assert_eq!(table.entries.len(), naive.len());
        }
    }

    #[test]
    fn a_table_that_everybody_left_holds_nothing() {
        let mut table = Subscriptions::default();
        let filter = |json: &str| Filter::from_json(json.as_bytes()).unwrap();
        let id = "ab".repeat(32);
        let filters = vec![
            filter("{}"),
            filter(&format!("{{\"ids\":[\"{id}\",\"{id}\"]}}")),
            filter(&format!("{{\"authors\":[\"{id}\"]}}")),
            filter("{\"kinds\":[1,2]}"),
            filter("{\"#t\":[\"a\"]}"),
        ];
        let slot = table.insert(filters, ());
        assert_eq!(table.remove(slot), Some(()));
        assert_eq!(table.remove(slot), None);
        assert!(table.entries.is_empty() && table.rest.is_empty() && table.by_id.is_empty());
        assert!(table.by_author.is_empty() && table.by_kind.is_empty() && table.by_tag.is_empty());
    }
}
