//! Which subnets there are, which canister ids are theirs, and what their rules are.

use std::sync::Arc;

use candid::Principal;
use pocket_ic::common::rest::{
    CanisterCyclesCostSchedule, CanisterIdRange, ExtendedSubnetConfigSet, RawPrincipalId,
    SubnetConfig, SubnetInstructionConfig, SubnetKind, SubnetSpec, Topology,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cert::{Authority, Range, SubnetKeys};
use crate::cycles::Prices;
use crate::wasm::costs;

const RANGE_IDS: u64 = 1 << 20;

/// Everything that decides a subnet; its keys follow from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubnetPlan {
    pub kind: SubnetKind,
    pub instructions: SubnetInstructionConfig,
    pub admins: Option<Vec<RawPrincipalId>>,
    pub schedule: CanisterCyclesCostSchedule,
    pub ranges: Vec<Range>,
    /// Where new canisters get their ids.
    pub allocation: Range,
    pub canisters_allocated: u64,
}

impl SubnetPlan {
    pub fn seed(&self) -> [u8; 32] {
        let name = format!("local-ic subnet {:?} {:?}", self.kind, self.ranges);
        Sha256::digest(name).into()
    }

    pub fn nodes(&self) -> u32 {
        match self.kind {
            SubnetKind::NNS => 40,
            SubnetKind::SNS | SubnetKind::II | SubnetKind::Fiduciary => 34,
            _ => 13,
        }
    }

    pub fn is_system(&self) -> bool {
        use SubnetKind::*;
        matches!(self.kind, NNS | II | Bitcoin | System)
    }

    pub fn type_name(&self) -> &'static str {
        match self.kind {
            SubnetKind::VerifiedApplication => "verified_application",
            SubnetKind::CloudEngine => "cloud_engine",
            _ if self.is_system() => "system",
            _ => "application",
        }
    }

    pub fn contains(&self, canister: Principal) -> bool {
        self.ranges.iter().any(|(first, last)| *first <= canister && canister <= *last)
    }

    fn config(&self) -> SubnetConfig {
        let raw =
            |(start, end): &Range| CanisterIdRange { start: (*start).into(), end: (*end).into() };
        SubnetConfig {
            subnet_kind: self.kind,
            subnet_admins: self.admins.clone(),
            cost_schedule: self.schedule,
            subnet_seed: self.seed(),
            instruction_config: self.instructions.clone(),
            canister_ranges: self.ranges.iter().map(raw).collect(),
        }
    }
}

pub struct Subnet {
    pub plan: SubnetPlan,
    pub authority: Arc<Authority>,
}

impl Subnet {
    pub fn id(&self) -> Principal {
        self.authority.keys.subnet
    }

    pub fn prices(&self) -> Prices {
        let is_free =
            self.plan.is_system() || self.plan.schedule == CanisterCyclesCostSchedule::Free;
        Prices { nodes: self.plan.nodes(), is_free }
    }

    /// A larger envelope is not let in.
    pub fn ingress_bytes_max(&self) -> usize {
        match self.plan.is_system() {
            true => 7 << 19, // 3.5 MiB.
            false => 2 << 20,
        }
    }

    /// The given limit of an application subnet, as it is on this one.
    pub fn instruction_limit(&self, application: u64) -> u64 {
        match self.plan.instructions {
            SubnetInstructionConfig::Benchmarking => costs::BENCHMARK_LIMIT,
            SubnetInstructionConfig::Production if self.plan.is_system() => {
                application * costs::SYSTEM_SUBNET_FACTOR
            }
            SubnetInstructionConfig::Production => application,
        }
    }
}

/// The subnets of an instance, named ones first.
pub struct Subnets {
    pub all: Vec<Subnet>,
    root: usize,
}

