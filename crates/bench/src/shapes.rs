//! The filters that clients ask: eight shapes, and many filters of each, chosen by what the corpus holds.

use clap::ValueEnum;
use event::{Event, Filter, Kind, PublicKey, TagName, Timestamp};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use serde::Serialize;

const SEED: u64 = 67;
/// A thread is opened: its events by id.
const IDS: usize = 100;
/// A long list of follows.
const FOLLOWS: usize = 500;
/// Six hours.
const WINDOW_SECONDS: u64 = 6 * 3600;
/// What a home feed shows: notes, reposts, articles.
const FEED_KINDS: [Kind; 3] = [Kind(1), Kind(6), Kind(30_023)];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// 100 events by id
    Ids,
    /// The newest of one author
    Author,
    /// The newest of 500 authors
    Authors,
    /// The newest of one kind
    Kinds,
    /// The newest that mention somebody (`#p`)
    Tag,
    /// The newest that mention somebody and have a hashtag (`#p` and `#t`)
    TwoTags,
    /// The newest of six hours
    Window,
    /// The newest notes, reposts and articles of 500 authors
    Feed,
}

impl Shape {
    /// As tables name it.
    pub fn in_words(self) -> &'static str {
        match self {
            Shape::Ids => "By id",
            Shape::Author => "One author",
            Shape::Authors => "500 authors",
            Shape::Kinds => "One kind",
            Shape::Tag => "One `#p`",
            Shape::TwoTags => "`#p` and `#t`",
            Shape::Window => "Six hours",
            Shape::Feed => "Home feed: 500 authors, three kinds",
        }
    }

    /// `count` filters of this shape, the same for the same events.
    pub fn filters(self, held: &[Event], limit: u64, count: usize) -> Vec<Filter> {
        let mut random = StdRng::seed_from_u64(SEED);
        (0..count)
            .map(|_| Filter { limit: Some(limit), ..self.filter(held, &mut random) })
            .collect()
    }

    fn filter(self, held: &[Event], random: &mut StdRng) -> Filter {
        let none = Filter::default();
        match self {
            Shape::Ids => {
                let ids = held.choose_multiple(random, IDS).map(|event| event.id).collect();
                Filter { ids: Some(ids), ..none }
            }
            // Whoever wrote some event: those who write more are asked for more.
            Shape::Author => Filter { authors: Some(vec![author(held, random)]), ..none },
            Shape::Authors => Filter { authors: Some(follows(held, random)), ..none },
            Shape::Kinds => {
                let kinds = [Kind(1), Kind(7), Kind(6), Kind(42), Kind(9735), Kind(30_315)];
                Filter { kinds: kinds.choose(random).map(|kind| vec![*kind]), ..none }
            }
            Shape::Tag => Filter { tags: tags(held, random, &["p"]), ..none },
            Shape::TwoTags => Filter { tags: tags(held, random, &["p", "t"]), ..none },
            Shape::Window => {
                let until = held.choose(random).expect("there are events").created_at;
                let since = Timestamp(until.0.saturating_sub(WINDOW_SECONDS));
                Filter { since: Some(since), until: Some(until), ..none }
            }
            Shape::Feed => {
                let (authors, kinds) = (Some(follows(held, random)), Some(FEED_KINDS.to_vec()));
                Filter { authors, kinds, ..none }
            }
        }
    }
}

fn author(held: &[Event], random: &mut StdRng) -> PublicKey {
    held.choose(random).expect("there are events").pubkey
}

/// Different authors, as far as there are so many.
fn follows(held: &[Event], random: &mut StdRng) -> Vec<PublicKey> {
    let mut authors: Vec<_> =
        held.choose_multiple(random, 40 * FOLLOWS).map(|event| event.pubkey).collect();
    authors.sort_unstable();
    authors.dedup();
    authors.into_iter().choose_multiple(random, FOLLOWS)
}

/// A value of each of these tags, all from one event, so that something is found.
fn tags(
    held: &[Event],
    random: &mut StdRng,
    names: &[&str],
) -> std::collections::BTreeMap<TagName, Vec<String>> {
    let value = |event: &Event, name: &str| {
        let tag = event.tags.iter().find(|tag| tag.name() == Some(name));
        tag.and_then(|tag| tag.value()).map(str::to_owned)
    };
    let start = random.random_range(0..held.len());
    let around = held[start..].iter().chain(&held[..start]);
    let has_all = |event: &&Event| names.iter().all(|name| value(event, name).is_some());
    let Some(event) = around.into_iter().find(has_all) else { return Default::default() };
    let entry = |name: &&str| {
        Some((TagName::new(name).expect("it is a letter"), vec![value(event, name)?]))
    };
    names.iter().filter_map(entry).collect()
}
