//! A relay with less disk than events, in front of the real canister.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use cluster::Source;

use crate::{
    events::{by_id, left_of, notes},
    world::{PATIENCE, World, aquifer, eventually_same},
};

#[tokio::test]
async fn a_relay_with_a_small_cache_serves_all_that_it_ever_took() {
    let world = World::new().await;
    let relay = world.relay_with(&[
        "--cache-bytes-max",
        "8388608",
        "--cache-high-percent",
        "30",
        "--cache-low-percent",
        "10",
        "--gc-interval",
        "0.1",
        "--l2-timeout",
        "20",
    ]);
    let relay = relay.await;
    let events = notes(1, 300, 40_000);
    let client = relay.client().await;
    for (done, batch) in events.chunks(30).enumerate() {
        client.publish_all(batch).await;
        // What the canister has not got cannot be given up.
        let sent = left_of(&events[..done * 30 + batch.len()]);
        eventually_same("the canister", &sent, async || world.canister_holds().await).await;
    }
    let expected = left_of(&events);
    let file = relay.run.options().data.join("events/data.mdb");
    let bytes = std::fs::metadata(file).unwrap().len();
    assert!(bytes <= 8 << 20, "{bytes} bytes on disk");
    assert!(expected.values().map(|event| event.content.len()).sum::<usize>() > 8 << 20);
    eventually_same("the relay", &expected, async || client.fetch_all().await).await;
    let oldest = by_id([events[0].clone()]);
    assert_eq!(client.fetch_ids(oldest.keys()).await, oldest);
    world.end([relay]).await;
}

#[tokio::test]
async fn garbage_that_is_asked_for_leaves_stubs_whose_bodies_come_back_from_the_canister() {
    let world = World::new().await;
    let marks = ["--cache-bytes-max", "16777216", "--cache-low-percent", "10"];
    let mut relay = world.relay_with(&[&marks[..], &["--l2-timeout", "20"]].concat()).await;
    let data = relay.run.options().data.clone();
    let config = data.join("lower.toml");
    std::fs::write(&config, "cache_bytes_max = 16777216\ncache_low_percent = 5\n").unwrap();
    let events = notes(1, 100, 40_000);
    relay.client().await.publish_all(&events).await;
    let expected = left_of(&events);
    eventually_same("the canister", &expected, async || world.canister_holds().await).await;
    outbox_is_empty(&data).await;
    let freed = db(&data, &["gc", "--json"]).await;
    let taken = freed["bodies"].as_u64().unwrap();
    assert!((1..100).contains(&taken), "{freed}");
    assert_eq!(db(&data, &["stats", "--json"]).await["stubs"], taken, "a stub of each stays");

    // Whoever collects does not say that there is a canister: the store knows.
    relay.run.process().stop().await.unwrap();
    let freed = db(&data, &["gc", "--json", "--config", config.to_str().unwrap()]).await;
    let more = freed["bodies"].as_u64().unwrap();
    assert!(more > 0, "{freed}");
    let stats = db(&data, &["stats", "--json"]).await;
    assert_eq!((&stats["events"], &stats["stubs"]), (&100.into(), &(taken + more).into()));
    relay.crash_and_restart().await;
    let client = relay.client().await;
    eventually_same("the relay", &expected, async || client.fetch_all().await).await;
    world.end([relay]).await;
}

/// What `aquifer db` says, in JSON.
async fn db(data: &Path, words: &[&str]) -> serde_json::Value {
    let place = ["db", "--data", data.to_str().unwrap()];
    let output = aquifer(place.iter().chain(words).copied(), Vec::new()).await;
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"))
}

/// Waits until the relay knows that the canister has all.
async fn outbox_is_empty(data: &Path) {
    let started = Instant::now();
    while db(data, &["stats", "--json"]).await["outbox"] != 0 {
        assert!(started.elapsed() < PATIENCE, "the outbox does not get empty");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_a_small_cache_gave_up_altogether_is_read_through_and_remembered() {
    let world = World::new().await;
    let words = ["--cache-bytes-max", "8388608", "--cache-high-percent", "84"];
    let more = ["--cache-low-percent", "70", "--gc-interval", "0.1", "--l2-timeout", "20"];
    let relay = world.relay_with(&[&words[..], &more[..]].concat()).await;
    let (ann, bob) = (notes(1, 40, 600), notes(2, 1_500, 8_000));
    let client = relay.client().await;
    let mut sent = 0;
    for batch in [&ann[..]].into_iter().chain(bob.chunks(150)) {
        client.publish_all(batch).await;
        sent += batch.len() as u64;
        // What the canister has not got cannot be given up.
        world.until_it_holds(sent).await;
    }
    let of_ann =
        || nostr_sdk::Filter::new().author(nostr_sdk::PublicKey::from_byte_array(ann[0].pubkey.0));
    let first = || of_ann().until(ann[19].created_at.0.into()).limit(20);
    let expected = by_id(ann[..20].iter().cloned());
    let asked = || {
        let lines = relay.run.process().lines(Source::Stderr);
        lines.iter().any(|line| line.contains("L2 answered a question"))
    };
    assert!(!asked());
    assert_eq!(client.fetch(first()).await, expected);
    assert!(asked(), "nothing was read through: the cache is too large for this story");
    // From here on it needs no canister for that.
    world.ic.stop().await.unwrap();
    assert_eq!(client.fetch(first()).await, expected);
    world.ic.start().await.unwrap();
    world.end([relay]).await;
}
