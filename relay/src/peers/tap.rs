//! A peer tap: what another relay's clients bring, as it comes, for as long as somebody here wants it.
//!
//! A peer is believed about nothing. It has to show the key that the directory lists; its events are
//! verified like anybody's, count only if they were asked for, and so many at a time that they leave
//! the verifier to others. Who sends forged ones is left alone for a while. A broken tap is opened again
//! after a pause; what was missed meanwhile the poll brings.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use event::{Event, Filter, verify};
use futures_util::{SinkExt, StreamExt};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rand::Rng;
use serde_json::{json, value::RawValue};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Member, chunk_name, chunk_of,
    demand::{ChunkId, Plan},
    greeting,
    taps::TapLine,
};
use crate::{
    Relay,
    auth::{AUTH, tag_value},
    backoff::pause,
    clock,
    deliveries::Fact,
    ingest::Tapped,
    metrics::Counted,
    verdict::AUTH_REQUIRED,
};

/// How long a peer may take to be connected to, for a greeting, and to take what it is sent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent peer is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// After how long one that answers nothing is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Events of one peer on their way into L1. Beyond it nothing is read from it.
const EVENTS_MAX: usize = 64;
/// Frames a second of one peer; beyond it nothing is read from it either.
const FRAMES_PER_SECOND: NonZeroU32 = NonZeroU32::new(5_000).expect("it is not 0");
/// Challenges that are answered in one greeting: one comes with the connection, one with the question.
const CHALLENGES_MAX: u32 = 4;
/// Characters of what a peer gives as its reason.
const REASON_CHARS_MAX: usize = 200;
/// Events that a peer may send and nobody can have signed.
const FORGED_MAX: u32 = 8;
/// How long one is left alone who sent more.
const LIAR_PAUSE: Duration = Duration::from_secs(600);
/// Between two tries to open a tap, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a tap came to its end, or was not opened.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Connection(#[from] tokio_tungstenite::tungstenite::Error),
    #[error("it does not answer")]
    Silent,
    #[error("it closed the connection")]
    Closed,
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("whoever is there does not have the key that the directory lists")]
    NotItself,
    #[error("it sends events that nobody signed")]
    Lies,
}

impl Broken {
    /// In words that are a peer's: short, and safe to show.
    fn refused(reason: &str) -> Broken {
        let plain = reason.chars().filter(|char| !char.is_control());
        Broken::Refused(plain.take(REASON_CHARS_MAX).collect())
    }
}

/// The tap on one peer.
pub struct PeerTap {
    pub member: Member,
    pub plan: watch::Receiver<Arc<Plan>>,
    pub line: TapLine,
    pub relay: Arc<Relay>,
}

