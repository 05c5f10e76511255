//! What the store takes of the disk, and how much of that are stubs.

use heed::{Database, RoTxn, WithoutTls};

use crate::databases::Databases;

/// Pages in use, in bytes. The file may be larger: pages that are free are used again, not given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of it.
    pub bytes: u64,
    /// What ids and index keys take of it.
    pub index_bytes: u64,
    /// What the stubs take of it, without their keys.
    pub stub_bytes: u64,
    /// Events held, stubs among them.
    pub events: u64,
    /// Events of which only a stub is held.
    pub stubs: u64,
}

impl Usage {
    pub(crate) fn read(
        databases: &Databases<'static>,
        txn: &RoTxn<'_, WithoutTls>,
    ) -> Result<Usage, heed::Error> {
        let Databases { events, kept, stubs, served, arrivals, ids, addresses, .. } = databases;
        let Databases { tombstones, address_tombstones, vanished, expiries, .. } = databases;
        let Databases { outbox, aside, quiet, covered, numbers, texts, log, .. } = databases;
        let mut index_bytes = pages(ids, txn)? + pages(addresses, txn)? + pages(expiries, txn)?;
        for index in databases.indexes() {
            index_bytes += pages(index, txn)?;
        }
        let stub_bytes = pages(stubs, txn)?;
        let bodies = pages(events, txn)? + pages(kept, txn)?;
        let requests =
            pages(tombstones, txn)? + pages(address_tombstones, txn)? + pages(vanished, txn)?;
        let rows = pages(outbox, txn)? + pages(aside, txn)? + pages(numbers, txn)?;
        let notes = pages(served, txn)?
            + pages(arrivals, txn)?
            + pages(quiet, txn)?
            + pages(covered, txn)?
            + pages(texts, txn)?;
        let log = pages(log, txn)?;
        Ok(Usage {
            bytes: bodies + stub_bytes + index_bytes + requests + rows + notes + log,
            index_bytes,
            stub_bytes,
            events: ids.len(txn)?,
            stubs: stubs.len(txn)?,
        })
    }

    /// What ids and index keys take for one event, on average.
    pub(crate) fn index_bytes_each(&self) -> u64 {
        self.index_bytes.checked_div(self.events).unwrap_or(0)
    }

    /// What is spent on events whose bodies are elsewhere, their index keys included.
    pub fn of_stubs(&self) -> u64 {
        (self.stub_bytes + self.stubs * self.index_bytes_each()).min(self.bytes)
    }

    /// Everything else.
    pub fn of_bodies(&self) -> u64 {
        self.bytes - self.of_stubs()
    }
}

fn pages<K, V>(
    tree: &Database<'static, K, V>,
    txn: &RoTxn<'_, WithoutTls>,
) -> Result<u64, heed::Error> {
    Ok(tree.stat(txn)?.non_free_page_size() as u64)
}
