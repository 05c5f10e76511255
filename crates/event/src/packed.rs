//! The packed form: what an event looks like in every store and between them.
//!
//! ```text
//! version 1 | id 32 | pubkey 32 | sig 64 | created_at | kind | tag count | tags | content length | content
//! tag:   value count | values
//! value: header | bytes      header 1: 64 lower-case hex digits, as 32 bytes; else 2 × length
//! ```
//! Numbers are LEB128 varints. Ids and keys are most of what tags hold, hence the one special case.
//! An event has exactly one packed form: [`Packed::parse`] refuses any other way to write it, so
//! equal events are equal bytes.
//!
//! A *stub* is what a cache keeps of an event whose body it gave up: all that filters and rules look
//! at, and nothing else. It never leaves the store that made it, so [`Packed::parse`] refuses it.
//! ```text
//! version 2 | id 32 | pubkey 32 | created_at | kind | tag count | tags with name and first value only
//! ```

use crate::{
    Event, EventId, Kind, PublicKey, Signature, Tag, TagName, Timestamp, json, model::bytes_of_hex,
};

/// The first byte of this version of the form. JSON starts with `{`, so one byte tells them apart.
pub const VERSION: u8 = 1;
/// The first byte of a stub.
const STUB_VERSION: u8 = 2;

const ID: usize = 1;
const PUBKEY: usize = ID + 32;
const SIG: usize = PUBKEY + 32;
const HEAD: usize = SIG + 64;
const STUB_HEAD: usize = SIG;
const HEX_VALUE: u64 = 1;

/// Why bytes are not a packed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    #[error("not a packed event: version {0} is unknown")]
    Version(u8),
    #[error("not a packed event: it ends in the middle")]
    Truncated,
    #[error("not a packed event: {0} bytes follow its end")]
    Trailing(usize),
    #[error("not a packed event: a number is out of range or not in its shortest form")]
    Number,
    #[error("not a packed event: a text is not UTF-8")]
    Utf8,
    #[error("not a packed event: a tag value is not in its shortest form")]
    Value,
}

/// A packed event, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    created_at: Timestamp,
    kind: Kind,
    tags_at: usize,
}

