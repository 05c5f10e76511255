//! The tree against `BTreeMap`, on pages so small that every few inserts split one.

use std::collections::BTreeMap;

use ic_stable_structures::VectorMemory;
use proptest::{collection::vec, prelude::*};

use super::*;

type Model = BTreeMap<[u8; 6], [u8; 2]>;
type Summed = Tree<6, 2, VectorMemory, Totals>;

/// Six leaf entries to a page, and four children with totals.
const SMALL: usize = 208;

/// An id for a key, such that sums carry.
fn id_of(key: &[u8; 6]) -> [u8; 32] {
    let mut id = [0xff; 32];
    id[..6].copy_from_slice(key);
    id
}

fn total_of(key: &[u8; 6]) -> Totals {
    Totals::one(&id_of(key))
}

fn totals<'a>(keys: impl Iterator<Item = &'a [u8; 6]>) -> Totals {
    keys.map(total_of).fold(Totals::default(), Totals::plus)
}

#[derive(Clone, Debug)]
enum Step {
    Insert([u8; 6], [u8; 2]),
    Remove([u8; 6]),
    /// Of those held, the one at this place, counted around.
    RemoveHeld(usize),
    Reopen,
}

/// Keys in few groups, so that many are neighbours and some are equal.
fn key() -> impl Strategy<Value = [u8; 6]> {
    let byte = prop_oneof![Just(0), Just(0xff), any::<u8>()];
    (0u8..4, byte, 0u8..8).prop_map(|(group, middle, end)| [group, 0, middle, 0, 0, end])
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (key(), any::<[u8; 2]>()).prop_map(|(key, value)| Step::Insert(key, value)),
        2 => key().prop_map(Step::Remove),
        6 => any::<usize>().prop_map(Step::RemoveHeld),
        1 => Just(Step::Reopen),
    ];
    vec(step, 0..400)
}

