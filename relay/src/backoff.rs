//! How long to wait before something that failed is tried again.

use std::time::Duration;

use rand::Rng;

/// The first pause after a failure; each further one doubles it.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest pause.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Doubling pauses, a random half off, so that the relays of a cluster do not come back in step.
pub fn backoff(failures: u32) -> Duration {
    pause(BACKOFF_MIN, BACKOFF_MAX, failures)
}

/// The same between other bounds.
pub fn pause(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled.min(longest).mul_f64(rand::rng().random_range(0.5..=1.0))
}
