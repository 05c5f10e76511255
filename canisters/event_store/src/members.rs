//! Who may do what. Owners grant and revoke, relays write and read, readers read; the canister's
//! controllers are owners without being listed.
//!
//! A member as stored: `version 1 | role | since 8 | saved 8 | bytes 8 | hour 8 | events in it 8 | bytes
//! in it 8 | note`, little-endian. An hour begins with the first event after the one before is over.

use std::borrow::Cow;

use candid::Principal;
use ic_stable_structures::{StableBTreeMap, Storable, storable::Bound};
use interface::{Member, Role};

use crate::{config::Limits, memory::Memory, runtime};

const VERSION: u8 = 1;
const NOTE_BYTES_MAX: usize = 256;
const HOUR_SECONDS: u64 = 3_600;

pub struct Members(StableBTreeMap<Principal, Record, Memory>);

#[derive(Clone, Debug, PartialEq)]
struct Record {
    role: Role,
    since: u64,
    saved: u64,
    bytes: u64,
    hour: Hour,
    note: String,
}

/// What was brought since `began`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Hour {
    began: u64,
    events: u64,
    bytes: u64,
}

/// A member's account while it saves.
pub struct Account {
    who: Principal,
    record: Record,
    has_changed: bool,
}

impl Members {
    pub fn open(memory: Memory) -> Members {
        Members(StableBTreeMap::init(memory))
    }

    /// Panics if what is stored cannot be read.
    pub fn check(&self) {
        self.0.first_key_value();
    }

    pub fn role(&self, who: &Principal) -> Option<Role> {
        if runtime::is_controller(who) {
            return Some(Role::Owner);
        }
        self.0.get(who).map(|record| record.role)
    }

    /// Makes `who` a member, or changes its role; what it has brought so far stays on its account.
    pub fn grant(
        &mut self,
        who: Principal,
        role: Role,
        note: String,
        now: u64,
    ) -> Result<(), String> {
        if who == Principal::anonymous() {
            return Err("everybody can be the anonymous principal: it cannot have a role".into());
        }
        if note.len() > NOTE_BYTES_MAX {
            return Err(format!("a note has at most {NOTE_BYTES_MAX} bytes"));
        }
        let record = match self.0.get(&who) {
            Some(held) => Record { role, note, ..held },
            None => Record { role, since: now, saved: 0, bytes: 0, hour: Hour::default(), note },
        };
        self.0.insert(who, record);
        Ok(())
    }

    /// Takes all rights from `who`. Of a stranger there is nothing to take, and that is fine.
    pub fn revoke(&mut self, who: &Principal) {
        self.0.remove(who);
    }

    /// The account that `who` saves on. Unlisted controllers have none.
    pub fn account(&self, who: &Principal) -> Option<Account> {
        let record = self.0.get(who)?;
        Some(Account { who: *who, record, has_changed: false })
    }

    /// Keeps what was written on an account.
    pub fn settle(&mut self, account: Account) {
        if account.has_changed {
            self.0.insert(account.who, account.record);
        }
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    pub fn list(&self) -> Vec<Member> {
        self.0.iter().map(|entry| entry.value().of(*entry.key())).collect()
    }
}

impl Account {
    /// The quota that is used up, if one is, and when it is free again. Owners have none.
    pub fn used_up(&self, limits: &Limits, now: u64) -> Option<String> {
        let Record { role, bytes, hour, .. } = &self.record;
        if *role != Role::Relay {
            return None;
        }
        let free = hour.began.saturating_add(HOUR_SECONDS);
        let is_running = hour.events > 0 && now < free;
        let (used, free) = if is_running { (*hour, free) } else { (Hour::default(), now) };
        let over = "is used up until an owner raises it";
        let of_hour = |name: &str, used: u64, limit: u64| match limit {
            0 => Some(format!("quota: {name} 0 {over}")),
            _ => (used >= limit).then(|| format!("quota: {name} {limit} is used up until {free}")),
        };
        of_hour("relay_events_per_hour", used.events, limits.relay_events_per_hour)
            .or_else(|| of_hour("relay_bytes_per_hour", used.bytes, limits.relay_bytes_per_hour))
            .or_else(|| {
                let limit = limits.relay_bytes_total;
                (*bytes >= limit).then(|| format!("quota: relay_bytes_total {limit} {over}"))
            })
    }

    /// Writes down an event that was saved.
    pub fn add(&mut self, bytes: u64, now: u64) {
        let Record { hour, .. } = &mut self.record;
        if hour.events == 0 || now >= hour.began.saturating_add(HOUR_SECONDS) {
            *hour = Hour { began: now, ..Hour::default() };
        }
        hour.events += 1;
        hour.bytes += bytes;
        self.record.saved += 1;
        self.record.bytes += bytes;
        self.has_changed = true;
    }
}

impl Record {
    fn of(self, who: Principal) -> Member {
        let Record { role, since, saved, bytes, note, .. } = self;
        Member { who, role, note, since, saved, bytes }
    }
}

fn byte_of(role: Role) -> u8 {
    match role {
        Role::Owner => 1,
        Role::Relay => 2,
        Role::Reader => 3,
    }
}

fn role_of(byte: u8) -> Role {
    match byte {
        1 => Role::Owner,
        2 => Role::Relay,
        3 => Role::Reader,
        other => panic!("role {other} was stored by a newer version"),
    }
}

impl Storable for Record {
    // A note may become longer in a later version; a bound could never grow.
    const BOUND: Bound = Bound::Unbounded;

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        let Hour { began, events, bytes } = self.hour;
        let numbers = [self.since, self.saved, self.bytes, began, events, bytes];
        let numbers = numbers.map(u64::to_le_bytes).concat();
        let head = [VERSION, byte_of(self.role)];
        Cow::Owned([&head[..], &numbers, self.note.as_bytes()].concat())
    }

    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }

    fn from_bytes(bytes: Cow<'_, [u8]>) -> Record {
        assert_eq!(bytes[0], VERSION, "a member of this version is unknown");
        let number = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
        };
        Record {
            role: role_of(bytes[1]),
            since: number(2),
            saved: number(10),
            bytes: number(18),
            hour: Hour { began: number(26), events: number(34), bytes: number(42) },
            note: String::from_utf8_lossy(&bytes[50..]).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_version_1_is_read_as_it_was_written() {
        let hour = Hour { began: 3, events: 4, bytes: 5 };
        let record =
            Record { role: Role::Relay, since: 1, saved: 2, bytes: 256, hour, note: "né".into() };
        let numbers = [1u64, 2, 256, 3, 4, 5].map(u64::to_le_bytes).concat();
        let bytes = [&[1, 2][..], &numbers, &[110, 195, 169]].concat();
        assert_eq!(record.to_bytes(), &bytes[..]);
        assert_eq!(Record::from_bytes(Cow::Borrowed(&bytes)), record);
    }
}
