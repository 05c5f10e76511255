//! What a commit and a query cost, on the disk that `TMPDIR` lies on. Prints a table, compares
//! nothing: `cargo bench -p store`.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use event::{Filter, Kind, Packed, TagName, Verified, twin::Author};
use index::{Found, Reader, Scan, Take};
use store::{Options, Origin, Store, Writer};
use tokio::runtime::Builder;

const AUTHORS: usize = 50;
const LONE: usize = 300;
const TOGETHER: usize = 20_000;
const CLIENTS: usize = 64;
const BULK: usize = 50_000;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let sync = per_item(200, || sync_once(folder.path()));
    println!("write 4 KiB and fsync          {:>10.2} ms", sync.as_secs_f64() * 1e3);
    let events = events(LONE + TOGETHER + BULK);
    let payload: usize = events.iter().map(|event| event.pack().len()).sum();
    let mut events = events.into_iter();
    let (store, writer) = Store::open(&folder.path().join("store"), Options::default()).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        lone_puts(&store, &writer, events.by_ref().take(LONE).collect()).await;
        puts_together(&store, &writer, events.by_ref().take(TOGETHER).collect()).await;
        bulk(&store, &writer, events.collect()).await;
    });
    let stats = store.stats().unwrap();
    let factor = stats.bytes_on_disk as f64 / payload as f64;
    println!("bytes on disk per packed byte  {factor:>10.2}    ({} events)", stats.events);
    queries(&store);
}

fn events(count: usize) -> Vec<Verified> {
    let authors: Vec<Author> = (0..AUTHORS as u8).map(Author::new).collect();
    let event = |number: usize| {
        let author = &authors[number * 7 % AUTHORS];
        let other = authors[number * 13 % AUTHORS].pubkey().to_string();
        let topic = format!("topic{}", number % 97);
        let content = format!("{number}: {}", "some words that people write ".repeat(6));
        let date = 1_700_000_000 + (number * 7_919 % 10_000_000) as u64;
        author.sign(date, [1, 1, 1, 7][number % 4], &[&["p", &other], &["t", &topic]], &content)
    };
    (0..count).map(event).collect()
}

async fn lone_puts(store: &Store, writer: &Writer, events: Vec<Verified>) {
    let written = written_bytes();
    let mut times = Vec::new();
    let count = events.len();
    for event in events {
        let start = Instant::now();
        writer.put(event, Origin::Client).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (p50, p99) = (times[count / 2], times[count * 99 / 100]);
    println!("one put at a time, p50         {:>10.2} ms", p50.as_secs_f64() * 1e3);
    println!("one put at a time, p99         {:>10.2} ms", p99.as_secs_f64() * 1e3);
    println!("  bytes written for each       {:>10}", (written_bytes() - written) / count as u64);
    assert_eq!(store.outbox_len().unwrap(), count as u64);
}

async fn puts_together(store: &Store, writer: &Writer, events: Vec<Verified>) {
    let (written, commits) = (written_bytes(), store.stats().unwrap().commits);
    let count = events.len();
    let start = Instant::now();
    let clients: Vec<_> = events
        .chunks(count.div_ceil(CLIENTS))
        .map(|own| {
            let (writer, own) = (writer.clone(), own.to_vec());
            tokio::spawn(async move {
                for event in own {
                    writer.put(event, Origin::Client).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let commits = store.stats().unwrap().commits - commits;
    println!("{CLIENTS} clients, one put at a time   {rate:>10.0} events/s");
    println!("  events in a commit           {:>10.1}", count as f64 / commits as f64);
    println!("  bytes written for each       {:>10}", (written_bytes() - written) / count as u64);
}

async fn bulk(store: &Store, writer: &Writer, events: Vec<Verified>) {
    let written = written_bytes();
    let count = events.len();
    let start = Instant::now();
    writer.put_all(events, Origin::Layer2).await.unwrap();
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("put_all                        {rate:>10.0} events/s");
    println!("  bytes written for each       {:>10}", (written_bytes() - written) / count as u64);
    assert!(store.newest().is_some());
}

fn queries(store: &Store) {
    let author = Author::new(3).pubkey();
    let limited = |filter: Filter| Filter { limit: Some(100), ..filter };
    let newest = limited(Filter::default());
    let notes = limited(Filter {
        authors: Some(vec![author]),
        kinds: Some(vec![Kind(1)]),
        ..Filter::default()
    });
    let mut topic = limited(Filter::default());
    topic.tags.insert(TagName::new("t").unwrap(), vec!["topic5".into()]);
    let feed = limited(Filter {
        authors: Some((0..AUTHORS as u8).map(|seed| Author::new(seed).pubkey()).collect()),
        kinds: Some(vec![Kind(1), Kind(7)]),
        ..Filter::default()
    });
    let questions = [
        ("newest", newest),
        ("author and kind", notes),
        ("tag", topic),
        ("50 authors, 2 kinds", feed),
    ];
    for (name, filter) in questions {
        let filters = [filter];
        let time = per_item(500, || {
            let mut reader = Json(Vec::new());
            assert!(store.page(&mut Scan::new(&filters), &mut reader).unwrap());
            assert!(!reader.0.is_empty());
        });
        println!("100 by {name:<23} {:>10.1} µs", time.as_secs_f64() * 1e6);
    }
    let id = store.outbox(1, 1).unwrap();
    let id = Packed::trusted(&id[0].1).unwrap().id();
    let time = per_item(10_000, || assert!(store.contains(&id).unwrap()));
    println!("is this id known               {:>10.2} µs", time.as_secs_f64() * 1e6);
}

/// A client: all events as JSON.
struct Json(Vec<u8>);

impl Reader for Json {
    fn take(&mut self, found: Found<'_>) -> Take {
        found.event().write_json(&mut self.0);
        Take::More
    }
}

fn per_item(times: u32, mut item: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..times).for_each(|_| item());
    start.elapsed() / times
}

fn sync_once(folder: &Path) {
    let mut file = File::create(folder.join("probe")).unwrap();
    file.write_all(&[7; 4_096]).unwrap();
    file.sync_all().unwrap();
}

/// What this process has sent to disks so far (Linux only; elsewhere 0).
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}
