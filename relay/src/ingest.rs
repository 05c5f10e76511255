//! From a client's event to one that is safe in L1, or a refusal that says why.
//!
//! What costs least comes first: a text that was refused a moment ago, the size, an id that L1 holds.
//! Only then is the rest read, hashed and its signature checked, on threads of its own.

use std::{io, sync::Arc};

use event::{
    Class, Event, EventId, Filter, Kind, Packed, PublicKey, Timestamp, Verified, stated_id, verify,
};
use serde_json::Value;
use store::{Origin, Outcome, Store, Writer};
use tokio::sync::watch;

use crate::{
    auth::AUTH,
    bits::leading_zeros,
    clock,
    config::{
        Config, NotGranted, OkAfter,
        terms::{InForce, Limits, Terms},
    },
    deliveries::Deliveries,
    delta::{Brought, Delta},
    local::{LocalOnly, PROTECTION, is_protection},
    membership::Membership,
    message::Message,
    metrics::Metrics,
    outbox::{UntilLayer2, Waiters},
    plugin::{Asker, Policy, Ruling},
    quotas::{Quotas, Room},
    refusals::Refusals,
    throttle::{Act, Throttle},
    verdict::{Accepted, Answer, Rejection},
    verifier::Verifier,
    visitor::Visitor,
};

/// Kinds that are for one pair of eyes and no relay's store: seals without their wrap (NIP-59), zap
/// requests (NIP-57), and what authenticates somebody to a relay, a media server or over HTTP.
const NEVER_PUBLISHED: [Kind; 5] = [Kind(13), Kind(9_734), AUTH, Kind(24_242), Kind(27_235)];

/// Kinds whose content may be another event (NIP-18).
const REPOSTS: [Kind; 2] = [Kind(6), Kind(16)];

/// The way in for clients' events.
pub struct Ingest {
    admission: Arc<Admission>,
    refusals: Refusals,
    pub verifier: Verifier,
    writer: Writer,
    delta: Delta,
    /// What is stored here and nowhere else.
    local: Arc<LocalOnly>,
    /// If an OK means that L2 has the event, too.
    until_layer2: Option<UntilLayer2>,
    policy: Policy,
    throttle: Arc<Throttle>,
    deliveries: Deliveries,
    quotas: Arc<Quotas>,
    metrics: Arc<Metrics>,
}

/// What an event has to pass before it is written.
struct Admission {
    store: Store,
    in_force: InForce,
    not_granted: NotGranted,
    membership: watch::Receiver<Membership>,
}

/// What was found out about a text before anything is written.
enum Examined {
    New(Verified),
    /// L1 holds an event with this id. It is the hash of that event, so whatever else the text says is
    /// no event.
    Known(EventId),
    Refused(Option<EventId>, Rejection),
}

/// What there has to be before events are taken.
pub struct Parts {
    pub store: Store,
    pub writer: Writer,
    pub delta: Delta,
    pub membership: watch::Receiver<Membership>,
    pub waiters: Arc<Waiters>,
    pub local: Arc<LocalOnly>,
    pub in_force: InForce,
    pub policy: Policy,
    pub throttle: Arc<Throttle>,
    pub deliveries: Deliveries,
    pub quotas: Arc<Quotas>,
    pub metrics: Arc<Metrics>,
}

/// What became of an event that a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tapped {
    New,
    Known,
    /// It was not asked for, or asked for no longer.
    Unwanted,
    /// It is not for this relay, or not now.
    Refused,
    /// It is no event, or nobody signed it.
    Forged,
}

impl Tapped {
    /// Its name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Tapped::New => "new",
            Tapped::Known => "known",
            Tapped::Unwanted => "unwanted",
            Tapped::Refused => "refused",
            Tapped::Forged => "forged",
        }
    }
}

/// Who brings an event.
pub struct Bearer {
    pub visitor: Visitor,
    /// The keys that it has authenticated with.
    pub keys: Vec<PublicKey>,
}

impl Ingest {
    /// Starts the threads that check events.
    pub fn start(config: &Config, parts: Parts) -> io::Result<Ingest> {
        let Parts { store, writer, delta, membership, waiters, local, metrics, .. } = parts;
        let Parts { in_force, policy, throttle, deliveries, quotas, .. } = parts;
        let until_layer2 = (config.ok_after == OkAfter::Layer2).then(|| UntilLayer2 {
            store: store.clone(),
            waiters,
            patience: config.ok_timeout,
        });
        let not_granted = config.not_granted;
        Ok(Ingest {
            admission: Arc::new(Admission { store, in_force, not_granted, membership }),
            refusals: Refusals::default(),
            verifier: Verifier::start()?,
            writer,
            delta,
            local,
            until_layer2,
            policy,
            throttle,
            deliveries,
            quotas,
            metrics,
        })
    }

