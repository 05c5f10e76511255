//! What is on its way between users and canisters, and what waits for an answer.
//!
//! All of it is plain data that knows nothing of the instance it is in, so everything else may be
//! built on it. What has a `Serialize` goes into a saved state.

use std::collections::{HashMap, VecDeque};

use candid::Principal;
use pocket_ic::common::rest::{RawCanisterHttpRequest, base64};
use serde::{Deserialize, Serialize};

use crate::errors::Reject;
use crate::wasm::host::Closure;

/// Answers are forgotten, oldest first, when they take more memory than this.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// So many answered messages are remembered however old they are ...
const ANSWERED_MIN: usize = 10_000;
/// ... and not more than these, so that memory does not grow while a test's time stands still.
const ANSWERED_MAX: usize = 20_000;
/// A message this long answered has expired, so it could not be sent again.
const ANSWERED_NANOS: u64 = 600_000_000_000;

/// Of the answers given, a saved state holds only the latest.
const SAVED_ANSWERS_MAX: usize = 1_000;
const SAVED_ANSWER_BYTES_MAX: usize = 8 << 20;

pub type MessageId = [u8; 32];

/// A call from outside, checked as far as its signature.
pub struct IngressCall {
    pub id: MessageId,
    pub sender: Principal,
    pub canister: Principal,
    pub method: String,
    pub arg: Vec<u8>,
    /// Index of the subnet it was sent to.
    pub subnet: usize,
    /// Size of the envelope, which the receiver pays for.
    pub bytes: usize,
}

/// A question from outside or of another canister.
pub struct Query<'a> {
    pub sender: Principal,
    pub canister: Principal,
    pub method: &'a str,
    pub arg: Vec<u8>,
}

/// A call to be executed, wherever it came from.
pub struct Call {
    pub origin: Origin,
    pub caller: Principal,
    pub callee: Principal,
    pub method: String,
    pub arg: Vec<u8>,
    pub cycles: u128,
}

/// Something to be executed in a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    Ingress(MessageId),
    Request(Request),
    Response(Response),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    pub from: Principal,
    pub callback: u64,
    pub callee: Principal,
    pub method: String,
    #[serde(with = "base64")]
    pub arg: Vec<u8>,
    pub cycles: u128,
    pub deadline: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Response {
    pub to: Principal,
    pub callback: u64,
    pub result: Result<Vec<u8>, Reject>,
    pub refund: u128,
}

