//! What a running message knows and what it has asked for so far.
//!
//! A [`Host`] is the data of one execution. Nothing in it is shared with the instance: effects
//! are collected here and take hold only if the caller commits them.

use std::sync::Arc;

use candid::Principal;
use serde::{Deserialize, Serialize};
use wasmtime::{Memory, ResourceLimiter};

use crate::cert::DataCertificate;
use crate::cycles::{Occupied, Prices};
use crate::errors::Fault;
use crate::mem::StableView;

/// Which entry point runs: decides which system calls are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Start,
    Init,
    PreUpgrade,
    Update,
    ReplicatedQuery,
    Query,
    CompositeQuery,
    Reply,
    Reject,
    CompositeReply,
    CompositeReject,
    Cleanup,
    CompositeCleanup,
    Inspect,
    Task,
}

impl Mode {
    pub const fn bit(self) -> u16 {
        1 << self as u16
    }

    pub fn text(self) -> &'static str {
        match self {
            Mode::Start => "start",
            Mode::Init => "init",
            Mode::PreUpgrade => "pre upgrade",
            Mode::Update => "update",
            Mode::ReplicatedQuery => "replicated query",
            Mode::Query => "non replicated query",
            Mode::CompositeQuery => "composite query",
            Mode::Reply => "reply callback",
            Mode::Reject => "reject callback",
            Mode::CompositeReply => "composite reply callback",
            Mode::CompositeReject => "composite reject callback",
            Mode::Cleanup => "cleanup",
            Mode::CompositeCleanup => "composite cleanup",
            Mode::Inspect => "inspect message",
            Mode::Task => "system task",
        }
    }

    /// Callbacks, tasks and `canister_pre_upgrade` may exceed the canister's own limit of its heap:
    /// they must not fail because of it.
    fn has_heap_limit(self) -> bool {
        matches!(self, Mode::Start | Mode::Init | Mode::Update)
    }

    /// Whether the outcome is agreed on by a subnet, rather than computed by one node.
    pub fn is_replicated(self) -> bool {
        let alone = Mode::Query.bit()
            | Mode::CompositeQuery.bit()
            | Mode::CompositeReply.bit()
            | Mode::CompositeReject.bit()
            | Mode::CompositeCleanup.bit()
            | Mode::Inspect.bit();
        self.bit() & alone == 0
    }
}

/// The canister and its surroundings, as they were when the message started.
#[derive(Clone)]
pub struct Env {
    pub canister: Principal,
    pub subnet: Principal,
    pub time: u64,
    pub version: u64,
    /// 1 running, 2 stopping, 3 stopped.
    pub status: u32,
    pub controllers: Arc<Vec<Principal>>,
    pub variables: Arc<Vec<(String, String)>>,
    pub cycles: u128,
    /// What the canister takes up, and for how long it must be able to pay for that.
    pub occupied: Occupied,
    pub freezing_seconds: u64,
    pub root_key: Arc<Vec<u8>>,
    pub prices: Prices,
    pub timer: Option<u64>,
    pub certificate: Option<Arc<DataCertificate>>,
    /// The canister's own limit, see [`Mode::has_heap_limit`].
    pub heap_bytes_max: u64,
    pub log_bytes_max: usize,
}

/// The message itself.
#[derive(Clone, Default)]
pub struct Incoming {
    pub caller: Option<Principal>,
    pub method: String,
    pub arg: Arc<Vec<u8>>,
    pub reject: Option<(u32, String)>,
    pub cycles_available: u128,
    pub cycles_refunded: u128,
    pub deadline: u64,
    /// The call context has been answered by an earlier execution.
    pub is_answered: bool,
    /// What the call context has spent before this execution.
    pub context_instructions: u64,
}

impl Incoming {
    pub fn caller(&self) -> Principal {
        self.caller.unwrap_or(Principal::anonymous())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Reply(Vec<u8>),
    Reject(String),
}

/// A function of the canister's table and its argument.
pub type Closure = (u32, u32);

#[derive(Clone, Debug)]
pub struct OutCall {
    pub callee: Vec<u8>,
    pub method: String,
    pub arg: Vec<u8>,
    pub on_reply: Closure,
    pub on_reject: Closure,
    pub on_cleanup: Option<Closure>,
    pub cycles: u128,
    /// Taken at `call_perform` for the callback and its payload; what is unused comes back.
    pub prepaid: u128,
    pub timeout_seconds: Option<u32>,
}

pub struct Host {
    pub mode: Mode,
    pub env: Env,
    pub incoming: Incoming,
    pub memory: Option<Memory>,
    pub stable: StableView,
    pub instruction_limit: u64,

    pub reply_data: Vec<u8>,
    pub answer: Option<Answer>,
    pub is_accepted: bool,
    pub cycles: u128,
    pub cycles_accepted: u128,
    pub cycles_burned: u128,
    pub call_under_construction: Option<OutCall>,
    pub calls: Vec<OutCall>,
    pub certified_data: Option<Vec<u8>>,
    pub timer_set: Option<u64>,
    pub logs: Vec<Vec<u8>>,
    pub log_bytes: usize,
    pub memory_grows: u64,
    /// With what this execution has added.
    occupied: Occupied,
}

impl Host {
    pub fn new(mode: Mode, env: Env, incoming: Incoming, stable: StableView, limit: u64) -> Host {
        Host {
            mode,
            cycles: env.cycles,
            occupied: env.occupied,
            env,
            incoming,
            memory: None,
            stable,
            instruction_limit: limit,
            reply_data: Vec::new(),
            answer: None,
            is_accepted: false,
            cycles_accepted: 0,
            cycles_burned: 0,
            call_under_construction: None,
            calls: Vec::new(),
            certified_data: None,
            timer_set: None,
            logs: Vec::new(),
            log_bytes: 0,
            memory_grows: 0,
        }
    }

    pub fn cycles_liquid(&self) -> u128 {
        self.cycles.saturating_sub(self.freezing_cycles())
    }

    /// Below this balance nothing may be spent.
    fn freezing_cycles(&self) -> u128 {
        self.env.prices.freezing(self.occupied, self.env.freezing_seconds)
    }

    /// Takes up more memory, unless keeping it would leave the canister frozen.
    pub fn occupy(&mut self, bytes: u64) -> Result<(), Fault> {
        self.occupied.memory_bytes += bytes;
        let needed = self.freezing_cycles();
        if self.mode.is_replicated() && bytes > 0 && needed > self.cycles {
            return Err(Fault::MemoryUnaffordable { bytes, missing: needed - self.cycles });
        }
        Ok(())
    }

    pub fn is_answered(&self) -> bool {
        self.incoming.is_answered || self.answer.is_some()
    }

    pub fn log(&mut self, content: &[u8]) {
        let content = &content[..content.len().min(self.env.log_bytes_max)];
        self.log_bytes += content.len();
        self.logs.push(content.to_vec());
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if current == 0 && self.memory.is_none() {
            return Ok(true); // Instantiation; the committed heap is larger anyway.
        }
        self.memory_grows += 1;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        if self.mode.has_heap_limit() && desired as u64 > self.env.heap_bytes_max {
            let fault =
                Fault::WasmMemoryLimit { bytes: desired as u64, limit: self.env.heap_bytes_max };
            return Err(wasmtime::Error::new(fault));
        }
        self.occupy((desired - current) as u64).map_err(wasmtime::Error::new)?;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        const TABLE_ELEMENTS_MAX: usize = 1_000_000;
        Ok(desired <= maximum.unwrap_or(TABLE_ELEMENTS_MAX))
    }
}
