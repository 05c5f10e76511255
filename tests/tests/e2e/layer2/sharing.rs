//! Relays of the real binary that share an L2 which is no canister.

use std::path::Path;

use super::database;
use crate::{
    events::{Events, by_id, left_of, notes, real_events_and_a_life},
    world::{Relay, aquifer, eventually_has, eventually_same},
};

async fn two_relays(folder: &Path, layer2: &str) -> (Relay, Relay) {
    let start = async |name: &str| Relay::sharing(&folder.join(name), layer2).await;
    (start("a").await, start("b").await)
}

/// What the L2 holds, as `aquifer l2 export` tells.
async fn exported(folder: &Path, layer2: &str) -> Events {
    let data = folder.join("operator").display().to_string();
    let words = ["l2", "export", "--layer2", layer2, "--data", &data];
    let output = aquifer(words.into_iter(), Vec::new()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    by_id(lines.map(|line| event::Event::from_json(line).unwrap()))
}

/// What two relays that share this tell of it.
async fn check_shared(folder: &Path, layer2: &str) {
    let (a, b) = two_relays(folder, layer2).await;
    let events = real_events_and_a_life();
    a.import(&events).await;
    let mut expected = left_of(&events);
    for relay in [&a, &b] {
        eventually_same(relay.name(), &expected, async || relay.export().await).await;
    }
    let mut subscription = a.client().await.subscribe().await;
    let news = notes(3, 1, 600);
    b.client().await.publish(&news[0]).await;
    subscription.gets(&news[0]).await;
    expected.extend(by_id(news));
    assert_eq!(exported(folder, layer2).await, expected, "the relays run meanwhile");
    for relay in [a, b] {
        relay.stop().await;
    }
    let late = Relay::sharing(&folder.join("late"), layer2).await;
    eventually_same("a new relay", &expected, async || late.export().await).await;
    late.stop().await;
}

/// A relay is killed while it floods the L2; the other one goes on, and misses nothing.
async fn check_kills(folder: &Path, layer2: &str) {
    let (mut a, b) = two_relays(folder, layer2).await;
    let mut acknowledged = Events::new();
    for round in 0..3 {
        let events = notes(10 + round, 400, 600);
        acknowledged.extend(a.client().await.publish_until(&events, 200).await);
        a.crash_and_restart().await;
        let own = notes(20 + round, 20, 600);
        b.client().await.publish_all(&own).await;
        acknowledged.extend(by_id(own));
    }
    for relay in [&a, &b] {
        eventually_has(relay.name(), &acknowledged, async || relay.export().await).await;
    }
    for relay in [a, b] {
        relay.stop().await;
    }
}

fn lmdb(folder: &Path) -> String {
    format!("lmdb:{}", folder.join("shared").display())
}

#[tokio::test]
async fn relays_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    check_shared(folder.path(), &lmdb(folder.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_killed_leave_the_shared_folder_to_the_others() {
    let folder = tempfile::tempdir().unwrap();
    check_kills(folder.path(), &lmdb(folder.path())).await;
}

#[tokio::test]
async fn relays_share_a_database() {
    let Some(url) = database::create().await else { return };
    check_shared(tempfile::tempdir().unwrap().path(), &url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_killed_leave_the_shared_database_to_the_others() {
    let Some(url) = database::create().await else { return };
    check_kills(tempfile::tempdir().unwrap().path(), &url).await;
}

#[tokio::test]
async fn what_a_relay_took_while_the_database_was_away_is_there_once_it_is_back() {
    let port = database::free_port();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("postgres://aquifer@127.0.0.1:{port}/postgres");
    let relay = Relay::sharing(&folder.path().join("early"), &url).await;
    let events = notes(1, 20, 600);
    relay.client().await.publish_all(&events).await;
    relay.misses_the_canister().await;
    let Some(server) = database::start_on(port).await else { return };
    let late = Relay::sharing(&folder.path().join("late"), &url).await;
    eventually_same("the late relay", &left_of(&events), async || late.export().await).await;
    for relay in [relay, late] {
        relay.stop().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_relays_own_store_is_never_taken_for_a_shared_one() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::alone(folder.path()).await;
    relay.stop().await;
    let layer2 = format!("lmdb:{}", folder.path().join("events").display());
    let data = folder.path().join("other").display().to_string();
    let output =
        aquifer(["l2", "export", "--layer2", &layer2, "--data", &data].into_iter(), vec![]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("a relay's own"), "{said}");
}
