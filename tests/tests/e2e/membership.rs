//! A relay that the canister has not granted.

use cluster::Source;
use event::Event;

use crate::{
    events::{left_of, notes},
    world::{PATIENCE, Relay, World},
};

/// Waits until the relay knows, and checks that it says so where people look.
async fn is_told(relay: &Relay) {
    let process = relay.run.process();
    let said = process.line(Source::Stdout, |line| line.starts_with("not granted "), PATIENCE);
    let principal = relay.run.listening().principal.expect("a relay has a principal").to_text();
    assert!(said.await.unwrap().contains(&principal), "the output names who must be granted");
    let logged = process
        .line(Source::Stderr, |line| line.contains("has not been granted"), PATIENCE)
        .await
        .unwrap();
    assert!(logged.contains(&principal) && logged.contains("grant"), "{logged}");
}

#[tokio::test]
async fn a_relay_that_is_not_granted_says_so_and_keeps_events_for_later() {
    let world = World::new().await;
    let relay = world.stranger(&["--not-granted", "keep"]).await;
    is_told(&relay).await;
    let events = notes(1, 10, 600);
    let client = relay.client().await;
    client.publish_all(&events).await;
    assert_eq!(client.fetch_all().await, left_of(&events), "it serves them");
    assert_eq!(world.canister_holds().await.len(), 0, "the canister took nothing");

    world.grant(relay.run.options()).await;
    world.settles_on(&left_of(&events), &[&relay]).await;
    world.end([relay]).await;
}

#[tokio::test]
async fn a_relay_that_is_not_granted_refuses_events_if_so_configured() {
    let world = World::new().await;
    let relay = world.stranger(&["--not-granted", "refuse"]).await;
    is_told(&relay).await;
    let events = notes(1, 2, 600);
    let client = relay.client().await;
    let refusal = client.try_publish(&events[0]).await.unwrap_err();
    assert!(refusal.contains("restricted:"), "{refusal}");
    assert_eq!(client.fetch_all().await.len(), 0, "nothing was kept");

    world.grant(relay.run.options()).await;
    published_in_the_end(&relay, &events[1]).await;
    world.settles_on(&left_of(&events[1..]), &[&relay]).await;
    world.end([relay]).await;
}

/// The relay finds out by itself that it has been granted.
async fn published_in_the_end(relay: &Relay, event: &Event) {
    let process = relay.run.process();
    let is_granted = |line: &str| line.contains("L2 lets this relay write");
    process.line(Source::Stderr, is_granted, PATIENCE).await.unwrap();
    relay.client().await.publish(event).await;
}

#[tokio::test]
async fn what_a_relay_brought_before_it_was_revoked_stays() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let events = notes(1, 20, 600);
    let (before, after) = events.split_at(10);
    a.client().await.publish_all(before).await;
    world.settles_on(&left_of(before), &[&a, &b]).await;

    world.ic.revoke(a.run.listening().principal.unwrap()).await.unwrap();
    a.client().await.publish_all(after).await;
    is_told(&a).await;
    world.settles_on(&left_of(before), &[&b]).await;

    world.grant(a.run.options()).await;
    world.settles_on(&left_of(&events), &[&a, &b]).await;
    world.end([a, b]).await;
}
