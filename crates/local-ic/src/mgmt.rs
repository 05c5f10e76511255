//! The management canister, `aaaaa-aa`: creating, installing, stopping, asking.

use candid::{CandidType, Nat, Principal};
use ic_management_canister_types::*;
use pocket_ic::ErrorCode;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::canister::{Body, Canister, Log, Settings, Status};
use crate::errors::Reject;
use crate::ic::Ic;
use crate::install::Install;
use crate::message::{Call, IngressCall, Query};
use crate::topology::{id_number, id_of};
use crate::wasm::prepare::Visibility;

const CYCLES_DEFAULT: u128 = 100_000_000_000_000;
const CONTROLLERS_MAX: usize = 10;
const VARIABLES_MAX: usize = 20;
const VARIABLE_BYTES_MAX: usize = 128;
const CHUNK_BYTES_MAX: usize = 1 << 20;
const CHUNKS_MAX: usize = 100;
const HISTORY_MAX: usize = 20;
const LOG_LIMIT_MAX: u64 = 2 << 20;

type Result<T> = std::result::Result<T, Reject>;

/// What became of a call.
enum Done {
    Reply(Vec<u8>),
    /// A reply, and so many of the call's cycles were taken.
    ReplyAndTake(Vec<u8>, u128),
    /// The answer comes from elsewhere.
    Later,
}

/// The candid encoding of no values.
pub fn unit() -> Vec<u8> {
    candid::encode_args(()).expect("no values")
}

fn encode(value: impl CandidType) -> Result<Done> {
    let bytes = candid::encode_one(value).map_err(Reject::invalid_payload)?;
    Ok(Done::Reply(bytes))
}

fn nothing() -> Result<Done> {
    Ok(Done::Reply(unit()))
}

fn decode<T: CandidType + for<'a> Deserialize<'a>>(arg: &[u8]) -> Result<T> {
    candid::decode_one(arg).map_err(Reject::invalid_payload)
}

/// A subnet's own id addresses the management canister of that subnet.
pub fn is_management(ic: &Ic, callee: Principal) -> bool {
    callee == Principal::management_canister() || ic.subnets.by_id(callee).is_some()
}

/// The canister that a call of this method is about.
pub fn target(method: &str, arg: &[u8]) -> Result<Option<Principal>> {
    match method {
        "create_canister"
        | "provisional_create_canister_with_cycles"
        | "raw_rand"
        | "http_request" => Ok(None),
        "install_chunked_code" => {
            #[derive(CandidType, Deserialize)]
            struct Target {
                target_canister: Principal,
            }
            Ok(Some(decode::<Target>(arg)?.target_canister))
        }
        _ => Ok(Some(decode::<CanisterIdRecord>(arg)?.canister_id)),
    }
}

pub fn only_controllers(canister: &Canister, caller: Principal, method: &str) -> Result<()> {
    if canister.is_controller(caller) || canister.id == caller {
        return Ok(());
    }
    Err(Reject::new(
        ErrorCode::CanisterInvalidController,
        format!("Only controllers of canister {} can call ic00 method {method}", canister.id),
    ))
}

fn only_canisters(method: &str) -> Reject {
    Reject::new(
        ErrorCode::CanisterRejectedMessage,
        format!("Management canister method '{method}' can only be called by canisters"),
    )
}

fn unknown_method(method: &str) -> Reject {
    Reject::new(
        ErrorCode::CanisterMethodNotFound,
        format!("Management canister has no method '{method}'"),
    )
}

fn unsupported(method: &str) -> bool {
    const PREFIXES: [&str; 10] = [
        "ecdsa_",
        "schnorr_",
        "sign_with_",
        "vetkd_",
        "bitcoin_",
        "node_metrics",
        "subnet_",
        "rename_canister",
        "flexible_http",
        "upload_canister_snapshot_",
    ];
    PREFIXES.iter().any(|p| method.starts_with(p))
}

