//! A whole Aquifer on one machine: a local Internet Computer, the canister on it, and relays.
//!
//! `scripts/up` is this library with a command line ([`up`]); the end-to-end tests are this library
//! with nostr clients. So what the tests prove is what a person starts.
//!
//! Every part is a [`Process`] of its own, the relays are the real binary, and the Internet Computer
//! is spoken to through the `pocket-ic` crate, on the official server or on `local-ic`, whichever
//! [`server::Chooser`] finds. Nothing here knows which of the two it is.

pub mod artifacts;
mod ic;
mod process;
mod relay;
pub mod server;
pub mod up;

pub use artifacts::Artifacts;
pub use ic::{Ic, Placement, operator};
pub use process::{Echo, Process, Source};
pub use relay::{Listening, RelayIdentity, RelayOptions, RelayProcess, canister_url, identity};
pub use server::Server;
