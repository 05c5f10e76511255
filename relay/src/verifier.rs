//! The threads on which events are read and checked, one for each core.
//!
//! A signature costs some 50 µs of a core and a look into L1 may wait for the disk. On the runtime's own
//! threads a flood of events would stand before everything else that the relay does; here it stands
//! in a queue of its own, and the kernel shares the cores: these threads are nicer than the others, so
//! that whoever reads or listens meanwhile comes first.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;
use tracing::error;

/// Events that wait for a thread. Beyond it, whoever brings one more waits too.
const QUEUE_MAX: usize = 1_024;

/// By how much they are nicer. A core that nobody else wants is theirs all the same.
const NICENESS: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads. Dropped, it does what is queued, and its threads have ended.
pub struct Verifier {
    queue: async_channel::Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Verifier {
    pub fn start() -> io::Result<Verifier> {
        let (queue, jobs) = async_channel::bounded(QUEUE_MAX);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let spawn = |number| {
            let jobs = jobs.clone();
            thread::Builder::new().name(format!("verifier-{number}")).spawn(|| work(jobs))
        };
        let threads = (0..cores).map(spawn).collect::<Result<_, _>>()?;
        Ok(Verifier { queue, threads })
    }

    /// Runs `work` on one of the threads. `None` if it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more for what a client sent that has left.
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        });
        self.queue.send(job).await.ok()?;
        answer.await.ok()
    }

    /// How many wait for a thread.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

fn work(jobs: async_channel::Receiver<Job>) {
    be_nice();
    while let Ok(job) = jobs.recv_blocking() {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            error!("the check of an event panicked");
        }
    }
}

/// Makes the thread that calls it nicer. Linux gives each thread a niceness of its own; elsewhere it is the whole process's.
pub fn be_nice() {
    if cfg!(target_os = "linux") {
        // SAFETY: a plain system call. If it fails, nothing is lost but time.
        unsafe { libc::nice(NICENESS) };
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
