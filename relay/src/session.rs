//! One websocket connection: frames in, frames out.
//!
//! Each subscription is a task of its own ([`Streamer`]) and so is each event on its way into L1, so
//! neither a heavy question nor a slow disk delays another. They all answer through
//! one bounded queue; while a client does not read, those who wait for room in it wait, and nobody
//! else does.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use event::{Filter, PublicKey, stated_id};
use futures_util::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet, yield_now},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::{
    Relay,
    auth::Challenge,
    backlog::Backlog,
    clock,
    config::terms::Limits,
    count::{self, Question},
    deliveries::SessionLog,
    filter_room::Filters,
    ingest::Bearer,
    metrics::Counted,
    neg::{self, Reconciliation},
    peers::{
        self, TapRequest,
        demand::CHUNK_PARTS_MAX,
        server::{SERVED_CHUNKS_MAX, Server},
    },
    plugin::{Asker, Ruling},
    sight::{Barred, Sight},
    streamer::Streamer,
    throttle::Act,
    verdict::{AUTH_REQUIRED, Rejection, TooFast},
    visitor::Visitor,
    websocket::WebSocket,
    wire::{self, ClientMessage, Frame, Misread, SubscriptionId},
};

/// Frames waiting for one slow socket. Beyond it stored events wait, and live ones are read from L1
/// again once the socket drains.
const SESSION_QUEUE_FRAMES_MAX: usize = 256;
/// Events of one connection on their way into L1. Beyond it the relay stops reading from the socket. A large
/// one counts as several: what is on its way is bounded in bytes too, and so is what others wait for.
const SESSION_EVENTS_MAX: usize = 256;
/// What counts as one.
const EVENT_UNIT_BYTES: usize = 4 * 1024;
/// A message from here on takes its client's whole turn.
const LONG_MESSAGE_BYTES: usize = 16 * 1024;
/// Counts of one connection under way at a time.
const SESSION_COUNTS_MAX: usize = 8;
/// Reconciliations of one connection at a time.
const SESSION_NEGS_MAX: usize = 8;
/// How often the relay asks a silent client whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// After how long a client that answers nothing is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(100);

/// How long a client has to take what was still queued for it when its session ended.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Who is to be served, and where.
pub struct Guest {
    pub visitor: Visitor,
    pub relay: Arc<Relay>,
}

/// Serves one client until either side ends it.
pub async fn serve(socket: WebSocket, guest: Guest, stop: CancellationToken) {
    let Guest { visitor, relay } = guest;
    let _connected = Counted::one_of(&relay.metrics.connections);
    let (sink, stream) = socket.split();
    let (frames, queue) = mpsc::channel(SESSION_QUEUE_FRAMES_MAX);
    let backlog = Backlog::new();
    let mut writing = tokio::spawn(write(sink, queue, backlog.clone()));
    let log = relay.deliveries.session();
    let sight = Sight::new(relay.moderator.in_force()).of_session(log.number());
    let session = Session {
        visitor,
        relay,
        frames,
        backlog,
        challenge: Arc::new(Challenge::new()),
        log: log.clone(),
        sight: sight.clone(),
        counts: Arc::new(Semaphore::new(SESSION_COUNTS_MAX)),
        events: Arc::new(Semaphore::new(SESSION_EVENTS_MAX)),
        subscriptions: HashMap::new(),
        reconciliations: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let mut end = pin!(session.read(stream, stop));
    let (end, is_unheard) = tokio::select! {
        end = &mut end => (end, false),
        // A socket that cannot be written to is over, whatever it still has to say.
        _ = &mut writing => (End::Broken, true),
    };
    log.closed(end.name(), sight.keys());
    // Everything that answers has ended with the session, so the queue drains and closes.
    if !is_unheard && timeout(GOODBYE_TIMEOUT, &mut writing).await.is_err() {
        writing.abort();
    }
}

/// Sends what is queued, and flushes whenever the queue is empty.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut queue: mpsc::Receiver<Frame>,
    backlog: Backlog,
) {
    while let Some(frame) = queue.recv().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            let stored_bytes = frame.stored_bytes();
            if sink.feed(frame.into()).await.is_err() {
                return;
            }
            if let Some(bytes) = stored_bytes {
                backlog.sent(bytes);
            }
            next = queue.try_recv().ok();
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
    let _ = sink.close().await;
}

