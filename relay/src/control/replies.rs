//! The way from a request back to its client, and what comes behind the request.

use std::{io, time::Duration};

use serde::Serialize;
use tokio::{
    io::{AsyncBufRead, AsyncWrite, AsyncWriteExt, BufWriter},
    time::timeout,
};

use super::protocol::Reply;

/// How long a client may neither say nor take anything. People page through an export, so it is long;
/// what a silent one occupies meanwhile is its place, and no transaction.
pub const IDLE_MAX: Duration = Duration::from_secs(600);
/// What a client sends behind its request.
pub type Input = Box<dyn AsyncBufRead + Send + Unpin>;

/// The way back to the client.
pub struct Replies {
    output: BufWriter<Box<dyn AsyncWrite + Send + Unpin>>,
}

impl Replies {
    pub fn to(output: impl AsyncWrite + Send + Unpin + 'static) -> Replies {
        Replies { output: BufWriter::new(Box::new(output)) }
    }

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

    /// Any line, with what comes next.
    pub async fn line(&mut self, what: &impl Serialize) -> io::Result<()> {
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
