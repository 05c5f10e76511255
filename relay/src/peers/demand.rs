//! What the live subscriptions of this relay want, summed up into few filters that peers are asked for.
//!
//! Of each filter one field is taken, its narrowest, and its kinds: what a peer sends too much is passed
//! over when it comes. Values with the same field and kinds are gathered in chunks, each of which is a
//! subscription at the peer, so that one reader more or less renews one short filter and not the lot.
//! Values are counted: one that two want stays while one of them goes.
//!
//! Messages (kinds that are not for everybody) are wanted for the keys that have authenticated here, and
//! for no others, and in chunks of their own: a peer shows them to nobody who does not name whom they are
//! for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use event::{Filter, Kind, PublicKey, TagName, Timestamp};

/// Values of one chunk: what is sent anew when one of them changes.
const CHUNK_VALUES_MAX: usize = 256;
/// Bytes of a tag value, beyond which it is not named: with the longest escapes a chunk of such values is
/// still a message that any relay takes.
const VALUE_BYTES_MAX: usize = 512;
/// Kinds of one chunk. Beyond it all are asked for.
const KINDS_MAX: usize = 512;
/// Values of a chunk and its kinds.
pub const CHUNK_PARTS_MAX: usize = CHUNK_VALUES_MAX + KINDS_MAX;
/// Chunks in a plan. Beyond it the largest groups are widened to their kinds.
pub const CHUNKS_MAX: usize = 64;
/// The chunk of what was widened.
const WIDE: ChunkId = ChunkId(0);

/// A chunk's name, in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub u64);

/// All that peers are asked for at a time.
pub type Plan = BTreeMap<ChunkId, Arc<Filter>>;

/// What values are values of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Group {
    field: Field,
    /// None: all.
    kinds: Option<Vec<Kind>>,
    /// Whether events of these kinds are not for everybody.
    is_messages: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Field {
    /// Nothing but the kinds. Its one value is empty.
    Kinds,
    Tag(TagName),
    Authors,
    Ids,
}

/// What a filter comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    group: Group,
    values: Vec<Arc<str>>,
}

/// What one subscription wants of peers, if `keys` have authenticated where it is. What has no live
/// stage wants nothing.
pub fn pieces_of(
    filters: &[Filter],
    keys: &[PublicKey],
    guarded: &[Kind],
    now: Timestamp,
) -> Vec<Piece> {
    let live = filters.iter().filter(|filter| is_live(filter, now));
    live.flat_map(|filter| {
        let kinds = filter.kinds.as_deref();
        let (messages, others): (Vec<Kind>, Vec<Kind>) = match kinds {
            Some(kinds) => kinds.iter().partition(|kind| guarded.contains(kind)),
            None => (guarded.to_vec(), Vec::new()),
        };
        let others = kinds.is_none_or(|_| !others.is_empty()).then(|| open_piece(filter, others));
        let messages = message_pieces(filter, keys, messages);
        others.into_iter().chain(messages)
    })
    .collect()
}

fn is_live(filter: &Filter, now: Timestamp) -> bool {
    let is_empty = |list: Option<usize>| list == Some(0);
    filter.search.is_none()
        && filter.until.is_none_or(|until| until >= now)
        && !is_empty(filter.ids.as_ref().map(Vec::len))
        && !is_empty(filter.authors.as_ref().map(Vec::len))
        && !is_empty(filter.kinds.as_ref().map(Vec::len))
        && filter.tags.values().chain(filter.all_tags.values()).all(|values| !values.is_empty())
}

/// Ids single out events, tags and authors narrow them down.
fn open_piece(filter: &Filter, kinds: Vec<Kind>) -> Piece {
    let all = filter.all_tags.iter().map(|(name, values)| (*name, &values[..1]));
    let any = filter.tags.iter().map(|(name, values)| (*name, &values[..]));
    let is_short = |value: &String| value.len() <= VALUE_BYTES_MAX;
    let named = all.chain(any).filter(|(_, values)| values.iter().all(is_short));
    let tag = named.min_by_key(|(_, values)| values.len());
    let (field, values) = match (&filter.ids, tag, &filter.authors) {
        (Some(ids), ..) => (Field::Ids, texts(ids)),
        (None, Some((name, values)), _) => (Field::Tag(name), texts(values)),
        (None, None, Some(authors)) => (Field::Authors, texts(authors)),
        (None, None, None) => (Field::Kinds, vec!["".into()]),
    };
    let kinds = filter.kinds.is_some().then_some(kinds);
    Piece::new(field, kinds, false, values)
}

