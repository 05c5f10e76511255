//! How questions are cut into pages, for those of our stores that run on machines.

use event::{Filter, Packed};
use index::Cursor;
use interface::{ByteBuf, REPLY_BYTES_MAX};
use reconcile::{Item, Sorted, answer};

use crate::Layer2Error;

/// Filters and their values in one question.
const VALUES_MAX: usize = 10_000;
/// What an item of a page counts beside its bytes.
const ITEM_BYTES: usize = 40;

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

/// The cursor that these bytes are; without them, the one at the start.
pub fn cursor_of(bytes: Option<&[u8]>, filters: &[Filter]) -> Result<Cursor, Layer2Error> {
    let Some(bytes) = bytes else { return Ok(Cursor::start(filters)) };
    let wrong = || Layer2Error::Interface("the cursor is not one of these filters'".into());
    Cursor::from_bytes(bytes, filters.len()).ok_or_else(wrong)
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

/// The id of a packed event that is held.
pub fn id_in(event: &[u8]) -> ByteBuf {
    let event = Packed::trusted(event).expect("only whole events are stored");
    ByteBuf::from(event.id().0)
}
