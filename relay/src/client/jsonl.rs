//! Events as JSONL files, read line by line, and the progress bar that goes with it.

use std::path::Path;

use anyhow::Context;
use event::Event;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt, BufReader},
};

/// The lines of a file, or of standard input.
pub struct Lines {
    input: Box<dyn AsyncBufRead + Unpin + Send>,
    bytes: Option<u64>,
    read: u64,
}

/// One line, as read.
pub struct Line {
    text: Vec<u8>,
    number: u64,
}

/// A line that holds something else.
#[derive(Debug, thiserror::Error)]
#[error("line {number}: {cause}")]
pub struct NotAnEvent {
    number: u64,
    cause: event::JsonError,
}

impl Lines {
    /// Opens `file`; `-` is standard input.
    pub async fn open(file: &Path) -> anyhow::Result<Lines> {
        if file.as_os_str() == "-" {
            let input = Box::new(BufReader::new(tokio::io::stdin()));
            return Ok(Lines { input, bytes: None, read: 0 });
        }
        let opened =
            File::open(file).await.with_context(|| format!("opening {}", file.display()))?;
        let bytes = Some(opened.metadata().await?.len());
        Ok(Lines { input: Box::new(BufReader::with_capacity(1 << 16, opened)), bytes, read: 0 })
    }

    /// How long the whole is, if that is known.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    pub async fn next(&mut self) -> anyhow::Result<Option<Line>> {
        let mut text = Vec::new();
        if self.input.read_until(b'\n', &mut text).await.context("reading the input")? == 0 {
            return Ok(None);
        }
        self.read += 1;
        Ok(Some(Line { text, number: self.read }))
    }
}

impl Line {
    /// What the line takes in the file.
    pub fn bytes(&self) -> u64 {
        self.text.len() as u64
    }

    /// The event on it; `None` on an empty line.
    pub fn event(&self) -> Option<Result<Event, NotAnEvent>> {
        let text = self.text.trim_ascii();
        let not_an_event = |cause| NotAnEvent { number: self.number, cause };
        (!text.is_empty()).then(|| Event::from_json(text).map_err(not_an_event))
    }
}

/// A bar where the length of the work is known, a counter where it is not; nothing in a pipe.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Over a file of so many bytes.
    pub fn of_bytes(bytes: Option<u64>) -> Progress {
        match bytes {
            Some(bytes) => Progress::new(
                ProgressBar::new(bytes),
                "{bar:30} {bytes}/{total_bytes} {elapsed}, {eta} left; {msg}",
            ),
            None => Progress::new(ProgressBar::new_spinner(), "{spinner} {bytes} {elapsed}; {msg}"),
        }
    }

    /// Over the entries of a log, as many as it turns out to have.
    pub fn of_entries() -> Progress {
        let template = "{bar:30} {human_pos}/{human_len} {elapsed}, {eta} left; {msg}";
        Progress::new(ProgressBar::new(0), template)
    }

    fn new(bar: ProgressBar, template: &str) -> Progress {
        let style = ProgressStyle::with_template(template).expect("the templates are valid");
        Progress { bar: bar.with_style(style) }
    }

    pub fn advance(&self, by: u64, message: String) {
        self.bar.inc(by);
        self.bar.set_message(message);
    }

    /// There is so much ahead of where it is.
    pub fn set_ahead(&self, ahead: u64) {
        self.bar.set_length(self.bar.position() + ahead);
    }

    /// A line for people that does not tear the bar apart.
    pub fn report(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
