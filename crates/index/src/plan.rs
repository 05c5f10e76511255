//! Which indexes can answer a filter, and which of them does.
//!
//! A filter says several things of an event, and each is a [`Way`] to find it. How many events lie
//! along a way only the store knows, so a plan with more than one way asks it ([`Plan::choose`]): keys
//! are counted, but never many, because the count has to pay for itself.

use event::{EventId, Filter, TagName, packed::Value};

use crate::{
    Index, Key, Order, Source,
    keys::{author_kind_prefix, author_prefix, kind_prefix, tag_prefix},
    matcher::never_matches,
};

/// Above this many (author, kind) pairs the walk goes by author, and kinds are checked on the event.
const AUTHOR_KIND_PAIRS_MAX: usize = 1_000;
/// What opening a walk costs, in steps along one.
const OPENING_STEPS: usize = 16;
/// Up to how many steps ways are compared: first by a glance, then by more. A way of fewer steps is
/// read from end to end sooner than anything better is found.
const COMPARED_STEPS: [usize; 2] = [64, 1_024];
/// A way with fewer walks is not worth comparing with one along which there is just everything.
const FEW_WALKS: usize = 16;
/// A way with more walks is not leapt along: each leap would open them all.
const LEAPING_WALKS_MAX: usize = 64;

/// Where to look for a filter's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nowhere: nothing can match.
    Nothing,
    /// At these ids.
    Ids(Vec<EventId>),
    /// Along one of these ways. The first is what promises the fewest events to one who knows nothing
    /// of the store: tags come first (values that one author gives to few events).
    Walks(Vec<Way>),
}

/// Along one index, below each of these prefixes. All events that match lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub index: Index,
    pub prefixes: Vec<Key>,
}

/// The ways that are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One alone, by its number.
    One(usize),
    /// These, and only what lies along all of them.
    Common(Vec<usize>),
}

impl Plan {
    pub fn of(filter: &Filter) -> Plan {
        if never_matches(filter) {
            return Plan::Nothing;
        }
        if let Some(ids) = &filter.ids {
            return Plan::Ids(distinct(ids.clone()));
        }
        let mut ways = tag_ways(filter);
        let is_tagged = !ways.is_empty();
        let (index, prefixes) = author_and_kind_prefixes(filter);
        if index != Index::Created || !is_tagged {
            ways.push(Way::along(index, prefixes));
        }
        let has_many_walks = ways.iter().all(|way| way.prefixes.len() > FEW_WALKS);
        if let Some(kinds) =
            filter.kinds.as_ref().filter(|_| has_many_walks && index != Index::Kind)
        {
            ways.push(Way::along(Index::Kind, kinds.iter().copied().map(kind_prefix).collect()));
        }
        if has_many_walks && filter.since.is_some() {
            ways.push(Way::along(Index::Created, vec![Key::EMPTY]));
        }
        Plan::Walks(ways)
    }

    /// The way whose keys alone say which events match: all but the dates is in its prefixes. That is
    /// so up to their 8 bytes of a key or of a digest, and nobody is known to have found two alike.
    pub fn deciding_way(&self, filter: &Filter) -> Option<&Way> {
        let Plan::Walks(ways) = self else { return None };
        let fields = (filter.authors.is_some(), filter.kinds.is_some());
        let tags = filter.tags.len() + filter.all_tags.values().map(Vec::len).sum::<usize>();
        ways.first().filter(|way| match way.index {
            Index::Tag => tags == 1 && fields == (false, false),
            Index::Author => fields == (true, false),
            Index::Created | Index::Kind | Index::AuthorKind => true,
        })
    }
}

impl Way {
    fn along(index: Index, prefixes: Vec<Key>) -> Way {
        Way { index, prefixes: distinct(prefixes) }
    }

    /// How many steps it is between two orders, walks opened included; `most` if it is more.
    fn steps<S: Source>(
        &self,
        source: &S,
        (first, last): (Order, Order),
        most: usize,
    ) -> Result<usize, S::Error> {
        let mut steps = self.prefixes.len() * OPENING_STEPS;
        for prefix in &self.prefixes {
            if steps >= most {
                return Ok(most);
            }
            let walk = source.walk(self.index, &prefix.with(&first.0), &prefix.with(&last.0))?;
            for order in walk.take(most - steps) {
                order?;
                steps += 1;
            }
        }
        Ok(steps)
    }
}

/// Picks the shortest of several ways. Where all are long, the store may leap along those that hold
/// few of all events, and else takes the first.
pub fn choose<S: Source>(
    ways: &[Way],
    source: &S,
    bounds: (Order, Order),
) -> Result<Choice, S::Error> {
    if ways.len() == 1 {
        return Ok(Choice::One(0));
    }
    for most in COMPARED_STEPS {
        let mut shortest = (most, 0);
        for (number, way) in ways.iter().enumerate() {
            shortest = shortest.min((way.steps(source, bounds, shortest.0)?, number));
        }
        if shortest.0 < most {
            return Ok(Choice::One(shortest.1));
        }
    }
    let narrows = |way: &Way| {
        !matches!(way.index, Index::Created | Index::Kind)
            && way.prefixes.len() <= LEAPING_WALKS_MAX
    };
    let narrowing: Vec<usize> = (0..ways.len()).filter(|number| narrows(&ways[*number])).collect();
    match narrowing.len() {
        0 | 1 => Ok(Choice::One(0)),
        _ if S::LEAPS => Ok(Choice::Common(narrowing)),
        _ => Ok(Choice::One(0)),
    }
}

/// A way for each tag that is asked for: of an "all of" list one for each value, of any other one for
/// all its values. Those with the fewest walks come first.
fn tag_ways(filter: &Filter) -> Vec<Way> {
    let each_of_all = filter
        .all_tags
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (*name, std::slice::from_ref(value))));
    let any_of = filter.tags.iter().map(|(name, values)| (*name, &values[..]));
    let mut ways: Vec<Way> = each_of_all
        .chain(any_of)
        .map(|(name, values)| {
            Way::along(Index::Tag, values.iter().map(|value| prefix_of(name, value)).collect())
        })
        .collect();
    ways.sort_by_key(|way| way.prefixes.len());
    ways.dedup();
    ways
}

fn prefix_of(name: TagName, value: &str) -> Key {
    match value.parse::<EventId>() {
        Ok(EventId(bytes)) => tag_prefix(name, Value::Hex(&bytes)),
        Err(_) => tag_prefix(name, Value::Text(value)),
    }
}

fn author_and_kind_prefixes(filter: &Filter) -> (Index, Vec<Key>) {
    match (&filter.authors, &filter.kinds) {
        (Some(authors), Some(kinds)) if authors.len() * kinds.len() <= AUTHOR_KIND_PAIRS_MAX => {
            let pairs = authors
                .iter()
                .flat_map(|author| kinds.iter().map(move |kind| author_kind_prefix(author, *kind)));
            (Index::AuthorKind, pairs.collect())
        }
        (Some(authors), _) => (Index::Author, authors.iter().map(author_prefix).collect()),
        (None, Some(kinds)) => (Index::Kind, kinds.iter().copied().map(kind_prefix).collect()),
        (None, None) => (Index::Created, vec![Key::EMPTY]),
    }
}

/// Two walks below one prefix would only meet the same events twice.
fn distinct<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items.dedup();
    items
}
