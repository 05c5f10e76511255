//! What the `pocket-ic` crate offers, method by method, on whichever server `POCKET_IC_BIN` names;
//! on `local-ic` if it names none.
//!
//! These tests must pass on the official server without a change. So they compare error codes and
//! not texts, no exact cycles or instructions, and use no method that one of the two lacks.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use candid::{CandidType, Principal};
use flate2::{Compression, write::GzEncoder};
use pocket_ic::common::rest::{
    BlobCompression, CanisterHttpReply, CanisterHttpResponse, InstanceHttpGatewayConfig,
    MockCanisterHttpResponse, RawEffectivePrincipal,
};
use pocket_ic::{
    CanisterInstallMode, CanisterSettings, CreateCanisterParams, CreateCanisterPlacement,
    ErrorCode, IngressStatusResult, PocketIc, PocketIcBuilder, PocketIcState, RejectResponse,
    TickConfigs, Time,
};

const TRILLION: u128 = 1_000_000_000_000;

fn server() -> PathBuf {
    static CHOSEN: OnceLock<PathBuf> = OnceLock::new();
    let choose = || {
        let given = std::env::var_os("POCKET_IC_BIN").filter(|path| !path.is_empty());
        let server = given.unwrap_or_else(|| env!("CARGO_BIN_EXE_local-ic").into());
        // SAFETY: done once, before this process starts its first server.
        unsafe {
            // For the methods that take no path.
            std::env::set_var("POCKET_IC_BIN", &server);
            // The server must not hold the test's output open after the test has ended.
            std::env::set_var("POCKET_IC_MUTE_SERVER", "1");
        }
        server.into()
    };
    CHOSEN.get_or_init(choose).clone()
}

fn bare() -> PocketIcBuilder {
    PocketIcBuilder::new().with_server_binary(server())
}

fn builder() -> PocketIcBuilder {
    bare().with_nns_subnet().with_application_subnet()
}

/// The test canister; its `http_request` answers a candid 42.
fn wasm() -> Vec<u8> {
    let answer = candid::encode_one(42u64).unwrap();
    let escaped: String = answer.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let text = include_str!("it/canister.wat")
        .replace("@HTTP_BYTES@", &escaped)
        .replace("@HTTP_LEN@", &answer.len().to_string());
    wat::parse_str(text).unwrap()
}

fn anyone() -> Principal {
    Principal::anonymous()
}

fn alice() -> Principal {
    Principal::self_authenticating(b"alice")
}

fn effective(canister: Principal) -> RawEffectivePrincipal {
    RawEffectivePrincipal::CanisterId(canister.as_slice().to_vec())
}

fn install(pic: &PocketIc) -> Principal {
    let canister = pic.create_canister();
    pic.add_cycles(canister, 100 * TRILLION);
    pic.install_canister(canister, wasm(), vec![], None);
    canister
}

fn with_canister() -> (PocketIc, Principal) {
    let pic = builder().build();
    let canister = install(&pic);
    (pic, canister)
}

/// The counters in heap, global and stable memory.
fn counters(bytes: &[u8]) -> [u32; 3] {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    [word(0), word(4), word(8)]
}

fn inc(pic: &PocketIc, canister: Principal) -> [u32; 3] {
    counters(&pic.update_call(canister, anyone(), "inc", vec![]).unwrap())
}

fn read(pic: &PocketIc, canister: Principal) -> [u32; 3] {
    counters(&pic.query_call(canister, anyone(), "read", vec![]).unwrap())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, RejectResponse>, code: ErrorCode) {
    assert_eq!(result.unwrap_err().error_code, code);
}

/// The argument of the test canister's calling methods.
fn call_arg(callee: Principal, method: &str, payload: &[u8]) -> Vec<u8> {
    let callee = callee.as_slice();
    [&[callee.len() as u8], callee, &[method.len() as u8], method.as_bytes(), payload].concat()
}

// The instance.

