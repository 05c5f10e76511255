//! Compiled modules on disk, so that a test run need not compile what the last one did.
//!
//! The cache holds machine code, so it lives in a directory of the user's own with no access for
//! others. wasmtime refuses a file made by another version or with other settings; then the
//! module is compiled and the file replaced.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, Module};

/// Older modules than these many are deleted when a new one is stored.
const FILES_MAX: usize = 64;

pub struct DiskCache {
    dir: Option<PathBuf>,
}

impl DiskCache {
    pub fn new(dir: Option<PathBuf>) -> DiskCache {
        let dir = dir.filter(|dir| is_private(dir));
        DiskCache { dir }
    }

    pub fn load(&self, engine: &Engine, wasm: &[u8]) -> Option<Module> {
        let path = self.path(wasm)?;
        if !path.exists() {
            return None;
        }
        // SAFETY: only this user can write there, and only `store` does, by renaming whole files.
        unsafe { Module::deserialize_file(engine, &path) }.ok()
    }

    /// Failing to store only costs the next process some time.
    pub fn store(&self, wasm: &[u8], module: &Module) {
        let (Some(path), Ok(code)) = (self.path(wasm), module.serialize()) else {
            return;
        };
        let part = path.with_extension(format!("{}.part", std::process::id()));
        if fs::write(&part, code).is_ok() && fs::rename(&part, &path).is_ok() {
            tracing::debug!(path = %path.display(), "compiled module cached");
        }
        self.forget_old();
    }

    fn path(&self, wasm: &[u8]) -> Option<PathBuf> {
        let name = format!("{}.cwasm", hex::encode(Sha256::digest(wasm)));
        Some(self.dir.as_ref()?.join(name))
    }

    fn forget_old(&self) {
        let Some(Ok(entries)) = self.dir.as_ref().map(fs::read_dir) else {
            return;
        };
        let mut files: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        let surplus = files.len().saturating_sub(FILES_MAX);
        for (_, path) in &files[..surplus] {
            fs::remove_file(path).ok();
        }
    }
}

/// Creates the directory if need be; false if it is not ours alone.
fn is_private(dir: &Path) -> bool {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    if made.is_err() {
        return false;
    }
    // SAFETY: a plain system call without arguments.
    let me = unsafe { libc::geteuid() };
    fs::metadata(dir).is_ok_and(|meta| meta.uid() == me && meta.mode() & 0o022 == 0)
}
