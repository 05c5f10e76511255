//! Text into words: where they begin and end, and in what spelling they are kept.
//!
//! Spaces part a text into pieces. A piece of plain ASCII is cut where it is neither letter nor digit,
//! which is what Unicode's rules come to there; all else goes through the segmenter of ICU, which has
//! dictionaries and models for Chinese, Japanese, Thai, Khmer, Lao and Burmese. What joins words into
//! longer ones (`don't`, `foo_bar`, `example.com`) parts them here, so that each is found alone.
//!
//! Of a URL only the host is kept: paths are mostly numbers. Bech32 identifiers (NIP-19) are dropped.

use std::borrow::Cow;

use icu_normalizer::{
    ComposingNormalizerBorrowed as Compose, DecomposingNormalizerBorrowed as Decompose,
};
use icu_segmenter::{WordSegmenter, WordSegmenterBorrowed, options::WordBreakInvariantOptions};

/// So much of one text is read.
const TEXT_BYTES_MAX: usize = 64 * 1_024;
/// Longer words are cut. No language has them; what is longer is a hash, and found by its beginning.
pub const WORD_BYTES_MAX: usize = 40;
/// An identifier of NIP-19 has at least so many characters.
const IDENTIFIER_CHARS_MIN: usize = 50;
const IDENTIFIERS: [&str; 7] =
    ["npub1", "nsec1", "note1", "nevent1", "nprofile1", "naddr1", "nrelay1"];

/// Cuts texts into words.
#[derive(Debug)]
pub struct Words {
    segmenter: WordSegmenterBorrowed<'static>,
    decompose: Decompose<'static>,
    compose: Compose<'static>,
}

impl Default for Words {
    fn default() -> Words {
        Words {
            segmenter: WordSegmenter::new_auto(WordBreakInvariantOptions::default()),
            decompose: Decompose::new_nfkd(),
            compose: Compose::new_nfc(),
        }
    }
}

impl Words {
    /// Calls `each` for every word of `text`, in order.
    pub fn each(&self, text: &str, mut each: impl FnMut(&str)) {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        for piece in text.split_whitespace() {
            self.each_of_piece(piece, &mut each);
        }
    }

    /// The words of `text` in a list.
    pub fn list(&self, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        self.each(text, |word| words.push(word.to_owned()));
        words
    }

    fn each_of_piece(&self, mut piece: &str, each: &mut impl FnMut(&str)) {
        while let Some(Url { before, host, after }) = Url::find(piece) {
            self.each_of_text(before, each);
            self.each_of_text(host.strip_prefix("www.").unwrap_or(host), each);
            piece = after;
        }
        self.each_of_text(piece, each);
    }

    fn each_of_text(&self, text: &str, each: &mut impl FnMut(&str)) {
        if text.is_ascii() {
            return each_ascii(text, each);
        }
        let mut start = 0;
        for (end, kind) in self.segmenter.segment_str(text).iter_with_word_type() {
            let segment = &text[start..end];
            start = end;
            if segment.chars().next().is_some_and(is_emoji) {
                keep_emoji(segment, each);
            } else if kind.is_word_like() {
                segment.split(joins).for_each(|part| self.keep(part, each));
            }
        }
    }

    /// Hands on one word in the spelling that is kept.
    fn keep(&self, word: &str, each: &mut impl FnMut(&str)) {
        if word.is_ascii() {
            return each_ascii(word, each);
        }
        let mut folded = String::with_capacity(word.len());
        let mut base = '\0';
        let decomposed = self.decompose.normalize(word);
        for c in decomposed.chars().flat_map(char::to_lowercase) {
            if !is_mark_to_drop(c, base) {
                fold(c, &mut folded);
            }
            if !is_mark(c) {
                base = c;
            }
        }
        let composed: Cow<'_, str> = self.compose.normalize(&folded);
        if !composed.is_empty() {
            each(cut(&composed));
        }
    }
}

/// A URL in a piece of text, and what stands around it.
struct Url<'t> {
    before: &'t str,
    host: &'t str,
    after: &'t str,
}

