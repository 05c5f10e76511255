//! Words of events, and which events hold them: the index behind NIP-50.
//!
//! An [`Index`] follows a store and owns nothing. Whoever follows hands it what came ([`Batch`]), up to
//! a place in the store's order, and that place is committed together with the words; so after a crash
//! it goes on where it was, and deleted it is built anew. What it says is a suggestion: a [`Hit`] is to be
//! looked up in the store, which knows what is gone, and held against the rest of the filter.
//!
//! Text becomes words in one way, for events and for questions ([`Words`]): cut by Unicode's rules and,
//! where a script has no spaces, by dictionaries and models; folded, so that case, width and accents
//! do not matter. What of an event is text says [`Document::of`], what of a question [`Query::parse`].
//!
//! ## How it lies on the disk
//! A tree of `word → event` would touch a page for each word of each event. So what comes together lies
//! together: a commit writes one *segment*, all its words in their order, and never changes it. Of eight
//! small neighbours one larger segment is made, by reading and writing in order, and so on up to some
//! hundred thousand events. A question looks into each of the few dozens there are. Numbers of documents
//! rise as they come, segments are ranges of them, and so the newest are looked at first.
//!
//! ## Invariants
//! * A commit takes documents, what is gone, and the place reached in the store: all or nothing, and
//!   synced. So the index never claims to have read what it has not.
//! * Each document lies in one segment, and in one only; segments do not overlap.
//! * A document that has no row in `documents` is gone: its postings say nothing, and go when its segment
//!   is written anew, which happens when a quarter of it is gone.
//! * The stamp says of which store it is the index, by which rules. With another stamp it starts empty.
//! * It holds no more documents than its store has events, as soon as the follower has been round.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! use event::Packed;
//! use index::Seq;
//! use search::{Batch, Document, Index, Query, Scope, Words};
//!
//! let words = Words::default();
//! let note = event::twin::Author::new(1).sign(1_700_000_000, 1, &[], "Grüße aus 東京").pack();
//! let document = Document::of(&Packed::parse(&note)?, &words).expect("a note has text");
//! let index = Index::open(folder.path(), "of this store")?;
//! let documents = vec![(Seq(0), document)];
//! index.commit(&Batch { documents, position: Seq(1), ..Batch::default() })?;
//!
//! let query = Query::parse("東京 GRUSSE language:de", &words);
//! let mut ranking = index.rank(&query, Scope::default())?;
//! while !index.go_on(&mut ranking, || true)? {}
//! assert_eq!(ranking.into_hits()[0].seq, Seq(0));
//! # Ok(()) }
//! ```

mod document;
mod index_file;
mod merge;
mod postings;
mod query;
mod ranking;
mod weight;
mod words;

pub use document::{Document, is_searched};
pub use index_file::{Batch, Error, Figures, Index, Place};
pub use query::Query;
pub use ranking::{CANDIDATES_MAX, Hit, Ranking, Scope};
pub use weight::{Scale, Weight};
pub use words::Words;
