//! A command of the operator's that decides what is let through: strfry's write policy plugins, and the
//! same for what clients ask.
//!
//! The command reads lines of JSON and writes one for each, with the same id. Several are under way at a
//! time, since a slow command must not hold up everybody's events one after the other; plugins that
//! answer in order work all the same. Who gets no answer in time is refused: a policy that is down lets
//! nothing through.

use std::{
    collections::{HashMap, VecDeque},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use arc_swap::ArcSwapOption;
use event::{Event, Filter, PublicKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::{backoff::backoff, clock, config::terms::InForce, visitor::Visitor};

/// Questions that wait to be written to the command. Beyond it, whoever asks waits to ask.
const QUEUE_MAX: usize = 256;
/// Questions without an answer. With more the command is taken for stuck, and started anew.
const UNANSWERED_MAX: usize = 4_096;

/// What the command said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    Accept,
    /// With what the client is told.
    Reject(String),
    /// The client is told that all is well.
    ShadowReject,
    /// It said nothing in time.
    Silence,
}

/// Who asks something of the relay, as the command is told.
pub struct Asker<'a> {
    pub visitor: &'a Visitor,
    pub keys: &'a [PublicKey],
}

/// The line about an event, as strfry writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventLine {
    r#type: &'static str,
    event: Box<RawValue>,
    #[serde(flatten)]
    from: From,
}

/// The line about a question.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestLine<'a> {
    r#type: &'static str,
    id: &'a str,
    filters: &'a [Filter],
    #[serde(flatten)]
    from: From,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct From {
    /// Unix time.
    received_at: u64,
    source_type: &'static str,
    source_info: String,
    /// The first of the keys, as strfry has it,
    authed: Option<PublicKey>,
    /// and all of them.
    authed_keys: Vec<PublicKey>,
}

impl From {
    fn new(asker: &Asker<'_>) -> From {
        From {
            received_at: clock::now().0,
            source_type: if asker.visitor.ip.is_ipv4() { "IP4" } else { "IP6" },
            source_info: asker.visitor.ip.to_string(),
            authed: asker.keys.first().copied(),
            authed_keys: asker.keys.to_vec(),
        }
    }
}

#[derive(Deserialize)]
struct Said {
    id: String,
    action: String,
    #[serde(default)]
    msg: String,
}

impl Said {
    fn ruling(&self) -> Option<Ruling> {
        match self.action.as_str() {
            "accept" => Some(Ruling::Accept),
            "reject" if self.msg.is_empty() => {
                Some(Ruling::Reject("blocked: by this relay's policy".into()))
            }
            "reject" => Some(Ruling::Reject(self.msg.clone())),
            "shadowReject" => Some(Ruling::ShadowReject),
            _ => None,
        }
    }
}

/// Which of the two commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Write,
    Read,
}

/// The command that is in force, if there is one: started when it is first needed, and anew when the
/// configuration names another.
pub struct Policy {
    side: Side,
    in_force: InForce,
    running: ArcSwapOption<Running>,
    asked: AtomicU64,
    stop: CancellationToken,
}

struct Running {
    command: String,
    questions: mpsc::Sender<Question>,
    _end: DropGuard,
}

struct Question {
    id: String,
    line: Vec<u8>,
    reply: oneshot::Sender<Ruling>,
}

impl Policy {
    pub fn new(side: Side, in_force: InForce, stop: CancellationToken) -> Policy {
        Policy { side, in_force, running: ArcSwapOption::empty(), asked: AtomicU64::new(0), stop }
    }

