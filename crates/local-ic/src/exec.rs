//! Rounds, and what one message does.
//!
//! A round runs heartbeats and due timers, then every queued message of every subnet in order of
//! arrival. An execution's effects are committed together, or, if it failed, not at all (only the
//! cycles it burned and its log stay).

use std::sync::Arc;

use candid::Principal;
use pocket_ic::ErrorCode;

use crate::canister::{Canister, LowMemory, Status};
use crate::errors::{Fault, Reject};
use crate::ic::Ic;
use crate::journal;
use crate::message::{
    Call, CallContext, Callback, Ingress, IngressCall, IngressStatus, Message, MessageId, Origin,
    Request, Response,
};
use crate::mgmt;
use crate::wasm::costs::{INSPECT_LIMIT, UPDATE_LIMIT};
use crate::wasm::host::{Answer, Host, Incoming, Mode, OutCall};
use crate::wasm::prepare::MethodKind;
use crate::wasm::run::{Entry, Execution, Machine};

/// A canister that calls itself for ever must not keep a round from ending.
const MESSAGES_PER_ROUND_MAX: usize = 10_000;
/// Storage is charged for when this much time has passed.
const CHARGE_NANOS: u64 = 10_000_000_000;
const LOW_MEMORY_HOOK: &str = "canister_on_low_wasm_memory";
/// The longest a best-effort call may wait.
const BEST_EFFORT_SECONDS_MAX: u32 = 300;
const NANOS: u64 = 1_000_000_000;

/// How one execution ended.
struct Executed {
    result: Result<(), Fault>,
    answer: Option<Answer>,
    cycles_accepted: u128,
    calls: Vec<OutCall>,
    instructions: u64,
}

impl Executed {
    fn failed(fault: Fault, instructions: u64) -> Executed {
        Executed {
            result: Err(fault),
            answer: None,
            cycles_accepted: 0,
            calls: Vec::new(),
            instructions,
        }
    }
}

impl Ic {
    /// Takes up a call, or says at once why not. One that is known already is not taken up again.
    pub fn submit(&mut self, call: IngressCall) -> Result<(), Reject> {
        if self.ingress.messages.contains_key(&call.id) {
            return Ok(());
        }
        let payer = match mgmt::is_management(self, call.canister) {
            true => self.check_management_ingress(&call)?,
            false => Some(self.check_ingress(&call)?),
        };
        if let Some(payer) = payer {
            self.charge_ingress(payer, call.bytes)?;
        }
        let subnet = self.subnets.all[call.subnet].id();
        let ingress = Ingress {
            sender: call.sender,
            canister: call.canister,
            subnet,
            method: call.method,
            arg: call.arg,
            status: IngressStatus::Received,
            answered_at: None,
        };
        self.ingress.messages.insert(call.id, ingress);
        self.queue.push_back(Message::Ingress(call.id));
        Ok(())
    }

    fn check_ingress(&self, call: &IngressCall) -> Result<Principal, Reject> {
        if crate::stubs::is_stub(self, call.canister) {
            return Ok(call.canister);
        }
        let canister = self.canister(call.canister)?;
        canister.check_running()?;
        self.inspect(canister, call)?;
        Ok(canister.id)
    }

