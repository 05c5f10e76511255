//! What the released version of the canister left in stable memory, this version reads.
//!
//! The fixture was written by the wasm of version 0.1.0. When a released layout changes, its fixture
//! stays and a new one joins it: `AQUIFER_WRITE_GOLDEN=FILE cargo test -p e2e golden` writes one.

use std::{io::Write, path::PathBuf};

use candid::Principal;
use event::Event;
use flate2::{Compression, write::GzEncoder};
use interface::{Answer, Config, Done, Role};

use crate::{
    events::{a_life, left_of, notes, real_events},
    feed::Follower,
    world::{World, artifacts},
};

const FIXTURE: &str = "data/event_store-0.1.0.stable.gz";
const TAGS_MAX: u32 = 4_321;
const NOTE: &str = "it was there before";

fn golden_events() -> Vec<Event> {
    [notes(9, 40, 600), a_life(), real_events()[..60].to_vec()].concat()
}

fn member() -> Principal {
    Principal::self_authenticating(b"a reader of old")
}

/// What the store of the fixture went through.
async fn live(world: &World) {
    world.save(&golden_events()).await;
    let config = Config { tags_max: Some(TAGS_MAX), ..Config::default() };
    let done: Done = world.ic.update("configure", (config,)).await.unwrap();
    assert_eq!(done, Answer::Ok(()));
    world.ic.grant(member(), Role::Reader, NOTE).await.unwrap();
}

#[tokio::test]
async fn the_stable_memory_of_the_released_version_is_read() {
    let world = World::new().await;
    if let Some(file) = std::env::var_os("AQUIFER_WRITE_GOLDEN") {
        live(&world).await;
        let mut fixture = GzEncoder::new(std::fs::File::create(file).unwrap(), Compression::best());
        fixture.write_all(&world.ic.stable_memory().await.unwrap()).unwrap();
        fixture.finish().unwrap();
        return world.end([]).await;
    }
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FIXTURE);
    world.ic.set_stable_memory(std::fs::read(fixture).unwrap()).await.unwrap();
    world.ic.upgrade(artifacts().wasm().unwrap()).await.unwrap();

    let mut expected = left_of(&golden_events());
    assert_eq!(world.canister_holds().await, expected);
    let config: Config = world.ic.query("config", ()).await.unwrap();
    assert_eq!(config.tags_max, Some(TAGS_MAX));
    let members = world.ic.members().await.unwrap();
    assert!(members.iter().any(|found| found.who == member() && found.note == NOTE), "{members:?}");
    Follower::of(&world).await.proven_log(1_000).await;

    let new = notes(10, 20, 600);
    world.save(&new).await;
    expected.extend(left_of(&new));
    assert_eq!(world.canister_holds().await, expected);
    Follower::of(&world).await.proven_log(1_000).await;
    world.end([]).await;
}
