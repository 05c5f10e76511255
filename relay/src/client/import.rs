//! `aquifer import`: publishes a JSONL file over the websocket.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::PathBuf,
};

use clap::Args;
use event::{Event, EventId};
use serde::Serialize;

use super::{
    Connection,
    jsonl::{Lines, NotAnEvent, Progress},
};

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

impl Summary {
    fn in_short(&self) -> String {
        let refused: u64 = self.refused.values().sum();
        format!("accepted {}, duplicate {}, refused {refused}", self.accepted, self.duplicate)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.in_short())?;
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
    let lines = Lines::open(&arguments.file).await?;
    let mut connection = Connection::open(&arguments.relay).await?;
    let progress = Progress::of_bytes(lines.bytes());
    let mut importing = Importing { summary: Summary::default(), in_flight: HashMap::new() };
    let result = importing.run(lines, &mut connection, &progress).await;
    progress.finish();
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
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let mut sent = 0;
        while let Some(line) = lines.next().await? {
            if let Some(event) = self.note(line.event(), progress) {
                connection.send(format!("[\"EVENT\",{}]", event.to_json())).await?;
                *self.in_flight.entry(event.id).or_default() += 1;
                sent += 1;
            }
            while sent >= WINDOW_EVENTS {
                sent -= self.answer(&connection.receive().await?, progress);
            }
            progress.advance(line.bytes(), self.summary.in_short());
        }
        while sent > 0 {
            sent -= self.answer(&connection.receive().await?, progress);
            progress.advance(0, self.summary.in_short());
        }
        Ok(())
    }

    fn note(
        &mut self,
        line: Option<Result<Event, NotAnEvent>>,
        progress: &Progress,
    ) -> Option<Event> {
        match line? {
            Ok(event) => Some(event),
            Err(error) => {
                self.summary.invalid += 1;
                progress.report(&error.to_string());
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
