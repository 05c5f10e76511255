//! The register of stable memories.
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
pub const IDS: MemoryId = MemoryId::new(4);
pub const ADDRESSES: MemoryId = MemoryId::new(5);
pub const TOMBSTONES: MemoryId = MemoryId::new(6);
pub const ADDRESS_TOMBSTONES: MemoryId = MemoryId::new(7);
pub const BY_CREATED: MemoryId = MemoryId::new(8);
pub const BY_AUTHOR: MemoryId = MemoryId::new(9);
pub const BY_KIND: MemoryId = MemoryId::new(10);
pub const BY_AUTHOR_KIND: MemoryId = MemoryId::new(11);
pub const BY_TAG: MemoryId = MemoryId::new(12);
pub const LOG_TREE: MemoryId = MemoryId::new(13);

/// All of them with the names that `status` gives them.
const ALL: [(&str, MemoryId); 14] = [
    ("config", CONFIG),
    ("members", MEMBERS),
    ("log_entries", LOG_ENTRIES),
    ("log_data", LOG_DATA),
    ("ids", IDS),
    ("addresses", ADDRESSES),
    ("tombstones", TOMBSTONES),
    ("address_tombstones", ADDRESS_TOMBSTONES),
    ("by_created", BY_CREATED),
    ("by_author", BY_AUTHOR),
    ("by_kind", BY_KIND),
    ("by_author_kind", BY_AUTHOR_KIND),
    ("by_tag", BY_TAG),
    ("log_tree", LOG_TREE),
];

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
