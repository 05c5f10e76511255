//! `aquifer-bench idle`: what a connection costs that nobody uses.

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::{connection::Connection, process::Process};

const SUBSCRIPTION: &str = "idle";

/// Open connections, leave them alone, and see what memory the relay takes for each
#[derive(Args)]
pub struct Idle {
    /// The relay
    #[arg(long, value_name = "URL")]
    pub relay: String,

    /// The relay's process on this machine
    #[arg(long)]
    pub pid: u32,

    /// Connections
    #[arg(long, default_value_t = 1_000)]
    pub connections: usize,

    /// Give each a subscription that nothing matches
    #[arg(long)]
    pub subscribe: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Idled {
    pub connections: usize,
    pub memory_bytes_before: u64,
    pub memory_bytes_with: u64,
    pub memory_bytes_per_connection: u64,
    pub memory_bytes_after: u64,
}

impl Idle {
    pub async fn run(&self) -> Result<Idled> {
        let process = Process(self.pid);
        let memory_bytes_before = at_rest(process).await?;
        let mut connections = Connection::open_many(&self.relay, self.connections).await?;
        if self.subscribe {
            subscribe(&mut connections).await?;
        }
        let memory_bytes_with = at_rest(process).await?;
        drop(connections);
        let taken = memory_bytes_with.saturating_sub(memory_bytes_before);
        Ok(Idled {
            connections: self.connections,
            memory_bytes_before,
            memory_bytes_with,
            memory_bytes_per_connection: taken / self.connections.max(1) as u64,
            memory_bytes_after: at_rest(process).await?,
        })
    }
}

async fn at_rest(process: Process) -> Result<u64> {
    let looking = tokio::task::spawn_blocking(move || process.memory_bytes_at_rest());
    looking.await.context("a task panicked")?
}

async fn subscribe(connections: &mut [Connection]) -> Result<()> {
    for (number, connection) in connections.iter_mut().enumerate() {
        // A different author for each, as clients would have.
        let filter = format!("{{\"authors\":[\"{number:064x}\"],\"limit\":1}}");
        connection.send(format!("[\"REQ\",\"{SUBSCRIPTION}\",{filter}]")).await?;
    }
    for connection in connections {
        while !connection.incoming.next().await?.is_eose_of(SUBSCRIPTION) {}
    }
    Ok(())
}
