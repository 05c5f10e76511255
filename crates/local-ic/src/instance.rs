//! One instance: its state behind a lock, and the thread that moves it on while it is live.
//!
//! Whatever executes or changes takes the lock for writing; queries and reads share it. Nobody
//! holds it over an await: handlers work in blocking tasks.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::ic::Ic;
use crate::wasm::THREAD_STACK_BYTES;

/// A live instance makes a round at least this often.
const ROUND_INTERVAL: Duration = Duration::from_millis(50);

pub struct Instance {
    pub id: usize,
    ic: RwLock<Ic>,
    pub state_dir: Option<PathBuf>,
    pub validates_ingress: bool,
    /// Counts rounds, for those who wait for one.
    rounds: watch::Sender<u64>,
    live: Mutex<Option<Live>>,
    /// Messages have come in: the live thread need not wait for its next turn.
    wake: Arc<(Mutex<bool>, Condvar)>,
}

struct Live {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Instance {
    pub fn new(id: usize, ic: Ic, state_dir: Option<PathBuf>, validates_ingress: bool) -> Instance {
        Instance {
            id,
            ic: RwLock::new(ic),
            state_dir,
            validates_ingress,
            rounds: watch::Sender::new(0),
            live: Mutex::default(),
            wake: Arc::default(),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Ic> {
        self.ic.read().unwrap()
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Ic> {
        self.ic.write().unwrap()
    }

    pub fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    pub fn round(&self) -> bool {
        let was_busy = self.write().round();
        self.rounds.send_modify(|rounds| *rounds += 1);
        was_busy
    }

    pub fn wake(&self) {
        let (is_awake, condvar) = &*self.wake;
        *is_awake.lock().unwrap() = true;
        condvar.notify_one();
    }

    pub fn is_live(&self) -> bool {
        self.live.lock().unwrap().is_some()
    }

    /// Ties the instance's time to the clock and starts making rounds; returns after the first.
    pub fn start_live(self: &Arc<Instance>) {
        let mut live = self.live.lock().unwrap();
        if live.is_some() {
            return;
        }
        self.live_round();
        let stop = Arc::new(AtomicBool::new(false));
        let (instance, stopped) = (Arc::downgrade(self), Arc::clone(&stop));
        let wake = Arc::clone(&self.wake);
        let thread = std::thread::Builder::new()
            .name(format!("instance {}", self.id))
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    // Only borrowed for the round, so that a forgotten instance can go.
                    let Some(instance) = instance.upgrade() else {
                        return;
                    };
                    instance.live_round();
                    drop(instance);
                    sleep_until_woken(&wake);
                }
            })
            .expect("a thread can be started");
        *live = Some(Live { stop, thread });
    }

    pub fn stop_live(&self) {
        let Some(live) = self.live.lock().unwrap().take() else {
            return;
        };
        live.stop.store(true, Ordering::Relaxed);
        self.wake();
        live.thread.join().ok();
    }

    fn live_round(&self) {
        {
            let mut ic = self.write();
            ic.time = (ic.time + 1).max(now_nanos());
            ic.is_time_set = true;
            ic.round();
        }
        self.rounds.send_modify(|rounds| *rounds += 1);
    }
}

fn sleep_until_woken(wake: &(Mutex<bool>, Condvar)) {
    let (is_awake, condvar) = wake;
    let guard = is_awake.lock().unwrap();
    let (mut guard, _) =
        condvar.wait_timeout_while(guard, ROUND_INTERVAL, |is_awake| !*is_awake).unwrap();
    *guard = false;
}

pub fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_nanos() as u64
}
