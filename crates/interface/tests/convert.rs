//! What crosses the wire is what was meant, and what was not meant is refused with a reason.

use candid::{Decode, Encode};
use event::twin;
use interface::{Answer, ByteBuf, Done, Filter, ReadError};
use proptest::prelude::*;

proptest! {
    #[test]
    fn filters_survive_the_wire(filter in twin::filter(&[])) {
        let bytes = Encode!(&Filter::from(filter.clone())).unwrap();
        let arrived = Decode!(&bytes, Filter).unwrap();
        prop_assert_eq!(event::Filter::try_from(arrived), Ok(filter));
    }
}

#[track_caller]
fn check_refused(filter: Filter, reason: &str) {
    let refused = event::Filter::try_from(filter).map_err(ReadError::from);
    assert_eq!(refused, Err(ReadError::Invalid(reason.into())));
}

#[test]
fn ids_and_keys_of_other_lengths_are_refused() {
    let short = || Some(vec![ByteBuf::from([1; 31])]);
    check_refused(Filter { ids: short(), ..Filter::default() }, "an id must have 32 bytes, not 31");
    check_refused(
        Filter { authors: short(), ..Filter::default() },
        "a public key must have 32 bytes, not 31",
    );
}

#[test]
fn tags_that_are_no_single_letter_are_refused() {
    let tag = |name: &str| (name.to_owned(), vec!["x".to_owned()]);
    for name in ["", "title", "1", "é"] {
        let reason = format!("`{name}` is not a tag that filters can ask for: a single letter is");
        check_refused(Filter { tags: vec![tag(name)], ..Filter::default() }, &reason);
        check_refused(Filter { all_tags: vec![tag(name)], ..Filter::default() }, &reason);
    }
    check_refused(
        Filter { tags: vec![tag("t"), tag("t")], ..Filter::default() },
        "tag `t` stands twice in one list",
    );
}

#[test]
fn an_answer_without_a_value_is_null_on_the_wire() {
    let bytes = Encode!(&Done::Ok(())).unwrap();
    assert_eq!(Decode!(&bytes, Answer<(), String>).unwrap(), Answer::Ok(()));
}
