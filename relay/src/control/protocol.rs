//! What the two sides of a conversation say.

use event::{EventId, Filter, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{client::Tally, costs::Ledger, message::Message, peers::taps::TapState};

/// What client and relay must agree on. Raised whenever a line means something else than before.
pub const PROTOCOL: u32 = 1;

/// The first line, by the relay.
#[derive(Serialize, Deserialize)]
pub struct Greeting {
    pub protocol: u32,
    pub version: String,
}

/// The second line, by the client.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Numbers about the store.
    Stats,
    /// Store the events of the lines that follow, as if a client had published them.
    Import,
    /// All events that match.
    Export { filter: Filter, oldest_first: bool },
    /// How many match.
    Count { filter: Filter },
    /// Take out those that match, of what was stored before the seq `before`.
    Delete { filter: Filter, before: u64 },
    /// What waits for L2, and every event that it refused.
    Outbox,
    /// Send these refused events once more.
    Retry(Which),
    /// Send these events no more.
    GiveUp(Which),
    /// Check the invariants on the disk.
    Verify,
    /// Collect garbage.
    Collect,
    /// These messages, newest first.
    Messages(MessagesOf),
    /// How many they are.
    CountMessages(MessagesOf),
    /// Take them out, here and of L2 where it lets us, of what was stored before the seq `before`.
    RemoveMessages { which: MessagesOf, before: u64 },
    /// What messages take, for each receiver.
    MessageUsage,
    /// How the taps on other relays stand.
    Taps,
    /// Call a method of NIP-86, as the owner.
    Manage { method: String, params: Vec<Value> },
}

/// Which events of the outbox, and of those aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// All that are aside.
    Aside,
    /// Those with these ids.
    Ids(Vec<EventId>),
}

/// Which messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessagesOf {
    All,
    /// Those to this key.
    To(PublicKey),
    Ids(Vec<EventId>),
    /// Those dated before this.
    Before(Timestamp),
}

/// What the relay says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// How far it is, of how much if that is known.
    Progress {
        done: u64,
        total: Option<u64>,
        note: String,
    },
    /// A line for people.
    Note(String),
    Event(Box<RawValue>),
    Stats(Figures),
    Imported(Tally),
    Counted(Counted),
    Deleted {
        events: u64,
    },
    Outbox(Outbox),
    /// Some of the events that L2 refused.
    Aside(Vec<Refused>),
    /// So many events were put back, or given up.
    Moved {
        events: u64,
    },
    /// Some of the messages.
    Messages(Vec<Message>),
    /// What some of the receivers' take.
    MessageUsage(Vec<ReceiverUsage>),
    /// What all take, and may take.
    MessageTotal(MessageTotal),
    RemovedMessages(RemovedMessages),
    Taps(Vec<TapState>),
    Verified(Vec<Checked>),
    Collected(Freed),
    /// What the method said.
    Managed(Value),
    /// The last reply, when all went well.
    Done,
    /// The last reply, when it did not.
    Failed(String),
}

/// Numbers about a store.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Events held.
    pub events: u64,
    /// Of these, events whose bodies only the canister holds.
    pub stubs: u64,
    /// The date from which on none is missing for want of room.
    pub complete_since: u64,
    /// Events that wait to be sent to the canister.
    pub outbox: u64,
    /// Events that the canister refused.
    pub aside: u64,
    /// Events that never go up.
    pub local: u64,
    /// Size of the file.
    pub bytes_on_disk: u64,
    /// What of it is in use.
    pub bytes_in_use: u64,
    /// The place that the next event gets.
    pub next_seq: u64,
    /// Transactions, since the store was made.
    pub commits: u64,
    /// The canister that is followed, and the place in its log to ask for next.
    pub layer2: Option<String>,
    pub layer2_cursor: Option<u64>,
    /// What it costs, as far as this relay has seen.
    pub layer2_costs: Option<Ledger>,
}

/// What is on its way up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Outbox {
    /// Events that wait to be sent to the canister.
    pub waiting: u64,
    /// What they take, packed.
    pub bytes: u64,
    /// How long the first of them has been waiting.
    pub oldest_seconds: u64,
    /// Events that the canister refused.
    pub aside: u64,
    /// Events that never go up.
    pub local: u64,
}

/// An event that L2 refused.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refused {
    pub id: String,
    pub kind: u16,
    pub author: String,
    pub reason: String,
    /// Unix time.
    pub since: u64,
}

/// How many events match a filter.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Counted {
    pub events: u64,
    /// Those among them that the canister does not have, as far as is known.
    pub only_here: u64,
    /// All of them were stored before this seq.
    pub before: u64,
}

/// What the messages to one receiver take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ReceiverUsage {
    pub receiver: PublicKey,
    pub messages: u64,
    /// Packed; of what is here as a stub, an estimate.
    pub bytes: u64,
    /// The date of the oldest.
    pub oldest: Timestamp,
}

/// What all messages take, each counted once, and what they may. None: there is no limit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MessageTotal {
    pub messages: u64,
    pub bytes: u64,
    pub oldest: Option<Timestamp>,
    pub bytes_max: Option<u64>,
    pub bytes_per_key_max: Option<u64>,
    pub days_max: Option<u64>,
}

/// What became of messages that were to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemovedMessages {
    /// From this relay.
    pub here: u64,
    /// From L2. None: it keeps them, or there is none.
    pub layer2: Option<u64>,
    /// Why L2 keeps them.
    pub kept_because: Option<String>,
}

/// What became of one invariant.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checked {
    pub invariant: String,
    pub statement: String,
    pub checked: u64,
    pub violations: u64,
    pub examples: Vec<String>,
}

/// What a collection came to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Freed {
    /// Whether more was in use than the marks allow.
    pub was_due: bool,
    /// Bodies that went; without a canister whole events.
    pub bodies: u64,
    /// Stubs that went.
    pub stubs: u64,
    /// What was in use of the file,
    pub bytes_before: u64,
    /// and what is now.
    pub bytes_after: u64,
    /// What events with bodies are brought down to.
    pub bytes_low: u64,
    pub took_ms: u64,
}

impl Freed {
    /// So little is in use that nothing had to go.
    pub fn nothing(bytes: u64, bytes_low: u64) -> Freed {
        let (bytes_before, bytes_after) = (bytes, bytes);
        Freed {
            was_due: false,
            bodies: 0,
            stubs: 0,
            bytes_before,
            bytes_after,
            bytes_low,
            took_ms: 0,
        }
    }
}