struct Session {
    visitor: Visitor,
    relay: Arc<Relay>,
    frames: mpsc::Sender<Frame>,
    backlog: Backlog,
    challenge: Arc<Challenge>,
    log: SessionLog,
    sight: Sight,
    counts: Arc<Semaphore>,
    events: Arc<Semaphore>,
    subscriptions: HashMap<SubscriptionId, Subscription>,
    /// Their names are no subscriptions'.
    reconciliations: HashMap<SubscriptionId, Reconciling>,
    tasks: JoinSet<()>,
}

/// An open subscription. Dropped, it says nothing more, and its room is free.
struct Subscription {
    task: AbortHandle,
    /// None: it is a peer's.
    _room: Option<Filters>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A reconciliation under way. Dropped, it says nothing more.
struct Reconciling {
    messages: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
}

impl Drop for Reconciling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a session ends.
enum End {
    /// The client closed.
    Gone,
    /// The socket broke, or the client sent what is no websocket frame or a too large one.
    Broken,
    /// The client did not answer for too long.
    Silent,
    /// Its address was blocked meanwhile.
    Blocked,
    Stop,
}

impl End {
    /// What the delivery log calls it.
    fn name(&self) -> &'static str {
        match self {
            End::Gone => "gone",
            End::Broken => "broken",
            End::Silent => "silent",
            End::Blocked => "blocked",
            End::Stop => "stopping",
        }
    }

    fn goodbye(&self) -> Option<Frame> {
        match self {
            End::Gone => None,
            End::Broken => Some(Frame::Bye(1009, "a message was too large, or malformed")),
            End::Silent => Some(Frame::Bye(1001, "no answer to pings")),
            End::Blocked => Some(Frame::Bye(1008, "blocked")),
            End::Stop => Some(Frame::Bye(1001, "the relay is going away")),
        }
    }
}

impl Session {
    async fn read(mut self, mut stream: SplitStream<WebSocket>, stop: CancellationToken) -> End {
        let end = self.read_until_end(&mut stream, &stop).await;
        self.tasks.abort_all();
        if let Some(goodbye) = end.goodbye() {
            // A full queue means that nobody reads goodbyes.
            let _ = self.frames.try_send(goodbye);
        }
        end
    }

