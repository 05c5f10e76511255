//! The relay's side of one conversation: greeting, request, replies.

use std::{io, time::Duration};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    io::{BufReader, BufWriter},
    time::timeout,
};

use super::{Desk, Greeting, PROTOCOL, Reply, Request, execute::execute};

/// How long a client may neither say nor take anything. People page through an export, so it is long;
/// what a silent one occupies meanwhile is its place, and no transaction.
pub const IDLE_MAX: Duration = Duration::from_secs(600);
/// How long a client may take to say what it wants.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request: a filter may name many thousand ids.
const REQUEST_BYTES_MAX: u64 = 4 << 20;

/// What a client sends behind its request.
pub type Input = Box<dyn AsyncBufRead + Send + Unpin>;

/// The way back to the client.
pub struct Replies {
    output: BufWriter<Box<dyn AsyncWrite + Send + Unpin>>,
}

/// Greets, reads one request, and carries it out. An error means that the client is gone.
pub async fn converse(
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
    desk: Desk,
) -> io::Result<()> {
    let mut replies = Replies { output: BufWriter::new(Box::new(output)) };
    let version = env!("CARGO_PKG_VERSION").into();
    replies.line(&Greeting { protocol: PROTOCOL, version }).await?;
    replies.flush().await?;
    let mut input: Input = Box::new(BufReader::with_capacity(1 << 16, input));
    let outcome = match read_request(&mut input).await {
        Ok(request) => execute(request, input, &mut replies, &desk).await,
        Err(error) => Err(error),
    };
    let last = match outcome {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(format!("{error:#}")),
    };
    replies.send(&last).await
}

async fn read_request(input: &mut Input) -> anyhow::Result<Request> {
    let mut line = Vec::new();
    let mut bounded = input.take(REQUEST_BYTES_MAX);
    match timeout(REQUEST_WAIT_MAX, bounded.read_until(b'\n', &mut line)).await {
        Ok(read) => read.context("reading the request")?,
        Err(_) => bail!("no request came in {} s", REQUEST_WAIT_MAX.as_secs()),
    };
    ensure!(line.ends_with(b"\n"), "the request does not end within {REQUEST_BYTES_MAX} bytes");
    serde_json::from_slice(&line).map_err(|error| anyhow::anyhow!("not a request: {error}"))
}

impl Replies {
    /// Says it at once.
    pub async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        self.line(reply).await?;
        self.flush().await
    }

    /// Says it with what comes next.
    pub async fn event(&mut self, json: &[u8]) -> io::Result<()> {
        self.write(b"{\"event\":").await?;
        self.write(json).await?;
        self.write(b"}\n").await
    }

    async fn line(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.write(&line).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(IDLE_MAX, self.output.write_all(bytes)).await?
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        timeout(IDLE_MAX, self.output.flush()).await?
    }
}
