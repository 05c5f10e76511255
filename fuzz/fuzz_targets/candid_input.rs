//! Arguments, read as every method of the canister would read them.
#![no_main]

use candid::Principal;
use interface::{
    Argument, ByteBuf, ChangesRequest, Config, Encoding, EventBytes, Filter, IdBytes, QueryRequest,
    Role, decode_arguments,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    decode_arguments::<(Vec<EventBytes>,)>(bytes).ok();
    decode_arguments::<(QueryRequest,)>(bytes).ok();
    decode_arguments::<(Vec<IdBytes>, Option<Encoding>)>(bytes).ok();
    decode_arguments::<(Vec<Filter>,)>(bytes).ok();
    decode_arguments::<(ChangesRequest,)>(bytes).ok();
    decode_arguments::<(ByteBuf, Option<Filter>)>(bytes).ok();
    decode_arguments::<(Principal, Role, String)>(bytes).ok();
    decode_arguments::<(Config,)>(bytes).ok();
    decode_arguments::<(Option<Argument>,)>(bytes).ok();
});
