//! One port for clients: the websocket, NIP-11 for those who ask for it, a page for people, and NIP-86 for
//! admins. Metrics have a port of their own, since they are nobody's but the operator's.

use std::{
    convert::Infallible,
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;
use warp::{
    Filter, Reply,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    hyper::body::Bytes,
    reply::{Response, with_header, with_status},
};

use crate::{
    Relay,
    accept::{Remote, accept, remote},
    clock,
    nip11::{self, Wanted},
    nip86::{self, Call, Office},
    nip98::{self, Unauthorized},
    session::{self, Guest},
    visitor::{self, Visitor},
    websocket::{self, Upgrade},
};

/// What Prometheus calls the text of its metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Accepts clients on `listener` until `stop`, then lets every session finish.
pub async fn serve(listener: TcpListener, relay: Arc<Relay>, stop: CancellationToken) {
    let sessions = TaskTracker::new();
    let clients = clients(relay.clone(), sessions.clone(), stop.clone());
    let routes =
        clients.or(management(relay.clone())).unify().or(information(relay.clone())).unify();
    accept(listener, routes.boxed(), relay, stop).await;
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

/// A seat among all that there are. Dropped, it is free.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(taken: &Arc<AtomicUsize>, seats: usize) -> Option<Seat> {
        let one_more = |taken: usize| (taken < seats).then_some(taken + 1);
        let is_taken = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        is_taken.then(|| Seat(taken.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn clients(
    relay: Arc<Relay>,
    sessions: TaskTracker,
    stop: CancellationToken,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone {
    let taken = Arc::new(AtomicUsize::new(0));
    let asked = warp::path::end().and(websocket::upgrade()).and(remote());
    asked.map(move |upgrade: Upgrade, remote: Remote| {
        let terms = relay.terms();
        let visitor = visitor_of(&relay, &remote, upgrade.headers());
        if terms.access.blocks(visitor.ip) {
            return with_status("blocked\n", StatusCode::FORBIDDEN).into_response();
        }
        let place = match visitor.is_forwarded {
            true => relay.throttle.place_for(&visitor).map(Arc::new),
            false => remote.place,
        };
        if visitor.is_forwarded && place.is_none() {
            let enough = "there are enough connections from your address\n";
            return with_status(enough, StatusCode::TOO_MANY_REQUESTS).into_response();
        }
        let Some(seat) = Seat::take(&taken, terms.limits.connections_max) else {
            let full = "the relay has no room for another connection\n";
            return with_status(full, StatusCode::SERVICE_UNAVAILABLE).into_response();
        };
        let (relay, sessions, stop) = (relay.clone(), sessions.clone(), stop.clone());
        upgrade.answer(terms.limits.message_bytes_max, move |socket| async move {
            // Tracked, so that a clean stop waits for it.
            let session = sessions.spawn(session::serve(socket, Guest { visitor, relay }, stop));
            let _ = session.await;
            drop((seat, place));
        })
    })
}

fn visitor_of(relay: &Relay, remote: &Remote, headers: &HeaderMap) -> Visitor {
    static UNHEARD: Once = Once::new();
    let visitor = Visitor::of(remote.ip, headers, &relay.terms().trusted_proxies);
    if visitor::is_unheard(&visitor, headers) {
        UNHEARD.call_once(|| {
            warn!(
                "a proxy on this machine forwards clients, and is not among `trusted_proxies`: no limit \
                 of addresses and no rate holds for them"
            );
        });
    }
    visitor
}

/// Bytes of one call.
const CALL_BYTES_MAX: u64 = 64 * 1024;

/// NIP-86.
fn management(
    relay: Arc<Relay>,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone {
    let is_call = warp::header::header::<String>("content-type").and_then(async |kind: String| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let is_call = kind.eq_ignore_ascii_case(nip86::CONTENT_TYPE);
        if is_call { Ok(()) } else { Err(warp::reject()) }
    });
    let asked = warp::path::end().and(warp::post()).and(is_call).untuple_one();
    let body = warp::body::content_length_limit(CALL_BYTES_MAX).and(warp::body::bytes());
    let authorization = warp::header::optional::<String>("authorization");
    asked.and(authorization).and(body).and_then(
        move |authorization: Option<String>, body: Bytes| {
            let relay = relay.clone();
            async move { Ok::<_, Infallible>(manage(relay, authorization, body).await) }
        },
    )
}

async fn manage(relay: Arc<Relay>, authorization: Option<String>, body: Bytes) -> Response {
    // It checks a signature, reads L1 and writes a file.
    let managed = tokio::task::spawn_blocking(move || {
        let (authorization, now) = (authorization.as_deref(), clock::now());
        let event = match nip98::event(authorization, &body, &relay.url, now) {
            Ok(event) => event,
            Err(unauthorized) => return (StatusCode::UNAUTHORIZED, Err(unauthorized.into())),
        };
        let Some(role) = relay.terms().access.role_of(&event.pubkey) else {
            let stranger = anyhow::anyhow!("this key is neither an owner's nor an admin's");
            return (StatusCode::FORBIDDEN, Err(stranger));
        };
        let call = match Call::read(&body) {
            Ok(call) => call,
            Err(error) => return (StatusCode::BAD_REQUEST, Err(error)),
        };
        if call.decides() && !relay.used.take(&event, now) {
            return (StatusCode::UNAUTHORIZED, Err(Unauthorized::Replayed.into()));
        }
        let office = Office { moderator: &relay.moderator, store: &relay.store };
        (StatusCode::OK, call.answer(office, role))
    });
    let (status, said) = managed.await.unwrap_or_else(|_| {
        (StatusCode::INTERNAL_SERVER_ERROR, Err(anyhow::anyhow!("the relay failed at it")))
    });
    let answer = match said {
        Ok(result) => json!({ "result": result }),
        Err(error) => json!({ "result": Value::Null, "error": format!("{error:#}") }),
    };
    let mut response = with_cors(answer.to_string(), "application/json");
    *response.status_mut() = status;
    response
}

/// NIP-11, or a page for people: with CORS, since web clients ask from other origins.
fn information(
    relay: Arc<Relay>,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone {
    let asked = warp::path::end().and(warp::header::optional::<String>("accept"));
    // HEAD gets the same headers, and no body: hyper sees to that.
    let read = warp::get().or(warp::head()).unify().map(|| true);
    let methods = read.or(warp::options().map(|| false)).unify();
    asked.and(methods).and_then(move |accept: Option<String>, wants_body: bool| {
        let wanted = Wanted::by(&accept.unwrap_or_default());
        let (body, content_type) = match wanted {
            _ if !wants_body => (String::new(), "text/plain"),
            Wanted::Document => (nip11::document(&relay).to_string(), "application/nostr+json"),
            Wanted::Page => (nip11::page(&relay), "text/html; charset=utf-8"),
            Wanted::Line => (nip11::line(&relay), "text/plain; charset=utf-8"),
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
    // The star does not mean this one.
    headers
        .insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, Authorization"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, OPTIONS, POST"),
    );
    response
}