impl Subnets {
    pub fn new(plans: Vec<SubnetPlan>) -> Subnets {
        let root = plans.iter().position(|plan| plan.kind == SubnetKind::NNS).unwrap_or(0);
        let keys: Vec<_> =
            plans.iter().map(|plan| Arc::new(SubnetKeys::from_seed(&plan.seed()))).collect();
        let subnet = |(plan, own): (SubnetPlan, &Arc<SubnetKeys>)| Subnet {
            authority: Arc::new(Authority::new(
                Arc::clone(own),
                Arc::clone(&keys[root]),
                plan.ranges.clone(),
            )),
            plan,
        };
        let all = plans.into_iter().zip(&keys).map(subnet).collect();
        Subnets { all, root }
    }

    /// Adds an application subnet that holds this canister id.
    pub fn add_for(&mut self, canister: Principal) -> Option<usize> {
        let first = id_number(canister)? / RANGE_IDS * RANGE_IDS;
        let range = (id_of(first), id_of(first + (RANGE_IDS - 1)));
        let plan = SubnetPlan {
            kind: SubnetKind::Application,
            instructions: SubnetInstructionConfig::Production,
            admins: None,
            schedule: CanisterCyclesCostSchedule::Normal,
            ranges: vec![range],
            allocation: range,
            canisters_allocated: 0,
        };
        let keys = Arc::new(SubnetKeys::from_seed(&plan.seed()));
        let root = Arc::clone(&self.all[self.root].authority.keys);
        let authority = Arc::new(Authority::new(keys, root, plan.ranges.clone()));
        self.all.push(Subnet { plan, authority });
        Some(self.all.len() - 1)
    }

    /// The key everything is delegated from, which clients may ask for if there is an NNS.
    pub fn root_key(&self) -> Option<Vec<u8>> {
        let root = &self.all[self.root];
        (root.plan.kind == SubnetKind::NNS).then(|| root.authority.keys.der.clone())
    }

    pub fn root(&self) -> &Subnet {
        &self.all[self.root]
    }

    pub fn by_id(&self, id: Principal) -> Option<usize> {
        self.all.iter().position(|subnet| subnet.id() == id)
    }

    pub fn of_canister(&self, canister: Principal) -> Option<usize> {
        self.all.iter().position(|subnet| subnet.plan.contains(canister))
    }

    /// Where a canister goes that was not placed anywhere.
    pub fn default(&self) -> usize {
        use SubnetKind::*;
        [Application, VerifiedApplication, System]
            .iter()
            .find_map(|kind| self.all.iter().position(|subnet| subnet.plan.kind == *kind))
            .unwrap_or(0)
    }

    pub fn plans(&self) -> Vec<SubnetPlan> {
        self.all.iter().map(|subnet| subnet.plan.clone()).collect()
    }

    pub fn topology(&self) -> Topology {
        let default = &self.all[self.default()].plan;
        Topology {
            subnet_configs: self
                .all
                .iter()
                .map(|subnet| (subnet.id(), subnet.plan.config()))
                .collect(),
            default_effective_canister_id: default.ranges[0].0.into(),
        }
    }
}

/// The subnets a configuration asks for. Unnamed subnets take their ids from the end of the id
/// space downwards, in order of creation, as on the official server.
pub fn plans(config: &ExtendedSubnetConfigSet) -> Vec<SubnetPlan> {
    let named = [
        (SubnetKind::NNS, &config.nns),
        (SubnetKind::SNS, &config.sns),
        (SubnetKind::II, &config.ii),
        (SubnetKind::Fiduciary, &config.fiduciary),
        (SubnetKind::Bitcoin, &config.bitcoin),
        (SubnetKind::TestThresholdKeys, &config.test_threshold_keys),
    ];
    let unnamed = [
        (SubnetKind::Application, &config.application),
        (SubnetKind::CloudEngine, &config.cloud_engine),
        (SubnetKind::System, &config.system),
        (SubnetKind::VerifiedApplication, &config.verified_application),
    ];
    let named = named.into_iter().filter_map(|(kind, spec)| Some((kind, spec.as_ref()?)));
    let unnamed =
        unnamed.into_iter().flat_map(|(kind, specs)| specs.iter().map(move |spec| (kind, spec)));
    named
        .chain(unnamed)
        .enumerate()
        .map(|(number, (kind, spec))| plan(number as u64, kind, spec))
        .collect()
}

