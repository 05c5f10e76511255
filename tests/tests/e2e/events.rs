//! Events for the stories, and what must be left of them.

use std::{collections::BTreeMap, path::PathBuf};

use event::{
    Event, EventId, Verified,
    twin::{Author, NaiveStore},
};

/// Events by id: what a store holds.
pub type Events = BTreeMap<EventId, Event>;

/// Events that people published, as a relay would be given them: see `tests/data/README.md`.
pub fn real_events() -> Vec<Event> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/real-events.jsonl");
    let text = std::fs::read_to_string(path).expect("the real events are in the checkout");
    text.lines().map(|line| Event::from_json(line.as_bytes()).expect("they are events")).collect()
}

/// The real events with a life among them.
pub fn real_events_and_a_life() -> Vec<Event> {
    let mut events = real_events();
    for (number, event) in a_life().into_iter().enumerate() {
        // Spread among the others, order kept.
        events.insert(20 + 31 * number, event);
    }
    events
}

/// The life of one author: versions of a profile and of an article in both orders, deletions before
/// and after what they delete and by somebody who may not, an ephemeral event, and one that comes
/// twice.
pub fn a_life() -> Vec<Event> {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let note = ann.sign(1_700_000_100, 1, &[], "I shall regret this");
    let kept = ann.sign(1_700_000_101, 1, &[], "and not this \u{1f600}\n\"\\\u{7f}");
    let unborn = ann.sign(1_700_000_102, 1, &[], "deleted before it came");
    let profile = |at, name: &str| ann.sign(at, 0, &[], name);
    let article = |at, text: &str| ann.sign(at, 30_023, &[&["d", "on water"]], text);
    let address = format!("30023:{}:on water", ann.pubkey());
    let delete = |who: &Author, event: &Verified| {
        who.sign(1_700_000_500, 5, &[&["e", &event.id.to_string()]], "")
    };
    let told = [
        profile(1_700_000_000, "Ann, first"),
        note.clone(),
        profile(1_700_000_010, "Ann, second"),
        delete(&ann, &unborn),
        profile(1_700_000_005, "Ann, too late"),
        delete(&ann, &note),
        note,
        delete(&bob, &kept),
        kept.clone(),
        unborn,
        article(1_700_000_200, "springs"),
        kept,
        ann.sign(1_700_000_300, 5, &[&["a", &address]], ""),
        article(1_700_000_250, "wells"),
        article(1_700_000_400, "aquifers"),
        ann.sign(1_700_000_401, 20_001, &[], "typing"),
    ];
    told.into_iter().map(Verified::into_inner).collect()
}

/// `count` notes of author number `author`, of about `bytes` each.
pub fn notes(author: u8, count: usize, bytes: usize) -> Vec<Event> {
    const SURROUNDINGS: usize = 340;
    let author = Author::new(author);
    let note = |number| {
        let text = format!("note {number} {}", "water ".repeat(bytes));
        let text = &text[..bytes.saturating_sub(SURROUNDINGS).max(16)];
        author.sign(1_700_001_000 + number as u64, 1, &[&["t", "water"]], text).into_inner()
    };
    (0..count).map(note).collect()
}

/// What NIP-01 and NIP-09 leave of these, in this order of arrival.
pub fn left_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Events {
    let mut twin = NaiveStore::default();
    for event in events {
        twin.save(event);
    }
    by_id(twin.live().iter().cloned())
}

pub fn by_id(events: impl IntoIterator<Item = Event>) -> Events {
    events.into_iter().map(|event| (event.id, event)).collect()
}

/// One event a line, as `aquifer import` reads them.
pub fn jsonl(events: &[Event]) -> String {
    events.iter().map(|event| event.to_json() + "\n").collect()
}

/// Says what differs, and not all that is the same.
pub fn difference(expected: &Events, found: &Events) -> Option<String> {
    let missing: Vec<_> = expected.values().filter(|e| !found.contains_key(&e.id)).collect();
    let extra: Vec<_> = found.values().filter(|e| !expected.contains_key(&e.id)).collect();
    let changed = expected.values().filter(|e| found.get(&e.id).is_some_and(|f| f != *e)).count();
    if missing.is_empty() && extra.is_empty() && changed == 0 {
        return None;
    }
    let some = |events: &[&Event]| {
        let few = events.iter().take(3).map(|e| format!("kind {} {}", e.kind, e.id));
        few.collect::<Vec<_>>().join(", ")
    };
    Some(format!(
        "of {} events {} are missing ({}), {} too many ({}), {changed} changed",
        expected.len(),
        missing.len(),
        some(&missing),
        extra.len(),
        some(&extra)
    ))
}
