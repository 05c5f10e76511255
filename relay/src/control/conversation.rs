//! The relay's side of one conversation: greeting, request, replies.

use std::{io, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader},
    time::timeout,
};

use super::{
    desk::Desk,
    execute::execute,
    protocol::{Greeting, PROTOCOL, Reply, Request},
    replies::{Input, Replies},
};

/// How long a client may take to say what it wants.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request: a filter may name many thousand ids.
const REQUEST_BYTES_MAX: u64 = 4 << 20;

/// Greets, reads one request, and carries it out. An error means that the client is gone.
pub async fn converse(
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
    desk: Desk,
) -> io::Result<()> {
    let mut replies = Replies::to(output);
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
