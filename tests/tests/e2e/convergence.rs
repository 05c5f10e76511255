//! Four relays on one canister, and everything goes wrong: relays are killed, the canister is stopped,
//! upgraded and frozen, the gateway goes away, is slow and lies, and one relay's clock is an hour ahead,
//! while events come in at all of them with deletions and new versions. In the end all sets are equal.
//!
//! `TEST_EVENTS=20000 cargo test --workspace --test e2e convergence` takes more events than `scripts/test`
//! does; `TEST_SEED` repeats a run that failed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use corpus::{Author, Corpus};
use event::{Event, Kind, PublicKey, Tag, Timestamp};
use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    double::{Double, Lie, Plan},
    events::{Events, left_of, real_events_and_a_life},
    pace::publish,
    subscriber::Subscriber,
    world::{Relay, World, artifacts, number, same_within, tell},
};

/// Synthetic events, if nobody says otherwise.
const EVENTS: usize = 3_000;
/// Events that one relay is given in a second.
const RATE: u32 = 50;
const AUTHORS: usize = 60;
/// What is still under way after the last fault may have to wait for the longest pause, and a large
/// backlog takes its time.
const SETTLING: Duration = Duration::from_secs(240);
const HOUR_SECONDS: u64 = 3_600;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_all_sets_are_equal_in_the_end() {
    let seed = number("TEST_SEED", rand::rng().random());
    let count = number("TEST_EVENTS", EVENTS);
    tell(&format!("convergence: TEST_SEED={seed} TEST_EVENTS={count}"));
    let mut random = StdRng::seed_from_u64(seed);
    let events = events(&mut random, seed, count);
    let expected = tokio::task::spawn_blocking({
        let events = events.clone();
        move || left_of(&events)
    });
    let mut cluster = Cluster::new(seed).await;
    let subscribers = cluster.subscribers().await;
    let (published, publishing) = publish_everywhere(&cluster, &mut random, events.clone());
    cluster.suffers(published, events.len()).await;
    join_all(publishing).await.into_iter().for_each(|done| done.unwrap());

    let over = Instant::now();
    let expected = expected.await.unwrap();
    cluster.settles_on(&expected).await;
    let (sent, left, took) = (events.len(), expected.len(), over.elapsed().as_secs_f64());
    tell(&format!("convergence: {sent} events, {left} left, equal {took:.1} s after the last one"));
    for subscriber in &subscribers {
        subscriber.saw_each_once(&expected).await;
    }
    cluster.end().await;
}

/// Synthetic events with new versions and deletions of them, and the real ones, in any order.
fn events(random: &mut StdRng, seed: u64, count: usize) -> Vec<Event> {
    let authors: Vec<Author> = (0..AUTHORS).map(|number| Author::new(seed, number)).collect();
    let by_key: HashMap<PublicKey, &Author> =
        authors.iter().map(|author| (author.pubkey(), author)).collect();
    let mut corpus = Corpus::new(seed, AUTHORS);
    let mut events: Vec<Event> = corpus.events(count - count / 10).collect();
    for _ in 0..count / 10 {
        let target = &events[random.random_range(0..events.len())];
        let author = by_key[&target.pubkey];
        events.push(later_word(random, author, target));
    }
    events.extend(real_events_and_a_life());
    events.shuffle(random);
    events
}

/// Another version of `target`, or its deletion. What has versions is deleted by its address: what the
/// deletion of one version leaves of the others is a matter of the order of arrival.
fn later_word(random: &mut StdRng, author: &Author, target: &Event) -> Event {
    let address = target.address().map(|at| format!("{}:{}:{}", at.kind, at.pubkey, at.d));
    let date = |random: &mut StdRng| {
        Timestamp(target.created_at.0 + random.random_range(0..7_200) - 3_600)
    };
    match address {
        Some(_) if random.random_bool(0.6) => {
            author.sign(date(random), target.kind.0, target.tags.clone(), "another version".into())
        }
        Some(address) => {
            author.sign(date(random), Kind::DELETION.0, vec![tag("a", address)], String::new())
        }
        None => {
            let tags = vec![tag("e", target.id.to_string())];
            author.sign(date(random), Kind::DELETION.0, tags, String::new())
        }
    }
}

