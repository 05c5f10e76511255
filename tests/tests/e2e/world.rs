//! The words that the stories are told in.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use cluster::{
    Artifacts, Echo, Ic, Placement, RelayOptions, RelayProcess, Server, Source, canister_url,
    identity, server::Chooser,
};
use event::{Event, EventId, Packed};
use futures_util::{StreamExt, stream};
use interface::{Answer, EventBytes, QueryPage, QueryRequest, Role, SaveOutcome};
use nostr_sdk::{
    JsonUtil, RelayMessage, SubscribeOptions, SubscriptionId,
    pool::{RelayNotification, relay::ReqExitPolicy},
};
use tempfile::TempDir;
use tokio::{sync::OnceCell, sync::broadcast};

use crate::events::{Events, by_id, difference, jsonl};

/// How often relays look at the canister here, if a story does not say otherwise.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// No story waits longer for anything; only a failure does. A call that nobody answers takes a minute.
pub const PATIENCE: Duration = Duration::from_secs(100);
/// Events that a client has on the way at a time.
const WINDOW: usize = 50;

/// Prints past the test harness, which would keep it to itself.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub fn artifacts() -> Artifacts {
    Artifacts::here().unwrap()
}

/// A number that whoever starts the tests may set.
pub fn number<T: FromStr>(variable: &str, default: T) -> T {
    env::var(variable).map_or(default, |text| text.parse().ok().expect("it is a number"))
}

/// The one server of this test binary.
pub async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    let start = || async {
        let choice = Chooser::new(&artifacts()).choose().await.unwrap();
        tell(&choice.to_string());
        Server::start(choice, Echo::OnPanic).await.unwrap()
    };
    SERVER.get_or_init(start).await
}

/// Waits until `found` is as `expected`.
pub async fn eventually_same(place: &str, expected: &Events, found: impl AsyncFn() -> Events) {
    same_within(PATIENCE, place, expected, found).await;
}

