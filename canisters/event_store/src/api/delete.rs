//! `delete_events` and `clear`: what owners may take out, though it is not theirs.

use event::EventId;
use index::Seq;
use interface::{DeleteOutcome, Deletion, IdBytes, SAVE_EVENTS_MAX, id_of};

use super::{check_owner, cut};
use crate::{room::is_time_to_save, runtime, state::State};

/// One outcome for each id, in order; those beyond [`SAVE_EVENTS_MAX`] are not looked at.
pub fn delete_events(
    state: &mut State,
    ids: &[IdBytes],
    deletion: &Deletion,
) -> Vec<DeleteOutcome> {
    let ids = &ids[..ids.len().min(SAVE_EVENTS_MAX)];
    if check_owner(state).is_err() {
        return vec![DeleteOutcome::Forbidden; ids.len()];
    }
    let why = match cut(&deletion.why) {
        "" => "removed by the operator",
        why => why,
    };
    ids.iter().map(|id| delete(state, id, deletion.tombstone, why)).collect()
}

fn delete(state: &mut State, id: &[u8], for_ever: bool, why: &str) -> DeleteOutcome {
    if !is_time_to_save() {
        return DeleteOutcome::Other("this call has done enough: send it again".into());
    }
    let id: EventId = match id_of(id) {
        Ok(id) => id,
        Err(reason) => return DeleteOutcome::Other(reason.to_string()),
    };
    let removed = if for_ever {
        state.events.bar(&id, why, runtime::now())
    } else {
        state.events.remove(&id, why, runtime::now())
    };
    removed.map_or(DeleteOutcome::Unknown, |Seq(seq)| DeleteOutcome::Removed(seq))
}

/// Empties the store. Members, config and directory stay, and the log goes on.
pub fn clear(state: &mut State, confirmation: &str) -> Result<(), String> {
    check_owner(state)?;
    let id = runtime::canister_id().to_text();
    if confirmation != id {
        return Err(format!("to empty this store, confirm with its id: {id}"));
    }
    let events = state.events.len();
    state.events.clear(runtime::now());
    runtime::print(&format!("cleared by {}: {events} events are gone", runtime::caller()));
    Ok(())
}
