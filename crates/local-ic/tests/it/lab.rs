//! An instance without a server around it: to run one entry point, in any mode, and look at all
//! that comes of it.

use std::sync::{Arc, OnceLock};

use candid::Principal;
use ic_management_canister_types::{CanisterInstallMode, CanisterSettings, EnvironmentVariable};
use local_ic::errors::Reject;
use local_ic::ic::{GENESIS_NANOS, Ic};
use local_ic::install::Install;
use local_ic::message::{IngressCall, IngressStatus, MessageId, Query};
use local_ic::topology::{self, SubnetPlan, Subnets};
use local_ic::wasm::Runner;
use local_ic::wasm::host::{Incoming, Mode};
use local_ic::wasm::run::{Entry, Execution, Ran};
use pocket_ic::common::rest::{ExtendedSubnetConfigSet, SubnetSpec};
use sha2::{Digest, Sha256};

pub const CYCLES: u128 = 100_000_000_000_000;
/// How large calls from outside are taken to be; they are paid for by the byte.
pub const ENVELOPE_BYTES: usize = 100;
pub const LIMIT: u64 = 1_000_000_000;

/// An instance with one canister, on an application subnet.
pub struct Lab {
    pub ic: Ic,
    pub canister: Principal,
}

pub fn runner() -> Arc<Runner> {
    static RUNNER: OnceLock<Arc<Runner>> = OnceLock::new();
    Arc::clone(RUNNER.get_or_init(|| Arc::new(Runner::new(None).unwrap())))
}

pub fn plans() -> Vec<SubnetPlan> {
    topology::plans(&ExtendedSubnetConfigSet {
        nns: Some(SubnetSpec::default()),
        application: vec![SubnetSpec::default()],
        ..Default::default()
    })
}

impl Lab {
    pub fn new(wat: &str) -> Lab {
        let mut ic = Ic::new(runner(), Subnets::new(plans()), GENESIS_NANOS);
        let subnet = ic.subnets.default();
        let variable = EnvironmentVariable { name: "v".to_owned(), value: "worth".to_owned() };
        let settings =
            CanisterSettings { environment_variables: Some(vec![variable]), ..Default::default() };
        let controller = Principal::anonymous();
        let canister = ic.new_canister(controller, Some(settings), CYCLES, None, subnet).unwrap();
        let mut lab = Lab { ic, canister };
        let wasm = wat::parse_str(wat).unwrap();
        lab.install(canister, CanisterInstallMode::Install, &wasm, &[]).unwrap();
        lab
    }

    /// Runs an exported function as if it were the entry point of that mode; changes nothing.
    pub fn run(&self, mode: Mode, export: &str, incoming: Incoming) -> Ran {
        self.execute(mode, export, incoming, LIMIT, false)
    }

    /// The same for an update that is charged for the pages it changes.
    pub fn measure(&self, export: &str, limit: u64) -> Ran {
        self.execute(Mode::Update, export, Incoming::default(), limit, true)
    }

    fn execute(
        &self,
        mode: Mode,
        export: &str,
        incoming: Incoming,
        instruction_limit: u64,
        keep: bool,
    ) -> Ran {
        let canister = self.ic.canister(self.canister).unwrap();
        let mut env = self.ic.env(canister);
        env.certificate = Some(self.ic.data_certificate(canister));
        self.ic.runner.run(Execution {
            code: canister.code().unwrap(),
            mode,
            entry: Entry::Export(export.to_owned()),
            env,
            incoming,
            machine: canister.machine(),
            instruction_limit,
            keep,
        })
    }

    /// A call from outside, and rounds until it is answered.
    pub fn call(
        &mut self,
        canister: Principal,
        method: &str,
        arg: &[u8],
    ) -> Result<Vec<u8>, Reject> {
        let id: MessageId = Sha256::digest(self.ic.number().to_le_bytes()).into();
        self.ic.submit(IngressCall {
            id,
            sender: Principal::anonymous(),
            canister,
            method: method.to_owned(),
            arg: arg.to_vec(),
            subnet: self.ic.subnets.default(),
            bytes: ENVELOPE_BYTES,
        })?;
        loop {
            self.ic.round();
            if let Some(result) = self.ic.ingress.status(&id).and_then(IngressStatus::result) {
                return result;
            }
        }
    }

    pub fn query(&self, canister: Principal, method: &str, arg: &[u8]) -> Result<Vec<u8>, Reject> {
        let sender = Principal::anonymous();
        self.ic.query(Query { sender, canister, method, arg: arg.to_vec() })
    }

    /// Another canister on the same subnet.
    pub fn create(&mut self) -> Principal {
        let subnet = self.ic.subnets.default();
        self.ic.new_canister(Principal::anonymous(), None, CYCLES, None, subnet).unwrap()
    }

    pub fn install(
        &mut self,
        canister: Principal,
        mode: CanisterInstallMode,
        wasm: &[u8],
        arg: &[u8],
    ) -> Result<(), Reject> {
        self.ic.install(Install {
            caller: Principal::anonymous(),
            canister,
            mode,
            wasm: wasm.to_vec(),
            arg: arg.to_vec(),
        })
    }
}