    fn inspect(&self, canister: &Canister, call: &IngressCall) -> Result<(), Reject> {
        let code = canister.code()?;
        if !code.has("canister_inspect_message") {
            return Ok(());
        }
        let incoming = Incoming {
            caller: Some(call.sender),
            method: call.method.clone(),
            arg: Arc::new(call.arg.clone()),
            ..Default::default()
        };
        let subnet = self.subnet_of(canister.id);
        let ran = self.runner.run(Execution {
            code,
            mode: Mode::Inspect,
            entry: Entry::Export("canister_inspect_message".to_owned()),
            env: self.env(canister),
            incoming,
            machine: canister.machine(),
            instruction_limit: subnet.instruction_limit(INSPECT_LIMIT),
            keep: false,
        });
        ran.result.map_err(|fault| fault.reject(canister.id))?;
        if !ran.host.is_accepted {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!("Canister {} rejected the message", canister.id),
            ));
        }
        Ok(())
    }

    fn charge_ingress(&mut self, payer: Principal, bytes: usize) -> Result<(), Reject> {
        let Some(canister) = self.canisters.get(&payer) else {
            return Ok(()); // A stub, or about to be created.
        };
        let prices = self.prices_of(payer);
        let cost = prices.ingress(bytes);
        let needed = cost + canister.freezing_cycles(&prices);
        if !prices.is_free && canister.cycles < needed {
            return Err(Reject::out_of_cycles(payer, needed - canister.cycles));
        }
        let canister = self.canister_mut(payer)?;
        canister.cycles -= cost;
        Ok(())
    }

    /// One round; true if there was anything to do.
    pub fn round(&mut self) -> bool {
        if !std::mem::take(&mut self.is_time_set) {
            self.time += 1;
        }
        self.charge_storage();
        self.expire_callbacks();
        self.expire_outcalls();
        let mut was_busy = self.run_tasks();
        for _ in 0..MESSAGES_PER_ROUND_MAX {
            while let Some(id) = self.low_on_memory.pop() {
                self.run_low_memory_hook(id);
            }
            let Some(message) = self.queue.pop_front() else {
                break;
            };
            was_busy = true;
            self.process(message);
        }
        was_busy
    }

    /// Runs `canister_on_low_wasm_memory`, or leaves it ready while the canister cannot run.
    fn run_low_memory_hook(&mut self, id: Principal) {
        let Some(canister) = self.canisters.get(&id) else {
            return;
        };
        let can_run = canister.status == Status::Running && self.check_funds(id).is_ok();
        if canister.low_memory != LowMemory::Ready || !can_run {
            return;
        }
        self.canisters.get_mut(&id).expect("just seen").low_memory = LowMemory::Executed;
        if self.has_task(id, LOW_MEMORY_HOOK) {
            self.run_task(id, LOW_MEMORY_HOOK);
        }
    }

    fn run_tasks(&mut self) -> bool {
        let ids: Vec<Principal> = self.canisters.keys().copied().collect();
        let mut was_busy = false;
        for id in ids {
            self.run_low_memory_hook(id);
            if self.has_task(id, "canister_heartbeat") {
                self.run_task(id, "canister_heartbeat");
                was_busy = true;
            }
            if self.is_timer_due(id) {
                if let Some(canister) = self.canisters.get_mut(&id) {
                    canister.timer = None;
                }
                self.run_task(id, "canister_global_timer");
                was_busy = true;
            }
        }
        was_busy
    }

    fn has_task(&self, id: Principal, name: &str) -> bool {
        let canister = self.canisters.get(&id);
        canister.is_some_and(|canister| {
            let has_method = |code: &Arc<crate::wasm::Code>| code.has(name);
            canister.status == Status::Running
                && canister.body.code.as_ref().is_some_and(has_method)
        })
    }

    fn is_timer_due(&self, id: Principal) -> bool {
        let timer = self.canisters.get(&id).and_then(|canister| canister.timer);
        timer.is_some_and(|at| at <= self.time) && self.has_task(id, "canister_global_timer")
    }

    fn run_task(&mut self, id: Principal, name: &str) {
        if self.check_funds(id).is_err() {
            return;
        }
        let caller = Principal::management_canister();
        let context = self.open_context(id, Origin::System, caller, 0);
        let entry = Entry::Export(name.to_owned());
        let incoming =
            Incoming { caller: Some(caller), method: name.to_owned(), ..Default::default() };
        let executed = self.execute(id, Mode::Task, entry, incoming);
        self.settle(context, executed);
    }

    fn process(&mut self, message: Message) {
        match message {
            Message::Ingress(id) => self.process_ingress(id),
            Message::Request(request) => self.process_request(request),
            Message::Response(response) => self.process_response(response),
        }
    }

    fn process_ingress(&mut self, id: MessageId) {
        let Some(ingress) = self.ingress.messages.get_mut(&id) else {
            return;
        };
        ingress.status = IngressStatus::Processing;
        let call = Call {
            origin: Origin::Ingress(id),
            caller: ingress.sender,
            callee: ingress.canister,
            method: ingress.method.clone(),
            arg: std::mem::take(&mut ingress.arg),
            cycles: 0,
        };
        let subnet = self.subnets.by_id(ingress.subnet).unwrap_or(0);
        self.dispatch(call, subnet);
    }

    fn process_request(&mut self, request: Request) {
        let subnet = match self.subnets.by_id(request.callee) {
            Some(addressed) => addressed,
            None => self.subnets.of_canister(request.from).unwrap_or(0),
        };
        let call = Call {
            origin: Origin::Canister {
                id: request.from,
                callback: request.callback,
                deadline: request.deadline,
            },
            caller: request.from,
            callee: request.callee,
            method: request.method,
            arg: request.arg,
            cycles: request.cycles,
        };
        self.dispatch(call, subnet);
    }

    fn dispatch(&mut self, call: Call, subnet: usize) {
        if mgmt::is_management(self, call.callee) {
            self.manage(call, subnet);
        } else if crate::stubs::is_stub(self, call.callee) {
            let result = crate::stubs::call(self, &call);
            self.answer(&call.origin, result, call.cycles);
        } else {
            self.call(call);
        }
    }

    fn call(&mut self, call: Call) {
        let id = call.callee;
        let mode = match self.callable(&call) {
            Ok(mode) => mode,
            Err(reject) => return self.answer(&call.origin, Err(reject), call.cycles),
        };
        let deadline = match (&call.origin, mode) {
            (Origin::Canister { deadline, .. }, Mode::Update) => deadline.unwrap_or(0),
            _ => 0, // A query's caller may stop waiting too, but the query is not told.
        };
        let kind = if mode == Mode::Update { "update" } else { "query" };
        let entry = Entry::Export(format!("canister_{kind} {}", call.method));
        let context = self.open_context(id, call.origin, call.caller, call.cycles);
        let incoming = Incoming {
            caller: Some(call.caller),
            method: call.method,
            arg: Arc::new(call.arg),
            cycles_available: call.cycles,
            deadline,
            ..Default::default()
        };
        let executed = self.execute(id, mode, entry, incoming);
        self.settle(context, executed);
    }

    /// How the method runs when called with replication, if the canister can take a call at all.
    fn callable(&self, call: &Call) -> Result<Mode, Reject> {
        let (id, method) = (call.callee, call.method.as_str());
        let canister = self.canister(id)?;
        canister.check_running()?;
        check_attached(canister, call)?;
        let code = canister.code()?;
        let mode = match code.methods.get(method) {
            Some(MethodKind::Update) => Mode::Update,
            Some(MethodKind::Query) => Mode::ReplicatedQuery,
            Some(MethodKind::CompositeQuery) => {
                return Err(Reject::new(
                    ErrorCode::CompositeQueryCalledInReplicatedMode,
                    "Composite query cannot be called in replicated mode",
                ));
            }
            None => return Err(Reject::method_not_found(id, "update", method)),
        };
        self.check_funds(id)?;
        if mode == Mode::Update {
            check_heap_limit(canister)?;
        }
        Ok(mode)
    }

    /// A message starts only if its whole instruction limit could be paid for.
    fn check_funds(&self, id: Principal) -> Result<(), Reject> {
        let canister = self.canister(id)?;
        let prices = self.prices_of(id);
        if prices.is_free {
            return Ok(());
        }
        let needed = canister.freezing_cycles(&prices) + prices.execution(UPDATE_LIMIT);
        match needed.checked_sub(canister.cycles) {
            Some(missing) if missing > 0 => Err(Reject::out_of_cycles(id, missing)),
            _ => Ok(()),
        }
    }

    fn open_context(
        &mut self,
        canister: Principal,
        origin: Origin,
        caller: Principal,
        cycles: u128,
    ) -> u64 {
        let number = self.number();
        let context = CallContext {
            canister,
            origin,
            caller,
            is_answered: false,
            outstanding: 0,
            cycles,
            instructions: 0,
        };
        self.contexts.insert(number, context);
        number
    }

    /// Runs an entry point; commits what it did unless it failed or was a query.
    fn execute(&mut self, id: Principal, mode: Mode, entry: Entry, incoming: Incoming) -> Executed {
        let canister = self.canisters.get(&id).expect("checked before");
        let code = Arc::clone(canister.body.code.as_ref().expect("checked before"));
        let subnet = self.subnet_of(id);
        let what = journal::name(mode, &entry);
        let ran = self.runner.run(Execution {
            code: &code,
            mode,
            entry,
            env: self.env(canister),
            incoming,
            machine: canister.machine(),
            instruction_limit: subnet.instruction_limit(UPDATE_LIMIT),
            keep: mode != Mode::ReplicatedQuery,
        });
        let mut host = ran.host;
        let charge = self.prices_of(id).execution(ran.instructions);
        let time = self.time;
        self.journal.push(journal::Executed {
            time,
            canister: id,
            what,
            instructions: ran.instructions,
            cycles: charge,
            error: ran.result.as_ref().err().map(|fault| fault.log_text()),
        });
        let canister = self.canisters.get_mut(&id).expect("still there");
        for content in std::mem::take(&mut host.logs) {
            canister.note(time, content);
        }
        let executed = match ran.result {
            Ok(machine) => {
                let executed = take_effects(&mut host, ran.instructions);
                commit(canister, machine, host);
                executed
            }
            Err(fault) => {
                canister.note(time, fault.log_text().into_bytes());
                Executed::failed(fault, ran.instructions)
            }
        };
        canister.cycles = canister.cycles.saturating_sub(charge);
        self.watch_memory(id);
        executed
    }

    /// Books an execution on its call context: calls made, answer given, context closed.
    fn settle(&mut self, number: u64, executed: Executed) {
        let Some(context) = self.contexts.get_mut(&number) else {
            return;
        };
        context.instructions += executed.instructions;
        context.cycles -= executed.cycles_accepted;
        context.outstanding += executed.calls.len();
        let id = context.canister;
        for call in executed.calls {
            self.send(id, number, call);
        }
        let context = self.contexts.get(&number).expect("just seen");
        let is_over = context.outstanding == 0;
        let result = match (executed.answer, executed.result) {
            (Some(Answer::Reply(bytes)), _) => Some(Ok(bytes)),
            (Some(Answer::Reject(text)), _) => {
                Some(Err(Reject::new(ErrorCode::CanisterRejectedMessage, text)))
            }
            (None, Err(fault)) if is_over && !context.is_answered => {
                Some(Err(fault_reject(fault, id, &context.origin)))
            }
            (None, _) if is_over && !context.is_answered => Some(Err(Reject::did_not_reply(id))),
            _ => None,
        };
        if let Some(result) = result {
            self.answer_context(number, result);
        }
        if is_over {
            self.contexts.remove(&number);
        }
        self.check_stopped(id);
    }

    fn answer_context(&mut self, number: u64, result: Result<Vec<u8>, Reject>) {
        let context = self.contexts.get_mut(&number).expect("checked by the caller");
        context.is_answered = true;
        let refund = std::mem::take(&mut context.cycles);
        let origin = context.origin.clone();
        self.answer(&origin, result, refund);
    }

    pub fn answer(&mut self, origin: &Origin, result: Result<Vec<u8>, Reject>, refund: u128) {
        match origin {
            Origin::Ingress(id) => self.ingress.answer(id, result, self.time),
            Origin::Canister { id, callback, .. } => {
                self.queue.push_back(Message::Response(Response {
                    to: *id,
                    callback: *callback,
                    result,
                    refund,
                }));
            }
            Origin::System => {}
        }
    }

    fn send(&mut self, from: Principal, context: u64, call: OutCall) {
        let callback = self.number();
        let deadline = call
            .timeout_seconds
            .map(|seconds| self.time + seconds.min(BEST_EFFORT_SECONDS_MAX) as u64 * NANOS);
        let canister = self.canisters.get_mut(&from).expect("it just ran");
        canister.callbacks.insert(
            callback,
            Callback {
                context,
                on_reply: call.on_reply,
                on_reject: call.on_reject,
                on_cleanup: call.on_cleanup,
                prepaid: call.prepaid,
                deadline,
            },
        );
        let Ok(callee) = Principal::try_from_slice(&call.callee) else {
            let reject = Reject::new(ErrorCode::CanisterNotFound, "Invalid canister id");
            return self.queue.push_back(Message::Response(Response {
                to: from,
                callback,
                result: Err(reject),
                refund: call.cycles,
            }));
        };
        self.queue.push_back(Message::Request(Request {
            from,
            callback,
            callee,
            method: call.method,
            arg: call.arg,
            cycles: call.cycles,
            deadline,
        }));
    }

    fn process_response(&mut self, response: Response) {
        let prices = match self.canisters.contains_key(&response.to) {
            true => self.prices_of(response.to),
            false => return, // Deleted meanwhile.
        };
        let canister = self.canisters.get_mut(&response.to).expect("just seen");
        let Some(callback) = canister.callbacks.remove(&response.callback) else {
            return; // It timed out, or the code that waited was uninstalled.
        };
        let bytes = match &response.result {
            Ok(bytes) => bytes.len(),
            Err(reject) => reject.message.len(),
        };
        canister.cycles += response.refund;
        if !prices.is_free {
            canister.cycles += callback.prepaid;
            canister.cycles = canister.cycles.saturating_sub(prices.transmission(bytes));
        }
        let Some(context) = self.contexts.get_mut(&callback.context) else {
            return;
        };
        context.outstanding -= 1;
        if canister.body.code.is_none() {
            return;
        }
        self.run_callback(response, callback);
    }

    fn run_callback(&mut self, response: Response, callback: Callback) {
        let id = response.to;
        let (mode, closure, arg, reject) = match response.result {
            Ok(bytes) => (Mode::Reply, callback.on_reply, bytes, None),
            Err(reject) => {
                let told = (reject.reject_code() as u32, reject.message_to_canister());
                (Mode::Reject, callback.on_reject, Vec::new(), Some(told))
            }
        };
        let context = &self.contexts[&callback.context];
        let deadline = match context.origin {
            Origin::Canister { deadline, .. } => deadline.unwrap_or(0),
            _ => 0,
        };
        let incoming = Incoming {
            caller: Some(context.caller),
            method: String::new(),
            arg: Arc::new(arg),
            reject,
            cycles_available: context.cycles,
            cycles_refunded: response.refund,
            deadline,
            is_answered: context.is_answered,
            context_instructions: context.instructions,
        };
        let entry = match closure.0 {
            ONEWAY => Entry::Nothing,
            function => Entry::Closure(function, closure.1),
        };
        let cleanup = incoming.clone();
        let executed = self.execute(id, mode, entry, incoming);
        if executed.result.is_err()
            && let Some((function, env)) = callback.on_cleanup
        {
            self.execute(id, Mode::Cleanup, Entry::Closure(function, env), cleanup);
        }
        self.settle(callback.context, executed);
    }

    /// A canister that is stopping has stopped once nothing is open.
    pub fn check_stopped(&mut self, id: Principal) {
        let is_open = self.contexts.values().any(|context| context.canister == id);
        let Some(canister) = self.canisters.get_mut(&id) else {
            return;
        };
        if is_open || !matches!(canister.status, Status::Stopping(_)) {
            return;
        }
        let before = std::mem::replace(&mut canister.status, Status::Stopped);
        if let Status::Stopping(waiting) = before {
            for origin in waiting {
                self.answer(&origin, Ok(mgmt::unit()), 0);
            }
        }
    }

    /// Best-effort calls whose time is up are rejected, whatever becomes of the callee.
    fn expire_callbacks(&mut self) {
        let mut expired = Vec::new();
        for canister in self.canisters.values() {
            for (number, callback) in &canister.callbacks {
                if callback.deadline.is_some_and(|deadline| deadline < self.time) {
                    expired.push((canister.id, *number));
                }
            }
        }
        for (to, callback) in expired {
            let reject = Reject::new(ErrorCode::DeadlineExpired, "Call deadline has expired.");
            // A response that was on its way when the round began still wins.
            self.queue.push_back(Message::Response(Response {
                to,
                callback,
                result: Err(reject),
                refund: 0,
            }));
        }
    }

    fn charge_storage(&mut self) {
        let ids: Vec<Principal> = self.canisters.keys().copied().collect();
        for id in ids {
            let prices = self.prices_of(id);
            let time = self.time;
            let canister = self.canisters.get_mut(&id).expect("just listed");
            let nanos = time.saturating_sub(canister.charged_until);
            if nanos < CHARGE_NANOS {
                continue;
            }
            canister.charged_until = time;
            let cost = prices.idle(canister.occupied(), nanos);
            match canister.cycles.checked_sub(cost) {
                Some(rest) => canister.cycles = rest,
                None => {
                    canister.cycles = 0;
                    tracing::warn!(canister = %id, "out of cycles: code uninstalled");
                    self.uninstall(id, "Canister has run out of cycles and was uninstalled");
                }
            }
        }
    }

    /// Removes code and memory; whoever waits for the canister is told.
    pub fn uninstall(&mut self, id: Principal, why: &str) {
        let Some(canister) = self.canisters.get_mut(&id) else {
            return;
        };
        canister.body = Default::default();
        canister.globals = None;
        canister.certified_data.clear();
        canister.timer = None;
        canister.callbacks.clear();
        canister.log = Default::default();
        canister.version += 1;
        let open: Vec<u64> = self
            .contexts
            .iter()
            .filter(|(_, context)| context.canister == id)
            .map(|(number, _)| *number)
            .collect();
        for number in open {
            if !self.contexts[&number].is_answered {
                let reject = Reject::new(ErrorCode::CanisterRejectedMessage, why);
                self.answer_context(number, Err(reject));
            }
            self.contexts.remove(&number);
        }
        self.check_stopped(id);
    }
}

