//! The one place where the relay asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use event::Timestamp;

/// Unix time now.
pub fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since_1970.map_or(0, |elapsed| elapsed.as_secs()))
}
