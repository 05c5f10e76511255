//! What of an event is searched.
//!
//! Kinds that hold text for people: of these the content, and the tags that name or describe it. The
//! content of some is JSON, and then only what people read in it. Titles and names count three times.
//! Nothing is searched that is encrypted, nothing that only repeats another event (reposts, zaps), and
//! drafts neither.

use std::collections::HashMap;

use event::{EventId, Kind, Packed, Timestamp, packed::Value};
use serde_json::Value as Json;

use crate::Words;

/// Whose content is text.
const TEXTS: [u16; 31] = [
    1, 9, 11, 20, 21, 22, 24, 42, 1_063, 1_068, 1_111, 1_311, 1_617, 1_621, 1_622, 2_003, 9_802,
    30_000, 30_003, 30_004, 30_005, 30_023, 30_311, 30_315, 30_402, 30_617, 30_818, 31_922, 31_923,
    34_235, 34_550,
];
/// Whose content is JSON, with names and descriptions: profiles, channels, stalls, products, programs.
const OBJECTS: [u16; 6] = [0, 40, 41, 30_017, 30_018, 31_990];
/// Whose tags alone are text: short videos, groups.
const TAGGED: [u16; 2] = [34_236, 39_000];
/// Tags, and keys of JSON, that name something.
const NAMES: [&str; 5] = ["title", "name", "display_name", "subject", "t"];
/// The same that describe something.
const DESCRIPTIONS: [&str; 5] = ["summary", "description", "about", "alt", "nip05"];
/// How often a word in a name counts.
const NAME_TIMES: u32 = 3;
/// Different words of one event. Who writes more is found by the first.
const WORDS_MAX: usize = 4_096;

/// Whether events of this kind are searched.
pub fn is_searched(kind: Kind) -> bool {
    [&TEXTS[..], &OBJECTS, &TAGGED].iter().any(|kinds| kinds.contains(&kind.0))
}

/// The words of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub created_at: Timestamp,
    pub kind: Kind,
    pub id: EventId,
    /// How often each word counts.
    pub words: HashMap<String, u32>,
    /// How many words there are.
    pub length: u32,
}

impl Document {
    /// None: there is nothing to be found in it. Of a stub nobody knows.
    pub fn of(event: &Packed<'_>, words: &Words) -> Option<Document> {
        if !is_searched(event.kind()) || event.is_stub() {
            return None;
        }
        let mut document = Document {
            created_at: event.created_at(),
            kind: event.kind(),
            id: event.id(),
            words: HashMap::new(),
            length: 0,
        };
        each_text(event, |text, times| {
            words.each(text, |word| document.add(word, times));
        });
        (document.length > 0).then_some(document)
    }

    fn add(&mut self, word: &str, times: u32) {
        if let Some(sum) = self.words.get_mut(word) {
            *sum = sum.saturating_add(times);
        } else if self.words.len() < WORDS_MAX {
            self.words.insert(word.to_owned(), times);
        } else {
            return;
        }
        self.length += 1;
    }
}

/// Calls `each` for every text of an event, with how often it counts.
pub(crate) fn each_text(event: &Packed<'_>, mut each: impl FnMut(&str, u32)) {
    for mut tag in event.tags() {
        if let (Some(Value::Text(name)), Some(Value::Text(text))) = (tag.next(), tag.next())
            && let Some(times) = times_of(name)
        {
            each(text, times);
        }
    }
    let kind = event.kind().0;
    if TEXTS.contains(&kind) {
        each(event.content(), 1);
    } else if OBJECTS.contains(&kind)
        && let Ok(Json::Object(object)) = serde_json::from_str(event.content())
    {
        for (name, value) in &object {
            if let (Some(times), Json::String(text)) = (times_of(name), value) {
                each(text, times);
            }
        }
    }
}

/// How often what has this name counts, if it is searched.
fn times_of(name: &str) -> Option<u32> {
    if NAMES.contains(&name) {
        return Some(NAME_TIMES);
    }
    DESCRIPTIONS.contains(&name).then_some(1)
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;

    #[track_caller]
    fn check(kind: u16, tags: &[&[&str]], content: &str, expected: &[(&str, u32)]) {
        let event = Author::new(1).sign(1_000, kind, tags, content).pack();
        let document = Document::of(&Packed::parse(&event).unwrap(), &Words::default());
        let mut found: Vec<(String, u32)> =
            document.map_or(Vec::new(), |document| document.words.into_iter().collect());
        found.sort();
        let expected: Vec<(String, u32)> =
            expected.iter().map(|(word, times)| ((*word).to_owned(), *times)).collect();
        assert_eq!(found, expected, "kind {kind}: {content}");
    }

    #[test]
    fn a_note_is_its_content_and_its_hashtags() {
        check(
            1,
            &[&["t", "Tea"], &["e", "x"], &["client", "y"]],
            "tea time",
            &[("tea", 4), ("time", 1)],
        );
    }

    #[test]
    fn a_title_counts_more_than_what_it_stands_above() {
        let tags: [&[&str]; 3] = [&["title", "Wells"], &["summary", "on water"], &["d", "x"]];
        check(30_023, &tags, "water", &[("on", 1), ("water", 2), ("wells", 3)]);
    }

    #[test]
    fn a_profile_is_what_people_read_in_it() {
        let content = r#"{"name":"bob","about":"builds","picture":"https://a.example/x","nip05":"bob@b.example","age":7}"#;
        check(0, &[], content, &[("b", 1), ("bob", 4), ("builds", 1), ("example", 1)]);
        check(0, &[], "no JSON", &[]);
        check(0, &[], "[1]", &[]);
    }

    #[test]
    fn what_is_for_few_or_says_nothing_of_its_own_is_not_searched() {
        for kind in
            [3, 4, 5, 6, 7, 13, 14, 15, 1_059, 9_735, 10_002, 20_001, 21_059, 30_024, 30_078]
        {
            check(kind, &[&["title", "secret"]], "secret", &[]);
        }
    }

    #[test]
    fn nothing_to_read_is_no_document() {
        check(1, &[], " \n…", &[]);
        let stub = Author::new(1).sign(1_000, 1, &[&["t", "tea"]], "tea").pack();
        let stub = Packed::parse(&stub).unwrap().to_stub();
        assert_eq!(Document::of(&Packed::trusted(&stub).unwrap(), &Words::default()), None);
    }
}