impl<const KEY: usize, const VALUE: usize, M: Memory, S: Summary> Tree<KEY, VALUE, M, S>
where
    S: PartialEq + std::fmt::Debug,
{
    /// Looks at every page, and returns how many there are. Panics if one is not as the head says.
    fn check(&self, of: &impl Fn(&[u8; KEY]) -> S) -> u32 {
        let head = self.pages.head(self.number);
        let entries = self.walk([0; KEY]..=[0xff; KEY]).count() as u64;
        assert_eq!(entries, head.entries);
        if head.levels == 0 {
            return 0;
        }
        let root = self.node(head.root, head.levels - 1);
        assert!(root.level == 0 || root.count > 1);
        self.check_below(&root, [0; KEY], None, of).0
    }

    fn check_below(
        &self,
        node: &Node,
        from: [u8; KEY],
        to: Option<[u8; KEY]>,
        of: &impl Fn(&[u8; KEY]) -> S,
    ) -> (u32, S) {
        assert!((1..=self.capacity(node.level)).contains(&node.count));
        let bytes = self.entries(node);
        let keys: Vec<[u8; KEY]> =
            bytes.chunks_exact(Self::entry_bytes(node.level)).map(|entry| *key_of(entry)).collect();
        assert!(keys.is_sorted_by(|one, next| one < next), "{keys:?}");
        let bounded = &keys[usize::from(node.level > 0)..];
        assert!(bounded.iter().all(|key| *key >= from && to.is_none_or(|to| *key < to)));
        if node.level == 0 {
            return (1, self.summary_below(node, of));
        }
        let mut whole = (1, S::default());
        for at in 0..node.count {
            let from = if at == 0 { from } else { keys[at] };
            let to = keys.get(at + 1).copied().or(to);
            let (pages, below) = self.check_below(&self.child(node, at), from, to, of);
            assert_eq!(self.summary(node, at), below);
            whole = (whole.0 + pages, whole.1.plus(below));
        }
        whole
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn tree_agrees_with_a_map(steps in steps(), ranges in vec((key(), key()), 8)) {
        let memory = VectorMemory::default();
        let mut pages = Rc::new(Pages::open(memory.clone(), SMALL));
        let mut tree = Summed::open(&pages, 3);
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    let is_new = tree.insert_with(&key, &value, total_of);
                    prop_assert_eq!(is_new, model.insert(key, value).is_none());
                }
                Step::Remove(key) => {
                    prop_assert_eq!(tree.remove_with(&key, total_of), model.remove(&key));
                }
                Step::RemoveHeld(place) => {
                    let place = place % model.len().max(1);
                    let Some(key) = model.keys().nth(place).copied() else { continue };
                    prop_assert_eq!(tree.remove_with(&key, total_of), model.remove(&key));
                }
                Step::Reopen => {
                    pages = Rc::new(Pages::open(memory.clone(), SMALL));
                    tree = Summed::open(&pages, 3);
                }
            }
            prop_assert_eq!(tree.check(&total_of), pages.used());
        }
        prop_assert_eq!(tree.len(), model.len() as u64);
        prop_assert_eq!(tree.first(), model.keys().next().copied());
        for (from, to) in ranges {
            let (from, to) = (from.min(to), from.max(to));
            let expected: Vec<_> = model.range(from..=to).map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(tree.walk(from..=to).collect::<Vec<_>>(), expected);
            prop_assert_eq!(tree.get(&from), model.get(&from).copied());
            prop_assert_eq!(tree.rank(&from), model.range(..from).count() as u64);
            let expected = totals(model.range(..from).map(|(key, _)| key));
            prop_assert_eq!(tree.totals_before(&from, total_of), expected);
        }
        for (rank, key) in model.keys().enumerate() {
            prop_assert_eq!(tree.select(rank as u64), Some(*key));
        }
        prop_assert_eq!(tree.select(model.len() as u64), None);
        for key in model.keys() {
            tree.remove_with(key, total_of);
        }
        prop_assert_eq!(pages.used(), 0, "an emptied tree keeps no page");
    }

    #[test]
    fn sums_are_those_of_numbers(one in any::<[u128; 2]>(), other in any::<[u128; 2]>()) {
        let total = |[low, high]: [u128; 2]| {
            let bytes: Vec<u8> = [low.to_le_bytes(), high.to_le_bytes()].concat();
            Totals::one(&bytes.try_into().unwrap())
        };
        let (low, carry) = one[0].overflowing_add(other[0]);
        let high = one[1].wrapping_add(other[1]).wrapping_add(carry.into());
        let sum = total(one).plus(total(other));
        prop_assert_eq!((sum.count, sum.sum()), (2, total([low, high]).sum()));
        prop_assert_eq!(sum.minus(total(other)), total(one));
    }
}

/// Not random enough for secrets, but the same in every run.
fn numbers(mut state: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 16
    })
}

fn fill_of<const KEY: usize>(keys: impl Iterator<Item = [u8; KEY]>) -> f64 {
    let pages = Rc::new(Pages::open(VectorMemory::default(), 4_096));
    let mut tree: Tree<KEY, 0, _> = Tree::open(&pages, 0);
    keys.for_each(|key| assert!(tree.insert(&key, &[])));
    tree.check(&|_| ());
    (tree.len() * KEY as u64) as f64 / (f64::from(pages.used()) * 4_096.0)
}

/// A key of a group, at a date.
fn dated(group: u64, date: u64) -> [u8; 22] {
    let mut key = [0; 22];
    key[..8].copy_from_slice(&numbers(group).next().unwrap().to_be_bytes());
    key[8..16].copy_from_slice(&date.to_be_bytes());
    key
}

#[test]
fn keys_that_come_in_any_order_fill_four_fifths_of_their_pages() {
    let fill = fill_of(numbers(1).take(100_000).map(|number| dated(number, 0)));
    assert!(fill > 0.8, "{fill}");
}

