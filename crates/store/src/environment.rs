//! The LMDB environment, and how its memory map grows.
//!
//! LMDB sees no more of its file than it has mapped, and may map anew only while no transaction is
//! open. So whoever reads holds the map in shared use for as long as its transaction lives, which is a
//! page at most; the writer takes it alone when a commit finds it full, maps twice as much, and tries
//! again. A reader waits for that for as long as other readers' pages last. Where several processes
//! share a file, one of them may make it larger than what another has mapped: that one hears of it
//! when it begins a transaction, and then maps more as well.

use std::{
    path::Path,
    sync::{RwLock, RwLockReadGuard},
};

use heed::{Env, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};
use tracing::{error, info};

use crate::databases::DATABASES;

/// Reads that can be under way at once. A slot is 64 bytes of the lock file.
const READERS_MAX: u32 = 1_024;
/// LMDB wants whole pages; this is a multiple of every page size in use.
const STEP_BYTES: usize = 1 << 16;
/// With less address space than this there is no point in opening a store.
const MAP_BYTES_MIN: usize = 16 << 20;

pub struct Environment {
    env: Env<WithoutTls>,
    /// How many bytes are mapped. Shared by all who have a read transaction open.
    map: RwLock<usize>,
    bytes_max: usize,
}

/// A read transaction, and the map that it looks at.
pub struct ReadTxn<'e> {
    // In this order: the transaction ends before the map may move.
    txn: RoTxn<'e, WithoutTls>,
    _map: RwLockReadGuard<'e, usize>,
}

impl<'e> std::ops::Deref for ReadTxn<'e> {
    type Target = RoTxn<'e, WithoutTls>;
    fn deref(&self) -> &RoTxn<'e, WithoutTls> {
        &self.txn
    }
}

/// Why the map did not grow.
pub enum CannotGrow {
    /// It is as large as the options allow.
    Limit,
    /// The process gets no more address space.
    AddressSpace,
}

impl Environment {
    /// Opens the file in `folder`, mapped as far as `map_bytes` and never further than `bytes_max`.
    pub fn open(
        folder: &Path,
        map_bytes: usize,
        bytes_max: usize,
    ) -> Result<Environment, heed::Error> {
        let bytes_max = whole_steps(bytes_max);
        let mut map_bytes = whole_steps(map_bytes).min(bytes_max);
        // The process needs some for itself.
        while map_bytes > MAP_BYTES_MIN && !has_address_space(map_bytes.saturating_mul(2)) {
            map_bytes = whole_steps(map_bytes / 2);
        }
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_bytes).max_dbs(DATABASES).max_readers(READERS_MAX);
        // SAFETY: nobody writes to the file but through LMDB, whose lock file lets several processes in:
        // the folder is locked for those, and heed refuses to open it twice in one process.
        let env = unsafe { options.open(folder) }?;
        // A process that was killed while it read would keep pages from being used again for ever.
        env.clear_stale_readers()?;
        // A file that is larger already is mapped whole.
        let map = RwLock::new(env.info().map_size);
        Ok(Environment { env, map, bytes_max })
    }

    /// A view of the last commit. No thread may ask for a second one while it has the first: if the
    /// map waits to grow in between, the second would wait for ever.
    pub fn read(&self) -> Result<ReadTxn<'_>, heed::Error> {
        loop {
            let map = self.map.read().expect("nobody panics while the map grows");
            match self.env.read_txn() {
                Ok(txn) => return Ok(ReadTxn { txn, _map: map }),
                Err(heed::Error::Mdb(MdbError::MapResized)) => {
                    let mapped = *map;
                    drop(map);
                    self.follow_growth(mapped)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A transaction of the one writer here. It waits for those of other processes.
    pub fn write(&self) -> Result<RwTxn<'_>, heed::Error> {
        loop {
            let mapped = *self.map.read().expect("nobody panics while the map grows");
            match self.env.write_txn() {
                Err(heed::Error::Mdb(MdbError::MapResized)) => self.follow_growth(mapped)?,
                result => return result,
            }
        }
    }

    /// For the one writer's transactions, for size and counters. What it tells of the last commit is
    /// read from the map, so a read transaction has to be open.
    pub fn env(&self) -> &Env<WithoutTls> {
        &self.env
    }

    /// Doubles the map, once nobody reads. The caller, who is the writer, has no transaction open.
    pub fn grow(&self) -> Result<(), CannotGrow> {
        self.enlarge(&mut self.map.write().expect("nobody panics while the map grows"))
    }

    /// Another process wrote beyond what was mapped here. That the writer here has a transaction open
    /// meanwhile cannot be: it would have had to map more before.
    fn follow_growth(&self, mapped: usize) -> Result<(), heed::Error> {
        let mut map = self.map.write().expect("nobody panics while the map grows");
        if *map != mapped {
            return Ok(());
        }
        self.enlarge(&mut map).map_err(|_| heed::Error::Mdb(MdbError::MapResized))
    }

    fn enlarge(&self, map: &mut usize) -> Result<(), CannotGrow> {
        let bytes = whole_steps(map.saturating_mul(2)).min(self.bytes_max);
        if bytes <= *map {
            return Err(CannotGrow::Limit);
        }
        // LMDB gives the old map up before it asks for the new one, and would have none at all if that
        // failed. What fits beside the old one also fits in its place.
        if !has_address_space(bytes) {
            return Err(CannotGrow::AddressSpace);
        }
        // SAFETY: no transaction is open: readers hold the lock, and the one writer has none.
        if let Err(error) = unsafe { self.env.resize(bytes) } {
            // Without a map every read would be one from a null pointer.
            error!(%error, "the store's map is lost");
            std::process::abort();
        }
        *map = bytes;
        info!(bytes, "the store's map has grown");
        Ok(())
    }
}

fn whole_steps(bytes: usize) -> usize {
    bytes.max(STEP_BYTES) / STEP_BYTES * STEP_BYTES
}

/// Whether the process could map so much more (RLIMIT_AS, the machine's address space).
fn has_address_space(bytes: usize) -> bool {
    // SAFETY: a fresh mapping that nobody looks at, given back at once.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let trial = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
        trial != libc::MAP_FAILED && libc::munmap(trial, bytes) == 0
    }
}