#[test]
fn an_instance_has_the_subnets_that_were_asked_for() {
    let pic = bare()
        .with_nns_subnet()
        .with_sns_subnet()
        .with_ii_subnet()
        .with_fiduciary_subnet()
        .with_bitcoin_subnet()
        .with_system_subnet()
        .with_application_subnet()
        .with_application_subnet()
        .with_verified_application_subnet()
        .build();
    let topology = pic.topology();
    assert_eq!(topology.subnet_configs.len(), 9);
    assert_eq!(topology.get_app_subnets().len(), 2);
    assert_eq!(topology.get_system_subnets().len(), 1);
    assert_eq!(topology.get_verified_app_subnets().len(), 1);
    for subnet in [topology.get_nns(), topology.get_sns(), topology.get_ii()] {
        assert!(topology.subnet_configs.contains_key(&subnet.unwrap()));
    }
    assert!(topology.get_fiduciary().is_some() && topology.get_bitcoin().is_some());
}

#[test]
fn benchmarking_subnets_are_subnets_too() {
    let pic =
        bare().with_benchmarking_application_subnet().with_benchmarking_system_subnet().build();
    let topology = pic.topology();
    assert_eq!(topology.get_app_subnets().len() + topology.get_system_subnets().len(), 2);
}

#[test]
fn only_an_nns_brings_a_root_key() {
    assert_eq!(bare().with_application_subnet().build().root_key(), None);
    assert_eq!(builder().build().root_key().unwrap().len(), 133);
}

#[test]
fn instances_of_one_process_share_a_server() {
    let (first, second) = (builder().build(), builder().build());
    assert_eq!(first.get_server_url(), second.get_server_url());
    assert_ne!(first.instance_id(), second.instance_id());
    let listed = PocketIc::list_instances();
    assert_eq!(listed[first.instance_id()], "Available");
    let again =
        PocketIc::new_from_existing_instance(first.get_server_url(), first.instance_id(), None);
    assert_eq!(again.topology(), first.topology());
}

#[test]
fn a_state_directory_goes_on_where_it_ended() {
    let pic = builder().with_state(PocketIcState::new()).build();
    let canister = install(&pic);
    inc(&pic, canister);
    let (root_key, subnets) = (pic.root_key(), pic.topology().subnet_configs.len());
    let state = pic.drop_and_take_state().unwrap();
    let pic = bare().with_state(state).build();
    assert_eq!(read(&pic, canister), [1, 1, 1]);
    assert_eq!((pic.root_key(), pic.topology().subnet_configs.len()), (root_key, subnets));
    assert_ne!(pic.create_canister(), canister);
}

#[test]
fn a_copied_state_does_not_change_its_original() {
    let folder = tempfile::tempdir().unwrap();
    let pic = builder().with_state_dir(folder.path().to_owned()).build();
    let canister = install(&pic);
    drop(pic);
    let original = PocketIcState::new_from_path(folder.path().to_owned());
    for _ in 0..2 {
        let pic = bare().with_read_only_state(&original).build();
        assert_eq!(inc(&pic, canister), [1, 1, 1]);
    }
}

// Time.

#[test]
fn time_begins_where_it_is_told_and_moves_when_it_is_told() {
    let begin = 1_700_000_000_000_000_000;
    let pic = builder().with_initial_time(Time::from_nanos_since_unix_epoch(begin)).build();
    assert!(pic.get_time().as_nanos_since_unix_epoch() - begin < 1_000_000_000);
    let before = pic.get_time();
    pic.advance_time(Duration::from_secs(10));
    pic.tick();
    pic.tick_with_configs(TickConfigs::default());
    let passed = pic.get_time().as_nanos_since_unix_epoch() - before.as_nanos_since_unix_epoch();
    assert!((10_000_000_000..11_000_000_000).contains(&passed), "{passed}");
    let later = |seconds: u64| Time::from_nanos_since_unix_epoch(begin + seconds * 1_000_000_000);
    pic.set_time(later(100));
    assert_eq!(pic.get_time(), later(100));
    pic.set_certified_time(later(200));
    assert!(pic.get_time() >= later(200));
}

#[test]
fn a_timer_fires_in_a_round_after_its_time() {
    let (pic, canister) = with_canister();
    let delay: u64 = 5_000_000_000;
    pic.update_call(canister, anyone(), "set_timer", delay.to_le_bytes().to_vec()).unwrap();
    pic.tick();
    assert_eq!(read(&pic, canister), [0, 0, 0]);
    pic.advance_time(Duration::from_secs(6));
    for _ in 0..3 {
        pic.tick();
    }
    assert_eq!(read(&pic, canister), [1, 1, 1]);
}

// Canisters.

