//! A port of its own for an instance: the agents' interface, and canisters as web sites.
//!
//! A canister is addressed as `<id>.localhost` or with `?canisterId=<id>`. Its answer is passed
//! on as it is: response verification and streaming are the real gateway's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use candid::{CandidType, Principal, Reserved};
use pocket_ic::common::rest::HttpGatewayConfig;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::activity::{self, Activity};
use crate::dashboard;
use crate::instance::Instance;
use crate::message::{IngressCall, MessageId, Query};

const BODY_BYTES_MAX: usize = 10 << 20;
/// How long a web request may wait for its update call.
const UPDATE_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Stops when dropped; connections finish what they are answering.
pub struct Gateway {
    pub instance: usize,
    pub port: u16,
    /// Dropping it tells the accepting task to stop.
    stop: oneshot::Sender<()>,
    /// Completes when the port is free again.
    closed: oneshot::Receiver<()>,
}

/// A listener that tells when it is closed, so that its port can be used again at once.
struct Port {
    listener: TcpListener,
    _closed: oneshot::Sender<()>,
}

impl Listener for Port {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Gateway {
    pub async fn start(
        instance: &Arc<Instance>,
        routes: Router,
        activity: Arc<Activity>,
        config: &HttpGatewayConfig,
    ) -> Result<Gateway> {
        let ip: IpAddr = match &config.ip_addr {
            Some(text) => text.parse().context("invalid ip_addr")?,
            None => Ipv4Addr::LOCALHOST.into(),
        };
        let address = SocketAddr::new(ip, config.port.unwrap_or(0));
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let port = listener.local_addr()?.port();
        let router = Router::new()
            .fallback(serve)
            .with_state(Ctx { instance: Arc::clone(instance), routes })
            .layer(axum::middleware::from_fn_with_state(activity, activity::count_request));
        let (stop, stopped) = oneshot::channel::<()>();
        let (_closed, closed) = oneshot::channel();
        let listener = Port { listener, _closed };
        tokio::spawn(async move {
            // Graceful, not aborted: else a client's kept-alive connections would outlive the port.
            let serving = axum::serve(listener, router).with_graceful_shutdown(async {
                stopped.await.ok();
            });
            if let Err(error) = serving.await {
                tracing::error!(%error, "gateway ended");
            }
        });
        Ok(Gateway { instance: instance.id, port, stop, closed })
    }

