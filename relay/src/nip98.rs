//! Who sends an HTTP request (NIP-98): an event in its `Authorization` header, signed for this request
//! and nothing else.

use std::{collections::HashMap, sync::Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use event::{Event, EventId, Kind, Timestamp, Verified, verify};
use sha2::{Digest, Sha256};

use crate::auth::{RelayUrl, tag_value};

/// Signed for one request; never stored.
pub const HTTP_AUTH: Kind = Kind(27_235);

/// How far its date may be off, in seconds (NIP-98 suggests 60).
const AGE_SECONDS_MAX: u64 = 60;

/// What comes before the event in the header.
const SCHEME: &str = "Nostr ";

/// Why nobody is known to have sent a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("a request needs an Authorization header with the scheme Nostr (NIP-98)")]
    NoHeader,
    #[error("the Authorization header holds no event in base64: {0}")]
    NoEvent(String),
    #[error("it takes an event of kind {HTTP_AUTH}, not {0}")]
    Kind(Kind),
    #[error("created_at is off by more than {AGE_SECONDS_MAX} seconds; here it is {0}")]
    Date(Timestamp),
    #[error("`u` is not {0}")]
    Url(String),
    #[error("`method` is not POST")]
    Method,
    #[error("`payload` is not the SHA-256 of the request's body")]
    Payload,
    #[error("this event was used before")]
    Replayed,
    #[error("{0}")]
    Forged(event::Invalid),
}

/// The event that authorizes a POST of this body, with this header, to the relay with this URL.
pub fn event(
    header: Option<&str>,
    body: &[u8],
    relay: &RelayUrl,
    now: Timestamp,
) -> Result<Verified, Unauthorized> {
    let event = event_in(header.ok_or(Unauthorized::NoHeader)?)?;
    if event.kind != HTTP_AUTH {
        return Err(Unauthorized::Kind(event.kind));
    }
    if event.created_at.0.abs_diff(now.0) > AGE_SECONDS_MAX {
        return Err(Unauthorized::Date(now));
    }
    if !relay.is_http(tag_value(&event, "u")) {
        return Err(Unauthorized::Url(relay.http()));
    }
    if tag_value(&event, "method") != "POST" {
        return Err(Unauthorized::Method);
    }
    if tag_value(&event, "payload") != hex::encode(Sha256::digest(body)) {
        return Err(Unauthorized::Payload);
    }
    verify(event).map_err(Unauthorized::Forged)
}

/// Events that were used, so that nobody who saw one can use it again.
#[derive(Default)]
pub struct Used(Mutex<HashMap<EventId, Timestamp>>);

impl Used {
    /// Whether this is the first use. Those are forgotten that are too old to be used again.
    pub fn take(&self, event: &Event, now: Timestamp) -> bool {
        let mut used = self.0.lock().expect("no holder panics");
        used.retain(|_, date| date.0.abs_diff(now.0) <= AGE_SECONDS_MAX);
        used.insert(event.id, event.created_at).is_none()
    }
}

fn event_in(header: &str) -> Result<Event, Unauthorized> {
    let encoded = header.strip_prefix(SCHEME).ok_or(Unauthorized::NoHeader)?;
    let no_event = |error: String| Unauthorized::NoEvent(error);
    let json = STANDARD.decode(encoded.trim()).map_err(|error| no_event(error.to_string()))?;
    Event::from_json(&json).map_err(|error| no_event(error.to_string()))
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;

    const NOW: u64 = 1_700_000_000;
    const BODY: &[u8] = b"{}";

    fn header(kind: u16, date: u64, tags: &[&[&str]]) -> String {
        let event = Author::new(1).sign(date, kind, tags, "");
        format!("Nostr {}", STANDARD.encode(event.to_json()))
    }

    fn tags(u: &str, method: &str, body: &[u8]) -> [Vec<String>; 3] {
        let hash = hex::encode(Sha256::digest(body));
        [["u", u], ["method", method], ["payload", &hash]].map(|tag| tag.map(String::from).into())
    }

    #[track_caller]
    fn check(
        kind: u16,
        date: u64,
        [u, method, payload]: [Vec<String>; 3],
        expected: Result<(), &str>,
    ) {
        let tags: Vec<Vec<&str>> =
            [&u, &method, &payload].map(|tag| tag.iter().map(String::as_str).collect()).into();
        let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
        let relay = "wss://relay.example.com".parse().unwrap();
        let header = header(kind, date, &tags);
        let said = event(Some(&header), BODY, &relay, Timestamp(NOW));
        match (said, expected) {
            (Ok(event), Ok(())) => assert_eq!(event.pubkey, Author::new(1).pubkey()),
            (Err(error), Err(reason)) => {
                assert!(error.to_string().contains(reason), "{error} does not speak of {reason}");
            }
            (said, expected) => panic!("{said:?} is not {expected:?}"),
        }
    }

    #[test]
    fn an_event_has_to_fit_the_request_in_everything() {
        let home = "https://relay.example.com/";
        check(27_235, NOW - 60, tags(home, "POST", BODY), Ok(()));
        check(27_235, NOW, tags("https://relay.example.com", "POST", BODY), Ok(()));
        check(22_242, NOW, tags(home, "POST", BODY), Err("kind 27235"));
        check(27_235, NOW - 61, tags(home, "POST", BODY), Err("created_at"));
        check(27_235, NOW + 61, tags(home, "POST", BODY), Err("created_at"));
        check(27_235, NOW, tags("https://example.com/", "POST", BODY), Err("`u`"));
        check(27_235, NOW, tags("wss://relay.example.com/", "POST", BODY), Err("`u`"));
        check(27_235, NOW, tags(home, "GET", BODY), Err("`method`"));
        check(27_235, NOW, tags(home, "POST", b"[]"), Err("`payload`"));
    }

    #[test]
    fn what_is_no_authorization_is_refused() {
        let relay = "wss://relay.example.com".parse().unwrap();
        let refusal =
            |header: Option<&str>| event(header, BODY, &relay, Timestamp(NOW)).unwrap_err();
        assert_eq!(refusal(None), Unauthorized::NoHeader);
        assert_eq!(refusal(Some("Bearer x")), Unauthorized::NoHeader);
        assert!(matches!(refusal(Some("Nostr !")), Unauthorized::NoEvent(_)));
    }

    #[test]
    fn an_event_is_good_for_one_use_and_forgotten_when_it_is_too_old_for_another() {
        let (used, event) = (Used::default(), Author::new(1).sign(NOW, 27_235, &[], ""));
        assert!(used.take(&event, Timestamp(NOW)));
        assert!(!used.take(&event, Timestamp(NOW + 60)));
        let other = Author::new(2).sign(NOW + 61, 27_235, &[], "");
        assert!(used.take(&other, Timestamp(NOW + 61)));
        assert_eq!(used.0.lock().unwrap().len(), 1);
    }
}
