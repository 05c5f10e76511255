//! Ordered sets of small keys of one length, with small values or none, in stable memory.
//!
//! ```text
//! page    level 1 | tree 1 | entries 2 | ... | entry, entry, entry        packed against the end
//! entry   leaf, level 0: key | value      above: key | child 4 | summary        ascending by key
//! ```
//! A B+-tree. A store pays for every byte of every key for ever, so a page holds keys and nothing
//! else: no pointers, no lengths, no keys of siblings. A key of 22 bytes takes 27 here, where it takes
//! 45 to 70 in `StableBTreeMap`; with a million events, to put it in takes 16 k instructions instead of
//! 70 k, and to find the start of a walk 10 k instead of 52 k.
//!
//! Why entries are packed against the page's end: an insert moves those before it, and most of our
//! keys are the newest, hence the first, of their group. A full page shares with a neighbour, if that
//! has room for an eighth of a page; else it is split, and `Tree::cut_before_group` says where.
//!
//! In a page above the leaves the first key is no bound: whatever is below the second key lies under
//! the first child. The others are bounds: child `i` has the keys from key `i` to below key `i + 1`.
//!
//! Two pages next to each other under one parent are merged when a removal leaves one of them half
//! empty and both together fill at most three quarters of a page; an empty page goes at once. There is
//! no journal: a message that traps is undone by the Internet Computer, as a whole.

mod pages;
mod summary;
#[cfg(test)]
mod tests;

use std::{marker::PhantomData, ops::RangeInclusive, rc::Rc};

use ic_stable_structures::Memory;

pub use pages::{PageNo, Pages};
pub use summary::{Summary, Totals};

/// Of a page: level, tree, number of entries.
const PAGE_HEAD_BYTES: usize = 4;
const CHILD_BYTES: usize = 4;
/// When so few bytes of a page are left to search, they are read at once: a read costs about 230
/// instructions and one for each byte.
const WINDOW_BYTES: usize = 256;
/// What a walk reads at once; at first a window's bytes, because many walks end early.
const AHEAD_BYTES_MAX: usize = 2_048;

/// One tree of a page file. `KEY` and `VALUE` are lengths in bytes, and `S` is what the tree knows of
/// all entries below a page, or `()`.
pub struct Tree<const KEY: usize, const VALUE: usize, M, S = ()> {
    pages: Rc<Pages<M>>,
    number: usize,
    summary: PhantomData<S>,
}

/// A page, as far as its head tells.
#[derive(Clone, Copy)]
struct Node {
    page: PageNo,
    level: u8,
    count: usize,
}

/// A page on the way down to a key.
struct Step {
    node: Node,
    /// The child that the way leads to. In a leaf, where the key is or belongs.
    at: usize,
}

/// What a search in a page found and read.
struct Window {
    /// The first entry that was read.
    first: usize,
    /// The first entry beyond the key.
    at: usize,
}

const ENTRY_BYTES_MAX: usize = 96;

impl<const KEY: usize, const VALUE: usize, M: Memory, S: Summary> Tree<KEY, VALUE, M, S> {
    const LENGTHS: [u8; 3] = [KEY as u8, VALUE as u8, S::BYTES as u8];
    const LEAF_ENTRY: usize = KEY + VALUE;
    const INNER_ENTRY: usize = KEY + CHILD_BYTES + S::BYTES;

    /// Tree `number` of a page file; it is begun if it never was opened. Panics if it has keys, values
    /// or summaries of other lengths.
    pub fn open(pages: &Rc<Pages<M>>, number: usize) -> Self {
        const { assert!(Self::LEAF_ENTRY <= ENTRY_BYTES_MAX && Self::INNER_ENTRY <= ENTRY_BYTES_MAX) };
        let tree = Tree { pages: pages.clone(), number, summary: PhantomData };
        assert!(tree.capacity(0) >= 4 && tree.capacity(1) >= 4, "pages are too small for a tree");
        let mut head = pages.head(number);
        if head.lengths == [0; 3] {
            head.lengths = Self::LENGTHS;
            pages.set_head(number, head);
        }
        assert_eq!(head.lengths, Self::LENGTHS, "tree {number} has entries of other lengths");
        if head.levels > 0 {
            tree.node(head.root, head.levels - 1);
        }
        tree
    }

    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.pages.head(self.number).entries
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn contains(&self, key: &[u8; KEY]) -> bool {
        self.get(key).is_some()
    }

