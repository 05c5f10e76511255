//! Who may do what. Owners grant and revoke, relays write and read, readers read; the canister's
//! controllers are owners without being listed.
//!
//! A member as stored: `version 1 | role | since 8 | saved 8 | bytes 8 | note`, little-endian.

use std::borrow::Cow;

use candid::Principal;
use ic_stable_structures::{StableBTreeMap, Storable, storable::Bound};
use interface::{Member, Role};

use crate::{memory::Memory, runtime};

const VERSION: u8 = 1;
const NOTE_BYTES_MAX: usize = 256;

pub struct Members(StableBTreeMap<Principal, Record, Memory>);

#[derive(Clone, Debug, PartialEq)]
struct Record {
    role: Role,
    since: u64,
    saved: u64,
    bytes: u64,
    note: String,
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
            None => Record { role, since: now, saved: 0, bytes: 0, note },
        };
        self.0.insert(who, record);
        Ok(())
    }

    /// Takes all rights from `who`. Of a stranger there is nothing to take, and that is fine.
    pub fn revoke(&mut self, who: &Principal) {
        self.0.remove(who);
    }

    /// Writes on the account of `who` what it has brought. Unlisted controllers have none.
    pub fn credit(&mut self, who: &Principal, saved: u64, bytes: u64) {
        if let Some(held) = self.0.get(who).filter(|_| saved > 0) {
            let record = Record { saved: held.saved + saved, bytes: held.bytes + bytes, ..held };
            self.0.insert(*who, record);
        }
    }

    pub fn list(&self) -> Vec<Member> {
        self.0.iter().map(|entry| entry.value().of(*entry.key())).collect()
    }
}

impl Record {
    fn of(self, who: Principal) -> Member {
        let Record { role, since, saved, bytes, note } = self;
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
        let numbers = [self.since, self.saved, self.bytes].map(u64::to_le_bytes).concat();
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
            note: String::from_utf8_lossy(&bytes[26..]).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_version_1_is_read_as_it_was_written() {
        let record =
            Record { role: Role::Relay, since: 1, saved: 2, bytes: 256, note: "né".into() };
        let bytes = [
            1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 110, 195,
            169,
        ];
        assert_eq!(record.to_bytes(), &bytes[..]);
        assert_eq!(Record::from_bytes(Cow::Borrowed(&bytes)), record);
    }
}
