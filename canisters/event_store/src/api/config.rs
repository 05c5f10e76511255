//! `configure` and `config`: what owners may set, and what holds.

use interface::Config;

use super::check_owner;
use crate::{reserve, runtime, state::State};

pub fn configure(state: &mut State, config: &Config) -> Result<(), String> {
    check_owner(state)?;
    state.settings.apply(config)?;
    // Whoever raised the heap's limit says so by this call; if it is low again, the system says so.
    state.is_heap_low = false;
    runtime::print(&format!("configured by {}", runtime::caller()));
    reserve::prepare(state);
    Ok(())
}

/// All limits in force. Relays tell them to their clients, so anybody may ask.
pub fn config(state: &State) -> Config {
    state.settings.limits().into()
}
