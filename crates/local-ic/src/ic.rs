//! The state of one instance: its subnets, canisters, and messages on their way.
//!
//! Here is what it is made of and how to find things in it; what happens to it is in `exec`
//! (messages), `query`, `install` and `mgmt` (the management canister).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use candid::Principal;
use sha2::{Digest, Sha256};

use crate::canister::Canister;
use crate::cert::DataCertificate;
use crate::cycles::Prices;
use crate::errors::Reject;
use crate::journal::Journal;
use crate::message::{CallContext, IngressHistory, Message, Outcall};
use crate::topology::{Subnet, Subnets};
use crate::wasm::host::Env;
use crate::wasm::{Hash, Runner};

/// 6 May 2021: the first moment of an instance unless another is asked for.
pub const GENESIS_NANOS: u64 = 1_620_328_630_000_000_000;

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
