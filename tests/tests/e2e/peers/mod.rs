//! The cluster live: what a client publishes on one relay reaches subscribers of the others at once, each
//! of them once, and nobody who is not meant.
//!
//! Most relays here look at the canister so seldom that whatever comes did not come by the poll.

mod ear;
mod impostor;
mod life;

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cluster::identity;
use event::{Event, twin::Author};
use interface::{ByteBuf, Config, RelayEntry, RelayInfo};
use serde_json::{Value, json};

use self::ear::Ear;
use crate::{
    events::{left_of, notes},
    observed::Metrics,
    subscriber::Subscriber,
    world::{Relay, World, aquifer, artifacts, eventually},
};

/// Nobody waits for this poll.
const SELDOM: Duration = Duration::from_secs(600);
/// How relays that find each other are started.
const PEERING: [&str; 4] = ["--heartbeat", "0.3", "--metrics-listen", "127.0.0.1:0"];

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Relays that have found each other, and that do not poll.
async fn peers(world: &World, count: usize) -> Vec<Relay> {
    let mut relays = Vec::new();
    for _ in 0..count {
        relays.push(world.relay_that_polls_with(SELDOM, &PEERING).await);
    }
    for relay in &relays {
        until(relay, "aquifer_peers_known", (count - 1) as f64).await;
    }
    relays
}

/// Waits until a relay's metric says this.
async fn until(relay: &Relay, metric: &str, expected: f64) {
    eventually(async || Metrics::of(&relay.run).await.value(metric) == expected).await;
}

