//! Creating, installing, stopping, and keeping instances on disk.

use std::time::Duration;

use candid::Principal;
use ic_management_canister_types::{CanisterSettings, CanisterStatusType};
use pocket_ic::common::rest::{BlobCompression, RawEffectivePrincipal};
use pocket_ic::{ErrorCode, PocketIcBuilder, PocketIcState};

use crate::support::*;

fn alice() -> Principal {
    Principal::self_authenticating([1; 32])
}

#[test]
fn canister_ids_and_ranges_are_those_of_the_official_server() {
    let pic = builder().build();
    let canister = pic.create_canister();
    assert_eq!(canister.to_text(), "7tjcv-pp777-77776-qaaaa-cai");
    let topology = pic.topology();
    let app = topology.get_app_subnets()[0];
    assert_eq!(topology.get_subnet(canister), Some(app));
    assert_eq!(pic.get_subnet(canister), Some(app));
    let nns = topology.get_nns().unwrap();
    let ledger = Principal::from_text("ryjl3-tyaaa-aaaaa-aaaba-cai").unwrap();
    assert_eq!(topology.get_subnet(ledger), Some(nns));
    assert_eq!(pic.create_canister_with_id(None, None, ledger), Ok(ledger));
    assert!(pic.create_canister_with_id(None, None, ledger).is_err());
    assert_eq!(pic.root_key().unwrap().len(), 133);
}

#[test]
fn an_id_of_no_subnet_gets_one() {
    let pic = builder().build();
    let id = Principal::from_text("rno2w-sqaaa-aaaaa-aaacq-cai").unwrap();
    assert!(pic.create_canister_with_id(None, None, id).is_ok());
    let elsewhere = Principal::from_text("aovwi-4maaa-aaaaa-qaagq-cai").unwrap();
    let before = pic.topology().subnet_configs.len();
    assert_eq!(pic.create_canister_with_id(None, None, elsewhere), Ok(elsewhere));
    assert_eq!(pic.topology().subnet_configs.len(), before + 1);
}

#[test]
fn only_a_controller_installs() {
    let pic = builder().build();
    let canister = pic.create_canister_with_settings(Some(alice()), None);
    let install = |sender| pic.reinstall_canister(canister, canister_wasm(), vec![], sender);
    let refused = install(None).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::CanisterInvalidController);
    install(Some(alice())).unwrap();
    assert_eq!(pic.get_controllers(canister), [alice()]);
    pic.set_controllers(canister, Some(alice()), vec![anyone()]).unwrap();
    install(None).unwrap();
}

#[test]
fn code_is_installed_once_unless_it_is_replaced() {
    let (pic, canister) = with_canister();
    let again = install_code(&pic, canister);
    assert_eq!(again.unwrap_err().error_code, ErrorCode::CanisterAlreadyInstalled);
    pic.uninstall_canister(canister, None).unwrap();
    let gone = update(&pic, canister, "inc", &[]).unwrap_err();
    assert_eq!(gone.error_code, ErrorCode::CanisterWasmModuleNotFound);
    install_code(&pic, canister).unwrap();
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
}

/// As `install_canister`, which panics when it is refused.
fn install_code(
    pic: &pocket_ic::PocketIc,
    canister: Principal,
) -> Result<Vec<u8>, pocket_ic::RejectResponse> {
    let args = ic_management_canister_types::InstallCodeArgs {
        mode: ic_management_canister_types::CanisterInstallMode::Install,
        canister_id: canister,
        wasm_module: canister_wasm(),
        arg: vec![],
        sender_canister_version: None,
    };
    pic.update_call_with_effective_principal(
        Principal::management_canister(),
        RawEffectivePrincipal::CanisterId(canister.as_slice().to_vec()),
        anyone(),
        "install_code",
        candid::encode_one(args).unwrap(),
    )
}

#[test]
fn a_module_larger_than_a_message_goes_through_the_chunk_store() {
    let pic = builder().build();
    let canister = pic.create_canister();
    let mut wasm = canister_wasm();
    // A custom section of three megabytes.
    wasm.extend_from_slice(&[0, 0xc4, 0x8d, 0xb7, 0x01, 3]);
    wasm.extend_from_slice(b"big");
    wasm.extend_from_slice(&vec![7; 3_000_000]);
    pic.install_canister(canister, wasm, vec![], None);
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
    assert_eq!(pic.stored_chunks(canister, None).unwrap().len(), 3);
}

#[test]
fn a_stopped_canister_takes_no_calls_until_it_is_started() {
    let (pic, canister) = with_canister();
    pic.stop_canister(canister, None).unwrap();
    let status = pic.canister_status(canister, None).unwrap();
    assert_eq!(format!("{:?}", status.status), format!("{:?}", CanisterStatusType::Stopped));
    for refused in [update(&pic, canister, "inc", &[]), query(&pic, canister, "read", &[])] {
        assert_eq!(refused.unwrap_err().error_code, ErrorCode::CanisterStopped);
    }
    pic.start_canister(canister, None).unwrap();
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
}

#[test]
fn a_canister_is_deleted_only_when_stopped() {
    let (pic, canister) = with_canister();
    let running = pic.delete_canister(canister, None).unwrap_err();
    assert_eq!(running.error_code, ErrorCode::CanisterNotStopped);
    pic.stop_canister(canister, None).unwrap();
    pic.delete_canister(canister, None).unwrap();
    assert!(!pic.canister_exists(canister));
}

