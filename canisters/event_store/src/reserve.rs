//! What is kept back, so that the store becomes read-only before anything traps: stable memory that the
//! next message may need, cycles for some days of rent and for an upgrade, and the heap's last part.
//! Reading goes on, and so do deletions, which need little.

use crate::{runtime, state::State};

/// Of one GiB for one second, on a subnet of 13 nodes. Larger subnets cost more in proportion:
/// `cycles_days_min` is then to be set higher.
const GIB_SECOND_CYCLES: u128 = 127_000;
const DAY_SECONDS: u128 = 86_400;
/// An upgrade is paid in advance, 300 G of it, and without it nobody can help the canister.
const UPGRADE_CYCLES: u128 = 500_000_000_000;

/// Why nothing may be saved at present, in words for operators.
pub fn shortage(state: &State) -> Option<String> {
    no_cycles(state).or_else(|| no_heap(state)).or_else(|| no_limit(state)).or_else(|| {
        let reason = "the subnet gives no more stable memory";
        state.is_growth_refused.then(|| reason.into())
    })
}

/// As [`shortage`], and what the next message may need of stable memory is there if nothing is short.
/// The canister's log says when that changes.
pub fn prepare(state: &mut State) -> Option<String> {
    let shortage = make_room(state);
    if shortage != state.read_only {
        match &shortage {
            Some(reason) => runtime::print(&format!("read-only: {reason}")),
            None => runtime::print("read-only no more"),
        }
        state.read_only = shortage.clone();
    }
    shortage
}

fn make_room(state: &mut State) -> Option<String> {
    state.is_growth_refused = false;
    let shortage = shortage(state);
    if shortage.is_some() || state.memories.make_room() {
        return shortage;
    }
    state.is_growth_refused = true;
    self::shortage(state)
}

/// What the memory costs in a day.
pub fn rent_a_day(state: &State) -> u128 {
    let bytes = u128::from(state.memories.bytes() + runtime::heap_bytes());
    (bytes * GIB_SECOND_CYCLES * DAY_SECONDS) >> 30
}

fn no_cycles(state: &State) -> Option<String> {
    let days = state.settings.limits().cycles_days_min;
    let kept = rent_a_day(state).saturating_mul(days.into()).saturating_add(UPGRADE_CYCLES);
    let liquid = runtime::liquid_cycles();
    (liquid < kept).then(|| {
        format!("{liquid} cycles are left to spend, and {kept} are kept back: top the canister up")
    })
}

fn no_heap(state: &State) -> Option<String> {
    let reason = "the wasm memory is nearly full: raise its limit, then call configure, or upgrade";
    state.is_heap_low.then(|| reason.into())
}

fn no_limit(state: &State) -> Option<String> {
    let limit = state.settings.limits().stable_bytes_max;
    let wanted = state.memories.bytes() + state.memories.missing_room();
    (wanted > limit).then(|| {
        format!("{wanted} bytes of stable memory are needed, and stable_bytes_max is {limit}")
    })
}
