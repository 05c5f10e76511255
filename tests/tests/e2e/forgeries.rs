//! Forged events: refused at the relay's door, and by the canister if somebody walks around it.

use candid::Principal;
use event::{Event, twin::Author};
use ic_agent::{Agent, Identity, identity::BasicIdentity};
use interface::{EventBytes, Role, SaveOutcome};

use crate::{events::by_id, world::World};

fn honest() -> Event {
    Author::new(1).sign(1_700_000_000, 1, &[&["t", "truth"]], "I said this").into_inner()
}

/// Other words under the id and signature of `event`.
fn with_other_words(event: &Event) -> Event {
    Event { content: "I never said this".to_owned(), ..event.clone() }
}

/// Other words with their right id, and the signature of the old ones.
fn with_other_words_and_their_id(event: &Event) -> Event {
    let mut forged = with_other_words(event);
    forged.id = forged.computed_id();
    forged
}

/// The same words under another name.
fn in_the_name_of(author: &Author, event: &Event) -> Event {
    let mut forged = Event { pubkey: author.pubkey(), ..event.clone() };
    forged.id = forged.computed_id();
    forged
}

fn forgeries() -> Vec<Event> {
    let honest = honest();
    vec![
        with_other_words(&honest),
        with_other_words_and_their_id(&honest),
        in_the_name_of(&Author::new(2), &honest),
    ]
}

#[tokio::test]
async fn a_forged_event_is_refused_by_the_relay() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let client = a.client().await;
    for forged in forgeries() {
        let refusal = client.try_publish(&forged).await.expect_err("it is forged");
        assert!(refusal.contains("invalid:"), "{refusal}");
    }
    // Not even kept quietly: when the honest one is everywhere, it is alone.
    let honest = honest();
    client.publish(&honest).await;
    world.settles_on(&by_id([honest]), &[&a, &b]).await;
    world.end([a, b]).await;
}

/// Somebody with a key, at the canister's own door.
async fn agent(world: &World, seed: u8) -> (Agent, Principal) {
    let identity = BasicIdentity::from_raw_key(&[seed; 32]);
    let who = identity.sender().expect("it has a key");
    let agent = Agent::builder().with_url(world.ic.gateway()).with_identity(identity).build();
    let agent = agent.unwrap();
    agent.fetch_root_key().await.unwrap();
    (agent, who)
}

async fn save(
    agent: &Agent,
    canister: Principal,
    events: Vec<Vec<u8>>,
) -> anyhow::Result<Vec<SaveOutcome>> {
    let events: Vec<EventBytes> = events.into_iter().map(EventBytes::from).collect();
    let argument = candid::encode_one(events)?;
    let reply = agent.update(&canister, "save_events").with_arg(argument).call_and_wait().await?;
    Ok(candid::decode_one(&reply)?)
}

#[tokio::test]
async fn a_forged_event_sent_past_the_relays_is_refused_by_the_canister() {
    let world = World::new().await;
    let canister = world.ic.canister();
    let (agent, who) = agent(&world, 7).await;
    world.ic.grant(who, Role::Relay, "a relay gone bad").await.unwrap();
    let mut batch = Vec::new();
    for forged in forgeries() {
        batch.push(forged.to_json().into_bytes());
        batch.push(forged.pack());
    }
    batch.push(b"{\"not\": \"an event\"}".to_vec());
    batch.push(vec![1, 2, 3]);
    batch.push(Vec::new());
    let refused = batch.len();
    batch.push(honest().pack());
    let outcomes = save(&agent, canister, batch).await.unwrap();
    for (number, outcome) in outcomes[..refused].iter().enumerate() {
        assert!(matches!(outcome, SaveOutcome::Invalid(_)), "event {number}: {outcome:?}");
    }
    assert_eq!(outcomes[refused..], [SaveOutcome::Saved(0)], "the honest one among them is taken");
    assert_eq!(world.canister_holds().await, by_id([honest()]));
    world.end([]).await;
}

#[tokio::test]
async fn somebody_without_a_role_cannot_save() {
    let world = World::new().await;
    let canister = world.ic.canister();
    let (agent, _) = agent(&world, 8).await;
    let refusal = save(&agent, canister, vec![honest().pack()]).await;
    let was_taken = matches!(&refusal, Ok(outcomes) if outcomes
        .iter()
        .any(|outcome| matches!(outcome, SaveOutcome::Saved(_) | SaveOutcome::Duplicate(_))));
    assert!(!was_taken, "{refusal:?}");
    assert_eq!(world.canister_holds().await.len(), 0);
    world.end([]).await;
}
