//! Canisters that call each other, and the management canister.

use std::time::Duration;

use candid::Principal;
use ic_management_canister_types::CanisterIdRecord;
use pocket_ic::ErrorCode;

use crate::support::*;

#[test]
fn a_reply_reaches_the_caller() {
    let (pic, caller) = with_canister();
    let callee = install(&pic);
    let arg = call_arg(callee, "inc", &[]);
    let replied = update(&pic, caller, "call", &arg).unwrap();
    assert_eq!(counters(&replied), [1, 1, 1]);
    assert_eq!(read(&pic, callee), [1, 1, 1]);
    let itself = call_arg(caller, "echo", b"again");
    assert_eq!(update(&pic, caller, "call", &itself).unwrap(), b"again");
}

#[test]
fn canisters_on_different_subnets_call_each_other() {
    let pic = builder().with_application_subnet().build();
    let subnets = pic.topology().get_app_subnets();
    let canister_on = |subnet| {
        let canister = pic.create_canister_on_subnet(None, None, subnet);
        pic.install_canister(canister, canister_wasm(), vec![], None);
        assert_eq!(pic.get_subnet(canister), Some(subnet));
        canister
    };
    let (caller, callee) = (canister_on(subnets[0]), canister_on(subnets[1]));
    let arg = call_arg(callee, "echo", b"over there");
    assert_eq!(update(&pic, caller, "call", &arg).unwrap(), b"over there");
}

#[test]
fn rejects_reach_the_caller_with_code_and_text() {
    let (pic, caller) = with_canister();
    let callee = install(&pic);
    let rejected = |method: &str, callee: Principal| {
        let told = update(&pic, caller, "call", &call_arg(callee, method, &[])).unwrap();
        (told[0], String::from_utf8(told[1..].to_vec()).unwrap())
    };
    assert_eq!(rejected("refuse", callee), (4, "boom".to_owned()));
    let (code, text) = rejected("inc_and_trap", callee);
    assert_eq!(code, 5);
    assert!(text.starts_with("IC0503: ") && text.contains("boom"), "{text}");
    let (code, text) = rejected("nope", callee);
    assert!(code == 5 && text.starts_with("IC0536"), "{text}");
    let nobody = Principal::from_text("rrkah-fqaaa-aaaaa-aaaaq-cai").unwrap();
    let (code, text) = rejected("inc", nobody);
    assert!(code == 3 && text.starts_with("IC0301"), "{text}");
    assert_eq!(read(&pic, callee), [0, 0, 0]);
}

#[test]
fn a_trap_in_a_callback_runs_cleanup_and_nothing_else_stays() {
    let (pic, caller) = with_canister();
    let callee = install(&pic);
    inc(&pic, caller);
    let arg = call_arg(callee, "inc", &[]);
    let trapped = update(&pic, caller, "call_and_trap_in_callback", &arg).unwrap_err();
    assert_eq!(trapped.error_code, ErrorCode::CanisterCalledTrap);
    // The heap's counter shows that cleanup ran; the callback's own work is gone.
    assert_eq!(read(&pic, caller), [77, 1, 1]);
    assert_eq!(read(&pic, callee), [1, 1, 1]);
}

#[test]
fn a_composite_query_asks_another_canister() {
    let (pic, caller) = with_canister();
    let callee = install(&pic);
    inc(&pic, callee);
    let arg = call_arg(callee, "read", &[]);
    let seen = query(&pic, caller, "call_query", &arg).unwrap();
    assert_eq!(counters(&seen), [1, 1, 1]);
    let replicated = update(&pic, caller, "call_query", &arg).unwrap_err();
    assert_eq!(replicated.error_code, ErrorCode::CompositeQueryCalledInReplicatedMode);
}

#[test]
fn unaccepted_cycles_come_back() {
    let (pic, caller) = with_canister();
    let callee = install(&pic);
    let before = (pic.cycle_balance(caller), pic.cycle_balance(callee));
    let arg = call_arg(callee, "accept_half", &[]);
    let accepted = update(&pic, caller, "call_with_cycles", &arg).unwrap();
    assert_eq!(u128::from_le_bytes(accepted.try_into().unwrap()), 500_000);
    let after = (pic.cycle_balance(caller), pic.cycle_balance(callee));
    // Two executions, the ingress message and the call: about fourteen million cycles.
    let spent = before.0 - after.0 - 500_000;
    assert!((10_000_000..20_000_000).contains(&spent), "{spent}");
    let callee_spent = before.1 + 500_000 - after.1;
    assert!((5_000_000..6_000_000).contains(&callee_spent), "{callee_spent}");
}

#[test]
fn a_best_effort_call_gives_up_in_time() {
    let (pic, caller) = with_canister();
    let callee = install(&pic);
    // Replies as long as they come at once ...
    let arg = call_arg(callee, "echo", b"quick");
    assert_eq!(update(&pic, caller, "call_best_effort", &arg).unwrap(), b"quick");
    // ... and the caller is told if the callee waits for something that never comes.
    let stop = candid::encode_one(CanisterIdRecord { canister_id: callee });
    let stop = call_arg(Principal::management_canister(), "stop_canister", &stop.unwrap());
    // It cannot stop before its own call is answered, nor answer before it has stopped.
    let stuck = call_arg(callee, "call", &stop);
    let id = pic.submit_call(caller, anyone(), "call_best_effort", stuck).unwrap();
    pic.tick();
    assert_eq!(pic.ingress_status(id.clone()), None);
    pic.advance_time(Duration::from_secs(11));
    let told = pic.await_call(id).unwrap();
    assert_eq!(told[0], 6);
    assert!(String::from_utf8_lossy(&told).contains("IC0601"));
}

