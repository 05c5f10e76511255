//! What the outbox does with an L2 that is slow, fails at an event, or says no; and what an OK is worth.

use std::time::Duration;

use aquifer::config::{KindRange, OkAfter};
use event::{Event, Verified, twin::Author};
use layer2::{SaveOutcome, What};
use serde_json::json;

use crate::{
    harness::{FakeL2, TestRelay, relay_with},
    ids, notes,
};

/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3_600);

async fn relay_that_waits(l2: &FakeL2, ok_timeout: Duration) -> TestRelay {
    let change = |config: &mut aquifer::config::Config| {
        config.ok_after = OkAfter::Layer2;
        config.ok_timeout = ok_timeout;
        config.local.kinds = vec![KindRange(4..=4)];
    };
    TestRelay::start_with(tempfile::tempdir().unwrap(), Some(l2.clone()), change).await
}

const FAILED: &str = "aquifer_outbox_retries_total{reason=\"failed\"}";

/// Whether L2 failed once more, or will not be asked again.
async fn is_tried_again(relay: &TestRelay, failures: f64) -> bool {
    relay.metric(FAILED).await > failures || relay.metric("aquifer_aside_rows").await > 0.0
}

fn in_l2(l2: &FakeL2) -> Vec<String> {
    let mut held: Vec<String> = l2.contents().iter().map(|event| event.id.to_string()).collect();
    held.sort();
    held
}

