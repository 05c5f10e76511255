//! The command line as a nostr client: `aquifer import` and `aquifer export`, against any relay.

mod export;
mod import;
mod jsonl;
mod tally;

use std::time::Duration;

use anyhow::{Context, bail};
pub use export::{Export, export};
use futures_util::{SinkExt, StreamExt};
pub use import::{Import, import};
pub(crate) use jsonl::{Line, Lines, Output, Progress, open};
pub use tally::Tally;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a relay may be silent while it owes an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of one frame from a relay.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// A connection to a relay.
struct Connection(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Connection {
    async fn open(url: &str) -> anyhow::Result<Connection> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let connecting = connect_async_with_config(url, Some(config), true);
        let (socket, _) = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| anyhow::anyhow!("no answer"))
            .and_then(|connected| Ok(connected?))
            .with_context(|| format!("connecting to {url}"))?;
        Ok(Connection(socket))
    }

    async fn send(&mut self, frame: String) -> anyhow::Result<()> {
        self.0.send(Message::text(frame)).await.context("the connection to the relay broke")
    }

    /// The next text frame.
    async fn receive(&mut self) -> anyhow::Result<String> {
        loop {
            let Ok(message) = timeout(ANSWER_TIMEOUT, self.0.next()).await else {
                bail!("the relay has not answered for {} s", ANSWER_TIMEOUT.as_secs());
            };
            match message {
                Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Message::Close(_))) | None => bail!("the relay closed the connection"),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Err(error).context("the connection to the relay broke");
                }
            }
        }
    }

    async fn close(mut self) {
        // It has said all it had to say; a relay that is gone already is no fault.
        let _ = self.0.close(None).await;
    }
}
