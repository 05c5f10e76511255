//! What operators may set. Stored is what was asked; [`Settings::limits`] is what holds.
//!
//! It is stored as Candid, which carries its own field names: configs of older versions decode, their
//! missing fields being absent.

use std::borrow::Cow;

use ic_stable_structures::{StableCell, Storable, storable::Bound};
use interface::{Config, REPLY_BYTES_MAX};

use crate::memory::Memory;

/// The largest limit for events. A byte of a packed event may become six in JSON (`\u0001`), and even
/// then one event must fit into a reply, or no reader could get past it.
const EVENT_BYTES_MAX_MOST: u32 = (REPLY_BYTES_MAX / 6) as u32 - 1_000;

/// What a canister can have.
const STABLE_BYTES_MAX_MOST: u64 = 500 << 30;

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub public_read: bool,
    pub event_bytes_max: u32,
    pub tags_max: u32,
    pub future_seconds_max: u64,
    /// For each relay; so are the next two.
    pub relay_events_per_hour: u64,
    pub relay_bytes_per_hour: u64,
    pub relay_bytes_total: u64,
    pub directory_ttl_seconds: u64,
    pub stable_bytes_max: u64,
    pub cycles_days_min: u64,
}

pub struct Settings(StableCell<Stored, Memory>);

#[derive(Default)]
struct Stored(Config);

impl Settings {
    pub fn open(memory: Memory) -> Settings {
        Settings(StableCell::init(memory, Stored::default()))
    }

    pub fn limits(&self) -> Limits {
        let Stored(config) = self.0.get();
        Limits {
            public_read: config.public_read.unwrap_or(false),
            event_bytes_max: config.event_bytes_max.unwrap_or(131_072),
            tags_max: config.tags_max.unwrap_or(5_000),
            future_seconds_max: config.future_seconds_max.unwrap_or(900),
            relay_events_per_hour: config.relay_events_per_hour.unwrap_or(u64::MAX),
            relay_bytes_per_hour: config.relay_bytes_per_hour.unwrap_or(u64::MAX),
            relay_bytes_total: config.relay_bytes_total.unwrap_or(u64::MAX),
            directory_ttl_seconds: config.directory_ttl_seconds.unwrap_or(90),
            stable_bytes_max: config.stable_bytes_max.unwrap_or(STABLE_BYTES_MAX_MOST),
            cycles_days_min: config.cycles_days_min.unwrap_or(7),
        }
    }

    /// Sets the fields that `config` has; the others stay.
    pub fn apply(&mut self, config: &Config) -> Result<(), String> {
        if config.event_bytes_max.is_some_and(|limit| limit > EVENT_BYTES_MAX_MOST) {
            return Err(format!("event_bytes_max can be {EVENT_BYTES_MAX_MOST} at most"));
        }
        if config.stable_bytes_max.is_some_and(|limit| limit > STABLE_BYTES_MAX_MOST) {
            return Err(format!("stable_bytes_max can be {STABLE_BYTES_MAX_MOST} at most"));
        }
        let Stored(held) = self.0.get();
        let merged = Config {
            public_read: config.public_read.or(held.public_read),
            event_bytes_max: config.event_bytes_max.or(held.event_bytes_max),
            tags_max: config.tags_max.or(held.tags_max),
            future_seconds_max: config.future_seconds_max.or(held.future_seconds_max),
            relay_events_per_hour: config.relay_events_per_hour.or(held.relay_events_per_hour),
            relay_bytes_per_hour: config.relay_bytes_per_hour.or(held.relay_bytes_per_hour),
            relay_bytes_total: config.relay_bytes_total.or(held.relay_bytes_total),
            directory_ttl_seconds: config.directory_ttl_seconds.or(held.directory_ttl_seconds),
            stable_bytes_max: config.stable_bytes_max.or(held.stable_bytes_max),
            cycles_days_min: config.cycles_days_min.or(held.cycles_days_min),
        };
        self.0.set(Stored(merged));
        Ok(())
    }
}

impl From<Limits> for Config {
    /// With a value in every field.
    fn from(limits: Limits) -> Config {
        Config {
            public_read: Some(limits.public_read),
            event_bytes_max: Some(limits.event_bytes_max),
            tags_max: Some(limits.tags_max),
            future_seconds_max: Some(limits.future_seconds_max),
            relay_events_per_hour: Some(limits.relay_events_per_hour),
            relay_bytes_per_hour: Some(limits.relay_bytes_per_hour),
            relay_bytes_total: Some(limits.relay_bytes_total),
            directory_ttl_seconds: Some(limits.directory_ttl_seconds),
            stable_bytes_max: Some(limits.stable_bytes_max),
            cycles_days_min: Some(limits.cycles_days_min),
        }
    }
}

impl Storable for Stored {
    const BOUND: Bound = Bound::Unbounded;

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(candid::encode_one(self.0).expect("plain numbers encode"))
    }

    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }

    fn from_bytes(bytes: Cow<'_, [u8]>) -> Stored {
        Stored(candid::decode_one(&bytes).expect("it was encoded by this canister"))
    }
}