#[test]
fn keys_that_come_last_first_or_first_last_fill_their_pages() {
    let last_first = fill_of((0..100_000).rev().map(|date| dated(0, date)));
    assert!(last_first > 0.98, "{last_first}");
    let first_last = fill_of((0..100_000).map(|date| dated(0, date)));
    assert!(first_last > 0.98, "{first_last}");
}

#[test]
fn keys_that_come_last_first_in_large_groups_fill_their_pages() {
    let groups = numbers(1).map(|number| number % 40);
    let keys = groups.zip((0..100_000).rev()).map(|(group, date)| dated(group, date));
    let fill = fill_of(keys);
    assert!(fill > 0.92, "{fill}");
}

#[test]
fn keys_that_come_last_first_in_groups_of_every_size_fill_three_quarters_of_their_pages() {
    // The smallest of two numbers squared: few groups with many keys, many with few.
    let group = |number: u64| (number % 1_000).min(number / 1_000 % 1_000).pow(2) / 10;
    let groups = numbers(1).map(group);
    let keys = groups.zip((0..100_000).rev()).map(|(group, date)| dated(group, date));
    let fill = fill_of(keys);
    assert!(fill > 0.75, "{fill}");
}

#[test]
fn however_keys_are_removed_a_third_of_the_pages_stays_filled() {
    let pages = Rc::new(Pages::open(VectorMemory::default(), 4_096));
    let mut tree: Tree<22, 0, _> = Tree::open(&pages, 0);
    let keys: Vec<_> = numbers(1).take(50_000).map(|number| dated(number, 0)).collect();
    keys.iter().for_each(|key| assert!(tree.insert(key, &[])));
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    // Every other key by their order, then in the order in which they came.
    let others = sorted.iter().step_by(2).chain(&keys);
    for (number, key) in others.enumerate() {
        tree.remove(key);
        let fill = (tree.len() * 22) as f64 / (f64::from(pages.used()) * 4_096.0);
        assert!(tree.len() < 2_000 || fill > 0.36, "{fill} after {number} with {}", tree.len());
    }
    assert_eq!((tree.len(), pages.used()), (0, 0));
}

#[test]
fn trees_share_pages_and_keep_apart() {
    let pages = Rc::new(Pages::open(VectorMemory::default(), SMALL));
    let mut one: Tree<4, 0, _> = Tree::open(&pages, 0);
    let mut other: Tree<5, 1, _> = Tree::open(&pages, 1);
    for number in 0..500u16 {
        let [high, low] = number.to_be_bytes();
        one.insert(&[0, 0, high, low], &[]);
        other.insert(&[1, 1, 1, high, low], &[low]);
    }
    assert_eq!(one.check(&|_| ()) + other.check(&|_| ()), pages.used());
    let used = pages.used();
    (0..500u16).for_each(|number| {
        let [high, low] = number.to_be_bytes();
        one.remove(&[0, 0, high, low]).unwrap();
    });
    let room = pages.room();
    for number in 500..1_000u16 {
        let [high, low] = number.to_be_bytes();
        other.insert(&[1, 1, 1, high, low], &[low]);
    }
    assert!(pages.room() < room && pages.used() <= used + 100, "pages given back serve others");
    assert_eq!(other.get(&[1, 1, 1, 3, 231]), Some([231]));
    pages.clear();
    assert_eq!((one.len(), other.len(), other.first(), pages.used()), (0, 0, None, 0));
    other.insert(&[1; 5], &[9]);
    assert_eq!((other.check(&|_| ()), other.get(&[1; 5])), (1, Some([9])));
}

#[test]
fn no_insert_takes_more_pages_than_foretold() {
    let pages = Rc::new(Pages::open(VectorMemory::default(), SMALL));
    let mut tree: Tree<22, 0, _> = Tree::open(&pages, 0);
    for batch in numbers(1).take(3_000).collect::<Vec<_>>().chunks(7) {
        let (used, foretold) = (pages.used(), tree.pages_needed_max(batch.len() as u64));
        batch.iter().for_each(|number| assert!(tree.insert(&dated(*number, 0), &[])));
        assert!(u64::from(pages.used() - used) <= foretold);
    }
}

