//! The log as a follower reads it who trusts the network's root key and no replica; and two stores that
//! find out by negentropy what they lack.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use candid::Principal;
use event::{Event, EventId, Timestamp};
use feed::verify::{ProofError, Proven, Verifier};
use ic_agent::Agent;
use interface::{
    Answer, ByteBuf, Change, ChangesFrom, ChangesPage, ChangesRequest, Filter, SaveOutcome, Tip,
    What,
};
use negentropy::{Id, Negentropy, NegentropyStorageVector};

use crate::{
    events::{left_of, notes, real_events_and_a_life},
    world::World,
};

const AGE_MAX: Duration = Duration::from_secs(300);

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

/// Somebody who follows the log of a world's canister.
pub struct Follower<'a> {
    world: &'a World,
    root_key: Vec<u8>,
}

impl Follower<'_> {
    pub async fn of(world: &World) -> Follower<'_> {
        let agent = Agent::builder().with_url(world.ic.gateway()).build().unwrap();
        agent.fetch_root_key().await.unwrap();
        Follower { world, root_key: agent.read_root_key() }
    }

    fn verifier(&self) -> Verifier {
        Verifier::new(&self.root_key, self.world.ic.canister(), AGE_MAX)
    }

    async fn page(&self, request: &ChangesRequest) -> ChangesPage {
        let answer: Answer<ChangesPage> =
            self.world.ic.query("changes", (request.clone(),)).await.unwrap();
        answer.into_result().unwrap()
    }

    async fn proven_page(&self, request: &ChangesRequest) -> (ChangesPage, Proven) {
        let page = self.page(request).await;
        let proven = self.verifier().page(request, &page, now());
        (page, proven.unwrap())
    }

    async fn proven_tip(&self) -> Proven {
        let tip: Tip = self.world.ic.query("tip", ()).await.unwrap();
        self.verifier().tip(&tip, now()).unwrap()
    }

    /// The whole log, each page proven.
    pub async fn proven_log(&self, entries_max: u64) -> Vec<Change> {
        let mut log = Vec::new();
        loop {
            let request = request(log.len() as u64, entries_max);
            let (page, proven) = self.proven_page(&request).await;
            log.extend(page.changes);
            if page.next == proven.head.length {
                return log;
            }
        }
    }
}

fn request(from: u64, entries_max: u64) -> ChangesRequest {
    ChangesRequest {
        from: ChangesFrom::Seq(from),
        max_bytes: None,
        max_entries: Some(entries_max),
        proof: true,
        ids_only: false,
        encoding: None,
    }
}

#[tokio::test]
async fn a_follower_proves_every_page_and_ends_with_what_the_store_holds() {
    let world = World::new().await;
    let follower = Follower::of(&world).await;
    assert_eq!(follower.proven_tip().await.head.length, 0);
    let events = real_events_and_a_life();
    for batch in events.chunks(97) {
        world.save(batch).await;
    }
    let log = follower.proven_log(61).await;
    let mut held: BTreeSet<EventId> = BTreeSet::new();
    for entry in &log {
        match &entry.what {
            What::Saved(bytes) => {
                held.insert(event::Packed::parse(bytes).unwrap().id());
            }
            What::Removed { id, .. } => {
                held.remove(&EventId(id[..].try_into().unwrap()));
            }
            What::Gone(_) | What::Cleared => {}
        }
    }
    assert_eq!(held, left_of(&events).into_keys().collect());
    assert_eq!(follower.proven_tip().await.head.length, log.len() as u64);

    // By ids alone, from a time of arrival, and when there is nothing new.
    let ids = ChangesRequest { ids_only: true, ..request(100, 50) };
    assert_eq!(follower.proven_page(&ids).await.0.changes.len(), 50);
    let arrived = log[log.len() / 2].arrived;
    let recent = ChangesRequest { from: ChangesFrom::Arrived(arrived), ..request(0, 50) };
    assert!(!follower.proven_page(&recent).await.0.changes.is_empty());
    let nothing = follower.proven_page(&request(log.len() as u64, 50)).await.0;
    assert!(nothing.changes.is_empty());
    world.end([]).await;
}

#[tokio::test]
async fn what_was_certified_survives_an_upgrade() {
    let world = World::new().await;
    let follower = Follower::of(&world).await;
    world.save(&notes(1, 9, 400)).await;
    let before = follower.proven_tip().await.head;
    world.ic.upgrade(crate::world::artifacts().wasm().unwrap()).await.unwrap();
    assert_eq!(follower.proven_tip().await.head, before);
    world.save(&notes(2, 1, 400)).await;
    assert_eq!(follower.proven_log(4).await.len(), 10);
    world.end([]).await;
}

