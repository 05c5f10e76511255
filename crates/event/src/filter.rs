//! What a subscriber asks for (NIP-01 filters, with NIP-91's `&x` for "all of these").
//!
//! [`Filter::matches`] is written to be obviously right, not fast: it is the twin that the index and
//! the subscription tables are compared with.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

use crate::{Event, EventId, Kind, PublicKey, Timestamp};

/// The letter of a tag that filters can ask for: `a` to `z` and `A` to `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName(u8);

impl TagName {
    /// The name that `text` is, if it is a single ASCII letter.
    pub fn new(text: &str) -> Option<TagName> {
        match text.as_bytes() {
            [letter] if letter.is_ascii_alphabetic() => Some(TagName(*letter)),
            _ => None,
        }
    }

    /// The letter in ASCII.
    pub fn byte(self) -> u8 {
        self.0
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.0))
    }
}

/// A NIP-01 filter. Fields are ANDed, values in a field ORed; an empty list matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub ids: Option<Vec<EventId>>,
    pub authors: Option<Vec<PublicKey>>,
    pub kinds: Option<Vec<Kind>>,
    /// `#x`: the event has a tag `x` with one of these values.
    pub tags: BTreeMap<TagName, Vec<String>>,
    /// `&x` (NIP-91): the event has a tag `x` with each of these values.
    pub all_tags: BTreeMap<TagName, Vec<String>>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Not newer than this.
    pub until: Option<Timestamp>,
    /// At most this many stored events, the newest; says nothing about live ones.
    pub limit: Option<u64>,
    /// Words to find (NIP-50). What they match, only an index of words knows: stores, live tables and
    /// [`Filter::matches`] look at the other fields, and whoever has no such index refuses the filter.
    pub search: Option<String>,
}

/// Why a text is not a filter. The message names the field.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("not a filter: expected a JSON object")]
    NotAnObject,
    /// The message has the cause in it, so that it is no source to be told once more.
    #[error("not a filter: {0}")]
    Malformed(serde_json::Error),
}

impl Filter {
    /// Reads a filter from JSON.
    pub fn from_json(text: &[u8]) -> Result<Filter, FilterError> {
        if text.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(FilterError::NotAnObject);
        }
        serde_json::from_slice(text).map_err(FilterError::Malformed)
    }

    /// Whether a subscriber with this filter wants `event`. `limit` plays no part, and `search` neither:
    /// words are the search index's business.
    pub fn matches(&self, event: &Event) -> bool {
        let has = |name: TagName, wanted: &String| {
            event.tags.iter().any(|tag| {
                tag.name().and_then(TagName::new) == Some(name)
                    && tag.value() == Some(wanted.as_str())
            })
        };
        self.ids.as_ref().is_none_or(|ids| ids.contains(&event.id))
            && self.authors.as_ref().is_none_or(|authors| authors.contains(&event.pubkey))
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
            && self.since.is_none_or(|since| event.created_at >= since)
            && self.until.is_none_or(|until| event.created_at <= until)
            && self.tags.iter().all(|(name, values)| values.iter().any(|value| has(*name, value)))
            && self.all_tags.iter().all(|(name, values)| {
                !values.is_empty() && values.iter().all(|value| has(*name, value))
            })
    }

    /// How many values it lists, over all fields: what it may cost to look them up.
    pub fn values(&self) -> usize {
        let lists = self.tags.values().chain(self.all_tags.values());
        self.ids.as_ref().map_or(0, Vec::len)
            + self.authors.as_ref().map_or(0, Vec::len)
            + self.kinds.as_ref().map_or(0, Vec::len)
            + lists.map(Vec::len).sum::<usize>()
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Filter, D::Error> {
        deserializer.deserialize_map(FilterVisitor)
    }
}

struct FilterVisitor;

impl<'de> de::Visitor<'de> for FilterVisitor {
    type Value = Filter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a filter")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Filter, A::Error> {
        let mut filter = Filter::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "ids" => once(&mut filter.ids, &key, map.next_value()?)?,
                "authors" => once(&mut filter.authors, &key, map.next_value()?)?,
                "kinds" => once(&mut filter.kinds, &key, map.next_value()?)?,
                "since" => once(&mut filter.since, &key, map.next_value()?)?,
                "until" => once(&mut filter.until, &key, map.next_value()?)?,
                "limit" => once(&mut filter.limit, &key, map.next_value()?)?,
                "search" => once(&mut filter.search, &key, map.next_value()?)?,
                _ => read_tag_field(&mut filter, &key, &mut map)?,
            }
        }
        Ok(filter)
    }
}

fn once<T, E: de::Error>(field: &mut Option<T>, key: &str, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(format!("`{key}` stands twice"))),
    }
}

/// `#x` or `&x`. Any other key is refused: to ignore it would answer a question nobody asked.
fn read_tag_field<'de, A: de::MapAccess<'de>>(
    filter: &mut Filter,
    key: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    let unknown = || de::Error::custom(format!("`{key}` is not supported"));
    let (fields, name) = match key.split_at_checked(1) {
        Some(("#", name)) => (&mut filter.tags, name),
        Some(("&", name)) => (&mut filter.all_tags, name),
        _ => return Err(unknown()),
    };
    let name = TagName::new(name).ok_or_else(unknown)?;
    let values: Vec<String> = map.next_value()?;
    // NIP-01 wants whole ids and keys here; a prefix would silently match nothing.
    let wants_hex = matches!(name.byte(), b'e' | b'p');
    if wants_hex && values.iter().any(|value| value.parse::<EventId>().is_err()) {
        return Err(de::Error::custom(format!("`{key}` must list 64 lower-case hex digits each")));
    }
    match fields.insert(name, values) {
        None => Ok(()),
        Some(_) => Err(de::Error::custom(format!("`{key}` stands twice"))),
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "ids", &self.ids)?;
        entry(&mut map, "authors", &self.authors)?;
        entry(&mut map, "kinds", &self.kinds)?;
        for (name, values) in &self.tags {
            map.serialize_entry(&format!("#{name}"), values)?;
        }
        for (name, values) in &self.all_tags {
            map.serialize_entry(&format!("&{name}"), values)?;
        }
        entry(&mut map, "since", &self.since)?;
        entry(&mut map, "until", &self.until)?;
        entry(&mut map, "limit", &self.limit)?;
        entry(&mut map, "search", &self.search)?;
        map.end()
    }
}

fn entry<M: SerializeMap, T: Serialize>(
    map: &mut M,
    key: &str,
    value: &Option<T>,
) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(key, value),
        None => Ok(()),
    }
}