impl Ic {
    /// Whether a call from outside is let in, and which canister pays for it.
    pub fn check_management_ingress(&self, call: &IngressCall) -> Result<Option<Principal>> {
        let method = call.method.as_str();
        match method {
            "create_canister" | "raw_rand" | "http_request" | "deposit_cycles"
            | "canister_info" => Err(only_canisters(method)),
            "provisional_create_canister_with_cycles" | "provisional_top_up_canister" => Ok(None),
            _ if unsupported(method) => Err(Reject::not_supported(method)),
            "install_code"
            | "install_chunked_code"
            | "uninstall_code"
            | "update_settings"
            | "start_canister"
            | "stop_canister"
            | "delete_canister"
            | "upload_chunk"
            | "stored_chunks"
            | "clear_chunk_store"
            | "take_canister_snapshot"
            | "load_canister_snapshot"
            | "delete_canister_snapshot" => {
                let canister = self.target_canister(call)?;
                only_controllers(canister, call.sender, method)?;
                Ok(Some(canister.id))
            }
            "canister_status" => {
                let canister = self.target_canister(call)?;
                may_see_status(canister, call.sender)?;
                Ok(Some(canister.id))
            }
            "fetch_canister_logs"
            | "canister_metadata"
            | "list_canister_snapshots"
            | "read_canister_snapshot_metadata"
            | "read_canister_snapshot_data" => Ok(Some(self.target_canister(call)?.id)),
            _ => Err(unknown_method(method)),
        }
    }

    fn target_canister(&self, call: &IngressCall) -> Result<&Canister> {
        let id = target(&call.method, &call.arg)?.expect("these methods are about a canister");
        self.canister(id)
    }

    /// Executes a call and answers it, now or later.
    pub fn manage(&mut self, call: Call, subnet: usize) {
        match self.run_management(&call, subnet) {
            Ok(Done::Reply(bytes)) => self.answer(&call.origin, Ok(bytes), call.cycles),
            Ok(Done::ReplyAndTake(bytes, taken)) => {
                self.answer(&call.origin, Ok(bytes), call.cycles - taken);
            }
            Ok(Done::Later) => {}
            Err(reject) => self.answer(&call.origin, Err(reject), call.cycles),
        }
    }

    fn run_management(&mut self, call: &Call, subnet: usize) -> Result<Done> {
        let (caller, arg) = (call.caller, call.arg.as_slice());
        match call.method.as_str() {
            "create_canister" => self.create_canister(call, subnet),
            "provisional_create_canister_with_cycles" => {
                self.provisional_create(caller, decode(arg)?, subnet)
            }
            "provisional_top_up_canister" => self.provisional_top_up(decode(arg)?),
            "install_code" => self.install_code(caller, decode(arg)?),
            "install_chunked_code" => self.install_chunked_code(caller, decode(arg)?),
            "uninstall_code" => self.uninstall_code(caller, decode(arg)?),
            "update_settings" => self.update_settings(caller, decode(arg)?),
            "canister_status" => self.canister_status(caller, decode(arg)?),
            "start_canister" => self.start_canister(caller, decode(arg)?),
            "stop_canister" => self.stop_canister(call, decode(arg)?),
            "delete_canister" => self.delete_canister(caller, decode(arg)?),
            "upload_chunk" => self.upload_chunk(caller, decode(arg)?),
            "stored_chunks" => self.stored_chunks(caller, decode(arg)?),
            "clear_chunk_store" => self.clear_chunk_store(caller, decode(arg)?),
            "deposit_cycles" => self.deposit_cycles(call, decode(arg)?),
            "raw_rand" => encode(serde_bytes::ByteBuf::from(self.random_bytes())),
            "canister_info" => self.canister_info(decode(arg)?),
            "canister_metadata" => self.canister_metadata(caller, decode(arg)?),
            "fetch_canister_logs" => self.fetch_canister_logs(caller, decode(arg)?),
            "take_canister_snapshot" => encode(self.take_snapshot(caller, decode(arg)?)?),
            "load_canister_snapshot" => {
                self.load_snapshot(caller, decode(arg)?)?;
                nothing()
            }
            "list_canister_snapshots" => self.list_canister_snapshots(caller, decode(arg)?),
            "delete_canister_snapshot" => {
                self.delete_snapshot(caller, decode(arg)?)?;
                nothing()
            }
            "read_canister_snapshot_metadata" => {
                encode(self.read_snapshot_metadata(caller, decode(arg)?)?)
            }
            "read_canister_snapshot_data" => encode(self.read_snapshot_data(caller, decode(arg)?)?),
            "http_request" => {
                let args = decode(arg)?;
                self.start_outcall(call, args)?;
                Ok(Done::Later)
            }
            method if unsupported(method) => Err(Reject::not_supported(method)),
            method => Err(unknown_method(method)),
        }
    }

