//! The corpus is what it says: valid, reproducible, and of the sizes that figures are stated for.

use std::collections::BTreeMap;

use corpus::Corpus;
use event::{Event, verify};

fn events(seed: u64, count: usize) -> Vec<Event> {
    Corpus::new(seed, 100).events(count).collect()
}

#[test]
fn every_event_verifies() {
    events(1, 300).into_iter().for_each(|event| drop(verify(event).unwrap()));
}

#[test]
fn a_seed_gives_the_same_events_and_another_seed_others() {
    assert_eq!(events(7, 200), events(7, 200));
    let mut continued = Corpus::new(7, 100);
    let first: Vec<Event> = continued.events(50).collect();
    assert_eq!([first, continued.events(150).collect()].concat(), events(7, 200));
    let (one, other) = (events(7, 200), events(8, 200));
    assert!(one.iter().all(|event| !other.contains(event)));
}

#[test]
fn events_have_the_size_and_the_tags_that_figures_speak_of() {
    let events = events(1, 20_000);
    let mean = |sizes: &dyn Fn(&Event) -> usize| {
        events.iter().map(sizes).sum::<usize>() as f64 / events.len() as f64
    };
    let json = mean(&|event| event.to_json().len());
    assert!((570.0..630.0).contains(&json), "{json} bytes of JSON");
    let tags = mean(&|event| event.tags.len());
    assert!((2.0..3.5).contains(&tags), "{tags} tags");
}

#[test]
fn few_authors_write_most() {
    let mut by_author: BTreeMap<_, usize> = BTreeMap::new();
    events(1, 5_000).iter().for_each(|event| *by_author.entry(event.pubkey).or_default() += 1);
    let mut counts: Vec<usize> = by_author.into_values().collect();
    counts.sort_unstable();
    let top_ten: usize = counts.iter().rev().take(10).sum();
    assert!(top_ten > 2_000 && counts.len() > 80, "{counts:?}");
}
