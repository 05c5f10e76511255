//! Why a message failed: codes and texts as the Internet Computer gives them.
//!
//! A [`Fault`] is what stopped an execution; a [`Reject`] is what the caller is told. Tests match
//! on these texts, so they follow the replica's word for word where they are known.

use candid::Principal;
use pocket_ic::{ErrorCode, RejectCode, RejectResponse};
use serde::{Deserialize, Serialize};

const DOCS: &str =
    "See documentation: https://internetcomputer.org/docs/current/references/execution-errors";
const HANDLE: &str = "Consider gracefully handling failures from this canister or altering the canister to handle exceptions.";

/// An answer that is not a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    pub code: ErrorCode,
    pub message: String,
}

impl Reject {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Reject {
        Reject { code, message: message.into() }
    }

    /// The first digit of the error code is the reject code.
    pub fn reject_code(&self) -> RejectCode {
        RejectCode::try_from(self.code as u64 / 100).expect("every error code starts with one")
    }

    /// `IC0503`.
    pub fn error_code(&self) -> String {
        self.code.to_string()
    }

    pub fn response(&self, certified: bool) -> RejectResponse {
        RejectResponse {
            reject_code: self.reject_code(),
            reject_message: self.message.clone(),
            error_code: self.code,
            certified,
        }
    }

    /// The text another canister sees: with the code in front, unless a canister wrote it.
    pub fn message_to_canister(&self) -> String {
        match self.code {
            ErrorCode::CanisterRejectedMessage => self.message.clone(),
            code => format!("{code}: {}", self.message),
        }
    }

    pub fn canister_not_found(id: Principal) -> Reject {
        Reject::new(ErrorCode::CanisterNotFound, format!("Canister {id} not found."))
    }

    pub fn no_wasm_module(id: Principal) -> Reject {
        Reject::new(
            ErrorCode::CanisterWasmModuleNotFound,
            format!(
                "Error from Canister {id}: Attempted to execute a message, but the canister contains no Wasm module.\n\
                 If you are running this canister in a test environment (e.g., dfx), make sure the test environment is up to date. \
                 Otherwise, consider installing a Wasm module. {DOCS}#wasm-module-not-found"
            ),
        )
    }

    pub fn method_not_found(id: Principal, kind: &str, method: &str) -> Reject {
        Reject::new(
            ErrorCode::CanisterMethodNotFound,
            format!(
                "Error from Canister {id}: Canister has no {kind} method '{method}'..\n\
                 Check that the method being called is exported by the target canister. {DOCS}#method-not-found"
            ),
        )
    }

    pub fn invalid_wasm(id: Principal, why: &str) -> Reject {
        Reject::new(
            ErrorCode::CanisterInvalidWasm,
            format!(
                "Error from Canister {id}: Canister's Wasm module is not valid: {why}.\n\
                 If you are running this canister in a test environment (e.g., dfx), make sure the test environment is up to date. \
                 Otherwise, consider checking the validity of the Wasm module. {DOCS}#invalid-wasm-module"
            ),
        )
    }

    pub fn did_not_reply(id: Principal) -> Reject {
        Reject::new(
            ErrorCode::CanisterDidNotReply,
            format!(
                "Error from Canister {id}: Canister did not reply to the call.\n{HANDLE} {DOCS}#did-not-reply"
            ),
        )
    }

    pub fn stopped(id: Principal) -> Reject {
        Reject::new(ErrorCode::CanisterStopped, format!("Canister {id} is stopped"))
    }

    pub fn stopping(id: Principal) -> Reject {
        Reject::new(ErrorCode::CanisterStopping, format!("Canister {id} is stopping"))
    }

    pub fn out_of_cycles(id: Principal, missing: u128) -> Reject {
        Reject::new(
            ErrorCode::CanisterOutOfCycles,
            format!(
                "Canister {id} is out of cycles: please top up the canister with at least {missing} additional cycles"
            ),
        )
    }