/// The taps of a relay, as its operator sees them.
async fn taps_of(relay: &Relay) -> Vec<Value> {
    let data = relay.run.options().data.display().to_string();
    let words = ["cluster", "taps", "--json", "--data", &data];
    let said = aquifer(words.into_iter(), Vec::new()).await;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let lines = String::from_utf8(said.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until a relay is asked for so many chunks by its peers.
async fn is_asked_for(relay: &Relay, chunks: usize) {
    until(relay, "aquifer_peer_chunks_served", chunks as f64).await;
}

fn note(author: u8, number: u64) -> Event {
    Author::new(author).sign(now() - 100 + number, 1, &[&["t", "tap"]], "a note").into_inner()
}

fn typing(author: u8, number: u64) -> Event {
    Author::new(author).sign(now() - 100 + number, 20_001, &[], "typing").into_inner()
}

#[tokio::test]
async fn what_is_published_on_one_relay_is_heard_on_another_before_any_poll() {
    let world = World::new().await;
    let relays = peers(&world, 2).await;
    let mut ear = Ear::open(&relays[1].run.url()).await;
    ear.listen("all", json!({ "kinds": [1, 20_001] })).await;
    is_asked_for(&relays[0], 1).await;
    let mut publisher = Ear::open(&relays[0].run.url()).await;
    for event in [note(1, 1), typing(1, 2), note(2, 3)] {
        publisher.publish(&event).await;
        assert_eq!(ear.event().await, event);
    }
    // It is stored there, too, so that who comes later finds it.
    let mut later = Ear::open(&relays[1].run.url()).await;
    assert_eq!(later.listen("all", json!({ "kinds": [1] })).await.len(), 2);
    world.end(relays).await;
}

#[tokio::test]
async fn an_ephemeral_event_that_is_published_everywhere_is_heard_once() {
    let world = World::new().await;
    let relays = peers(&world, 3).await;
    let mut ears = Vec::new();
    for relay in &relays {
        let mut ear = Ear::open(&relay.run.url()).await;
        ear.listen("all", json!({ "kinds": [20_001] })).await;
        ears.push(ear);
    }
    for relay in &relays {
        is_asked_for(relay, 2).await;
    }
    let event = typing(1, 1);
    for relay in &relays {
        Ear::open(&relay.run.url()).await.publish(&event).await;
    }
    for ear in &mut ears {
        assert_eq!(ear.event().await, event);
        ear.hears_nothing().await;
    }
    world.end(relays).await;
}

#[tokio::test]
async fn taps_follow_what_is_wanted_and_close_with_the_last_who_wants_it() {
    let world = World::new().await;
    let relays = peers(&world, 2).await;
    let [ann, bob] = [1, 2].map(|author| Author::new(author).pubkey().to_string());
    let mut publisher = Ear::open(&relays[0].run.url()).await;
    let mut ear = Ear::open(&relays[1].run.url()).await;
    ear.listen("ann", json!({ "authors": [ann] })).await;
    is_asked_for(&relays[0], 1).await;
    let wanted = note(1, 2);
    publisher.publish(&note(2, 1)).await;
    publisher.publish(&wanted).await;
    assert_eq!(ear.event().await, wanted);
    // Another chunk, since it is of other kinds.
    ear.listen("bob", json!({ "authors": [bob], "kinds": [1] })).await;
    is_asked_for(&relays[0], 2).await;
    publisher.publish(&note(2, 3)).await;
    assert_eq!(ear.frame("EVENT").await[1], "bob");
    let taps = taps_of(&relays[1]).await;
    assert_eq!(taps.len(), 1, "{taps:?}");
    let url = taps[0]["url"].as_str().unwrap().trim_end_matches('/');
    assert_eq!((url, &taps[0]["is_up"]), (relays[0].run.url().as_str(), &true.into()));
    assert_eq!((&taps[0]["chunks"], &taps[0]["events"]), (&2.into(), &2.into()), "{taps:?}");
    ear.say(json!(["CLOSE", "bob"])).await;
    is_asked_for(&relays[0], 1).await;
    drop(ear);
    is_asked_for(&relays[0], 0).await;
    until(&relays[1], "aquifer_peers_up", 0.0).await;
    until(&relays[1], "aquifer_demands", 0.0).await;
    assert!(taps_of(&relays[1]).await.is_empty());
    world.end(relays).await;
}

#[tokio::test]
async fn a_relay_that_was_alone_for_long_taps_who_comes_then() {
    let world = World::new().await;
    let first = world.relay_that_polls_with(SELDOM, &PEERING).await;
    // Longer than a tap stays open that nobody wants.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let second = world.relay_that_polls_with(SELDOM, &PEERING).await;
    until(&first, "aquifer_peers_known", 1.0).await;
    let mut ear = Ear::open(&first.run.url()).await;
    ear.listen("all", json!({ "kinds": [1] })).await;
    is_asked_for(&second, 1).await;
    world.end([first, second]).await;
}

#[tokio::test]
async fn what_tap_and_poll_both_bring_comes_once_and_goes_up_once() {
    let world = World::new().await;
    let often = Duration::from_millis(200);
    let (a, b) = (
        world.relay_that_polls_with(often, &PEERING).await,
        world.relay_that_polls_with(often, &PEERING).await,
    );
    for relay in [&a, &b] {
        until(relay, "aquifer_peers_known", 1.0).await;
    }
    let all = json!({ "kinds": [1], "limit": 0 });
    let subscribers =
        [Subscriber::open(a.run.url(), &all).await, Subscriber::open(b.run.url(), &all).await];
    is_asked_for(&a, 1).await;
    is_asked_for(&b, 1).await;
    let (mine, yours) = (notes(1, 150, 400), notes(2, 150, 400));
    let (one, other) = (a.client().await, b.client().await);
    tokio::join!(one.publish_all(&mine), other.publish_all(&yours));
    let expected = left_of(mine.iter().chain(&yours));
    world.settles_on(&expected, &[&a, &b]).await;
    for subscriber in &subscribers {
        subscriber.saw_each_once(&expected).await;
    }
    let metrics = Metrics::of(&b.run).await;
    assert!(metrics.value("aquifer_tapped_total{outcome=\"new\"}") > 0.0, "taps brought something");
    // What came by tap waits for the poll to say that the canister has it, and never goes up from here.
    until(&b, "aquifer_tapped_rows", 0.0).await;
    assert_eq!(Metrics::of(&b.run).await.value("aquifer_tapped_adopted_total"), 0.0);
    world.end([a, b]).await;
}

#[tokio::test]
async fn without_taps_the_poll_brings_everything_within_two_turns() {
    let world = World::new().await;
    let more = ["--peering", "off", "--metrics-listen", "127.0.0.1:0"];
    let often = Duration::from_secs(2);
    let (a, b) = (
        world.relay_that_polls_with(often, &more).await,
        world.relay_that_polls_with(often, &more).await,
    );
    let mut ear = Ear::open(&b.run.url()).await;
    ear.listen("all", json!({ "kinds": [1] })).await;
    let mut publisher = Ear::open(&a.run.url()).await;
    for number in 1..=3 {
        let event = note(1, number);
        publisher.publish(&event).await;
        world.until_it_holds(number).await;
        let before = Metrics::of(&b.run).await.value("aquifer_polls_total");
        assert_eq!(ear.event().await, event);
        let polls = Metrics::of(&b.run).await.value("aquifer_polls_total") - before;
        // One may have been under way.
        assert!(polls <= 2.0, "{polls} polls");
    }
    for relay in [&a, &b] {
        assert_eq!(Metrics::of(&relay.run).await.value("aquifer_peers_known"), 0.0);
    }
    world.end([a, b]).await;
}

#[tokio::test]
async fn a_peer_that_dies_before_the_canister_has_its_events_does_not_take_them_along() {
    let mut world = World::new().await;
    let poll = Duration::from_millis(200);
    let (a, b) = (
        world.relay_that_polls_with(poll, &PEERING).await,
        world.relay_that_polls_with(poll, &PEERING).await,
    );
    until(&b, "aquifer_peers_known", 1.0).await;
    let mut ear = Ear::open(&b.run.url()).await;
    ear.listen("all", json!({ "kinds": [1] })).await;
    is_asked_for(&a, 1).await;
    world.ic.cut_off().await.unwrap();
    let event = note(1, 1);
    Ear::open(&a.run.url()).await.publish(&event).await;
    assert_eq!(ear.event().await, event);
    a.run.process().kill().await;
    world.ic.reconnect().await.unwrap();
    world.until_it_holds(1).await;
    until(&b, "aquifer_tapped_adopted_total", 1.0).await;
    drop(a);
    world.end([b]).await;
}

#[tokio::test]
async fn what_stays_on_a_relay_reaches_no_peer_even_if_it_is_stored_nowhere() {
    let world = World::new().await;
    let a = world.relay_with(&[&PEERING[..], &["--local-kinds", "20001"]].concat()).await;
    let b = world.relay_with(&PEERING).await;
    until(&b, "aquifer_peers_known", 1.0).await;
    let asked = json!({ "kinds": [20_001, 20_002, 20_003] });
    let mut ears = [Ear::open(&a.run.url()).await, Ear::open(&b.run.url()).await];
    for ear in &mut ears {
        ear.listen("all", asked.clone()).await;
    }
    is_asked_for(&a, 1).await;
    let ann = Author::new(1);
    let mut publisher = Ear::of(&ann, &a.run.url()).await;
    let protected: [&[&str]; 1] = [&["-"]];
    let events = [(20_001, &[][..]), (20_002, &protected[..]), (20_003, &[][..])];
    let events = events.map(|(kind, tags)| ann.sign(now(), kind, tags, "").into_inner());
    for event in &events {
        publisher.publish(event).await;
        assert_eq!(ears[0].event().await, *event);
    }
    assert_eq!(ears[1].event().await, events[2]);
    ears[1].hears_nothing().await;
    world.end([a, b]).await;
}

/// What the canister lists.
async fn listed(world: &World) -> Vec<RelayEntry> {
    world.ic.query("relays", ()).await.unwrap()
}

/// An entry of the operator's own, which leads wherever it says.
async fn list(world: &World, url: &str, author: &Author) {
    let info = RelayInfo {
        url: url.into(),
        key: ByteBuf::from(author.pubkey().0),
        version: "0".into(),
        connections: 0,
        subscriptions: 0,
        lag_ms: 0,
    };
    let done: interface::Done = world.ic.update("announce", (info,)).await.unwrap();
    done.into_result().unwrap();
}

#[tokio::test]
async fn relays_list_themselves_and_leave_the_list_when_they_are_gone() {
    let world = World::new().await;
    let config = Config { directory_ttl_seconds: Some(3), ..Config::default() };
    let done: interface::Done = world.ic.update("configure", (config,)).await.unwrap();
    done.into_result().unwrap();
    let relays = peers(&world, 2).await;
    let said = relays[0].with_its_key(&world, &["cluster", "ls", "--json"], Vec::new()).await;
    let said = String::from_utf8(said.stdout).unwrap();
    let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut urls: Vec<&str> = rows.iter().map(|row| row["url"].as_str().unwrap()).collect();
    urls.sort_unstable();
    let mut expected: Vec<String> = relays.iter().map(|relay| relay.run.url()).collect();
    expected.sort_unstable();
    assert_eq!(urls.iter().map(|url| url.trim_end_matches('/')).collect::<Vec<_>>(), expected);
    assert_eq!(rows[0]["version"], env!("CARGO_PKG_VERSION"));
    let said = relays[0].with_its_key(&world, &["cluster", "ls"], Vec::new()).await;
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with("RELAY") && said.lines().count() == 3, "{said}");

    relays[1].run.process().kill().await;
    eventually(async || listed(&world).await.len() == 1).await;
    until(&relays[0], "aquifer_peers_known", 0.0).await;
    let mut relays = relays.into_iter();
    world.end(relays.next()).await;
}

#[tokio::test]
async fn who_is_revoked_is_no_peer_any_more() {
    let world = World::new().await;
    let relays = peers(&world, 2).await;
    let mut ear = Ear::open(&relays[1].run.url()).await;
    ear.listen("all", json!({ "kinds": [1] })).await;
    is_asked_for(&relays[0], 1).await;
    world.ic.revoke(relays[1].run.listening().principal.unwrap()).await.unwrap();
    until(&relays[0], "aquifer_peers_known", 0.0).await;
    is_asked_for(&relays[0], 0).await;
    Ear::open(&relays[0].run.url()).await.publish(&note(1, 1)).await;
    ear.hears_nothing().await;
    world.end(relays).await;
}

/// Two relays that share a store in a folder and hardly ever poll it. The second taps the first; of the second
/// its key alone matters.
async fn relays_of_a_folder(folder: &Path, shared: &str) -> [Relay; 2] {
    let seldom = async |data: &str, peer: &str| {
        let more = ["--peers", peer, "--metrics-listen", "127.0.0.1:0"];
        Relay::sharing_with(&folder.join(data), shared, SELDOM, &more).await
    };
    let key = identity(&artifacts(), &folder.join("b")).unwrap().public_key;
    let a = seldom("a", &format!("ws://127.0.0.1:9={key}")).await;
    let b = seldom("b", &format!("{}={}", a.run.url(), a.run.listening().public_key)).await;
    [a, b]
}

fn shared_in(folder: &Path) -> String {
    format!("lmdb:{}", folder.join("shared").display())
}

/// Such a store has an event before the relay that sends it up has handed it out.
#[tokio::test]
async fn however_quick_the_shared_store_is_peers_hear_of_each_event_by_tap() {
    const NOTES: u64 = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = relays_of_a_folder(folder.path(), &shared_in(folder.path())).await;
    let mut ear = Ear::open(&b.run.url()).await;
    ear.listen("all", json!({ "kinds": [1], "limit": 0 })).await;
    is_asked_for(&a, 1).await;
    let mut publisher = Ear::open(&a.run.url()).await;
    let began = now() - NOTES;
    for number in 0..NOTES {
        let note = Author::new(1).sign(began + number, 1, &[], "a note").into_inner();
        publisher.publish(&note).await;
    }
    let mut heard = Vec::new();
    for _ in 0..NOTES {
        heard.push(ear.event().await.created_at);
    }
    heard.sort_unstable();
    assert!(heard.is_sorted_by(|one, next| one < next), "one came twice");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn relays_of_a_store_that_is_no_canister_are_named_by_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let shared = shared_in(folder.path());
    let [a, b] = relays_of_a_folder(folder.path(), &shared).await;
    let mut ear = Ear::open(&b.run.url()).await;
    ear.listen("all", json!({ "kinds": [20_001] })).await;
    is_asked_for(&a, 1).await;
    let event = typing(1, 1);
    Ear::open(&a.run.url()).await.publish(&event).await;
    assert_eq!(ear.event().await, event);
    let data = folder.path().join("b").display().to_string();
    let words = ["cluster", "ls", "--layer2", &shared, "--data", &data];
    let said = aquifer(words.into_iter(), Vec::new()).await;
    assert!(
        !said.status.success() && String::from_utf8_lossy(&said.stderr).contains("no directory")
    );
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_message_reaches_its_receiver_on_another_relay_and_nobody_else() {
    let world = World::new().await;
    let relays = peers(&world, 2).await;
    let [ann, bob, eve] = [1, 2, 3].map(Author::new);
    let url = relays[1].run.url();
    let mut ears = Vec::new();
    for author in [&bob, &ann, &eve] {
        let mut ear = Ear::of(author, &url).await;
        ear.listen("messages", json!({ "kinds": [4, 1_059, 21_059] })).await;
        ears.push(ear);
    }
    let mut stranger = Ear::open(&url).await;
    stranger.listen("everything", json!({})).await;
    // Two for those who are there, by whom and to whom, and one for everything else.
    is_asked_for(&relays[0], 3).await;
    let mut publisher = Ear::open(&relays[0].run.url()).await;
    let to = bob.pubkey().to_string();
    for kind in [4, 1_059, 21_059] {
        let message = ann.sign(now(), kind, &[&["p", &to]], "sealed").into_inner();
        publisher.publish(&message).await;
        assert_eq!(ears[0].event().await, message, "the receiver, kind {kind}");
        assert_eq!(ears[1].event().await, message, "the sender, kind {kind}");
    }
    ears[2].hears_nothing().await;
    stranger.hears_nothing().await;
    // And whoever connects later, elsewhere, finds what was stored.
    let found = Ear::of(&bob, &url).await.listen("mine", json!({ "kinds": [4, 1_059] })).await;
    assert_eq!(found.len(), 2);
    world.end(relays).await;
}

#[tokio::test]
async fn a_message_waits_on_every_relay_for_a_receiver_who_was_away() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let [ann, bob, eve] = [1, 2, 3].map(Author::new);
    let message =
        ann.sign(now(), 1_059, &[&["p", &bob.pubkey().to_string()]], "sealed").into_inner();
    Ear::open(&a.run.url()).await.publish(&message).await;
    let asked = json!({ "kinds": [1_059] });
    eventually(async || {
        Ear::of(&bob, &b.run.url()).await.listen("mine", asked.clone()).await == [message.clone()]
    })
    .await;
    let found = Ear::of(&eve, &b.run.url()).await.listen("theirs", asked).await;
    assert!(found.is_empty(), "{found:?}");
    world.end([a, b]).await;
}
