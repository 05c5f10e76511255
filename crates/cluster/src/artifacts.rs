//! Where the build puts what a cluster runs.
//!
//! Binaries lie beside the running program: so a test takes those of its own profile, and a target
//! folder elsewhere (`CARGO_TARGET_DIR`) works without being told. The canister lies where
//! `dfx.json` and `icp.yaml` have to find it too: always in the checkout's own target folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The files that a cluster is made of.
#[derive(Clone, Debug)]
pub struct Artifacts {
    profile: PathBuf,
    target: PathBuf,
}

impl Artifacts {
    /// Those of the build that the running program is of.
    pub fn here() -> Result<Artifacts> {
        let program = std::env::current_exe().context("where does this program lie?")?;
        Artifacts::beside(&program)
    }

    /// Those beside `program`. Tests lie one folder deeper than other programs, in `deps`.
    fn beside(program: &Path) -> Result<Artifacts> {
        let mut folders = program.ancestors().skip(1);
        let mut profile = folders.next();
        if profile.is_some_and(|folder| folder.ends_with("deps")) {
            profile = folders.next();
        }
        match (profile, folders.next()) {
            (Some(profile), Some(target)) => {
                Ok(Artifacts { profile: profile.to_owned(), target: target.to_owned() })
            }
            _ => bail!("{} does not lie in a target folder", program.display()),
        }
    }

    /// The relay.
    pub fn aquifer(&self) -> Result<PathBuf> {
        built(self.profile.join("aquifer"), "cargo build -p aquifer")
    }

    /// What `scripts/up` runs.
    pub fn up(&self) -> Result<PathBuf> {
        built(self.profile.join("aquifer-up"), "cargo build -p cluster")
    }

    /// Our own stand-in for the PocketIC server. It may be missing where the official one is used.
    pub fn local_ic(&self) -> PathBuf {
        self.profile.join("local-ic")
    }

    /// The canister, gzipped.
    pub fn wasm(&self) -> Result<Vec<u8>> {
        let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
        let path = Path::new(checkout).join("target/canister/event_store.wasm.gz");
        let path = built(path, "scripts/build-canister")?;
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Where downloaded PocketIC servers are kept.
    pub fn servers(&self) -> PathBuf {
        self.target.join("pocket-ic")
    }
}

fn built(path: PathBuf, how: &str) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is not built: run `{how}`, or scripts/up, which does", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(program: &str, profile: &str) {
        let found = Artifacts::beside(Path::new(program)).unwrap();
        assert_eq!(found.profile, Path::new(profile));
        assert_eq!(found.target, Path::new("/a/target"));
    }

    #[test]
    fn programs_and_tests_find_the_same_folder() {
        check("/a/target/debug/aquifer-up", "/a/target/debug");
        check("/a/target/debug/deps/e2e-0123", "/a/target/debug");
    }

    #[test]
    fn what_is_not_built_is_named_with_its_cure() {
        let artifacts = Artifacts::beside(Path::new("/no/such/debug/program")).unwrap();
        let error = artifacts.aquifer().unwrap_err().to_string();
        assert!(error.contains("/no/such/debug/aquifer is not built"), "{error}");
        assert!(error.contains("cargo build"), "{error}");
    }
}
