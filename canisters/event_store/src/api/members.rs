//! `grant`, `revoke`, `members`, `my_role`.

use candid::Principal;
use interface::{Member, Role};

use super::check_owner;
use crate::{runtime, state::State};

pub fn grant(state: &mut State, who: Principal, role: Role, note: String) -> Result<(), String> {
    check_owner(state)?;
    state.members.grant(who, role, note, runtime::now())?;
    runtime::print(&format!("{} granted {who} the role {role:?}", runtime::caller()));
    Ok(())
}

pub fn revoke(state: &mut State, who: &Principal) -> Result<(), String> {
    check_owner(state)?;
    state.members.revoke(who);
    state.directory.forget(who);
    runtime::print(&format!("{} revoked {who}", runtime::caller()));
    Ok(())
}

/// Nobody, to callers who may not read.
pub fn members(state: &State) -> Vec<Member> {
    if state.caller_may_read() { state.members.list() } else { Vec::new() }
}

pub fn my_role(state: &State) -> Option<Role> {
    state.members.role(&runtime::caller())
}
