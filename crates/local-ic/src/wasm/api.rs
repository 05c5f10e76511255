//! The System API: the functions of module `ic0`.
//!
//! Each entry of the table says where the function may be called, what it costs, and what it
//! does. Costs are those of the replica's `system_api_complexity.rs`: a fixed part here, a part
//! for each byte in the body.

use std::collections::BTreeSet;

use candid::Principal;
use wasmtime::{Caller, Linker, Result, WasmBacktrace};

use super::costs::DIRTY_PAGE;
use super::host::{Answer, Host, Mode, OutCall};
use crate::errors::Fault;
use crate::mem::{STABLE_BYTES_MAX, WASM_PAGE};

type Call<'a> = Caller<'a, Host>;

const I: u16 = Mode::Init.bit();
const G: u16 = Mode::PreUpgrade.bit();
const U: u16 = Mode::Update.bit();
const RQ: u16 = Mode::ReplicatedQuery.bit();
const NRQ: u16 = Mode::Query.bit();
const CQ: u16 = Mode::CompositeQuery.bit();
const RY: u16 = Mode::Reply.bit();
const RT: u16 = Mode::Reject.bit();
const CRY: u16 = Mode::CompositeReply.bit();
const CRT: u16 = Mode::CompositeReject.bit();
const C: u16 = Mode::Cleanup.bit();
const CC: u16 = Mode::CompositeCleanup.bit();
const F: u16 = Mode::Inspect.bit();
const T: u16 = Mode::Task.bit();
const S: u16 = Mode::Start.bit();
const ALL: u16 = I | G | U | RQ | NRQ | CQ | RY | RT | CRY | CRT | C | CC | F | T;

const ARG: u16 = I | U | RQ | NRQ | CQ | RY | CRY | F;
const ANSWER: u16 = U | RQ | NRQ | CQ | RY | RT | CRY | CRT;
const CALL: u16 = U | CQ | RY | RT | CRY | CRT | T;
const SPEND: u16 = U | RY | RT | T;
const KEY: u16 = I | G | U | RQ | RY | RT | C | T;
const CALLED: u16 = U | RQ | NRQ | CQ | RY | RT | CRY | CRT | C | CC | F;

/// Sending a byte out of the canister costs fifty times what copying it does.
const BYTE_SENT: u64 = 50;
const BACKTRACE_FRAMES_MAX: usize = 20;

macro_rules! ic0 {
    ($to:ident, $allowed:expr, $cost:expr, fn $name:ident($c:ident $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)? $body:block) => {
        $to.names.insert(stringify!($name));
        #[allow(unused_parens)]
        $to.linker.func_wrap(
            "ic0",
            stringify!($name),
            |mut caller: Call<'_> $(, $arg: $ty)*| -> Result<($($ret)?)> {
                let $c = &mut caller;
                enter($c, stringify!($name), $allowed, $cost)?;
                $body
            },
        )?;
    };
}

/// The linker with the whole API, and the names in it.
pub struct Api {
    pub linker: Linker<Host>,
    pub names: BTreeSet<&'static str>,
}

impl Api {
    pub fn new(engine: &wasmtime::Engine) -> Result<Api> {
        let mut api = Api { linker: Linker::new(engine), names: BTreeSet::new() };
        api.message()?;
        api.cycles()?;
        api.canister()?;
        api.calls()?;
        api.stable64()?;
        api.stable32()?;
        api.certification()?;
        api.costs()?;
        api.variables()?;
        api.diagnostics()?;
        Ok(api)
    }

