//! What one word in one document counts for (BM25), in one byte.
//!
//! How often the word stands there, up to eight times, and how long the document is, as one of 32
//! lengths: more the formula does not make use of. Scores are whole numbers, so that they add up to the
//! same in any order.

/// A document of the class `n` counts as so many words long: it has as many, or more, but fewer than
/// the next.
const LENGTHS: [u32; 32] = [
    1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400,
    512, 640, 1_000, 1_600, 2_500, 5_000, 10_000, 20_000,
];
const TIMES_MAX: u32 = 8;
/// By how much more often a word counts more.
const K1: f64 = 1.2;
/// By how much a long document counts less.
const B: f64 = 0.75;
/// Scores have twelve bits behind the point.
const ONE: f64 = 4_096.0;

/// How often a word stands in a document of some length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(pub(crate) u8);

impl Weight {
    /// Of a word that stands `times` times, at least once, among `length` words.
    pub fn new(times: u32, length: u32) -> Weight {
        let times = times.clamp(1, TIMES_MAX) - 1;
        Weight(length_class(length) << 3 | times as u8)
    }

    fn times(self) -> u32 {
        u32::from(self.0 & 7) + 1
    }

    fn length(self) -> u32 {
        LENGTHS[usize::from(self.0 >> 3)]
    }
}

/// Which of the lengths stands for this one.
pub(crate) fn length_class(length: u32) -> u8 {
    LENGTHS.partition_point(|class| *class <= length.max(1)) as u8 - 1
}

/// As many words as a document of this class counts for.
pub(crate) fn length_of(class: u8) -> u32 {
    LENGTHS[usize::from(class) % LENGTHS.len()]
}

/// What words count for among so many documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    pub documents: u64,
    /// All of them together, by their classes.
    pub length: u64,
}

impl Scale {
    /// The documents of both.
    pub fn and(self, other: Scale) -> Scale {
        Scale { documents: self.documents + other.documents, length: self.length + other.length }
    }

    /// One more document of so many words.
    pub fn with(self, length: u32) -> Scale {
        self.and(Scale { documents: 1, length: length_of(length_class(length)).into() })
    }

    /// How rare a word is that stands in `found` of them.
    pub fn rarity(self, found: u64) -> f64 {
        let (all, found) = (self.documents as f64, found as f64);
        (1.0 + (all - found + 0.5).max(0.0) / (found + 0.5)).ln()
    }

    /// The score of one word.
    pub fn score(self, rarity: f64, weight: Weight) -> u32 {
        let average = (self.length as f64 / self.documents.max(1) as f64).max(1.0);
        let times = f64::from(weight.times());
        let length = f64::from(weight.length()) / average;
        let score = rarity * times * (K1 + 1.0) / (times + K1 * (1.0 - B + B * length));
        // Even the commonest word counts more than none.
        ((score * ONE).round() as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Scale = Scale { documents: 1_000, length: 20_000 };

    #[test]
    fn rarer_words_more_often_in_shorter_texts_count_more() {
        let score =
            |found, times, length| SOME.score(SOME.rarity(found), Weight::new(times, length));
        assert!(score(10, 1, 20) > score(100, 1, 20));
        assert!(score(10, 2, 20) > score(10, 1, 20));
        assert!(score(10, 1, 5) > score(10, 1, 20));
        assert!(score(1_000, 1, 20_000) > 0);
    }

    #[test]
    fn a_weight_keeps_what_it_was_made_of_as_far_as_it_goes() {
        for (times, length, kept) in
            [(0, 0, (1, 1)), (1, 1, (1, 1)), (3, 7, (3, 6)), (9, 1 << 30, (8, 20_000))]
        {
            let weight = Weight::new(times, length);
            assert_eq!((weight.times(), weight.length()), kept);
        }
    }
}
