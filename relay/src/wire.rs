//! Frames of the websocket (NIP-01): what clients say, read strictly, and what the relay answers.

use std::{fmt, sync::Arc};

use event::{EventId, Filter, Packed};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess},
};
use serde_json::{json, value::RawValue};
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes, protocol::CloseFrame};
use tracing::warn;

use crate::{sketch::Tally, verdict::Answer};

/// The longest subscription id, in characters (NIP-01).
const SUBSCRIPTION_ID_CHARS_MAX: usize = 64;

/// A client's name for one of its subscriptions: 1 to 64 characters, its own on each connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(Arc<str>);

impl SubscriptionId {
    pub fn new(text: String) -> Option<SubscriptionId> {
        let is_valid = (1..=SUBSCRIPTION_ID_CHARS_MAX).contains(&text.chars().count());
        is_valid.then(|| SubscriptionId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A frame from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// The event as the client wrote it: read later, off the session's own task.
    Event(&'a str),
    Req(SubscriptionId, Vec<Filter>),
    Count(SubscriptionId, Vec<Filter>),
    Close(SubscriptionId),
    /// An event that answers the connection's challenge, as the client wrote it.
    Auth(&'a str),
    /// A reconciliation begins, with its first message (NIP-77).
    NegOpen(SubscriptionId, Box<Filter>, Vec<u8>),
    NegMsg(SubscriptionId, Vec<u8>),
    NegClose(SubscriptionId),
}

/// Why a frame is not understood.
#[derive(Debug, thiserror::Error)]
pub enum Misread {
    /// Nothing in it says which question it belongs to.
    #[error("invalid: {0}")]
    Frame(String),
    /// A subscription was meant, so the refusal must name it.
    #[error("invalid: {reason}")]
    Req { id: SubscriptionId, reason: String },
    /// The same for a count.
    #[error("invalid: {reason}")]
    Count { id: SubscriptionId, reason: String },
    /// And for a reconciliation.
    #[error("invalid: {reason}")]
    Neg { id: SubscriptionId, reason: String },
}

/// A frame's parts, not yet looked into.
struct Parts<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Parts<'de>, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Parts<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON array such as [\"REQ\", …]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Parts<'de>, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Parts(parts))
            }
        }
        deserializer.deserialize_seq(Visitor)
    }
}

