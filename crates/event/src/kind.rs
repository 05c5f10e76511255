//! Kinds and the four classes that decide how long an event of a kind is kept (NIP-01).

use std::fmt;

use serde::{Deserialize, Serialize};

/// An event's kind, 0 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kind(pub u16);

/// What a kind says about keeping its events (NIP-01, "Kinds").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// All are kept.
    Regular,
    /// One for each author and kind: the newest.
    Replaceable,
    /// Passed on to whoever listens, never kept.
    Ephemeral,
    /// One for each author, kind and `d` tag: the newest.
    Addressable,
}

impl Kind {
    /// A deletion request (NIP-09).
    pub const DELETION: Kind = Kind(5);
    /// A request to vanish (NIP-62).
    pub const VANISH: Kind = Kind(62);
    /// An encrypted event for the one it names (NIP-59).
    pub const GIFT_WRAP: Kind = Kind(1059);

    /// The class of this kind. Kinds that NIP-01 leaves unclassified count as regular.
    pub fn class(self) -> Class {
        match self.0 {
            0 | 3 | 10_000..=19_999 => Class::Replaceable,
            20_000..=29_999 => Class::Ephemeral,
            30_000..=39_999 => Class::Addressable,
            _ => Class::Regular,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: u16, class: Class) {
        assert_eq!(Kind(kind).class(), class, "kind {kind}");
    }

    #[test]
    fn classes_are_those_of_nip_01_at_every_border() {
        check(0, Class::Replaceable);
        check(1, Class::Regular);
        check(3, Class::Replaceable);
        check(5, Class::Regular);
        check(9_999, Class::Regular);
        check(10_000, Class::Replaceable);
        check(19_999, Class::Replaceable);
        check(20_000, Class::Ephemeral);
        check(29_999, Class::Ephemeral);
        check(30_000, Class::Addressable);
        check(39_999, Class::Addressable);
        check(40_000, Class::Regular);
        check(65_535, Class::Regular);
    }
}
