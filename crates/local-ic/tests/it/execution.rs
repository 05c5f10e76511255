//! What a message does to its canister, and what a failed one does not.

use std::time::Duration;

use candid::Principal;
use pocket_ic::{ErrorCode, RejectCode};

use crate::support::*;

#[test]
fn an_update_changes_heap_global_and_stable_memory() {
    let (pic, canister) = with_canister();
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
    assert_eq!(inc(&pic, canister), [2, 2, 2]);
    assert_eq!(read(&pic, canister), [2, 2, 2]);
}

#[test]
fn a_query_changes_nothing() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    let seen = query(&pic, canister, "inc_in_query", &[]).unwrap();
    assert_eq!(counters(&seen), [2, 2, 2]);
    assert_eq!(read(&pic, canister), [1, 1, 1]);
    let replicated = update(&pic, canister, "inc_in_query", &[]).unwrap();
    assert_eq!(counters(&replicated), [2, 2, 2]);
    assert_eq!(read(&pic, canister), [1, 1, 1]);
}

#[test]
fn a_trap_takes_back_heap_global_and_stable_memory() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    let trapped = update(&pic, canister, "inc_and_unreachable", &[]).unwrap_err();
    assert_eq!(trapped.error_code, ErrorCode::CanisterTrapped);
    assert_eq!(trapped.reject_code, RejectCode::CanisterError);
    assert!(trapped.certified);
    assert!(trapped.reject_message.contains("unreachable"));
    let trapped = update(&pic, canister, "inc_and_trap", &[]).unwrap_err();
    assert_eq!(trapped.error_code, ErrorCode::CanisterCalledTrap);
    assert!(trapped.reject_message.contains("with message: 'boom'"));
    assert_eq!(read(&pic, canister), [1, 1, 1]);
}

#[test]
fn stable_memory_survives_an_upgrade_and_the_heap_does_not() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    pic.upgrade_canister(canister, canister_wasm(), vec![], None).unwrap();
    assert_eq!(read(&pic, canister), [0, 0, 1]);
    pic.reinstall_canister(canister, canister_wasm(), vec![], None).unwrap();
    assert_eq!(read(&pic, canister), [0, 0, 0]);
}

#[test]
fn an_endless_loop_hits_the_instruction_limit() {
    let (pic, canister) = with_canister();
    let before = pic.cycle_balance(canister);
    let limited = update(&pic, canister, "spin", &[]).unwrap_err();
    assert_eq!(limited.error_code, ErrorCode::CanisterInstructionLimitExceeded);
    let spent = before - pic.cycle_balance(canister);
    assert!((40_000_000_000..40_100_000_000).contains(&spent), "{spent}");
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
}

#[test]
fn a_canister_that_does_not_answer_is_answered_for() {
    let (pic, canister) = with_canister();
    let silent = update(&pic, canister, "silent", &[]).unwrap_err();
    assert_eq!(silent.error_code, ErrorCode::CanisterDidNotReply);
    let refused = update(&pic, canister, "refuse", &[]).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::CanisterRejectedMessage);
    assert_eq!(refused.reject_message, "boom");
}

#[test]
fn what_is_not_there_cannot_be_called() {
    let (pic, canister) = with_canister();
    let code = |result: Result<Vec<u8>, pocket_ic::RejectResponse>| result.unwrap_err().error_code;
    assert_eq!(code(update(&pic, canister, "nope", &[])), ErrorCode::CanisterMethodNotFound);
    assert_eq!(code(query(&pic, canister, "inc", &[])), ErrorCode::CanisterMethodNotFound);
    let empty = pic.create_canister();
    assert_eq!(code(update(&pic, empty, "inc", &[])), ErrorCode::CanisterWasmModuleNotFound);
    let nobody = Principal::from_text("rrkah-fqaaa-aaaaa-aaaaq-cai").unwrap();
    assert_eq!(code(update(&pic, nobody, "inc", &[])), ErrorCode::CanisterNotFound);
}

#[test]
fn a_system_call_in_the_wrong_place_violates_the_contract() {
    let (pic, canister) = with_canister();
    let refused = query(&pic, canister, "certify_in_query", &[]).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::CanisterContractViolation);
    assert!(
        refused
            .reject_message
            .contains("\"ic0_certified_data_set\" cannot be executed in non replicated query mode")
    );
}

