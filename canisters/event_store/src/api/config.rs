//! `configure` and `config`: what owners may set, and what holds.

use interface::Config;

use super::check_owner;
use crate::state::State;

pub fn configure(state: &mut State, config: &Config) -> Result<(), String> {
    check_owner(state)?;
    state.settings.apply(config)
}

/// All limits in force. Relays tell them to their clients, so anybody may ask.
pub fn config(state: &State) -> Config {
    state.settings.limits().into()
}
