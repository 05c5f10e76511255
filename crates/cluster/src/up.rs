//! What `scripts/up` does: starts everything, stays, and stops everything in the right order.
//!
//! The order matters on the way out: relays first, so that they have somewhere to push to until
//! they end; then the instance, whose state is saved when it is deleted; then the server.
//!
//! The data folder holds `cluster.json` (what must be the same next time), `ic/` (the instance's
//! state), `relay-1/`, `relay-2/`, … (each relay's key and events) and `lock`.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use candid::Principal;
use clap::Parser;
use futures_util::future::{join_all, select_all};
use interface::Role;
use serde::{Deserialize, Serialize};

use crate::{
    Artifacts, Echo, Ic, Placement, RelayOptions, RelayProcess, Server, identity, process,
    server::{Chooser, Kind},
};

/// Where `dfx` looks for a local network, so that `dfx canister call` finds ours without being told.
const GATEWAY_PORT: u16 = 4943;

/// Starts a local Internet Computer with the event store on it, and relays that share it.
///
/// When all is up, it prints one line `ready {"gateway":…,"canister":…,"relays":[…]}` on standard
/// output; what the parts log goes to standard error. It stays until ctrl-c or SIGTERM, and then
/// stops all parts cleanly. Started again with the same data folder it goes on with the same
/// canister, relays and events.
#[derive(Clone, Debug, Parser)]
#[command(name = "scripts/up", version)]
pub struct Options {
    /// How many relays
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=8))]
    relays: u16,

    /// Port of the first relay; the others follow it
    #[arg(long, default_value_t = 7777, value_parser = clap::value_parser!(u16).range(1..=65528))]
    port: u16,

    /// Folder for everything that must be there next time; made if missing
    #[arg(long, value_name = "FOLDER", default_value = ".aquifer")]
    data: PathBuf,

    /// Only say which PocketIC server would be used (and download it, if that is the one)
    #[arg(long)]
    which_server: bool,
}

/// The line that says that all is up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    pub gateway: String,
    pub canister: Principal,
    pub relays: Vec<String>,
}

/// What must be the same the next time.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Memory {
    server: Kind,
    canister: Principal,
    gateway_port: u16,
}

/// Runs until `stop` ends or a part does. All parts are stopped when it returns.
pub async fn run(options: &Options, stop: impl Future<Output = ()>) -> Result<()> {
    let artifacts = Artifacts::here()?;
    if options.which_server {
        println!("{}", Chooser::new(&artifacts).choose().await?);
        return Ok(());
    }
    fs::create_dir_all(&options.data)
        .with_context(|| format!("making the folder {}", options.data.display()))?;
    let _lock = lock(&options.data)?;
    let mut parts = Parts::default();
    let outcome = tokio::select! {
        end = parts.run(&artifacts, options) => end,
        () = stop => Ok(()),
    };
    let stopped = parts.stop().await;
    outcome.and(stopped)
}

/// Tells what `scripts/up` itself does, among what the parts log.
pub fn say(line: &str) {
    process::say("up", line);
}

/// Held for as long as we run: two clusters on one data folder would ruin it.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is just being started holds a copy until it is.
        let _ = self.0.unlock();
    }
}

/// Takes the data folder, unless somebody has it.
fn lock(data: &Path) -> Result<Lock> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is in use by another scripts/up", data.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

/// What runs so far: a stop may come in the middle of a start.
#[derive(Default)]
struct Parts {
    server: Option<Server>,
    ic: Option<Ic>,
    relays: Vec<RelayProcess>,
}

