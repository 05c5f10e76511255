//! How questions are cut into pages, for those of our stores that run on machines.
//!
//! A cursor's bytes: `version 1 | after? 1 | created_at 8 | id 32 | remaining 8 for each filter`,
//! big-endian; date and id stand there only if `after` is 1.

use event::{EventId, Filter, Packed, Timestamp};
use index::{Cursor, Position};
use interface::{ByteBuf, REPLY_BYTES_MAX, What};
use reconcile::{Item, Sorted, answer};

use crate::Layer2Error;

/// Filters and their values in one question.
const VALUES_MAX: usize = 10_000;
/// What an item of a page counts beside its bytes.
const ITEM_BYTES: usize = 40;
const CURSOR_VERSION: u8 = 1;

/// The bytes left in a page.
pub struct Room {
    bytes: u64,
    is_untouched: bool,
}

impl Room {
    pub fn new() -> Room {
        Room { bytes: REPLY_BYTES_MAX, is_untouched: true }
    }

    /// Takes so many bytes, if they are there. The first item is always taken.
    pub fn take(&mut self, bytes: usize) -> bool {
        let left = self.bytes.checked_sub((ITEM_BYTES + bytes) as u64);
        let is_taken = left.is_some() || self.is_untouched;
        if is_taken {
            self.bytes = left.unwrap_or(0);
            self.is_untouched = false;
        }
        is_taken
    }
}

pub fn check_values(filters: &[Filter]) -> Result<(), Layer2Error> {
    let values = filters.len() + filters.iter().map(Filter::values).sum::<usize>();
    if values <= VALUES_MAX {
        return Ok(());
    }
    let reason = format!("{values} filters and values: at most {VALUES_MAX} in one question");
    Err(Layer2Error::Interface(reason))
}

/// Whether this confirms that the store of that name is to be cleared.
pub fn check_confirmation(confirmation: &str, name: &str) -> Result<(), Layer2Error> {
    if confirmation == name {
        return Ok(());
    }
    let reason = format!("to empty this store, confirm with its name: {name}");
    Err(Layer2Error::Refused(reason))
}

pub fn bytes_of(cursor: &Cursor) -> Vec<u8> {
    let mut bytes = vec![CURSOR_VERSION, cursor.after.is_some().into()];
    if let Some(Position { created_at, id }) = &cursor.after {
        bytes.extend_from_slice(&created_at.0.to_be_bytes());
        bytes.extend_from_slice(&id.0);
    }
    bytes.extend(cursor.remaining.iter().flat_map(|remaining| remaining.to_be_bytes()));
    bytes
}

/// The cursor that these bytes are; without them, the one at the start.
pub fn cursor_of(bytes: Option<&[u8]>, filters: &[Filter]) -> Result<Cursor, Layer2Error> {
    let Some(bytes) = bytes else {
        let remaining = filters.iter().map(|filter| filter.limit.unwrap_or(u64::MAX)).collect();
        return Ok(Cursor { after: None, remaining });
    };
    let cursor = read_cursor(bytes).filter(|cursor| cursor.remaining.len() == filters.len());
    let wrong = || Layer2Error::Interface("the cursor is not one of these filters'".into());
    cursor.ok_or_else(wrong)
}

fn read_cursor(bytes: &[u8]) -> Option<Cursor> {
    let (head, rest) = bytes.split_first_chunk()?;
    let (after, rest) = match head {
        [CURSOR_VERSION, 0] => (None, rest),
        [CURSOR_VERSION, 1] => {
            let (created_at, rest) = rest.split_first_chunk()?;
            let (id, rest) = rest.split_first_chunk()?;
            let created_at = Timestamp(u64::from_be_bytes(*created_at));
            (Some(Position { created_at, id: EventId(*id) }), rest)
        }
        _ => return None,
    };
    let (numbers, []) = rest.as_chunks() else { return None };
    Some(Cursor { after, remaining: numbers.iter().copied().map(u64::from_be_bytes).collect() })
}

/// Answers a message of negentropy out of these.
pub fn reconcile(items: Vec<Item>, message: &[u8]) -> Result<Vec<u8>, Layer2Error> {
    answer(&Sorted::new(items), message, REPLY_BYTES_MAX as usize).map_err(
        |refusal| match refusal {
            reconcile::Refusal::Malformed(malformed) => {
                Layer2Error::Interface(malformed.to_string())
            }
            reconcile::Refusal::Set(never) => match never {},
        },
    )
}

/// What a change takes of a page, beside what every item does.
pub fn bytes_of_change(what: &What) -> usize {
    match what {
        What::Saved(bytes) | What::Gone(bytes) => bytes.len(),
        What::Removed { id, why } => id.len() + why.len(),
        What::Cleared => 0,
    }
}

/// The id of a packed event that is held.
pub fn id_in(event: &[u8]) -> ByteBuf {
    let event = Packed::trusted(event).expect("only whole events are stored");
    ByteBuf::from(event.id().0)
}
