//! What a client types (NIP-50): words, all of which are to occur, and phrases in quotation marks.
//!
//! `key:value` are extensions; this index knows none, and as NIP-50 has it, they are ignored. Without any
//! word nothing is found.

use event::Packed;

use crate::{Words, document::each_text};

/// So much of a question is read.
const QUERY_BYTES_MAX: usize = 1_024;
/// Different words of a question. More are ignored.
const QUERY_WORDS_MAX: usize = 32;

/// A question that was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Each once.
    pub(crate) words: Vec<String>,
    /// Words that are to stand in this order, with nothing in between.
    phrases: Vec<Vec<String>>,
}

impl Query {
    pub fn parse(text: &str, words: &Words) -> Query {
        let text = &text[..text.floor_char_boundary(QUERY_BYTES_MAX)];
        let mut query = Query::default();
        // What stands in quotation marks comes second, fourth, …
        for (number, part) in text.split('"').enumerate() {
            if number % 2 == 1 {
                query.add_phrase(words.list(part));
            } else {
                let asked = part.split_whitespace().filter(|piece| !is_extension(piece));
                asked.for_each(|piece| words.each(piece, |word| query.add(word)));
            }
        }
        query
    }

    /// The words to look for.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether words alone do not decide.
    pub fn has_phrases(&self) -> bool {
        !self.phrases.is_empty()
    }

    /// Whether each phrase stands in one of the event's texts. Of a stub nobody can say; it is taken for
    /// its words.
    pub fn phrases_in(&self, event: &Packed<'_>, words: &Words) -> bool {
        if self.phrases.is_empty() || event.is_stub() {
            return true;
        }
        let mut missing: Vec<&Vec<String>> = self.phrases.iter().collect();
        each_text(event, |text, _| {
            let text = words.list(text);
            missing.retain(|phrase| !text.windows(phrase.len()).any(|words| words == &phrase[..]));
        });
        missing.is_empty()
    }

    fn add(&mut self, word: &str) {
        if self.words.len() < QUERY_WORDS_MAX && !self.words.iter().any(|known| known == word) {
            self.words.push(word.to_owned());
        }
    }

    fn add_phrase(&mut self, phrase: Vec<String>) {
        phrase.iter().for_each(|word| self.add(word));
        if phrase.len() > 1 {
            self.phrases.push(phrase);
        }
    }
}

/// Whether this is `key:value`, and neither a URL nor an identifier.
fn is_extension(piece: &str) -> bool {
    let Some((key, value)) = piece.split_once(':') else { return false };
    let is_key = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    is_key && !value.is_empty() && !value.starts_with('/')
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(Query::parse(text, &Words::default()).words, expected, "{text}");
    }

    #[test]
    fn words_are_asked_for_once_and_extensions_not_at_all() {
        check("Best best nostr #apps", &["best", "nostr", "apps"]);
        check("orange include:spam domain:example.com language:en nsfw:false -x", &["orange", "x"]);
        check("note: see https://example.com/x", &["note", "see", "example", "com"]);
        check("", &[]);
        check("include:spam", &[]);
        check("…", &[]);
    }

    #[test]
    fn a_question_has_an_end() {
        let words: Vec<String> = (0..100).map(|number| format!("w{number}")).collect();
        assert_eq!(Query::parse(&words.join(" "), &Words::default()).words.len(), QUERY_WORDS_MAX);
        Query::parse(&"東".repeat(10_000), &Words::default());
    }

    #[track_caller]
    fn check_phrases(query: &str, content: &str, expected: bool) {
        let words = Words::default();
        let event = Author::new(1).sign(1_000, 1, &[&["subject", "A Fine Day"]], content).pack();
        let event = Packed::parse(&event).unwrap();
        assert_eq!(Query::parse(query, &words).phrases_in(&event, &words), expected, "{query}");
    }

    #[test]
    fn a_phrase_stands_in_one_text_in_one_piece() {
        check_phrases(r#""good morning""#, "Good, morning!", true);
        check_phrases(r#""good morning""#, "morning, good", false);
        check_phrases(r#""fine day" tea"#, "tea", true);
        check_phrases(r#""day good""#, "good", false);
        check_phrases(r#""good morning"#, "good morning", true);
        check_phrases(r#"good morning"#, "morning", true);
    }
}