#[test]
fn the_status_tells_settings_memory_and_cycles() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    let settings = CanisterSettings {
        freezing_threshold: Some(1_000_000u64.into()),
        wasm_memory_limit: Some(2_000_000_000u64.into()),
        ..Default::default()
    };
    let args = ic_management_canister_types::UpdateSettingsArgs {
        canister_id: canister,
        settings,
        sender_canister_version: None,
    };
    pic.update_call_with_effective_principal(
        Principal::management_canister(),
        RawEffectivePrincipal::CanisterId(canister.as_slice().to_vec()),
        anyone(),
        "update_settings",
        candid::encode_one(args).unwrap(),
    )
    .unwrap();
    let status = pic.canister_status(canister, None).unwrap();
    assert_eq!(status.settings.freezing_threshold, 1_000_000u64);
    assert_eq!(status.memory_metrics.wasm_memory_size, 65_536u64);
    assert_eq!(status.memory_metrics.stable_memory_size, 65_536u64);
    assert_eq!(status.module_hash.unwrap().len(), 32);
    assert!(status.cycles > 99_000_000_000_000u64 && status.idle_cycles_burned_per_day > 0u8);
}

#[test]
fn storage_is_paid_for() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    let before = pic.cycle_balance(canister);
    pic.advance_time(Duration::from_secs(86_400));
    pic.tick();
    assert!(pic.cycle_balance(canister) < before);
}

#[test]
fn stable_memory_can_be_read_and_replaced_from_outside() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    let stable = pic.get_stable_memory(canister);
    assert_eq!((stable.len(), &stable[..5]), (65_536, &[1, 0, 0, 0, 0][..]));
    pic.set_stable_memory(canister, 9u32.to_le_bytes().to_vec(), BlobCompression::NoCompression);
    assert_eq!(read(&pic, canister), [1, 1, 9]);
}

#[test]
fn a_state_directory_brings_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let state = || PocketIcState::new_from_path(dir.path().to_owned());
    let pic = builder().with_state(state()).build();
    let canister = install(&pic);
    inc(&pic, canister);
    let delay: u64 = 5_000_000_000;
    update(&pic, canister, "set_timer", &delay.to_le_bytes()).unwrap();
    let (root_key, time) = (pic.root_key(), pic.get_time());
    let cycles = pic.cycle_balance(canister);
    pic.drop_and_take_state();

    let pic = PocketIcBuilder::new().with_server_binary(binary()).with_state(state()).build();
    assert_eq!((pic.root_key(), pic.get_time()), (root_key, time));
    assert_eq!(pic.cycle_balance(canister), cycles);
    assert_eq!(read(&pic, canister), [1, 1, 1]);
    pic.advance_time(Duration::from_secs(6));
    pic.tick();
    assert_eq!(read(&pic, canister), [2, 2, 2], "the timer still runs");
    assert_ne!(pic.create_canister(), canister);
}

#[test]
fn a_call_on_its_way_survives_in_the_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let state = || PocketIcState::new_from_path(dir.path().to_owned());
    let pic = builder().with_state(state()).build();
    let canister = install(&pic);
    let id = pic.submit_call(canister, anyone(), "inc", vec![]).unwrap();
    pic.drop_and_take_state();
    let pic = builder().with_state(state()).build();
    assert_eq!(counters(&pic.await_call(id).unwrap()), [1, 1, 1]);
}

#[test]
fn an_answer_belongs_to_its_sender() {
    let (pic, canister) = with_canister();
    let id = pic.submit_call(canister, alice(), "inc", vec![]).unwrap();
    assert_eq!(pic.ingress_status(id.clone()), None);
    pic.tick();
    assert!(pic.ingress_status(id.clone()).unwrap().is_ok());
    let other = pic.ingress_status_as(id, anyone());
    assert!(matches!(other, pocket_ic::IngressStatusResult::Forbidden(_)));
}

#[test]
fn what_is_not_supported_says_so() {
    let pic = builder().build();
    for method in ["sign_with_ecdsa", "vetkd_derive_key", "bitcoin_get_balance"] {
        let refused = update(&pic, Principal::management_canister(), method, &[]).unwrap_err();
        assert!(refused.reject_message.contains("not supported by local-ic"), "{method}");
    }
}

#[test]
fn the_cycles_ledger_creates_canisters_for_icp() {
    use candid::{CandidType, Decode, Encode, Nat};

    #[derive(CandidType)]
    struct Args {
        amount: Nat,
    }
    #[derive(CandidType, serde::Deserialize)]
    enum CreateResult {
        Ok { canister_id: Principal },
    }
    let pic = builder().with_ii_subnet().build();
    let minting = Principal::from_text("rkp4c-7iaaa-aaaaa-aaaca-cai").unwrap();
    let unit = candid::encode_args(()).unwrap();
    let subnets = query(&pic, minting, "get_default_subnets", &unit).unwrap();
    let subnets = Decode!(&subnets, Vec<Principal>).unwrap();
    assert_eq!(subnets, pic.topology().get_app_subnets());
    let ledger = Principal::from_text("um5iw-rqaaa-aaaaq-qaaba-cai").unwrap();
    let args = Encode!(&Args { amount: 1_000_000_000_000u64.into() });
    let created = pic.update_call(ledger, alice(), "create_canister", args.unwrap());
    let CreateResult::Ok { canister_id } = Decode!(&created.unwrap(), CreateResult).unwrap();
    assert_eq!(pic.get_controllers(canister_id), [alice()]);
    let refused = query(&pic, ledger, "icrc1_name", &unit).unwrap_err();
    assert!(refused.reject_message.contains("not supported by local-ic"));
}
