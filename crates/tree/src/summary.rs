//! What a tree can know of all entries below a page: how many they are, and the sum of their ids.
//! Negentropy (NIP-77) compares such sums. They follow every insert and removal, so a sum over any
//! range is a matter of a few pages.

use ic_stable_structures::Memory;

use super::Tree;

/// A sum that can be taken apart again. `Default` is nothing.
pub trait Summary: Copy + Default {
    const BYTES: usize;

    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    /// Fills `BYTES` bytes.
    fn write(&self, bytes: &mut [u8]);
    /// Reads the first `BYTES` bytes.
    fn read(bytes: &[u8]) -> Self;
}

impl Summary for () {
    const BYTES: usize = 0;

    fn plus(self, _: ()) {}
    fn minus(self, _: ()) {}
    fn write(&self, _: &mut [u8]) {}
    fn read(_: &[u8]) {}
}

/// The number of entries, and the sum of their 32-byte ids as little-endian numbers, mod 2^256.
///
/// Stored as `count 8 | sum 32`, little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub count: u64,
    /// From the lowest 64 bits to the highest.
    sum: [u64; 4],
}

impl Totals {
    /// Of one entry.
    pub fn one(id: &[u8; 32]) -> Totals {
        let mut sum = [0; 4];
        for (limb, bytes) in sum.iter_mut().zip(id.as_chunks().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        Totals { count: 1, sum }
    }

    /// The sum, little-endian.
    pub fn sum(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.sum.map(u64::to_le_bytes).as_flattened());
        bytes
    }
}

impl Summary for Totals {
    const BYTES: usize = 40;

    fn plus(self, other: Totals) -> Totals {
        let mut carry = false;
        let mut sum = self.sum;
        for (limb, other) in sum.iter_mut().zip(other.sum) {
            let (added, over) = limb.overflowing_add(other);
            let (added, over_by_carry) = added.overflowing_add(carry.into());
            (*limb, carry) = (added, over | over_by_carry);
        }
        Totals { count: self.count.wrapping_add(other.count), sum }
    }

    fn minus(self, other: Totals) -> Totals {
        // -x is !x + 1.
        let negative =
            Totals { count: other.count.wrapping_neg(), sum: other.sum.map(|limb| !limb) };
        self.plus(negative).plus(Totals { count: 0, sum: [1, 0, 0, 0] })
    }

    fn write(&self, bytes: &mut [u8]) {
        let (count, sum) = bytes.split_at_mut(8);
        count.copy_from_slice(&self.count.to_le_bytes());
        sum.copy_from_slice(&self.sum());
    }

    fn read(bytes: &[u8]) -> Totals {
        let (count, rest) = bytes.split_first_chunk().expect("a summary has 40 bytes");
        let sum = rest.first_chunk().expect("a summary has 40 bytes");
        Totals { count: u64::from_le_bytes(*count), ..Totals::one(sum) }
    }
}

impl<const KEY: usize, const VALUE: usize, M: Memory> Tree<KEY, VALUE, M, Totals> {
    /// How many keys come before `key`.
    pub fn rank(&self, key: &[u8; KEY]) -> u64 {
        self.totals_before(key, |_| Totals { count: 1, ..Totals::default() }).count
    }

    /// Count and sum of all entries whose keys come before `key`: those of a range are the difference
    /// of two. `of` is asked for the entries of one leaf.
    pub fn totals_before(&self, key: &[u8; KEY], of: impl Fn(&[u8; KEY]) -> Totals) -> Totals {
        let (path, _) = self.path_to(key);
        path.iter().fold(Totals::default(), |totals, step| {
            let size = Self::entry_bytes(step.node.level);
            let mut bytes = vec![0; step.at * size];
            self.pages.read(step.node.page, self.place(&step.node, 0), &mut bytes);
            totals.plus(self.summary_of(&bytes, step.node.level, &of))
        })
    }

    /// The key before which `rank` others come.
    pub fn select(&self, rank: u64) -> Option<[u8; KEY]> {
        let head = self.pages.head(self.number);
        let mut rank = Some(rank).filter(|rank| *rank < head.entries)?;
        let mut node = self.node(head.root, head.levels - 1);
        while node.level > 0 {
            let at = (0..node.count).find(|at| {
                let below = self.summary(&node, *at).count;
                let is_here = rank < below;
                rank -= if is_here { 0 } else { below };
                is_here
            });
            node = self.child(&node, at.expect("the counts add up to the number of entries"));
        }
        Some(self.key(&node, rank as usize))
    }
}
