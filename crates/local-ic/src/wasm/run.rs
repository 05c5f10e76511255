//! Runs one entry point of a canister on a [`Machine`] and returns the machine as it is then.
//!
//! Each execution has a store, an instance and a heap mapping of its own. A machine that is not
//! committed is dropped, which is all there is to rolling back.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};
use wasmtime::{Global, Instance, LinearMemory, MemoryCreator, MemoryType, Ref, Store, Trap, Val};

use super::costs::{DIRTY_PAGE, MEMORY_GROW_REST};
use super::host::{Env, Host, Incoming, Mode};
use super::prepare::START_EXPORT;
use super::{Code, Runner};
use crate::errors::Fault;
use crate::mem::{Delta, HeapMapping, HeapView, Image, StableView};

/// The value of a mutable global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalValue {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
}

impl GlobalValue {
    fn of(value: Val) -> GlobalValue {
        match value {
            Val::I32(v) => GlobalValue::I32(v),
            Val::I64(v) => GlobalValue::I64(v),
            Val::F32(v) => GlobalValue::F32(v),
            Val::F64(v) => GlobalValue::F64(v),
            Val::V128(v) => GlobalValue::V128(v.as_u128()),
            _ => unreachable!("prepare refuses mutable globals that hold references"),
        }
    }

    fn val(self) -> Val {
        match self {
            GlobalValue::I32(v) => Val::I32(v),
            GlobalValue::I64(v) => Val::I64(v),
            GlobalValue::F32(v) => Val::F32(v),
            GlobalValue::F64(v) => Val::F64(v),
            GlobalValue::V128(v) => Val::V128(v.into()),
        }
    }
}

/// The mutable state of a canister's code.
#[derive(Clone)]
pub struct Machine {
    pub heap: HeapView,
    pub stable: StableView,
    /// None before the first execution: the module's own initial values.
    pub globals: Option<Vec<GlobalValue>>,
}

impl Machine {
    /// As after `reinstall`, or with the given stable memory as in an upgrade.
    pub fn fresh(stable: StableView) -> std::io::Result<Machine> {
        let heap = HeapView::of(&Image::heap()?);
        Ok(Machine { heap, stable, globals: None })
    }
}

/// What to call.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Only what instantiation does: an install without `canister_init`.
    Nothing,
    Export(String),
    Closure(u32, u32),
}

pub struct Execution<'a> {
    pub code: &'a Code,
    pub mode: Mode,
    pub entry: Entry,
    pub env: Env,
    pub incoming: Incoming,
    pub machine: Machine,
    pub instruction_limit: u64,
    /// Whether anybody will look at the machine afterwards.
    pub keep: bool,
}

pub struct Ran {
    /// The machine afterwards, if it was to be kept and nothing failed.
    pub result: Result<Option<Machine>, Fault>,
    pub instructions: u64,
    pub host: Host,
}

thread_local! {
    /// wasmtime's memory creator belongs to the engine; this hands it one execution's heap.
    static NEXT_HEAP: RefCell<Option<HeapView>> = const { RefCell::new(None) };
}

pub struct HeapCreator;

struct Heap(HeapMapping);

// SAFETY: reserved beyond the largest heap and its guard, never moved, unmapped on drop.
unsafe impl MemoryCreator for HeapCreator {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        _reserved: Option<usize>,
        _guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let view = NEXT_HEAP.take().ok_or_else(|| "a module has one memory".to_owned())?;
        let mapping = HeapMapping::new(&view, minimum).map_err(|e| e.to_string())?;
        Ok(Box::new(Heap(mapping)))
    }
}

// SAFETY: as above.
unsafe impl LinearMemory for Heap {
    fn byte_size(&self) -> usize {
        self.0.len()
    }
    fn byte_capacity(&self) -> usize {
        crate::mem::HEAP_BYTES_MAX as usize
    }
    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        self.0.grow_to(new_size).map_err(wasmtime::Error::new)
    }
    fn as_ptr(&self) -> *mut u8 {
        self.0.base()
    }
}

