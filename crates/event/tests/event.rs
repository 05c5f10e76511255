//! Events as written forms: JSON to packed and back, ids, signatures, and what is refused.

use event::{
    Event, EventId, Filter, Kind, Packed, PackedError, Signature, Tag, TagName, Timestamp, packed,
    rules::{self, Effects, Held, Holdings, Verdict, judge},
    twin::{self, Author},
    verify,
};
use proptest::{collection::vec, prelude::*};

const REAL_EVENTS: &str = include_str!("../../../tests/data/real-events.jsonl");

/// The first version's bytes, for ever: stores out there are full of them.
const GOLDEN_V1: &str = "01\
    1111111111111111111111111111111111111111111111111111111111111111\
    2222222222222222222222222222222222222222222222222222222222222222\
    3333333333333333333333333333333333333333333333333333333333333333\
    3333333333333333333333333333333333333333333333333333333333333333\
    80a0d0b9060103\
    02026501abababababababababababababababababababababababababababababababab\
    03027404c3bc0000\
    0568656c6c6f";

/// The stub of the same event: caches are full of them.
const GOLDEN_STUB: &str = "02\
    1111111111111111111111111111111111111111111111111111111111111111\
    2222222222222222222222222222222222222222222222222222222222222222\
    80a0d0b9060102\
    02026501abababababababababababababababababababababababababababababababab\
    02027404c3bc";

fn golden_event() -> Event {
    Event {
        id: EventId([0x11; 32]),
        pubkey: event::PublicKey([0x22; 32]),
        created_at: Timestamp(1_731_465_216),
        kind: Kind(1),
        tags: vec![tag(&["e", &"ab".repeat(32)]), tag(&["t", "ü", ""]), tag(&[])],
        content: "hello".into(),
        sig: Signature([0x33; 64]),
    }
}

fn tag(values: &[&str]) -> Tag {
    Tag(values.iter().map(|value| (*value).to_owned()).collect())
}

#[test]
fn packed_bytes_of_version_1_never_change() {
    let golden = hex::encode(golden_event().pack());
    assert_eq!(golden, GOLDEN_V1);
    let bytes = hex::decode(GOLDEN_V1).unwrap();
    assert_eq!(Packed::parse(&bytes).unwrap().unpack(), golden_event());
}

#[test]
fn the_bytes_of_stubs_never_change() {
    let packed = golden_event().pack();
    let stub = Packed::parse(&packed).unwrap().to_stub();
    assert_eq!(hex::encode(&stub), GOLDEN_STUB);
    let stub = Packed::trusted(&stub).unwrap();
    assert!(stub.is_stub());
    assert_eq!((stub.content(), stub.sig()), ("", Signature([0; 64])));
    check_not_packed(stub.as_bytes(), PackedError::Version(2));
}

#[test]
fn every_real_event_verifies_and_survives_packing() {
    let mut events = 0;
    for line in REAL_EVENTS.lines() {
        let event = Event::from_json(line.as_bytes()).unwrap();
        let packed = event.pack();
        let view = Packed::parse(&packed).unwrap();
        assert_eq!(view.unpack(), event);
        assert_same_json(line, &event.to_json());
        verify(event).unwrap();
        events += 1;
    }
    assert!(events > 0);
}

#[track_caller]
fn assert_same_json(one: &str, other: &str) {
    let value = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(one), value(other));
}

#[test]
fn a_changed_event_has_another_id_and_a_changed_signature_is_refused() {
    let event = Author::new(1).sign(1, 1, &[&["t", "x"]], "as signed").into_inner();
    let reworded = Event { content: "as forged".into(), ..event.clone() };
    assert_eq!(verify(reworded.clone()), Err(event::Invalid::Id));
    let rehashed = Event { id: reworded.computed_id(), ..reworded };
    assert_eq!(verify(rehashed), Err(event::Invalid::Signature));
    let stolen = Event { pubkey: Author::new(2).pubkey(), ..event.clone() };
    let stolen = Event { id: stolen.computed_id(), ..stolen };
    assert_eq!(verify(stolen), Err(event::Invalid::Signature));
    let no_point = Event { pubkey: event::PublicKey([0xff; 32]), ..event };
    let no_point = Event { id: no_point.computed_id(), ..no_point };
    assert_eq!(verify(no_point), Err(event::Invalid::Signature));
}