    pub fn get(&self, key: &[u8; KEY]) -> Option<[u8; VALUE]> {
        let (found, value) = self.walk(*key..=*key).next()?;
        (found == *key).then_some(value)
    }

    pub fn first(&self) -> Option<[u8; KEY]> {
        self.walk([0; KEY]..=[0xff; KEY]).next().map(|(key, _)| key)
    }

    /// The entries with keys in `range`, ascending. Opening a walk reads one page of each level;
    /// nothing more is read before it is asked for.
    pub fn walk(&self, range: RangeInclusive<[u8; KEY]>) -> Walk<'_, KEY, VALUE, M, S> {
        let (first, last) = range.into_inner();
        let mut walk = Walk {
            tree: self,
            last,
            leaf: Node { page: 0, level: 0, count: 0 },
            unread: 0,
            fence: Some(first),
            buffer: Vec::new(),
            at: 0,
        };
        walk.descend();
        walk
    }

    /// At most so many pages are taken by `inserts` inserts one after another.
    pub fn pages_needed_max(&self, inserts: u64) -> u64 {
        inserts * (u64::from(self.pages.head(self.number).levels) + 1)
    }

    fn capacity(&self, level: u8) -> usize {
        (self.pages.page_bytes() - PAGE_HEAD_BYTES) / Self::entry_bytes(level)
    }

    const fn entry_bytes(level: u8) -> usize {
        if level == 0 { Self::LEAF_ENTRY } else { Self::INNER_ENTRY }
    }

    /// Where an entry starts in its page. The end of the last one is the end of the page.
    fn place(&self, node: &Node, at: usize) -> usize {
        self.pages.page_bytes() - (node.count - at) * Self::entry_bytes(node.level)
    }

    fn node(&self, page: PageNo, level: u8) -> Node {
        let mut head = [0; PAGE_HEAD_BYTES];
        self.pages.read(page, 0, &mut head);
        let [found, tree, count @ ..] = head;
        assert_eq!(
            (found, usize::from(tree)),
            (level, self.number),
            "page {page} is not the tree's"
        );
        Node { page, level, count: usize::from(u16::from_le_bytes(count)) }
    }

    fn write_head(&self, node: &Node) {
        let [low, high] = (node.count as u16).to_le_bytes();
        self.pages.write(node.page, 0, &[node.level, self.number as u8, low, high]);
    }

    fn key(&self, node: &Node, at: usize) -> [u8; KEY] {
        let mut key = [0; KEY];
        self.pages.read(node.page, self.place(node, at), &mut key);
        key
    }

    fn child(&self, node: &Node, at: usize) -> Node {
        let mut child = [0; CHILD_BYTES];
        self.pages.read(node.page, self.place(node, at) + KEY, &mut child);
        self.node(PageNo::from_le_bytes(child), node.level - 1)
    }

    fn set_key(&self, node: &Node, at: usize, key: &[u8; KEY]) {
        self.pages.write(node.page, self.place(node, at), key);
    }

    fn summary(&self, node: &Node, at: usize) -> S {
        let mut bytes = [0; ENTRY_BYTES_MAX];
        let bytes = &mut bytes[..S::BYTES];
        if S::BYTES > 0 {
            self.pages.read(node.page, self.place(node, at) + KEY + CHILD_BYTES, bytes);
        }
        S::read(bytes)
    }

    fn set_summary(&self, node: &Node, at: usize, summary: S) {
        if S::BYTES > 0 {
            let mut bytes = [0; ENTRY_BYTES_MAX];
            summary.write(&mut bytes[..S::BYTES]);
            let place = self.place(node, at) + KEY + CHILD_BYTES;
            self.pages.write(node.page, place, &bytes[..S::BYTES]);
        }
    }

    /// Finds the first entry that is `beyond` a key, and reads the entries around it, at least it and
    /// the one before. First halves the page by single keys, then reads the rest at once.
    fn window(
        &self,
        node: &Node,
        beyond: impl Fn(&[u8; KEY]) -> bool,
        bytes: &mut Vec<u8>,
    ) -> Window {
        let entry = Self::entry_bytes(node.level);
        // Above the leaves the first key is no bound.
        let (mut low, mut high) = (usize::from(node.level > 0), node.count);
        while (high - low) * entry > WINDOW_BYTES {
            let middle = low.midpoint(high);
            if beyond(&self.key(node, middle)) { high = middle } else { low = middle + 1 }
        }
        let first = low.saturating_sub(1);
        bytes.resize(((high + 1).min(node.count) - first) * entry, 0);
        self.pages.read(node.page, self.place(node, first), bytes);
        while low < high {
            let middle = low.midpoint(high);
            if beyond(key_of(&bytes[(middle - first) * entry..])) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Window { first, at: low }
    }

    /// The child under which a key belongs, and the key with which the next child begins.
    fn choose(
        &self,
        node: &Node,
        key: &[u8; KEY],
        bytes: &mut Vec<u8>,
    ) -> (usize, Node, Option<[u8; KEY]>) {
        let Window { first, at } = self.window(node, |it| before(key, it), bytes);
        let mut entries = bytes.chunks_exact(Self::INNER_ENTRY).skip(at - 1 - first);
        let chosen = entries.next().expect("the window has the entry before");
        let child = chosen[KEY..][..CHILD_BYTES].try_into().expect("four bytes were cut");
        let fence = entries.next().map(|it| *key_of(it));
        (at - 1, self.node(PageNo::from_le_bytes(child), node.level - 1), fence)
    }

    /// The way to a key, from the root to its leaf, and whether it is there. An empty tree has no way.
    fn path_to(&self, key: &[u8; KEY]) -> (Vec<Step>, bool) {
        let head = self.pages.head(self.number);
        let mut path = Vec::with_capacity(usize::from(head.levels));
        if head.levels == 0 {
            return (path, false);
        }
        let mut bytes = Vec::with_capacity(2 * WINDOW_BYTES);
        let mut node = self.node(head.root, head.levels - 1);
        while node.level > 0 {
            let (at, child, _) = self.choose(&node, key, &mut bytes);
            path.push(Step { node, at });
            node = child;
        }
        let Window { first, at } = self.window(&node, |it| !before(it, key), &mut bytes);
        path.push(Step { node, at });
        let found = bytes.chunks_exact(Self::LEAF_ENTRY).nth(at - first);
        (path, found.is_some_and(|it| key_of(it) == key))
    }
}