fn tag(name: &str, value: String) -> Tag {
    Tag(vec![name.to_owned(), value])
}

/// The four relays. The first two are killed; the third hears all through the double; so does the
/// fourth, whose clock is wrong.
struct Cluster {
    world: World,
    double: Double,
    clock: crate::world::Clock,
    relays: Vec<Relay>,
}

impl Cluster {
    async fn new(seed: u64) -> Cluster {
        let world = World::new().await;
        let double = Double::before(&world.ic.gateway(), seed).await;
        let gateway = world.ic.gateway();
        let (wrong, clock) = world.relay_through_with_a_clock(&gateway).await;
        clock.is_ahead(HOUR_SECONDS);
        let (a, b) = world.two_relays().await;
        let lied_to = world.relay_through(&double.url()).await;
        Cluster { world, double, clock, relays: vec![a, b, lied_to, wrong] }
    }

    /// Two at each relay that lives through it all.
    async fn subscribers(&self) -> Vec<Subscriber> {
        let filters = [json!({"limit": 0}), json!({"kinds": [1, 5, 30023], "limit": 0})];
        let relays = self.relays[2..].iter();
        let all = relays.flat_map(|relay| filters.iter().map(move |filter| (relay, filter)));
        join_all(all.map(|(relay, filter)| Subscriber::open(relay.run.url(), filter))).await
    }

    /// Everything that goes wrong, spread over the publishing of `count` events.
    async fn suffers(&mut self, mut published: watch::Receiver<usize>, count: usize) {
        let mut at = async |percent: usize| {
            let enough = count * percent / 100;
            published.wait_for(|published| *published >= enough).await.unwrap();
        };
        at(5).await;
        self.relays[0].crash_and_restart().await;
        at(15).await;
        self.world.ic.stop().await.unwrap();
        at(20).await;
        self.world.ic.upgrade(artifacts().wasm().unwrap()).await.unwrap();
        self.world.ic.start().await.unwrap();
        at(30).await;
        self.world.ic.run_dry().await.unwrap();
        at(38).await;
        self.world.ic.top_up().await.unwrap();
        self.double.plans(Plan::Always(Lie::Late));
        at(46).await;
        self.double.plans(Plan::Often(0.5));
        at(58).await;
        self.relays[1].run.process().kill().await;
        self.world.ic.cut_off().await.unwrap();
        at(66).await;
        self.relays[1].run.restart(&artifacts()).await.unwrap();
        self.world.ic.reconnect().await.unwrap();
        at(74).await;
        self.clock.is_right();
        self.double.plans(Plan::Honest);
        at(82).await;
        self.world.ic.upgrade(artifacts().wasm().unwrap()).await.unwrap();
        at(90).await;
        self.relays[0].crash_and_restart().await;
    }

    async fn settles_on(&self, expected: &Events) {
        let canister = async || self.world.canister_holds().await;
        same_within(SETTLING, "the canister", expected, canister).await;
        for relay in &self.relays {
            same_within(SETTLING, relay.name(), expected, async || relay.export().await).await;
        }
    }

    async fn end(self) {
        self.world.end(self.relays).await;
    }
}

/// Gives each event to a relay, whichever; counts those that a relay answered for.
fn publish_everywhere(
    cluster: &Cluster,
    random: &mut StdRng,
    events: Vec<Event>,
) -> (watch::Receiver<usize>, Vec<JoinHandle<()>>) {
    let (count, counted) = watch::channel(0);
    let mut shares = vec![Vec::new(); cluster.relays.len()];
    for event in events {
        shares[random.random_range(0..cluster.relays.len())].push(event);
    }
    let urls = cluster.relays.iter().map(|relay| relay.run.url());
    let publishing =
        urls.zip(shares).map(|(url, share)| tokio::spawn(publish(url, share, RATE, count.clone())));
    (counted, publishing.collect())
}
