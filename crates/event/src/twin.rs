//! The dumb twin of every store, and the random events to compare them on. For tests only.
//!
//! [`NaiveStore`] keeps a `Vec`, scans it for every question and has little other state than the
//! events it accepted. Random events come from a small world (three authors,
//! a few dates, kinds and tag values), so that they replace, delete and tie with each other often.

use std::collections::BTreeMap;

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
    now: Timestamp,
    live: Vec<Event>,
    /// All deletions and requests to vanish that were ever taken: what they did stays done.
    requests: Vec<Event>,
    barred: Vec<EventId>,
}

impl NaiveStore {
    /// Takes an event as NIP-01, NIP-09, NIP-40 and NIP-62 have it; says whether it is now held.
    pub fn save(&mut self, event: &Event) -> bool {
        if self.live.contains(event) {
            return true;
        }
        if event.kind.class() == Class::Ephemeral
            || has_expired(event, self.now)
            || self.barred.contains(&event.id)
            || self.requests.iter().any(|request| takes_out(request, event))
        {
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
        self.live.retain(|held| !takes_out(event, held));
        self.live.push(event.clone());
        if matches!(event.kind, Kind::DELETION | Kind::VANISH) {
            self.requests.push(event.clone());
        }
        true
    }

    /// Sets the clock, which stands at 0 at first: what has expired by then is over.
    pub fn set_time(&mut self, now: Timestamp) {
        self.now = now;
        self.live.retain(|event| !has_expired(event, now));
    }

    /// Takes an event out, as who runs the store can; says whether it was there.
    pub fn delete(&mut self, id: &EventId, for_ever: bool) -> bool {
        let before = self.live.len();
        self.live.retain(|event| event.id != *id);
        let was_there = self.live.len() < before;
        if was_there && for_ever {
            self.barred.push(*id);
        }
        was_there
    }

    /// Forgets all but the time.
    pub fn clear(&mut self) {
        *self = NaiveStore { now: self.now, ..NaiveStore::default() };
    }

    /// All that is held.
    pub fn live(&self) -> &[Event] {
        &self.live
    }

    /// What a relay answers to these filters: for each the newest up to its limit, then all of them
    /// together, newest first and ties by lowest id.
    pub fn query(&self, filters: &[Filter]) -> Vec<Event> {
        answer(&self.live, filters)
    }
}

/// What these filters leave of `events`, as [`NaiveStore::query`] says it.
pub fn answer<'e>(
    events: impl IntoIterator<Item = &'e Event> + Clone,
    filters: &[Filter],
) -> Vec<Event> {
    let mut found: Vec<Event> = Vec::new();
    for filter in filters {
        let matching = events.clone().into_iter().filter(|event| filter.matches(event));
        let mut own: Vec<Event> = matching.cloned().collect();
        sort(&mut own);
        own.truncate(filter.limit.map_or(usize::MAX, |limit| limit as usize));
        found.extend(own);
    }
    sort(&mut found);
    found.dedup();
    found
}

fn sort(events: &mut [Event]) {
    events.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
}

fn is_same_version(one: &Event, other: &Event) -> bool {
    one.address().is_some() && one.address() == other.address()
}

fn has_expired(event: &Event, now: Timestamp) -> bool {
    let tag = event.tags.iter().find(|tag| tag.name() == Some("expiration"));
    let date = tag.and_then(|tag| tag.value()).and_then(|value| value.parse::<u64>().ok());
    date.is_some_and(|date| date <= now.0)
}

/// Whether `request` takes `event` out, or keeps it out.
fn takes_out(request: &Event, event: &Event) -> bool {
    match request.kind.0 {
        5 => deletes(request, event),
        62 => vanishes(request, event),
        _ => false,
    }
}

fn deletes(deletion: &Event, target: &Event) -> bool {
    if matches!(target.kind.0, 5 | 62) {
        return false;
    }
    let is_author = deletion.pubkey == target.pubkey;
    let is_receiver = target.kind.0 == 1059 && has(target, "p", &deletion.pubkey.to_string());
    deletion.tags.iter().any(|tag| match tag.name() {
        Some("e") => (is_author || is_receiver) && tag.value() == Some(&target.id.to_string()),
        Some("a") => {
            let named = tag.value().and_then(Address::parse);
            is_author
                && named.is_some()
                && named == target.address()
                && target.created_at <= deletion.created_at
        }
        _ => false,
    })
}

