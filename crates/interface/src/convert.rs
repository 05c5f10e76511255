//! From the types of the wire to those of `event`, and back.

use std::{collections::BTreeMap, fmt};

use event::{EventId, Kind, PublicKey, TagName, Timestamp};
use serde_bytes::ByteBuf;

use crate::{Answer, Filter, ReadError};

/// Why a value of the wire is not what its place in the interface wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{what} must have 32 bytes, not {bytes}")]
    Length { what: &'static str, bytes: usize },
    #[error("`{0}` is not a tag that filters can ask for: a single letter is")]
    TagName(String),
    #[error("tag `{0}` stands twice in one list")]
    TagTwice(TagName),
}

impl From<Malformed> for ReadError {
    fn from(reason: Malformed) -> ReadError {
        ReadError::Invalid(reason.to_string())
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Lagging(length) => write!(f, "this replica's log ends at {length}"),
            ReadError::Forbidden => f.write_str("the caller may not read"),
            ReadError::Invalid(reason) => write!(f, "invalid request: {reason}"),
            ReadError::Other(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for ReadError {}

impl<T, E> From<Result<T, E>> for Answer<T, E> {
    fn from(result: Result<T, E>) -> Answer<T, E> {
        match result {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Err(error),
        }
    }
}

impl<T, E> From<Answer<T, E>> for Result<T, E> {
    fn from(answer: Answer<T, E>) -> Result<T, E> {
        match answer {
            Answer::Ok(value) => Ok(value),
            Answer::Err(error) => Err(error),
        }
    }
}

impl<T, E> Answer<T, E> {
    /// As a `Result`, for `?`.
    pub fn into_result(self) -> Result<T, E> {
        self.into()
    }
}

/// The id that these bytes are.
pub fn id_of(bytes: &[u8]) -> Result<EventId, Malformed> {
    bytes_32("an id", bytes).map(EventId)
}

/// The public key that these bytes are.
pub fn pubkey_of(bytes: &[u8]) -> Result<PublicKey, Malformed> {
    bytes_32("a public key", bytes).map(PublicKey)
}

fn bytes_32(what: &'static str, bytes: &[u8]) -> Result<[u8; 32], Malformed> {
    bytes.try_into().map_err(|_| Malformed::Length { what, bytes: bytes.len() })
}

impl TryFrom<Filter> for event::Filter {
    type Error = Malformed;

    fn try_from(filter: Filter) -> Result<event::Filter, Malformed> {
        Ok(event::Filter {
            ids: all(filter.ids, |id| id_of(&id))?,
            authors: all(filter.authors, |key| pubkey_of(&key))?,
            kinds: filter.kinds.map(|kinds| kinds.into_iter().map(Kind).collect()),
            tags: tags_of(filter.tags)?,
            all_tags: tags_of(filter.all_tags)?,
            since: filter.since.map(Timestamp),
            until: filter.until.map(Timestamp),
            limit: filter.limit,
            search: None,
        })
    }
}

/// L2 does not search: the words of a filter are lost here, so whoever asks L2 leaves such filters out.
impl From<event::Filter> for Filter {
    fn from(filter: event::Filter) -> Filter {
        let blobs = |bytes: [u8; 32]| ByteBuf::from(bytes);
        Filter {
            ids: filter.ids.map(|ids| ids.into_iter().map(|id| blobs(id.0)).collect()),
            authors: filter.authors.map(|keys| keys.into_iter().map(|key| blobs(key.0)).collect()),
            kinds: filter.kinds.map(|kinds| kinds.into_iter().map(|kind| kind.0).collect()),
            tags: pairs_of(filter.tags),
            all_tags: pairs_of(filter.all_tags),
            since: filter.since.map(|at| at.0),
            until: filter.until.map(|at| at.0),
            limit: filter.limit,
        }
    }
}

fn all<A, B>(
    list: Option<Vec<A>>,
    convert: impl Fn(A) -> Result<B, Malformed>,
) -> Result<Option<Vec<B>>, Malformed> {
    list.map(|list| list.into_iter().map(convert).collect()).transpose()
}

fn tags_of(lists: Vec<(String, Vec<String>)>) -> Result<BTreeMap<TagName, Vec<String>>, Malformed> {
    let mut tags = BTreeMap::new();
    for (name, values) in lists {
        let Some(letter) = TagName::new(&name) else { return Err(Malformed::TagName(name)) };
        if tags.insert(letter, values).is_some() {
            return Err(Malformed::TagTwice(letter));
        }
    }
    Ok(tags)
}

fn pairs_of(tags: BTreeMap<TagName, Vec<String>>) -> Vec<(String, Vec<String>)> {
    tags.into_iter().map(|(name, values)| (name.to_string(), values)).collect()
}
