//! `reconcile`: negentropy (NIP-77, its messages as bytes) between the caller's events and these.
//!
//! Nothing is kept between two messages. The set may change meanwhile: what came or went is then told
//! as a difference, or not at all, as with any two stores that go on living.

use index::{Found, Position, Reader, Scan, Take};
use interface::{ByteBuf, Filter, REPLY_BYTES_MAX, ReadError};
use reconcile::{Item, Refusal, Sorted, answer};

use super::{check_reader, query::filters_of};
use crate::{
    dated::{Dated, TooMuch},
    memory::Memory,
    room::is_time_to_read,
    runtime,
    state::State,
};

const FRAME_BYTES_MAX: usize = REPLY_BYTES_MAX as usize;

pub fn reconcile(
    state: &State,
    message: &[u8],
    filter: Option<Filter>,
) -> Result<ByteBuf, ReadError> {
    check_reader(state)?;
    let filters = filters_of(vec![filter.unwrap_or_default()])?;
    let filter = &filters[0];
    if is_of_dates_only(filter) {
        answered(answer(&dated(state, filter)?, message, FRAME_BYTES_MAX))
    } else {
        answered(answer(&matching(state, &filters)?, message, FRAME_BYTES_MAX))
    }
}

/// The sums know of all that is held: what is over by now is taken off them.
fn dated<'a>(state: &'a State, filter: &event::Filter) -> Result<Dated<'a, Memory>, ReadError> {
    let hidden = state.events.hidden(runtime::now(), is_time_to_read).ok_or_else(too_much)?;
    let set = state.events.dated().between(filter.since, filter.until);
    set.without(hidden).map_err(|TooMuch| too_much())
}

/// Such a set need not be held to be compared.
fn is_of_dates_only(filter: &event::Filter) -> bool {
    let dates =
        event::Filter { since: filter.since, until: filter.until, ..event::Filter::default() };
    *filter == dates
}

/// The events that match the filter. Only dates have an index with sums, so these are looked at one by
/// one; a caller with more of them than one call can look at divides the time between calls.
fn matching(state: &State, filters: &[event::Filter]) -> Result<Sorted, ReadError> {
    let mut items = Items(Vec::new());
    match Scan::new(filters).page(&state.events.visible(runtime::now()), &mut items) {
        Ok(true) => Ok(Sorted::new(items.0)),
        Ok(false) => Err(too_much()),
    }
}

fn answered<E>(answer: Result<Vec<u8>, Refusal<E>>) -> Result<ByteBuf, ReadError> {
    answer.map(ByteBuf::from).map_err(|refusal| match refusal {
        Refusal::Malformed(malformed) => ReadError::Invalid(malformed.to_string()),
        // The one reason not to be able to read a set, where there is one.
        Refusal::Set(_) => too_much(),
    })
}

fn too_much() -> ReadError {
    ReadError::Other("too many events at once: narrow by since and until".into())
}

struct Items(Vec<Item>);

impl Reader for Items {
    fn take(&mut self, found: Found<'_>) -> Take {
        let Position { created_at, id } = found.position;
        self.0.push(Item { created_at, id });
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        is_time_to_read()
    }
}
