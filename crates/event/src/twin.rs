//! The dumb twin of every store, and the random events to compare them on. For tests only.
//!
//! [`NaiveStore`] keeps a `Vec`, scans it for every question and has no other state than the events
//! it accepted and the deletions among them. Random events come from a small world (three authors,
//! a few dates, kinds and tag values), so that they replace, delete and tie with each other often.

use proptest::{collection::vec, option, prelude::*};
use secp256k1::{Keypair, schnorr};

use crate::{
    Address, Class, Event, EventId, Filter, Kind, PublicKey, Signature, Tag, TagName, Timestamp,
    Verified, verify,
};

/// An author whose key is made from a number: the same every time.
#[derive(Clone, Debug)]
pub struct Author(Keypair);

impl Author {
    /// Author number `seed`.
    pub fn new(seed: u8) -> Author {
        let mut secret = [0x5a; 32];
        secret[31] = seed;
        Author(Keypair::from_secret_key(
            &secp256k1::SecretKey::from_secret_bytes(secret).expect("far below the group order"),
        ))
    }

    pub fn pubkey(&self) -> PublicKey {
        PublicKey(self.0.x_only_public_key().0.to_byte_array())
    }

    /// A signed event.
    pub fn sign(&self, created_at: u64, kind: u16, tags: &[&[&str]], content: &str) -> Verified {
        let tags = tags.iter().map(|tag| Tag(tag.iter().map(|v| (*v).to_owned()).collect()));
        self.sign_owned(Timestamp(created_at), Kind(kind), tags.collect(), content.to_owned())
    }

    fn sign_owned(
        &self,
        created_at: Timestamp,
        kind: Kind,
        tags: Vec<Tag>,
        content: String,
    ) -> Verified {
        let pubkey = self.pubkey();
        let mut event = Event {
            id: EventId([0; 32]),
            pubkey,
            created_at,
            kind,
            tags,
            content,
            sig: Signature([0; 64]),
        };
        event.id = event.computed_id();
        event.sig = Signature(schnorr::sign_no_aux_rand(&event.id.0, &self.0).to_byte_array());
        verify(event).expect("it was signed a line ago")
    }
}

/// A store written to be obviously right.
#[derive(Clone, Debug, Default)]
pub struct NaiveStore {
    live: Vec<Event>,
}

impl NaiveStore {
    /// Takes an event as NIP-01 and NIP-09 have it; says whether it is now held.
    pub fn save(&mut self, event: &Event) -> bool {
        if self.live.contains(event) {
            return true;
        }
        if event.kind.class() == Class::Ephemeral || self.is_deleted(event) {
            return false;
        }
        let newer_is_here = |held: &Event| {
            is_same_version(held, event)
                && (held.created_at > event.created_at
                    || held.created_at == event.created_at && held.id < event.id)
        };
        if self.live.iter().any(newer_is_here) {
            return false;
        }
        self.live.retain(|held| !is_same_version(held, event));
        self.live.retain(|held| !deletes(event, held));
        self.live.push(event.clone());
        true
    }

    /// All that is held.
    pub fn live(&self) -> &[Event] {
        &self.live
    }

    /// What a relay answers to these filters: for each the newest up to its limit, then all of them
    /// together, newest first and ties by lowest id.
    pub fn query(&self, filters: &[Filter]) -> Vec<Event> {
        let mut found: Vec<Event> = Vec::new();
        for filter in filters {
            let mut own: Vec<Event> =
                self.live.iter().filter(|event| filter.matches(event)).cloned().collect();
            sort(&mut own);
            own.truncate(filter.limit.map_or(usize::MAX, |limit| limit as usize));
            found.extend(own);
        }
        sort(&mut found);
        found.dedup();
        found
    }

    /// Deletions are never deleted, so those that are held are all there ever were.
    fn is_deleted(&self, event: &Event) -> bool {
        self.live.iter().any(|held| deletes(held, event))
    }
}

fn sort(events: &mut [Event]) {
    events.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
}

fn is_same_version(one: &Event, other: &Event) -> bool {
    one.address().is_some() && one.address() == other.address()
}

fn deletes(deletion: &Event, target: &Event) -> bool {
    if deletion.kind.0 != 5 || target.kind.0 == 5 || deletion.pubkey != target.pubkey {
        return false;
    }
    deletion.tags.iter().any(|tag| match tag.name() {
        Some("e") => tag.value() == Some(&target.id.to_string()),
        Some("a") => {
            let named = tag.value().and_then(Address::parse);
            named.is_some() && named == target.address() && target.created_at <= deletion.created_at
        }
        _ => false,
    })
}

