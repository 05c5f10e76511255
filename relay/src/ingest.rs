//! From a client's event to one that is safe in L1, or a refusal that says why.
//!
//! What costs least comes first: a text that was refused a moment ago, the size, an id that L1 holds.
//! Only then is the rest read, hashed and its signature checked, on threads of its own.

use std::{fmt, sync::Arc};

use event::{
    Class, Event, EventId, Invalid, Kind, PublicKey, Timestamp, Verified, stated_id, verify,
};
use store::{Origin, Outcome, Store, WriteError, Writer};
use tokio::sync::watch;

use crate::{
    auth::AUTH,
    clock,
    config::{Limits, NotGranted},
    delta::Delta,
    local::{LocalOnly, is_protection},
    membership::Membership,
    metrics::Metrics,
    outbox::UntilLayer2,
    refusals::Refusals,
    verifier::Verifier,
};

/// Kinds that are for one pair of eyes and no relay's store: seals without their wrap (NIP-59), zap
/// requests (NIP-57), and what authenticates somebody to a relay, a media server or over HTTP.
const NEVER_PUBLISHED: [Kind; 5] = [Kind(13), Kind(9_734), AUTH, Kind(24_242), Kind(27_235)];

/// Kinds whose content may be another event (NIP-18).
const REPOSTS: [Kind; 2] = [Kind(6), Kind(16)];

/// The way in for clients' events.
pub struct Ingest {
    pub admission: Arc<Admission>,
    pub refusals: Refusals,
    pub verifier: Verifier,
    pub writer: Writer,
    pub delta: Delta,
    /// What is stored here and nowhere else.
    pub local: Arc<LocalOnly>,
    /// If an OK means that L2 has the event, too.
    pub until_layer2: Option<UntilLayer2>,
    pub metrics: Arc<Metrics>,
}

/// What an event has to pass before it is written.
pub struct Admission {
    pub store: Store,
    pub limits: Limits,
    pub not_granted: NotGranted,
    pub membership: watch::Receiver<Membership>,
}

/// What a client is told about the event it sent.
pub struct Answer {
    /// As far as it could be read.
    pub id: Option<EventId>,
    pub said: Result<Accepted, Rejection>,
}

/// Why an event was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is on the disk now, and in L2 if that was to be waited for.
    Stored,
    /// It was there before.
    Duplicate,
    /// A newer version of it is there.
    Superseded,
    /// It was passed on, and is kept nowhere.
    PassedOn,
}

impl Accepted {
    fn name(self) -> &'static str {
        match self {
            Accepted::Stored => "stored",
            Accepted::Duplicate => "duplicate",
            Accepted::Superseded => "superseded",
            Accepted::PassedOn => "passed_on",
        }
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accepted::Stored | Accepted::PassedOn => "",
            Accepted::Duplicate => "duplicate: already have this event",
            Accepted::Superseded => "duplicate: have a newer version of this event",
        })
    }
}

/// Why an event was refused, as NIP-01's OK words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("invalid: {0}")]
    Invalid(String),
    #[error("invalid: {0}")]
    Forged(#[from] Invalid),
    #[error("invalid: it has expired")]
    Expired,
    #[error("blocked: its author deleted it")]
    Deleted,
    /// A protected event (NIP-70).
    #[error("auth-required: its author alone may publish this event, and has to authenticate")]
    Unproven,
    /// The same, from somebody who is authenticated as another.
    #[error("restricted: its author alone may publish this event")]
    NotItsAuthor,
    #[error("blocked: it embeds an event that its author protected")]
    EmbedsProtected,
    /// NIP-13.
    #[error("pow: {0}")]
    Work(String),
    #[error("restricted: this relay has not been granted by its event store, and takes no events")]
    NotGranted,
    /// L2 does not take it. It is on the disk here, and stays.
    #[error("error: it is stored on this relay alone, the shared store does not take it: {0}")]
    NotShared(String),
    /// L2 has not answered in time. It is on the disk here, and goes up when that is possible.
    #[error(
        "error: it is stored on this relay and on its way; the shared store has not confirmed it yet"
    )]
    Unconfirmed,
    /// Something that came later removed it before L2 had it.
    #[error("error: it was stored, and is gone again: replaced, deleted, or expired")]
    Gone,
    #[error("error: {0}")]
    Error(&'static str),
}

impl Rejection {
    fn name(&self) -> &'static str {
        match self {
            Rejection::Invalid(_) | Rejection::Forged(_) => "invalid",
            Rejection::Expired => "expired",
            Rejection::Deleted | Rejection::EmbedsProtected => "blocked",
            Rejection::Unproven => "auth_required",
            Rejection::NotItsAuthor | Rejection::NotGranted => "restricted",
            Rejection::Work(_) => "pow",
            Rejection::NotShared(_) => "not_shared",
            Rejection::Unconfirmed => "unconfirmed",
            Rejection::Gone | Rejection::Error(_) => "error",
        }
    }

    /// Whether the same text would be refused again, after costly checks.
    fn lasts(&self) -> bool {
        matches!(self, Rejection::Forged(_) | Rejection::Expired | Rejection::Deleted)
    }
}

/// What was found out about a text before anything is written.
enum Examined {
    New(Verified),
    /// L1 holds an event with this id. It is the hash of that event, so whatever else the text says is
    /// no event.
    Known(EventId),
    Refused(Option<EventId>, Rejection),
}

