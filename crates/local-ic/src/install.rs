//! Installing, reinstalling and upgrading code: all of it takes hold, or none.

use std::sync::Arc;

use candid::Principal;
use ic_management_canister_types::{
    CanisterInstallMode, ChangeDetails, CodeDeploymentMode, CodeDeploymentRecord, UpgradeFlags,
    WasmMemoryPersistence,
};
use pocket_ic::ErrorCode;

use crate::canister::{Canister, LowMemory};
use crate::errors::{Fault, Reject};
use crate::ic::Ic;
use crate::journal::Executed;
use crate::mem::{Image, StableView};
use crate::wasm::Code;
use crate::wasm::costs::INSTALL_LIMIT;
use crate::wasm::host::{Incoming, Mode};
use crate::wasm::run::{Entry, Execution, Machine};

pub struct Install {
    pub caller: Principal,
    pub canister: Principal,
    pub mode: CanisterInstallMode,
    pub wasm: Vec<u8>,
    pub arg: Vec<u8>,
}

/// What the steps of one installation have used and said so far.
struct Progress {
    instructions: u64,
    limit: u64,
    logs: Vec<Vec<u8>>,
    certified_data: Option<Vec<u8>>,
    timer: Option<u64>,
    cycles: u128,
}

impl Ic {
    pub fn install(&mut self, install: Install) -> Result<(), Reject> {
        let id = install.canister;
        let canister = self.canister(id)?;
        check_mode(canister, install.mode)?;
        let code = self.runner.code(&install.wasm).map_err(|why| Reject::invalid_wasm(id, &why))?;
        let compile_cost = self.compile_cost(id, &code);
        let canister = self.canister(id)?;
        let mut progress = Progress {
            instructions: 0,
            limit: self.subnet_of(id).instruction_limit(INSTALL_LIMIT),
            logs: Vec::new(),
            certified_data: None,
            timer: None,
            cycles: canister.cycles,
        };
        let result = self.run_install(canister, &code, &install, &mut progress);

        let time = self.time;
        let charge = self.prices_of(id).execution(progress.instructions) + compile_cost;
        self.journal.push(Executed {
            time,
            canister: id,
            what: format!("install_code, mode {}", mode_name(install.mode)),
            instructions: progress.instructions,
            cycles: charge,
            error: result.as_ref().err().map(|fault| fault.log_text()),
        });
        let canister = self.canister_mut(id)?;
        for content in progress.logs {
            canister.note(time, content);
        }
        let machine = match result {
            Ok(machine) => machine,
            Err(fault) => {
                canister.cycles = canister.cycles.saturating_sub(charge);
                canister.note(time, fault.log_text().into_bytes());
                return Err(fault.reject(id));
            }
        };
        canister.commit(machine);
        canister.cycles = progress.cycles.saturating_sub(charge);
        canister.timer = progress.timer;
        if !matches!(install.mode, CanisterInstallMode::Upgrade(_)) {
            canister.certified_data.clear();
        }
        if let Some(data) = progress.certified_data {
            canister.certified_data = data;
        }
        let details = ChangeDetails::CodeDeployment(CodeDeploymentRecord {
            mode: deployment(install.mode),
            module_hash: code.hash.to_vec(),
        });
        canister.body.code = Some(code);
        canister.low_memory = LowMemory::NotSatisfied;
        self.watch_memory(id);
        self.record_change(id, install.caller, details);
        Ok(())
    }

    /// Compiling is paid for once per module and instance; a hundredth of it afterwards.
    fn compile_cost(&mut self, id: Principal, code: &Code) -> u128 {
        let full = self.prices_of(id).compile(code.operators);
        match self.compiled.insert(code.hash) {
            true => full,
            false => full / 100,
        }
    }

