//! Questions that L1 cannot answer alone: L2 is asked, once, and the answer is as if all had been here.

use std::{ops::Range, time::Duration};

use aquifer::config::{CacheConfig, Config};
use event::{Event, Filter, Verified, twin::Author};
use futures_util::future::join_all;
use layer2::What;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, FakeL2, TestRelay, relay_with};

const TOPICS: usize = 20;
/// Notes that somebody links to.
const LINKED: usize = 300;

/// Notes, and now and then a repost, dated one after the other, of authors in turn.
fn notes(authors: u8, numbers: Range<u64>, bytes: usize) -> Vec<Verified> {
    let keys: Vec<Author> = (0..authors).map(Author::new).collect();
    let note = |number: u64| {
        let topic = format!("topic {}", number as usize * 7 % TOPICS);
        let content = format!("{number} ").repeat(bytes / 6);
        let author = &keys[(number * 31 % u64::from(authors)) as usize];
        let kind = if number.is_multiple_of(50) { 6 } else { 1 };
        author.sign(10_000 + number, kind, &[&["t", &topic]], &content)
    };
    numbers.map(note).collect()
}

/// A relay that may take so much of the disk, and keeps as few stubs as possible.
async fn start(folder: TempDir, l2: &FakeL2, mebibytes: u64, patience: Duration) -> TestRelay {
    let change = |config: &mut Config| {
        config.cache = Some(CacheConfig {
            bytes_max: mebibytes << 20,
            high_percent: 84,
            low_percent: 70,
            gc_interval: Duration::from_millis(50),
            protected_kinds: vec![],
        });
        config.layer2_timeout = patience;
    };
    TestRelay::start_with(folder, Some(l2.clone()), change).await
}

/// A small relay in front of an L2 that holds more than it can; and what L2 holds.
async fn pruned(patience: Duration) -> (TestRelay, FakeL2, Vec<Verified>) {
    let l2 = FakeL2::default();
    l2.set_page_entries(20);
    let events = notes(40, 0..3_500, 4_000);
    events.iter().for_each(|event| l2.bring(event));
    let relay = start(tempfile::tempdir().unwrap(), &l2, 8, patience).await;
    until_level(&relay, &l2).await;
    assert!(floor(&relay).await > 10_200.0, "nothing was pruned");
    (relay, l2, events)
}

/// Until the relay has taken over all that L2 had when this was called.
async fn until_level(relay: &TestRelay, l2: &FakeL2) {
    let length = l2.length_now();
    l2.wait_for_poll_from(length).await;
    // A poll from there on found nothing new, so all before it is applied.
    l2.wait_for_polls(4).await;
    assert_eq!(relay.metric("aquifer_poll_entries_behind").await, 0.0);
}

async fn floor(relay: &TestRelay) -> f64 {
    relay.metric("aquifer_complete_since_timestamp_seconds").await
}

async fn ask(client: &mut Client, filter: &Value) -> Vec<String> {
    client.req("q", std::slice::from_ref(filter)).await;
    client.events_until_eose("q").await
}

fn naive(l2: &FakeL2, filter: &Value) -> Vec<String> {
    l2.naive_answer(&Filter::from_json(filter.to_string().as_bytes()).unwrap())
}

