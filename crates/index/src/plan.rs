//! Which index answers a filter, and from which prefixes.

use event::{EventId, Filter, packed::Value};

use crate::{
    Index, Key,
    keys::{author_kind_prefix, author_prefix, kind_prefix, tag_prefix},
    matcher::never_matches,
};

/// Above this many (author, kind) pairs the walk goes by author, and kinds are checked on the event.
const AUTHOR_KIND_PAIRS_MAX: usize = 1_000;

/// Where to look for a filter's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nowhere: nothing can match.
    Nothing,
    /// At these ids.
    Ids(Vec<EventId>),
    /// Along one index, below each of these prefixes.
    Walk(Index, Vec<Key>),
}

impl Plan {
    /// Picks the index that promises the fewest candidates: ids, then a tag (values that one author
    /// gives to few events), then author and kind, author, kind, and last everything by date.
    pub fn of(filter: &Filter) -> Plan {
        if never_matches(filter) {
            return Plan::Nothing;
        }
        if let Some(ids) = &filter.ids {
            return Plan::Ids(distinct(ids.clone()));
        }
        if let Some(prefixes) = tag_prefixes(filter) {
            return Plan::Walk(Index::Tag, distinct(prefixes));
        }
        let (index, prefixes) = match (&filter.authors, &filter.kinds) {
            (Some(authors), Some(kinds))
                if authors.len() * kinds.len() <= AUTHOR_KIND_PAIRS_MAX =>
            {
                let pairs = authors.iter().flat_map(|author| {
                    kinds.iter().map(move |kind| author_kind_prefix(author, *kind))
                });
                (Index::AuthorKind, pairs.collect())
            }
            (Some(authors), _) => (Index::Author, authors.iter().map(author_prefix).collect()),
            (None, Some(kinds)) => (Index::Kind, kinds.iter().copied().map(kind_prefix).collect()),
            (None, None) => (Index::Created, vec![Key::EMPTY]),
        };
        Plan::Walk(index, distinct(prefixes))
    }
}

/// The shortest way through tags: one value of an "all of" list will do, any other needs every value.
fn tag_prefixes(filter: &Filter) -> Option<Vec<Key>> {
    let one_of_all = filter.all_tags.iter().map(|(name, values)| (*name, &values[..1]));
    let each = filter.tags.iter().map(|(name, values)| (*name, &values[..]));
    let (name, values) = one_of_all.chain(each).min_by_key(|(_, values)| values.len())?;
    Some(
        values
            .iter()
            .map(|value| match value.parse::<EventId>() {
                Ok(EventId(bytes)) => tag_prefix(name, Value::Hex(&bytes)),
                Err(_) => tag_prefix(name, Value::Text(value)),
            })
            .collect(),
    )
}

/// Two walks below one prefix would only meet the same events twice.
fn distinct<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items.dedup();
    items
}
