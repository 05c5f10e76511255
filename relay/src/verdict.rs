//! What a client is told about an event that it sent, in the words of NIP-01.

use std::fmt;

use event::{EventId, Invalid, Kind, PublicKey};
use store::WriteError;

/// What a refusal begins with that authentication would lift (NIP-42).
pub const AUTH_REQUIRED: &str = "auth-required: ";

/// What a client is told about the event it sent.
pub struct Answer {
    /// As far as it could be read.
    pub id: Option<EventId>,
    /// Whose event it is, if that was found to be true.
    pub from: Option<PublicKey>,
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
    /// It was not: the operator's command wants its client to think so.
    Shadowed,
}

impl Accepted {
    /// Its name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Accepted::Stored => "stored",
            Accepted::Duplicate => "duplicate",
            Accepted::Superseded => "superseded",
            Accepted::PassedOn => "passed_on",
            Accepted::Shadowed => "shadowed",
        }
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accepted::Stored | Accepted::PassedOn | Accepted::Shadowed => "",
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
    /// It is no event at all. The reason may repeat some of it.
    #[error("invalid: {0}")]
    Unreadable(String),
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
    #[error("blocked: this relay does not take it")]
    Banned,
    #[error("blocked: this relay does not take events of kind {0}")]
    KindNotTaken(Kind),
    /// There is no room for a message, to this receiver or at all.
    #[error("blocked: over quota: there is no room for more messages{}", to_whom(.0))]
    OverQuota(Option<PublicKey>),
    #[error("restricted: only keys that are allowed publish here")]
    NotAllowed,
    #[error(transparent)]
    TooFast(#[from] TooFast),
    /// The operator's command said so, in its own words.
    #[error("{0}")]
    Policy(String),
    #[error("error: the relay's policy does not answer; try again later")]
    NoPolicy,
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
    /// Its name in the metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Rejection::Invalid(_) | Rejection::Unreadable(_) | Rejection::Forged(_) => "invalid",
            Rejection::Expired => "expired",
            Rejection::Deleted
            | Rejection::EmbedsProtected
            | Rejection::Banned
            | Rejection::KindNotTaken(_)
            | Rejection::Policy(_) => "blocked",
            Rejection::OverQuota(_) => "over_quota",
            Rejection::TooFast(_) => "rate_limited",
            Rejection::Unproven => "auth_required",
            Rejection::NotItsAuthor | Rejection::NotGranted | Rejection::NotAllowed => "restricted",
            Rejection::Work(_) => "pow",
            Rejection::NotShared(_) => "not_shared",
            Rejection::Unconfirmed => "unconfirmed",
            Rejection::Gone | Rejection::NoPolicy | Rejection::Error(_) => "error",
        }
    }

    /// Whether authentication would lift it (NIP-42).
    pub fn asks_who_it_is(&self) -> bool {
        match self {
            Rejection::Unproven => true,
            Rejection::Policy(reason) => reason.starts_with(AUTH_REQUIRED),
            _ => false,
        }
    }

    /// Whether the same text would be refused again, after costly checks.
    pub fn lasts(&self) -> bool {
        matches!(self, Rejection::Forged(_) | Rejection::Expired | Rejection::Deleted)
    }
}

impl From<WriteError> for Rejection {
    fn from(cause: WriteError) -> Rejection {
        Rejection::Error(match cause {
            WriteError::Full => "storage is full",
            WriteError::Stopped => "the relay is stopping",
            WriteError::Failed(_) => "the relay cannot write its store",
        })
    }
}

fn to_whom(receiver: &Option<PublicKey>) -> String {
    receiver.map(|key| format!(" to {key}")).unwrap_or_default()
}

/// A client does too much of something: more than so many a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rate-limited: slow down, {0} a second are allowed")]
pub struct TooFast(pub u32);
