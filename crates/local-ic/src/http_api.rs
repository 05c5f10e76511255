//! The Internet Computer's HTTPS interface, as agents use it.
//!
//! Bodies are CBOR. Every answer is signed: certificates by the subnet, queries by its node.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use candid::Principal;
use ic_transport_types::{
    Envelope, EnvelopeContent, NodeSignature, QueryResponse, ReadStateResponse, RejectCode,
    RejectResponse, ReplyResponse, TransportCallResponse,
};
use serde::Serialize;

use crate::cert::{Authority, Tree, cbor};
use crate::errors::Reject;
use crate::ic::Ic;
use crate::instance::Instance;
use crate::message::{IngressCall, MessageId, Query};
use crate::mgmt;
use crate::state_tree::{self, Denied, Reader};
use crate::verify::{self, Targets};

/// How long a synchronous call waits before it tells the agent to poll.
const CALL_WAIT: Duration = Duration::from_secs(10);
const NONCE_BYTES_MAX: usize = 32;

pub fn router(instance: Arc<Instance>) -> Router {
    Router::new()
        .route("/api/v2/status", get(status))
        .route("/api/{version}/{scope}/{id}/call", post(call))
        .route("/api/{version}/{scope}/{id}/query", post(query))
        .route("/api/{version}/{scope}/{id}/read_state", post(read_state))
        .with_state(instance)
}

/// A refusal before anything was executed: a status and a text.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

fn bad(why: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, why.into())
}

type Result<T> = std::result::Result<T, Refusal>;

fn ok(body: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, "application/cbor")], cbor(body)).into_response()
}

/// Runs what may execute wasm or wait for the state's lock off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("handlers do not panic")
}

async fn status(State(instance): State<Arc<Instance>>) -> Response {
    #[derive(Serialize)]
    struct Status {
        ic_api_version: &'static str,
        impl_version: &'static str,
        replica_health_status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        root_key: Option<serde_bytes::ByteBuf>,
    }
    let root_key = blocking(move || instance.read().subnets.root_key()).await;
    ok(&Status {
        ic_api_version: "0.18.0",
        impl_version: concat!("local-ic ", env!("CARGO_PKG_VERSION")),
        replica_health_status: "healthy",
        root_key: root_key.map(serde_bytes::ByteBuf::from),
    })
}

/// The address a request came to.
#[derive(Clone, Copy)]
enum Scope {
    Canister(Principal),
    Subnet(Principal),
}

impl Scope {
    fn parse(scope: &str, id: &str) -> Result<Scope> {
        let id = Principal::from_text(id).map_err(|e| bad(format!("Invalid id in URL: {e}")))?;
        match scope {
            "canister" => Ok(Scope::Canister(id)),
            "subnet" => Ok(Scope::Subnet(id)),
            _ => Err(Refusal(StatusCode::NOT_FOUND, "not found".to_owned())),
        }
    }

    fn id(self) -> Principal {
        let (Scope::Canister(id) | Scope::Subnet(id)) = self;
        id
    }

    fn subnet(self, ic: &Ic) -> Result<usize> {
        let found = match self {
            Scope::Canister(id) if id == Principal::management_canister() => {
                Some(ic.subnets.default())
            }
            Scope::Canister(id) => ic.subnets.of_canister(id),
            Scope::Subnet(id) => ic.subnets.by_id(id),
        };
        found.ok_or_else(|| bad(format!("{} does not belong to any subnet.", self.id())))
    }

    /// The canister in the URL must be the one called, or the one a management call is about.
    fn check(self, ic: &Ic, canister: Principal, method: &str, arg: &[u8]) -> Result<()> {
        let Scope::Canister(effective) = self else {
            return Ok(());
        };
        let addressed = match mgmt::is_management(ic, canister) {
            true => mgmt::target(method, arg).unwrap_or(None),
            false => Some(canister),
        };
        match addressed {
            Some(addressed) if addressed != effective => Err(bad(format!(
                "Specified CanisterId {addressed} does not match effective canister id in URL {effective}"
            ))),
            _ => Ok(()),
        }
    }
}

fn parse(body: &[u8]) -> Result<Envelope<'static>> {
    serde_cbor::from_slice(body).map_err(|e| bad(format!("Could not parse body as CBOR: {e}")))
}

