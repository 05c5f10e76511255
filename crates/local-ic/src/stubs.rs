//! Two system canisters that the `icp` command asks before it creates a canister.
//!
//! The cycles minting canister names the subnets it may use, and the cycles ledger creates
//! canisters for users. Neither is run here; their two methods are answered natively, and only
//! where a subnet has their ids and no canister was installed under them.

use candid::{CandidType, Nat, Principal};
use ic_management_canister_types::CanisterSettings;
use pocket_ic::ErrorCode;
use pocket_ic::common::rest::SubnetKind;
use serde::Deserialize;

use crate::errors::Reject;
use crate::ic::Ic;
use crate::message::{Call, Query};

const CYCLES_MINTING: &str = "rkp4c-7iaaa-aaaaa-aaaca-cai";
const CYCLES_LEDGER: &str = "um5iw-rqaaa-aaaaq-qaaba-cai";

fn is(id: Principal, text: &str) -> bool {
    id.to_text() == text
}

pub fn is_stub(ic: &Ic, id: Principal) -> bool {
    let is_known = is(id, CYCLES_MINTING) || is(id, CYCLES_LEDGER);
    is_known && ic.subnets.of_canister(id).is_some() && !ic.canisters.contains_key(&id)
}

pub fn query(ic: &Ic, query: &Query<'_>) -> Result<Vec<u8>, Reject> {
    match query.method {
        "get_default_subnets" if is(query.canister, CYCLES_MINTING) => Ok(default_subnets(ic)),
        "icrc1_balance_of" if is(query.canister, CYCLES_LEDGER) => {
            Ok(candid::encode_one(Nat::from(1u128 << 100)).expect("a number"))
        }
        method => Err(missing(query.canister, method)),
    }
}

pub fn call(ic: &mut Ic, call: &Call) -> Result<Vec<u8>, Reject> {
    match call.method.as_str() {
        "get_default_subnets" if is(call.callee, CYCLES_MINTING) => Ok(default_subnets(ic)),
        "create_canister" if is(call.callee, CYCLES_LEDGER) => create_canister(ic, call),
        method => Err(missing(call.callee, method)),
    }
}

fn missing(id: Principal, method: &str) -> Reject {
    Reject::not_supported(&format!("method '{method}' of the system canister {id}"))
}

fn default_subnets(ic: &Ic) -> Vec<u8> {
    let ids: Vec<Principal> = ic
        .subnets
        .all
        .iter()
        .filter(|subnet| subnet.plan.kind == SubnetKind::Application)
        .map(|subnet| subnet.id())
        .collect();
    candid::encode_one(ids).expect("plain data")
}

#[derive(CandidType, Deserialize)]
struct CreateArgs {
    amount: Nat,
    creation_args: Option<CreationArgs>,
}

#[derive(CandidType, Deserialize)]
struct CreationArgs {
    settings: Option<CanisterSettings>,
    subnet_selection: Option<SubnetSelection>,
}

#[derive(CandidType, Deserialize)]
enum SubnetSelection {
    Subnet { subnet: Principal },
    Filter { subnet_type: Option<String> },
}

#[derive(CandidType)]
enum CreateResult {
    Ok(Created),
}

#[derive(CandidType)]
struct Created {
    canister_id: Principal,
    block_id: Nat,
}

fn create_canister(ic: &mut Ic, call: &Call) -> Result<Vec<u8>, Reject> {
    let args: CreateArgs = candid::decode_one(&call.arg).map_err(Reject::invalid_payload)?;
    let (settings, selection) = match args.creation_args {
        Some(args) => (args.settings, args.subnet_selection),
        None => (None, None),
    };
    let subnet = match selection {
        Some(SubnetSelection::Subnet { subnet }) => ic
            .subnets
            .by_id(subnet)
            .ok_or_else(|| Reject::new(ErrorCode::SubnetNotFound, "no such subnet"))?,
        _ => ic.subnets.default(),
    };
    // Cycles are free here: the ledger's account is not drawn on.
    let cycles = u128::try_from(&args.amount.0).unwrap_or(u128::MAX >> 1);
    let canister_id = ic.new_canister(call.caller, settings, cycles, None, subnet)?;
    let created = Created { canister_id, block_id: 0u8.into() };
    Ok(candid::encode_one(CreateResult::Ok(created)).expect("plain data"))
}