/// What somebody may see by being named, and what they wrote.
fn message_pieces(filter: &Filter, keys: &[PublicKey], kinds: Vec<Kind>) -> Vec<Piece> {
    if kinds.is_empty() || keys.is_empty() {
        return Vec::new();
    }
    let receivers = filter.tags.get(&receiver());
    let to = keys.iter().map(PublicKey::to_string);
    let to: Vec<String> =
        to.filter(|key| receivers.is_none_or(|named| named.contains(key))).collect();
    let by = keys.iter();
    let by: Vec<&PublicKey> =
        by.filter(|key| filter.authors.as_ref().is_none_or(|named| named.contains(key))).collect();
    let to = Piece::new(Field::Tag(receiver()), Some(kinds.clone()), true, texts(&to));
    let by = Piece::new(Field::Authors, Some(kinds), true, texts(&by));
    [to, by].into_iter().filter(|piece| !piece.values.is_empty()).collect()
}

fn receiver() -> TagName {
    TagName::new("p").expect("it is one letter")
}

fn texts<T: ToString>(values: &[T]) -> Vec<Arc<str>> {
    values.iter().map(|value| value.to_string().into()).collect()
}

impl Piece {
    fn new(
        field: Field,
        kinds: Option<Vec<Kind>>,
        is_messages: bool,
        mut values: Vec<Arc<str>>,
    ) -> Piece {
        let kinds = kinds.map(|mut kinds| {
            kinds.sort_unstable();
            kinds.dedup();
            kinds
        });
        let kinds = kinds.filter(|kinds| kinds.len() <= KINDS_MAX || is_messages);
        values.sort_unstable();
        values.dedup();
        Piece { group: Group { field, kinds, is_messages }, values }
    }
}

/// The sum of what is wanted.
#[derive(Default)]
pub struct Demands {
    groups: BTreeMap<Group, Chunks>,
    last: u64,
}

#[derive(Default)]
struct Chunks {
    /// How many want a value, and where it is.
    places: HashMap<Arc<str>, (usize, ChunkId)>,
    chunks: BTreeMap<ChunkId, Chunk>,
    with_room: BTreeSet<ChunkId>,
}

#[derive(Default)]
struct Chunk {
    values: BTreeSet<Arc<str>>,
    /// Made when it is needed.
    filter: Option<Arc<Filter>>,
}

impl Demands {
    pub fn add(&mut self, pieces: &[Piece]) {
        for Piece { group, values } in pieces {
            let chunks = match self.groups.get_mut(group) {
                Some(chunks) => chunks,
                None => self.groups.entry(group.clone()).or_default(),
            };
            for value in values {
                chunks.add(value, &mut self.last);
            }
        }
    }