fn check_sender(instance: &Instance, envelope: &Envelope<'_>) -> Result<Targets> {
    check_supported(&envelope.content)?;
    if !instance.validates_ingress {
        return Ok(Targets::All);
    }
    let (now, root_key) = {
        let ic = instance.read();
        (ic.time, Arc::clone(&ic.root_key))
    };
    verify::verify(envelope, now, &root_key).map_err(bad)
}

fn check_supported(content: &EnvelopeContent) -> Result<()> {
    let (nonce, sender_info) = match content {
        EnvelopeContent::Call { nonce, sender_info, .. }
        | EnvelopeContent::Query { nonce, sender_info, .. } => (nonce, sender_info),
        EnvelopeContent::ReadState { .. } => return Ok(()),
    };
    if nonce.as_ref().is_some_and(|nonce| nonce.len() > NONCE_BYTES_MAX) {
        return Err(bad(format!("Invalid nonce: it has more than {NONCE_BYTES_MAX} bytes")));
    }
    match sender_info {
        Some(_) => Err(bad("not supported by local-ic: sender_info")),
        None => Ok(()),
    }
}

/// Which versions of the interface have an endpoint.
fn check_version(version: &str, known: &[&str]) -> Result<()> {
    match known.contains(&version) {
        true => Ok(()),
        false => Err(Refusal(StatusCode::NOT_FOUND, "not found".to_owned())),
    }
}

type Address = Path<(String, String, String)>;

async fn call(
    State(instance): State<Arc<Instance>>,
    Path((version, scope, id)): Address,
    body: Bytes,
) -> Result<Response> {
    check_version(&version, &["v2", "v3", "v4"])?;
    let scope = Scope::parse(&scope, &id)?;
    let submitted = {
        let instance = Arc::clone(&instance);
        blocking(move || submit(&instance, scope, &body)).await?
    };
    let id = match submitted {
        Ok(id) => id,
        Err(reject) => {
            let refused = TransportCallResponse::NonReplicatedRejection(reject_response(&reject));
            return Ok(ok(&refused));
        }
    };
    instance.wake();
    if version == "v2" {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    Ok(certified_answer(instance, id).await)
}

fn submit(
    instance: &Instance,
    scope: Scope,
    body: &[u8],
) -> Result<std::result::Result<MessageId, Reject>> {
    let envelope = parse(body)?;
    check_sender(instance, &envelope)?;
    let id: MessageId = *envelope.content.to_request_id();
    let EnvelopeContent::Call { sender, canister_id, method_name, arg, .. } =
        envelope.content.into_owned()
    else {
        return Err(bad("Expected a request of type call"));
    };
    let mut ic = instance.write();
    scope.check(&ic, canister_id, &method_name, &arg)?;
    let subnet = scope.subnet(&ic)?;
    let bytes_max = ic.subnets.all[subnet].ingress_bytes_max();
    if body.len() > bytes_max {
        return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, too_large(&id, body.len(), bytes_max)));
    }
    let call = IngressCall {
        id,
        sender,
        canister: canister_id,
        method: method_name,
        arg,
        subnet,
        bytes: body.len(),
    };
    Ok(ic.submit(call).map(|()| id))
}

pub fn too_large(id: &MessageId, bytes: usize, bytes_max: usize) -> String {
    format!(
        "Message 0x{} is too large. Message byte size {bytes} is larger than the max allowed {bytes_max}.",
        hex::encode(id)
    )
}

/// Waits for the answer and certifies it, or has the agent poll for it.
async fn certified_answer(instance: Arc<Instance>, id: MessageId) -> Response {
    let mut rounds = instance.rounds();
    let deadline = tokio::time::Instant::now() + CALL_WAIT;
    loop {
        rounds.borrow_and_update();
        let reader = Arc::clone(&instance);
        let signed = blocking(move || certify_answer(&reader, id)).await;
        if let Some(certificate) = signed {
            return ok(&TransportCallResponse::Replied { certificate });
        }
        if !matches!(tokio::time::timeout_at(deadline, rounds.changed()).await, Ok(Ok(()))) {
            let accepted = ok(&TransportCallResponse::Accepted);
            return (StatusCode::ACCEPTED, accepted).into_response();
        }
    }
}

