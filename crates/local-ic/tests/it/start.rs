//! `local-ic start`: one Internet Computer for people, that outlives being killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use candid::Principal;
use ic_agent::Agent;
use ic_agent::identity::AnonymousIdentity;
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};
use pocket_ic::common::rest::Topology;

use crate::support::*;

/// A running `local-ic start`. Dropping it kills it.
struct Started {
    child: Child,
    said: Vec<String>,
    runtime: tokio::runtime::Runtime,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(state: Option<&Path>) -> Command {
    let mut command = Command::new(binary());
    command.args(["start", "--port", "0"]);
    if let Some(state) = state {
        command.arg("--state").arg(state);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(state: Option<&Path>) -> Started {
    let mut child = command(state).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map(Result::unwrap).take_while(|line| !line.starts_with("Ctrl-C")).collect();
    Started { child, said, runtime: tokio::runtime::Runtime::new().unwrap() }
}

impl Started {
    /// What it said about itself: `gateway`, `root key`, …
    #[track_caller]
    fn said(&self, what: &str) -> &str {
        let found = self.said.iter().find_map(|line| line.strip_prefix(what));
        found.unwrap_or_else(|| panic!("no {what} in {:?}", self.said)).trim()
    }

    fn agent(&self) -> Agent {
        let builder = Agent::builder().with_url(self.said("gateway"));
        let agent = builder.with_identity(AnonymousIdentity).build().unwrap();
        agent.set_root_key(hex::decode(self.said("root key")).unwrap());
        agent
    }

    fn update(
        &self,
        canister: Principal,
        effective: Principal,
        method: &str,
        arg: Vec<u8>,
    ) -> Vec<u8> {
        self.runtime.block_on(update_as(&self.agent(), canister, effective, method, arg))
    }

    fn install(&self) -> Principal {
        let management = Principal::management_canister();
        let topology = send("GET", &format!("{}/_/topology", self.said("gateway")), &[]).body;
        let topology: Topology = serde_json::from_slice(&topology).unwrap();
        let somewhere = topology.default_effective_canister_id.into();
        let arg = ProvisionalCreateCanisterWithCyclesArgs::default();
        let arg = candid::encode_one(arg).unwrap();
        let method = "provisional_create_canister_with_cycles";
        let created = self.update(management, somewhere, method, arg);
        let CanisterIdRecord { canister_id } = candid::decode_one(&created).unwrap();
        let install = InstallCodeArgs {
            mode: CanisterInstallMode::Install,
            canister_id,
            wasm_module: canister_wasm(),
            arg: vec![],
            sender_canister_version: None,
        };
        self.update(management, canister_id, "install_code", candid::encode_one(install).unwrap());
        canister_id
    }

    fn inc(&self, canister: Principal) -> Counters {
        counters(&self.update(canister, canister, "inc", vec![]))
    }

    fn read(&self, canister: Principal) -> Counters {
        let agent = self.agent();
        let query = agent.query(&canister, "read").with_arg(vec![]);
        counters(&self.runtime.block_on(query.call()).unwrap())
    }

    fn interrupt(&mut self) -> Option<i32> {
        // SAFETY: a plain system call; the child is ours and has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        self.child.wait().unwrap().code()
    }
}

#[test]
fn start_tells_where_it_is_and_agents_find_it_there() {
    let mut started = start(None);
    let canister = started.install();
    assert_eq!(started.inc(canister), [1, 1, 1]);
    let page = send("GET", started.said("dashboard"), &[]);
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains(&canister.to_text()) && page.contains("update inc<"), "{page}");
    assert_eq!(started.interrupt(), Some(0));
}

#[test]
fn ctrl_c_saves() {
    let dir = tempfile::tempdir().unwrap();
    let mut started = start(Some(dir.path()));
    let root_key = started.said("root key").to_owned();
    let canister = started.install();
    started.inc(canister);
    assert_eq!(started.interrupt(), Some(0));
    let again = start(Some(dir.path()));
    assert_eq!(again.read(canister), [1, 1, 1]);
    assert_eq!(again.said("root key"), root_key);
}

#[test]
fn a_killed_one_loses_no_more_than_the_last_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut started = start(Some(dir.path()));
    let canister = started.install();
    started.inc(canister);
    // Saved by itself: each checkpoint has another name.
    let pointer = dir.path().join("local-ic.json");
    let checkpoint = || std::fs::read_to_string(&pointer).ok();
    let first = wait_for(checkpoint);
    started.inc(canister);
    wait_for(|| checkpoint().filter(|now| *now != first));
    started.child.kill().unwrap();
    started.child.wait().unwrap();
    let again = start(Some(dir.path()));
    let [heap, ..] = again.read(canister);
    assert!((1..=2).contains(&heap), "{heap}");
    assert_eq!(again.inc(canister), [heap + 1; 3], "it goes on");
}

#[test]
fn a_state_directory_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let _started = start(Some(dir.path()));
    let second = command(Some(dir.path())).output().unwrap();
    assert!(!second.status.success());
    let why = String::from_utf8(second.stderr).unwrap();
    assert!(why.contains("in use by another instance"), "{why}");
}

#[test]
fn a_busy_port_is_named() {
    let started = start(None);
    let port = started.said("gateway").rsplit_once(':').unwrap().1.to_owned();
    let second = Command::new(binary()).args(["start", "--port", &port]).output().unwrap();
    assert!(!second.status.success());
    let why = String::from_utf8(second.stderr).unwrap();
    assert!(why.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{why}");
}