/// One tag value, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// 64 lower-case hex digits.
    Hex(&'a [u8; 32]),
    /// Anything else.
    Text(&'a str),
}

impl Value<'_> {
    /// Whether this is the value that `text` spells.
    pub fn is(&self, text: &str) -> bool {
        match self {
            Value::Text(own) => *own == text,
            Value::Hex(own) => bytes_of_hex::<32>(text).is_ok_and(|bytes| bytes == **own),
        }
    }

    /// The value as NIP-01 spells it.
    pub fn to_text(&self) -> String {
        match self {
            Value::Text(own) => (*own).to_owned(),
            Value::Hex(own) => hex::encode(own),
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            Value::Hex(bytes) => {
                write_number(out, HEX_VALUE);
                out.extend_from_slice(bytes);
            }
            Value::Text(text) => {
                write_number(out, 2 * text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

impl Event {
    /// The event in packed form.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + 16 + self.content.len() + 48 * self.tags.len());
        out.push(VERSION);
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.pubkey.0);
        out.extend_from_slice(&self.sig.0);
        write_number(&mut out, self.created_at.0);
        write_number(&mut out, self.kind.0.into());
        write_number(&mut out, self.tags.len() as u64);
        for tag in &self.tags {
            write_number(&mut out, tag.0.len() as u64);
            tag.0.iter().for_each(|value| write_value(&mut out, value));
        }
        write_number(&mut out, self.content.len() as u64);
        out.extend_from_slice(self.content.as_bytes());
        out
    }
}

impl<'a> Packed<'a> {
    /// Reads bytes from anywhere, and checks every one of them.
    pub fn parse(bytes: &'a [u8]) -> Result<Packed<'a>, PackedError> {
        if bytes.first() == Some(&STUB_VERSION) {
            return Err(PackedError::Version(STUB_VERSION));
        }
        let packed = Packed::trusted(bytes)?;
        let mut rest = Reader { bytes, at: packed.tags_at };
        for _ in 0..rest.number()? {
            for _ in 0..rest.number()? {
                rest.value_checked()?;
            }
        }
        let length = rest.length()?;
        std::str::from_utf8(rest.take(length)?).map_err(|_| PackedError::Utf8)?;
        match bytes.len() - rest.at {
            0 => Ok(packed),
            trailing => Err(PackedError::Trailing(trailing)),
        }
    }

    /// Reads bytes that [`Packed::parse`] or [`Event::pack`] vouched for before they were stored, or
    /// a stub; only the head is looked at. Damaged bytes never panic: they look like fewer tags or no
    /// content.
    pub fn trusted(bytes: &'a [u8]) -> Result<Packed<'a>, PackedError> {
        let head = match bytes.first() {
            Some(&VERSION) => HEAD,
            Some(&STUB_VERSION) => STUB_HEAD,
            Some(&other) => return Err(PackedError::Version(other)),
            None => return Err(PackedError::Truncated),
        };
        if bytes.len() < head {
            return Err(PackedError::Truncated);
        }
        let mut rest = Reader { bytes, at: head };
        let created_at = Timestamp(rest.number()?);
        let kind = Kind(rest.number()?.try_into().map_err(|_| PackedError::Number)?);
        Ok(Packed { bytes, created_at, kind, tags_at: rest.at })
    }

    /// All of its bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn id(&self) -> EventId {
        EventId(self.array(ID))
    }

    pub fn pubkey(&self) -> PublicKey {
        PublicKey(self.array(PUBKEY))
    }

    /// A stub has none, and gives zeros.
    pub fn sig(&self) -> Signature {
        if self.is_stub() { Signature([0; 64]) } else { Signature(self.array(SIG)) }
    }

    /// Whether the body is gone: then there is no signature, no content, and of the tags just what
    /// filters and rules look at. Whoever hands events on asks this first.
    pub fn is_stub(&self) -> bool {
        self.bytes[0] == STUB_VERSION
    }

    /// What remains of the event without its body: the single-letter tags, for filters and the rules
    /// of versions and deletions, and when it expires. A tag without a value stays too, since the
    /// first `d` tag counts even when it is empty.
    pub fn to_stub(&self) -> Vec<u8> {
        let matters = |tag: &Values<'a>| match tag.clone().next() {
            Some(Value::Text("expiration")) => true,
            Some(Value::Text(name)) => TagName::new(name).is_some(),
            _ => false,
        };
        let tags: Vec<Values<'a>> = self.tags().filter(matters).collect();
        let mut out = Vec::with_capacity(STUB_HEAD + 16 + 40 * tags.len());
        out.push(STUB_VERSION);
        out.extend_from_slice(&self.bytes[ID..STUB_HEAD]);
        write_number(&mut out, self.created_at.0);
        write_number(&mut out, self.kind.0.into());
        write_number(&mut out, tags.len() as u64);
        for tag in tags {
            write_number(&mut out, tag.left.min(2));
            tag.take(2).for_each(|value| value.write(&mut out));
        }
        out
    }

    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its tags, each an iterator over its values.
    pub fn tags(&self) -> Tags<'a> {
        let mut rest = self.rest();
        Tags { left: rest.number().unwrap_or(0), rest }
    }

    /// The first values of all tags with this name. All else in the tags is stepped over just once,
    /// unlike when one goes through [`Packed::tags`].
    pub fn values_of(&self, name: TagName) -> impl Iterator<Item = Value<'a>> {
        let mut rest = self.rest();
        let tags = rest.number().unwrap_or(0);
        (0..tags).map_while(move |_| rest.value_of(name).ok()).flatten()
    }

    pub fn content(&self) -> &'a str {
        let mut tags = self.tags();
        tags.by_ref().for_each(drop);
        tags.rest.text().unwrap_or_default()
    }

    /// The event with its own memory.
    pub fn unpack(&self) -> Event {
        Event {
            id: self.id(),
            pubkey: self.pubkey(),
            created_at: self.created_at,
            kind: self.kind,
            tags: self.tags().map(|tag| Tag(tag.map(|value| value.to_text()).collect())).collect(),
            content: self.content().to_owned(),
            sig: self.sig(),
        }
    }

    /// Appends the event as one line of NIP-01 JSON: what [`Event::to_json`] writes.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        debug_assert!(!self.is_stub(), "a stub is no event to show");
        json::write_head(out, &self.id(), &self.pubkey(), self.created_at, self.kind);
        let mut tags = self.tags();
        json::write_list(out, tags.by_ref(), |out, tag| {
            json::write_list(out, tag, |out, value| match value {
                Value::Text(text) => json::write_wire_string(out, text),
                Value::Hex(bytes) => {
                    out.push(b'"');
                    json::write_hex(out, bytes);
                    out.push(b'"');
                }
            });
        });
        json::write_tail(out, tags.rest.text().unwrap_or_default(), &self.sig());
    }

    fn rest(&self) -> Reader<'a> {
        Reader { bytes: self.bytes, at: self.tags_at }
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes[at..at + N].try_into().expect("the head was found to be whole")
    }
}

