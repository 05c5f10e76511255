//! The register of stable memories, and of the trees in one of them.
//!
//! A number once deployed belongs to its structure for ever; retire it, never reuse it: two
//! structures in one memory destroy each other.

use ic_stable_structures::{
    DefaultMemoryImpl, Memory as _,
    memory_manager::{MemoryId, MemoryManager, VirtualMemory},
};

pub type Memory = VirtualMemory<DefaultMemoryImpl>;

pub const CONFIG: MemoryId = MemoryId::new(0);
pub const MEMBERS: MemoryId = MemoryId::new(1);
pub const LOG_ENTRIES: MemoryId = MemoryId::new(2);
pub const LOG_DATA: MemoryId = MemoryId::new(3);
/// Numbers 5 to 12 were in use before the first release.
pub const TREES: MemoryId = MemoryId::new(4);
pub const LOG_TREE: MemoryId = MemoryId::new(13);

/// All of them with the names that `status` gives them.
const ALL: [(&str, MemoryId); 6] = [
    ("config", CONFIG),
    ("members", MEMBERS),
    ("log_entries", LOG_ENTRIES),
    ("log_data", LOG_DATA),
    ("trees", TREES),
    ("log_tree", LOG_TREE),
];

// The trees in the memory of that name; their numbers are for ever too.
pub const IDS: usize = 0;
pub const ADDRESSES: usize = 1;
pub const TOMBSTONES: usize = 2;
pub const ADDRESS_TOMBSTONES: usize = 3;
pub const BY_CREATED: usize = 4;
pub const BY_AUTHOR: usize = 5;
pub const BY_KIND: usize = 6;
pub const BY_AUTHOR_KIND: usize = 7;
pub const BY_TAG: usize = 8;

/// Of a tree: what the Internet Computer counts as one page when it is first written to. Tests take
/// small ones, and divide many.
pub const PAGE_BYTES: usize = if cfg!(target_family = "wasm") { 4_096 } else { 256 };

/// Pages of 64 KiB in a bucket, the step in which memories grow. It is fixed by the first install.
/// There are at most 32,768 buckets: 16 MiB each reach all of the 500 GiB that a canister can have,
/// where the usual 8 MiB end at 256 GiB. What is paid for it is half a bucket for each memory on
/// average, about 0.1 GiB or half a dollar a year. Tests take the smallest, and cross many borders.
const BUCKET_PAGES: u16 = if cfg!(target_family = "wasm") { 256 } else { 1 };

/// The stable memory, divided.
pub struct Memories {
    whole: DefaultMemoryImpl,
    manager: MemoryManager<DefaultMemoryImpl>,
}

impl Memories {
    pub fn open(whole: DefaultMemoryImpl) -> Memories {
        let manager = MemoryManager::init_with_bucket_size(whole.clone(), BUCKET_PAGES);
        Memories { whole, manager }
    }

    pub fn get(&self, id: MemoryId) -> Memory {
        self.manager.get(id)
    }

    /// What is paid for, in bytes.
    pub fn bytes(&self) -> u64 {
        self.whole.size() * 65_536
    }

    /// Pages in use, by name.
    pub fn pages(&self) -> Vec<(String, u64)> {
        ALL.iter().map(|(name, id)| ((*name).to_owned(), self.get(*id).size())).collect()
    }
}
