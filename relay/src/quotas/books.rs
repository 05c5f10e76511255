//! What is known of how much messages take, and the room that is reserved for those under way.
//!
//! They know nothing of L1: who reads it tells them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use event::{EventId, Kind, PublicKey};
use store::Seq;
use tokio::{sync::watch, time::Instant};

use crate::message::Message;

/// Accounts at a time. Beyond it those are forgotten that nothing is reserved in: they are counted anew.
const ACCOUNTS_MAX: usize = 65_536;
/// How long a count that found no room is believed, and how often the delivery log is told of it.
const COUNT_PAUSE: Duration = Duration::from_secs(3);

/// Whose messages. None: everybody's.
pub type Whose = Option<PublicKey>;

/// What messages are held to.
#[derive(Clone, Copy)]
pub struct Limit {
    pub whose: Whose,
    pub bytes_max: u64,
}

/// The accounts, and what is reserved in them.
pub struct Books {
    accounts: HashMap<Whose, Account>,
    /// What clients bring and the books have not met in L1.
    reserved: HashMap<EventId, Reserved>,
    /// They have met all before this.
    position: watch::Sender<Seq>,
    /// Which kinds messages are of.
    guarded: Vec<Kind>,
}

#[derive(Default)]
struct Account {
    /// None: nobody knows.
    counted: Option<u64>,
    counted_at: Option<Instant>,
    /// When the delivery log was told last that there is no room.
    told_at: Option<Instant>,
    /// What came since.
    grown: u64,
    reserved: u64,
    /// One counts, and others wait for it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Reserved {
    bytes: u64,
    of: Vec<Whose>,
    /// How many bring it at the moment.
    bearers: usize,
    /// Where it is in L1, once that is known.
    seq: Option<Seq>,
}

impl Account {
    /// No less than there is. None: nobody knows.
    fn held(&self) -> Option<u64> {
        self.counted.map(|counted| counted + self.grown + self.reserved)
    }

    fn was_counted_lately(&self) -> bool {
        self.counted.is_some() && self.counted_at.is_some_and(|at| at.elapsed() < COUNT_PAUSE)
    }
}

/// Where a count goes, and what it leaves room for.
pub struct Count {
    pub guarded: Vec<Kind>,
    /// What comes from here on, the account learns by itself.
    pub end: Seq,
    pub reserved: u64,
}

impl Books {
    /// Books that follow L1 from `position` on.
    pub fn new(position: Seq) -> Books {
        let (accounts, reserved) = Default::default();
        Books { accounts, reserved, position: watch::Sender::new(position), guarded: Vec::new() }
    }

    pub fn position(&self) -> Seq {
        *self.position.borrow()
    }

    /// Follows [`Books::position`].
    pub fn positions(&self) -> watch::Receiver<Seq> {
        self.position.subscribe()
    }

    pub fn guarded(&self) -> &[Kind] {
        &self.guarded
    }

