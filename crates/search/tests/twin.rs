//! The index against its twin, which looks at every document, and its promises on the disk.

use std::collections::BTreeSet;

use event::{EventId, Filter, Kind, Packed, Timestamp, twin::Author};
use index::Seq;
use proptest::prelude::*;
use search::{Batch, Document, Hit, Index, Place, Query, Scale, Scope, Weight, Words};

const STAMP: &str = "a store";

/// What the index should know: documents by the order in which they came.
#[derive(Default)]
struct Twin {
    documents: Vec<Option<(Seq, Document)>>,
    scale: Scale,
}

impl Twin {
    fn add(&mut self, seq: Seq, document: Document) {
        self.scale = self.scale.with(document.length);
        self.documents.push(Some((seq, document)));
    }

    /// Every document looked at, and all that match put in order.
    fn answer(&self, query: &Query, filter: &Filter) -> Vec<Seq> {
        let held = || self.documents.iter().flatten();
        let rarity = |word: &String| {
            let found = held().filter(|(_, document)| document.words.contains_key(word)).count();
            self.scale.rarity(found as u64)
        };
        let matches = |document: &Document| {
            !query.words().is_empty()
                && query.words().iter().all(|word| document.words.contains_key(word))
                && filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&document.kind))
                && filter.since.is_none_or(|since| document.created_at >= since)
                && filter.until.is_none_or(|until| document.created_at <= until)
        };
        let score = |document: &Document| -> u32 {
            let of = |word| Weight::new(document.words[word], document.length);
            query.words().iter().map(|word| self.scale.score(rarity(word), of(word))).sum()
        };
        let mut found: Vec<_> = held().filter(|(_, document)| matches(document)).collect();
        found.sort_by_key(|(_, document)| {
            (u32::MAX - score(document), u64::MAX - document.created_at.0, document.id)
        });
        found.into_iter().map(|(seq, _)| *seq).collect()
    }
}

fn answer(index: &Index, query: &Query, filter: &Filter) -> Vec<Seq> {
    let mut ranking = index.rank(query, Scope::from(filter)).unwrap();
    // One segment at a time.
    while !index.go_on(&mut ranking, || false).unwrap() {}
    assert!(!ranking.is_cut());
    ranking.into_hits().into_iter().map(|hit| hit.seq).collect()
}

fn document(text: &str, kind: u16, created_at: u64, words: &Words) -> Option<Document> {
    let event = Author::new(1).sign(created_at, kind, &[], text).pack();
    Document::of(&Packed::parse(&event).unwrap(), words)
}

const VOCABULARY: [&str; 16] = [
    "tea",
    "Tea",
    "TÉA",
    "water",
    "well",
    "straße",
    "STRASSE",
    "東京",
    "で",
    "水を飲む",
    "ชา",
    "شاي",
    "☕",
    "#tea",
    "https://tea.example/x",
    "a",
];

fn text(words: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let word = prop::sample::select(&VOCABULARY[..]);
    (prop::collection::vec(word, words), prop_oneof![Just(" "), Just("、"), Just(", ")])
        .prop_map(|(words, between)| words.join(between))
}

#[derive(Clone, Debug)]
struct Written {
    text: String,
    kind: u16,
    created_at: u64,
}

fn written() -> impl Strategy<Value = Written> {
    let kind = prop_oneof![4 => Just(1u16), 1 => Just(11u16), 1 => Just(1_111u16)];
    (text(0..12), kind, 0u64..6).prop_map(|(text, kind, created_at)| Written {
        text,
        kind,
        created_at,
    })
}

