//! What a client is told, NIP by NIP, over a real websocket.

use std::collections::BTreeSet;

use aquifer::config::Config;
use event::{Verified, twin::Author};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::{Value, json};

use crate::harness::{Client, FakeL2, TestRelay, relay, relay_but, relay_with, value_of};

/// Signs what the relay asks for.
fn answer(author: &Author, relay: &TestRelay, kind: u16, challenge: &str) -> Value {
    let tags: [&[&str]; 2] = [&["relay", &relay.url], &["challenge", challenge]];
    value_of(&author.sign(now(), kind, &tags, ""))
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

pub async fn authenticate(client: &mut Client, author: &Author, relay: &TestRelay) {
    authenticate_as_all(client, std::slice::from_ref(author), relay).await;
}

/// With the keys of several authors; of none, too.
pub async fn authenticate_as_all(client: &mut Client, authors: &[Author], relay: &TestRelay) {
    let challenge = client.challenge().await;
    for author in authors {
        sign_in(client, author, relay, &challenge).await;
    }
}

async fn sign_in(client: &mut Client, author: &Author, relay: &TestRelay, challenge: &str) {
    client.send(json!(["AUTH", answer(author, relay, 22_242, challenge)])).await;
    client.ok().await.expect_ok();
}

pub fn wrap(from: &Author, to: &Author, at: u64) -> Verified {
    from.sign(at, 1_059, &[&["p", &to.pubkey().to_string()]], "sealed")
}

fn id(event: &Verified) -> String {
    event.id.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_42_several_keys_authenticate_on_one_connection_and_lies_do_not() {
    let relay = relay().await;
    let (ann, bob, eve) = (Author::new(1), Author::new(2), Author::new(3));
    let mut client = relay.client().await;
    let (challenge, another) = (client.challenge().await, relay.client().await.challenge().await);
    assert_eq!(client.challenge().await, challenge);
    assert_ne!(challenge, another);
    let stolen = answer(&eve, &relay, 22_242, &another);
    client.send(json!(["AUTH", stolen])).await;
    client.ok().await.expect_refused("invalid: the challenge");
    client.send(json!(["AUTH", answer(&eve, &relay, 1, &challenge)])).await;
    client.ok().await.expect_refused("invalid: AUTH takes an event of kind 22242");
    let mut forged = answer(&eve, &relay, 22_242, &challenge);
    forged["pubkey"] = json!(ann.pubkey().to_string());
    client.send(json!(["AUTH", forged])).await;
    client.ok().await.expect_refused("invalid: ");
    client.send(json!(["AUTH", "me"])).await;
    assert!(client.notice().await.starts_with("invalid: "));
    // The challenge stands for as long as the connection does.
    for author in [&ann, &bob, &ann] {
        sign_in(&mut client, author, &relay, &challenge).await;
    }
    let mut eve_listens = relay.client().await;
    for wrap in [wrap(&eve, &ann, 1_000), wrap(&eve, &bob, 1_001)] {
        eve_listens.publish(&wrap).await.expect_ok();
    }
    client.req("mine", &[json!({"kinds": [1059]})]).await;
    assert_eq!(client.events_until_eose("mine").await.len(), 2);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_42_an_answer_to_a_relay_is_no_event_for_its_store() {
    let relay = relay().await;
    let ann = Author::new(1);
    let mut client = relay.client().await;
    for kind in [13, 9_734, 22_242, 24_242, 27_235] {
        let event = ann.sign(1_000, kind, &[], "");
        client.publish(&event).await.expect_refused("invalid: events of kind");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_17_and_04_messages_are_shown_to_their_people_alone_stored_live_and_counted() {
    let relay = relay().await;
    let (ann, bob, eve) = (Author::new(1), Author::new(2), Author::new(3));
    let mut out = relay.client().await;
    let to_bob = wrap(&ann, &bob, 1_000);
    let to_eve = wrap(&ann, &eve, 1_001);
    let old = ann.sign(1_002, 4, &[&["p", &bob.pubkey().to_string()]], "?iv=");
    let note = ann.sign(999, 1, &[], "for all");
    out.publish_all(&[to_bob.clone(), to_eve.clone(), old.clone(), note.clone()]).await;

    let mut stranger = relay.client().await;
    let messages = json!({"kinds": [4, 1059]});
    stranger.req("dm", std::slice::from_ref(&messages)).await;
    assert!(stranger.closed("dm").await.starts_with("auth-required: "));
    stranger.send(json!(["COUNT", "dm", messages])).await;
    assert!(stranger.closed("dm").await.starts_with("auth-required: "));
    // What is withheld uses up no limit.
    stranger.req("all", &[json!({"limit": 1})]).await;
    assert_eq!(stranger.events_until_eose("all").await, [id(&note)]);
    assert_eq!(stranger.count(&[json!({})]).await["count"], 1);

    let mut bobs = relay.client().await;
    authenticate(&mut bobs, &bob, &relay).await;
    bobs.req("dm", std::slice::from_ref(&messages)).await;
    assert_eq!(bobs.events_until_eose("dm").await, [id(&old), id(&to_bob)]);
    assert_eq!(bobs.count(&[messages]).await["count"], 2);
    let to_eve = eve.pubkey().to_string();
    let between = json!({"kinds": [1059], "#p": [to_eve], "authors": [ann.pubkey().to_string()]});
    bobs.req("others", &[between]).await;
    assert!(bobs.closed("others").await.starts_with("restricted: "));

    let (next, passing) = (wrap(&ann, &bob, 2_000), ann.sign(2_001, 21_059, &[], ""));
    out.publish_all(&[wrap(&ann, &eve, 1_999), next.clone(), passing]).await;
    assert_eq!(bobs.event("dm").await, id(&next));
    bobs.expect_no_more_events("dm").await;
    stranger.expect_no_more_events("all").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_70_a_protected_event_is_taken_from_its_author_alone_and_in_no_repost() {
    let relay = relay().await;
    let (ann, bob) = (Author::new(1), Author::new(2));
    let protected = ann.sign(1_000, 1, &[&["-"]], "for here");
    let mut client = relay.client().await;
    client.publish(&protected).await.expect_refused("auth-required: ");
    let challenge = client.challenge().await;
    sign_in(&mut client, &bob, &relay, &challenge).await;
    client.publish(&protected).await.expect_refused("restricted: ");
    sign_in(&mut client, &ann, &relay, &challenge).await;
    client.publish(&protected).await.expect_ok();
    for kind in [6, 16] {
        let repost = bob.sign(1_001, kind, &[], &protected.to_json());
        client.publish(&repost).await.expect_refused("blocked: ");
    }
    // A tag that only looks like it protects nothing.
    bob_publishes_freely(&mut client, &bob).await;
    relay.stop().await;
}

async fn bob_publishes_freely(client: &mut Client, bob: &Author) {
    client.publish(&bob.sign(1_002, 1, &[&["-", "x"]], "")).await.expect_ok();
    client.publish(&bob.sign(1_003, 6, &[], "no event")).await.expect_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_45_a_count_is_that_of_the_union_and_says_how_many_people_with_a_sketch() {
    let relay = relay().await;
    let target = "ab".repeat(32);
    let mut client = relay.client().await;
    let mut registers = [0u8; 256];
    let mut reactions = Vec::new();
    for author in 0..40 {
        let author = Author::new(author);
        reactions.push(author.sign(1_000, 7, &[&["e", &target]], "+"));
        // The sketch by its definition: the 33rd digit of the target is "a".
        let key = author.pubkey().0;
        let bits: String = key[19..].iter().map(|byte| format!("{byte:08b}")).collect();
        let zeros = bits.bytes().take_while(|bit| *bit == b'0').count() as u8;
        let register = &mut registers[usize::from(key[18])];
        *register = (*register).max(zeros + 1);
    }
    client.publish_all(&reactions).await;
    let reacted = json!({"kinds": [7], "#e": [target]});
    let by_one = json!({"authors": [Author::new(0).pubkey().to_string()]});
    assert_eq!(client.count(&[reacted.clone(), by_one]).await, json!({"count": 40}));
    let told = client.count(std::slice::from_ref(&reacted)).await;
    let expected: String = registers.iter().map(|register| format!("{register:02x}")).collect();
    assert_eq!(told, json!({"count": 40, "hll": expected}));
    client.send(json!(["COUNT", "none"])).await;
    assert!(client.closed("none").await.starts_with("invalid: "));
    client.send(json!(["COUNT", "wrong", {"kinds": ["one"]}])).await;
    assert!(client.closed("wrong").await.starts_with("invalid: "));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_67_eose_says_whether_there_is_more() {
    let relay = relay().await;
    let ann = Author::new(1);
    let notes: Vec<Verified> =
        (0..3).map(|at| ann.sign(1_000 + at, 1, &[], &format!("note {at}"))).collect();
    let mut client = relay.client().await;
    assert_eq!(client.hint(&[json!({})]).await, "finish");
    client.publish_all(&notes).await;
    for (filters, expected) in [
        (vec![json!({})], "finish"),
        (vec![json!({"limit": 3})], "finish"),
        (vec![json!({"limit": 2})], "more"),
        (vec![json!({"limit": 0})], "more"),
        (vec![json!({"limit": 1, "until": 1_000})], "finish"),
        (vec![json!({"limit": 0, "kinds": [7]})], "finish"),
        (vec![json!({"limit": 2}), json!({"kinds": [7]})], "more"),
        (vec![json!({"limit": 9}), json!({"kinds": [7]})], "finish"),
    ] {
        assert_eq!(client.hint(&filters).await, expected, "{filters:?}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_67_without_its_shared_store_a_relay_does_not_claim_to_know_all() {
    let l2 = FakeL2::default();
    let relay = relay_with(&l2).await;
    let mut client = relay.client().await;
    assert_eq!(client.hint(&[json!({})]).await, "finish");
    l2.set_available(false);
    relay.wait_for_metric("aquifer_poll_failing", 1.0).await;
    assert_eq!(client.hint(&[json!({})]).await, "more");
    relay.stop().await;
}

/// Mines.
fn with_work(bits: u32, committed: u32) -> Verified {
    let zeros = |event: &Verified| {
        let bits: String = event.id.0.iter().map(|byte| format!("{byte:08b}")).collect();
        bits.bytes().take_while(|bit| *bit == b'0').count() as u32
    };
    let ann = Author::new(1);
    let tried = (0u32..).map(|nonce| {
        let nonce: [&[&str]; 1] = [&["nonce", &nonce.to_string(), &committed.to_string()]];
        ann.sign(1_000, 1, &nonce, "")
    });
    tried.into_iter().find(|event| zeros(event) >= bits).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_13_work_counts_if_it_was_committed_to() {
    let relay = relay_but(|config: &mut Config| config.terms.limits.pow_min = 8).await;
    let mut client = relay.client().await;
    client.publish(&with_work(8, 8)).await.expect_ok();
    client.publish(&with_work(8, 7)).await.expect_refused("pow: 8 bits are wanted, the nonce tag");
    let idle = Author::new(1).sign(1_002, 1, &[&["nonce", "1", "8"]], "no luck");
    client.publish(&idle).await.expect_refused("pow: 8 bits are wanted, the id has");
    let document = relay.document().await;
    assert_eq!(document["limitation"]["min_pow_difficulty"], 8);
    assert!(document["supported_nips"].as_array().unwrap().contains(&json!(13)));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_11_programs_get_a_document_and_people_a_page() {
    let relay = relay_but(|config: &mut Config| {
        config.terms.about.name = "<b>Springs</b>".into();
        config.terms.about.icon = Some("https://example.com/icon.png".into());
    })
    .await;
    let document = relay.document().await;
    assert_eq!(document["name"], "<b>Springs</b>");
    assert_eq!(document["icon"], "https://example.com/icon.png");
    assert!(!document["supported_nips"].as_array().unwrap().contains(&json!(13)));
    for limit in ["max_message_length", "max_limit", "default_limit", "created_at_upper_limit"] {
        assert!(document["limitation"][limit].is_u64(), "{limit}");
    }
    let close = "Connection: close\r\n";
    let page = relay.get(&format!("Accept: text/html,*/*;q=0.8\r\n{close}")).await;
    assert!(page.contains("text/html") && page.contains("&lt;b&gt;Springs"), "{page}");
    assert!(page.contains(&relay.url), "{page}");
    let line = relay.get(close).await;
    assert!(line.contains("text/plain") && line.contains("a nostr relay"), "{line}");
    let accept = format!("Accept: application/nostr+json\r\n{close}");
    let head = relay.ask("HEAD", &accept).await;
    assert!(head.contains("application/nostr+json") && head.ends_with("\r\n\r\n"), "{head}");
    let options = relay.ask("OPTIONS", &accept).await.to_ascii_lowercase();
    assert!(options.contains("access-control-allow-origin: *"), "{options}");
    assert!(options.contains("access-control-allow-methods: get"), "{options}");
    relay.stop().await;
}

/// The other side: what it has, and what it finds that each lacks.
pub struct Other {
    negentropy: Negentropy<'static, NegentropyStorageVector>,
    have: BTreeSet<String>,
    pub need: BTreeSet<String>,
}

impl Other {
    pub fn with(events: &[Verified]) -> Other {
        let mut storage = NegentropyStorageVector::new();
        for event in events {
            storage.insert(event.created_at.0, Id::from_byte_array(event.id.0)).unwrap();
        }
        storage.seal().unwrap();
        let negentropy = Negentropy::owned(storage, 0).unwrap();
        Other { negentropy, have: BTreeSet::new(), need: BTreeSet::new() }
    }

    /// All rounds, under a name.
    pub async fn reconcile(&mut self, client: &mut Client, name: &str, filter: &Value) {
        let first = hex::encode(self.negentropy.initiate().unwrap());
        client.send(json!(["NEG-OPEN", name, filter, first])).await;
        loop {
            let frame = client.frame_of("NEG-MSG").await;
            assert_eq!(frame[1], name);
            let said = hex::decode(frame[2].as_str().unwrap()).unwrap();
            let (mut have, mut need) = (Vec::new(), Vec::new());
            let next = self.negentropy.reconcile_with_ids(&said, &mut have, &mut need).unwrap();
            self.have.extend(have.iter().map(|id| hex::encode(id.as_bytes())));
            self.need.extend(need.iter().map(|id| hex::encode(id.as_bytes())));
            match next {
                Some(next) => client.send(json!(["NEG-MSG", name, hex::encode(next)])).await,
                None => break,
            }
        }
        client.send(json!(["NEG-CLOSE", name])).await;
    }
}

fn ids_of(events: &[Verified]) -> BTreeSet<String> {
    events.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_77_both_sides_find_out_what_they_lack() {
    let relay = relay().await;
    let ann = Author::new(1);
    let notes: Vec<Verified> =
        (0..900).map(|at| ann.sign(1_000 + at / 3, 1, &[], &format!("note {at}"))).collect();
    let elsewhere = ann.sign(1_100, 7, &[], "of another kind");
    let mut client = relay.client().await;
    client.publish_all(&notes[..700]).await;
    client.publish(&elsewhere).await.expect_ok();
    let mut other = Other::with(&notes[500..]);
    // A subscription of the same name is another matter.
    client.req("same", &[json!({"limit": 0})]).await;
    other.reconcile(&mut client, "same", &json!({"kinds": [1]})).await;
    assert_eq!(other.have, ids_of(&notes[700..]));
    assert_eq!(other.need, ids_of(&notes[..500]));
    relay.client().await.publish(&ann.sign(5_000, 1, &[], "live")).await.expect_ok();
    client.event("same").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_77_what_is_not_for_a_client_is_not_reconciled() {
    let relay = relay().await;
    let (ann, bob) = (Author::new(1), Author::new(2));
    let (note, wrapped) = (ann.sign(1_000, 1, &[], ""), wrap(&ann, &bob, 1_001));
    let mut client = relay.client().await;
    client.publish_all(&[note.clone(), wrapped.clone()]).await;
    let mut stranger = Other::with(&[]);
    stranger.reconcile(&mut client, "all", &json!({})).await;
    assert_eq!(stranger.need, ids_of(std::slice::from_ref(&note)));
    client.send(json!(["NEG-OPEN", "dm", {"kinds": [1059]}, "61"])).await;
    let refused = client.frame_of("NEG-ERR").await;
    assert!(refused[2].as_str().unwrap().starts_with("auth-required: "), "{refused}");
    authenticate(&mut client, &bob, &relay).await;
    let mut bobs = Other::with(&[]);
    bobs.reconcile(&mut client, "all", &json!({})).await;
    assert_eq!(bobs.need, ids_of(&[note, wrapped]));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_77_refusals_name_the_reconciliation() {
    let relay = relay_but(|config: &mut Config| config.terms.limits.neg_items_max = 2).await;
    let ann = Author::new(1);
    let notes: Vec<Verified> = (0..3).map(|at| ann.sign(1_000 + at, 1, &[], "")).collect();
    let mut client = relay.client().await;
    client.publish_all(&notes).await;
    let newest = json!({"since": 1_001});
    for (frame, reason) in [
        (json!(["NEG-OPEN", "n", {}, "61"]), "blocked: more than 2"),
        (json!(["NEG-OPEN", "n", newest, "50"]), "invalid: "),
        (json!(["NEG-OPEN", "n", {"kinds": "all"}, "61"]), "invalid: "),
        (json!(["NEG-OPEN", "n", newest, "6"]), "invalid: "),
        (json!(["NEG-OPEN", "n", newest, 16, "61"]), "invalid: "),
        (json!(["NEG-MSG", "n"]), "invalid: "),
        (json!(["NEG-MSG", "n", "61"]), "closed: "),
    ] {
        client.send(frame.clone()).await;
        let refused = client.frame_of("NEG-ERR").await;
        assert_eq!(refused[1], "n");
        assert!(refused[2].as_str().unwrap().starts_with(reason), "{frame}: {refused}");
    }
    // Another version of the protocol is told ours.
    client.send(json!(["NEG-OPEN", "n", newest, "62"])).await;
    assert_eq!(client.frame_of("NEG-MSG").await[2], "61");
    let mut other = Other::with(&notes[..1]);
    other.reconcile(&mut client, "n", &newest).await;
    assert_eq!((other.need, other.have), (ids_of(&notes[1..]), ids_of(&notes[..1])));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_62_a_request_to_this_relay_by_its_url_takes_everything_and_to_another_nothing() {
    let relay = relay().await;
    let (ann, bob) = (Author::new(1), Author::new(2));
    let mut client = relay.client().await;
    let (note, to_ann) = (ann.sign(1_000, 1, &[], "note"), wrap(&bob, &ann, 1_001));
    let bobs = bob.sign(1_002, 1, &[], "note");
    client.publish_all(&[note.clone(), to_ann, bobs.clone()]).await;
    let elsewhere = ann.sign(2_000, 62, &[&["relay", "wss://elsewhere.example.com"]], "");
    client.publish(&elsewhere).await.expect_ok();
    let notes = [json!({"kinds": [1]})];
    client.req("before", &notes).await;
    assert_eq!(client.events_until_eose("before").await, [id(&bobs), id(&note)]);
    let here = ann.sign(2_001, 62, &[&["relay", &format!("{}/", relay.url)]], "");
    client.publish(&here).await.expect_ok();
    client.req("after", &notes).await;
    assert_eq!(client.events_until_eose("after").await, [id(&bobs)]);
    // A wrap to who vanished is gone, too, and nothing comes back.
    authenticate(&mut client, &ann, &relay).await;
    assert_eq!(client.count(&[json!({"kinds": [1059]})]).await["count"], 0);
    client.publish(&note).await.expect_refused("blocked: ");
    client.publish(&ann.sign(2_002, 1, &[], "anew")).await.expect_ok();
    // A deletion does not reach a request to vanish.
    let undo = ann.sign(2_003, 5, &[&["e", &id(&here)]], "");
    client.publish(&undo).await.expect_ok();
    client.publish(&note).await.expect_refused("blocked: ");
    let nips = relay.document().await["supported_nips"].clone();
    assert!(nips.as_array().unwrap().contains(&json!(62)));
    relay.stop().await;
}