impl Runner {
    pub fn run(&self, execution: Execution<'_>) -> Ran {
        let Execution { code, mode, entry, env, incoming, machine, instruction_limit: limit, keep } =
            execution;
        let Machine { heap, stable, globals } = machine;
        let host = Host::new(mode, env, incoming, stable, limit);
        let mut store = Store::new(&self.engine, host);
        store.limiter(|host| host);
        // One more than may be spent: that it is gone tells that the limit was passed, also by
        // instructions after the last check.
        store.set_fuel(limit + 1).expect("fuel is enabled");

        let image = heap.image.clone();
        let result = start(code, &mut store, heap, globals)
            .and_then(|instance| call(code, &mut store, instance, entry).map(|()| instance))
            .map_err(|error| fault_of(&error, store.data()));
        let mut instructions = limit + 1 - store.get_fuel().expect("fuel is enabled")
            + store.data().memory_grows * MEMORY_GROW_REST;
        let result = result.and_then(|instance| {
            let heap = keep.then(|| self.heap_delta(&store, image));
            instructions +=
                heap.as_ref().map_or(0, |heap| heap.delta.pages.len()) as u64 * DIRTY_PAGE;
            if instructions > limit {
                return Err(Fault::InstructionLimit(limit));
            }
            let Some(heap) = heap else { return Ok(None) };
            let globals = Some(read_globals(code, &mut store, instance));
            let stable = store.data().stable.clone();
            Ok(Some(Machine { heap, stable, globals }))
        });
        Ran { result, instructions: instructions.min(limit), host: store.into_data() }
    }

    fn heap_delta(&self, store: &Store<Host>, image: Image) -> HeapView {
        let delta = match store.data().memory {
            Some(memory) => self.pagemap.delta(memory.data(store), &image),
            None => Delta::default(),
        };
        HeapView { image, delta }
    }
}

/// An instance with the machine's heap and globals; a fresh one gets its data segments.
fn start(
    code: &Code,
    store: &mut Store<Host>,
    heap: HeapView,
    globals: Option<Vec<GlobalValue>>,
) -> wasmtime::Result<Instance> {
    NEXT_HEAP.set(Some(heap));
    let instance = code.pre.instantiate(&mut *store);
    NEXT_HEAP.take(); // A module without memory leaves it there.
    let instance = instance?;
    store.data_mut().memory = code
        .memory
        .as_ref()
        .and_then(|export| instance.get_module_export(&mut *store, export)?.into_memory());
    match globals {
        Some(values) => write_globals(code, store, instance, &values)?,
        None => initialise(code, store, instance)?,
    }
    Ok(instance)
}

fn initialise(code: &Code, store: &mut Store<Host>, instance: Instance) -> wasmtime::Result<()> {
    for segment in &code.segments {
        let memory = store.data().memory.expect("segments need a memory");
        memory
            .write(&mut *store, segment.offset as usize, &segment.bytes)
            .map_err(|_| Fault::Trapped("heap out of bounds".to_owned()))?;
    }
    if code.has_start {
        let mode = std::mem::replace(&mut store.data_mut().mode, Mode::Start);
        instance.get_typed_func::<(), ()>(&mut *store, START_EXPORT)?.call(&mut *store, ())?;
        store.data_mut().mode = mode;
    }
    Ok(())
}

fn call(
    code: &Code,
    store: &mut Store<Host>,
    instance: Instance,
    entry: Entry,
) -> wasmtime::Result<()> {
    match entry {
        Entry::Nothing => Ok(()),
        Entry::Export(name) => {
            instance.get_typed_func::<(), ()>(&mut *store, &name)?.call(&mut *store, ())
        }
        Entry::Closure(index, env) => {
            let function = code
                .table
                .as_ref()
                .and_then(|export| instance.get_module_export(&mut *store, export)?.into_table())
                .and_then(|table| table.get(&mut *store, index as u64));
            let Some(Ref::Func(Some(function))) = function else {
                return Err(Fault::FunctionNotFound { index }.into());
            };
            let function = function
                .typed::<u32, ()>(&*store)
                .map_err(|_| Fault::FunctionNotFound { index })?;
            function.call(&mut *store, env)
        }
    }
}

fn global(instance: Instance, store: &mut Store<Host>, export: &wasmtime::ModuleExport) -> Global {
    instance
        .get_module_export(store, export)
        .and_then(|export| export.into_global())
        .expect("exported by prepare")
}

fn write_globals(
    code: &Code,
    store: &mut Store<Host>,
    instance: Instance,
    values: &[GlobalValue],
) -> wasmtime::Result<()> {
    for (export, value) in code.globals.iter().zip(values) {
        global(instance, store, export).set(&mut *store, value.val())?;
    }
    Ok(())
}

