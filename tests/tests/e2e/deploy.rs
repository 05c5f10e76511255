//! What deployments rely on: `dfx.json` and `icp.yaml` say the same, name files that are there, and
//! carry an argument that the canister understands; what is installed tells its contract.

use std::{collections::BTreeSet, io::Read, path::PathBuf};

use candid::{Decode, types::FuncMode};
use candid_parser::utils::CandidSource;
use flate2::read::GzDecoder;
use ic_agent::Agent;
use interface::Argument;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::world::{World, artifacts};

const ARTIFACT: &str = "target/canister/event_store.wasm.gz";
const CONTRACT: &str = "candid/event_store.did";
const BUILD: &str = "scripts/build-canister";

fn in_checkout(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(in_checkout(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dfx() -> Value {
    let file: Value = serde_json::from_str(&read("dfx.json")).unwrap();
    file["canisters"]["event_store"].clone()
}

/// What we use of `icp.yaml`.
#[derive(Deserialize)]
struct Icp {
    canisters: Vec<IcpCanister>,
}

#[derive(Deserialize)]
struct IcpCanister {
    name: String,
    build: Value,
    init_args: String,
    settings: Value,
}

fn icp() -> IcpCanister {
    let file: Icp = yaml_serde::from_str(&read("icp.yaml")).unwrap();
    file.canisters.into_iter().find(|canister| canister.name == "event_store").unwrap()
}

#[test]
fn both_tools_run_the_one_build_and_install_what_it_leaves() {
    assert!(read(BUILD).contains(&format!("artifact={ARTIFACT}\n")));
    let dfx = dfx();
    assert_eq!(dfx["type"], "custom");
    assert_eq!(dfx["build"], serde_json::json!([BUILD]));
    assert_eq!(dfx["wasm"], ARTIFACT);
    assert_eq!(dfx["candid"], CONTRACT);
    let steps = &icp().build["steps"];
    assert_eq!(steps[0]["type"], "script");
    let copy = format!("cp {ARTIFACT} \"$ICP_WASM_OUTPUT_PATH\"");
    assert_eq!(steps[0]["commands"], serde_json::json!([BUILD, copy]));
}

#[test]
fn both_tools_send_the_same_argument_and_the_canister_understands_it() {
    let icp = icp();
    assert_eq!(dfx()["init_arg"], *icp.init_args);
    let bytes = candid_parser::parse_idl_args(&icp.init_args).unwrap().to_bytes().unwrap();
    let argument = Decode!(&bytes, Option<Argument>).unwrap();
    assert!(matches!(argument, Some(Argument::Init { .. })), "{argument:?}");
}

#[test]
fn both_tools_give_the_canister_the_same_settings() {
    let (dfx, icp) = (dfx()["initialization_values"].clone(), icp().settings);
    assert_eq!(dfx["freezing_threshold"], "90days");
    assert_eq!(icp["freezing_threshold"], "90d");
    assert_eq!(dfx["reserved_cycles_limit"], 50_000_000_000_000u64);
    assert_eq!(icp["reserved_cycles_limit"], "50t");
    assert_eq!(dfx["wasm_memory_limit"], "2 GiB");
    assert_eq!(icp["wasm_memory_limit"], "2gib");
    assert_eq!(dfx["wasm_memory_threshold"], "512 MiB");
    assert_eq!(icp["wasm_memory_threshold"], "512mib");
    // dfx has no setting for the size of the log.
    let names = |settings: &Value| -> BTreeSet<String> {
        settings
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| *name != "log_memory_limit")
            .cloned()
            .collect()
    };
    assert_eq!(names(&dfx), names(&icp));
}

/// Entry points that the system calls by name, and nobody else can.
const HOOKS: [&str; 5] = [
    "canister_init",
    "canister_post_upgrade",
    "canister_inspect_message",
    "canister_global_timer",
    "canister_on_low_wasm_memory",
];

#[test]
fn the_module_exports_the_methods_of_the_contract_and_nothing_else() {
    let mut module = Vec::new();
    GzDecoder::new(&artifacts().wasm().unwrap()[..]).read_to_end(&mut module).unwrap();
    let exports: BTreeSet<String> = wasmparser::Parser::new(0)
        .parse_all(&module)
        .filter_map(|payload| match payload.unwrap() {
            wasmparser::Payload::ExportSection(exports) => Some(exports),
            _ => None,
        })
        .flatten()
        .map(|export| export.unwrap().name.to_owned())
        .filter(|name| name.starts_with("canister") && !HOOKS.contains(&name.as_str()))
        .collect();
    assert_eq!(exports, methods_of_the_contract());
}

fn methods_of_the_contract() -> BTreeSet<String> {
    let (types, service) = CandidSource::File(&in_checkout(CONTRACT)).load().unwrap();
    let service = service.unwrap();
    let methods = types.as_service(&service).unwrap().iter();
    methods
        .map(|(name, method)| {
            let is_query = types.as_func(method).unwrap().modes.contains(&FuncMode::Query);
            format!("canister_{} {name}", if is_query { "query" } else { "update" })
        })
        .collect()
}

#[tokio::test]
async fn the_installed_canister_shows_its_contract_and_the_hash_of_the_artifact() {
    let world = World::new().await;
    let agent = Agent::builder().with_url(world.ic.gateway()).build().unwrap();
    agent.fetch_root_key().await.unwrap();
    let canister = world.ic.canister();
    let contract = agent.read_state_canister_metadata(canister, "candid:service").await.unwrap();
    assert_eq!(String::from_utf8(contract).unwrap(), read(CONTRACT));
    let hash = agent.read_state_canister_module_hash(canister).await.unwrap();
    assert_eq!(hash, Sha256::digest(artifacts().wasm().unwrap()).to_vec());
    world.end([]).await;
}
