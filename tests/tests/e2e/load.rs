//! Load: three relays on one canister take events at a fixed rate, each polls as often as it does by
//! default, and somebody listens at each. Nothing is lost; how far outboxes and polls lag and what memory
//! the relays take is printed.
//!
//! `TEST_SECONDS=600 cargo test --workspace --test e2e load` is the run of BENCHMARKS.md.

use std::time::{Duration, Instant};

use corpus::Corpus;
use event::{Class, Event};
use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    events::by_id,
    observed::{Metrics, memory_bytes},
    pace::publish,
    subscriber::Subscriber,
    world::{Relay, World, number, same_within, tell},
};

const RELAYS: usize = 3;
/// Events a second, of all relays together.
const RATE: usize = 500;
const SECONDS: usize = 5;
const POLL_INTERVAL: Duration = Duration::from_secs(5);
const AUTHORS: usize = 2_000;
/// Looks at the relays while it lasts.
const LOOKS: usize = 20;
const SETTLING: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn under_load_three_relays_lose_nothing() {
    let (seconds, rate) = (number("TEST_SECONDS", SECONDS), number("TEST_RATE", RATE));
    let events = tokio::task::spawn_blocking(move || events(seconds * rate)).await.unwrap();
    let world = World::new().await;
    let with_metrics = ["--metrics-listen", "127.0.0.1:0"];
    let relays = (0..RELAYS).map(|_| world.relay_that_polls_with(POLL_INTERVAL, &with_metrics));
    let relays: Vec<Relay> = join_all(relays).await;
    let everything = serde_json::json!({"limit": 0});
    let listening = relays.iter().map(|relay| Subscriber::open(relay.run.url(), &everything));
    let listeners = join_all(listening).await;

    let (count, _) = watch::channel(0);
    let shares = events.chunks(events.len().div_ceil(RELAYS));
    let each = (rate / RELAYS) as u32;
    let publishing = relays.iter().zip(shares);
    let publishing = publishing
        .map(|(relay, share)| publish(relay.run.url(), share.into(), each, count.clone()));
    let publishing = async {
        let started = Instant::now();
        join_all(publishing).await;
        started.elapsed()
    };
    let over = Duration::from_secs(seconds as u64);
    let (took, looks) = tokio::join!(publishing, watch_them(&relays, over));

    let expected = by_id(events);
    let sent = expected.len();
    world.until_it_holds(sent as u64).await;
    for relay in &relays {
        same_within(SETTLING, relay.name(), &expected, async || relay.export().await).await;
    }
    for listener in &listeners {
        listener.saw_each_once(&expected).await;
    }
    same_within(SETTLING, "the canister", &expected, async || world.canister_holds().await).await;
    tell(&format!(
        "load: {sent} events at {RELAYS} relays in {:.0} s, each of them at all relays, 0 lost",
        took.as_secs_f64(),
    ));
    report(&relays, &looks).await;
    world.end(relays).await;
}

/// Events that stay: none replaces another.
fn events(count: usize) -> Vec<Event> {
    let mut corpus = Corpus::new(11, AUTHORS);
    // More than are needed, since some are left out.
    let all = corpus.events(2 * count);
    all.filter(|event| event.kind.class() == Class::Regular && event.kind.0 != 5)
        .take(count)
        .collect()
}

/// What each relay was like at one moment.
struct Look {
    waiting: f64,
    behind: f64,
    memory_bytes: u64,
}

/// Looks at all relays from time to time.
async fn watch_them(relays: &[Relay], over: Duration) -> Vec<Vec<Look>> {
    let mut ticks = interval(over / LOOKS as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = Vec::new();
    ticks.tick().await;
    for _ in 0..LOOKS {
        ticks.tick().await;
        looks.push(join_all(relays.iter().map(look)).await);
    }
    looks
}

async fn look(relay: &Relay) -> Look {
    let metrics = Metrics::of(&relay.run).await;
    Look {
        waiting: metrics.value("aquifer_outbox_rows"),
        behind: metrics.value("aquifer_poll_entries_behind"),
        memory_bytes: memory_bytes(&relay.run),
    }
}

/// A table of it, bounds in seconds.
async fn report(relays: &[Relay], looks: &[Vec<Look>]) {
    tell(
        "| relay | outbox lag p50, p99 below | most that waited | poll lag p50, p99 below | \
         most behind | MiB after each fifth |",
    );
    tell("|---|---|---|---|---|---|");
    for (at, relay) in relays.iter().enumerate() {
        let metrics = Metrics::of(&relay.run).await;
        let bounds = |histogram: &str| {
            let bound = |share| metrics.bound(histogram, share);
            format!("{} s, {} s", bound(0.5), bound(0.99))
        };
        let most = |of: fn(&Look) -> f64| looks.iter().map(|all| of(&all[at])).fold(0.0, f64::max);
        let fifths = looks.iter().skip(LOOKS / 5 - 1).step_by(LOOKS / 5);
        let memory: Vec<String> =
            fifths.map(|all| (all[at].memory_bytes >> 20).to_string()).collect();
        tell(&format!(
            "| {} | {} | {} | {} | {} | {} |",
            relay.name(),
            bounds("aquifer_outbox_lag_seconds"),
            most(|look| look.waiting),
            bounds("aquifer_poll_lag_seconds"),
            most(|look| look.behind),
            memory.join(", "),
        ));
    }
}
