//! Relays and subscriptions that come and go, and what is left of them.
//!
//! `TEST_SECONDS` says how long the load goes on: ten minutes by hand,
//! `TEST_SECONDS=600 cargo test --workspace --test e2e peers::life -- --nocapture`.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use event::{Event, EventId, twin::Author};
use futures_util::{SinkExt, StreamExt, future::join_all};
use serde_json::json;
use tokio::time::sleep;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::{Ear, PEERING, is_asked_for, now, peers, until};
use crate::{
    observed::{Metrics, memory_bytes},
    subscriber::Subscriber,
    world::{Relay, World, eventually, number, tell},
};

/// How long the load goes on, if nobody says otherwise.
const SECONDS: f64 = 4.0;
/// Clients that listen at a time,
const READERS: usize = 1_000;
/// and events that each of them gets.
const REACTIONS: usize = 50;

fn fresh(author: u8, number: usize) -> Event {
    let text = format!("fresh {number}");
    Author::new(author).sign(now(), 1, &[&["t", "life"]], &text).into_inner()
}

/// File descriptors that a process has open.
fn descriptors(relay: &Relay) -> usize {
    let folder = format!("/proc/{}/fd", relay.run.process().id());
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_thousands_of_subscriptions_that_come_and_go_nothing_is_left() {
    let world = World::new().await;
    let relays = peers(&world, 2).await;
    let (busy, other) = (&relays[0], &relays[1]);
    // Its tap and that of the other are up, and stay.
    let mut ears = Vec::new();
    for relay in [busy, other] {
        let mut ear = Ear::open(&relay.run.url()).await;
        ear.listen("stays", json!({ "kinds": [1], "#t": ["life"] })).await;
        ears.push(ear);
    }
    is_asked_for(busy, 1).await;
    is_asked_for(other, 1).await;
    let before = (descriptors(busy), memory_bytes(&busy.run));
    let tasks = Metrics::of(&busy.run).await.value("aquifer_tasks");
    let is_over = AtomicBool::new(false);
    let opened = AtomicUsize::new(0);
    let churn = async {
        let url = busy.run.url();
        let gone = join_all((0..20).map(|client| come_and_go(&url, client, &opened))).await;
        assert!(gone.iter().all(Option::is_some), "they were served");
        is_over.store(true, Ordering::Relaxed);
    };
    let load = async {
        let mut publisher = Ear::open(&other.run.url()).await;
        let mut published = 0;
        while !is_over.load(Ordering::Relaxed) {
            publisher.publish(&fresh(1, published)).await;
            published += 1;
        }
        published
    };
    let ((), published) = tokio::join!(churn, load);
    for _ in 0..published {
        ears[0].event().await;
    }
    until(busy, "aquifer_subscriptions", 1.0).await;
    until(busy, "aquifer_demands", 1.0).await;
    until(busy, "aquifer_demand_chunks", 1.0).await;
    is_asked_for(other, 1).await;
    // Among them the connections that metrics are read by, some of which may still be closing.
    let left = async || Metrics::of(&busy.run).await.value("aquifer_tasks");
    eventually(async || left().await <= tasks).await;
    let after = (descriptors(busy), memory_bytes(&busy.run));
    tell(&format!(
        "{} subscriptions came and went among {published} events: descriptors {} and {}, MiB {} and {}",
        opened.load(Ordering::Relaxed),
        before.0,
        after.0,
        before.1 >> 20,
        after.1 >> 20,
    ));
    // A reader of the metrics, or one of the store, may be there and not have been.
    assert!(after.0 <= before.0 + 4, "{} descriptors, and {} before", after.0, before.0);
    assert!(after.1 < before.1 + (64 << 20), "{} bytes, and {} before", after.1, before.1);
    // And all of it once more, in the middle of which they stop.
    let url = busy.run.url();
    let goes = join_all((0..20).map(|client| come_and_go(&url, client, &opened)));
    let stops = async {
        sleep(Duration::from_millis(100)).await;
        world.end(relays).await;
    };
    tokio::join!(goes, stops);
}

/// Opens subscriptions and closes them, some by CLOSE, some by another of the same name, and some by
/// leaving. None: the relay has gone.
async fn come_and_go(url: &str, client: usize, opened: &AtomicUsize) -> Option<()> {
    for turn in 0..5 {
        let (socket, _) = connect_async(url).await.ok()?;
        let (mut sink, mut stream) = socket.split();
        let reading = tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
        for name in 0..40 {
            let topic = format!("{client}-{turn}-{name}");
            let filter = json!({ "#t": [topic, "life"], "kinds": [1, 7, name] });
            let frame = json!(["REQ", (name % 30).to_string(), filter]).to_string();
            sink.send(Message::text(frame)).await.ok()?;
            opened.fetch_add(1, Ordering::Relaxed);
            if name % 3 == 0 {
                let frame = json!(["CLOSE", (name % 30).to_string()]).to_string();
                sink.send(Message::text(frame)).await.ok()?;
            }
        }
        drop(sink);
        reading.abort();
    }
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_hears_everything_once_while_relays_come_and_go_and_die() {
    let world = World::new().await;
    let mut relays = peers_that_poll(&world, 3).await;
    let all = json!({ "kinds": [1], "#t": ["life"], "limit": 0 });
    let mut subscribers = Vec::new();
    // The last one is killed from time to time, and so has no subscribers of its own.
    for relay in &relays[..2] {
        subscribers.push(Subscriber::open(relay.run.url(), &all).await);
    }
    is_asked_for(&relays[0], 1).await;
    let until_then = Instant::now() + Duration::from_secs_f64(number("TEST_SECONDS", SECONDS));
    let mut mortal = relays.pop().unwrap();
    let urls: Vec<String> = relays.iter().map(|relay| relay.run.url()).collect();
    let publishing =
        urls.iter().enumerate().map(|(at, url)| publish_until(url, at as u8, until_then));
    let dying = async {
        let mut events = Vec::new();
        let mut deaths = 0_usize;
        while Instant::now() < until_then {
            let later = (Instant::now() + Duration::from_secs(1)).min(until_then);
            events.extend(publish_until(&mortal.run.url(), 9 + (deaths % 100) as u8, later).await);
            mortal.crash_and_restart().await;
            deaths += 1;
        }
        (events, deaths)
    };
    let joining = async {
        let mut joined = Vec::new();
        while Instant::now() < until_then {
            let relay = world.relay_that_polls_with(Duration::from_millis(500), &PEERING).await;
            let later = (Instant::now() + Duration::from_secs(1)).min(until_then);
            let more = publish_until(&relay.run.url(), 200, later).await;
            joined.extend(more);
            relay.stop().await;
        }
        joined
    };
    let (published, (dying, deaths), joining) = tokio::join!(join_all(publishing), dying, joining);
    let events: Vec<Event> = published.into_iter().flatten().chain(dying).chain(joining).collect();
    let distinct: HashSet<EventId> = events.iter().map(|event| event.id).collect();
    assert_eq!(distinct.len(), events.len());
    let expected = crate::events::by_id(events);
    for subscriber in &subscribers {
        subscriber.saw_each_once(&expected).await;
    }
    let metrics = Metrics::of(&relays[0].run).await;
    tell(&format!(
        "{} events, {deaths} deaths: each subscriber heard each once; the first relay had {} by tap",
        expected.len(),
        metrics.value("aquifer_tapped_total{outcome=\"new\"}"),
    ));
    relays.push(mortal);
    world.end(relays).await;
}

async fn peers_that_poll(world: &World, count: usize) -> Vec<Relay> {
    let mut relays = Vec::new();
    for _ in 0..count {
        relays.push(world.relay_that_polls_with(Duration::from_millis(500), &PEERING).await);
    }
    for relay in &relays {
        until(relay, "aquifer_peers_known", (count - 1) as f64).await;
    }
    relays
}

/// Publishes, one after the other; gives what was acknowledged.
async fn publish_until(url: &str, author: u8, until: Instant) -> Vec<Event> {
    static PUBLISHED: AtomicUsize = AtomicUsize::new(0);
    let mut publisher = Ear::open(url).await;
    let mut events = Vec::new();
    while Instant::now() < until {
        let event = fresh(author, PUBLISHED.fetch_add(1, Ordering::Relaxed));
        publisher.publish(&event).await;
        events.push(event);
        sleep(Duration::from_millis(5)).await;
    }
    events
}

/// Kinds of notes and reactions,
const KINDS: [u16; 2] = [1, 7];
/// how often somebody turns from the ones to the others,
const TURNS: usize = 20;
/// and how many it hears each time.
const HEARD: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_demand_that_changes_while_events_flow_loses_nothing_and_brings_nothing_twice() {
    let world = World::new().await;
    let relays = peers_that_poll(&world, 2).await;
    let (from, to) = (relays[0].run.url(), relays[1].run.url());
    let steady = Subscriber::open(to.clone(), &json!({ "kinds": [1], "limit": 0 })).await;
    let (published, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let flow = async {
        let mut publisher = Ear::open(&from).await;
        let mut events = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let number = events.len();
            let kind = KINDS[number % 2];
            let event = Author::new(1).sign(now(), kind, &[], &format!("{number}")).into_inner();
            events.push(event.clone());
            published.store(events.len(), Ordering::Relaxed);
            publisher.publish(&event).await;
        }
        events
    };
    let turning = async {
        let mut ear = Ear::open(&to).await;
        let (mut heard, mut first) = (HashSet::new(), 0);
        for turn in 0..TURNS {
            let kind = KINDS[turn % 2];
            ear.listen("turns", json!({ "kinds": [kind], "limit": 0 })).await;
            first = published.load(Ordering::Relaxed);
            heard.clear();
            for _ in 0..HEARD {
                let event = ear.event().await;
                assert_eq!(event.kind.0, kind);
                assert!(heard.insert(event.id), "{event:?} came twice");
            }
        }
        is_over.store(true, Ordering::Relaxed);
        (ear, heard, first)
    };
    let (events, (mut ear, mut heard, first)) = tokio::join!(flow, turning);
    // The last time it hears all that was published since.
    let since = events[first..].iter().filter(|event| event.kind.0 == KINDS[(TURNS - 1) % 2]);
    while !since.clone().all(|event| heard.contains(&event.id)) {
        let event = ear.event().await;
        assert!(heard.insert(event.id), "{event:?} came twice");
    }
    // And what was published before, and comes from the canister now; but nothing once more.
    for event in ear.rest().await {
        assert!(heard.insert(event.id), "{event:?} came twice");
    }
    steady.saw_each_once(&crate::events::by_id(events)).await;
    let tapped = Metrics::of(&relays[1].run).await.value("aquifer_tapped_total{outcome=\"new\"}");
    tell(&format!("{tapped} of {} events came by tap", published.load(Ordering::Relaxed)));
    assert!(tapped > 0.0);
    world.end(relays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_reads_nothing_among_a_thousand_holds_nobody_up() {
    let world = World::new().await;
    let relays = peers(&world, 2).await;
    let url = relays[1].run.url();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = Ear::open(&url).await;
        reader.listen("read", json!({ "kinds": [7], "limit": 0 })).await;
        readers.push(reader);
    }
    is_asked_for(&relays[0], 1).await;
    let mut publisher = Ear::open(&relays[0].run.url()).await;
    let alone = published_to(&mut readers, &mut publisher, 0).await;

    let mut stalled = Ear::open(&url).await;
    stalled.listen("never read", json!({ "kinds": [1], "limit": 0 })).await;
    is_asked_for(&relays[0], 2).await;
    // More than the buffers of a socket hold.
    let long = "water ".repeat(10_000);
    for number in 0..300 {
        let text = format!("{number} {long}");
        publisher.publish(&Author::new(1).sign(now(), 1, &[], &text).into_inner()).await;
    }
    let beside = published_to(&mut readers, &mut publisher, REACTIONS).await;
    // It is late, and loses nothing.
    for _ in 0..300 {
        stalled.event().await;
    }
    drop(stalled);
    let after = published_to(&mut readers, &mut publisher, 2 * REACTIONS).await;
    tell(&format!(
        "{READERS} readers got {REACTIONS} events each, p50 and p99 after {alone:?}, beside one who reads \
         nothing after {beside:?}, and without it again after {after:?}"
    ));
    drop(readers);
    world.end(relays).await;
}

/// Publishes some events, one after the other, and waits until all readers have each; says after how long
/// they had, in the middle (p50) and at worst (p99).
async fn published_to(
    readers: &mut [Ear],
    publisher: &mut Ear,
    first: usize,
) -> (Duration, Duration) {
    let mut waits = Vec::new();
    for number in first..first + REACTIONS {
        let event = Author::new(2).sign(now(), 7, &[], &format!("+{number}")).into_inner();
        let sent = Instant::now();
        publisher.publish(&event).await;
        let got = readers.iter_mut().map(async |reader| (reader.event().await, sent.elapsed()));
        for (got, wait) in join_all(got).await {
            assert_eq!(got.id, event.id);
            waits.push(wait);
        }
    }
    waits.sort();
    (waits[waits.len() / 2], waits[waits.len() * 99 / 100])
}
