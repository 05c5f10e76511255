//! Every function of the System API: where it may be called, what it costs, what it gives.
//!
//! The table is written after the interface specification ("Overview of imports") and the
//! replica's prices, not after the code that it checks.

use std::collections::BTreeSet;

use candid::Principal;
use local_ic::errors::Fault;
use local_ic::wasm::api::Api;
use local_ic::wasm::host::{Answer, Incoming, Mode};

use crate::lab::{CYCLES, Lab};

struct Function {
    name: &'static str,
    /// `i` is i32, `l` is i64; the result comes after a colon.
    signature: &'static str,
    /// With which the call succeeds wherever it is allowed.
    args: &'static str,
    /// What the call costs with these arguments, in instructions.
    cost: u64,
    /// Entry points in the specification's letters; `*` is all but `s`.
    from: &'static str,
}

const fn row(
    name: &'static str,
    signature: &'static str,
    args: &'static str,
    cost: u64,
    from: &'static str,
) -> Function {
    Function { name, signature, args, cost, from }
}

const ARG: &str = "I U RQ NRQ CQ Ry CRy F";
const INFO: &str = "U RQ NRQ CQ Ry Rt CRy CRt C CC F";
const ANSWER: &str = "U RQ NRQ CQ Ry Rt CRy CRt";
const CALL: &str = "U CQ Ry Rt CRy CRt T";
const KEY: &str = "I G U RQ Ry Rt C T";

