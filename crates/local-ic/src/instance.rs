//! One instance: its state behind a lock, and the thread that moves it on while it is live.
//!
//! Whatever executes or changes takes the lock for writing; queries and reads share it. Nobody
//! holds it over an await: handlers work in blocking tasks.
//!
//! A state directory belongs to one instance at a time, and to nobody else while that lives: two
//! that save into one directory would ruin it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use crate::ic::Ic;
use crate::save;
use crate::wasm::THREAD_STACK_BYTES;

/// A live instance makes a round at least this often.
const ROUND_INTERVAL: Duration = Duration::from_millis(50);
/// A process that was told to end may still be saving into the directory that the next one wants.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(20);

pub struct Instance {
    pub id: usize,
    ic: RwLock<Ic>,
    /// Taken while saving. Empty for an instance without a directory, and for one that has ended.
    state_dir: Mutex<Option<StateDir>>,
    /// Something has changed since the last saving began.
    has_changed: AtomicBool,
    pub validates_ingress: bool,
    /// Counts rounds, for those who wait for one.
    rounds: watch::Sender<u64>,
    live: Mutex<Option<Live>>,
    /// Messages have come in: the live thread need not wait for its next turn.
    wake: Arc<(Mutex<bool>, Condvar)>,
}

/// A directory for an instance's state, with the lock that makes it ours.
pub struct StateDir {
    path: PathBuf,
    lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing, and takes it unless somebody keeps it.
    pub fn open(path: &Path) -> Result<StateDir> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        // The directory itself is locked, so that an empty one stays empty.
        let lock = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(StateDir { path: path.to_owned(), lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    bail!("{} is in use by another instance", path.display())
                }
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Closing would do it too, once no copy of the handle is left anywhere.
        self.lock.unlock().ok();
    }
}

struct Live {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Instance {
    pub fn new(
        id: usize,
        ic: Ic,
        state_dir: Option<StateDir>,
        validates_ingress: bool,
    ) -> Instance {
        Instance {
            id,
            ic: RwLock::new(ic),
            state_dir: Mutex::new(state_dir),
            has_changed: AtomicBool::new(true),
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
        let ic = self.ic.write().unwrap();
        self.has_changed.store(true, Ordering::SeqCst);
        ic
    }

    /// Saves the state if it has changed since it was saved last; false if there was nothing to do.
    pub fn save_changes(&self) -> Result<bool> {
        let state_dir = self.state_dir.lock().unwrap();
        let Some(dir) = &*state_dir else {
            return Ok(false);
        };
        // Before the state is read: what changes from now on is for the next time.
        if !self.has_changed.swap(false, Ordering::SeqCst) {
            return Ok(false);
        }
        save::save(&self.read(), dir.path()).inspect_err(|_| {
            self.has_changed.store(true, Ordering::SeqCst);
        })?;
        Ok(true)
    }

    /// Stops, saves a last time and lets go of the state directory.
    pub fn end(&self) -> Result<()> {
        self.stop_live();
        match self.state_dir.lock().unwrap().take() {
            Some(dir) => save::save(&self.read(), dir.path()),
            None => Ok(()),
        }
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
            // Not `write`: that only time has passed is not worth saving.
            let mut ic = self.ic.write().unwrap();
            ic.time = (ic.time + 1).max(now_nanos());
            ic.is_time_set = true;
            if ic.round() {
                self.has_changed.store(true, Ordering::SeqCst);
            }
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
