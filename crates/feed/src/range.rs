//! The other side of [`crate::Mmr::prove`]: the root, from a page's leaves and the nodes that complete
//! them. Lengths and nodes come from strangers here; no value of theirs costs more than its bytes.

use std::ops::Range;

use crate::{Hash, divide, empty_root, node};

/// Why leaves and nodes are not a range of a tree of that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("the range ends behind the log")]
    Beyond,
    #[error("nodes are missing")]
    NodesMissing,
    #[error("there are more nodes than complete the range")]
    NodesLeft,
}

/// The root of the log of `length` entries, of which `leaves` are those from `first` on. The length is
/// a claim like the leaves, and trees of several lengths may share a root: so both are certified.
pub fn root_of(
    length: u64,
    first: u64,
    leaves: &[Hash],
    nodes: &[Hash],
) -> Result<Hash, RangeError> {
    let end = first.checked_add(leaves.len() as u64).filter(|end| *end <= length);
    let range = first..end.ok_or(RangeError::Beyond)?;
    let mut completion = Completion { leaves: leaves.iter(), nodes: nodes.iter(), range };
    let root = match length {
        0 => empty_root(),
        _ => completion.hash(0..length).ok_or(RangeError::NodesMissing)?,
    };
    if completion.nodes.next().is_none() { Ok(root) } else { Err(RangeError::NodesLeft) }
}

struct Completion<'a> {
    leaves: std::slice::Iter<'a, Hash>,
    nodes: std::slice::Iter<'a, Hash>,
    range: Range<u64>,
}

impl Completion<'_> {
    /// The same walk as the prover's. None: there are no more nodes.
    fn hash(&mut self, part: Range<u64>) -> Option<Hash> {
        let range = &self.range;
        if range.is_empty() || part.end <= range.start || range.end <= part.start {
            return self.nodes.next().copied();
        }
        let length = part.end - part.start;
        if length == 1 {
            return self.leaves.next().copied();
        }
        let middle = part.start + divide(length);
        let left = self.hash(part.start..middle)?;
        Some(node(&left, &self.hash(middle..part.end)?))
    }
}
