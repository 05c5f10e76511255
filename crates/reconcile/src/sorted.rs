//! A set small enough to be held: sorted items.

use std::{convert::Infallible, ops::Range};

use crate::{Item, Set, add};

/// Items in order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted(Vec<Item>);

impl Sorted {
    pub fn new(mut items: Vec<Item>) -> Sorted {
        items.sort();
        items.dedup();
        Sorted(items)
    }

    /// The same without what `gone` names, and with `come`.
    pub fn changed(&self, gone: impl Fn(&Item) -> bool, come: Vec<Item>) -> Sorted {
        let stay = self.0.iter().filter(|item| !gone(item)).copied();
        // Two runs that are in order: the sort merges them.
        Sorted::new(stay.chain(come).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn slice(&self, range: Range<u64>) -> &[Item] {
        &self.0[range.start as usize..range.end as usize]
    }
}

impl Set for Sorted {
    type Error = Infallible;

    fn count(&self) -> u64 {
        self.0.len() as u64
    }

    fn count_below(&self, bound: &Item) -> Result<u64, Infallible> {
        Ok(self.0.partition_point(|item| item < bound) as u64)
    }

    fn sum(&self, range: Range<u64>) -> Result<[u8; 32], Infallible> {
        let mut sum = [0; 32];
        self.slice(range).iter().for_each(|item| add(&mut sum, &item.id));
        Ok(sum)
    }

    fn each(
        &self,
        range: Range<u64>,
        take: &mut dyn FnMut(Item) -> bool,
    ) -> Result<(), Infallible> {
        self.slice(range).iter().all(|item| take(*item));
        Ok(())
    }
}
