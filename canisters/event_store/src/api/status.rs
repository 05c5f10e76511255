//! `status`: figures for operators. It names no event and no member, so anybody may ask.

use interface::Status;

use crate::{reserve, runtime, state::State};

pub fn status(state: &State) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        events: state.events.len(),
        length: state.events.log().length().0,
        stable_bytes: state.memories.bytes(),
        heap_bytes: runtime::heap_bytes(),
        cycles: runtime::cycles().into(),
        liquid_cycles: runtime::liquid_cycles().into(),
        read_only: reserve::shortage(state),
        memories: state.memories.pages(),
        last_saved_at: state.metrics.last_saved_at,
        last_save: state.metrics.last_save,
    }
}
