//! How much one call may answer and how long it may take. Every loop over events asks here, so that
//! a page ends early rather than the call.

use event::Packed;
use interface::{ByteBuf, Encoding, EventBytes, REPLY_BYTES_MAX};

use crate::runtime;

/// What a read may use of the 5 G instructions that a query has; the rest is for the reply.
const READ_INSTRUCTIONS_MAX: u64 = 4_000_000_000;
/// What a save may use of the 40 G that an update has. One more event never needs what is left: with
/// 5,000 tags, in the place of another with 5,000 tags, it takes 0.3 G.
const SAVE_INSTRUCTIONS_MAX: u64 = 30_000_000_000;

/// What one round of tidying may use: longer ones would keep other messages waiting.
const TIDY_INSTRUCTIONS_MAX: u64 = 5_000_000_000;

pub fn is_time_to_read() -> bool {
    runtime::instructions() < READ_INSTRUCTIONS_MAX
}

pub fn is_time_to_save() -> bool {
    runtime::instructions() < SAVE_INSTRUCTIONS_MAX
}

pub fn is_time_to_tidy() -> bool {
    runtime::instructions() < TIDY_INSTRUCTIONS_MAX
}

/// The bytes left in a reply.
pub struct Room {
    bytes: u64,
    is_untouched: bool,
}

impl Room {
    pub fn new(max_bytes: Option<u64>) -> Room {
        Room { bytes: max_bytes.unwrap_or(u64::MAX).min(REPLY_BYTES_MAX), is_untouched: true }
    }

    /// Takes so many bytes, if they are there. The first item is always taken: a reader with a small
    /// `max_bytes` must get past a large event.
    pub fn take(&mut self, bytes: usize) -> bool {
        let left = self.bytes.checked_sub(bytes as u64);
        let is_taken = left.is_some() || self.is_untouched;
        if is_taken {
            self.bytes = left.unwrap_or(0);
            self.is_untouched = false;
        }
        is_taken
    }
}

/// A packed event of the store, as the caller wants it.
pub fn encode(packed: Vec<u8>, encoding: Encoding) -> EventBytes {
    match encoding {
        Encoding::Packed => ByteBuf::from(packed),
        Encoding::Json => {
            let mut json = Vec::with_capacity(400 + packed.len());
            let packed = Packed::trusted(&packed).expect("only whole events are appended");
            packed.write_json(&mut json);
            ByteBuf::from(json)
        }
    }
}