fn certify_answer(instance: &Instance, id: MessageId) -> Option<Vec<u8>> {
    let (tree, time, authority) = {
        let ic = instance.read();
        let ingress = ic.ingress.messages.get(&id)?;
        if !ingress.status.is_answered() {
            return None;
        }
        let subnet = ic.subnets.by_id(ingress.subnet)?;
        let mut tree = Tree::at_time(ic.time);
        state_tree::insert_status(&mut tree, &id, &ingress.status);
        (tree, ic.time, Arc::clone(&ic.subnets.all[subnet].authority))
    };
    // Signing takes longer than most messages do: not under the lock.
    Some(authority.certify(tree.witness(|root| root == "request_status"), time))
}

fn reject_response(reject: &Reject) -> RejectResponse {
    let code = RejectCode::try_from(reject.reject_code() as u64);
    RejectResponse {
        reject_code: code.unwrap_or(RejectCode::SysTransient),
        reject_message: reject.message.clone(),
        error_code: Some(reject.error_code()),
    }
}

async fn query(
    State(instance): State<Arc<Instance>>,
    Path((version, scope, id)): Address,
    body: Bytes,
) -> Result<Response> {
    check_version(&version, &["v2", "v3"])?;
    let scope = Scope::parse(&scope, &id)?;
    blocking(move || run_query(&instance, scope, &body)).await
}

fn run_query(instance: &Instance, scope: Scope, body: &[u8]) -> Result<Response> {
    let envelope = parse(body)?;
    check_sender(instance, &envelope)?;
    let request_id = envelope.content.to_request_id();
    let EnvelopeContent::Query { sender, canister_id, method_name, arg, .. } =
        envelope.content.into_owned()
    else {
        return Err(bad("Expected a request of type query"));
    };
    let (result, time, authority) = {
        let ic = instance.read();
        scope.check(&ic, canister_id, &method_name, &arg)?;
        let subnet = scope.subnet(&ic)?;
        let query = Query { sender, canister: canister_id, method: &method_name, arg };
        let result = ic.query(query);
        (result, ic.time, Arc::clone(&ic.subnets.all[subnet].authority))
    };
    let response = match result {
        Ok(arg) => QueryResponse::Replied { reply: ReplyResponse { arg }, signatures: Vec::new() },
        Err(reject) => {
            QueryResponse::Rejected { reject: reject_response(&reject), signatures: Vec::new() }
        }
    };
    let message = response.signable(request_id, time);
    Ok(ok(&signed(response, &message, time, &authority)))
}

fn signed(
    mut response: QueryResponse,
    message: &[u8],
    timestamp: u64,
    authority: &Authority,
) -> QueryResponse {
    let (QueryResponse::Replied { signatures, .. } | QueryResponse::Rejected { signatures, .. }) =
        &mut response;
    signatures.push(NodeSignature {
        timestamp,
        signature: authority.keys.sign_as_node(message),
        identity: authority.keys.node,
    });
    response
}

async fn read_state(
    State(instance): State<Arc<Instance>>,
    Path((version, scope, id)): Address,
    body: Bytes,
) -> Result<Response> {
    check_version(&version, &["v2", "v3"])?;
    let scope = Scope::parse(&scope, &id)?;
    blocking(move || run_read_state(&instance, scope, &body)).await
}

fn run_read_state(instance: &Instance, scope: Scope, body: &[u8]) -> Result<Response> {
    let envelope = parse(body)?;
    let targets = check_sender(instance, &envelope)?;
    let EnvelopeContent::ReadState { sender, paths, .. } = envelope.content.into_owned() else {
        return Err(bad("Expected a request of type read_state"));
    };
    let reader = Reader { sender, targets, effective: scope.id() };
    let (tree, time, authority) = {
        let ic = instance.read();
        let tree = state_tree::read(&ic, &paths, &reader).map_err(|denied| match denied {
            Denied::Invalid => bad("Invalid path requested."),
            Denied::Forbidden => Refusal(
                StatusCode::FORBIDDEN,
                "The user does not have permission to read this path.".to_owned(),
            ),
        })?;
        let subnet = scope.subnet(&ic)?;
        (tree, ic.time, Arc::clone(&ic.subnets.all[subnet].authority))
    };
    let asks = |root: &str| {
        let mut roots = paths.iter().filter_map(|path| path.first());
        roots.any(|label| label.as_bytes() == root.as_bytes())
    };
    // The ranges of a subnet stand in two branches, so asking for one shows both.
    let is_requested = |root: &str| match root {
        "canister_ranges" => asks(root) || asks("subnet"),
        root => asks(root),
    };
    let certificate = authority.certify(tree.witness(is_requested), time);
    Ok(ok(&ReadStateResponse { certificate }))
}
