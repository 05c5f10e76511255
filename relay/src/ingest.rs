//! From a client's event to one that is safe in L1, or a refusal that says why.

use std::fmt;

use event::{Class, Event, Timestamp, verify};
use store::{Origin, Outcome, WriteError, Writer};
use tokio::sync::watch;
use tracing::error;

use crate::{
    clock,
    config::{Limits, NotGranted},
    delta::Delta,
    membership::Membership,
};

/// The way in for clients' events.
pub struct Ingest {
    pub writer: Writer,
    pub delta: Delta,
    pub limits: Limits,
    pub not_granted: NotGranted,
    pub membership: watch::Receiver<Membership>,
}

/// Why an event was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is on the disk now.
    Stored,
    /// It was there before.
    Duplicate,
    /// A newer version of it is there.
    Superseded,
    /// It was passed on, and is kept nowhere.
    PassedOn,
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
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("invalid: {0}")]
    Invalid(String),
    #[error("blocked: its author deleted it")]
    Deleted,
    #[error("restricted: this relay has not been granted by its event store, and takes no events")]
    NotGranted,
    #[error("error: {0}")]
    Error(&'static str),
}

impl Ingest {
    /// Takes an event that stood in `bytes` bytes of JSON. When this returns `Stored`, it is durable.
    pub async fn take(&self, event: Event, bytes: usize) -> Result<Accepted, Rejection> {
        // Cheap refusals first, then the costly check, then the promise.
        self.admit(&event, bytes, clock::now())?;
        let event = verify(event).map_err(|invalid| Rejection::Invalid(invalid.to_string()))?;
        if event.kind.class() == Class::Ephemeral {
            self.delta.pass_on(&event);
            return Ok(Accepted::PassedOn);
        }
        match self.writer.put(event, Origin::Client).await {
            Ok(Outcome::Saved(_)) => Ok(Accepted::Stored),
            Ok(Outcome::Duplicate(_)) => Ok(Accepted::Duplicate),
            Ok(Outcome::Superseded) => Ok(Accepted::Superseded),
            Ok(Outcome::Ephemeral) => Ok(Accepted::PassedOn),
            Ok(Outcome::Deleted) => Err(Rejection::Deleted),
            Ok(Outcome::Expired) => Err(Rejection::Invalid("it has expired".into())),
            Ok(Outcome::Invalid(reason)) => Err(Rejection::Invalid(reason.to_string())),
            Err(error) => Err(refusal(error)),
        }
    }

    fn admit(&self, event: &Event, bytes: usize, now: Timestamp) -> Result<(), Rejection> {
        let limits = &self.limits;
        let refuse = |reason: String| Err(Rejection::Invalid(reason));
        if bytes > limits.event_bytes_max {
            return refuse(format!(
                "the event has {bytes} bytes, {} are allowed",
                limits.event_bytes_max
            ));
        }
        if event.tags.len() > limits.event_tags_max {
            return refuse(format!(
                "the event has {} tags, {} are allowed",
                event.tags.len(),
                limits.event_tags_max
            ));
        }
        if event.created_at.0 > now.0.saturating_add(limits.future_seconds_max) {
            return refuse("created_at lies too far in the future".into());
        }
        let is_barred = *self.membership.borrow() == Membership::NotGranted
            && self.not_granted == NotGranted::Refuse;
        if is_barred { Err(Rejection::NotGranted) } else { Ok(()) }
    }
}

fn refusal(cause: WriteError) -> Rejection {
    error!(%cause, "an event could not be stored");
    Rejection::Error(match cause {
        WriteError::Full => "storage is full",
        WriteError::Stopped => "the relay is stopping",
        _ => "the relay cannot write its store",
    })
}
