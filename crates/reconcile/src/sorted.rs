//! A set small enough to be held: sorted items in blocks, with the sums of what comes before each block.
//!
//! A tree of two levels is enough: a million items have two thousand blocks, so that a sum looks into two
//! blocks at most, and a set that differs in a few items shares all other blocks with the one before.

use std::{convert::Infallible, ops::Range, sync::Arc};

use crate::{Item, Set, add, subtract};

/// Items of a block that is made anew. One may grow to twice as many before it is divided.
const BLOCK_ITEMS: usize = 512;

/// Items in order, each once.
#[derive(Clone, Debug)]
pub struct Sorted {
    blocks: Vec<Arc<Block>>,
    /// One more than there are blocks: the last is of all items.
    before: Vec<Before>,
}

/// Never empty.
#[derive(Debug)]
struct Block {
    items: Vec<Item>,
    sum: [u8; 32],
}

/// What lies before a block.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    items: u64,
    sum: [u8; 32],
}

impl Block {
    fn new(items: Vec<Item>) -> Arc<Block> {
        let sum = sum_of(&items);
        Arc::new(Block { items, sum })
    }

    fn last(&self) -> &Item {
        self.items.last().expect("a block is not empty")
    }
}

fn sum_of(items: &[Item]) -> [u8; 32] {
    let mut sum = [0; 32];
    items.iter().for_each(|item| add(&mut sum, &item.id.0));
    sum
}

/// Blocks of items that are in order.
fn blocks_of(items: &[Item]) -> impl Iterator<Item = Arc<Block>> + '_ {
    items.chunks(BLOCK_ITEMS).map(|items| Block::new(items.to_vec()))
}

impl Default for Sorted {
    fn default() -> Sorted {
        Sorted::of(Vec::new())
    }
}

impl PartialEq for Sorted {
    fn eq(&self, other: &Sorted) -> bool {
        self.items().eq(other.items())
    }
}

impl Eq for Sorted {}

impl Sorted {
    pub fn new(mut items: Vec<Item>) -> Sorted {
        items.sort_unstable();
        items.dedup();
        Sorted::of(blocks_of(&items).collect())
    }

    fn of(blocks: Vec<Arc<Block>>) -> Sorted {
        let mut before = Vec::with_capacity(blocks.len() + 1);
        let mut reached = Before::default();
        before.push(reached);
        for block in &blocks {
            reached.items += block.items.len() as u64;
            add(&mut reached.sum, &block.sum);
            before.push(reached);
        }
        Sorted { blocks, before }
    }

    /// The same without what `gone` names, and with `come`. Where nothing changes, blocks are shared.
    pub fn changed(&self, gone: Option<impl Fn(&Item) -> bool>, mut come: Vec<Item>) -> Sorted {
        come.sort_unstable();
        come.dedup();
        let (mut blocks, mut come) = (Vec::with_capacity(self.blocks.len()), come.as_slice());
        for (at, block) in self.blocks.iter().enumerate() {
            // What comes behind the last item of all belongs into the last block.
            let is_last = at + 1 == self.blocks.len();
            let here = come.partition_point(|item| is_last || item <= block.last());
            let (mine, rest) = come.split_at(here);
            come = rest;
            let loses = gone.as_ref().is_some_and(|gone| block.items.iter().any(gone));
            if mine.is_empty() && !loses {
                blocks.push(block.clone());
                continue;
            }
            let is_gone = |item: &&Item| gone.as_ref().is_some_and(|gone| gone(item));
            let mut items: Vec<Item> =
                block.items.iter().filter(|item| !is_gone(item)).copied().collect();
            items.extend(mine);
            items.sort();
            items.dedup();
            if items.len() <= 2 * BLOCK_ITEMS {
                blocks.extend((!items.is_empty()).then(|| Block::new(items)));
            } else {
                blocks.extend(blocks_of(&items));
            }
        }
        blocks.extend(blocks_of(come));
        Sorted::of(blocks)
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub fn len(&self) -> usize {
        self.count() as usize
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.blocks.iter().flat_map(|block| &block.items)
    }

    /// The block in which a place is, and the place in it.
    fn find(&self, place: u64) -> (usize, usize) {
        let block = self.before.partition_point(|before| before.items <= place) - 1;
        (block, (place - self.before[block].items) as usize)
    }

    /// The sum of all items before a place.
    fn sum_before(&self, place: u64) -> [u8; 32] {
        let (block, within) = self.find(place);
        let mut sum = self.before[block].sum;
        if let Some(block) = self.blocks.get(block) {
            add(&mut sum, &sum_of(&block.items[..within]));
        }
        sum
    }
}

impl Set for Sorted {
    type Error = Infallible;

