//! Snapshots of canisters: taken, listed, read, loaded and deleted through the management canister.
//!
//! A snapshot is a second [`Body`] with the plain data that belongs to it. Its memories are copies
//! of their own, so neither the canister nor another snapshot can change them.

use candid::{Nat, Principal, Reserved};
use ic_management_canister_types::{
    self as ic00, CanisterTimer, ChangeDetails, ChunkHash, DeleteCanisterSnapshotArgs,
    LoadCanisterSnapshotArgs, LoadSnapshotRecord, OnLowWasmMemoryHookStatus,
    ReadCanisterSnapshotDataArgs, ReadCanisterSnapshotDataResult, ReadCanisterSnapshotMetadataArgs,
    ReadCanisterSnapshotMetadataResult, SnapshotDataKind, SnapshotMetadataGlobal, SnapshotSource,
    SnapshotVisibility, TakeCanisterSnapshotArgs,
};
use pocket_ic::ErrorCode;

use crate::canister::{Body, Canister, LowMemory, Snapshot};
use crate::errors::Reject;
use crate::ic::Ic;
use crate::mem::{Image, StableView};
use crate::mgmt::only_controllers;
use crate::wasm::run::GlobalValue;

const SNAPSHOTS_MAX: usize = 10;
/// As much as fits a reply.
const READ_BYTES_MAX: u64 = 2_000_000;

type Result<T> = std::result::Result<T, Reject>;

impl Snapshot {
    fn of(canister: &Canister, time: u64) -> Result<Snapshot> {
        Ok(Snapshot {
            taken_at: time,
            canister_version: canister.version,
            globals: canister.globals.clone(),
            certified_data: canister.certified_data.clone(),
            timer: canister.timer,
            low_memory: canister.low_memory,
            body: copy(&canister.body)?,
        })
    }

    fn listed(&self, id: Vec<u8>) -> ic00::Snapshot {
        ic00::Snapshot { id, taken_at_timestamp: self.taken_at, total_size: self.bytes() }
    }
}

fn copy(body: &Body) -> Result<Body> {
    let copied = |image: &Image| {
        image.copy().map_err(|e| Reject::new(ErrorCode::CanisterWasmEngineError, e.to_string()))
    };
    Ok(Body {
        code: body.code.clone(),
        heap: copied(&body.heap)?,
        stable: copied(&body.stable)?,
        chunks: body.chunks.clone(),
        ..Default::default()
    })
}

/// A number, and the canister that the snapshot was taken of.
fn id_of(canister: Principal, number: u64) -> Vec<u8> {
    [&number.to_be_bytes(), canister.as_slice()].concat()
}

fn parse(id: &[u8]) -> Option<(Principal, u64)> {
    let (number, canister) = id.split_first_chunk::<8>()?;
    Some((Principal::try_from_slice(canister).ok()?, u64::from_be_bytes(*number)))
}

fn not_found(id: &[u8], canister: Principal) -> Reject {
    Reject::new(
        ErrorCode::CanisterSnapshotNotFound,
        format!("Could not find the snapshot ID {} for canister {canister}.", hex::encode(id)),
    )
}

impl Canister {
    fn snapshot(&self, id: &[u8]) -> Result<(u64, &Snapshot)> {
        parse(id)
            .filter(|(canister, _)| *canister == self.id)
            .and_then(|(_, number)| Some((number, self.snapshots.all.get(&number)?)))
            .ok_or_else(|| not_found(id, self.id))
    }
}

fn may_see(canister: &Canister, caller: Principal, method: &str) -> Result<()> {
    match &canister.settings.snapshot_visibility {
        SnapshotVisibility::Public => Ok(()),
        SnapshotVisibility::AllowedViewers(viewers) if viewers.contains(&caller) => Ok(()),
        _ => only_controllers(canister, caller, method),
    }
}

