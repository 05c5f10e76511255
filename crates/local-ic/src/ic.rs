//! The state of one instance: subnets, canisters, messages on their way, answers given.
//!
//! Everything here is plain data or committed memory; what happens to it is in `exec` (messages),
//! `query` and `mgmt` (the management canister). What has a `Serialize` goes into a saved state.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use candid::Principal;
use ic_management_canister_types::{
    Change, EnvironmentVariable, LogVisibility, SnapshotVisibility, StatusVisibility,
};
use pocket_ic::common::rest::base64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cert::DataCertificate;
use crate::cycles::{Occupied, Prices};
use crate::errors::Reject;
use crate::journal::Journal;
use crate::mem::{HEAP_BYTES_MAX, HeapView, Image, StableView};
use crate::outcalls::Outcall;
use crate::snapshots::Snapshots;
use crate::topology::{Subnet, Subnets};
use crate::wasm::host::{Closure, Env};
use crate::wasm::run::{GlobalValue, Machine};
use crate::wasm::{Code, Hash, Runner};

/// 6 May 2021: the first moment of an instance unless another is asked for.
pub const GENESIS_NANOS: u64 = 1_620_328_630_000_000_000;
pub const HEAP_LIMIT_DEFAULT: u64 = 3 << 30;
pub const FREEZING_SECONDS_DEFAULT: u64 = 30 * 86_400;
pub const LOG_BYTES_DEFAULT: u64 = 4096;
pub const RESERVED_CYCLES_LIMIT_DEFAULT: u128 = 5_000_000_000_000;
/// Answers are forgotten, oldest first, when they take more memory than this.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// So many answered messages are remembered however old they are ...
const ANSWERED_MIN: usize = 10_000;
/// ... and not more than these, so that memory does not grow while a test's time stands still.
const ANSWERED_MAX: usize = 20_000;
/// A message this long answered has expired, so it could not be sent again.
const ANSWERED_NANOS: u64 = 600_000_000_000;

/// Of the answers given, a saved state holds only the latest.
const SAVED_ANSWERS_MAX: usize = 1_000;
const SAVED_ANSWER_BYTES_MAX: usize = 8 << 20;

pub type MessageId = [u8; 32];

pub struct Ic {
    pub runner: Arc<Runner>,
    pub subnets: Subnets,
    pub root_key: Arc<Vec<u8>>,
    pub time: u64,
    /// A time that was set holds for the next round; otherwise a round takes a nanosecond.
    pub is_time_set: bool,
    pub canisters: BTreeMap<Principal, Canister>,
    pub queue: VecDeque<Message>,
    pub ingress: IngressHistory,
    pub contexts: BTreeMap<u64, CallContext>,
    pub outcalls: BTreeMap<u64, Outcall>,
    /// Numbers call contexts, callbacks and outcalls.
    pub next_number: u64,
    pub random: [u8; 32],
    /// Modules that were paid for in full; others pay a hundredth for theirs.
    pub compiled: BTreeSet<Hash>,
    /// Canisters whose heap has just become nearly full.
    pub low_on_memory: Vec<Principal>,
    pub journal: Journal,
}

/// Something to be executed in a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    Ingress(MessageId),
    Request(Request),
    Response(Response),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    pub from: Principal,
    pub callback: u64,
    pub callee: Principal,
    pub method: String,
    #[serde(with = "base64")]
    pub arg: Vec<u8>,
    pub cycles: u128,
    pub deadline: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Response {
    pub to: Principal,
    pub callback: u64,
    pub result: Result<Vec<u8>, Reject>,
    pub refund: u128,
}

