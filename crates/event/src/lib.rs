//! Nostr events: what they are, how they are written down, and which of them stay.
//!
//! An [`Event`] is what NIP-01 describes. It has two written forms: JSON, at the edges where people
//! and clients are, and the *packed form* ([`packed`]), which lies in every store and travels
//! between them. [`verify`] turns an event into a [`Verified`] one, and nothing else can.
//! [`rules`] says what an arriving event does to those already held: replaced, deleted, expired.
//!
//! There is no IO here, no clock and no Candid: `now` is always an argument. The crate compiles for
//! machines and for wasm32; only the signature check differs, behind one function.
//!
//! ```
//! let line = r#"{"id":"c2","kind":1}"#;
//! let reason = event::Event::from_json(line.as_bytes()).unwrap_err();
//! assert!(reason.to_string().contains("id"));
//! ```

mod claim;
mod filter;
mod json;
mod kind;
mod model;
pub mod packed;
pub mod rules;
#[cfg(any(test, target_family = "wasm"))]
mod schnorr;
#[cfg(all(feature = "twin", not(target_family = "wasm")))]
pub mod twin;
mod verify;

pub use filter::{Filter, FilterError, TagName};
pub use json::{JsonError, stated_id};
pub use kind::{Class, Kind};
pub use model::{Address, Event, EventId, HexError, PublicKey, Signature, Tag, Timestamp};
pub use packed::{Packed, PackedError};
pub use verify::{Invalid, Verified, check_signature, verify, verify_all};
