//! Parts go away and come back, and nothing is lost.

use std::sync::atomic::{AtomicBool, Ordering};

use event::Event;
use tokio::sync::watch;

use crate::{
    events::{Events, difference, left_of, notes},
    world::{Client, Relay, World, artifacts, eventually_has},
};

#[tokio::test]
async fn publishing_goes_on_while_the_canister_is_stopped_and_all_arrives_after() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let events = notes(1, 90, 600);
    let (before, rest) = events.split_at(10);
    let (at_a, at_b) = rest.split_at(40);
    a.client().await.publish_all(before).await;
    world.settles_on(&left_of(before), &[&a, &b]).await;

    world.ic.stop().await.unwrap();
    a.client().await.publish_all(at_a).await;
    b.client().await.publish_all(at_b).await;
    tokio::join!(a.misses_the_canister(), b.misses_the_canister());
    let served = a.client().await.fetch_all().await;
    assert_eq!(difference(&left_of(before.iter().chain(at_a)), &served), None, "A goes on");

    world.ic.start().await.unwrap();
    world.settles_on(&left_of(&events), &[&a, &b]).await;
    world.end([a, b]).await;
}

#[tokio::test]
async fn publishing_goes_on_while_the_canister_cannot_be_reached_and_all_arrives_after() {
    let mut world = World::new().await;
    let (a, b) = world.two_relays().await;
    let events = notes(1, 80, 600);
    let (at_a, at_b) = events.split_at(40);

    world.ic.cut_off().await.unwrap();
    a.client().await.publish_all(at_a).await;
    b.client().await.publish_all(at_b).await;
    tokio::join!(a.misses_the_canister(), b.misses_the_canister());
    assert_eq!(world.canister_holds().await.len(), 0, "nothing gets through");

    world.ic.reconnect().await.unwrap();
    world.settles_on(&left_of(&events), &[&a, &b]).await;
    world.end([a, b]).await;
}

#[tokio::test]
async fn a_canister_that_was_installed_anew_gets_what_its_relay_holds() {
    let world = World::new().await;
    let relay = world.relay().await;
    let events = notes(1, 60, 600);
    let (before, after) = events.split_at(50);
    relay.client().await.publish_all(&before[..30]).await;
    world.save(&before[30..]).await;
    world.settles_on(&left_of(before), &[&relay]).await;

    world.ic.reinstall(artifacts().wasm().unwrap()).await.unwrap();
    assert_eq!(world.canister_holds().await.len(), 0);
    world.grant(relay.run.options()).await;
    world.save(&after[..5]).await;
    relay.client().await.publish_all(&after[5..]).await;
    world.settles_on(&left_of(&events), &[&relay]).await;
    world.end([relay]).await;
}

#[tokio::test]
async fn a_relay_started_while_the_canister_is_away_serves_and_catches_up() {
    let mut world = World::new().await;
    let (mut a, b) = world.two_relays().await;
    let events = notes(1, 40, 600);
    let (first, second) = events.split_at(20);
    b.client().await.publish_all(first).await;
    world.settles_on(&left_of(first), &[&a, &b]).await;

    world.ic.cut_off().await.unwrap();
    a.crash_and_restart().await;
    let client = a.client().await;
    assert_eq!(difference(&left_of(first), &client.fetch_all().await), None);
    client.publish_all(second).await;

    world.ic.reconnect().await.unwrap();
    world.settles_on(&left_of(&events), &[&a, &b]).await;
    world.end([a, b]).await;
}

#[tokio::test]
async fn a_relay_killed_in_the_middle_of_an_import_keeps_what_it_acknowledged() {
    let world = World::new().await;
    let (mut a, mut b) = world.two_relays().await;
    let (at_a, at_b) = (notes(1, 400, 600), notes(2, 400, 600));

    // A dies while it sends events up.
    let acknowledged_by_a = kill_in_the_middle(&mut a, &at_a).await;
    // B dies while it cannot: what it then has, it has from its own disk.
    world.ic.stop().await.unwrap();
    let acknowledged_by_b = kill_in_the_middle(&mut b, &at_b).await;
    holds_now(&b.client().await, &acknowledged_by_b).await;
    world.ic.start().await.unwrap();

    let mut acknowledged = acknowledged_by_a;
    holds_now(&a.client().await, &acknowledged).await;
    acknowledged.extend(acknowledged_by_b);
    let canister = async || world.canister_holds().await;
    eventually_has("the canister", &acknowledged, canister).await;
    for relay in [&a, &b] {
        let client = relay.client().await;
        eventually_has(relay.name(), &acknowledged, async || client.fetch_all().await).await;
    }
    world.end([a, b]).await;
}

/// Kills `relay` when half of `events` are acknowledged and more are on the way, and starts it again.
async fn kill_in_the_middle(relay: &mut Relay, events: &[Event]) -> Events {
    let acknowledged = relay.client().await.publish_until(events, events.len() / 2).await;
    relay.crash_and_restart().await;
    acknowledged
}

async fn holds_now(client: &Client, expected: &Events) {
    let found = client.fetch_ids(expected.keys()).await;
    assert_eq!(difference(expected, &found), None, "right after the restart");
}

#[tokio::test]
async fn nothing_is_lost_when_the_canister_is_upgraded_in_the_middle_of_traffic() {
    const UPGRADES: usize = 4;
    const EVENTS_BETWEEN: usize = 30;
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let traffic = Traffic::default();
    let upgrade = async {
        for number in 1..=UPGRADES {
            traffic.has_published(EVENTS_BETWEEN * number).await;
            // As operators do it, and as it may be done too: while it runs.
            let is_stopped_for_it = number % 2 == 1;
            if is_stopped_for_it {
                world.ic.stop().await.unwrap();
                tokio::join!(a.misses_the_canister(), b.misses_the_canister());
            }
            world.ic.upgrade(artifacts().wasm().unwrap()).await.unwrap();
            if is_stopped_for_it {
                world.ic.start().await.unwrap();
            }
        }
        traffic.has_published(EVENTS_BETWEEN * (UPGRADES + 1)).await;
        traffic.is_over.store(true, Ordering::Relaxed);
    };
    // More than will be needed.
    let (at_a, at_b) = (notes(1, 4_000, 400), notes(2, 4_000, 400));
    let (published_a, published_b, ()) =
        tokio::join!(traffic.publish(&a, &at_a), traffic.publish(&b, &at_b), upgrade);
    world.settles_on(&left_of(published_a.iter().chain(published_b)), &[&a, &b]).await;
    world.end([a, b]).await;
}

/// Clients that publish one event after the other.
struct Traffic {
    published: watch::Sender<usize>,
    is_over: AtomicBool,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic { published: watch::channel(0).0, is_over: AtomicBool::new(false) }
    }
}

impl Traffic {
    /// Publishes until it is over; gives the events that were.
    async fn publish<'a>(&self, relay: &Relay, events: &'a [Event]) -> &'a [Event] {
        let client = relay.client().await;
        for (count, event) in events.iter().enumerate() {
            if self.is_over.load(Ordering::Relaxed) {
                return &events[..count];
            }
            client.publish(event).await;
            self.published.send_modify(|count| *count += 1);
        }
        panic!("the traffic ran out before the story did")
    }

    async fn has_published(&self, count: usize) {
        self.published.subscribe().wait_for(|published| *published >= count).await.unwrap();
    }
}
