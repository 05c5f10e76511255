//! What clients meet: limits, policy, and what the relay says of itself.
//!
//! Apart from the rest of the configuration because all of it may change while the relay runs, when the
//! file is read again or an admin says so (NIP-86). Nobody keeps a copy: see [`InForce`].

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use clap::{Args, ValueEnum};
use event::{EventId, Kind, Packed, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::seconds;
use crate::{
    access::{Access, Writers},
    clock,
    identity::key_of,
    local::KindRange,
    message::has_receiver,
    network::Network,
};

/// The terms that hold now. Whoever needs them loads them anew for each thing it does.
pub type InForce = Arc<ArcSwap<Terms>>;

/// Direct messages, gift wraps, and gift wraps that are not stored (NIP-04, NIP-59).
const GUARDED_KINDS: [Kind; 3] = [Kind(4), Kind::GIFT_WRAP, Kind(21_059)];

/// Gift wraps are dated up to two days back (NIP-59).
const MESSAGE_DAYS_MIN: u64 = 3;
/// Less holds no message.
const MESSAGE_BYTES_MIN: u64 = 1_024;
const DAY_SECONDS: u64 = 86_400;

/// More work than that takes years.
const POW_MAX: u32 = 64;

/// These settings as written.
#[derive(Args, Clone, Debug, Default, Deserialize, Serialize)]
pub struct TermSettings {
    /// Name shown to clients (NIP-11) [default: aquifer]
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,

    /// Description shown to clients (NIP-11)
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,

    /// How to reach the operator, a URI (NIP-11)
    #[arg(long, value_name = "URI")]
    pub contact: Option<String>,

    /// The operator's public key, in hex or as npub1… (NIP-11)
    #[arg(long, value_name = "KEY")]
    pub operator: Option<String>,

    /// A square picture that stands for this relay, a URL (NIP-11)
    #[arg(long, value_name = "URL")]
    pub icon: Option<String>,

    /// A page that says what may be published here, a URL (NIP-11)
    #[arg(long, value_name = "URL")]
    pub posting_policy: Option<String>,

    /// Keys, in hex or as npub1…, that may manage the relay over HTTP (NIP-86), its name and reloads
    /// included
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub owners: Option<Vec<String>>,

    /// Keys that may do the same but for its name, description, icon and reloads
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub admins: Option<Vec<String>>,

    /// Who may publish: everybody, or allowed keys alone [default: everybody]
    #[arg(long, value_enum)]
    pub writers: Option<Writers>,

    /// Keys whose events are taken when `writers` is allowed; owners and admins are among them
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub allowed_keys: Option<Vec<String>>,

    /// Keys whose events are neither taken nor shown
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub banned_keys: Option<Vec<String>>,

    /// Ids of events that are neither taken nor shown
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub banned_events: Option<Vec<EventId>>,

    /// Kinds, or ranges of kinds, that are taken, and no others: `0-3,10002` [default: all]
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub allowed_kinds: Option<Vec<KindRange>>,

    /// Kinds, or ranges of kinds, that are not taken
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub banned_kinds: Option<Vec<KindRange>>,

    /// Addresses, or networks, that may not connect: `192.0.2.7,2001:db8::/32`
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    pub blocked_ips: Option<Vec<Network>>,

    /// Addresses, or networks, of proxies that say in X-Forwarded-For whom they forward
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    pub trusted_proxies: Option<Vec<Network>>,

    /// A command that decides about each event, as strfry's write policy plugins do
    #[arg(long, value_name = "COMMAND")]
    pub write_policy: Option<String>,

    /// A command that decides in the same way about each REQ, COUNT and NEG-OPEN
    #[arg(long, value_name = "COMMAND")]
    pub read_policy: Option<String>,

    /// Seconds that such a command may take for one answer; without one nothing is let through
    /// [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub policy_timeout: Option<f64>,

    /// Kinds that are shown to their authors and receivers alone, beside 4, 1059 and 21059
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub guarded_kinds: Option<Vec<u16>>,

    /// Bytes, packed, that the messages to one receiver may take: events of these kinds and of 4 and 1059
    /// that name it; 0 is no limit [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    pub message_bytes_per_key_max: Option<u64>,

    /// Bytes, packed, that all messages may take together; 0 is no limit [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub message_bytes_total_max: Option<u64>,

    /// What becomes of a message for which there is no room: it is refused, or it is taken and the oldest
    /// ones go [default: refuse]
    #[arg(long, value_enum)]
    pub messages_over_quota: Option<OverQuota>,

    /// Days, by their dates, that messages are kept and shown, at least 3; 0 is for ever [default: 0]
    #[arg(long, value_name = "DAYS")]
    pub message_days_max: Option<u64>,

    /// Bits of work that an event must have (NIP-13) [default: 0]
    #[arg(long, value_name = "BITS")]
    pub pow_min: Option<u32>,

    /// Connections at a time [default: 4096]
    #[arg(long, value_name = "COUNT")]
    pub connections_max: Option<usize>,

    /// Connections at a time from one address (of IPv6, one /64); 0 is no limit [default: 100]
    #[arg(long, value_name = "COUNT")]
    pub ip_connections_max: Option<usize>,

    /// Events a second from one address, ten times as many at once; 0 is no limit [default: 50]
    #[arg(long, value_name = "COUNT")]
    pub ip_events_per_second: Option<u32>,

    /// REQs, COUNTs and NEG-OPENs a second from one address, ten times as many at once; 0 is no limit
    /// [default: 50]
    #[arg(long, value_name = "COUNT")]
    pub ip_requests_per_second: Option<u32>,

    /// Events a second by one author, ten times as many at once; 0 is no limit [default: 20]
    #[arg(long, value_name = "COUNT")]
    pub key_events_per_second: Option<u32>,

    /// REQs, COUNTs and NEG-OPENs a second by one authenticated key, ten times as many at once; 0 is no
    /// limit [default: 50]
    #[arg(long, value_name = "COUNT")]
    pub key_requests_per_second: Option<u32>,

    /// Bytes of one message from a client [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    pub message_bytes_max: Option<usize>,

    /// Bytes of one event as JSON [default: 131072]
    #[arg(long, value_name = "BYTES")]
    pub event_bytes_max: Option<usize>,

    /// Tags of one event [default: 5000]
    #[arg(long, value_name = "COUNT")]
    pub event_tags_max: Option<usize>,

    /// Seconds that an event's date may lie ahead [default: 900]
    #[arg(long, value_name = "SECONDS")]
    pub future_seconds_max: Option<u64>,

    /// Seconds that an event's date may lie back [default: no limit]
    #[arg(long, value_name = "SECONDS")]
    pub past_seconds_max: Option<u64>,

    /// Subscriptions of one connection [default: 64]
    #[arg(long, value_name = "COUNT")]
    pub subscriptions_max: Option<usize>,

    /// Filters of one subscription [default: 32]
    #[arg(long, value_name = "COUNT")]
    pub filters_max: Option<usize>,

    /// Values (ids, authors, kinds, tags) in all filters of one subscription [default: 12000]
    #[arg(long, value_name = "COUNT")]
    pub filter_values_max: Option<usize>,

    /// Stored events that one filter may ask for [default: 5000]
    #[arg(long, value_name = "COUNT")]
    pub limit_max: Option<u64>,

    /// Stored events that a filter without a limit gets [default: 500]
    #[arg(long, value_name = "COUNT")]
    pub limit_default: Option<u64>,

    /// Milliseconds that a question reads before others have their turn [default: 10]
    #[arg(long, value_name = "MILLISECONDS")]
    pub query_slice_ms: Option<u64>,

    /// Events that one reconciliation may compare (NIP-77) [default: 500000]
    #[arg(long, value_name = "COUNT")]
    pub neg_items_max: Option<usize>,
}

/// These settings as run.
#[derive(Clone, Debug)]
pub struct Terms {
    pub about: About,
    pub limits: Limits,
    pub rates: Rates,
    pub access: Access,
    /// Who may say whom it forwards.
    pub trusted_proxies: Vec<Network>,
    pub policy: PolicyCommands,
    /// Kinds that are not for everybody.
    pub guarded_kinds: Vec<Kind>,
    pub messages: MessageTerms,
}

/// How much of messages is kept, and for how long. None: as much as comes, and for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageTerms {
    pub bytes_per_key_max: Option<u64>,
    pub bytes_total_max: Option<u64>,
    pub over_quota: OverQuota,
    pub days_max: Option<u64>,
}