    /// Takes an event as a client wrote it. When this says `Stored`, it is durable.
    pub async fn take(&self, json: String, bearer: Bearer) -> Answer {
        let answer = match self.throttle.visitor_does(Act::Event, &bearer.visitor) {
            Ok(()) => self.judge(json, Arc::new(bearer)).await,
            Err(too_fast) => {
                let id = stated_id(json.as_bytes());
                Answer { id, from: None, said: Err(too_fast.into()) }
            }
        };
        self.metrics.count_event(match &answer.said {
            Ok(accepted) => accepted.name(),
            Err(rejection) => rejection.name(),
        });
        answer
    }

    /// Takes an event as a peer wrote it, which was asked for what is `wanted`.
    pub async fn take_from_peer(&self, json: String, wanted: Arc<Filter>) -> Tapped {
        let (admission, now) = (self.admission.clone(), clock::now());
        let examined = self.verifier.run(move || admission.examine_tapped(&json, &wanted, now));
        let event = match examined.await {
            Some(Ok(event)) => event,
            Some(Err(tapped)) => return tapped,
            None => return Tapped::Refused,
        };
        if self.local.keeps(&event) {
            return Tapped::Refused;
        }
        if event.kind.class() == Class::Ephemeral {
            let is_new = self.delta.pass_on(&event, Brought::Peer);
            return if is_new { Tapped::New } else { Tapped::Known };
        }
        let message = self.deliveries.message_of(&event);
        match self.writer.put(event, Origin::Peer).await {
            Ok(Outcome::Saved(_)) => {
                message.iter().for_each(|message| self.deliveries.stored(message));
                Tapped::New
            }
            Ok(_) => Tapped::Known,
            // The store has said so in the log, and the poll will bring it.
            Err(_) => Tapped::Refused,
        }
    }

    async fn judge(&self, json: String, bearer: Arc<Bearer>) -> Answer {
        let (text, now) = (self.refusals.text(&json), clock::now());
        if let Some((id, rejection)) = self.refusals.find(text, now) {
            return Answer { id: Some(id), from: None, said: Err(rejection) };
        }
        let (admission, by) = (self.admission.clone(), bearer.clone());
        let examined = self.verifier.run(move || admission.examine(&json, &by.keys, now)).await;
        let from = match &examined {
            Some(Examined::New(event)) => Some(event.pubkey),
            _ => None,
        };
        let (id, said) = match examined {
            Some(Examined::New(event)) => (Some(event.id), self.consider(event, &bearer).await),
            Some(Examined::Known(id)) => (Some(id), self.confirm(id, Accepted::Duplicate).await),
            Some(Examined::Refused(id, rejection)) => (id, Err(rejection)),
            None => (None, Err(Rejection::Error("the relay failed to read this event"))),
        };
        if let (Some(id), Err(rejection)) = (id, &said)
            && rejection.lasts()
        {
            self.refusals.note(text, id, rejection.clone(), now);
        }
        Answer { id, from, said }
    }

    /// What only its author may have done counts for its author: so this comes after the check.
    async fn consider(&self, event: Verified, bearer: &Bearer) -> Result<Accepted, Rejection> {
        self.throttle.key_does(Act::Event, &event.pubkey, &bearer.visitor)?;
        let asker = Asker { visitor: &bearer.visitor, keys: &bearer.keys };
        match self.policy.rule_on_event(&event, &asker).await {
            Ruling::Accept => self.keep(event).await,
            Ruling::ShadowReject => Ok(Accepted::Shadowed),
            Ruling::Reject(reason) => Err(Rejection::Policy(reason)),
            Ruling::Silence => Err(Rejection::NoPolicy),
        }
    }