/// Heap: the name `v` is at 64, the anonymous principal at 80.
const TABLE: &[Function] = &[
    row("msg_arg_data_size", ":i", "", 500, ARG),
    row("msg_arg_data_copy", "iii", "0 0 3", 503, ARG),
    row("msg_caller_size", ":i", "", 500, "*"),
    row("msg_caller_copy", "iii", "0 0 1", 501, "*"),
    row("msg_caller_info_data_size", ":i", "", 500, INFO),
    row("msg_caller_info_data_copy", "iii", "0 0 0", 500, INFO),
    row("msg_caller_info_signer_size", ":i", "", 500, INFO),
    row("msg_caller_info_signer_copy", "iii", "0 0 0", 500, INFO),
    row("msg_reject_code", ":i", "", 500, "Ry Rt CRy CRt C"),
    row("msg_reject_msg_size", ":i", "", 500, "Rt CRt"),
    row("msg_reject_msg_copy", "iii", "0 0 2", 502, "Rt CRt"),
    row("msg_deadline", ":l", "", 500, ANSWER),
    row("msg_reply_data_append", "ii", "0 7", 500 + 7 * 50, ANSWER),
    row("msg_reply", "", "", 500, ANSWER),
    row("msg_reject", "ii", "64 1", 500 + 50, ANSWER),
    row("msg_cycles_available", ":l", "", 500, "U RQ Rt Ry"),
    row("msg_cycles_available128", "i", "0", 500, "U RQ Rt Ry"),
    row("msg_cycles_refunded", ":l", "", 500, "Rt Ry"),
    row("msg_cycles_refunded128", "i", "0", 500, "Rt Ry"),
    row("msg_cycles_accept", "l:l", "5", 500, "U RQ Rt Ry"),
    row("msg_cycles_accept128", "lli", "0 5 0", 500, "U RQ Rt Ry"),
    row("cycles_burn128", "lli", "0 5 0", 500, KEY),
    row("canister_self_size", ":i", "", 500, "*"),
    row("canister_self_copy", "iii", "0 0 10", 510, "*"),
    row("canister_cycle_balance", ":l", "", 500, "*"),
    row("canister_cycle_balance128", "i", "0", 500, "*"),
    row("canister_liquid_cycle_balance128", "i", "0", 500, "*"),
    row("canister_status", ":i", "", 500, "*"),
    row("canister_version", ":l", "", 500, "*"),
    row("subnet_self_size", ":i", "", 500, "*"),
    row("subnet_self_copy", "iii", "0 0 29", 529, "*"),
    row("subnet_self_node_count", ":i", "", 500, "*"),
    row("msg_method_name_size", ":i", "", 500, "F"),
    row("msg_method_name_copy", "iii", "0 0 2", 502, "F"),
    row("accept_message", "", "", 500, "F"),
    row("call_new", "iiiiiiii", "80 1 64 1 0 0 0 0", 1500 + 2, CALL),
    row("call_on_cleanup", "ii", "0 0", 500, CALL),
    row("call_data_append", "ii", "0 3", 500 + 3 * 50, CALL),
    row("call_with_best_effort_response", "i", "10", 500, CALL),
    row("call_cycles_add", "l", "5", 500, "U Ry Rt T"),
    row("call_cycles_add128", "ll", "0 5", 500, "U Ry Rt T"),
    row("call_perform", ":i", "", 5000, CALL),
    row("stable_size", ":i", "", 0, "* s"),
    row("stable_grow", "i:i", "1", 100, "* s"),
    row("stable_write", "iii", "0 0 0", 20, "* s"),
    row("stable_read", "iii", "0 0 0", 20, "* s"),
    row("stable64_size", ":l", "", 0, "* s"),
    row("stable64_grow", "l:l", "1", 100, "* s"),
    row("stable64_write", "lll", "0 0 0", 20, "* s"),
    row("stable64_read", "lll", "0 0 0", 20, "* s"),
    row("root_key_size", ":i", "", 500, KEY),
    row("root_key_copy", "iii", "0 0 133", 633, KEY),
    row("certified_data_set", "ii", "0 32", 532, "I G U Ry Rt T"),
    row("data_certificate_present", ":i", "", 500, "*"),
    row("data_certificate_size", ":i", "", 500, "NRQ CQ"),
    row("data_certificate_copy", "iii", "0 0 9", 509, "NRQ CQ"),
    row("time", ":l", "", 500, "*"),
    row("global_timer_set", "l:l", "0", 500, "I G U Ry Rt C T"),
    row("performance_counter", "i:l", "0", 200, "* s"),
    row("is_controller", "ii:i", "80 1", 1001, "* s"),
    row("in_replicated_execution", ":i", "", 500, "* s"),
    row("cost_call", "lli", "1 2 0", 500, "* s"),
    row("cost_create_canister", "i", "0", 500, "* s"),
    row("cost_http_request", "lli", "1 2 0", 500, "* s"),
    row("cost_http_request_v2", "iii", "0 0 0", 500, "* s"),
    row("cost_sign_with_ecdsa", "iiii:i", "64 1 0 0", 500, "* s"),
    row("cost_sign_with_schnorr", "iiii:i", "64 1 0 0", 500, "* s"),
    row("cost_vetkd_derive_key", "iiii:i", "64 1 0 0", 500, "* s"),
    row("env_var_count", ":i", "", 500, "*"),
    row("env_var_name_size", "i:i", "0", 500, "*"),
    row("env_var_name_copy", "iiii", "0 0 0 1", 501, "*"),
    row("env_var_name_exists", "ii:i", "64 1", 501, "*"),
    row("env_var_value_size", "ii:i", "64 1", 501, "*"),
    row("env_var_value_copy", "iiiii", "64 1 0 0 5", 506, "*"),
    // Two for each byte that is stored, and fifty for each that fits the log.
    row("debug_print", "ii", "0 4", 100 + 4 * 52, "* s"),
    row("trap", "ii", "0 4", 500 + 4 * 52, "* s"),
];

const MODES: &[(Mode, &str)] = &[
    (Mode::Init, "I"),
    (Mode::PreUpgrade, "G"),
    (Mode::Update, "U"),
    (Mode::ReplicatedQuery, "RQ"),
    (Mode::Query, "NRQ"),
    (Mode::CompositeQuery, "CQ"),
    (Mode::Reply, "Ry"),
    (Mode::Reject, "Rt"),
    (Mode::CompositeReply, "CRy"),
    (Mode::CompositeReject, "CRt"),
    (Mode::Cleanup, "C"),
    (Mode::CompositeCleanup, "CC"),
    (Mode::Inspect, "F"),
    (Mode::Task, "T"),
    (Mode::Start, "s"),
];

impl Function {
    fn params(&self) -> &str {
        self.signature.split(':').next().unwrap()
    }