/// What becomes of a message for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverQuota {
    #[default]
    Refuse,
    /// It is taken, and the oldest go.
    DropOldest,
}

impl MessageTerms {
    /// The date before which messages are too old.
    pub fn kept_since(&self, now: Timestamp) -> Timestamp {
        let seconds = self.days_max.map(|days| days.saturating_mul(DAY_SECONDS));
        Timestamp(seconds.map_or(0, |seconds| now.0.saturating_sub(seconds)))
    }

    /// Whether an event of a guarded kind is a message that is too old.
    pub fn hides(&self, event: &Packed<'_>) -> bool {
        self.days_max.is_some()
            && event.created_at() < self.kept_since(clock::now())
            && has_receiver(event)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.days_max.is_none_or(|days| days >= MESSAGE_DAYS_MIN),
            "`message-days-max` must be at least {MESSAGE_DAYS_MIN}, or 0: gift wraps are dated up to two days back"
        );
        let quotas = [
            ("message-bytes-per-key-max", self.bytes_per_key_max),
            ("message-bytes-total-max", self.bytes_total_max),
        ];
        for (name, max) in quotas {
            ensure!(
                max.is_none_or(|max| max >= MESSAGE_BYTES_MIN),
                "`{name}` must be at least {MESSAGE_BYTES_MIN}, or 0: one message takes hundreds"
            );
        }
        Ok(())
    }
}

