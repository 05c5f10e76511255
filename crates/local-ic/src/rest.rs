//! PocketIC's REST protocol, the part that is about the process: its instances and gateways.
//!
//! What is about one instance is handed on to that instance's own routes ([`crate::instance_api`]),
//! with the path as they know it.

use std::{io::Read, sync::Arc};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flate2::read::GzDecoder;
use pocket_ic::common::rest::{
    CreateHttpGatewayResponse, CreateInstanceResponse, HttpGatewayConfig, InstanceConfig,
    RawVerifyCanisterSigArg,
};
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use crate::activity;
use crate::dashboard;
use crate::instance_api::{Failure, bad, blocking, identify};
use crate::server::Server;
use crate::verify::verify_signature;

pub fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/", get(show))
        .route("/_/localic", get(identify))
        .route("/status", get(|| async {}))
        .route("/blobstore", post(put_blob))
        .route("/blobstore/", post(put_blob))
        .route("/verify_signature", post(check_signature))
        .route("/instances", get(list).post(create))
        .route("/instances/", get(list).post(create))
        .route("/instances/{id}", axum::routing::delete(delete))
        .route("/instances/{id}/", axum::routing::delete(delete))
        .route("/instances/{id}/{*rest}", axum::routing::any(forward))
        .route("/http_gateway", post(start_gateway))
        .route("/http_gateway/", post(start_gateway))
        .route("/http_gateway/{id}/stop", post(stop_gateway))
        .with_state(Arc::clone(&server))
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn_with_state(server.activity(), activity::count_request))
}

/// The dashboard, with all instances.
async fn show(State(server): State<Arc<Server>>) -> Response {
    let page = move || {
        let instances = server.available();
        let states: Vec<_> = instances.iter().map(|i| (i.id, i.read())).collect();
        dashboard::page(states.iter().map(|(id, ic)| (*id, &**ic)))
    };
    let page = tokio::task::spawn_blocking(page).await.expect("writing a page does not panic");
    dashboard::response(page)
}

async fn list(State(server): State<Arc<Server>>) -> Json<Vec<&'static str>> {
    Json(server.list())
}

async fn create(State(server): State<Arc<Server>>, Json(config): Json<InstanceConfig>) -> Response {
    let (status, body) = match server.open(config).await {
        Ok((instance_id, topology, http_gateway_info)) => (
            StatusCode::CREATED,
            CreateInstanceResponse::Created { instance_id, topology, http_gateway_info },
        ),
        Err(e) => {
            let message = format!("{e:#}");
            (StatusCode::BAD_REQUEST, CreateInstanceResponse::Error { message })
        }
    };
    (status, Json(body)).into_response()
}

async fn delete(
    State(server): State<Arc<Server>>,
    Path(id): Path<usize>,
) -> Result<StatusCode, Failure> {
    let deleted = blocking(move || server.delete(id).map_err(|e| bad(format!("{e:#}")))).await;
    deleted.map(|_| StatusCode::OK)
}

/// Hands a request on to the router of its instance, with the path as that router knows it.
async fn forward(
    State(server): State<Arc<Server>>,
    Path((id, _)): Path<(usize, String)>,
    request: Request,
) -> Response {
    let Some(handle) = server.handle(id) else {
        return Failure(StatusCode::NOT_FOUND, format!("Instance {id} not found")).into_response();
    };
    let (parts, body) = request.into_parts();
    // A fresh request: this one carries our path parameters, which would confuse the next router.
    let mut onward = axum::http::Request::new(body);
    *onward.method_mut() = parts.method;
    *onward.headers_mut() = parts.headers;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let inner = path.splitn(4, '/').nth(3).unwrap_or_default();
    match format!("/{inner}").parse::<Uri>() {
        Ok(uri) => *onward.uri_mut() = uri,
        Err(e) => return bad(e).into_response(),
    }
    match handle.router.oneshot(onward).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn put_blob(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<String, Failure> {
    let id = Sha256::digest(&body).to_vec();
    let is_gzip =
        headers.get("content-encoding").is_some_and(|encoding| encoding.as_bytes() == b"gzip");
    let mut content = Vec::new();
    if is_gzip {
        let unzipped = GzDecoder::new(&body[..]).read_to_end(&mut content);
        unzipped.map_err(|e| bad(format!("the blob is not gzip: {e}")))?;
    } else {
        content.extend_from_slice(&body);
    }
    let text = hex::encode(&id);
    server.blobs().write().unwrap().insert(id, content);
    Ok(text)
}

async fn check_signature(Json(arg): Json<RawVerifyCanisterSigArg>) -> Json<Result<(), String>> {
    Json(verify_signature(&arg.pubkey, &arg.msg, &arg.sig, &arg.root_pubkey))
}

async fn start_gateway(
    State(server): State<Arc<Server>>,
    Json(config): Json<HttpGatewayConfig>,
) -> Response {
    match server.start_gateway(config).await {
        Ok(info) => {
            let body = CreateHttpGatewayResponse::Created(info);
            (StatusCode::CREATED, Json(body)).into_response()
        }
        Err(e) => {
            let message = format!("{e:#}");
            let body = CreateHttpGatewayResponse::Error { message };
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

async fn stop_gateway(State(server): State<Arc<Server>>, Path(id): Path<usize>) -> Json<()> {
    server.stop_gateway(id).await;
    Json(())
}
