//! `status`: figures for operators. It names no event and no member, so anybody may ask.

use interface::Status;

use crate::{runtime, state::State};

pub fn status(state: &State) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        events: state.events.len(),
        length: state.events.log().length().0,
        stable_bytes: state.memories.bytes(),
        cycles: runtime::cycles().into(),
        read_only: None,
        memories: state.memories.pages(),
        last_save: state.last_save,
    }
}
