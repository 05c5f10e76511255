//! A relay with less disk than events, in front of the real canister.

use crate::{
    events::{by_id, left_of, notes},
    world::{World, eventually_same},
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