impl PeerTap {
    /// Taps the peer, again and again, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let opened = Instant::now();
            let broken = tokio::select! {
                () = stop.cancelled() => return self.tell_end(),
                broken = self.tap() => broken,
            };
            let Err(broken) = broken;
            // One that worked for a while was no failure.
            failures = if opened.elapsed() > RETRY_MAX { 1 } else { failures + 1 };
            self.tell(&broken, failures);
            let wait = match broken {
                Broken::Lies => LIAR_PAUSE,
                _ => pause(RETRY_MIN, RETRY_MAX, failures),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn tell(&self, broken: &Broken, failures: u32) {
        let Member { url, key } = &self.member;
        let was_up = self.line.note_broken(broken.to_string());
        if was_up || failures == 1 {
            let (peer, reason) = (*key, broken.to_string());
            self.relay.deliveries.note(Fact::PeerDown { peer, url, reason });
        }
        if failures.is_power_of_two() {
            warn!(%url, %key, cause = %broken, failures, "peer down: its live events come by the poll");
        } else {
            debug!(%url, %key, cause = %broken, failures, "peer down");
        }
    }

    /// Nobody here wants anything any more, the peer is none any more, or the relay stops.
    fn tell_end(&self) {
        if self.line.is_up() {
            let Member { url, key } = &self.member;
            let reason = "it is not needed any more".to_owned();
            self.relay.deliveries.note(Fact::PeerDown { peer: *key, url, reason });
        }
    }

    async fn tap(&mut self) -> Result<std::convert::Infallible, Broken> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(self.relay.terms().limits.message_bytes_max))
            .max_frame_size(Some(self.relay.terms().limits.message_bytes_max));
        let connecting = connect_async_with_config(&self.member.url, Some(config), true);
        let (socket, _) = in_time(connecting).await??;
        let mut tap = Open {
            socket,
            asked: HashMap::new(),
            relay: self.relay.clone(),
            places: Arc::new(Semaphore::new(EVENTS_MAX)),
            rate: RateLimiter::direct(Quota::per_second(FRAMES_PER_SECOND)),
            taken: JoinSet::new(),
            forged: 0,
        };
        in_time(tap.greet(&self.member)).await??;
        info!(url = %self.member.url, key = %self.member.key, "peer up");
        let Member { url, key } = &self.member;
        self.relay.deliveries.note(Fact::PeerUp { peer: *key, url });
        self.line.note_up();
        let _up = Counted::one_of(&self.relay.metrics.peers_up);
        tap.listen(&mut self.plan, &self.line).await
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, Broken> {
    timeout(ANSWER_TIMEOUT, work).await.map_err(|_| Broken::Silent)
}

/// A connection to a peer.
struct Open {
    socket: Socket,
    asked: HashMap<ChunkId, Arc<Filter>>,
    relay: Arc<Relay>,
    places: Arc<Semaphore>,
    rate: DefaultDirectRateLimiter,
    taken: JoinSet<Tapped>,
    forged: u32,
}

impl Open {
    /// Both sides show who they are.
    async fn greet(&mut self, member: &Member) -> Result<(), Broken> {
        let nonce = hex::encode(rand::rng().random::<[u8; 16]>());
        let name = greeting(&nonce);
        let ask = json!(["REQ", name, { "kinds": [AUTH], "limit": 0 }]).to_string();
        self.send(ask.clone()).await?;
        let (mut is_proven, mut challenges) = (false, 0);
        loop {
            let text = self.receive().await?;
            match Said::read(&text) {
                Said::Auth(challenge) => {
                    challenges += 1;
                    if challenges > CHALLENGES_MAX {
                        return Err(Broken::Refused("it does not stop asking who we are".into()));
                    }
                    let relay = ["relay".into(), member.url.clone()];
                    let challenge = ["challenge".into(), challenge];
                    let identity = &self.relay.identity;
                    let answer = identity.sign(AUTH, &[&relay, &challenge], clock::now());
                    self.send(format!("[\"AUTH\",{}]", answer.to_json())).await?;
                }
                Said::Ok(true, _) => self.send(ask.clone()).await?,
                Said::Ok(false, reason) => return Err(Broken::refused(&reason)),
                // One that wants to know who asks follows what is to be signed.
                Said::Closed(id, reason) if id == name && !reason.starts_with(AUTH_REQUIRED) => {
                    return Err(Broken::refused(&reason));
                }
                Said::Event(id, json) if id == name => {
                    is_proven = proves(json, member, &nonce);
                }
                Said::Eose(id) if id == name => break,
                _ => {}
            }
        }
        self.send(json!(["CLOSE", name]).to_string()).await?;
        if is_proven { Ok(()) } else { Err(Broken::NotItself) }
    }

