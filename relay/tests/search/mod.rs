//! Finding events by their words (NIP-50), over a real websocket.

use std::time::Duration;

use aquifer::config::{CacheConfig, Config, NotGranted};
use event::{Kind, Verified, twin::Author};
use serde_json::{Value, json};

use crate::harness::{Client, FakeL2, TestRelay, relay, relay_but, relay_with};

fn note(author: u8, at: u64, content: &str) -> Verified {
    Author::new(author).sign(at, 1, &[], content)
}

fn ids<'e>(events: impl IntoIterator<Item = &'e Verified>) -> Vec<String> {
    events.into_iter().map(|event| event.id.to_string()).collect()
}

async fn find(client: &mut Client, filter: &Value) -> Vec<String> {
    client.req("find", std::slice::from_ref(filter)).await;
    client.events_until_eose("find").await
}

/// Until the index has read all that is stored.
async fn until_level(relay: &TestRelay) {
    relay.wait_for_metric("aquifer_search_lag_events", 0.0).await;
}

/// A relay with these events, all of them read.
async fn holding(relay: TestRelay, events: &[Verified]) -> (TestRelay, Client) {
    let mut client = relay.client().await;
    client.publish_all(events).await;
    until_level(&relay).await;
    (relay, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_come_first_and_the_limit_cuts_the_others() {
    let events = [
        note(1, 10, "a long note on many things, among them water, which nobody asked for today"),
        note(1, 20, "water"),
        Author::new(1).sign(5, 30_023, &[&["title", "Water"], &["d", "w"]], "water, water"),
        note(1, 30, "water"),
        note(1, 40, "something else"),
    ];
    let (_relay, mut client) = holding(relay().await, &events).await;
    let best = ids([&events[2], &events[3], &events[1], &events[0]]);
    let water = json!({"search": "Water"});
    assert_eq!(find(&mut client, &water).await, best);
    assert_eq!(client.hint(&[water]).await, "finish");
    for limit in 0..4 {
        let some = json!({"search": "#water", "limit": limit});
        assert_eq!(find(&mut client, &some).await, best[..limit], "limit {limit}");
        assert_eq!(client.hint(&[some]).await, "more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_words_are_wanted_and_extensions_are_ignored() {
    let events =
        [note(1, 1, "green tea"), note(1, 2, "black tea"), note(1, 3, "tea that is green")];
    let (_relay, mut client) = holding(relay().await, &events).await;
    for (search, found) in [
        ("TEA green", vec![&events[0], &events[2]]),
        (
            "green tea include:spam domain:example.com language:en nsfw:false",
            vec![&events[0], &events[2]],
        ),
        ("\"green tea\"", vec![&events[0]]),
        ("green black", vec![]),
        ("", vec![]),
        ("language:en", vec![]),
    ] {
        assert_eq!(find(&mut client, &json!({"search": search})).await, ids(found), "{search}");
    }
    // Only one of them is the right one, in any language.
    for (content, search) in [
        ("私は東京で水を飲みます。", "東京"),
        ("我们在北京喝咖啡", "咖啡"),
        ("ฉันรักภาษาไทย", "ภาษา"),
        ("أحبّ القهوة في الصباح", "احب القهوة"),
        ("Größe ist keine Straße", "GROSSE strasse"),
        ("gm ☕️🚀", "🚀"),
        ("see https://docs.example.org/a/b?c", "docs.example.org"),
    ] {
        let event = note(2, 9, content);
        client.publish(&event).await.expect_ok();
        // It is found soon: nobody has to wait for the index.
        let filter = json!({"search": search, "authors": [event.pubkey]});
        while find(&mut client, &filter).await != ids([&event]) {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_the_filter_counts_too() {
    let tagged = |at: u64, tags: &[&[&str]]| Author::new(1).sign(at, 1, tags, "tea");
    let events = [
        tagged(10, &[&["t", "a"]]),
        tagged(20, &[&["t", "a"], &["t", "b"]]),
        tagged(30, &[&["t", "b"]]),
        note(2, 40, "tea"),
        Author::new(2).sign(50, 1_111, &[], "tea"),
        note(2, 60, "water"),
    ];
    let (_relay, mut client) = holding(relay().await, &events).await;
    let author = Author::new(2).pubkey().to_string();
    let id = |at: usize| events[at].id.to_string();
    for (filter, found) in [
        (json!({"search": "tea", "authors": [author]}), vec![4, 3]),
        (json!({"search": "tea", "kinds": [1_111, 7]}), vec![4]),
        (json!({"search": "tea", "#t": ["b"]}), vec![2, 1]),
        (json!({"search": "tea", "&t": ["a", "b"]}), vec![1]),
        (json!({"search": "tea", "since": 20, "until": 40}), vec![3, 2, 1]),
        (json!({"search": "tea", "ids": [id(5), id(0)]}), vec![0]),
        (json!({"search": "tea", "kinds": []}), vec![]),
        (json!({"search": "tea", "authors": [author], "limit": 1}), vec![4]),
    ] {
        let mut found = ids(found.into_iter().map(|at: usize| &events[at]));
        let mut answer = find(&mut client, &filter).await;
        if filter.get("#t").is_some() || filter.get("since").is_some() {
            // Hashtags make documents longer, and these come later.
            answer.sort();
            found.sort();
        }
        assert_eq!(answer, found, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_or_not_for_everybody_is_not_found() {
    let ann = Author::new(1);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (soon, receiver) = ((now + 4).to_string(), Author::new(2).pubkey().to_string());
    let deleted = note(1, 10, "tea deleted");
    let profile = |at: u64, name: &str| {
        ann.sign(at, 0, &[], &json!({"name": name, "about": "tea"}).to_string())
    };
    let replaced = profile(20, "ann");
    let expiring = ann.sign(30, 1, &[&["expiration", &soon]], "tea expiring");
    let guarded = ann.sign(40, 4, &[&["p", &receiver]], "tea guarded");
    let by_choice = ann.sign(50, 42, &[&["p", &receiver]], "tea in a closed channel");
    let ephemeral = ann.sign(now, 20_001, &[], "tea ephemeral");
    let stays = note(2, 60, "tea stays");
    let guards = |config: &mut Config| {
        config.terms.guarded_kinds.push(Kind(42));
    };
    let events =
        [deleted.clone(), replaced, expiring, guarded, by_choice, ephemeral, stays.clone()];
    let (relay, mut client) = holding(relay_but(guards).await, &events).await;
    for (search, found) in [("tea deleted", 1), ("ann", 1), ("closed channel", 0), ("ephemeral", 0)]
    {
        let search = json!({"search": search});
        assert_eq!(find(&mut client, &search).await.len(), found, "{search}");
    }
    assert!(find(&mut client, &json!({"search": "tea guarded"})).await.is_empty());
    let newer = profile(21, "anna");
    client.publish(&newer).await.expect_ok();
    let deletion = ann.sign(70, 5, &[&["e", &deleted.id.to_string()]], "");
    client.publish(&deletion).await.expect_ok();
    until_level(&relay).await;
    relay
        .wait_for(async || {
            let mut client = relay.client().await;
            find(&mut client, &json!({"search": "tea"})).await.len() == 2
        })
        .await;
    let mut found = find(&mut client, &json!({"search": "tea"})).await;
    found.sort();
    let mut expected = ids([&stays, &newer]);
    expected.sort();
    assert_eq!(found, expected);
    assert!(find(&mut client, &json!({"search": "ann"})).await.is_empty());
    // What is gone goes from the index, too.
    relay.wait_for_metric("aquifer_search_documents", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_with_words_and_without_share_a_subscription() {
    let events = [note(1, 10, "tea"), note(1, 20, "tea again and again"), note(2, 30, "water")];
    let (_relay, mut client) = holding(relay().await, &events).await;
    let by_two = json!({"authors": [Author::new(2).pubkey().to_string()]});
    let all = json!({"kinds": [1], "limit": 1});
    // Those without words first, and nothing twice.
    client
        .req("mixed", &[json!({"search": "tea"}), all, json!({"search": "again tea"}), by_two])
        .await;
    assert_eq!(client.events_until_eose("mixed").await, ids([&events[2], &events[0], &events[1]]));
    client.req("words", &[json!({"search": "tea"})]).await;
    client.events_until_eose("words").await;
    // Only filters without words have a live stage.
    let (tea, water) = (note(1, 40, "more tea"), note(2, 50, "more water"));
    client
        .req("mixed", &[json!({"search": "tea"}), json!({"authors": [water.pubkey], "limit": 0})])
        .await;
    client.events_until_eose("mixed").await;
    let mut other = _relay.client().await;
    other.publish(&tea).await.expect_ok();
    other.publish(&water).await.expect_ok();
    assert_eq!(client.event("mixed").await, water.id.to_string());
    client.expect_no_more_events("words").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_counted_alone_and_never_reconciled() {
    let events = [note(1, 10, "tea"), note(1, 20, "green tea"), note(2, 30, "water")];
    let (_relay, mut client) = holding(relay().await, &events).await;
    assert_eq!(client.count(&[json!({"search": "tea"})]).await, json!({"count": 2}));
    assert_eq!(
        client.count(&[json!({"search": "tea", "authors": [events[2].pubkey]})]).await,
        json!({"count": 0})
    );
    client.send(json!(["COUNT", "two", {"search": "tea"}, {"kinds": [1]}])).await;
    assert!(client.closed("two").await.starts_with("unsupported: "));
    client.send(json!(["NEG-OPEN", "neg", {"search": "tea"}, "6100"])).await;
    let refused = client.frame_of("NEG-ERR").await;
    assert!(refused[2].as_str().unwrap().starts_with("unsupported: "), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_does_not_search_says_so() {
    let relay = relay_but(|config| config.search = false).await;
    let mut client = relay.client().await;
    for verb in ["REQ", "COUNT"] {
        client.send(json!([verb, "x", {"search": "tea"}])).await;
        assert!(client.closed("x").await.starts_with("unsupported: "));
    }
    let nips =
        |document: &Value| document["supported_nips"].as_array().unwrap().contains(&json!(50));
    assert!(!nips(&relay.document().await));
    let folder = relay.stop().await;
    assert!(!folder.path().join("search").exists());
    let relay = TestRelay::start(folder, None, NotGranted::Keep).await;
    assert!(nips(&relay.document().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_kept_over_a_restart_and_built_anew_when_it_is_missing() {
    let events = [note(1, 10, "tea"), note(1, 20, "green tea")];
    let (relay, _client) = holding(relay().await, &events).await;
    let mut folder = relay.stop().await;
    for is_missing in [false, true] {
        let file = folder.path().join("search/data.mdb");
        if is_missing {
            std::fs::remove_dir_all(folder.path().join("search")).unwrap();
        }
        let relay = TestRelay::start(folder, None, NotGranted::Keep).await;
        let mut client = relay.client().await;
        if !is_missing {
            // Nothing has to be read again first.
            assert_eq!(relay.metric("aquifer_search_lag_events").await, 0.0);
        }
        until_level(&relay).await;
        assert_eq!(find(&mut client, &json!({"search": "tea"})).await.len(), 2);
        folder = relay.stop().await;
        assert!(file.exists());
    }
    // Another store in the same folder has other events at the same places.
    std::fs::remove_dir_all(folder.path().join("events")).unwrap();
    let relay = TestRelay::start(folder, None, NotGranted::Keep).await;
    let water = [note(1, 30, "water"), note(1, 40, "more water")];
    let (_relay, mut client) = holding(relay, &water).await;
    assert!(find(&mut client, &json!({"search": "tea"})).await.is_empty());
    assert_eq!(find(&mut client, &json!({"search": "water"})).await, ids([&water[0], &water[1]]));
}

// L1 put back from an older copy gives the seqs of what it has forgotten to other events.
#[tokio::test(flavor = "multi_thread")]
async fn the_index_of_a_store_that_was_put_back_begins_anew() {
    let (relay, _client) = holding(relay().await, &[note(1, 10, "tea")]).await;
    let folder = relay.stop().await;
    let (data, copy) = (folder.path().join("events/data.mdb"), folder.path().join("copy"));
    std::fs::copy(&data, &copy).unwrap();
    let relay = TestRelay::start(folder, None, NotGranted::Keep).await;
    let (relay, _client) = holding(relay, &[note(1, 20, "green tea")]).await;
    let folder = relay.stop().await;
    std::fs::copy(&copy, &data).unwrap();
    // Before anybody looks, another event takes the place.
    let relay = TestRelay::start_with(folder, None, |config| config.search = false).await;
    relay.client().await.publish(&note(1, 30, "black tea")).await.expect_ok();
    let relay = TestRelay::start(relay.stop().await, None, NotGranted::Keep).await;
    let mut client = relay.client().await;
    until_level(&relay).await;
    assert!(find(&mut client, &json!({"search": "green"})).await.is_empty());
    assert_eq!(find(&mut client, &json!({"search": "tea"})).await.len(), 2);
    assert_eq!(find(&mut client, &json!({"search": "black"})).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_is_never_asked_for_words() {
    let l2 = FakeL2::default();
    let there = note(1, 10, "tea from elsewhere");
    l2.bring(&there);
    let relay = relay_with(&l2).await;
    let mut client = relay.client().await;
    while find(&mut client, &json!({"search": "elsewhere"})).await != ids([&there]) {}
    assert_eq!(client.count(&[json!({"search": "tea"})]).await["count"], 1);
    assert_eq!(l2.queries(), 0);
    // What L2 has may not be here.
    l2.set_available(false);
    relay.wait_for_metric("aquifer_poll_failing", 1.0).await;
    assert_eq!(client.hint(&[json!({"search": "tea"})]).await, "more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_l2_has_the_body_of_is_found_and_fetched() {
    let l2 = FakeL2::default();
    l2.set_page_entries(20);
    let events: Vec<Verified> = (0..3_000)
        .map(|at| note(1, 10_000 + at, &format!("number{at} {}", "filler ".repeat(600))))
        .collect();
    events.iter().for_each(|event| l2.bring(event));
    let small = |config: &mut Config| {
        config.cache = Some(CacheConfig {
            bytes_max: 12 << 20,
            high_percent: 84,
            low_percent: 40,
            gc_interval: Duration::from_millis(50),
            protected_kinds: vec![],
        });
        config.layer2_timeout = Duration::from_secs(20);
    };
    let folder = tempfile::tempdir().unwrap();
    let relay = TestRelay::start_with(folder, Some(l2.clone()), small).await;
    l2.wait_for_poll_from(events.len() as u64).await;
    l2.wait_for_polls(4).await;
    relay.wait_for(async || relay.metric("aquifer_store_stubs").await > 0.0).await;
    let folder = relay.stop().await;
    // Built anew, the index cannot read stubs, and says that something is missing.
    std::fs::remove_dir_all(folder.path().join("search")).unwrap();
    let relay = TestRelay::start_with(folder, Some(l2.clone()), small).await;
    let stubs = relay.metric("aquifer_store_stubs").await;
    relay
        .wait_for(async || {
            let lag = relay.metric("aquifer_search_lag_events").await;
            relay.metric("aquifer_search_documents").await > 0.0 && 0.0 < lag && lag <= stubs
        })
        .await;
    let mut client = relay.client().await;
    assert_eq!(client.hint(&[json!({"search": "number7"})]).await, "more");
    // Who asks for one by its id brings its body back, and then it is read.
    let mut revived = None;
    for event in &events {
        let words = event.content.split(' ').next().unwrap().to_owned();
        if find(&mut client, &json!({"search": words})).await.is_empty() {
            client.req("id", &[json!({"ids": [event.id.to_string()]})]).await;
            if client.events_until_eose("id").await == ids([event]) {
                revived = Some((event, json!({"search": words})));
                break;
            }
        }
    }
    let (event, filter) = revived.expect("something was only a stub");
    while find(&mut client, &filter).await != ids([event]) {}
}
