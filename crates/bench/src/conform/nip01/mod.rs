//! NIP-01: what an event is, what a filter finds, which version stays, and what a subscriber is told.

pub mod events;
pub mod filters;
pub mod subscriptions;
pub mod versions;