fn filter() -> impl Strategy<Value = Filter> {
    let date = || prop::option::weighted(0.3, (0u64..6).prop_map(Timestamp));
    let kinds = prop::option::weighted(0.3, prop::collection::vec(Just(Kind(1)), 0..2));
    (kinds, date(), date()).prop_map(|(kinds, since, until)| Filter {
        kinds,
        since,
        until,
        ..Filter::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_index_finds_and_orders_what_its_twin_does(
        batches in prop::collection::vec(prop::collection::vec(written(), 0..6), 0..24),
        questions in prop::collection::vec((text(0..4), filter()), 1..8),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (words, mut twin) = (Words::default(), Twin::default());
        let index = Index::open(folder.path(), STAMP).unwrap();
        let mut seq = Seq(0);
        for batch in batches {
            let mut documents = Vec::new();
            for Written { text, kind, created_at } in batch {
                if let Some(document) = document(&text, kind, created_at, &words) {
                    // What is equal in all else would be one event.
                    if twin.documents.iter().flatten().all(|(_, known)| known.id != document.id) {
                        twin.add(seq, document.clone());
                        documents.push((seq, document));
                    }
                }
                seq = seq.next();
            }
            index.commit(&Batch { documents, position: seq, ..Batch::default() }).unwrap();
            while index.merge().unwrap() {}
        }
        prop_assert_eq!(index.position().unwrap(), seq);
        prop_assert!(index.figures().unwrap().segments < 24);
        let asked: Vec<(Query, Filter)> =
            questions.into_iter().map(|(text, filter)| (Query::parse(&text, &words), filter)).collect();
        for (query, filter) in &asked {
            prop_assert_eq!(answer(&index, query, filter), twin.answer(query, filter), "{:?}", query);
        }
        // What is gone still counts in scores until segments are written anew, but is not found.
        let mut places = Vec::new();
        for at in gone {
            if !twin.documents.is_empty() {
                let at = at.index(twin.documents.len());
                twin.documents[at] = None;
                places.extend(index.documents(Place::FIRST, 1_000).unwrap().into_iter()
                    .map(|(place, _)| place).filter(|place| *place == nth(at)));
            }
        }
        index.commit(&Batch { gone: places, position: seq, ..Batch::default() }).unwrap();
        for is_merged in [false, true] {
            while is_merged && index.merge().unwrap() {}
            for (query, filter) in &asked {
                let found: BTreeSet<Seq> = answer(&index, query, filter).into_iter().collect();
                let expected: BTreeSet<Seq> = twin.answer(query, filter).into_iter().collect();
                prop_assert_eq!(found, expected, "{:?}", query);
            }
        }
        let held = twin.documents.iter().flatten().count() as u64;
        prop_assert_eq!(index.figures().unwrap().documents, held);
    }
}

/// The place of the document that came as number `at`.
fn nth(at: usize) -> Place {
    (0..at).fold(Place::FIRST, |place, _| place.next())
}

fn commit(index: &Index, first: u64, texts: &[&str]) {
    let words = Words::default();
    let made = texts.iter().zip(first..);
    let documents = made.map(|(text, seq)| (Seq(seq), document(text, 1, seq, &words).unwrap()));
    let documents: Vec<_> = documents.collect();
    let position = Seq(first + documents.len() as u64);
    index.commit(&Batch { documents, position, ..Batch::default() }).unwrap();
}

fn find(index: &Index, text: &str) -> Vec<u64> {
    let query = Query::parse(text, &Words::default());
    answer(index, &query, &Filter::default()).into_iter().map(|seq| seq.0).collect()
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), STAMP).unwrap();
    commit(&index, 0, &["green tea", "water"]);
    drop(index);
    let index = Index::open(folder.path(), STAMP).unwrap();
    assert_eq!((index.position().unwrap(), find(&index, "tea")), (Seq(2), vec![0]));
    commit(&index, 2, &["black tea"]);
    assert_eq!(find(&index, "tea"), [2, 0]);
}

#[test]
fn the_index_of_another_store_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    commit(&Index::open(folder.path(), STAMP).unwrap(), 0, &["tea"]);
    let index = Index::open(folder.path(), "another store").unwrap();
    assert_eq!((index.position().unwrap(), find(&index, "tea")), (Seq(0), vec![]));
}

#[test]
fn a_damaged_file_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    commit(&Index::open(folder.path(), STAMP).unwrap(), 0, &["tea"]);
    std::fs::write(folder.path().join("data.mdb"), [7; 10_000]).unwrap();
    let index = Index::open(folder.path(), STAMP).unwrap();
    assert_eq!(index.position().unwrap(), Seq(0));
    commit(&index, 0, &["tea"]);
    assert_eq!(find(&index, "tea"), [0]);
}

#[test]
fn what_is_discarded_is_answered_from_until_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), STAMP).unwrap();
    commit(&index, 0, &["tea"]);
    index.discard().unwrap();
    assert_eq!(find(&index, "tea"), [0]);
    drop(index);
    assert!(find(&Index::open(folder.path(), STAMP).unwrap(), "tea").is_empty());
}

#[test]
fn what_could_not_be_read_is_remembered_until_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), STAMP).unwrap();
    let unread = vec![Seq(3), Seq(5), Seq(8)];
    index.commit(&Batch { unread, position: Seq(9), ..Batch::default() }).unwrap();
    assert_eq!(index.unread(Seq(4), 1).unwrap(), [Seq(5)]);
    index.commit(&Batch { read: vec![Seq(5)], position: Seq(9), ..Batch::default() }).unwrap();
    assert_eq!(index.unread(Seq(0), 9).unwrap(), [Seq(3), Seq(8)]);
    assert_eq!(index.figures().unwrap().unread, 2);
}

#[test]
fn a_word_of_many_documents_is_found_in_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), STAMP).unwrap();
    // More than one chunk of postings, in segments that were merged.
    for first in (0..8_000).step_by(1_000) {
        commit(&index, first, &["tea and water"; 1_000]);
    }
    while index.merge().unwrap() {}
    assert_eq!(index.figures().unwrap().segments, 1);
    assert_eq!(find(&index, "water tea"), (0..8_000).rev().collect::<Vec<_>>());
}

#[test]
fn a_hit_knows_its_event() {
    let hit = Hit { seq: Seq(0), id_start: [1; 6] };
    assert!(hit.is(&EventId([1; 32])));
    assert!(!hit.is(&EventId([2; 32])));
}