#[test]
fn a_canister_asks_the_management_canister_for_randomness() {
    let (pic, canister) = with_canister();
    let arg =
        call_arg(Principal::management_canister(), "raw_rand", &candid::encode_args(()).unwrap());
    let random = || {
        let bytes = update(&pic, canister, "call", &arg).unwrap();
        candid::decode_one::<Vec<u8>>(&bytes).unwrap()
    };
    let (first, second) = (random(), random());
    assert_eq!(first.len(), 32);
    assert_ne!(first, second);
    let refused = update(&pic, Principal::management_canister(), "raw_rand", &[]);
    assert!(refused.is_err(), "only canisters may ask");
}

#[test]
fn an_outcall_is_answered_by_the_test() {
    use ic_management_canister_types::{HttpRequestArgs, HttpRequestResult};
    use pocket_ic::common::rest::{
        CanisterHttpReply, CanisterHttpResponse, MockCanisterHttpResponse,
    };

    let pic = builder().build();
    // On a system subnet, where it costs nothing.
    let nns = pic.topology().get_nns().unwrap();
    let canister = pic.create_canister_on_subnet(None, None, nns);
    pic.install_canister(canister, canister_wasm(), vec![], None);
    let args =
        HttpRequestArgs { url: "https://example.com/rates".to_owned(), ..Default::default() };
    let arg = call_arg(
        Principal::management_canister(),
        "http_request",
        &candid::encode_one(args).unwrap(),
    );
    let submit = || pic.submit_call(canister, anyone(), "call", arg.clone());
    let id = submit().unwrap();
    pic.tick();
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
    let replied = pic.await_call(id).unwrap();
    let replied: HttpRequestResult = candid::decode_one(&replied).unwrap();
    assert_eq!((replied.status, replied.body), (200u8.into(), b"1.5".to_vec()));

    let id = submit().unwrap();
    pic.tick();
    pic.advance_time(Duration::from_secs(61));
    let told = pic.await_call(id).unwrap();
    assert!(String::from_utf8_lossy(&told).contains("timed out"));
}

#[test]
fn an_outcall_whose_nodes_disagree_fails() {
    use ic_management_canister_types::HttpRequestArgs;
    use pocket_ic::common::rest::{
        CanisterHttpReply, CanisterHttpResponse, MockCanisterHttpResponse,
    };

    let pic = builder().with_system_subnet().build();
    // Where it costs nothing, and thirteen nodes have to agree.
    let system = pic.topology().get_system_subnets()[0];
    let canister = pic.create_canister_on_subnet(None, None, system);
    pic.install_canister(canister, canister_wasm(), vec![], None);
    let args = HttpRequestArgs { url: "https://example.com/".to_owned(), ..Default::default() };
    let arg = candid::encode_one(args).unwrap();
    let arg = call_arg(Principal::management_canister(), "http_request", &arg);
    let answer = |body: usize| {
        CanisterHttpResponse::CanisterHttpReply(CanisterHttpReply {
            status: 200,
            headers: vec![],
            body: vec![body as u8],
        })
    };
    let told = |differing: usize| {
        let id = pic.submit_call(canister, anyone(), "call", arg.clone()).unwrap();
        pic.tick();
        let pending = &pic.get_canister_http()[0];
        pic.mock_canister_http_response(MockCanisterHttpResponse {
            subnet_id: pending.subnet_id,
            request_id: pending.request_id,
            response: answer(0),
            additional_responses: (1..13).map(|node| answer(node.min(differing))).collect(),
        });
        pic.await_call(id).unwrap()
    };
    assert!(String::from_utf8_lossy(&told(12)).contains("No consensus"));
    // Twelve of thirteen agree.
    let agreed: ic_management_canister_types::HttpRequestResult =
        candid::decode_one(&told(1)).unwrap();
    assert_eq!(agreed.body, [1]);
}

#[test]
fn a_caller_in_flight_survives_in_the_state_directory() {
    use pocket_ic::PocketIcState;

    let dir = tempfile::tempdir().unwrap();
    let state = || PocketIcState::new_from_path(dir.path().to_owned());
    let pic = builder().with_state(state()).build();
    let (caller, callee) = (install(&pic), install(&pic));
    let stop = candid::encode_one(CanisterIdRecord { canister_id: callee });
    let stop = call_arg(Principal::management_canister(), "stop_canister", &stop.unwrap());
    let stuck = call_arg(callee, "call", &stop);
    let id = pic.submit_call(caller, anyone(), "call_best_effort", stuck).unwrap();
    pic.tick();
    pic.drop_and_take_state();
    let pic = builder().with_state(state()).build();
    pic.advance_time(Duration::from_secs(11));
    let told = pic.await_call(id).unwrap();
    assert!(String::from_utf8_lossy(&told).contains("IC0601"));
}
