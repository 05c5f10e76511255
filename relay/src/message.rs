//! A message: an event that is not for everybody, and whom it is for.
//!
//! It is an event like others, of a guarded kind (direct messages, gift wraps, and what the operator adds)
//! that names at least one receiver by a `p` tag. A guarded event that names nobody is its author's own,
//! and no message.

use event::{Event, EventId, Filter, Kind, Packed, PublicKey, TagName, Timestamp, packed::Value};
use serde::{Deserialize, Serialize};

/// What a stub does not say of its event's length: a signature, and a content of middling length.
const STUB_LACKS_BYTES: usize = 64 + 1_024;

/// What the relay has to know of a message. Never what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub id: EventId,
    pub kind: Kind,
    pub from: PublicKey,
    /// Each of them once, sorted.
    pub to: Vec<PublicKey>,
    pub created_at: Timestamp,
    /// What it takes, packed. Of a stub that is an estimate.
    pub bytes: u64,
}

impl Message {
    /// None: it is no message.
    pub fn of(event: &Packed<'_>, guarded: &[Kind]) -> Option<Message> {
        if !guarded.contains(&event.kind()) {
            return None;
        }
        let mut to: Vec<PublicKey> = receivers(event).collect();
        to.sort_unstable();
        to.dedup();
        let (id, kind, from) = (event.id(), event.kind(), event.pubkey());
        let (created_at, bytes) = (event.created_at(), bytes_of(event));
        (!to.is_empty()).then_some(Message { id, kind, from, to, created_at, bytes })
    }

    /// The same of an event that is not packed yet.
    pub fn of_event(event: &Event, guarded: &[Kind]) -> Option<Message> {
        if !guarded.contains(&event.kind) {
            return None;
        }
        let packed = event.pack();
        Message::of(&Packed::trusted(&packed).ok()?, guarded)
    }
}

/// What it takes, packed; of a stub about that.
pub fn bytes_of(event: &Packed<'_>) -> u64 {
    let lacks = if event.is_stub() { STUB_LACKS_BYTES } else { 0 };
    (event.as_bytes().len() + lacks) as u64
}

/// All events of these kinds that are for somebody; or for anybody, and then it finds what is for nobody, too.
pub fn filter(to: Option<PublicKey>, guarded: Vec<Kind>) -> Filter {
    let tags = to.map(|key| (receiver(), vec![key.to_string()])).into_iter().collect();
    Filter { kinds: Some(guarded), tags, ..Filter::default() }
}

/// Whether an event of a guarded kind is a message.
pub fn has_receiver(event: &Packed<'_>) -> bool {
    receivers(event).next().is_some()
}

/// Whom it names, as often as it does.
fn receivers(event: &Packed<'_>) -> impl Iterator<Item = PublicKey> {
    event.values_of(receiver()).filter_map(|value| match value {
        Value::Hex(key) => Some(PublicKey(*key)),
        Value::Text(_) => None,
    })
}

/// The tag that names a receiver.
pub fn receiver() -> TagName {
    TagName::new("p").expect("it is one letter")
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;

    const GUARDED: [Kind; 2] = [Kind(4), Kind::GIFT_WRAP];

    fn message(kind: u16, tags: &[&[&str]]) -> Option<Message> {
        Message::of_event(&Author::new(1).sign(1_000, kind, tags, "sealed"), &GUARDED)
    }

    #[test]
    fn a_message_is_of_a_guarded_kind_and_names_somebody() {
        let bob = Author::new(2).pubkey();
        let to_bob = ["p", &bob.to_string()];
        let sent = message(1_059, &[&to_bob, &to_bob, &["p", "nobody"]]).unwrap();
        assert_eq!((sent.from, sent.to), (Author::new(1).pubkey(), vec![bob]));
        assert_eq!(message(1, &[&to_bob]), None);
        assert_eq!(message(4, &[]), None);
        assert_eq!(message(4, &[&["p", "nobody"], &["e", &bob.to_string()]]), None);
    }

    #[test]
    fn a_stub_counts_about_as_much_as_its_event() {
        let bob = Author::new(2).pubkey().to_string();
        let content = "x".repeat(1_000);
        let event = Author::new(1).sign(1_000, 4, &[&["p", &bob]], &content).pack();
        let event = Packed::parse(&event).unwrap();
        let stub = event.to_stub();
        let whole = Message::of(&event, &GUARDED).unwrap();
        let stub = Message::of(&Packed::trusted(&stub).unwrap(), &GUARDED).unwrap();
        assert_eq!(whole.bytes, event.as_bytes().len() as u64);
        assert!(whole.bytes.abs_diff(stub.bytes) < 100, "{} {}", whole.bytes, stub.bytes);
        assert_eq!(Message { bytes: whole.bytes, ..stub }, whole);
    }
}