    /// Takes back what was added.
    pub fn remove(&mut self, pieces: &[Piece]) {
        for Piece { group, values } in pieces {
            let Some(chunks) = self.groups.get_mut(group) else { continue };
            values.iter().for_each(|value| chunks.remove(value));
            if chunks.places.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Takes back all of it.
    pub fn clear(&mut self) {
        self.groups.clear();
    }

    /// What to ask peers for: all that is wanted, and not much more, in at most [`CHUNKS_MAX`] filters.
    pub fn plan(&mut self) -> Plan {
        let mut left: usize = self.groups.values().map(|chunks| chunks.chunks.len()).sum();
        let mut order: Vec<(usize, Group)> = self
            .groups
            .iter()
            .map(|(group, chunks)| (chunks.chunks.len(), group.clone()))
            .filter(|(_, group)| !group.is_messages)
            .collect();
        // What takes most room first; messages are for whom they name, and cannot be widened.
        order.sort_unstable_by(|one, other| other.cmp(one));
        let (mut wide, mut widened) = (Wide::default(), BTreeSet::new());
        for (chunks, group) in order {
            if left + usize::from(!widened.is_empty()) <= CHUNKS_MAX {
                break;
            }
            left -= chunks;
            wide.add(&group);
            widened.insert(group);
        }
        let mut plan = Plan::new();
        for (group, chunks) in &mut self.groups {
            let is_covered = widened.contains(group) || wide.is_all && !group.is_messages;
            if !is_covered {
                chunks.write(group, &mut plan);
            }
        }
        // What the poll brings a moment later.
        while plan.len() + usize::from(!widened.is_empty()) > CHUNKS_MAX {
            plan.pop_last();
        }
        if !widened.is_empty() {
            plan.insert(WIDE, Arc::new(wide.filter()));
        }
        plan
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// Groups of which only the kinds are left.
#[derive(Default)]
struct Wide {
    kinds: BTreeSet<Kind>,
    is_all: bool,
}

impl Wide {
    fn add(&mut self, group: &Group) {
        match &group.kinds {
            Some(kinds) => self.kinds.extend(kinds),
            None => self.is_all = true,
        }
    }

    fn filter(self) -> Filter {
        let names_kinds = !self.is_all && self.kinds.len() <= KINDS_MAX;
        let kinds = names_kinds.then(|| self.kinds.into_iter().collect());
        Filter { kinds, ..Filter::default() }
    }
}

impl Chunks {
    fn add(&mut self, value: &Arc<str>, last: &mut u64) {
        if let Some((count, _)) = self.places.get_mut(value) {
            *count += 1;
            return;
        }
        let id = self.with_room.first().copied().unwrap_or_else(|| {
            *last += 1;
            self.with_room.insert(ChunkId(*last));
            ChunkId(*last)
        });
        let chunk = self.chunks.entry(id).or_default();
        chunk.values.insert(value.clone());
        chunk.filter = None;
        if chunk.values.len() == CHUNK_VALUES_MAX {
            self.with_room.remove(&id);
        }
        self.places.insert(value.clone(), (1, id));
    }

    fn remove(&mut self, value: &Arc<str>) {
        let Some((count, id)) = self.places.get_mut(value) else { return };
        let id = *id;
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.places.remove(value);
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        chunk.values.remove(value);
        chunk.filter = None;
        self.with_room.insert(id);
        if chunk.values.is_empty() {
            self.chunks.remove(&id);
            self.with_room.remove(&id);
        }
    }

    fn write(&mut self, group: &Group, plan: &mut Plan) {
        for (id, chunk) in &mut self.chunks {
            let values = &chunk.values;
            let filter = chunk.filter.get_or_insert_with(|| Arc::new(filter_of(group, values)));
            plan.insert(*id, filter.clone());
        }
    }
}

fn filter_of(group: &Group, values: &BTreeSet<Arc<str>>) -> Filter {
    let mut filter = Filter { kinds: group.kinds.clone(), ..Filter::default() };
    // They were made of ids and keys.
    match group.field {
        Field::Kinds => {}
        Field::Ids => filter.ids = values.iter().map(|value| value.parse().ok()).collect(),
        Field::Authors => filter.authors = values.iter().map(|value| value.parse().ok()).collect(),
        Field::Tag(name) => {
            filter.tags.insert(name, values.iter().map(|value| value.to_string()).collect());
        }
    }
    filter
}

#[cfg(test)]
mod tests {
    use event::twin;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn filter(json: &str) -> Filter {
        Filter::from_json(json.as_bytes()).unwrap()
    }

    fn pieces(json: &str, keys: &[PublicKey]) -> Vec<Piece> {
        pieces_of(&[filter(json)], keys, &[Kind(4), Kind(1_059)], NOW)
    }

    fn filters_of(demands: &mut Demands) -> Vec<String> {
        let plan = demands.plan();
        plan.values().map(|filter| serde_json::to_string(&**filter).unwrap()).collect()
    }

    proptest! {
        /// Messages apart: of those a plan has what `message_pieces` says, below.
        #[test]
        fn a_plan_lets_through_whatever_a_subscription_wants(
            events in vec(twin::event(), 1..12),
            subscriptions in vec((vec(twin::filter(&[]), 0..4), any::<bool>()), 0..12),
        ) {
            let (mut demands, mut stay) = (Demands::default(), Vec::new());
            for (filters, stays) in subscriptions {
                let pieces = pieces_of(&filters, &[], &[], NOW);
                demands.add(&pieces);
                if stays {
                    stay.push((filters, pieces));
                } else {
                    demands.remove(&pieces);
                }
            }
            let plan = demands.plan();
            for event in &events {
                let is_wanted = stay.iter().flat_map(|(filters, _)| filters).any(|filter| filter.matches(event));
                let is_asked_for = plan.values().any(|filter| filter.matches(event));
                prop_assert!(is_asked_for || !is_wanted, "{:?} misses {:?}", plan, event);
            }
            stay.iter().for_each(|(_, pieces)| demands.remove(pieces));
            prop_assert!(demands.is_empty() && demands.plan().is_empty());
        }
    }

    #[test]
    fn values_of_one_kind_share_a_filter_and_stay_until_the_last_who_wants_them_goes() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        let one = pieces(&format!(r#"{{"kinds":[1],"authors":["{a}"]}}"#), &[]);
        let both = pieces(&format!(r#"{{"kinds":[1],"authors":["{a}","{b}"],"limit":5}}"#), &[]);
        let mut demands = Demands::default();
        demands.add(&one);
        demands.add(&both);
        let joint = format!(r#"{{"authors":["{a}","{b}"],"kinds":[1]}}"#);
        assert_eq!(filters_of(&mut demands), [joint]);
        demands.remove(&both);
        assert_eq!(filters_of(&mut demands), [format!(r#"{{"authors":["{a}"],"kinds":[1]}}"#)]);
        demands.remove(&one);
        assert!(demands.is_empty());
    }

    #[test]
    fn one_more_reader_renews_one_chunk() {
        let tags: Vec<String> = (0..1_000).map(|number| format!("\"{number}\"")).collect();
        let mut demands = Demands::default();
        demands.add(&pieces(&format!(r##"{{"#t":[{}]}}"##, tags.join(",")), &[]));
        let before = demands.plan();
        assert_eq!(before.len(), 4);
        demands.add(&pieces(r##"{"#t":["new"]}"##, &[]));
        let after = demands.plan();
        let is_other = |id| !Arc::ptr_eq(&before[id], &after[id]);
        assert_eq!(before.keys().filter(|id| is_other(id)).count(), 1);
        assert_eq!(after.len(), 4);
    }

    #[test]
    fn too_many_values_are_widened_to_their_kinds_and_never_beyond_the_chunks_there_may_be() {
        let mut demands = Demands::default();
        let many = |name: &str, kinds: &str| {
            let values: Vec<String> = (0..20_000).map(|number| format!("\"{number}\"")).collect();
            format!(r##"{{"#{name}":[{}]{kinds}}}"##, values.join(","))
        };
        let key = PublicKey([7; 32]);
        demands.add(&pieces(r#"{"kinds":[4]}"#, &[key]));
        demands.add(&pieces(&many("t", r#","kinds":[1,7]"#), &[]));
        let plan = filters_of(&mut demands);
        assert_eq!(plan.len(), 3);
        assert_eq!(plan[0], r#"{"kinds":[1,7]}"#);
        demands.add(&pieces(&many("l", ""), &[]));
        let plan = filters_of(&mut demands);
        assert_eq!(plan.len(), 3, "{plan:?}");
        assert_eq!(plan[0], "{}");
    }

    #[test]
    fn no_chunk_is_too_long_for_a_peer() {
        let mut demands = Demands::default();
        let long = "a".repeat(VALUE_BYTES_MAX + 1);
        demands.add(&pieces(&format!(r##"{{"#t":["{long}"],"kinds":[1]}}"##), &[]));
        let author = "aa".repeat(32);
        let by = format!(r##"{{"#t":["b","{long}"],"authors":["{author}"]}}"##);
        demands.add(&pieces(&by, &[]));
        let kinds: Vec<String> = (1_100..2_000).map(|kind: u16| kind.to_string()).collect();
        demands.add(&pieces(&format!(r##"{{"#l":["c"],"kinds":[{}]}}"##, kinds.join(",")), &[]));
        let asked = filters_of(&mut demands);
        assert_eq!(asked.len(), 3);
        for filter in [r#"{"kinds":[1]}"#.into(), format!(r#"{{"authors":["{author}"]}}"#)] {
            assert!(asked.contains(&filter), "{asked:?}");
        }
        assert!(asked.contains(&r##"{"#l":["c"]}"##.to_owned()), "{asked:?}");
        let escaped: Vec<String> = (0..20_000)
            .map(|number| format!("\"{number}{}\"", "\\u0001".repeat(VALUE_BYTES_MAX - 5)))
            .collect();
        let mut demands = Demands::default();
        demands.add(&pieces(&format!(r##"{{"#t":[{}]}}"##, escaped[..1_000].join(",")), &[]));
        assert!(filters_of(&mut demands).iter().all(|filter| filter.len() < 1 << 20));
    }

    #[test]
    fn messages_are_wanted_for_those_who_are_here_and_nobody_else() {
        let (me, other) = (PublicKey([7; 32]), PublicKey([8; 32]));
        let wanted = |json: &str, keys: &[PublicKey]| {
            let mut demands = Demands::default();
            demands.add(&pieces(json, keys));
            filters_of(&mut demands)
        };
        let to_me = format!(r##"{{"kinds":[1059],"#p":["{me}"]}}"##);
        let by_me = format!(r#"{{"authors":["{me}"],"kinds":[1059]}}"#);
        assert!(wanted(&to_me, &[]).is_empty());
        assert!(wanted(&to_me, &[other]).iter().all(|filter| !filter.contains("#p")));
        let mine = wanted(r#"{"kinds":[1059]}"#, &[me]);
        assert_eq!(BTreeSet::from_iter(mine), BTreeSet::from([to_me.clone(), by_me]));
        assert_eq!(wanted(r#"{"kinds":[1,1059]}"#, &[]), [r#"{"kinds":[1]}"#]);
        assert_eq!(wanted("{}", &[me]).len(), 3);
    }

    #[test]
    fn what_can_bring_nothing_live_is_not_asked_for() {
        for json in [r#"{"search":"wells"}"#, r#"{"kinds":[]}"#, r##"{"#t":[]}"##] {
            assert!(pieces(json, &[]).is_empty(), "{json}");
        }
        let past = pieces_of(&[filter(r#"{"until":5}"#)], &[], &[], Timestamp(6));
        assert!(past.is_empty());
    }
}
