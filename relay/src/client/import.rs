//! `aquifer import`: publishes a JSONL file over the websocket.

use std::{collections::HashMap, fmt, path::PathBuf};

use clap::Args;
use event::{Event, EventId};
use serde::Serialize;

use super::{
    Connection, Tally,
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
    #[serde(flatten)]
    tally: Tally,
    /// Events that were sent, and never answered.
    unanswered: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tally)?;
        match self.unanswered {
            0 => Ok(()),
            unanswered => write!(f, "\n{unanswered} were sent and never answered"),
        }
    }
}

/// Runs the command. An error means that it stopped early; what was answered is printed all the same.
pub async fn import(arguments: Import) -> anyhow::Result<()> {
    let lines = Lines::open(&arguments.file).await?;
    let mut connection = Connection::open(&arguments.relay).await?;
    let progress = Progress::of_bytes(lines.bytes());
    let mut importing = Importing { tally: Tally::default(), in_flight: HashMap::new() };
    let result = importing.run(lines, &mut connection, &progress).await;
    progress.finish();
    connection.close().await;
    let unanswered = importing.in_flight.values().sum();
    let summary = Summary { tally: importing.tally, unanswered };
    if arguments.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{summary}");
    }
    result
}

struct Importing {
    tally: Tally,
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
            progress.advance(line.bytes(), self.tally.in_short());
        }
        while sent > 0 {
            sent -= self.answer(&connection.receive().await?, progress);
            progress.advance(0, self.tally.in_short());
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
                self.tally.invalid += 1;
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
                self.count(accepted, message);
                1
            }
            // A challenge that nobody asked for (NIP-42).
            _ if frame.starts_with("[\"AUTH\"") => 0,
            _ => {
                progress.report(&format!("the relay says: {frame:.500}"));
                0
            }
        }
    }

    fn count(&mut self, accepted: bool, message: String) {
        if message.starts_with("duplicate:") {
            self.tally.duplicate += 1;
        } else if accepted {
            self.tally.accepted += 1;
        } else {
            self.tally.refuse(message);
        }
    }
}
