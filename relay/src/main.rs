//! The command line, `aquifer`: run a relay, make its key, move events in and out, back up what relays share.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use aquifer::{
    Listeners, Signals,
    admin::{self, Admin},
    client::{Export, Import, export, import},
    cluster::{self, Cluster},
    config::{Config, LogFormat, Settings, Source},
    db::{self, Db, Messages, Outbox},
    identity::Identity,
    l2::{self, L2},
};
use clap::{Args, Parser, Subcommand};
use layer2::Layer2;
use serde_json::json;
use tokio::{net::TcpListener, signal::unix};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// Nostr relays that share one event store, a canister on the Internet Computer
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<Run>),
    Key(Key),
    Import(Import),
    Export(Export),
    L2(L2),
    Cluster(Cluster),
    Db(Db),
    Outbox(Outbox),
    Messages(Messages),
    Admin(Admin),
}

/// Run a relay in the foreground, until ctrl-c or SIGTERM
///
/// Every setting can stand in the configuration file (TOML, `_` for `-`), in a variable (`AQUIFER_` and
/// its name in capitals), or here; the later wins.
#[derive(Args)]
struct Run {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "AQUIFER_CONFIG_FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

/// Show the relay's identities; make its key if there is none
///
/// One secret gives both: the nostr key that clients and peers know it by, and the Internet Computer
/// principal that the owner of a canister grants.
#[derive(Args)]
struct Key {
    /// The relay's data folder
    #[arg(long, value_name = "FOLDER", default_value = "aquifer-data", env = "AQUIFER_DATA")]
    data: PathBuf,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    // Chosen here, since a build may bring more than one and would then choose none. A second
    // choice changes nothing, so the answer does not matter.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match CommandLine::parse().command {
        Command::Run(arguments) => run(*arguments),
        Command::Key(arguments) => show_key(&arguments),
        Command::Import(arguments) => in_runtime(import(arguments)),
        Command::Export(arguments) => in_runtime(export(arguments)),
        Command::L2(arguments) => in_runtime(l2::run(arguments)),
        Command::Cluster(arguments) => in_runtime(cluster::run(arguments)),
        Command::Db(arguments) => in_runtime(db::run(arguments)),
        Command::Outbox(arguments) => in_runtime(db::run_outbox(arguments)),
        Command::Messages(arguments) => in_runtime(db::run_messages(arguments)),
        Command::Admin(arguments) => in_runtime(admin::run(arguments)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aquifer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let result = runtime.block_on(work);
    // A read of standard input that nobody waits for any more would hold up an ordinary end.
    runtime.shutdown_background();
    result
}

fn show_key(arguments: &Key) -> anyhow::Result<()> {
    let identity = Identity::open(&arguments.data)?;
    let (public_key, npub) = (identity.public_key(), identity.npub());
    let (principal, file) = (identity.principal(), identity.file().display());
    if arguments.json {
        let line = json!({
            "public_key": public_key.to_string(),
            "npub": npub,
            "principal": principal.to_text(),
            "file": file.to_string(),
        });
        println!("{line}");
    } else {
        println!("public key  {public_key}");
        println!("npub        {npub}");
        println!("principal   {principal}");
        println!("secret in   {file}");
    }
    Ok(())
}

fn run(arguments: Run) -> anyhow::Result<()> {
    let config = Source { flags: arguments.settings, file: arguments.config }.config()?;
    start_logging(&config)?;
    in_runtime(async {
        let identity = Identity::open(&config.data)?;
        let listeners = Listeners::bind(config.listen, config.metrics_listen)?;
        let signals = listen_to_signals()?;
        let layer2 = layer2_of(&config, &identity)?;
        announce(&config, &identity, &listeners)?;
        aquifer::run(config, identity, layer2, listeners, signals).await
    })
}

fn layer2_of(config: &Config, identity: &Identity) -> anyhow::Result<Option<Arc<dyn Layer2>>> {
    let Some(layer2) = &config.layer2 else { return Ok(None) };
    layer2::open(layer2, identity.agent_identity()).map(Some)
}

fn start_logging(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .with_context(|| format!("`log` is {:?}, which is no log filter", config.log))?;
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // They would be printed there too, and fail with a panic when nobody reads it any more.
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => logging.init(),
        LogFormat::Json => logging.json().init(),
    }
    Ok(())
}

/// One line on standard output for whoever started the relay, a person or a script.
fn announce(config: &Config, identity: &Identity, listeners: &Listeners) -> anyhow::Result<()> {
    let address = listeners.clients.local_addr()?;
    let metrics = listeners.metrics.as_ref().map(TcpListener::local_addr).transpose()?;
    let line = json!({
        "address": address.to_string(),
        "metrics": metrics.map(|metrics| metrics.to_string()),
        "public_key": identity.public_key().to_string(),
        "principal": identity.principal().to_text(),
    });
    println!("listening {line}");
    let layer2 = config.layer2.as_ref().map(ToString::to_string);
    info!(%address, data = %config.data.display(), layer2, "started");
    Ok(())
}

fn listen_to_signals() -> anyhow::Result<Signals> {
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    let mut hang_up = unix::signal(unix::SignalKind::hangup())?;
    let signals = Signals::default();
    let heard = signals.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => break,
                _ = terminate.recv() => break,
                _ = hang_up.recv() => heard.reload.notify_one(),
            }
        }
        heard.stop.cancel();
        info!("stopping");
    });
    Ok(signals)
}
