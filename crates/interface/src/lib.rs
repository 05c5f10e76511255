//! L2's interface in Rust: the Candid types of `candid/event_store.did`, and their conversions.
//!
//! The relay and the canister meet here and nowhere else. Ids and keys are plain blobs in these
//! types, so that a wrong length becomes [`ReadError::Invalid`] with a reason; fixed arrays would
//! make it a decoding failure, which in a canister is a trap. What each type means is said in the
//! `.did`; field and variant names there are the names here, in lower case.

mod convert;
mod decode;

use candid::{CandidType, Deserialize, Nat, Principal};
pub use convert::{Malformed, id_of, pubkey_of};
pub use decode::decode_arguments;
pub use serde_bytes::ByteBuf;

/// A nostr event: NIP-01 JSON (first byte `{`) or the packed form (first byte 1).
pub type EventBytes = ByteBuf;
/// 32 bytes.
pub type IdBytes = ByteBuf;
/// 32 bytes.
pub type KeyBytes = ByteBuf;
/// Place in the store's log.
pub type Seq = u64;
/// Unix time.
pub type Seconds = u64;

/// Longest reply to one call, in bytes, whatever `max_bytes` asks for: a reply may have 2 MiB when the
/// method is called as an update, and what surrounds the events needs some room.
pub const REPLY_BYTES_MAX: u64 = 1_900_000;

/// Events that one `save_events` looks at; those beyond get no outcome. As many take all instructions
/// of a call, and as many reasons why not fill its reply.
pub const SAVE_EVENTS_MAX: usize = 8_000;

/// With this reason [`SaveOutcome::Invalid`] is no word for ever: the event's date lies so far ahead that
/// it is taken only later. Relays know it by these words, so they do not change.
pub const TOO_FAR_AHEAD: &str = "created_at is too far in the future";

#[derive(CandidType, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[serde(rename = "json")]
    Json,
    #[default]
    #[serde(rename = "packed")]
    Packed,
}

/// `variant { ok; err }`: what methods that can refuse answer with.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub enum Answer<T, E = ReadError> {
    #[serde(rename = "ok")]
    Ok(T),
    #[serde(rename = "err")]
    Err(E),
}

/// `variant { ok; err : text }`.
pub type Done = Answer<(), String>;

/// What became of one event of a `save_events`.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub enum SaveOutcome {
    #[serde(rename = "saved")]
    Saved(Seq),
    #[serde(rename = "duplicate")]
    Duplicate(Seq),
    #[serde(rename = "superseded")]
    Superseded,
    #[serde(rename = "deleted")]
    Deleted,
    #[serde(rename = "expired")]
    Expired,
    #[serde(rename = "ephemeral")]
    Ephemeral,
    /// The limit, in bytes.
    #[serde(rename = "too_large")]
    TooLarge(u64),
    /// For ever, but for [`TOO_FAR_AHEAD`]: sending it again changes nothing.
    #[serde(rename = "invalid")]
    Invalid(String),
    /// For now: it may be sent again.
    #[serde(rename = "refused")]
    Refused(String),
    #[serde(rename = "other")]
    Other(String),
}

#[derive(CandidType, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Filter {
    pub ids: Option<Vec<IdBytes>>,
    pub authors: Option<Vec<KeyBytes>>,
    pub kinds: Option<Vec<u16>>,
    pub tags: Vec<(String, Vec<String>)>,
    pub all_tags: Vec<(String, Vec<String>)>,
    pub since: Option<Seconds>,
    pub until: Option<Seconds>,
    pub limit: Option<u64>,
}

#[derive(CandidType, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct QueryRequest {
    pub filters: Vec<Filter>,
    pub cursor: Option<ByteBuf>,
    pub max_bytes: Option<u64>,
    pub min_seq: Option<Seq>,
    pub encoding: Option<Encoding>,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct QueryPage {
    pub events: Vec<EventBytes>,
    /// None: that was all.
    pub cursor: Option<ByteBuf>,
    pub length: Seq,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub enum ReadError {
    /// This replica's log is only this long.
    #[serde(rename = "lagging")]
    Lagging(Seq),
    #[serde(rename = "forbidden")]
    Forbidden,
    #[serde(rename = "invalid")]
    Invalid(String),
    #[serde(rename = "other")]
    Other(String),
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct Count {
    pub count: u64,
    /// False: there was no time to look at all of them.
    pub complete: bool,
}

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq)]
pub enum ChangesFrom {
    #[serde(rename = "seq")]
    Seq(Seq),
    #[serde(rename = "arrived")]
    Arrived(Seconds),
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct ChangesRequest {
    pub from: ChangesFrom,
    pub max_bytes: Option<u64>,
    pub max_entries: Option<u64>,
    /// Asks for a [`RangeProof`] of the page.
    pub proof: bool,
    pub ids_only: bool,
    pub encoding: Option<Encoding>,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct ChangesPage {
    pub changes: Vec<Change>,
    /// Where the next page starts.
    pub next: Seq,
    pub length: Seq,
    /// If it was asked for and can be given: only a query has a certificate, an update has none.
    pub proof: Option<RangeProof>,
}

/// What shows that a page of the log is complete: every entry of it is in the certified log.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct RangeProof {
    /// Of the canister's certified data, as the Internet Computer gives it.
    pub certificate: ByteBuf,
    /// From the certified data to the log's length and root.
    pub witness: ByteBuf,
    /// The nodes of the Merkle mountain range that complete the page.
    pub nodes: Vec<ByteBuf>,
}

/// The log's end: how long it is and which root it has, certified.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct Tip {
    pub length: Seq,
    pub root: ByteBuf,
    /// None when it was asked for by an update.
    pub certificate: Option<ByteBuf>,
    pub witness: ByteBuf,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct Change {
    pub seq: Seq,
    pub arrived: Seconds,
    pub what: What,
}

/// What one entry of the log says.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub enum What {
    /// With `ids_only`: the 32 bytes of its id.
    #[serde(rename = "saved")]
    Saved(EventBytes),
    #[serde(rename = "removed")]
    Removed { id: IdBytes, why: String },
    /// It was saved here, and was removed later.
    #[serde(rename = "gone")]
    Gone(IdBytes),
    #[serde(rename = "cleared")]
    Cleared,
}