    async fn listen(
        &mut self,
        plan: &mut watch::Receiver<Arc<Plan>>,
        line: &TapLine,
    ) -> Result<std::convert::Infallible, Broken> {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        plan.mark_changed();
        loop {
            tokio::select! {
                changed = plan.changed() => {
                    // Its end is the tapper's, and so ours.
                    changed.map_err(|_| Broken::Closed)?;
                    let plan = plan.borrow_and_update().clone();
                    self.ask_for(&plan).await?;
                    line.note_asked(self.asked.len());
                }
                message = self.socket.next() => {
                    heard = Instant::now();
                    match message.ok_or(Broken::Closed)?? {
                        Message::Text(text) => self.hear(&text).await?,
                        Message::Close(_) => return Err(Broken::Closed),
                        _ => {}
                    }
                }
                Some(tapped) = self.taken.join_next() => self.count(tapped.ok(), line)?,
                _ = pings.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(Broken::Silent);
                    }
                    in_time(self.socket.send(Message::Ping(Vec::new().into()))).await??;
                }
            }
        }
    }

    /// Asks for what is new in the plan, and then no more for what is not in it any more: what moves from one
    /// chunk to another is asked for all the time.
    async fn ask_for(&mut self, plan: &Plan) -> Result<(), Broken> {
        for (chunk, filter) in plan {
            let before = self.asked.insert(*chunk, filter.clone());
            if before.is_some_and(|before| Arc::ptr_eq(&before, filter) || before == *filter) {
                continue;
            }
            let filter = Filter { limit: Some(0), ..(**filter).clone() };
            self.send(json!(["REQ", chunk_name(*chunk), filter]).to_string()).await?;
        }
        let over: Vec<ChunkId> =
            self.asked.keys().filter(|chunk| !plan.contains_key(chunk)).copied().collect();
        for chunk in over {
            self.asked.remove(&chunk);
            self.send(json!(["CLOSE", chunk_name(chunk)]).to_string()).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, text: &str) -> Result<(), Broken> {
        self.rate.until_ready().await;
        match Said::read(text) {
            Said::Event(id, json) => {
                let wanted = chunk_of(&id).and_then(|chunk| self.asked.get(&chunk)).cloned();
                // Without: it was asked for a moment ago.
                let Some(wanted) = wanted else { return Ok(()) };
                let place = self.place().await?;
                let (relay, json) = (self.relay.clone(), json.to_owned());
                self.taken.spawn(async move {
                    let tapped = relay.ingest.take_from_peer(json, wanted).await;
                    drop(place);
                    tapped
                });
                Ok(())
            }
            Said::Closed(_, reason) => Err(Broken::refused(&reason)),
            _ => Ok(()),
        }
    }

    /// Waits until there is room for one more event on its way.
    async fn place(&mut self) -> Result<OwnedSemaphorePermit, Broken> {
        self.places.clone().acquire_owned().await.map_err(|_| Broken::Closed)
    }

    fn count(&mut self, tapped: Option<Tapped>, line: &TapLine) -> Result<(), Broken> {
        let Some(tapped) = tapped else { return Ok(()) };
        self.relay.metrics.count_tapped(tapped.name());
        if tapped == Tapped::New {
            line.note_new();
        }
        self.forged += u32::from(tapped == Tapped::Forged);
        if self.forged > FORGED_MAX { Err(Broken::Lies) } else { Ok(()) }
    }

    async fn send(&mut self, text: String) -> Result<(), Broken> {
        Ok(in_time(self.socket.send(Message::text(text))).await??)
    }

    async fn receive(&mut self) -> Result<String, Broken> {
        loop {
            match self.socket.next().await.ok_or(Broken::Closed)?? {
                Message::Text(text) => return Ok(text.to_string()),
                Message::Close(_) => return Err(Broken::Closed),
                _ => {}
            }
        }
    }
}

/// Whether this is the answer to a greeting, by the key that the directory lists.
fn proves(json: &str, member: &Member, nonce: &str) -> bool {
    let event = Event::from_json(json.as_bytes()).ok();
    let event = event.filter(|event| {
        event.kind == AUTH && event.pubkey == member.key && tag_value(event, "challenge") == nonce
    });
    event.is_some_and(|event| verify(event).is_ok())
}

/// What a peer says.
enum Said<'a> {
    Event(String, &'a str),
    Eose(String),
    Closed(String, String),
    Ok(bool, String),
    Auth(String),
    Other,
}

impl Said<'_> {
    fn read(text: &str) -> Said<'_> {
        let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(text) else { return Said::Other };
        let word = |place: usize| {
            let part = parts.get(place).and_then(|part| serde_json::from_str(part.get()).ok());
            part.unwrap_or_else(String::new)
        };
        match (word(0).as_str(), parts.as_slice()) {
            ("EVENT", [_, _, event]) => Said::Event(word(1), event.get()),
            ("EOSE", [_, _, ..]) => Said::Eose(word(1)),
            ("CLOSED", [_, _, _]) => Said::Closed(word(1), word(2)),
            ("OK", [_, _, accepted, _]) => Said::Ok(accepted.get() == "true", word(3)),
            ("AUTH", [_, _]) => Said::Auth(word(1)),
            _ => Said::Other,
        }
    }
}
