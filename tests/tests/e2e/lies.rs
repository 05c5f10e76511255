//! Whoever stands between a relay and the Internet Computer may be silent, or lie: nothing of it gets
//! into a store, nothing is lost, and the log says what happened.

use std::time::Duration;

use cluster::{RelayOptions, Source};
use event::{Event, twin::Author};
use futures_util::future::join_all;

use crate::{
    double::{Double, Lie, Plan},
    events::{by_id, left_of, notes},
    world::{PATIENCE, Relay, World, eventually_has, tell},
};

/// Relays that are lied to at a time.
const RELAYS: usize = 4;
/// Between events, so that they do not all go up in one call.
const PACE: Duration = Duration::from_millis(25);

/// Words of the relay's log after a lie.
fn logged(lie: Lie) -> String {
    match lie {
        Lie::Page | Lie::Empty | Lie::Halved | Lie::Forged => "not proven".into(),
        Lie::Status(status) => format!("status {status}"),
        Lie::Lost | Lie::Dropped | Lie::CutOff | Lie::Silence => "cause=unavailable: ".into(),
        // What shows it, and to whom, depends on where it hits.
        _ => "L2".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lie_gets_into_a_relay_and_nothing_is_lost() {
    let world = World::new().await;
    let honest = world.relay().await;
    let lies = Lie::ALL.chunks(Lie::ALL.len().div_ceil(RELAYS)).enumerate();
    let hearing = lies.map(|(number, lies)| hears(&world, &honest, number as u8, lies));
    let heard = join_all(hearing).await;
    let all = left_of(heard.iter().flat_map(|heard| &heard.published));
    let (relays, _doubles): (Vec<Relay>, Vec<Double>) =
        heard.into_iter().map(|heard| (heard.relay, heard.double)).unzip();
    world.settles_on(&all, &relays.iter().chain([&honest]).collect::<Vec<_>>()).await;
    world.end(relays.into_iter().chain([honest])).await;
}

/// A relay that was lied to, whoever it was lied to by, and what was published meanwhile.
struct Heard {
    relay: Relay,
    double: Double,
    published: Vec<Event>,
}

/// A relay that is told these lies, one after the other.
async fn hears(world: &World, honest: &Relay, number: u8, lies: &[Lie]) -> Heard {
    let double = Double::before(&world.ic.gateway(), number.into()).await;
    // Nothing comes from the honest relay itself: that would be the truth.
    let change = |options: &mut RelayOptions| {
        options.gateway = double.url();
        options.more.extend(["--peering", "off"].map(str::to_owned));
    };
    let relay = world.relay_but(change).await;
    let (here, there) = (relay.client().await, honest.client().await);
    let mut published = notes(100 + number, 1, 400);
    here.publish_all(&published).await;
    world.settles_on_at_least(&by_id(published.clone()), &[&relay]).await;
    for (at, lie) in lies.iter().enumerate() {
        let author = 10 * number + at as u8;
        let (at_relay, elsewhere) = (notes(author, 2, 400), notes(200 - author, 2, 400));
        let logged_before = warnings(&relay).len();
        double.plans(Plan::Always(*lie));
        there.publish_all(&elsewhere).await;
        here.publish_all(&at_relay).await;
        double.lies(*lie, &["call", "query"], lie.times()).await;
        if !lie.is_harmless() {
            let brought = here.fetch_ids(elsewhere.iter().map(|event| &event.id)).await;
            // A bit may lie where nothing depends on it; then what comes is true all the same.
            let may_be_true = *lie == Lie::FlippedBit;
            let is_true = brought.values().all(|event| elsewhere.contains(event));
            assert!(brought.is_empty() || may_be_true && is_true, "{lie:?} brought {brought:?}");
        }
        double.plans(Plan::Honest);
        if !lie.is_harmless() {
            is_told(&relay, *lie, logged_before).await;
        }
        published.extend(at_relay.into_iter().chain(elsewhere));
        world.settles_on_at_least(&by_id(published.clone()), &[&relay]).await;
    }
    nothing_was_set_aside(&relay);
    Heard { relay, double, published }
}

fn warnings(relay: &Relay) -> Vec<String> {
    let lines = relay.run.process().lines(Source::Stderr);
    lines.into_iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect()
}

/// Waits for a line about it.
async fn is_told(relay: &Relay, lie: Lie, before: usize) {
    let told = async {
        loop {
            let warnings = warnings(relay);
            let is_about_it = |line: &&String| line.contains(&logged(lie));
            if let Some(line) = warnings[before..].iter().find(is_about_it) {
                tell(&format!("{lie:?}: {line}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, told).await.is_ok();
    assert!(in_time, "{lie:?} was not logged: {:?}", &warnings(relay)[before..]);
}

fn nothing_was_set_aside(relay: &Relay) {
    let aside = warnings(relay).into_iter().find(|line| line.contains("kept aside"));
    assert_eq!(aside, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_gateway_that_often_lies_a_relay_gets_at_the_truth() {
    const SEED: u64 = 7;
    const NOTES: usize = 120;
    let world = World::new().await;
    let honest = world.relay().await;
    let double = Double::before(&world.ic.gateway(), SEED).await;
    let relay = world.relay_through(&double.url()).await;
    let (here, there) = (relay.client().await, honest.client().await);
    let (ann, bob) = (Author::new(1), Author::new(2));
    let delete = |author: &Author, event: &Event| {
        author.sign(1_700_100_000, 5, &[&["e", &event.id.to_string()]], "").into_inner()
    };
    let (at_relay, elsewhere) = (notes(1, NOTES, 400), notes(2, NOTES, 400));
    let mut published = Vec::new();
    double.plans(Plan::Often(0.5));
    let mut pace = tokio::time::interval(PACE);
    for (mine, other) in at_relay.iter().zip(&elsewhere) {
        pace.tick().await;
        here.publish(mine).await;
        there.publish(other).await;
        published.extend([mine.clone(), other.clone()]);
        if published.len() % 10 == 0 {
            let (here_gone, there_gone) = (delete(&ann, mine), delete(&bob, other));
            there.publish(&here_gone).await;
            here.publish(&there_gone).await;
            published.extend([here_gone, there_gone]);
        }
    }
    // It gets there although the lying never ends.
    let canister = async || world.canister_holds().await;
    eventually_has("the canister", &left_of(&published), canister).await;
    double.plans(Plan::Honest);
    world.settles_on(&left_of(&published), &[&relay, &honest]).await;
    nothing_was_set_aside(&relay);
    assert!(double.told().len() >= 5, "it lied in many ways: {:?}", double.told());
    world.end([relay, honest]).await;
}
