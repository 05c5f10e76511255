//! A relay program that is started for a measurement: in a folder of its own, on a free port.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{connection::Connection, process::Process};

/// How long a relay may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// `st_blocks` counts these, whatever the file system's blocks are.
const BLOCK_BYTES: u64 = 512;

/// What there is to start.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contender {
    pub name: String,
    pub version: String,
    /// Whether an OK means that the disk has the event.
    pub durable: bool,
    /// The program and its arguments, with `{folder}` and `{port}` in them.
    pub command: Vec<String>,
}

/// It, running; it is killed when this is dropped.
pub struct Running {
    pub url: String,
    pub process: Process,
    folder: TempDir,
    child: Child,
}

impl Contender {
    /// Those that a file lists.
    pub fn list(file: &Path) -> Result<Vec<Contender>> {
        let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let contenders: Vec<Contender> =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", file.display()))?;
        ensure!(!contenders.is_empty(), "nobody to compare");
        Ok(contenders)
    }

    /// Starts it with an empty folder below `parent`.
    pub async fn start(&self, parent: &Path) -> Result<Running> {
        let folder = tempfile::tempdir_in(parent).context("making a folder for the relay")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let fill = |argument: &String| {
            let folder = folder.path().display().to_string();
            argument.replace("{folder}", &folder).replace("{port}", &port.to_string())
        };
        let (program, arguments) =
            self.command.split_first().with_context(|| format!("{} has no command", self.name))?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new(fill(program))
            .args(arguments.iter().map(fill))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let process = Process(child.id().context("it has ended already")?);
        let url = format!("ws://127.0.0.1:{port}");
        let mut running = Running { url, process, folder, child };
        running.answers().await?;
        Ok(running)
    }
}

impl Running {
    /// Waits until it takes connections.
    async fn answers(&mut self) -> Result<()> {
        let started = Instant::now();
        while Connection::open(&self.url).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("it ended with {status}: {said:.500}");
            }
            ensure!(started.elapsed() < START_TIMEOUT, "it takes no connections");
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// What its folder takes on the disk.
    pub fn disk_bytes(&self) -> Result<u64> {
        bytes_below(self.folder.path())
    }
}

fn bytes_below(folder: &Path) -> Result<u64> {
    fs::read_dir(folder)?
        .map(|entry| {
            let entry = entry?;
            let is_folder = entry.file_type()?.is_dir();
            if is_folder { bytes_below(&entry.path()) } else { bytes_of(&entry.path()) }
        })
        .sum()
}

fn bytes_of(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file)?.blocks() * BLOCK_BYTES)
}
