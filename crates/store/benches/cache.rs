//! The cache under load, in full: `cargo bench -p store --bench cache -- 1024` writes ten times 1,024 MiB
//! into a cache of that size (64 if nothing is said), in the folder that `TMPDIR` names, and reads what
//! people ask for. Behind it stands a second store as L2, which gets all of it and takes ten to
//! twenty-five times the cache. It ends with an error on the first promise that is broken.
//!
//! Events are those of `corpus`; with `long` behind the number they are notes of some thousand bytes, with
//! `articles` of some ten thousand, of which it takes far fewer. A thread of its own signs them meanwhile.

#[path = "../tests/store/cache.rs"]
mod cache;

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use corpus::Corpus;
use event::{Event, Verified, twin::Author, verify};
use tokio::runtime::Runtime;

const MIB: u64 = 1 << 20;
/// Events by which the size of all is reckoned, and how much more of them is written than that says.
const WEIGHED: usize = 10_000;
const MARGIN: f64 = 1.02;
/// Events that are signed and wait to be written.
const SIGNED_MAX: usize = 10_000;
const BETWEEN_LINES: Duration = Duration::from_secs(10);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let limit_mib = words.iter().find_map(|word| word.parse().ok()).unwrap_or(64);
    let is_asked_for = |name| words.iter().any(|word| word == name);
    let source: fn() -> Box<dyn Iterator<Item = Verified>> = match () {
        () if is_asked_for("long") => || notes_of(200),
        () if is_asked_for("articles") => || notes_of(1_600),
        () => people,
    };
    Runtime::new().unwrap().block_on(load(limit_mib * MIB, source));
}

async fn load(bytes_max: u64, source: fn() -> Box<dyn Iterator<Item = Verified>>) {
    let weighed: usize = source().take(WEIGHED).map(|event| event.pack().len()).sum();
    let each = weighed as f64 / WEIGHED as f64;
    let count = (10.0 * bytes_max as f64 / each * MARGIN) as usize;
    println!("{count} events of {each:.0} bytes packed, a cache of {} MiB", bytes_max / MIB);
    let folder = tempfile::tempdir().unwrap();
    let (started, mut last) = (Instant::now(), Instant::now());
    let progress = |written, report: &cache::Report| {
        if last.elapsed() > BETWEEN_LINES {
            last = Instant::now();
            let percent = written * 100 / count;
            let (seconds, file) = (started.elapsed().as_secs(), report.file_bytes / MIB);
            println!("{percent:3} % in {seconds} s; file {file} MiB; {}", report.in_words());
        }
    };
    let events = signed(source).into_iter();
    let report = cache::run(folder.path(), bytes_max, events, count, progress).await;
    println!("{report:#?}\n{}, in {} s", report.in_words(), started.elapsed().as_secs());
    report.check();
}

/// Events, as another thread makes them.
fn signed(source: fn() -> Box<dyn Iterator<Item = Verified>>) -> Receiver<Verified> {
    let (sender, receiver) = sync_channel(SIGNED_MAX);
    // It ends with the first that nobody wants.
    thread::spawn(move || source().all(|event| sender.send(event).is_ok()));
    receiver
}

/// What relays hold, but for what replaces another: that would be found under the other's name.
fn people() -> Box<dyn Iterator<Item = Verified>> {
    let mut corpus = Corpus::new(2, 1_000);
    let events = std::iter::from_fn(move || corpus.events(1).next());
    let lasts = |event: &Event| event.address().is_none();
    Box::new(events.filter(lasts).map(|event| verify(event).expect("the corpus is signed")))
}

/// Notes of so many words and up to three times as many, dated one after the other.
fn notes_of(words: u64) -> Box<dyn Iterator<Item = Verified>> {
    let note = move |number: u64| {
        let words = words + number * 7_919 % (2 * words);
        let content = format!("{number} ").repeat(words as usize);
        let author = Author::new(1 + (number % 200) as u8);
        let topic = format!("topic {}", number % 1_000);
        author.sign(1_700_000_000 + number, 1, &[&["t", &topic]], &content)
    };
    Box::new((0..).map(note))
}
