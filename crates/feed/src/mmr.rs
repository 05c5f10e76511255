//! The tree as it grows: full subtrees in a flat list, parents after their children.
//!
//! Leaf `n` brings as many parents as `n` has ones at its end, so `n` leaves are `2n - ones(n)` nodes,
//! about 64 bytes an entry. The position of a subtree's root follows from its first leaf and height
//! alone, so nothing else is stored. The roots of the full subtrees (*peaks*) are also kept in the
//! heap, one for each one in `length`: to append and to take the root reads nothing.

use std::ops::Range;

use crate::{Hash, divide, empty_root, node};

/// Where the nodes lie.
pub trait Nodes {
    /// The node at a position below all that was written.
    fn read(&self, position: u64) -> Hash;
    /// Writes nodes right behind those that are there.
    fn append(&mut self, position: u64, nodes: &[Hash]);
}

impl Nodes for Vec<Hash> {
    fn read(&self, position: u64) -> Hash {
        self[position as usize]
    }

    fn append(&mut self, position: u64, nodes: &[Hash]) {
        assert_eq!(position, self.len() as u64, "nodes are written in order");
        self.extend_from_slice(nodes);
    }
}

impl<N: Nodes> Nodes for &mut N {
    fn read(&self, position: u64) -> Hash {
        (**self).read(position)
    }

    fn append(&mut self, position: u64, nodes: &[Hash]) {
        (**self).append(position, nodes);
    }
}

/// A Merkle mountain range.
pub struct Mmr<N> {
    nodes: N,
    length: u64,
    peaks: Vec<Hash>,
}

impl<N: Nodes> Mmr<N> {
    /// The tree of the first `length` leaves that were pushed into `nodes`.
    pub fn open(nodes: N, length: u64) -> Mmr<N> {
        let mut start = 0;
        let mut peaks = Vec::new();
        for height in (0..u64::BITS).rev().filter(|height| length >> height & 1 == 1) {
            peaks.push(nodes.read(position(start, height)));
            start += 1 << height;
        }
        Mmr { nodes, length, peaks }
    }

    /// How many leaves it has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where its nodes lie, for those who keep something beside them.
    pub fn nodes_mut(&mut self) -> &mut N {
        &mut self.nodes
    }

    pub fn push(&mut self, leaf: Hash) {
        let mut written = vec![leaf];
        let mut subtree = leaf;
        for _ in 0..self.length.trailing_ones() {
            let left = self.peaks.pop().expect("there is a peak for each one in the length");
            subtree = node(&left, &subtree);
            written.push(subtree);
        }
        self.nodes.append(nodes_of(self.length), &written);
        self.peaks.push(subtree);
        self.length += 1;
    }

    /// RFC 9162's Merkle tree hash: peaks are joined from the right.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, peak| node(peak, &right))
    }

    /// The nodes that complete the leaves of `range` to the root, the fewest there are, from left to
    /// right: what [`crate::root_of`] asks for. For no leaves that is the root itself. The range must
    /// lie within the tree.
    pub fn prove(&self, range: Range<u64>) -> Vec<Hash> {
        debug_assert!(range.start <= range.end && range.end <= self.length);
        let mut nodes = Vec::new();
        if self.length > 0 {
            self.complete(0..self.length, &range, &mut nodes);
        }
        nodes
    }

    fn complete(&self, part: Range<u64>, range: &Range<u64>, nodes: &mut Vec<Hash>) {
        if range.is_empty() || part.end <= range.start || range.end <= part.start {
            nodes.push(self.hash(part));
        } else if part.start < range.start || range.end < part.end {
            let middle = part.start + divide(part.end - part.start);
            self.complete(part.start..middle, range, nodes);
            self.complete(middle..part.end, range, nodes);
        }
    }

    /// A part of the tree as [`divide`] cuts it: either full, and stored, or the tree's right edge.
    fn hash(&self, part: Range<u64>) -> Hash {
        let length = part.end - part.start;
        if length.is_power_of_two() {
            return self.nodes.read(position(part.start, length.ilog2()));
        }
        let middle = part.start + divide(length);
        node(&self.hash(part.start..middle), &self.hash(middle..part.end))
    }
}

/// How many nodes `length` leaves have brought.
fn nodes_of(length: u64) -> u64 {
    2 * length - u64::from(length.count_ones())
}

/// Where the root of the full subtree over `1 << height` leaves from `start` on lies: behind all nodes
/// of the leaves before, and last of its own.
fn position(start: u64, height: u32) -> u64 {
    nodes_of(start) + (2 << height) - 2
}