    fn has_result(&self) -> bool {
        self.signature.contains(':')
    }

    fn import(&self) -> String {
        let ty = |letter| if letter == 'i' { "i32 " } else { "i64 " };
        let params: String = self.params().chars().map(ty).collect();
        let result = self.signature.split(':').nth(1).map_or(String::new(), |result| {
            format!("(result {})", result.chars().map(ty).collect::<String>())
        });
        let name = self.name;
        format!(r#"(import "ic0" "{name}" (func ${name} (param {params}) {result}))"#)
    }

    fn call(&self) -> String {
        let arg = |(letter, value)| match letter {
            'i' => format!("(i32.const {value}) "),
            _ => format!("(i64.const {value}) "),
        };
        let args: String =
            self.params().chars().zip(self.args.split_whitespace()).map(arg).collect();
        let call = format!("(call ${} {args})", self.name);
        if self.has_result() { format!("(drop {call})") } else { call }
    }

    fn is_allowed(&self, letters: &str) -> bool {
        let mut from = self.from.split(' ');
        from.any(|allowed| allowed == letters || (allowed == "*" && letters != "s"))
    }

    /// What has to be called before it.
    fn prelude(&self) -> &'static str {
        let needs_a_call = self.name.starts_with("call_") && self.name != "call_new";
        if needs_a_call { CALL_NEW } else { "" }
    }
}

const CALL_NEW: &str = "(call $call_new (i32.const 80) (i32.const 1) (i32.const 64) (i32.const 1)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";

