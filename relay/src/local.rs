//! What never goes up to L2: protected events (NIP-70), and those of kinds and authors that the operator
//! keeps to this relay.
//!
//! It is asked twice. Ingest stores such an event as local from the start; the outbox asks again before
//! it sends, for what was queued before the setting was there, or was imported without it.

use std::{collections::HashSet, fmt, ops::RangeInclusive, str::FromStr};

use event::{Event, Kind, Packed, PublicKey, Tag, packed::Values};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The name of the tag that protects an event (NIP-70).
pub const PROTECTION: &str = "-";

/// The operator's word on it.
#[derive(Clone, Debug, Default)]
pub struct LocalOnly {
    pub kinds: Vec<KindRange>,
    pub authors: HashSet<PublicKey>,
}

impl LocalOnly {
    /// Whether an event of this kind and author stays here.
    fn keeps_of(&self, kind: Kind, author: &PublicKey) -> bool {
        self.kinds.iter().any(|range| range.0.contains(&kind.0)) || self.authors.contains(author)
    }

    /// Whether this event stays here.
    pub fn keeps(&self, event: &Event) -> bool {
        self.keeps_of(event.kind, &event.pubkey) || event.tags.iter().any(is_protection)
    }

    pub fn keeps_packed(&self, event: &[u8]) -> bool {
        let is_protection = |mut tag: Values<'_>| {
            tag.next().is_some_and(|name| name.is(PROTECTION)) && tag.next().is_none()
        };
        Packed::trusted(event).is_ok_and(|event| {
            self.keeps_of(event.kind(), &event.pubkey()) || event.tags().any(is_protection)
        })
    }
}

/// `["-"]`: its author alone decides where this event goes (NIP-70).
pub fn is_protection(tag: &Tag) -> bool {
    tag.0 == [PROTECTION]
}

/// A kind, or all from one to another: `4` or `1000-1999`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindRange(pub RangeInclusive<u16>);

impl FromStr for KindRange {
    type Err = String;

    fn from_str(text: &str) -> Result<KindRange, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<u16>().ok();
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(KindRange(first..=last)),
            _ => Err(format!("{text:?} is neither a kind nor a range of kinds, as 1000-1999")),
        }
    }
}

impl fmt::Display for KindRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl Serialize for KindRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KindRange {
    /// A number, or text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KindRange, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u16),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(kind) => Ok(KindRange(kind..=kind)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<RangeInclusive<u16>>) {
        assert_eq!(text.parse::<KindRange>().ok().map(|range| range.0), expected, "{text:?}");
    }

    #[test]
    fn kinds_are_written_alone_or_as_a_range() {
        check("4", Some(4..=4));
        check("1000-1999", Some(1000..=1999));
        check("1999-1000", None);
        check("65536", None);
        check("notes", None);
    }

    #[test]
    fn a_kind_an_author_or_their_wish_is_reason_enough_to_stay() {
        let (ann, bob) = (Author::new(1), Author::new(2));
        let local = LocalOnly { kinds: vec![KindRange(4..=5)], authors: [ann.pubkey()].into() };
        let stays = |event: event::Verified| {
            assert_eq!(local.keeps(&event), local.keeps_packed(&event.pack()), "{event:?}");
            local.keeps(&event)
        };
        assert!(stays(bob.sign(1_000, 4, &[], "")) && stays(ann.sign(1_000, 1, &[], "")));
        assert!(stays(bob.sign(1_000, 1, &[&["t", "x"], &["-"]], "")));
        assert!(!stays(bob.sign(1_000, 1, &[&["t", "-"], &["-", "x"]], "")));
    }
}
