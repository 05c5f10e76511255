//! The one PostgreSQL server of this test binary, and databases on it.

use std::{
    net::TcpListener,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use cluster::{Echo, Process, Source};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::world::{PATIENCE, tell};

/// What the script ends with where PostgreSQL is not installed.
const NOT_INSTALLED: i32 = 69;

/// A server that ends with us, however we end.
pub struct Server {
    process: Process,
    url: String,
}

/// The URL of a new and empty database; None where there is no PostgreSQL.
pub async fn create() -> Option<String> {
    static SERVER: OnceCell<Option<Server>> = OnceCell::const_new();
    static DATABASES: AtomicUsize = AtomicUsize::new(0);
    let server = SERVER.get_or_init(|| start_on(free_port())).await.as_ref()?;
    let name = format!("store_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    server.run(&format!("CREATE DATABASE {name}")).await;
    Some(format!("{}/{name}", server.url))
}

/// Runs a statement on the server, as somebody who may do everything.
pub async fn run(url: &str, statement: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection.execute(AssertSqlSafe(statement)).await.unwrap();
    connection.close().await.unwrap();
}

impl Server {
    /// Stops it, and takes its data away.
    pub async fn stop(self) {
        self.process.stop().await.unwrap();
    }

    async fn run(&self, statement: &str) {
        run(&format!("{}/postgres", self.url), statement).await;
    }
}

/// Free until somebody else takes it, which a few tests in a row do not.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server of one's own.
pub async fn start_on(port: u16) -> Option<Server> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test-postgres");
    let mut command = Command::new(script);
    command.arg(port.to_string());
    let process = Process::start("postgres", command, Echo::OnPanic).unwrap();
    let ready = process.line(Source::Stdout, |line| line.starts_with("ready "), PATIENCE).await;
    match ready {
        Ok(line) => {
            let url = line["ready ".len()..].to_owned();
            Some(Server { process, url })
        }
        Err(error) => {
            assert_eq!(process.ended().await.code(), Some(NOT_INSTALLED), "{error}");
            tell("PostgreSQL is not installed: what is to be shown on it is skipped");
            None
        }
    }
}