/// Changing a tree. `of` gives an entry's own summary by its key.
impl<const KEY: usize, const VALUE: usize, M: Memory, S: Summary> Tree<KEY, VALUE, M, S> {
    /// Puts an entry in, or gives another value to the key. True: the key is new. Panics before it has
    /// changed anything if a page is needed and the memory cannot grow.
    pub fn insert_with(
        &mut self,
        key: &[u8; KEY],
        value: &[u8; VALUE],
        of: impl Fn(&[u8; KEY]) -> S,
    ) -> bool {
        let (path, is_held) = self.path_to(key);
        let leaf = path.last();
        if let (Some(Step { node, at }), true) = (leaf, is_held) {
            if VALUE > 0 {
                self.pages.write(node.page, self.place(node, *at) + KEY, value);
            }
            return false;
        }
        if leaf.is_none_or(|leaf| leaf.node.count == self.capacity(0)) {
            assert!(self.pages.reserve(self.pages_needed_max(1)), "out of stable memory");
        }
        let own = of(key);
        self.change_summaries(&path, |summary| summary.plus(own));
        let mut entry = [0; ENTRY_BYTES_MAX];
        entry[..KEY].copy_from_slice(key);
        entry[KEY..KEY + VALUE].copy_from_slice(value);
        self.put(path, entry, &of);
        let head = self.pages.head(self.number);
        self.pages.set_head(self.number, pages::Head { entries: head.entries + 1, ..head });
        true
    }

