//! The delivery log: what became of messages, and which sessions there were. Lines of JSON, a file for
//! each day (of UTC), in a folder of the relay's data.
//!
//! It names keys, ids and times; never a client's address, never a content, and of tags the receivers
//! alone. That a message was `delivered` means that it was queued to a session that its receiver has
//! authenticated: nostr knows no receipt.
//!
//! Nobody waits for the disk. Lines go through a bounded queue to a thread that writes them; what does not
//! fit is counted, and lost. If the disk takes none, the relay says so once and goes on without.

use std::{
    fs,
    io::{self, Write},
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use event::{Event, EventId, Kind, Packed, PublicKey};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Serialize;
use store::Millis;
use tracing::{info, warn};
use tracing_appender::{
    non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard},
    rolling::{RollingFileAppender, Rotation},
};

use crate::{
    config::terms::InForce,
    message::Message,
    sight::Sight,
    verdict::{Answer, Rejection},
};

/// The folder's name in the data folder.
const FOLDER: &str = "log";
/// What files are called before their date, and behind it.
const PREFIX: &str = "deliveries";
const SUFFIX: &str = "jsonl";
/// Lines that wait for the disk.
const QUEUE_LINES_MAX: usize = 4_096;
/// Receivers of one message that a line names.
const RECEIVERS_MAX: usize = 64;
/// Refusals of one session that are told in a second.
const SESSION_REFUSALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(5).expect("it is not zero");

/// A way into the log, for whoever has something to tell. Clones write to the same file.
#[derive(Clone)]
pub struct Deliveries(Option<Arc<Log>>);

struct Log {
    lines: NonBlocking,
    /// Lines that found the queue full,
    unqueued: ErrorCounter,
    /// and lines that found the disk so.
    unwritten: Arc<AtomicU64>,
    /// Sessions so far.
    sessions: AtomicU64,
    in_force: InForce,
}

/// The thread that writes.
pub struct Scribe(Option<WorkerGuard>);

impl Scribe {
    /// Waits until what is queued is written, for a second at most.
    pub async fn end(self) {
        // A disk that hangs, and a standard output that nobody reads, are its business alone.
        let _ = tokio::task::spawn_blocking(move || drop(self.0)).await;
    }
}

