//! Snapshots: what a canister was comes back, whatever happened since.

use candid::Principal;
use ic_management_canister_types::{
    CanisterTimer, ReadCanisterSnapshotDataArgs, ReadCanisterSnapshotDataResult,
    ReadCanisterSnapshotMetadataArgs, ReadCanisterSnapshotMetadataResult, SnapshotDataKind,
};
use pocket_ic::{ErrorCode, PocketIc, PocketIcBuilder, PocketIcState};

use crate::support::*;

fn take(pic: &PocketIc, canister: Principal) -> Vec<u8> {
    pic.take_canister_snapshot(canister, None, None).unwrap().id
}

#[test]
fn a_loaded_snapshot_brings_back_code_heap_globals_and_stable_memory() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    let snapshot = take(&pic, canister);
    inc(&pic, canister);
    let trivial = wat::parse_str(r#"(module (memory 1))"#).unwrap();
    pic.reinstall_canister(canister, trivial, vec![], None).unwrap();
    pic.load_canister_snapshot(canister, None, snapshot.clone()).unwrap();
    assert_eq!(read(&pic, canister), [1, 1, 1]);
    assert_eq!(inc(&pic, canister), [2, 2, 2]);
    pic.load_canister_snapshot(canister, None, snapshot).unwrap();
    assert_eq!(read(&pic, canister), [1, 1, 1], "nothing that was loaded from it changed it");
}

#[test]
fn snapshots_are_listed_replaced_and_deleted() {
    let (pic, canister) = with_canister();
    let (first, second) = (take(&pic, canister), take(&pic, canister));
    let listed = || -> Vec<Vec<u8>> {
        let listed = pic.list_canister_snapshots(canister, None).unwrap();
        listed.into_iter().map(|snapshot| snapshot.id).collect()
    };
    assert_eq!(listed(), [first.clone(), second.clone()]);
    let third = pic.take_canister_snapshot(canister, None, Some(first.clone())).unwrap().id;
    assert_eq!(listed(), [second.clone(), third.clone()]);
    pic.delete_canister_snapshot(canister, None, second).unwrap();
    assert_eq!(listed(), [third]);
    let gone = pic.load_canister_snapshot(canister, None, first).unwrap_err();
    assert_eq!(gone.error_code, ErrorCode::CanisterSnapshotNotFound);
}

#[test]
fn a_canister_has_ten_snapshots_at_most_and_pays_for_their_memory() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    let size = || pic.canister_status(canister, None).unwrap().memory_metrics.snapshots_size;
    assert_eq!(size(), 0u8);
    let one = pic.take_canister_snapshot(canister, None, None).unwrap().total_size;
    assert_eq!(size(), one);
    assert!(one > 2 * 65_536);
    (1..10).for_each(|_| drop(take(&pic, canister)));
    assert_eq!(size(), 10 * one);
    let refused = pic.take_canister_snapshot(canister, None, None).unwrap_err();
    assert!(refused.reject_message.contains("maximum number of snapshots"));
}

#[test]
fn snapshots_are_for_controllers() {
    let (pic, canister) = with_canister();
    let snapshot = take(&pic, canister);
    let stranger = Some(Principal::self_authenticating([9; 32]));
    let invalid = ErrorCode::CanisterInvalidController;
    let refused = pic.take_canister_snapshot(canister, stranger, None).unwrap_err();
    assert_eq!(refused.error_code, invalid);
    let refused = pic.load_canister_snapshot(canister, stranger, snapshot.clone()).unwrap_err();
    assert_eq!(refused.error_code, invalid);
    let refused = pic.list_canister_snapshots(canister, stranger).unwrap_err();
    assert_eq!(refused.error_code, invalid);
    let refused = pic.delete_canister_snapshot(canister, stranger, snapshot).unwrap_err();
    assert_eq!(refused.error_code, invalid);
    let empty = pic.create_canister();
    assert!(pic.take_canister_snapshot(empty, None, None).is_err());
}

#[test]
fn a_snapshot_moves_a_canister_into_another() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    let snapshot = take(&pic, canister);
    let other = pic.create_canister();
    pic.load_canister_snapshot(other, None, snapshot).unwrap();
    assert_eq!(inc(&pic, other), [2, 2, 2]);
    assert_eq!(read(&pic, canister), [1, 1, 1]);
}

#[test]
fn a_snapshot_can_be_read() {
    let (pic, canister) = with_canister();
    inc(&pic, canister);
    update(&pic, canister, "certify", b"hash").unwrap();
    let snapshot_id = take(&pic, canister);
    let manage = |method: &str, arg: Vec<u8>| {
        update(&pic, Principal::management_canister(), method, &arg).unwrap()
    };
    let args = ReadCanisterSnapshotMetadataArgs {
        canister_id: canister,
        snapshot_id: snapshot_id.clone(),
    };
    let bytes = manage("read_canister_snapshot_metadata", candid::encode_one(args).unwrap());
    let read: ReadCanisterSnapshotMetadataResult = candid::decode_one(&bytes).unwrap();
    assert_eq!((read.wasm_memory_size, read.stable_memory_size), (65_536, 65_536));
    assert_eq!(read.certified_data, b"hash");
    assert!(matches!(read.global_timer, Some(CanisterTimer::Inactive)));
    let kind = SnapshotDataKind::StableMemory { offset: 0, size: 4 };
    let args = ReadCanisterSnapshotDataArgs { canister_id: canister, snapshot_id, kind };
    let bytes = manage("read_canister_snapshot_data", candid::encode_one(args).unwrap());
    let read: ReadCanisterSnapshotDataResult = candid::decode_one(&bytes).unwrap();
    assert_eq!(read.chunk, 1u32.to_le_bytes());
}

#[test]
fn snapshots_are_kept_in_the_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let state = || PocketIcState::new_from_path(dir.path().to_owned());
    let pic = builder().with_state(state()).build();
    let canister = install(&pic);
    inc(&pic, canister);
    let snapshot = take(&pic, canister);
    inc(&pic, canister);
    pic.drop_and_take_state();
    let pic = PocketIcBuilder::new().with_server_binary(binary()).with_state(state()).build();
    assert_eq!(read(&pic, canister), [2, 2, 2]);
    pic.load_canister_snapshot(canister, None, snapshot).unwrap();
    assert_eq!(read(&pic, canister), [1, 1, 1]);
    assert_ne!(take(&pic, canister), pic.list_canister_snapshots(canister, None).unwrap()[0].id);
}