    /// Whether this event may be stored.
    pub async fn rule_on_event(&self, event: &Event, asker: &Asker<'_>) -> Ruling {
        let Some((running, patience)) = self.running() else { return Ruling::Accept };
        let id = event.id.to_string();
        let line = RawValue::from_string(event.to_json()).and_then(|event| {
            serde_json::to_vec(&EventLine { r#type: "new", event, from: From::new(asker) })
        });
        ask(&running, id, line, patience).await
    }

    /// Whether this may be asked. `verb`: `req`, `count` or `neg`.
    pub async fn rule_on_request(
        &self,
        verb: &'static str,
        filters: &[Filter],
        asker: &Asker<'_>,
    ) -> Ruling {
        let Some((running, patience)) = self.running() else { return Ruling::Accept };
        let id = self.asked.fetch_add(1, Ordering::Relaxed).to_string();
        let line = RequestLine { r#type: verb, id: &id, filters, from: From::new(asker) };
        let line = serde_json::to_vec(&line);
        ask(&running, id, line, patience).await
    }

    fn running(&self) -> Option<(Arc<Running>, Duration)> {
        let terms = self.in_force.load();
        let command = match self.side {
            Side::Write => &terms.policy.write,
            Side::Read => &terms.policy.read,
        };
        let Some(command) = command else {
            self.running.store(None);
            return None;
        };
        let running = self.running.load_full();
        let running = match running.filter(|running| running.command == *command) {
            Some(running) => running,
            None => self.start(command),
        };
        Some((running, terms.policy.patience))
    }

    /// Two who come at once may both start it; the one that is kept answers both, and the other ends.
    fn start(&self, command: &str) -> Arc<Running> {
        let (questions, queue) = mpsc::channel(QUEUE_MAX);
        let end = self.stop.child_token();
        tokio::spawn(keep_running(command.to_owned(), queue, end.clone()));
        let running = Running { command: command.to_owned(), questions, _end: end.drop_guard() };
        let running = Arc::new(running);
        self.running.store(Some(running.clone()));
        running
    }
}

async fn ask(
    running: &Running,
    id: String,
    line: serde_json::Result<Vec<u8>>,
    patience: Duration,
) -> Ruling {
    let Ok(mut line) = line else { return Ruling::Silence };
    line.push(b'\n');
    let (reply, ruling) = oneshot::channel();
    let asking = async {
        running.questions.send(Question { id, line, reply }).await.ok()?;
        ruling.await.ok()
    };
    timeout(patience, asking).await.ok().flatten().unwrap_or(Ruling::Silence)
}

/// Runs the command, again whenever it ends, until `end`.
async fn keep_running(
    command: String,
    mut queue: mpsc::Receiver<Question>,
    end: CancellationToken,
) {
    let mut failures = 0;
    loop {
        let outcome = tokio::select! {
            () = end.cancelled() => return,
            outcome = run(&command, &mut queue, &mut failures) => outcome,
        };
        failures += 1;
        match outcome {
            Ok(()) => return,
            Err(cause) => {
                warn!(%cause, "the policy command ended; nothing is let through until it runs again")
            }
        }
        tokio::select! {
            () = end.cancelled() => return,
            () = sleep(backoff(failures)) => {}
        }
    }
}

/// Who waits for which answer. Of the same id the first asked is the first answered.
#[derive(Default)]
struct Unanswered(Mutex<HashMap<String, VecDeque<oneshot::Sender<Ruling>>>>);

/// Runs the command once. Without an error, nobody asks any more.
async fn run(
    command: &str,
    queue: &mut mpsc::Receiver<Question>,
    failures: &mut u32,
) -> anyhow::Result<()> {
    let (mut child, input, answers) = spawn(command)?;
    info!(command, "the policy command runs");
    let unanswered = Unanswered::default();
    // Side by side: a command that waits until its answers are read does not read questions meanwhile.
    tokio::select! {
        written = write_questions(queue, input, &unanswered) => written,
        read = read_answers(answers, &unanswered, failures) => {
            read?;
            anyhow::bail!("it ended: {}", child.wait().await?)
        }
    }
}

async fn write_questions(
    queue: &mut mpsc::Receiver<Question>,
    mut input: ChildStdin,
    unanswered: &Unanswered,
) -> anyhow::Result<()> {
    while let Some(Question { id, line, reply }) = queue.recv().await {
        // Who has waited too long is gone.
        if !reply.is_closed() {
            unanswered.add(id, reply)?;
            input.write_all(&line).await?;
        }
    }
    Ok(())
}

async fn read_answers(
    mut answers: Lines<BufReader<ChildStdout>>,
    unanswered: &Unanswered,
    failures: &mut u32,
) -> anyhow::Result<()> {
    while let Some(line) = answers.next_line().await? {
        *failures = 0;
        let said = match serde_json::from_str::<Said>(&line) {
            Ok(said) => said,
            Err(cause) => {
                warn!(%cause, "the policy command says what is no answer");
                continue;
            }
        };
        match said.ruling() {
            Some(ruling) => unanswered.answer(&said.id, ruling),
            None => warn!(action = said.action, "the policy command says what is no action"),
        }
    }
    Ok(())
}

impl Unanswered {
    fn add(&self, id: String, reply: oneshot::Sender<Ruling>) -> anyhow::Result<()> {
        let mut waiting = self.0.lock().expect("no holder panics");
        waiting.entry(id).or_default().push_back(reply);
        ensure!(waiting.len() <= UNANSWERED_MAX, "{UNANSWERED_MAX} questions have no answer");
        Ok(())
    }

    fn answer(&self, id: &str, ruling: Ruling) {
        let mut waiting = self.0.lock().expect("no holder panics");
        let Some(replies) = waiting.get_mut(id) else { return };
        if let Some(reply) = replies.pop_front() {
            let _ = reply.send(ruling);
        }
        if replies.is_empty() {
            waiting.remove(id);
        }
    }
}

fn spawn(command: &str) -> anyhow::Result<(Child, ChildStdin, Lines<BufReader<ChildStdout>>)> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let input = child.stdin.take().expect("it is piped");
    let output = child.stdout.take().expect("it is piped");
    Ok((child, input, BufReader::new(output).lines()))
}
