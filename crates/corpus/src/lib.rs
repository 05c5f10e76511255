//! Synthetic nostr events to measure with: as many as wanted, signed, and the same for the same seed.
//!
//! They look like what relays hold: mostly short notes, replies and reactions, about 600 bytes of
//! JSON and three tags each. A few authors write most of them and a few get most of the mentions
//! (both follow Zipf's law), replies and reactions point at recent events, and dates rise as the
//! events come, but not strictly. Texts are words in no order: stores look at sizes, not at sense.

use event::{Event, EventId, Kind, PublicKey, Signature, Tag, Timestamp};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use secp256k1::{Keypair, SecretKey, schnorr};
use sha2::{Digest, Sha256};

/// The first event's date.
pub const BEGINNING: Timestamp = Timestamp(1_740_000_000);
/// From one event to the next, on average.
const SECONDS_BETWEEN: u64 = 15;
/// How much later than its place says an event may be dated.
const SECONDS_ASTRAY: u64 = 600;
/// Replies and reactions are to one of so many events before them.
const RECENT_EVENTS: usize = 2_000;

/// An endless source of events.
pub struct Corpus {
    random: StdRng,
    authors: Vec<Author>,
    /// Author by author, the share of all events that they and those before them write.
    shares: Vec<f64>,
    recent: Vec<(EventId, PublicKey)>,
    made: u64,
}

/// Somebody who signs events.
pub struct Author {
    key: Keypair,
    pubkey: PublicKey,
}

impl Author {
    /// The same for the same seed and number.
    pub fn new(seed: u64, number: usize) -> Author {
        let digest = Sha256::new_with_prefix("corpus").chain_update(seed.to_le_bytes());
        let secret = digest.chain_update((number as u64).to_le_bytes()).finalize();
        Author::of_secret(secret.into()).expect("a hash is below the order")
    }

    /// Whose secret key this is. `None`: it is nobody's.
    pub fn of_secret(secret: [u8; 32]) -> Option<Author> {
        let key = Keypair::from_secret_key(&SecretKey::from_secret_bytes(secret).ok()?);
        let pubkey = PublicKey(key.x_only_public_key().0.to_byte_array());
        Some(Author { key, pubkey })
    }

    /// What others know the author by.
    pub fn pubkey(&self) -> PublicKey {
        self.pubkey
    }

    /// An event of this author.
    pub fn sign(&self, created_at: Timestamp, kind: u16, tags: Vec<Tag>, content: String) -> Event {
        let mut event = Event {
            id: EventId([0; 32]),
            pubkey: self.pubkey,
            created_at,
            kind: Kind(kind),
            tags,
            content,
            sig: Signature([0; 64]),
        };
        event.id = event.computed_id();
        event.sig = Signature(schnorr::sign_no_aux_rand(&event.id.0, &self.key).to_byte_array());
        event
    }
}

impl Corpus {
    /// A source of its own for each seed and number of authors.
    pub fn new(seed: u64, authors: usize) -> Corpus {
        let mut sum = 0.0;
        let weights = (1..=authors).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        let weights: Vec<f64> = weights.collect();
        Corpus {
            random: StdRng::seed_from_u64(seed),
            authors: (0..authors).map(|number| Author::new(seed, number)).collect(),
            shares: weights.iter().map(|weight| weight / sum).collect(),
            recent: Vec::with_capacity(RECENT_EVENTS),
            made: 0,
        }
    }

    /// The authors, those who write most first.
    pub fn authors(&self) -> Vec<PublicKey> {
        self.authors.iter().map(|author| author.pubkey).collect()
    }

