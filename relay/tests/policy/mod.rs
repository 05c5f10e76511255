//! What an operator and admins decide, and what clients then meet: over real sockets.

use std::{fs, path::PathBuf, process::Output, time::Duration};

use aquifer::config::{Settings, Source};
use base64::{Engine, engine::general_purpose::STANDARD};
use event::{Verified, twin::Author};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::harness::{Client, TestRelay, relay};

/// A relay with a configuration file.
struct Configured {
    relay: TestRelay,
    file: PathBuf,
    _folder: TempDir,
}

impl Configured {
    async fn start(text: &str) -> Configured {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.toml");
        fs::write(&file, text).unwrap();
        let data = tempfile::tempdir().unwrap();
        let flags = Settings::of_data(Some(data.path().into()));
        let source = Source { flags, file: Some(file.clone()) };
        let relay = TestRelay::start_with(data, None, |config| *config = source.config().unwrap());
        Configured { relay: relay.await, file, _folder: folder }
    }

    /// `aquifer admin` on this relay.
    async fn admin(&self, words: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aquifer"));
        let data = self.relay.data().display().to_string();
        command.args(["admin", "--data", &data]).args(words).output().await.unwrap()
    }

    /// What `aquifer admin` prints.
    async fn admin_says(&self, words: &[&str]) -> String {
        let output = self.admin(words).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{words:?}: {said} {:?}", output.stderr);
        said
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn key(author: &Author) -> String {
    author.pubkey().to_string()
}

fn note(author: &Author, at: u64) -> Verified {
    author.sign(at, 1, &[], "note")
}

/// Authorizes one POST of this body.
fn authorization(author: &Author, relay: &TestRelay, body: &str) -> String {
    let url = relay.url.replace("ws://", "http://");
    let hash = hex::encode(Sha256::digest(body));
    let tags: [&[&str]; 3] = [&["u", &url], &["method", "POST"], &["payload", &hash]];
    let event = author.sign(now(), 27_235, &tags, "");
    format!("Authorization: Nostr {}\r\n", STANDARD.encode(event.to_json()))
}

/// Calls a method of NIP-86: the status, and the answer.
async fn call(by: &Author, relay: &TestRelay, method: &str, params: Value) -> (u16, Value) {
    let body = json!({"method": method, "params": params}).to_string();
    relay.post(&authorization(by, relay, &body), &body).await
}

#[track_caller]
fn result((status, answer): (u16, Value)) -> Value {
    assert_eq!(status, 200, "{answer}");
    assert!(answer.get("error").is_none(), "{answer}");
    answer["result"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_the_configuration_bans_stays_banned_until_somebody_allows_it() {
    let (admin, banned) = (Author::new(1), Author::new(2));
    let lists = format!("admins = ['{}']\nbanned_keys = ['{}']", key(&admin), key(&banned));
    let configured = Configured::start(&lists).await;
    let relay = &configured.relay;
    let (_, answer) = call(&admin, relay, "unbanpubkey", json!([key(&banned)])).await;
    assert!(answer["error"].as_str().unwrap().contains("allowpubkey"), "{answer}");
    let mut client = relay.client().await;
    client.publish(&note(&banned, 1_000)).await.expect_refused("blocked: ");
    result(call(&admin, relay, "allowpubkey", json!([key(&banned)])).await);
    client.publish_all(&[note(&banned, 1_000)]).await;
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_86_an_admin_bans_and_allows_at_once_and_for_good() {
    let (admin, spammer, ann) = (Author::new(1), Author::new(2), Author::new(3));
    let configured = Configured::start(&format!("admins = ['{}']", key(&admin))).await;
    let relay = &configured.relay;
    let mut client = relay.client().await;
    let (spam, good) = (note(&spammer, 1_000), note(&ann, 1_001));
    client.publish_all(&[spam.clone(), good.clone()]).await;
    client.req("live", &[json!({"limit": 0})]).await;
    client.events_until_eose("live").await;

    let said = call(&admin, relay, "banpubkey", json!([key(&spammer), "spam"])).await;
    assert_eq!(result(said), json!(true));
    let listed = result(call(&admin, relay, "listbannedpubkeys", json!([])).await);
    assert_eq!(listed, json!([{"pubkey": key(&spammer), "reason": "spam"}]));
    client.publish(&note(&spammer, 1_002)).await.expect_refused("blocked: ");
    // What was there before is not shown either, by whatever way.
    client.req("all", &[json!({})]).await;
    assert_eq!(client.events_until_eose("all").await, [good.id.to_string()]);
    client.req("by id", &[json!({"ids": [spam.id.to_string()]})]).await;
    assert!(client.events_until_eose("by id").await.is_empty());
    assert_eq!(client.count(&[json!({"kinds": [1]})]).await["count"], 1);

    result(call(&admin, relay, "banevent", json!([good.id.to_string(), "rude"])).await);
    client.req("all", &[json!({})]).await;
    assert!(client.events_until_eose("all").await.is_empty());
    let listed = result(call(&admin, relay, "listbannedevents", json!([])).await);
    assert_eq!(listed, json!([{"id": good.id.to_string(), "reason": "rude"}]));
    // Nor is it any good to publish it once more.
    for banned in [&good, &spam] {
        client.publish(banned).await.expect_refused("blocked: ");
    }
    result(call(&admin, relay, "allowevent", json!([good.id.to_string()])).await);
    result(call(&admin, relay, "unbanpubkey", json!([key(&spammer)])).await);
    client.req("all", &[json!({})]).await;
    assert_eq!(client.events_until_eose("all").await.len(), 2);
    result(call(&admin, relay, "disallowkind", json!([7])).await);
    let reaction = ann.sign(1_003, 7, &[], "+");
    client
        .publish(&reaction)
        .await
        .expect_refused("blocked: this relay does not take events of kind 7");

    let Configured { relay, .. } = configured;
    let relay = TestRelay::start_with(relay.stop().await, None, |_| {}).await;
    relay.client().await.publish(&reaction).await.expect_refused("blocked: ");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_86_what_is_decided_is_listed_and_can_be_taken_back() {
    let (admin, ann, bob) = (Author::new(1), Author::new(2), Author::new(3));
    let text = format!(
        "admins = ['{}']\nwriters = 'allowed'\nallowed_keys = ['{}']\nallowed_kinds = [1, 7]\n\
         blocked_ips = ['203.0.113.0/24']\ntrusted_proxies = ['127.0.0.1']\n",
        key(&admin),
        key(&bob)
    );
    let configured = Configured::start(&text).await;
    let relay = &configured.relay;
    let say = async |method: &str, params: Value| result(call(&admin, relay, method, params).await);
    let mut client = relay.client().await;

    client.publish(&note(&ann, 1_000)).await.expect_refused("restricted: ");
    assert_eq!(say("allowpubkey", json!([key(&ann), "a friend"])).await, json!(true));
    client.publish(&note(&ann, 1_000)).await.expect_ok();
    let allowed = say("listallowedpubkeys", json!([])).await;
    assert!(
        allowed.as_array().unwrap().contains(&json!({"pubkey": key(&ann), "reason": "a friend"}))
    );
    say("unallowpubkey", json!([key(&ann)])).await;
    client.publish(&note(&ann, 1_001)).await.expect_refused("restricted: ");
    let (_, said) = call(&admin, relay, "unallowpubkey", json!([key(&bob)])).await;
    assert!(said["error"].as_str().unwrap().contains("configuration"), "{said}");

    let article = bob.sign(1_000, 30_023, &[&["d", "wells"]], "");
    client.publish(&article).await.expect_refused("blocked: ");
    say("allowkind", json!([30_023])).await;
    client.publish(&article).await.expect_ok();
    say("disallowkind", json!([7])).await;
    assert_eq!(say("listallowedkinds", json!([])).await, json!([1, 30_023]));
    client.publish(&bob.sign(1_001, 7, &[], "+")).await.expect_refused("blocked: ");
    assert_eq!(say("listdisallowedkinds", json!([])).await, json!([]));

    let from = async |ip: &str| relay.client_with(&[("X-Forwarded-For", ip)]).await.err();
    say("blockip", json!(["198.51.100.1", "flood"])).await;
    assert_eq!(from("198.51.100.1").await, Some(403));
    let blocked = say("listblockedips", json!([])).await;
    assert!(
        blocked.as_array().unwrap().contains(&json!({"ip": "198.51.100.1", "reason": "flood"}))
    );
    say("unblockip", json!(["198.51.100.1"])).await;
    assert_eq!(from("198.51.100.1").await, None);
    let (_, said) = call(&admin, relay, "unblockip", json!(["203.0.113.7"])).await;
    assert!(said["error"].as_str().unwrap().contains("203.0.113.0/24"), "{said}");
    assert_eq!(from("203.0.113.7").await, Some(403));
    say("unblockip", json!(["203.0.113.0/24"])).await;
    assert_eq!(from("203.0.113.7").await, None);
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_86_owners_may_do_what_admins_may_not_and_strangers_nothing() {
    let (owner, admin, eve) = (Author::new(1), Author::new(2), Author::new(3));
    let text = format!("owners = ['{}']\nadmins = ['{}']\n", key(&owner), key(&admin));
    let configured = Configured::start(&text).await;
    let relay = &configured.relay;
    let (status, said) = call(&eve, relay, "banpubkey", json!([key(&owner)])).await;
    assert_eq!((status, said["result"].clone()), (403, Value::Null));
    let (status, said) = relay.post("", "{\"method\":\"supportedmethods\"}").await;
    assert!(status == 401 && said["error"].as_str().unwrap().contains("NIP-98"), "{said}");
    let methods = |said: Value| said.as_array().unwrap().len();
    let all = methods(result(call(&owner, relay, "supportedmethods", json!([])).await));
    let some = methods(result(call(&admin, relay, "supportedmethods", json!([])).await));
    assert!(some < all);
    let (status, said) = call(&admin, relay, "changerelayname", json!(["mine"])).await;
    assert!(status == 200 && said["error"].is_string(), "{said}");
    result(call(&owner, relay, "changerelayname", json!(["spring"])).await);
    result(call(&owner, relay, "changerelaydescription", json!(["water"])).await);
    result(call(&owner, relay, "changerelayicon", json!(["https://example.com/i.png"])).await);
    let document = relay.document().await;
    assert_eq!(document["name"], "spring");
    assert_eq!(document["description"], "water");
    assert_eq!(document["icon"], "https://example.com/i.png");
    let nips = document["supported_nips"].as_array().unwrap();
    assert!(nips.contains(&json!(86)) && nips.contains(&json!(98)));
    for (method, params) in
        [("banpubkey", json!(["x"])), ("allowkind", json!([70_000])), ("x", json!([]))]
    {
        let (_, said) = call(&owner, relay, method, params).await;
        assert!(said["error"].is_string(), "{method}: {said}");
    }
    // The very same request once more: who saw it may read what it read, and decide nothing.
    for (method, again) in [("stats", 200), ("reload", 401)] {
        let body = json!({"method": method, "params": []}).to_string();
        let header = authorization(&owner, relay, &body);
        assert_eq!(relay.post(&header, &body).await.0, 200);
        assert_eq!(relay.post(&header, &body).await.0, again);
    }
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nip_86_what_people_reported_waits_for_a_decision() {
    let (admin, ann, bob) = (Author::new(1), Author::new(2), Author::new(3));
    let configured = Configured::start(&format!("admins = ['{}']", key(&admin))).await;
    let relay = &configured.relay;
    let mut client = relay.client().await;
    let bad = note(&ann, 1_000);
    client.publish(&bad).await.expect_ok();
    let id = bad.id.to_string();
    let tags: [&[&str]; 2] = [&["p", &key(&ann)], &["e", &id, "spam"]];
    client.publish(&bob.sign(1_001, 1_984, &tags, "")).await.expect_ok();
    let waiting = || call(&admin, relay, "listeventsneedingmoderation", json!([]));
    assert_eq!(result(waiting().await), json!([{"id": id, "reason": "spam"}]));
    result(call(&admin, relay, "allowevent", json!([id, "fine"])).await);
    assert_eq!(result(waiting().await), json!([]));
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_what_nip_86_does_whether_the_relay_runs_or_not() {
    let ann = Author::new(1);
    let configured = Configured::start("").await;
    let mut client = configured.relay.client().await;
    assert!(
        configured
            .admin_says(&["key", "ban", &key(&ann), "--reason", "spam"])
            .await
            .contains("done")
    );
    client.publish(&note(&ann, 1_000)).await.expect_refused("blocked: ");
    let listed = configured.admin_says(&["key", "list"]).await;
    assert!(listed.contains(&key(&ann)) && listed.contains("spam"), "{listed}");
    configured.admin_says(&["set", "name", "spring"]).await;
    assert_eq!(configured.relay.document().await["name"], "spring");
    let refused = configured.admin(&["event", "ban", "nonsense"]).await;
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && why.contains("event's id"), "{why}");

    let Configured { relay, .. } = configured;
    let data = relay.stop().await;
    let admin = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aquifer"));
        command.args(["admin", "--data"]).arg(data.path()).args(words).output().await.unwrap()
    };
    assert!(admin(&["key", "unban", &key(&ann)]).await.status.success());
    assert!(!admin(&["reload"]).await.status.success(), "there is nobody to reload");
    let relay = TestRelay::start_with(data, None, |_| {}).await;
    relay.client().await.publish(&note(&ann, 1_000)).await.expect_ok();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_read_again_holds_for_connections_that_are_open() {
    let (ann, bob) = (Author::new(1), Author::new(2));
    let configured = Configured::start("name = 'spring'\n").await;
    let mut client = configured.relay.client().await;
    client.publish(&note(&ann, 1_000)).await.expect_ok();
    let text = format!(
        "name = 'well'\nwriters = 'allowed'\nallowed_keys = ['{}']\nsubscriptions_max = 1\n",
        key(&bob)
    );
    fs::write(&configured.file, text).unwrap();
    configured.relay.reload();
    let relay = &configured.relay;
    relay.wait_for(async || relay.document().await["name"] == "well").await;
    client.publish(&note(&ann, 1_001)).await.expect_refused("restricted: ");
    client.publish(&note(&bob, 1_001)).await.expect_ok();
    client.req("one", &[json!({"kinds": [1]})]).await;
    client.req("two", &[json!({"kinds": [1]})]).await;
    assert!(client.closed("two").await.starts_with("rate-limited: "));
    let document = relay.document().await;
    assert_eq!(document["limitation"]["max_subscriptions"], 1);
    assert_eq!(document["limitation"]["restricted_writes"], true);

    // One that cannot work changes nothing, and `aquifer admin reload` says why.
    fs::write(&configured.file, "limit_max = 1\n").unwrap();
    let config = configured.file.display().to_string();
    let refused = configured.admin(&["reload"]).await;
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && why.contains("limit-default"), "{why} {config}");
    assert_eq!(relay.document().await["name"], "well");
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_a_trusted_proxy_forwards_has_its_own_limits() {
    let text = "trusted_proxies = ['127.0.0.1']\nip_connections_max = 2\nip_events_per_second = 1\n\
                ip_requests_per_second = 1\nblocked_ips = ['203.0.113.0/24']\n";
    let configured = Configured::start(text).await;
    let relay = &configured.relay;
    let from = async |ip: &str| relay.client_with(&[("X-Forwarded-For", ip)]).await;
    let mut quick = from("198.51.100.1").await.unwrap();
    let _second = from("198.51.100.1").await.unwrap();
    assert_eq!(from("198.51.100.1").await.err(), Some(429));
    assert_eq!(from("203.0.113.7").await.err(), Some(403));
    // Before the proxy's own word a client may put what it likes.
    assert_eq!(from("192.0.2.1, 198.51.100.1").await.err(), Some(429));
    let mut other = from("198.51.100.2").await.unwrap();
    let ann = Author::new(1);
    // One more each second.
    let mut at = 1_000;
    let refused = loop {
        let reply = quick.publish(&note(&ann, at)).await;
        if !reply.accepted {
            break reply;
        }
        at += 1;
    };
    refused.expect_refused("rate-limited: ");
    assert!((1_010..1_030).contains(&at), "{at}");
    other.publish(&note(&ann, 900)).await.expect_ok();
    let mut asked = 0;
    let why = loop {
        quick.req("more", &[json!({"limit": 0})]).await;
        let said = quick.next_frame().await;
        match said[0].as_str() {
            Some("CLOSED") => break said[2].as_str().unwrap().to_owned(),
            Some("EOSE") => asked += 1,
            _ => {}
        }
    };
    assert!(why.starts_with("rate-limited: ") && (10..30).contains(&asked), "{asked}: {why}");
    drop((quick, _second));
    // Both places come free.
    relay.wait_for(async || from("198.51.100.1").await.is_ok()).await;
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_address_is_blocked_meanwhile_is_cut_off_and_owners_say_so() {
    let configured = Configured::start("trusted_proxies = ['127.0.0.1']\n").await;
    let from = async |ip: &str| configured.relay.client_with(&[("X-Forwarded-For", ip)]).await;
    let (mut bad, mut good) =
        (from("198.51.100.1").await.unwrap(), from("198.51.100.2").await.unwrap());
    bad.publish(&note(&Author::new(1), 1_000)).await.expect_ok();
    assert!(configured.admin(&["ip", "block", "198.51.100.1"]).await.status.success());
    bad.send(json!(["REQ", "all", {}])).await;
    assert_eq!(bad.close_code().await, Some(1008));
    assert_eq!(from("198.51.100.1").await.err(), Some(403));
    good.publish(&note(&Author::new(1), 1_001)).await.expect_ok();
    assert!(configured.admin(&["ip", "unblock", "198.51.100.1"]).await.status.success());
    assert!(from("198.51.100.1").await.is_ok());
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subscriptions_of_one_address_are_bounded_in_what_they_hold() {
    let text = "trusted_proxies = ['127.0.0.1']\nip_requests_per_second = 0\n";
    let configured = Configured::start(text).await;
    let from = async |ip: &str| configured.relay.client_with(&[("X-Forwarded-For", ip)]).await;
    let (mut many, mut other) =
        (from("198.51.100.1").await.unwrap(), from("198.51.100.2").await.unwrap());
    let values: Vec<String> = (0..12_000).map(|number| format!("{number:064}")).collect();
    let long = json!({"#t": values, "limit": 0});
    let mut open = Vec::new();
    let why = loop {
        let name = open.len().to_string();
        many.req(&name, std::slice::from_ref(&long)).await;
        let said = many.next_frame().await;
        if said[0] == "CLOSED" {
            break said[2].as_str().unwrap().to_owned();
        }
        open.push(name);
    };
    assert!(why.starts_with("rate-limited: ") && open.len() < 20, "{}: {why}", open.len());
    // A short one takes hardly anything, and others have room of their own.
    many.req("short", &[json!({"limit": 0})]).await;
    many.events_until_eose("short").await;
    other.req("long", std::slice::from_ref(&long)).await;
    other.events_until_eose("long").await;
    for name in open {
        many.send(json!(["CLOSE", name])).await;
    }
    let again = async || {
        let mut client = from("198.51.100.1").await.unwrap();
        client.req("again", std::slice::from_ref(&long)).await;
        client.next_frame().await[0] == "EOSE"
    };
    configured.relay.wait_for(again).await;
    configured.relay.stop().await;
}

/// Answers what it reads as its text says, as strfry's plugins do: one line for each.
const PLUGIN: &str = r#"
import json, sys
held = []
for line in sys.stdin:
    asked = json.loads(line)
    if asked["type"] == "new":
        event = asked["event"]
        said = {"id": event["id"], "action": "accept", "msg": ""}
        assert asked["sourceType"] == "IP4" and asked["sourceInfo"] == "127.0.0.1"
        if event["content"] == "bad":
            said.update(action="reject", msg="blocked: not here")
        elif event["content"] == "who":
            said.update(action="reject", msg="auth-required: who are you?")
        elif event["content"] == "shadow":
            said.update(action="shadowReject")
        elif event["content"] == "silence":
            continue
        elif event["content"] == "hold":
            held.append(said)
            if len(held) == 2:
                print(json.dumps(held[1]), flush=True)
                print(json.dumps(held[0]), flush=True)
            continue
        elif event["content"] == "die":
            sys.exit(1)
    else:
        hidden = any(7 in f.get("kinds", []) for f in asked["filters"])
        said = {"id": asked["id"], "action": "reject" if hidden else "accept", "msg": "restricted: no " + asked["type"]}
    print(json.dumps(said), flush=True)
"#;

async fn with_plugin(setting: &str) -> Configured {
    let configured = Configured::start("").await;
    let script = configured.file.with_file_name("plugin.py");
    fs::write(&script, PLUGIN).unwrap();
    let command = format!("exec python3 {}", script.display());
    let text = format!("name = 'ready'\n{setting} = \"{command}\"\npolicy_timeout = 4\n");
    fs::write(&configured.file, text).unwrap();
    configured.relay.reload();
    let relay = &configured.relay;
    relay.wait_for(async || relay.document().await["name"] == "ready").await;
    configured
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_policy_of_strfrys_kind_decides_about_each_event() {
    let configured = with_plugin("write_policy").await;
    let (ann, relay) = (Author::new(1), &configured.relay);
    let mut client = relay.client().await;
    let say = |at, content: &str| ann.sign(at, 1, &[], content);
    // It may take python longer to start than a question waits.
    let good = say(1_000, "good");
    relay.wait_for(async || relay.client().await.publish(&good).await.accepted).await;
    client.publish(&say(1_001, "bad")).await.expect_refused("blocked: not here");
    client.publish(&say(1_002, "shadow")).await.expect_ok();
    // Who has to say who it is, is told what to sign.
    client.send(json!(["EVENT", crate::harness::value_of(&say(1_008, "who"))])).await;
    assert!(client.frame_of("AUTH").await[1].is_string());
    client.ok().await.expect_refused("auth-required: who are you?");
    // Both are answered when both were asked, and the later one first: two are under way at a time.
    client.send(json!(["EVENT", crate::harness::value_of(&say(1_003, "hold"))])).await;
    relay.client().await.publish(&say(1_004, "hold")).await.expect_ok();
    client.ok().await.expect_ok();
    client.publish(&say(1_005, "silence")).await.expect_refused("error: the relay's policy");
    client.req("all", &[json!({})]).await;
    assert_eq!(client.events_until_eose("all").await.len(), 3);
    // While it is away nothing is let through, and then it is started anew.
    client.publish(&say(1_006, "die")).await.expect_refused("error: the relay's policy");
    let after = say(1_007, "good");
    relay.wait_for(async || relay.client().await.publish(&after).await.accepted).await;
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_policy_decides_about_each_question() {
    let configured = with_plugin("read_policy").await;
    let relay = &configured.relay;
    let mut client = relay.client().await;
    let ask = async |client: &mut Client| {
        client.req("all", &[json!({"kinds": [1]})]).await;
        client.next_frame().await[0] == "EOSE"
    };
    relay.wait_for(async || ask(&mut relay.client().await).await).await;
    let reactions = [json!({"kinds": [7]})];
    client.req("seven", &reactions).await;
    assert_eq!(client.closed("seven").await, "restricted: no req");
    client.send(json!(["COUNT", "seven", reactions[0]])).await;
    assert_eq!(client.closed("seven").await, "restricted: no count");
    client.send(json!(["NEG-OPEN", "seven", reactions[0], "61"])).await;
    assert_eq!(client.frame_of("NEG-ERR").await[2], "restricted: no neg");
    assert!(ask(&mut client).await);
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_too_old_or_of_kinds_not_wanted_are_refused_and_nip_11_says_so() {
    let text = "past_seconds_max = 3600\nallowed_kinds = [1, '30000-30009']\n";
    let configured = Configured::start(text).await;
    let (ann, mut client) = (Author::new(1), configured.relay.client().await);
    client.publish(&note(&ann, now() - 4_000)).await.expect_refused("invalid: created_at");
    client.publish(&ann.sign(now(), 7, &[], "+")).await.expect_refused("blocked: ");
    client.publish(&ann.sign(now(), 30_003, &[&["d", "x"]], "")).await.expect_ok();
    let limits = configured.relay.document().await["limitation"].clone();
    assert_eq!(limits["created_at_lower_limit"], 3_600);
    assert_eq!(limits["restricted_writes"], true);
    configured.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_end_or_are_too_large_hold_no_place() {
    let relay = relay().await;
    let huge = format!("X-Padding: {}\r\n", "x".repeat(20_000));
    let response = relay.get(&format!("{huge}Connection: close\r\n")).await;
    assert!(response.starts_with("HTTP/1.1 431"), "{response:.80}");
    let mut slow = relay.tcp().await;
    tokio::io::AsyncWriteExt::write_all(&mut slow, b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut slow, &mut rest);
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it is cut off").unwrap();
    relay.stop().await;
}

/// The program itself, with a configuration file.
struct Program {
    process: tokio::process::Child,
    address: std::net::SocketAddr,
}

impl Program {
    async fn start(folder: &TempDir, file: &std::path::Path) -> Program {
        let mut process = tokio::process::Command::new(env!("CARGO_BIN_EXE_aquifer"))
            .args(["run", "--listen", "127.0.0.1:0", "--log", "warn", "--config"])
            .arg(file)
            .arg("--data")
            .arg(folder.path())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = tokio::io::BufReader::new(process.stdout.take().unwrap());
        let mut lines = tokio::io::AsyncBufReadExt::lines(output);
        let line = lines.next_line().await.unwrap().unwrap();
        let said: Value = serde_json::from_str(line.strip_prefix("listening ").unwrap()).unwrap();
        let address = said["address"].as_str().unwrap().parse().unwrap();
        Program { process, address }
    }

    async fn name(&self) -> Value {
        let headers = "Accept: application/nostr+json\r\nConnection: close\r\n";
        let response = crate::harness::request(self.address, "GET", "/", headers).await;
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Value>(body).unwrap()["name"].clone()
    }

    fn hang_up(&self) {
        let process = self.process.id().unwrap() as i32;
        // SAFETY: a signal to a process that we started and have not waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGHUP) }, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_has_the_program_read_its_configuration_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    fs::write(&file, "name = 'spring'\n").unwrap();
    let program = Program::start(&folder, &file).await;
    assert_eq!(program.name().await, "spring");
    // What cannot work is left alone, and the next one holds.
    for (text, name) in [("name = 3\n", "spring"), ("name = 'well'\n", "well")] {
        fs::write(&file, text).unwrap();
        program.hang_up();
        let renamed = async { while program.name().await != name {} };
        tokio::time::timeout(Duration::from_secs(20), renamed).await.expect("it is renamed");
    }
}
