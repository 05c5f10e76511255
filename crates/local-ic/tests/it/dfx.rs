//! What `dfx` asks of a network, in its order: `dfx` itself is on no registry, so `ic-agent`, which
//! it is made of, asks in its place.

use candid::utils::ArgumentEncoder;
use candid::{CandidType, Principal};
use ic_agent::Agent;
use ic_agent::identity::BasicIdentity;
use ic_management_canister_types::*;
use pocket_ic::PocketIc;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::support::*;

const TRILLION: u64 = 1_000_000_000_000;

/// A network, and the identity of somebody who deploys to it.
struct Dfx {
    pic: PocketIc,
    agent: Agent,
    runtime: tokio::runtime::Runtime,
}

fn dfx() -> Dfx {
    let mut pic = builder().build();
    let url = pic.make_live(None).to_string();
    let identity = BasicIdentity::from_raw_key(&[1; 32]);
    let agent = Agent::builder().with_url(url).with_identity(identity).build().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(agent.fetch_root_key()).unwrap();
    Dfx { pic, agent, runtime }
}

impl Dfx {
    fn call(
        &self,
        canister: Principal,
        effective: Principal,
        method: &str,
        arg: Vec<u8>,
    ) -> Vec<u8> {
        self.runtime.block_on(update_as(&self.agent, canister, effective, method, arg))
    }

    /// A call to the management canister about `canister`.
    fn manage(&self, canister: Principal, method: &str, args: impl ArgumentEncoder) -> Vec<u8> {
        let arg = candid::encode_args(args).unwrap();
        self.call(Principal::management_canister(), canister, method, arg)
    }

