//! `scripts/up`: its program, driven as a person would.

use std::{
    net::TcpListener,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use cluster::{Echo, Process, Source, up::Ready};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::{
    events::{by_id, left_of, notes},
    world::{Client, PATIENCE, artifacts, eventually_same},
};

const RELAYS: u16 = 2;

/// All of them want the one port of a gateway that people know, and want it back when they start again.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The first of two ports that nobody uses.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Not those that the system gives to port 0, and other than those of another run beside us.
    let start = 20_000 + (std::process::id() % 500) as u16 * 20;
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = start + NEXT.fetch_add(RELAYS, Ordering::Relaxed);
        if (port..port + RELAYS).all(is_free) {
            return port;
        }
    }
}

fn start(data: &Path, port: u16) -> Process {
    let mut command = Command::new(artifacts().up().unwrap());
    command.args(["--relays", &RELAYS.to_string(), "--port", &port.to_string()]);
    command.arg("--data").arg(data).env("AQUIFER_POLL_INTERVAL", "0.5");
    Process::start("up", command, Echo::OnPanic).unwrap()
}

async fn ready(up: &Process) -> Ready {
    let line = up.line(Source::Stdout, |line| line.starts_with("ready "), PATIENCE).await.unwrap();
    serde_json::from_str(&line["ready ".len()..]).unwrap()
}

/// Waits for an end that nobody asked for; gives what it said on standard error.
async fn fails(up: &Process) -> String {
    let status = tokio::time::timeout(PATIENCE, up.ended()).await.expect("it ends by itself");
    assert_eq!(status.code(), Some(1), "{}", up.explain("ended"));
    assert_eq!(up.lines(Source::Stdout), [""; 0], "nothing is said to be ready");
    up.lines(Source::Stderr).join("\n")
}

#[tokio::test]
async fn up_starts_everything_stops_it_cleanly_and_goes_on_where_it_was() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let data = TempDir::new().unwrap();
    let port = free_ports();
    let event = &notes(1, 1, 600)[0];

    let up = start(data.path(), port);
    let first = ready(&up).await;
    assert_eq!(first.relays, [port, port + 1].map(|port| format!("ws://127.0.0.1:{port}")));
    let mut subscription = Client::connect(&first.relays[1]).await.subscribe().await;
    Client::connect(&first.relays[0]).await.publish(event).await;
    subscription.gets(event).await;

    let second_up = start(data.path(), free_ports());
    let refusal = fails(&second_up).await;
    assert!(refusal.contains("in use by another scripts/up"), "{refusal}");

    assert_eq!(up.stop().await.unwrap().code(), Some(0), "{}", up.explain("did not stop well"));
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "no relay is left behind");

    let up = start(data.path(), port);
    assert_eq!(ready(&up).await, first, "the same canister, relays and gateway");
    for url in &first.relays {
        let found = Client::connect(url).await.fetch_all().await;
        assert_eq!(found, by_id([event.clone()]), "{url}");
    }
    assert_eq!(up.stop().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn up_with_a_busy_port_says_which_and_starts_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let data = TempDir::new().unwrap();
    let port = free_ports();
    let _taken = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let refusal = fails(&start(data.path(), port)).await;
    assert!(refusal.contains(&(port + 1).to_string()), "{refusal}");
    assert!(refusal.contains("--port"), "{refusal}");
    assert!(!data.path().join("ic").exists(), "nothing was started");
}

#[tokio::test]
async fn a_ruined_state_is_named_with_its_cure() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let data = TempDir::new().unwrap();
    std::fs::create_dir(data.path().join("ic")).unwrap();
    // Whichever of the two servers looks at it.
    for file in ["local-ic.json", "topology.json"] {
        std::fs::write(data.path().join("ic").join(file), "ruined").unwrap();
    }
    let up = start(data.path(), free_ports());
    let status = tokio::time::timeout(PATIENCE, up.ended()).await.expect("it ends by itself");
    assert_eq!(status.code(), Some(1));
    let said = up.lines(Source::Stderr).join("\n");
    let cure = format!("opening the state in {}", data.path().display());
    assert!(said.contains(&cure) && said.contains("remove it"), "{said}");
}

/// Where a process can be found by its command line.
#[cfg(target_os = "linux")]
mod on_linux {
    use std::{fs, time::Instant};

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::*;

    /// The process of ours that works in `folder`.
    fn process_in(folder: &Path) -> Option<Pid> {
        let folder = folder.to_str().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let works_there = |id: &i32| {
            let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == folder.as_bytes())
        };
        ids.find(works_there).map(Pid::from_raw)
    }

    #[tokio::test]
    async fn up_ends_with_an_error_when_a_part_dies() {
        let _alone = ONE_AT_A_TIME.lock().await;
        let data = TempDir::new().unwrap();
        let port = free_ports();
        let up = start(data.path(), port);
        ready(&up).await;
        let relay = process_in(&data.path().join("relay-2")).expect("the second relay runs");
        kill(relay, Signal::SIGKILL).unwrap();
        let status = tokio::time::timeout(PATIENCE, up.ended()).await.expect("it ends by itself");
        assert_eq!(status.code(), Some(1));
        let said = up.lines(Source::Stderr).join("\n");
        assert!(said.contains("error: relay-2 ended"), "{said}");
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "the other relay is stopped");
    }

    #[tokio::test]
    async fn up_that_is_killed_leaves_nothing_behind_and_loses_nothing() {
        let _alone = ONE_AT_A_TIME.lock().await;
        let data = TempDir::new().unwrap();
        let port = free_ports();
        let events = notes(1, 5, 600);
        let up = start(data.path(), port);
        let first = ready(&up).await;
        Client::connect(&first.relays[0]).await.publish_all(&events).await;
        up.kill().await;
        let killed = Instant::now();
        while process_in(&data.path().join("relay-1")).is_some() || !is_free(port) {
            assert!(killed.elapsed() < PATIENCE, "a relay outlives its parent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let up = start(data.path(), port);
        assert_eq!(ready(&up).await.canister, first.canister);
        for url in &first.relays {
            let client = Client::connect(url).await;
            eventually_same(url, &left_of(&events), async || client.fetch_all().await).await;
        }
        assert_eq!(up.stop().await.unwrap().code(), Some(0));
    }

    fn is_free(port: u16) -> bool {
        TcpListener::bind(("127.0.0.1", port)).is_ok()
    }
}