    /// Takes an entry out. `None`: there was none.
    pub fn remove_with(
        &mut self,
        key: &[u8; KEY],
        of: impl Fn(&[u8; KEY]) -> S,
    ) -> Option<[u8; VALUE]> {
        let (path, is_held) = self.path_to(key);
        let leaf = path.last().filter(|_| is_held)?;
        let mut value = [0; VALUE];
        self.pages.read(leaf.node.page, self.place(&leaf.node, leaf.at) + KEY, &mut value);
        let own = of(key);
        self.change_summaries(&path, |summary| summary.minus(own));
        self.take(path);
        let head = self.pages.head(self.number);
        self.pages.set_head(self.number, pages::Head { entries: head.entries - 1, ..head });
        Some(value)
    }

    fn change_summaries(&self, path: &[Step], change: impl Fn(S) -> S) {
        if S::BYTES > 0 {
            for Step { node, at } in path.iter().filter(|step| step.node.level > 0) {
                self.set_summary(node, *at, change(self.summary(node, *at)));
            }
        }
    }

    fn set_root(&self, root: PageNo, levels: u8) {
        let head = self.pages.head(self.number);
        self.pages.set_head(self.number, pages::Head { root, levels, ..head });
    }

    /// Puts an entry into the last page of a path, where the path leads. What is full shares with a
    /// neighbour or is split.
    fn put(
        &self,
        mut path: Vec<Step>,
        mut entry: [u8; ENTRY_BYTES_MAX],
        of: &impl Fn(&[u8; KEY]) -> S,
    ) {
        let Some(mut step) = path.pop() else {
            let mut leaf = Node { page: self.pages.take(), level: 0, count: 0 };
            self.put_entry(&mut leaf, 0, &entry);
            return self.set_root(leaf.page, 1);
        };
        while step.node.count == self.capacity(step.node.level) {
            let mut bytes = self.entries(&step.node);
            let size = Self::entry_bytes(step.node.level);
            let place = step.at * size;
            bytes.splice(place..place, entry[..size].iter().copied());
            if path.last().is_some_and(|parent| self.share(parent, &step, &bytes, of)) {
                return;
            }
            let cut = Self::cut_before_group(&bytes, &step).unwrap_or(step.node.count.div_ceil(2));
            let left = Node { page: self.pages.take(), ..step.node };
            let (left, right, border) = self.part(left, step.node, &bytes, cut);
            let Some(parent) = path.pop() else {
                return self.put_root(&left, &right, &border, of);
            };
            // The parent's entry becomes that of the right part, and the left part's is the next to
            // be put, in its place.
            let below_left = self.summary_below(&left, of);
            let below = self.summary(&parent.node, parent.at);
            self.set_summary(&parent.node, parent.at, below.minus(below_left));
            // A first key is no bound; and a border below it must stand behind it.
            let key = if parent.at == 0 { [0; KEY] } else { self.key(&parent.node, parent.at) };
            self.set_key(&parent.node, parent.at, &border);
            entry = Self::entry_to(&left, &key, below_left);
            step = parent;
        }
        self.put_entry(&mut step.node, step.at, &entry);
    }

    fn put_root(
        &self,
        left: &Node,
        right: &Node,
        border: &[u8; KEY],
        of: &impl Fn(&[u8; KEY]) -> S,
    ) {
        let mut root = Node { page: self.pages.take(), level: left.level + 1, count: 0 };
        let right = Self::entry_to(right, border, self.summary_below(right, of));
        let left = Self::entry_to(left, &[0; KEY], self.summary_below(left, of));
        self.put_entry(&mut root, 0, &right);
        self.put_entry(&mut root, 0, &left);
        self.set_root(root.page, root.level + 1);
    }

    /// Divides the entries of a leaf, in `bytes` with one too many, between it and a neighbour under the
    /// same parent. False: none has room worth the work, an eighth of a page.
    fn share(
        &self,
        parent: &Step,
        full: &Step,
        bytes: &[u8],
        of: &impl Fn(&[u8; KEY]) -> S,
    ) -> bool {
        if full.node.level > 0 {
            return false;
        }
        let capacity = self.capacity(0);
        let has_room = |node: &Node| node.count <= capacity * 7 / 8;
        let before_group = Self::cut_before_group(bytes, full);
        let left_at = parent.at.checked_sub(1);
        let left = left_at.map(|at| self.child(&parent.node, at)).filter(has_room);
        if let (Some(left_at), Some(left)) = (left_at, left) {
            let all = left.count + full.node.count + 1;
            let cut = before_group.map_or(all / 2, |cut| left.count + cut);
            if cut <= capacity {
                let bytes = [&self.entries(&left), bytes].concat();
                self.divide(&parent.node, left_at, [left, full.node], &bytes, cut, of);
                return true;
            }
        }
        if before_group.is_some() || parent.at + 1 == parent.node.count {
            return false;
        }
        let right = self.child(&parent.node, parent.at + 1);
        if has_room(&right) {
            let cut = (full.node.count + 1 + right.count) / 2;
            let bytes = [bytes, &self.entries(&right)].concat();
            self.divide(&parent.node, parent.at, [full.node, right], &bytes, cut, of);
            return true;
        }
        false
    }

