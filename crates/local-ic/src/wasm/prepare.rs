//! Makes a canister's module ready to be run one message at a time.
//!
//! Every message gets a new instance, so everything that outlives a message must be reachable
//! from outside: memory, table, mutable globals and the start function are exported under names
//! of ours, and active data segments become passive ones, written by hand at installation only
//! (else each instantiation would overwrite the heap). The code itself is copied untouched.

use std::collections::BTreeMap;
use std::io::Read;

use wasm_encoder::{DataSection, ExportKind, ExportSection, RawSection, SectionId};
use wasmparser::{
    CompositeInnerType, ConstExpr, Data, DataKind, Export, ExternalKind, Operator, Parser, Payload,
    TypeRef, ValType,
};

pub const MEMORY_EXPORT: &str = "local-ic memory";
pub const TABLE_EXPORT: &str = "local-ic table";
pub const START_EXPORT: &str = "local-ic start";

const MODULE_BYTES_MAX: u64 = 100 << 20;
const FUNCTIONS_MAX: usize = 50_000;
const GLOBALS_MAX: usize = 1_000;
const METHODS_MAX: usize = 1_000;
const CUSTOM_SECTIONS_MAX: usize = 16;
const CUSTOM_SECTION_BYTES_MAX: usize = 1 << 20;

pub fn global_export(index: u32) -> String {
    format!("local-ic global {index}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    Update,
    Query,
    CompositeQuery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    Public,
    Private,
}

/// What to write into a fresh heap.
#[derive(Debug)]
pub struct Segment {
    pub offset: u32,
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
pub struct Prepared {
    /// The module for wasmtime.
    pub wasm: Vec<u8>,
    pub segments: Vec<Segment>,
    /// Indices of the mutable globals.
    pub globals: Vec<u32>,
    pub methods: BTreeMap<String, MethodKind>,
    pub metadata: BTreeMap<String, (Visibility, Vec<u8>)>,
    pub custom_section_bytes: usize,
    pub heap_pages_min: u64,
    /// Exported functions without parameters: init, upgrade hooks, timer and the like.
    pub system_methods: Vec<String>,
    pub has_start: bool,
    pub has_memory: bool,
    pub has_table: bool,
    pub functions: usize,
    pub operators: u64,
}

/// The module as plain wasm: it may be sent gzipped.
pub fn unpack(sent: &[u8]) -> Result<Vec<u8>, String> {
    if !sent.starts_with(&[0x1f, 0x8b]) {
        return Ok(sent.to_vec());
    }
    let mut wasm = Vec::new();
    flate2::read::GzDecoder::new(sent)
        .take(MODULE_BYTES_MAX + 1)
        .read_to_end(&mut wasm)
        .map_err(|e| format!("Failed to decompress: {e}"))?;
    if wasm.len() as u64 > MODULE_BYTES_MAX {
        return Err(format!("Module is larger than {MODULE_BYTES_MAX} bytes"));
    }
    Ok(wasm)
}

/// `is_known` tells whether the runtime has a function of that name in module `ic0`.
pub fn prepare(wasm: &[u8], is_known: impl Fn(&str) -> bool) -> Result<Prepared, String> {
    if wasm.get(..4) != Some(b"\0asm") {
        return Err("Failed to parse Wasm module: magic header not detected".to_owned());
    }
    let mut pass = Pass::new(wasm);
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|e| format!("Failed to parse Wasm module: {e}"))?;
        pass.payload(payload, &is_known)
            .map_err(|e| e.unwrap_or_else(|e| format!("Failed to parse Wasm module: {e}")))?;
    }
    pass.finish()
}

/// A refusal of ours, or the parser's.
enum Refusal {
    Ours(String),
    Parser(wasmparser::BinaryReaderError),
}

impl Refusal {
    fn unwrap_or_else(
        self,
        parser: impl FnOnce(wasmparser::BinaryReaderError) -> String,
    ) -> String {
        match self {
            Refusal::Ours(text) => text,
            Refusal::Parser(error) => parser(error),
        }
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Refusal {
        Refusal::Ours(text)
    }
}

impl From<wasmparser::BinaryReaderError> for Refusal {
    fn from(error: wasmparser::BinaryReaderError) -> Refusal {
        Refusal::Parser(error)
    }
}

struct Pass<'a> {
    wasm: &'a [u8],
    module: wasm_encoder::Module,
    out: Prepared,
    exports: Vec<Export<'a>>,
    exports_written: bool,
    /// Whether type number i is `() -> ()`.
    plain_types: Vec<bool>,
    /// The type of each function, imported ones first.
    function_types: Vec<u32>,
    start: Option<u32>,
}

