//! Drives the real binary through unmodified clients: `pocket-ic` and `ic-agent`.
//!
//! One test binary, so that the tests share a server as those of any user of `pocket-ic` do.

mod agent;
mod calls;
mod dfx;
mod execution;
mod forgery;
mod growth;
mod icp;
mod lab;
mod lifecycle;
mod metering;
mod process;
mod rollback;
mod settings;
mod snapshots;
mod start;
mod support;
mod system_api;
