//! `aquifer import`: publishes a JSONL file over the websocket.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;
use event::{Event, EventId};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt, BufReader},
};

use super::Connection;

/// Events sent and not answered yet. Enough to keep a relay's disk and all its cores busy.
const WINDOW_EVENTS: usize = 200;

/// Publish events from a JSONL file (one NIP-01 event a line)
///
/// Each line is answered: lines that are no event are reported with their number, and refusals are
/// counted by their reason. Ends with 0 when every line was answered, whatever the answers were.
#[derive(Args, Debug)]
pub struct Import {
    /// The file, or - for standard input
    file: PathBuf,

    /// Where to publish
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:7777")]
    relay: String,

    /// Print the summary as one line of JSON
    #[arg(long)]
    json: bool,
}

/// What became of the lines.
#[derive(Debug, Default, Serialize)]
struct Summary {
    accepted: u64,
    duplicate: u64,
    /// By the relay's reason.
    refused: BTreeMap<String, u64>,
    /// Lines that are no event.
    invalid: u64,
    /// Events that were sent, and never answered.
    unanswered: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: u64 = self.refused.values().sum();
        write!(f, "accepted {}, duplicate {}, refused {refused}", self.accepted, self.duplicate)?;
        if self.invalid > 0 {
            write!(f, ", not an event {}", self.invalid)?;
        }
        if self.unanswered > 0 {
            write!(f, ", unanswered {}", self.unanswered)?;
        }
        self.refused.iter().try_for_each(|(reason, count)| write!(f, "\n  {count} × {reason}"))
    }
}

/// Runs the command. An error means that it stopped early; what was answered is printed all the same.
pub async fn import(arguments: Import) -> anyhow::Result<()> {
    let (lines, bytes) = open(&arguments.file).await?;
    let mut connection = Connection::open(&arguments.relay).await?;
    let mut progress = Progress::new(bytes);
    let mut importing = Importing { summary: Summary::default(), in_flight: HashMap::new() };
    let result = importing.run(lines, &mut connection, &mut progress).await;
    progress.bar.finish_and_clear();
    connection.close().await;
    let mut summary = importing.summary;
    summary.unanswered = importing.in_flight.values().sum();
    if arguments.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{summary}");
    }
    result
}

type Lines = Box<dyn AsyncBufRead + Unpin + Send>;

async fn open(file: &PathBuf) -> anyhow::Result<(Lines, Option<u64>)> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(BufReader::new(tokio::io::stdin())), None));
    }
    let opened = File::open(file).await.with_context(|| format!("opening {}", file.display()))?;
    let bytes = opened.metadata().await?.len();
    Ok((Box::new(BufReader::with_capacity(1 << 16, opened)), Some(bytes)))
}

struct Importing {
    summary: Summary,
    /// How often each unanswered event was sent: a file may repeat itself.
    in_flight: HashMap<EventId, u64>,
}

impl Importing {
    async fn run(
        &mut self,
        mut lines: Lines,
        connection: &mut Connection,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let mut line = Vec::new();
        let mut number = 0u64;
        let mut sent = 0;
        loop {
            line.clear();
            let bytes = lines.read_until(b'\n', &mut line).await.context("reading the input")?;
            if bytes == 0 {
                break;
            }
            number += 1;
            if let Some(event) = self.read(&line, number, progress) {
                connection.send(format!("[\"EVENT\",{}]", event.to_json())).await?;
                *self.in_flight.entry(event.id).or_default() += 1;
                sent += 1;
            }
            while sent >= WINDOW_EVENTS {
                sent -= self.answer(&connection.receive().await?, progress);
            }
            progress.advance(bytes as u64, &self.summary);
        }
        while sent > 0 {
            sent -= self.answer(&connection.receive().await?, progress);
            progress.advance(0, &self.summary);
        }
        Ok(())
    }

    fn read(&mut self, line: &[u8], number: u64, progress: &Progress) -> Option<Event> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return None;
        }
        match Event::from_json(line) {
            Ok(event) => Some(event),
            Err(error) => {
                self.summary.invalid += 1;
                progress.report(&format!("line {number}: {error}"));
                None
            }
        }
    }

    /// Notes one frame from the relay. Returns how many events it answered.
    fn answer(&mut self, frame: &str, progress: &Progress) -> usize {
        match serde_json::from_str::<(String, EventId, bool, String)>(frame) {
            Ok((verb, id, accepted, message)) if verb == "OK" => {
                let Some(count) = self.in_flight.get_mut(&id) else { return 0 };
                *count -= 1;
                if *count == 0 {
                    self.in_flight.remove(&id);
                }
                self.tally(accepted, message);
                1
            }
            _ => {
                progress.report(&format!("the relay says: {frame:.500}"));
                0
            }
        }
    }

    fn tally(&mut self, accepted: bool, message: String) {
        if message.starts_with("duplicate:") {
            self.summary.duplicate += 1;
        } else if accepted {
            self.summary.accepted += 1;
        } else {
            *self.summary.refused.entry(message).or_default() += 1;
        }
    }
}

/// A bar where the length of the input is known, a counter where it is not; nothing in a pipe.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(bytes: Option<u64>) -> Progress {
        let (bar, template) = match bytes {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{bar:30} {bytes}/{total_bytes} {elapsed}, {eta} left; {msg}",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {bytes} {elapsed}; {msg}"),
        };
        let style = ProgressStyle::with_template(template).expect("the templates are valid");
        Progress { bar: bar.with_style(style) }
    }

    fn advance(&mut self, bytes: u64, summary: &Summary) {
        self.bar.inc(bytes);
        let refused: u64 = summary.refused.values().sum();
        let (accepted, duplicate) = (summary.accepted, summary.duplicate);
        self.bar
            .set_message(format!("accepted {accepted}, duplicate {duplicate}, refused {refused}"));
    }

    /// A line for people that does not tear the bar apart.
    fn report(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}
