//! A small Internet Computer for laptops and continuous integration.
//!
//! It runs real canister wasm and speaks two protocols, so that unmodified clients work with it:
//! the REST protocol of the PocketIC server ([`rest`], [`instance_api`]), which the `pocket-ic`
//! crate uses in tests, and the Internet Computer's HTTPS interface ([`http_api`]), which agents
//! use, with all their checks of certificates and signatures on. It is for tests only: every key
//! comes from a public seed.
//!
//! The choice that shaped it: **a message is an instance.** Each execution gets a fresh wasm
//! instance whose memory is a private mapping of what the canister has committed ([`mem`]). To
//! roll back is to drop it; a query needs nothing but a shared reference; what a message changed
//! is what the kernel says it copied.
//!
//! From the outside in: [`server`] holds the instances; an [`instance`] is an [`ic::Ic`] behind a
//! lock, made of each [`canister`] and each [`message`] on its way; [`exec`], [`query`],
//! [`install`] and [`mgmt`] are what can happen to it; [`wasm`] runs code; [`cert`],
//! [`state_tree`] and [`verify`] are what agents check and what is checked of them; [`save`] keeps
//! an instance between runs, [`snapshots`] a canister within one; [`dashboard`] shows it to people.

pub mod activity;
pub mod canister;
pub mod cert;
pub mod cycles;
pub mod dashboard;
pub mod errors;
pub mod exec;
pub mod gateway;
pub mod http_api;
pub mod ic;
pub mod install;
pub mod instance;
pub mod instance_api;
pub mod journal;
pub mod mem;
pub mod message;
pub mod mgmt;
pub mod outcalls;
pub mod query;
pub mod rest;
pub mod save;
pub mod server;
pub mod snapshots;
pub mod state_tree;
pub mod stubs;
pub mod topology;
pub mod verify;
pub mod wasm;

/// The version of the PocketIC server whose protocol this is.
pub const POCKET_IC_VERSION: &str = "16.1.0";
