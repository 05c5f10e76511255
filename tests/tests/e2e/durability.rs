//! What was acknowledged is there: after kills in the middle of a flood, and on a disk that fails.
//!
//! These relays have no canister: what they hold, they hold on their own disk.
//! `TEST_KILLS=1000 cargo test --workspace --test e2e durability` kills more often.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use cluster::{Echo, RelayOptions, RelayProcess, Source};
use event::{Event, EventId, twin::Author};
use futures_util::{SinkExt, StreamExt, future::join_all};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::watch};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::{
    events::{Events, by_id, difference, notes},
    observed::Metrics,
    world::{Client, PATIENCE, artifacts, number, shim, tell},
};

const KILLS: usize = 200;
/// A kill comes at the latest after so many OKs.
const OKS_MAX: usize = 300;
const CLIENTS: u8 = 4;
/// Events that one client of the flood has on the way.
const WINDOW: usize = 100;
/// Ids in one question.
const IDS_MAX: usize = 2_000;

fn alone(folder: &Path, environment: Vec<(String, String)>) -> RelayOptions {
    RelayOptions {
        name: "relay".into(),
        data: folder.join("relay"),
        port: 0,
        canister: None,
        gateway: String::new(),
        poll_interval: None,
        more: vec!["--metrics-listen".into(), "127.0.0.1:0".into()],
        environment,
        echo: Echo::OnPanic,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_however_often_a_relay_is_killed() {
    let kills = number("TEST_KILLS", KILLS);
    let folder = tempfile::tempdir().unwrap();
    let mut relay =
        RelayProcess::start(&artifacts(), alone(folder.path(), Vec::new())).await.unwrap();
    let mut all = Events::new();
    for attempt in 0..kills {
        let acknowledged = kill_in_a_flood(&relay, attempt).await;
        relay.restart(&artifacts()).await.unwrap();
        assert_holds(&relay, &acknowledged).await;
        all.extend(acknowledged);
    }
    assert_holds(&relay, &all).await;
    assert!(relay.process().stop().await.unwrap().success());
    tell(&format!("{kills} kills, {} events acknowledged, 0 lost", all.len()));
}

/// Kills the relay at some moment of a flood; gives every event that it acknowledged before.
async fn kill_in_a_flood(relay: &RelayProcess, attempt: usize) -> Events {
    let (count, mut counted) = watch::channel(0);
    let sockets = join_all((0..CLIENTS).map(|_| connect_async(relay.url()))).await;
    let flood =
        join_all(sockets.into_iter().zip(0..).map(|(socket, client)| {
            publish(socket.unwrap().0, Author::new(client), attempt, &count)
        }));
    let patience = 1 + attempt * 137 % OKS_MAX;
    let killing = async {
        counted.wait_for(|count| *count >= patience).await.unwrap();
        relay.process().kill().await;
    };
    let (acknowledged, ()) = tokio::join!(flood, killing);
    by_id(acknowledged.into_iter().flatten())
}

/// One client: publishes for as long as the relay lives, and reads on until the socket is at its end,
/// so that every OK counts that left the relay.
async fn publish(
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    author: Author,
    attempt: usize,
    count: &watch::Sender<usize>,
) -> Vec<Event> {
    let (mut sink, mut stream) = socket.split();
    let mut sent = Vec::new();
    let mut acknowledged = HashSet::new();
    let mut is_alive = true;
    loop {
        while is_alive && sent.len() - acknowledged.len() < WINDOW {
            let text = format!("{attempt} {}", sent.len());
            let event = author.sign(1_700_000_000 + attempt as u64, 1, &[&["t", "x"]], &text);
            let frame = format!(r#"["EVENT",{}]"#, event.to_json());
            is_alive = sink.send(Message::text(frame)).await.is_ok();
            sent.push(event.into_inner());
        }
        let Some(Ok(message)) = stream.next().await else { break };
        let Message::Text(text) = message else { continue };
        acknowledged.insert(acknowledged_by(&text));
        count.send_modify(|count| *count += 1);
    }
    sent.retain(|event| acknowledged.contains(&event.id));
    sent
}

/// Which event this OK is for. A flood of sound events is answered with nothing else.
fn acknowledged_by(text: &str) -> EventId {
    let frame: Value = serde_json::from_str(text).unwrap();
    assert!(frame[0] == "OK" && frame[2] == true, "{frame}");
    frame[1].as_str().unwrap().parse().unwrap()
}

async fn assert_holds(relay: &RelayProcess, expected: &Events) {
    let client = Client::connect(&relay.url()).await;
    let ids: Vec<&EventId> = expected.keys().collect();
    let mut found = Events::new();
    for ids in ids.chunks(IDS_MAX) {
        found.extend(client.fetch_ids(ids.iter().copied()).await);
    }
    assert_eq!(difference(expected, &found), None, "acknowledged, and lost");
}

/// A relay on a disk that breaks when it is told to.
struct Fragile {
    relay: RelayProcess,
    fault: PathBuf,
    held: Events,
    _folder: TempDir,
}

impl Fragile {
    /// It holds some events already.
    async fn start() -> Fragile {
        let folder = tempfile::tempdir().unwrap();
        let fault = folder.path().join("fault");
        let environment = vec![
            ("LD_PRELOAD".into(), shim("broken-disk", folder.path()).display().to_string()),
            ("BROKEN_DISK".into(), fault.display().to_string()),
        ];
        let options = alone(folder.path(), environment);
        let relay = RelayProcess::start(&artifacts(), options).await.unwrap();
        let held = notes(1, 20, 600);
        Client::connect(&relay.url()).await.publish_all(&held).await;
        Fragile { relay, fault, held: by_id(held), _folder: folder }
    }

    /// From now on `call` fails with `errno`.
    fn breaks(&self, call: &str, errno: i32) {
        let next = self.fault.with_extension("next");
        fs::write(&next, format!("{call} {errno}")).unwrap();
        fs::rename(next, &self.fault).unwrap();
    }

    fn is_mended(&self) {
        fs::remove_file(&self.fault).unwrap();
    }

    async fn publish(&mut self, event: &Event) {
        Client::connect(&self.relay.url()).await.publish(event).await;
        self.held.insert(event.id, event.clone());
    }

    async fn refuses(&self, event: &Event, reason: &str) {
        let client = Client::connect(&self.relay.url()).await;
        let refusal = client.try_publish(event).await.unwrap_err();
        assert!(refusal.contains("error: ") && refusal.contains(reason), "{refusal}");
        assert_eq!(Metrics::of(&self.relay).await.value("aquifer_read_only"), 1.0);
    }

    async fn logs(&self, what: &str) {
        let is_it = |line: &str| line.contains("ERROR") && line.contains(what);
        self.relay.process().line(Source::Stderr, is_it, PATIENCE).await.unwrap();
    }

    async fn holds_everything(&self) {
        assert_holds(&self.relay, &self.held).await;
    }

    /// Kills it, starts it on a disk that works, and looks whether all is there.
    async fn survives(mut self) {
        self.relay.process().kill().await;
        let _ = fs::remove_file(&self.fault);
        self.relay.restart(&artifacts()).await.unwrap();
        self.holds_everything().await;
        let later = notes(3, 20, 600);
        Client::connect(&self.relay.url()).await.publish_all(&later).await;
        self.held.extend(by_id(later));
        self.holds_everything().await;
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_a_relay_only_reads_until_its_restart() {
    a_broken_disk_ends_writing("fdatasync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_write_a_relay_only_reads_until_its_restart() {
    a_broken_disk_ends_writing("write").await;
}

async fn a_broken_disk_ends_writing(call: &str) {
    let relay = Fragile::start().await;
    relay.breaks(call, EIO);
    let late = notes(2, 2, 600);
    relay.refuses(&late[0], "cannot write").await;
    relay.logs("read-only until a restart").await;
    relay.holds_everything().await;
    relay.is_mended();
    relay.refuses(&late[1], "cannot write").await;
    relay.holds_everything().await;
    let refused = "aquifer_commits_refused_total{reason=\"failed\"}";
    assert_eq!(Metrics::of(&relay.relay).await.value(refused), 2.0);
    relay.survives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_last_write_fails_takes_nothing_along() {
    // LMDB then ends all work on the file, reading too: only a restart helps.
    let relay = Fragile::start().await;
    relay.breaks("head", EIO);
    let late = notes(2, 2, 600);
    relay.refuses(&late[0], "cannot write").await;
    relay.logs("read-only until a restart").await;
    relay.is_mended();
    relay.refuses(&late[1], "cannot write").await;
    relay.survives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_relay_only_reads_until_there_is_room() {
    a_full_disk_is_a_pause("write", ENOSPC).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_gets_full_in_the_middle_of_a_write_is_full() {
    a_full_disk_is_a_pause("short", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_want_of_room_shows_when_it_syncs_is_full() {
    a_full_disk_is_a_pause("fdatasync", ENOSPC).await;
}

async fn a_full_disk_is_a_pause(call: &str, errno: i32) {
    let mut relay = Fragile::start().await;
    relay.breaks(call, errno);
    let late = notes(2, 10, 600);
    for event in &late {
        relay.refuses(event, "storage is full").await;
    }
    relay.logs("the store is full").await;
    relay.holds_everything().await;
    relay.is_mended();
    for event in &late {
        relay.publish(event).await;
    }
    assert_eq!(Metrics::of(&relay.relay).await.value("aquifer_read_only"), 0.0);
    relay.survives().await;
}
