//! The relay and the naive twin get the same events and the same questions, the relay over its socket;
//! they have to say the same, in the same order.
//!
//! Events come one after the other, each when the one before it has been handed out, so that there is
//! one right answer to everything. Only subscriptions that are opened *while* events come leave the
//! relay a choice: where between two events it stood when it read its store.
//!
//! `TEST_EVENTS=20000 cargo test -p aquifer differential` takes more events than `cargo test` does;
//! `TEST_SEED` repeats a run that failed.

mod listener;

use std::{collections::HashSet, env};

use event::{
    Class, Event, EventId, Filter, Timestamp, Verified,
    twin::{self, AUTHORS, Author, NaiveStore},
};
use listener::Listener;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;

use crate::{
    harness::{Client, Reply, relay, value_of},
    protocol::authenticate_as_all,
};

/// Events of all stories together, if nobody says otherwise.
const EVENTS: u32 = 240;
/// Events of one story, at most. They are three fifths as many on average.
const STORY_EVENTS_MAX: usize = 60;
/// Those who ask, by the numbers of the authors whose keys they have.
const LISTENERS: [&[u8]; 3] = [&[], &[0], &[1, 2]];

/// Ends every story: it is passed on to all who listen, after everything else.
fn the_end() -> Verified {
    Author::new(AUTHORS).sign(1_000, listener::END_KIND, &[], "the end")
}

/// What happens in one test.
#[derive(Clone, Debug)]
struct Story {
    /// In order.
    events: Vec<Verified>,
    subscriptions: Vec<Subscription>,
    /// What is asked in the end.
    questions: Vec<Vec<Filter>>,
}

#[derive(Clone, Debug)]
struct Subscription {
    filters: Vec<Filter>,
    /// Before which event it is opened.
    opened_before: Index,
    /// Whether that event waits for the answer.
    is_awaited: bool,
    /// One of [`LISTENERS`].
    by: usize,
}

fn stories() -> impl Strategy<Value = Story> {
    let story =
        |events: Vec<Verified>| {
            let filters = || vec(twin::filter(&events), 1..4);
            let when = (any::<Index>(), any::<bool>(), select(vec![0, 1, 2]));
            let subscription =
                (filters(), when).prop_map(|(filters, (opened_before, is_awaited, by))| {
                    Subscription { filters, opened_before, is_awaited, by }
                });
            (Just(events.clone()), vec(subscription, 0..16), vec(filters(), 0..16)).prop_map(
                |(events, subscriptions, questions)| Story { events, subscriptions, questions },
            )
        };
    twin::arrivals(STORY_EVENTS_MAX).prop_flat_map(story)
}

#[test]
fn over_its_socket_the_relay_says_what_the_naive_twin_says() {
    let seed = number("TEST_SEED", rand::random());
    let events = number("TEST_EVENTS", u64::from(EVENTS));
    println!("differential: TEST_SEED={seed} TEST_EVENTS={events}");
    let cases = events.div_ceil(STORY_EVENTS_MAX as u64 * 3 / 5) as u32;
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let ran = runner.run(&stories(), |story| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(tell(&story));
        Ok(())
    });
    assert!(ran.is_ok(), "TEST_SEED={seed}: {}", ran.unwrap_err());
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("it is a number"))
}