    async fn read_until_end(
        &mut self,
        stream: &mut SplitStream<WebSocket>,
        stop: &CancellationToken,
    ) -> End {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return End::Stop,
                message = stream.next() => {
                    heard = Instant::now();
                    let message = match message {
                        Some(Ok(message)) => message,
                        Some(Err(_)) => return End::Broken,
                        None => return End::Gone,
                    };
                    let is_long = message.len() > LONG_MESSAGE_BYTES;
                    if self.relay.terms().access.blocks(self.visitor.ip) {
                        return End::Blocked;
                    }
                    tokio::select! {
                        () = stop.cancelled() => return End::Stop,
                        is_open = self.take(message) => if !is_open { return End::Gone },
                    }
                    if is_long {
                        // To read and to look through one takes about as long as everything else that a
                        // client asks for: others come first before the next.
                        yield_now().await;
                    }
                }
                _ = pings.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return End::Silent;
                    }
                    if self.relay.terms().access.blocks(self.visitor.ip) {
                        return End::Blocked;
                    }
                    // With no room for a ping there is traffic enough to tell whether it is alive.
                    let _ = self.frames.try_send(Frame::Ping);
                }
                // Finished tasks are forgotten as they finish.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Handles one message; false ends the session.
    async fn take(&mut self, message: Message) -> bool {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => {
                return self.answer(wire::notice("invalid: binary frames are not nostr")).await;
            }
            Message::Close(_) => return false,
            // The socket answers pings itself.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return true,
        };
        match ClientMessage::read(&text) {
            Ok(ClientMessage::Event(json)) => self.event(json).await,
            Ok(ClientMessage::Req(id, filters)) => self.req(id, filters, text.len()).await,
            Ok(ClientMessage::Count(id, filters)) => self.count(id, filters).await,
            Ok(ClientMessage::Auth(json)) => self.auth(json).await,
            Ok(ClientMessage::NegOpen(id, filter, message)) => {
                self.neg_open(id, *filter, message).await
            }
            Ok(ClientMessage::NegMsg(id, message)) => self.neg_msg(id, message).await,
            Ok(ClientMessage::NegClose(id)) => {
                self.reconciliations.remove(&id);
                true
            }
            Ok(ClientMessage::Close(id)) => {
                self.close(&id);
                true
            }
            Err(Misread::Req { id, reason }) => {
                // The id names what it would have replaced, and that is over too.
                self.close(&id);
                self.answer(wire::closed(&id, &format!("invalid: {reason}"))).await
            }
            Err(Misread::Neg { id, reason }) => {
                self.reconciliations.remove(&id);
                self.answer(wire::neg_err(&id, &format!("invalid: {reason}"))).await
            }
            Err(Misread::Count { id, reason }) => {
                self.answer(wire::closed(&id, &format!("invalid: {reason}"))).await
            }
            Err(misread) => self.answer(wire::notice(&misread.to_string())).await,
        }
    }

    /// `["EVENT", …]`: answered with OK once it is durable, or refused.
    async fn event(&mut self, json: &str) -> bool {
        let units = (json.len() / EVENT_UNIT_BYTES + 1).min(SESSION_EVENTS_MAX) as u32;
        let permit = self.events.clone().acquire_many_owned(units).await;
        let Ok(permit) = permit else { return false };
        let (relay, frames, json) = (self.relay.clone(), self.frames.clone(), json.to_owned());
        let bearer = Bearer { visitor: self.visitor, keys: self.sight.keys() };
        let (challenge, log) = (self.challenge.clone(), self.log.clone());
        self.tasks.spawn(async move {
            let answer = relay.ingest.take(json, bearer).await;
            log.answered(&answer);
            if answer.said.as_ref().is_err_and(Rejection::asks_who_it_is) {
                let _ = frames.send(Frame::Text(wire::auth(challenge.as_str()))).await;
            }
            let _ = frames.send(Frame::Text(wire::answer(&answer))).await;
            drop(permit);
        });
        true
    }

    /// `["AUTH", …]`: answered before the next message is read, which may need it.
    async fn auth(&mut self, json: &str) -> bool {
        if let Err(too_fast) = self.relay.throttle.visitor_does(Act::Event, &self.visitor) {
            let said = Err(too_fast.to_string());
            return self.answer(wire::auth_answer(stated_id(json.as_bytes()), said)).await;
        }
        let (relay, challenge) = (self.relay.clone(), self.challenge.clone());
        let json = json.to_owned();
        let verifier = &self.relay.ingest.verifier;
        let check = move || challenge.check(&json, &relay.url, clock::now());
        let Some((id, signer)) = verifier.run(check).await else {
            return self.answer(wire::notice("error: the relay failed to read this event")).await;
        };
        let said = signer.map_err(|reason| format!("invalid: {reason}"));
        let said = said.and_then(|key| self.admit_key(key).map_err(|barred| barred.to_string()));
        self.answer(wire::auth_answer(id, said)).await
    }

    fn admit_key(&self, key: PublicKey) -> Result<(), Barred> {
        if self.sight.add(key)? {
            self.log.authenticated(key);
            self.relay.peers.tapper.look_again(&self.sight);
        }
        Ok(())
    }

    /// `["COUNT", …]`: its names are no subscriptions.
    async fn count(&mut self, id: SubscriptionId, filters: Vec<Filter>) -> bool {
        let admitted =
            self.admit_filters("count", &filters).await.and_then(|()| count::check(&filters));
        let permit = self.counts.clone().try_acquire_owned().map_err(|_| {
            format!("rate-limited: {SESSION_COUNTS_MAX} counts are under way on this connection")
        });
        let permit = match admitted.and(permit) {
            Ok(permit) => permit,
            Err(reason) => return self.refuse(&id, reason).await,
        };
        let relay = &self.relay;
        let question = Question {
            filters,
            sight: self.sight.clone(),
            reads: relay.reads.clone(),
            revival: relay.revival.clone(),
            inquiry: relay.inquiry.clone(),
            searcher: relay.searcher.clone(),
        };
        let frames = self.frames.clone();
        self.tasks.spawn(async move {
            let frame = match question.answer().await {
                Some(Ok(tally)) => wire::count(&id, &tally),
                Some(Err(error)) => {
                    error!(%error, "L1 cannot be read; a count ends");
                    wire::closed(&id, "error: the relay cannot read its store")
                }
                None => return,
            };
            let _ = frames.send(Frame::Text(frame)).await;
            drop(permit);
        });
        true
    }

    /// `["NEG-OPEN", …]`: a reconciliation of the same name is replaced.
    async fn neg_open(&mut self, id: SubscriptionId, filter: Filter, message: Vec<u8>) -> bool {
        self.reconciliations.remove(&id);
        self.reconciliations.retain(|_, reconciling| !reconciling.task.is_finished());
        let admitted = self.admit_filters("neg", std::slice::from_ref(&filter)).await;
        let admitted = admitted.and_then(|()| neg::check(&filter));
        let refused = match admitted {
            Ok(()) if self.reconciliations.len() < SESSION_NEGS_MAX => None,
            Ok(()) => Some(format!("blocked: {SESSION_NEGS_MAX} reconciliations are under way")),
            Err(reason) => Some(reason),
        };
        if let Some(reason) = refused {
            return self.challenge_if(&reason).await
                && self.answer(wire::neg_err(&id, &reason)).await;
        }
        let (messages, received) = mpsc::channel(1);
        // The channel is empty.
        let _ = messages.try_send(message);
        let reconciliation = Reconciliation {
            id: id.clone(),
            filter,
            sight: self.sight.clone(),
            reads: self.relay.reads.clone(),
            items_max: self.relay.terms().limits.neg_items_max,
            lists: self.relay.hot_lists.clone(),
            room: self.relay.reconciliations.clone(),
            frames: self.frames.clone(),
        };
        let task = self.tasks.spawn(reconciliation.run(received));
        self.reconciliations.insert(id, Reconciling { messages, task });
        true
    }

    /// `["NEG-MSG", …]`: the next round.
    async fn neg_msg(&mut self, id: SubscriptionId, message: Vec<u8>) -> bool {
        let under_way = self.reconciliations.get(&id);
        let sent = under_way.map(|reconciling| reconciling.messages.try_send(message));
        let reason = match sent {
            Some(Ok(())) => return true,
            Some(Err(mpsc::error::TrySendError::Full(_))) => "closed: one message at a time",
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => {
                "closed: no reconciliation of this name is under way"
            }
        };
        self.reconciliations.remove(&id);
        self.answer(wire::neg_err(&id, reason)).await
    }

    /// `["REQ", …]`, of so many bytes: a subscription of the same name is replaced.
    async fn req(&mut self, id: SubscriptionId, filters: Vec<Filter>, bytes: usize) -> bool {
        self.close(&id);
        if let Some(request) = TapRequest::read(&id) {
            return self.serve_peer(&id, request, filters).await;
        }
        if let Err(reason) = self.admit(&filters).await {
            return self.refuse(&id, reason).await;
        }
        let room = match self.relay.filter_room.take(&self.visitor, &filters, bytes) {
            Ok(room) => room,
            Err(none) => return self.refuse(&id, none.to_string()).await,
        };
        let streamer = Streamer {
            id: id.clone(),
            filters: self.relay.clamp(filters),
            sight: self.sight.clone(),
            reads: self.relay.reads.clone(),
            delta: self.relay.delta.clone(),
            tapper: self.relay.peers.tapper.clone(),
            frames: self.frames.clone(),
            backlog: self.backlog.clone(),
            revival: self.relay.revival.clone(),
            inquiry: self.relay.inquiry.clone(),
            searcher: self.relay.searcher.clone(),
            deliveries: self.relay.deliveries.clone(),
            metrics: self.relay.metrics.clone(),
        };
        let metrics = &self.relay.metrics;
        metrics.reqs.inc();
        let open = Counted::one_of(&metrics.subscriptions);
        let task = self.tasks.spawn(async move {
            streamer.run().await;
            drop(open);
        });
        self.subscriptions.insert(id, Subscription { task, _room: Some(room) });
        true
    }

    /// A REQ of another relay's tap.
    async fn serve_peer(
        &mut self,
        id: &SubscriptionId,
        request: TapRequest<'_>,
        filters: Vec<Filter>,
    ) -> bool {
        let peer = match self.admit_peer(&filters) {
            Ok(peer) => peer,
            Err(reason) => {
                let too_fast = self.check_rate().err().map(|too_fast| too_fast.to_string());
                return self.refuse(id, too_fast.unwrap_or_else(|| reason.into())).await;
            }
        };
        if let TapRequest::Greeting(nonce) = request {
            // It costs a signature.
            if let Err(too_fast) = self.check_rate() {
                return self.refuse(id, too_fast.to_string()).await;
            }
            let Relay { identity, url, .. } = &*self.relay;
            let proof = peers::proof(identity, url, nonce, clock::now()).to_json();
            return self.answer(wire::event(id, &proof)).await
                && self.answer(wire::eose(id, wire::Completeness::Finish)).await;
        }
        let server = Server {
            id: id.clone(),
            peer,
            filters,
            members: self.relay.peers.members.clone(),
            delta: self.relay.delta.clone(),
            frames: self.frames.clone(),
            metrics: self.relay.metrics.clone(),
        };
        let task = self.tasks.spawn(server.run(self.relay.moderator.in_force()));
        self.subscriptions.insert(id.clone(), Subscription { task, _room: None });
        true
    }

    /// Which peer this is. Only whom the directory lists is one.
    fn admit_peer(&mut self, filters: &[Filter]) -> Result<PublicKey, &'static str> {
        let keys = self.sight.keys();
        if keys.is_empty() {
            return Err("auth-required: a relay authenticates with its own key");
        }
        let members = self.relay.peers.members.borrow();
        let Some(peer) = keys.into_iter().find(|key| members.contains_key(key)) else {
            // It may be newer than what is known of the directory.
            self.relay.peers.doubt.notify_one();
            return Err("restricted: this key is not that of a relay of this cluster");
        };
        self.subscriptions.retain(|_, open| !open.task.is_finished());
        let parts: usize = filters.iter().map(Filter::values).sum();
        let is_chunk = filters.len() == 1 && parts <= CHUNK_PARTS_MAX;
        if self.subscriptions.len() >= SERVED_CHUNKS_MAX || !is_chunk {
            return Err("blocked: that is more than a tap needs");
        }
        Ok(peer)
    }

    /// Ends a subscription, or a count, before it begins. Who has to authenticate is told what to sign, and
    /// nobody else: clients without a key take a challenge for a refusal.
    async fn refuse(&self, id: &SubscriptionId, reason: String) -> bool {
        self.challenge_if(&reason).await && self.answer(wire::closed(id, &reason)).await
    }

    /// Says what to sign, if that is the reason.
    async fn challenge_if(&self, reason: &str) -> bool {
        !reason.starts_with(AUTH_REQUIRED) || self.answer(wire::auth(self.challenge.as_str())).await
    }

    async fn admit(&mut self, filters: &[Filter]) -> Result<(), String> {
        let subscriptions_max = self.relay.terms().limits.subscriptions_max;
        self.subscriptions.retain(|_, open| !open.task.is_finished());
        if self.subscriptions.len() >= subscriptions_max {
            return Err(format!(
                "rate-limited: {subscriptions_max} subscriptions are open, and no more are allowed"
            ));
        }
        self.admit_filters("req", filters).await
    }

    /// Whether this may be asked: within the limits, not too often, and if the operator's command lets it
    /// through. `verb` is what the command is told.
    async fn admit_filters(&self, verb: &'static str, filters: &[Filter]) -> Result<(), String> {
        self.check_rate().map_err(|too_fast| too_fast.to_string())?;
        self.sight.check(filters).map_err(|barred| barred.to_string())?;
        check_size(filters, &self.relay.terms().limits)?;
        if self.relay.searcher.is_none() && filters.iter().any(|filter| filter.search.is_some()) {
            return Err("unsupported: this relay does not search".into());
        }
        let asker = Asker { visitor: &self.visitor, keys: &self.sight.keys() };
        match self.relay.read_policy.rule_on_request(verb, filters, &asker).await {
            Ruling::Accept => Ok(()),
            Ruling::Reject(reason) => Err(reason),
            Ruling::ShadowReject => Err("blocked: this relay does not answer that".into()),
            Ruling::Silence => Err("error: the relay's policy does not answer".into()),
        }
    }

    fn check_rate(&self) -> Result<(), TooFast> {
        let throttle = &self.relay.throttle;
        throttle.visitor_does(Act::Request, &self.visitor)?;
        let mut keys = self.sight.keys().into_iter();
        keys.try_for_each(|key| throttle.key_does(Act::Request, &key, &self.visitor))
    }

    /// An unknown id is fine: CLOSE may follow CLOSED.
    fn close(&mut self, id: &SubscriptionId) {
        if self.subscriptions.remove(id).is_some() {
            debug!(subscription = %id, "closed");
        }
    }

    async fn answer(&self, frame: String) -> bool {
        self.send(Frame::Text(frame)).await
    }

    async fn send(&self, frame: Frame) -> bool {
        self.frames.send(frame).await.is_ok()
    }
}

fn check_size(filters: &[Filter], limits: &Limits) -> Result<(), String> {
    if filters.len() > limits.filters_max {
        return Err(format!(
            "invalid: {} filters are too many, {} are allowed",
            filters.len(),
            limits.filters_max
        ));
    }
    let values: usize = filters.iter().map(Filter::values).sum();
    if values > limits.filter_values_max {
        return Err(format!(
            "invalid: {values} values in filters are too many, {} are allowed",
            limits.filter_values_max
        ));
    }
    Ok(())
}
