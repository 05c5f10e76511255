//! The endpoints' behaviour, one file each. Every one checks the caller itself: [`may_call`] only
//! spares the canister messages that it would refuse anyway, and other canisters do not pass it.

mod changes;
mod config;
mod delete;
mod http;
mod members;
mod query;
mod reconcile;
mod relays;
mod save;
mod status;
mod tidy;
mod tip;

pub use changes::changes;
pub use config::{config, configure};
pub use delete::{clear, delete_events};
pub use http::http_request;
pub use members::{grant, members, my_role, revoke};
pub use query::{count, get_events, query_events};
pub use reconcile::reconcile;
pub use relays::{announce, relays};
pub use save::save_events;
pub use status::status;
pub use tidy::{heap_is_low, tidy};
pub use tip::tip;

use interface::ReadError;

use crate::state::State;

const TEXT_BYTES_MAX: usize = 200;

/// Whether a message from outside is worth being ordered and paid for. Queries are not, as queries they
/// are free; but some tools call everything as an update, and an owner may pay for that.
pub fn may_call(state: &State, method: &str) -> bool {
    match method {
        "save_events" | "announce" => state.caller_may_write(),
        // Who follows the log must be able to find out that it was begun anew, and is not just told of an
        // older state by one node.
        "tip" => state.caller_may_write(),
        "grant" | "revoke" | "configure" | "delete_events" | "clear" => state.caller_is_owner(),
        "query_events" | "get_events" | "count" | "changes" | "members" | "my_role" | "config"
        | "relays" | "status" | "reconcile" => state.caller_is_owner(),
        _ => false,
    }
}

fn check_reader(state: &State) -> Result<(), ReadError> {
    if state.caller_may_read() { Ok(()) } else { Err(ReadError::Forbidden) }
}

fn check_owner(state: &State) -> Result<(), String> {
    if state.caller_is_owner() { Ok(()) } else { Err("only owners may do this".into()) }
}

/// A text of a caller, short enough to be kept or sent back.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}