/// The tags of a packed event.
#[derive(Clone, Debug)]
pub struct Tags<'a> {
    left: u64,
    rest: Reader<'a>,
}

impl<'a> Iterator for Tags<'a> {
    type Item = Values<'a>;

    fn next(&mut self) -> Option<Values<'a>> {
        self.left = self.left.checked_sub(1)?;
        let values = Values { left: self.rest.number().ok()?, rest: self.rest };
        // The next tag starts where this one ends, so its values are stepped over now.
        for _ in 0..values.left {
            self.rest.value_bytes().ok()?;
        }
        Some(values)
    }
}

/// The values of one tag; its name is the first.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    left: u64,
    rest: Reader<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        self.rest.value().ok()
    }
}

fn write_value(out: &mut Vec<u8>, value: &str) {
    match bytes_of_hex::<32>(value) {
        Ok(bytes) => Value::Hex(&bytes).write(out),
        Err(_) => Value::Text(value).write(out),
    }
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[derive(Clone, Copy, Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], PackedError> {
        let end = self.at.checked_add(length).ok_or(PackedError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(PackedError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, PackedError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let group = u64::from(byte & 0x7f);
            if shift == 63 && group > 1 {
                return Err(PackedError::Number);
            }
            number |= group << shift;
            if byte & 0x80 == 0 {
                // A last group of zero says nothing: the same number has a shorter form.
                let is_shortest = group > 0 || shift == 0;
                return if is_shortest { Ok(number) } else { Err(PackedError::Number) };
            }
        }
        Err(PackedError::Number)
    }

    fn length(&mut self) -> Result<usize, PackedError> {
        usize::try_from(self.number()?).map_err(|_| PackedError::Truncated)
    }

    fn text(&mut self) -> Result<&'a str, PackedError> {
        let length = self.length()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| PackedError::Utf8)
    }

    /// The first value of the next tag, if the tag has this name.
    fn value_of(&mut self, name: TagName) -> Result<Option<Value<'a>>, PackedError> {
        let values = self.number()?;
        let mut found = None;
        if values > 0 {
            let is_named = *self.value_bytes()? == [name.byte()];
            if values > 1 && is_named {
                found = Some(self.value()?);
            } else if values > 1 {
                self.value_bytes()?;
            }
        }
        for _ in 2..values {
            self.value_bytes()?;
        }
        Ok(found)
    }

    /// As [`Reader::value`], but the value is not looked at.
    fn value_bytes(&mut self) -> Result<&'a [u8], PackedError> {
        let length = match self.number()? {
            HEX_VALUE => 32,
            header => usize::try_from(header / 2).map_err(|_| PackedError::Truncated)?,
        };
        self.take(length)
    }

    fn value(&mut self) -> Result<Value<'a>, PackedError> {
        let header = self.number()?;
        if header == HEX_VALUE {
            let bytes = self.take(32)?.try_into().expect("32 bytes were taken");
            return Ok(Value::Hex(bytes));
        }
        if header % 2 == 1 {
            return Err(PackedError::Value);
        }
        let length = usize::try_from(header / 2).map_err(|_| PackedError::Truncated)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| PackedError::Utf8)?;
        Ok(Value::Text(text))
    }

    /// As [`Reader::value`], and in its shortest form.
    fn value_checked(&mut self) -> Result<(), PackedError> {
        match self.value()? {
            Value::Text(text) if bytes_of_hex::<32>(text).is_ok() => Err(PackedError::Value),
            _ => Ok(()),
        }
    }
}
