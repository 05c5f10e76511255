//! How much room there is, and the meeting place of those who need some and the one who makes it.
//!
//! LMDB copies a page before it changes it, so even deleting takes pages. Writes therefore stop while
//! a reserve is left, and only collections go on into it. The file itself can never grow beyond the
//! limit: that is the size of its map.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// This part of the limit is left for collections,
const RESERVE_SHARE: u64 = 16;
/// and at least so many bytes.
const RESERVE_BYTES_MIN: u64 = 1 << 20;

/// How much of the limit writes leave alone.
pub fn reserve(bytes_max: u64) -> u64 {
    (bytes_max / RESERVE_SHARE).max(RESERVE_BYTES_MIN)
}

/// What writers and collectors share.
pub struct Room {
    /// What pages in use may take before writes have to wait.
    full_at: Option<u64>,
    wanted: Notify,
    progress: watch::Sender<Progress>,
    collectors: AtomicUsize,
    is_under_way: AtomicBool,
    pauses: Mutex<Pauses>,
}

/// What collections came to, counted since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Steps after which there was more room than before.
    pub steps: u64,
    /// Collections that found nothing to give up.
    pub fruitless: u64,
    /// Collections that ended.
    pub ended: u64,
}

/// A collection, as long as it lasts.
pub struct UnderWay<'r>(&'r Room);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.is_under_way.store(false, Ordering::Release);
        // Who found it under way did not ask for another, and has to look again.
        self.0.progress.send_modify(|progress| progress.ended += 1);
    }
}

impl Room {
    pub fn new(bytes_max: Option<u64>) -> Room {
        Room {
            full_at: bytes_max.map(|bytes| bytes.saturating_sub(reserve(bytes))),
            wanted: Notify::new(),
            progress: watch::Sender::default(),
            collectors: AtomicUsize::new(0),
            is_under_way: AtomicBool::new(false),
            pauses: Mutex::default(),
        }
    }

    /// Whether the file is limited.
    pub fn is_limited(&self) -> bool {
        self.full_at.is_some()
    }

    /// What pages in use may take, if that is limited.
    pub fn limit(&self) -> Option<u64> {
        self.full_at
    }

    /// What pages in use may take before writes have to wait. With nobody to make room there is no
    /// point in a reserve.
    pub fn full_at(&self) -> Option<u64> {
        self.full_at.filter(|_| self.is_collected())
    }

    /// A collection is under way until the guard is dropped.
    pub fn start(&self) -> UnderWay<'_> {
        self.is_under_way.store(true, Ordering::Release);
        UnderWay(self)
    }

    /// Resolves when a write waits for room.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// What collections come to. To be looked at before the write that may meet a full store.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Asks for room, and waits until there is more than there was `before`. False: there will be none.
    pub async fn wait(&self, progress: &mut watch::Receiver<Progress>, before: Progress) -> bool {
        if !self.is_collected() {
            return false;
        }
        // One that is under way may be enough: to ask for a second one costs others their bodies.
        if !self.is_under_way.load(Ordering::Acquire) {
            self.wanted.notify_one();
        }
        match progress.wait_for(|now| *now != before).await {
            Ok(now) => now.fruitless == before.fruitless || now.steps > before.steps,
            Err(_) => false,
        }
    }

    /// Whether there is somebody to make room.
    pub fn is_collected(&self) -> bool {
        self.collectors.load(Ordering::Acquire) > 0
    }

    pub fn note_step(&self) {
        self.progress.send_modify(|progress| progress.steps += 1);
    }

    pub fn note_fruitless(&self) {
        self.progress.send_modify(|progress| progress.fruitless += 1);
    }

    pub fn enter(&self) {
        self.collectors.fetch_add(1, Ordering::AcqRel);
    }

    /// Nobody waits for a collector that is gone.
    pub fn leave(&self) {
        self.collectors.fetch_sub(1, Ordering::AcqRel);
        self.note_fruitless();
    }

    pub fn note_pause(&self, pause: Duration) {
        self.pauses.lock().expect("nobody panics holding it").note(pause);
    }

    pub fn pauses(&self) -> Pauses {
        *self.pauses.lock().expect("nobody panics holding it")
    }
}

/// How long collections kept the writer from other work, commits included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// How many took up to as many milliseconds as [`Pauses::BOUNDS_MS`] says; the last: longer.
    pub counts: [u64; 7],
    pub last: Duration,
    pub longest: Duration,
}

impl Pauses {
    pub const BOUNDS_MS: [u64; 6] = [1, 2, 5, 10, 20, 50];

    fn note(&mut self, pause: Duration) {
        let ms = pause.as_secs_f64() * 1e3;
        let place = Pauses::BOUNDS_MS.iter().position(|bound| ms <= *bound as f64);
        self.counts[place.unwrap_or(Pauses::BOUNDS_MS.len())] += 1;
        self.last = pause;
        self.longest = self.longest.max(pause);
    }
}
