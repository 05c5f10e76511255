//! The delivery log, as a relay writes it while clients come and go.

use std::{fs, path::Path};

use event::{Event, Verified, twin::Author};
use serde_json::{Value, json};

use crate::{
    harness::{FakeL2, TestRelay, relay, relay_but},
    protocol::{authenticate, wrap},
};

/// All that is in the folder of the log, as text.
fn text(data: &Path) -> String {
    let files = fs::read_dir(data.join("log")).unwrap();
    files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

fn lines(data: &Path) -> Vec<Value> {
    text(data).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Those with this name, without their times.
pub fn told(data: &Path, name: &str) -> Vec<Value> {
    let mut lines = lines(data);
    lines.retain(|line| line["event"] == name);
    for line in &mut lines {
        let at = line.as_object_mut().unwrap().remove("at").unwrap();
        assert!(at.as_u64().unwrap() > 1_700_000_000_000, "{at} is in milliseconds");
    }
    lines
}

fn forged(event: &Verified) -> Event {
    Event { content: "forged".into(), ..event.clone().into_inner() }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_of_a_message_from_its_sender_to_its_receiver_and_of_their_sessions() {
    let relay = relay().await;
    let (ann, bob) = (Author::new(1), Author::new(2));
    let message = wrap(&ann, &bob, 1_000);
    let passing = ann.sign(1_001, 21_059, &[&["p", &bob.pubkey().to_string()]], "sealed");
    let gift_wraps = [json!({"kinds": [1_059, 21_059]})];

    let mut bobs = relay.client().await;
    authenticate(&mut bobs, &bob, &relay).await;
    bobs.req("live", &gift_wraps).await;
    bobs.events_until_eose("live").await;
    let mut anns = relay.client().await;
    anns.publish(&message).await.expect_ok();
    assert_eq!(bobs.event("live").await, message.id.to_string());
    anns.publish(&passing).await.expect_ok();
    assert_eq!(bobs.event("live").await, passing.id.to_string());
    anns.publish(&ann.sign(1_002, 1, &[], "a note for all")).await.expect_ok();
    bobs.req("stored", &gift_wraps).await;
    assert_eq!(bobs.events_until_eose("stored").await.len(), 1);
    // What its own author reads is no delivery.
    authenticate(&mut anns, &ann, &relay).await;
    anns.req("sent", &gift_wraps).await;
    assert_eq!(anns.events_until_eose("sent").await.len(), 1);
    anns.publish(&forged(&message)).await;
    let another = wrap(&bob, &ann, 1_003);
    anns.publish(&forged(&another)).await.expect_refused("invalid: ");
    drop(anns);
    relay.wait_for_metric("aquifer_connections", 1.0).await;
    let document = relay.document().await;
    let folder = relay.stop().await;
    let data = folder.path();

    let (id, from, to) = (message.id, ann.pubkey(), [bob.pubkey()]);
    let started =
        json!({"event": "started", "version": env!("CARGO_PKG_VERSION"), "key": document["self"]});
    assert_eq!(told(data, "started"), [started]);
    assert_eq!(told(data, "stopped"), [json!({"event": "stopped"})]);
    assert_eq!(
        told(data, "session opened"),
        [
            json!({"event": "session opened", "session": 0}),
            json!({"event": "session opened", "session": 1})
        ]
    );
    assert_eq!(
        told(data, "authenticated"),
        [
            json!({"event": "authenticated", "session": 0, "key": bob.pubkey()}),
            json!({"event": "authenticated", "session": 1, "key": ann.pubkey()}),
        ]
    );
    assert_eq!(
        told(data, "stored"),
        [json!({"event": "stored", "id": id, "kind": 1_059, "from": from, "to": to})]
    );
    let delivered = |id, live| json!({"event": "delivered", "id": id, "from": from, "to": to, "session": 0, "live": live});
    assert_eq!(
        told(data, "delivered"),
        [delivered(id, true), delivered(passing.id, true), delivered(id, false)]
    );
    let refused = told(data, "refused");
    assert_eq!(refused.len(), 1, "a known id is a duplicate: {refused:?}");
    assert_eq!((&refused[0]["id"], &refused[0]["session"]), (&json!(another.id), &json!(1)));
    assert_eq!(refused[0]["from"], Value::Null, "nobody has shown that it is theirs");
    assert!(refused[0]["reason"].as_str().unwrap().starts_with("invalid: id is not the hash"));
    let closed = |session, reason, key| json!({"event": "session closed", "session": session, "reason": reason, "keys": [key]});
    assert_eq!(
        told(data, "session closed"),
        // Who drops a socket says no goodbye.
        [closed(1, "broken", ann.pubkey()), closed(0, "stopping", bob.pubkey())]
    );

    let text = text(data);
    for secret in ["127.0.0.1", "sealed", "a note for all", "forged"] {
        assert!(!text.contains(secret), "{secret:?} is in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_a_known_author_names_it_and_what_a_text_says_is_not_repeated() {
    let relay = relay_but(|config| config.terms.access.banned_kinds = vec!["7".parse().unwrap()]);
    let relay = relay.await;
    let ann = Author::new(1);
    let mut client = relay.client().await;
    client.publish(&ann.sign(1_000, 7, &[], "+")).await.expect_refused("blocked: ");
    let secret = json!({"id": ann.sign(1, 1, &[], "").id, "kind": "a secret of hers"});
    client.send(json!(["EVENT", secret])).await;
    client.ok().await.expect_refused("invalid: not an event");
    let folder = relay.stop().await;
    let refused = told(folder.path(), "refused");
    assert_eq!(refused.len(), 2);
    assert_eq!(refused[1]["reason"], "invalid: not an event");
    assert!(!text(folder.path()).contains("a secret of hers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_refused_all_the_time_fills_no_disk() {
    let relay = relay().await;
    let (ann, mut client) = (Author::new(1), relay.client().await);
    for at in 0..200 {
        client.publish(&forged(&ann.sign(at, 1, &[], ""))).await.expect_refused("invalid: ");
    }
    let folder = relay.stop().await;
    let refused = told(folder.path(), "refused").len();
    assert!((5..100).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_relay_brought_is_delivered_here_and_not_stored_twice() {
    let l2 = FakeL2::default();
    let relay = crate::harness::relay_with(&l2).await;
    let (ann, bob) = (Author::new(1), Author::new(2));
    let mut bobs = relay.client().await;
    authenticate(&mut bobs, &bob, &relay).await;
    bobs.req("live", &[json!({"kinds": [1_059]})]).await;
    bobs.events_until_eose("live").await;
    let message = wrap(&ann, &bob, 1_000);
    l2.bring(&message);
    assert_eq!(bobs.event("live").await, message.id.to_string());
    let folder = relay.stop().await;
    let (stored, delivered) = (told(folder.path(), "stored"), told(folder.path(), "delivered"));
    assert!(stored.is_empty(), "another relay stored it first: {stored:?}");
    assert_eq!((delivered.len(), &delivered[0]["live"]), (1, &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn turned_off_it_leaves_no_file() {
    let relay: TestRelay = relay_but(|config| config.delivery_log_days = None).await;
    relay.client().await.publish(&wrap(&Author::new(1), &Author::new(2), 1)).await.expect_ok();
    let folder = relay.stop().await;
    assert!(!folder.path().join("log").exists());
}