fn has(event: &Event, name: &str, value: &str) -> bool {
    event.tags.iter().any(|tag| tag.name() == Some(name) && tag.value() == Some(value))
}

fn vanishes(request: &Event, target: &Event) -> bool {
    has(request, "relay", "ALL_RELAYS")
        && target.kind.0 != 62
        && target.created_at <= request.created_at
        && (target.pubkey == request.pubkey
            || target.kind.0 == 1059 && has(target, "p", &request.pubkey.to_string()))
}

/// Random events are by the authors numbered below this.
pub const AUTHORS: u8 = 3;
const KINDS: [u16; 11] = [0, 1, 4, 7, 1_059, 10_002, 20_001, 21_059, 30_023, 30_024, 65_535];
/// When random events expire, if they do. Stores that should hold them have an earlier time.
pub const EXPIRATIONS: std::ops::Range<u64> = 10_000..10_008;
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
        1 => expiration().prop_map(|date| Tag(vec!["expiration".into(), date])),
        1 => Just(Tag(vec!["t".into()])),
        1 => Just(Tag(vec![])),
        1 => vec(any::<String>(), 0..4).prop_map(Tag),
    ]
}

/// The dates around [`EXPIRATIONS`]' end, one in the year 2100, and what is no date.
fn expiration() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => EXPIRATIONS.prop_map(|date| date.to_string()),
        2 => Just("4102444800".to_owned()),
        1 => Just("soon".to_owned()),
    ]
}

/// A signed event of any kind but deletions and requests to vanish.
pub fn event() -> impl Strategy<Value = Verified> {
    let kind = prop::sample::select(&KINDS[..]).prop_map(Kind);
    let content = prop_oneof![Just(String::new()), any::<String>()];
    (author(), date(), kind, vec(tag(), 0..4), content).prop_map(
        |(author, created_at, kind, tags, content)| {
            author.sign_owned(created_at, kind, tags, content)
        },
    )
}

/// Events in order of arrival, with repetitions, with deletions of some of them (also by strangers,
/// also before they arrive, also of deletions), and now and then a request to vanish.
pub fn arrivals(most: usize) -> impl Strategy<Value = Vec<Verified>> {
    let deletion = (author(), date(), vec((any::<prop::sample::Index>(), any::<bool>()), 1..4));
    let deletions = vec((deletion, any::<prop::sample::Index>()), 0..most / 4 + 1);
    let requests = prop_oneof![
        3 => Just(Vec::new()),
        1 => vec((vanish_request(), any::<prop::sample::Index>()), 1..3),
    ];
    (vec(event(), 1..most), requests, deletions)
        .prop_map(|(events, requests, deletions)| {
            let mut arrivals = events;
            for (request, place) in requests {
                let place = place.index(arrivals.len() + 1);
                arrivals.insert(place, request);
            }
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

/// To all relays, or to one that is not ours.
fn vanish_request() -> impl Strategy<Value = Verified> {
    let relay = prop::sample::select(&["ALL_RELAYS", "ALL_RELAYS", "wss://elsewhere.example"][..]);
    (author(), date(), relay).prop_map(|(author, created_at, relay)| {
        let tags = vec![Tag(vec!["relay".into(), relay.into()])];
        author.sign_owned(created_at, Kind::VANISH, tags, String::new())
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
        let value = prop::sample::select(&VALUES[..]).prop_map(str::to_owned);
        let person = author().prop_map(|author| author.pubkey().to_string());
        let field = prop_oneof![
            4 => (prop::sample::select(&LETTERS[..]), vec(value, 0..3)),
            1 => (Just("p"), vec(person, 0..3)),
        ];
        let field =
            field.prop_map(|(name, values)| (TagName::new(name).expect("a letter"), values));
        vec(field, 0..3).prop_map(BTreeMap::from_iter)
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
            search: None,
        })
}
