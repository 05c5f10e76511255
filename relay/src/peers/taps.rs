//! How the taps on other relays stand, for who asks. Each tap writes its own line, as long as it is kept open.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use event::Timestamp;
use serde::{Deserialize, Serialize};

use super::Member;
use crate::clock;

/// A tap on one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapState {
    #[serde(flatten)]
    pub peer: Member,
    pub is_up: bool,
    /// Since when it is up, or is not.
    pub since: Timestamp,
    /// Why it broke the last time.
    pub broke_because: Option<String>,
    /// Chunks of this relay's demand that it asks for.
    pub chunks: usize,
    /// Events that it has brought and that nobody else had.
    pub events: u64,
}

/// All of them. One that ends and its successor may both be there for a moment.
#[derive(Clone, Default)]
pub struct TapStates(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    next: u64,
    states: BTreeMap<u64, TapState>,
}

/// The line of one tap. Dropped, it is taken out.
pub struct TapLine {
    all: TapStates,
    number: u64,
}

impl TapStates {
    pub fn all(&self) -> Vec<TapState> {
        self.lock().states.values().cloned().collect()
    }

    /// A tap is to be opened.
    pub fn begin(&self, peer: Member) -> TapLine {
        let state = TapState {
            peer,
            is_up: false,
            since: clock::now(),
            broke_because: None,
            chunks: 0,
            events: 0,
        };
        let mut lines = self.lock();
        let number = lines.next;
        lines.next += 1;
        lines.states.insert(number, state);
        TapLine { all: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().expect("nobody panics holding it")
    }
}

impl TapLine {
    pub fn note_up(&self) {
        self.change(|state| (state.is_up, state.since) = (true, clock::now()));
    }

    /// It broke, or could not be opened. Returns whether it was up.
    pub fn note_broken(&self, cause: String) -> bool {
        let mut was_up = false;
        self.change(|state| {
            was_up = state.is_up;
            if was_up {
                (state.is_up, state.since) = (false, clock::now());
            }
            (state.broke_because, state.chunks) = (Some(cause), 0);
        });
        was_up
    }

    pub fn note_asked(&self, chunks: usize) {
        self.change(|state| state.chunks = chunks);
    }

    pub fn note_new(&self) {
        self.change(|state| state.events += 1);
    }

    pub fn is_up(&self) -> bool {
        self.all.lock().states.get(&self.number).is_some_and(|state| state.is_up)
    }

    fn change(&self, change: impl FnOnce(&mut TapState)) {
        if let Some(state) = self.all.lock().states.get_mut(&self.number) {
            change(state);
        }
    }
}

impl Drop for TapLine {
    fn drop(&mut self) {
        self.all.lock().states.remove(&self.number);
    }
}
