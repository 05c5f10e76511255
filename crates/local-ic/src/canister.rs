//! One canister: its settings, code, memory, log and snapshots.
//!
//! Plain data and committed memory, and what can be said of a canister without looking at the
//! instance it is in. What has a `Serialize` goes into a saved state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use candid::Principal;
use ic_management_canister_types::{
    Change, EnvironmentVariable, LogVisibility, SnapshotVisibility, StatusVisibility,
};
use pocket_ic::common::rest::base64;
use serde::{Deserialize, Serialize};

use crate::cert::DataCertificate;
use crate::cycles::{Occupied, Prices};
use crate::errors::Reject;
use crate::mem::{HEAP_BYTES_MAX, HeapView, Image, StableView};
use crate::message::{Callback, Origin};
use crate::wasm::run::{GlobalValue, Machine};
use crate::wasm::{Code, Hash};

const HEAP_LIMIT_DEFAULT: u64 = 3 << 30;
const FREEZING_SECONDS_DEFAULT: u64 = 30 * 86_400;
const LOG_BYTES_DEFAULT: u64 = 4096;
const RESERVED_CYCLES_LIMIT_DEFAULT: u128 = 5_000_000_000_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub controllers: Vec<Principal>,
    pub compute_allocation: u64,
    pub memory_allocation: u64,
    pub freezing_threshold: u64,
    pub reserved_cycles_limit: u128,
    pub minimum_incoming_canister_call_cycles: u128,
    pub log_visibility: LogVisibility,
    pub log_memory_limit: u64,
    pub snapshot_visibility: SnapshotVisibility,
    pub status_visibility: StatusVisibility,
    pub wasm_memory_limit: u64,
    pub wasm_memory_threshold: u64,
    pub environment_variables: Vec<EnvironmentVariable>,
}

impl Settings {
    pub fn of_controller(controller: Principal) -> Settings {
        Settings {
            controllers: vec![controller],
            compute_allocation: 0,
            memory_allocation: 0,
            freezing_threshold: FREEZING_SECONDS_DEFAULT,
            reserved_cycles_limit: RESERVED_CYCLES_LIMIT_DEFAULT,
            minimum_incoming_canister_call_cycles: 0,
            log_visibility: LogVisibility::Controllers,
            log_memory_limit: LOG_BYTES_DEFAULT,
            snapshot_visibility: SnapshotVisibility::Controllers,
            status_visibility: StatusVisibility::Controllers,
            wasm_memory_limit: HEAP_LIMIT_DEFAULT,
            wasm_memory_threshold: 0,
            environment_variables: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Running,
    /// Until no call context is open; these wait for that.
    Stopping(Vec<Origin>),
    Stopped,
}

/// Where a canister is with `canister_on_low_wasm_memory`, which runs once each time that less
/// than the threshold is left of its heap's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LowMemory {
    #[default]
    NotSatisfied,
    Ready,
    Executed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRecord {
    pub index: u64,
    pub time: u64,
    #[serde(with = "base64")]
    pub content: Vec<u8>,
}

/// The newest records that fit the limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Log {
    pub records: VecDeque<LogRecord>,
    next_index: u64,
    bytes: usize,
}

impl Log {
    /// The replica counts the index and the time with each record.
    const RECORD_BYTES: usize = 16;