    /// Methods of the management canister that can be queried.
    pub fn management_query(&self, query: &Query<'_>) -> Result<Vec<u8>> {
        let (caller, arg) = (query.sender, query.arg.as_slice());
        let done = match query.method {
            "fetch_canister_logs" => self.fetch_canister_logs(caller, decode(arg)?),
            "canister_status" => self.canister_status(caller, decode(arg)?),
            "canister_metadata" => self.canister_metadata(caller, decode(arg)?),
            "list_canister_snapshots" => self.list_canister_snapshots(caller, decode(arg)?),
            method if unsupported(method) => Err(Reject::not_supported(method)),
            method => Err(Reject::new(
                ErrorCode::CanisterMethodNotFound,
                format!("Query method {method} not found."),
            )),
        }?;
        match done {
            Done::Reply(bytes) | Done::ReplyAndTake(bytes, _) => Ok(bytes),
            Done::Later => unreachable!("queries answer at once"),
        }
    }

    fn create_canister(&mut self, call: &Call, subnet: usize) -> Result<Done> {
        let args: CreateCanisterArgs = decode(&call.arg)?;
        let fee = self.subnets.all[subnet].prices().create_canister();
        let Some(cycles) = call.cycles.checked_sub(fee) else {
            return Err(Reject::new(
                ErrorCode::InsufficientCyclesForCreateCanister,
                format!(
                    "Creating a canister requires a fee of {fee} that is deducted from the canister's initial balance but only {} cycles were received with the create_canister request.",
                    call.cycles
                ),
            ));
        };
        let canister_id = self.new_canister(call.caller, args.settings, cycles, None, subnet)?;
        let reply = candid::encode_one(CanisterIdRecord { canister_id }).expect("plain data");
        Ok(Done::ReplyAndTake(reply, call.cycles))
    }

    fn provisional_create(
        &mut self,
        caller: Principal,
        args: ProvisionalCreateCanisterWithCyclesArgs,
        subnet: usize,
    ) -> Result<Done> {
        let cycles = match args.amount {
            Some(amount) => number128(&amount, "amount")?,
            None => CYCLES_DEFAULT,
        };
        let canister_id =
            self.new_canister(caller, args.settings, cycles, args.specified_id, subnet)?;
        encode(CanisterIdRecord { canister_id })
    }

    fn provisional_top_up(&mut self, args: ProvisionalTopUpCanisterArgs) -> Result<Done> {
        let amount = number128(&args.amount, "amount")?;
        self.canister_mut(args.canister_id)?.cycles += amount;
        nothing()
    }

    pub fn new_canister(
        &mut self,
        controller: Principal,
        settings: Option<CanisterSettings>,
        cycles: u128,
        specified: Option<Principal>,
        subnet: usize,
    ) -> Result<Principal> {
        let mut applied = Settings::of_controller(controller);
        apply(&mut applied, settings.unwrap_or_default())?;
        let id = match specified {
            Some(id) => self.specified_id(id)?,
            None => self.allocate_id(subnet)?,
        };
        let controllers = applied.controllers.clone();
        let canister = Canister {
            id,
            settings: applied,
            status: Status::Running,
            cycles,
            version: 0,
            certified_data: Vec::new(),
            timer: None,
            low_memory: Default::default(),
            globals: None,
            callbacks: Default::default(),
            log: Log::default(),
            history: Vec::new(),
            changes: 0,
            charged_until: self.time,
            snapshots: Default::default(),
            body: Body::default(),
        };
        self.canisters.insert(id, canister);
        let details = ChangeDetails::Creation(CreationRecord {
            controllers,
            environment_variables_hash: None,
        });
        self.record_change(id, controller, details);
        Ok(id)
    }

    fn specified_id(&mut self, id: Principal) -> Result<Principal> {
        if self.canisters.contains_key(&id) {
            return Err(Reject::new(
                ErrorCode::CanisterIdAlreadyExists,
                format!("Canister {id} is already installed"),
            ));
        }
        if self.subnets.of_canister(id).is_none() {
            return Err(Reject::new(
                ErrorCode::CanisterNotHostedBySubnet,
                format!("The specified_id {id} is invalid because it belongs to no subnet"),
            ));
        }
        Ok(id)
    }

