//! When the next request is due.
//!
//! At a fixed rate (an *open loop*) a request is due whether or not the one before was answered, and
//! its latency counts from then: a relay that stalls is charged with all who wait meanwhile. Without a
//! rate (a *closed loop*) a request is due as soon as there is room for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, mpsc};

/// Hands out `0..count`, each with the moment that it is due. Shared by all connections.
pub struct Schedule {
    next: AtomicUsize,
    count: usize,
    ticks: Option<Mutex<mpsc::UnboundedReceiver<Instant>>>,
}

impl Schedule {
    /// `count` requests, `rate` a second if given.
    pub fn new(count: usize, rate: Option<f64>) -> Arc<Schedule> {
        let ticks = rate.map(|rate| Mutex::new(tick(count, rate)));
        Arc::new(Schedule { next: AtomicUsize::new(0), count, ticks })
    }

    /// Whether `next` may have to wait.
    pub fn is_paced(&self) -> bool {
        self.ticks.is_some()
    }

    /// Waits until one is due. `None`: all were handed out.
    pub async fn next(&self) -> Option<(usize, Instant)> {
        let due = match &self.ticks {
            Some(ticks) => ticks.lock().await.recv().await?,
            None => Instant::now(),
        };
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        (place < self.count).then_some((place, due))
    }
}

/// A thread of its own keeps the time: the runtime's timers are no finer than a millisecond.
fn tick(count: usize, rate: f64) -> mpsc::UnboundedReceiver<Instant> {
    let (due, ticks) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let start = Instant::now();
        for place in 0..count {
            let at = start + Duration::from_secs_f64(place as f64 / rate);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if due.send(at).is_err() {
                return; // Nobody is listening any more: the run was broken off.
            }
        }
    });
    ticks
}