    /// The next `count` events.
    pub fn events(&mut self, count: usize) -> impl Iterator<Item = Event> + '_ {
        (0..count).map(|_| self.event())
    }

    fn event(&mut self) -> Event {
        let author = self.author();
        let (kind, tags, content) = match self.random.random_range(0..1000) {
            0..430 => self.note(),
            430..800 => self.reaction(),
            800..840 => self.repost(),
            840..880 => self.message(),
            880..910 => self.zap(),
            910..950 => self.article_or_status(),
            950..980 => self.profile(),
            980..997 => self.relay_list(),
            _ => self.contacts(),
        };
        let later = self.random.random_range(0..SECONDS_ASTRAY);
        let created_at = Timestamp(BEGINNING.0 + self.made * SECONDS_BETWEEN + later);
        let event = self.authors[author].sign(created_at, kind, tags, content);
        self.remember(&event);
        event
    }

    fn remember(&mut self, event: &Event) {
        let it = (event.id, event.pubkey);
        if self.recent.len() < RECENT_EVENTS {
            self.recent.push(it);
        } else {
            self.recent[self.made as usize % RECENT_EVENTS] = it;
        }
        self.made += 1;
    }

    fn note(&mut self) -> (u16, Vec<Tag>, String) {
        let mut tags = Vec::new();
        if self.random.random_bool(0.45)
            && let Some((id, author)) = self.recent_event()
        {
            tags.push(tag(["e", &id, "wss://relay.example.com/", "root"]));
            tags.push(tag(["p", &author]));
            for _ in 0..self.random.random_range(0..2) {
                tags.push(tag(["p", &self.mentioned()]));
            }
        }
        for _ in 0..self.random.random_range(0..3) / 2 {
            tags.push(tag(["t", self.word()]));
        }
        if self.random.random_bool(0.2) {
            tags.push(tag(["client", "aquifer.example"]));
        }
        let words = self.random.random_range(2..45);
        (1, tags, self.text(words))
    }

    fn reaction(&mut self) -> (u16, Vec<Tag>, String) {
        let mut tags = self.tags_of_recent_event();
        if self.random.random_bool(0.3) {
            tags.push(tag(["k", "1"]));
        }
        (7, tags, "+".into())
    }

    fn repost(&mut self) -> (u16, Vec<Tag>, String) {
        (6, self.tags_of_recent_event(), String::new())
    }

    fn message(&mut self) -> (u16, Vec<Tag>, String) {
        let sealed = self.hex(160);
        (42, vec![tag(["p", &self.mentioned()])], sealed)
    }

    fn zap(&mut self) -> (u16, Vec<Tag>, String) {
        let mut tags = self.tags_of_recent_event();
        tags.push(tag(["P", &self.mentioned()]));
        tags.push(tag(["bolt11", &format!("lnbc10u1{}", self.hex(120))]));
        tags.push(tag(["description", &self.text(30)]));
        (9735, tags, String::new())
    }

    fn article_or_status(&mut self) -> (u16, Vec<Tag>, String) {
        let d = self.hex(6);
        if self.random.random_bool(0.2) {
            let tags = vec![
                tag(["d", &d]),
                tag(["title", &self.text(6)]),
                tag(["t", self.word()]),
                tag(["t", self.word()]),
            ];
            return (30_023, tags, self.text(300));
        }
        (30_315, vec![tag(["d", &d])], self.text(6))
    }

    fn profile(&mut self) -> (u16, Vec<Tag>, String) {
        let (name, about) = (self.word(), self.text(20));
        let picture = self.hex(16);
        let content = format!(
            "{{\"name\":\"{name}\",\"about\":\"{about}\",\
             \"picture\":\"https://example.com/{picture}.jpg\"}}"
        );
        (0, Vec::new(), content)
    }

    fn relay_list(&mut self) -> (u16, Vec<Tag>, String) {
        let relays = self.random.random_range(2..6);
        let tags = (0..relays).map(|_| tag(["r", &format!("wss://{}.example.com/", self.word())]));
        (10_002, tags.collect(), String::new())
    }

    fn contacts(&mut self) -> (u16, Vec<Tag>, String) {
        let follows = self.random.random_range(20..200);
        (3, (0..follows).map(|_| tag(["p", &self.mentioned()])).collect(), String::new())
    }

    fn tags_of_recent_event(&mut self) -> Vec<Tag> {
        let Some((id, author)) = self.recent_event() else { return Vec::new() };
        vec![tag(["e", &id]), tag(["p", &author])]
    }

    fn recent_event(&mut self) -> Option<(String, String)> {
        let (id, author) = self.recent.choose(&mut self.random)?;
        Some((id.to_string(), author.to_string()))
    }

    fn mentioned(&mut self) -> String {
        let author = self.author();
        self.authors[author].pubkey.to_string()
    }

    fn author(&mut self) -> usize {
        let point = self.random.random::<f64>();
        self.shares.partition_point(|share| *share < point).min(self.authors.len() - 1)
    }

    fn text(&mut self, words: usize) -> String {
        let words: Vec<&str> = (0..words).map(|_| self.word()).collect();
        words.join(" ")
    }

    fn word(&mut self) -> &'static str {
        WORDS.choose(&mut self.random).expect("there are some")
    }

    fn hex(&mut self, bytes: usize) -> String {
        (0..bytes).map(|_| format!("{:02x}", self.random.random::<u8>())).collect()
    }
}

fn tag<const N: usize>(values: [&str; N]) -> Tag {
    Tag(values.map(str::to_owned).to_vec())
}

const WORDS: [&str; 48] = [
    "water", "well", "relay", "night", "morning", "coffee", "people", "never", "always", "maybe",
    "bitcoin", "garden", "music", "river", "stone", "open", "source", "write", "read", "again",
    "think", "about", "this", "that", "there", "would", "could", "build", "small", "tool", "paper",
    "light", "window", "street", "summer", "winter", "train", "book", "page", "letter", "friend",
    "thanks", "good", "great", "love", "the", "and", "für",
];