#[test]
fn canisters_are_created_where_they_are_asked_for() {
    let pic = builder().with_system_subnet().build();
    let topology = pic.topology();
    let (app, system) = (topology.get_app_subnets()[0], topology.get_system_subnets()[0]);
    assert_eq!(pic.get_subnet(pic.create_canister()), Some(app));
    let placed = pic.create_canister_on_subnet(Some(alice()), None, system);
    assert_eq!(pic.get_subnet(placed), Some(system));
    assert_eq!(pic.get_controllers(placed), [alice()]);
    let both =
        CanisterSettings { controllers: Some(vec![anyone(), alice()]), ..Default::default() };
    let shared = pic.create_canister_with_settings(None, Some(both));
    let mut controllers = pic.get_controllers(shared);
    controllers.sort();
    let mut expected = vec![anyone(), alice()];
    expected.sort();
    assert_eq!(controllers, expected);
    let params = CreateCanisterParams {
        cycles: Some(7 * TRILLION),
        placement: Some(CreateCanisterPlacement::SubnetId(system)),
        ..Default::default()
    };
    let rich = pic.create_canister_with_params(None, params).unwrap();
    assert_eq!((pic.get_subnet(rich), pic.cycle_balance(rich)), (Some(system), 7 * TRILLION));
}

#[test]
fn a_canister_gets_the_id_that_was_asked_for_once() {
    let pic = builder().build();
    let id = Principal::from_text("rwlgt-iiaaa-aaaaa-aaaaa-cai").unwrap();
    assert!(!pic.canister_exists(id));
    assert_eq!(pic.get_subnet(id), None);
    assert_eq!(pic.create_canister_with_id(None, None, id), Ok(id));
    assert!(pic.canister_exists(id));
    assert_eq!(pic.get_subnet(id), pic.topology().get_nns());
    assert!(pic.create_canister_with_id(None, None, id).is_err());
}

#[test]
fn controllers_are_set_by_controllers() {
    let (pic, canister) = with_canister();
    pic.set_controllers(canister, None, vec![alice()]).unwrap();
    assert_eq!(pic.get_controllers(canister), [alice()]);
    let denied = pic.set_controllers(canister, None, vec![anyone()]);
    refused(denied, ErrorCode::CanisterInvalidController);
    let settings =
        CanisterSettings { freezing_threshold: Some(86_400u64.into()), ..Default::default() };
    pic.update_canister_settings(canister, Some(alice()), settings).unwrap();
    let status = pic.canister_status(canister, Some(alice())).unwrap();
    assert_eq!(status.settings.freezing_threshold, 86_400u64);
    refused(pic.canister_status(canister, None), ErrorCode::CanisterInvalidController);
}

#[test]
fn code_is_installed_upgraded_reinstalled_and_removed() {
    let (pic, canister) = with_canister();
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
    pic.upgrade_canister(canister, wasm(), vec![], None).unwrap();
    assert_eq!(inc(&pic, canister), [1, 1, 2], "stable memory stays");
    pic.reinstall_canister(canister, wasm(), vec![], None).unwrap();
    assert_eq!(inc(&pic, canister), [1, 1, 1], "nothing stays");
    let denied = pic.upgrade_canister(canister, wasm(), vec![], Some(alice()));
    refused(denied, ErrorCode::CanisterInvalidController);
    let nonsense = pic.upgrade_canister(canister, b"no wasm at all".to_vec(), vec![], None);
    refused(nonsense, ErrorCode::CanisterInvalidWasm);
    assert_eq!(read(&pic, canister), [1, 1, 1]);
    pic.uninstall_canister(canister, None).unwrap();
    let gone = pic.update_call(canister, anyone(), "inc", vec![]);
    refused(gone, ErrorCode::CanisterWasmModuleNotFound);
}

#[test]
fn code_comes_in_chunks() {
    use sha2::{Digest, Sha256};
    let pic = builder().build();
    let canister = pic.create_canister();
    pic.add_cycles(canister, 100 * TRILLION);
    let wasm = wasm();
    let upload = |chunk: &[u8]| pic.upload_chunk(canister, None, chunk.to_vec()).unwrap();
    let hashes: Vec<Vec<u8>> = wasm.chunks(1000).map(upload).collect();
    let mut stored = pic.stored_chunks(canister, None).unwrap();
    stored.sort();
    let mut expected = hashes.clone();
    expected.sort();
    assert_eq!(stored, expected);
    let hash = Sha256::digest(&wasm).to_vec();
    let mode = CanisterInstallMode::Install;
    let installed =
        pic.install_chunked_canister(canister, None, mode, canister, hashes, hash.clone(), vec![]);
    installed.unwrap();
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
    assert_eq!(pic.canister_status(canister, None).unwrap().module_hash, Some(hash));
    pic.clear_chunk_store(canister, None).unwrap();
    assert!(pic.stored_chunks(canister, None).unwrap().is_empty());
}

