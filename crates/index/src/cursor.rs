//! What a scan remembers between two pages, and its bytes, which a store hands to whoever asks for
//! the next one.
//!
//! ```text
//! cursor       version 1 | after? 1 | created_at 8 | id 32 | remaining 8 for each filter
//! ```
//! Numbers are big-endian; date and id stand there only if `after` is 1.

use event::{EventId, Filter, Timestamp};

use crate::Position;

const VERSION: u8 = 1;

/// All that a scan remembers between pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last event looked at; the scan goes on behind it.
    pub after: Option<Position>,
    /// How many events each filter may still give, in the order of the filters.
    pub remaining: Vec<u64>,
}

impl Cursor {
    /// The one before the first page.
    pub fn start(filters: &[Filter]) -> Cursor {
        let remaining = filters.iter().map(|filter| filter.limit.unwrap_or(u64::MAX)).collect();
        Cursor { after: None, remaining }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.after.is_some().into()];
        if let Some(Position { created_at, id }) = &self.after {
            bytes.extend_from_slice(&created_at.0.to_be_bytes());
            bytes.extend_from_slice(&id.0);
        }
        bytes.extend(self.remaining.iter().flat_map(|remaining| remaining.to_be_bytes()));
        bytes
    }

    /// None: these bytes are no cursor of so many filters.
    pub fn from_bytes(bytes: &[u8], filters: usize) -> Option<Cursor> {
        let (head, rest) = bytes.split_first_chunk()?;
        let (after, rest) = match head {
            [VERSION, 0] => (None, rest),
            [VERSION, 1] => {
                let (created_at, rest) = rest.split_first_chunk()?;
                let (id, rest) = rest.split_first_chunk()?;
                let created_at = Timestamp(u64::from_be_bytes(*created_at));
                (Some(Position { created_at, id: EventId(*id) }), rest)
            }
            _ => return None,
        };
        let (numbers, []) = rest.as_chunks() else { return None };
        let remaining = numbers.iter().copied().map(u64::from_be_bytes).collect();
        Some(Cursor { after, remaining }).filter(|cursor| cursor.remaining.len() == filters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors() -> [Cursor; 2] {
        let after = Position { created_at: Timestamp(1_700_000_000), id: EventId([7; 32]) };
        let remaining = vec![u64::MAX, 0, 500];
        [
            Cursor { after: None, remaining: remaining.clone() },
            Cursor { after: Some(after), remaining },
        ]
    }

    #[test]
    fn a_cursor_comes_back_out_of_its_bytes() {
        for cursor in cursors() {
            let bytes = cursor.to_bytes();
            assert_eq!(Cursor::from_bytes(&bytes, 3).as_ref(), Some(&cursor));
        }
    }

    #[test]
    fn bytes_that_are_cut_or_another_questions_are_no_cursor() {
        for cursor in cursors() {
            let bytes = cursor.to_bytes();
            assert!((0..bytes.len()).all(|cut| Cursor::from_bytes(&bytes[..cut], 3).is_none()));
            assert_eq!(Cursor::from_bytes(&bytes, 2), None);
            assert_eq!(Cursor::from_bytes(&[&[2], &bytes[1..]].concat(), 3), None, "version 2");
        }
    }
}