#[test]
fn an_unknown_import_is_refused() {
    let pic = builder().build();
    let canister = pic.create_canister();
    let wasm = wat::parse_str(r#"(module (import "ic0" "nonsense" (func)))"#).unwrap();
    let refused = pic.reinstall_canister(canister, wasm, vec![], None).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::CanisterInvalidWasm);
    assert!(refused.reject_message.contains("nonsense"));
}

#[test]
fn a_timer_fires_when_its_time_has_come() {
    let (pic, canister) = with_canister();
    let delay: u64 = 5_000_000_000;
    update(&pic, canister, "set_timer", &delay.to_le_bytes()).unwrap();
    pic.tick();
    assert_eq!(read(&pic, canister), [0, 0, 0]);
    pic.advance_time(Duration::from_secs(6));
    pic.tick();
    assert_eq!(read(&pic, canister), [1, 1, 1]);
    pic.advance_time(Duration::from_secs(6));
    pic.tick();
    assert_eq!(read(&pic, canister), [1, 1, 1], "it was set once");
}

#[test]
fn the_performance_counter_counts_what_the_replica_counts() {
    let (pic, canister) = with_canister();
    let bytes = update(&pic, canister, "counter_twice", &[]).unwrap();
    let at = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().unwrap());
    // Two constants, the call and the store, and the second call's own 200.
    assert_eq!(at(8) - at(0), 1 + 1 + 1 + 5 + 200);
}

#[test]
fn logs_keep_what_was_printed_and_why_a_message_failed() {
    let (pic, canister) = with_canister();
    update(&pic, canister, "log", b"hello").unwrap();
    update(&pic, canister, "inc_and_trap", &[]).unwrap_err();
    let logs = pic.fetch_canister_logs(canister, anyone()).unwrap();
    let texts: Vec<_> =
        logs.iter().map(|record| String::from_utf8_lossy(&record.content)).collect();
    assert_eq!(texts, ["hello", "[TRAP]: boom"]);
    let stranger = Principal::self_authenticating([1; 32]);
    assert!(pic.fetch_canister_logs(canister, stranger).is_err());
}

#[test]
fn time_is_what_the_test_says() {
    let (pic, canister) = with_canister();
    let start = pic.get_time();
    pic.advance_time(Duration::from_secs(60));
    assert_eq!(pic.get_time(), start + Duration::from_secs(60));
    inc(&pic, canister);
    assert!(pic.get_time() < start + Duration::from_secs(61));
}

#[test]
fn inspect_message_decides_what_comes_in() {
    let pic = builder().build();
    let canister = pic.create_canister();
    // Accepts methods whose name has three letters.
    let wasm = wat::parse_str(
        r#"(module
            (import "ic0" "msg_method_name_size" (func $size (result i32)))
            (import "ic0" "accept_message" (func $accept))
            (import "ic0" "msg_reply" (func $reply))
            (func (export "canister_inspect_message")
                (if (i32.eq (call $size) (i32.const 3)) (then (call $accept))))
            (func (export "canister_update yes") (call $reply))
            (func (export "canister_update no") (call $reply)))"#,
    );
    pic.install_canister(canister, wasm.unwrap(), vec![], None);
    update(&pic, canister, "yes", &[]).unwrap();
    let refused = update(&pic, canister, "no", &[]).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::CanisterRejectedMessage);
    assert!(!refused.certified);
}

#[test]
fn a_canister_below_its_freezing_threshold_takes_no_calls() {
    let (pic, canister) = with_canister();
    let settings = ic_management_canister_types::CanisterSettings {
        freezing_threshold: Some(u64::MAX.into()),
        ..Default::default()
    };
    let args = ic_management_canister_types::UpdateSettingsArgs {
        canister_id: canister,
        settings,
        sender_canister_version: None,
    };
    pic.update_call_with_effective_principal(
        Principal::management_canister(),
        pocket_ic::common::rest::RawEffectivePrincipal::None,
        anyone(),
        "update_settings",
        candid::encode_one(args).unwrap(),
    )
    .unwrap();
    for refused in [update(&pic, canister, "inc", &[]), query(&pic, canister, "read", &[])] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.error_code, ErrorCode::CanisterOutOfCycles);
    }
}
