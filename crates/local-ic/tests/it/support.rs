//! An instance with a canister on it, and short ways to call it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime};

use candid::{CandidType, Principal};
use ic_agent::Agent;
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

pub fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_nanos() as u64
}

/// An HTTP answer, in pieces.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// A request over a plain socket: one header fewer to agree on with any client library.
pub fn send(method: &str, url: &str, body: &[u8]) -> Answer {
    send_with(method, url, "content-type: application/cbor\r\n", body)
}

/// The same with these header lines.
pub fn send_with(method: &str, url: &str, headers: &str, body: &[u8]) -> Answer {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let port = host.rsplit_once(':').unwrap().1;
    let mut socket = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let length = body.len();
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    Answer { status: head[9..12].parse().unwrap(), head, body: answer.split_off(end + 4) }
}

/// An update call as tools make it, who may address one canister on behalf of another.
pub async fn update_as(
    agent: &Agent,
    canister: Principal,
    effective: Principal,
    method: &str,
    arg: Vec<u8>,
) -> Vec<u8> {
    let call = agent.update(&canister, method).with_effective_canister_id(effective);
    call.with_arg(arg).call_and_wait().await.unwrap()
}

/// Waits for something another process does; there is nothing to be notified by.
pub fn wait_for<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}
