//! From the listening socket to HTTP requests: who may connect, how long a request may take to arrive, and
//! how large its headers may be.
//!
//! warp could accept too, but waits for ever for the end of a request, and then a few thousand clients that
//! say nothing are all that fits in. So a connection that does not become a websocket has its time, whatever
//! it does with it.

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
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
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
/// How long a connection lasts that does not become a websocket,
const LIFE_MAX: Duration = Duration::from_secs(30);
/// and how long what it is answering then may still take, as when the relay stops.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(2);
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
                    serve(stream, remote, routes, LIFE_MAX, stop).await;
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

/// Serves one connection until it closes, becomes a websocket, or has had its time.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    remote: Remote,
    routes: BoxedFilter<(Response,)>,
    life: Duration,
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
    let over = async {
        let _ = timeout(life, stop.cancelled()).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => Ok(ended),
        () = over => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER_MAX, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => debug!(%cause, "a connection broke off"),
        Err(_) => debug!("a connection had its time and was cut off"),
    }
}

/// The remote end of a request.
pub fn remote() -> impl Filter<Extract = (Remote,), Error = warp::Rejection> + Clone {
    warp::ext::get::<Remote>()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::JoinHandle,
    };
    use warp::Reply;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const BEGINNING: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nbeginning.";

    /// A connection with a request of which the end is missing, and what serves it.
    async fn connection(
        life: Duration,
        stop: &CancellationToken,
    ) -> (DuplexStream, JoinHandle<()>) {
        let (mut client, server) = duplex(64 * 1024);
        let taken = warp::body::bytes().map(|_| "taken".into_response()).boxed();
        let remote = Remote { ip: [192, 0, 2, 1].into(), place: None };
        let serving = tokio::spawn(serve(server, remote, taken, life, stop.clone()));
        client.write_all(BEGINNING).await.unwrap();
        (client, serving)
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_ends_with_its_connections_time() {
        let life = Duration::from_millis(50);
        let (mut client, serving) = connection(life, &CancellationToken::new()).await;
        timeout(PATIENCE, serving).await.expect("its time is over").unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or_default(), 0);
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_holds_up_no_stop() {
        let stop = CancellationToken::new();
        let (_client, serving) = connection(LIFE_MAX, &stop).await;
        stop.cancel();
        timeout(PATIENCE, serving).await.expect("a stop ends").unwrap();
    }

    #[tokio::test]
    async fn what_is_being_answered_when_the_relay_stops_is_answered() {
        let stop = CancellationToken::new();
        let (mut client, serving) = connection(LIFE_MAX, &stop).await;
        // It is being read.
        sleep(Duration::from_millis(50)).await;
        stop.cancel();
        client.write_all(&[b'.'; 90]).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("taken"), "{answer}");
        serving.await.unwrap();
    }
}