fn read_globals(code: &Code, store: &mut Store<Host>, instance: Instance) -> Vec<GlobalValue> {
    code.globals
        .iter()
        .map(|export| GlobalValue::of(global(instance, store, export).get(&mut *store)))
        .collect()
}

fn fault_of(error: &wasmtime::Error, host: &Host) -> Fault {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return fault.clone();
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => return Fault::InstructionLimit(host.instruction_limit),
        Some(Trap::StackOverflow) => "stack overflow",
        Some(Trap::MemoryOutOfBounds) => "heap out of bounds",
        Some(Trap::IntegerDivisionByZero) => "integer division by 0",
        Some(Trap::UnreachableCodeReached) => "unreachable",
        Some(Trap::TableOutOfBounds) => "table out of bounds",
        Some(trap) => return Fault::Trapped(trap.to_string()),
        None => return Fault::Engine(format!("{error:#}")),
    };
    Fault::Trapped(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use candid::Principal;
    use proptest::prelude::*;

    use super::*;
    use crate::cycles::{Occupied, Prices};
    use crate::mem::WASM_PAGE;
    use crate::wasm::Code;

    /// Runs a script of records of three words: what to do, where, and with what.
    const SCRIPTED: &str = r#"(module
        (import "ic0" "msg_arg_data_size" (func $size (result i32)))
        (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
        (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
        (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
        (memory 2)
        (global $value (mut i32) (i32.const 0))
        (func $do (param $what i32) (param $where i32) (param $with i32)
            (if (i32.eq (local.get $what) (i32.const 0))
                (then (i32.store8 (local.get $where) (local.get $with))))
            (if (i32.eq (local.get $what) (i32.const 1)) (then
                (i32.store8 (i32.const 65535) (local.get $with))
                (call $stable_write
                    (i64.extend_i32_u (local.get $where)) (i64.const 65535) (i64.const 1))
                (i32.store8 (i32.const 65535) (i32.const 0))))
            (if (i32.eq (local.get $what) (i32.const 2))
                (then (global.set $value (local.get $with))))
            (if (i32.eq (local.get $what) (i32.const 3))
                (then (drop (memory.grow (i32.const 1)))))
            (if (i32.eq (local.get $what) (i32.const 4))
                (then (drop (call $stable_grow (i64.const 1)))))
            (if (i32.eq (local.get $what) (i32.const 5)) (then unreachable))
            (if (i32.eq (local.get $what) (i32.const 6)) (then (loop $again (br $again)))))
        (func (export "canister_update script") (local $at i32)
            (call $copy (i32.const 0) (i32.const 0) (call $size))
            (loop $next (if (i32.lt_u (local.get $at) (call $size)) (then
                (call $do
                    (i32.load (local.get $at))
                    (i32.load offset=4 (local.get $at))
                    (i32.load offset=8 (local.get $at)))
                (local.set $at (i32.add (local.get $at) (i32.const 12)))
                (br $next))))
            (memory.fill (i32.const 0) (i32.const 0) (call $size))))"#;

    /// Heap addresses below are the script's own.
    const HEAP_FIRST: u32 = WASM_PAGE as u32;

    #[derive(Clone, Debug)]
    enum Op {
        Heap(u32, u8),
        Stable(u32, u8),
        Global(u32),
        GrowHeap,
        GrowStable,
        Trap,
        Exhaust,
    }

    impl Op {
        fn record(&self) -> [u32; 3] {
            match *self {
                Op::Heap(at, value) => [0, at, value as u32],
                Op::Stable(at, value) => [1, at, value as u32],
                Op::Global(value) => [2, 0, value],
                Op::GrowHeap => [3, 0, 0],
                Op::GrowStable => [4, 0, 0],
                Op::Trap => [5, 0, 0],
                Op::Exhaust => [6, 0, 0],
            }
        }
    }

    fn op() -> impl Strategy<Value = Op> {
        let heap = HEAP_FIRST..4 * WASM_PAGE as u32;
        prop_oneof![
            8 => (heap, any::<u8>()).prop_map(|(at, v)| Op::Heap(at, v)),
            8 => (0..3 * WASM_PAGE as u32, any::<u8>()).prop_map(|(at, v)| Op::Stable(at, v)),
            2 => any::<u32>().prop_map(Op::Global),
            1 => Just(Op::GrowHeap),
            2 => Just(Op::GrowStable),
            1 => Just(Op::Trap),
            1 => Just(Op::Exhaust),
        ]
    }

    /// The same machine as plain vectors: a message works on a copy and keeps it if all went well.
    #[derive(Clone, Debug)]
    struct Model {
        heap: Vec<u8>,
        stable: Vec<u8>,
        global: u32,
    }

    impl Model {
        fn apply(&mut self, op: &Op) -> Option<()> {
            match *op {
                Op::Heap(at, value) => *self.heap.get_mut(at as usize)? = value,
                Op::Stable(at, value) => *self.stable.get_mut(at as usize)? = value,
                Op::Global(value) => self.global = value,
                Op::GrowHeap => self.heap.resize(self.heap.len() + WASM_PAGE as usize, 0),
                Op::GrowStable => self.stable.resize(self.stable.len() + WASM_PAGE as usize, 0),
                Op::Trap | Op::Exhaust => return None,
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
    }

    fn scripted() -> &'static (Runner, Arc<Code>) {
        static SCRIPTED_CODE: OnceLock<(Runner, Arc<Code>)> = OnceLock::new();
        SCRIPTED_CODE.get_or_init(|| {
            let runner = Runner::new(None).unwrap();
            let code = runner.code(&wat::parse_str(SCRIPTED).unwrap()).unwrap();
            (runner, code)
        })
    }

    fn env() -> Env {
        Env {
            canister: Principal::anonymous(),
            subnet: Principal::anonymous(),
            time: 0,
            version: 0,
            status: 1,
            controllers: Arc::default(),
            variables: Arc::default(),
            cycles: 0,
            occupied: Occupied { memory_bytes: 0, memory_allocation: 0, compute_percent: 0 },
            freezing_seconds: 0,
            root_key: Arc::default(),
            prices: Prices { nodes: 13, is_free: false },
            timer: None,
            certificate: None,
            heap_bytes_max: u64::MAX,
            log_bytes_max: 4096,
        }
    }

    /// A canister's committed state, as `ic::Canister` keeps it.
    struct Committed {
        heap: Image,
        stable: Image,
        globals: Option<Vec<GlobalValue>>,
    }

    impl Committed {
        fn run(&mut self, entry: Entry, arg: Vec<u8>) -> Result<(), Fault> {
            let (runner, code) = scripted();
            let machine = Machine {
                heap: HeapView::of(&self.heap),
                stable: StableView::of(&self.stable),
                globals: self.globals.clone(),
            };
            let ran = runner.run(Execution {
                code,
                mode: Mode::Update,
                entry,
                env: env(),
                incoming: Incoming { arg: Arc::new(arg), ..Default::default() },
                machine,
                instruction_limit: 1_000_000,
                keep: true,
            });
            let machine = ran.result?.expect("kept");
            self.heap = machine.heap.image;
            self.heap.commit(machine.heap.delta).unwrap();
            self.stable = machine.stable.image;
            self.stable.commit(machine.stable.delta).unwrap();
            self.globals = machine.globals;
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn a_failed_message_leaves_nothing_and_a_good_one_everything(
            messages in prop::collection::vec(prop::collection::vec(op(), 0..12), 1..12)
        ) {
            let mut committed = Committed {
                heap: Image::heap().unwrap(),
                stable: Image::stable().unwrap(),
                globals: None,
            };
            committed.run(Entry::Nothing, vec![]).unwrap();
            let mut model = Model {
                heap: vec![0; 2 * WASM_PAGE as usize],
                stable: vec![],
                global: 0,
            };
            for ops in messages {
                let arg = ops.iter().flat_map(Op::record).flat_map(u32::to_le_bytes).collect();
                let entry = Entry::Export("canister_update script".to_owned());
                prop_assert_eq!(committed.run(entry, arg).is_ok(), model.message(&ops));
                prop_assert!(committed.heap.to_vec() == model.heap);
                prop_assert!(committed.stable.to_vec() == model.stable);
                let global = GlobalValue::I32(model.global as i32);
                prop_assert_eq!(committed.globals.as_deref(), Some(&[global][..]));
            }
        }
    }
}
