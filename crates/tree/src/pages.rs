//! The page file: one stable memory, divided into pages of one size, which all trees share.
//!
//! ```text
//! header   "AQP" | version 1 | page size 4 | pages 4 | first free 4 | free 4 | unused 12
//!          then a head of 32 bytes for each of 64 trees; the header takes 4 KiB
//! head     key 1 | value 1 | summary 1 | levels 1 | root 4 | entries 8 | unused 16
//! page     written by `tree.rs`; a free one starts with the number of the next free page
//! ```
//! Numbers are little-endian; pages are numbered from 1, and 0 is none. One file rather than a memory
//! for each tree: memories grow by buckets of 16 MiB, of which every further one wastes a half on
//! average, and a page that one tree gives back serves any other.

use std::cell::{Cell, RefCell, RefMut};

use ic_stable_structures::Memory;

const MAGIC: [u8; 4] = *b"AQP\x01";
const HEADER_BYTES: u64 = 4_096;
const HEAD_BYTES: u64 = 32;
const TREES_MAX: usize = 64;
const WASM_PAGE_BYTES: u64 = 65_536;

/// The number of a page. 0 is none.
pub type PageNo = u32;

/// What the header holds of one tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The lengths of a key, a value and a summary. All zero: the tree was never opened.
    pub lengths: [u8; 3],
    /// How many pages lie on a way from the root to a leaf, both included. 0: the tree is empty.
    pub levels: u8,
    pub root: PageNo,
    pub entries: u64,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    /// Pages ever taken, free ones included: the next new one has the number after this.
    pages: PageNo,
    first_free: PageNo,
    free: PageNo,
}

pub struct Pages<M> {
    memory: M,
    page_bytes: usize,
    // Copies of the header, so that reading costs no look at it.
    counts: Cell<Counts>,
    heads: [Cell<Head>; TREES_MAX],
    buffer: RefCell<Vec<u8>>,
}

impl<M: Memory> Pages<M> {
    /// Opens the file in this memory, or begins one where it is empty. Panics if the memory holds
    /// anything else.
    pub fn open(memory: M, page_bytes: usize) -> Pages<M> {
        let pages = Pages {
            memory,
            page_bytes,
            counts: Cell::default(),
            heads: [const { Cell::new(EMPTY) }; TREES_MAX],
            buffer: RefCell::new(vec![0; page_bytes]),
        };
        if pages.memory.size() == 0 {
            assert!(pages.memory.grow(1) >= 0, "out of stable memory");
            pages.memory.write(0, &MAGIC);
            pages.memory.write(4, &(page_bytes as u32).to_le_bytes());
        }
        let mut magic = [0; 4];
        pages.memory.read(0, &mut magic);
        assert_eq!(magic, MAGIC, "there is no page file of a version known here");
        assert_eq!(pages.number(4) as usize, page_bytes, "the page file has pages of another size");
        pages.counts.set(Counts {
            pages: pages.number(8),
            first_free: pages.number(12),
            free: pages.number(16),
        });
        assert!(pages.counts.get().pages <= pages.fitting(), "the page file is cut off");
        for (tree, head) in pages.heads.iter().enumerate() {
            head.set(pages.read_head(tree));
        }
        pages
    }

    /// Empties all trees at once.
    pub fn clear(&self) {
        self.set_counts(Counts::default());
        for tree in 0..TREES_MAX {
            let lengths = self.head(tree).lengths;
            self.set_head(tree, Head { lengths, ..EMPTY });
        }
    }

    /// How many pages can be taken before the memory must grow.
    pub fn room(&self) -> u64 {
        let counts = self.counts.get();
        u64::from(counts.free) + u64::from(self.fitting().saturating_sub(counts.pages))
    }

    /// Sees to it that so many pages can be taken. False: the memory cannot grow, and nothing has
    /// changed.
    pub fn reserve(&self, pages: u64) -> bool {
        let missing = pages.saturating_sub(self.room()) * self.page_bytes as u64;
        missing == 0 || self.memory.grow(missing.div_ceil(WASM_PAGE_BYTES)) >= 0
    }

    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// A page with whatever bytes; [`Pages::reserve`] has seen to it that there is one.
    pub fn take(&self) -> PageNo {
        let mut counts = self.counts.get();
        let page = counts.first_free;
        if page == 0 {
            counts.pages += 1;
            self.set_counts(counts);
            return counts.pages;
        }
        counts.first_free = self.number(self.place(page));
        counts.free -= 1;
        self.set_counts(counts);
        page
    }

    pub fn give_back(&self, page: PageNo) {
        let mut counts = self.counts.get();
        self.memory.write(self.place(page), &counts.first_free.to_le_bytes());
        counts.first_free = page;
        counts.free += 1;
        self.set_counts(counts);
    }

    /// Reads from a page, `at` bytes after its start.
    pub fn read(&self, page: PageNo, at: usize, bytes: &mut [u8]) {
        self.memory.read(self.place(page) + at as u64, bytes);
    }

    /// Writes to a page, `at` bytes after its start.
    pub fn write(&self, page: PageNo, at: usize, bytes: &[u8]) {
        self.memory.write(self.place(page) + at as u64, bytes);
    }

    /// A page's worth of bytes to work in. To have one ready spares filling a new one with zeros.
    pub fn buffer(&self) -> RefMut<'_, Vec<u8>> {
        self.buffer.borrow_mut()
    }

    pub fn head(&self, tree: usize) -> Head {
        self.heads[tree].get()
    }

    pub fn set_head(&self, tree: usize, head: Head) {
        self.heads[tree].set(head);
        let mut bytes = [0; 16];
        bytes[..3].copy_from_slice(&head.lengths);
        bytes[3] = head.levels;
        bytes[4..8].copy_from_slice(&head.root.to_le_bytes());
        bytes[8..].copy_from_slice(&head.entries.to_le_bytes());
        self.memory.write(place_of_head(tree), &bytes);
    }

    /// Pages in use.
    #[cfg(test)]
    pub fn used(&self) -> PageNo {
        self.counts.get().pages - self.counts.get().free
    }

    fn read_head(&self, tree: usize) -> Head {
        let mut bytes = [0; 16];
        self.memory.read(place_of_head(tree), &mut bytes);
        let [key, value, summary, levels, rest @ ..] = bytes;
        let (root, entries) = rest.split_at(4);
        Head {
            lengths: [key, value, summary],
            levels,
            root: u32::from_le_bytes(root.try_into().expect("four bytes were cut")),
            entries: u64::from_le_bytes(entries.try_into().expect("eight bytes were cut")),
        }
    }

    /// How many pages there is place for, in use or not.
    fn fitting(&self) -> PageNo {
        let bytes = self.memory.size() * WASM_PAGE_BYTES - HEADER_BYTES;
        PageNo::try_from(bytes / self.page_bytes as u64).unwrap_or(PageNo::MAX)
    }

    fn place(&self, page: PageNo) -> u64 {
        assert_ne!(page, 0, "page 0 is none");
        HEADER_BYTES + u64::from(page - 1) * self.page_bytes as u64
    }

    fn set_counts(&self, counts: Counts) {
        self.counts.set(counts);
        let numbers = [counts.pages, counts.first_free, counts.free];
        self.memory.write(8, numbers.map(u32::to_le_bytes).as_flattened());
    }

    fn number(&self, place: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read(place, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

const EMPTY: Head = Head { lengths: [0; 3], levels: 0, root: 0, entries: 0 };

fn place_of_head(tree: usize) -> u64 {
    assert!(tree < TREES_MAX, "the header has no head for tree {tree}");
    32 + tree as u64 * HEAD_BYTES
}
