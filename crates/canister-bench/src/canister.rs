//! The canister under measurement, and how its instructions are read.
//!
//! A call is charged a base price, its bytes and its instructions, one cycle for each. Beside the
//! event store stands a canister whose methods have the same names and answer at once, with nothing:
//! the same call there costs the same but for the instructions. So their difference is exact, without
//! a method in the event store that only measures. Queries are called as updates; an owner may.
//!
//! Sending a reply costs every canister 50 instructions a byte, many times what an event store does
//! about it. That part is left out, so that it does not hide the rest.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use candid::{
    CandidType, Principal,
    utils::{ArgumentDecoder, ArgumentEncoder},
};
use event::Event;
use interface::{Argument, ByteBuf, Init, SaveOutcome, Status};
use pocket_ic::{PocketIc, PocketIcBuilder, RejectResponse, Time};
use serde::de::DeserializeOwned;

const CYCLES: u128 = 1_000_000_000_000_000_000;
/// What `msg_reply_data_append` is charged for each byte.
const SENDING_BYTE: u64 = 50;
/// The clock: later than any event of the corpus.
const NOW_SECONDS: u64 = 1_800_000_000;

const METHODS: [&str; 6] =
    ["save_events", "query_events", "get_events", "changes", "count", "reconcile"];

pub struct Canister {
    pic: PocketIc,
    owner: Principal,
    store: Principal,
    idle: Principal,
}

impl Canister {
    /// The event store and its idle neighbour, on a server of their own.
    pub fn install(wasm: Vec<u8>) -> Result<Canister> {
        let pic = PocketIcBuilder::new().with_application_subnet().build();
        pic.set_time(Time::from_nanos_since_unix_epoch(
            Duration::from_secs(NOW_SECONDS).as_nanos() as u64,
        ));
        let owner = Principal::self_authenticating(b"the owner of a measured store");
        let install = |wasm: Vec<u8>, argument: Vec<u8>| {
            let canister = pic.create_canister_with_settings(Some(owner), None);
            pic.add_cycles(canister, CYCLES);
            pic.install_canister(canister, wasm, argument, Some(owner));
            canister
        };
        let init = Argument::Init(Init { owners: vec![owner], ..Init::default() });
        let store = install(wasm, candid::encode_one(Some(init))?);
        let idle = install(wat::parse_str(idle_module())?, Vec::new());
        Ok(Canister { pic, owner, store, idle })
    }

    /// Saves events, and says how many instructions that took. All of them must be new.
    pub fn save(&self, events: &[Event]) -> Result<u64> {
        let events: Vec<ByteBuf> = events.iter().map(|event| ByteBuf::from(event.pack())).collect();
        let (outcomes, instructions) = self.cost_of("save_events", (events,))?;
        let outcomes: Vec<SaveOutcome> = outcomes;
        let is_new =
            |it: &&SaveOutcome| matches!(it, SaveOutcome::Saved(_) | SaveOutcome::Superseded);
        let refused = outcomes.iter().find(|outcome| !is_new(outcome));
        ensure!(refused.is_none(), "an event of the corpus was not saved: {refused:?}");
        Ok(instructions)
    }

    pub fn status(&self) -> Result<Status> {
        let reply = self.pic.query_call(self.store, self.owner, "status", candid::encode_args(())?);
        Ok(candid::decode_one(&reply.map_err(rejected)?)?)
    }

    /// Calls a method, and says how many instructions that took.
    pub fn cost_of<A, R>(&self, method: &str, arguments: A) -> Result<(R, u64)>
    where
        A: ArgumentEncoder,
        R: CandidType + DeserializeOwned,
    {
        let payload = candid::encode_args(arguments)?;
        let (_, price) = self.price(self.idle, method, payload.clone())?;
        let (reply, price_with_work) = self.price(self.store, method, payload)?;
        let instructions = u64::try_from(price_with_work - price)?;
        let sending = SENDING_BYTE * reply.len() as u64;
        let (reply,) = decode(&reply)?;
        Ok((reply, instructions - sending))
    }

    fn price(&self, callee: Principal, method: &str, payload: Vec<u8>) -> Result<(Vec<u8>, u128)> {
        let before = self.pic.cycle_balance(callee);
        let reply = self.pic.update_call(callee, self.owner, method, payload).map_err(rejected)?;
        Ok((reply, before - self.pic.cycle_balance(callee)))
    }
}

fn decode<T: for<'a> ArgumentDecoder<'a>>(reply: &[u8]) -> Result<T> {
    Ok(candid::decode_args(reply)?)
}

fn rejected(response: RejectResponse) -> anyhow::Error {
    anyhow!("{}", response.reject_message)
}

fn idle_module() -> String {
    let method = |name: &&str| format!("(func (export \"canister_update {name}\") (call $reply))");
    let methods: String = METHODS.iter().map(method).collect();
    format!("(module (import \"ic0\" \"msg_reply\" (func $reply)) {methods})")
}