/// What NIP-11 tells people.
#[derive(Clone, Debug)]
pub struct About {
    pub name: String,
    pub description: String,
    pub contact: Option<String>,
    pub operator: Option<PublicKey>,
    pub icon: Option<String>,
    pub posting_policy: Option<String>,
}

/// What one client may ask of the relay. NIP-11 states them.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_max: usize,
    /// None: as many as there may be in all.
    pub ip_connections_max: Option<usize>,
    pub message_bytes_max: usize,
    pub event_bytes_max: usize,
    pub event_tags_max: usize,
    pub future_seconds_max: u64,
    /// None: events may be as old as they like.
    pub past_seconds_max: Option<u64>,
    pub subscriptions_max: usize,
    pub filters_max: usize,
    pub filter_values_max: usize,
    pub limit_max: u64,
    pub limit_default: u64,
    /// How long a question reads before others have their turn.
    pub query_slice: Duration,
    /// In bits.
    pub pow_min: u32,
    pub neg_items_max: usize,
}

/// How much of something there may be in a second. None: as much as comes.
pub type PerSecond = Option<NonZeroU32>;

/// How often one client may do something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub ip_events: PerSecond,
    pub ip_requests: PerSecond,
    pub key_events: PerSecond,
    pub key_requests: PerSecond,
}

/// Commands that decide what is let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyCommands {
    pub write: Option<String>,
    pub read: Option<String>,
    /// How long one answer may take.
    pub patience: Duration,
}

impl TermSettings {
    /// Chooses defaults and checks.
    pub fn resolve(self) -> anyhow::Result<Terms> {
        let limits = self.limits();
        limits.check()?;
        let messages = self.messages();
        messages.check()?;
        let patience = seconds("policy-timeout", self.policy_timeout.unwrap_or(5.0))?;
        let guarded = self.guarded_kinds.iter().flatten().copied().map(Kind);
        Ok(Terms {
            guarded_kinds: GUARDED_KINDS.into_iter().chain(guarded).collect(),
            messages,
            limits,
            rates: self.rates(),
            access: self.access()?,
            policy: PolicyCommands {
                write: self.write_policy.clone(),
                read: self.read_policy.clone(),
                patience,
            },
            about: self.about()?,
            trusted_proxies: self.trusted_proxies.unwrap_or_default(),
        })
    }