    fn ask<T: CandidType + DeserializeOwned>(
        &self,
        canister: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> T {
        candid::decode_one(&self.manage(canister, method, args)).unwrap()
    }

    /// As `dfx canister create` without a wallet.
    fn create(&self) -> Principal {
        let somewhere = self.pic.topology().default_effective_canister_id.into();
        let args = ProvisionalCreateCanisterWithCyclesArgs {
            amount: Some((3 * TRILLION).into()),
            ..Default::default()
        };
        let method = "provisional_create_canister_with_cycles";
        let created: CanisterIdRecord = self.ask(somewhere, method, (args,));
        created.canister_id
    }

    fn install(&self, mode: CanisterInstallMode, canister_id: Principal, wasm_module: Vec<u8>) {
        let args = InstallCodeArgs {
            mode,
            canister_id,
            wasm_module,
            arg: vec![],
            sender_canister_version: None,
        };
        self.manage(canister_id, "install_code", (args,));
    }

    fn inc(&self, canister: Principal) -> Counters {
        counters(&self.call(canister, canister, "inc", vec![]))
    }

    fn module_hash(&self, canister: Principal) -> Vec<u8> {
        let hash = self.agent.read_state_canister_module_hash(canister);
        self.runtime.block_on(hash).unwrap()
    }
}

#[test]
fn a_canister_is_created_beside_an_effective_id_and_belongs_to_its_creator() {
    let dfx = dfx();
    let canister = dfx.create();
    let subnet = dfx.pic.get_subnet(canister).unwrap();
    assert!(dfx.pic.topology().get_app_subnets().contains(&subnet));
    let controllers = dfx.agent.read_state_canister_controllers(canister);
    let me = dfx.agent.get_principal().unwrap();
    assert_eq!(dfx.runtime.block_on(controllers).unwrap(), [me]);
    let record = CanisterIdRecord { canister_id: canister };
    let status: CanisterStatusResult = dfx.ask(canister, "canister_status", (record,));
    assert!(status.cycles > 2 * TRILLION && status.module_hash.is_none());
}

#[test]
fn code_is_installed_and_what_dfx_compares_can_be_read() {
    let dfx = dfx();
    let canister = dfx.create();
    dfx.install(CanisterInstallMode::Install, canister, canister_wasm());
    assert_eq!(dfx.inc(canister), [1, 1, 1]);
    assert_eq!(dfx.module_hash(canister), Sha256::digest(canister_wasm()).to_vec());
    let candid = dfx.agent.read_state_canister_metadata(canister, "candid:service");
    assert_eq!(dfx.runtime.block_on(candid).unwrap(), b"service : {}");
    dfx.install(CanisterInstallMode::Upgrade(None), canister, canister_wasm());
    assert_eq!(dfx.inc(canister), [1, 1, 2], "an upgrade keeps stable memory");
}

#[test]
fn a_large_module_goes_in_chunks() {
    let dfx = dfx();
    let canister = dfx.create();
    let mut wasm = canister_wasm();
    // A custom section of three megabytes.
    wasm.extend_from_slice(&[0, 0xc4, 0x8d, 0xb7, 0x01, 3]);
    wasm.extend_from_slice(b"big");
    wasm.extend_from_slice(&vec![7; 3_000_000]);
    dfx.manage(canister, "clear_chunk_store", (CanisterIdRecord { canister_id: canister },));
    let upload = |chunk: &[u8]| {
        let args = UploadChunkArgs { canister_id: canister, chunk: chunk.to_vec() };
        dfx.ask::<UploadChunkResult>(canister, "upload_chunk", (args,))
    };
    let chunk_hashes_list: Vec<ChunkHash> = wasm.chunks(1 << 20).map(upload).collect();
    let stored = CanisterIdRecord { canister_id: canister };
    let stored: StoredChunksResult = dfx.ask(canister, "stored_chunks", (stored,));
    assert_eq!((chunk_hashes_list.len(), stored.len()), (3, 3));
    let args = InstallChunkedCodeArgs {
        mode: CanisterInstallMode::Install,
        target_canister: canister,
        store_canister: None,
        chunk_hashes_list,
        wasm_module_hash: Sha256::digest(&wasm).to_vec(),
        arg: vec![],
        sender_canister_version: None,
    };
    dfx.manage(canister, "install_chunked_code", (args,));
    assert_eq!(dfx.inc(canister), [1, 1, 1]);
    assert_eq!(dfx.module_hash(canister), Sha256::digest(&wasm).to_vec());
}

#[test]
fn settings_change_and_a_stopped_canister_is_deleted() {
    let dfx = dfx();
    let canister = dfx.create();
    let settings =
        CanisterSettings { freezing_threshold: Some(86_400u64.into()), ..Default::default() };
    let args =
        UpdateSettingsArgs { canister_id: canister, settings, sender_canister_version: None };
    dfx.manage(canister, "update_settings", (args,));
    let record = CanisterIdRecord { canister_id: canister };
    let status: CanisterStatusResult = dfx.ask(canister, "canister_status", (record.clone(),));
    assert_eq!(status.settings.freezing_threshold, 86_400u64);
    dfx.manage(canister, "stop_canister", (record.clone(),));
    dfx.manage(canister, "delete_canister", (record,));
    assert!(!dfx.pic.canister_exists(canister));
}

/// The cycles wallet still uses the system calls that count cycles in 64 bits.
const WALLET: &str = r#"(module
  (import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "call_new" (func $call_new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_cycles_add" (func $cycles_add (param i64)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (import "ic0" "canister_cycle_balance" (func $balance (result i64)))
  (import "ic0" "msg_cycles_available" (func $available (result i64)))
  (import "ic0" "msg_cycles_accept" (func $accept (param i64) (result i64)))
  (import "ic0" "msg_cycles_refunded" (func $refunded (result i64)))
  (table funcref (elem $on_reply $on_reject))
  (memory 1)
  (data (i32.const 0) "wallet_receive")
  (func (export "canister_query wallet_balance")
    (i64.store (i32.const 64) (call $balance))
    (call $append (i32.const 64) (i32.const 8))
    (call $reply))
  ;; Takes a third of what it is sent.
  (func (export "canister_update wallet_receive")
    (drop (call $accept (i64.div_u (call $available) (i64.const 3))))
    (call $reply))
  ;; The argument is the receiver; answers with what came back.
  (func (export "canister_update wallet_send")
    (call $arg_copy (i32.const 128) (i32.const 0) (call $arg_size))
    (call $call_new (i32.const 128) (call $arg_size) (i32.const 0) (i32.const 14)
      (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $cycles_add (i64.const 300000000000))
    (drop (call $perform)))
  (func $on_reply (param i32)
    (i64.store (i32.const 64) (call $refunded))
    (call $append (i32.const 64) (i32.const 8))
    (call $reply))
  (func $on_reject (param i32) (unreachable)))"#;

#[test]
fn a_wallet_sends_cycles() {
    let dfx = dfx();
    let wallet = || {
        let canister = dfx.create();
        dfx.install(CanisterInstallMode::Install, canister, wat::parse_str(WALLET).unwrap());
        canister
    };
    let (sender, receiver) = (wallet(), wallet());
    let balance = || {
        let query = dfx.agent.query(&receiver, "wallet_balance").with_arg(vec![]);
        let bytes = dfx.runtime.block_on(query.call()).unwrap();
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    let before = balance();
    let back = dfx.call(sender, sender, "wallet_send", receiver.as_slice().to_vec());
    assert_eq!(u64::from_le_bytes(back.try_into().unwrap()), 200_000_000_000);
    // The receiver's own execution costs something too.
    let gained = balance() - before;
    assert!((99_000_000_000..=100_000_000_000).contains(&gained), "{gained}");
}
