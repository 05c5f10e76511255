//! What the `pocket-ic` crate asks of one instance.
//!
//! Types are the crate's own, so the wire cannot drift. The protocol lets a server answer "busy,
//! ask again"; this one always answers when it is done.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use candid::Principal;
use ic_transport_types::EnvelopeContent;
use pocket_ic::common::rest::{
    RawAddCycles, RawCanisterCall, RawCanisterHttpRequest, RawCanisterId, RawCanisterResult,
    RawCycles, RawEffectivePrincipal, RawIngressStatusArgs, RawMessageId,
    RawMockCanisterHttpResponse, RawPrincipalId, RawSetStableMemory, RawStableMemory, RawSubnetId,
    RawTickConfigs, RawTime, Topology,
};
use serde::Serialize;

use crate::cert::cbor;
use crate::errors::Reject;
use crate::http_api;
use crate::ic::Ic;
use crate::instance::Instance;
use crate::mem::Image;
use crate::message::{IngressCall, MessageId, Query};
use crate::mgmt;

/// After so many rounds without an answer a call is taken to have none.
const ROUNDS_MAX: usize = 100;
/// How far ahead REST calls expire; nobody checks it, but it is part of their id.
const EXPIRY_NANOS: u64 = 4 * 60 * 1_000_000_000;

/// What was uploaded to the process, by its hash.
pub type Blobs = RwLock<HashMap<Vec<u8>, Vec<u8>>>;

/// What the handlers of one instance need.
#[derive(Clone)]
struct Ctx {
    instance: Arc<Instance>,
    blobs: Arc<Blobs>,
}

/// The routes below `/instances/<id>`, and those of the agents' interface.
pub fn router(instance: Arc<Instance>, blobs: Arc<Blobs>) -> Router {
    Router::new()
        .route("/_/localic", get(identify))
        .route("/_/topology", get(topology))
        .route("/read/topology", get(topology))
        .route("/read/get_time", get(get_time))
        .route("/read/get_canister_http", get(get_canister_http))
        .route("/read/query", post(query))
        .route("/read/get_controllers", post(get_controllers))
        .route("/read/get_cycles", post(get_cycles))
        .route("/read/get_stable_memory", post(get_stable_memory))
        .route("/read/get_subnet", post(get_subnet))
        .route("/read/pub_key", post(pub_key))
        .route("/read/ingress_status", post(ingress_status))
        .route("/update/submit_ingress_message", post(submit_ingress))
        .route("/update/await_ingress_message", post(await_ingress))
        .route("/update/tick", post(tick))
        .route("/update/set_time", post(set_time))
        .route("/update/set_certified_time", post(set_time))
        .route("/update/add_cycles", post(add_cycles))
        .route("/update/set_stable_memory", post(set_stable_memory))
        .route("/update/mock_canister_http", post(mock_canister_http))
        .route("/auto_progress", get(is_live).post(auto_progress))
        .route("/stop_progress", post(stop_progress))
        .fallback(unsupported)
        .with_state(Ctx { instance: Arc::clone(&instance), blobs })
        .merge(http_api::router(instance))
        .layer(DefaultBodyLimit::disable())
}

async fn unsupported(uri: Uri) -> Failure {
    bad(format!("not supported by local-ic: {}", uri.path()))
}

async fn topology(State(ctx): State<Ctx>) -> Answer<Topology> {
    blocking(move || Ok(ctx.instance.read().subnets.topology())).await
}

async fn get_time(State(ctx): State<Ctx>) -> Answer<RawTime> {
    blocking(move || {
        let nanos_since_epoch = ctx.instance.read().time;
        Ok(RawTime { nanos_since_epoch })
    })
    .await
}

async fn get_canister_http(State(ctx): State<Ctx>) -> Answer<Vec<RawCanisterHttpRequest>> {
    blocking(move || Ok(ctx.instance.read().pending_outcalls())).await
}

