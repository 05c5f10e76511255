//! The relay over a real websocket, in-process, with an L2 that can fail at the worst moment.

mod deliveries;
mod differential;
mod harness;
mod messages;
mod outbox;
mod policy;
mod protocol;
mod reading_through;
mod search;

use std::{collections::HashSet, time::Duration};

use aquifer::config::{CacheConfig, NotGranted};
use event::{Event, Timestamp, Verified, twin::Author};
use harness::{FakeL2, TestRelay, relay, relay_with};
use layer2::{Role, What};
use serde_json::json;

fn notes(count: u64) -> Vec<Verified> {
    let author = Author::new(1);
    (0..count).map(|at| author.sign(1_000 + at, 1, &[], &format!("note {at}"))).collect()
}

fn ids(events: &[Verified]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_events_come_newest_first_then_eose_then_what_is_new() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    let notes = notes(5);
    for note in &notes[..4] {
        alice.publish(note).await.expect_ok();
    }
    alice.req("mine", &[json!({"limit": 3})]).await;
    let mut expected = ids(&notes[1..4]);
    expected.reverse();
    assert_eq!(alice.events_until_eose("mine").await, expected);
    let mut bob = relay.client().await;
    bob.publish(&notes[4]).await.expect_ok();
    assert_eq!(alice.event("mine").await, notes[4].id.to_string());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_zero_means_eose_at_once_and_then_live_events() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    let notes = notes(2);
    alice.publish(&notes[0]).await.expect_ok();
    alice.req("live", &[json!({"limit": 0})]).await;
    assert_eq!(alice.events_until_eose("live").await, Vec::<String>::new());
    let mut bob = relay.client().await;
    bob.publish(&notes[1]).await.expect_ok();
    assert_eq!(alice.event("live").await, notes[1].id.to_string());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_stored_events_are_sent_comes_exactly_once() {
    let relay = relay().await;
    let notes = notes(1_500);
    let (before, during) = notes.split_at(500);
    relay.client().await.publish_all(before).await;
    let mut alice = relay.client().await;
    let mut bob = relay.client().await;
    let during = during.to_vec();
    let publishing = tokio::spawn(async move { bob.publish_all(&during).await });
    alice.req("all", &[json!({"limit": 5000})]).await;
    let mut seen = HashSet::new();
    while seen.len() < notes.len() {
        let id = alice.event("all").await;
        assert!(seen.insert(id), "an event came twice");
    }
    publishing.await.unwrap();
    alice.expect_no_more_events("all").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_live_event_once_and_holds_up_nobody() {
    let relay = relay().await;
    let author = Author::new(1);
    // Far more than the session's queue and both sockets' buffers take.
    let padding = "x".repeat(20_000);
    let notes: Vec<Verified> =
        (0..1_000).map(|at| author.sign(1_000 + at, 1, &[], &padding)).collect();
    let mut slow = relay.client().await;
    slow.req("all", &[json!({"limit": 0}), json!({"kinds": [7]})]).await;
    assert_eq!(slow.events_until_eose("all").await, Vec::<String>::new());
    let mut quick = relay.client().await;
    quick.req("quick", &[json!({"limit": 0})]).await;
    assert_eq!(quick.events_until_eose("quick").await, Vec::<String>::new());
    let published = notes.clone();
    let mut bob = relay.client().await;
    let publishing = tokio::spawn(async move { bob.publish_all(&published).await });
    let expected: HashSet<String> = ids(&notes).into_iter().collect();
    assert_eq!(quick.distinct_events("quick", notes.len()).await, expected);
    publishing.await.unwrap();
    // Only now does it read.
    assert_eq!(slow.distinct_events("all", notes.len()).await, expected);
    slow.expect_no_more_events("all").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_of_the_same_name_replaces_the_first() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({"kinds": [1]})]).await;
    alice.events_until_eose("a").await;
    alice.req("a", &[json!({"kinds": [7]})]).await;
    alice.events_until_eose("a").await;
    let mut bob = relay.client().await;
    bob.publish(&notes(1)[0]).await.expect_ok();
    let reaction = Author::new(1).sign(5, 7, &[], "+");
    bob.publish(&reaction).await.expect_ok();
    assert_eq!(alice.event("a").await, reaction.id.to_string());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_ends_a_subscription_even_right_after_its_req() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    alice.send(json!(["REQ", "a", {"kinds": [1]}])).await;
    alice.send(json!(["CLOSE", "a"])).await;
    alice.send(json!(["CLOSE", "never opened"])).await;
    relay.client().await.publish(&notes(1)[0]).await.expect_ok();
    alice.expect_no_more_events("a").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_events_reach_subscribers_and_are_not_kept() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({"kinds": [20_001]})]).await;
    alice.events_until_eose("a").await;
    let typing = Author::new(1).sign(1_000, 20_001, &[], "typing");
    relay.client().await.publish(&typing).await.expect_ok();
    assert_eq!(alice.event("a").await, typing.id.to_string());
    alice.req("b", &[json!({"kinds": [20_001]})]).await;
    assert_eq!(alice.events_until_eose("b").await, Vec::<String>::new());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_event_right_after_eose_is_not_missed() {
    let relay = relay().await;
    let (mut alice, mut bob) = (relay.client().await, relay.client().await);
    for at in 0..100 {
        alice.req("a", &[json!({"kinds": [20_001]})]).await;
        alice.events_until_eose("a").await;
        let typing = Author::new(1).sign(1_000 + at, 20_001, &[], "typing");
        bob.publish(&typing).await.expect_ok();
        assert_eq!(alice.event("a").await, typing.id.to_string());
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_event_is_refused_ephemeral_or_not() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    alice.events_until_eose("a").await;
    for kind in [1, 20_001] {
        let over = Author::new(1).sign(1_000, kind, &[&["expiration", "1001"]], "");
        relay.client().await.publish(&over).await.expect_refused("invalid: it has expired");
        let lasting = Author::new(1).sign(1_000, kind, &[&["expiration", "4102444800"]], "");
        relay.client().await.publish(&lasting).await.expect_ok();
        assert_eq!(alice.event("a").await, lasting.id.to_string());
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_and_deleted_events_are_answered_as_nip_01_and_nip_09_say() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    let author = Author::new(1);
    let old = author.sign(10, 0, &[], "old");
    let new = author.sign(11, 0, &[], "new");
    let note = author.sign(12, 1, &[], "regretted");
    let deletion = author.sign(13, 5, &[&["e", &note.id.to_string()]], "");
    for event in [&old, &new, &note, &deletion] {
        alice.publish(event).await.expect_ok();
    }
    let stale = alice.publish(&old).await;
    assert!(stale.accepted && stale.message.starts_with("duplicate:"), "{stale:?}");
    alice.publish(&note).await.expect_refused("blocked:");
    alice.req("all", &[json!({})]).await;
    let left = [deletion.id.to_string(), new.id.to_string()];
    assert_eq!(alice.events_until_eose("all").await, left);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_id_is_answered_before_the_rest_is_read() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    let note = notes(1).remove(0);
    alice.publish(&note).await.expect_ok();
    let forged = Event { content: "forged".into(), ..note.clone().into_inner() };
    for text in [
        json!(["EVENT", {"id": note.id}]),
        json!(["EVENT", harness::value_of(&forged)]),
        json!(["EVENT", {"tags": [["id", "0"]], "x": {"id": 1}, "id": note.id, "kind": "x"}]),
    ] {
        alice.send(text).await;
        let reply = alice.ok().await;
        assert!(reply.accepted && reply.message.starts_with("duplicate:"), "{reply:?}");
    }
    assert_eq!(relay.metric("aquifer_events_total{outcome=\"duplicate\"}").await, 3.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_under_the_id_and_signature_of_an_event_does_not_keep_it_out() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    let note = notes(1).remove(0);
    let forged = Event { content: "forged".into(), ..note.clone().into_inner() };
    let unsigned = Event { sig: event::Signature([1; 64]), ..note.clone().into_inner() };
    for rubbish in [&forged, &unsigned, &forged, &unsigned] {
        alice.publish(rubbish).await.expect_refused("invalid:");
    }
    alice.publish(&note).await.expect_ok();
    relay.stop().await;
}

#[tokio::test]
async fn pings_are_answered_and_requests_for_other_sockets_refused() {
    let relay = relay().await;
    relay.client().await.ping(b"still there?").await;
    let upgrade = "Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n";
    let old = relay.get(&format!("{upgrade}Sec-WebSocket-Version: 8\r\n")).await;
    assert!(old.starts_with("HTTP/1.1 400") && old.contains("version 13"), "{old}");
    let plain = relay.get("Connection: close\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 200"), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_happened() {
    let l2 = FakeL2::default();
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    let notes = notes(3);
    alice.publish_all(&notes).await;
    let forged = Event { content: "forged".into(), ..notes[0].clone().into_inner() };
    let forged = Event { id: forged.computed_id(), ..forged };
    alice.publish(&forged).await.expect_refused("invalid:");
    alice.req("a", &[json!({})]).await;
    alice.events_until_eose("a").await;
    l2.wait_for_events(3).await;
    l2.wait_for_polls(2).await;
    for (name, expected) in [
        ("aquifer_events_total{outcome=\"stored\"}", 3.0),
        ("aquifer_events_total{outcome=\"invalid\"}", 1.0),
        ("aquifer_connections", 1.0),
        ("aquifer_subscriptions", 1.0),
        ("aquifer_reqs_total", 1.0),
        ("aquifer_query_page_seconds_count", 1.0),
        ("aquifer_store_events", 3.0),
        ("aquifer_read_only", 0.0),
    ] {
        assert_eq!(relay.metric(name).await, expected, "{name}");
    }
    assert!(relay.metric("aquifer_commit_seconds_count").await >= 1.0);
    assert!(relay.metric("aquifer_poll_success_timestamp_seconds").await > 1.7e9);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_what_they_refuse() {
    let relay = relay().await;
    let mut alice = relay.client().await;
    let note = notes(1).remove(0);
    let forged = Event { content: "forged".into(), ..note.clone().into_inner() };
    alice.publish(&forged).await.expect_refused("invalid: id is not the hash");
    let mut resigned = forged.clone();
    resigned.id = resigned.computed_id();
    alice.publish(&resigned).await.expect_refused("invalid: signature");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let far = Author::new(1).sign(now.as_secs() + 10_000, 1, &[], "");
    alice.publish(&far).await.expect_refused("invalid: created_at");
    let large = Author::new(1).sign(1, 1, &[], &"x".repeat(200_000));
    alice.publish(&large).await.expect_refused("invalid: the event has");
    alice.send(json!(["EVENT", {"id": note.id, "kind": "x"}])).await;
    alice.ok().await.expect_refused("invalid: not an event");
    alice.send(json!(["REQ", "bad", {"authors": ["short"]}])).await;
    assert!(alice.closed("bad").await.starts_with("invalid:"));
    alice.req("many", &vec![json!({}); 100]).await;
    assert!(alice.closed("many").await.contains("filters are too many"));
    let authors: Vec<String> = (0..13_000).map(|n| format!("{n:064x}")).collect();
    alice.req("wide", &[json!({"authors": authors})]).await;
    assert!(alice.closed("wide").await.contains("values in filters are too many"));
    let mut bob = relay.client().await;
    bob.expect_cut_off_after(&" ".repeat(2 << 20)).await;
    for number in 0..64 {
        alice.req(&format!("s{number}"), &[json!({"kinds": [1]})]).await;
        alice.events_until_eose(&format!("s{number}")).await;
    }
    alice.req("one too many", &[json!({})]).await;
    assert!(alice.closed("one too many").await.starts_with("rate-limited:"));
    alice.send(json!(["FETCH", "c", {}])).await;
    assert!(alice.notice().await.contains("not a verb"));
    alice.send_text("not json").await;
    assert!(alice.notice().await.starts_with("invalid:"));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_says_goodbye_and_keeps_everything() {
    let first = relay().await;
    let notes = notes(3);
    first.client().await.publish_all(&notes).await;
    let mut alice = first.client().await;
    let folder = first.stop().await;
    assert_eq!(alice.close_code().await, Some(1001));
    let again = TestRelay::start(folder, None, NotGranted::Keep).await;
    let mut bob = again.client().await;
    bob.req("all", &[json!({})]).await;
    assert_eq!(bob.events_until_eose("all").await.len(), notes.len());
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_an_l2_that_never_answers() {
    let l2 = FakeL2::default();
    l2.set_silent();
    let relay = relay_with(&l2).await;
    relay.client().await.publish(&notes(1)[0]).await.expect_ok();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_empties_once_l2_is_back() {
    let l2 = FakeL2::default();
    l2.set_available(false);
    let relay = relay_with(&l2).await;
    let notes = notes(700);
    relay.client().await.publish_all(&notes).await;
    assert_eq!(l2.contents(), Vec::<Event>::new());
    l2.set_available(true);
    l2.wait_for_events(notes.len()).await;
    let in_l2: HashSet<String> = l2.contents().iter().map(|event| event.id.to_string()).collect();
    assert_eq!(in_l2, ids(&notes).into_iter().collect());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_goes_on_where_it_was_after_a_restart() {
    let l2 = FakeL2::default();
    l2.set_available(false);
    let first = relay_with(&l2).await;
    let notes = notes(10);
    first.client().await.publish_all(&notes).await;
    let folder = first.stop().await;
    l2.set_available(true);
    let again = TestRelay::start(folder, Some(l2.clone()), NotGranted::Keep).await;
    l2.wait_for_events(notes.len()).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_got_lost_is_asked_for_again_and_changes_nothing() {
    let l2 = FakeL2::default();
    l2.lose_next_answers(2);
    let relay = relay_with(&l2).await;
    let notes = notes(20);
    relay.client().await.publish_all(&notes).await;
    l2.wait_for_events(20).await;
    // Either the batch is sent again, or the poll brings it back first; both settle it.
    l2.wait_for_polls(20).await;
    assert_eq!(l2.contents().len(), 20);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_brought_to_l2_is_streamed_once_and_found_afterwards() {
    let l2 = FakeL2::default();
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    alice.events_until_eose("a").await;
    let notes = notes(3);
    for note in &notes {
        l2.bring(note);
    }
    let expected: HashSet<String> = ids(&notes).into_iter().collect();
    assert_eq!(alice.distinct_events("a", 3).await, expected);
    l2.wait_for_polls(3).await;
    alice.expect_no_more_events("a").await;
    alice.req("b", &[json!({"limit": 1})]).await;
    assert_eq!(alice.events_until_eose("b").await, [notes[2].id.to_string()]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_events_do_not_echo() {
    let l2 = FakeL2::default();
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    alice.events_until_eose("a").await;
    let note = notes(1).remove(0);
    alice.send(json!(["EVENT", harness::value_of(&note)])).await;
    assert_eq!(alice.event("a").await, note.id.to_string());
    l2.wait_for_events(1).await;
    l2.wait_for_polls(3).await;
    alice.expect_no_more_events("a").await;
    assert_eq!(l2.saves_answered(), 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_l2_removed_goes_and_what_it_forged_is_not_taken() {
    let l2 = FakeL2::default();
    let relay = relay_with(&l2).await;
    let notes = notes(2);
    l2.bring(&notes[0]);
    let forged = Event { content: "forged".into(), ..notes[1].clone().into_inner() };
    l2.append(What::Saved(forged.pack().into()));
    l2.append(What::Saved(b"no event at all".to_vec().into()));
    l2.bring(&notes[1]);
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    assert_eq!(alice.distinct_events("a", 2).await, ids(&notes).into_iter().collect());
    let id = notes[0].id.0.to_vec();
    l2.append(What::Removed { id: id.into(), why: "operator".into() });
    l2.wait_for_polls(3).await;
    alice.req("b", &[json!({})]).await;
    assert_eq!(alice.events_until_eose("b").await, [notes[1].id.to_string()]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_has_the_last_word_on_what_is_deleted() {
    let l2 = FakeL2::default();
    let author = Author::new(1);
    let note = author.sign(1_000, 1, &[], "regretted");
    let relay = relay_with(&l2).await;
    l2.refuse_as_deleted(note.id);
    relay.client().await.publish(&note).await.expect_ok();
    l2.wait_for_saves_answered(1).await;
    let mut alice = relay.client().await;
    alice.eventually_empty(&json!({"ids": [note.id]})).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_not_granted_keeps_events_until_it_is() {
    let l2 = FakeL2::default();
    l2.set_role(None);
    let relay = relay_with(&l2).await;
    let notes = notes(2);
    relay.client().await.publish_all(&notes).await;
    l2.wait_for_role_questions(2).await;
    assert_eq!(l2.contents(), Vec::<Event>::new());
    l2.set_role(Some(Role::Relay));
    l2.wait_for_events(2).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_not_granted_refuses_events_if_told_so() {
    let l2 = FakeL2::default();
    l2.set_role(None);
    let folder = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(folder, Some(l2.clone()), NotGranted::Refuse).await;
    l2.wait_for_role_questions(2).await;
    let note = notes(1).remove(0);
    let mut alice = relay.client().await;
    alice.publish(&note).await.expect_refused("restricted:");
    l2.set_role(Some(Role::Relay));
    while !alice.publish(&note).await.accepted {}
    l2.wait_for_events(1).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_l2_is_followed_from_its_start() {
    let (one, other) = (FakeL2::default(), FakeL2::named("other"));
    let notes = notes(2);
    one.bring(&notes[0]);
    other.bring(&notes[1]);
    let relay = relay_with(&one).await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    assert_eq!(alice.event("a").await, notes[0].id.to_string());
    let folder = relay.stop().await;
    let relay = TestRelay::start(folder, Some(other), NotGranted::Keep).await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({"since": Timestamp(1_001)})]).await;
    assert_eq!(alice.event("a").await, notes[1].id.to_string());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_l2_gets_what_is_held_here() {
    let (one, other) = (FakeL2::default(), FakeL2::named("other"));
    let notes = notes(3);
    one.bring(&notes[0]);
    other.bring(&notes[1]);
    let relay = relay_with(&one).await;
    relay.client().await.publish(&notes[2]).await.expect_ok();
    one.wait_for_events(2).await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    alice.distinct_events("a", 2).await;
    let folder = relay.stop().await;
    let relay = TestRelay::start(folder, Some(other.clone()), NotGranted::Keep).await;
    other.wait_for_events(3).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_l2_that_was_begun_anew_is_followed_from_its_start_and_gets_what_is_held_here() {
    let l2 = FakeL2::default();
    let notes = notes(6);
    notes[..3].iter().for_each(|note| l2.bring(note));
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    alice.publish(&notes[3]).await.expect_ok();
    l2.wait_for_events(4).await;
    l2.wait_for_polls(4).await;
    l2.begin_anew();
    l2.bring(&notes[4]);
    l2.bring(&notes[0]);
    alice.req("a", &[json!({"since": 1_004})]).await;
    assert_eq!(alice.event("a").await, notes[4].id.to_string());
    l2.wait_for_events(5).await;
    // And from there on as before.
    l2.bring(&notes[5]);
    assert_eq!(alice.event("a").await, notes[5].id.to_string());
    assert_eq!(relay.metric("aquifer_outbox_rows").await, 0.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_lags_changes_nothing() {
    let l2 = FakeL2::default();
    let notes = notes(3);
    notes[..2].iter().for_each(|note| l2.bring(note));
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    alice.distinct_events("a", 2).await;
    l2.lag_by(2);
    l2.wait_for_polls(6).await;
    l2.lag_by(0);
    l2.bring(&notes[2]);
    assert_eq!(alice.event("a").await, notes[2].id.to_string());
    alice.expect_no_more_events("a").await;
    assert_eq!(l2.polls().iter().filter(|place| **place == 0).count(), 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_not_proven_is_asked_for_again_and_not_used() {
    let l2 = FakeL2::default();
    l2.spoil_next_pages(8);
    let note = notes(1).remove(0);
    l2.bring(&note);
    let relay = relay_with(&l2).await;
    l2.wait_until_unspoiled().await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    assert_eq!(alice.event("a").await, note.id.to_string());
    assert_eq!(relay.metric("aquifer_poll_unproven_total").await, 8.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_relay_brought_to_l2_is_not_read_back() {
    let l2 = FakeL2::default();
    let relay = relay_with(&l2).await;
    let notes = notes(9);
    let mut alice = relay.client().await;
    // No poll comes between.
    l2.end_polls_at(Some(0));
    alice.publish_all(&notes[..8]).await;
    l2.wait_for_events(8).await;
    relay.wait_for_metric("aquifer_outbox_rows", 0.0).await;
    l2.end_polls_at(None);
    l2.wait_for_polls(4).await;
    l2.bring(&notes[8]);
    alice.req("a", &[json!({"since": 1_008})]).await;
    assert_eq!(alice.event("a").await, notes[8].id.to_string());
    // With pages of two entries, all of it would have been read from the places between, one after the
    // other. The poll that was held up had begun at one of them.
    let places = l2.polls();
    assert!(places.iter().filter(|place| **place < 8).count() <= 1, "{places:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_poll_has_passed_over_is_found_by_its_second_look() {
    let l2 = FakeL2::default();
    let note = notes(1).remove(0);
    l2.hide_from_polls(note.id);
    l2.bring(&note);
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    alice.req("a", &[json!({})]).await;
    assert_eq!(alice.event("a").await, note.id.to_string());
    relay.wait_for_metric("aquifer_poll_missed_total", 1.0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let relay = relay().await;
    for _ in 0..20 {
        let mut alice = relay.client().await;
        alice.req("a", &[json!({})]).await;
        drop(alice);
    }
    let mut bob = relay.client().await;
    bob.publish(&notes(1)[0]).await.expect_ok();
    // Sessions that were not ended would keep the stop waiting.
    tokio::time::timeout(Duration::from_secs(10), relay.stop()).await.unwrap();
}

/// A relay that may take 8 MiB of the disk, and gives up bodies as soon as two of them are taken.
async fn small_relay(l2: &FakeL2) -> TestRelay {
    let cache = CacheConfig {
        bytes_max: 8 << 20,
        high_percent: 25,
        low_percent: 10,
        gc_interval: Duration::from_millis(50),
        protected_kinds: vec![],
    };
    let folder = tempfile::tempdir().unwrap();
    let change = |config: &mut aquifer::config::Config| {
        config.cache = Some(cache);
        config.layer2_timeout = Duration::from_secs(1);
    };
    TestRelay::start_with(folder, Some(l2.clone()), change).await
}

/// More than a small relay has room for, on it and on its L2.
async fn overflow(relay: &TestRelay, l2: &FakeL2) -> Vec<Verified> {
    let author = Author::new(1);
    let long = |at: u64| author.sign(1_000 + at, 1, &[], &format!("{at} ").repeat(8_000));
    let events: Vec<Verified> = (0..300).map(long).collect();
    let mut client = relay.client().await;
    for (done, events) in events.chunks(20).enumerate() {
        client.publish_all(events).await;
        l2.wait_for_events(done * 20 + events.len()).await;
    }
    assert!(relay.metric("aquifer_store_stubs").await > 0.0);
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_were_given_up_come_back_in_their_places() {
    let l2 = FakeL2::default();
    let relay = small_relay(&l2).await;
    let events = overflow(&relay, &l2).await;
    assert!(relay.metric("aquifer_store_bytes").await <= (8 << 20) as f64);
    let mut expected = ids(&events);
    expected.reverse();
    let mut client = relay.client().await;
    client.req("all", &[json!({"limit": 500})]).await;
    assert_eq!(client.events_until_eose("all").await, expected);
    let revived = relay.metric("aquifer_revived_total").await;
    assert!(revived > 0.0);
    // Some of it stays now: what was asked for last is here.
    let gets = l2.gets();
    let last = json!({"ids": [events[0].id.to_string()]});
    for _ in 0..2 {
        client.req("one", std::slice::from_ref(&last)).await;
        assert_eq!(client.events_until_eose("one").await, [events[0].id.to_string()]);
    }
    assert!(l2.gets() <= gets + 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_on_without_a_slow_l2_and_the_rest_comes_late() {
    let l2 = FakeL2::default();
    let relay = small_relay(&l2).await;
    let events = overflow(&relay, &l2).await;
    l2.set_available(false);
    let mut client = relay.client().await;
    client.req("all", &[json!({"limit": 500})]).await;
    let mut got = client.events_until_eose("all").await;
    assert!(!got.is_empty() && got.len() < events.len());
    l2.set_available(true);
    got.extend(client.distinct_events("all", events.len() - got.len()).await);
    got.sort();
    let mut expected = ids(&events);
    expected.sort();
    assert_eq!(got, expected);
    client.expect_no_more_events("all").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_relay_without_an_l2_keeps_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CacheConfig {
        bytes_max: 8 << 20,
        high_percent: 80,
        low_percent: 50,
        gc_interval: Duration::from_secs(3_600),
        protected_kinds: vec![],
    };
    let relay = TestRelay::start_with(folder, None, |config| config.cache = Some(cache)).await;
    let author = Author::new(1);
    let long = |at: u64| author.sign(1_000 + at, 1, &[], &format!("{at} ").repeat(700));
    let events: Vec<Verified> = (0..5_000).map(long).collect();
    let mut client = relay.client().await;
    // No write is refused: each waits until there is room.
    client.publish_all(&events).await;
    client.req("newest", &[json!({"limit": 100})]).await;
    let mut expected = ids(&events[4_900..]);
    expected.reverse();
    assert_eq!(client.events_until_eose("newest").await, expected);
    assert!(relay.metric("aquifer_store_bytes").await <= (8 << 20) as f64);
    assert!(relay.metric("aquifer_store_events").await < 4_000.0);
    relay.stop().await;
}
