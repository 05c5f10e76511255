//! One port for clients: the websocket, NIP-11 for those who ask for it, and a line for people. Metrics
//! have a port of their own, since they are nobody's but the operator's.

use std::{convert::Infallible, sync::Arc};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::{
    Filter, Reply,
    http::{HeaderValue, StatusCode, header},
    reply::{Response, with_header},
};

use crate::{
    Relay,
    nip11::{self, Wanted},
    session,
    websocket::{self, Upgrade},
};

/// What Prometheus calls the text of its metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Accepts clients on `listener` until `stop`, then lets every session finish.
pub async fn serve(listener: TcpListener, relay: Arc<Relay>, stop: CancellationToken) {
    let sessions = TaskTracker::new();
    let routes = clients(relay.clone(), sessions.clone(), stop.clone()).or(information(relay));
    let signal = stop.clone().cancelled_owned();
    warp::serve(routes).incoming(listener).graceful(signal).run().await;
    sessions.close();
    sessions.wait().await;
}

/// Answers `GET /metrics` on `listener` until `stop`.
pub async fn serve_metrics(listener: TcpListener, relay: Arc<Relay>, stop: CancellationToken) {
    let route = warp::path!("metrics").and(warp::get()).and_then(move || {
        let relay = relay.clone();
        async move { Ok::<_, Infallible>(metrics(relay).await) }
    });
    warp::serve(route).incoming(listener).graceful(stop.cancelled_owned()).run().await;
}

async fn metrics(relay: Arc<Relay>) -> Response {
    match tokio::task::spawn_blocking(move || relay.scrape()).await {
        Ok(text) => with_header(text, header::CONTENT_TYPE, OPEN_METRICS).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn clients(
    relay: Arc<Relay>,
    sessions: TaskTracker,
    stop: CancellationToken,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone {
    let room = Arc::new(Semaphore::new(relay.config.limits.connections_max));
    warp::path::end().and(websocket::upgrade()).map(move |upgrade: Upgrade| {
        let Ok(place) = room.clone().try_acquire_owned() else {
            let full = "the relay has no room for another connection";
            return warp::reply::with_status(full, StatusCode::SERVICE_UNAVAILABLE).into_response();
        };
        let (relay, sessions, stop) = (relay.clone(), sessions.clone(), stop.clone());
        let bytes_max = relay.config.limits.message_bytes_max;
        upgrade.answer(bytes_max, move |socket| async move {
            // Tracked, so that a clean stop waits for it.
            let session = sessions.spawn(session::serve(socket, relay, stop));
            let _ = session.await;
            drop(place);
        })
    })
}

/// NIP-11, or a page for people: with CORS, since web clients ask from other origins.
fn information(
    relay: Arc<Relay>,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone {
    let (document, page) = (nip11::document(&relay).to_string(), nip11::page(&relay));
    let line =
        format!("{}: a nostr relay. Open it with a nostr client.\n", relay.config.about.name);
    let asked = warp::path::end().and(warp::header::optional::<String>("accept"));
    // HEAD gets the same headers, and no body: hyper sees to that.
    let read = warp::get().or(warp::head()).unify().map(|| true);
    let methods = read.or(warp::options().map(|| false)).unify();
    asked.and(methods).and_then(move |accept: Option<String>, wants_body: bool| {
        let wanted = Wanted::by(&accept.unwrap_or_default());
        let (body, content_type) = match wanted {
            _ if !wants_body => (String::new(), "text/plain"),
            Wanted::Document => (document.clone(), "application/nostr+json"),
            Wanted::Page => (page.clone(), "text/html; charset=utf-8"),
            Wanted::Line => (line.clone(), "text/plain; charset=utf-8"),
        };
        async move { Ok::<_, Infallible>(with_cors(body, content_type)) }
    })
}

fn with_cors(body: String, content_type: &'static str) -> Response {
    let typed = with_header(body, header::CONTENT_TYPE, content_type);
    let mut response = typed.into_response();
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, OPTIONS"),
    );
    response
}