const AUTHORS: u8 = 3;
const KINDS: [u16; 8] = [0, 1, 7, 10_002, 20_001, 30_023, 30_024, 65_535];
const VALUES: [&str; 4] = ["", "a", "blue", "no such thing"];
const LETTERS: [&str; 3] = ["t", "d", "E"];

fn author() -> impl Strategy<Value = Author> {
    (0..AUTHORS).prop_map(Author::new)
}

fn date() -> impl Strategy<Value = Timestamp> {
    (1_000u64..1_008).prop_map(Timestamp)
}

fn tag() -> impl Strategy<Value = Tag> {
    let named = (prop::sample::select(&LETTERS[..]), prop::sample::select(&VALUES[..]));
    prop_oneof![
        8 => named.prop_map(|(name, value)| Tag(vec![name.into(), value.into()])),
        2 => author().prop_map(|author| Tag(vec!["p".into(), author.pubkey().to_string()])),
        1 => Just(Tag(vec!["t".into()])),
        1 => Just(Tag(vec![])),
        1 => vec(any::<String>(), 0..4).prop_map(Tag),
    ]
}

/// A signed event of any kind but deletions.
pub fn event() -> impl Strategy<Value = Verified> {
    let kind = prop::sample::select(&KINDS[..]).prop_map(Kind);
    let content = prop_oneof![Just(String::new()), any::<String>()];
    (author(), date(), kind, vec(tag(), 0..4), content).prop_map(
        |(author, created_at, kind, tags, content)| {
            author.sign_owned(created_at, kind, tags, content)
        },
    )
}

/// Events in order of arrival, with repetitions, and with deletions of some of them (also by
/// strangers, also before they arrive, also of deletions).
pub fn arrivals(most: usize) -> impl Strategy<Value = Vec<Verified>> {
    let deletion = (author(), date(), vec((any::<prop::sample::Index>(), any::<bool>()), 1..4));
    (vec(event(), 1..most), vec((deletion, any::<prop::sample::Index>()), 0..most / 4 + 1))
        .prop_map(|(events, deletions)| {
            let mut arrivals = events;
            for ((author, created_at, targets), place) in deletions {
                let tags = targets.iter().map(|(target, by_address)| {
                    deletion_tag(target.get::<Verified>(&arrivals), *by_address)
                });
                let deletion =
                    author.sign_owned(created_at, Kind::DELETION, tags.collect(), String::new());
                let place = place.index(arrivals.len() + 1);
                arrivals.insert(place, deletion);
            }
            arrivals
        })
        .prop_flat_map(|arrivals| {
            let repeated = vec(prop::sample::select(arrivals.clone()), 0..3);
            (Just(arrivals), repeated)
        })
        .prop_map(|(mut arrivals, repeated)| {
            arrivals.extend(repeated);
            arrivals
        })
}

fn deletion_tag(target: &Event, by_address: bool) -> Tag {
    match target.address() {
        Some(Address { kind, pubkey, d }) if by_address => {
            Tag(vec!["a".into(), format!("{kind}:{pubkey}:{d}")])
        }
        _ => Tag(vec!["e".into(), target.id.to_string()]),
    }
}

/// Filters over the same small world; ids are taken from `events`.
pub fn filter(events: &[Verified]) -> impl Strategy<Value = Filter> + use<> {
    let mut ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
    ids.push(EventId([7; 32]));
    let kind = prop::sample::select(&KINDS[..]).prop_map(Kind);
    let tags = || {
        let letter = prop::sample::select(&LETTERS[..])
            .prop_map(|letter| TagName::new(letter).expect("a letter"));
        let value = prop::sample::select(&VALUES[..]).prop_map(str::to_owned);
        prop::collection::btree_map(letter, vec(value, 0..3), 0..2)
    };
    (
        option::weighted(0.2, vec(prop::sample::select(ids), 0..6)),
        option::weighted(0.4, vec(author().prop_map(|author| author.pubkey()), 0..3)),
        option::weighted(0.4, vec(kind, 0..3)),
        prop_oneof![2 => Just(Default::default()), 1 => tags()],
        prop_oneof![4 => Just(Default::default()), 1 => tags()],
        option::weighted(0.3, date()),
        option::weighted(0.3, date()),
        option::weighted(0.4, 0u64..6),
    )
        .prop_map(|(ids, authors, kinds, tags, all_tags, since, until, limit)| Filter {
            ids,
            authors,
            kinds,
            tags,
            all_tags,
            since,
            until,
            limit,
        })
}