    fn allocate_id(&mut self, subnet: usize) -> Result<Principal> {
        let plan = &mut self.subnets.all[subnet].plan;
        let first = id_number(plan.allocation.0).expect("made by id_of");
        loop {
            let id = id_of(first + plan.canisters_allocated);
            if !plan.contains(id) {
                return Err(Reject::new(
                    ErrorCode::SubnetOversubscribed,
                    "No more canister ids are left on this subnet",
                ));
            }
            plan.canisters_allocated += 1;
            if !self.canisters.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    fn install_code(&mut self, caller: Principal, args: InstallCodeArgs) -> Result<Done> {
        only_controllers(self.canister(args.canister_id)?, caller, "install_code")?;
        self.install(Install {
            caller,
            canister: args.canister_id,
            mode: args.mode,
            wasm: args.wasm_module,
            arg: args.arg,
        })?;
        nothing()
    }

    fn install_chunked_code(
        &mut self,
        caller: Principal,
        args: InstallChunkedCodeArgs,
    ) -> Result<Done> {
        let target = self.canister(args.target_canister)?;
        only_controllers(target, caller, "install_chunked_code")?;
        let store = self.canister(args.store_canister.unwrap_or(args.target_canister))?;
        only_controllers(store, caller, "install_chunked_code")?;
        let mut wasm = Vec::new();
        for ChunkHash { hash } in &args.chunk_hashes_list {
            let chunk = <[u8; 32]>::try_from(hash.as_slice())
                .ok()
                .and_then(|hash| store.body.chunks.get(&hash));
            let Some(chunk) = chunk else {
                let why = format!(
                    "Error from Wasm chunk store: Chunk hash {} was not found",
                    hex::encode(hash)
                );
                return Err(Reject::new(ErrorCode::CanisterRejectedMessage, why));
            };
            wasm.extend_from_slice(chunk);
        }
        if Sha256::digest(&wasm)[..] != args.wasm_module_hash[..] {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                "Error from Wasm chunk store: Wasm module hash does not match the chunks",
            ));
        }
        self.install(Install {
            caller,
            canister: args.target_canister,
            mode: args.mode,
            wasm,
            arg: args.arg,
        })?;
        nothing()
    }

    fn uninstall_code(&mut self, caller: Principal, args: UninstallCodeArgs) -> Result<Done> {
        only_controllers(self.canister(args.canister_id)?, caller, "uninstall_code")?;
        self.uninstall(args.canister_id, "Canister has been uninstalled.");
        self.record_change(args.canister_id, caller, ChangeDetails::CodeUninstall);
        nothing()
    }

    fn update_settings(&mut self, caller: Principal, args: UpdateSettingsArgs) -> Result<Done> {
        let canister = self.canister(args.canister_id)?;
        only_controllers(canister, caller, "update_settings")?;
        let mut settings = canister.settings.clone();
        let changed = args.settings.controllers.clone();
        apply(&mut settings, args.settings)?;
        self.check_allocations(canister, &settings)?;
        let canister = self.canister_mut(args.canister_id)?;
        canister.settings = settings;
        canister.version += 1;
        self.watch_memory(args.canister_id);
        if let Some(controllers) = changed {
            let details = ChangeDetails::ControllersChange(ControllersChangeRecord { controllers });
            self.record_change(args.canister_id, caller, details);
        }
        nothing()
    }

    /// A canister may not reserve what would freeze it.
    fn check_allocations(&self, canister: &Canister, wanted: &Settings) -> Result<()> {
        let (have, prices) = (&canister.settings, self.prices_of(canister.id));
        let freezing = |occupied| prices.freezing(occupied, wanted.freezing_threshold);
        let mut occupied = canister.occupied();
        let check = |occupied, code, what: &str| {
            let needed = freezing(occupied);
            if needed <= canister.cycles {
                return Ok(());
            }
            Err(Reject::new(
                code,
                format!(
                    "Cannot increase {what} allocation due to insufficient cycles. At least {} additional cycles are required.",
                    needed - canister.cycles
                ),
            ))
        };
        if wanted.compute_allocation > have.compute_allocation {
            occupied.compute_percent = wanted.compute_allocation;
            check(occupied, ErrorCode::InsufficientCyclesInComputeAllocation, "compute")?;
        }
        if wanted.memory_allocation > have.memory_allocation {
            occupied.memory_allocation = wanted.memory_allocation;
            check(occupied, ErrorCode::InsufficientCyclesInMemoryAllocation, "memory")?;
        }
        Ok(())
    }

