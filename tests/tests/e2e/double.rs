//! The double: a gateway between a relay and the Internet Computer, that lies.
//!
//! It passes calls on to the real gateway, and answers with something else when its plan says so. It
//! has no keys, as nobody has who stands on the way to a subnet: whatever it makes up or changes, a
//! relay can tell. Only the root key passes untouched, which a relay of a test network takes on trust.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::stream;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_cbor::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::world::PATIENCE;

/// More than an ingress message or an answer may have.
const BODY_BYTES_MAX: usize = 10 << 20;
/// How late an answer is that comes late.
const LATE: Duration = Duration::from_millis(700);

/// What it does instead of passing a call on and its answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// Passed on, but the connection breaks before the answer.
    Lost,
    /// Not passed on: the connection breaks.
    Dropped,
    /// True, but late.
    Late,
    /// Passed on twice; the second answer counts.
    Repeated,
    /// An error of HTTP.
    Status(u16),
    /// A page for people.
    Page,
    /// Nothing, and all is well.
    Empty,
    /// The first half, as if it were the whole.
    Halved,
    /// The first half, and the connection breaks.
    CutOff,
    /// One bit is another, anywhere.
    FlippedBit,
    /// Another reply, or another certificate, in a sound envelope.
    Forged,
    /// The first answer that this method ever gave.
    OldAnswer,
    /// The answer to another question.
    AnothersAnswer,
    /// The canister traps; nobody has signed that.
    Trap,
    /// The canister has no such method; nobody has signed that.
    NoSuchMethod,
    /// No answer for as long as the plan is this.
    Silence,
}

impl Lie {
    pub const ALL: [Lie; 23] = [
        Lie::Lost,
        Lie::Dropped,
        Lie::Late,
        Lie::Repeated,
        Lie::Status(400),
        Lie::Status(403),
        Lie::Status(404),
        Lie::Status(413),
        Lie::Status(429),
        Lie::Status(500),
        Lie::Status(502),
        Lie::Status(503),
        Lie::Page,
        Lie::Empty,
        Lie::Halved,
        Lie::CutOff,
        Lie::FlippedBit,
        Lie::Forged,
        Lie::OldAnswer,
        Lie::AnothersAnswer,
        Lie::Trap,
        Lie::NoSuchMethod,
        Lie::Silence,
    ];

    /// Whether a relay gets what it asked for in the end.
    pub fn is_harmless(self) -> bool {
        matches!(self, Lie::Late | Lie::Repeated)
    }

    /// How often it has to be told before a relay notices. Its agent asks six times more by itself
    /// when it is told to slow down, and nobody asks twice who is not answered.
    pub fn times(self) -> usize {
        match self {
            Lie::Status(429 | 503) => 7,
            Lie::Late | Lie::Repeated | Lie::Silence => 1,
            _ => 2,
        }
    }
}

/// What it has in mind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    Honest,
    Always(Lie),
    /// Any lie, in this share of its answers.
    Often(f64),
}

/// What was asked: the endpoint, and the method if it has one.
type Asked = (String, String);

