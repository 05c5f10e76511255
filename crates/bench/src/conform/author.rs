//! Who publishes in a case: somebody new each time, so that no relay knows them yet.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use event::{Event, Tag, Timestamp};
use serde_json::Value;

/// A key, and the work that the relay wants to see in each event (NIP-13).
pub struct Author {
    key: corpus::Author,
    work_bits: u32,
}

impl Author {
    pub fn anybody(work_bits: u32) -> Author {
        let key = corpus::Author::of_secret(rand::random()).expect("few numbers are no keys");
        Author { key, work_bits }
    }

    pub fn of_secret(secret: &str) -> Result<Author> {
        let secret: [u8; 32] = hex::FromHex::from_hex(secret).context("it wants 64 hex digits")?;
        let key = corpus::Author::of_secret(secret).context("it is no secret key")?;
        Ok(Author { key, work_bits: 0 })
    }

    /// What others know the author by.
    pub fn pubkey(&self) -> String {
        self.key.pubkey().to_string()
    }

    /// An event of this author.
    pub fn sign(&self, at: u64, kind: u16, tags: &[&[&str]], content: &str) -> Event {
        let tag = |tag: &&[&str]| Tag(tag.iter().map(|part| (*part).to_owned()).collect());
        let tags: Vec<Tag> = tags.iter().map(tag).collect();
        if self.work_bits == 0 {
            return self.key.sign(Timestamp(at), kind, tags, content.to_owned());
        }
        self.mine(at, kind, &tags, content, self.work_bits)
    }

    /// An event whose id begins with so many zero bits, which it says it wanted.
    pub fn mine(&self, at: u64, kind: u16, tags: &[Tag], content: &str, bits: u32) -> Event {
        let with_nonce = |nonce: u64| {
            let mut tags = tags.to_vec();
            tags.push(Tag(vec!["nonce".into(), nonce.to_string(), bits.to_string()]));
            self.key.sign(Timestamp(at), kind, tags, content.to_owned())
        };
        let mut tried = (0..).map(with_nonce);
        tried.find(|event| zero_bits(event) >= bits).expect("there is no end of nonces")
    }

    /// A text note, so many seconds old.
    pub fn note(&self, age: u64) -> Event {
        self.sign(now() - age, 1, &[], &format!("a note of {age} seconds ago"))
    }
}

/// How many zero bits its id begins with.
pub fn zero_bits(event: &Event) -> u32 {
    let first = event.id.0.iter().position(|byte| *byte != 0).unwrap_or(31);
    first as u32 * 8 + event.id.0[first].leading_zeros()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs()
}

/// A word that nobody has written before.
pub fn word() -> String {
    format!("w{}", hex::encode(rand::random::<[u8; 8]>()))
}

/// An id or a key that is nobody's.
pub fn digits() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// An event as JSON, to be bent.
pub fn json_of(event: &Event) -> Value {
    serde_json::from_str(&event.to_json()).expect("it was written a call ago")
}
