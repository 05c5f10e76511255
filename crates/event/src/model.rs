//! The nouns of NIP-01. Ids and keys are bytes here; their hex form exists only in JSON.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Kind;

/// Why a text is not an id, a key or a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} lower-case hex digits")]
pub struct HexError {
    expected: usize,
}

/// Reads exactly `N` bytes from lower-case hex, as NIP-01 wants it.
pub(crate) fn bytes_of_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let refused = HexError { expected: 2 * N };
    if text.len() != 2 * N || text.bytes().any(|digit| digit.is_ascii_uppercase()) {
        return Err(refused);
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| refused)?;
    Ok(bytes)
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                bytes_of_hex(text).map($name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Hex;
                impl de::Visitor<'_> for Hex {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} lower-case hex digits", 2 * $bytes)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|_| {
                            E::invalid_value(de::Unexpected::Other("another string"), &self)
                        })
                    }
                }
                deserializer.deserialize_str(Hex)
            }
        }
    };
}

hex_bytes!(
    /// An event's id: the SHA-256 of its NIP-01 serialisation.
    EventId, 32
);
hex_bytes!(
    /// An author: the x coordinate of a secp256k1 point (BIP-340).
    PublicKey, 32
);
hex_bytes!(
    /// A BIP-340 Schnorr signature over an event's id.
    Signature, 64
);

/// Seconds since 1970, as events state them. Not a clock: authors write what they like.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One tag: its name and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(pub Vec<String>);

impl Tag {
    /// The first string, unless the tag is empty.
    pub fn name(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    /// The second string: the only one that filters look at.
    pub fn value(&self) -> Option<&str> {
        self.0.get(1).map(String::as_str)
    }
}

/// A nostr event (NIP-01). Nothing here has been checked: see [`crate::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    pub id: EventId,
    pub pubkey: PublicKey,
    pub created_at: Timestamp,
    pub kind: Kind,
    pub tags: Vec<Tag>,
    pub content: String,
    pub sig: Signature,
}

/// What a replaceable or addressable event is the newest version of. `d` is empty for replaceable
/// kinds, and for addressable events without a `d` tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub kind: Kind,
    pub pubkey: PublicKey,
    pub d: String,
}
