//! Who is shown what. What is banned nobody is.
//!
//! Events of guarded kinds (direct messages of NIP-04, gift wraps of NIP-59, and what the operator adds)
//! are for their authors and for those whom they name by a `p` tag. Whoever hands out events asks here:
//! stored answers, live ones, counts. What a client may not see is as if it were not there, so that it
//! uses up no limit; only who asks for nothing else is told to authenticate (NIP-42).

use std::sync::{Arc, RwLock};

use event::{Filter, Packed, PublicKey, packed::Value};
use index::Scan;

use crate::{
    config::terms::{InForce, Terms},
    message::receiver,
};

/// Keys that one client may authenticate with at a time.
const KEYS_MAX: usize = 64;

/// What one client may see. Clones see with the same keys.
#[derive(Clone)]
pub struct Sight {
    in_force: InForce,
    keys: Arc<RwLock<Vec<PublicKey>>>,
    /// Whose it is, for the delivery log.
    session: u64,
}

/// Why a client is shown nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Barred {
    #[error("auth-required: events of these kinds are shown only to whom they are for")]
    Unknown,
    #[error("restricted: you are authenticated, but these events are for others")]
    Others,
    #[error("restricted: {KEYS_MAX} keys are enough for one connection")]
    TooManyKeys,
}

impl Sight {
    /// That of a client who has not authenticated.
    pub fn new(in_force: InForce) -> Sight {
        Sight { in_force, keys: Arc::default(), session: 0 }
    }

    /// The same, of this session.
    pub fn of_session(self, session: u64) -> Sight {
        Sight { session, ..self }
    }

    /// The number of its session.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// That of a peer that has asked for what is for these keys, or by them.
    pub fn of_named(in_force: InForce, keys: Vec<PublicKey>) -> Sight {
        Sight { in_force, keys: Arc::new(RwLock::new(keys)), session: 0 }
    }

    /// The same with the keys of this moment: one that is shown later adds nothing to it.
    pub fn as_it_is(&self) -> Sight {
        Sight { keys: Arc::new(RwLock::new(self.keys())), ..self.clone() }
    }

    /// Whether they see with the same keys.
    pub fn is_same(&self, other: &Sight) -> bool {
        Arc::ptr_eq(&self.keys, &other.keys)
    }

    /// The client has shown that it holds this key. Returns whether that is new.
    pub fn add(&self, key: PublicKey) -> Result<bool, Barred> {
        let mut keys = self.keys.write().expect("nobody panics holding it");
        if keys.contains(&key) {
            return Ok(false);
        }
        if keys.len() >= KEYS_MAX {
            return Err(Barred::TooManyKeys);
        }
        keys.push(key);
        Ok(true)
    }

    /// What holds for everybody.
    pub fn terms(&self) -> Arc<Terms> {
        self.in_force.load_full()
    }

    /// The keys that it has shown.
    pub fn keys(&self) -> Vec<PublicKey> {
        self.keys.read().expect("nobody panics holding it").clone()
    }

    /// Those of the keys that it has shown that are among these.
    pub fn keys_among(&self, sorted: &[PublicKey]) -> Vec<PublicKey> {
        let mut keys = self.keys();
        keys.retain(|key| sorted.binary_search(key).is_ok());
        keys
    }

    pub fn shows(&self, event: &Packed<'_>) -> bool {
        let terms = self.in_force.load();
        let is_guarded = terms.guarded_kinds.contains(&event.kind());
        !terms.access.hides(event)
            && (!is_guarded || (self.is_for(event) && !terms.messages.hides(event)))
    }

    fn is_for(&self, event: &Packed<'_>) -> bool {
        let keys = self.keys.read().expect("nobody panics holding it");
        let is_mine = |value: Value<'_>| keys.iter().any(|key| value.is(&key.to_string()));
        !keys.is_empty()
            && (keys.contains(&event.pubkey()) || event.values_of(receiver()).any(is_mine))
    }