    pub fn push(&mut self, time: u64, content: Vec<u8>, bytes_max: usize) {
        self.bytes += content.len() + Log::RECORD_BYTES;
        let index = self.next_index;
        self.next_index += 1;
        self.records.push_back(LogRecord { index, time, content });
        while self.bytes > bytes_max && self.records.len() > 1 {
            let oldest = self.records.pop_front().expect("more than one");
            self.bytes -= oldest.content.len() + Log::RECORD_BYTES;
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Code, committed memory and uploaded chunks: saved as files of their own.
pub struct Body {
    pub code: Option<Arc<Code>>,
    pub heap: Image,
    pub stable: Image,
    pub chunks: BTreeMap<Hash, Vec<u8>>,
    pub certificate: Mutex<Option<Arc<DataCertificate>>>,
}

impl Default for Body {
    fn default() -> Body {
        Body {
            code: None,
            heap: Image::heap().expect("a memory file can be created"),
            stable: Image::stable().expect("a memory file can be created"),
            chunks: BTreeMap::new(),
            certificate: Mutex::default(),
        }
    }
}

impl Body {
    pub fn bytes(&self) -> u64 {
        let code = self.code.as_ref().map_or(0, |code| code.sent.len() as u64);
        self.heap.len() + self.stable.len() + code + self.chunk_bytes()
    }

    pub fn chunk_bytes(&self) -> u64 {
        // Each chunk takes a whole MiB of the store, however short it is.
        (self.chunks.len() as u64) << 20
    }
}

/// The snapshots of one canister, by number.
#[derive(Default, Serialize, Deserialize)]
pub struct Snapshots {
    pub all: BTreeMap<u64, Snapshot>,
    pub next: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    pub taken_at: u64,
    pub canister_version: u64,
    pub globals: Option<Vec<GlobalValue>>,
    pub certified_data: Vec<u8>,
    pub timer: Option<u64>,
    pub low_memory: LowMemory,
    #[serde(skip)]
    pub body: Body,
}

impl Snapshots {
    pub fn bytes(&self) -> u64 {
        self.all.values().map(Snapshot::bytes).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Snapshot {
    pub fn bytes(&self) -> u64 {
        self.body.bytes()
    }
}

#[derive(Serialize, Deserialize)]
pub struct Canister {
    pub id: Principal,
    pub settings: Settings,
    pub status: Status,
    pub cycles: u128,
    pub version: u64,
    pub certified_data: Vec<u8>,
    pub timer: Option<u64>,
    #[serde(default)]
    pub low_memory: LowMemory,
    pub globals: Option<Vec<GlobalValue>>,
    pub callbacks: BTreeMap<u64, Callback>,
    pub log: Log,
    /// The latest changes, and how many there ever were.
    pub history: Vec<Change>,
    pub changes: u64,
    /// Up to when storage has been paid for.
    pub charged_until: u64,
    #[serde(default)]
    pub snapshots: Snapshots,
    #[serde(skip)]
    pub body: Body,
}

impl Canister {
    pub fn is_controller(&self, who: Principal) -> bool {
        self.settings.controllers.contains(&who)
    }

    pub fn code(&self) -> Result<&Arc<Code>, Reject> {
        self.body.code.as_ref().ok_or_else(|| Reject::no_wasm_module(self.id))
    }

    pub fn check_running(&self) -> Result<(), Reject> {
        match self.status {
            Status::Running => Ok(()),
            Status::Stopping(_) => Err(Reject::stopping(self.id)),
            Status::Stopped => Err(Reject::stopped(self.id)),
        }
    }

    pub fn machine(&self) -> Machine {
        Machine {
            heap: HeapView::of(&self.body.heap),
            stable: StableView::of(&self.body.stable),
            globals: self.globals.clone(),
        }
    }

    /// Makes what an execution left behind the canister's state.
    pub fn commit(&mut self, machine: Machine) {
        let body = &mut self.body;
        body.heap = machine.heap.image;
        body.stable = machine.stable.image;
        body.heap
            .commit(machine.heap.delta)
            .and_then(|()| body.stable.commit(machine.stable.delta))
            .expect("a memory file takes what the machine has memory for");
        self.globals = machine.globals;
    }

    pub fn memory_bytes(&self) -> u64 {
        self.body.bytes() + self.snapshots.bytes() + self.log.bytes() as u64
    }

    pub fn occupied(&self) -> Occupied {
        Occupied {
            memory_bytes: self.memory_bytes(),
            memory_allocation: self.settings.memory_allocation,
            compute_percent: self.settings.compute_allocation,
        }
    }

    pub fn freezing_cycles(&self, prices: &Prices) -> u128 {
        prices.freezing(self.occupied(), self.settings.freezing_threshold)
    }

    pub fn status_number(&self) -> u32 {
        match self.status {
            Status::Running => 1,
            Status::Stopping(_) => 2,
            Status::Stopped => 3,
        }
    }

    /// To be called when the heap, its limit or the threshold may have changed; true if
    /// `canister_on_low_wasm_memory` is due.
    pub fn watch_memory(&mut self) -> bool {
        let limit = match self.settings.wasm_memory_limit {
            0 => HEAP_BYTES_MAX,
            limit => limit,
        };
        let used = self.body.heap.len();
        let is_low = limit < used.saturating_add(self.settings.wasm_memory_threshold);
        self.low_memory = match (is_low, self.low_memory) {
            (false, _) => LowMemory::NotSatisfied,
            (true, LowMemory::NotSatisfied) => LowMemory::Ready,
            (true, before) => before,
        };
        self.low_memory == LowMemory::Ready
    }

    /// Adds a record to the canister's log.
    pub fn note(&mut self, time: u64, content: Vec<u8>) {
        let bytes_max = self.settings.log_memory_limit as usize;
        self.log.push(time, content, bytes_max);
    }
}
