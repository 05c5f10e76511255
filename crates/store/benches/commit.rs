//! What it costs to make events durable, on the disk that `TMPDIR` lies on: one alone, many clients at
//! a time, and many by one. Beside it, what a bare write and sync takes there. `cargo bench -p store
//! --bench commit`.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use corpus::Corpus;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use event::{Verified, verify};
use futures_util::future::join_all;
use store::{Options, Origin, Store, Writer};
use tokio::runtime::{Builder, Runtime};

const AUTHORS: usize = 2_000;
/// Clients that each wait for their answer.
const CLIENTS: usize = 256;
/// Events that are put by one call.
const TOGETHER: usize = 1_000;

fn commits(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(&folder.path().join("store"), Options::default()).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let corpus = RefCell::new(Corpus::new(1, AUTHORS));
    let next = |count: usize| -> Vec<Verified> {
        corpus.borrow_mut().events(count).map(|event| verify(event).unwrap()).collect()
    };
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    group.bench_function("nothing but a write of 4 KiB and its sync", |bencher| {
        bencher.iter(|| sync_once(folder.path()));
    });
    group.bench_function("one event", |bencher| {
        bencher.iter_custom(|times| {
            let events = next(times as usize);
            timed(&runtime, async || {
                for event in &events {
                    writer.put(event.clone(), Origin::Client).await.unwrap();
                }
            })
        });
    });
    group.throughput(Throughput::Elements(CLIENTS as u64));
    group.bench_function(format!("{CLIENTS} clients with one event each"), |bencher| {
        bencher.iter_custom(|times| {
            let rounds: Vec<_> = (0..times).map(|_| next(CLIENTS)).collect();
            timed(&runtime, async || put_at_once(&writer, &rounds).await)
        });
    });
    group.throughput(Throughput::Elements(TOGETHER as u64));
    group.bench_function(format!("{TOGETHER} events in one call"), |bencher| {
        bencher.iter_custom(|times| {
            let rounds: Vec<_> = (0..times).map(|_| next(TOGETHER)).collect();
            timed(&runtime, async || {
                for events in &rounds {
                    writer.put_all(events.clone(), Origin::Client).await.unwrap();
                }
            })
        });
    });
    group.finish();
    tell(&store);
}

async fn put_at_once(writer: &Writer, rounds: &[Vec<Verified>]) {
    for events in rounds {
        let puts = events.iter().map(|event| writer.put(event.clone(), Origin::Client));
        join_all(puts).await.into_iter().try_for_each(|put| put.map(|_| ())).unwrap();
    }
}

fn timed(runtime: &Runtime, work: impl AsyncFnOnce()) -> Duration {
    let start = Instant::now();
    runtime.block_on(work());
    start.elapsed()
}

fn sync_once(folder: &Path) {
    let mut file = File::create(folder.join("probe")).unwrap();
    file.write_all(&[7; 4_096]).unwrap();
    file.sync_all().unwrap();
}

/// What criterion does not measure.
fn tell(store: &Store) {
    let stats = store.stats().unwrap();
    println!(
        "{} events in {} commits: {} bytes on the disk for each, {} written",
        stats.events,
        stats.commits,
        stats.bytes_on_disk / stats.events,
        written_bytes() / stats.events
    );
}

/// What this process has sent to disks so far (Linux only; elsewhere 0).
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

criterion_group!(benches, commits);
criterion_main!(benches);