fn canister_id(bytes: &[u8]) -> Result<Principal, Failure> {
    // The management canister's id is empty.
    Principal::try_from_slice(bytes).map_err(bad)
}

fn not_found(reject: Reject) -> Failure {
    bad(reject.message)
}

async fn query(
    State(ctx): State<Ctx>,
    Json(call): Json<RawCanisterCall>,
) -> Answer<RawCanisterResult> {
    blocking(move || {
        check_supported(&call)?;
        let query = Query {
            sender: canister_id(&call.sender)?,
            canister: canister_id(&call.canister_id)?,
            method: &call.method,
            arg: call.payload,
        };
        let result = ctx.instance.read().query(query);
        Ok(result.map_err(|reject| reject.response(false)).into())
    })
    .await
}

async fn get_controllers(
    State(ctx): State<Ctx>,
    Json(raw): Json<RawCanisterId>,
) -> Answer<Vec<RawPrincipalId>> {
    blocking(move || {
        let ic = ctx.instance.read();
        let canister = ic.canister(raw.into()).map_err(not_found)?;
        let controllers = canister.settings.controllers.iter();
        Ok(controllers.map(|id| RawPrincipalId::from(*id)).collect())
    })
    .await
}

async fn get_cycles(State(ctx): State<Ctx>, Json(raw): Json<RawCanisterId>) -> Answer<RawCycles> {
    blocking(move || {
        let ic = ctx.instance.read();
        let cycles = ic.canister(raw.into()).map_err(not_found)?.cycles;
        Ok(RawCycles { cycles })
    })
    .await
}

async fn get_stable_memory(
    State(ctx): State<Ctx>,
    Json(raw): Json<RawCanisterId>,
) -> Answer<RawStableMemory> {
    blocking(move || {
        let ic = ctx.instance.read();
        let blob = ic.canister(raw.into()).map_err(not_found)?.body.stable.to_vec();
        Ok(RawStableMemory { blob })
    })
    .await
}

async fn get_subnet(
    State(ctx): State<Ctx>,
    Json(raw): Json<RawCanisterId>,
) -> Answer<Option<RawSubnetId>> {
    blocking(move || {
        let ic = ctx.instance.read();
        let id = Principal::from(raw);
        let exists = ic.canisters.contains_key(&id);
        Ok(exists.then(|| ic.subnet_of(id).id().into()))
    })
    .await
}

async fn pub_key(State(ctx): State<Ctx>, Json(raw): Json<RawSubnetId>) -> Answer<Vec<u8>> {
    blocking(move || {
        let ic = ctx.instance.read();
        let id = Principal::from(raw);
        let found = ic.subnets.by_id(id).ok_or_else(|| bad(format!("Subnet {id} not found")))?;
        Ok(ic.subnets.all[found].authority.keys.der.clone())
    })
    .await
}

fn message_id(raw: &RawMessageId) -> Result<MessageId, Failure> {
    raw.message_id.as_slice().try_into().map_err(|_| bad("a message id has 32 bytes"))
}

async fn ingress_status(
    State(ctx): State<Ctx>,
    Json(args): Json<RawIngressStatusArgs>,
) -> Answer<Option<RawCanisterResult>> {
    blocking(move || {
        let id = message_id(&args.raw_message_id)?;
        let ic = ctx.instance.read();
        let Some(ingress) = ic.ingress.messages.get(&id) else {
            return Ok(None);
        };
        if let Some(caller) = args.raw_caller
            && Principal::from(caller) != ingress.sender
        {
            return Err(Failure(
                StatusCode::FORBIDDEN,
                "The user tries to access Request ID not signed by the caller.".to_owned(),
            ));
        }
        Ok(ingress.status.result().map(certified))
    })
    .await
}

fn certified(result: Result<Vec<u8>, Reject>) -> RawCanisterResult {
    result.map_err(|reject| reject.response(true)).into()
}

/// What submitting a call gives: an id to wait for.
#[derive(Serialize)]
enum Submitted {
    Ok(RawMessageId),
    Err(pocket_ic::RejectResponse),
}

