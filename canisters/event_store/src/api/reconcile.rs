//! `reconcile`: negentropy (NIP-77, its messages as bytes) between the caller's events and these.
//!
//! Nothing is kept between two messages. The set may change meanwhile: what came or went is then told
//! as a difference, or not at all, as with any two stores that go on living.

use event::Packed;
use index::{Reader, Scan, Seq, Take};
use interface::{ByteBuf, Filter, REPLY_BYTES_MAX, ReadError};
use reconcile::{Item, Refusal, Sorted, answer};

use super::{check_reader, query::filters_of};
use crate::{room::is_time_to_read, state::State};

pub fn reconcile(
    state: &State,
    message: &[u8],
    filter: Option<Filter>,
) -> Result<ByteBuf, ReadError> {
    check_reader(state)?;
    let set = matching(state, filter.unwrap_or_default())?;
    match answer(&set, message, REPLY_BYTES_MAX as usize) {
        Ok(answer) => Ok(ByteBuf::from(answer)),
        Err(Refusal::Malformed(malformed)) => Err(ReadError::Invalid(malformed.to_string())),
        Err(Refusal::Set(never)) => match never {},
    }
}

/// The events that match a filter. A date has no index over all filters, so they are looked at one by
/// one; a caller with more of them than one call can look at divides the time between calls.
fn matching(state: &State, filter: Filter) -> Result<Sorted, ReadError> {
    let mut items = Items(Vec::new());
    match Scan::new(&filters_of(vec![filter])?).page(&state.events, &mut items) {
        Ok(true) => Ok(Sorted::new(items.0)),
        Ok(false) => {
            Err(ReadError::Other("too many events at once: narrow by since and until".into()))
        }
    }
}

struct Items(Vec<Item>);

impl Reader for Items {
    fn take(&mut self, _: Seq, event: &Packed<'_>) -> Take {
        self.0.push(Item { created_at: event.created_at(), id: event.id() });
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        is_time_to_read()
    }
}