impl<'a> ClientMessage<'a> {
    /// Reads one text frame.
    pub fn read(text: &'a str) -> Result<ClientMessage<'a>, Misread> {
        let Parts(parts) =
            serde_json::from_str(text).map_err(|error| Misread::Frame(error.to_string()))?;
        let (verb, rest) =
            parts.split_first().ok_or_else(|| Misread::Frame("the frame is empty".into()))?;
        let verb: String = serde_json::from_str(verb.get())
            .map_err(|_| Misread::Frame("a frame starts with its verb, a string".into()))?;
        match (verb.as_str(), rest) {
            ("EVENT", [event]) => Ok(ClientMessage::Event(event.get())),
            ("REQ", [id, filters @ ..]) => {
                let id = read_id(id)?;
                match read_filters(filters) {
                    Ok(filters) => Ok(ClientMessage::Req(id, filters)),
                    Err(reason) => Err(Misread::Req { id, reason }),
                }
            }
            ("COUNT", [id, filters @ ..]) => {
                let id = read_id(id)?;
                match read_filters(filters) {
                    Ok(filters) => Ok(ClientMessage::Count(id, filters)),
                    Err(reason) => Err(Misread::Count { id, reason }),
                }
            }
            ("CLOSE", [id]) => Ok(ClientMessage::Close(read_id(id)?)),
            ("AUTH", [event]) => Ok(ClientMessage::Auth(event.get())),
            ("NEG-OPEN", [id, filter, message]) => {
                let id = read_id(id)?;
                match (read_filters(&[*filter]), read_hex(message)) {
                    (Ok(filters), Ok(message)) => {
                        let filter = filters.into_iter().next().expect("it was one").into();
                        Ok(ClientMessage::NegOpen(id, filter, message))
                    }
                    (Err(reason), _) | (_, Err(reason)) => Err(Misread::Neg { id, reason }),
                }
            }
            ("NEG-MSG", [id, message]) => {
                let id = read_id(id)?;
                match read_hex(message) {
                    Ok(message) => Ok(ClientMessage::NegMsg(id, message)),
                    Err(reason) => Err(Misread::Neg { id, reason }),
                }
            }
            ("NEG-CLOSE", [id]) => Ok(ClientMessage::NegClose(read_id(id)?)),
            ("NEG-OPEN" | "NEG-MSG", [id, ..]) => {
                let reason = format!("{verb} does not have {} parts", parts.len());
                Err(Misread::Neg { id: read_id(id)?, reason })
            }
            (
                "EVENT" | "REQ" | "COUNT" | "CLOSE" | "AUTH" | "NEG-OPEN" | "NEG-MSG" | "NEG-CLOSE",
                _,
            ) => Err(Misread::Frame(format!("{verb} does not have {} parts", parts.len()))),
            _ => Err(Misread::Frame(format!("{verb:.20} is not a verb this relay knows"))),
        }
    }
}

fn read_id(part: &RawValue) -> Result<SubscriptionId, Misread> {
    serde_json::from_str(part.get()).ok().and_then(SubscriptionId::new).ok_or_else(|| {
        Misread::Frame(format!(
            "a subscription id is a string of 1 to {SUBSCRIPTION_ID_CHARS_MAX} characters"
        ))
    })
}

fn read_filters(filters: &[&RawValue]) -> Result<Vec<Filter>, String> {
    if filters.is_empty() {
        return Err("a filter is needed".into());
    }
    let read = filters.iter().map(|filter| Filter::from_json(filter.get().as_bytes()));
    read.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn read_hex(message: &RawValue) -> Result<Vec<u8>, String> {
    let text: &str =
        serde_json::from_str(message.get()).map_err(|_| "a message is a string of hex digits")?;
    hex::decode(text).map_err(|error| error.to_string())
}

/// What goes to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    /// A stored event: its bytes count, until they have gone out.
    Stored(String),
    /// A live event: its JSON is that of all who get it, and is put into a frame only when it is sent.
    Live(SubscriptionId, Arc<str>),
    Ping,
    /// The end, with a code of RFC 6455 and a reason.
    Bye(u16, &'static str),
}

impl Frame {
    /// What a stored event takes in the queue.
    pub fn stored_bytes(&self) -> Option<usize> {
        match self {
            Frame::Stored(text) => Some(text.len()),
            _ => None,
        }
    }
}

impl From<Frame> for Message {
    fn from(frame: Frame) -> Message {
        match frame {
            Frame::Text(text) | Frame::Stored(text) => Message::text(text),
            Frame::Live(id, json) => Message::text(event(&id, &json)),
            Frame::Ping => Message::Ping(Bytes::new()),
            Frame::Bye(code, reason) => {
                let reason = Utf8Bytes::from_static(reason);
                Message::Close(Some(CloseFrame { code: code.into(), reason }))
            }
        }
    }
}

/// `["OK", id, accepted, message]`
fn ok(id: &EventId, accepted: bool, message: &str) -> String {
    format!("[\"OK\",\"{id}\",{accepted},{}]", quoted(message))
}

/// What an EVENT is answered with; by NOTICE if no id can be read from it.
pub fn answer(answer: &Answer) -> String {
    let (accepted, message) = match &answer.said {
        Ok(accepted) => (true, accepted.to_string()),
        Err(rejection) => (false, rejection.to_string()),
    };
    match &answer.id {
        Some(id) => ok(id, accepted, &message),
        None => notice(&message),
    }
}

/// `["AUTH", challenge]` (NIP-42)
pub fn auth(challenge: &str) -> String {
    format!("[\"AUTH\",{}]", quoted(challenge))
}

/// What an AUTH is answered with; by NOTICE if no id can be read from it.
pub fn auth_answer(id: Option<EventId>, said: Result<(), String>) -> String {
    let (accepted, message) = match said {
        Ok(()) => (true, String::new()),
        Err(reason) => (false, reason),
    };
    match id {
        Some(id) => ok(&id, accepted, &message),
        None => notice(&message),
    }
}

/// `["NEG-MSG", id, message]` (NIP-77)
pub fn neg_msg(id: &SubscriptionId, message: &[u8]) -> String {
    format!("[\"NEG-MSG\",{},\"{}\"]", quoted(&id.0), hex::encode(message))
}

/// `["NEG-ERR", id, reason]` (NIP-77)
pub fn neg_err(id: &SubscriptionId, reason: &str) -> String {
    format!("[\"NEG-ERR\",{},{}]", quoted(&id.0), quoted(reason))
}

/// `["COUNT", id, {"count": …}]` (NIP-45)
pub fn count(id: &SubscriptionId, tally: &Tally) -> String {
    let mut answer = json!({"count": tally.count});
    if tally.is_approximate {
        answer["approximate"] = json!(true);
    }
    if let Some(sketch) = &tally.sketch {
        answer["hll"] = json!(sketch.to_hex());
    }
    format!("[\"COUNT\",{},{answer}]", quoted(&id.0))
}

/// Whether an answer had everything that is stored (NIP-67).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// There is no more.
    Finish,
    /// A limit cut it short, or some of it is not here yet.
    More,
}

/// `["EOSE", id, [hint]]`
pub fn eose(id: &SubscriptionId, hint: Completeness) -> String {
    let hint = match hint {
        Completeness::Finish => "finish",
        Completeness::More => "more",
    };
    format!("[\"EOSE\",{},[\"{hint}\"]]", quoted(&id.0))
}

/// `["CLOSED", id, message]`
pub fn closed(id: &SubscriptionId, message: &str) -> String {
    format!("[\"CLOSED\",{},{}]", quoted(&id.0), quoted(message))
}

/// `["NOTICE", message]`
pub fn notice(message: &str) -> String {
    format!("[\"NOTICE\",{}]", quoted(message))
}

/// `["EVENT", id, event]`
pub fn event(id: &SubscriptionId, json: &str) -> String {
    let id = quoted(&id.0);
    let mut frame = String::with_capacity(12 + id.len() + json.len());
    frame.push_str("[\"EVENT\",");
    frame.push_str(&id);
    frame.push(',');
    frame.push_str(json);
    frame.push(']');
    frame
}

/// An event's JSON, as it goes into frames.
pub fn json_of(event: &Packed<'_>) -> String {
    let mut json = Vec::with_capacity(2 * event.as_bytes().len());
    event.write_json(&mut json);
    String::from_utf8(json).unwrap_or_else(|_| {
        warn!(id = %event.id(), "a stored event is damaged");
        "{}".to_owned()
    })
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_misread(text: &str, reason: &str) {
        let refusal = ClientMessage::read(text).unwrap_err().to_string();
        assert!(refusal.contains(reason), "{refusal:?} does not speak of {reason:?}");
    }

    #[test]
    fn frames_that_are_not_nip_01_are_refused_with_a_reason() {
        check_misread("", "EOF");
        check_misread("{}", "a JSON array");
        check_misread("[]", "empty");
        check_misread("[1]", "a string");
        check_misread("[\"AUTHENTICATE\"]", "not a verb");
        check_misread("[\"EVENT\"]", "does not have 1 parts");
        check_misread("[\"EVENT\",{},{}]", "does not have 3 parts");
        check_misread("[\"CLOSE\",5]", "1 to 64 characters");
        check_misread("[\"CLOSE\",\"\"]", "1 to 64 characters");
        check_misread(&format!("[\"REQ\",\"{}\",{{}}]", "x".repeat(65)), "1 to 64 characters");
        check_misread("[\"REQ\",\"a\"]", "a filter is needed");
        check_misread("[\"COUNT\",\"a\"]", "a filter is needed");
        check_misread("[\"AUTH\"]", "does not have 1 parts");
        check_misread("[\"NEG-OPEN\",\"a\",{},32,\"61\"]", "does not have 5 parts");
        check_misread("[\"NEG-OPEN\",\"a\",{},\"6\"]", "Odd number of digits");
        check_misread("[\"NEG-MSG\",\"a\",61]", "hex digits");
        check_misread("[\"REQ\",\"a\",5]", "expected a JSON object");
        check_misread("[\"REQ\",\"a\",{\"kinds\":[-1]}]", "u16");
        check_misread(&"[".repeat(100_000), "EOF");
    }

    #[test]
    fn a_refused_subscription_keeps_its_name() {
        let refusal = ClientMessage::read("[\"REQ\",\"mine\",{\"ids\":[\"ab\"]}]").unwrap_err();
        assert!(matches!(refusal, Misread::Req { id, .. } if &*id.0 == "mine"));
    }

    #[test]
    fn ids_are_quoted_in_answers() {
        let id = SubscriptionId::new("a\"b\\".into()).unwrap();
        assert_eq!(eose(&id, Completeness::More), r#"["EOSE","a\"b\\",["more"]]"#);
        assert_eq!(event(&id, "{}"), r#"["EVENT","a\"b\\",{}]"#);
    }

    #[test]
    fn sixty_four_characters_may_be_any_characters() {
        let id = "ü".repeat(64);
        let frame = format!("[\"CLOSE\",\"{id}\"]");
        assert!(matches!(ClientMessage::read(&frame), Ok(ClientMessage::Close(_))));
    }
}