async fn submit_ingress(
    State(ctx): State<Ctx>,
    Json(call): Json<RawCanisterCall>,
) -> Answer<Submitted> {
    blocking(move || {
        let mut ic = ctx.instance.write();
        let submitted = submit(&mut ic, call)?;
        drop(ic);
        ctx.instance.wake();
        Ok(submitted)
    })
    .await
}

fn check_supported(call: &RawCanisterCall) -> Result<(), Failure> {
    match call.sender_info {
        Some(_) => Err(bad("not supported by local-ic: sender_info")),
        None => Ok(()),
    }
}

fn submit(ic: &mut Ic, call: RawCanisterCall) -> Result<Submitted, Failure> {
    check_supported(&call)?;
    let sender = canister_id(&call.sender)?;
    let canister = canister_id(&call.canister_id)?;
    let subnet = destination(ic, canister, &call)?;
    // The same call sent twice is two calls, so each gets a nonce.
    let nonce = ic.number();
    let content = EnvelopeContent::Call {
        nonce: Some(nonce.to_be_bytes().to_vec()),
        ingress_expiry: ic.time + EXPIRY_NANOS,
        sender,
        canister_id: canister,
        method_name: call.method.clone(),
        arg: call.payload,
        sender_info: None,
    };
    let id: MessageId = *content.to_request_id();
    let bytes = cbor(&content).len();
    let bytes_max = ic.subnets.all[subnet].ingress_bytes_max();
    if bytes > bytes_max {
        let why = http_api::too_large(&id, bytes, bytes_max);
        return Err(Failure(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    let EnvelopeContent::Call { arg, .. } = content else {
        unreachable!("just made");
    };
    let submitted =
        ic.submit(IngressCall { id, sender, canister, method: call.method, arg, subnet, bytes });
    let effective = ic.subnets.all[subnet].id().as_slice().to_vec();
    Ok(match submitted {
        Ok(()) => Submitted::Ok(RawMessageId {
            effective_principal: RawEffectivePrincipal::SubnetId(effective),
            message_id: id.to_vec(),
        }),
        Err(reject) => Submitted::Err(reject.response(false)),
    })
}

/// The subnet a call goes to; one is made for a canister id that belongs to none.
fn destination(ic: &mut Ic, canister: Principal, call: &RawCanisterCall) -> Result<usize, Failure> {
    let is_management = mgmt::is_management(ic, canister);
    match &call.effective_principal {
        RawEffectivePrincipal::None if is_management => {
            Ok(mgmt::subnet_for(ic, &call.method, &call.payload))
        }
        RawEffectivePrincipal::None => {
            Ok(ic.subnets.of_canister(canister).unwrap_or_else(|| ic.subnets.default()))
        }
        RawEffectivePrincipal::SubnetId(raw) => {
            let id = canister_id(raw)?;
            let found = ic.subnets.by_id(id);
            found.ok_or_else(|| bad(format!("Subnet {id} not found")))
        }
        RawEffectivePrincipal::CanisterId(raw) => {
            let id = canister_id(raw)?;
            let creates = call.method == "provisional_create_canister_with_cycles";
            match ic.subnets.of_canister(id) {
                Some(found) => Ok(found),
                None if is_management && creates => {
                    ic.subnets.add_for(id).ok_or_else(|| bad(format!("{id} is not a canister id")))
                }
                None => Ok(ic.subnets.default()), // Where it will be found missing.
            }
        }
    }
}

async fn await_ingress(
    State(ctx): State<Ctx>,
    Json(raw): Json<RawMessageId>,
) -> Answer<RawCanisterResult> {
    blocking(move || {
        let id = message_id(&raw)?;
        for _ in 0..=ROUNDS_MAX {
            let result = {
                let ic = ctx.instance.read();
                let status = ic.ingress.status(&id);
                status.ok_or_else(|| bad("unknown message id"))?.result()
            };
            if let Some(result) = result {
                return Ok(certified(result));
            }
            ctx.instance.round();
        }
        Err(bad(format!(
            "Failed to answer to ingress 0x{} after {ROUNDS_MAX} rounds.",
            hex::encode(id)
        )))
    })
    .await
}

async fn tick(State(ctx): State<Ctx>, Json(configs): Json<RawTickConfigs>) -> Answer<()> {
    blocking(move || {
        if configs.blockmakers.is_some() {
            return Err(bad("not supported by local-ic: choosing blockmakers"));
        }
        ctx.instance.round();
        Ok(())
    })
    .await
}

async fn set_time(State(ctx): State<Ctx>, Json(time): Json<RawTime>) -> Answer<()> {
    blocking(move || {
        let mut ic = ctx.instance.write();
        if time.nanos_since_epoch < ic.time {
            return Err(bad(format!(
                "SettingTimeIntoPast: the time is {}, {} was asked for",
                ic.time, time.nanos_since_epoch
            )));
        }
        ic.is_time_set = time.nanos_since_epoch > ic.time;
        ic.time = time.nanos_since_epoch;
        Ok(())
    })
    .await
}

async fn add_cycles(State(ctx): State<Ctx>, Json(raw): Json<RawAddCycles>) -> Answer<RawCycles> {
    blocking(move || {
        let id = canister_id(&raw.canister_id)?;
        let mut ic = ctx.instance.write();
        let canister = ic.canister_mut(id).map_err(not_found)?;
        canister.cycles = canister.cycles.saturating_add(raw.amount);
        let cycles = canister.cycles;
        Ok(RawCycles { cycles })
    })
    .await
}

async fn set_stable_memory(
    State(ctx): State<Ctx>,
    Json(raw): Json<RawSetStableMemory>,
) -> Answer<()> {
    blocking(move || {
        let id = canister_id(&raw.canister_id)?;
        let blobs = ctx.blobs.read().unwrap();
        let blob = blobs.get(&raw.blob_id.0).ok_or_else(|| bad("no such blob"))?;
        let mut ic = ctx.instance.write();
        let canister = ic.canister_mut(id).map_err(not_found)?;
        canister.body.stable = Image::stable_of(blob).map_err(bad)?;
        Ok(())
    })
    .await
}

async fn mock_canister_http(
    State(ctx): State<Ctx>,
    Json(mock): Json<RawMockCanisterHttpResponse>,
) -> Answer<()> {
    blocking(move || {
        ctx.instance.write().mock_outcall(mock).map_err(bad)?;
        ctx.instance.wake();
        Ok(())
    })
    .await
}

async fn is_live(State(ctx): State<Ctx>) -> Json<bool> {
    Json(ctx.instance.is_live())
}

async fn auto_progress(State(ctx): State<Ctx>) -> Answer<()> {
    blocking(move || {
        ctx.instance.start_live();
        Ok(())
    })
    .await
}

async fn stop_progress(State(ctx): State<Ctx>) -> Answer<()> {
    blocking(move || {
        ctx.instance.stop_live();
        Ok(())
    })
    .await
}

/// A refusal, as the `pocket-ic` crate reads it.
pub struct Failure(pub StatusCode, pub String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "message": self.1 });
        (self.0, Json(body)).into_response()
    }
}

pub fn bad(why: impl ToString) -> Failure {
    Failure(StatusCode::BAD_REQUEST, why.to_string())
}

pub type Answer<T> = Result<Json<T>, Failure>;

/// Runs what may execute wasm or wait for the state's lock off the async threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Answer<T> {
    let done = tokio::task::spawn_blocking(work).await;
    match done {
        Ok(result) => result.map(Json),
        Err(panic) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, format!("local-ic: {panic}"))),
    }
}

/// So that a test can tell which server it runs on.
pub async fn identify() -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "server": "local-ic",
        "version": env!("CARGO_PKG_VERSION"),
        "pocket_ic_protocol": crate::POCKET_IC_VERSION,
    }))
}
