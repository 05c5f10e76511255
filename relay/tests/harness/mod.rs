//! The tests' small language: a relay in this process, clients over its socket, and an L2 in memory.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aquifer::{
    Listeners, Signals,
    config::{Config, NotGranted, Settings},
    identity::Identity,
};
use async_trait::async_trait;
use candid::Principal;
use event::{Event, EventId, Filter, Packed, Timestamp};
use futures_util::{FutureExt, SinkExt, StreamExt};
use layer2::{
    Change, ChangesFrom, ChangesPage, Count, DeleteOutcome, Deletion, Detail, Layer2, Layer2Error,
    QueryPage, Role, SaveOutcome, Status, What,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest},
};

/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to look for what must not come.
const SILENCE: Duration = Duration::from_millis(300);
const POLL_SECONDS: f64 = 0.05;

/// A relay on a free port.
pub struct TestRelay {
    pub url: String,
    metrics: SocketAddr,
    signals: Signals,
    running: JoinHandle<anyhow::Result<()>>,
    folder: TempDir,
}

pub async fn relay() -> TestRelay {
    TestRelay::start(tempfile::tempdir().unwrap(), None, NotGranted::Keep).await
}

/// A relay that is configured in another way than most.
pub async fn relay_but(change: impl FnOnce(&mut Config)) -> TestRelay {
    TestRelay::start_with(tempfile::tempdir().unwrap(), None, change).await
}

pub async fn relay_with(l2: &FakeL2) -> TestRelay {
    let folder = tempfile::tempdir().unwrap();
    TestRelay::start(folder, Some(l2.clone()), NotGranted::Keep).await
}

impl TestRelay {
    pub async fn start(folder: TempDir, l2: Option<FakeL2>, not_granted: NotGranted) -> TestRelay {
        TestRelay::start_with(folder, l2, |config| config.not_granted = not_granted).await
    }

    /// A relay whose configuration is changed before it starts.
    pub async fn start_with(
        folder: TempDir,
        l2: Option<FakeL2>,
        change: impl FnOnce(&mut Config),
    ) -> TestRelay {
        let mut config = Settings::default().resolve().unwrap();
        config.data = folder.path().to_owned();
        config.poll_interval = Duration::from_secs_f64(POLL_SECONDS);
        change(&mut config);
        let identity = Identity::open(folder.path()).unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = Listeners::bind(any_port, Some(any_port)).unwrap();
        let url = format!("ws://{}", listeners.clients.local_addr().unwrap());
        let metrics = listeners.metrics.as_ref().unwrap().local_addr().unwrap();
        let signals = Signals::default();
        let l2 = l2.map(|l2| Arc::new(l2) as Arc<dyn Layer2>);
        let running = tokio::spawn(aquifer::run(config, identity, l2, listeners, signals.clone()));
        TestRelay { url, metrics, signals, running, folder }
    }

    pub async fn client(&self) -> Client {
        // Small messages go out at once.
        let connecting = connect_async_with_config(&self.url, None, true);
        Client { socket: connecting.await.unwrap().0 }
    }