impl<'t> Url<'t> {
    fn find(piece: &'t str) -> Option<Url<'t>> {
        let colon = piece.find("://")?;
        let scheme = piece[..colon].rfind(|c: char| !c.is_ascii_alphanumeric());
        let before = &piece[..scheme.map_or(0, |at| at + next_char(piece, at))];
        let rest = &piece[colon + 3..];
        // Other letters than ASCII stand in URLs percent-encoded; in text they follow them without a space.
        let ends = |c: char| !c.is_ascii() || matches!(c, '<' | '>' | '"' | '\'' | ')' | ']' | '|');
        let (url, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        let host = url.split(['/', '?', '#', ':', '@']).next().unwrap_or_default();
        Some(Url { before, host, after })
    }
}

fn next_char(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(0, char::len_utf8)
}

fn each_ascii(text: &str, each: &mut impl FnMut(&str)) {
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        let is_scheme = word == "nostr" && after.starts_with(':') && after.len() > 1;
        if is_scheme || is_identifier(word) {
            continue;
        }
        let word = &word[..word.len().min(WORD_BYTES_MAX)];
        if word.bytes().any(|byte| byte.is_ascii_uppercase()) {
            each(&word.to_ascii_lowercase());
        } else {
            each(word);
        }
    }
}

fn is_identifier(word: &str) -> bool {
    word.len() >= IDENTIFIER_CHARS_MIN && IDENTIFIERS.iter().any(|start| word.starts_with(start))
}

/// What UAX 29 lets stand within a word.
fn joins(c: char) -> bool {
    !c.is_alphanumeric()
        && (c.is_ascii()
            || matches!(
                c,
                '\u{2018}'
                    | '\u{2019}'
                    | '\u{b7}'
                    | '\u{2027}'
                    | '\u{203f}'
                    | '\u{2040}'
                    | '\u{ff0e}'
                    | '\u{ff07}'
                    | '\u{ff3f}'
                    | '\u{ff1a}'
                    | '\u{ff0c}'
            ))
}

fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}' | '\u{670}' | '\u{6d6}'..='\u{6ed}' | '\u{3099}' | '\u{309a}')
}

/// Whether a word with this mark is spelled without it, too: accents of Latin and Greek, points of Hebrew
/// and Arabic. In other scripts such marks make other letters: й is no и, が is no か.
fn is_mark_to_drop(c: char, base: char) -> bool {
    match c {
        '\u{308}' => base < '\u{400}' || base == 'е',
        '\u{300}'..='\u{36f}' => base < '\u{400}' || !('\u{400}'..'\u{530}').contains(&base),
        '\u{3099}' | '\u{309a}' => false,
        // Arabic's lengthening stroke is no mark, and says as little.
        '\u{640}' => true,
        _ => is_mark(c),
    }
}

/// What decomposition leaves, and people type without.
fn fold(c: char, folded: &mut String) {
    match c {
        'ß' => folded.push_str("ss"),
        'æ' => folded.push_str("ae"),
        'œ' => folded.push_str("oe"),
        'ø' => folded.push('o'),
        'đ' | 'ð' => folded.push('d'),
        'ł' => folded.push('l'),
        'ı' => folded.push('i'),
        'ς' => folded.push('σ'),
        // What a ligature or an invisible character comes to.
        c if c.is_whitespace()
            || c.is_control()
            || (c.is_ascii() && !c.is_ascii_alphanumeric()) => {}
        '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{ad}' | '\u{feff}' => {}
        c => folded.push(c),
    }
}

fn is_emoji(c: char) -> bool {
    matches!(c, '\u{1f300}'..='\u{1faff}' | '\u{2600}'..='\u{27bf}' | '\u{1f1e6}'..='\u{1f1ff}'
        | '\u{1f000}'..='\u{1f0ff}' | '\u{2b50}' | '\u{2b55}' | '\u{231a}'..='\u{23ff}')
}