    /// Divides entries anew between two leaves, of which the left one is the parent's child `at`.
    fn divide(
        &self,
        parent: &Node,
        at: usize,
        [left, right]: [Node; 2],
        bytes: &[u8],
        cut: usize,
        of: &impl Fn(&[u8; KEY]) -> S,
    ) {
        let below = self.summary(parent, at).plus(self.summary(parent, at + 1));
        let (left, _, border) = self.part(left, right, bytes, cut);
        let below_left = self.summary_below(&left, of);
        self.set_summary(parent, at, below_left);
        self.set_summary(parent, at + 1, below.minus(below_left));
        self.set_key(parent, at + 1, &border);
    }

    /// Writes entries to two pages, the first `cut` to the left one. Returns both, and the key with
    /// which the right one begins.
    fn part(
        &self,
        mut left: Node,
        mut right: Node,
        bytes: &[u8],
        cut: usize,
    ) -> (Node, Node, [u8; KEY]) {
        let size = Self::entry_bytes(left.level);
        let (bytes_left, bytes_right) = bytes.split_at(cut * size);
        for (node, bytes) in [(&mut left, bytes_left), (&mut right, bytes_right)] {
            node.count = bytes.len() / size;
            assert!((1..=self.capacity(node.level)).contains(&node.count), "a page is misdivided");
            self.pages.write(node.page, self.place(node, 0), bytes);
            self.write_head(node);
        }
        let border = match left.level {
            0 => border(key_of(&bytes_left[bytes_left.len() - size..]), key_of(bytes_right)),
            _ => *key_of(bytes_right),
        };
        (left, right, border)
    }

    /// Where to cut the entries of a full page, in `bytes` with the new one where `full` leads, if
    /// halving is wrong. `None`: halving is right, because keys come in any order.
    ///
    /// The keys of one author, kind or tag come newest first, always before all others of their group.
    /// Halves to the right of that place would stay halves for ever. So a key before all others is cut
    /// off, likewise one behind all others; and a large group that gets a new first key is parted from
    /// the group before it, so that from then on its new keys are the first of its page.
    fn cut_before_group(bytes: &[u8], full: &Step) -> Option<usize> {
        let Step { node: Node { level, count, .. }, at } = *full;
        let size = Self::entry_bytes(level);
        let key = |at: usize| key_of::<KEY>(&bytes[at * size..]);
        if at == 0 || at == count {
            return Some(at.max(1));
        }
        let within = at + count * 3 / 4;
        let is_front = level == 0
            && within <= count
            && common(key(at), key(within)) > common(key(at), key(at - 1));
        is_front.then_some(at)
    }

    /// Takes the entry out to which a path leads, and merges or gives back pages that have become empty
    /// enough.
    fn take(&self, mut path: Vec<Step>) {
        while let Some(Step { mut node, at }) = path.pop() {
            self.take_entry(&mut node, at);
            let Some(parent) = path.last_mut() else { return self.lower_root(node) };
            if node.count == 0 {
                self.pages.give_back(node.page);
            } else if let Some((left, right)) = self.neighbours_to_merge(parent, &node) {
                self.merge(parent, &left, &right);
            } else {
                return;
            }
        }
    }

    /// A root with one child makes room for that.
    fn lower_root(&self, mut root: Node) {
        while root.count == 0 || (root.count == 1 && root.level > 0) {
            self.pages.give_back(root.page);
            if root.count == 0 {
                return self.set_root(0, 0);
            }
            root = self.child(&root, 0);
            self.set_root(root.page, root.level + 1);
        }
    }

