//! The binary `local-ic`: arguments, port file, and the reasons to end.
//!
//! Without a command it is what the `pocket-ic` crate starts: a server on which tests make their
//! instances. `start` is for people: one instance on a known port, that stays until it is told to
//! go. Both are one [`Server`].

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use local_ic::server::Server;
use local_ic::{POCKET_IC_VERSION, rest, wasm};
use pocket_ic::common::rest::{
    AutoProgressConfig, ExtendedSubnetConfigSet, InitialTime, InstanceConfig,
    InstanceHttpGatewayConfig, SubnetSpec,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A small local Internet Computer for tests and development. It speaks the REST protocol of the
/// PocketIC server and the HTTPS interface of the Internet Computer. Its keys are public: never
/// use it for anything of value.
#[derive(Parser)]
#[command(
    name = "local-ic",
    disable_version_flag = true,
    args_conflicts_with_subcommands = true,
    after_help = "Without a command it serves tests: the pocket-ic crate starts it so, with \
                  POCKET_IC_BIN naming this program. To have an Internet Computer to play with, \
                  run `local-ic start`."
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Write the port to this file once the server listens; if it exists, end at once
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// End after so many seconds without a request
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    ttl: u64,
    /// End so many seconds after the start, whatever happens
    #[arg(long, value_name = "SECONDS")]
    hard_ttl: Option<u64>,
    /// Listen on this port (0: any)
    #[arg(short, long, default_value_t = 0)]
    port: u16,
    /// Listen on this address
    #[arg(short, long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST.into())]
    ip_addr: IpAddr,
    /// What to log, as in RUST_LOG
    #[arg(short, long, value_name = "LEVELS", default_value = "warn", global = true)]
    log_levels: String,
    /// Keep compiled modules in this directory (default: local-ic in cargo's target
    /// folder if it lies there, else in the user's cache directory)
    #[arg(long, value_name = "DIR", env = "LOCAL_IC_CACHE_DIR", global = true)]
    cache_dir: Option<PathBuf>,
    /// Print the version of the PocketIC protocol spoken, in the words the pocket-ic crate expects
    #[arg(short = 'V', long)]
    version: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run one Internet Computer until ctrl-c: an NNS, an Internet Identity and an application
    /// subnet that follow the clock, with a gateway for agents, icp, dfx and browsers
    Start(Start),
}

#[derive(clap::Args)]
struct Start {
    /// Port of the gateway (0: any)
    #[arg(short, long, default_value_t = 4943)]
    port: u16,
    /// Address of the gateway
    #[arg(short, long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST.into())]
    ip_addr: IpAddr,
    /// Keep the state in this directory, and go on with what is there; without it, all is
    /// forgotten at the end
    #[arg(short, long, value_name = "DIR")]
    state: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.version {
        // Clients compare this line: nothing else may be printed. `/_/localic` says who we are.
        println!("pocket-ic-server {POCKET_IC_VERSION}");
        return Ok(ExitCode::SUCCESS);
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
        return Ok(ExitCode::SUCCESS); // Another process of the same test run serves it.
    };
    raise_file_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(wasm::THREAD_STACK_BYTES)
        .build()?
        .block_on(run(args, port_file))
}

async fn run(args: Args, mut port_file: PortFile) -> Result<ExitCode> {
    let server = Server::new(args.cache_dir.clone().or_else(cache_dir))?;
    let stopped = stop_signals()?;
    tokio::spawn(Arc::clone(&server).save_for_ever());
    match &args.command {
        None => {
            tokio::select! {
                ended = serve(&args, &mut port_file, &server) => ended?,
                () = stopped => {}
            }
        }
        Some(Command::Start(start)) => {
            announce(start, &server).await?;
            stopped.await;
        }
    }
    let are_saved = tokio::task::spawn_blocking(move || server.delete_all()).await?;
    drop(port_file);
    // Requests that are still being answered have nobody to be answered to.
    std::process::exit(if are_saved { 0 } else { 1 })
}

/// Serves tests until there are none, or the time is up.
async fn serve(args: &Args, port_file: &mut PortFile, server: &Arc<Server>) -> Result<()> {
    let address = SocketAddr::new(args.ip_addr, args.port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let port = listener.local_addr()?.port();
    port_file.write(port)?;
    tracing::info!(port, "listening");
    let serving = axum::serve(listener, rest::router(Arc::clone(server)));
    tokio::select! {
        ended = serving => ended.context("no longer accepting")?,
        () = server.idle(Duration::from_secs(args.ttl)) => tracing::info!("idle"),
        () = hard_ttl(args.hard_ttl) => tracing::info!("time is up"),
    }
    Ok(())
}

/// Starts the instance of `local-ic start` and tells where it is.
async fn announce(start: &Start, server: &Arc<Server>) -> Result<()> {
    let (id, _, gateway) = server.open(start.instance()).await?;
    let port = gateway.context("the configuration has a gateway")?.port;
    let handle = server.handle(id).context("it was just made")?;
    let root_key = handle.instance.read().subnets.root_key().context("it has an NNS")?;
    let state = match &start.state {
        Some(dir) => format!("{}, saved every few seconds and at the end", dir.display()),
        None => "in memory only; --state DIR keeps it".to_owned(),
    };
    let address = SocketAddr::new(start.ip_addr, port);
    let text = format!(
        "local-ic: a local Internet Computer, never a place for real value\n\
         gateway   http://{address}\n\
         dashboard http://{address}/\n\
         canisters http://<canister id>.localhost:{port}/\n\
         root key  {}\n\
         state     {state}\n\
         Ctrl-C ends it.\n",
        hex::encode(root_key),
    );
    // Not `println!`: that nobody reads is no reason to end.
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).ok();
    Ok(())
}

impl Start {
    fn instance(&self) -> InstanceConfig {
        let subnet = SubnetSpec::default;
        InstanceConfig {
            subnet_config_set: ExtendedSubnetConfigSet {
                nns: Some(subnet()),
                ii: Some(subnet()), // Where icp looks for the cycles ledger.
                application: vec![subnet()],
                ..Default::default()
            },
            http_gateway_config: Some(InstanceHttpGatewayConfig {
                ip_addr: Some(self.ip_addr.to_string()),
                port: Some(self.port),
                domains: None,
                https_config: None,
                domain_custom_provider_local_file: None,
            }),
            state_dir: self.state.clone(),
            initial_time: Some(InitialTime::AutoProgress(AutoProgressConfig {
                artificial_delay_ms: None,
            })),
            ..Default::default()
        }
    }
}

/// Ends at ctrl-c, at SIGTERM and when the terminal is closed; the handlers are in place when this
/// returns.
fn stop_signals() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("interrupted"),
            _ = terminate.recv() => tracing::info!("terminated"),
            _ = hangup.recv() => tracing::info!("hung up"),
        }
    })
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

/// Compiled modules lie beside the program if cargo built it, else in the user's cache directory.
fn cache_dir() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let target = program.ancestors().nth(2).filter(|dir| dir.join("CACHEDIR.TAG").exists());
    target.map(|target| target.join("local-ic")).or_else(user_cache_dir)
}

fn user_cache_dir() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = dir("XDG_CACHE_HOME").or_else(|| Some(dir("HOME")?.join(".cache")))?;
    Some(base.join("local-ic"))
}
