//! What Aquifer promises, shown on the real parts: the canister's wasm on a PocketIC server, relays
//! as processes of the real binary, and clients of a crate that is not ours.
//!
//! A test is a story told in the words of [`world`]: a `World` is one Internet Computer with the
//! event store on it, and has relays, which have clients. What must be there at the end of a story is
//! worked out by the naive twin ([`events`]), never typed in. One server serves all tests, and each
//! has an instance of its own. Nothing sleeps for luck: a test waits for a frame, a line or a state,
//! up to a limit that only a failure reaches.
//!
//! The programs must be built before: `scripts/test` does, or
//! `cargo build --workspace --all-targets && scripts/build-canister`.

mod backup;
mod cache;
mod canister;
mod clients;
mod convergence;
mod db;
mod deploy;
mod double;
mod durability;
mod events;
mod faults;
mod feed;
mod figures;
mod forgeries;
mod golden;
mod hostile;
mod layer2;
mod lies;
mod load;
mod membership;
mod observed;
mod outages;
mod outbox;
mod pace;
mod peers;
mod sharing;
mod subscriber;
mod up;
mod world;
