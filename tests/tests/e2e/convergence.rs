//! Four relays on one canister, and everything goes wrong: relays are killed, the canister is stopped,
//! upgraded and frozen, the gateway goes away, is slow and lies, and one relay's clock is an hour ahead,
//! while events come in at all of them with deletions and new versions. In the end all sets are equal.
//!
//! `TEST_EVENTS=20000 cargo test --workspace --test e2e convergence` takes more events than `scripts/test`
//! does; `TEST_SEED` repeats a run that failed.

use std::{
    collections::{HashMap, HashSet},
    env,
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use corpus::{Author, Corpus};
use event::{Event, EventId, Filter, Kind, PublicKey, Tag, Timestamp};
use futures_util::{SinkExt, StreamExt, future::join_all};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::{
    double::{Double, Lie, Plan},
    events::{Events, left_of, real_events_and_a_life},
    world::{Relay, World, artifacts, same_within, tell},
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

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn number<T: FromStr>(variable: &str, default: T) -> T {
    env::var(variable).map_or(default, |text| text.parse().ok().expect("it is a number"))
}

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
        urls.zip(shares).map(|(url, share)| tokio::spawn(publish(url, share, count.clone())));
    (counted, publishing.collect())
}

/// Publishes at one relay, over as many connections as it takes: what was not answered for before one
/// broke is sent again.
async fn publish(url: String, events: Vec<Event>, count: watch::Sender<usize>) {
    let ids: HashSet<EventId> = events.iter().map(|event| event.id).collect();
    let mut answered = HashSet::new();
    let mut pace = interval(Duration::from_secs(1) / RATE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while answered.len() < ids.len() {
        let Ok((socket, _)) = connect_async(&url).await else {
            // It is down, and comes back.
            pace.tick().await;
            continue;
        };
        let (mut sink, mut stream) = socket.split();
        let left: Vec<&Event> = events.iter().filter(|e| !answered.contains(&e.id)).collect();
        let sending = async {
            for event in left {
                pace.tick().await;
                let frame = format!(r#"["EVENT",{}]"#, event.to_json());
                if sink.send(Message::text(frame)).await.is_err() {
                    return;
                }
            }
        };
        let hearing = async {
            while answered.len() < ids.len() {
                let Some(Ok(message)) = stream.next().await else { return };
                let Message::Text(text) = message else { continue };
                if answered.insert(answered_for(&text)) {
                    count.send_modify(|count| *count += 1);
                }
            }
        };
        tokio::join!(sending, hearing);
    }
}

/// Which event this OK is for. What was deleted already is refused, and rightly; nothing else is.
fn answered_for(text: &str) -> EventId {
    let frame: Value = serde_json::from_str(text).unwrap();
    let is_deleted = frame[3].as_str().is_some_and(|reason| reason.starts_with("blocked: "));
    assert!(frame[0] == "OK" && (frame[2] == true || is_deleted), "{frame}");
    frame[1].as_str().unwrap().parse().unwrap()
}

/// Somebody who listens from the first event to the last.
struct Subscriber {
    filter: Filter,
    url: String,
    seen: Arc<Mutex<HashMap<EventId, usize>>>,
    _listening: JoinHandle<()>,
}

impl Subscriber {
    /// Returns after EOSE.
    async fn open(url: String, filter: &Value) -> Subscriber {
        let (mut socket, _) = connect_async(&url).await.unwrap();
        socket.send(Message::text(json!(["REQ", "all", filter]).to_string())).await.unwrap();
        // Pings come between.
        let eose = loop {
            if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
                break text;
            }
        };
        assert!(eose.starts_with("[\"EOSE\""), "{eose}");
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let listening = tokio::spawn(listen(socket, seen.clone()));
        let filter = Filter::from_json(filter.to_string().as_bytes()).unwrap();
        Subscriber { filter: Filter { limit: None, ..filter }, url, seen, _listening: listening }
    }

    /// All that is left in the end was seen, each event once. Of what was replaced or deleted on its
    /// way some may never have come here; but nothing came twice, and nothing that was not asked for.
    async fn saw_each_once(&self, expected: &Events) {
        let wanted: Vec<EventId> =
            expected.values().filter(|e| self.filter.matches(e)).map(|e| e.id).collect();
        let started = Instant::now();
        let missing = || {
            let seen = self.seen.lock().unwrap();
            wanted.iter().filter(|id| !seen.contains_key(id)).count()
        };
        while missing() > 0 {
            assert!(
                started.elapsed() < crate::world::PATIENCE,
                "{}: {} never came",
                self.url,
                missing()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let seen = self.seen.lock().unwrap();
        let twice = seen.iter().filter(|(_, times)| **times > 1).count();
        assert_eq!(twice, 0, "{}: events came more than once", self.url);
        let unasked = expected.values().filter(|e| !self.filter.matches(e));
        let unasked = unasked.filter(|event| seen.contains_key(&event.id)).count();
        assert_eq!(unasked, 0, "{}: nobody asked for these", self.url);
    }
}

async fn listen(mut socket: Socket, seen: Arc<Mutex<HashMap<EventId, usize>>>) {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame[0], "EVENT", "{frame}");
        let id: EventId = frame[2]["id"].as_str().unwrap().parse().unwrap();
        *seen.lock().unwrap().entry(id).or_default() += 1;
    }
}
