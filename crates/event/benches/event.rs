//! What an event costs a processor on its way: to be read, checked, packed and written again. Over 100
//! events of [`corpus`], because sizes differ: `cargo bench -p event`.

use std::hint::black_box;

use corpus::Corpus;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use event::{Event, Packed, verify};

const EVENTS: usize = 100;

fn events(criterion: &mut Criterion) {
    let events: Vec<Event> = Corpus::new(1, 50).events(EVENTS).collect();
    let jsons: Vec<String> = events.iter().map(Event::to_json).collect();
    let packed: Vec<Vec<u8>> = events.iter().map(Event::pack).collect();
    let mut group = criterion.benchmark_group("100 events");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("read from JSON", |bencher| {
        bencher.iter(|| {
            for json in &jsons {
                black_box(Event::from_json(black_box(json.as_bytes())).unwrap());
            }
        });
    });
    group.bench_function("verify id and signature", |bencher| {
        let clones = || events.clone();
        bencher.iter_batched(
            clones,
            |events| events.into_iter().for_each(|event| drop(black_box(verify(event).unwrap()))),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("pack", |bencher| {
        bencher.iter(|| events.iter().for_each(|event| drop(black_box(event.pack()))));
    });
    group.bench_function("unpack, checking every byte", |bencher| {
        bencher.iter(|| {
            for bytes in &packed {
                black_box(Packed::parse(black_box(bytes)).unwrap().unpack());
            }
        });
    });
    group.bench_function("write packed ones as JSON", |bencher| {
        let mut json = Vec::new();
        bencher.iter(|| {
            json.clear();
            for bytes in &packed {
                Packed::trusted(black_box(bytes)).unwrap().write_json(&mut json);
            }
            black_box(json.len())
        });
    });
    group.finish();
}

criterion_group!(benches, events);
criterion_main!(benches);
