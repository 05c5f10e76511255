//! Events as JSONL files, read line by line, and the progress bar that goes with it.

use std::{
    io::{self, BufWriter, ErrorKind, Stdout, Write},
    path::Path,
};

use anyhow::{Context, ensure};
use event::Event;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
};

/// Bytes of one line. No store takes events as long as that.
const LINE_BYTES_MAX: u64 = 16 << 20;

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
        let (input, bytes) = open(file).await?;
        Ok(Lines { bytes, ..Lines::of(Box::new(BufReader::with_capacity(1 << 16, input))) })
    }

    /// The lines that come from somewhere else.
    pub fn of(input: Box<dyn AsyncBufRead + Unpin + Send>) -> Lines {
        Lines { input, bytes: None, read: 0 }
    }

    /// How long the whole is, if that is known.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    pub async fn next(&mut self) -> anyhow::Result<Option<Line>> {
        let mut text = Vec::new();
        let mut bounded = (&mut self.input).take(LINE_BYTES_MAX);
        if bounded.read_until(b'\n', &mut text).await.context("reading the input")? == 0 {
            return Ok(None);
        }
        self.read += 1;
        let is_whole = bounded.limit() > 0 || text.ends_with(b"\n");
        ensure!(is_whole, "line {} is longer than {LINE_BYTES_MAX} bytes", self.read);
        Ok(Some(Line { text, number: self.read }))
    }
}

/// Opens `file` for reading, `-` being standard input, and says how long it is, if that is known.
pub async fn open(file: &Path) -> anyhow::Result<(Box<dyn AsyncRead + Unpin + Send>, Option<u64>)> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let opened = File::open(file).await.with_context(|| format!("opening {}", file.display()))?;
    let bytes = opened.metadata().await?.len();
    Ok((Box::new(opened), Some(bytes)))
}

impl Line {
    /// Which line it is, from 1 on.
    pub fn number(&self) -> u64 {
        self.number
    }

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

/// Events on standard output, one a line.
pub struct Output {
    output: BufWriter<Stdout>,
    pub written: u64,
}

impl Output {
    pub fn new() -> Output {
        Output { output: BufWriter::new(io::stdout()), written: 0 }
    }

    /// False: whoever reads has seen enough.
    pub fn write(&mut self, event: &str) -> anyhow::Result<bool> {
        self.written += 1;
        is_read(writeln!(self.output, "{event}"))
    }

    /// Hands over what was written so far.
    pub fn flush(&mut self) -> anyhow::Result<bool> {
        is_read(self.output.flush())
    }
}

fn is_read(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("writing to standard output"),
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

    /// Over entries, as many as there turn out to be.
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

    /// It is there now, of so much.
    pub fn set(&self, done: u64, total: Option<u64>, message: String) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
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