    fn message(&mut self) -> Result<()> {
        ic0!(self, ARG, 500, fn msg_arg_data_size(c) -> u32 { Ok(c.data().incoming.arg.len() as u32) });
        ic0!(self, ARG, 500, fn msg_arg_data_copy(c, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            copy_out(heap, dst, &host.incoming.arg, offset, size, "msg_arg_data_copy")
        });
        ic0!(self, ALL, 500, fn msg_caller_size(c) -> u32 {
            Ok(c.data().incoming.caller().as_slice().len() as u32)
        });
        ic0!(self, ALL, 500, fn msg_caller_copy(c, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            copy_out(heap, dst, host.incoming.caller().as_slice(), offset, size, "msg_caller_copy")
        });
        // No sender has certified information about itself here.
        ic0!(self, CALLED, 500, fn msg_caller_info_data_size(_c) -> u32 { Ok(0) });
        ic0!(self, CALLED, 500, fn msg_caller_info_data_copy(c, dst: u32, offset: u32, size: u32) {
            copy_out(parts(c).0, dst, &[], offset, size, "msg_caller_info_data_copy")
        });
        ic0!(self, CALLED, 500, fn msg_caller_info_signer_size(_c) -> u32 { Ok(0) });
        ic0!(self, CALLED, 500, fn msg_caller_info_signer_copy(c, dst: u32, offset: u32, size: u32) {
            copy_out(parts(c).0, dst, &[], offset, size, "msg_caller_info_signer_copy")
        });
        ic0!(self, RY | RT | CRY | CRT | C, 500, fn msg_reject_code(c) -> u32 {
            Ok(c.data().incoming.reject.as_ref().map_or(0, |(code, _)| *code))
        });
        ic0!(self, RT | CRT, 500, fn msg_reject_msg_size(c) -> u32 {
            Ok(c.data().incoming.reject.as_ref().map_or(0, |(_, text)| text.len() as u32))
        });
        ic0!(self, RT | CRT, 500, fn msg_reject_msg_copy(c, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            let text = host.incoming.reject.as_ref().map_or("", |(_, text)| text);
            copy_out(heap, dst, text.as_bytes(), offset, size, "msg_reject_msg_copy")
        });
        ic0!(self, ANSWER, 500, fn msg_deadline(c) -> u64 { Ok(c.data().incoming.deadline) });
        ic0!(self, ANSWER, 500, fn msg_reply_data_append(c, src: u32, size: u32) {
            charge(c, size as u64 * BYTE_SENT)?;
            let (heap, host) = parts(c);
            not_answered(host, "msg_reply_data_append")?;
            let bytes = slice(heap, src, size, "msg_reply_data_append")?;
            host.reply_data.extend_from_slice(bytes);
            reply_fits(host)
        });
        ic0!(self, ANSWER, 500, fn msg_reply(c) {
            let host = c.data_mut();
            not_answered(host, "msg_reply")?;
            host.answer = Some(Answer::Reply(std::mem::take(&mut host.reply_data)));
            Ok(())
        });
        ic0!(self, ANSWER, 500, fn msg_reject(c, src: u32, size: u32) {
            charge(c, size as u64 * BYTE_SENT)?;
            let (heap, host) = parts(c);
            not_answered(host, "msg_reject")?;
            let text = text(heap, src, size, "msg_reject")?;
            host.answer = Some(Answer::Reject(text));
            Ok(())
        });
        ic0!(self, F, 500, fn msg_method_name_size(c) -> u32 { Ok(c.data().incoming.method.len() as u32) });
        ic0!(self, F, 500, fn msg_method_name_copy(c, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            copy_out(heap, dst, host.incoming.method.as_bytes(), offset, size, "msg_method_name_copy")
        });
        ic0!(self, F, 500, fn accept_message(c) {
            if std::mem::replace(&mut c.data_mut().is_accepted, true) {
                return violation("ic0.accept_message: the function was already called");
            }
            Ok(())
        });
        Ok(())
    }