    async fn keep(&self, event: Verified) -> Result<Accepted, Rejection> {
        if event.kind.class() == Class::Ephemeral {
            // The store does not see it, and would have said so.
            if event.expiration().is_some_and(|date| date <= clock::now()) {
                return Err(Rejection::Expired);
            }
            let brought = if self.local.keeps(&event) { Brought::Local } else { Brought::Client };
            let is_new = self.delta.pass_on(&event, brought);
            return Ok(if is_new { Accepted::PassedOn } else { Accepted::Duplicate });
        }
        let (id, is_local) = (event.id, self.local.keeps(&event));
        let origin = if is_local { Origin::Local } else { Origin::Client };
        let (message, room) = self.find_room(&event).await?.unzip();
        match self.writer.put(event, origin).await {
            Ok(Outcome::Saved(seq)) => {
                if let Some(room) = room {
                    room.take(seq);
                }
                if let Some(message) = message {
                    self.deliveries.stored(&message);
                }
                self.confirm(id, Accepted::Stored).await
            }
            Ok(Outcome::Duplicate(_)) => self.confirm(id, Accepted::Duplicate).await,
            Ok(Outcome::Superseded) => Ok(Accepted::Superseded),
            Ok(Outcome::Ephemeral) => Ok(Accepted::PassedOn),
            Ok(Outcome::Deleted) => Err(Rejection::Deleted),
            Ok(Outcome::Expired) => Err(Rejection::Expired),
            Ok(Outcome::Invalid(reason)) => Err(Rejection::Invalid(reason.to_string())),
            // The store has said so in the log, once.
            Err(error) => Err(error.into()),
        }
    }

    /// Room for a message, if it is one.
    async fn find_room(&self, event: &Event) -> Result<Option<(Message, Room)>, Rejection> {
        let message = Message::of_event(event, &self.admission.in_force.load().guarded_kinds);
        let Some(message) = message else { return Ok(None) };
        let room = self.quotas.admit(&message).await?;
        Ok(Some((message, room)))
    }

    /// What is said of an event that L1 has: at once, or when L2 has answered for it.
    async fn confirm(&self, id: EventId, taken: Accepted) -> Result<Accepted, Rejection> {
        match &self.until_layer2 {
            Some(until_layer2) => until_layer2.answer(id, taken).await,
            None => Ok(taken),
        }
    }
}

impl Admission {
    fn examine(&self, json: &str, keys: &[PublicKey], now: Timestamp) -> Examined {
        let refused = |rejection| Examined::Refused(stated_id(json.as_bytes()), rejection);
        let terms = self.in_force.load();
        let limits = &terms.limits;
        if json.len() > limits.event_bytes_max {
            return refused(Rejection::Invalid(format!(
                "the event has {} bytes, {} are allowed",
                json.len(),
                limits.event_bytes_max
            )));
        }
        if let Some(id) = stated_id(json.as_bytes())
            && self.is_held(&id)
        {
            let is_hidden = terms.access.hides_something() && self.is_hidden(&id, &terms);
            return if is_hidden { refused(Rejection::Banned) } else { Examined::Known(id) };
        }
        let event = match Event::from_json(json.as_bytes()) {
            Ok(event) => event,
            Err(error) => return refused(Rejection::Unreadable(error.to_string())),
        };
        let id = event.id;
        let admitted = self.admit(&event, limits, now);
        let admitted = admitted.and_then(|()| terms.access.check(&event));
        let admitted = admitted.and_then(|()| check_age(&event, &terms, now));
        let admitted = admitted.and_then(|()| check_protection(&event, keys));
        let checked = admitted.and_then(|()| Ok(verify(event)?));
        checked.map_or_else(|refusal| Examined::Refused(Some(id), refusal), Examined::New)
    }

    /// What a peer sends: its own clients' events, which it has let in by its own limits. Those that keep a
    /// store sound hold for it too.
    fn examine_tapped(
        &self,
        json: &str,
        wanted: &Filter,
        now: Timestamp,
    ) -> Result<Verified, Tapped> {
        if stated_id(json.as_bytes()).is_some_and(|id| self.is_held(&id)) {
            return Err(Tapped::Known);
        }
        let event = Event::from_json(json.as_bytes()).map_err(|_| Tapped::Forged)?;
        if !wanted.matches(&event) {
            return Err(Tapped::Unwanted);
        }
        let terms = self.in_force.load();
        let limits = &terms.limits;
        let is_small = json.len() <= limits.event_bytes_max;
        if !is_small || check_form(&event, limits, now).is_err() {
            return Err(Tapped::Refused);
        }
        let is_over = event.expiration().is_some_and(|date| date <= now);
        if is_over { Err(Tapped::Refused) } else { verify(event).map_err(|_| Tapped::Forged) }
    }