    /// A page that is half empty, and one beside it, if both together do not nearly fill one. The path
    /// leads to the left one then.
    fn neighbours_to_merge(&self, parent: &mut Step, node: &Node) -> Option<(Node, Node)> {
        let capacity = self.capacity(node.level);
        if node.count > capacity / 2 {
            return None;
        }
        let fits = |other: &Node| other.count + node.count <= capacity * 7 / 8;
        if parent.at + 1 < parent.node.count {
            let right = self.child(&parent.node, parent.at + 1);
            if fits(&right) {
                return Some((*node, right));
            }
        }
        let left = self.child(&parent.node, parent.at.checked_sub(1)?);
        fits(&left).then(|| {
            parent.at -= 1;
            (left, *node)
        })
    }

    /// Moves all entries of `left`, to which `parent` leads, to `right`, which is the next.
    fn merge(&self, parent: &Step, left: &Node, right: &Node) {
        let Step { node, at } = parent;
        if right.level > 0 {
            // What was no bound becomes one.
            self.set_key(right, 0, &self.key(node, at + 1));
        }
        let bytes = self.entries(left);
        self.pages.write(right.page, self.place(right, 0) - bytes.len(), &bytes);
        self.write_head(&Node { count: left.count + right.count, ..*right });
        let below = self.summary(node, *at).plus(self.summary(node, at + 1));
        self.set_summary(node, at + 1, below);
        self.set_key(node, at + 1, &self.key(node, *at));
        self.pages.give_back(left.page);
    }

    fn entry_to(child: &Node, key: &[u8; KEY], below: S) -> [u8; ENTRY_BYTES_MAX] {
        let mut entry = [0; ENTRY_BYTES_MAX];
        entry[..KEY].copy_from_slice(key);
        entry[KEY..][..CHILD_BYTES].copy_from_slice(&child.page.to_le_bytes());
        below.write(&mut entry[KEY + CHILD_BYTES..][..S::BYTES]);
        entry
    }

    /// All entries of a page.
    fn entries(&self, node: &Node) -> Vec<u8> {
        let mut bytes = vec![0; node.count * Self::entry_bytes(node.level)];
        self.pages.read(node.page, self.place(node, 0), &mut bytes);
        bytes
    }

    /// What is known of all entries in and below a page.
    fn summary_below(&self, node: &Node, of: &impl Fn(&[u8; KEY]) -> S) -> S {
        if S::BYTES == 0 {
            return S::default();
        }
        self.summary_of(&self.entries(node), node.level, of)
    }

    fn summary_of(&self, entries: &[u8], level: u8, of: &impl Fn(&[u8; KEY]) -> S) -> S {
        let summaries = entries.chunks_exact(Self::entry_bytes(level)).map(|entry| match level {
            0 => of(key_of(entry)),
            _ => S::read(&entry[KEY + CHILD_BYTES..]),
        });
        summaries.fold(S::default(), S::plus)
    }

    fn put_entry(&self, node: &mut Node, at: usize, entry: &[u8; ENTRY_BYTES_MAX]) {
        let size = Self::entry_bytes(node.level);
        let start = self.place(node, 0);
        let mut buffer = self.pages.buffer();
        let before = at * size;
        if before > 0 {
            self.pages.read(node.page, start, &mut buffer[..before]);
        }
        buffer[before..before + size].copy_from_slice(&entry[..size]);
        self.pages.write(node.page, start - size, &buffer[..before + size]);
        node.count += 1;
        self.write_head(node);
    }

    fn take_entry(&self, node: &mut Node, at: usize) {
        let size = Self::entry_bytes(node.level);
        let start = self.place(node, 0);
        let mut buffer = self.pages.buffer();
        let before = &mut buffer[..at * size];
        if at > 0 {
            self.pages.read(node.page, start, before);
            self.pages.write(node.page, start + size, before);
        }
        node.count -= 1;
        self.write_head(node);
    }
}

/// A tree without summaries.
impl<const KEY: usize, const VALUE: usize, M: Memory> Tree<KEY, VALUE, M> {
    /// [`Tree::insert_with`].
    pub fn insert(&mut self, key: &[u8; KEY], value: &[u8; VALUE]) -> bool {
        self.insert_with(key, value, |_| ())
    }