    fn cycles(&mut self) -> Result<()> {
        ic0!(self, U | RQ | RY | RT, 500, fn msg_cycles_available128(c, dst: u32) {
            let available = available(c.data());
            put128(c, dst, available, "msg_cycles_available128")
        });
        ic0!(self, U | RQ | RY | RT, 500, fn msg_cycles_available(c) -> u64 {
            narrow(available(c.data()))
        });
        ic0!(self, RY | RT, 500, fn msg_cycles_refunded128(c, dst: u32) {
            let refunded = c.data().incoming.cycles_refunded;
            put128(c, dst, refunded, "msg_cycles_refunded128")
        });
        ic0!(self, RY | RT, 500, fn msg_cycles_refunded(c) -> u64 {
            narrow(c.data().incoming.cycles_refunded)
        });
        ic0!(self, U | RQ | RY | RT, 500, fn msg_cycles_accept128(c, high: u64, low: u64, dst: u32) {
            let accepted = accept(c.data_mut(), wide(high, low));
            put128(c, dst, accepted, "msg_cycles_accept128")
        });
        ic0!(self, U | RQ | RY | RT, 500, fn msg_cycles_accept(c, max: u64) -> u64 {
            narrow(accept(c.data_mut(), max as u128))
        });
        ic0!(self, I | G | U | RQ | RY | RT | C | T, 500, fn cycles_burn128(c, high: u64, low: u64, dst: u32) {
            let host = c.data_mut();
            let burned = wide(high, low).min(host.cycles_liquid());
            host.cycles -= burned;
            host.cycles_burned += burned;
            put128(c, dst, burned, "cycles_burn128")
        });
        ic0!(self, ALL, 500, fn canister_cycle_balance128(c, dst: u32) {
            let cycles = c.data().cycles;
            put128(c, dst, cycles, "canister_cycle_balance128")
        });
        ic0!(self, ALL, 500, fn canister_cycle_balance(c) -> u64 { narrow(c.data().cycles) });
        ic0!(self, ALL, 500, fn canister_liquid_cycle_balance128(c, dst: u32) {
            let cycles = c.data().cycles_liquid();
            put128(c, dst, cycles, "canister_liquid_cycle_balance128")
        });
        Ok(())
    }

    fn canister(&mut self) -> Result<()> {
        ic0!(self, ALL, 500, fn canister_self_size(c) -> u32 { Ok(c.data().env.canister.as_slice().len() as u32) });
        ic0!(self, ALL, 500, fn canister_self_copy(c, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            copy_out(heap, dst, host.env.canister.as_slice(), offset, size, "canister_self_copy")
        });
        ic0!(self, ALL, 500, fn canister_status(c) -> u32 { Ok(c.data().env.status) });
        ic0!(self, ALL, 500, fn canister_version(c) -> u64 { Ok(c.data().env.version) });
        ic0!(self, ALL, 500, fn subnet_self_size(c) -> u32 { Ok(c.data().env.subnet.as_slice().len() as u32) });
        ic0!(self, ALL, 500, fn subnet_self_copy(c, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            copy_out(heap, dst, host.env.subnet.as_slice(), offset, size, "subnet_self_copy")
        });
        ic0!(self, ALL, 500, fn subnet_self_node_count(c) -> u32 { Ok(c.data().env.prices.nodes) });
        ic0!(self, ALL, 500, fn time(c) -> u64 { Ok(c.data().env.time) });
        ic0!(self, I | G | U | RY | RT | C | T, 500, fn global_timer_set(c, at: u64) -> u64 {
            let host = c.data_mut();
            let before = host.timer_set.or(host.env.timer).unwrap_or(0);
            host.timer_set = Some(at);
            Ok(before)
        });
        ic0!(self, ALL | S, 1000, fn is_controller(c, src: u32, size: u32) -> u32 {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            let bytes = slice(heap, src, size, "is_controller")?;
            let who = Principal::try_from_slice(bytes)
                .map_err(|e| Fault::ContractViolation(format!("ic0.is_controller: {e}")))?;
            Ok(host.env.controllers.contains(&who) as u32)
        });
        ic0!(self, ALL | S, 500, fn in_replicated_execution(c) -> u32 { Ok(c.data().mode.is_replicated() as u32) });
        Ok(())
    }

