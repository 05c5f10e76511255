//! Each fault alone: relays take events while it lasts, and how long after its end all sets are equal
//! again is told as a row of a table. On a machine that does nothing else:
//! `cargo test --workspace --test e2e faults:: -- --test-threads 1`

use std::time::{Duration, Instant};

use cluster::Source;
use event::Event;
use tokio::time::interval;

use crate::{
    double::{Double, Lie, Plan},
    events::{left_of, notes},
    world::{Clock, PATIENCE, Relay, World, artifacts, tell},
};

/// Events that each of the two relays takes while a fault lasts.
const EVENTS: usize = 100;
/// Between two of them: a fault lasts three seconds.
const PACE: Duration = Duration::from_millis(30);
const HOUR_SECONDS: u64 = 3_600;

/// Two relays. What A says and hears goes through the double, and its clock can be set.
struct Scene {
    world: World,
    double: Double,
    clock: Clock,
    a: Relay,
    b: Relay,
    at_a: Vec<Event>,
    at_b: Vec<Event>,
}

impl Scene {
    /// All is well.
    async fn new() -> Scene {
        let world = World::new().await;
        let double = Double::before(&world.ic.gateway(), 1).await;
        let (a, clock) = world.relay_through_with_a_clock(&double.url()).await;
        let b = world.relay().await;
        let before = notes(3, 1, 600);
        a.client().await.publish_all(&before).await;
        world.settles_on(&left_of(&before), &[&a, &b]).await;
        Scene {
            world,
            double,
            clock,
            a,
            b,
            at_a: notes(1, EVENTS, 600),
            at_b: notes(2, EVENTS, 600),
        }
    }

    /// Clients publish at both relays.
    async fn is_busy(&self) {
        tokio::join!(publish(&self.a, &self.at_a), publish(&self.b, &self.at_b));
    }

    /// The fault is over: waits until all is well again.
    async fn heals(self, fault: &str) {
        let over = Instant::now();
        let before = notes(3, 1, 600);
        let all = left_of(before.iter().chain(&self.at_a).chain(&self.at_b));
        self.world.settles_on(&all, &[&self.a, &self.b]).await;
        let (events, seconds) = (2 * EVENTS, over.elapsed().as_secs_f64());
        tell(&format!("| {fault} | {events} | {seconds:.1} |"));
        self.world.end([self.a, self.b]).await;
    }
}

async fn publish(relay: &Relay, events: &[Event]) {
    let client = relay.client().await;
    let mut ticks = interval(PACE);
    for event in events {
        ticks.tick().await;
        client.publish(event).await;
    }
}

#[tokio::test]
async fn sets_are_equal_soon_after_no_fault() {
    let scene = Scene::new().await;
    scene.is_busy().await;
    scene.heals("none").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_a_relay_was_killed() {
    let mut scene = Scene::new().await;
    let (before, after) = scene.at_a.split_at(EVENTS / 2);
    publish(&scene.a, before).await;
    scene.a.run.process().kill().await;
    publish(&scene.b, &scene.at_b).await;
    scene.a.run.restart(&artifacts()).await.unwrap();
    publish(&scene.a, after).await;
    scene.heals("a relay killed (SIGKILL) among its events, and started again").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_the_canister_was_stopped() {
    let scene = Scene::new().await;
    scene.world.ic.stop().await.unwrap();
    scene.is_busy().await;
    scene.world.ic.start().await.unwrap();
    scene.heals("canister stopped").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_the_canister_was_upgraded_while_it_ran() {
    let scene = Scene::new().await;
    let upgrade = async { scene.world.ic.upgrade(artifacts().wasm().unwrap()).await.unwrap() };
    tokio::join!(scene.is_busy(), upgrade);
    scene.heals("canister upgraded while it runs").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_the_canister_was_out_of_cycles() {
    let scene = Scene::new().await;
    scene.world.ic.run_dry().await.unwrap();
    scene.is_busy().await;
    scene.b.misses_the_canister().await;
    scene.world.ic.top_up().await.unwrap();
    scene.heals("canister frozen, out of cycles").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_the_gateway_was_away() {
    let mut scene = Scene::new().await;
    scene.world.ic.cut_off().await.unwrap();
    scene.is_busy().await;
    scene.world.ic.reconnect().await.unwrap();
    scene.heals("gateway unreachable").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_a_clock_was_an_hour_ahead() {
    let scene = Scene::new().await;
    scene.clock.is_ahead(HOUR_SECONDS);
    scene.is_busy().await;
    let says_so = |line: &str| {
        let how_far = line.split("the clock of this machine is ").nth(1);
        let how_far = how_far.and_then(|line| line.split_once(" s ahead of the gateway's"));
        let seconds = how_far.and_then(|(seconds, _)| seconds.parse::<u64>().ok());
        seconds.is_some_and(|seconds| seconds.abs_diff(HOUR_SECONDS) < 60)
    };
    scene.a.run.process().line(Source::Stderr, says_so, PATIENCE).await.unwrap();
    scene.clock.is_right();
    scene.heals("one relay's clock an hour ahead").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_every_answer_was_late() {
    under(Plan::Always(Lie::Late), "one relay's answers 0.7 s late").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_every_answer_was_lost() {
    under(Plan::Always(Lie::Lost), "one relay's calls arrive, their answers do not").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_the_gateway_was_silent() {
    under(Plan::Always(Lie::Silence), "one relay's gateway silent").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_old_pages_were_served() {
    under(Plan::Always(Lie::OldAnswer), "one relay is given old answers").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_answers_were_forged() {
    under(Plan::Always(Lie::Forged), "one relay is given forged answers").await;
}

#[tokio::test]
async fn sets_are_equal_again_after_half_of_all_answers_were_lies() {
    under(Plan::Often(0.5), "half of one relay's answers are lies of all kinds").await;
}

async fn under(plan: Plan, fault: &str) {
    let scene = Scene::new().await;
    scene.double.plans(plan);
    scene.is_busy().await;
    scene.double.plans(Plan::Honest);
    scene.heals(fault).await;
}