#[test]
fn a_canister_is_stopped_started_and_deleted() {
    let (pic, canister) = with_canister();
    pic.stop_canister(canister, None).unwrap();
    let stopped = pic.update_call(canister, anyone(), "inc", vec![]);
    refused(stopped, ErrorCode::CanisterStopped);
    pic.start_canister(canister, None).unwrap();
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
    refused(pic.delete_canister(canister, None), ErrorCode::CanisterNotStopped);
    pic.stop_canister(canister, None).unwrap();
    pic.delete_canister(canister, None).unwrap();
    assert!(!pic.canister_exists(canister));
    let gone = pic.update_call(canister, anyone(), "inc", vec![]);
    refused(gone, ErrorCode::CanisterNotFound);
}

#[test]
fn cycles_are_added_and_used() {
    let (pic, canister) = with_canister();
    let before = pic.cycle_balance(canister);
    assert!(pic.add_cycles(canister, TRILLION) >= before);
    let full = pic.cycle_balance(canister);
    assert!((before..=before + TRILLION).contains(&full) && full > before);
    inc(&pic, canister);
    assert!(pic.cycle_balance(canister) < full);
}

#[test]
fn stable_memory_is_read_and_replaced_from_outside() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    assert_eq!(pic.get_stable_memory(canister)[..4], 1u32.to_le_bytes());
    let mut page = vec![0; 65_536];
    page[0] = 9;
    pic.set_stable_memory(canister, page, BlobCompression::NoCompression);
    assert_eq!(read(&pic, canister), [1, 1, 9]);
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    let mut more_than_a_module_may_have = vec![0; 101 << 20];
    more_than_a_module_may_have[0] = 7;
    zipped.write_all(&more_than_a_module_may_have).unwrap();
    pic.set_stable_memory(canister, zipped.finish().unwrap(), BlobCompression::Gzip);
    assert_eq!(read(&pic, canister)[2], 7);
    let blob = pic.upload_blob(b"some bytes".to_vec(), BlobCompression::NoCompression);
    assert_eq!(blob.0.len(), 32);
}

#[test]
fn logs_tell_what_was_printed_and_what_trapped() {
    let (pic, canister) = with_canister();
    pic.update_call(canister, anyone(), "log", b"hello".to_vec()).unwrap();
    pic.update_call(canister, anyone(), "inc_and_trap", vec![]).unwrap_err();
    let logs = pic.fetch_canister_logs(canister, anyone()).unwrap();
    let logs: Vec<String> =
        logs.iter().map(|r| String::from_utf8_lossy(&r.content).into_owned()).collect();
    assert_eq!(logs[0], "hello");
    assert!(logs[1].contains("boom"), "{logs:?}");
    refused(pic.fetch_canister_logs(canister, alice()), ErrorCode::CanisterRejectedMessage);
}

#[test]
fn a_snapshot_brings_memory_back() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    pic.stop_canister(canister, None).unwrap();
    let snapshot = pic.take_canister_snapshot(canister, None, None).unwrap();
    pic.start_canister(canister, None).unwrap();
    inc(&pic, canister);
    pic.stop_canister(canister, None).unwrap();
    let listed = pic.list_canister_snapshots(canister, None).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, snapshot.id);
    pic.load_canister_snapshot(canister, None, snapshot.id.clone()).unwrap();
    pic.start_canister(canister, None).unwrap();
    assert_eq!(read(&pic, canister), [1, 1, 1]);
    pic.delete_canister_snapshot(canister, None, snapshot.id).unwrap();
    assert!(pic.list_canister_snapshots(canister, None).unwrap().is_empty());
}

// Calls.