/// Waits until `found` is as `expected`, but not for ever.
pub async fn same_within(
    patience: Duration,
    place: &str,
    expected: &Events,
    found: impl AsyncFn() -> Events,
) {
    let started = Instant::now();
    loop {
        let Some(difference) = difference(expected, &found().await) else { return };
        assert!(started.elapsed() < patience, "{place}: {difference}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until `found` has all of `expected`, and perhaps more.
pub async fn eventually_has(place: &str, expected: &Events, found: impl AsyncFn() -> Events) {
    let only_expected = async || {
        let mut found = found().await;
        found.retain(|id, _| expected.contains_key(id));
        found
    };
    eventually_same(place, expected, only_expected).await;
}

/// Waits until it is true.
pub async fn eventually(is_true: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_true().await {
        assert!(started.elapsed() < PATIENCE, "it did not come true");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An Internet Computer with the event store on it, and relays.
pub struct World {
    pub ic: Ic,
    folder: TempDir,
    relays: AtomicUsize,
}

impl World {
    pub async fn new() -> World {
        let mut ic = Ic::open(server().await, &Placement::default()).await.unwrap();
        ic.install(artifacts().wasm().unwrap()).await.unwrap();
        World { ic, folder: tempfile::tempdir().unwrap(), relays: AtomicUsize::new(0) }
    }

    /// A relay that the canister has granted, with an empty L1.
    pub async fn relay(&self) -> Relay {
        let options = self.relay_options();
        self.grant(&options).await;
        Relay::start(options).await
    }

    /// A relay that the canister does not know, with further words on its command line.
    pub async fn stranger(&self, more: &[&str]) -> Relay {
        let mut options = self.relay_options();
        options.more.extend(more.iter().map(|word| (*word).to_owned()));
        Relay::start(options).await
    }

    /// A granted relay with further words on its command line.
    pub async fn relay_with(&self, more: &[&str]) -> Relay {
        let mut options = self.relay_options();
        options.more.extend(more.iter().map(|word| (*word).to_owned()));
        self.grant(&options).await;
        Relay::start(options).await
    }

    /// A granted relay that looks at the canister this often.
    pub async fn relay_that_polls(&self, interval: Duration) -> Relay {
        self.relay_that_polls_with(interval, &[]).await
    }

    /// One that does so, with further words on its command line.
    pub async fn relay_that_polls_with(&self, interval: Duration, more: &[&str]) -> Relay {
        let mut options = RelayOptions { poll_interval: Some(interval), ..self.relay_options() };
        options.more.extend(more.iter().map(|word| (*word).to_owned()));
        self.grant(&options).await;
        Relay::start(options).await
    }

    /// A granted relay that is started in another way than most.
    pub async fn relay_but(&self, change: impl FnOnce(&mut RelayOptions)) -> Relay {
        let mut options = self.relay_options();
        change(&mut options);
        self.grant(&options).await;
        Relay::start(options).await
    }

    /// A granted relay that reaches the canister by this gateway.
    pub async fn relay_through(&self, gateway: &str) -> Relay {
        self.relay_but(|options| options.gateway = gateway.to_owned()).await
    }

    /// The same, with a clock that can be set wrong.
    pub async fn relay_through_with_a_clock(&self, gateway: &str) -> (Relay, Clock) {
        let clock = Clock::make(self.folder.path());
        let change = |options: &mut RelayOptions| {
            options.gateway = gateway.to_owned();
            options.environment = clock.environment();
        };
        (self.relay_but(change).await, clock)
    }

    pub async fn two_relays(&self) -> (Relay, Relay) {
        (self.relay().await, self.relay().await)
    }

    pub async fn grant(&self, options: &RelayOptions) {
        let who = identity(&artifacts(), &options.data).unwrap().principal;
        self.ic.grant(who, Role::Relay, &options.name).await.unwrap();
    }

    fn relay_options(&self) -> RelayOptions {
        let number = self.relays.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-{number}");
        RelayOptions {
            data: self.folder.path().join(&name),
            name,
            port: 0,
            canister: Some(self.ic.canister()),
            gateway: self.ic.gateway(),
            poll_interval: Some(POLL_INTERVAL),
            more: Vec::new(),
            environment: Vec::new(),
            echo: Echo::OnPanic,
        }
    }

    /// The canister as relays are told of it.
    pub fn url(&self) -> String {
        canister_url(self.ic.canister(), &self.ic.gateway())
    }

    /// All that the canister holds, page by page.
    pub async fn canister_holds(&self) -> Events {
        let mut request = QueryRequest { filters: vec![Default::default()], ..Default::default() };
        let mut events = Events::new();
        loop {
            let page: Answer<QueryPage> =
                self.ic.query("query_events", (request.clone(),)).await.unwrap();
            let Answer::Ok(QueryPage { events: packed, cursor, .. }) = page else {
                panic!("the canister answers {page:?}");
            };
            events.extend(by_id(packed.iter().map(|bytes| unpack(bytes))));
            request.cursor = cursor;
            if request.cursor.is_none() {
                return events;
            }
        }
    }

    /// Waits until the canister holds so many events.
    pub async fn until_it_holds(&self, events: u64) {
        let started = Instant::now();
        while self.ic.status().await.unwrap().events < events {
            assert!(started.elapsed() < PATIENCE, "the canister does not get {events} events");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Saves past the relays, as the canister's operator.
    pub async fn save(&self, events: &[Event]) -> Vec<SaveOutcome> {
        let packed: Vec<EventBytes> = events.iter().map(|e| EventBytes::from(e.pack())).collect();
        self.ic.update("save_events", (packed,)).await.unwrap()
    }

    /// Waits until the canister and all `relays` hold just `expected`.
    pub async fn settles_on(&self, expected: &Events, relays: &[&Relay]) {
        eventually_same("the canister", expected, async || self.canister_holds().await).await;
        for relay in relays {
            let client = relay.client().await;
            eventually_same(relay.name(), expected, async || client.fetch_all().await).await;
        }
    }

    /// Waits until the canister and all `relays` hold all of `expected`, and perhaps more.
    pub async fn settles_on_at_least(&self, expected: &Events, relays: &[&Relay]) {
        eventually_has("the canister", expected, async || self.canister_holds().await).await;
        for relay in relays {
            let client = relay.client().await;
            eventually_has(relay.name(), expected, async || client.fetch_all().await).await;
        }
    }

    /// Ends the story: the relays stop well, and the instance makes room for others.
    pub async fn end(self, relays: impl IntoIterator<Item = Relay>) {
        for relay in relays {
            relay.stop().await;
        }
        self.ic.close().await.unwrap();
    }
}

/// The clock of a relay, which is right at first.
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    fn make(folder: &Path) -> Clock {
        Clock { library: shim("wrong-clock", folder), file: folder.join("clock") }
    }

    fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("LD_PRELOAD".into(), self.library.display().to_string()),
            ("WRONG_CLOCK".into(), self.file.display().to_string()),
        ]
    }

    /// From now on it is ahead by so many seconds.
    pub fn is_ahead(&self, seconds: u64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, seconds.to_string()).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }

    pub fn is_right(&self) {
        std::fs::remove_file(&self.file).unwrap();
    }
}

/// Compiles a library of `tests/data`, to be loaded before others into a relay. A C compiler is there: the
/// build needs one.
pub fn shim(name: &str, folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name).with_extension("c");
    let library = folder.join(name).with_extension("so");
    let mut compiler = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    let compiler = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    library
}

fn unpack(bytes: &[u8]) -> Event {
    Packed::parse(bytes).expect("the canister answers with packed events").unpack()
}

fn without_canister(name: String, folder: &Path) -> RelayOptions {
    RelayOptions {
        name,
        data: folder.into(),
        port: 0,
        canister: None,
        gateway: String::new(),
        poll_interval: None,
        more: Vec::new(),
        environment: Vec::new(),
        echo: Echo::OnPanic,
    }
}

/// A relay of the real binary.
pub struct Relay {
    pub run: RelayProcess,
}

impl Relay {
    async fn start(options: RelayOptions) -> Relay {
        Relay { run: RelayProcess::start(&artifacts(), options).await.unwrap() }
    }

    /// A relay that shares its events with nobody, with its data in `folder`.
    pub async fn alone(folder: &Path) -> Relay {
        Relay::alone_with(folder, &[]).await
    }

    /// The same with further words on its command line.
    pub async fn alone_with(folder: &Path, more: &[&str]) -> Relay {
        let more = more.iter().map(|word| (*word).to_owned()).collect();
        let options = RelayOptions { more, ..without_canister("alone".into(), folder) };
        let relay = Relay::start(options).await;
        // From here on it has its store.
        relay.client().await;
        relay
    }

    /// A relay with its data in `folder` that shares this store, which is no canister.
    pub async fn sharing(folder: &Path, layer2: &str) -> Relay {
        Relay::sharing_with(folder, layer2, POLL_INTERVAL, &[]).await
    }

    /// One that looks at it this often, with further words on its command line.
    pub async fn sharing_with(
        folder: &Path,
        layer2: &str,
        poll_interval: Duration,
        more: &[&str],
    ) -> Relay {
        let name = folder.file_name().expect("its folder has a name").to_string_lossy();
        let words = [&["--layer2", layer2], more].concat();
        let options = RelayOptions {
            more: words.into_iter().map(str::to_owned).collect(),
            poll_interval: Some(poll_interval),
            ..without_canister(name.into(), folder)
        };
        Relay::start(options).await
    }

    pub fn name(&self) -> &str {
        self.run.process().name()
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.run.url()).await
    }

    /// Waits until it has noticed that its events do not get through: the outage is real.
    pub async fn misses_the_canister(&self) {
        let waits = |line: &str| line.contains("L2 does not take events");
        self.run.process().line(Source::Stderr, waits, PATIENCE).await.unwrap();
    }

    /// Kills it as a crash would, and starts it again on what is left.
    pub async fn crash_and_restart(&mut self) {
        self.run.process().kill().await;
        self.run.restart(&artifacts()).await.unwrap();
    }

    /// Stops it as an operator would.
    pub async fn stop(self) {
        let status = self.run.process().stop().await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.run.process().explain("did not stop well"));
    }

    /// `aquifer import` of these events, in this order; gives its summary.
    pub async fn import(&self, events: &[Event]) -> serde_json::Value {
        let lines = jsonl(events).into_bytes();
        let output = self.aquifer(&["import", "-", "--json"], lines).await;
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().last().expect("import ends with a summary");
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// `aquifer export` of all events.
    pub async fn export(&self) -> Events {
        let output = self.aquifer(&["export"], Vec::new()).await;
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        by_id(lines.map(|line| Event::from_json(line).expect("export writes events")))
    }

    async fn aquifer(&self, words: &[&str], input: Vec<u8>) -> Output {
        let url = self.run.url();
        let output = aquifer(words.iter().copied().chain(["--relay", &url]), input).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "aquifer {words:?}: {}: {said}", output.status);
        output
    }

    /// `aquifer l2` with these words, with the key of this relay. The store of `world` is the
    /// configured one.
    pub async fn l2(&self, world: &World, words: &[&str], input: Vec<u8>) -> Output {
        self.with_its_key(world, &[&["l2"], words].concat(), input).await
    }

    /// `aquifer` with these words, the key of this relay, and the store of `world`.
    pub async fn with_its_key(&self, world: &World, words: &[&str], input: Vec<u8>) -> Output {
        let url = world.url();
        let data = self.run.options().data.display().to_string();
        let words = words.iter().copied();
        aquifer_in(&[("AQUIFER_LAYER2", &url)], words.chain(["--data", &data]), input).await
    }
}