    fn account(&mut self, whose: Whose) -> &mut Account {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&whose) {
            self.accounts
                .retain(|_, account| account.reserved > 0 || Arc::strong_count(&account.turn) > 1);
        }
        self.accounts.entry(whose).or_default()
    }

    pub fn has_room(&mut self, limit: &Limit, bytes: u64) -> bool {
        let held = self.account(limit.whose).held();
        held.is_some_and(|held| held.saturating_add(bytes) <= limit.bytes_max)
    }

    /// What is a message may change while the relay runs.
    pub fn keep_to(&mut self, guarded: &[Kind]) {
        if self.guarded != guarded {
            self.guarded = guarded.to_vec();
            self.forget_counts();
        }
    }

    pub fn forget_counts(&mut self) {
        self.accounts.values_mut().for_each(|account| account.counted = None);
    }

    /// Reserves room for a message under all limits, or says under which there is none.
    pub fn reserve(&mut self, message: &Message, limits: &[Limit]) -> Result<(), Limit> {
        for limit in limits {
            if !self.has_room(limit, message.bytes) {
                return Err(*limit);
            }
        }
        // Twice at a time it is stored once.
        if let Some(reserved) = self.reserved.get_mut(&message.id) {
            reserved.bearers += 1;
            return Ok(());
        }
        let of: Vec<Whose> = limits.iter().map(|limit| limit.whose).collect();
        for whose in &of {
            self.account(*whose).reserved += message.bytes;
        }
        let reserved = Reserved { bytes: message.bytes, of, bearers: 1, seq: None };
        self.reserved.insert(message.id, reserved);
        Ok(())
    }

    /// One who brought it has not stored it. Others may still.
    pub fn give_back(&mut self, id: &EventId) {
        let Some(reserved) = self.reserved.get_mut(id) else { return };
        reserved.bearers = reserved.bearers.saturating_sub(1);
        if reserved.bearers == 0 && reserved.seq.is_none() {
            self.release(id);
        }
    }

    fn release(&mut self, id: &EventId) {
        if let Some(Reserved { bytes, of, .. }) = self.reserved.remove(id) {
            for whose in of {
                if let Some(account) = self.accounts.get_mut(&whose) {
                    account.reserved = account.reserved.saturating_sub(bytes);
                }
            }
        }
    }

    /// If it is not met by now, it has gone again.
    pub fn note_stored(&mut self, id: &EventId, seq: Seq) {
        if seq < self.position() {
            self.release(id);
        } else if let Some(reserved) = self.reserved.get_mut(id) {
            reserved.seq = Some(seq);
        }
    }

    /// Takes note of what L1 has before `position`.
    pub fn meet(&mut self, messages: &[Message], position: Seq) {
        for message in messages {
            self.release(&message.id);
            let whose = message.to.iter().copied().map(Some).chain([None]);
            for whose in whose {
                if let Some(account) = self.accounts.get_mut(&whose) {
                    account.grown += message.bytes;
                }
            }
        }
        self.position.send_replace(position);
        self.release_gone();
    }

    /// What was stored and not met has gone again.
    fn release_gone(&mut self) {
        let position = self.position();
        let is_passed = |reserved: &Reserved| reserved.seq.is_some_and(|seq| seq < position);
        let passed = self.reserved.iter().filter(|(_, reserved)| is_passed(reserved));
        let passed: Vec<EventId> = passed.map(|(id, _)| *id).collect();
        passed.iter().for_each(|id| self.release(id));
    }

    /// Who has this counts, and others wait for it.
    pub fn turn(&mut self, whose: Whose) -> Arc<tokio::sync::Mutex<()>> {
        self.account(whose).turn.clone()
    }

    pub fn has_reserved_in(&mut self, whose: Whose) -> bool {
        self.account(whose).reserved > 0
    }

    pub fn was_counted_lately(&mut self, whose: Whose) -> bool {
        self.account(whose).was_counted_lately()
    }

    /// A count begins.
    pub fn begin_count(&mut self, whose: Whose) -> Count {
        let (guarded, end) = (self.guarded.clone(), self.position());
        let account = self.account(whose);
        (account.counted, account.grown) = (None, 0);
        Count { guarded, end, reserved: account.reserved }
    }

    /// It has found this.
    pub fn note_counted(&mut self, whose: Whose, bytes: u64) {
        let account = self.account(whose);
        (account.counted, account.counted_at) = (Some(bytes), Some(Instant::now()));
    }

    /// Of what was counted, so much is left.
    pub fn note_left(&mut self, whose: Whose, bytes: u64) {
        self.account(whose).counted = Some(bytes);
    }

    /// What is held, if it is time to tell somebody that there is no room.
    pub fn shortage(&mut self, whose: Whose) -> Option<u64> {
        let account = self.account(whose);
        if account.told_at.is_some_and(|at| at.elapsed() < COUNT_PAUSE) {
            return None;
        }
        account.told_at = Some(Instant::now());
        Some(account.held().unwrap_or(0))
    }

    #[cfg(test)]
    pub fn held(&mut self, whose: Whose) -> Option<u64> {
        self.account(whose).held()
    }

    #[cfg(test)]
    pub fn has_reserved(&self) -> bool {
        !self.reserved.is_empty()
    }
}