    fn canister_status(&self, caller: Principal, args: CanisterIdRecord) -> Result<Done> {
        let canister = self.canister(args.canister_id)?;
        may_see_status(canister, caller)?;
        let prices = self.prices_of(canister.id);
        encode(CanisterStatusResult {
            status: match canister.status {
                Status::Running => CanisterStatusType::Running,
                Status::Stopping(_) => CanisterStatusType::Stopping,
                Status::Stopped => CanisterStatusType::Stopped,
            },
            ready_for_migration: false,
            version: canister.version,
            settings: definite(&canister.settings),
            module_hash: module_hash(canister),
            memory_size: canister.memory_bytes().into(),
            memory_metrics: memory_metrics(canister),
            cycles: canister.cycles.into(),
            reserved_cycles: 0u8.into(),
            idle_cycles_burned_per_day: prices.idle_per_day(canister.occupied()).into(),
            query_stats: QueryStats {
                num_calls_total: 0u8.into(),
                num_instructions_total: 0u8.into(),
                request_payload_bytes_total: 0u8.into(),
                response_payload_bytes_total: 0u8.into(),
            },
        })
    }

    fn start_canister(&mut self, caller: Principal, args: CanisterIdRecord) -> Result<Done> {
        let canister = self.canister_mut(args.canister_id)?;
        only_controllers(canister, caller, "start_canister")?;
        canister.version += 1;
        if let Status::Stopping(waiting) = std::mem::replace(&mut canister.status, Status::Running)
        {
            for origin in waiting {
                let reject = Reject::new(
                    ErrorCode::CanisterStoppingCancelled,
                    format!("Canister {}'s stop request was cancelled.", args.canister_id),
                );
                self.answer(&origin, Err(reject), 0);
            }
        }
        nothing()
    }

    fn stop_canister(&mut self, call: &Call, args: CanisterIdRecord) -> Result<Done> {
        let canister = self.canister_mut(args.canister_id)?;
        only_controllers(canister, call.caller, "stop_canister")?;
        match &mut canister.status {
            Status::Stopped => return nothing(),
            Status::Stopping(waiting) => waiting.push(call.origin.clone()),
            Status::Running => {
                canister.version += 1;
                canister.status = Status::Stopping(vec![call.origin.clone()]);
            }
        }
        self.check_stopped(args.canister_id);
        Ok(Done::Later)
    }

    fn delete_canister(&mut self, caller: Principal, args: CanisterIdRecord) -> Result<Done> {
        let id = args.canister_id;
        let canister = self.canister(id)?;
        only_controllers(canister, caller, "delete_canister")?;
        if id == caller {
            let why = format!("Canister {id} cannot delete itself.");
            return Err(Reject::new(ErrorCode::CanisterInvalidController, why));
        }
        if canister.status != Status::Stopped {
            return Err(Reject::new(
                ErrorCode::CanisterNotStopped,
                format!("Canister {id} must be stopped before it is deleted."),
            ));
        }
        self.canisters.remove(&id);
        nothing()
    }

