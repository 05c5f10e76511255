//! L2: the event store that relays share, as a canister.
//!
//! This file is the table of endpoints; what they do is in [`api`], one file each. Everything that
//! lasts lies in stable memory ([`memory`]): a [`log`] of all that happened, and maps and index
//! entries that say where in it an event is ([`events`]). There is no `pre_upgrade`: the heap holds
//! nothing that an upgrade would have to carry over. System calls sit in [`runtime`], which has a
//! native twin, so that the tests call the endpoints as a replica does.

mod api;
mod config;
mod dated;
mod directory;
mod events;
mod log;
mod members;
mod memory;
mod metrics;
mod proof;
mod reserve;
mod room;
mod rules;
mod runtime;
mod state;
#[cfg(test)]
mod tests;

use candid::{CandidType, Principal, candid_method, ser::IDLBuilder, utils::ArgumentDecoder};
use ic_cdk::{init, inspect_message, on_low_wasm_memory, post_upgrade, query, update};
use interface::{
    Answer, Argument, ByteBuf, ChangesPage, ChangesRequest, Config, Count, DeleteOutcome, Deletion,
    Done, Encoding, EventBytes, Filter, HttpRequest, HttpResponse, IdBytes, Member, QueryPage,
    QueryRequest, REPLY_BYTES_MAX, RelayEntry, RelayInfo, Role, SaveOutcome, Status, Tip,
    decode_arguments,
};

#[init]
fn init(argument: Option<Argument>) {
    state::install(argument);
}

#[post_upgrade]
fn post_upgrade(argument: Option<Argument>) {
    state::upgrade(argument);
}

/// The one timer there is: the canister is woken when something is to be tidied.
#[cfg_attr(target_family = "wasm", unsafe(export_name = "canister_global_timer"))]
pub extern "C" fn wake() {
    state::change(api::tidy);
}

#[on_low_wasm_memory]
fn heap_is_low() {
    state::change(api::heap_is_low);
}

#[inspect_message]
fn inspect_message() {
    let method = runtime::method();
    if state::read(|state| api::may_call(state, &method)) {
        runtime::accept_message();
    }
}

#[update(hidden = true, decode_with = "decode_one")]
#[candid_method(update)]
fn save_events(events: Vec<EventBytes>) -> Vec<SaveOutcome> {
    state::change(|state| api::save_events(state, &events))
}

#[update(hidden = true, decode_with = "decode")]
#[candid_method(update)]
fn delete_events(ids: Vec<IdBytes>, how: Deletion) -> Vec<DeleteOutcome> {
    state::change(|state| api::delete_events(state, &ids, &how))
}

#[update]
fn clear(confirmation: String) -> Done {
    state::change(|state| api::clear(state, &confirmation)).into()
}

#[query(hidden = true, decode_with = "decode_one", encode_with = "encode")]
#[candid_method(query)]
fn query_events(request: QueryRequest) -> Answer<QueryPage> {
    state::read(|state| api::query_events(state, request)).into()
}

#[query(hidden = true, decode_with = "decode", encode_with = "encode")]
#[candid_method(query)]
fn get_events(ids: Vec<IdBytes>, encoding: Option<Encoding>) -> Answer<Vec<Option<EventBytes>>> {
    state::read(|state| api::get_events(state, &ids, encoding)).into()
}

#[query(hidden = true, decode_with = "decode_one")]
#[candid_method(query)]
fn count(filters: Vec<Filter>) -> Answer<Count> {
    state::read(|state| api::count(state, filters)).into()
}

#[query(hidden = true, decode_with = "decode_one", encode_with = "encode")]
#[candid_method(query)]
fn changes(request: ChangesRequest) -> Answer<ChangesPage> {
    state::read(|state| api::changes(state, &request)).into()
}

#[query(hidden = true, decode_with = "decode")]
#[candid_method(query)]
fn reconcile(message: ByteBuf, filter: Option<Filter>) -> Answer<ByteBuf> {
    state::read(|state| api::reconcile(state, &message, filter)).into()
}

#[query]
fn tip() -> Tip {
    state::read(api::tip)
}

#[update]
fn grant(who: Principal, role: Role, note: String) -> Done {
    state::change(|state| api::grant(state, who, role, note)).into()
}

#[update]
fn revoke(who: Principal) -> Done {
    state::change(|state| api::revoke(state, &who)).into()
}

#[query]
fn members() -> Vec<Member> {
    state::read(api::members)
}

#[query]
fn my_role() -> Option<Role> {
    state::read(api::my_role)
}

#[update]
fn configure(config: Config) -> Done {
    state::change(|state| api::configure(state, &config)).into()
}

#[query]
fn config() -> Config {
    state::read(api::config)
}

#[update]
fn announce(info: RelayInfo) -> Done {
    state::change(|state| api::announce(state, info)).into()
}

#[query]
fn relays() -> Vec<RelayEntry> {
    state::read(api::relays)
}

#[query(hidden = true, decode_with = "decode_one")]
#[candid_method(query)]
fn http_request(request: HttpRequest) -> HttpResponse {
    state::read(|state| api::http_request(state, &request))
}

#[query]
fn status() -> Status {
    state::read(api::status)
}

/// Decodes what strangers wrote, within its quotas. (`decode_with` takes the types from the contract
/// that `ic_cdk` makes, hence `hidden` and `candid_method` above.)
fn decode<T: for<'a> ArgumentDecoder<'a>>(bytes: Vec<u8>) -> T {
    decode_arguments(&bytes)
        .unwrap_or_else(|error| runtime::reject(&format!("cannot decode the arguments: {error}")))
}

fn decode_one<T: CandidType + for<'a> candid::Deserialize<'a>>(bytes: Vec<u8>) -> T {
    let (argument,) = decode(bytes);
    argument
}

/// Encodes a page of events. It asks for memory once: growing bit by bit would copy most of the page
/// again, and every byte copied is paid for. (Memory that is not written to costs nothing.)
fn encode<T: CandidType>(page: T) -> Vec<u8> {
    const WHY: &str = "a page is far smaller than the heap";
    let mut builder = IDLBuilder::new();
    builder.try_reserve_value_serializer_capacity(PAGE_BYTES).expect(WHY);
    builder.arg(&page).expect(WHY);
    let mut bytes = Vec::with_capacity(PAGE_BYTES);
    builder.serialize(&mut bytes).expect(WHY);
    bytes
}

/// More than any page has.
const PAGE_BYTES: usize = REPLY_BYTES_MAX as usize + 100_000;

/// The contract, where tools look for it: `dfx`, `icp` and explorers read this section of the wasm.
#[cfg(target_family = "wasm")]
#[used]
#[unsafe(link_section = "icp:public candid:service")]
static CANDID: [u8; include_bytes!("../../../candid/event_store.did").len()] =
    *include_bytes!("../../../candid/event_store.did");

// The contract that this code fulfils, as text.
#[cfg(test)]
candid::export_service!();