/// Each function twice: alone, and after what has to be called before it.
fn module() -> String {
    let mut text = "(module ".to_owned();
    TABLE.iter().for_each(|function| text += &function.import());
    text += r#"(memory 1) (data (i32.const 64) "v") (data (i32.const 80) "\04")"#;
    for function in TABLE {
        let (name, call, prelude) = (function.name, function.call(), function.prelude());
        text += &format!(r#"(func (export "canister_update {name}") {call})"#);
        text += &format!(r#"(func (export "canister_update prepared {name}") {prelude} {call})"#);
    }
    text += &format!(r#"(func (export "canister_update prelude") {CALL_NEW}))"#);
    text
}

fn incoming(mode: Mode) -> Incoming {
    let is_reject = matches!(mode, Mode::Reject | Mode::CompositeReject);
    Incoming {
        caller: Some(Principal::anonymous()),
        method: "go".to_owned(),
        arg: std::sync::Arc::new(b"abc".to_vec()),
        reject: is_reject.then(|| (4, "no".to_owned())),
        cycles_available: 1_000,
        cycles_refunded: 7,
        ..Default::default()
    }
}

fn prepared(function: &Function) -> String {
    format!("canister_update prepared {}", function.name)
}

#[test]
fn the_table_has_every_function_there_is() {
    let api = Api::new(&wasmtime::Engine::default()).unwrap();
    let listed: BTreeSet<&str> = TABLE.iter().map(|function| function.name).collect();
    assert_eq!(listed, api.names);
}

#[test]
fn each_function_may_be_called_where_the_specification_says_and_nowhere_else() {
    let lab = Lab::new(&module());
    for function in TABLE {
        for (mode, letters) in MODES {
            let (name, place) = (function.name, format!("{} in {letters}", function.name));
            if function.is_allowed(letters) {
                let ran = lab.run(*mode, &prepared(function), incoming(*mode));
                match ran.result {
                    Ok(_) => assert_ne!(name, "trap"),
                    Err(Fault::CalledTrap { .. }) => assert_eq!(name, "trap"),
                    Err(fault) => panic!("{place}: {fault:?}"),
                }
            } else {
                let alone = format!("canister_update {name}");
                let refused = lab.run(*mode, &alone, incoming(*mode)).result;
                let Err(Fault::ContractViolation(why)) = refused else {
                    panic!("{place} is not refused");
                };
                assert!(why.starts_with(&format!("\"ic0_{name}\" cannot be executed")), "{why}");
            }
        }
    }
}

#[test]
fn each_function_costs_what_the_replica_asks() {
    let lab = Lab::new(&module());
    let prelude = lab.run(Mode::Update, "canister_update prelude", incoming(Mode::Update));
    for function in TABLE {
        let (mode, _) = MODES.iter().find(|(_, letters)| function.is_allowed(letters)).unwrap();
        let before = match function.prelude() {
            "" => 1, // Entering a function costs one.
            _ => prelude.instructions,
        };
        let args = function.params().len() as u64;
        let drop = u64::from(function.has_result());
        let ran = lab.run(*mode, &prepared(function), incoming(*mode));
        let call = 5;
        assert_eq!(
            ran.instructions - before - args - call - drop,
            function.cost,
            "{}",
            function.name
        );
    }
}

/// Runs `body` as an update and returns what it replies.
fn reply_of(mode: Mode, body: &str) -> Vec<u8> {
    let imports: String = TABLE.iter().map(Function::import).collect();
    let lab = Lab::new(&format!(
        r#"(module {imports} (memory 1) (data (i32.const 64) "v") (data (i32.const 80) "\04")
            (func (export "canister_update go") {body} (call $msg_reply)))"#
    ));
    let ran = lab.run(mode, "canister_update go", incoming(mode));
    match (ran.result, ran.host.answer) {
        (Ok(_), Some(Answer::Reply(bytes))) => bytes,
        (result, answer) => panic!("{body}: {:?} {answer:?}", result.err()),
    }
}

#[track_caller]
fn check_blob(name: &str, args: &str, expected: &[u8]) {
    let body = format!(
        "(call ${name}_copy {args} (i32.const 1024) (i32.const 0) (call ${name}_size {args}))
         (call $msg_reply_data_append (i32.const 1024) (call ${name}_size {args}))"
    );
    assert_eq!(reply_of(Mode::Update, &body), expected, "{name}");
}

#[track_caller]
fn check_number(mode: Mode, call: &str, expected: u64) {
    let is_long = TABLE.iter().any(|function| {
        call.split([' ', ')']).nth(1) == Some(&format!("${}", function.name))
            && function.signature.ends_with(":l")
    });
    let extended = if is_long { call.to_owned() } else { format!("(i64.extend_i32_u {call})") };
    let body = format!(
        "(i64.store (i32.const 1024) {extended})
         (call $msg_reply_data_append (i32.const 1024) (i32.const 8))"
    );
    assert_eq!(reply_of(mode, &body), expected.to_le_bytes(), "{call}");
}

#[track_caller]
fn check_cycles(mode: Mode, call: &str, expected: u128) {
    let body = format!("{call} (call $msg_reply_data_append (i32.const 1024) (i32.const 16))");
    assert_eq!(reply_of(mode, &body), expected.to_le_bytes(), "{call}");
}

#[test]
fn blobs_are_what_they_are_called() {
    let lab = Lab::new("(module)");
    let subnet = lab.ic.subnet_of(lab.canister).id();
    check_blob("msg_arg_data", "", b"abc");
    check_blob("msg_caller", "", &[4]);
    check_blob("msg_caller_info_data", "", b"");
    check_blob("msg_caller_info_signer", "", b"");
    check_blob("canister_self", "", lab.canister.as_slice());
    check_blob("subnet_self", "", subnet.as_slice());
    check_blob("root_key", "", &lab.ic.root_key);
    check_blob("env_var_name", "(i32.const 0)", b"v");
    check_blob("env_var_value", "(i32.const 64) (i32.const 1)", b"worth");
}

#[test]
fn numbers_are_what_they_are_called() {
    let update = |call, expected| check_number(Mode::Update, call, expected);
    update("(call $env_var_count)", 1);
    update("(call $env_var_name_exists (i32.const 64) (i32.const 1))", 1);
    update("(call $env_var_name_exists (i32.const 65) (i32.const 1))", 0);
    update("(call $is_controller (i32.const 80) (i32.const 1))", 1);
    update("(call $is_controller (i32.const 80) (i32.const 0))", 0);
    update("(call $canister_status)", 1);
    update("(call $canister_version)", 2);
    update("(call $subnet_self_node_count)", 13);
    update("(call $in_replicated_execution)", 1);
    update("(call $msg_deadline)", 0);
    update("(call $data_certificate_present)", 0);
    update(
        "(call $cost_sign_with_ecdsa (i32.const 64) (i32.const 1) (i32.const 0) (i32.const 0))",
        2,
    );
    update(
        "(call $cost_sign_with_ecdsa (i32.const 64) (i32.const 1) (i32.const 1) (i32.const 0))",
        1,
    );
    update(
        "(call $cost_sign_with_schnorr (i32.const 64) (i32.const 1) (i32.const 1) (i32.const 0))",
        2,
    );
    update(
        "(call $cost_vetkd_derive_key (i32.const 64) (i32.const 1) (i32.const 3) (i32.const 0))",
        1,
    );
    check_number(Mode::Query, "(call $in_replicated_execution)", 0);
    check_number(Mode::Query, "(call $data_certificate_present)", 1);
    check_number(Mode::Reject, "(call $msg_reject_code)", 4);
    check_number(Mode::Reply, "(call $msg_reject_code)", 0);
}

#[test]
fn cycles_come_in_128_bits_and_in_64() {
    let update = |call: &str, expected| check_cycles(Mode::Update, call, expected);
    let long = |mode, call, expected| check_number(mode, call, expected);
    update("(call $canister_cycle_balance128 (i32.const 1024))", balance());
    let difference = "(i64.sub (call $canister_cycle_balance) (i64.load (i32.const 1024)))";
    update(
        &format!(
            "(call $canister_cycle_balance128 (i32.const 1024))
             (i64.store (i32.const 1024) {difference})"
        ),
        0,
    );
    update("(call $msg_cycles_available128 (i32.const 1024))", 1_000);
    long(Mode::Update, "(call $msg_cycles_available)", 1_000);
    update("(call $msg_cycles_accept128 (i64.const 1) (i64.const 0) (i32.const 1024))", 1_000);
    long(Mode::Update, "(call $msg_cycles_accept (i64.const 300))", 300);
    check_cycles(Mode::Reply, "(call $msg_cycles_refunded128 (i32.const 1024))", 7);
    long(Mode::Reply, "(call $msg_cycles_refunded)", 7);
    update("(call $cycles_burn128 (i64.const 0) (i64.const 9) (i32.const 1024))", 9);
    // A call costs 260 thousand, a thousand a byte, and in advance the callback and its payload.
    let prepaid = 5_000_000 + 40_000_000_000 + 1_000 * (2 << 20);
    update(
        "(call $cost_call (i64.const 3) (i64.const 4) (i32.const 1024))",
        260_000 + 7_000 + prepaid,
    );
    update("(call $cost_create_canister (i32.const 1024))", 500_000_000_000);
    update(
        "(call $cost_http_request (i64.const 10) (i64.const 100) (i32.const 1024))",
        49_140_000 + 52_000 + 1_040_000,
    );
}

/// After the install of a module that has no code to run.
fn balance() -> u128 {
    let imports: String = TABLE.iter().map(Function::import).collect();
    let lab = Lab::new(&format!(
        r#"(module {imports} (memory 1) (data (i32.const 64) "v") (data (i32.const 80) "\04")
            (func (export "canister_update go")
                (call $canister_cycle_balance128 (i32.const 1024))
                (call $msg_reply_data_append (i32.const 1024) (i32.const 16))
                (call $msg_reply)))"#
    ));
    let balance = lab.ic.canister(lab.canister).unwrap().cycles;
    assert!(balance < CYCLES);
    balance
}

#[test]
fn a_reject_and_a_method_name_are_text() {
    let imports: String = TABLE.iter().map(Function::import).collect();
    let lab = Lab::new(&format!(
        r#"(module {imports} (memory 1) (data (i32.const 0) "\ff")
            (func (export "canister_update reject") (call $msg_reject (i32.const 0) (i32.const 1)))
            (func (export "canister_update call") (call $call_new
                (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))"#
    ));
    for name in ["reject", "call"] {
        let ran = lab.run(Mode::Update, &format!("canister_update {name}"), incoming(Mode::Update));
        let Err(Fault::ContractViolation(why)) = ran.result else {
            panic!("{name} is not refused")
        };
        assert!(why.contains("UTF-8"), "{why}");
    }
}