/// An answer, as it came from the real gateway or is made up.
#[derive(Clone)]
struct Reply {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

/// A call, as a relay made it.
struct Call {
    path: String,
    content_type: Option<HeaderValue>,
    body: Bytes,
    is_post: bool,
    asked: Asked,
}

/// A gateway that may lie.
pub struct Double {
    port: u16,
    mind: Arc<Mind>,
    serving: JoinHandle<()>,
}

struct Mind {
    gateway: String,
    http: reqwest::Client,
    plan: watch::Sender<Plan>,
    random: Mutex<StdRng>,
    /// The first answer to each question, and the last.
    answers: Mutex<HashMap<Asked, (Reply, Reply)>>,
    told: watch::Sender<BTreeMap<(String, Lie), usize>>,
}

impl Double {
    /// Stands before `gateway`, honest at first.
    pub async fn before(gateway: &str, seed: u64) -> Double {
        let mind = Arc::new(Mind {
            gateway: gateway.to_owned(),
            http: reqwest::Client::new(),
            plan: watch::channel(Plan::Honest).0,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            answers: Mutex::default(),
            told: watch::channel(BTreeMap::new()).0,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(answer).with_state(mind.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Double { port, mind, serving }
    }

    /// Where relays find it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn plans(&self, plan: Plan) {
        self.mind.plan.send_replace(plan);
    }

    /// Waits until it has lied like this so many times at each of these endpoints.
    pub async fn lies(&self, lie: Lie, endpoints: &[&str], times: usize) {
        let mut told = self.mind.told.subscribe();
        let count = |told: &BTreeMap<(String, Lie), usize>, endpoint: &str| {
            told.get(&(endpoint.to_owned(), lie)).copied().unwrap_or(0)
        };
        let has_lied = |told: &BTreeMap<_, _>| endpoints.iter().all(|at| count(told, at) >= times);
        let waiting = tokio::time::timeout(PATIENCE, told.wait_for(has_lied)).await;
        assert!(waiting.is_ok(), "nobody asked for a lie of {lie:?}: {:?}", self.told());
    }

    /// How often it lied, and how.
    pub fn told(&self) -> BTreeMap<(String, Lie), usize> {
        self.mind.told.borrow().clone()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(mind): State<Arc<Mind>>, request: Request) -> Response {
    let call = Call::read(request).await;
    match mind.choose(&call) {
        Some(lie) => mind.lie(lie, &call).await,
        None => mind.ask(&call).await.whole(),
    }
}

impl Call {
    async fn read(request: Request) -> Call {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let endpoint = path.rsplit('/').next().unwrap_or_default().to_owned();
        let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
        let asked = (endpoint, method_of(&body).unwrap_or_default());
        let content_type = parts.headers.get(header::CONTENT_TYPE).cloned();
        Call { path, content_type, body, is_post: parts.method == "POST", asked }
    }
}

/// The canister's method that an envelope calls.
fn method_of(envelope: &[u8]) -> Option<String> {
    let envelope: Value = serde_cbor::from_slice(envelope).ok()?;
    match member(member(&envelope, "content")?, "method_name")? {
        Value::Text(name) => Some(name.clone()),
        _ => None,
    }
}

fn member<'a>(of: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Map(members) = of else { return None };
    members.get(&Value::Text(name.to_owned()))
}

fn member_mut<'a>(of: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let Value::Map(members) = of else { return None };
    members.get_mut(&Value::Text(name.to_owned()))
}

impl Mind {
    fn choose(&self, call: &Call) -> Option<Lie> {
        if call.asked.0 == "status" {
            return None;
        }
        match *self.plan.borrow() {
            Plan::Honest => None,
            Plan::Always(lie) => Some(lie),
            Plan::Often(share) => {
                let mut random = self.random();
                let lie = *Lie::ALL.choose(&mut *random).expect("there are some");
                // Silence lasts until the plan changes, and this one does not. An old answer to a new
                // call has the agent ask for its outcome until the call is given up, after a minute.
                let lasts = matches!(lie, Lie::Silence | Lie::OldAnswer);
                (random.random_bool(share) && !lasts).then_some(lie)
            }
        }
    }

    fn random(&self) -> std::sync::MutexGuard<'_, StdRng> {
        self.random.lock().unwrap()
    }

    /// Asks the real gateway.
    async fn ask(&self, call: &Call) -> Reply {
        let url = format!("{}{}", self.gateway, call.path);
        let request = if call.is_post { self.http.post(url) } else { self.http.get(url) };
        let request = call.content_type.iter().fold(request, |request, content_type| {
            request.header(header::CONTENT_TYPE, content_type.clone())
        });
        let asked = async {
            let response = request.body(call.body.clone()).send().await?;
            let status = response.status();
            let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
            reqwest::Result::Ok(Reply { status, content_type, body: response.bytes().await? })
        };
        match asked.await {
            Ok(reply) => {
                self.remember(&call.asked, &reply);
                reply
            }
            Err(_) => Reply::error(502),
        }
    }

    fn remember(&self, asked: &Asked, reply: &Reply) {
        let mut answers = self.answers.lock().unwrap();
        match answers.get_mut(asked) {
            Some((_, last)) => *last = reply.clone(),
            None => drop(answers.insert(asked.clone(), (reply.clone(), reply.clone()))),
        }
    }

    fn first_answer(&self, asked: &Asked) -> Option<Reply> {
        self.answers.lock().unwrap().get(asked).map(|(first, _)| first.clone())
    }

    fn answer_of_another(&self, asked: &Asked) -> Option<Reply> {
        let answers = self.answers.lock().unwrap();
        let mut others = answers.iter().filter(|(other, _)| *other != asked);
        // One that looks right if there is one.
        let is_alike = |(other, _): &(&Asked, _)| other.0 == asked.0;
        let other = others.clone().find(is_alike).or_else(|| others.next());
        other.map(|(_, (_, last))| last.clone())
    }