    /// Whether it makes sense to ask: some event that it may see could match each filter.
    pub fn check(&self, filters: &[Filter]) -> Result<(), Barred> {
        let (keys, terms) = (self.keys(), self.in_force.load());
        let asked = |filter: &&Filter| {
            filter.kinds.as_ref().is_some_and(|kinds| {
                !kinds.is_empty() && kinds.iter().all(|kind| terms.guarded_kinds.contains(kind))
            })
        };
        for filter in filters.iter().filter(asked) {
            if keys.is_empty() {
                return Err(Barred::Unknown);
            }
            let by_others = filter
                .authors
                .as_ref()
                .is_some_and(|authors| !authors.iter().any(|author| keys.contains(author)));
            let for_others = filter.tags.get(&receiver()).is_some_and(|receivers| {
                !keys.iter().any(|key| receivers.contains(&key.to_string()))
            });
            if by_others && for_others {
                return Err(Barred::Others);
            }
        }
        Ok(())
    }

    /// Whether an event that is not for everybody could match one of the filters.
    pub fn may_hide(&self, filters: &[Filter]) -> bool {
        let terms = self.in_force.load();
        terms.access.hides_something()
            || filters.iter().any(|filter| {
                let kinds = filter.kinds.as_ref();
                kinds
                    .is_none_or(|kinds| kinds.iter().any(|kind| terms.guarded_kinds.contains(kind)))
            })
    }

    /// A scan that passes over what the client may not see.
    pub fn over(&self, scan: Scan, filters: &[Filter]) -> Scan {
        if !self.may_hide(filters) {
            return scan;
        }
        let sight = self.clone();
        scan.only(Arc::new(move |event| sight.shows(event)))
    }
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;

    fn sight_of(authors: &[u8]) -> Sight {
        let terms = crate::config::terms::TermSettings::default().resolve().unwrap();
        let sight = Sight::new(Arc::new(arc_swap::ArcSwap::from_pointee(terms)));
        for author in authors {
            sight.add(Author::new(*author).pubkey()).unwrap();
        }
        sight
    }

    #[track_caller]
    fn check_shown(kind: u16, to: &[u8], expected: bool) {
        let receiver = Author::new(2).pubkey().to_string();
        let event = Author::new(1).sign(1_000, kind, &[&["p", &receiver]], "").pack();
        let event = Packed::parse(&event).unwrap();
        assert_eq!(sight_of(to).shows(&event), expected, "kind {kind} to {to:?}");
    }

    #[test]
    fn guarded_events_are_for_their_authors_and_those_they_name() {
        for kind in [4, 1_059, 21_059] {
            check_shown(kind, &[], false);
            check_shown(kind, &[3], false);
            check_shown(kind, &[1], true);
            check_shown(kind, &[2], true);
            check_shown(kind, &[3, 2], true);
        }
        check_shown(1, &[], true);
    }

    #[track_caller]
    fn check_asked(filter: &str, by: &[u8], expected: Result<(), Barred>) {
        let filter = Filter::from_json(filter.as_bytes()).unwrap();
        assert_eq!(
            sight_of(by).check(std::slice::from_ref(&filter)),
            expected,
            "{filter:?} by {by:?}"
        );
    }

    #[test]
    fn who_asks_for_guarded_events_alone_has_to_say_who_it_is() {
        let [one, two] = [1, 2].map(|author| Author::new(author).pubkey().to_string());
        check_asked("{}", &[], Ok(()));
        check_asked(r#"{"kinds":[1,4]}"#, &[], Ok(()));
        check_asked(r#"{"kinds":[]}"#, &[], Ok(()));
        check_asked(r#"{"kinds":[4,1059]}"#, &[], Err(Barred::Unknown));
        check_asked(r#"{"kinds":[4,1059]}"#, &[1], Ok(()));
        let to_two = format!(r##"{{"kinds":[4],"#p":["{two}"]}}"##);
        // What one sent to two is among them.
        check_asked(&to_two, &[1], Ok(()));
        let between = format!(r##"{{"kinds":[4],"authors":["{one}"],"#p":["{two}"]}}"##);
        check_asked(&between, &[3], Err(Barred::Others));
        check_asked(&between, &[3, 2], Ok(()));
        check_asked(&between, &[1], Ok(()));
    }
}
