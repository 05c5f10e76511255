//! Messages of a reconciliation, answered out of a few hundred events.
#![no_main]

use event::{EventId, Timestamp};
use reconcile::{FRAME_BYTES_MIN, Item, Sorted, answer};

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    let item = |number: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        Item { created_at: Timestamp(number / 9), id: EventId(id) }
    };
    let set = Sorted::new((0..500).map(item).collect());
    if let Ok(answer) = answer(&set, message, FRAME_BYTES_MIN) {
        assert!(answer.len() <= FRAME_BYTES_MIN);
    }
});
