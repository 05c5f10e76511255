//! Settings that decide what a canister may do.

use candid::{Nat, Principal};
use ic_management_canister_types::{CanisterSettings, EnvironmentVariable, UpdateSettingsArgs};
use pocket_ic::common::rest::RawEffectivePrincipal;
use pocket_ic::{ErrorCode, PocketIc, RejectResponse};

use crate::support::*;

const CANISTER: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "env_var_value_size" (func $value_size (param i32 i32) (result i32)))
    (import "ic0" "env_var_value_copy" (func $value_copy (param i32 i32 i32 i32 i32)))
    (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
    (memory 1)
    (global $warnings (mut i32) (i32.const 0))
    (data (i32.const 64) "STAGE")
    (func $answer (param i32)
        (i32.store (i32.const 0) (local.get 0))
        (call $append (i32.const 0) (i32.const 4))
        (call $reply))
    (func (export "canister_on_low_wasm_memory")
        (global.set $warnings (i32.add (global.get $warnings) (i32.const 1))))
    (func (export "canister_query warnings") (call $answer (global.get $warnings)))
    (func (export "canister_update grow") (call $answer (memory.grow (i32.const 1))))
    (func (export "canister_query grow_in_query") (call $answer (memory.grow (i32.const 9))))
    (func (export "canister_update grow_stable_by_400_gib")
        (drop (call $stable_grow (i64.const 6553600))) (call $answer (i32.const 0)))
    (func (export "canister_query stage")
        (call $value_copy (i32.const 64) (i32.const 5) (i32.const 128) (i32.const 0)
            (call $value_size (i32.const 64) (i32.const 5)))
        (call $append (i32.const 128) (call $value_size (i32.const 64) (i32.const 5)))
        (call $reply)))"#;

const WASM_PAGE: u64 = 65536;

fn with_small_canister() -> (PocketIc, Principal) {
    let pic = builder().build();
    let canister = pic.create_canister();
    pic.install_canister(canister, wat::parse_str(CANISTER).unwrap(), vec![], None);
    (pic, canister)
}

fn set(pic: &PocketIc, id: Principal, settings: CanisterSettings) -> Result<(), RejectResponse> {
    let args = UpdateSettingsArgs { canister_id: id, settings, sender_canister_version: None };
    pic.update_call_with_effective_principal(
        Principal::management_canister(),
        RawEffectivePrincipal::CanisterId(id.as_slice().to_vec()),
        anyone(),
        "update_settings",
        candid::encode_one(args).unwrap(),
    )
    .map(drop)
}

fn heap_settings(limit_pages: u64, threshold_pages: u64) -> CanisterSettings {
    CanisterSettings {
        wasm_memory_limit: Some(Nat::from(limit_pages * WASM_PAGE)),
        wasm_memory_threshold: Some(Nat::from(threshold_pages * WASM_PAGE)),
        ..Default::default()
    }
}

fn warnings(pic: &PocketIc, canister: Principal) -> u32 {
    u32::from_le_bytes(query(pic, canister, "warnings", &[]).unwrap().try_into().unwrap())
}

#[test]
fn a_canister_is_warned_once_when_its_heap_is_nearly_full() {
    let (pic, canister) = with_small_canister();
    let grow = || update(&pic, canister, "grow", &[]);
    set(&pic, canister, heap_settings(4, 2)).unwrap();
    grow().unwrap();
    assert_eq!(warnings(&pic, canister), 0, "two of four pages are left, as the threshold says");
    grow().unwrap();
    assert_eq!(warnings(&pic, canister), 1);
    grow().unwrap();
    assert_eq!(warnings(&pic, canister), 1, "it has been told");
    assert_eq!(grow().unwrap_err().error_code, ErrorCode::CanisterWasmMemoryLimitExceeded);

    set(&pic, canister, heap_settings(10, 2)).unwrap();
    grow().unwrap();
    assert_eq!(warnings(&pic, canister), 1, "there is room again");
    set(&pic, canister, heap_settings(6, 2)).unwrap();
    pic.tick();
    assert_eq!(warnings(&pic, canister), 2, "so it is told again");
}

