//! What is done with the files of a store that nobody has open: making them smaller, and taking them
//! away. Both take the folder as opening does, so they never meet a relay that runs.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::Path,
};

use heed::CompactionOption;

use crate::{
    environment::Environment,
    store::{OpenError, lock},
};

/// LMDB's file, by LMDB's own name for it.
const DATA_FILE: &str = "data.mdb";
const READERS_FILE: &str = "lock.mdb";
/// The copy, until it is whole.
const COPY_FILE: &str = "data.mdb.compact";

/// How large the file of a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Whether there is a store in `folder`.
pub fn is_store(folder: &Path) -> bool {
    folder.join(DATA_FILE).is_file()
}

/// Writes the store anew without the pages that are free, and puts it in place of the old one. It
/// needs as much room as the result; whatever interrupts it leaves the store as it was.
pub fn compact(folder: &Path) -> Result<Compacted, OpenError> {
    let failed = |cause: heed::Error| OpenError::Failed { folder: folder.into(), cause };
    let lock = lock(folder)?;
    let (file, copy) = (folder.join(DATA_FILE), folder.join(COPY_FILE));
    let compact = || {
        let bytes_before = fs::metadata(&file)?.len();
        // The map covers the file, however little is asked for.
        let environment = Environment::open(folder, 0, usize::MAX)?;
        let copied = environment.env().copy_to_path(&copy, CompactionOption::Enabled)?;
        copied.sync_all()?;
        let closed = environment.env().clone().prepare_for_closing();
        drop(environment);
        closed.wait();
        let bytes_after = copied.metadata()?.len();
        fs::rename(&copy, &file)?;
        File::open(folder)?.sync_all()?;
        Ok(Compacted { bytes_before, bytes_after })
    };
    let compacted = compact().map_err(failed);
    if compacted.is_err() {
        // Whatever stands in the way of this stood in the way of the copy.
        let _ = fs::remove_file(&copy);
    }
    drop(lock);
    compacted
}

/// Takes the store away, with all that is in it.
pub fn destroy(folder: &Path) -> Result<(), OpenError> {
    let failed =
        |cause: io::Error| OpenError::Failed { folder: folder.into(), cause: cause.into() };
    let lock = lock(folder)?;
    for name in [DATA_FILE, READERS_FILE, COPY_FILE] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    drop(lock);
    Ok(())
}
