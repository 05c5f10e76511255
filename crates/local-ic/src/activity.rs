//! Whether anybody still asks the process for anything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

/// When there was last something to do; idle servers end themselves.
pub struct Activity {
    pending: AtomicUsize,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity { pending: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }
    }
}

impl Activity {
    /// How long nobody has asked for anything.
    pub fn idle_for(&self) -> Duration {
        match self.pending.load(Ordering::SeqCst) {
            0 => self.last.lock().unwrap().elapsed(),
            _ => Duration::ZERO,
        }
    }
}

/// Counts a request as pending until its answer is made, or its client is gone.
struct Pending(Arc<Activity>);

impl Drop for Pending {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap() = Instant::now();
        self.0.pending.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A layer around every route of the process.
pub async fn count_request(
    State(activity): State<Arc<Activity>>,
    request: Request,
    next: Next,
) -> Response {
    activity.pending.fetch_add(1, Ordering::SeqCst);
    let _pending = Pending(activity);
    next.run(request).await
}
