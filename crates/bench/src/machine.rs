//! What the machine gives whatever relay runs on it: the two figures that all others are held against.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use corpus::Corpus;
use secp256k1::{XOnlyPublicKey, schnorr};
use serde::Serialize;

use crate::{
    latency::{Latencies, Summary},
    process::Process,
};

/// What an event of 600 bytes makes a store write: a few pages.
const WRITE_BYTES: usize = 16 * 1024;
const WRITES: usize = 2_000;

/// How long the disk takes to sync a small write: no durable OK comes sooner
#[derive(Args)]
pub struct Fsync {
    /// A folder on the disk that the relay uses
    folder: PathBuf,

    /// Writes, one after the other
    #[arg(long, default_value_t = WRITES)]
    writes: usize,
}

/// How many signatures libsecp256k1 checks alone: no relay takes more new events
#[derive(Args)]
pub struct Verify {
    /// Seconds for each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    pub cores: usize,
    /// In processor time, so that whatever else runs on the machine does not count.
    pub per_cpu_second: f64,
    /// In time as it passes, on all cores.
    pub per_second: f64,
}

impl Fsync {
    pub fn of(folder: &Path) -> Fsync {
        Fsync { folder: folder.to_owned(), writes: WRITES }
    }

    pub fn run(&self) -> Result<Summary> {
        let name = self.folder.display();
        let mut file =
            tempfile::tempfile_in(&self.folder).with_context(|| format!("writing to {name}"))?;
        // Written once beforehand: a store that has grown writes to blocks that exist.
        let bytes = vec![7; WRITE_BYTES];
        file.write_all(&bytes)?;
        file.sync_all()?;
        let mut took = Latencies::new();
        for _ in 0..self.writes {
            let started = Instant::now();
            write_at_start(&mut file, &bytes)?;
            file.sync_data()?;
            took.record(started.elapsed());
        }
        Ok(took.summary())
    }
}

fn write_at_start(file: &mut File, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    Ok(file.write_all_at(bytes, 0)?)
}

impl Verify {
    pub fn lasting(seconds: f64) -> Verify {
        Verify { seconds }
    }

    pub fn run(&self) -> Result<Verified> {
        let cores = thread::available_parallelism()?.get();
        let claims = claims()?;
        let this = Process(process::id());
        let before = this.usage()?;
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        let checked = check_until(&claims, cores, end);
        let per_second = checked as f64 / self.seconds;
        let per_cpu_second = this.cost(before, checked as u64)?.events_per_cpu_second;
        Ok(Verified { cores, per_cpu_second, per_second })
    }
}

/// That an author signed an id.
struct Claim {
    id: [u8; 32],
    pubkey: XOnlyPublicKey,
    signature: schnorr::Signature,
}

fn claims() -> Result<Vec<Claim>> {
    let claim = |event: event::Event| {
        Ok(Claim {
            id: event.id.0,
            pubkey: XOnlyPublicKey::from_byte_array(event.pubkey.0)?,
            signature: schnorr::Signature::from_byte_array(event.sig.0),
        })
    };
    Corpus::new(1, 200).events(500).map(claim).collect()
}

fn check_until(claims: &[Claim], threads: usize, end: Instant) -> usize {
    thread::scope(|scope| {
        let checking: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| check_until_on_one(claims, end))).collect();
        checking.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    })
}

fn check_until_on_one(claims: &[Claim], end: Instant) -> usize {
    let mut checked = 0;
    while Instant::now() < end {
        let claim = &claims[checked % claims.len()];
        schnorr::verify(&claim.signature, &claim.id, &claim.pubkey).expect("the corpus is signed");
        checked += 1;
    }
    checked
}
