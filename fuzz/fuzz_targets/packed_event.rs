//! Events as they come in: packed, or as JSON.
#![no_main]

use event::{Event, Packed};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(packed) = Packed::parse(bytes) {
        let event = packed.unpack();
        assert_eq!(event.pack(), bytes, "an event has one packed form");
        let mut json = Vec::new();
        packed.write_json(&mut json);
        assert_eq!(Event::from_json(&json).ok().as_ref(), Some(&event));
    }
    // What lies in a store is trusted, and may be damaged all the same.
    if let Ok(packed) = Packed::trusted(bytes) {
        packed.unpack();
    }
    if let Ok(event) = Event::from_json(bytes) {
        assert_eq!(Packed::parse(&event.pack()).map(|packed| packed.unpack()), Ok(event));
    }
});
