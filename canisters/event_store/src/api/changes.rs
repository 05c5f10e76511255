//! `changes`: the log, page by page. Relays follow the store by it.

use index::Seq;
use interface::{ByteBuf, Change, ChangesFrom, ChangesPage, ChangesRequest, ReadError, What};

use super::{check_reader, tip::prove};
use crate::{
    events::{Events, Visible},
    log::{Entry, Kind, Log},
    memory::Memory,
    room::{Room, encode, is_time_to_read},
    runtime,
    state::State,
};

/// What an entry takes in a reply beside ids, events and texts: two numbers, a variant, lengths.
const CHANGE_BYTES: usize = 32;

pub fn changes(state: &State, request: &ChangesRequest) -> Result<ChangesPage, ReadError> {
    check_reader(state)?;
    let log = state.events.log();
    let Seq(length) = log.length();
    let first = match request.from {
        // The caller has seen more than there is here, on another replica.
        ChangesFrom::Seq(seq) if seq > length => return Err(ReadError::Lagging(length)),
        ChangesFrom::Seq(seq) => seq,
        ChangesFrom::Arrived(time) => log.first_arrived_at(time).0,
    };
    let changes = page(&state.events, first, request);
    let next = first + changes.len() as u64;
    let proof = if request.proof { prove(state, first, next) } else { None };
    Ok(ChangesPage { changes, next, length, proof })
}

fn page(events: &Events, first: u64, request: &ChangesRequest) -> Vec<Change> {
    let (log, visible) = (events.log(), events.visible(runtime::now()));
    let entries_max = request.max_entries.unwrap_or(u64::MAX);
    let mut room = Room::new(request.max_bytes);
    let mut changes = Vec::new();
    while (changes.len() as u64) < entries_max && is_time_to_read() {
        let seq = first + changes.len() as u64;
        let Some(entry) = log.entry(Seq(seq)) else { break };
        let what = what(log, &visible, seq, &entry, request);
        if !room.take(CHANGE_BYTES + what.bytes()) {
            break;
        }
        changes.push(Change { seq, arrived: entry.arrived, what });
    }
    changes
}

fn what(
    log: &Log<Memory>,
    visible: &Visible<'_>,
    seq: u64,
    entry: &Entry,
    request: &ChangesRequest,
) -> What {
    match entry.kind {
        // It is over; that it was removed will stand further on.
        Kind::Saved if visible.hides_at(Seq(seq)) => What::Gone(ByteBuf::from(log.id(entry).0)),
        Kind::Saved if request.ids_only => What::Saved(ByteBuf::from(log.id(entry).0)),
        Kind::Saved => What::Saved(encode(log.data(entry), request.encoding.unwrap_or_default())),
        Kind::Gone => What::Gone(ByteBuf::from(log.id(entry).0)),
        Kind::Removed => removed(&log.data(entry)),
        Kind::Cleared => What::Cleared,
    }
}

fn removed(data: &[u8]) -> What {
    let (id, why) = data.split_at(32);
    What::Removed { id: ByteBuf::from(id), why: String::from_utf8_lossy(why).into_owned() }
}
