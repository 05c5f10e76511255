//! A child process, the lines that it writes, and its end.
//!
//! Each child is started by a thread of its own, which then waits for it. That is plain, works in
//! any async runtime or none, and lets Linux end the child when its parent dies (the kernel ties
//! that to the parent's *thread*): a killed test leaves no server or relay behind.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{sync::watch, time::timeout};

/// Lines kept of one process: enough to explain its end, and bounded for one that runs for weeks.
const LINES_KEPT_MAX: usize = 20_000;
/// Lines shown when a process ends unasked.
const LINES_SHOWN: usize = 15;
/// How long a process may take to end cleanly before it is killed.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Where a process's lines go, beside being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// To our standard error, with the process's name before each.
    Prefixed,
    /// Nowhere; but the last ones are shown when the test that owns the process panics.
    OnPanic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
}

/// A running child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    lines: Arc<Lines>,
    ended: watch::Receiver<Option<ExitStatus>>,
    echo: Echo,
}

impl Process {
    /// Starts `command`, in a process group of its own: a ctrl-c is ours to pass on, in our order.
    pub fn start(name: &str, mut command: Command, echo: Echo) -> Result<Process> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        end_with_parent(&mut command);
        let program = command.get_program().to_string_lossy().into_owned();
        let lines = Arc::new(Lines::new(name, echo));
        let (tell_pid, pid) = mpsc::sync_channel(1);
        let (tell_end, ended) = watch::channel(None);
        let thread_lines = lines.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || attend(command, &thread_lines, &tell_pid, &tell_end))
            .context("starting a thread")?;
        let pid = pid.recv().context("the thread that starts a process sends its id")?;
        let pid = pid.with_context(|| format!("starting {program}"))?;
        Ok(Process { name: name.to_owned(), pid, lines, ended, echo })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// As the system knows it.
    pub fn id(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Waits until it writes a line (or has written one) that `is_wanted`.
    pub async fn line(
        &self,
        source: Source,
        is_wanted: impl Fn(&str) -> bool,
        within: Duration,
    ) -> Result<String> {
        let found = async {
            let mut count = self.lines.count.subscribe();
            let mut ended = self.ended.clone();
            loop {
                // Ended is read first: all lines of an ended process are in.
                let status = *ended.borrow_and_update();
                count.borrow_and_update();
                if let Some(line) = self.lines.find(source, &is_wanted) {
                    return Ok(line);
                }
                if let Some(status) = status {
                    return Err(self.explain(&format!("ended with {status}")));
                }
                tokio::select! {
                    _ = count.changed() => {}
                    _ = ended.changed() => {}
                }
            }
        };
        let late = || self.explain(&format!("did not say what was waited for in {within:?}"));
        timeout(within, found).await.unwrap_or_else(|_| Err(late()))
    }

    /// All lines kept that it wrote to `source`.
    pub fn lines(&self, source: Source) -> Vec<String> {
        let kept = self.lines.kept();
        kept.iter().filter(|(from, _)| *from == source).map(|(_, line)| line.clone()).collect()
    }

    /// Waits for its end.
    pub async fn ended(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(status) => status.expect("it was waited for"),
            Err(_) => unreachable!("the thread tells the end before it ends itself"),
        }
    }

    /// Asks it to end (SIGTERM) and waits. One that does not end in time is killed: an error.
    pub async fn stop(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        if let Ok(status) = timeout(STOP_MAX, self.ended()).await {
            return Ok(status);
        }
        self.kill().await;
        bail!("{} did not stop in {STOP_MAX:?} and was killed", self.name)
    }

    /// Ends it at once (SIGKILL), as a crash would.
    pub async fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    fn signal(&self, signal: Signal) {
        if self.ended.borrow().is_none() {
            // It may have ended just now: then there is nobody to tell, which is as well.
            let _ = kill(self.pid, signal);
        }
    }

    /// An error that says what happened and what the process wrote last.
    pub fn explain(&self, what: &str) -> anyhow::Error {
        anyhow!("{} {what}{}", self.name, self.lines.tail())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.echo == Echo::OnPanic && thread::panicking() {
            eprintln!("{}{}", self.name, self.lines.tail());
        }
    }
}

