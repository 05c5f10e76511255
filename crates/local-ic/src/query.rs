//! Queries: run on the committed state, answered by one node, forgotten.
//!
//! They need the instance only for reading, so any number of them run at the same time. A
//! composite query calls further queries on its own subnet; its machine lives on between its
//! callbacks and is then dropped like any other.

use std::collections::VecDeque;
use std::sync::Arc;

use candid::Principal;
use pocket_ic::ErrorCode;

use crate::canister::Canister;
use crate::errors::{Fault, Reject};
use crate::ic::Ic;
use crate::message::Query;
use crate::mgmt;
use crate::wasm::Code;
use crate::wasm::costs::QUERY_LIMIT;
use crate::wasm::host::{Answer, Incoming, Mode, OutCall};
use crate::wasm::prepare::MethodKind;
use crate::wasm::run::{Entry, Execution, Machine, Ran};

/// How deep composite queries may call each other.
const DEPTH_MAX: usize = 6;

/// What is left for the whole tree of calls under one query.
struct Budget {
    instructions: u64,
}

type Result<T> = std::result::Result<T, Reject>;

impl Ic {
    pub fn query(&self, query: Query<'_>) -> Result<Vec<u8>> {
        if mgmt::is_management(self, query.canister) {
            return self.management_query(&query);
        }
        if crate::stubs::is_stub(self, query.canister) {
            return crate::stubs::query(self, &query);
        }
        let limit = match self.subnets.of_canister(query.canister) {
            Some(subnet) => self.subnets.all[subnet].instruction_limit(QUERY_LIMIT),
            None => QUERY_LIMIT,
        };
        let mut budget = Budget { instructions: limit };
        self.query_within(query, &mut budget, 0)
    }

    fn query_within(&self, query: Query<'_>, budget: &mut Budget, depth: usize) -> Result<Vec<u8>> {
        let canister = self.canister(query.canister)?;
        let code = self.queryable(canister)?;
        let (mode, kind) = match code.methods.get(query.method) {
            Some(MethodKind::Query) => (Mode::Query, "query"),
            Some(MethodKind::CompositeQuery) => (Mode::CompositeQuery, "composite_query"),
            _ => return Err(Reject::method_not_found(canister.id, "query", query.method)),
        };
        let incoming = Incoming {
            caller: Some(query.sender),
            method: query.method.to_owned(),
            arg: Arc::new(query.arg),
            ..Default::default()
        };
        let mut tree = Tree {
            ic: self,
            canister,
            code,
            caller: query.sender,
            depth,
            machine: Some(canister.machine()),
            calls: VecDeque::new(),
            answer: None,
        };
        let entry = Entry::Export(format!("canister_{kind} {}", query.method));
        tree.run(mode, entry, incoming, budget).map_err(|fault| fault.reject(canister.id))?;
        tree.finish(budget)
    }

    fn queryable<'a>(&self, canister: &'a Canister) -> Result<&'a Code> {
        canister.check_running()?;
        let prices = self.prices_of(canister.id);
        if !prices.is_free && canister.cycles < canister.freezing_cycles(&prices) {
            return Err(Reject::new(
                ErrorCode::CanisterOutOfCycles,
                format!(
                    "Canister {} is unable to process query calls because it's frozen. Please top up the canister with cycles and try again.",
                    canister.id
                ),
            ));
        }
        Ok(canister.code()?)
    }
}

/// One query and the calls it still has to make.
struct Tree<'a> {
    ic: &'a Ic,
    canister: &'a Canister,
    code: &'a Code,
    caller: Principal,
    depth: usize,
    /// None once a plain query has run: it has no callbacks that could need it.
    machine: Option<Machine>,
    calls: VecDeque<OutCall>,
    answer: Option<Answer>,
}

impl Tree<'_> {
    fn run(
        &mut self,
        mode: Mode,
        entry: Entry,
        incoming: Incoming,
        budget: &mut Budget,
    ) -> std::result::Result<(), Fault> {
        let mut env = self.ic.env(self.canister);
        if self.depth == 0 {
            env.certificate = Some(self.ic.data_certificate(self.canister));
        }
        let machine = match mode {
            Mode::Query => self.machine.take(),
            _ => self.machine.clone(), // Kept, in case this fails and cleanup has to run.
        };
        let Ran { result, instructions, host } = self.ic.runner.run(Execution {
            code: self.code,
            mode,
            entry,
            env,
            incoming,
            machine: machine.expect("only a plain query takes it"),
            instruction_limit: budget.instructions,
            keep: mode != Mode::Query,
        });
        budget.instructions = budget.instructions.saturating_sub(instructions);
        self.machine = result?.or(self.machine.take());
        self.calls.extend(host.calls);
        self.answer = self.answer.take().or(host.answer);
        Ok(())
    }

    /// Makes the calls one after another until there is an answer or none is left.
    fn finish(mut self, budget: &mut Budget) -> Result<Vec<u8>> {
        let id = self.canister.id;
        let mut fault = None;
        while self.answer.is_none()
            && let Some(call) = self.calls.pop_front()
        {
            let result = self.call(&call, budget);
            fault = self.callback(call, result, budget).err();
        }
        match (self.answer, fault) {
            (Some(Answer::Reply(bytes)), _) => Ok(bytes),
            (Some(Answer::Reject(text)), _) => {
                Err(Reject::new(ErrorCode::CanisterRejectedMessage, text))
            }
            (None, Some(fault)) => Err(fault.reject(id)),
            (None, None) => Err(Reject::did_not_reply(id)),
        }
    }

    fn call(&self, call: &OutCall, budget: &mut Budget) -> Result<Vec<u8>> {
        if self.depth + 1 >= DEPTH_MAX {
            return Err(Reject::new(
                ErrorCode::QueryCallGraphTooDeep,
                "Composite query call graph is too deep",
            ));
        }
        let callee = Principal::try_from_slice(&call.callee)
            .map_err(|_| Reject::new(ErrorCode::CanisterNotFound, "Invalid canister id"))?;
        let subnets = &self.ic.subnets;
        if subnets.of_canister(callee) != subnets.of_canister(self.canister.id) {
            return Err(Reject::new(
                ErrorCode::CanisterNotFound,
                format!("Canister {callee} is not on the subnet of the composite query"),
            ));
        }
        let query = Query {
            sender: self.canister.id,
            canister: callee,
            method: &call.method,
            arg: call.arg.clone(),
        };
        self.ic.query_within(query, budget, self.depth + 1)
    }

    fn callback(
        &mut self,
        call: OutCall,
        result: Result<Vec<u8>>,
        budget: &mut Budget,
    ) -> std::result::Result<(), Fault> {
        let (mode, (function, env), arg, reject) = match result {
            Ok(bytes) => (Mode::CompositeReply, call.on_reply, bytes, None),
            Err(reject) => {
                let told = (reject.reject_code() as u32, reject.message_to_canister());
                (Mode::CompositeReject, call.on_reject, Vec::new(), Some(told))
            }
        };
        let incoming = Incoming {
            caller: Some(self.caller),
            arg: Arc::new(arg),
            reject,
            ..Default::default()
        };
        let entry = Entry::Closure(function, env);
        let done = self.run(mode, entry, incoming.clone(), budget);
        if done.is_err()
            && let Some((function, env)) = call.on_cleanup
        {
            let entry = Entry::Closure(function, env);
            self.run(Mode::CompositeCleanup, entry, incoming, budget).ok();
        }
        done
    }
}