    fn upload_chunk(&mut self, caller: Principal, args: UploadChunkArgs) -> Result<Done> {
        let canister = self.canister_mut(args.canister_id)?;
        only_controllers(canister, caller, "upload_chunk")?;
        let is_full = canister.body.chunks.len() >= CHUNKS_MAX;
        if args.chunk.len() > CHUNK_BYTES_MAX || is_full {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!(
                    "Error from Wasm chunk store: at most {CHUNKS_MAX} chunks of at most {CHUNK_BYTES_MAX} bytes"
                ),
            ));
        }
        let hash: [u8; 32] = Sha256::digest(&args.chunk).into();
        canister.body.chunks.insert(hash, args.chunk);
        let hash = hash.to_vec();
        encode(ChunkHash { hash })
    }

    fn stored_chunks(&self, caller: Principal, args: CanisterIdRecord) -> Result<Done> {
        let canister = self.canister(args.canister_id)?;
        only_controllers(canister, caller, "stored_chunks")?;
        let chunks = canister.body.chunks.keys();
        encode(chunks.map(|hash| ChunkHash { hash: hash.to_vec() }).collect::<Vec<_>>())
    }

    fn clear_chunk_store(&mut self, caller: Principal, args: CanisterIdRecord) -> Result<Done> {
        let canister = self.canister_mut(args.canister_id)?;
        only_controllers(canister, caller, "clear_chunk_store")?;
        canister.body.chunks.clear();
        nothing()
    }

    fn deposit_cycles(&mut self, call: &Call, args: CanisterIdRecord) -> Result<Done> {
        self.canister_mut(args.canister_id)?.cycles += call.cycles;
        Ok(Done::ReplyAndTake(unit(), call.cycles))
    }

    fn canister_info(&self, args: CanisterInfoArgs) -> Result<Done> {
        let canister = self.canister(args.canister_id)?;
        let wanted = args.num_requested_changes.unwrap_or(0) as usize;
        let skipped = canister.history.len().saturating_sub(wanted);
        encode(CanisterInfoResult {
            total_num_changes: canister.changes,
            recent_changes: canister.history[skipped..].to_vec(),
            module_hash: module_hash(canister),
            controllers: canister.settings.controllers.clone(),
        })
    }

    fn canister_metadata(&self, caller: Principal, args: CanisterMetadataArgs) -> Result<Done> {
        let canister = self.canister(args.canister_id)?;
        let found = canister.code()?.metadata.get(&args.name);
        match found {
            Some((visibility, value))
                if *visibility == Visibility::Public || canister.is_controller(caller) =>
            {
                let value = value.clone();
                encode(CanisterMetadataResult { value })
            }
            _ => Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!("The custom section {} is not found.", args.name),
            )),
        }
    }

    fn fetch_canister_logs(&self, caller: Principal, args: CanisterIdRecord) -> Result<Done> {
        let canister = self.canister(args.canister_id)?;
        let is_allowed = match &canister.settings.log_visibility {
            LogVisibility::Public => true,
            LogVisibility::Controllers => canister.is_controller(caller),
            LogVisibility::AllowedViewers(viewers) => {
                canister.is_controller(caller) || viewers.contains(&caller)
            }
        };
        if !is_allowed {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!("Caller {caller} is not allowed to access canister logs"),
            ));
        }
        let records = canister.log.records.iter().map(|record| CanisterLogRecord {
            idx: record.index,
            timestamp_nanos: record.time,
            content: record.content.clone(),
        });
        encode(FetchCanisterLogsResult { canister_log_records: records.collect() })
    }

    fn list_canister_snapshots(&self, caller: Principal, args: CanisterIdRecord) -> Result<Done> {
        encode(self.list_snapshots(caller, args.canister_id)?)
    }

    /// Adds to the canister's history and makes it a new version.
    pub fn record_change(&mut self, id: Principal, by: Principal, details: ChangeDetails) {
        let origin = match self.canisters.get(&by) {
            Some(canister) => ChangeOrigin::FromCanister(FromCanisterRecord {
                canister_id: by,
                canister_version: Some(canister.version),
            }),
            None => ChangeOrigin::FromUser(FromUserRecord { user_id: by }),
        };
        let time = self.time;
        let canister = self.canisters.get_mut(&id).expect("checked by the caller");
        canister.version += 1;
        canister.changes += 1;
        canister.history.push(Change {
            timestamp_nanos: time,
            canister_version: canister.version,
            origin,
            details: Some(details),
        });
        if canister.history.len() > HISTORY_MAX {
            canister.history.remove(0);
        }
    }
}

fn may_see_status(canister: &Canister, caller: Principal) -> Result<()> {
    match &canister.settings.status_visibility {
        StatusVisibility::Public => Ok(()),
        StatusVisibility::AllowedViewers(viewers) if viewers.contains(&caller) => Ok(()),
        _ => only_controllers(canister, caller, "canister_status"),
    }
}

fn module_hash(canister: &Canister) -> Option<Vec<u8>> {
    let code = canister.body.code.as_ref()?;
    Some(code.hash.to_vec())
}

fn memory_metrics(canister: &Canister) -> MemoryMetrics {
    let code = canister.body.code.as_ref();
    MemoryMetrics {
        wasm_memory_size: canister.body.heap.len().into(),
        stable_memory_size: canister.body.stable.len().into(),
        global_memory_size: (canister.globals.as_ref().map_or(0, Vec::len) as u64 * 8).into(),
        wasm_binary_size: code.map_or(0, |code| code.sent.len() as u64).into(),
        custom_sections_size: code.map_or(0, |code| code.custom_section_bytes as u64).into(),
        canister_history_size: 0u8.into(),
        wasm_chunk_store_size: canister.body.chunk_bytes().into(),
        snapshots_size: canister.snapshots.bytes().into(),
        log_memory_store_size: (canister.log.bytes() as u64).into(),
    }
}