/// Tells a story to a relay and to the twin.
async fn tell(story: &Story) {
    let relay = relay().await;
    let mut listeners = Vec::new();
    for authors in LISTENERS {
        let mut client = relay.client().await;
        let authors: Vec<Author> = authors.iter().copied().map(Author::new).collect();
        authenticate_as_all(&mut client, &authors, &relay).await;
        listeners.push(Listener::new(client, &authors).await);
    }
    let mut publisher = relay.client().await;
    let everybody: Vec<Author> = (0..AUTHORS).map(Author::new).collect();
    authenticate_as_all(&mut publisher, &everybody, &relay).await;
    publisher.req("all", &[json!({"limit": 0})]).await;
    publisher.events_until_eose("all").await;

    let mut past = Past::begin();
    let end = the_end();
    for (number, event) in story.events.iter().chain([&end]).enumerate() {
        for (name, subscription) in story.subscriptions.iter().enumerate() {
            if subscription.opened_before.index(story.events.len() + 1) == number {
                let listener = &mut listeners[subscription.by];
                listener.open(name, &subscription.filters, number).await;
                if subscription.is_awaited {
                    listener.hear_answer(name).await;
                }
            }
        }
        publish(&mut publisher, event, &mut past).await;
        listeners.iter_mut().for_each(Listener::hear_what_is_here);
    }
    for listener in &mut listeners {
        listener.hear_the_end().await;
    }
    for (name, subscription) in story.subscriptions.iter().enumerate() {
        let listener = &listeners[subscription.by];
        listener.check(name, &subscription.filters, subscription.is_awaited, &past);
    }
    for filters in &story.questions {
        for listener in &mut listeners {
            listener.ask(filters, past.now()).await;
        }
    }
    relay.stop().await;
}

/// All that was so, as the twin has it.
pub struct Past {
    twin: NaiveStore,
    /// What was held before each event, and in the end.
    held: Vec<Vec<Event>>,
    /// What each event gave to those who listened: itself, or nothing.
    handed_out: Vec<Option<Event>>,
    /// What was passed on and is held nowhere: once is enough.
    passed_on: HashSet<EventId>,
}

impl Past {
    fn begin() -> Past {
        let mut twin = NaiveStore::default();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        twin.set_time(Timestamp(now.as_secs()));
        let (held, handed_out) = (vec![Vec::new()], Vec::new());
        Past { twin, held, handed_out, passed_on: HashSet::new() }
    }

    /// What is held now.
    fn now(&self) -> &[Event] {
        self.twin.live()
    }

    /// Takes an event; says what the relay has to answer.
    fn take(&mut self, event: &Event) -> Expected {
        let is_known = self.twin.live().contains(event);
        let is_held = self.twin.save(event);
        let has_expired = event.expiration().is_some_and(|date| date < Timestamp(1 << 30));
        let is_ephemeral = event.kind.class() == Class::Ephemeral && !has_expired;
        let is_passed_on = is_ephemeral && self.passed_on.insert(event.id);
        let is_new = is_held && !is_known || is_passed_on;
        self.held.push(self.twin.live().to_vec());
        self.handed_out.push(is_new.then(|| event.clone()));
        match (is_new, is_held || is_ephemeral) {
            (true, _) => Expected::New,
            (false, true) => Expected::Duplicate,
            (false, false) => Expected::NotHeld,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    New,
    Duplicate,
    /// Replaced, deleted or expired: what of it the twin does not say.
    NotHeld,
}

/// Publishes, and waits until all who listen have it on its way to them.
async fn publish(publisher: &mut Client, event: &Event, past: &mut Past) {
    let expected = past.take(event);
    publisher.send(json!(["EVENT", value_of(event)])).await;
    // Its own copy may overtake the OK.
    let (mut reply, mut copy) = (None, None);
    while reply.is_none() || expected == Expected::New && copy.is_none() {
        let frame = publisher.next_frame().await;
        match frame[0].as_str().unwrap() {
            "OK" => reply = Some(Reply::read(&frame)),
            "EVENT" => copy = Some(frame[2]["id"].as_str().unwrap().to_owned()),
            _ => panic!("nobody asked for {frame}"),
        }
    }
    assert_eq!(copy, (expected == Expected::New).then(|| event.id.to_string()));
    let reply = reply.expect("it was waited for");
    let begins = |reasons: &[&str]| reasons.iter().any(|word| reply.message.starts_with(word));
    let is_right = match expected {
        Expected::New => reply.accepted && reply.message.is_empty(),
        Expected::Duplicate => reply.accepted && begins(&["duplicate: already"]),
        Expected::NotHeld if reply.accepted => begins(&["duplicate: have a newer"]),
        Expected::NotHeld => begins(&["blocked: ", "invalid: it has expired"]),
    };
    assert!(is_right, "{reply:?} to {event:?}, which is {expected:?}");
}