fn key(author: u8) -> String {
    Author::new(author).pubkey().to_string()
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn old_events_are_asked_for_once_and_answered_here_afterwards() {
    let (relay, l2, events) = pruned(LONG).await;
    let mut client = relay.client().await;
    let by_two = json!({"authors": [key(3), key(4)], "kinds": [6, 1], "limit": 200});
    assert_eq!(ask(&mut client, &by_two).await, naive(&l2, &by_two));
    let asked = l2.queries();
    assert!(asked > 0);
    // The same again, and its parts, alone, together, and in bounds of their own.
    for filter in [
        by_two,
        json!({"authors": [key(4)], "kinds": [1], "limit": 100}),
        json!({"authors": [key(3)], "kinds": [6], "limit": 1}),
        json!({"authors": [key(3)], "kinds": [1], "#t": ["topic 1"]}),
        json!({"authors": [key(3)], "kinds": [1], "until": 10_400, "limit": 5}),
        json!({"ids": [events[3].id.to_string()], "since": events[3].created_at.0 + 1}),
    ] {
        assert_eq!(ask(&mut client, &filter).await, naive(&l2, &filter), "{filter}");
    }
    let one_more = json!({"authors": [key(3), key(5)], "kinds": [1], "limit": 200});
    assert_eq!(ask(&mut client, &one_more).await, naive(&l2, &one_more));
    assert!(l2.queries() > asked);
    // It is remembered across a restart, once no collection follows any more.
    let mut asked = l2.queries();
    loop {
        assert_eq!(ask(&mut client, &one_more).await, naive(&l2, &one_more));
        if std::mem::replace(&mut asked, l2.queries()) == l2.queries() {
            break;
        }
    }
    let relay = start(relay.stop().await, &l2, 64, LONG).await;
    until_level(&relay, &l2).await;
    let mut client = relay.client().await;
    assert_eq!(ask(&mut client, &one_more).await, naive(&l2, &one_more));
    assert_eq!(l2.queries(), asked);
    assert!(relay.metric("aquifer_covered_answers_total").await > 0.0);
    assert!(relay.metric("aquifer_coverage_notes").await >= 5.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_event_is_found_by_its_id_and_one_that_is_nowhere_is_asked_for_once() {
    let (relay, l2, events) = pruned(LONG).await;
    let mut client = relay.client().await;
    let nowhere = notes(1, 9_000..9_001, 10).remove(0);
    let filter = json!({"ids": [events[1].id.to_string(), nowhere.id.to_string()]});
    for _ in 0..3 {
        assert_eq!(ask(&mut client, &filter).await, [events[1].id.to_string()]);
    }
    assert_eq!(l2.queries(), 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_the_same_at_the_same_time_shares_the_answer() {
    let (relay, l2, _) = pruned(LONG).await;
    l2.hold_queries(true);
    let filter = json!({"authors": [key(7)], "limit": 10, "until": 10_300});
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = relay.client().await;
        client.req("q", std::slice::from_ref(&filter)).await;
        clients.push(client);
    }
    l2.wait_for_queries(1).await;
    l2.wait_for_polls(4).await;
    l2.hold_queries(false);
    for client in &mut clients {
        assert_eq!(client.events_until_eose("q").await, naive(&l2, &filter));
    }
    assert_eq!(l2.queries(), 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_wait_for_a_slow_l2_and_what_it_gives_late_comes_once() {
    let (relay, l2, _) = pruned(Duration::from_millis(200)).await;
    l2.hold_queries(true);
    let mut client = relay.client().await;
    let filter = json!({"authors": [key(8)], "limit": 500});
    let mut got = ask(&mut client, &filter).await;
    let mut expected = naive(&l2, &filter);
    assert!(got.len() < expected.len() && expected.starts_with(&got));
    l2.hold_queries(false);
    got.extend(client.distinct_events("q", expected.len() - got.len()).await);
    client.expect_no_more_events("q").await;
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
    assert_eq!(relay.metric("aquifer_late_answers_total").await, 1.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_l2_an_answer_comes_from_l1_at_once_and_the_rest_when_l2_is_back() {
    let (relay, l2, _) = pruned(LONG).await;
    l2.set_available(false);
    relay.wait_for_metric("aquifer_poll_failing", 1.0).await;
    let mut client = relay.client().await;
    let filter = json!({"authors": [key(9)], "limit": 500});
    let got = ask(&mut client, &filter).await;
    let expected = naive(&l2, &filter);
    assert!(expected.starts_with(&got) && got.len() < expected.len());
    l2.set_available(true);
    client.distinct_events("q", expected.len() - got.len()).await;
    client.expect_no_more_events("q").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_what_is_new_is_not_told_what_others_read_of_old() {
    let (relay, l2, _) = pruned(LONG).await;
    let mut bob = relay.client().await;
    bob.req("new", &[json!({"limit": 0})]).await;
    bob.events_until_eose("new").await;
    let mut alice = relay.client().await;
    let filter = json!({"authors": [key(2)], "limit": 500});
    assert_eq!(ask(&mut alice, &filter).await, naive(&l2, &filter));
    bob.expect_no_more_events("new").await;
    // What is new he gets, and so does who had asked for old.
    let new = Author::new(2).sign(20_000, 1, &[], "new");
    l2.bring(&new);
    assert_eq!(bob.event("new").await, new.id.to_string());
    assert_eq!(alice.event("q").await, new.id.to_string());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_backlog_is_drained_l2_is_asked_and_each_event_comes_once() {
    let l2 = FakeL2::default();
    let events = notes(10, 0..40, 10);
    events.iter().for_each(|event| l2.bring(event));
    l2.end_polls_at(Some(0));
    l2.set_page_entries(5);
    let relay = relay_with(&l2).await;
    let mut bob = relay.client().await;
    bob.req("live", &[json!({"limit": 0})]).await;
    assert_eq!(bob.events_until_eose("live").await, Vec::<String>::new());
    l2.end_polls_at(Some(10));
    l2.wait_for_poll_from(10).await;
    let mut alice = relay.client().await;
    let filter = json!({"authors": [key(0), key(1)], "limit": 100});
    let expected = naive(&l2, &filter);
    assert_eq!(ask(&mut alice, &filter).await, expected);
    l2.end_polls_at(None);
    // All of the backlog is new here, be it that somebody asked or that the poll brings it.
    bob.distinct_events("live", events.len()).await;
    bob.expect_no_more_events("live").await;
    until_level(&relay, &l2).await;
    let asked = l2.queries();
    assert_eq!(ask(&mut alice, &filter).await, expected);
    assert_eq!(l2.queries(), asked, "now all is here");
    relay.stop().await;
}

/// How popular the n-th of some is: n to this power, downwards.
const SKEW: f64 = 1.1;

/// Numbers below a bound, the low ones far more often.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-SKEW);
            sum
        });
        Zipf(sums.collect())
    }

    fn draw(&self, random: &mut StdRng) -> usize {
        let at = random.random_range(0.0..*self.0.last().unwrap());
        self.0.partition_point(|sum| *sum <= at)
    }
}

/// Who asks, and for what.
struct Readers {
    random: StdRng,
    authors: Zipf,
    topics: Zipf,
    events: Zipf,
    /// Events by popularity.
    popular: Vec<String>,
}

impl Readers {
    fn new(authors: u8, events: &[Verified], seed: u64) -> Readers {
        let mut random = StdRng::seed_from_u64(seed);
        let mut popular: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
        popular.shuffle(&mut random);
        Readers {
            random,
            authors: Zipf::new(usize::from(authors)),
            topics: Zipf::new(TOPICS),
            events: Zipf::new(LINKED),
            popular,
        }
    }

    fn authors(&mut self, count: usize) -> Vec<String> {
        let mut keys: Vec<String> =
            (0..count).map(|_| key(self.authors.draw(&mut self.random) as u8)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Pages of an author, feeds of those somebody follows, reposts, topics, single notes.
    fn filter(&mut self) -> Value {
        match self.random.random_range(0..20) {
            0..9 => json!({"authors": self.authors(1), "kinds": [1], "limit": 20}),
            9..15 => {
                let count = self.random.random_range(5..40);
                json!({"authors": self.authors(count), "kinds": [1], "limit": 50})
            }
            15..17 => json!({"authors": self.authors(10), "kinds": [6]}),
            17..19 => {
                let topic = format!("topic {}", self.topics.draw(&mut self.random));
                json!({"#t": [topic], "limit": 20})
            }
            _ => {
                let event = self.events.draw(&mut self.random);
                json!({"ids": [self.popular[event]]})
            }
        }
    }

    /// As above, and further back, and what has no parts.
    fn any_filter(&mut self, dates: Range<u64>) -> Value {
        let mut filter = self.filter();
        if self.random.random_bool(0.3) {
            filter["until"] = json!(self.random.random_range(dates.clone()));
        }
        if self.random.random_bool(0.2) {
            filter["since"] = json!(self.random.random_range(dates.clone()));
        }
        if self.random.random_bool(0.1) {
            filter["&t"] = json!([format!("topic {}", self.topics.draw(&mut self.random))]);
        }
        filter
    }
}

/// Notes of authors of whom a few write most: not those who are read most.
fn notes_of_talkers(authors: u8, count: u64) -> Vec<Verified> {
    let mut random = StdRng::seed_from_u64(5);
    let talkers = Zipf::new(usize::from(authors));
    let mut keys: Vec<Author> = (0..authors).map(Author::new).collect();
    keys.shuffle(&mut random);
    let note = |number: u64| {
        let topic = format!("topic {}", number as usize * 7 % TOPICS);
        let kind = if number.is_multiple_of(50) { 6 } else { 1 };
        let content = format!("{number} ").repeat(150);
        let author = &keys[talkers.draw(&mut random)];
        author.sign(10_000 + number, kind, &[&["t", &topic]], &content)
    };
    (0..count).map(note).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_many_pages_lacks_nothing_that_is_given_up_between_them() {
    let (relay, l2, _) = pruned(LONG).await;
    // What one reads through takes the place of what others are just being given.
    let reading = (0..4).map(async |seed| {
        let (mut client, mut random) = (relay.client().await, StdRng::seed_from_u64(seed));
        for round in 0..15 {
            let authors: Vec<String> = (0..3).map(|_| key(random.random_range(0..40))).collect();
            let (name, filter) = (round.to_string(), json!({ "authors": authors, "limit": 300 }));
            client.req(&name, std::slice::from_ref(&filter)).await;
            let _ = comes_late(&mut client, &name, &filter, &l2).await;
            client.send(json!(["CLOSE", name])).await;
        }
    });
    join_all(reading).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_who_asks_uses_up_no_limit_where_l2_is_asked_either() {
    let l2 = FakeL2::default();
    l2.set_page_entries(20);
    let bob = Author::new(200).pubkey().to_string();
    let mentions = (0..60).map(|at| Author::new(1).sign(5_000 + at, 1, &[&["p", &bob]], "hello"));
    let wraps =
        (0..700).map(|at| Author::new(2).sign(6_000 + at, 1_059, &[&["p", &bob]], "sealed"));
    let all = mentions.chain(wraps).chain(notes(40, 0..3_500, 4_000));
    all.for_each(|event| l2.bring(&event));
    let relay = start(tempfile::tempdir().unwrap(), &l2, 8, LONG).await;
    until_level(&relay, &l2).await;
    assert!(floor(&relay).await > 10_200.0, "nothing was pruned");
    let mut client = relay.client().await;
    // Of what a stranger asks for, the newest hundreds are for others.
    let shown = naive(&l2, &json!({"kinds": [1], "#p": [bob], "limit": 50}));
    assert_eq!(shown.len(), 50);
    assert_eq!(ask(&mut client, &json!({"#p": [bob], "limit": 50})).await, shown);
    // The same where all of it is here by now.
    let before = l2.queries();
    assert_eq!(ask(&mut client, &json!({"#p": [bob], "limit": 50})).await, shown);
    assert_eq!(l2.queries(), before);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_very_many_parts_is_asked_of_l2_without_looking_at_each() {
    let (relay, l2, _) = pruned(LONG).await;
    let topics = (0..6_000).map(|number| format!("topic {number}"));
    let kinds = (1..6_000).filter(|kind| *kind != 4 && *kind != 1_059);
    let filter = json!({
        "#t": topics.collect::<Vec<_>>(), "kinds": kinds.collect::<Vec<_>>(), "until": 10_100, "limit": 30,
    });
    let mut client = relay.client().await;
    assert_eq!(ask(&mut client, &filter).await, naive(&l2, &filter));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_something_might_be_withheld_and_nothing_is_l2_is_asked_once() {
    let (relay, l2, _) = pruned(LONG).await;
    // Of so many parts that nothing is noted of them; and one of the kinds is not for everybody.
    let authors: Vec<String> = (0..40).map(key).collect();
    let filter = json!({
        "authors": authors, "kinds": (1..200).collect::<Vec<_>>(), "until": 10_150, "limit": 5,
    });
    let mut client = relay.client().await;
    let before = l2.queries();
    assert_eq!(ask(&mut client, &filter).await, naive(&l2, &filter));
    // In pages of 20.
    assert!(l2.queries() - before <= 2, "{} calls", l2.queries() - before);
    client.expect_no_more_events("q").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_to_another_l2_that_was_begun_is_finished_whichever_is_followed_then() {
    let l2 = FakeL2::default();
    let relay = start(tempfile::tempdir().unwrap(), &l2, 64, LONG).await;
    let events = notes(4, 0..200, 100);
    relay.client().await.publish_all(&events).await;
    l2.wait_for_events(200).await;
    let folder = relay.stop().await;
    let (store, writer) =
        store::Store::open(&folder.path().join("events"), store::Options::default()).unwrap();
    writer.spare_all().await.unwrap();
    writer.stop().await;
    drop(store);
    let relay = start(folder, &l2, 64, LONG).await;
    until_level(&relay, &l2).await;
    let folder = relay.stop().await;
    let (store, writer) =
        store::Store::open(&folder.path().join("events"), store::Options::default()).unwrap();
    assert!(!store.spares_all().unwrap());
    assert_eq!(store.newest().unwrap(), store::Seq(199));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_with_a_taste_hardly_ever_need_l2_once_the_relay_is_warm() {
    const AUTHORS: u8 = 100;
    let l2 = FakeL2::default();
    l2.set_page_entries(40);
    let events = notes_of_talkers(AUTHORS, 30_000);
    events.iter().for_each(|event| l2.bring(event));
    let relay = start(tempfile::tempdir().unwrap(), &l2, 24, LONG).await;
    until_level(&relay, &l2).await;
    let floor = floor(&relay).await;
    assert!(floor > 18_000.0, "{floor} is no recent date");
    let mut readers = Readers::new(AUTHORS, &events, 7);
    let mut client = relay.client().await;
    let mut calls = Vec::new();
    for _ in 0..6 {
        let before = l2.queries() + l2.gets();
        for _ in 0..1_000 {
            let filter = readers.filter();
            assert_eq!(ask(&mut client, &filter).await, naive(&l2, &filter), "{filter}");
        }
        calls.push(l2.queries() + l2.gets() - before);
    }
    println!("calls of L2 for each 1,000 REQs, one after the other: {calls:?}");
    assert!(*calls.last().unwrap() < 10, "{calls:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_the_naive_twin_whatever_is_given_up_removed_or_begun_again() {
    let (mut relay, l2, events) = pruned(LONG).await;
    let mut readers = Readers::new(40, &events, 11);
    let mut random = StdRng::seed_from_u64(3);
    let mut held: Vec<Event> = events.iter().map(|event| (**event).clone()).collect();
    let (mut number, mut asked, mut late) = (3_500, 0, 0);
    let mut client = relay.client().await;
    for round in 0..60 {
        match random.random_range(0..6) {
            0 => {
                // Some come, a few of them with old dates.
                for event in notes(40, number..number + 40, 4_000) {
                    l2.bring(&event);
                    held.push(event.into_inner());
                }
                number += 40;
                let old = Author::new(random.random_range(0..40));
                let date = 10_000 + random.random_range(0..3_000);
                let event = old.sign(date, 1, &[&["t", "topic 1"]], &format!("old {round}"));
                l2.bring(&event);
                held.push(event.into_inner());
                until_level(&relay, &l2).await;
            }
            1 => {
                for _ in 0..5 {
                    let gone = held.swap_remove(random.random_range(0..held.len()));
                    let id = gone.id.0.to_vec().into();
                    l2.append(What::Removed { id, why: "operator".into() });
                }
                until_level(&relay, &l2).await;
            }
            2 if round % 3 == 0 => {
                relay = start(relay.stop().await, &l2, 8, LONG).await;
                client = relay.client().await;
            }
            3 => {
                l2.set_available(false);
                relay.wait_for_metric("aquifer_poll_failing", 1.0).await;
                l2.set_available(true);
                until_level(&relay, &l2).await;
            }
            _ => {}
        }
        for _ in 0..25 {
            let filter = readers.any_filter(10_000..10_000 + number);
            // Each under a name of its own: what is new still comes under the one before.
            asked += 1;
            let name = format!("q{asked}");
            client.req(&name, std::slice::from_ref(&filter)).await;
            late += usize::from(comes_late(&mut client, &name, &filter, &l2).await);
            client.send(json!(["CLOSE", name])).await;
        }
    }
    assert!(l2.queries() > 100, "{} questions", l2.queries());
    assert!(late * 100 < asked, "{late} of {asked} answers were late");
    relay.stop().await;
}

/// Takes the answer to what was just asked, and says whether some of it came after EOSE: where collections
/// are quicker than answers, or L2 is slow.
async fn comes_late(client: &mut Client, name: &str, filter: &Value, l2: &FakeL2) -> bool {
    let (mut got, expected) = (client.events_until_eose(name).await, naive(l2, filter));
    if got == expected {
        return false;
    }
    println!("late: {filter}");
    while !expected.iter().all(|id| got.contains(id)) {
        got.push(client.event(name).await);
    }
    // In place of what was missing, older ones may have come.
    let mut unlimited = filter.clone();
    unlimited.as_object_mut().unwrap().remove("limit");
    let matching = naive(l2, &unlimited);
    assert!(got.iter().all(|id| matching.contains(id)), "{filter}");
    got.sort();
    assert!(got.is_sorted_by(|one, next| one < next), "twice: {filter}");
    true
}