fn definite(settings: &Settings) -> DefiniteCanisterSettings {
    DefiniteCanisterSettings {
        controllers: settings.controllers.clone(),
        compute_allocation: settings.compute_allocation.into(),
        memory_allocation: settings.memory_allocation.into(),
        freezing_threshold: settings.freezing_threshold.into(),
        reserved_cycles_limit: settings.reserved_cycles_limit.into(),
        minimum_incoming_canister_call_cycles: settings
            .minimum_incoming_canister_call_cycles
            .into(),
        log_visibility: settings.log_visibility.clone(),
        log_memory_limit: settings.log_memory_limit.into(),
        snapshot_visibility: settings.snapshot_visibility.clone(),
        status_visibility: settings.status_visibility.clone(),
        wasm_memory_limit: settings.wasm_memory_limit.into(),
        wasm_memory_threshold: settings.wasm_memory_threshold.into(),
        environment_variables: settings.environment_variables.clone(),
    }
}

fn apply(settings: &mut Settings, wanted: CanisterSettings) -> Result<()> {
    if let Some(controllers) = wanted.controllers {
        if controllers.len() > CONTROLLERS_MAX {
            return Err(Reject::invalid_payload(format!(
                "The number of elements exceeds maximum allowed {CONTROLLERS_MAX}"
            )));
        }
        settings.controllers = controllers;
    }
    set(&mut settings.compute_allocation, wanted.compute_allocation, 100, "ComputeAllocation")?;
    set(&mut settings.memory_allocation, wanted.memory_allocation, 1 << 48, "MemoryAllocation")?;
    set(
        &mut settings.freezing_threshold,
        wanted.freezing_threshold,
        u64::MAX,
        "FreezingThreshold",
    )?;
    set(&mut settings.wasm_memory_limit, wanted.wasm_memory_limit, 1 << 48, "WasmMemoryLimit")?;
    set(
        &mut settings.wasm_memory_threshold,
        wanted.wasm_memory_threshold,
        u64::MAX,
        "WasmMemoryThreshold",
    )?;
    set(&mut settings.log_memory_limit, wanted.log_memory_limit, LOG_LIMIT_MAX, "LogMemoryLimit")?;
    if let Some(limit) = wanted.reserved_cycles_limit {
        settings.reserved_cycles_limit = number128(&limit, "ReservedCyclesLimit")?;
    }
    if let Some(cycles) = wanted.minimum_incoming_canister_call_cycles {
        settings.minimum_incoming_canister_call_cycles = number128(&cycles, "Cycles")?;
    }
    if let Some(visibility) = wanted.log_visibility {
        settings.log_visibility = visibility;
    }
    if let Some(visibility) = wanted.snapshot_visibility {
        settings.snapshot_visibility = visibility;
    }
    if let Some(visibility) = wanted.status_visibility {
        settings.status_visibility = visibility;
    }
    if let Some(variables) = wanted.environment_variables {
        check_variables(&variables)?;
        settings.environment_variables = variables;
    }
    Ok(())
}

fn check_variables(variables: &[EnvironmentVariable]) -> Result<()> {
    let is_long = |v: &EnvironmentVariable| {
        v.name.len() > VARIABLE_BYTES_MAX || v.value.len() > VARIABLE_BYTES_MAX
    };
    if variables.len() > VARIABLES_MAX || variables.iter().any(is_long) {
        return Err(Reject::invalid_payload(format!(
            "at most {VARIABLES_MAX} environment variables of at most {VARIABLE_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn set(field: &mut u64, wanted: Option<Nat>, max: u64, name: &str) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    match u64::try_from(&wanted.0) {
        Ok(value) if value <= max => {
            *field = value;
            Ok(())
        }
        _ => Err(Reject::invalid_payload(format!(
            "{name} expected to be in the range [0..{max}], got {wanted}"
        ))),
    }
}

fn number128(number: &Nat, name: &str) -> Result<u128> {
    u128::try_from(&number.0)
        .map_err(|_| Reject::invalid_payload(format!("{name} does not fit 128 bits")))
}

/// Where a call to the management canister belongs when its sender did not say.
pub fn subnet_for(ic: &Ic, method: &str, arg: &[u8]) -> usize {
    target(method, arg)
        .ok()
        .flatten()
        .and_then(|id| ic.subnets.of_canister(id))
        .unwrap_or_else(|| ic.subnets.default())
}