/// A memory with an end.
struct Small(VectorMemory);

impl Memory for Small {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn grow(&self, pages: u64) -> i64 {
        if self.size() + pages > 2 { -1 } else { self.0.grow(pages) }
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.0.read(offset, bytes);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.write(offset, bytes);
    }
}

#[test]
fn an_insert_for_which_memory_cannot_grow_changes_nothing() {
    let memory = VectorMemory::default();
    let pages = Rc::new(Pages::open(Small(memory.clone()), SMALL));
    let mut tree: Tree<22, 0, _> = Tree::open(&pages, 0);
    let mut inserted = 0;
    let refused = numbers(1).map(|number| dated(number, 0)).find(|key| {
        let before = memory.borrow().clone();
        let insert = std::panic::AssertUnwindSafe(|| tree.insert(key, &[]));
        let is_refused = std::panic::catch_unwind(insert).is_err();
        assert!(!is_refused || *memory.borrow() == before);
        inserted += u64::from(!is_refused);
        is_refused
    });
    assert!(inserted > 2_000 && !tree.contains(&refused.unwrap()));
    assert_eq!((tree.len(), tree.check(&|_| ())), (inserted, pages.used()));
    assert!(!pages.reserve(10) && pages.reserve(pages.room()));
}

#[test]
fn the_layout_of_version_1_stays() {
    let memory = VectorMemory::default();
    let pages = Rc::new(Pages::open(memory.clone(), 64));
    let mut tree: Tree<3, 1, _> = Tree::open(&pages, 2);
    for number in (1..=16).rev() {
        tree.insert(&[7, number, 0], &[number]);
    }
    tree.remove(&[7, 16, 0]);
    let bytes = memory.borrow();
    let number = |number: u32| number.to_le_bytes();
    let header = [*b"AQP\x01", number(64), number(3), number(0), number(0)].concat();
    assert_eq!(bytes[..20], header);
    // Key 3, value 1, no summary, 2 levels; root 3, 15 entries.
    let head = [[3, 1, 0, 2], number(3), number(15), number(0)].concat();
    assert_eq!(bytes[32 + 2 * 32..][..16], head);
    let page = |number: usize| &bytes[4_096 + (number - 1) * 64..][..64];
    // The first leaf: level 0, tree 2, 14 entries, of which the last was removed.
    assert_eq!(page(1)[..4], [0, 2, 14, 0]);
    assert_eq!(page(1)[8..16], [7, 2, 0, 2, 7, 3, 0, 3]);
    assert_eq!(page(1)[60..], [7, 15, 0, 15]);
    // The key that came before all others has a page of its own, to which the first child leads.
    assert_eq!(page(2)[..4], [0, 2, 1, 0]);
    assert_eq!(page(2)[60..], [7, 1, 0, 1]);
    assert_eq!(page(3)[..4], [1, 2, 2, 0]);
    assert_eq!(page(3)[50..], [0, 0, 0, 2, 0, 0, 0, 7, 2, 0, 1, 0, 0, 0]);
}

#[test]
#[should_panic(expected = "tree 0 has entries of other lengths")]
fn keys_of_another_length_are_refused() {
    let pages = Rc::new(Pages::open(VectorMemory::default(), 4_096));
    Tree::<22, 0, _>::open(&pages, 0);
    Tree::<23, 0, _>::open(&pages, 0);
}

#[test]
#[should_panic(expected = "there is no page file of a version known here")]
fn pages_of_another_version_are_refused() {
    let memory = VectorMemory::default();
    Pages::open(memory.clone(), 4_096);
    memory.write(3, &[2]);
    Pages::open(memory, 4_096);
}

#[test]
#[should_panic(expected = "the page file has pages of another size")]
fn pages_of_another_size_are_refused() {
    let memory = VectorMemory::default();
    Pages::open(memory.clone(), 4_096);
    Pages::open(memory, 8_192);
}