#[test]
fn the_id_escapes_seven_characters_and_no_other() {
    let content = "\n\"\\\r\t\u{8}\u{c}\u{1f}\u{7f}\u{0}ü/\u{2028}😀";
    let event = Event { content: content.into(), tags: vec![tag(&["t", "\""])], ..golden_event() };
    let serialised = format!(
        "[0,\"{}\",1731465216,1,[[\"t\",\"\\\"\"]],\"\\n\\\"\\\\\\r\\t\\b\\f\u{1f}\u{7f}\u{0}ü/\u{2028}😀\"]",
        "22".repeat(32)
    );
    use sha2::Digest;
    assert_eq!(event.computed_id().0, <[u8; 32]>::from(sha2::Sha256::digest(serialised)));
}

/// `golden_event` as JSON with one value replaced, or one key added.
fn json_with(key: &str, value: &str) -> String {
    let mut fields = vec![
        ("id", format!("\"{}\"", "11".repeat(32))),
        ("pubkey", format!("\"{}\"", "22".repeat(32))),
        ("created_at", "1".to_owned()),
        ("kind", "1".to_owned()),
        ("tags", "[]".to_owned()),
        ("content", "\"\"".to_owned()),
        ("sig", format!("\"{}\"", "33".repeat(64))),
    ];
    match fields.iter_mut().find(|(known, _)| *known == key) {
        Some(field) => field.1 = value.to_owned(),
        None => fields.push((key, value.to_owned())),
    }
    let fields: Vec<String> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[track_caller]
fn check_refused(json: &str, reason: &str) {
    let refusal = Event::from_json(json.as_bytes()).unwrap_err().to_string();
    assert!(refusal.contains(reason), "{refusal:?} does not speak of {reason:?}");
}

#[test]
fn hostile_json_is_refused_with_a_reason() {
    Event::from_json(json_with("kind", "1").as_bytes()).unwrap();
    check_refused("", "expected a JSON object");
    check_refused("[\"a\",\"b\",1,1,[],\"\",\"c\"]", "expected a JSON object");
    check_refused("{", "EOF");
    check_refused(&format!("{} x", json_with("kind", "1")), "trailing");
    check_refused(&json_with("id", "\"AB\""), "64 lower-case hex digits");
    check_refused(&json_with("id", &format!("\"{}\"", "AB".repeat(32))), "lower-case");
    check_refused(&json_with("sig", &format!("\"{}\"", "33".repeat(63))), "128 lower-case");
    check_refused(&json_with("id", "null"), "64 lower-case hex digits");
    check_refused(&json_with("created_at", "-1"), "expected u64");
    check_refused(&json_with("created_at", "1.0"), "expected u64");
    check_refused(&json_with("created_at", "1e400"), "number out of range");
    check_refused(&json_with("created_at", "18446744073709551616"), "expected u64");
    check_refused(&json_with("kind", "65536"), "expected u16");
    check_refused(&json_with("kind", "\"1\""), "expected u16");
    check_refused(&json_with("tags", "{}"), "expected a sequence");
    check_refused(&json_with("tags", "[[1]]"), "expected a string");
    check_refused(&json_with("tags", "[[[\"nested\"]]]"), "expected a string");
    check_refused(&json_with("content", "\"\\ud800\""), "hex escape");
    check_refused(&json_with("content", "\"\\udc00 lone\""), "surrogate");
    check_refused(&json_with("content", "\"\\x\""), "escape");
    check_refused(&json_with("content", "\"\n\""), "control character");
    let twice = json_with("kind", "1").replace("\"tags\"", "\"kind\":2,\"tags\"");
    check_refused(&twice, "duplicate field `kind`");
    let escaped_twice = json_with("kind", "1").replace("\"tags\"", "\"\\u006bind\":2,\"tags\"");
    check_refused(&escaped_twice, "duplicate field `kind`");
    check_refused(&json_with("kind", "1").replace("\"kind\":1,", ""), "missing field `kind`");
    let invalid_utf8 = [b"{\"id\":\"".as_slice(), &[0xff, 0xfe], b"\"}"].concat();
    assert!(Event::from_json(&invalid_utf8).is_err());
}

#[test]
fn deep_nesting_and_huge_tags_end_in_an_answer() {
    let deep = "[".repeat(1_000_000);
    Event::from_json(json_with("tags", &deep).as_bytes()).unwrap_err();
    Event::from_json(json_with("extra", &deep).as_bytes()).unwrap_err();
    let many = format!("[{}[]]", "[],".repeat(200_000));
    let event = Event::from_json(json_with("tags", &many).as_bytes()).unwrap();
    assert_eq!(Packed::parse(&event.pack()).unwrap().tags().count(), 200_001);
}

#[test]
fn keys_that_nip_01_does_not_know_are_dropped() {
    let event = Event::from_json(json_with("extra", "{\"a\":[1e9,null]}").as_bytes()).unwrap();
    assert!(!event.to_json().contains("extra"));
}

#[track_caller]
fn check_not_packed(bytes: &[u8], error: PackedError) {
    assert_eq!(Packed::parse(bytes).unwrap_err(), error);
}

#[test]
fn bytes_that_are_no_packed_event_are_refused() {
    let good = golden_event().pack();
    check_not_packed(&[], PackedError::Truncated);
    check_not_packed(&[2], PackedError::Version(2));
    for length in 1..good.len() {
        check_not_packed(&good[..length], PackedError::Truncated);
    }
    check_not_packed(&[&good[..], &[0]].concat(), PackedError::Trailing(1));
    let head = &good[..129];
    check_not_packed(&[head, &[0x81, 0x00]].concat(), PackedError::Number);
    check_not_packed(&[head, &[0xff; 9], &[2]].concat(), PackedError::Number);
    check_not_packed(&[head, &[1, 0x80, 0x80, 4]].concat(), PackedError::Number);
    let with_tag = |value: &[u8]| [head, &[1, 1, 1, 1], value, &[0]].concat();
    check_not_packed(&with_tag(&[3, 0]), PackedError::Value);
    check_not_packed(&with_tag(&[2, 0xff]), PackedError::Utf8);
    let spelled_out = [&[0x80, 0x01][..], "ab".repeat(32).as_bytes()].concat();
    check_not_packed(&with_tag(&spelled_out), PackedError::Value);
}

#[track_caller]
fn check_filter_refused(json: &str, reason: &str) {
    let refusal = Filter::from_json(json.as_bytes()).unwrap_err().to_string();
    assert!(refusal.contains(reason), "{refusal:?} does not speak of {reason:?}");
}

#[test]
fn filters_with_unknown_or_malformed_fields_are_refused() {
    check_filter_refused("[]", "expected a JSON object");
    check_filter_refused(r#"{"search":["x"]}"#, "expected a string");
    check_filter_refused(r#"{"search":"x","search":"y"}"#, "`search` stands twice");
    check_filter_refused(r#"{"query":"x"}"#, "`query` is not supported");
    check_filter_refused(r##"{"#long":["x"]}"##, "`#long` is not supported");
    check_filter_refused(r##"{"#1":["x"]}"##, "`#1` is not supported");
    check_filter_refused(r##"{"#ü":["x"]}"##, "`#ü` is not supported");
    check_filter_refused(r#"{"":[]}"#, "`` is not supported");
    check_filter_refused(r#"{"ids":["ab"]}"#, "64 lower-case hex digits");
    check_filter_refused(r##"{"#p":["ab"]}"##, "64 lower-case hex digits");
    check_filter_refused(r##"{"#t":"ab"}"##, "expected a sequence");
    check_filter_refused(r#"{"kinds":[70000]}"#, "expected u16");
    check_filter_refused(r#"{"limit":-1}"#, "expected u64");
    check_filter_refused(r#"{"since":1,"since":2}"#, "`since` stands twice");
    check_filter_refused(r##"{"#t":["a"],"#t":["b"]}"##, "`#t` stands twice");
}

#[track_caller]
fn check_match(filter: &str, expected: bool) {
    let event = Author::new(1).sign(5, 1, &[&["t", "a"], &["t", "b", "c"], &["g"]], "");
    let filter_read = Filter::from_json(filter.as_bytes()).unwrap();
    assert_eq!(filter_read.matches(&event), expected, "{filter}");
}

#[test]
fn filters_match_as_nip_01_and_nip_91_say() {
    check_match("{}", true);
    check_match(r#"{"ids":[]}"#, false);
    check_match(r#"{"kinds":[]}"#, false);
    check_match(r##"{"#t":[]}"##, false);
    check_match(r#"{"&t":[]}"#, false);
    check_match(r#"{"since":5,"until":5}"#, true);
    check_match(r#"{"since":6}"#, false);
    check_match(r#"{"until":4}"#, false);
    check_match(r##"{"#t":["x","b"]}"##, true);
    check_match(r##"{"#t":["c"]}"##, false);
    check_match(r##"{"#g":[""]}"##, false);
    check_match(r#"{"&t":["a","b"]}"#, true);
    check_match(r#"{"&t":["a","x"]}"#, false);
    check_match(r#"{"limit":0}"#, true);
}

proptest! {
    #[test]
    fn json_to_packed_to_json_keeps_every_value(event in twin::event()) {
        let json = event.to_json();
        let read = Event::from_json(json.as_bytes()).unwrap();
        prop_assert_eq!(&read, &*event);
        let packed = read.pack();
        let view = Packed::parse(&packed).unwrap();
        prop_assert_eq!(&view.unpack(), &*event);
        let mut written = Vec::new();
        view.write_json(&mut written);
        prop_assert_eq!(String::from_utf8(written).unwrap(), json);
        prop_assert_eq!(view.unpack().pack(), packed);
    }

    #[test]
    fn a_stub_is_found_expires_and_is_replaced_as_its_event_is(event in twin::event()) {
        let packed = event.pack();
        let whole = Packed::parse(&packed).unwrap();
        let stub = whole.to_stub();
        let stub = Packed::trusted(&stub).unwrap();
        prop_assert!(!whole.is_stub() && stub.is_stub());
        prop_assert_eq!(stub.id(), event.id);
        prop_assert_eq!(stub.unpack().address(), event.address());
        prop_assert_eq!(rules::expiration(&stub), event.expiration());
        for letter in ["d", "E", "p", "t"].map(|letter| TagName::new(letter).unwrap()) {
            prop_assert!(stub.values_of(letter).eq(whole.values_of(letter)));
        }
        prop_assert_eq!(stub.to_stub(), stub.as_bytes());
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400), at in 0usize..300, byte: u8) {
        let _ = Event::from_json(&bytes);
        let _ = Filter::from_json(&bytes);
        let _ = Packed::parse(&bytes);
        let mut damaged = golden_event().pack();
        if let Some(place) = damaged.get_mut(at) {
            *place = byte;
        }
        if let Ok(view) = Packed::trusted(&damaged) {
            view.unpack();
        }
        if let Ok(view) = Packed::parse(&damaged) {
            prop_assert_eq!(view.unpack().pack(), damaged);
        }
    }

    #[test]
    fn damaged_json_never_panics(event in twin::event(), at: prop::sample::Index, byte: u8) {
        let mut json = event.to_json().into_bytes();
        let at = at.index(json.len());
        json[at] = byte;
        if let Ok(read) = Event::from_json(&json) {
            prop_assert!(read == *event || verify(read).is_err());
        }
    }

    #[test]
    fn filters_survive_json(filter in twin::filter(&[])) {
        let json = serde_json::to_string(&filter).unwrap();
        prop_assert_eq!(Filter::from_json(json.as_bytes()).unwrap(), filter);
    }

    #[test]
    fn the_rules_keep_what_the_naive_store_keeps(arrivals in twin::arrivals(24)) {
        let mut naive = twin::NaiveStore::default();
        let mut ruled = Ruled::default();
        for event in &arrivals {
            naive.save(event);
            ruled.arrive(event);
        }
        let mut naive: Vec<EventId> = naive.live().iter().map(|event| event.id).collect();
        let mut ruled: Vec<EventId> = ruled.live.iter().map(|event| event.id).collect();
        naive.sort();
        ruled.sort();
        prop_assert_eq!(naive, ruled);
    }
}

/// [`judge`] with the simplest holdings there are.
#[derive(Default)]
struct Ruled {
    live: Vec<Event>,
    effects: Vec<(event::PublicKey, Effects, Timestamp)>,
}

impl Ruled {
    fn arrive(&mut self, event: &Event) {
        if let Verdict::Save(effects) = judge(self, event, Timestamp(0)).unwrap() {
            self.live.retain(|held| !effects.remove.iter().any(|(id, _)| *id == held.id));
            if let Some(vanish) = effects.vanish {
                let is_taken = |held: &Event| vanish.takes(&Packed::trusted(&held.pack()).unwrap());
                self.live.retain(|held| !is_taken(held));
            }
            self.live.push(event.clone());
            self.effects.push((event.pubkey, effects, event.created_at));
        }
    }

    fn find(&self, wanted: impl Fn(&Event) -> bool) -> Option<Held> {
        let found = self.live.iter().find(|event| wanted(event))?;
        let Event { id, pubkey, created_at, kind, .. } = *found;
        Some(Held { id, pubkey, created_at, kind })
    }
}

impl Holdings for Ruled {
    type Error = std::convert::Infallible;

    fn by_id(&self, id: &EventId) -> Result<Option<Held>, Self::Error> {
        Ok(self.find(|event| event.id == *id))
    }

    fn by_address(&self, address: &event::Address) -> Result<Option<Held>, Self::Error> {
        Ok(self.find(|event| event.address().as_ref() == Some(address)))
    }

    fn is_deleted(&self, id: &EventId, author: &event::PublicKey) -> Result<bool, Self::Error> {
        let named = |effects: &Effects| effects.tombstones.contains(id);
        Ok(self.effects.iter().any(|(by, effects, _)| by == author && named(effects)))
    }

    fn receives(&self, id: &EventId, who: &event::PublicKey) -> Result<bool, Self::Error> {
        let wrap = self.live.iter().find(|event| event.id == *id);
        Ok(wrap.is_some_and(|wrap| event::rules::receivers(wrap).any(|receiver| receiver == *who)))
    }

    fn deleted_until(&self, address: &event::Address) -> Result<Option<Timestamp>, Self::Error> {
        let naming = self.effects.iter().filter(|(_, e, _)| e.address_tombstones.contains(address));
        Ok(naming.map(|(_, _, at)| *at).max())
    }

    fn vanished_until(&self, who: &event::PublicKey) -> Result<Option<Timestamp>, Self::Error> {
        let requests = self.effects.iter().filter_map(|(_, effects, _)| effects.vanish);
        Ok(requests.filter(|vanish| vanish.who == *who).map(|vanish| vanish.until).max())
    }

    fn is_ours(&self, relay: &str) -> bool {
        relay == "wss://ours.example"
    }
}

/// What is left of these, in the order of their arrival.
#[track_caller]
fn check_left(arrivals: &[&Event], expected: &[&Event]) {
    let mut ruled = Ruled::default();
    arrivals.iter().for_each(|event| ruled.arrive(event));
    let left: Vec<&Event> = ruled.live.iter().collect();
    assert_eq!(left, expected);
}

/// The same in every order of arrival.
#[track_caller]
fn check_left_of_two(one: &Event, other: &Event, expected: &[&Event]) {
    check_left(&[one, other], expected);
    let backwards: Vec<&Event> = expected.iter().rev().copied().collect();
    check_left(&[other, one], &backwards);
}

#[test]
fn deletions_by_id_take_their_authors_events_only() {
    let (alice, mallory) = (Author::new(1), Author::new(2));
    let note = alice.sign(5, 1, &[], "note");
    let names_it: &[&[&str]] = &[&["e", &note.id.to_string()]];
    let deletion = alice.sign(1, 5, names_it, "older than what it names");
    check_left_of_two(&note, &deletion, &[&deletion]);
    let strangers = mallory.sign(9, 5, names_it, "");
    check_left_of_two(&note, &strangers, &[&note, &strangers]);
    let malformed: &[&[&str]] =
        &[&["e"], &["e", "abc"], &["e", &note.id.to_string().to_uppercase()]];
    let deletion = alice.sign(9, 5, malformed, "");
    check_left_of_two(&note, &deletion, &[&note, &deletion]);
}

#[test]
fn deletions_by_address_take_all_versions_up_to_their_date() {
    let alice = Author::new(1);
    let deletion = |kind: u16, d: &str| {
        let address = format!("{kind}:{}:{d}", alice.pubkey());
        alice.sign(5, 5, &[&["a", &address]], "")
    };
    for (kind, d) in [(10_002, ""), (0, ""), (30_023, "blog"), (30_023, "with:colons:")] {
        let version = |at| alice.sign(at, kind, &[&["d", d]], "");
        let deletion = deletion(kind, d);
        check_left_of_two(&version(4), &deletion, &[&deletion]);
        check_left_of_two(&version(5), &deletion, &[&deletion]);
        check_left_of_two(&version(6), &deletion, &[&version(6), &deletion]);
    }
    let other = alice.sign(4, 30_023, &[&["d", "other"]], "");
    let blogs = deletion(30_023, "blog");
    check_left_of_two(&other, &blogs, &[&other, &blogs]);
    // Of kinds without versions there is no address.
    let note = alice.sign(4, 1, &[], "");
    let notes = deletion(1, "");
    check_left_of_two(&note, &notes, &[&note, &notes]);
    let strangers = Author::new(2).sign(9, 5, &[&["a", &format!("0:{}:", alice.pubkey())]], "");
    let profile = alice.sign(4, 0, &[], "");
    check_left_of_two(&profile, &strangers, &[&profile, &strangers]);
}

#[test]
fn deletions_and_requests_to_vanish_cannot_be_deleted() {
    let alice = Author::new(1);
    let deletion = alice.sign(5, 5, &[&["e", &"ab".repeat(32)]], "");
    let request = alice.sign(1, 62, &[&["relay", "ALL_RELAYS"]], "");
    for kept in [&deletion, &request] {
        let second = alice.sign(9, 5, &[&["e", &kept.id.to_string()]], "");
        check_left_of_two(kept, &second, &[kept, &second]);
    }
}

#[test]
fn who_vanishes_leaves_nothing_up_to_that_date_but_the_request() {
    let (alice, bob) = (Author::new(1), Author::new(2));
    let to =
        |relay: &str| alice.sign(5, 62, &[&["relay", "wss://x.example"], &["relay", relay]], "");
    let (all, ours, theirs) = (to("ALL_RELAYS"), to("wss://ours.example"), to("wss://y.example"));
    let note = alice.sign(5, 1, &[], "");
    let deletion = alice.sign(5, 5, &[&["e", &"ab".repeat(32)]], "");
    let profile = alice.sign(5, 0, &[], "");
    for gone in [&note, &deletion, &profile] {
        check_left_of_two(gone, &all, &[&all]);
        check_left_of_two(gone, &ours, &[&ours]);
        check_left_of_two(gone, &theirs, &[gone, &theirs]);
    }
    let key = alice.pubkey().to_string();
    let wrap = |at| bob.sign(at, 1_059, &[&["p", &bob.pubkey().to_string()], &["p", &key]], "");
    check_left_of_two(&wrap(5), &all, &[&all]);
    for kept in [
        wrap(6),
        alice.sign(6, 1, &[], "came back"),
        bob.sign(5, 1, &[&["p", &key]], "speaks of her"),
        bob.sign(5, 1_059, &[&["p", &bob.pubkey().to_string()], &["x", &key]], ""),
        alice.sign(4, 62, &[&["relay", "ALL_RELAYS"]], "an earlier one"),
    ] {
        check_left_of_two(&kept, &all, &[&kept, &all]);
    }
    let nowhere = alice.sign(5, 62, &[&["r", "ALL_RELAYS"]], "");
    check_left_of_two(&note, &nowhere, &[&note, &nowhere]);
}

#[test]
fn what_a_vanished_deletion_deleted_stays_deleted() {
    let alice = Author::new(1);
    let later = alice.sign(9, 1, &[], "");
    let deletion = alice.sign(4, 5, &[&["e", &later.id.to_string()]], "");
    let request = alice.sign(5, 62, &[&["relay", "ALL_RELAYS"]], "");
    check_left(&[&deletion, &request, &later], &[&request]);
}

#[test]
fn packed_events_expire_when_events_do() {
    let author = Author::new(1);
    for values in [&["10"][..], &["soon"], &[], &["10", "5"], &["18446744073709551616"], &["-1"]] {
        let first = [&["expiration"], values].concat();
        let event = author.sign(5, 1, &[&["t", "x"], &first, &["expiration", "3"]], "");
        let packed = event.pack();
        let read = event::rules::expiration(&Packed::trusted(&packed).unwrap());
        assert_eq!(read, event.expiration(), "{values:?}");
    }
}

#[test]
fn expired_and_ephemeral_events_are_not_for_storing() {
    let author = Author::new(1);
    let verdict = |event: &Event, now| judge(&Ruled::default(), event, Timestamp(now)).unwrap();
    let expiring = author.sign(5, 1, &[&["expiration", "10"]], "");
    assert_eq!(verdict(&expiring, 10), Verdict::Expired);
    assert!(matches!(verdict(&expiring, 9), Verdict::Save(_)));
    let unclear = author.sign(5, 1, &[&["expiration", "soon"]], "");
    assert!(matches!(verdict(&unclear, u64::MAX), Verdict::Save(_)));
    assert_eq!(verdict(&author.sign(5, 20_000, &[], ""), 0), Verdict::Ephemeral);
}

#[test]
fn packed_events_and_json_are_told_apart_by_one_byte() {
    assert_eq!(golden_event().pack()[0], packed::VERSION);
    assert_ne!(packed::VERSION, b'{');
}

#[test]
fn the_stated_id_is_found_wherever_it_stands() {
    let id = EventId([0xab; 32]);
    let elsewhere = r#""tags":[["id","x"]],"content":"\",\"id\":\"0\"","more":{"id":"deep"}"#;
    for text in [
        format!(r#"{{"id":"{id}"}}"#),
        format!(r#" {{ "kind" : 1 , "id" : "{id}" }}"#),
        format!(r#"{{{elsewhere},"id":"{id}","kind":7}}"#),
        // What stands behind it is not looked at.
        format!(r#"{{"id":"{id}",{elsewhere},"id":"second"}}"#),
    ] {
        assert_eq!(event::stated_id(text.as_bytes()), Some(id), "{text}");
    }
    for text in [
        String::new(),
        "[]".into(),
        format!(r#"["id","{id}"]"#),
        format!("{{{elsewhere}}}"),
        format!(r#"{{"id":"{}"}}"#, id.to_string().to_uppercase()),
        format!(r#"{{"x":{{"id":"{id}"}}}}"#),
    ] {
        assert_eq!(event::stated_id(text.as_bytes()), None, "{text}");
    }
}
