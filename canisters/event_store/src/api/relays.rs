//! `announce` and `relays`: the directory of the cluster.

use interface::{RelayEntry, RelayInfo};

use crate::{runtime, state::State};

/// Lists the caller, or keeps it listed.
pub fn announce(state: &mut State, info: RelayInfo) -> Result<(), String> {
    if !state.caller_may_write() {
        return Err("only relays are listed".into());
    }
    let ttl = state.settings.limits().directory_ttl_seconds;
    state.directory.announce(runtime::caller(), info, runtime::now(), ttl)
}

/// None, to callers who may not read.
pub fn relays(state: &State) -> Vec<RelayEntry> {
    if state.caller_may_read() { listed(state) } else { Vec::new() }
}

/// Those that were heard of lately.
pub fn listed(state: &State) -> Vec<RelayEntry> {
    state.directory.list(runtime::now(), state.settings.limits().directory_ttl_seconds)
}
