//! Two canisters against two plain vectors each: whatever happens, a message takes hold as a whole
//! or not at all, and so do upgrades; what was saved comes back.

use ic_management_canister_types::CanisterInstallMode;
use local_ic::save;
use local_ic::wasm::run::GlobalValue;
use proptest::prelude::*;

use candid::Principal;

use crate::lab::{Lab, plans, runner};

const SCRIPTED: &str = include_str!("scripted.wat");
const PAGE: usize = 65536;

#[derive(Clone, Debug)]
enum Op {
    Heap(u32, u8),
    Stable(u32, u8),
    Global(u32),
    GrowHeap,
    GrowStable,
    Trap,
}

#[derive(Clone, Debug)]
enum Step {
    Update(usize, Vec<Op>),
    Query(usize, Vec<Op>),
    /// The first script at home, then the second in the other canister.
    Call(usize, Vec<Op>, Vec<Op>),
    /// With an argument the new code traps.
    Upgrade(usize, bool),
    Reinstall(usize),
    Save,
    /// Everything since the last saving is lost.
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (PAGE as u32..4 * PAGE as u32, any::<u8>()).prop_map(|(at, v)| Op::Heap(at, v)),
        8 => (0..3 * PAGE as u32, any::<u8>()).prop_map(|(at, v)| Op::Stable(at, v)),
        2 => any::<u32>().prop_map(Op::Global),
        1 => Just(Op::GrowHeap),
        2 => Just(Op::GrowStable),
        1 => Just(Op::Trap),
    ]
}

fn script() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..6)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..2usize, script()).prop_map(|(who, ops)| Step::Update(who, ops)),
        3 => (0..2usize, script()).prop_map(|(who, ops)| Step::Query(who, ops)),
        5 => (0..2usize, script(), script()).prop_map(|(who, own, far)| Step::Call(who, own, far)),
        3 => (0..2usize, any::<bool>()).prop_map(|(who, fails)| Step::Upgrade(who, fails)),
        1 => (0..2usize).prop_map(Step::Reinstall),
        2 => Just(Step::Save),
        1 => Just(Step::Reopen),
    ]
}

fn encode(ops: &[Op]) -> Vec<u8> {
    let record = |op: &Op| match *op {
        Op::Heap(at, value) => [0, at, value.into()],
        Op::Stable(at, value) => [1, at, value.into()],
        Op::Global(value) => [2, 0, value],
        Op::GrowHeap => [3, 0, 0],
        Op::GrowStable => [4, 0, 0],
        Op::Trap => [5, 0, 0],
    };
    ops.iter().flat_map(record).flat_map(u32::to_le_bytes).collect()
}

/// A canister as plain memory: a message works on a copy and keeps it if all went well.
#[derive(Clone)]
struct Model {
    heap: Vec<u8>,
    stable: Vec<u8>,
    global: u32,
}

impl Model {
    fn fresh(stable: Vec<u8>) -> Model {
        let mut heap = vec![0; 2 * PAGE];
        heap[60_000..60_006].copy_from_slice(b"script");
        Model { heap, stable, global: 0 }
    }

    fn apply(&mut self, op: &Op) -> Option<()> {
        match *op {
            Op::Heap(at, value) => *self.heap.get_mut(at as usize)? = value,
            Op::Stable(at, value) => *self.stable.get_mut(at as usize)? = value,
            Op::Global(value) => self.global = value,
            Op::GrowHeap => self.heap.resize(self.heap.len() + PAGE, 0),
            Op::GrowStable => self.stable.resize(self.stable.len() + PAGE, 0),
            Op::Trap => return None,
        }
        Some(())
    }

    fn message(&mut self, ops: &[Op]) -> bool {
        let mut next = self.clone();
        let is_done = ops.iter().try_for_each(|op| next.apply(op)).is_some();
        if is_done {
            *self = next;
        }
        is_done
    }

