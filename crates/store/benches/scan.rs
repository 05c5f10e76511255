//! What questions cost L1, by their shape: the newest 500 of each, as packed bytes. `cargo bench -p
//! store --bench scan`; `AQUIFER_BENCH_EVENTS` says how many events the store holds, else 100,000.

use std::{hint::black_box, time::Duration};

use corpus::Corpus;
use criterion::{Criterion, criterion_group, criterion_main};
use event::{Filter, Kind, PublicKey, TagName, Timestamp, verify};
use index::{Found, Reader, Scan, Take};
use store::{Options, Origin, Store};
use tokio::runtime::Runtime;

const AUTHORS: usize = 5_000;
/// How many of the 10,000 authors in one filter never wrote anything.
const SILENT: usize = 5_000;
const LIMIT: u64 = 500;
/// Events that are put into the store at a time.
const BATCH: usize = 10_000;

struct Held {
    store: Store,
    authors: Vec<PublicKey>,
    silent: Vec<PublicKey>,
    newest: Timestamp,
}

fn hold(events: usize, folder: &tempfile::TempDir) -> Held {
    let mut corpus = Corpus::new(1, AUTHORS);
    let (store, writer) = Store::open(folder.path(), Options::default()).unwrap();
    let runtime = Runtime::new().unwrap();
    let mut newest = Timestamp(0);
    for start in (0..events).step_by(BATCH) {
        let batch: Vec<_> =
            corpus.events(BATCH.min(events - start)).map(|event| verify(event).unwrap()).collect();
        newest = batch.iter().map(|event| event.created_at).max().max(Some(newest)).unwrap();
        runtime.block_on(writer.put_all(batch, Origin::Layer2)).unwrap();
    }
    let silent = Corpus::new(2, SILENT).authors();
    Held { store, authors: corpus.authors(), silent, newest }
}

/// Looks at nothing, or stops at once.
struct Page {
    found: u64,
    room: u64,
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        black_box(found.packed.len());
        self.found += 1;
        if self.found == self.room { Take::Last } else { Take::More }
    }
}

fn questions(held: &Held) -> Vec<(&'static str, Filter)> {
    let all = || Filter { limit: Some(LIMIT), ..Filter::default() };
    let tag =
        |name: &str, value: &str| (TagName::new(name).expect("a letter"), vec![value.to_owned()]);
    let famous = held.authors[0].to_string();
    let day = Some(Timestamp(held.newest.0 - 86_400));
    let some = held.authors[..500].to_vec();
    let many = [&held.authors[..], &held.silent[..]].concat();
    vec![
        ("all", all()),
        ("one author", Filter { authors: Some(some[..1].to_vec()), ..all() }),
        ("two kinds", Filter { kinds: Some(vec![Kind(1), Kind(7)]), ..all() }),
        ("one #p", Filter { tags: [tag("p", &famous)].into(), ..all() }),
        ("500 authors", Filter { authors: Some(some.clone()), ..all() }),
        (
            "500 authors, kind 1, the last day",
            Filter { authors: Some(some), kinds: Some(vec![Kind(1)]), since: day, ..all() },
        ),
        ("the last day", Filter { since: day, ..all() }),
        (
            "a #p and a #t",
            Filter { tags: [tag("p", &famous), tag("t", "bitcoin")].into(), ..all() },
        ),
        ("10,000 authors, half of them silent", Filter { authors: Some(many), ..all() }),
        ("5,000 silent authors", Filter { authors: Some(held.silent.clone()), ..all() }),
    ]
}

fn scans(criterion: &mut Criterion) {
    let events = std::env::var("AQUIFER_BENCH_EVENTS").map_or(100_000, |it| it.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let held = hold(events, &folder);
    let mut group = criterion.benchmark_group(format!("{events} events held"));
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    for (name, filter) in questions(&held) {
        let filters = [filter];
        for (part, room) in [("first", 1), ("newest 500", u64::MAX)] {
            group.bench_function(format!("{part} of {name}"), |bencher| {
                bencher.iter(|| {
                    let mut page = Page { found: 0, room };
                    held.store.page(&mut Scan::new(&filters), &mut page).unwrap();
                    page.found
                });
            });
        }
        let unlimited = [Filter { limit: None, ..filters[0].clone() }];
        group.bench_function(format!("count of {name}"), |bencher| {
            bencher.iter(|| held.store.count(&unlimited).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, scans);
criterion_main!(benches);