    /// If L1 cannot be read, the writer will know, and say what is wrong with it.
    fn is_held(&self, id: &EventId) -> bool {
        self.store.contains(id).unwrap_or(false)
    }

    /// Whether an event that is held was banned since.
    fn is_hidden(&self, id: &EventId, terms: &Terms) -> bool {
        let held = self.store.get(id).ok().flatten();
        let event = held.as_deref().and_then(|packed| Packed::trusted(packed).ok());
        event.is_some_and(|event| terms.access.hides(&event))
    }

    fn admit(&self, event: &Event, limits: &Limits, now: Timestamp) -> Result<(), Rejection> {
        check_form(event, limits, now)?;
        check_work(event, limits.pow_min)?;
        let is_too_old = |max| event.created_at.0 < now.0.saturating_sub(max);
        if limits.past_seconds_max.is_some_and(is_too_old) {
            return Err(Rejection::Invalid("created_at lies too far in the past".into()));
        }
        let is_barred = *self.membership.borrow() == Membership::NotGranted
            && self.not_granted == NotGranted::Refuse;
        if is_barred { Err(Rejection::NotGranted) } else { Ok(()) }
    }
}

/// What holds for every event, whoever brings it.
fn check_form(event: &Event, limits: &Limits, now: Timestamp) -> Result<(), Rejection> {
    let refuse = |reason: String| Err(Rejection::Invalid(reason));
    if event.tags.len() > limits.event_tags_max {
        return refuse(format!(
            "the event has {} tags, {} are allowed",
            event.tags.len(),
            limits.event_tags_max
        ));
    }
    let chars_max = limits.content_chars_max();
    if event.content.len() > chars_max && event.content.chars().count() > chars_max {
        return refuse(format!("the content has more than {chars_max} characters"));
    }
    if NEVER_PUBLISHED.contains(&event.kind) {
        return refuse(format!("events of kind {} are not for publishing", event.kind));
    }
    if event.created_at.0 > now.0.saturating_add(limits.future_seconds_max) {
        return refuse("created_at lies too far in the future".into());
    }
    Ok(())
}

/// A message that would be swept away is not taken.
fn check_age(event: &Event, terms: &Terms, now: Timestamp) -> Result<(), Rejection> {
    let is_over = event.created_at < terms.messages.kept_since(now);
    if is_over && Message::of_event(event, &terms.guarded_kinds).is_some() {
        let days = terms.messages.days_max.unwrap_or_default();
        return Err(Rejection::Invalid(format!("messages are kept for {days} days, it is older")));
    }
    Ok(())
}

/// A protected event comes from its author, and in no repost (NIP-70, NIP-18).
fn check_protection(event: &Event, keys: &[PublicKey]) -> Result<(), Rejection> {
    if event.tags.iter().any(is_protection) && !keys.contains(&event.pubkey) {
        return Err(if keys.is_empty() { Rejection::Unproven } else { Rejection::NotItsAuthor });
    }
    let is_repost = REPOSTS.contains(&event.kind);
    if is_repost && embeds_protected(&event.content) {
        return Err(Rejection::EmbedsProtected);
    }
    Ok(())
}

/// Whether a text holds an event that is protected: read loosely, as whoever shows it may read it.
fn embeds_protected(content: &str) -> bool {
    let embedded: Value = serde_json::from_str(content).unwrap_or_default();
    let tags = embedded["tags"].as_array();
    tags.is_some_and(|tags| tags.iter().any(|tag| tag[0] == PROTECTION))
}

/// Work counts as far as the event commits itself to it: luck does not (NIP-13).
fn check_work(event: &Event, wanted: u32) -> Result<(), Rejection> {
    if wanted == 0 {
        return Ok(());
    }
    let zeros = leading_zeros(&event.id.0);
    let nonce = event.tags.iter().find(|tag| tag.name() == Some("nonce"));
    let target = nonce.and_then(|tag| tag.0.get(2)).and_then(|target| target.parse().ok());
    let refuse = |why: String| Err(Rejection::Work(why));
    match target.unwrap_or(0u32) {
        _ if zeros < wanted => refuse(format!("{wanted} bits are wanted, the id has {zeros}")),
        target if target < wanted => {
            refuse(format!("{wanted} bits are wanted, the nonce tag commits to {target}"))
        }
        _ => Ok(()),
    }
}