/// Who waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    Ingress(MessageId),
    Canister {
        id: Principal,
        callback: u64,
        deadline: Option<u64>,
    },
    /// Timers and heartbeats: nobody.
    System,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallContext {
    pub canister: Principal,
    pub origin: Origin,
    pub caller: Principal,
    pub is_answered: bool,
    pub outstanding: usize,
    pub cycles: u128,
    pub instructions: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Callback {
    pub context: u64,
    pub on_reply: Closure,
    pub on_reject: Closure,
    pub on_cleanup: Option<Closure>,
    pub prepaid: u128,
    /// When a best-effort call gives up waiting.
    pub deadline: Option<u64>,
}

/// An HTTPS request of a canister that nobody has answered yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcall {
    pub origin: Origin,
    pub caller: Principal,
    pub started: u64,
    pub refund: u128,
    pub request: RawCanisterHttpRequest,
    /// The query of the caller that the response goes through first, and its context.
    pub transform: Option<(String, Vec<u8>)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ingress {
    pub sender: Principal,
    pub canister: Principal,
    /// The subnet it was sent to.
    pub subnet: Principal,
    pub method: String,
    #[serde(with = "base64")]
    pub arg: Vec<u8>,
    pub status: IngressStatus,
    pub answered_at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IngressStatus {
    Received,
    Processing,
    Replied(#[serde(with = "base64")] Vec<u8>),
    Rejected(Reject),
    /// Answered, and the answer forgotten.
    Done,
}

impl IngressStatus {
    pub fn result(&self) -> Option<Result<Vec<u8>, Reject>> {
        match self {
            IngressStatus::Replied(bytes) => Some(Ok(bytes.clone())),
            IngressStatus::Rejected(reject) => Some(Err(reject.clone())),
            _ => None,
        }
    }

    pub fn is_answered(&self) -> bool {
        !matches!(self, IngressStatus::Received | IngressStatus::Processing)
    }

    fn bytes(&self) -> usize {
        match self {
            IngressStatus::Replied(bytes) => bytes.len(),
            IngressStatus::Rejected(reject) => reject.message.len(),
            _ => 0,
        }
    }
}

/// Every ingress message seen, so that none runs twice, and the answers of the latest.
#[derive(Default)]
pub struct IngressHistory {
    pub messages: HashMap<MessageId, Ingress>,
    answered: VecDeque<MessageId>,
    answer_bytes: usize,
    /// So many of the oldest answered ones have no body any more.
    bodies_forgotten: usize,
}

impl IngressHistory {
    pub fn status(&self, id: &MessageId) -> Option<&IngressStatus> {
        self.messages.get(id).map(|ingress| &ingress.status)
    }

    pub fn answer(&mut self, id: &MessageId, result: Result<Vec<u8>, Reject>, now: u64) {
        let Some(ingress) = self.messages.get_mut(id) else {
            return;
        };
        ingress.status = match result {
            Ok(bytes) => IngressStatus::Replied(bytes),
            Err(reject) => IngressStatus::Rejected(reject),
        };
        ingress.answered_at = Some(now);
        self.answer_bytes += ingress.status.bytes();
        self.answered.push_back(*id);
        self.forget(now);
    }

    /// Large answers go first, while their message is still known; old messages go altogether.
    fn forget(&mut self, now: u64) {
        while self.answer_bytes > ANSWER_BYTES_MAX && self.bodies_forgotten < self.answered.len() {
            let oldest = self.answered[self.bodies_forgotten];
            self.bodies_forgotten += 1;
            if let Some(ingress) = self.messages.get_mut(&oldest) {
                self.answer_bytes -= ingress.status.bytes();
                ingress.status = IngressStatus::Done;
            }
        }
        while self.answered.len() > ANSWERED_MAX
            || self.answered.len() > ANSWERED_MIN && self.is_old(&self.answered[0], now)
        {
            let oldest = self.answered.pop_front().expect("more than some");
            self.bodies_forgotten = self.bodies_forgotten.saturating_sub(1);
            if let Some(ingress) = self.messages.remove(&oldest) {
                self.answer_bytes -= ingress.status.bytes();
            }
        }
    }

    fn is_old(&self, id: &MessageId, now: u64) -> bool {
        let answered_at = self.messages.get(id).and_then(|ingress| ingress.answered_at);
        answered_at.is_none_or(|at| at + ANSWERED_NANOS < now)
    }

    /// What is not answered yet, and the latest answers.
    pub fn worth_saving(&self) -> Vec<(&MessageId, &Ingress)> {
        let mut bytes = 0;
        let is_small = |id: &&MessageId| {
            bytes += self.messages.get(*id).map_or(0, |ingress| ingress.status.bytes());
            bytes <= SAVED_ANSWER_BYTES_MAX
        };
        let latest = self.answered.iter().rev().take(SAVED_ANSWERS_MAX).take_while(is_small);
        let answered = latest.filter_map(|id| self.messages.get_key_value(id));
        let open = self.messages.iter().filter(|(_, ingress)| !ingress.status.is_answered());
        open.chain(answered).collect()
    }

    /// Takes up the messages of a saved state.
    pub fn restore(messages: Vec<(MessageId, Ingress)>) -> IngressHistory {
        let mut answered: Vec<_> =
            messages.iter().filter_map(|(id, ingress)| Some((ingress.answered_at?, *id))).collect();
        answered.sort_unstable();
        IngressHistory {
            answer_bytes: messages.iter().map(|(_, m)| m.status.bytes()).sum(),
            messages: messages.into_iter().collect(),
            answered: answered.into_iter().map(|(_, id)| id).collect(),
            bodies_forgotten: 0,
        }
    }
}