/// An emoji without its colour of skin and the wish to be shown as a picture.
fn keep_emoji(segment: &str, each: &mut impl FnMut(&str)) {
    let is_variant = |c: char| matches!(c, '\u{fe0e}' | '\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}');
    let emoji: String = segment.chars().filter(|c| !is_variant(*c)).collect();
    if !emoji.is_empty() {
        each(cut(&emoji));
    }
}

fn cut(word: &str) -> &str {
    &word[..word.floor_char_boundary(WORD_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(Words::default().list(text), expected, "{text}");
    }

    #[test]
    fn words_are_found_whatever_joins_them() {
        check("Hello, world! (it's 3.14)", &["hello", "world", "it", "s", "3", "14"]);
        check("foo_bar  foo-bar\tfoo.bar", &["foo", "bar", "foo", "bar", "foo", "bar"]);
        check("l’eau L'EAU", &["l", "eau", "l", "eau"]);
        check("", &[]);
        check("... -- \u{0} \u{200b}", &[]);
    }

    #[test]
    fn case_width_and_accents_do_not_matter() {
        check("Straße STRASSE Größe grosse", &["strasse", "strasse", "grosse", "grosse"]);
        check("Ångström Ａｎｇｓｔｒｏｍ", &["angstrom", "angstrom"]);
        check("cafe\u{301} café", &["cafe", "cafe"]);
        check("ΟΔΥΣΣΕΎΣ Οδυσσεύς", &["οδυσσευσ", "οδυσσευσ"]);
        check("Łódź smørrebrød İstanbul ısı", &["lodz", "smorrebrod", "istanbul", "isi"]);
        check("Việt Nam", &["viet", "nam"]);
    }

    #[test]
    fn marks_that_make_another_letter_stay() {
        check("йод Ёлка", &["йод", "елка"]);
        check("が か ｶﾞｶ", &["が", "か", "ガカ"]);
        check("नमस्ते", &["नमस्ते"]);
    }

    #[test]
    fn arabic_and_hebrew_are_found_without_their_points() {
        check("مُحَمَّد محمد محـــمد", &["محمد", "محمد", "محمد"]);
        check("إسلام اسلام", &["اسلام", "اسلام"]);
        check("שָׁלוֹם שלום", &["שלום", "שלום"]);
    }

    #[test]
    fn scripts_without_spaces_are_cut_into_words() {
        check(
            "私は東京で水を飲みます。",
            &["私", "は", "東京", "で", "水", "を", "飲", "み", "ます"],
        );
        check("我们在北京喝咖啡", &["我们", "在", "北京", "喝", "咖啡"]);
        check("ฉันรักภาษาไทย", &["ฉัน", "รัก", "ภาษา", "ไทย"]);
        check("ビットコインを買うETF", &["ビットコイン", "を", "買う", "etf"]);
        check("한국어 검색", &["한국어", "검색"]);
    }

    #[test]
    fn a_hashtag_is_its_word() {
        check("#Bitcoin #東京 ＃水", &["bitcoin", "東京", "水"]);
    }

    #[test]
    fn emoji_are_words() {
        check("gm☕️🚀🚀 👍🏽", &["gm", "☕", "🚀", "🚀", "👍"]);
        check("👨‍👩‍👧", &["👨\u{200d}👩\u{200d}👧"]);
    }

    #[test]
    fn of_a_url_the_host_is_kept() {
        check("see https://www.example.com/a1b2?x=y#z now", &["see", "example", "com", "now"]);
        check(
            "[docs](wss://relay.example.com:7777/x)and",
            &["docs", "relay", "example", "com", "and"],
        );
        check("https://example.com/x、これ", &["example", "com", "これ"]);
        check("これhttps://example.com", &["これ", "example", "com"]);
        check("://", &[]);
    }

    #[test]
    fn identifiers_are_no_words() {
        let npub = "npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9";
        check(&format!("gm nostr:{npub}, {npub}! nostr: npub1"), &["gm", "nostr", "npub1"]);
    }

    #[test]
    fn long_words_are_cut() {
        check(&"a1".repeat(64), &["a1".repeat(20).as_str()]);
        let words = Words::default().list(&"ü".repeat(100_000));
        assert_eq!(words, ["u".repeat(40)]);
    }
}
