//! Prints how fast this machine's local-ic is: `cargo build --release -p local-ic`, whose server it
//! starts, and then `cargo run --release -p local-ic --example measure`.
//!
//! An argument names a canister module to install as well, to see what compiling it takes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use candid::Principal;
use ic_agent::Agent;
use ic_agent::identity::BasicIdentity;
use pocket_ic::{PocketIc, PocketIcBuilder};

const CANISTER: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
    (import "ic0" "stable64_size" (func $stable_size (result i64)))
    (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
    (memory 1)
    (func $answer (call $append (i32.const 0) (i32.const 4)) (call $reply))
    (func (export "canister_update inc")
        (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
        (call $answer))
    (func (export "canister_update spin") (local $i i64)
        (loop $again
            (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (local.get $i)))
            (local.set $i (i64.mul (local.get $i) (i64.const 31)))
            (br $again)))
    (func (export "canister_query read") (call $answer))
    (func (export "canister_update fill") (local $at i64)
        (local.set $at (i64.shl (call $stable_grow (i64.const 160)) (i64.const 16)))
        (i32.store (i32.const 64) (i32.const 1))
        (loop $again
            (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
            (call $stable_write (local.get $at) (i64.const 0) (i64.const 65536))
            (local.set $at (i64.add (local.get $at) (i64.const 65536)))
            (br_if $again (i64.lt_u (local.get $at) (i64.shl (call $stable_size) (i64.const 16)))))
        (call $answer))
    (func (export "canister_update poke")
        (call $stable_write (i64.const 5000000) (i64.const 0) (i64.const 100))
        (call $answer)))"#;

const COUNT: usize = 1000;

fn main() {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("POCKET_IC_MUTE_SERVER", "1") };
    let mut pic = timed("create the first instance (and start the server)", instance);
    drop(timed("create another instance", instance));
    let canister = pic.create_canister();
    let wasm = wat::parse_str(CANISTER).expect("valid");
    pic.install_canister(canister, wasm, vec![], None);
    measure_install(&pic);

    let anyone = Principal::anonymous();
    rate("pocket-ic update_call", || {
        pic.update_call(canister, anyone, "inc", vec![]).unwrap();
    });
    rate("pocket-ic query_call", || {
        pic.query_call(canister, anyone, "read", vec![]).unwrap();
    });
    let submitted = Instant::now();
    let ids: Vec<_> =
        (0..COUNT).map(|_| pic.submit_call(canister, anyone, "inc", vec![]).unwrap()).collect();
    for id in ids {
        pic.await_call(id).unwrap();
    }
    report("pocket-ic submit, then await", submitted.elapsed());
    timed("a message of 40 G instructions", || {
        pic.update_call(canister, anyone, "spin", vec![]).unwrap_err()
    });
    measure_stable(&pic, canister);
    measure_agent(pic.make_live(None).as_str(), canister);
}

/// What is in stable memory should not matter to a message that does not touch it.
fn measure_stable(pic: &PocketIc, canister: Principal) {
    const STEP_MIB: usize = 10;
    let update = |method: &str| {
        pic.update_call(canister, Principal::anonymous(), method, vec![]).unwrap();
    };
    for (mib, steps) in [(STEP_MIB, 1), (1000, 1000 / STEP_MIB - 1)] {
        (0..steps).for_each(|_| update("fill"));
        rate(&format!("pocket-ic update_call with {mib} MiB of stable memory"), || update("poke"));
    }
}

fn instance() -> PocketIc {
    let server = std::env::current_exe().expect("a path");
    let server = server.parent().and_then(|dir| dir.parent()).expect("target/<profile>");
    PocketIcBuilder::new()
        .with_server_binary(server.join("local-ic"))
        .with_nns_subnet()
        .with_application_subnet()
        .build()
}

fn measure_install(pic: &PocketIc) {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return;
    };
    let wasm = std::fs::read(path).expect("a readable module");
    for what in ["install the given module", "install it again"] {
        let canister = pic.create_canister();
        timed(what, || pic.install_canister(canister, wasm.clone(), vec![], None));
    }
}

fn measure_agent(url: &str, canister: Principal) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let agent = Agent::builder()
        .with_url(url)
        .with_identity(BasicIdentity::from_raw_key(&[1; 32]))
        .build()
        .expect("an agent");
    runtime.block_on(agent.fetch_root_key()).unwrap();
    let update = || agent.update(&canister, "inc").with_arg(vec![]);
    rate("ic-agent update, verified", || {
        runtime.block_on(update().call_and_wait()).unwrap();
    });
    rate("ic-agent query, verified", || {
        let query = agent.query(&canister, "read").with_arg(vec![]);
        runtime.block_on(query.call()).unwrap();
    });
    let start = Instant::now();
    runtime.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..COUNT {
            let agent = agent.clone();
            calls.spawn(async move { agent.update(&canister, "inc").call_and_wait().await });
        }
        while let Some(answered) = calls.join_next().await {
            answered.expect("no panic").unwrap();
        }
    });
    report("ic-agent update, 1000 at once", start.elapsed());
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

fn rate(what: &str, mut once: impl FnMut()) {
    once(); // The first pays for what is cached.
    let start = Instant::now();
    (0..COUNT).for_each(|_| once());
    report(what, start.elapsed());
}

fn report(what: &str, took: Duration) {
    println!("{what}: {:.0}/s", COUNT as f64 / took.as_secs_f64());
}