    /// A client that says more than others when it connects; or the status that it is refused with.
    pub async fn client_with(&self, headers: &[(&'static str, &str)]) -> Result<Client, u16> {
        let mut request = self.url.as_str().into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async_with_config(request, None, true).await {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// A connection on which nothing was said yet.
    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.url.trim_start_matches("ws://")).await.unwrap()
    }

    /// Has it read its configuration again.
    pub fn reload(&self) {
        self.signals.reload.notify_one();
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    /// Sends a call (NIP-86): the status, and the answer.
    pub async fn post(&self, headers: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let headers = format!(
            "Content-Type: application/nostr+json+rpc\r\nContent-Length: {length}\r\n\
             Connection: close\r\n{headers}\r\n{body}"
        );
        let response = self.ask("POST", &headers).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    /// The whole response to a plain request with these headers on the clients' port.
    pub async fn get(&self, headers: &str) -> String {
        self.ask("GET", headers).await
    }

    pub async fn ask(&self, method: &str, headers: &str) -> String {
        let address = self.url.trim_start_matches("ws://").parse().unwrap();
        request(address, method, "/", headers).await
    }

    /// The information document (NIP-11).
    pub async fn document(&self) -> Value {
        let headers = "Accept: application/nostr+json\r\nConnection: close\r\n";
        let response = self.get(headers).await;
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// The value of one metric, as Prometheus would see it.
    pub async fn metric(&self, name: &str) -> f64 {
        let close = "Connection: close\r\n";
        let response = request(self.metrics, "GET", "/metrics", close).await;
        let value = response.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {response}")).parse().unwrap()
    }

    /// Until a metric has this value.
    pub async fn wait_for_metric(&self, name: &str, expected: f64) {
        self.wait_for(async || self.metric(name).await == expected).await;
    }

    /// Until something is true that the relay tells when it is asked.
    pub async fn wait_for(&self, is_true: impl AsyncFn() -> bool) {
        let reached = async {
            while !is_true().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("it comes true");
    }

    /// What `aquifer` prints when its operator says this to it.
    pub async fn told(&self, words: &[&str]) -> String {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aquifer"));
        let output = command.args(words).arg("--data").arg(self.data()).output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said} {error}");
        said
    }

    /// Stops it, and hands over its folder.
    pub async fn stop(self) -> TempDir {
        self.signals.stop.cancel();
        timeout(PATIENCE, self.running).await.expect("a stop ends").unwrap().unwrap();
        self.folder
    }
}

/// The headers have to ask for the end of the connection, which is the end of the response.
pub async fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: relay\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

/// One websocket.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// What the relay said to an EVENT.
#[derive(Debug)]
pub struct Reply {
    pub accepted: bool,
    pub message: String,
}

impl Reply {
    /// Reads an OK.
    pub fn read(frame: &Value) -> Reply {
        Reply {
            accepted: frame[2].as_bool().unwrap(),
            message: frame[3].as_str().unwrap().to_owned(),
        }
    }

    #[track_caller]
    pub fn expect_ok(self) {
        assert!(self.accepted && self.message.is_empty(), "{self:?}");
    }

    #[track_caller]
    pub fn expect_ok_because(self, reason: &str) {
        assert!(self.accepted && self.message.starts_with(reason), "{self:?} is not {reason:?}");
    }

    #[track_caller]
    pub fn expect_refused(self, reason: &str) {
        assert!(!self.accepted && self.message.starts_with(reason), "{self:?} is not {reason:?}");
    }
}

pub fn value_of(event: &Event) -> Value {
    serde_json::from_str(&event.to_json()).unwrap()
}

impl Client {
    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Pings, and waits for the pong that carries the same.
    pub async fn ping(&mut self, payload: &'static [u8]) {
        self.socket.send(Message::Ping(payload.into())).await.unwrap();
        let expected = Message::Pong(payload.into());
        let heard = async { while self.socket.next().await.unwrap().unwrap() != expected {} };
        timeout(PATIENCE, heard).await.expect("a ping is answered");
    }

    pub async fn publish(&mut self, event: &Event) -> Reply {
        self.send(json!(["EVENT", value_of(event)])).await;
        self.ok().await
    }

    /// All at once, then all answers, which must be good.
    pub async fn publish_all<E: std::ops::Deref<Target = Event>>(&mut self, events: &[E]) {
        for events in events.chunks(100) {
            for event in events {
                self.send(json!(["EVENT", value_of(event)])).await;
            }
            for _ in events {
                self.ok().await.expect_ok();
            }
        }
    }

    pub async fn req(&mut self, id: &str, filters: &[Value]) {
        let mut frame = vec![json!("REQ"), json!(id)];
        frame.extend_from_slice(filters);
        self.send(Value::Array(frame)).await;
    }

    pub async fn ok(&mut self) -> Reply {
        Reply::read(&self.frame_of("OK").await)
    }

    pub async fn expect_no_ok(&mut self) {
        let told = timeout(SILENCE, self.ok()).await;
        assert!(told.is_err(), "an answer too early: {told:?}");
    }

    pub async fn notice(&mut self) -> String {
        self.frame_of("NOTICE").await[1].as_str().unwrap().to_owned()
    }

    pub async fn closed(&mut self, id: &str) -> String {
        let frame = self.frame_of("CLOSED").await;
        assert_eq!(frame[1], id);
        frame[2].as_str().unwrap().to_owned()
    }

    /// What the relay wants to have signed (NIP-42): it says so when it has to refuse something.
    pub async fn challenge(&mut self) -> String {
        self.req("secret", &[json!({"kinds": [4]})]).await;
        let challenge = self.frame_of("AUTH").await[1].as_str().unwrap().to_owned();
        assert!(self.closed("secret").await.starts_with("auth-required: "));
        challenge
    }

    /// What a COUNT is answered with.
    pub async fn count(&mut self, filters: &[Value]) -> Value {
        let mut frame = vec![json!("COUNT"), json!("count")];
        frame.extend_from_slice(filters);
        self.send(Value::Array(frame)).await;
        let answer = self.frame_of("COUNT").await;
        assert_eq!(answer[1], "count");
        answer[2].clone()
    }

    /// What EOSE says of the answer to these filters (NIP-67).
    pub async fn hint(&mut self, filters: &[Value]) -> String {
        self.req("hint", filters).await;
        let frame = self.frame_of("EOSE").await;
        self.send(json!(["CLOSE", "hint"])).await;
        frame[2][0].as_str().unwrap().to_owned()
    }

    /// The id of the next event of a subscription.
    pub async fn event(&mut self, id: &str) -> String {
        let frame = self.frame_of("EVENT").await;
        assert_eq!(frame[1], id);
        frame[2]["id"].as_str().unwrap().to_owned()
    }

    pub async fn events_until_eose(&mut self, id: &str) -> Vec<String> {
        let mut events = Vec::new();
        loop {
            let frame = self.next_frame().await;
            match frame[0].as_str().unwrap() {
                "EVENT" if frame[1] == id => {
                    events.push(frame[2]["id"].as_str().unwrap().to_owned());
                }
                "EOSE" if frame[1] == id => return events,
                _ => {}
            }
        }
    }

    /// The next `count` events, no two of them equal.
    pub async fn distinct_events(&mut self, id: &str, count: usize) -> HashSet<String> {
        let mut events = HashSet::new();
        for _ in 0..count {
            assert!(events.insert(self.event(id).await), "an event came twice");
        }
        events
    }

    pub async fn expect_no_more_events(&mut self, id: &str) {
        let more = timeout(SILENCE, self.event(id)).await;
        assert!(more.is_err(), "an event too many: {more:?}");
    }

    /// Asks until the answer is empty.
    pub async fn eventually_empty(&mut self, filter: &Value) {
        let emptied = timeout(PATIENCE, async {
            loop {
                self.req("until empty", std::slice::from_ref(filter)).await;
                if self.events_until_eose("until empty").await.is_empty() {
                    return;
                }
            }
        });
        emptied.await.expect("it becomes empty");
    }

    /// Says what the relay does not listen to; its goodbye (1009) may be lost with the rest.
    pub async fn expect_cut_off_after(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text)).await;
        let ending = async {
            while let Some(Ok(message)) = self.socket.next().await {
                assert!(!message.is_text(), "{message}");
            }
        };
        timeout(PATIENCE, ending).await.expect("the relay ends it");
    }

    /// The code of the relay's goodbye.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.unwrap()?.ok()?;
            if let Message::Close(frame) = message {
                return frame.map(|frame| frame.code.into());
            }
        }
    }

    /// The next frame of this verb; others are passed over.
    pub async fn frame_of(&mut self, verb: &str) -> Value {
        loop {
            let frame = self.next_frame().await;
            if frame[0] == verb {
                return frame;
            }
        }
    }

    pub async fn next_frame(&mut self) -> Value {
        timeout(PATIENCE, self.coming_frame()).await.expect("a frame comes")
    }

    /// A frame that is here already.
    pub fn frame_here(&mut self) -> Option<Value> {
        self.coming_frame().now_or_never()
    }

    async fn coming_frame(&mut self) -> Value {
        loop {
            let message = self.socket.next().await.expect("the relay is there");
            if let Message::Text(text) = message.unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }
}

/// A log in memory, which can be away, lose answers and refuse.
#[derive(Clone)]
pub struct FakeL2 {
    name: &'static str,
    /// Watched, so that tests wait for what happens to it.
    state: Arc<watch::Sender<State>>,
}

struct State {
    log: Vec<Entry>,
    /// What the log leaves, with its places there, and in NIP-01's order.
    held: HashMap<EventId, (usize, Event)>,
    sorted: BTreeSet<(Reverse<Timestamp>, EventId)>,
    is_available: bool,
    is_silent: bool,
    role: Option<Role>,
    /// What it says of these events, instead of saving them.
    outcomes: HashMap<EventId, SaveOutcome>,
    /// It fails at calls with one of these in them.
    poison: HashSet<EventId>,
    /// Calls with one of these in them wait.
    held_up: HashSet<EventId>,
    saves_under_way: usize,
    most_saves_under_way: usize,
    answers_to_lose: usize,
    saves_answered: usize,
    /// Places of the log from which pages were asked for.
    polls: Vec<u64>,
    pages_to_spoil: usize,
    /// How many entries the next pages do not know of.
    lag: usize,
    /// What polls are told is gone, and is not.
    hidden: HashSet<EventId>,
    role_questions: usize,
    gets: usize,
    /// Pages of answers to filters.
    queries: usize,
    holds_queries: bool,
    /// From here on no page of the log is told.
    polls_end_at: Option<u64>,
    page_entries: usize,
}

struct Entry {
    arrived: u64,
    what: What,
}

impl Default for FakeL2 {
    fn default() -> FakeL2 {
        FakeL2::named("fake")
    }
}

impl FakeL2 {
    pub fn named(name: &'static str) -> FakeL2 {
        let state = State {
            log: Vec::new(),
            held: HashMap::new(),
            sorted: BTreeSet::new(),
            is_available: true,
            is_silent: false,
            role: Some(Role::Relay),
            outcomes: HashMap::new(),
            poison: HashSet::new(),
            held_up: HashSet::new(),
            saves_under_way: 0,
            most_saves_under_way: 0,
            answers_to_lose: 0,
            saves_answered: 0,
            polls: Vec::new(),
            pages_to_spoil: 0,
            lag: 0,
            hidden: HashSet::new(),
            role_questions: 0,
            gets: 0,
            queries: 0,
            holds_queries: false,
            polls_end_at: None,
            page_entries: 2,
        };
        FakeL2 { name, state: Arc::new(watch::Sender::new(state)) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut result = None;
        self.state.send_modify(|state| result = Some(f(state)));
        result.unwrap()
    }

    pub fn set_available(&self, is_available: bool) {
        self.with(|state| state.is_available = is_available);
    }

    /// From now on no call ever ends.
    pub fn set_silent(&self) {
        self.with(|state| state.is_silent = true);
    }

    async fn answers(&self) {
        if self.state.borrow().is_silent {
            std::future::pending::<()>().await;
        }
    }

    pub fn set_role(&self, role: Option<Role>) {
        self.with(|state| state.role = role);
    }

    pub fn lose_next_answers(&self, count: usize) {
        self.with(|state| state.answers_to_lose = count);
    }

    pub fn refuse_as_deleted(&self, id: EventId) {
        self.answer_with(id, SaveOutcome::Deleted);
    }

    /// From now on this is what it says of an event.
    pub fn answer_with(&self, id: EventId, outcome: SaveOutcome) {
        self.with(|state| state.outcomes.insert(id, outcome));
    }

    /// It fails at every call that brings this event, as a canister traps.
    pub fn fail_at(&self, id: EventId) {
        self.with(|state| state.poison.insert(id));
    }

    /// Calls that bring this event wait.
    pub fn hold_up(&self, id: EventId) {
        self.with(|state| state.held_up.insert(id));
    }

    /// Nothing it said, failed at or held up before counts any more.
    pub fn forgive(&self) {
        self.with(|state| {
            state.outcomes.clear();
            state.poison.clear();
            state.held_up.clear();
        });
    }

    /// How many calls brought events at the same time.
    pub fn most_saves_under_way(&self) -> usize {
        self.state.borrow().most_saves_under_way
    }

    pub async fn wait_for_saves_under_way(&self, count: usize) {
        self.wait_until(|state| state.saves_under_way >= count).await;
    }

    /// Another relay saves an event.
    pub fn bring(&self, event: &Event) {
        self.append(What::Saved(event.pack().into()));
    }

    pub fn append(&self, what: What) {
        self.with(|state| state.append(what));
    }

    pub fn contents(&self) -> Vec<Event> {
        self.state.borrow().contents()
    }

    pub fn saves_answered(&self) -> usize {
        self.state.borrow().saves_answered
    }

    pub async fn wait_for_events(&self, count: usize) {
        self.wait_until(|state| state.held.len() >= count).await;
        assert_eq!(self.state.borrow().held.len(), count);
    }

    /// Until so many polls more have been answered.
    pub async fn wait_for_polls(&self, count: usize) {
        let before = self.state.borrow().polls.len();
        self.wait_until(|state| state.polls.len() >= before + count).await;
    }

    /// Where polls have started so far.
    pub fn polls(&self) -> Vec<u64> {
        self.state.borrow().polls.clone()
    }

    /// Until a poll has started from there.
    pub async fn wait_for_poll_from(&self, seq: u64) {
        self.wait_until(|state| state.polls.last() == Some(&seq)).await;
    }

    pub fn length_now(&self) -> u64 {
        self.state.borrow().log.len() as u64
    }

    /// The next pages of the log do not prove themselves.
    pub fn spoil_next_pages(&self, count: usize) {
        self.with(|state| state.pages_to_spoil = count);
    }

    /// Until all of them were asked for.
    pub async fn wait_until_unspoiled(&self) {
        self.wait_until(|state| state.pages_to_spoil == 0).await;
    }

    /// Who answers polls from now on has not seen so many of the last entries.
    pub fn lag_by(&self, entries: usize) {
        self.with(|state| state.lag = entries);
    }

    /// Polls are told that this event is gone, but those that look back see it.
    pub fn hide_from_polls(&self, id: EventId) {
        self.with(|state| state.hidden.insert(id));
    }

    /// Another log begins under the same name.
    pub fn begin_anew(&self) {
        self.with(|state| {
            state.log.clear();
            state.clear();
        });
    }

    pub async fn wait_for_role_questions(&self, count: usize) {
        self.wait_until(|state| state.role_questions >= count).await;
    }

    async fn wait_until(&self, condition: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        let waiting = timeout(PATIENCE, state.wait_for(condition));
        waiting.await.expect("the condition comes true").unwrap();
    }

    /// Times that it was asked for events by id.
    pub fn gets(&self) -> usize {
        self.state.borrow().gets
    }

    /// Pages of answers to filters that it was asked for.
    pub fn queries(&self) -> usize {
        self.state.borrow().queries
    }

    pub async fn wait_for_queries(&self, count: usize) {
        self.wait_until(|state| state.queries >= count).await;
    }

    /// Whether answers to filters wait until this is taken back.
    pub fn hold_queries(&self, holds: bool) {
        self.with(|state| state.holds_queries = holds);
    }

    /// Polls get no further than this.
    pub fn end_polls_at(&self, seq: Option<u64>) {
        self.with(|state| state.polls_end_at = seq);
    }

    /// How many entries a page of the log has.
    pub fn set_page_entries(&self, entries: usize) {
        self.with(|state| state.page_entries = entries);
    }

    /// The dumb twin of every query.
    pub fn naive_answer(&self, filter: &Filter) -> Vec<String> {
        let state = self.state.borrow();
        state
            .answer(std::slice::from_ref(filter))
            .iter()
            .map(|event| event.id.to_string())
            .collect()
    }

    pub async fn wait_for_saves_answered(&self, count: usize) {
        self.wait_until(|state| state.saves_answered >= count).await;
    }
}

impl State {
    fn contents(&self) -> Vec<Event> {
        let mut held: Vec<&(usize, Event)> = self.held.values().collect();
        held.sort_unstable_by_key(|(seq, _)| *seq);
        held.into_iter().map(|(_, event)| event.clone()).collect()
    }

    /// Each event held against each filter.
    fn answer(&self, filters: &[Filter]) -> Vec<&Event> {
        let sorted = || self.sorted.iter().map(|(_, id)| &self.held[id].1);
        let answer = |filter: &Filter| {
            let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
            sorted().filter(|event| filter.matches(event)).take(limit).collect::<Vec<_>>()
        };
        if let [filter] = filters {
            return answer(filter);
        }
        let wanted: HashSet<EventId> =
            filters.iter().flat_map(answer).map(|event| event.id).collect();
        sorted().filter(|event| wanted.contains(&event.id)).collect()
    }

    fn clear(&mut self) {
        self.held.clear();
        self.sorted.clear();
    }

    fn append(&mut self, what: What) {
        let arrived = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        match &what {
            What::Saved(bytes) => {
                if let Ok(event) = Packed::parse(bytes) {
                    let event = event.unpack();
                    self.sorted.insert((Reverse(event.created_at), event.id));
                    self.held.insert(event.id, (self.log.len(), event));
                }
            }
            What::Removed { id, .. } => {
                let id = EventId(id[..].try_into().unwrap());
                if let Some((_, event)) = self.held.remove(&id) {
                    self.sorted.remove(&(Reverse(event.created_at), id));
                }
            }
            What::Gone(_) => {}
            What::Cleared => self.clear(),
        }
        self.log.push(Entry { arrived, what });
    }

    fn save(&mut self, bytes: &[u8]) -> SaveOutcome {
        let event = Packed::parse(bytes).unwrap().unpack();
        if let Some(outcome) = self.outcomes.get(&event.id) {
            return outcome.clone();
        }
        if let Some((seq, _)) = self.held.get(&event.id) {
            return SaveOutcome::Duplicate(*seq as u64);
        }
        self.append(What::Saved(bytes.to_vec().into()));
        SaveOutcome::Saved(self.log.len() as u64 - 1)
    }

    fn delete(&mut self, id: EventId, why: &str) -> DeleteOutcome {
        if self.role != Some(Role::Owner) {
            return DeleteOutcome::Forbidden;
        }
        if !self.held.contains_key(&id) {
            return DeleteOutcome::Unknown;
        }
        self.append(What::Removed { id: id.0.to_vec().into(), why: why.into() });
        DeleteOutcome::Removed(self.log.len() as u64 - 1)
    }

    fn check(&self) -> Result<(), Layer2Error> {
        if self.is_available { Ok(()) } else { Err(Layer2Error::Unavailable("away".into())) }
    }
}

/// One call that brings events; it may be given up.
struct SaveUnderWay(FakeL2);

impl SaveUnderWay {
    fn of(l2: &FakeL2) -> SaveUnderWay {
        l2.with(|state| {
            state.saves_under_way += 1;
            state.most_saves_under_way = state.most_saves_under_way.max(state.saves_under_way);
        });
        SaveUnderWay(l2.clone())
    }
}

impl Drop for SaveUnderWay {
    fn drop(&mut self) {
        self.0.with(|state| state.saves_under_way -= 1);
    }
}

#[async_trait]
impl Layer2 for FakeL2 {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn principal(&self) -> Option<Principal> {
        Some(Principal::anonymous())
    }

    async fn save(&self, events: &[Vec<u8>]) -> Result<Vec<SaveOutcome>, Layer2Error> {
        self.answers().await;
        let ids: Vec<EventId> = events.iter().map(|e| Packed::parse(e).unwrap().id()).collect();
        let _under_way = SaveUnderWay::of(self);
        let mut state = self.state.subscribe();
        let is_held_up = |state: &State| ids.iter().any(|id| state.held_up.contains(id));
        state.wait_for(|state| !is_held_up(state)).await.unwrap();
        drop(state);
        self.with(|state| {
            state.check()?;
            if state.role.is_none() {
                return Err(Layer2Error::Refused("not granted".into()));
            }
            if ids.iter().any(|id| state.poison.contains(id)) {
                return Err(Layer2Error::Failed("it trapped".into()));
            }
            let outcomes = events.iter().map(|event| state.save(event)).collect();
            if state.answers_to_lose > 0 {
                state.answers_to_lose -= 1;
                return Err(Layer2Error::Unavailable("the answer got lost".into()));
            }
            state.saves_answered += 1;
            Ok(outcomes)
        })
    }

    async fn changes(&self, from: ChangesFrom, detail: Detail) -> Result<ChangesPage, Layer2Error> {
        self.answers().await;
        if let (ChangesFrom::Seq(first), Detail::Events) = (from, detail) {
            self.with(|state| state.polls.push(first));
            self.wait_until(|state| state.polls_end_at.is_none_or(|end| first < end)).await;
        }
        self.with(|state| {
            state.check()?;
            let length = (state.log.len() - state.lag) as u64;
            let first = match from {
                ChangesFrom::Seq(seq) if seq > length => return Err(Layer2Error::Behind(length)),
                ChangesFrom::Seq(seq) => seq,
                ChangesFrom::Arrived(time) => {
                    state.log.partition_point(|entry| entry.arrived < time) as u64
                }
            };
            if state.pages_to_spoil > 0 {
                state.pages_to_spoil -= 1;
                return Err(Layer2Error::Unproven("spoiled".into()));
            }
            let end = state.polls_end_at.unwrap_or(length);
            let count = end.saturating_sub(first).min(state.page_entries as u64);
            let entries = state.log[..length as usize].iter().enumerate();
            let changes: Vec<Change> = entries
                .skip(first as usize)
                .take(count as usize)
                .map(|(seq, Entry { arrived, what })| Change {
                    seq: seq as u64,
                    arrived: *arrived,
                    what: told(what, detail, &state.hidden),
                })
                .collect();
            let next = first + changes.len() as u64;
            Ok(ChangesPage { changes, next, length, proof: None })
        })
    }

    async fn length(&self) -> Result<u64, Layer2Error> {
        self.answers().await;
        self.with(|state| {
            state.check()?;
            Ok(state.log.len() as u64)
        })
    }

    async fn query(
        &self,
        filters: &[Filter],
        cursor: Option<&[u8]>,
    ) -> Result<QueryPage, Layer2Error> {
        const PAGE: usize = 50;
        self.answers().await;
        self.with(|state| state.queries += 1);
        self.wait_until(|state| !state.holds_queries).await;
        let state = self.state.borrow();
        state.check()?;
        let first = cursor.map_or(0, |at| u32::from_be_bytes(at.try_into().unwrap()) as usize);
        let events = state.answer(filters);
        let next = first + PAGE;
        let cursor = (next < events.len()).then(|| (next as u32).to_be_bytes().to_vec().into());
        let page = events.into_iter().skip(first).take(PAGE);
        let events = page.map(|event| event.pack().into()).collect();
        Ok(QueryPage { events, cursor, length: state.log.len() as u64 })
    }

    async fn count(&self, filters: &[Filter]) -> Result<Count, Layer2Error> {
        let page = self.query(filters, None).await?;
        Ok(Count { count: page.events.len() as u64, complete: true })
    }

    async fn reconcile(&self, _: &[u8], _: Option<&Filter>) -> Result<Vec<u8>, Layer2Error> {
        Err(Layer2Error::Interface("a fake does not reconcile".into()))
    }

    async fn delete(
        &self,
        ids: &[EventId],
        deletion: &Deletion,
    ) -> Result<Vec<DeleteOutcome>, Layer2Error> {
        self.with(|state| {
            state.check()?;
            Ok(ids.iter().map(|id| state.delete(*id, &deletion.why)).collect())
        })
    }

    async fn clear(&self, _: &str) -> Result<(), Layer2Error> {
        Err(Layer2Error::Refused("a relay does not clear".into()))
    }

    async fn status(&self) -> Result<Status, Layer2Error> {
        Err(Layer2Error::Interface("a fake has no status".into()))
    }

    async fn get(&self, ids: &[EventId]) -> Result<Vec<Vec<u8>>, Layer2Error> {
        self.answers().await;
        self.with(|state| {
            state.check()?;
            state.gets += 1;
            let held = ids.iter().filter_map(|id| state.held.get(id));
            Ok(held.map(|(_, event)| event.pack()).collect())
        })
    }

    async fn role(&self) -> Result<Option<Role>, Layer2Error> {
        self.answers().await;
        self.with(|state| {
            state.check()?;
            state.role_questions += 1;
            Ok(state.role)
        })
    }
}

fn told(what: &What, detail: Detail, hidden: &HashSet<EventId>) -> What {
    let What::Saved(bytes) = what else { return what.clone() };
    let Ok(event) = Packed::parse(bytes) else { return what.clone() };
    let id = event.id();
    match detail {
        Detail::Events if hidden.contains(&id) => What::Gone(id.0.to_vec().into()),
        Detail::Events => what.clone(),
        Detail::Ids => What::Saved(id.0.to_vec().into()),
    }
}
