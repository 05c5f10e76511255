//! The register of stable memories, and of the trees in one of them.
//!
//! A number once deployed belongs to its structure for ever; retire it, never reuse it: two
//! structures in one memory destroy each other.
//!
//! ```text
//! config        Candid `Config`                            a cell         config.rs
//! members       principal     → version 1 | role | ...     a map          members.rs
//! log_entries   a header, entries of 16 bytes                             log.rs
//! log_data      bodies                                                    log.rs
//! trees         a page file                                               crate `tree`
//! log_tree      a header, nodes of 32 bytes                               proof.rs
//! layout        version 4                                  a cell         state.rs
//! directory     principal     → Candid `RelayEntry`        a map          directory.rs
//! ```
//! And the trees, whose numbers are big-endian:
//! ```text
//! ids                  id 8 | seq 5          →
//! addresses            address digest 16     → seq 5       of the version held
//! tombstones           (id, author) 16       →
//! address_tombstones   address digest 16     → date 5      no version up to it may come
//! by_...               index key             →             crate `index`
//! expiries             date 8 | seq 5        →
//! vanished             public key 32         → date 5      nothing of theirs up to it may come
//! vanishing            public key 32         → date 5      and it is still to be taken out
//! ```

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
pub const LAYOUT: MemoryId = MemoryId::new(14);
pub const DIRECTORY: MemoryId = MemoryId::new(15);

/// All of them with the names that `status` gives them.
const ALL: [(&str, MemoryId); 8] = [
    ("config", CONFIG),
    ("members", MEMBERS),
    ("log_entries", LOG_ENTRIES),
    ("log_data", LOG_DATA),
    ("trees", TREES),
    ("log_tree", LOG_TREE),
    ("layout", LAYOUT),
    ("directory", DIRECTORY),
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
pub const EXPIRIES: usize = 9;
pub const VANISHED: usize = 10;
pub const VANISHING: usize = 11;

/// Of a tree: what the Internet Computer counts as one page when it is first written to. Tests take
/// small ones, and divide many.
pub const PAGE_BYTES: usize = if cfg!(target_family = "wasm") { 4_096 } else { 256 };

/// Pages of 64 KiB in a bucket, the step in which memories grow. It is fixed by the first install.
/// There are at most 32,768 buckets: 16 MiB each reach all of the 500 GiB that a canister can have,
/// where the usual 8 MiB end at 256 GiB. What is paid for it is half a bucket for each memory on
/// average, about 0.1 GiB or half a dollar a year. Tests take the smallest, and cross many borders.
const BUCKET_PAGES: u16 = if cfg!(target_family = "wasm") { 256 } else { 1 };

/// What one message may come to need, in whole buckets: each memory may be at the end of its last one,
/// and a message that is full of tags adds 24 MiB to their index. It is asked of the subnet in advance,
/// so that a message finds it or is told that there is none; asked for half way, it would be a trap.
const ROOM_BUCKETS: u64 = if cfg!(target_family = "wasm") { ALL.len() as u64 + 2 } else { 100 };

const WASM_PAGE_BYTES: u64 = 65_536;

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

    /// Bytes that [`Memories::make_room`] would ask for.
    pub fn missing_room(&self) -> u64 {
        let bucket = u64::from(BUCKET_PAGES);
        // The manager's own page, and the buckets that it gave away.
        let used = ALL.iter().map(|(_, id)| self.get(*id).size().next_multiple_of(bucket));
        let wanted = 1 + used.sum::<u64>() + ROOM_BUCKETS * bucket;
        wanted.saturating_sub(self.whole.size()) * WASM_PAGE_BYTES
    }

    /// Sees to it that one message finds the memory it may need. False: there is no more of it.
    #[must_use]
    pub fn make_room(&self) -> bool {
        match self.missing_room() / WASM_PAGE_BYTES {
            0 => true,
            pages => self.whole.grow(pages) >= 0,
        }
    }

    /// What is paid for, in bytes.
    pub fn bytes(&self) -> u64 {
        self.whole.size() * WASM_PAGE_BYTES
    }

    /// Pages in use, by name.
    pub fn pages(&self) -> Vec<(String, u64)> {
        ALL.iter().map(|(name, id)| ((*name).to_owned(), self.get(*id).size())).collect()
    }
}
