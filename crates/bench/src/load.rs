//! What is published: events signed beforehand, read from a file of one event a line.
//!
//! Signing costs more than a relay's whole work for an event, so it never stands in the measured
//! path: `aquifer-bench corpus` writes the file once.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
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
    /// These events of a file.
    pub fn new(corpus: &Path, events: Range<usize>) -> Selection {
        Selection { corpus: corpus.to_owned(), skip: events.start, events: Some(events.len()) }
    }

    /// At most so many of them.
    pub fn first(&self, events: usize) -> Selection {
        let events = self.events.map_or(events, |wanted| wanted.min(events));
        Selection { events: Some(events), ..self.clone() }
    }

    pub fn load(&self) -> Result<Load> {
        let name = self.corpus.display();
        let file = File::open(&self.corpus).with_context(|| format!("reading {name}"))?;
        let mut input = BufReader::new(file);
        let (mut text, mut lines) = (String::new(), Vec::new());
        let mut number = 0;
        while self.events.is_none_or(|events| lines.len() < events) {
            let start = text.len();
            if input.read_line(&mut text).with_context(|| format!("reading {name}"))? == 0 {
                break;
            }
            number += 1;
            let range = start..start + text[start..].trim_end().len();
            if number <= self.skip || range.is_empty() {
                text.truncate(start);
                continue;
            }
            let OnlyId { id } = serde_json::from_str(&text[range.clone()])
                .with_context(|| format!("line {number} of {name} is no event"))?;
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

    /// Bytes of JSON of all events.
    pub fn bytes(&self) -> u64 {
        self.lines.iter().map(|(_, range)| range.len() as u64).sum()
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

    /// What two runs have in common if they are comparable.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        (0..self.len()).for_each(|place| {
            hash.update(self.json(place));
            hash.update("\n");
        });
        hex::encode(hash.finalize())
    }

    fn json(&self, place: usize) -> &str {
        &self.text[self.lines[place].1.clone()]
    }
}