    async fn lie(&self, lie: Lie, call: &Call) -> Response {
        let endpoint = call.asked.0.clone();
        self.told.send_modify(|told| *told.entry((endpoint, lie)).or_default() += 1);
        self.make_up(lie, call).await
    }

    async fn make_up(&self, lie: Lie, call: &Call) -> Response {
        match lie {
            Lie::Lost => {
                self.ask(call).await;
                broken_off(Reply::error(200))
            }
            Lie::Dropped => broken_off(Reply::error(200)),
            Lie::Late => {
                tokio::time::sleep(LATE).await;
                self.ask(call).await.whole()
            }
            Lie::Repeated => {
                self.ask(call).await;
                self.ask(call).await.whole()
            }
            Lie::Status(status) => Reply::error(status).whole(),
            Lie::Page => Reply { body: "<h1>Welcome</h1>".into(), ..Reply::error(200) }.whole(),
            Lie::Empty => Reply { body: Bytes::new(), ..Reply::error(200) }.whole(),
            Lie::Halved => self.ask(call).await.halved().whole(),
            Lie::CutOff => broken_off(self.ask(call).await.halved()),
            Lie::FlippedBit => self.flipped(self.ask(call).await).whole(),
            Lie::Forged => forged(self.ask(call).await).whole(),
            Lie::OldAnswer => self.first_answer(&call.asked).unwrap_or(Reply::error(504)).whole(),
            Lie::AnothersAnswer => {
                self.answer_of_another(&call.asked).unwrap_or(Reply::error(504)).whole()
            }
            Lie::Trap => rejection(call, 5, "IC0503", "the canister trapped").whole(),
            Lie::NoSuchMethod => rejection(call, 3, "IC0536", "it has no such method").whole(),
            Lie::Silence => {
                let mut plan = self.plan.subscribe();
                let _ = plan.wait_for(|plan| *plan != Plan::Always(Lie::Silence)).await;
                broken_off(Reply::error(200))
            }
        }
    }

    fn flipped(&self, reply: Reply) -> Reply {
        let mut body = reply.body.to_vec();
        if !body.is_empty() {
            let mut random = self.random();
            let at = random.random_range(0..body.len());
            body[at] ^= 1 << random.random_range(0..8);
        }
        Reply { body: body.into(), ..reply }
    }
}

impl Reply {
    fn error(status: u16) -> Reply {
        let status = StatusCode::from_u16(status).expect("it is a status");
        Reply { status, content_type: None, body: "the double has nothing to say".into() }
    }

    fn halved(self) -> Reply {
        Reply { body: self.body.slice(..self.body.len() / 2), ..self }
    }

    fn whole(self) -> Response {
        let body = Body::from(self.body.clone());
        self.with(body)
    }

    fn with(self, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        if let Some(content_type) = self.content_type {
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        }
        response
    }
}

/// An answer after which the connection breaks.
fn broken_off(reply: Reply) -> Response {
    let parts = [Ok(reply.body.clone()), Err(io::Error::other("broken off"))];
    reply.with(Body::from_stream(stream::iter(parts)))
}

/// Changes what was answered, and leaves all around it as it was.
fn forged(reply: Reply) -> Reply {
    let Ok(mut answer) = serde_cbor::from_slice::<Value>(&reply.body) else { return reply };
    let is_query = member(&answer, "reply").is_some();
    let content = match is_query {
        true => member_mut(&mut answer, "reply").and_then(|reply| member_mut(reply, "arg")),
        false => member_mut(&mut answer, "certificate"),
    };
    if let Some(Value::Bytes(bytes)) = content {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    }
    Reply { body: serde_cbor::to_vec(&answer).expect("it was CBOR").into(), ..reply }
}

/// A refusal that nobody has signed.
fn rejection(call: &Call, code: i128, error_code: &str, message: &str) -> Reply {
    let text = |text: &str| Value::Text(text.to_owned());
    let is_query = call.asked.0 == "query";
    let status = if is_query { "rejected" } else { "non_replicated_rejection" };
    let members = [
        ("status", text(status)),
        ("reject_code", Value::Integer(code)),
        ("reject_message", text(message)),
        ("error_code", text(error_code)),
        ("signatures", Value::Array(Vec::new())),
    ];
    let members = members.into_iter().filter(|(name, _)| is_query || *name != "signatures");
    let answer = Value::Map(members.map(|(name, value)| (text(name), value)).collect());
    let body = serde_cbor::to_vec(&answer).expect("it is CBOR").into();
    let content_type = Some(HeaderValue::from_static("application/cbor"));
    Reply { status: StatusCode::OK, content_type, body }
}
