//! What it costs to keep words, and to find them: `cargo bench -p search`. SEARCH_EVENTS says among how
//! many events (100,000).
//!
//! Notes have 2 to 45 words of a vocabulary of 100,000, by Zipf's law, as languages have them. Time and
//! disk per event are printed before the questions are measured.

use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use event::{Event, EventId, Filter, Kind, Packed, PublicKey, Signature, Timestamp};
use index::Seq;
use rand::{Rng, SeedableRng, rngs::StdRng};
use search::{Batch, Document, Index, Query, Scope, Words};

const VOCABULARY: usize = 100_000;
const BATCH: usize = 1_000;

/// Notes of words by rank: the word of rank 1 is the commonest.
struct Notes {
    random: StdRng,
    shares: Vec<f64>,
}

impl Notes {
    fn new() -> Notes {
        let mut sum = 0.0;
        let shares: Vec<f64> = (1..=VOCABULARY)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Notes {
            random: StdRng::seed_from_u64(7),
            shares: shares.iter().map(|it| it / sum).collect(),
        }
    }

    fn note(&mut self, number: u64) -> Vec<u8> {
        let words = self.random.random_range(2..46);
        let content: Vec<String> = (0..words)
            .map(|_| {
                let point = self.random.random::<f64>();
                format!("word{}", self.shares.partition_point(|share| *share < point) + 1)
            })
            .collect();
        let id = EventId(self.random.random());
        let event = Event {
            id,
            pubkey: PublicKey([1; 32]),
            created_at: Timestamp(1_700_000_000 + number),
            kind: Kind(if number.is_multiple_of(50) { 30_023 } else { 1 }),
            tags: Vec::new(),
            content: content.join(" "),
            sig: Signature([0; 64]),
        };
        event.pack()
    }
}

fn measure(criterion: &mut Criterion) {
    let count = std::env::var("SEARCH_EVENTS").map_or(100_000, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), "bench").unwrap();
    let (words, mut notes) = (Words::default(), Notes::new());
    let (mut reading, mut writing, mut bytes) = (0.0, 0.0, 0);
    for first in (0..count).step_by(BATCH) {
        let packed: Vec<Vec<u8>> =
            (first..first + BATCH).map(|number| notes.note(number as u64)).collect();
        bytes += packed.iter().map(Vec::len).sum::<usize>();
        let started = Instant::now();
        let read = packed.iter().zip(first as u64..).filter_map(|(packed, seq)| {
            let document = Document::of(&Packed::trusted(packed).unwrap(), &words)?;
            Some((Seq(seq), document))
        });
        let documents: Vec<_> = read.collect();
        reading += started.elapsed().as_secs_f64();
        let started = Instant::now();
        let position = Seq((first + BATCH) as u64);
        index.commit(&Batch { documents, position, ..Batch::default() }).unwrap();
        while index.merge().unwrap() {}
        writing += started.elapsed().as_secs_f64();
    }
    let figures = index.figures().unwrap();
    let each = |seconds: f64| seconds * 1e6 / count as f64;
    println!(
        "{count} events of {} bytes, packed: {:.1} µs each to find their words, {:.1} µs to write them; \
         {} bytes each in use, {} on disk, {} segments",
        bytes / count,
        each(reading),
        each(writing),
        figures.bytes_in_use / count as u64,
        figures.bytes_on_disk / count as u64,
        figures.segments,
    );
    for (name, text, kinds) in [
        ("a rare word", "word5000", None),
        ("a word in every tenth note", "word20", None),
        ("the commonest word", "word1", None),
        ("the commonest word, articles alone", "word1", Some(vec![Kind(30_023)])),
        ("three words", "word3 word40 word300", None),
        ("no such word", "wordless", None),
    ] {
        let query = Query::parse(text, &words);
        let filter = Filter { kinds, ..Filter::default() };
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut ranking = index.rank(&query, Scope::from(&filter)).unwrap();
                while !index.go_on(&mut ranking, || true).unwrap() {}
                ranking.into_hits().len()
            });
        });
    }
    let text = "私は東京で水を飲みます。我们在北京喝咖啡。ฉันรักภาษาไทย".repeat(3);
    criterion.bench_function("words of 96 letters without spaces", |bencher| {
        bencher.iter(|| words.list(&text).len());
    });
}

criterion_group!(benches, measure);
criterion_main!(benches);
