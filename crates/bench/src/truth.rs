//! The right answer to a filter, worked out from the corpus by looking at every event.

use std::{cmp::Reverse, collections::HashMap};

use anyhow::Result;
use event::{Class, Event, EventId, Filter, Timestamp};

use crate::load::Load;

/// What a relay holds that was given the load and nothing else, newest first, ties by id.
pub struct Truth(Vec<Event>);

/// An event's place in NIP-01's order.
pub type Place = (Reverse<Timestamp>, EventId);

/// How an answer relates to the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    /// Right but for events of one second, which NIP-01 wants lowest id first.
    TiesAstray,
    Wrong(String),
}

impl Truth {
    pub fn of(load: &Load) -> Result<Truth> {
        let mut newest = HashMap::new();
        let mut held = Vec::new();
        for event in load.events() {
            let event = event?;
            match event.address() {
                Some(address) => {
                    let version = newest.entry(address).or_insert_with(|| event.clone());
                    if place(&event) < place(version) {
                        *version = event;
                    }
                }
                None if event.kind.class() == Class::Ephemeral => {}
                None => held.push(event),
            }
        }
        held.extend(newest.into_values());
        held.sort_unstable_by_key(place);
        Ok(Truth(held))
    }

    pub fn events(&self) -> &[Event] {
        &self.0
    }

    /// What `filter` finds, in order.
    pub fn answer(&self, filter: &Filter) -> Vec<Place> {
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        self.0.iter().filter(|event| filter.matches(event)).take(limit).map(place).collect()
    }
}

pub fn place(event: &Event) -> Place {
    (Reverse(event.created_at), event.id)
}

/// Compares an answer with the right one for a filter with this limit.
pub fn judge(found: &[Event], right: &[Place], filter: &Filter) -> Verdict {
    let places: Vec<Place> = found.iter().map(place).collect();
    if places == right {
        return Verdict::Right;
    }
    if let Some(other) = found.iter().find(|event| !filter.matches(event)) {
        return Verdict::Wrong(format!("{} does not match", other.id));
    }
    if !places.is_sorted_by_key(|(date, _)| *date) {
        return Verdict::Wrong("not newest first".into());
    }
    let mut sorted = places.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Verdict::Wrong("an event came twice".into());
    }
    if sorted.len() != right.len() {
        return Verdict::Wrong(format!("{} events, not {}", sorted.len(), right.len()));
    }
    if settled(&sorted, filter) != settled(right, filter) {
        return Verdict::Wrong("events are missing and others are in their place".into());
    }
    Verdict::TiesAstray
}

/// What any relay must answer alike: without the oldest second if the limit may have cut it.
pub fn settled<'a>(sorted: &'a [Place], filter: &Filter) -> &'a [Place] {
    match sorted.last() {
        Some((oldest, _)) if filter.limit.is_some_and(|limit| sorted.len() as u64 >= limit) => {
            &sorted[..sorted.partition_point(|(date, _)| date < oldest)]
        }
        _ => sorted,
    }
}