#[tokio::test]
async fn a_replica_that_drops_reorders_adds_or_alters_an_entry_is_caught() {
    let world = World::new().await;
    let follower = Follower::of(&world).await;
    world.save(&notes(1, 20, 400)).await;
    let asked = request(3, 9);
    let (honest, _) = follower.proven_page(&asked).await;
    let caught = |what: &str, page: &ChangesPage| {
        let error = follower.verifier().page(&asked, page, now()).expect_err(what);
        assert!(!error.to_string().is_empty());
    };
    let renumbered = |page: &mut ChangesPage| {
        (3..).zip(&mut page.changes).for_each(|(seq, change)| change.seq = seq);
        page.next = 3 + page.changes.len() as u64;
    };
    let never_saved = What::Saved(ByteBuf::from(notes(2, 1, 400)[0].pack()));
    for at in 0..honest.changes.len() {
        let mut dropped = honest.clone();
        dropped.changes.remove(at);
        caught("a gap", &dropped);
        renumbered(&mut dropped);
        caught("an entry dropped", &dropped);
        let mut reordered = honest.clone();
        reordered.changes.swap(at, (at + 1) % 9);
        renumbered(&mut reordered);
        caught("entries reordered", &reordered);
        let mut added = honest.clone();
        added
            .changes
            .insert(at, Change { what: never_saved.clone(), ..honest.changes[at].clone() });
        renumbered(&mut added);
        caught("an entry added", &added);
        let mut replaced = honest.clone();
        replaced.changes[at].what = never_saved.clone();
        caught("an entry replaced", &replaced);
        let mut altered = honest.clone();
        let What::Saved(bytes) = &mut altered.changes[at].what else { panic!("notes are saved") };
        *bytes.last_mut().unwrap() ^= 1;
        caught("an event altered", &altered);
        let mut dated = honest.clone();
        dated.changes[at].arrived -= 1;
        caught("another time of arrival", &dated);
    }
    // A replica that keeps to an old state is honest about it, until the certificate is too old.
    let verifier = follower.verifier();
    let late = Timestamp(now().0 + AGE_MAX.as_secs() + 60);
    let stale = verifier.page(&asked, &honest, late);
    assert!(matches!(stale, Err(ProofError::Stale { .. })), "{stale:?}");
    world.save(&notes(3, 1, 400)).await;
    let shown_as_all = verifier.page(&asked, &honest, now()).unwrap();
    assert!(shown_as_all.head.length < follower.proven_tip().await.head.length);
    world.end([]).await;
}

#[tokio::test]
async fn a_proof_is_worth_nothing_under_another_key_or_for_another_canister() {
    let (world, other) = (World::new().await, World::new().await);
    let follower = Follower::of(&world).await;
    world.save(&notes(1, 5, 400)).await;
    let asked = request(0, 5);
    let (page, _) = follower.proven_page(&asked).await;

    for canister in [Principal::management_canister(), Principal::from_slice(&[9; 10])] {
        let verifier = Verifier::new(&follower.root_key, canister, AGE_MAX);
        let refused = verifier.page(&asked, &page, now());
        assert!(matches!(refused, Err(ProofError::OtherSubnet)), "{refused:?}");
    }
    let mut key = follower.root_key.clone();
    *key.last_mut().unwrap() ^= 1;
    let verifier = Verifier::new(&key, world.ic.canister(), AGE_MAX);
    let refused = verifier.page(&asked, &page, now());
    assert!(matches!(refused, Err(ProofError::Signature(_))), "{refused:?}");

    // What another store certifies, put before this one's page.
    other.save(&notes(2, 5, 400)).await;
    let theirs = Follower::of(&other).await.page(&asked).await;
    let mut mixed = page.clone();
    let (proof, taken) = (mixed.proof.as_mut().unwrap(), theirs.proof.unwrap());
    (proof.certificate, proof.witness) = (taken.certificate, taken.witness);
    follower.verifier().page(&asked, &mixed, now()).expect_err("it certifies another log");
    world.end([]).await;
    other.end([]).await;
}

/// What only `ours` has and what only the canister has, and in how many rounds that was found out.
async fn reconcile(
    world: &World,
    ours: &[Event],
    filter: Option<Filter>,
) -> ([BTreeSet<EventId>; 2], usize) {
    let mut storage = NegentropyStorageVector::new();
    for event in ours {
        storage.insert(event.created_at.0, Id::from_byte_array(event.id.0)).unwrap();
    }
    storage.seal().unwrap();
    let mut negentropy = Negentropy::borrowed(&storage, 60_000).unwrap();
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut message = Some(negentropy.initiate().unwrap());
    let mut rounds = 0;
    while let Some(sent) = message {
        let answer: Answer<ByteBuf> =
            world.ic.query("reconcile", (ByteBuf::from(sent), filter.clone())).await.unwrap();
        let answer = answer.into_result().unwrap();
        message = negentropy.reconcile_with_ids(&answer, &mut have, &mut need).unwrap();
        rounds += 1;
    }
    let ids = |ids: Vec<Id>| ids.into_iter().map(|id| EventId(id.to_bytes())).collect();
    ([ids(have), ids(need)], rounds)
}

#[tokio::test]
async fn a_store_finds_out_by_negentropy_what_it_lacks_and_what_the_canister_lacks() {
    let world = World::new().await;
    let (shared, only_ours, only_theirs) =
        (notes(1, 700, 400), notes(2, 40, 400), notes(3, 60, 400));
    for batch in [&shared, &only_theirs] {
        let outcomes = world.save(batch).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, SaveOutcome::Saved(_))));
    }
    let ids = |events: &[Event]| events.iter().map(|event| event.id).collect::<BTreeSet<_>>();
    let ours = [&shared[..], &only_ours].concat();
    let (found, rounds) = reconcile(&world, &ours, None).await;
    assert_eq!(found, [ids(&only_ours), ids(&only_theirs)]);
    assert!(rounds > 1, "it was worth asking for more than the ids");

    // The same of one author: all that the canister has of others is no difference.
    let filter =
        Filter { authors: Some(vec![ByteBuf::from(shared[0].pubkey.0)]), ..Filter::default() };
    let (found, _) = reconcile(&world, &shared[..600], Some(filter)).await;
    assert_eq!(found, [BTreeSet::new(), ids(&shared[600..])]);
    world.end([]).await;
}
