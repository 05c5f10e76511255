//! What comes in at one relay is at the others, and in the canister: all of it, once, unchanged.

use std::time::Duration;

use event::{Event, twin::Author};

use crate::{
    events::{by_id, left_of, notes, real_events_and_a_life},
    world::{Relay, World, eventually_same},
};

#[tokio::test]
async fn both_relays_and_the_canister_hold_what_the_rules_leave() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let events = real_events_and_a_life();
    let summary = a.import(&events).await;
    assert_eq!(summary["invalid"], 0, "{summary}");
    let expected = left_of(&events);
    world.settles_on(&expected, &[&a, &b]).await;
    // By our own way out too, which asks page by page.
    eventually_same("the export of A", &expected, async || a.export().await).await;
    eventually_same("the export of B", &expected, async || b.export().await).await;
    world.end([a, b]).await;
}

#[tokio::test]
async fn an_import_repeated_at_the_other_relay_changes_nothing() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let events = notes(1, 60, 600);
    a.import(&events).await;
    world.settles_on(&left_of(&events), &[&a, &b]).await;
    let summary = b.import(&events).await;
    assert_eq!(summary["duplicate"], events.len(), "{summary}");
    let length = world.ic.status().await.unwrap().length;
    assert_eq!(length, events.len() as u64, "the log grows with new events only");
    world.end([a, b]).await;
}

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The polls that re-read an event for safety: one that they brought again would show.
const POLLS_OF_OVERLAP: usize = 3;

#[tokio::test]
async fn an_open_subscription_gets_what_is_published_at_the_other_relay_once() {
    let world = World::new().await;
    let a = world.relay_that_polls(POLL_INTERVAL).await;
    let b = world.relay_that_polls(POLL_INTERVAL).await;
    tokio::join!(gets_each_once(&a, &b, 1), gets_each_once(&b, &a, 2));
    world.end([a, b]).await;
}

async fn gets_each_once(from: &Relay, to: &Relay, author: u8) {
    let mut subscription = to.client().await.subscribe().await;
    let publisher = from.client().await;
    let events = notes(author, POLLS_OF_OVERLAP + 2, 600);
    for event in &events {
        publisher.publish(event).await;
        subscription.gets(event).await;
    }
    for event in &events {
        assert_eq!(subscription.times(event), 1, "{}", event.content);
    }
    let client = to.client().await;
    let found = client.fetch_ids(events.iter().map(|event| &event.id)).await;
    assert_eq!(found, by_id(events), "a query afterwards gives them too");
}

#[tokio::test]
async fn a_subscription_sees_events_of_its_own_relay_once_although_they_come_back_by_poll() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let mut subscription = a.client().await.subscribe().await;
    let (here, there) = (notes(1, 5, 600), notes(2, 5, 600));
    let (client_a, client_b) = (a.client().await, b.client().await);
    for (one, other) in here.iter().zip(&there) {
        client_a.publish(one).await;
        subscription.gets(one).await;
        client_b.publish(other).await;
        // It came by poll, and the poll passed over the first on its way.
        subscription.gets(other).await;
    }
    for event in here.iter().chain(&there) {
        assert_eq!(subscription.times(event), 1, "{}", event.content);
    }
    world.end([a, b]).await;
}

#[tokio::test]
async fn a_deletion_on_one_relay_removes_the_event_from_the_other() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let ann = Author::new(1);
    let note = ann.sign(1_700_000_000, 1, &[], "soon gone").into_inner();
    a.client().await.publish(&note).await;
    world.settles_on(&by_id([note.clone()]), &[&a, &b]).await;
    let tags: &[&[&str]] = &[&["e", &note.id.to_string()]];
    let deletion: Event = ann.sign(1_700_000_001, 5, tags, "").into_inner();
    b.client().await.publish(&deletion).await;
    world.settles_on(&by_id([deletion]), &[&a, &b]).await;
    let refusal = a.client().await.try_publish(&note).await;
    assert!(refusal.is_err(), "what was deleted does not come back");
    world.end([a, b]).await;
}

#[tokio::test]
async fn a_new_relay_with_an_empty_l1_serves_everything() {
    let world = World::new().await;
    let first = world.relay().await;
    let events = real_events_and_a_life();
    first.import(&events).await;
    let expected = left_of(&events);
    world.settles_on(&expected, &[]).await;
    // The canister alone can give it all: nobody else is there.
    first.stop().await;
    let newcomer = world.relay().await;
    world.settles_on(&expected, &[&newcomer]).await;
    world.end([newcomer]).await;
}
