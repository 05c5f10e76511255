//! Arguments of every shape that a method takes, out of bytes of every kind.

mod methods;

use std::time::{Duration, Instant};

use candid::{CandidType, Encode, Principal};
use interface::{
    Argument, ByteBuf, ChangesFrom, ChangesRequest, Config, Encoding, Filter, Init, QueryRequest,
    Role, decode_arguments,
};
use methods::decode_as_every_method;
use proptest::{collection::vec, prelude::*};

fn filter() -> Filter {
    Filter {
        ids: Some(vec![ByteBuf::from([1; 32])]),
        kinds: Some(vec![1, 30_023]),
        tags: vec![("e".into(), vec!["00".into(), "water".into()])],
        since: Some(1),
        ..Filter::default()
    }
}

/// Honest arguments of each kind.
fn honest() -> Vec<Vec<u8>> {
    let changes = ChangesRequest {
        from: ChangesFrom::Arrived(7),
        max_bytes: None,
        max_entries: Some(4),
        proof: true,
        ids_only: true,
        encoding: Some(Encoding::Json),
    };
    let query = QueryRequest {
        filters: vec![filter(), filter()],
        cursor: Some(ByteBuf::from([1, 0])),
        ..QueryRequest::default()
    };
    let init = Init { owners: vec![Principal::anonymous()], ..Init::default() };
    let event = ByteBuf::from(b"{}");
    vec![
        Encode!(&vec![event.clone(), event]).unwrap(),
        Encode!(&query).unwrap(),
        Encode!(&vec![ByteBuf::from([1; 32])], &Some(Encoding::Packed)).unwrap(),
        Encode!(&vec![filter()]).unwrap(),
        Encode!(&changes).unwrap(),
        Encode!(&ByteBuf::from([0x61]), &Some(filter())).unwrap(),
        Encode!(&Principal::anonymous(), &Role::Reader, &"a note").unwrap(),
        Encode!(&Some(Argument::Init(init))).unwrap(),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in vec(any::<u8>(), 0..300)) {
        decode_as_every_method(&bytes);
        decode_as_every_method(&[b"DIDL", &bytes[..]].concat());
    }

    #[test]
    fn no_change_of_honest_arguments_makes_the_decoder_panic(
        which: prop::sample::Index, changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: prop::sample::Index,
    ) {
        let honest = honest();
        let mut bytes = which.get(&honest).clone();
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        decode_as_every_method(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        decode_as_every_method(&bytes);
    }
}

#[test]
fn honest_arguments_decode() {
    for bytes in honest() {
        decode_as_every_method(&bytes);
    }
    let bytes = Encode!(&vec![filter(); 5_000]).unwrap();
    let (filters,) = decode_arguments::<(Vec<Filter>,)>(&bytes).unwrap();
    assert_eq!(filters, vec![filter(); 5_000]);
}

/// A billion empty values in a few bytes, in every place that can have them.
#[test]
fn values_that_take_no_bytes_cannot_be_announced_by_the_billion() {
    #[derive(CandidType)]
    struct Unknown<'a> {
        unknown: &'a [()],
    }
    let billion = [0x80, 0x94, 0xeb, 0xdc, 0x03];
    let asked_for = [&b"DIDL\x01\x6d\x7f\x01\x00"[..], &billion].concat();
    let mut skipped = Encode!(&Unknown { unknown: &[] }).unwrap();
    decode_arguments::<(Config,)>(&skipped).expect("a config may have fields of a later version");
    assert_eq!(skipped.pop(), Some(0), "the length of the list");
    skipped.extend_from_slice(&billion);
    let started = Instant::now();
    decode_arguments::<(Vec<()>,)>(&asked_for).unwrap_err();
    decode_arguments::<(Config,)>(&skipped).unwrap_err();
    decode_as_every_method(&asked_for);
    decode_as_every_method(&skipped);
    assert!(started.elapsed() < Duration::from_secs(5));
}