    fn count(&self) -> u64 {
        self.before.last().map_or(0, |all| all.items)
    }

    fn count_below(&self, bound: &Item) -> Result<u64, Infallible> {
        let block = self.blocks.partition_point(|block| block.last() < bound);
        let within = self.blocks.get(block);
        let within =
            within.map_or(0, |block| block.items.partition_point(|item| item < bound) as u64);
        Ok(self.before[block].items + within)
    }

    fn sum(&self, range: Range<u64>) -> Result<[u8; 32], Infallible> {
        let mut sum = self.sum_before(range.end);
        subtract(&mut sum, &self.sum_before(range.start));
        Ok(sum)
    }

    fn each(
        &self,
        range: Range<u64>,
        take: &mut dyn FnMut(Item) -> bool,
    ) -> Result<(), Infallible> {
        let (block, within) = self.find(range.start);
        let items = self.blocks[block..].iter().flat_map(|block| &block.items);
        let items = items.skip(within).take((range.end - range.start) as usize);
        items.copied().all(take);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use event::{EventId, Timestamp};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn item(number: u64) -> Item {
        let mut id = [0xee; 32];
        id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        Item { created_at: Timestamp(number / 3), id: EventId(id) }
    }

    fn check(set: &Sorted, naive: &BTreeSet<Item>, places: (u64, u64), bound: u64) {
        let naive: Vec<Item> = naive.iter().copied().collect();
        assert_eq!(set.items().copied().collect::<Vec<_>>(), naive);
        assert_eq!(set.len(), naive.len());
        let within = |place: u64| place % (naive.len() as u64 + 1);
        let (one, other) = (within(places.0), within(places.1));
        let range = one.min(other)..one.max(other);
        let part = &naive[range.start as usize..range.end as usize];
        assert_eq!(set.sum(range.clone()), Ok(sum_of(part)));
        let mut found = Vec::new();
        set.each(range, &mut |item| {
            found.push(item);
            true
        })
        .unwrap();
        assert_eq!(found, part);
        let below = naive.iter().filter(|other| **other < item(bound)).count();
        assert_eq!(set.count_below(&item(bound)), Ok(below as u64));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_set_agrees_with_a_naive_one_whatever_comes_and_goes(
            first in vec(0u64..6_000, 0..3_000),
            steps in vec((vec(0u64..6_000, 0..40), vec(0u64..6_000, 0..40), any::<(u64, u64)>(), 0u64..6_000), 1..6),
        ) {
            let mut naive: BTreeSet<Item> = first.iter().copied().map(item).collect();
            let mut set = Sorted::new(first.into_iter().map(item).collect());
            for (come, gone, places, bound) in steps {
                let gone: BTreeSet<Item> = gone.into_iter().map(item).collect();
                let come: Vec<Item> = come.into_iter().map(item).collect();
                naive.retain(|item| !gone.contains(item));
                naive.extend(&come);
                set = set.changed(Some(|item: &Item| gone.contains(item)), come);
                check(&set, &naive, places, bound);
            }
        }
    }

    #[test]
    fn what_did_not_change_is_shared() {
        let before = Sorted::new((0..10_000).map(item).collect());
        let nothing: Option<fn(&Item) -> bool> = None;
        let after = before.changed(nothing, vec![item(20_000), item(20_001)]);
        let is_shared = |block| before.blocks.iter().any(|other| Arc::ptr_eq(other, block));
        assert_eq!(after.blocks.iter().filter(|block| !is_shared(block)).count(), 1);
    }
}
