//! Messages for those who are not there: who sees them, how much of them is kept and for how long, and what
//! their relay's operator can do.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    process::Output,
};

use aquifer::config::{
    Settings, Source,
    terms::{MessageTerms, OverQuota},
};
use event::{Timestamp, Verified, twin::Author};
use layer2::Role;
use rand::Rng;
use serde_json::{Value, json};

use crate::{
    deliveries::told,
    harness::{Client, FakeL2, TestRelay, relay},
    protocol::{Other, authenticate, wrap},
};

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn id(event: &Verified) -> String {
    event.id.to_string()
}

fn key(author: &Author) -> String {
    author.pubkey().to_string()
}

fn bytes(event: &Verified) -> u64 {
    event.pack().len() as u64
}

async fn relay_that_keeps(messages: MessageTerms, l2: Option<FakeL2>) -> TestRelay {
    let folder = tempfile::tempdir().unwrap();
    TestRelay::start_with(folder, l2, |config| config.terms.messages = messages).await
}

/// `aquifer messages` on the relay with this data folder.
async fn messages(data: &Path, words: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aquifer"));
    command.arg("messages").args(words).arg("--data").arg(data).output().await.unwrap()
}

async fn messages_say(data: &Path, words: &[&str]) -> String {
    let output = messages(data, words).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{words:?}: {said} {why}");
    said
}

async fn authenticated(relay: &TestRelay, author: &Author) -> Client {
    let mut client = relay.client().await;
    authenticate(&mut client, author, relay).await;
    client
}

/// Ids of all gift wraps that somebody is shown, newest first.
async fn gift_wraps_of(relay: &TestRelay, author: &Author) -> Vec<String> {
    let mut client = authenticated(relay, author).await;
    client.req("all", &[json!({"kinds": [1_059]})]).await;
    client.events_until_eose("all").await
}

/// Every way that leads to an event says the same of a message.
async fn check_gate(relay: &TestRelay, viewer: Option<&Author>, is_theirs: bool) {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let expected = |ids: &[&Verified]| -> Vec<String> {
        ids.iter().filter(|_| is_theirs).map(|event| id(event)).collect()
    };
    let stored = wrap(&ann, &bob, 1_000);
    let mut client = match viewer {
        Some(viewer) => authenticated(relay, viewer).await,
        None => relay.client().await,
    };
    let ways = [
        json!({"ids": [id(&stored)]}),
        json!({"authors": [key(&ann)]}),
        json!({"#p": [key(&bob)]}),
        json!({"search": "sealed"}),
        json!({"kinds": [1, 1_059]}),
    ];
    for filter in ways {
        let is_searched = filter.get("search").is_some();
        let expected = if is_searched { Vec::new() } else { expected(&[&stored]) };
        client.req("stored", std::slice::from_ref(&filter)).await;
        assert_eq!(client.events_until_eose("stored").await, expected, "{filter}");
        client.send(json!(["CLOSE", "stored"])).await;
        let count = client.count(std::slice::from_ref(&filter)).await;
        assert_eq!(count["count"], expected.len(), "{filter}");
        if !is_searched {
            let mut other = Other::with(&[]);
            other.reconcile(&mut client, "neg", &filter).await;
            assert_eq!(other.need.into_iter().collect::<Vec<_>>(), expected, "{filter}");
        }
    }
    client.req("live", &[json!({"#p": [key(&bob)], "limit": 0})]).await;
    client.events_until_eose("live").await;
    let at = now() + viewer.map_or(0, |viewer| u64::from(viewer.pubkey().0[0]));
    let kept = ann.sign(at, 1_059, &[&["p", &key(&bob)]], "sealed");
    let passing = ann.sign(at, 21_059, &[&["p", &key(&bob)]], "sealed");
    relay.client().await.publish_all(&[kept.clone(), passing.clone()]).await;
    let expected: HashSet<String> = expected(&[&kept, &passing]).into_iter().collect();
    assert_eq!(client.distinct_events("live", expected.len()).await, expected);
    client.expect_no_more_events("live").await;
    authenticated(relay, &ann).await.publish(&deletion(&ann, &[&kept])).await.expect_ok();
}

