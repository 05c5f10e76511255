//! The arguments of the canister's methods, as it decodes them. The fuzz target `candid_input` takes this
//! file in too.

use candid::Principal;
use interface::{
    Argument, ByteBuf, ChangesRequest, Config, Encoding, EventBytes, Filter, IdBytes, QueryRequest,
    Role, decode_arguments,
};

/// What the methods take, each kind of argument list once.
pub fn decode_as_every_method(bytes: &[u8]) {
    decode_arguments::<(Vec<EventBytes>,)>(bytes).ok();
    decode_arguments::<(QueryRequest,)>(bytes).ok();
    decode_arguments::<(Vec<IdBytes>, Option<Encoding>)>(bytes).ok();
    decode_arguments::<(Vec<Filter>,)>(bytes).ok();
    decode_arguments::<(ChangesRequest,)>(bytes).ok();
    decode_arguments::<(ByteBuf, Option<Filter>)>(bytes).ok();
    decode_arguments::<(Principal, Role, String)>(bytes).ok();
    decode_arguments::<(Config,)>(bytes).ok();
    decode_arguments::<(Option<Argument>,)>(bytes).ok();
}