/// Calls from other canisters must bring the cycles that this one asks for.
fn check_attached(canister: &Canister, call: &Call) -> Result<(), Reject> {
    let minimum = canister.settings.minimum_incoming_canister_call_cycles;
    let is_from_another = matches!(&call.origin, Origin::Canister { id, .. } if *id != canister.id);
    if is_from_another && call.cycles < minimum {
        return Err(Reject::new(
            ErrorCode::InsufficientCyclesInCall,
            format!(
                "Canister {} requires at least {minimum} transferred cycles, but only {} were received",
                canister.id, call.cycles
            ),
        ));
    }
    Ok(())
}

/// A heap beyond its limit takes no more updates: other code is needed, or a higher limit.
fn check_heap_limit(canister: &Canister) -> Result<(), Reject> {
    let (bytes, limit) = (canister.body.heap.len(), canister.settings.wasm_memory_limit);
    if limit > 0 && bytes > limit {
        return Err(Fault::WasmMemoryLimit { bytes, limit }.reject(canister.id));
    }
    Ok(())
}

/// `call_new_oneway` passes this for both callbacks: there is nothing to run.
const ONEWAY: u32 = u32::MAX;

fn take_effects(host: &mut Host, instructions: u64) -> Executed {
    Executed {
        result: Ok(()),
        answer: host.answer.take(),
        cycles_accepted: host.cycles_accepted,
        calls: std::mem::take(&mut host.calls),
        instructions,
    }
}

fn commit(canister: &mut Canister, machine: Option<Machine>, host: Host) {
    // A call that was begun and never performed gives back what was attached to it.
    let attached = host.call_under_construction.map_or(0, |call| call.cycles);
    canister.cycles = host.cycles + attached;
    let Some(machine) = machine else {
        return; // A replicated query: only its answer and its cycles count.
    };
    canister.commit(machine);
    if let Some(data) = host.certified_data {
        canister.certified_data = data;
    }
    if let Some(at) = host.timer_set {
        canister.timer = (at != 0).then_some(at);
    }
    canister.version += 1;
}

/// A user sees the backtrace, another canister does not.
fn fault_reject(fault: Fault, id: Principal, origin: &Origin) -> Reject {
    match origin {
        Origin::Ingress(_) => fault.reject(id),
        _ => fault.without_backtrace().reject(id),
    }
}