impl Ingest {
    /// Takes an event as a client wrote it that has authenticated with `keys`. When this says `Stored`, it
    /// is durable.
    pub async fn take(&self, json: String, keys: Vec<PublicKey>) -> Answer {
        let answer = self.judge(json, keys).await;
        self.metrics.count_event(match &answer.said {
            Ok(accepted) => accepted.name(),
            Err(rejection) => rejection.name(),
        });
        answer
    }

    async fn judge(&self, json: String, keys: Vec<PublicKey>) -> Answer {
        let (text, now) = (self.refusals.text(&json), clock::now());
        if let Some((id, rejection)) = self.refusals.find(text, now) {
            return Answer { id: Some(id), said: Err(rejection) };
        }
        let admission = self.admission.clone();
        let examined = self.verifier.run(move || admission.examine(&json, &keys, now)).await;
        let (id, said) = match examined {
            Some(Examined::New(event)) => (Some(event.id), self.keep(event).await),
            Some(Examined::Known(id)) => (Some(id), self.confirm(id, Accepted::Duplicate).await),
            Some(Examined::Refused(id, rejection)) => (id, Err(rejection)),
            None => (None, Err(Rejection::Error("the relay failed to read this event"))),
        };
        if let (Some(id), Err(rejection)) = (id, &said)
            && rejection.lasts()
        {
            self.refusals.note(text, id, rejection.clone(), now);
        }
        Answer { id, said }
    }

    async fn keep(&self, event: Verified) -> Result<Accepted, Rejection> {
        if event.kind.class() == Class::Ephemeral {
            self.delta.pass_on(&event);
            return Ok(Accepted::PassedOn);
        }
        let (id, is_local) = (event.id, self.local.keeps(&event));
        let origin = if is_local { Origin::Local } else { Origin::Client };
        match self.writer.put(event, origin).await {
            Ok(Outcome::Saved(_)) => self.confirm(id, Accepted::Stored).await,
            Ok(Outcome::Duplicate(_)) => self.confirm(id, Accepted::Duplicate).await,
            Ok(Outcome::Superseded) => Ok(Accepted::Superseded),
            Ok(Outcome::Ephemeral) => Ok(Accepted::PassedOn),
            Ok(Outcome::Deleted) => Err(Rejection::Deleted),
            Ok(Outcome::Expired) => Err(Rejection::Expired),
            Ok(Outcome::Invalid(reason)) => Err(Rejection::Invalid(reason.to_string())),
            // The store has said so in the log, once.
            Err(error) => Err(refusal(&error)),
        }
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
        if json.len() > self.limits.event_bytes_max {
            return refused(Rejection::Invalid(format!(
                "the event has {} bytes, {} are allowed",
                json.len(),
                self.limits.event_bytes_max
            )));
        }
        if let Some(id) = stated_id(json.as_bytes())
            && self.is_held(&id)
        {
            return Examined::Known(id);
        }
        let event = match Event::from_json(json.as_bytes()) {
            Ok(event) => event,
            Err(error) => return refused(Rejection::Invalid(error.to_string())),
        };
        let id = event.id;
        let admitted = self.admit(&event, now).and_then(|()| check_protection(&event, keys));
        let checked = admitted.and_then(|()| Ok(verify(event)?));
        checked.map_or_else(|refusal| Examined::Refused(Some(id), refusal), Examined::New)
    }

    /// If L1 cannot be read, the writer will know, and say what is wrong with it.
    fn is_held(&self, id: &EventId) -> bool {
        self.store.contains(id).unwrap_or(false)
    }

    fn admit(&self, event: &Event, now: Timestamp) -> Result<(), Rejection> {
        let limits = &self.limits;
        let refuse = |reason: String| Err(Rejection::Invalid(reason));
        if event.tags.len() > limits.event_tags_max {
            return refuse(format!(
                "the event has {} tags, {} are allowed",
                event.tags.len(),
                limits.event_tags_max
            ));
        }
        if NEVER_PUBLISHED.contains(&event.kind) {
            return refuse(format!("events of kind {} are not for publishing", event.kind));
        }
        check_work(event, limits.pow_min)?;
        if event.created_at.0 > now.0.saturating_add(limits.future_seconds_max) {
            return refuse("created_at lies too far in the future".into());
        }
        let is_barred = *self.membership.borrow() == Membership::NotGranted
            && self.not_granted == NotGranted::Refuse;
        if is_barred { Err(Rejection::NotGranted) } else { Ok(()) }
    }
}

/// A protected event comes from its author, and in no repost (NIP-70, NIP-18).
fn check_protection(event: &Event, keys: &[PublicKey]) -> Result<(), Rejection> {
    if event.tags.iter().any(is_protection) && !keys.contains(&event.pubkey) {
        return Err(if keys.is_empty() { Rejection::Unproven } else { Rejection::NotItsAuthor });
    }
    let embeds_protected = REPOSTS.contains(&event.kind)
        && Event::from_json(event.content.as_bytes())
            .is_ok_and(|embedded| embedded.tags.iter().any(is_protection));
    if embeds_protected { Err(Rejection::EmbedsProtected) } else { Ok(()) }
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

/// Bits that are 0 before the first that is not.
pub(crate) fn leading_zeros(bytes: &[u8]) -> u32 {
    let full = bytes.iter().take_while(|byte| **byte == 0).count();
    8 * full as u32 + bytes.get(full).map_or(0, |byte| byte.leading_zeros())
}

fn refusal(cause: &WriteError) -> Rejection {
    Rejection::Error(match cause {
        WriteError::Full => "storage is full",
        WriteError::Stopped => "the relay is stopping",
        WriteError::Failed(_) => "the relay cannot write its store",
    })
}