#[test]
fn a_stopped_canister_is_warned_when_it_runs_again() {
    let (pic, canister) = with_small_canister();
    pic.stop_canister(canister, None).unwrap();
    set(&pic, canister, heap_settings(2, 2)).unwrap();
    pic.tick();
    pic.start_canister(canister, None).unwrap();
    pic.tick();
    assert_eq!(warnings(&pic, canister), 1);
}

#[test]
fn the_limit_of_the_heap_holds_for_updates_and_not_for_queries() {
    let (pic, canister) = with_small_canister();
    set(&pic, canister, heap_settings(2, 0)).unwrap();
    update(&pic, canister, "grow", &[]).unwrap();
    let refused = update(&pic, canister, "grow", &[]).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::CanisterWasmMemoryLimitExceeded);
    query(&pic, canister, "grow_in_query", &[]).unwrap();
    set(&pic, canister, heap_settings(1, 0)).unwrap();
    let refused = update(&pic, canister, "grow", &[]).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::CanisterWasmMemoryLimitExceeded);
    assert!(refused.reject_message.contains("Wasm memory limit of 65536 bytes"));
}

#[test]
fn a_canister_reads_its_environment_variables() {
    let (pic, canister) = with_small_canister();
    let stage = || query(&pic, canister, "stage", &[]);
    assert_eq!(stage().unwrap_err().error_code, ErrorCode::CanisterContractViolation);
    for value in ["testing", "live"] {
        let variable = EnvironmentVariable { name: "STAGE".to_owned(), value: value.to_owned() };
        let environment_variables = Some(vec![variable]);
        let settings = CanisterSettings { environment_variables, ..Default::default() };
        set(&pic, canister, settings).unwrap();
        assert_eq!(stage().unwrap(), value.as_bytes());
    }
}

#[test]
fn calls_from_other_canisters_bring_what_the_callee_asks_for() {
    let (pic, caller) = with_canister();
    let callee = install(&pic);
    let minimum_incoming_canister_call_cycles = Some(Nat::from(1_000_000u32));
    let settings = CanisterSettings { minimum_incoming_canister_call_cycles, ..Default::default() };
    set(&pic, callee, settings).unwrap();
    inc(&pic, callee);
    let told = update(&pic, caller, "call", &call_arg(callee, "inc", &[])).unwrap();
    assert_eq!(told[0], 5);
    assert!(String::from_utf8_lossy(&told).contains("requires at least 1000000"));
    assert_eq!(read(&pic, callee), [1, 1, 1]);
    let with_cycles = call_arg(callee, "accept_half", &[]);
    assert_eq!(update(&pic, caller, "call_with_cycles", &with_cycles).unwrap().len(), 16);
    let itself = call_arg(callee, "echo", b"me");
    assert_eq!(update(&pic, callee, "call", &itself).unwrap(), b"me");
}

#[test]
fn nobody_takes_up_memory_that_would_freeze_the_canister() {
    let (pic, canister) = with_small_canister();
    let refused = update(&pic, canister, "grow_stable_by_400_gib", &[]).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::InsufficientCyclesInMemoryGrow);
    pic.add_cycles(canister, 200_000_000_000_000);
    update(&pic, canister, "grow_stable_by_400_gib", &[]).unwrap();
}

#[test]
fn nobody_reserves_what_would_freeze_the_canister() {
    let (pic, canister) = with_small_canister();
    let memory_allocation = Some(Nat::from(400u64 << 30));
    let memory = CanisterSettings { memory_allocation, ..Default::default() };
    let compute_allocation = Some(Nat::from(100u8));
    let compute = CanisterSettings { compute_allocation, ..Default::default() };
    let code = |settings| set(&pic, canister, settings).unwrap_err().error_code;
    assert_eq!(code(memory.clone()), ErrorCode::InsufficientCyclesInMemoryAllocation);
    assert_eq!(code(compute), ErrorCode::InsufficientCyclesInComputeAllocation);
    pic.add_cycles(canister, 200_000_000_000_000);
    set(&pic, canister, memory).unwrap();
}