    pub fn invalid_payload(why: impl std::fmt::Display) -> Reject {
        Reject::new(ErrorCode::InvalidManagementPayload, format!("Error decoding candid: {why}"))
    }

    pub fn not_supported(what: &str) -> Reject {
        Reject::new(
            ErrorCode::CanisterRejectedMessage,
            format!("not supported by local-ic: {what}"),
        )
    }
}

/// What ended an execution before its entry point returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Trapped(String),
    CalledTrap {
        message: String,
        backtrace: Vec<String>,
    },
    ContractViolation(String),
    InstructionLimit(u64),
    WasmMemoryLimit {
        bytes: u64,
        limit: u64,
    },
    /// Growing would take the canister below its freezing threshold.
    MemoryUnaffordable {
        bytes: u64,
        missing: u128,
    },
    FunctionNotFound {
        index: u32,
    },
    /// Ours, not the canister's: the host ran out of something.
    Engine(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {}

impl Fault {
    pub fn reject(&self, id: Principal) -> Reject {
        let (code, text) = match self {
            Fault::Trapped(reason) => (
                ErrorCode::CanisterTrapped,
                format!("Canister trapped: {reason}.\n{HANDLE} {DOCS}#trapped"),
            ),
            Fault::CalledTrap { message, backtrace } => (
                ErrorCode::CanisterCalledTrap,
                format!(
                    "Canister called `ic0.trap` with message: '{message}'{}.\n{HANDLE} {DOCS}#trapped-explicitly",
                    backtrace_text(backtrace)
                ),
            ),
            Fault::ContractViolation(why) => (
                ErrorCode::CanisterContractViolation,
                format!(
                    "Canister violated contract: {why}.\nIf you are running this canister in a test environment (e.g., dfx), make sure the test environment is up to date. {DOCS}#contract-violation"
                ),
            ),
            Fault::InstructionLimit(limit) => (
                ErrorCode::CanisterInstructionLimitExceeded,
                format!(
                    "Canister exceeded the limit of {limit} instructions for single message execution.\n\
                     If you are an end-user, please contact the canister owner. {DOCS}#instruction-limit-exceeded"
                ),
            ),
            Fault::WasmMemoryLimit { bytes, limit } => (
                ErrorCode::CanisterWasmMemoryLimitExceeded,
                format!(
                    "Canister exceeded its current Wasm memory limit of {limit} bytes. The peak Wasm memory usage was {bytes} bytes. {DOCS}#wasm-memory-limit-exceeded"
                ),
            ),
            Fault::MemoryUnaffordable { bytes, missing } => (
                ErrorCode::InsufficientCyclesInMemoryGrow,
                format!(
                    "Canister cannot grow memory by {bytes} bytes due to insufficient cycles. At least {missing} additional cycles are required. {DOCS}#insufficient-cycles-in-memory-grow"
                ),
            ),
            Fault::FunctionNotFound { index } => (
                ErrorCode::CanisterFunctionNotFound,
                format!(
                    "Canister requested to invoke a non-existent Wasm function {index} from table 0."
                ),
            ),
            Fault::Engine(why) => (
                ErrorCode::CanisterWasmEngineError,
                format!("Canister encountered a Wasm engine error: {why}"),
            ),
        };
        Reject::new(code, format!("Error from Canister {id}: {text}"))
    }

    /// Other canisters are not shown the callee's backtrace.
    pub fn without_backtrace(mut self) -> Fault {
        if let Fault::CalledTrap { backtrace, .. } = &mut self {
            backtrace.clear();
        }
        self
    }

    /// What the canister's log says about it.
    pub fn log_text(&self) -> String {
        match self {
            Fault::CalledTrap { message, .. } => format!("[TRAP]: {message}"),
            Fault::Trapped(reason) => format!("[TRAP]: {reason}"),
            other => format!("[TRAP]: {other:?}"),
        }
    }
}

fn backtrace_text(frames: &[String]) -> String {
    if frames.is_empty() {
        return String::new();
    }
    format!("\nCanister Backtrace:\n{}\n", frames.join("\n"))
}