#[test]
fn calls_are_submitted_awaited_and_looked_up() {
    let (pic, canister) = with_canister();
    let id = pic.submit_call(canister, alice(), "inc", vec![]).unwrap();
    assert_eq!(pic.ingress_status(id.clone()), None);
    assert_eq!(counters(&pic.await_call(id.clone()).unwrap()), [1, 1, 1]);
    assert!(pic.ingress_status(id.clone()).unwrap().is_ok());
    match pic.ingress_status_as(id.clone(), alice()) {
        IngressStatusResult::Success(answer) => assert!(answer.is_ok()),
        _ => panic!("its sender may see it"),
    }
    let another = pic.ingress_status_as(id.clone(), anyone());
    assert!(matches!(another, IngressStatusResult::Forbidden(_)));
    assert_eq!(counters(&pic.await_call_no_ticks(id).unwrap()), [1, 1, 1]);
    let id = pic
        .submit_call_with_effective_principal(canister, effective(canister), alice(), "inc", vec![])
        .unwrap();
    assert_eq!(counters(&pic.await_call(id).unwrap()), [2, 2, 2]);
}

#[test]
fn calls_name_an_effective_principal() {
    let (pic, canister) = with_canister();
    let (who, to) = (alice(), effective(canister));
    let updated =
        pic.update_call_with_effective_principal(canister, to.clone(), who, "inc", vec![]);
    assert_eq!(counters(&updated.unwrap()), [1, 1, 1]);
    let asked = pic.query_call_with_effective_principal(canister, to, who, "whoami", vec![]);
    assert_eq!(asked.unwrap(), alice().as_slice());
}

#[test]
fn candid_is_encoded_and_decoded() {
    let (pic, canister) = with_canister();
    let told = (7u64, "text".to_owned());
    let echo = || told.clone();
    let to = effective(canister);
    let answers: [Result<(u64, String), RejectResponse>; 4] = [
        pocket_ic::update_candid(&pic, canister, "echo", echo()),
        pocket_ic::update_candid_as(&pic, canister, alice(), "echo", echo()),
        pocket_ic::call_candid(&pic, canister, to.clone(), "echo", echo()),
        pocket_ic::call_candid_as(&pic, canister, to, alice(), "echo", echo()),
    ];
    for answer in answers {
        assert_eq!(answer.unwrap(), told);
    }
    let asked: Result<(u64,), _> = pocket_ic::query_candid(&pic, canister, "http_request", ());
    assert_eq!(asked.unwrap(), (42,));
    let asked: Result<(u64,), _> =
        pocket_ic::query_candid_as(&pic, canister, alice(), "http_request", ());
    assert_eq!(asked.unwrap(), (42,));
}

#[test]
fn failures_have_their_codes() {
    let (pic, canister) = with_canister();
    let failing = [
        ("nope", ErrorCode::CanisterMethodNotFound),
        ("inc_and_trap", ErrorCode::CanisterCalledTrap),
        ("inc_and_unreachable", ErrorCode::CanisterTrapped),
        ("silent", ErrorCode::CanisterDidNotReply),
        ("refuse", ErrorCode::CanisterRejectedMessage),
    ];
    for (method, code) in failing {
        refused(pic.update_call(canister, anyone(), method, vec![]), code);
    }
    refused(pic.query_call(canister, anyone(), "nope", vec![]), ErrorCode::CanisterMethodNotFound);
    let in_query = pic.query_call(canister, anyone(), "certify_in_query", vec![]);
    refused(in_query, ErrorCode::CanisterContractViolation);
    assert_eq!(read(&pic, canister), [0, 0, 0]);
}

#[test]
fn canisters_call_each_other_within_and_across_subnets() {
    let pic = builder().with_application_subnet().build();
    let canisters: Vec<Principal> = pic
        .topology()
        .get_app_subnets()
        .into_iter()
        .map(|subnet| {
            let canister = pic.create_canister_on_subnet(None, None, subnet);
            pic.add_cycles(canister, 100 * TRILLION);
            pic.install_canister(canister, wasm(), vec![], None);
            canister
        })
        .collect();
    for callee in &canisters {
        let arg = call_arg(*callee, "echo", b"there and back");
        let told = pic.update_call(canisters[0], anyone(), "call", arg).unwrap();
        assert_eq!(told, b"there and back");
    }
    let arg = call_arg(canisters[1], "refuse", &[]);
    let told = pic.update_call(canisters[0], anyone(), "call", arg).unwrap();
    assert_eq!(told, b"\x04boom");
}

