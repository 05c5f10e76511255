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
    Relay, nip11, session,
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

/// NIP-11: with CORS, since web clients ask from other origins.
fn information(
    relay: Arc<Relay>,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone {
    let document = nip11::document(&relay.config, &relay.identity).to_string();
    let name = relay.config.about.name.clone();
    let asked = warp::path::end().and(warp::header::optional::<String>("accept"));
    let methods =
        warp::get().or(warp::head()).unify().map(|| true).or(warp::options().map(|| false));
    asked.and(methods.unify()).and_then(move |accept: Option<String>, wants_body: bool| {
        let wants_document = accept.is_some_and(|accept| accept.contains("application/nostr+json"));
        let (body, content_type) = match (wants_body, wants_document) {
            (false, _) => (String::new(), "text/plain"),
            (true, true) => (document.clone(), "application/nostr+json"),
            (true, false) => {
                (format!("{name}: a nostr relay. Open it with a nostr client.\n"), "text/plain")
            }
        };
        async move { Ok::<_, Infallible>(with_cors(body, content_type)) }
    })
}

fn with_cors(body: String, content_type: &'static str) -> Response {
    let typed = with_header(body, header::CONTENT_TYPE, content_type);
    let mut response = typed.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, OPTIONS"),
    );
    response
}