impl What {
    /// Bytes of what it carries, for who has room for so many.
    pub fn bytes(&self) -> usize {
        match self {
            What::Saved(bytes) | What::Gone(bytes) => bytes.len(),
            What::Removed { id, why } => id.len() + why.len(),
            What::Cleared => 0,
        }
    }
}

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    #[serde(rename = "owner")]
    Owner,
    #[serde(rename = "relay")]
    Relay,
    #[serde(rename = "reader")]
    Reader,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct Member {
    pub who: Principal,
    pub role: Role,
    pub note: String,
    pub since: Seconds,
    /// Events this member brought.
    pub saved: u64,
    /// And their bytes, packed.
    pub bytes: u64,
}

/// What an operator may set; absent fields stay as they are.
#[derive(CandidType, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
pub struct Config {
    pub public_read: Option<bool>,
    pub event_bytes_max: Option<u32>,
    pub tags_max: Option<u32>,
    pub future_seconds_max: Option<u64>,
    pub relay_events_per_hour: Option<u64>,
    pub relay_bytes_per_hour: Option<u64>,
    pub relay_bytes_total: Option<u64>,
    pub directory_ttl_seconds: Option<u64>,
    pub stable_bytes_max: Option<u64>,
    pub cycles_days_min: Option<u64>,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub enum Argument {
    #[serde(rename = "init")]
    Init(Init),
    #[serde(rename = "upgrade")]
    Upgrade(Option<Upgrade>),
}

#[derive(CandidType, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Init {
    pub owners: Vec<Principal>,
    pub relays: Vec<Principal>,
    pub config: Option<Config>,
}

#[derive(CandidType, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Upgrade {
    pub config: Option<Config>,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct Status {
    pub version: String,
    /// Events held now.
    pub events: u64,
    pub length: Seq,
    pub stable_bytes: u64,
    pub heap_bytes: u64,
    pub cycles: Nat,
    /// Without what the freezing threshold keeps.
    pub liquid_cycles: Nat,
    /// Why nothing is saved at present.
    pub read_only: Option<String>,
    /// Pages of 64 KiB of each stable memory.
    pub memories: Vec<(String, u64)>,
    pub last_saved_at: Option<Seconds>,
    pub last_save: Option<SaveCost>,
}

/// Instructions that the last `save_events` took, by what they were spent on.
#[derive(CandidType, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
pub struct SaveCost {
    pub events: u64,
    /// JSON or packed bytes to an event, and its limits.
    pub decode: u64,
    /// Id and signature.
    pub verify: u64,
    /// The rules' look-ups, and all maps and index entries.
    pub index: u64,
    /// The log.
    pub log: u64,
}

/// How an operator's deletion is meant.
#[derive(CandidType, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Deletion {
    /// Whether the events stay out for ever.
    pub tombstone: bool,
    /// What followers of the log are told.
    pub why: String,
}

/// What became of one id of a `delete_events`.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub enum DeleteOutcome {
    /// Where the log says so.
    #[serde(rename = "removed")]
    Removed(Seq),
    #[serde(rename = "unknown")]
    Unknown,
    #[serde(rename = "forbidden")]
    Forbidden,
    #[serde(rename = "other")]
    Other(String),
}

/// What a relay says about itself to the others.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct RelayInfo {
    /// Where clients reach it, `ws://` or `wss://`.
    pub url: String,
    /// The key that it proves itself to other relays with.
    pub key: KeyBytes,
    pub version: String,
    pub connections: u32,
    pub subscriptions: u32,
    /// How far it is behind this store.
    pub lag_ms: u64,
}

/// A relay that was heard of lately.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct RelayEntry {
    pub who: Principal,
    pub info: RelayInfo,
    pub first_seen: Seconds,
    pub last_seen: Seconds,
}

/// A request that came through an HTTP gateway.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct HttpRequest {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: ByteBuf,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct HttpResponse {
    pub status_code: u16,
    pub headers: Vec<(String, String)>,
    pub body: ByteBuf,
    /// Whether the gateway must ask again by an update.
    pub upgrade: Option<bool>,
}