impl Ic {
    pub fn take_snapshot(
        &mut self,
        caller: Principal,
        args: TakeCanisterSnapshotArgs,
    ) -> Result<ic00::Snapshot> {
        let id = args.canister_id;
        let canister = self.canister(id)?;
        only_controllers(canister, caller, "take_canister_snapshot")?;
        if canister.body.code.is_none() {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!("Failed to create snapshot for empty canister {id}"),
            ));
        }
        let replaced = match &args.replace_snapshot {
            Some(id) => Some(canister.snapshot(id)?.0),
            None => None,
        };
        if replaced.is_none() && canister.snapshots.all.len() >= SNAPSHOTS_MAX {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!(
                    "Canister {id} has reached the maximum number of snapshots allowed: {SNAPSHOTS_MAX}."
                ),
            ));
        }
        self.pay_for_snapshot(id, canister.body.bytes())?;
        let time = self.time;
        let canister = self.canister_mut(id)?;
        let snapshot = Snapshot::of(canister, time)?;
        let number = canister.snapshots.next;
        let listed = snapshot.listed(id_of(id, number));
        canister.snapshots.next += 1;
        canister.snapshots.all.insert(number, snapshot);
        if let Some(replaced) = replaced {
            canister.snapshots.all.remove(&replaced);
        }
        if args.uninstall_code == Some(true) {
            self.uninstall(id, "Canister has been uninstalled.");
            self.record_change(id, caller, ChangeDetails::CodeUninstall);
        }
        Ok(listed)
    }

    /// The snapshot may be another canister's, if the caller controls that one too.
    pub fn load_snapshot(
        &mut self,
        caller: Principal,
        args: LoadCanisterSnapshotArgs,
    ) -> Result<()> {
        let id = args.canister_id;
        let target = self.canister(id)?;
        only_controllers(target, caller, "load_canister_snapshot")?;
        let (owner, _) =
            parse(&args.snapshot_id).ok_or_else(|| not_found(&args.snapshot_id, id))?;
        let source = self.canister(owner).map_err(|_| not_found(&args.snapshot_id, id))?;
        only_controllers(source, caller, "load_canister_snapshot")?;
        let (_, snapshot) = source.snapshot(&args.snapshot_id)?;
        let bytes = snapshot.bytes();
        let details = ChangeDetails::LoadSnapshot(LoadSnapshotRecord {
            from_canister_id: (owner != id).then_some(owner),
            snapshot_id: args.snapshot_id.clone(),
            canister_version: snapshot.canister_version,
            taken_at_timestamp: snapshot.taken_at,
            source: SnapshotSource::TakenFromCanister(Reserved),
        });
        let (globals, certified_data) = (snapshot.globals.clone(), snapshot.certified_data.clone());
        let (timer, low_memory) = (snapshot.timer, snapshot.low_memory);
        let body = copy(&snapshot.body)?;
        self.pay_for_snapshot(id, bytes)?;
        let canister = self.canister_mut(id)?;
        canister.body = body;
        canister.globals = globals;
        canister.certified_data = certified_data;
        canister.timer = timer;
        canister.low_memory = low_memory;
        self.watch_memory(id);
        self.record_change(id, caller, details);
        Ok(())
    }

    pub fn list_snapshots(&self, caller: Principal, id: Principal) -> Result<Vec<ic00::Snapshot>> {
        let canister = self.canister(id)?;
        may_see(canister, caller, "list_canister_snapshots")?;
        let listed = |(number, snapshot): (&u64, &Snapshot)| snapshot.listed(id_of(id, *number));
        Ok(canister.snapshots.all.iter().map(listed).collect())
    }

    pub fn delete_snapshot(
        &mut self,
        caller: Principal,
        args: DeleteCanisterSnapshotArgs,
    ) -> Result<()> {
        let canister = self.canister_mut(args.canister_id)?;
        only_controllers(canister, caller, "delete_canister_snapshot")?;
        let (number, _) = canister.snapshot(&args.snapshot_id)?;
        canister.snapshots.all.remove(&number);
        Ok(())
    }

    pub fn read_snapshot_metadata(
        &self,
        caller: Principal,
        args: ReadCanisterSnapshotMetadataArgs,
    ) -> Result<ReadCanisterSnapshotMetadataResult> {
        let canister = self.canister(args.canister_id)?;
        may_see(canister, caller, "read_canister_snapshot_metadata")?;
        let (_, snapshot) = canister.snapshot(&args.snapshot_id)?;
        let body = &snapshot.body;
        let chunk = |hash: &crate::wasm::Hash| ChunkHash { hash: hash.to_vec() };
        let globals = snapshot.globals.iter().flatten();
        Ok(ReadCanisterSnapshotMetadataResult {
            source: Some(SnapshotSource::TakenFromCanister(Reserved)),
            taken_at_timestamp: snapshot.taken_at,
            wasm_module_size: body.code.as_ref().map_or(0, |code| code.sent.len() as u64),
            globals: globals.map(|global| Some(shown(*global))).collect(),
            wasm_memory_size: body.heap.len(),
            stable_memory_size: body.stable.len(),
            wasm_chunk_store: body.chunks.keys().map(chunk).collect(),
            canister_version: snapshot.canister_version,
            certified_data: snapshot.certified_data.clone(),
            global_timer: Some(match snapshot.timer {
                Some(at) => CanisterTimer::Active(at),
                None => CanisterTimer::Inactive,
            }),
            on_low_wasm_memory_hook_status: Some(match snapshot.low_memory {
                LowMemory::NotSatisfied => OnLowWasmMemoryHookStatus::ConditionNotSatisfied,
                LowMemory::Ready => OnLowWasmMemoryHookStatus::Ready,
                LowMemory::Executed => OnLowWasmMemoryHookStatus::Executed,
            }),
        })
    }

    pub fn read_snapshot_data(
        &self,
        caller: Principal,
        args: ReadCanisterSnapshotDataArgs,
    ) -> Result<ReadCanisterSnapshotDataResult> {
        let canister = self.canister(args.canister_id)?;
        may_see(canister, caller, "read_canister_snapshot_data")?;
        let (_, snapshot) = canister.snapshot(&args.snapshot_id)?;
        let body = &snapshot.body;
        let chunk = match args.kind {
            SnapshotDataKind::WasmModule { offset, size } => {
                let code = body.code.as_ref().map_or(&[][..], |code| &code.sent);
                let range = range(offset, size, code.len() as u64)?;
                code[range.start as usize..range.end as usize].to_vec()
            }
            SnapshotDataKind::WasmMemory { offset, size } => read(&body.heap, offset, size)?,
            SnapshotDataKind::StableMemory { offset, size } => read(&body.stable, offset, size)?,
            SnapshotDataKind::WasmChunk { hash } => <[u8; 32]>::try_from(&hash[..])
                .ok()
                .and_then(|hash| body.chunks.get(&hash))
                .ok_or_else(|| Reject::invalid_payload("no chunk has this hash"))?
                .clone(),
        };
        Ok(ReadCanisterSnapshotDataResult { chunk })
    }

    /// Taking and loading are paid for by the byte.
    fn pay_for_snapshot(&mut self, id: Principal, bytes: u64) -> Result<()> {
        let prices = self.prices_of(id);
        let canister = self.canister_mut(id)?;
        let cost = prices.snapshot(bytes);
        let needed = cost + canister.freezing_cycles(&prices);
        if !prices.is_free && canister.cycles < needed {
            return Err(Reject::out_of_cycles(id, needed - canister.cycles));
        }
        canister.cycles -= cost;
        Ok(())
    }
}

