//! From the listening socket to HTTP requests: who may connect, how long a request may take to arrive, and
//! how large its headers may be.
//!
//! warp could accept too, but waits for ever for the end of a request, and then a few thousand clients that
//! say nothing are all that fits in.

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error};
use warp::{
    Filter,
    filters::BoxedFilter,
    http::{HeaderMap, Request},
    reply::Response,
};

use crate::{Relay, throttle::Place, visitor::Visitor};

/// Bytes of a request's line and headers together.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Headers of one request.
const HEADERS_MAX: usize = 64;
/// How long they may take to arrive, and how long a connection may do nothing before the next.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Connections that have not become websockets yet. Beyond it new ones wait to be accepted.
const REQUESTS_MAX: usize = 1_024;
/// How long to wait when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of the TCP connection, as a request's extension.
#[derive(Clone)]
pub struct Remote {
    pub ip: IpAddr,
    /// Its place among the connections of its address. None: it is a proxy.
    pub place: Option<Arc<Place>>,
}

/// Serves `routes` to whoever connects, until `stop`.
pub async fn accept(
    listener: TcpListener,
    routes: BoxedFilter<(Response,)>,
    relay: Arc<Relay>,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    let connections = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = room.clone().acquire_owned() => permit.expect("it is never closed"),
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, remote)) => {
                let Some(remote) = admit(&relay, remote.ip()) else { continue };
                let (routes, stop) = (routes.clone(), stop.clone());
                connections.spawn(async move {
                    // A websocket goes on without this, and keeps the place.
                    serve(stream, remote, routes, stop).await;
                    drop(permit);
                });
            }
            Err(cause) => {
                error!(%cause, "no connection can be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

/// Lets somebody send requests. Whom a proxy forwards is not known before it does, so the proxy itself
/// has no limit.
fn admit(relay: &Relay, ip: IpAddr) -> Option<Remote> {
    let terms = relay.terms();
    let visitor = Visitor::of(ip, &HeaderMap::new(), &terms.trusted_proxies);
    if terms.trusted_proxies.iter().any(|network| network.contains(visitor.ip)) {
        return Some(Remote { ip, place: None });
    }
    if terms.access.blocks(visitor.ip) {
        return None;
    }
    let place = relay.throttle.place_for(&visitor)?;
    Some(Remote { ip, place: Some(Arc::new(place)) })
}

/// Serves one connection until it closes or becomes a websocket.
async fn serve(
    stream: TcpStream,
    remote: Remote,
    routes: BoxedFilter<(Response,)>,
    stop: CancellationToken,
) {
    let routes = TowerToHyperService::new(warp::service(routes));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(remote.clone());
        routes.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(cause) = ended {
        debug!(%cause, "a connection broke off");
    }
}

/// The remote end of a request.
pub fn remote() -> impl Filter<Extract = (Remote,), Error = warp::Rejection> + Clone {
    warp::ext::get::<Remote>()
}