/// Writes a line with its author before it to standard error. Not with `eprintln!`, which panics when
/// nobody reads there any more: a closed terminal must not keep us from stopping well.
pub(crate) fn say(who: &str, line: &str) {
    let _ = writeln!(io::stderr(), "{who} | {line}");
}

/// The thread's work: starts the child, passes its lines on, and tells its end.
fn attend(
    mut command: Command,
    lines: &Arc<Lines>,
    tell_pid: &mpsc::SyncSender<io::Result<Pid>>,
    tell_end: &watch::Sender<Option<ExitStatus>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = tell_pid.send(Err(error));
            return;
        }
    };
    let stdout = child.stdout.take().map(|pipe| lines.follow(Source::Stdout, pipe));
    let stderr = child.stderr.take().map(|pipe| lines.follow(Source::Stderr, pipe));
    let pid = Pid::from_raw(child.id().cast_signed());
    let _ = tell_pid.send(Ok(pid));
    let status = child.wait();
    for reader in [stdout, stderr].into_iter().flatten() {
        let _ = reader.join();
    }
    // Waiting fails only for a child that somebody else has waited for.
    tell_end.send_replace(Some(status.unwrap_or_else(|_| ExitStatus::from_raw(0))));
}

#[cfg(target_os = "linux")]
fn end_with_parent(command: &mut Command) {
    // SAFETY: prctl is a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut Command) {}

/// What a process wrote.
#[derive(Debug)]
struct Lines {
    name: String,
    echo: Echo,
    kept: Mutex<VecDeque<(Source, String)>>,
    /// Lines so far; wakes those who wait for one.
    count: watch::Sender<u64>,
}

impl Lines {
    fn new(name: &str, echo: Echo) -> Lines {
        Lines { name: name.to_owned(), echo, kept: Mutex::default(), count: watch::channel(0).0 }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Source, String)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(
        self: &Arc<Lines>,
        source: Source,
        pipe: impl Read + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                lines.push(source, String::from_utf8_lossy(&line).into_owned());
            }
        })
    }

    fn push(&self, source: Source, line: String) {
        if self.echo == Echo::Prefixed {
            say(&self.name, &line);
        }
        let mut kept = self.kept();
        if kept.len() == LINES_KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((source, line));
        drop(kept);
        self.count.send_modify(|count| *count += 1);
    }

    fn find(&self, source: Source, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
        let kept = self.kept();
        kept.iter().find(|(from, line)| *from == source && is_wanted(line)).map(|(_, l)| l.clone())
    }

    /// The last lines, for an error's text; nothing if they were shown as they came.
    fn tail(&self) -> String {
        let kept = self.kept();
        if self.echo == Echo::Prefixed || kept.is_empty() {
            return String::new();
        }
        let skipped = kept.len().saturating_sub(LINES_SHOWN);
        let mut text = String::from("; it wrote last:");
        for (_, line) in kept.iter().skip(skipped) {
            text.push_str("\n    ");
            text.push_str(line);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("shell", command, Echo::OnPanic).unwrap()
    }

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_line_is_found_on_its_own_stream_only() {
        let process = shell("echo ready >&2; echo ready 7; exec sleep 60");
        let line = process.line(Source::Stdout, |line| line.starts_with("ready"), SOON).await;
        assert_eq!(line.unwrap(), "ready 7");
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_the_last_lines() {
        let process = shell("echo the port is in use >&2; exit 3");
        let error = process.line(Source::Stdout, |_| true, SOON).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("the port is in use"), "{error}");
    }

    #[tokio::test]
    async fn stop_is_sigterm_and_its_answer_is_the_status() {
        let process = shell("trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done");
        process.line(Source::Stdout, |line| line == "up", SOON).await.unwrap();
        assert_eq!(process.stop().await.unwrap().code(), Some(5));
    }

    #[tokio::test]
    async fn kill_leaves_no_time_to_clean_up() {
        let process = shell("trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done");
        process.line(Source::Stdout, |line| line == "up", SOON).await.unwrap();
        process.kill().await;
        assert_eq!(process.ended().await.signal(), Some(9));
    }

    #[test]
    fn a_missing_program_is_named() {
        let command = Command::new("/no/such/program");
        let error = Process::start("nobody", command, Echo::OnPanic).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
    }
}