    fn calls(&mut self) -> Result<()> {
        ic0!(self, CALL, 1500, fn call_new(c, callee: u32, callee_size: u32, name: u32, name_size: u32,
            reply_fun: u32, reply_env: u32, reject_fun: u32, reject_env: u32) {
            charge(c, callee_size as u64 + name_size as u64)?;
            let (heap, host) = parts(c);
            drop_call(host); // One that was never performed is forgotten.
            let callee = slice(heap, callee, callee_size, "call_new")?.to_vec();
            let method = text(heap, name, name_size, "call_new")?;
            host.call_under_construction = Some(OutCall {
                callee,
                method,
                arg: Vec::new(),
                on_reply: (reply_fun, reply_env),
                on_reject: (reject_fun, reject_env),
                on_cleanup: None,
                cycles: 0,
                prepaid: 0,
                timeout_seconds: None,
            });
            Ok(())
        });
        ic0!(self, CALL, 500, fn call_on_cleanup(c, fun: u32, env: u32) {
            let call = call_under_construction(c.data_mut(), "call_on_cleanup")?;
            if call.on_cleanup.replace((fun, env)).is_some() {
                return violation("ic0.call_on_cleanup can be called at most once between `ic0.call_new` and `ic0.call_perform`");
            }
            Ok(())
        });
        ic0!(self, CALL, 500, fn call_data_append(c, src: u32, size: u32) {
            charge(c, size as u64 * BYTE_SENT)?;
            let (heap, host) = parts(c);
            let bytes = slice(heap, src, size, "call_data_append")?;
            let call = call_under_construction(host, "call_data_append")?;
            call.arg.extend_from_slice(bytes);
            if call.arg.len() > CALL_BYTES_MAX {
                return violation(&format!("ic0.call_data_append: the payload exceeds {CALL_BYTES_MAX} bytes"));
            }
            Ok(())
        });
        ic0!(self, CALL, 500, fn call_with_best_effort_response(c, timeout_seconds: u32) {
            let call = call_under_construction(c.data_mut(), "call_with_best_effort_response")?;
            if call.timeout_seconds.replace(timeout_seconds).is_some() {
                return violation("ic0.call_with_best_effort_response failed because a timeout is already set");
            }
            Ok(())
        });
        ic0!(self, SPEND, 500, fn call_cycles_add128(c, high: u64, low: u64) { attach(c.data_mut(), wide(high, low)) });
        ic0!(self, SPEND, 500, fn call_cycles_add(c, amount: u64) { attach(c.data_mut(), amount as u128) });
        ic0!(self, CALL, 5000, fn call_perform(c) -> u32 { perform(c.data_mut()) });
        Ok(())
    }

    fn stable64(&mut self) -> Result<()> {
        ic0!(self, ALL | S, 0, fn stable64_size(c) -> u64 { Ok(c.data().stable.len() / WASM_PAGE) });
        ic0!(self, ALL | S, 100, fn stable64_grow(c, pages: u64) -> u64 {
            Ok(stable_grow(c.data_mut(), pages, STABLE_BYTES_MAX)?.unwrap_or(u64::MAX))
        });
        ic0!(self, ALL | S, 20, fn stable64_read(c, dst: u64, offset: u64, size: u64) { stable_read(c, dst, offset, size) });
        ic0!(self, ALL | S, 20, fn stable64_write(c, offset: u64, src: u64, size: u64) { stable_write(c, offset, src, size) });
        Ok(())
    }

    fn stable32(&mut self) -> Result<()> {
        ic0!(self, ALL | S, 0, fn stable_size(c) -> u32 {
            small(c)?;
            Ok((c.data().stable.len() / WASM_PAGE) as u32)
        });
        ic0!(self, ALL | S, 100, fn stable_grow(c, pages: u32) -> u32 {
            small(c)?;
            let before = stable_grow(c.data_mut(), pages as u64, 4 << 30)?;
            Ok(before.map_or(u32::MAX, |before| before as u32))
        });
        ic0!(self, ALL | S, 20, fn stable_read(c, dst: u32, offset: u32, size: u32) {
            small(c)?;
            stable_read(c, dst as u64, offset as u64, size as u64)
        });
        ic0!(self, ALL | S, 20, fn stable_write(c, offset: u32, src: u32, size: u32) {
            small(c)?;
            stable_write(c, offset as u64, src as u64, size as u64)
        });
        Ok(())
    }