fn deletion(author: &Author, events: &[&Verified]) -> Verified {
    let tags: Vec<[String; 2]> = events.iter().map(|event| ["e".into(), id(event)]).collect();
    let tags: Vec<Vec<&str>> =
        tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    // Not among what its author's messages are looked for by.
    author.sign(now(), 5, &tags, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_its_peoples_on_every_way_stored_and_live() {
    let viewers = [(None, false), (Some(1), true), (Some(2), true), (Some(3), false)];
    for (viewer, is_theirs) in viewers {
        let relay = relay().await;
        let message = wrap(&Author::new(1), &Author::new(2), 1_000);
        relay.client().await.publish(&message).await.expect_ok();
        check_gate(&relay, viewer.map(Author::new).as_ref(), is_theirs).await;
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_which_its_receiver_has_no_room_is_refused_until_there_is_some() {
    let (ann, bob, eve) = (Author::new(1), Author::new(2), Author::new(3));
    let sent: Vec<Verified> = (0..8).map(|at| padded(&ann, &bob, 1_000 + at)).collect();
    let room = MessageTerms {
        bytes_per_key_max: Some(3 * bytes(&sent[0]) + 10),
        ..MessageTerms::default()
    };
    let relay = relay_that_keeps(room, None).await;
    let mut client = relay.client().await;
    client.publish_all(&sent[..3]).await;
    let full = format!("blocked: over quota: there is no room for more messages to {}", key(&bob));
    for message in &sent[3..] {
        client.publish(message).await.expect_refused(&full);
    }
    // Others have their own room, and what is for everybody takes none.
    client.publish(&padded(&ann, &eve, 1_000)).await.expect_ok();
    client
        .publish(&ann.sign(1_000, 1, &[&["p", &key(&bob)]], &"x".repeat(2_000)))
        .await
        .expect_ok();
    assert_eq!(relay.metric("aquifer_events_total{outcome=\"over_quota\"}").await, 5.0);
    let removed = messages_say(relay.data(), &["rm", "--id", &id(&sent[0]), "--yes"]).await;
    assert!(removed.contains("deleted 1 messages from this relay"), "{removed}");
    // What was refused before is taken now: that is not remembered.
    client.publish(&sent[3]).await.expect_ok();
    client.publish(&sent[4]).await.expect_refused(&full);
    let folder = relay.stop().await;
    let over = told(folder.path(), "over quota");
    let bytes = 3 * bytes(&sent[0]);
    let expected = json!({"event": "over quota", "receiver": key(&bob), "bytes": bytes, "done": "refused", "dropped": 0});
    assert_eq!(over[0], expected);
    // Told when it was counted, and not of each.
    assert!(over.len() < 6, "{over:?}");
}

/// A message of about a kilobyte.
fn padded(from: &Author, to: &Author, at: u64) -> Verified {
    from.sign(at, 1_059, &[&["p", &key(to)]], &"x".repeat(1_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_by_its_author_makes_room() {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let sent: Vec<Verified> = (0..3).map(|at| padded(&ann, &bob, 1_000 + at)).collect();
    let room =
        MessageTerms { bytes_per_key_max: Some(2 * bytes(&sent[0])), ..MessageTerms::default() };
    let relay = relay_that_keeps(room, None).await;
    let mut client = relay.client().await;
    client.publish_all(&sent[..2]).await;
    client.publish(&deletion(&ann, &[&sent[0], &sent[1]])).await.expect_ok();
    // The books are not told: it may take until L1 is counted again.
    relay.wait_for(async || relay.client().await.publish(&sent[2]).await.accepted).await;
    relay.stop().await;
}

async fn check_dropped(role: Role, is_kept_in_l2: bool) {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let sent: Vec<Verified> = (0..5).map(|at| padded(&ann, &bob, 1_000 + at)).collect();
    let messages = MessageTerms {
        bytes_per_key_max: Some(3 * bytes(&sent[0]) + 500),
        over_quota: OverQuota::DropOldest,
        ..MessageTerms::default()
    };
    let l2 = FakeL2::default();
    l2.set_role(Some(role));
    let relay = relay_that_keeps(messages, Some(l2.clone())).await;
    let mut client = relay.client().await;
    client.publish_all(&sent[..3]).await;
    l2.wait_for_events(3).await;
    l2.wait_for_polls(2).await;
    client.publish(&sent[3]).await.expect_ok();
    client.publish(&sent[4]).await.expect_ok();
    let newest: Vec<String> = sent[2..].iter().rev().map(id).collect();
    assert_eq!(gift_wraps_of(&relay, &bob).await, newest);
    assert_eq!(relay.metric("aquifer_messages_dropped_total").await, 2.0);
    let left = if is_kept_in_l2 { 5 } else { 3 };
    relay.wait_for(async || l2.contents().len() == left).await;
    l2.wait_for_polls(2).await;
    assert_eq!(gift_wraps_of(&relay, &bob).await, newest);
    let folder = relay.stop().await;
    let over = told(folder.path(), "over quota");
    let whats: Vec<_> = over.iter().map(|line| (&line["done"], &line["dropped"])).collect();
    assert_eq!(whats, [(&json!("dropped"), &json!(1)), (&json!("dropped"), &json!(1))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_operator_wants_it_the_oldest_go_instead_here_and_where_the_relay_may_delete() {
    check_dropped(Role::Relay, true).await;
    check_dropped(Role::Owner, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_messages_together_have_a_quota_and_each_counts_once() {
    let (ann, bob, eve) = (Author::new(1), Author::new(2), Author::new(3));
    let to_both: Vec<Verified> = (0..3)
        .map(|at| {
            let tags: [&[&str]; 2] = [&["p", &key(&bob)], &["p", &key(&eve)]];
            ann.sign(1_000 + at, 1_059, &tags, &"x".repeat(1_000))
        })
        .collect();
    let total = 2 * bytes(&to_both[0]) + 10;
    for over_quota in [OverQuota::Refuse, OverQuota::DropOldest] {
        let all =
            MessageTerms { bytes_total_max: Some(total), over_quota, ..MessageTerms::default() };
        let relay = relay_that_keeps(all, None).await;
        let mut client = relay.client().await;
        client.publish_all(&to_both[..2]).await;
        let reply = client.publish(&to_both[2]).await;
        match over_quota {
            OverQuota::Refuse => {
                reply.expect_refused("blocked: over quota: there is no room for more messages")
            }
            OverQuota::DropOldest => {
                reply.expect_ok();
                assert_eq!(gift_wraps_of(&relay, &bob).await[0], id(&to_both[2]));
            }
        }
        let usage: Value =
            serde_json::from_str(&messages_say(relay.data(), &["usage", "--json"]).await).unwrap();
        assert!(usage["total"]["bytes"].as_u64().unwrap() <= total, "{usage}");
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_come_at_once_they_do_not_go_over_together() {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let sent: Vec<Verified> = (0..60).map(|at| padded(&ann, &bob, 1_000 + at)).collect();
    let room =
        MessageTerms { bytes_per_key_max: Some(7 * bytes(&sent[0])), ..MessageTerms::default() };
    let relay = relay_that_keeps(room, None).await;
    let mut senders = Vec::new();
    for sent in sent.chunks(6) {
        let (mut client, sent) = (relay.client().await, sent.to_vec());
        senders.push(tokio::spawn(async move {
            for message in &sent {
                client.send(json!(["EVENT", crate::harness::value_of(message)])).await;
            }
            let mut accepted = 0;
            for _ in &sent {
                accepted += usize::from(client.ok().await.accepted);
            }
            accepted
        }));
    }
    let mut accepted = 0;
    for sender in senders {
        accepted += sender.await.unwrap();
    }
    assert_eq!(accepted, 7);
    assert_eq!(gift_wraps_of(&relay, &bob).await.len(), 7);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_relays_bring_is_counted_and_never_refused() {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let brought: Vec<Verified> = (0..5).map(|at| padded(&ann, &bob, 1_000 + at)).collect();
    let room =
        MessageTerms { bytes_per_key_max: Some(3 * bytes(&brought[0])), ..MessageTerms::default() };
    let l2 = FakeL2::default();
    let relay = relay_that_keeps(room, Some(l2.clone())).await;
    let mut client = relay.client().await;
    // So that there is an account before they come.
    client.publish(&wrap(&ann, &bob, 900)).await.expect_ok();
    brought.iter().for_each(|message| l2.bring(message));
    relay.wait_for_metric("aquifer_store_events", 6.0).await;
    client.publish(&padded(&ann, &bob, 2_000)).await.expect_refused("blocked: over quota");
    assert_eq!(gift_wraps_of(&relay, &bob).await.len(), 6);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_old_are_not_taken_hidden_at_once_and_swept_away() {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let four_days_ago = now() - 4 * 86_400;
    let (old, new) = (wrap(&ann, &bob, four_days_ago), wrap(&ann, &bob, now()));
    let note = ann.sign(four_days_ago, 1, &[], "as old");
    let (config, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = config.path().join("relay.toml");
    fs::write(&file, "").unwrap();
    let flags = Settings::of_data(Some(data.path().into()));
    let source = Source { flags, file: Some(file.clone()) };
    let start = |data| {
        let source = source.clone();
        TestRelay::start_with(data, None, move |config| *config = source.config().unwrap())
    };
    let relay = start(data).await;
    let mut client = relay.client().await;
    client.publish_all(&[old.clone(), new.clone(), note.clone()]).await;
    assert_eq!(gift_wraps_of(&relay, &bob).await, [id(&new), id(&old)]);
    let mut bobs = authenticated(&relay, &bob).await;
    // A list of them is kept from now on.
    for _ in 0..2 {
        let mut other = Other::with(&[]);
        other.reconcile(&mut bobs, "neg", &json!({"kinds": [1_059]})).await;
        assert_eq!(other.need.len(), 2);
    }

    fs::write(&file, "name = 'kept'\nmessage_days_max = 3\n").unwrap();
    relay.reload();
    relay.wait_for(async || relay.document().await["name"] == "kept").await;
    assert_eq!(gift_wraps_of(&relay, &bob).await, [id(&new)]);
    assert_eq!(bobs.count(&[json!({"kinds": [1_059]})]).await["count"], 1);
    let mut other = Other::with(&[]);
    other.reconcile(&mut bobs, "neg", &json!({"kinds": [1_059]})).await;
    assert_eq!(other.need.len(), 1);
    let older = wrap(&ann, &bob, four_days_ago - 1);
    client.publish(&older).await.expect_refused("invalid: messages are kept for 3 days");
    let retention = relay.document().await["retention"].clone();
    let kinds = json!([4, 1_059, 21_059]);
    assert_eq!(retention, json!([{"kinds": kinds, "time": 259_200}, {"time": null}]));
    assert_eq!(relay.metric("aquifer_store_events").await, 3.0);

    let relay = start(relay.stop().await).await;
    relay.wait_for_metric("aquifer_messages_swept_total", 1.0).await;
    assert_eq!(relay.metric("aquifer_store_events").await, 2.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_swept_goes_from_l2_too_where_the_relay_may() {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let l2 = FakeL2::default();
    l2.set_role(Some(Role::Owner));
    let relay = relay_that_keeps(MessageTerms::default(), Some(l2.clone())).await;
    let old = wrap(&ann, &bob, now() - 4 * 86_400);
    relay.client().await.publish(&old).await.expect_ok();
    l2.wait_for_events(1).await;
    let days_max = Some(3);
    let relay = TestRelay::start_with(relay.stop().await, Some(l2.clone()), |config| {
        config.terms.messages = MessageTerms { days_max, ..MessageTerms::default() };
    });
    let relay = relay.await;
    relay.wait_for(async || l2.contents().is_empty()).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_lists_counts_and_removes_messages_whether_the_relay_runs_or_not() {
    let (ann, bob, eve) = (Author::new(1), Author::new(2), Author::new(3));
    let sent = [
        wrap(&ann, &bob, 1_000),
        wrap(&ann, &eve, 1_001),
        wrap(&eve, &bob, now()),
        ann.sign(1_003, 4, &[&["p", &key(&eve)]], "?iv="),
    ];
    let relay = relay().await;
    let mut client = relay.client().await;
    client.publish_all(&sent).await;
    client.publish(&ann.sign(1_004, 1, &[&["p", &key(&bob)]], "no message")).await.expect_ok();
    client.publish(&ann.sign(1_005, 1_059, &[], "to nobody")).await.expect_ok();
    let running = relay.data().to_owned();
    check_look(&running, &sent).await;
    let no_answer = messages(&running, &["rm", "--to", &key(&bob)]).await;
    let why = String::from_utf8(no_answer.stderr).unwrap();
    assert!(!no_answer.status.success() && why.contains("2 messages match"), "{why}");
    assert!(!messages(&running, &["rm", "--yes"]).await.status.success());
    let removed = messages_say(&running, &["rm", "--older-than", "1", "--yes"]).await;
    assert!(removed.contains("deleted 3 messages from this relay"), "{removed}");
    assert_eq!(gift_wraps_of(&relay, &bob).await, [id(&sent[2])]);
    client.publish_all(&[sent[0].clone(), sent[1].clone(), sent[3].clone()]).await;

    let folder = relay.stop().await;
    check_look(folder.path(), &sent).await;
    let removed = messages_say(folder.path(), &["rm", "--to", &key(&bob), "--yes"]).await;
    assert!(removed.contains("deleted 2 messages from this relay"), "{removed}");
    let nothing = messages_say(folder.path(), &["rm", "--to", &key(&bob), "--yes"]).await;
    assert!(nothing.contains("no message matches"), "{nothing}");
    let left = messages_say(folder.path(), &["ls", "--json"]).await;
    assert_eq!(left.lines().count(), 2);
}

async fn check_look(data: &Path, sent: &[Verified; 4]) {
    let said = messages_say(data, &["ls", "--json"]).await;
    let listed: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut expected: Vec<&Verified> = sent.iter().collect();
    expected.sort_by_key(|event| std::cmp::Reverse(event.created_at));
    let line = |event: &Verified| {
        let to = [event.tags[0].value().unwrap()];
        json!({
            "id": event.id, "kind": event.kind, "from": event.pubkey, "to": to,
            "created_at": event.created_at, "bytes": bytes(event),
        })
    };
    assert_eq!(listed, expected.into_iter().map(line).collect::<Vec<_>>());
    let text = messages_say(data, &["ls", "--to", &npub(&Author::new(2))]).await;
    assert_eq!(text.lines().count(), 2);
    assert!(text.contains(&id(&sent[0])) && !text.contains("sealed"), "{text}");
    let usage = messages_say(data, &["usage"]).await;
    assert!(usage.contains("4 messages") && usage.contains("64.00 MiB"), "{usage}");
}

fn npub(author: &Author) -> String {
    let prefix = bech32::Hrp::parse("npub").unwrap();
    bech32::encode::<bech32::Bech32>(prefix, &author.pubkey().0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_while_it_is_on_its_way_up_does_not_come_back() {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let l2 = FakeL2::default();
    let relay = relay_that_keeps(MessageTerms::default(), Some(l2.clone())).await;
    let sent = wrap(&ann, &bob, 1_000);
    l2.hold_up(sent.id);
    relay.client().await.publish_all(std::slice::from_ref(&sent)).await;
    l2.wait_for_saves_under_way(1).await;
    let removed = messages_say(relay.data(), &["rm", "--id", &id(&sent), "--yes"]).await;
    assert!(removed.contains("deleted 1 messages from this relay"), "{removed}");
    l2.forgive();
    l2.wait_for_events(1).await;
    // Each of them looks at what arrived lately, once more.
    l2.wait_for_polls(6).await;
    let usage = messages_say(relay.data(), &["usage"]).await;
    assert!(usage.contains("total         0 messages"), "{usage}");
    assert_eq!(relay.metric("aquifer_poll_missed_total").await, 0.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_says_whether_the_shared_store_follows() {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let l2 = FakeL2::default();
    let relay = relay_that_keeps(MessageTerms::default(), Some(l2.clone())).await;
    let sent = [wrap(&ann, &bob, 1_000), wrap(&ann, &bob, 1_001)];
    relay.client().await.publish_all(&sent).await;
    l2.wait_for_events(2).await;
    let removed = messages_say(relay.data(), &["rm", "--id", &id(&sent[0]), "--yes"]).await;
    assert!(removed.contains("the shared store keeps them: its owner can delete"), "{removed}");
    l2.set_role(Some(Role::Owner));
    let removed = messages_say(relay.data(), &["rm", "--to", &key(&bob), "--yes"]).await;
    assert!(removed.contains("deleted 1 messages from the shared store"), "{removed}");
    assert_eq!(l2.contents().len(), 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_the_sum_over_all_messages() {
    let relay = relay().await;
    let mut naive: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    let (mut total, mut sent) = (0, Vec::new());
    for _ in 0..300 {
        let mut random = rand::rng();
        let receivers: Vec<String> = (0..random.random_range(1..4))
            .map(|_| key(&Author::new(random.random_range(1..8))))
            .collect();
        let tags: Vec<[&str; 2]> = receivers.iter().map(|key| ["p", key.as_str()]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
        let kind = if random.random() { 4 } else { 1_059 };
        let content = "x".repeat(random.random_range(0..3_000));
        let at = random.random_range(1_000..100_000);
        sent.push(Author::new(random.random_range(1..8)).sign(at, kind, &tags, &content));
    }
    sent.sort_by_key(|event| event.id);
    sent.dedup_by_key(|event| event.id);
    for event in &sent {
        let mut receivers: Vec<&str> = event.tags.iter().filter_map(|tag| tag.value()).collect();
        receivers.sort();
        receivers.dedup();
        total += bytes(event);
        for receiver in receivers {
            let Timestamp(at) = event.created_at;
            let usage = naive.entry(receiver.into()).or_insert((0, 0, at));
            *usage = (usage.0 + 1, usage.1 + bytes(event), usage.2.min(at));
        }
    }
    relay.client().await.publish_all(&sent).await;
    let said = messages_say(relay.data(), &["usage", "--json"]).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    let receivers = said["receivers"].as_array().unwrap().iter();
    let told: BTreeMap<String, (u64, u64, u64)> = receivers
        .map(|usage| {
            let figures =
                (number(&usage["messages"]), number(&usage["bytes"]), number(&usage["oldest"]));
            (usage["receiver"].as_str().unwrap().to_owned(), figures)
        })
        .collect();
    assert_eq!(told, naive);
    assert_eq!(said["total"]["messages"], sent.len());
    assert_eq!(said["total"]["bytes"], total);
    relay.stop().await;
}