fn shown(global: GlobalValue) -> SnapshotMetadataGlobal {
    match global {
        GlobalValue::I32(v) => SnapshotMetadataGlobal::I32(v),
        GlobalValue::I64(v) => SnapshotMetadataGlobal::I64(v),
        GlobalValue::F32(bits) => SnapshotMetadataGlobal::F32(f32::from_bits(bits)),
        GlobalValue::F64(bits) => SnapshotMetadataGlobal::F64(f64::from_bits(bits)),
        GlobalValue::V128(v) => SnapshotMetadataGlobal::V128(Nat::from(v)),
    }
}

fn range(offset: u64, size: u64, len: u64) -> Result<std::ops::Range<u64>> {
    match offset.checked_add(size) {
        Some(end) if end <= len && size <= READ_BYTES_MAX => Ok(offset..end),
        _ => Err(Reject::invalid_payload(format!(
            "the slice {offset}+{size} is beyond the {len} bytes there are, or beyond {READ_BYTES_MAX}"
        ))),
    }
}

fn read(image: &Image, offset: u64, size: u64) -> Result<Vec<u8>> {
    let range = range(offset, size, image.len())?;
    let mut bytes = vec![0; size as usize];
    StableView::of(image).read(range.start, &mut bytes);
    Ok(bytes)
}
