//! A relay as a child process: the real binary, started as a person would.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use candid::Principal;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{Artifacts, Echo, Process, Source};

const START_MAX: Duration = Duration::from_secs(30);

/// How a relay is started.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    pub name: String,
    pub data: PathBuf,
    /// 0 takes a free one.
    pub port: u16,
    /// The shared store; without one the relay keeps its events to itself.
    pub canister: Option<Principal>,
    pub gateway: String,
    /// The relay's own default if absent.
    pub poll_interval: Option<Duration>,
    /// Further words of its command line.
    pub more: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
    pub echo: Echo,
}

/// The URL under which relays share a canister of a local network.
pub fn canister_url(canister: Principal, gateway: &str) -> String {
    format!("ic://{canister}?gateway={gateway}&fetch_root_key=true")
}

impl RelayOptions {
    fn command(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command.arg("run").arg("--data").arg(&self.data);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        if let Some(canister) = self.canister {
            command.args(["--layer2", &canister_url(canister, &self.gateway)]);
        }
        if let Some(interval) = self.poll_interval {
            command.args(["--poll-interval", &interval.as_secs_f64().to_string()]);
        }
        command.args(&self.more);
        command.envs(self.environment.iter().cloned());
        command
    }
}

/// What a relay says of itself once it can be reached.
#[derive(Clone, Debug, Deserialize)]
pub struct Listening {
    pub address: String,
    /// Where Prometheus is answered, if anywhere.
    pub metrics: Option<String>,
    pub public_key: String,
    pub principal: Option<Principal>,
}

/// The two faces of a relay's one key.
#[derive(Clone, Debug, Deserialize)]
pub struct RelayIdentity {
    pub public_key: String,
    pub principal: Principal,
}

/// The identity of the relay whose data lies in `data`; its key is made if there is none.
pub fn identity(artifacts: &Artifacts, data: &std::path::Path) -> Result<RelayIdentity> {
    let mut command = Command::new(artifacts.aquifer()?);
    let output = command.arg("key").arg("--data").arg(data).arg("--json").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "aquifer key: {}: {}", output.status, said.trim());
    serde_json::from_slice(&output.stdout).context("what `aquifer key --json` said")
}

/// A relay that runs.
#[derive(Debug)]
pub struct RelayProcess {
    options: RelayOptions,
    process: Process,
    listening: Listening,
}

impl RelayProcess {
    /// Starts a relay and waits until it listens.
    pub async fn start(artifacts: &Artifacts, options: RelayOptions) -> Result<RelayProcess> {
        let command = options.command(artifacts.aquifer()?);
        let process = Process::start(&options.name, command, options.echo)?;
        let line = process.line(Source::Stdout, |line| line.starts_with("listening "), START_MAX);
        let listening: Listening = json_after("listening ", &line.await?)?;
        Ok(RelayProcess { options, process, listening })
    }

    /// Starts it again after its end: same data, same port.
    pub async fn restart(&mut self, artifacts: &Artifacts) -> Result<()> {
        self.process.kill().await;
        self.options.port = self.port()?;
        *self = RelayProcess::start(artifacts, self.options.clone()).await?;
        Ok(())
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.listening.address)
    }

    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    pub fn options(&self) -> &RelayOptions {
        &self.options
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    fn port(&self) -> Result<u16> {
        let port = self.listening.address.rsplit(':').next().and_then(|port| port.parse().ok());
        port.with_context(|| format!("{} has no port", self.listening.address))
    }
}

/// Reads what follows `word` on a line of ours.
fn json_after<T: DeserializeOwned>(word: &str, line: &str) -> Result<T> {
    let json = line.strip_prefix(word).unwrap_or(line);
    serde_json::from_str(json).with_context(|| format!("not what was agreed on: {line}"))
}