    fn certification(&mut self) -> Result<()> {
        ic0!(self, I | G | U | RY | RT | T, 500, fn certified_data_set(c, src: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            if size > 32 {
                return violation(&format!(
                    "ic0_certified_data_set failed because the passed data must be no larger than 32 bytes. Found {size} bytes"
                ));
            }
            host.certified_data = Some(slice(heap, src, size, "certified_data_set")?.to_vec());
            Ok(())
        });
        ic0!(self, ALL, 500, fn data_certificate_present(c) -> u32 {
            let host = c.data();
            Ok((host.mode.bit() & (NRQ | CQ) != 0 && host.env.certificate.is_some()) as u32)
        });
        ic0!(self, NRQ | CQ, 500, fn data_certificate_size(c) -> u32 { Ok(certificate(c.data())?.len() as u32) });
        ic0!(self, NRQ | CQ, 500, fn data_certificate_copy(c, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            copy_out(heap, dst, certificate(host)?, offset, size, "data_certificate_copy")
        });
        ic0!(self, KEY, 500, fn root_key_size(c) -> u32 { Ok(c.data().env.root_key.len() as u32) });
        ic0!(self, KEY, 500, fn root_key_copy(c, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            copy_out(heap, dst, &host.env.root_key, offset, size, "root_key_copy")
        });
        Ok(())
    }

    fn costs(&mut self) -> Result<()> {
        ic0!(self, ALL | S, 500, fn cost_call(c, method_size: u64, payload_size: u64, dst: u32) {
            let cost = c.data().env.prices.call(method_size.saturating_add(payload_size) as usize);
            put128(c, dst, cost, "cost_call")
        });
        ic0!(self, ALL | S, 500, fn cost_create_canister(c, dst: u32) {
            let cost = c.data().env.prices.create_canister();
            put128(c, dst, cost, "cost_create_canister")
        });
        ic0!(self, ALL | S, 500, fn cost_http_request(c, request_size: u64, response_size_max: u64, dst: u32) {
            let cost = c.data().env.prices.http_request(request_size, response_size_max);
            put128(c, dst, cost, "cost_http_request")
        });
        // The parameters are not looked into: the price is that of the largest response.
        ic0!(self, ALL | S, 500, fn cost_http_request_v2(c, _params: u32, size: u32, dst: u32) {
            let cost = c.data().env.prices.http_request(size as u64, crate::cycles::MESSAGE_BYTES_MAX);
            put128(c, dst, cost, "cost_http_request_v2")
        });
        // There are no threshold keys here, so no key name is known.
        ic0!(self, ALL | S, 500, fn cost_sign_with_ecdsa(c, src: u32, size: u32, curve: u32, _dst: u32) -> u32 {
            no_key(c, src, size, curve, ECDSA_CURVES, "cost_sign_with_ecdsa")
        });
        ic0!(self, ALL | S, 500, fn cost_sign_with_schnorr(c, src: u32, size: u32, algorithm: u32, _dst: u32) -> u32 {
            no_key(c, src, size, algorithm, SCHNORR_ALGORITHMS, "cost_sign_with_schnorr")
        });
        ic0!(self, ALL | S, 500, fn cost_vetkd_derive_key(c, src: u32, size: u32, curve: u32, _dst: u32) -> u32 {
            no_key(c, src, size, curve, VETKD_CURVES, "cost_vetkd_derive_key")
        });
        Ok(())
    }

    fn variables(&mut self) -> Result<()> {
        ic0!(self, ALL, 500, fn env_var_count(c) -> u32 { Ok(c.data().env.variables.len() as u32) });
        ic0!(self, ALL, 500, fn env_var_name_size(c, index: u32) -> u32 { Ok(variable_at(c.data(), index)?.len() as u32) });
        ic0!(self, ALL, 500, fn env_var_name_copy(c, index: u32, dst: u32, offset: u32, size: u32) {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            copy_out(heap, dst, variable_at(host, index)?.as_bytes(), offset, size, "env_var_name_copy")
        });
        ic0!(self, ALL, 500, fn env_var_name_exists(c, src: u32, size: u32) -> u32 {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            let name = slice(heap, src, size, "env_var_name_exists")?;
            Ok(host.env.variables.iter().any(|(known, _)| known.as_bytes() == name) as u32)
        });
        ic0!(self, ALL, 500, fn env_var_value_size(c, src: u32, size: u32) -> u32 {
            charge(c, size as u64)?;
            let (heap, host) = parts(c);
            Ok(variable_named(host, slice(heap, src, size, "env_var_value_size")?)?.len() as u32)
        });
        ic0!(self, ALL, 500, fn env_var_value_copy(c, src: u32, src_size: u32, dst: u32, offset: u32, size: u32) {
            charge(c, src_size as u64 + size as u64)?;
            let (heap, host) = parts(c);
            let value = variable_named(host, slice(heap, src, src_size, "env_var_value_copy")?)?;
            copy_out(heap, dst, value.as_bytes(), offset, size, "env_var_value_copy")
        });
        Ok(())
    }

