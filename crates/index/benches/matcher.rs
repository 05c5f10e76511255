//! One event held against 1,000 filters, as when nothing narrows them down: `cargo bench -p index`.

use std::hint::black_box;

use corpus::Corpus;
use criterion::{Criterion, criterion_group, criterion_main};
use event::{Event, Filter, Kind, Packed, PublicKey, TagName};
use index::Matcher;

const FILTERS: usize = 1_000;
const EVENTS: usize = 100;

/// The filter of this number, given all authors.
type Shape = fn(&[PublicKey], usize) -> Filter;

fn matchers(criterion: &mut Criterion) {
    let mut corpus = Corpus::new(1, FILTERS);
    let authors = corpus.authors();
    let packed: Vec<Vec<u8>> = corpus.events(EVENTS).map(|event: Event| event.pack()).collect();
    let shapes: [(&str, Shape); 3] = [
        ("kinds", |_, number| Filter {
            kinds: Some(vec![Kind(number as u16 % 10), Kind(1)]),
            ..Filter::default()
        }),
        ("100 authors", |authors, number| Filter {
            authors: Some((0..100).map(|other| authors[(number + 7 * other) % FILTERS]).collect()),
            ..Filter::default()
        }),
        ("a #p", |authors, number| Filter {
            tags: [(TagName::new("p").expect("a letter"), vec![authors[number].to_string()])]
                .into(),
            ..Filter::default()
        }),
    ];
    for (name, filter) in shapes {
        let matchers: Vec<Matcher> =
            (0..FILTERS).map(|number| Matcher::new(&filter(&authors, number))).collect();
        let mut next = packed.iter().cycle();
        criterion.bench_function(&format!("one event, 1,000 filters of {name}"), |bencher| {
            bencher.iter(|| {
                let bytes = next.next().expect("a cycle has no end");
                let event = Packed::trusted(black_box(bytes)).unwrap();
                matchers.iter().filter(|matcher| matcher.matches(&event)).count()
            });
        });
    }
}

criterion_group!(benches, matchers);
criterion_main!(benches);