    fn about(&self) -> anyhow::Result<About> {
        let said = |text: &Option<String>, default: &str| text.clone().unwrap_or(default.into());
        let about = "A nostr relay that shares its event store with other relays.";
        Ok(About {
            name: said(&self.name, "aquifer"),
            description: said(&self.description, about),
            contact: self.contact.clone(),
            operator: self.operator.as_deref().map(key_of).transpose().context("`operator`")?,
            icon: self.icon.clone(),
            posting_policy: self.posting_policy.clone(),
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            connections_max: self.connections_max.unwrap_or(4096),
            ip_connections_max: Some(self.ip_connections_max.unwrap_or(100)).filter(|max| *max > 0),
            message_bytes_max: self.message_bytes_max.unwrap_or(1 << 20),
            event_bytes_max: self.event_bytes_max.unwrap_or(128 * 1024),
            event_tags_max: self.event_tags_max.unwrap_or(5_000),
            future_seconds_max: self.future_seconds_max.unwrap_or(900),
            past_seconds_max: self.past_seconds_max,
            subscriptions_max: self.subscriptions_max.unwrap_or(64),
            filters_max: self.filters_max.unwrap_or(32),
            filter_values_max: self.filter_values_max.unwrap_or(12_000),
            limit_max: self.limit_max.unwrap_or(5_000),
            limit_default: self.limit_default.unwrap_or(500),
            query_slice: Duration::from_millis(self.query_slice_ms.unwrap_or(10)),
            pow_min: self.pow_min.unwrap_or(0),
            neg_items_max: self.neg_items_max.unwrap_or(500_000),
        }
    }

    fn messages(&self) -> MessageTerms {
        let limit =
            |written: Option<u64>, default| Some(written.unwrap_or(default)).filter(|max| *max > 0);
        MessageTerms {
            bytes_per_key_max: limit(self.message_bytes_per_key_max, 64 << 20),
            bytes_total_max: limit(self.message_bytes_total_max, 0),
            over_quota: self.messages_over_quota.unwrap_or_default(),
            days_max: limit(self.message_days_max, 0),
        }
    }

    fn rates(&self) -> Rates {
        let rate = |written: Option<u32>, default| NonZeroU32::new(written.unwrap_or(default));
        Rates {
            ip_events: rate(self.ip_events_per_second, 50),
            ip_requests: rate(self.ip_requests_per_second, 50),
            key_events: rate(self.key_events_per_second, 20),
            key_requests: rate(self.key_requests_per_second, 50),
        }
    }

    fn access(&self) -> anyhow::Result<Access> {
        Ok(Access {
            owners: keys("owners", &self.owners)?.into_keys().collect(),
            admins: keys("admins", &self.admins)?.into_keys().collect(),
            writers: self.writers.unwrap_or(Writers::Everybody),
            allowed_keys: keys("allowed-keys", &self.allowed_keys)?,
            banned_keys: keys("banned-keys", &self.banned_keys)?,
            banned_events: unexplained(self.banned_events.iter().flatten().copied()),
            allowed_kinds: self.allowed_kinds.clone(),
            banned_kinds: self.banned_kinds.clone().unwrap_or_default(),
            blocked_ips: unexplained(self.blocked_ips.iter().flatten().copied()),
        })
    }
}

fn keys(
    setting: &str,
    written: &Option<Vec<String>>,
) -> anyhow::Result<BTreeMap<PublicKey, String>> {
    let keys = written.iter().flatten().map(|text| key_of(text));
    let keys = keys.collect::<anyhow::Result<Vec<PublicKey>>>();
    Ok(unexplained(keys.with_context(|| format!("`{setting}`"))?))
}

/// A configuration gives no reasons.
fn unexplained<T: Ord>(subjects: impl IntoIterator<Item = T>) -> BTreeMap<T, String> {
    subjects.into_iter().map(|subject| (subject, String::new())).collect()
}

/// What of an event's bytes its content cannot have: id, key, signature, and a few tags.
const EVENT_BYTES_AROUND: usize = 1_024;

impl Limits {
    /// Characters of an event's content. In UTF-8 and JSON they may take more bytes than an event can have.
    pub fn content_chars_max(&self) -> usize {
        self.event_bytes_max.saturating_sub(EVENT_BYTES_AROUND)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.event_bytes_max < self.message_bytes_max,
            "`event-bytes-max` ({}) must be below `message-bytes-max` ({})",
            self.event_bytes_max,
            self.message_bytes_max
        );
        ensure!(
            self.limit_default <= self.limit_max,
            "`limit-default` ({}) must not exceed `limit-max` ({})",
            self.limit_default,
            self.limit_max
        );
        ensure!(
            self.pow_min <= POW_MAX,
            "`pow-min` is {}; nobody does more than {POW_MAX} bits",
            self.pow_min
        );
        let slice_ms = self.query_slice.as_millis();
        ensure!(
            (1..=1_000).contains(&slice_ms),
            "`query-slice-ms` is {slice_ms}; it must lie between 1 and 1000"
        );
        Ok(())
    }
}