    /// Returns when the port is free.
    pub async fn stop(self) {
        drop(self.stop);
        self.closed.await.ok();
    }
}

/// The instance behind the gateway, and the routes to it.
#[derive(Clone)]
struct Ctx {
    instance: Arc<Instance>,
    routes: Router,
}

async fn serve(State(ctx): State<Ctx>, request: Request) -> Response {
    let path = request.uri().path();
    if path.starts_with("/api/") || path.starts_with("/_/") {
        return match ctx.routes.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    let Some(canister) = canister_of(&request) else {
        if path == "/" {
            return show(ctx.instance).await;
        }
        let help = "local-ic: no canister named; use <canister id>.localhost or ?canisterId=<canister id>\n";
        return (StatusCode::BAD_REQUEST, help).into_response();
    };
    match serve_canister(ctx.instance, canister, request).await {
        Ok(response) => response,
        Err((status, why)) => (status, format!("local-ic: {why}\n")).into_response(),
    }
}

/// The dashboard: what the gateway itself has to show.
async fn show(instance: Arc<Instance>) -> Response {
    let page = move || dashboard::page([(instance.id, &*instance.read())]);
    let page = tokio::task::spawn_blocking(page).await.expect("writing a page does not panic");
    dashboard::response(page)
}

/// The canister meant by the host, by the query, or by the page that the request came from.
fn canister_of(request: &Request) -> Option<Principal> {
    let headers = request.headers();
    let from_host = host(headers).or(request.uri().host()).and_then(|host| host.split('.').next());
    let named = |text: &str| Principal::from_text(text).ok();
    from_host
        .and_then(named)
        .or_else(|| canister_in_query(request.uri()))
        .or_else(|| canister_in_query(&referer(headers)?))
}

fn canister_in_query(uri: &Uri) -> Option<Principal> {
    let mut pairs = uri.query()?.split('&');
    let text = pairs.find_map(|pair| pair.strip_prefix("canisterId="))?;
    Principal::from_text(text).ok()
}

/// A page got by `?canisterId=` names its own parts without it.
fn referer(headers: &HeaderMap) -> Option<Uri> {
    headers.get(header::REFERER)?.to_str().ok()?.parse().ok()
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

#[derive(CandidType)]
struct HttpRequest {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: serde_bytes::ByteBuf,
    certificate_version: Option<u16>,
}

#[derive(CandidType, Deserialize)]
struct HttpResponse {
    status_code: u16,
    headers: Vec<(String, String)>,
    body: serde_bytes::ByteBuf,
    upgrade: Option<bool>,
    streaming_strategy: Option<Reserved>,
}

type Served<T> = std::result::Result<T, (StatusCode, String)>;

async fn serve_canister(
    instance: Arc<Instance>,
    canister: Principal,
    request: Request,
) -> Served<Response> {
    let arg = encode(request).await?;
    let first = {
        let (instance, arg) = (Arc::clone(&instance), arg.clone());
        tokio::task::spawn_blocking(move || {
            instance.read().query(Query {
                sender: Principal::anonymous(),
                canister,
                method: "http_request",
                arg,
            })
        })
        .await
        .expect("queries do not panic")
    };
    let mut response = decode(first.map_err(|reject| bad_gateway(&reject.message))?)?;
    if response.upgrade == Some(true) {
        response = decode(update(instance, canister, arg).await?)?;
    }
    if response.streaming_strategy.is_some() {
        return Err(bad_gateway("streaming responses are not supported by local-ic"));
    }
    let mut built = Response::builder().status(response.status_code);
    for (name, value) in response.headers {
        built = built.header(name, value);
    }
    built
        .body(Body::from(response.body.into_vec()))
        .map_err(|e| bad_gateway(&format!("the canister's response is no HTTP: {e}")))
}

fn bad_gateway(why: &str) -> (StatusCode, String) {
    (StatusCode::BAD_GATEWAY, why.to_owned())
}

async fn encode(request: Request) -> Served<Vec<u8>> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|e| (StatusCode::PAYLOAD_TOO_LARGE, e.to_string()))?;
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
    let url = parts.uri.path_and_query().map_or("/", |url| url.as_str());
    let request = HttpRequest {
        method: parts.method.to_string(),
        url: url.to_owned(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: serde_bytes::ByteBuf::from(body.to_vec()),
        certificate_version: Some(2),
    };
    Ok(candid::encode_one(request).expect("plain data"))
}

fn decode(bytes: Vec<u8>) -> Served<HttpResponse> {
    candid::decode_one(&bytes).map_err(|e| bad_gateway(&format!("unexpected reply: {e}")))
}

/// Calls `http_request_update` as anybody could, and waits for it.
async fn update(instance: Arc<Instance>, canister: Principal, arg: Vec<u8>) -> Served<Vec<u8>> {
    let submitting = Arc::clone(&instance);
    let id = tokio::task::spawn_blocking(move || submit(&submitting, canister, arg))
        .await
        .expect("submitting does not panic")?;
    instance.wake();
    let mut rounds = instance.rounds();
    let answered = async {
        loop {
            rounds.borrow_and_update();
            let result = instance.read().ingress.status(&id).and_then(|s| s.result());
            if let Some(result) = result {
                return result.map_err(|reject| bad_gateway(&reject.message));
            }
            if rounds.changed().await.is_err() {
                return Err(bad_gateway("the instance is gone"));
            }
        }
    };
    tokio::time::timeout(UPDATE_WAIT, answered)
        .await
        .unwrap_or_else(|_| Err((StatusCode::GATEWAY_TIMEOUT, "no answer in time".to_owned())))
}

fn submit(instance: &Instance, canister: Principal, arg: Vec<u8>) -> Served<MessageId> {
    let mut ic = instance.write();
    let subnet = ic
        .subnets
        .of_canister(canister)
        .ok_or_else(|| bad_gateway("the canister belongs to no subnet"))?;
    let id = ic.random_bytes();
    let bytes = arg.len() + 200;
    let call = IngressCall {
        id,
        sender: Principal::anonymous(),
        canister,
        method: "http_request_update".to_owned(),
        arg,
        subnet,
        bytes,
    };
    ic.submit(call).map_err(|reject| bad_gateway(&reject.message))?;
    Ok(id)
}
