//! What is published: events signed beforehand, read from a file of one event a line.
//!
//! Signing costs more than a relay's whole work for an event, so it never stands in the measured
//! path: `aquifer-bench corpus` writes the file once.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    ops::Range,
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use corpus::Corpus;
use event::{Event, EventId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::progress;

/// Write signed events to a file, one a line, the same for the same seed
#[derive(Args)]
pub struct WriteCorpus {
    /// How many
    #[arg(long, default_value_t = 100_000)]
    events: usize,

    /// Another seed gives other authors and other events
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Authors; a few of them write most events (Zipf's law)
    #[arg(long, default_value_t = 2_000)]
    authors: usize,

    /// Where to
    file: PathBuf,
}

/// What was written.
#[derive(Serialize)]
pub struct Written {
    events: usize,
    bytes: u64,
    bytes_per_event: u64,
    sha256: String,
}

impl WriteCorpus {
    pub fn run(&self) -> Result<Written> {
        let file = File::create(&self.file)
            .with_context(|| format!("creating {}", self.file.display()))?;
        let mut out = BufWriter::new(file);
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let progress = progress::events(self.events);
        for event in Corpus::new(self.seed, self.authors).events(self.events) {
            let line = event.to_json() + "\n";
            out.write_all(line.as_bytes())?;
            hash.update(&line);
            bytes += line.len() as u64;
            progress.inc(1);
        }
        out.flush()?;
        progress.finish_and_clear();
        let bytes_per_event = bytes / self.events.max(1) as u64;
        let sha256 = hex::encode(hash.finalize());
        Ok(Written { events: self.events, bytes, bytes_per_event, sha256 })
    }
}

/// Which events of a file.
#[derive(Args, Clone)]
pub struct Selection {
    /// Signed events, one a line, as `aquifer-bench corpus` writes them
    #[arg(long, value_name = "FILE")]
    corpus: PathBuf,

    /// Leave out so many at the beginning
    #[arg(long, default_value_t = 0)]
    skip: usize,

    /// Take at most so many [default: all]
    #[arg(long)]
    events: Option<usize>,
}

/// Events ready to be sent.
pub struct Load {
    text: String,
    lines: Vec<(EventId, Range<usize>)>,
}

#[derive(Deserialize)]
struct OnlyId {
    id: EventId,
}

impl Selection {
    /// At most so many of them.
    pub fn first(&self, events: usize) -> Selection {
        let events = self.events.map_or(events, |wanted| wanted.min(events));
        Selection { events: Some(events), ..self.clone() }
    }

    pub fn load(&self) -> Result<Load> {
        let name = self.corpus.display();
        let text = fs::read_to_string(&self.corpus).with_context(|| format!("reading {name}"))?;
        let mut lines = Vec::new();
        let mut start = 0;
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let range = start..start + line.trim_end().len();
            start += line.len();
            if number < self.skip || range.is_empty() {
                continue;
            }
            if self.events.is_some_and(|events| lines.len() >= events) {
                break;
            }
            let OnlyId { id } = serde_json::from_str(line)
                .with_context(|| format!("line {} of {name} is no event", number + 1))?;
            lines.push((id, range));
        }
        ensure!(!lines.is_empty(), "{name} has no events beyond the first {}", self.skip);
        Ok(Load { text, lines })
    }
}

impl Load {
    /// How many events.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn id(&self, place: usize) -> EventId {
        self.lines[place].0
    }

    /// The message that publishes the event there.
    pub fn frame(&self, place: usize) -> String {
        format!("[\"EVENT\",{}]", self.json(place))
    }

    /// All events, parsed.
    pub fn events(&self) -> impl Iterator<Item = Result<Event>> + '_ {
        (0..self.len()).map(|place| Ok(Event::from_json(self.json(place).as_bytes())?))
    }

    fn json(&self, place: usize) -> &str {
        &self.text[self.lines[place].1.clone()]
    }
}