fn plan(number: u64, kind: SubnetKind, spec: &SubnetSpec) -> SubnetPlan {
    let first = ((1 << 44) - 2 - number) * RANGE_IDS;
    let allocation = (id_of(first), id_of(first + (RANGE_IDS - 1)));
    let mut ranges = mainnet_ranges(kind);
    ranges.push(allocation);
    SubnetPlan {
        kind,
        instructions: spec.get_instruction_config(),
        admins: spec
            .get_subnet_admins()
            .map(|admins| admins.into_iter().map(RawPrincipalId::from).collect()),
        schedule: spec.get_cost_schedule(),
        ranges,
        allocation,
        canisters_allocated: 0,
    }
}

fn mainnet_ranges(kind: SubnetKind) -> Vec<Range> {
    let texts: &[(&str, &str)] = match kind {
        SubnetKind::NNS => &[
            ("rwlgt-iiaaa-aaaaa-aaaaa-cai", "renrk-eyaaa-aaaaa-aaada-cai"),
            ("qoctq-giaaa-aaaaa-aaaea-cai", "n5n4y-3aaaa-aaaaa-p777q-cai"),
        ],
        SubnetKind::II => &[
            ("rdmx6-jaaaa-aaaaa-aaadq-cai", "rdmx6-jaaaa-aaaaa-aaadq-cai"),
            ("uc7f6-kaaaa-aaaaq-qaaaa-cai", "ijz7v-ziaaa-aaaaq-7777q-cai"),
        ],
        SubnetKind::Bitcoin => &[("g3wsl-eqaaa-aaaan-aaaaa-cai", "2qqia-xyaaa-aaaan-p777q-cai")],
        SubnetKind::Fiduciary => &[("mf7xa-laaaa-aaaar-qaaaa-cai", "qoznl-yiaaa-aaaar-7777q-cai")],
        SubnetKind::SNS => &[("ybpmr-kqaaa-aaaaq-aaaaa-cai", "ekjw2-zyaaa-aaaaq-p777q-cai")],
        _ => &[],
    };
    let id = |text: &str| Principal::from_text(text).expect("a literal");
    texts.iter().map(|(first, last)| (id(first), id(last))).collect()
}

/// A canister id is its number, big-endian, and two bytes that say what it is.
pub fn id_of(number: u64) -> Principal {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..].copy_from_slice(&[1, 1]);
    Principal::from_slice(&bytes)
}

pub fn id_number(id: Principal) -> Option<u64> {
    let bytes = id.as_slice();
    if bytes.len() != 10 || bytes[8..] != [1, 1] {
        return None;
    }
    Some(u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets() -> Subnets {
        Subnets::new(plans(&ExtendedSubnetConfigSet {
            nns: Some(SubnetSpec::default()),
            application: vec![SubnetSpec::default()],
            ..Default::default()
        }))
    }

    #[test]
    fn ids_are_those_of_the_official_server() {
        let subnets = subnets();
        let default = &subnets.all[subnets.default()];
        assert_eq!(default.plan.allocation.0.to_text(), "7tjcv-pp777-77776-qaaaa-cai");
        assert!(subnets.all[0].plan.contains(id_of(0)));
        assert!(!subnets.all[0].plan.contains(id_of(7)), "that one is Internet Identity's");
    }

    #[test]
    fn an_id_outside_every_range_gets_a_subnet() {
        let mut subnets = subnets();
        let id = id_of(99 << 20);
        assert_eq!(subnets.of_canister(id), None);
        let added = subnets.add_for(id).unwrap();
        assert_eq!(subnets.of_canister(id), Some(added));
    }
}