impl Parts {
    /// Starts all parts, says so, and ends when one of them does.
    async fn run(&mut self, artifacts: &Artifacts, options: &Options) -> Result<()> {
        let ports = options.port..options.port + options.relays;
        for port in ports.clone() {
            ensure_free(port)?;
        }
        let wasm = artifacts.wasm()?;
        let remembered = Memory::read(&options.data)?;
        let kind = remembered.as_ref().map(|memory| memory.server);
        let choice = Chooser::new(artifacts).prefer(kind).choose().await?;
        say(&choice.to_string());
        ensure!(
            kind.is_none_or(|kind| kind == choice.kind),
            "the data in {} was made with another PocketIC server: choose another --data, \
             or leave POCKET_IC_BIN unset",
            options.data.display()
        );
        self.start_ic(options, choice, remembered, wasm).await?;
        for (number, port) in (1..).zip(ports) {
            self.start_relay(artifacts, &options.data, number, port).await?;
        }
        let ready = serde_json::to_string(&self.ready()?)?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "ready {ready}").and_then(|()| stdout.flush()).context("saying ready")?;
        Err(self.first_end().await)
    }

    async fn start_ic(
        &mut self,
        options: &Options,
        choice: crate::server::Choice,
        remembered: Option<Memory>,
        wasm: Vec<u8>,
    ) -> Result<()> {
        let server_kind = choice.kind;
        let server = self.server.insert(Server::start(choice, Echo::Prefixed).await?);
        let placement = Placement {
            state: Some(options.data.join("ic")),
            gateway_port: gateway_port(remembered.as_ref()),
        };
        let ic = Ic::open(server, &placement).await.with_context(|| {
            format!(
                "opening the state in {}; if it cannot be mended, remove it to start afresh",
                options.data.display()
            )
        })?;
        let ic = self.ic.insert(ic);
        if server_kind == Kind::LocalIc {
            say(&format!("what runs on the Internet Computer: {}/", ic.gateway()));
        }
        match remembered {
            Some(memory) => ic.adopt(memory.canister, wasm).await.with_context(|| {
                format!(
                    "going on with canister {}; if its data is lost, remove {} to start afresh",
                    memory.canister,
                    options.data.display()
                )
            })?,
            None => drop(ic.install(wasm).await?),
        }
        let memory = Memory {
            server: server_kind,
            canister: ic.canister(),
            gateway_port: ic.gateway_port(),
        };
        memory.write(&options.data)
    }

    async fn start_relay(
        &mut self,
        artifacts: &Artifacts,
        data: &Path,
        number: usize,
        port: u16,
    ) -> Result<()> {
        let name = format!("relay-{number}");
        let data = data.join(&name);
        let ic = self.ic.as_ref().context("the relays are started after the canister")?;
        let relay = identity(artifacts, &data)?.principal;
        ic.grant(relay, Role::Relay, &name).await?;
        let options = RelayOptions {
            name,
            data,
            port,
            canister: Some(ic.canister()),
            gateway: ic.gateway(),
            poll_interval: None,
            more: Vec::new(),
            environment: Vec::new(),
            echo: Echo::Prefixed,
        };
        self.relays.push(RelayProcess::start(artifacts, options).await?);
        Ok(())
    }

    fn ready(&self) -> Result<Ready> {
        let ic = self.ic.as_ref().context("it was started")?;
        Ok(Ready {
            gateway: ic.gateway(),
            canister: ic.canister(),
            relays: self.relays.iter().map(RelayProcess::url).collect(),
        })
    }

    /// Waits for the part that ends first, although none should.
    async fn first_end(&self) -> anyhow::Error {
        let relays = self.relays.iter().map(|relay| {
            Box::pin(async {
                let status = relay.process().ended().await;
                relay.process().explain(&format!("ended with {status}"))
            })
        });
        let server = async {
            match &self.server {
                Some(server) => server.keep_alive().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (error, _, _) = select_all(relays) => error,
            error = server => error,
        }
    }

    /// Stops what runs. Goes on after a part that does not stop well, and reports the first.
    async fn stop(self) -> Result<()> {
        let stopped = join_all(self.relays.iter().map(|relay| relay.process().stop())).await;
        let relays = stopped.into_iter().collect::<Result<Vec<_>>>().map(drop);
        let ic = match self.ic {
            Some(ic) => ic.close().await,
            None => Ok(()),
        };
        let server = match self.server {
            Some(server) => server.stop().await,
            None => Ok(()),
        };
        relays.and(ic).and(server)
    }
}

fn ensure_free(port: u16) -> Result<()> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(error) => bail!("a relay's port {port} cannot be had ({error}): choose another --port"),
    }
}

/// The port of last time, or dfx's, if it is free.
fn gateway_port(remembered: Option<&Memory>) -> Option<u16> {
    let wished = remembered.map_or(GATEWAY_PORT, |memory| memory.gateway_port);
    ensure_free(wished).is_ok().then_some(wished)
}

impl Memory {
    fn read(data: &Path) -> Result<Option<Memory>> {
        let path = data.join("cluster.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("reading {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn write(&self, data: &Path) -> Result<()> {
        let path = data.join("cluster.json");
        let aside = data.join("cluster.json.new");
        fs::write(&aside, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&aside, &path))
            .with_context(|| format!("writing {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(line.split(' '))
    }

    #[test]
    fn two_relays_from_7777_are_the_default() {
        let options = options("up").unwrap();
        assert_eq!((options.relays, options.port), (2, 7777));
        assert_eq!(options.data, Path::new(".aquifer"));
    }

    #[test]
    fn one_to_eight_relays_can_be_had() {
        for (relays, is_possible) in [(0, false), (1, true), (8, true), (9, false)] {
            assert_eq!(options(&format!("up --relays {relays}")).is_ok(), is_possible, "{relays}");
        }
    }

    #[test]
    fn the_last_relay_has_a_port_too() {
        assert!(options("up --port 65528 --relays 8").is_ok());
        assert!(options("up --port 65529 --relays 1").is_err());
        assert!(options("up --port 0").is_err());
    }

    #[test]
    fn a_busy_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = ensure_free(port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port"), "{error}");
    }

    #[test]
    fn a_data_folder_has_one_user() {
        let data = tempfile::tempdir().unwrap();
        let first = lock(data.path()).unwrap();
        let error = lock(data.path()).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        drop(first);
        lock(data.path()).unwrap();
    }

    #[test]
    fn memory_is_what_was_written() {
        let data = tempfile::tempdir().unwrap();
        assert!(Memory::read(data.path()).unwrap().is_none());
        let canister = Principal::self_authenticating(b"some canister");
        let memory = Memory { server: Kind::LocalIc, canister, gateway_port: 4943 };
        memory.write(data.path()).unwrap();
        let read = Memory::read(data.path()).unwrap().unwrap();
        assert_eq!(
            (read.server, read.canister, read.gateway_port),
            (Kind::LocalIc, canister, 4943)
        );
    }
}
