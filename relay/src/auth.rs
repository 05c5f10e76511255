//! Who a client is (NIP-42): it signs the challenge of its connection. It may do so with several keys.

use event::{Event, EventId, Kind, PublicKey, Timestamp, stated_id, verify};
use rand::Rng;
use url::Url;

/// Signed by who authenticates; never stored, never sent on.
pub const AUTH: Kind = Kind(22_242);

/// How far its date may be off, in seconds.
const AGE_SECONDS_MAX: u64 = 600;

/// The URL under which clients reach this relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayUrl(Url);

/// Why a text is no relay's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected ws://HOST or wss://HOST, not {0:?}")]
pub struct RelayUrlError(String);

impl std::str::FromStr for RelayUrl {
    type Err = RelayUrlError;

    fn from_str(text: &str) -> Result<RelayUrl, RelayUrlError> {
        let url = Url::parse(text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "ws" | "wss") && url.has_host());
        url.map(RelayUrl).ok_or_else(|| RelayUrlError(text.to_owned()))
    }
}

impl std::fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl RelayUrl {
    /// Whether this text means the same relay. Neither a slash at the end matters, nor whether TLS ends
    /// before the relay.
    pub fn is(&self, text: &str) -> bool {
        text.parse().is_ok_and(|RelayUrl(other)| self.is_at(&other))
    }

    /// Whether this is where the relay takes HTTP requests.
    pub fn is_http(&self, text: &str) -> bool {
        let url = Url::parse(text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        url.is_some_and(|url| self.is_at(&url))
    }

    /// Where it takes them.
    pub fn http(&self) -> String {
        // `ws` becomes `http`, and `wss` `https`.
        self.0.as_str().replacen("ws", "http", 1)
    }

    fn is_at(&self, other: &Url) -> bool {
        let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
        self.0.host() == other.host()
            && self.0.port() == other.port()
            && path(&self.0) == path(other)
    }
}

/// The value of the first tag of this name, or nothing.
pub fn tag_value<'e>(event: &'e Event, name: &str) -> &'e str {
    let tag = event.tags.iter().find(|tag| tag.name() == Some(name));
    tag.and_then(|tag| tag.value()).unwrap_or_default()
}

/// What a connection's client has to sign.
#[derive(Clone, Debug)]
pub struct Challenge(String);

impl Challenge {
    pub fn new() -> Challenge {
        Challenge(hex::encode(rand::rng().random::<[u8; 16]>()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads an answer to it: its id, as far as there is one, and whose key signed it.
    pub fn check(
        &self,
        json: &str,
        relay: &RelayUrl,
        now: Timestamp,
    ) -> (Option<EventId>, Result<PublicKey, String>) {
        (stated_id(json.as_bytes()), self.signer(json, relay, now))
    }

    fn signer(&self, json: &str, relay: &RelayUrl, now: Timestamp) -> Result<PublicKey, String> {
        let event = Event::from_json(json.as_bytes()).map_err(|error| error.to_string())?;
        if event.kind != AUTH {
            return Err(format!("AUTH takes an event of kind {AUTH}, not {}", event.kind));
        }
        if tag_value(&event, "challenge") != self.0 {
            return Err("the challenge is not that of this connection".into());
        }
        if !relay.is(tag_value(&event, "relay")) {
            return Err(format!("the relay is {relay}, not {:.100}", tag_value(&event, "relay")));
        }
        if event.created_at.0.abs_diff(now.0) > AGE_SECONDS_MAX {
            return Err(format!(
                "created_at is off by more than {AGE_SECONDS_MAX} seconds; here it is {}",
                now.0
            ));
        }
        let event = verify(event).map_err(|error| error.to_string())?;
        Ok(event.pubkey)
    }
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;

    fn url(text: &str) -> RelayUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_is_the_same_with_and_without_slash_and_tls() {
        let relay = url("wss://relay.example.com/");
        for same in
            ["wss://relay.example.com", "ws://RELAY.example.com/", "wss://relay.example.com:443"]
        {
            assert!(relay.is(same), "{same}");
        }
        for other in [
            "wss://example.com",
            "wss://relay.example.com/a",
            "wss://relay.example.com:444",
            "relay.example.com",
            "",
        ] {
            assert!(!relay.is(other), "{other}");
        }
        assert!("https://relay.example.com".parse::<RelayUrl>().is_err());
    }

    #[test]
    fn an_answer_has_to_fit_in_everything() {
        let (challenge, relay) = (Challenge::new(), url("wss://relay.example.com"));
        let ann = Author::new(1);
        let now = Timestamp(1_700_000_000);
        let answer = |kind, date, relay: &str, text: &str| {
            ann.sign(date, kind, &[&["relay", relay], &["challenge", text]], "").to_json()
        };
        let said = |json: &str| challenge.check(json, &relay, now).1;
        let home = "wss://relay.example.com/";
        let right = answer(22_242, now.0 - 500, home, challenge.as_str());
        assert_eq!(said(&right), Ok(ann.pubkey()));
        let refused = |json: &str, why: &str| {
            let reason = said(json).unwrap_err();
            assert!(reason.contains(why), "{reason:?} does not speak of {why:?}");
        };
        refused(&answer(1, now.0, home, challenge.as_str()), "kind 22242");
        refused(&answer(22_242, now.0 - 700, home, challenge.as_str()), "created_at");
        refused(&answer(22_242, now.0 + 700, home, challenge.as_str()), "created_at");
        refused(
            &answer(22_242, now.0, "wss://evil.example.com", challenge.as_str()),
            "the relay is",
        );
        refused(&answer(22_242, now.0, home, Challenge::new().as_str()), "challenge");
        let forged = right.replace(&format!("{}", now.0 - 500), &format!("{}", now.0 - 400));
        refused(&forged, "id");
        refused("{}", "missing field");
    }
}