    fn diagnostics(&mut self) -> Result<()> {
        ic0!(self, ALL | S, 200, fn performance_counter(c, kind: u32) -> u64 {
            let spent = c.data().instruction_limit + 1 - c.get_fuel()?;
            match kind {
                0 => Ok(spent),
                1 => Ok(spent + c.data().incoming.context_instructions),
                other => violation(&format!("ic0.performance_counter: there is no counter {other}")),
            }
        });
        ic0!(self, ALL | S, 100, fn debug_print(c, src: u32, size: u32) {
            charge_log(c, size)?;
            let (heap, host) = parts(c);
            // Printing garbage is not worth a trap: what lies outside the heap is left out.
            let text = slice(heap, src, size, "debug_print").unwrap_or_default();
            tracing::debug!(canister = %host.env.canister, "{}", String::from_utf8_lossy(text));
            host.log(text);
            Ok(())
        });
        ic0!(self, ALL | S, 500, fn trap(c, src: u32, size: u32) {
            charge_log(c, size)?;
            let (heap, _) = parts(c);
            let message = String::from_utf8_lossy(slice(heap, src, size, "trap")?).into_owned();
            let backtrace = backtrace(c);
            Err(Fault::CalledTrap { message, backtrace }.into())
        });
        Ok(())
    }
}

const ECDSA_CURVES: u32 = 1;
const SCHNORR_ALGORITHMS: u32 = 2;
const VETKD_CURVES: u32 = 1;
const CALL_BYTES_MAX: usize = 10 << 20;
const REPLY_BYTES_MAX: usize = 2 << 20;
const QUERY_REPLY_BYTES_MAX: usize = 3 << 20;

/// Allowed here, and paid for.
fn enter(c: &mut Call<'_>, name: &str, allowed: u16, cost: u64) -> Result<()> {
    let mode = c.data().mode;
    if mode.bit() & allowed == 0 {
        return violation(&format!("\"ic0_{name}\" cannot be executed in {} mode", mode.text()));
    }
    charge(c, cost)
}

fn charge(c: &mut Call<'_>, instructions: u64) -> Result<()> {
    let fuel = c.get_fuel()?;
    // The last one is not there to be spent, see `Runner::run`.
    let Some(rest) = fuel.checked_sub(instructions).filter(|rest| *rest > 0) else {
        c.set_fuel(0)?;
        return Err(Fault::InstructionLimit(c.data().instruction_limit).into());
    };
    c.set_fuel(rest)
}

/// Storing a log record costs twice its bytes, and sending what still fits the log as usual.
fn charge_log(c: &mut Call<'_>, size: u32) -> Result<()> {
    let host = c.data();
    let stored = (size as usize).min(host.env.log_bytes_max) as u64;
    let room = host.env.log_bytes_max.saturating_sub(host.log_bytes) as u64;
    charge(c, 2 * stored + BYTE_SENT * stored.min(room))
}

fn violation<T>(why: &str) -> Result<T> {
    Err(Fault::ContractViolation(why.to_owned()).into())
}

/// The heap and the host data of the calling instance.
fn parts<'a>(c: &'a mut Call<'_>) -> (&'a mut [u8], &'a mut Host) {
    match c.data().memory {
        Some(memory) => memory.data_and_store_mut(c),
        None => (&mut [], c.data_mut()),
    }
}

