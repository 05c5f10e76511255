//! The way up to the canister: many batches at a time, what the canister does not take, and what an OK
//! can be made to mean.

use std::{path::Path, time::Duration};

use event::twin::Author;
use interface::{Config, Done, SaveOutcome, Status};
use serde_json::Value;

use crate::{
    events::{Events, by_id, jsonl, left_of, notes},
    world::{Relay, World, aquifer, eventually, eventually_has},
};

/// `aquifer` with these words, on the store in `data`: what it prints.
async fn on(data: &Path, words: &[&str], input: &str) -> String {
    let data = data.display().to_string();
    let (command, words) = words.split_first().unwrap();
    let words = [*command, "--data", &data].into_iter().chain(words.iter().copied());
    let output = aquifer(words, input.as_bytes().to_vec()).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout).unwrap()
}

async fn listed(data: &Path) -> Value {
    serde_json::from_str(&on(data, &["outbox", "list", "--json"], "").await).unwrap()
}

fn data_of(relay: &Relay) -> &Path {
    &relay.run.options().data
}

#[tokio::test]
async fn a_relay_killed_with_batches_under_way_loses_none_and_sends_none_for_a_second_time() {
    let world = World::new().await;
    let mut relay = world.relay().await;
    let events = notes(1, 3_000, 600);
    world.ic.stop().await.unwrap();
    on(data_of(&relay), &["db", "import", "-"], &jsonl(&events)).await;
    relay.misses_the_canister().await;
    let before = listed(data_of(&relay)).await;
    assert_eq!(before["waiting"]["events"], 3_000, "{before}");
    let bytes: usize = events.iter().map(|event| event.pack().len()).sum();
    assert_eq!(before["waiting"]["bytes"], bytes, "{before}");
    world.ic.start().await.unwrap();
    // Some have arrived, and more are on the way.
    let one = by_id(events[..1].to_vec());
    eventually_has("the canister", &one, async || world.canister_holds().await).await;
    relay.crash_and_restart().await;
    let expected = left_of(&events);
    eventually_has("the canister", &expected, async || world.canister_holds().await).await;
    let status: Status = world.ic.query("status", ()).await.unwrap();
    assert_eq!((status.events, status.length), (3_000, 3_000), "each was stored once");
    eventually(async || listed(data_of(&relay)).await["waiting"]["events"] == 0).await;
    world.end([relay]).await;
}

#[tokio::test]
async fn an_operator_sees_what_the_canister_does_not_take_and_sends_it_again_or_gives_it_up() {
    let world = World::new().await;
    let configure = async |event_bytes_max| {
        let config = Config { event_bytes_max: Some(event_bytes_max), ..Config::default() };
        let done: Done = world.ic.update("configure", (config,)).await.unwrap();
        done.into_result().unwrap();
    };
    configure(1_000).await;
    let relay = world.relay().await;
    let data = data_of(&relay).to_owned();
    let author = Author::new(1);
    let large = |name: &str| author.sign(1_700_000_000, 1, &[], &name.repeat(2_000)).into_inner();
    let (again, never, small) = (large("a"), large("b"), notes(2, 1, 100).remove(0));
    relay.client().await.publish_all(&[again.clone(), never.clone(), small.clone()]).await;
    let are_aside = async || listed(&data).await["aside"].as_array().unwrap().len() == 2;
    eventually(are_aside).await;
    let list = listed(&data).await;
    assert_eq!(list["waiting"]["events"], 0, "{list}");
    for refused in list["aside"].as_array().unwrap() {
        let reason = refused["reason"].as_str().unwrap();
        assert!(reason.contains("larger than 1000 bytes"), "{refused}");
        assert_eq!(refused["author"], author.pubkey().to_string());
        assert!(refused["since"].as_u64().unwrap() > 1_700_000_000, "{refused}");
    }
    let told = on(&data, &["outbox", "list"], "").await;
    assert!(told.contains(&again.id.to_string()) && told.contains("aside     2"), "{told}");

    configure(100_000).await;
    on(&data, &["outbox", "drop", &never.id.to_string()], "yes\n").await;
    let told = on(&data, &["outbox", "retry", "--all"], "").await;
    assert!(told.contains("put 1 events back"), "{told}");
    let shared: Events = by_id([again, small]);
    world.settles_on(&shared, &[]).await;
    let held = relay.client().await.fetch_all().await;
    assert!(held.contains_key(&never.id) && held.len() == 3, "it stays here");
    relay.stop().await;

    // The same on what a stopped relay left.
    let list = listed(&data).await;
    assert_eq!((&list["local"], &list["aside"]), (&1.into(), &Value::Array(vec![])), "{list}");
    let told = on(&data, &["outbox", "retry", &never.id.to_string()], "").await;
    assert!(told.contains("put 0 events back"), "{told}");
    on(&data, &["db", "verify"], "").await;
    world.end([]).await;
}

#[tokio::test]
async fn an_ok_after_layer_2_is_the_canisters_word() {
    let world = World::new().await;
    // Nothing that the canister knows comes down before it is asked.
    let slow = Duration::from_secs(600);
    let relay = world.relay_that_polls_with(slow, &["--ok-after", "layer2"]).await;
    let client = relay.client().await;
    let note = notes(1, 1, 600).remove(0);
    client.publish(&note).await;
    assert!(world.canister_holds().await.contains_key(&note.id), "it is there with the OK");

    let author = Author::new(5);
    let profile = |at, name: &str| author.sign(at, 0, &[], name).into_inner();
    let (old, new) = (profile(1_700_000_000, "old"), profile(1_700_000_001, "new"));
    let regret = author.sign(1_700_000_002, 1, &[], "I shall regret this").into_inner();
    let deletion =
        author.sign(1_700_000_003, 5, &[&["e", &regret.id.to_string()]], "").into_inner();
    let over_there = [new, deletion];
    for outcome in world.save(&over_there).await {
        assert!(matches!(outcome, SaveOutcome::Saved(_)), "{outcome:?}");
    }
    client.publish(&old).await;
    let mut refusal = client.try_publish(&regret).await.unwrap_err();
    // A relay that has learned of something newer fetches it at once: then the deletion may come down
    // before its target goes up, and who publishes it again hears what became of it.
    if refusal.contains("is gone again") {
        refusal = client.try_publish(&regret).await.unwrap_err();
    }
    assert!(refusal.contains("blocked:"), "{refusal}");
    world.settles_on(&by_id(over_there.into_iter().chain([note])), &[&relay]).await;
    world.end([relay]).await;
}

#[tokio::test]
async fn what_is_local_is_seen_on_no_other_relay() {
    let world = World::new().await;
    let a = world.relay_with(&["--local-kinds", "9,1000-1999"]).await;
    let b = world.relay().await;
    let author = Author::new(1);
    let of_kind = |kind| author.sign(1_700_000_000, kind, &[], "told").into_inner();
    let events = [1, 9, 1_060, 2_000].map(of_kind);
    a.client().await.publish_all(&events).await;
    let shared = by_id([events[0].clone(), events[3].clone()]);
    world.settles_on(&shared, &[&b]).await;
    assert_eq!(a.client().await.fetch_all().await, by_id(events));
    let list = listed(data_of(&a)).await;
    assert_eq!((&list["local"], &list["waiting"]["events"]), (&2.into(), &0.into()), "{list}");
    world.end([a, b]).await;
}
