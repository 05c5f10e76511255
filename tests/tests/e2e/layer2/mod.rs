//! One table of what every L2 does, run on each of them: the canister on its Internet Computer, a
//! folder of this machine, and a Postgres database.
//!
//! Each behaviour is a story told in the words of the trait, and gets a store of its own, empty, of
//! which it is the owner. It must not ask which one it is.

mod behaviours;
mod database;
mod failures;
mod sharing;

use std::{any::Any, sync::Arc};

use candid::Principal;
use cluster::canister_url;
use ic_agent::{Identity, identity::BasicIdentity};
use interface::Role;
use layer2::{Layer2, Layer2Url};

use crate::world::World;

/// A store that a test is the owner of, and what it needs to live.
struct Owned {
    layer2: Arc<dyn Layer2>,
    _lives: Box<dyn Any>,
}

async fn canister() -> Option<Owned> {
    let world = World::new().await;
    world.ic.grant(owner().sender().unwrap(), Role::Owner, "the table").await.unwrap();
    let layer2 = open(&canister_url(world.ic.canister(), &world.ic.gateway()));
    Some(Owned { layer2, _lives: Box::new(world) })
}

async fn lmdb() -> Option<Owned> {
    let folder = tempfile::tempdir().unwrap();
    let layer2 = open(&format!("lmdb:{}", folder.path().display()));
    Some(Owned { layer2, _lives: Box::new(folder) })
}

/// None where PostgreSQL is not installed.
async fn postgres() -> Option<Owned> {
    let layer2 = open(&database::create().await?);
    Some(Owned { layer2, _lives: Box::new(()) })
}

fn owner() -> BasicIdentity {
    BasicIdentity::from_raw_key(&[7; 32])
}

fn open(url: &str) -> Arc<dyn Layer2> {
    let url: Layer2Url = url.parse().unwrap();
    layer2::open(&url, owner()).unwrap()
}

macro_rules! table {
    ($($place:ident),* : $behaviours:tt) => { $(table!(@ $place $behaviours);)* };
    (@ $place:ident ($($behaviour:ident,)*)) => {
        mod $place {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                let Some(place) = super::$place().await else { return };
                super::behaviours::$behaviour(place.layer2.clone()).await;
            })*
        }
    };
}

table! { canister, lmdb, postgres: (
    what_was_saved_is_there_under_its_id_and_no_other,
    each_event_of_a_batch_has_its_outcome,
    what_is_sent_again_changes_nothing,
    an_answer_comes_in_pages_newest_first_and_ties_by_id,
    a_limit_holds_over_all_pages,
    what_matches_is_counted,
    whoever_follows_the_log_from_anywhere_holds_the_same,
    who_follows_while_many_write_misses_nothing,
    the_log_is_read_from_a_time,
    the_log_names_ids_only_when_asked,
    who_is_further_than_the_log_is_told_so,
    what_was_taken_out_may_come_back_without_a_tombstone_and_never_with_one,
    a_cleared_store_is_empty_and_goes_on,
    what_has_expired_is_seen_no_more,
    who_vanishes_is_gone_and_stays_gone,
    negentropy_finds_what_differs,
    what_was_read_of_some_authors_is_put_back,
    what_makes_no_sense_is_an_error_and_nothing_else,
    the_owner_is_told_to_be_one_and_how_much_there_is,
    random_arrivals_leave_what_the_naive_store_holds,
) }

#[test]
fn none_but_a_canister_asks_who_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let lmdb = open(&format!("lmdb:{}", folder.path().display()));
    assert_eq!(lmdb.principal(), None::<Principal>);
}