    fn run_install(
        &self,
        canister: &Canister,
        code: &Arc<Code>,
        install: &Install,
        progress: &mut Progress,
    ) -> Result<Machine, Fault> {
        let (stable, method) = match install.mode {
            CanisterInstallMode::Upgrade(flags) => {
                let stable = self.pre_upgrade(canister, install, flags, progress)?;
                (stable, "canister_post_upgrade")
            }
            _ => {
                let empty = Image::stable().map_err(|e| Fault::Engine(e.to_string()))?;
                (StableView::of(&empty), "canister_init")
            }
        };
        let fresh = Machine::fresh(stable).map_err(|e| Fault::Engine(e.to_string()))?;
        let entry = match code.has(method) {
            true => Entry::Export(method.to_owned()),
            false => Entry::Nothing,
        };
        self.step(canister, code, Mode::Init, entry, install, fresh, progress)
    }

    /// The stable memory that the new code starts with.
    fn pre_upgrade(
        &self,
        canister: &Canister,
        install: &Install,
        flags: Option<UpgradeFlags>,
        progress: &mut Progress,
    ) -> Result<StableView, Fault> {
        let old = canister.body.code.as_ref().expect("check_mode saw it");
        let is_skipped = flags.and_then(|f| f.skip_pre_upgrade) == Some(true);
        if is_skipped || !old.has("canister_pre_upgrade") {
            return Ok(StableView::of(&canister.body.stable));
        }
        let entry = Entry::Export("canister_pre_upgrade".to_owned());
        let machine = canister.machine();
        let machine =
            self.step(canister, old, Mode::PreUpgrade, entry, install, machine, progress)?;
        Ok(machine.stable)
    }

    #[allow(clippy::too_many_arguments)] // One step differs from the next in each of them.
    fn step(
        &self,
        canister: &Canister,
        code: &Code,
        mode: Mode,
        entry: Entry,
        install: &Install,
        machine: Machine,
        progress: &mut Progress,
    ) -> Result<Machine, Fault> {
        let mut env = self.env(canister);
        env.cycles = progress.cycles;
        let ran = self.runner.run(Execution {
            code,
            mode,
            entry,
            env,
            incoming: Incoming {
                caller: Some(install.caller),
                arg: Arc::new(install.arg.clone()),
                ..Default::default()
            },
            machine,
            instruction_limit: progress.limit - progress.instructions,
            keep: true,
        });
        progress.instructions += ran.instructions;
        progress.logs.extend(ran.host.logs);
        let machine = ran.result?.expect("kept");
        progress.cycles = ran.host.cycles;
        progress.certified_data = ran.host.certified_data.or(progress.certified_data.take());
        if let Some(at) = ran.host.timer_set {
            progress.timer = (at != 0).then_some(at);
        }
        Ok(machine)
    }
}

fn check_mode(canister: &Canister, mode: CanisterInstallMode) -> Result<(), Reject> {
    match mode {
        CanisterInstallMode::Install if canister.body.code.is_some() => Err(Reject::new(
            ErrorCode::CanisterAlreadyInstalled,
            format!(
                "Canister {} cannot be installed because the canister is not empty. Try installing with mode='reinstall' instead.",
                canister.id
            ),
        )),
        CanisterInstallMode::Upgrade(_) if canister.body.code.is_none() => {
            Err(Reject::no_wasm_module(canister.id))
        }
        CanisterInstallMode::Upgrade(Some(UpgradeFlags {
            wasm_memory_persistence: Some(WasmMemoryPersistence::Keep),
            ..
        })) => Err(Reject::not_supported(
            "upgrades that keep the Wasm memory (enhanced orthogonal persistence)",
        )),
        _ => Ok(()),
    }
}

fn deployment(mode: CanisterInstallMode) -> CodeDeploymentMode {
    match mode {
        CanisterInstallMode::Install => CodeDeploymentMode::Install,
        CanisterInstallMode::Reinstall => CodeDeploymentMode::Reinstall,
        CanisterInstallMode::Upgrade(_) => CodeDeploymentMode::Upgrade,
    }
}

fn mode_name(mode: CanisterInstallMode) -> &'static str {
    match mode {
        CanisterInstallMode::Install => "install",
        CanisterInstallMode::Reinstall => "reinstall",
        CanisterInstallMode::Upgrade(_) => "upgrade",
    }
}