#[test]
fn an_outcall_waits_for_the_test_to_answer_it() {
    use ic_management_canister_types::{HttpRequestArgs, HttpRequestResult};
    let pic = builder().build();
    // On a system subnet, where it costs nothing.
    let nns = pic.topology().get_nns().unwrap();
    let canister = pic.create_canister_on_subnet(None, None, nns);
    pic.install_canister(canister, wasm(), vec![], None);
    let args =
        HttpRequestArgs { url: "https://example.com/rates".to_owned(), ..Default::default() };
    let arg = candid::encode_one(args).unwrap();
    let arg = call_arg(Principal::management_canister(), "http_request", &arg);
    let id = pic.submit_call(canister, anyone(), "call", arg).unwrap();
    for _ in 0..3 {
        pic.tick();
    }
    let pending = pic.get_canister_http();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].url, "https://example.com/rates");
    pic.mock_canister_http_response(MockCanisterHttpResponse {
        subnet_id: pending[0].subnet_id,
        request_id: pending[0].request_id,
        response: CanisterHttpResponse::CanisterHttpReply(CanisterHttpReply {
            status: 200,
            headers: vec![],
            body: b"1.5".to_vec(),
        }),
        additional_responses: vec![],
    });
    let answer: HttpRequestResult = candid::decode_one(&pic.await_call(id).unwrap()).unwrap();
    assert_eq!((answer.status, answer.body), (200u8.into(), b"1.5".to_vec()));
    assert!(pic.get_canister_http().is_empty());
}

#[test]
fn a_signature_that_is_none_does_not_verify() {
    let pic = builder().build();
    let root_key = pic.root_key().unwrap();
    let checked =
        pic.verify_canister_signature(b"message".to_vec(), vec![1; 48], vec![2; 48], root_key);
    assert!(checked.is_err());
}

// Live.

#[test]
fn auto_progress_follows_the_clock() {
    let (pic, canister) = with_canister();
    assert!(!pic.auto_progress_enabled());
    assert_eq!(pic.url(), None);
    pic.auto_progress();
    assert!(pic.auto_progress_enabled());
    let id = pic.submit_call(canister, anyone(), "inc", vec![]).unwrap();
    assert_eq!(counters(&pic.await_call_no_ticks(id).unwrap()), [1, 1, 1]);
    pic.stop_progress();
    assert!(!pic.auto_progress_enabled());
}

#[test]
fn a_live_instance_has_a_gateway_until_it_is_stopped() {
    let (mut pic, canister) = with_canister();
    let url = pic.make_live(None);
    assert_eq!(pic.url(), Some(url.clone()));
    assert_eq!(pic.make_live(None), url, "it is live already");
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
    pic.stop_live();
    assert!(!pic.auto_progress_enabled());
    let localhost = "127.0.0.1".parse().ok();
    let url = pic.make_live_with_params(localhost, url.port(), None, None);
    assert_eq!(pic.url(), Some(url));
    pic.stop_live();
}

#[test]
fn an_instance_can_be_live_from_the_start() {
    let gateway = InstanceHttpGatewayConfig {
        ip_addr: None,
        port: None,
        domains: None,
        https_config: None,
        domain_custom_provider_local_file: None,
    };
    let pic = builder().with_auto_progress().with_http_gateway(gateway).build();
    assert!(pic.auto_progress_enabled() && pic.url().is_some());
    let subnet = pic.topology().get_app_subnets()[0];
    let canister = pic.create_canister();
    pic.add_cycles(canister, 100 * TRILLION);
    let metrics = pic.get_subnet_metrics(subnet).unwrap();
    assert_eq!(metrics.num_canisters, 1);
}

#[test]
fn management_methods_are_called_as_any_other() {
    let (pic, canister) = with_canister();
    #[derive(CandidType)]
    struct Record {
        canister_id: Principal,
    }
    let arg = candid::encode_one(Record { canister_id: canister }).unwrap();
    let status = pic.update_call_with_effective_principal(
        Principal::management_canister(),
        effective(canister),
        anyone(),
        "canister_status",
        arg,
    );
    assert!(!status.unwrap().is_empty());
    let unknown = pic.update_call_with_effective_principal(
        Principal::management_canister(),
        effective(canister),
        anyone(),
        "no_such_method",
        candid::encode_args(()).unwrap(),
    );
    refused(unknown, ErrorCode::CanisterMethodNotFound);
}