fn slice<'a>(heap: &'a [u8], start: u32, size: u32, api: &str) -> Result<&'a [u8]> {
    let (start, size) = (start as usize, size as usize);
    match heap.get(start..start + size) {
        Some(bytes) => Ok(bytes),
        None => violation(&format!(
            "ic0.{api} heap: src={start} + length={size} exceeds the slice size={}",
            heap.len()
        )),
    }
}

fn text(heap: &[u8], start: u32, size: u32, api: &str) -> Result<String> {
    match std::str::from_utf8(slice(heap, start, size, api)?) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => violation(&format!("ic0.{api}: not valid UTF-8: {e}")),
    }
}

fn copy_out(
    heap: &mut [u8],
    dst: u32,
    from: &[u8],
    offset: u32,
    size: u32,
    api: &str,
) -> Result<()> {
    let bytes = slice(from, offset, size, api)?;
    let len = heap.len();
    let dst = dst as usize;
    let Some(to) = heap.get_mut(dst..dst + size as usize) else {
        return violation(&format!(
            "ic0.{api} heap: src={dst} + length={size} exceeds the slice size={len}"
        ));
    };
    to.copy_from_slice(bytes);
    Ok(())
}

fn put128(c: &mut Call<'_>, dst: u32, value: u128, api: &str) -> Result<()> {
    copy_out(parts(c).0, dst, &value.to_le_bytes(), 0, 16, api)
}

fn wide(high: u64, low: u64) -> u128 {
    (high as u128) << 64 | low as u128
}

fn narrow(cycles: u128) -> Result<u64> {
    u64::try_from(cycles).map_err(|_| {
        Fault::Trapped("cycles amount exceeds 64-bit representation".to_owned()).into()
    })
}

fn not_answered(host: &Host, api: &str) -> Result<()> {
    if host.is_answered() {
        return violation(&format!("ic0.{api}: the call is already replied"));
    }
    Ok(())
}

fn reply_fits(host: &Host) -> Result<()> {
    let max = match host.mode.is_replicated() {
        true => REPLY_BYTES_MAX,
        false => QUERY_REPLY_BYTES_MAX,
    };
    let size = host.reply_data.len();
    if size > max {
        return violation(&format!(
            "ic0.msg_reply_data_append: application payload size ({size}) cannot be larger than {max}"
        ));
    }
    Ok(())
}

fn available(host: &Host) -> u128 {
    match host.is_answered() {
        true => 0,
        false => host.incoming.cycles_available - host.cycles_accepted,
    }
}

fn accept(host: &mut Host, max: u128) -> u128 {
    let accepted = max.min(available(host));
    host.cycles_accepted += accepted;
    host.cycles += accepted;
    accepted
}

fn call_under_construction<'a>(host: &'a mut Host, api: &str) -> Result<&'a mut OutCall> {
    match &mut host.call_under_construction {
        Some(call) => Ok(call),
        None => violation(&format!("ic0.{api} called when no call is under construction")),
    }
}

fn drop_call(host: &mut Host) {
    if let Some(call) = host.call_under_construction.take() {
        host.cycles += call.cycles;
    }
}

fn attach(host: &mut Host, amount: u128) -> Result<()> {
    let liquid = host.cycles_liquid();
    let call = call_under_construction(host, "call_cycles_add128")?;
    if amount > liquid {
        return violation(&format!(
            "ic0.call_cycles_add128: insufficient cycles: {amount} asked for, {liquid} may be spent"
        ));
    }
    call.cycles += amount;
    host.cycles -= amount;
    Ok(())
}

/// Zero, or the reject code if the call could not be sent.
fn perform(host: &mut Host) -> Result<u32> {
    const SYS_TRANSIENT: u32 = 2;
    let payload = call_under_construction(host, "call_perform")
        .map(|call| call.method.len() + call.arg.len())?;
    let cost = host.env.prices.call(payload);
    if !matches!(host.mode.bit(), CQ | CRY | CRT) {
        if cost > host.cycles_liquid() {
            drop_call(host);
            return Ok(SYS_TRANSIENT);
        }
        host.cycles -= cost;
    }
    let mut call = host.call_under_construction.take().expect("just seen");
    call.prepaid = host.env.prices.prepaid();
    host.calls.push(call);
    Ok(0)
}

