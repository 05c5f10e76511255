//! NIP-01 JSON, read strictly and written exactly.
//!
//! Two serialisations live here. The one an id is the hash of escapes seven characters and leaves
//! all others as they are, which for other control characters is not valid JSON; the one that goes
//! over the wire therefore escapes those too.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use sha2::{Digest, Sha256};

use crate::{Event, EventId, Kind, PublicKey, Signature, Tag, Timestamp};

/// Why a text is not an event. The message names the field and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("not an event: expected a JSON object")]
    NotAnObject,
    /// The message has the cause in it, so that it is no source to be told once more.
    #[error("not an event: {0}")]
    Malformed(serde_json::Error),
}

/// The wire form. serde refuses a key that comes twice; keys that NIP-01 does not know are dropped.
#[derive(Deserialize)]
struct Wire {
    id: EventId,
    pubkey: PublicKey,
    created_at: Timestamp,
    kind: Kind,
    tags: Vec<Tag>,
    content: String,
    sig: Signature,
}

impl Event {
    /// Reads a NIP-01 event. Its id and signature are not checked here.
    pub fn from_json(text: &[u8]) -> Result<Event, JsonError> {
        // serde would also take an array of seven values for this struct.
        if text.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(JsonError::NotAnObject);
        }
        let Wire { id, pubkey, created_at, kind, tags, content, sig } =
            serde_json::from_slice(text).map_err(JsonError::Malformed)?;
        Ok(Event { id, pubkey, created_at, kind, tags, content, sig })
    }

    /// The event as one line of NIP-01 JSON.
    pub fn to_json(&self) -> String {
        let mut out = Vec::with_capacity(400 + self.content.len());
        write_head(&mut out, &self.id, &self.pubkey, self.created_at, self.kind);
        write_tags(&mut out, &self.tags, write_wire_string);
        write_tail(&mut out, &self.content, &self.sig);
        String::from_utf8(out).expect("it was put together from strings")
    }

    /// The id that NIP-01 gives this event: the SHA-256 of `[0,pubkey,created_at,kind,tags,content]`.
    pub fn computed_id(&self) -> EventId {
        EventId(Sha256::digest(self.serialised_for_id()).into())
    }

    fn serialised_for_id(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.content.len() + 80 * self.tags.len());
        out.extend_from_slice(b"[0,\"");
        write_hex(&mut out, &self.pubkey.0);
        out.extend_from_slice(format!("\",{},{},", self.created_at, self.kind).as_bytes());
        write_tags(&mut out, &self.tags, write_id_string);
        out.push(b',');
        write_id_string(&mut out, &self.content);
        out.push(b']');
        out
    }
}

/// The id that a JSON object states, without a look at what stands behind it. It says nothing about the
/// rest: there may be no event there at all, or one with another id.
pub fn stated_id(text: &[u8]) -> Option<EventId> {
    let mut found = None;
    // To stop half way is an error to serde_json; what was found is not lost with it.
    let _ = StatedId(&mut found).deserialize(&mut serde_json::Deserializer::from_slice(text));
    found
}

struct StatedId<'f>(&'f mut Option<EventId>);

impl<'de> DeserializeSeed<'de> for StatedId<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StatedId<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an id")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "lowercase")]
        enum Key {
            Id,
            #[serde(other)]
            Other,
        }
        while let Some(key) = map.next_key()? {
            match key {
                Key::Id => {
                    *self.0 = Some(map.next_value()?);
                    return Ok(());
                }
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// `{"id":…,"kind":…,"tags":`
pub(crate) fn write_head(
    out: &mut Vec<u8>,
    id: &EventId,
    pubkey: &PublicKey,
    created_at: Timestamp,
    kind: Kind,
) {
    out.extend_from_slice(b"{\"id\":\"");
    write_hex(out, &id.0);
    out.extend_from_slice(b"\",\"pubkey\":\"");
    write_hex(out, &pubkey.0);
    out.extend_from_slice(format!("\",\"created_at\":{created_at},\"kind\":{kind}").as_bytes());
    out.extend_from_slice(b",\"tags\":");
}

/// `,"content":…,"sig":…}`
pub(crate) fn write_tail(out: &mut Vec<u8>, content: &str, sig: &Signature) {
    out.extend_from_slice(b",\"content\":");
    write_wire_string(out, content);
    out.extend_from_slice(b",\"sig\":\"");
    write_hex(out, &sig.0);
    out.extend_from_slice(b"\"}");
}

fn write_tags(out: &mut Vec<u8>, tags: &[Tag], write_string: fn(&mut Vec<u8>, &str)) {
    write_list(out, tags, |out, tag| {
        write_list(out, &tag.0, |out, value| write_string(out, value));
    });
}

/// `[a,b,…]`
pub(crate) fn write_list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

pub(crate) fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    hex::encode_to_slice(bytes, &mut out[start..]).expect("room for two digits a byte was made");
}

/// A JSON string as RFC 8259 wants it, with no escape that is not needed.
pub(crate) fn write_wire_string(out: &mut Vec<u8>, text: &str) {
    write_string(out, text, |out, byte| match short_escape(byte) {
        Some(escaped) => out.extend_from_slice(escaped),
        None => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
    });
}

/// A string in the serialisation that is hashed: the seven escapes of NIP-01, all else verbatim.
fn write_id_string(out: &mut Vec<u8>, text: &str) {
    write_string(out, text, |out, byte| match short_escape(byte) {
        Some(escaped) => out.extend_from_slice(escaped),
        None => out.push(byte),
    });
}

fn write_string(out: &mut Vec<u8>, text: &str, write_special: impl Fn(&mut Vec<u8>, u8)) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (place, &byte) in bytes.iter().enumerate() {
        // Most bytes need nothing, so they are copied in runs.
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..place]);
        write_special(out, byte);
        copied = place + 1;
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

fn short_escape(byte: u8) -> Option<&'static [u8]> {
    Some(match byte {
        b'\n' => b"\\n",
        b'"' => b"\\\"",
        b'\\' => b"\\\\",
        b'\r' => b"\\r",
        b'\t' => b"\\t",
        0x08 => b"\\b",
        0x0c => b"\\f",
        _ => return None,
    })
}