    fn upgrade(&mut self, fails: bool) -> bool {
        let is_done = self.global & 7 != 7 && !fails;
        if is_done {
            *self = Model::fresh(std::mem::take(&mut self.stable));
            self.heap[70_000] = 9;
            if let Some(first) = self.stable.first_mut() {
                *first = 42;
            }
        }
        is_done
    }
}

/// The real thing and its model.
struct Twin {
    lab: Lab,
    ids: [Principal; 2],
    models: [Model; 2],
    saved: Option<[Model; 2]>,
    dir: tempfile::TempDir,
    wasm: Vec<u8>,
}

impl Twin {
    fn new() -> Twin {
        let mut lab = Lab::new(SCRIPTED);
        let wasm = wat::parse_str(SCRIPTED).unwrap();
        let other = lab.create();
        lab.install(other, CanisterInstallMode::Install, &wasm, &[]).unwrap();
        Twin {
            ids: [lab.canister, other],
            lab,
            models: [Model::fresh(vec![]), Model::fresh(vec![])],
            saved: None,
            dir: tempfile::tempdir().unwrap(),
            wasm,
        }
    }

    /// Whether it succeeded, for real and in the model.
    fn step(&mut self, step: &Step) -> (bool, bool) {
        match step {
            Step::Update(who, ops) => (
                self.lab.call(self.ids[*who], "script", &encode(ops)).is_ok(),
                self.models[*who].message(ops),
            ),
            Step::Query(who, ops) => (
                self.lab.query(self.ids[*who], "look", &encode(ops)).is_ok(),
                self.models[*who].clone().message(ops),
            ),
            Step::Call(who, own, far) => {
                let (own_script, callee) = (encode(own), self.ids[1 - who]);
                let len = (own_script.len() as u32).to_le_bytes();
                let arg = [&len, callee.as_slice(), &own_script, &encode(far)].concat();
                let real = self.lab.call(self.ids[*who], "call", &arg).is_ok();
                let model = self.models[*who].message(own);
                if model {
                    self.models[1 - who].message(far); // The caller answers in any case.
                }
                (real, model)
            }
            Step::Upgrade(who, fails) => {
                let arg: &[u8] = if *fails { b"fail" } else { b"" };
                let mode = CanisterInstallMode::Upgrade(None);
                let real = self.lab.install(self.ids[*who], mode, &self.wasm, arg).is_ok();
                (real, self.models[*who].upgrade(*fails))
            }
            Step::Reinstall(who) => {
                let mode = CanisterInstallMode::Reinstall;
                let real = self.lab.install(self.ids[*who], mode, &self.wasm, &[]).is_ok();
                self.models[*who] = Model::fresh(vec![]);
                (real, true)
            }
            Step::Save => {
                self.saved = Some(self.models.clone());
                (save::save(&self.lab.ic, self.dir.path()).is_ok(), true)
            }
            Step::Reopen => {
                if let Some(saved) = &self.saved {
                    self.models = saved.clone();
                    self.lab.ic = save::load(runner(), self.dir.path(), plans()).unwrap();
                }
                (true, true)
            }
        }
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        for (id, model) in self.ids.iter().zip(&self.models) {
            let canister = self.lab.ic.canister(*id).unwrap();
            prop_assert!(canister.body.heap.to_vec() == model.heap);
            prop_assert!(canister.body.stable.to_vec() == model.stable);
            let global = GlobalValue::I32(model.global as i32);
            prop_assert_eq!(canister.globals.as_deref(), Some(&[global][..]));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn messages_upgrades_and_states_take_hold_as_a_whole_or_not_at_all(
        steps in prop::collection::vec(step(), 100..200)
    ) {
        let mut twin = Twin::new();
        for (number, step) in steps.iter().enumerate() {
            let (real, model) = twin.step(step);
            prop_assert_eq!(real, model, "step {}: {:?}", number, step);
            twin.compare()?;
        }
    }
}