impl<'a> Pass<'a> {
    fn new(wasm: &'a [u8]) -> Pass<'a> {
        Pass {
            wasm,
            module: wasm_encoder::Module::new(),
            out: Prepared {
                wasm: Vec::new(),
                segments: Vec::new(),
                globals: Vec::new(),
                methods: BTreeMap::new(),
                metadata: BTreeMap::new(),
                custom_section_bytes: 0,
                heap_pages_min: 0,
                system_methods: Vec::new(),
                has_start: false,
                has_memory: false,
                has_table: false,
                functions: 0,
                operators: 0,
            },
            exports: Vec::new(),
            exports_written: false,
            plain_types: Vec::new(),
            function_types: Vec::new(),
            start: None,
        }
    }

    fn payload(
        &mut self,
        payload: Payload<'a>,
        is_known: &impl Fn(&str) -> bool,
    ) -> Result<(), Refusal> {
        match &payload {
            Payload::TypeSection(types) => self.types(types.clone())?,
            Payload::ImportSection(imports) => self.imports(imports.clone(), is_known)?,
            Payload::FunctionSection(functions) => {
                for function in functions.clone() {
                    self.function_types.push(function?);
                    self.out.functions += 1;
                }
            }
            Payload::TableSection(tables) => self.out.has_table = tables.count() > 0,
            Payload::MemorySection(memories) => self.memories(memories.clone())?,
            Payload::GlobalSection(globals) => self.globals(globals.clone())?,
            Payload::ExportSection(exports) => {
                self.exports = exports.clone().into_iter().collect::<Result<_, _>>()?;
                // Written with the additions before whatever section comes next.
                return Ok(());
            }
            Payload::StartSection { func, .. } => {
                self.start = Some(*func);
                return Ok(());
            }
            Payload::DataSection(data) => {
                self.write_exports();
                return self.data(data.clone());
            }
            Payload::CodeSectionEntry(body) => {
                self.out.operators += body.get_operators_reader()?.into_iter().count() as u64;
                return Ok(());
            }
            Payload::CustomSection(custom) => {
                return self.custom(custom.name(), custom.data());
            }
            _ => {}
        }
        if let Some((id, range)) = payload.as_section() {
            // The tag section has a high number but stands before the globals.
            if id > SectionId::Export as u8 && id != SectionId::Tag as u8 {
                self.write_exports();
            }
            let data = &self.wasm[range];
            self.module.section(&RawSection { id, data });
        }
        Ok(())
    }

    fn types(&mut self, types: wasmparser::TypeSectionReader<'a>) -> Result<(), Refusal> {
        for group in types {
            for ty in group?.into_types() {
                let plain = match &ty.composite_type.inner {
                    CompositeInnerType::Func(f) => f.params().is_empty() && f.results().is_empty(),
                    _ => false,
                };
                self.plain_types.push(plain);
            }
        }
        Ok(())
    }

    fn imports(
        &mut self,
        imports: wasmparser::ImportSectionReader<'a>,
        is_known: &impl Fn(&str) -> bool,
    ) -> Result<(), Refusal> {
        for import in imports.into_imports() {
            let import = import?;
            let (module, name) = (import.module, import.name);
            let TypeRef::Func(ty) = import.ty else {
                return Err(Refusal::Ours(format!(
                    "Wasm module has an invalid import section. Only function imports are allowed, found '{name}' from '{module}'"
                )));
            };
            if module != "ic0" || !is_known(name) {
                return Err(Refusal::Ours(format!(
                    "Wasm module has an invalid import section. Module imports function '{name}' from '{module}' that is not exported by the runtime"
                )));
            }
            self.function_types.push(ty);
        }
        Ok(())
    }

    fn memories(&mut self, memories: wasmparser::MemorySectionReader<'a>) -> Result<(), Refusal> {
        if memories.count() > 1 {
            return Err(Refusal::Ours(
                "Wasm module has an invalid memory section. Only one memory is allowed".to_owned(),
            ));
        }
        for memory in memories {
            let memory = memory?;
            if memory.memory64 || memory.shared {
                return Err(Refusal::Ours(
                    "not supported by local-ic: 64-bit and shared memories".to_owned(),
                ));
            }
            self.out.has_memory = true;
            self.out.heap_pages_min = memory.initial;
        }
        Ok(())
    }

    fn globals(&mut self, globals: wasmparser::GlobalSectionReader<'a>) -> Result<(), Refusal> {
        if globals.count() as usize > GLOBALS_MAX {
            return Err(Refusal::Ours(format!(
                "Wasm module defined {} globals which exceeds the maximum number allowed {GLOBALS_MAX}",
                globals.count()
            )));
        }
        for (index, global) in globals.into_iter().enumerate() {
            let ty = global?.ty;
            if !ty.mutable {
                continue;
            }
            if matches!(ty.content_type, ValType::Ref(_)) {
                return Err(Refusal::Ours(
                    "not supported by local-ic: mutable globals that hold references".to_owned(),
                ));
            }
            self.out.globals.push(index as u32);
        }
        Ok(())
    }

    fn custom(&mut self, name: &str, data: &[u8]) -> Result<(), Refusal> {
        if name == "name" {
            self.write_exports();
            let data = [&[name.len() as u8], name.as_bytes(), data].concat();
            self.module.section(&RawSection { id: SectionId::Custom as u8, data: &data });
            return Ok(());
        }
        let (visibility, key) = match name.split_once(' ') {
            Some(("icp:public", key)) => (Visibility::Public, key),
            Some(("icp:private", key)) => (Visibility::Private, key),
            _ => return Ok(()), // Debug information and the like: of no use here.
        };
        self.out.custom_section_bytes += data.len();
        let entry = (visibility, data.to_vec());
        if self.out.metadata.insert(key.to_owned(), entry).is_some() {
            return Err(Refusal::Ours(format!(
                "Wasm module has an invalid custom section. Name '{key}' already exists"
            )));
        }
        let too_many = self.out.metadata.len() > CUSTOM_SECTIONS_MAX;
        if too_many || self.out.custom_section_bytes > CUSTOM_SECTION_BYTES_MAX {
            return Err(Refusal::Ours(
                "Wasm module has an invalid custom section. Too many or too large icp: sections"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn data(&mut self, data: wasmparser::DataSectionReader<'a>) -> Result<(), Refusal> {
        let mut section = DataSection::new();
        for segment in data {
            let Data { kind, data, .. } = segment?;
            match kind {
                DataKind::Passive => section.passive(data.iter().copied()),
                DataKind::Active { offset_expr, .. } => {
                    let offset = constant(&offset_expr)?;
                    let bytes = data.to_vec();
                    self.out.segments.push(Segment { offset, bytes });
                    // An empty one in its place keeps the numbering of the others.
                    section.passive([])
                }
            };
        }
        self.module.section(&section);
        Ok(())
    }

    fn write_exports(&mut self) {
        if std::mem::replace(&mut self.exports_written, true) {
            return;
        }
        let mut section = ExportSection::new();
        for export in &self.exports {
            section.export(export.name, export_kind(export.kind), export.index);
        }
        for index in &self.out.globals {
            section.export(&global_export(*index), ExportKind::Global, *index);
        }
        if self.out.has_memory {
            section.export(MEMORY_EXPORT, ExportKind::Memory, 0);
        }
        if self.out.has_table {
            section.export(TABLE_EXPORT, ExportKind::Table, 0);
        }
        if let Some(start) = self.start {
            section.export(START_EXPORT, ExportKind::Func, start);
        }
        self.module.section(&section);
    }

    fn finish(mut self) -> Result<Prepared, String> {
        if self.out.functions > FUNCTIONS_MAX {
            return Err(format!(
                "Wasm module defined {} functions which exceeds the maximum number allowed {FUNCTIONS_MAX}",
                self.out.functions
            ));
        }
        self.methods()?;
        self.write_exports();
        self.out.has_start = self.start.is_some();
        self.out.wasm = self.module.finish();
        Ok(self.out)
    }

    fn methods(&mut self) -> Result<(), String> {
        for export in &self.exports {
            let is_function = matches!(export.kind, ExternalKind::Func | ExternalKind::FuncExact);
            if !is_function || !export.name.starts_with("canister_") {
                continue;
            }
            let ty = self.function_types.get(export.index as usize);
            let is_plain = ty.and_then(|ty| self.plain_types.get(*ty as usize));
            if is_plain != Some(&true) {
                return Err(format!(
                    "Wasm module has an invalid function signature. Expected return type () and no parameters for '{}'",
                    export.name
                ));
            }
            match method_of(export.name) {
                Some((kind, name)) => {
                    if self.out.methods.insert(name.to_owned(), kind).is_some() {
                        return Err(format!(
                            "Wasm module has an invalid exported function. Duplicate function '{name}' exported multiple times with different call types: update, query, or composite_query"
                        ));
                    }
                }
                None if SYSTEM_METHODS.contains(&export.name) => {
                    self.out.system_methods.push(export.name.to_owned());
                }
                None => {
                    return Err(format!(
                        "Wasm module has an invalid exported function. Exporting reserved function '{}' with \"canister_\" prefix",
                        export.name
                    ));
                }
            }
        }
        if self.out.methods.len() > METHODS_MAX {
            return Err(format!(
                "Wasm module has an invalid exported function. The number of exported functions called `canister_update <name>`, `canister_query <name>`, or `canister_composite_query <name>` exceeds {METHODS_MAX}"
            ));
        }
        Ok(())
    }
}

const SYSTEM_METHODS: [&str; 7] = [
    "canister_init",
    "canister_pre_upgrade",
    "canister_post_upgrade",
    "canister_inspect_message",
    "canister_heartbeat",
    "canister_global_timer",
    "canister_on_low_wasm_memory",
];

fn method_of(export: &str) -> Option<(MethodKind, &str)> {
    let (prefix, name) = export.split_once(' ')?;
    match prefix {
        "canister_update" => Some((MethodKind::Update, name)),
        "canister_query" => Some((MethodKind::Query, name)),
        "canister_composite_query" => Some((MethodKind::CompositeQuery, name)),
        _ => None,
    }
}

fn export_kind(kind: ExternalKind) -> ExportKind {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
    }
}

/// Compilers place segments at constants; anything else would need the instance's globals.
fn constant(expr: &ConstExpr<'_>) -> Result<u32, Refusal> {
    let mut stack: Vec<i32> = Vec::new();
    for op in expr.get_operators_reader() {
        match op? {
            Operator::I32Const { value } => stack.push(value),
            Operator::I32Add => binary(&mut stack, i32::wrapping_add)?,
            Operator::I32Sub => binary(&mut stack, i32::wrapping_sub)?,
            Operator::I32Mul => binary(&mut stack, i32::wrapping_mul)?,
            Operator::End => break,
            other => {
                return Err(Refusal::Ours(format!(
                    "not supported by local-ic: {other:?} in the offset of a data segment"
                )));
            }
        }
    }
    let value = stack.pop().ok_or_else(|| "empty offset".to_owned())?;
    Ok(value as u32)
}

fn binary(stack: &mut Vec<i32>, op: fn(i32, i32) -> i32) -> Result<(), Refusal> {
    let (Some(b), Some(a)) = (stack.pop(), stack.pop()) else {
        return Err(Refusal::Ours("malformed offset expression".to_owned()));
    };
    stack.push(op(a, b));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Prepared, String> {
        prepare(&wat::parse_str(text).unwrap(), |name| name == "time")
    }

    #[test]
    fn what_outlives_a_message_is_exported() {
        let prepared = check(
            r#"(module
                (global (mut i32) (i32.const 1)) (global i32 (i32.const 2))
                (memory 3) (table 1 funcref)
                (func $go) (start $go)
                (data (i32.const 8) "abc")
                (func (export "canister_query get")))"#,
        )
        .unwrap();
        assert_eq!(prepared.globals, [0]);
        assert_eq!(prepared.heap_pages_min, 3);
        assert_eq!(prepared.segments[0].offset, 8);
        assert_eq!(prepared.segments[0].bytes, b"abc");
        assert_eq!(prepared.methods["get"], MethodKind::Query);
        let mut names = Vec::new();
        for payload in Parser::new(0).parse_all(&prepared.wasm) {
            if let Payload::ExportSection(exports) = payload.unwrap() {
                names = exports.into_iter().map(|e| e.unwrap().name).collect();
            }
        }
        let expected =
            ["canister_query get", "local-ic global 0", MEMORY_EXPORT, TABLE_EXPORT, START_EXPORT];
        assert_eq!(names, expected);
    }

    #[test]
    fn an_unknown_import_is_refused() {
        let refused = check(r#"(module (import "ic0" "nonsense" (func)))"#).unwrap_err();
        assert!(refused.contains("imports function 'nonsense' from 'ic0'"), "{refused}");
        assert!(check(r#"(module (import "ic0" "time" (func (result i64))))"#).is_ok());
    }

    #[test]
    fn a_method_with_parameters_is_refused() {
        let refused = check(r#"(module (func (export "canister_update x") (param i32)))"#);
        assert!(refused.unwrap_err().contains("invalid function signature"));
    }

    #[test]
    fn a_reserved_export_is_refused() {
        let refused = check(r#"(module (func (export "canister_nonsense")))"#);
        assert!(refused.unwrap_err().contains("reserved function"));
    }

    #[test]
    fn a_method_has_one_kind() {
        let refused = check(
            r#"(module (func (export "canister_update x")) (func (export "canister_query x")))"#,
        );
        assert!(refused.unwrap_err().contains("Duplicate function 'x'"));
    }
}
