//! The binary `local-ic`: arguments, port file, and the reasons to end.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use local_ic::server::Server;
use local_ic::{POCKET_IC_VERSION, rest, wasm};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A small local Internet Computer for tests and development. It speaks the REST protocol of the
/// PocketIC server and the HTTPS interface of the Internet Computer. Its keys are public: never
/// use it for anything of value.
#[derive(Parser)]
#[command(name = "local-ic", disable_version_flag = true)]
struct Args {
    /// Write the port to this file once the server listens; if it exists, end at once
    #[arg(long)]
    port_file: Option<PathBuf>,
    /// End after so many seconds without a request
    #[arg(long, default_value_t = 60)]
    ttl: u64,
    /// End so many seconds after the start, whatever happens
    #[arg(long)]
    hard_ttl: Option<u64>,
    /// Listen on this port (0: any)
    #[arg(short, long, default_value_t = 0)]
    port: u16,
    /// Listen on this address
    #[arg(short, long, default_value_t = Ipv4Addr::LOCALHOST.into())]
    ip_addr: IpAddr,
    /// What to log, as in RUST_LOG
    #[arg(short, long, default_value = "warn")]
    log_levels: String,
    /// Keep compiled modules in this directory (default: local-ic in the user's cache directory)
    #[arg(long, env = "LOCAL_IC_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Print the version of the PocketIC protocol spoken, in the words the pocket-ic crate expects
    #[arg(short = 'V', long)]
    version: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.version {
        // Clients compare this line: nothing else may be printed. `/_/localic` says who we are.
        println!("pocket-ic-server {POCKET_IC_VERSION}");
        return Ok(());
    }
    let filter = EnvFilter::try_new(&args.log_levels).context("invalid --log-levels")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // They would be printed there too, and fail with a panic when nobody reads it any more.
        .log_internal_errors(false)
        .init();
    let Some(port_file) = PortFile::claim(args.port_file.as_deref())? else {
        return Ok(()); // Another process of the same test run serves it.
    };
    raise_file_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(wasm::THREAD_STACK_BYTES)
        .build()?
        .block_on(serve(args, port_file))
}

async fn serve(args: Args, mut port_file: PortFile) -> Result<()> {
    let server = Server::new(args.cache_dir.or_else(user_cache_dir))?;
    let address = SocketAddr::new(args.ip_addr, args.port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let port = listener.local_addr()?.port();
    port_file.write(port)?;
    tracing::info!(port, "listening");

    let serving = axum::serve(listener, rest::router(Arc::clone(&server)));
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        ended = serving => ended.context("no longer accepting")?,
        _ = interrupted.recv() => tracing::info!("interrupted"),
        _ = terminated.recv() => tracing::info!("terminated"),
        () = server.idle(Duration::from_secs(args.ttl)) => tracing::info!("idle"),
        () = hard_ttl(args.hard_ttl) => tracing::info!("time is up"),
    }
    tokio::task::spawn_blocking(move || server.delete_all()).await?;
    drop(port_file);
    // Requests that are still being answered have nobody to be answered to.
    std::process::exit(0)
}

async fn hard_ttl(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
}

/// The file that tells a test run's processes which port to use; gone when the server is.
struct PortFile(Option<PathBuf>);

impl PortFile {
    /// None if another process has claimed the file already.
    fn claim(path: Option<&Path>) -> Result<Option<PortFile>> {
        let Some(path) = path else {
            return Ok(Some(PortFile(None)));
        };
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => Ok(Some(PortFile(Some(path.to_owned())))),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot create {}", path.display())),
        }
    }

    fn write(&mut self, port: u16) -> Result<()> {
        match &self.0 {
            Some(path) => {
                let mut file = OpenOptions::new().write(true).open(path)?;
                // In one piece: clients read until the end of the line.
                Ok(file.write_all(format!("{port}\n").as_bytes())?)
            }
            None => {
                println!("{port}");
                Ok(())
            }
        }
    }
}

impl Drop for PortFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            std::fs::remove_file(path).ok();
        }
    }
}

/// Each canister has two memory files; a thousand descriptors are soon used up.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls on a struct of ours.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn user_cache_dir() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = dir("XDG_CACHE_HOME").or_else(|| Some(dir("HOME")?.join(".cache")))?;
    Some(base.join("local-ic"))
}