/// Who waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    Ingress(MessageId),
    Canister {
        id: Principal,
        callback: u64,
        deadline: Option<u64>,
    },
    /// Timers and heartbeats: nobody.
    System,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallContext {
    pub canister: Principal,
    pub origin: Origin,
    pub caller: Principal,
    pub is_answered: bool,
    pub outstanding: usize,
    pub cycles: u128,
    pub instructions: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Callback {
    pub context: u64,
    pub on_reply: Closure,
    pub on_reject: Closure,
    pub on_cleanup: Option<Closure>,
    pub prepaid: u128,
    /// When a best-effort call gives up waiting.
    pub deadline: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ingress {
    pub sender: Principal,
    pub canister: Principal,
    /// The subnet it was sent to.
    pub subnet: Principal,
    pub method: String,
    #[serde(with = "base64")]
    pub arg: Vec<u8>,
    pub status: IngressStatus,
    pub answered_at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IngressStatus {
    Received,
    Processing,
    Replied(#[serde(with = "base64")] Vec<u8>),
    Rejected(Reject),
    /// Answered, and the answer forgotten.
    Done,
}

impl IngressStatus {
    pub fn result(&self) -> Option<Result<Vec<u8>, Reject>> {
        match self {
            IngressStatus::Replied(bytes) => Some(Ok(bytes.clone())),
            IngressStatus::Rejected(reject) => Some(Err(reject.clone())),
            _ => None,
        }
    }

    pub fn is_answered(&self) -> bool {
        !matches!(self, IngressStatus::Received | IngressStatus::Processing)
    }

    fn bytes(&self) -> usize {
        match self {
            IngressStatus::Replied(bytes) => bytes.len(),
            IngressStatus::Rejected(reject) => reject.message.len(),
            _ => 0,
        }
    }
}

/// Every ingress message seen, so that none runs twice, and the answers of the latest.
#[derive(Default)]
pub struct IngressHistory {
    pub messages: HashMap<MessageId, Ingress>,
    answered: VecDeque<MessageId>,
    answer_bytes: usize,
    /// So many of the oldest answered ones have no body any more.
    bodies_forgotten: usize,
}

impl IngressHistory {
    pub fn status(&self, id: &MessageId) -> Option<&IngressStatus> {
        self.messages.get(id).map(|ingress| &ingress.status)
    }

    pub fn answer(&mut self, id: &MessageId, result: Result<Vec<u8>, Reject>, now: u64) {
        let Some(ingress) = self.messages.get_mut(id) else {
            return;
        };
        ingress.status = match result {
            Ok(bytes) => IngressStatus::Replied(bytes),
            Err(reject) => IngressStatus::Rejected(reject),
        };
        ingress.answered_at = Some(now);
        self.answer_bytes += ingress.status.bytes();
        self.answered.push_back(*id);
        self.forget(now);
    }

    /// Large answers go first, while their message is still known; old messages go altogether.
    fn forget(&mut self, now: u64) {
        while self.answer_bytes > ANSWER_BYTES_MAX && self.bodies_forgotten < self.answered.len() {
            let oldest = self.answered[self.bodies_forgotten];
            self.bodies_forgotten += 1;
            if let Some(ingress) = self.messages.get_mut(&oldest) {
                self.answer_bytes -= ingress.status.bytes();
                ingress.status = IngressStatus::Done;
            }
        }
        while self.answered.len() > ANSWERED_MAX
            || self.answered.len() > ANSWERED_MIN && self.is_old(&self.answered[0], now)
        {
            let oldest = self.answered.pop_front().expect("more than some");
            self.bodies_forgotten = self.bodies_forgotten.saturating_sub(1);
            if let Some(ingress) = self.messages.remove(&oldest) {
                self.answer_bytes -= ingress.status.bytes();
            }
        }
    }

    fn is_old(&self, id: &MessageId, now: u64) -> bool {
        let answered_at = self.messages.get(id).and_then(|ingress| ingress.answered_at);
        answered_at.is_none_or(|at| at + ANSWERED_NANOS < now)
    }

    /// What is not answered yet, and the latest answers.
    pub fn worth_saving(&self) -> Vec<(&MessageId, &Ingress)> {
        let mut bytes = 0;
        let is_small = |id: &&MessageId| {
            bytes += self.messages.get(*id).map_or(0, |ingress| ingress.status.bytes());
            bytes <= SAVED_ANSWER_BYTES_MAX
        };
        let latest = self.answered.iter().rev().take(SAVED_ANSWERS_MAX).take_while(is_small);
        let answered = latest.filter_map(|id| self.messages.get_key_value(id));
        let open = self.messages.iter().filter(|(_, ingress)| !ingress.status.is_answered());
        open.chain(answered).collect()
    }

    /// Takes up the messages of a saved state.
    pub fn restore(messages: Vec<(MessageId, Ingress)>) -> IngressHistory {
        let mut answered: Vec<_> =
            messages.iter().filter_map(|(id, ingress)| Some((ingress.answered_at?, *id))).collect();
        answered.sort_unstable();
        IngressHistory {
            answer_bytes: messages.iter().map(|(_, m)| m.status.bytes()).sum(),
            messages: messages.into_iter().collect(),
            answered: answered.into_iter().map(|(_, id)| id).collect(),
            bodies_forgotten: 0,
        }
    }
}

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

impl Ic {
    pub fn new(runner: Arc<Runner>, subnets: Subnets, time: u64) -> Ic {
        let root = &subnets.root().authority.keys;
        Ic {
            runner,
            root_key: Arc::new(root.der.clone()),
            random: root.node.as_slice()[..29]
                .iter()
                .chain(&[0; 3])
                .copied()
                .collect::<Vec<u8>>()
                .try_into()
                .expect("32 bytes"),
            subnets,
            time,
            is_time_set: true,
            canisters: BTreeMap::new(),
            queue: VecDeque::new(),
            ingress: IngressHistory::default(),
            contexts: BTreeMap::new(),
            outcalls: BTreeMap::new(),
            next_number: 1,
            compiled: BTreeSet::new(),
            low_on_memory: Vec::new(),
            journal: Journal::default(),
        }
    }

    pub fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Deterministic, so that a failing test fails again.
    pub fn random_bytes(&mut self) -> [u8; 32] {
        self.random = Sha256::digest(self.random).into();
        Sha256::digest([&self.random[..], b"output"].concat()).into()
    }

    pub fn canister(&self, id: Principal) -> Result<&Canister, Reject> {
        self.canisters.get(&id).ok_or_else(|| Reject::canister_not_found(id))
    }

    pub fn canister_mut(&mut self, id: Principal) -> Result<&mut Canister, Reject> {
        self.canisters.get_mut(&id).ok_or_else(|| Reject::canister_not_found(id))
    }

    /// Notices a heap that is nearly full; `canister_on_low_wasm_memory` runs before the next
    /// message.
    pub fn watch_memory(&mut self, id: Principal) {
        if self.canisters.get_mut(&id).is_some_and(Canister::watch_memory) {
            self.low_on_memory.push(id);
        }
    }

    /// The subnet of an existing canister.
    pub fn subnet_of(&self, canister: Principal) -> &Subnet {
        let index = self.subnets.of_canister(canister);
        &self.subnets.all[index.expect("canisters are created in a subnet's range")]
    }

    pub fn prices_of(&self, canister: Principal) -> Prices {
        self.subnet_of(canister).prices()
    }

    pub fn env(&self, canister: &Canister) -> Env {
        let subnet = self.subnet_of(canister.id);
        let prices = subnet.prices();
        let variables = &canister.settings.environment_variables;
        let limit = canister.settings.wasm_memory_limit;
        Env {
            canister: canister.id,
            subnet: subnet.id(),
            time: self.time,
            version: canister.version,
            status: canister.status_number(),
            controllers: Arc::new(canister.settings.controllers.clone()),
            variables: Arc::new(
                variables.iter().map(|v| (v.name.clone(), v.value.clone())).collect(),
            ),
            cycles: canister.cycles,
            occupied: canister.occupied(),
            freezing_seconds: canister.settings.freezing_threshold,
            root_key: Arc::clone(&self.root_key),
            prices,
            timer: canister.timer,
            certificate: None,
            heap_bytes_max: if limit == 0 { u64::MAX } else { limit },
            log_bytes_max: canister.settings.log_memory_limit as usize,
        }
    }

    /// The certificate of the canister's data at this moment, shared by all queries of it.
    pub fn data_certificate(&self, canister: &Canister) -> Arc<DataCertificate> {
        let mut cached = canister.body.certificate.lock().unwrap();
        if let Some(certificate) = &*cached
            && certificate.is_of(&canister.certified_data, self.time)
        {
            return Arc::clone(certificate);
        }
        let certificate = Arc::new(DataCertificate::new(
            Arc::clone(&self.subnet_of(canister.id).authority),
            canister.id,
            canister.certified_data.clone(),
            self.time,
        ));
        *cached = Some(Arc::clone(&certificate));
        certificate
    }
}
