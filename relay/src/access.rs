//! Who may publish what, who is shown, and who may connect: the lists of the configuration with what
//! admins have decided since ([`moderation`](crate::moderation)).
//!
//! What is banned is as if it were not there, wherever events are handed out, and stays on the disk: so a
//! ban can be taken back, and comes into force at once however many events it concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use clap::ValueEnum;
use event::{Event, EventId, Kind, Packed, PublicKey};
use serde::{Deserialize, Serialize};

use crate::{local::KindRange, network::Network, verdict::Rejection};

/// Subjects, with the reasons for their being listed.
pub type Noted<T> = BTreeMap<T, String>;

/// Who may publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Writers {
    Everybody,
    /// Keys that are allowed, and those of owners and admins.
    Allowed,
}

/// What a key may do beside publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Ban and allow.
    Admin,
    /// And change what the relay says of itself, and have it read its configuration.
    Owner,
}

/// The lists.
#[derive(Clone, Debug)]
pub struct Access {
    pub owners: BTreeSet<PublicKey>,
    pub admins: BTreeSet<PublicKey>,
    pub writers: Writers,
    pub allowed_keys: Noted<PublicKey>,
    pub banned_keys: Noted<PublicKey>,
    pub banned_events: Noted<EventId>,
    /// None: all kinds.
    pub allowed_kinds: Option<Vec<KindRange>>,
    pub banned_kinds: Vec<KindRange>,
    pub blocked_ips: Noted<Network>,
}

impl Access {
    pub fn role_of(&self, key: &PublicKey) -> Option<Role> {
        if self.owners.contains(key) {
            Some(Role::Owner)
        } else {
            self.admins.contains(key).then_some(Role::Admin)
        }
    }

    /// Whether this event may be published here.
    pub fn check(&self, event: &Event) -> Result<(), Rejection> {
        if self.bans(&event.id, &event.pubkey) {
            return Err(Rejection::Banned);
        }
        if !self.takes(event.kind) {
            return Err(Rejection::KindNotTaken(event.kind));
        }
        let may_write = self.writers == Writers::Everybody
            || self.allowed_keys.contains_key(&event.pubkey)
            || self.role_of(&event.pubkey).is_some();
        if may_write { Ok(()) } else { Err(Rejection::NotAllowed) }
    }

    fn bans(&self, id: &EventId, author: &PublicKey) -> bool {
        self.banned_keys.contains_key(author) || self.banned_events.contains_key(id)
    }

    fn takes(&self, kind: Kind) -> bool {
        let lists = |ranges: &[KindRange]| ranges.iter().any(|range| range.0.contains(&kind.0));
        !lists(&self.banned_kinds) && self.allowed_kinds.as_deref().is_none_or(lists)
    }

    /// Whether anything is banned that may be on the disk.
    pub fn hides_something(&self) -> bool {
        !self.banned_keys.is_empty() || !self.banned_events.is_empty()
    }

    /// Whether this event is shown to nobody.
    pub fn hides(&self, event: &Packed<'_>) -> bool {
        self.hides_something() && self.bans(&event.id(), &event.pubkey())
    }

    /// Whether nobody may connect from there.
    pub fn blocks(&self, ip: IpAddr) -> bool {
        self.blocked_ips.keys().any(|network| network.contains(ip))
    }

    /// Whether not everybody may publish everything.
    pub fn restricts_writes(&self) -> bool {
        self.writers == Writers::Allowed || self.allowed_kinds.is_some()
    }
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;
    use crate::config::terms::TermSettings;

    fn access() -> Access {
        TermSettings::default().resolve().unwrap().access
    }

    #[track_caller]
    fn check(access: &Access, author: u8, kind: u16, expected: Result<(), Rejection>) {
        let event = Author::new(author).sign(1_000, kind, &[], "");
        assert_eq!(access.check(&event), expected, "kind {kind} by {author}");
    }

    #[test]
    fn everybody_publishes_everything_unless_something_is_said() {
        check(&access(), 1, 1, Ok(()));
        assert!(!access().restricts_writes() && !access().hides_something());
    }

    #[test]
    fn who_is_banned_is_neither_taken_nor_shown() {
        let mut access = access();
        access.banned_keys.insert(Author::new(1).pubkey(), "spam".into());
        check(&access, 1, 1, Err(Rejection::Banned));
        check(&access, 2, 1, Ok(()));
        let hidden = |author| {
            let event = Author::new(author).sign(1_000, 1, &[], "").pack();
            access.hides(&Packed::parse(&event).unwrap())
        };
        assert!(hidden(1) && !hidden(2));
    }

    #[test]
    fn among_allowed_writers_are_those_who_run_the_relay() {
        let mut access = access();
        access.writers = Writers::Allowed;
        access.allowed_keys.insert(Author::new(1).pubkey(), String::new());
        access.owners.insert(Author::new(2).pubkey());
        access.admins.insert(Author::new(3).pubkey());
        for author in [1, 2, 3] {
            check(&access, author, 1, Ok(()));
        }
        check(&access, 4, 1, Err(Rejection::NotAllowed));
        assert!(access.restricts_writes());
        let role = |author| access.role_of(&Author::new(author).pubkey());
        assert_eq!([role(1), role(2), role(3)], [None, Some(Role::Owner), Some(Role::Admin)]);
    }

    #[test]
    fn a_kind_is_taken_that_is_allowed_and_not_banned() {
        let mut access = access();
        access.allowed_kinds = Some(vec![KindRange(0..=9)]);
        access.banned_kinds = vec![KindRange(7..=7)];
        check(&access, 1, 1, Ok(()));
        check(&access, 1, 7, Err(Rejection::KindNotTaken(Kind(7))));
        check(&access, 1, 10, Err(Rejection::KindNotTaken(Kind(10))));
    }
}
