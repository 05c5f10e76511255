//! Canister code: preparing it, compiling it once, running one message of it.

pub mod api;
pub mod cache;
pub mod costs;
pub mod host;
pub mod prepare;
pub mod run;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use sha2::{Digest, Sha256};
use wasmtime::{Config, InstancePre, Module, ModuleExport};

use crate::mem::{HEAP_BYTES_MAX, HEAP_GUARD_BYTES, Pagemap};
use api::Api;
use cache::DiskCache;
use host::Host;
use prepare::{MethodKind, Segment, Visibility};

/// Rust's stack lives in the heap; this one holds what cranelift spills. The replica allows 5 MiB.
const WASM_STACK_BYTES: usize = 5 << 20;
/// Threads that run wasm need room for that stack and for ours.
pub const THREAD_STACK_BYTES: usize = 16 << 20;

/// With more modules in memory, those that no canister runs are forgotten.
const MODULES_MAX: usize = 64;

pub type Hash = [u8; 32];
type Compiled = Arc<OnceLock<Result<Arc<Code>, String>>>;

/// A compiled module and what is known about it.
pub struct Code {
    /// Of the bytes as they were sent, gzipped or not.
    pub hash: Hash,
    pub sent: Vec<u8>,
    pub methods: BTreeMap<String, MethodKind>,
    pub system_methods: Vec<String>,
    pub metadata: BTreeMap<String, (Visibility, Vec<u8>)>,
    pub custom_section_bytes: usize,
    /// What compiling it is charged as, in wasm operators.
    pub operators: u64,
    segments: Vec<Segment>,
    has_start: bool,
    pre: InstancePre<Host>,
    memory: Option<ModuleExport>,
    table: Option<ModuleExport>,
    globals: Vec<ModuleExport>,
}

impl Code {
    pub fn has(&self, system_method: &str) -> bool {
        self.system_methods.iter().any(|name| name == system_method)
    }
}

/// Compiles and runs; one for the whole process, so that each module is compiled once.
pub struct Runner {
    engine: wasmtime::Engine,
    api: Api,
    pagemap: Pagemap,
    compiled: Mutex<HashMap<Hash, Compiled>>,
    cache: DiskCache,
}

impl Runner {
    pub fn new(cache_dir: Option<PathBuf>) -> wasmtime::Result<Runner> {
        let engine = wasmtime::Engine::new(&config())?;
        Ok(Runner {
            api: Api::new(&engine)?,
            engine,
            pagemap: Pagemap::open(),
            compiled: Mutex::default(),
            cache: DiskCache::new(cache_dir),
        })
    }

    /// The code of a module as it was sent, compiled now if this process has not seen it.
    pub fn code(&self, sent: &[u8]) -> Result<Arc<Code>, String> {
        let hash: Hash = Sha256::digest(sent).into();
        let slot = {
            let mut compiled = self.compiled.lock().unwrap();
            if compiled.len() >= MODULES_MAX {
                compiled.retain(|_, slot| is_in_use(slot));
            }
            Arc::clone(compiled.entry(hash).or_default())
        };
        // The map is not locked meanwhile: other modules compile in parallel, this one once.
        slot.get_or_init(|| self.compile(hash, sent).map(Arc::new)).clone()
    }

    fn compile(&self, hash: Hash, sent: &[u8]) -> Result<Code, String> {
        let wasm = prepare::unpack(sent)?;
        let prepared = prepare::prepare(&wasm, |name| self.api.names.contains(name))?;
        let module = self.module(&prepared.wasm)?;
        let pre = self
            .api
            .linker
            .instantiate_pre(&module)
            .map_err(|e| format!("Wasm module has an invalid import section. {e:#}"))?;
        let export = |name: &str| module.get_export_index(name);
        Ok(Code {
            hash,
            sent: sent.to_vec(),
            methods: prepared.methods,
            system_methods: prepared.system_methods,
            metadata: prepared.metadata,
            custom_section_bytes: prepared.custom_section_bytes,
            operators: prepared.operators,
            segments: prepared.segments,
            has_start: prepared.has_start,
            memory: export(prepare::MEMORY_EXPORT),
            table: export(prepare::TABLE_EXPORT),
            globals: prepared
                .globals
                .iter()
                .map(|index| export(&prepare::global_export(*index)).expect("exported by prepare"))
                .collect(),
            pre,
        })
    }

    fn module(&self, wasm: &[u8]) -> Result<Module, String> {
        if let Some(module) = self.cache.load(&self.engine, wasm) {
            return Ok(module);
        }
        let module = Module::new(&self.engine, wasm)
            .map_err(|e| format!("wasmtime::Module::new() failed with {e:#}"))?;
        self.cache.store(wasm, &module);
        Ok(module)
    }
}

/// Some canister runs it, or it is being compiled.
fn is_in_use(slot: &Compiled) -> bool {
    match slot.get() {
        Some(Ok(code)) => Arc::strong_count(code) > 1,
        Some(Err(_)) => false,
        None => true,
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .operator_cost(costs::operator_costs())
        .max_wasm_stack(WASM_STACK_BYTES)
        // Nothing here is async, but wasmtime refuses a greater stack than this one.
        .async_stack_size(THREAD_STACK_BYTES)
        .memory_reservation(HEAP_BYTES_MAX)
        .memory_guard_size(HEAP_GUARD_BYTES as u64)
        .memory_may_move(false)
        .guard_before_linear_memory(false)
        .memory_init_cow(false)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_tail_call(true)
        .with_host_memory(Arc::new(run::HeapCreator));
    config
}
