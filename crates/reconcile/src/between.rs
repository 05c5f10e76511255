//! Two stores that only answer, compared by somebody between them who has the events of neither.
//!
//! What one of them says of a range is a question that the other can be asked: so the answers are
//! carried to and fro, and only what the two do not agree on travels further. Where both have told
//! their ids of the same range, the difference is known and the range is done.

use std::collections::BTreeSet;

use event::{EventId, Timestamp};

use crate::{
    Item,
    wire::{Bound, FINGERPRINT, IDS, Malformed, NO_BOUND, Reader, SKIP, VERSION, Writer},
};

/// Matches no set: to it everybody answers with all that they have.
const UNLIKE_ANY: [u8; 16] = [0xff; 16];

/// A comparison under way. The left one is asked first, then they take turns.
#[derive(Default)]
pub struct Between {
    /// Ids that the last message told, by the range that they were told of.
    told: Vec<(Item, Item, BTreeSet<EventId>)>,
    is_left_asked: bool,
    /// What only one of the two has: the left, the right.
    only: [BTreeSet<EventId>; 2],
}

/// Why an answer cannot be carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Strange {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the store speaks no version of negentropy that we do")]
    Version,
}

impl Between {
    /// A comparison, and the first question, for the left one.
    pub fn begin() -> (Between, Vec<u8>) {
        let mut question = Writer::new();
        question.fingerprint(&Bound::at(NO_BOUND), &UNLIKE_ANY);
        (Between { is_left_asked: true, ..Between::default() }, question.bytes)
    }

    /// Takes the answer to the last question. Returns the next one, for the other side; None: all is
    /// known.
    pub fn take(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>, Strange> {
        let mut reader = Reader::new(answer);
        if reader.take(1)? != [VERSION] {
            return Err(Strange::Version);
        }
        let mut question = Question::new();
        let told_before = std::mem::take(&mut self.told);
        let mut lower = Bound::at(Timestamp(0)).item;
        while !reader.is_done() {
            let upper = reader.bound()?;
            match reader.number()? {
                SKIP => question.skip(upper),
                FINGERPRINT => {
                    let fingerprint = reader.take(16)?.try_into().expect("16 bytes were taken");
                    question.say(|out| out.fingerprint(&upper, &fingerprint));
                }
                IDS => {
                    let bytes = reader.ids()?;
                    let ids = ids_of(bytes);
                    let same = told_before.iter().find(|it| (it.0, it.1) == (lower, upper.item));
                    if let Some((_, _, theirs)) = same {
                        self.note(&ids, theirs);
                        question.skip(upper);
                    } else {
                        question.say(|out| out.ids(&upper, bytes));
                        self.told.push((lower, upper.item, ids));
                    }
                }
                mode => return Err(Malformed::Mode(mode).into()),
            }
            lower = upper.item;
        }
        self.is_left_asked = !self.is_left_asked;
        Ok(question.finish())
    }

    /// Whether the next question is for the left one.
    pub fn is_left_asked(&self) -> bool {
        self.is_left_asked
    }

    /// How many differences are known so far.
    pub fn known(&self) -> usize {
        self.only.iter().map(BTreeSet::len).sum()
    }

    /// What only the left one has, and what only the right one has.
    pub fn finish(self) -> [BTreeSet<EventId>; 2] {
        self.only
    }

    /// One side has told these ids of a range just now, the other side those before.
    fn note(&mut self, now: &BTreeSet<EventId>, before: &BTreeSet<EventId>) {
        let [left, right] = if self.is_left_asked { [now, before] } else { [before, now] };
        self.only[0].extend(left.difference(right));
        self.only[1].extend(right.difference(left));
    }
}

fn ids_of(bytes: &[u8]) -> BTreeSet<EventId> {
    bytes.as_chunks().0.iter().copied().map(EventId).collect()
}

/// A message that leaves out what nothing has to be said of.
struct Question {
    out: Writer,
    /// Up to where nothing was said since.
    skipped: Option<Bound>,
    says_something: bool,
}

impl Question {
    fn new() -> Question {
        Question { out: Writer::new(), skipped: None, says_something: false }
    }

    fn skip(&mut self, upper: Bound) {
        self.skipped = Some(upper);
    }

    fn say(&mut self, say: impl FnOnce(&mut Writer)) {
        if let Some(upper) = self.skipped.take() {
            self.out.skip(&upper);
        }
        say(&mut self.out);
        self.says_something = true;
    }

    fn finish(self) -> Option<Vec<u8>> {
        self.says_something.then_some(self.out.bytes)
    }
}