    /// [`Tree::remove_with`].
    pub fn remove(&mut self, key: &[u8; KEY]) -> Option<[u8; VALUE]> {
        self.remove_with(key, |_| ())
    }
}

/// A walk along a tree's entries. Between two leaves it goes down from the root again.
pub struct Walk<'a, const KEY: usize, const VALUE: usize, M, S> {
    tree: &'a Tree<KEY, VALUE, M, S>,
    last: [u8; KEY],
    leaf: Node,
    /// The first entry of the leaf that is not yet in the buffer.
    unread: usize,
    /// Where to go on when the leaf is at its end.
    fence: Option<[u8; KEY]>,
    buffer: Vec<u8>,
    /// Where the next entry starts in the buffer.
    at: usize,
}

impl<const KEY: usize, const VALUE: usize, M: Memory, S: Summary> Walk<'_, KEY, VALUE, M, S> {
    /// Goes down to the key at the fence, or to where it would be.
    fn descend(&mut self) {
        let head = self.tree.pages.head(self.tree.number);
        let Some(key) = self.fence.take().filter(|_| head.levels > 0) else { return };
        let mut node = self.tree.node(head.root, head.levels - 1);
        while node.level > 0 {
            let (_, child, fence) = self.tree.choose(&node, &key, &mut self.buffer);
            node = child;
            self.fence = fence.or(self.fence);
        }
        let Window { first, at } =
            self.tree.window(&node, |it| !before(it, &key), &mut self.buffer);
        let entry = KEY + VALUE;
        self.at = (at - first) * entry;
        self.unread = first + self.buffer.len() / entry;
        self.leaf = node;
    }

    /// Reads more of the leaf, or of the next one. False: there is nothing more in the range.
    fn read_on(&mut self) -> bool {
        while self.unread == self.leaf.count {
            if self.fence.is_none_or(|fence| fence > self.last) {
                return false;
            }
            self.descend();
            if self.at < self.buffer.len() {
                return true;
            }
        }
        let entry = KEY + VALUE;
        let ahead = (2 * self.buffer.len()).min(AHEAD_BYTES_MAX).div_ceil(entry);
        let ahead = ahead.min(self.leaf.count - self.unread);
        self.buffer.resize(ahead * entry, 0);
        let place = self.tree.place(&self.leaf, self.unread);
        self.tree.pages.read(self.leaf.page, place, &mut self.buffer);
        self.unread += ahead;
        self.at = 0;
        true
    }
}

impl<const KEY: usize, const VALUE: usize, M: Memory, S: Summary> Iterator
    for Walk<'_, KEY, VALUE, M, S>
{
    type Item = ([u8; KEY], [u8; VALUE]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.buffer.len() && !self.read_on() {
            return None;
        }
        let entry = &self.buffer[self.at..];
        let key = *key_of(entry);
        if key > self.last {
            return None;
        }
        let value = entry[KEY..][..VALUE].try_into().expect("a value was cut");
        self.at += KEY + VALUE;
        Some((key, value))
    }
}

fn key_of<const KEY: usize>(entry: &[u8]) -> &[u8; KEY] {
    entry.first_chunk().expect("an entry begins with its key")
}

/// Whether one key comes before another. Wasm has no instruction that compares memory; eight bytes at a
/// time make a seek cheaper by a twelfth.
fn before<const KEY: usize>(one: &[u8; KEY], other: &[u8; KEY]) -> bool {
    let (ones, one_rest) = one.as_chunks::<8>();
    let (others, other_rest) = other.as_chunks::<8>();
    for (one, other) in ones.iter().zip(others) {
        let (one, other) = (u64::from_be_bytes(*one), u64::from_be_bytes(*other));
        if one != other {
            return one < other;
        }
    }
    one_rest < other_rest
}

/// How many bytes two keys have in common at their start.
fn common<const KEY: usize>(one: &[u8; KEY], other: &[u8; KEY]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// The shortest key that parts two others, filled up with zeros. A group of keys so gets a page whose
/// range begins where the group does, not at its first key.
fn border<const KEY: usize>(left: &[u8; KEY], right: &[u8; KEY]) -> [u8; KEY] {
    let mut border = [0; KEY];
    let length = common(left, right) + 1;
    border[..length].copy_from_slice(&right[..length]);
    border
}
