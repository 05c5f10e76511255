//! A websocket to a relay, any relay: nothing here goes beyond NIP-01.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use event::EventId;
use futures_util::{
    SinkExt, StreamExt,
    stream::{self, SplitSink, SplitStream},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig},
};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a relay may be silent while it owes an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Connections that are opened at a time.
const OPENING_MAX: usize = 32;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Both directions of it.
pub struct Connection {
    pub outgoing: Outgoing,
    pub incoming: Incoming,
}

pub struct Outgoing(SplitSink<Socket, Message>);

pub struct Incoming(SplitStream<Socket>);

/// One message from the relay, read as far as it is worth the time.
pub enum Answer {
    Ok {
        id: EventId,
        accepted: bool,
        message: String,
    },
    Event(EventFrame),
    Eose(Utf8Bytes),
    /// CLOSED or NOTICE: the relay would not.
    Refusal(Utf8Bytes),
}

/// `["EVENT",<sub>,{…}]`, as it came.
pub struct EventFrame(pub Utf8Bytes);

impl Connection {
    pub async fn open(url: &str) -> Result<Connection> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let connecting = connect_async_with_config(url, Some(config), true);
        let (socket, _) = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| anyhow!("no answer"))
            .and_then(|connected| Ok(connected?))
            .with_context(|| format!("connecting to {url}"))?;
        let (outgoing, incoming) = socket.split();
        Ok(Connection { outgoing: Outgoing(outgoing), incoming: Incoming(incoming) })
    }

    /// So many, a few at a time.
    pub async fn open_many(url: &str, count: usize) -> Result<Vec<Connection>> {
        let opening = stream::iter(0..count).map(|_| Connection::open(url));
        let opened: Vec<_> = opening.buffer_unordered(OPENING_MAX).collect().await;
        let many = "does `ulimit -n` allow so many files, here and for the relay?";
        opened.into_iter().collect::<Result<_>>().context(many)
    }

    /// Sends and flushes.
    pub async fn send(&mut self, frame: String) -> Result<()> {
        self.outgoing.queue(frame).await?;
        self.outgoing.flush().await
    }
}

impl Outgoing {
    /// Puts a message into the buffer, which goes out when it is full or flushed.
    pub async fn queue(&mut self, frame: String) -> Result<()> {
        self.0.feed(Message::text(frame)).await.context("the connection to the relay broke")
    }

    pub async fn flush(&mut self) -> Result<()> {
        self.0.flush().await.context("the connection to the relay broke")
    }
}

impl Incoming {
    /// The next answer that the relay owes.
    pub async fn next(&mut self) -> Result<Answer> {
        match timeout(ANSWER_TIMEOUT, self.next_whenever()).await {
            Ok(answer) => answer,
            Err(_) => bail!("the relay has not answered for {} s", ANSWER_TIMEOUT.as_secs()),
        }
    }

    /// The next message, which may be long in coming.
    pub async fn next_whenever(&mut self) -> Result<Answer> {
        loop {
            let text = match self.0.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_))) | None => bail!("the relay closed the connection"),
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    return Err(error).context("the connection to the relay broke");
                }
            };
            if let Some(answer) = Answer::read(text)? {
                return Ok(answer);
            }
        }
    }
}

impl Answer {
    fn read(text: Utf8Bytes) -> Result<Option<Answer>> {
        let verb = text.strip_prefix("[\"").and_then(|rest| rest.split('"').next());
        Ok(Some(match verb {
            Some("EVENT") => Answer::Event(EventFrame(text)),
            Some("EOSE") => Answer::Eose(text),
            Some("OK") => {
                let (_, id, accepted, message): (&str, EventId, bool, String) =
                    serde_json::from_str(&text)
                        .with_context(|| format!("the relay says: {text:.200}"))?;
                Answer::Ok { id, accepted, message }
            }
            Some("CLOSED" | "NOTICE") => Answer::Refusal(text),
            Some(_) => return Ok(None),
            None => bail!("the relay says: {text:.200}"),
        }))
    }

    /// Why this subscription is not served, if it says so. A CLOSED of one before it may still come: some
    /// relays close by themselves what is answered for good.
    pub fn refusal_of(&self, subscription: &str) -> Option<&str> {
        match self {
            Answer::Refusal(text) => Some(text.as_str())
                .filter(|text| text.starts_with("[\"NOTICE\"") || second_is(text, subscription)),
            _ => None,
        }
    }

    /// Whether it ends the stored events of this subscription.
    pub fn is_eose_of(&self, subscription: &str) -> bool {
        matches!(self, Answer::Eose(text) if second_is(text, subscription))
    }
}

impl EventFrame {
    pub fn is_of(&self, subscription: &str) -> bool {
        second_is(&self.0, subscription)
    }

    /// The event's id, without parsing the whole.
    pub fn id(&self) -> Option<EventId> {
        const KEY: &str = "\"id\":\"";
        let start = self.0.find(KEY)? + KEY.len();
        self.0.get(start..start + 64)?.parse().ok()
    }

    /// The event as JSON.
    pub fn event(&self) -> Option<&str> {
        let start = self.0.find('{')?;
        self.0.get(start..self.0.len() - 1)
    }
}

/// Whether the second string of a message, which has no escapes, is this.
fn second_is(text: &str, wanted: &str) -> bool {
    text.split('"').nth(3) == Some(wanted)
}