fn small(c: &Call<'_>) -> Result<()> {
    if c.data().stable.len() > 4 << 30 {
        let why = "32 bit stable memory api used on a memory larger than 4GB";
        return Err(Fault::Trapped(why.to_owned()).into());
    }
    Ok(())
}

/// The size before, or nothing if there is no room; a fault if the canister cannot pay for it.
fn stable_grow(host: &mut Host, pages: u64, bytes_max: u64) -> Result<Option<u64>> {
    let before = host.stable.len() / WASM_PAGE;
    if before.saturating_add(pages) > bytes_max / WASM_PAGE {
        return Ok(None);
    }
    host.occupy(pages * WASM_PAGE)?;
    host.stable.grow(pages * WASM_PAGE);
    Ok(Some(before))
}

fn stable_range(host: &Host, offset: u64, size: u64) -> Result<()> {
    match offset.checked_add(size) {
        Some(end) if end <= host.stable.len() => Ok(()),
        _ => Err(Fault::Trapped("stable memory out of bounds".to_owned()).into()),
    }
}

fn heap_range(heap: &[u8], start: u64, size: u64) -> Result<std::ops::Range<usize>> {
    match start.checked_add(size) {
        Some(end) if end <= heap.len() as u64 => Ok(start as usize..end as usize),
        _ => Err(Fault::Trapped("heap out of bounds".to_owned()).into()),
    }
}

fn stable_read(c: &mut Call<'_>, dst: u64, offset: u64, size: u64) -> Result<()> {
    charge(c, size)?;
    let (heap, host) = parts(c);
    stable_range(host, offset, size)?;
    let to = heap_range(heap, dst, size)?;
    host.stable.read(offset, &mut heap[to]);
    Ok(())
}

fn stable_write(c: &mut Call<'_>, offset: u64, src: u64, size: u64) -> Result<()> {
    charge(c, size)?;
    stable_range(c.data(), offset, size)?;
    let pages = c.data().stable.pages_new(offset, size);
    charge(c, pages * DIRTY_PAGE)?;
    let (heap, host) = parts(c);
    let from = heap_range(heap, src, size)?;
    host.stable.write(offset, &heap[from]);
    Ok(())
}

fn certificate(host: &Host) -> Result<&[u8]> {
    match &host.env.certificate {
        Some(certificate) => Ok(certificate.bytes()),
        None => violation("ic0.data_certificate_size: there is no data certificate"),
    }
}

fn variable_at(host: &Host, index: u32) -> Result<&str> {
    match host.env.variables.get(index as usize) {
        Some((name, _)) => Ok(name),
        None => violation(&format!("ic0.env_var_name_size: index {index} out of bounds")),
    }
}

fn variable_named<'a>(host: &'a Host, name: &[u8]) -> Result<&'a str> {
    let found = host.env.variables.iter().find(|(known, _)| known.as_bytes() == name);
    match found {
        Some((_, value)) => Ok(value),
        None => violation("ic0.env_var_value_size: Variable name not found."),
    }
}

/// What the price of a signature is answered with: an unknown curve, or else an unknown key.
fn no_key(
    c: &mut Call<'_>,
    src: u32,
    size: u32,
    curve: u32,
    curves: u32,
    api: &str,
) -> Result<u32> {
    const UNKNOWN_CURVE: u32 = 1;
    const UNKNOWN_KEY: u32 = 2;
    text(parts(c).0, src, size, api)?;
    Ok(if curve < curves { UNKNOWN_KEY } else { UNKNOWN_CURVE })
}

/// Function names, innermost first; empty when the module has no name section.
fn backtrace(c: &Call<'_>) -> Vec<String> {
    WasmBacktrace::force_capture(c)
        .frames()
        .iter()
        .filter_map(|frame| frame.func_name().map(str::to_owned))
        .take(BACKTRACE_FRAMES_MAX)
        .collect()
}