/// Runs `aquifer` to its end.
pub async fn aquifer<'a>(words: impl Iterator<Item = &'a str>, input: Vec<u8>) -> Output {
    aquifer_in(&[], words, input).await
}

/// Runs `aquifer` to its end, with these variables in its environment.
async fn aquifer_in<'a>(
    environment: &[(&str, &str)],
    words: impl Iterator<Item = &'a str>,
    input: Vec<u8>,
) -> Output {
    let mut command = tokio::process::Command::new(artifacts().aquifer().unwrap());
    command.args(words).envs(environment.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = async move {
        use tokio::io::AsyncWriteExt;
        // A command that has seen enough reads no further; what it says matters.
        let _ = stdin.write_all(&input).await;
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    output.unwrap()
}

/// A nostr client of one relay. The `nostr-sdk` crate checks ids and signatures of what it gets.
pub struct Client {
    /// Keeps the connection.
    _sdk: nostr_sdk::Client,
    relay: nostr_sdk::Relay,
}

impl Client {
    pub async fn connect(url: &str) -> Client {
        let sdk = nostr_sdk::Client::default();
        sdk.add_relay(url).await.unwrap();
        let relay = sdk.relay(url).await.unwrap();
        relay.try_connect(PATIENCE).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        Client { _sdk: sdk, relay }
    }

    /// Publishes, and waits for the OK; the reason if it is a no.
    pub async fn try_publish(&self, event: &Event) -> Result<(), String> {
        let event = nostr_sdk::Event::from_json(event.to_json()).expect("it is an event");
        self.relay.send_event(&event).await.map(drop).map_err(|error| error.to_string())
    }

    #[track_caller]
    pub fn publish<'a>(&'a self, event: &'a Event) -> impl Future<Output = ()> + 'a {
        let told = std::panic::Location::caller();
        async move {
            let outcome = self.try_publish(event).await;
            assert!(outcome.is_ok(), "published at {told}: {outcome:?}");
        }
    }

    pub async fn publish_all(&self, events: &[Event]) {
        let acknowledged = self.publish_until(events, events.len()).await;
        assert_eq!(acknowledged.len(), events.len());
    }

    /// Publishes, many at a time, until `count` are acknowledged; gives those. More are on the way.
    pub async fn publish_until(&self, events: &[Event], count: usize) -> Events {
        let sending = |event| async move {
            self.publish(event).await;
            event.clone()
        };
        by_id(
            stream::iter(events)
                .map(sending)
                .buffer_unordered(WINDOW)
                .take(count)
                .collect::<Vec<_>>()
                .await,
        )
    }

    /// All that the relay holds, in one query.
    pub async fn fetch_all(&self) -> Events {
        self.fetch(nostr_sdk::Filter::new().limit(5_000)).await
    }

    pub async fn fetch_ids(&self, ids: impl IntoIterator<Item = &EventId>) -> Events {
        let ids = ids.into_iter().map(|id| nostr_sdk::EventId::from_byte_array(id.0));
        self.fetch(nostr_sdk::Filter::new().ids(ids).limit(5_000)).await
    }

    pub async fn fetch(&self, filter: nostr_sdk::Filter) -> Events {
        let policy = ReqExitPolicy::ExitOnEOSE;
        let events = self.relay.fetch_events(filter, PATIENCE, policy).await.unwrap();
        by_id(events.into_iter().map(|event| ours(&event)))
    }

    /// Subscribes to all new events; returns after EOSE. The subscription keeps the connection.
    pub async fn subscribe(self) -> Subscription {
        let frames = self.relay.notifications();
        let filter = nostr_sdk::Filter::new().limit(0);
        let id = self.relay.subscribe(filter, SubscribeOptions::default()).await.unwrap();
        let mut subscription = Subscription { id, frames, got: Vec::new(), _client: self };
        subscription
            .until("EOSE", |frame, id| {
                matches!(frame, RelayMessage::EndOfStoredEvents(eose) if eose.as_ref() == id)
            })
            .await;
        subscription
    }
}

fn ours(event: &nostr_sdk::Event) -> Event {
    Event::from_json(event.as_json().as_bytes()).expect("a client gets events")
}

/// An open subscription, and every EVENT frame that came for it, repetitions too.
pub struct Subscription {
    id: SubscriptionId,
    frames: broadcast::Receiver<RelayNotification>,
    got: Vec<Event>,
    _client: Client,
}

impl Subscription {
    /// Waits for the frame that brings `event`.
    pub async fn gets(&mut self, event: &Event) {
        if self.times(event) == 0 {
            let wanted = nostr_sdk::EventId::from_byte_array(event.id.0);
            self.until("the event", |frame, id| {
                matches!(frame, RelayMessage::Event { subscription_id, event }
                    if subscription_id.as_ref() == id && event.id == wanted)
            })
            .await;
        }
        assert!(self.got.contains(event), "it came changed");
    }

    /// How often it came so far.
    pub fn times(&self, event: &Event) -> usize {
        self.got.iter().filter(|got| got.id == event.id).count()
    }

    async fn until(
        &mut self,
        what: &str,
        is_wanted: impl Fn(&RelayMessage<'_>, &SubscriptionId) -> bool,
    ) {
        let wait = async {
            loop {
                let notification = self.frames.recv().await.expect("the client keeps up");
                let RelayNotification::Message { message } = notification else { continue };
                if let RelayMessage::Event { subscription_id, event } = &message
                    && subscription_id.as_ref() == &self.id
                {
                    self.got.push(ours(event));
                }
                if is_wanted(&message, &self.id) {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, wait).await.is_ok();
        assert!(in_time, "{what} did not come in {PATIENCE:?}");
    }
}
