//! `aquifer-up`: a whole Aquifer in the foreground. `scripts/up` builds it and runs it.

use std::process::ExitCode;

use clap::Parser;
use cluster::up::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let options = Options::parse();
    // The work is done by the parts; one thread is enough to wait for them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(async { up::run(&options, asked_to_stop()?).await }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    up::say(&format!("error: {error:#}"));
    ExitCode::FAILURE
}

/// Ends at ctrl-c, at SIGTERM and when the terminal is closed; the handlers are in place when this returns.
fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        up::say("stopping");
    })
}
