//! From an HTTP request to a websocket (RFC 6455).
//!
//! warp could do this too, but gives every connection a read buffer of 128 KiB; most clients of a relay
//! say little, so here it begins small and grows with the messages.

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::server::create_response,
        protocol::{Role, WebSocketConfig},
    },
};
use warp::{
    Filter, Rejection, Reply,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    reply::Response,
};

/// What a connection reads at a time, and what it writes before it is flushed. More at once is taken,
/// at the price of more calls.
const BUFFER_BYTES: usize = 4 * 1024;

/// A client's connection.
pub type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// A client's wish for a websocket.
pub struct Upgrade {
    request: Request<()>,
    connection: Option<OnUpgrade>,
}

/// Takes the requests that ask for a websocket, and leaves all others to the next route.
pub fn upgrade() -> impl Filter<Extract = (Upgrade,), Error = Rejection> + Clone {
    let headers = warp::header::headers_cloned().and_then(async |headers: HeaderMap| {
        if is_asked_for(&headers) { Ok(headers) } else { Err(warp::reject()) }
    });
    warp::get().and(headers).and(warp::ext::optional()).map(|headers, connection| {
        let mut request = Request::new(());
        *request.headers_mut() = headers;
        Upgrade { request, connection }
    })
}

fn is_asked_for(headers: &HeaderMap) -> bool {
    let wanted = headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
    wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case(b"websocket"))
}

impl Upgrade {
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Answers the request, and hands the socket to `serve` once the client has switched over. A
    /// message of more than `message_bytes_max` ends the connection.
    pub fn answer<S, F>(self, message_bytes_max: usize, serve: S) -> Response
    where
        S: FnOnce(WebSocket) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let (Ok(response), Some(connection)) = (create_response(&self.request), self.connection)
        else {
            let refusal = "this is no request for a websocket of version 13\n";
            return warp::reply::with_status(refusal, StatusCode::BAD_REQUEST).into_response();
        };
        tokio::spawn(async move {
            // An error is a client that left before it had switched.
            if let Ok(upgraded) = connection.await {
                let (io, config) = (TokioIo::new(upgraded), config(message_bytes_max));
                serve(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await).await;
            }
        });
        response.map(|()| String::new()).into_response()
    }
}

fn config(message_bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
}
