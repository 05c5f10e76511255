//! What the canister does when it wakes by itself: it takes out what is over.

use crate::{reserve, room::is_time_to_tidy, runtime, state::State};

/// One round. If it does not get through, the alarm is set for the next.
pub fn tidy(state: &mut State) {
    let before = state.events.len();
    state.events.tidy(runtime::now(), is_time_to_tidy);
    let instructions = runtime::instructions();
    let most = &mut state.metrics.tidy_instructions_most;
    *most = instructions.max(*most);
    let gone = before - state.events.len();
    if gone > 0 {
        runtime::print(&format!("tidied up: {gone} events had expired or vanished"));
    }
}

/// The system says that the heap is nearly full.
pub fn heap_is_low(state: &mut State) {
    state.is_heap_low = true;
    reserve::prepare(state);
}