fn sorted(events: &[Verified]) -> Vec<String> {
    let mut ids = ids(events);
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_go_up_side_by_side_and_a_slow_one_holds_up_no_other() {
    let l2 = FakeL2::default();
    let notes = notes(1_600);
    l2.hold_up(notes[0].id);
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    alice.publish_all(&notes[..1]).await;
    l2.wait_for_saves_under_way(1).await;
    alice.publish_all(&notes[1..]).await;
    l2.wait_for_events(1_599).await;
    assert!((2..=4).contains(&l2.most_saves_under_way()), "{}", l2.most_saves_under_way());
    relay.wait_for_metric("aquifer_outbox_rows", 1.0).await;
    assert_eq!(relay.metric("aquifer_outbox_batches").await, 1.0);
    l2.forgive();
    l2.wait_for_events(1_600).await;
    assert_eq!(in_l2(&l2), sorted(&notes), "each arrived once");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_l2_fails_at_is_set_aside_and_all_others_go_up() {
    let l2 = FakeL2::default();
    l2.set_available(false);
    let notes = notes(200);
    let bad = &notes[57];
    l2.fail_at(bad.id);
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    alice.publish_all(&notes[..100]).await;
    l2.set_available(true);
    l2.wait_for_events(99).await;
    // Each that gets through shows that it is not L2.
    let mut later = notes[100..].iter().zip(100..);
    while relay.metric("aquifer_aside_rows").await == 0.0 {
        let failures = relay.metric(FAILED).await;
        let (note, in_l2) = later.next().expect("a few are enough");
        alice.publish(note).await.expect_ok();
        l2.wait_for_events(in_l2).await;
        relay.wait_for(async || is_tried_again(&relay, failures).await).await;
    }
    relay.wait_for_metric("aquifer_outbox_rows", 0.0).await;
    assert!(relay.metric(FAILED).await >= 5.0);
    assert!(!in_l2(&l2).contains(&bad.id.to_string()));
    alice.req("bad", &[json!({"ids": [bad.id]})]).await;
    assert_eq!(alice.events_until_eose("bad").await, [bad.id.to_string()], "it stays here");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_banned_while_it_waits_does_not_go_up_until_it_is_allowed_again() {
    let l2 = FakeL2::default();
    l2.set_available(false);
    let relay = relay_with(&l2).await;
    let notes = notes(3);
    relay.client().await.publish_all(&notes).await;
    let bad = notes[1].id.to_string();
    relay.told(&["admin", "event", "ban", &bad]).await;
    l2.set_available(true);
    l2.wait_for_events(2).await;
    relay.wait_for_metric("aquifer_aside_rows", 1.0).await;
    assert!(!in_l2(&l2).contains(&bad));
    // It says why, and is sent when the operator says so.
    let listed = relay.told(&["outbox", "list"]).await;
    assert!(listed.contains("banned"), "{listed}");
    relay.told(&["admin", "event", "allow", &bad]).await;
    relay.told(&["outbox", "retry", &bad]).await;
    l2.wait_for_events(3).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ahead_of_l2s_clock_is_sent_again_and_not_set_aside() {
    let l2 = FakeL2::default();
    let notes = notes(3);
    let reason = "created_at is too far in the future".to_owned();
    l2.answer_with(notes[1].id, SaveOutcome::Invalid(reason));
    let relay = relay_with(&l2).await;
    relay.client().await.publish_all(&notes).await;
    l2.wait_for_events(2).await;
    relay.wait_for_metric("aquifer_outbox_rows", 1.0).await;
    assert_eq!(relay.metric("aquifer_aside_rows").await, 0.0);
    l2.forgive();
    l2.wait_for_events(3).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_local_never_goes_up_and_outlives_a_restart_without_the_setting() {
    let l2 = FakeL2::default();
    l2.set_available(false);
    let (ann, bob) = (Author::new(1), Author::new(2));
    let message = bob.sign(1_000, 9, &[], "in a group");
    let diary = ann.sign(1_001, 1, &[], "a diary");
    let queued = bob.sign(1_002, 1_060, &[], "queued before it was local");
    let open = bob.sign(1_003, 1, &[], "for everybody");
    let first = TestRelay::start_with(tempfile::tempdir().unwrap(), Some(l2.clone()), |config| {
        config.local.kinds = vec![KindRange(9..=10)];
        config.local.authors = [ann.pubkey()].into();
    });
    let first = first.await;
    let mut client = first.client().await;
    client.publish_all(&[message.clone(), diary.clone(), queued.clone(), open.clone()]).await;
    assert_eq!(first.metric("aquifer_local_rows").await, 2.0);
    assert_eq!(first.metric("aquifer_outbox_rows").await, 2.0);
    let folder = first.stop().await;

    l2.set_available(true);
    let again = TestRelay::start_with(folder, Some(l2.clone()), |config| {
        config.local.kinds = vec![KindRange(1_060..=1_060)];
    });
    let again = again.await;
    l2.wait_for_events(1).await;
    again.wait_for_metric("aquifer_local_rows", 3.0).await;
    assert_eq!(in_l2(&l2), [open.id.to_string()]);
    l2.append(What::Cleared);
    l2.wait_for_polls(3).await;
    let mut client = again.client().await;
    client.req("all", &[json!({})]).await;
    let held = [&queued, &diary, &message].map(|event| event.id.to_string());
    assert_eq!(client.events_until_eose("all").await, held, "nobody else has these");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_learns_from_l2_that_there_is_a_newer_version_fetches_it_at_once() {
    let l2 = FakeL2::default();
    let folder = tempfile::tempdir().unwrap();
    let seldom = |config: &mut aquifer::config::Config| config.poll_interval = HOUR;
    l2.bring(&notes(1)[0]);
    let relay = TestRelay::start_with(folder, Some(l2.clone()), seldom).await;
    let mut client = relay.client().await;
    client.req("first poll", &[json!({"kinds": [1]})]).await;
    assert_eq!(client.event("first poll").await, ids(&notes(1))[0]);
    let ann = Author::new(1);
    let (old, new) = (ann.sign(1_000, 0, &[], "first"), ann.sign(1_001, 0, &[], "second"));
    l2.bring(&new);
    l2.answer_with(old.id, SaveOutcome::Superseded);
    client.req("profile", &[json!({"kinds": [0], "limit": 0})]).await;
    // Else the first version could be gone before it is looked for.
    assert!(client.events_until_eose("profile").await.is_empty());
    client.publish(&old).await.expect_ok();
    // The first version may be replaced before anybody was told of it.
    let mut heard = client.event("profile").await;
    if heard == old.id.to_string() {
        heard = client.event("profile").await;
    }
    assert_eq!(heard, new.id.to_string());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ok_after_layer_2_waits_for_its_answer_and_tells_what_it_was() {
    let l2 = FakeL2::default();
    let relay = relay_that_waits(&l2, Duration::from_secs(60)).await;
    let mut alice = relay.client().await;
    let notes = notes(8);
    alice.publish(&notes[0]).await.expect_ok();
    assert_eq!(in_l2(&l2), sorted(&notes[..1]), "it is there by now");
    alice.publish(&notes[0]).await.expect_ok_because("duplicate:");

    l2.hold_up(notes[1].id);
    alice.send(json!(["EVENT", crate::harness::value_of(&notes[1])])).await;
    alice.expect_no_ok().await;
    l2.forgive();
    alice.ok().await.expect_ok();

    l2.answer_with(notes[2].id, SaveOutcome::Deleted);
    alice.publish(&notes[2]).await.expect_refused("blocked:");
    l2.answer_with(notes[3].id, SaveOutcome::Superseded);
    alice.publish(&notes[3]).await.expect_ok_because("duplicate: have a newer version");
    l2.answer_with(notes[4].id, SaveOutcome::Expired);
    alice.publish(&notes[4]).await.expect_refused("invalid: it has expired");
    l2.answer_with(notes[5].id, SaveOutcome::TooLarge(7));
    let alone = "error: it is stored on this relay alone";
    alice.publish(&notes[5]).await.expect_refused(alone);
    alice.publish(&notes[5]).await.expect_refused(alone);
    l2.set_available(false);
    let local = Author::new(3).sign(1_000, 4, &[], "L2 is not asked");
    alice.publish(&local).await.expect_ok();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_event_that_leaves_without_an_answer_hears_so_and_waits_no_longer() {
    let l2 = FakeL2::default();
    l2.set_available(false);
    let relay = relay_that_waits(&l2, HOUR).await;
    let author = Author::new(3);
    let (mut alice, mut bob) = (relay.client().await, relay.client().await);
    let old = author.sign(1_000, 0, &[], "old");
    alice.send(json!(["EVENT", crate::harness::value_of(&old)])).await;
    relay.wait_for_metric("aquifer_outbox_rows", 1.0).await;
    bob.send(json!(["EVENT", crate::harness::value_of(&author.sign(1_001, 0, &[], "new"))])).await;
    alice.ok().await.expect_refused("error: it was stored, and is gone again");
    alice.publish(&old).await.expect_ok_because("duplicate: have a newer version");
    bob.expect_no_ok().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ok_after_layer_2_says_so_when_it_gives_up_waiting_and_the_event_goes_up_all_the_same() {
    let l2 = FakeL2::default();
    l2.set_available(false);
    let relay = relay_that_waits(&l2, Duration::from_millis(100)).await;
    let mut alice = relay.client().await;
    let notes = notes(1);
    let unconfirmed = "error: it is stored on this relay and on its way";
    alice.publish(&notes[0]).await.expect_refused(unconfirmed);
    alice.publish(&notes[0]).await.expect_refused(unconfirmed);
    l2.set_available(true);
    l2.wait_for_events(1).await;
    relay.wait_for_metric("aquifer_outbox_rows", 0.0).await;
    alice.publish(&notes[0]).await.expect_ok_because("duplicate:");
    assert_eq!(relay.metric("aquifer_events_total{outcome=\"unconfirmed\"}").await, 2.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_waits_and_how_long_the_way_up_took() {
    let l2 = FakeL2::default();
    l2.set_available(false);
    let relay = relay_with(&l2).await;
    let notes = notes(9);
    let bytes: usize = notes.iter().map(|note| note.pack().len()).sum();
    relay.client().await.publish_all(&notes).await;
    assert_eq!(relay.metric("aquifer_outbox_rows").await, 9.0);
    assert_eq!(relay.metric("aquifer_outbox_bytes").await, bytes as f64);
    relay.wait_for(async || relay.metric("aquifer_outbox_age_seconds").await >= 1.0).await;
    l2.set_available(true);
    l2.wait_for_events(9).await;
    relay.wait_for_metric("aquifer_outbox_rows", 0.0).await;
    assert_eq!(relay.metric("aquifer_outbox_age_seconds").await, 0.0);
    assert_eq!(relay.metric("aquifer_outbox_bytes").await, 0.0);
    assert_eq!(relay.metric("aquifer_outbox_lag_seconds_count").await, 9.0);
    assert!(relay.metric("aquifer_outbox_lag_seconds_sum").await >= 1.0);
    assert!(relay.metric("aquifer_outbox_retries_total{reason=\"unavailable\"}").await >= 1.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_l2_says_is_over_goes_here_too_whatever_the_reason() {
    let l2 = FakeL2::default();
    let notes = notes(4);
    let over = [SaveOutcome::Superseded, SaveOutcome::Deleted, SaveOutcome::Expired];
    for (note, outcome) in notes.iter().zip(over) {
        l2.answer_with(note.id, outcome);
    }
    let relay = relay_with(&l2).await;
    let mut alice = relay.client().await;
    alice.publish_all(&notes).await;
    l2.wait_for_events(1).await;
    relay.wait_for_metric("aquifer_outbox_rows", 0.0).await;
    alice.req("all", &[json!({})]).await;
    assert_eq!(alice.events_until_eose("all").await, ids(&notes[3..]));
    assert_eq!(l2.contents(), [Event::clone(&notes[3])]);
    relay.stop().await;
}
