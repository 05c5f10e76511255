//! Arguments, read as every method of the canister would read them.
#![no_main]

#[path = "../../crates/interface/tests/methods/mod.rs"]
mod methods;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| methods::decode_as_every_method(bytes));
