//! Figures that a change should be compared with. They are printed and not judged: another machine,
//! server or neighbour changes them.

use std::time::Instant;

use event::Event;

use crate::{
    events::{left_of, notes},
    world::{World, artifacts, tell},
};

const IMPORTED: usize = 3_000;

#[tokio::test]
async fn figures() {
    let wasm = artifacts().wasm().unwrap();
    tell(&format!("figure: the canister is {} bytes, gzipped", wasm.len()));
    let world = World::new().await;
    for events in [notes(1, 1, 600), notes(2, 100, 600)] {
        tell(&format!("figure: {}", cost_of_saving(&world, &events).await));
    }
    world.end([]).await;
    tell(&format!("figure: {}", speed_of_import().await));
}

async fn cost_of_saving(world: &World, events: &[Event]) -> String {
    let packed: usize = events.iter().map(|event| event.pack().len()).sum();
    let json: usize = events.iter().map(|event| event.to_json().len()).sum();
    world.save(events).await;
    let status = world.ic.status().await.unwrap();
    let cost = status.last_save.expect("there was one");
    let total = cost.decode + cost.verify + cost.index + cost.log;
    let count = events.len();
    format!(
        "save_events of {count} events of {} bytes ({} packed): {total} instructions, {} an event \
         (decode {}, verify {}, index {}, log {})",
        json / count,
        packed / count,
        total / count as u64,
        cost.decode,
        cost.verify,
        cost.index,
        cost.log
    )
}

async fn speed_of_import() -> String {
    let world = World::new().await;
    let relay = world.relay().await;
    let events = notes(1, IMPORTED, 600);
    let started = Instant::now();
    relay.import(&events).await;
    let acknowledged = started.elapsed().as_secs_f64();
    world.settles_on(&left_of(&events), &[]).await;
    let arrived = started.elapsed().as_secs_f64();
    world.end([relay]).await;
    format!(
        "import of {IMPORTED} events through one relay: {:.0} events/s acknowledged, {:.0} events/s \
         in the canister",
        IMPORTED as f64 / acknowledged,
        IMPORTED as f64 / arrived
    )
}