/// What is told. `from` and `to` are authors and receivers.
#[derive(Serialize)]
#[serde(tag = "event")]
pub enum Fact<'f> {
    #[serde(rename = "started")]
    Started { version: &'static str, key: PublicKey },
    #[serde(rename = "stopped")]
    Stopped,
    #[serde(rename = "session opened")]
    SessionOpened { session: u64 },
    /// With all keys that it had authenticated.
    #[serde(rename = "session closed")]
    SessionClosed { session: u64, reason: &'static str, keys: Vec<PublicKey> },
    #[serde(rename = "authenticated")]
    Authenticated { session: u64, key: PublicKey },
    #[serde(rename = "stored")]
    Stored { id: EventId, kind: Kind, from: PublicKey, to: &'f [PublicKey] },
    /// To those of its receivers whose session it is.
    #[serde(rename = "delivered")]
    Delivered { id: EventId, from: PublicKey, to: Vec<PublicKey>, session: u64, live: bool },
    /// To another relay.
    #[serde(rename = "forwarded")]
    Forwarded { id: EventId, from: PublicKey, peer: PublicKey },
    #[serde(rename = "peer up")]
    PeerUp { peer: PublicKey, url: &'f str },
    #[serde(rename = "peer down")]
    PeerDown { peer: PublicKey, url: &'f str, reason: String },
    /// `from` is there if the signature is known to be its.
    #[serde(rename = "refused")]
    Refused { session: u64, id: Option<EventId>, from: Option<PublicKey>, reason: String },
    /// A receiver's messages, or all of them, take so many bytes: `dropped` of the oldest went, or what
    /// came was refused.
    #[serde(rename = "over quota")]
    OverQuota { receiver: Option<PublicKey>, bytes: u64, done: &'static str, dropped: usize },
}

#[derive(Serialize)]
struct Line<'f> {
    /// Unix time in milliseconds.
    at: u64,
    #[serde(flatten)]
    fact: Fact<'f>,
}

impl Deliveries {
    /// Begins to write into the relay's data folder; the files of `days` before today are kept. Without
    /// `days`, or where that cannot be written, nothing is told.
    pub fn open(data: &Path, days: Option<usize>, in_force: InForce) -> (Deliveries, Scribe) {
        let Some(days) = days else { return Deliveries::none() };
        let folder = data.join(FOLDER);
        match file_of_today(&folder, days) {
            Ok(file) => Deliveries::over(file, QUEUE_LINES_MAX, in_force),
            Err(cause) => {
                warn!(%cause, folder = %folder.display(), "there is no delivery log");
                Deliveries::none()
            }
        }
    }

    fn none() -> (Deliveries, Scribe) {
        (Deliveries(None), Scribe(None))
    }

    fn over(
        file: impl Write + Send + 'static,
        queue_lines_max: usize,
        in_force: InForce,
    ) -> (Deliveries, Scribe) {
        let unwritten = Arc::new(AtomicU64::new(0));
        let file = Forgiving { file, unwritten: unwritten.clone(), is_failing: false };
        let queue = NonBlockingBuilder::default().buffered_lines_limit(queue_lines_max);
        let (lines, guard) = queue.lossy(true).thread_name("deliveries").finish(file);
        let (unqueued, sessions) = (lines.error_counter(), AtomicU64::new(0));
        let log = Log { lines, unqueued, unwritten, sessions, in_force };
        (Deliveries(Some(Arc::new(log))), Scribe(Some(guard)))
    }

    /// Writes a line, some time soon.
    pub fn note(&self, fact: Fact<'_>) {
        let Some(log) = &self.0 else { return };
        let line = serde_json::to_vec(&Line { at: Millis::now().0, fact });
        let mut line = line.expect("keys, numbers and texts can be written");
        line.push(b'\n');
        // Whether it fits is counted.
        let _ = log.lines.clone().write_all(&line);
    }

    /// What there is to tell of an event. None: nothing, as of most.
    pub fn message(&self, event: &Packed<'_>) -> Option<Message> {
        let log = self.0.as_ref()?;
        Message::of(event, &log.in_force.load().guarded_kinds)
    }

    /// The same of an event that is not packed.
    pub fn message_of(&self, event: &Event) -> Option<Message> {
        let log = self.0.as_ref()?;
        Message::of_event(event, &log.in_force.load().guarded_kinds)
    }

    pub fn stored(&self, message: &Message) {
        let Message { id, kind, from, to, .. } = message;
        let to = &to[..to.len().min(RECEIVERS_MAX)];
        self.note(Fact::Stored { id: *id, kind: *kind, from: *from, to });
    }

    /// Nothing, if it went to its author alone.
    pub fn delivered(&self, message: &Message, sight: &Sight, live: bool) {
        let to = sight.keys_among(&message.to);
        if !to.is_empty() {
            let (session, Message { id, from, .. }) = (sight.session(), message);
            self.note(Fact::Delivered { id: *id, from: *from, to, session, live });
        }
    }

    /// To a peer, some of whose clients it is for.
    pub fn forwarded(&self, message: &Message, peer: PublicKey) {
        let Message { id, from, .. } = message;
        self.note(Fact::Forwarded { id: *id, from: *from, peer });
    }

    /// The part of a new session.
    pub fn session(&self) -> SessionLog {
        let number = self.0.as_ref().map_or(0, |log| log.sessions.fetch_add(1, Ordering::Relaxed));
        self.note(Fact::SessionOpened { session: number });
        let refusals = RateLimiter::direct(Quota::per_second(SESSION_REFUSALS_PER_SECOND));
        SessionLog { log: self.clone(), number, refusals: Arc::new(refusals) }
    }

    /// Lines so far that are in no file.
    pub fn lost(&self) -> u64 {
        let Some(log) = &self.0 else { return 0 };
        log.unqueued.dropped_lines() as u64 + log.unwritten.load(Ordering::Relaxed)
    }
}

fn file_of_today(folder: &Path, days: usize) -> anyhow::Result<RollingFileAppender> {
    fs::create_dir_all(folder)?;
    let files = RollingFileAppender::builder().rotation(Rotation::DAILY);
    let files = files.filename_prefix(PREFIX).filename_suffix(SUFFIX);
    // Today's is one of them.
    Ok(files.max_log_files(days + 1).build(folder)?)
}

/// What one session tells.
#[derive(Clone)]
pub struct SessionLog {
    log: Deliveries,
    number: u64,
    refusals: Arc<DefaultDirectRateLimiter>,
}

impl SessionLog {
    /// Which session it is, of all since the start.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn authenticated(&self, key: PublicKey) {
        self.log.note(Fact::Authenticated { session: self.number, key });
    }

    /// If the event was refused, and not too many were lately.
    pub fn answered(&self, answer: &Answer) {
        if let Err(rejection) = &answer.said
            && self.refusals.check().is_ok()
        {
            let (id, from, reason) = (answer.id, answer.from, reason_of(rejection));
            self.log.note(Fact::Refused { session: self.number, id, from, reason });
        }
    }

    pub fn closed(&self, reason: &'static str, keys: Vec<PublicKey>) {
        self.log.note(Fact::SessionClosed { session: self.number, reason, keys });
    }
}

/// What the client was told, without what came from the event itself, or from a command that knows its
/// address.
fn reason_of(rejection: &Rejection) -> String {
    match rejection {
        Rejection::Unreadable(_) => "invalid: not an event".into(),
        Rejection::Policy(words) => {
            let prefix = words.split_once(':').map(|(prefix, _)| prefix);
            let is_a_word =
                |prefix: &&str| prefix.chars().all(|c| c == '-' || c.is_ascii_lowercase());
            format!("{}: by the policy command", prefix.filter(is_a_word).unwrap_or("blocked"))
        }
        rejection => rejection.to_string(),
    }
}

/// A file that takes every line, and counts those that it could not keep.
struct Forgiving<W> {
    file: W,
    unwritten: Arc<AtomicU64>,
    is_failing: bool,
}

impl<W: Write> Forgiving<W> {
    fn keep(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_failing {
            // Half a line may stand at its end.
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(line)
    }
}

impl<W: Write> Write for Forgiving<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.keep(line) {
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                info!("the delivery log can be written again");
            }
            Ok(()) => {}
            Err(cause) => {
                self.unwritten.fetch_add(1, Ordering::Relaxed);
                if !self.is_failing {
                    warn!(%cause, "the delivery log cannot be written; the relay goes on without");
                }
                self.is_failing = true;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What fails here fails at the next line again.
        let _ = self.file.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arc_swap::ArcSwap;
    use event::twin::Author;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::terms::TermSettings;

    fn in_force() -> InForce {
        Arc::new(ArcSwap::from_pointee(TermSettings::default().resolve().unwrap()))
    }

    /// A file in memory, with room for so many bytes.
    #[derive(Clone)]
    struct Paper(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Paper {
        fn of(bytes: usize) -> Paper {
            Paper(Arc::new(Mutex::new((Vec::new(), bytes))))
        }

        fn grow(&self, bytes: usize) {
            self.0.lock().unwrap().1 += bytes;
        }

        fn lines(&self) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, room) = &mut *self.0.lock().unwrap();
            let fits = bytes.len().min(room.saturating_sub(text.len()));
            text.extend_from_slice(&bytes[..fits]);
            if fits > 0 { Ok(fits) } else { Err(io::ErrorKind::StorageFull.into()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_counted_and_nobody_waits() {
        let paper = Paper::of(1 << 20);
        let (deliveries, scribe) = Deliveries::over(paper.clone(), 8, in_force());
        let is_writing = paper.0.lock().unwrap();
        for _ in 0..100 {
            deliveries.note(Fact::Stopped);
        }
        let lost = deliveries.lost();
        // One more than fit may be in the writer's hands.
        assert!((91..=92).contains(&lost), "{lost}");
        drop(is_writing);
        drop(scribe);
        assert_eq!(paper.lines().len() as u64, 100 - lost);
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let paper = Paper::of(60);
        let mut file =
            Forgiving { file: paper.clone(), unwritten: Arc::default(), is_failing: false };
        for number in 0..4 {
            let line = format!("{}\n", json!({"number": number, "padding": "twelve bytes"}));
            file.write_all(line.as_bytes()).unwrap();
            if number == 2 {
                paper.grow(100);
            }
        }
        assert_eq!(file.unwritten.load(Ordering::Relaxed), 2);
        let numbers: Vec<_> = paper.lines().iter().map(|line| line["number"].clone()).collect();
        assert_eq!(numbers, [0, 3]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_leaves_a_relay_without_a_log() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(FOLDER), "in the way").unwrap();
        let (deliveries, _scribe) = Deliveries::open(data.path(), Some(14), in_force());
        deliveries.note(Fact::Stopped);
        assert_eq!(deliveries.lost(), 0);
        assert!(deliveries.0.is_none());
    }

    #[track_caller]
    fn check(fact: Fact<'_>, expected: Value) {
        let mut told = serde_json::to_value(Line { at: 7, fact }).unwrap();
        assert_eq!(told.as_object_mut().unwrap().remove("at"), Some(json!(7)));
        assert_eq!(told, expected);
    }

    #[test]
    fn every_fact_has_its_name_and_its_fields() {
        let (ann, bob) = (Author::new(1).pubkey(), Author::new(2).pubkey());
        let id = EventId([1; 32]);
        check(Fact::Stopped, json!({"event": "stopped"}));
        check(
            Fact::Forwarded { id, from: ann, peer: bob },
            json!({"event": "forwarded", "id": id, "from": ann, "peer": bob}),
        );
        let (url, reason) = ("wss://relay.example.com", "closed");
        check(
            Fact::PeerUp { peer: bob, url },
            json!({"event": "peer up", "peer": bob, "url": url}),
        );
        check(
            Fact::PeerDown { peer: bob, url, reason: reason.into() },
            json!({"event": "peer down", "peer": bob, "url": url, "reason": reason}),
        );
        check(
            Fact::OverQuota { receiver: None, bytes: 9, done: "dropped", dropped: 2 },
            json!({"event": "over quota", "receiver": null, "bytes": 9, "done": "dropped", "dropped": 2}),
        );
    }

    #[test]
    fn reasons_tell_nothing_of_what_was_said_or_from_where() {
        let said = |words: &str| reason_of(&Rejection::Policy(words.into()));
        assert_eq!(said("rate-limited: 192.0.2.1 is quick"), "rate-limited: by the policy command");
        assert_eq!(said("no 192.0.2.1: no"), "blocked: by the policy command");
        let unreadable = Rejection::Unreadable("invalid type: string \"secret\"".into());
        assert_eq!(reason_of(&unreadable), "invalid: not an event");
        assert_eq!(reason_of(&Rejection::Expired), "invalid: it has expired");
    }
}
