//! An instance with a canister on it, and short ways to call it.

use std::path::PathBuf;
use std::sync::Once;

use candid::{CandidType, Principal};
use pocket_ic::{PocketIc, PocketIcBuilder, RejectResponse};

pub fn binary() -> PathBuf {
    static MUTED: Once = Once::new();
    // The server must not hold the test's output open after the test has ended.
    // SAFETY: done once, before this process starts its first server.
    MUTED.call_once(|| unsafe { std::env::set_var("POCKET_IC_MUTE_SERVER", "1") });
    env!("CARGO_BIN_EXE_local-ic").into()
}

pub fn builder() -> PocketIcBuilder {
    PocketIcBuilder::new().with_server_binary(binary()).with_nns_subnet().with_application_subnet()
}

pub fn canister_wasm() -> Vec<u8> {
    #[derive(CandidType)]
    struct HttpResponse {
        status_code: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    }
    let http = candid::encode_one(HttpResponse {
        status_code: 203,
        headers: vec![("x-from".to_owned(), "canister".to_owned())],
        body: b"a page".to_vec(),
    });
    let http = http.unwrap();
    let escaped: String = http.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let text = include_str!("canister.wat")
        .replace("@HTTP_BYTES@", &escaped)
        .replace("@HTTP_LEN@", &http.len().to_string());
    wat::parse_str(text).expect("the test canister is valid")
}

pub fn anyone() -> Principal {
    Principal::anonymous()
}

pub fn install(pic: &PocketIc) -> Principal {
    let canister = pic.create_canister();
    pic.install_canister(canister, canister_wasm(), vec![], None);
    canister
}

/// An instance with the test canister.
pub fn with_canister() -> (PocketIc, Principal) {
    let pic = builder().build();
    let canister = install(&pic);
    (pic, canister)
}

/// The heap's, the global's and stable memory's counter.
pub type Counters = [u32; 3];

pub fn counters(bytes: &[u8]) -> Counters {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    [word(0), word(4), word(8)]
}

pub fn update(
    pic: &PocketIc,
    canister: Principal,
    method: &str,
    arg: &[u8],
) -> Result<Vec<u8>, RejectResponse> {
    pic.update_call(canister, anyone(), method, arg.to_vec())
}

pub fn query(
    pic: &PocketIc,
    canister: Principal,
    method: &str,
    arg: &[u8],
) -> Result<Vec<u8>, RejectResponse> {
    pic.query_call(canister, anyone(), method, arg.to_vec())
}

pub fn inc(pic: &PocketIc, canister: Principal) -> Counters {
    counters(&update(pic, canister, "inc", &[]).unwrap())
}

pub fn read(pic: &PocketIc, canister: Principal) -> Counters {
    counters(&query(pic, canister, "read", &[]).unwrap())
}

/// The argument of the test canister's calling methods.
pub fn call_arg(callee: Principal, method: &str, payload: &[u8]) -> Vec<u8> {
    let callee = callee.as_slice();
    [&[callee.len() as u8], callee, &[method.len() as u8], method.as_bytes(), payload].concat()
}
