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
        store.set_fuel(limit).expect("fuel is enabled");

        let image = heap.image.clone();
        let result = start(code, &mut store, heap, globals)
            .and_then(|instance| call(code, &mut store, instance, entry).map(|()| instance))
            .map_err(|error| fault_of(&error, store.data()));
        let mut instructions = limit - store.get_fuel().expect("fuel is enabled")
            + store.data().memory_grows * MEMORY_GROW_REST;
        let result = result.and_then(|instance| {
            if !keep {
                return Ok(None);
            }
            let heap = self.heap_delta(&store, image);
            instructions += heap.delta.pages.len() as u64 * DIRTY_PAGE;
            if instructions > limit {
                return Err(Fault::InstructionLimit(limit));
            }
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
