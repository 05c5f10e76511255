//! NIP-70: a protected event is its author's to publish, and nobody else's.

use anyhow::Result;
use event::Event;
use serde_json::json;

use super::{
    Relay,
    author::{Author, now},
    cases,
};

cases! {
    "nip70" needs [70]:
        a_protected_event_is_refused_from_who_has_not_authenticated,
        a_protected_event_that_was_refused_is_not_stored,
        a_repost_that_embeds_a_protected_event_is_refused,
        a_repost_that_embeds_another_event_is_taken;
    "nip70" needs [70, 42]:
        a_protected_event_is_refused_from_somebody_else,
        a_protected_event_is_taken_from_its_author,
        one_of_several_keys_is_enough,
        everybody_may_read_a_protected_event;
}

fn protected(author: &Author) -> Event {
    author.sign(now() - 5, 1, &[&["t", "x"], &["-"]], "for here")
}

async fn a_protected_event_is_refused_from_who_has_not_authenticated(relay: &Relay) -> Result<()> {
    relay.client().await?.publish(&protected(&relay.author())).await?.is_refused()
}

async fn a_protected_event_that_was_refused_is_not_stored(relay: &Relay) -> Result<()> {
    let event = protected(&relay.author());
    let mut client = relay.client().await?;
    client.publish(&event).await?;
    client.keeps_none(&[json!({"ids": [event.id]})]).await
}

async fn a_repost_that_embeds_a_protected_event_is_refused(relay: &Relay) -> Result<()> {
    let [author, other] = relay.authors();
    let embedded = protected(&author);
    let (id, key) = (embedded.id.to_string(), author.pubkey());
    for kind in [6, 16] {
        let tags: [&[&str]; 2] = [&["e", &id], &["p", &key]];
        let repost = other.sign(now(), kind, &tags, &embedded.to_json());
        relay.client().await?.publish(&repost).await?.is_refused()?;
    }
    Ok(())
}

async fn a_repost_that_embeds_another_event_is_taken(relay: &Relay) -> Result<()> {
    let [author, other] = relay.authors();
    let note = author.note(5);
    let (id, key) = (note.id.to_string(), author.pubkey());
    let repost = other.sign(now(), 6, &[&["e", &id], &["p", &key]], &note.to_json());
    relay.client().await?.put(&[&note, &repost]).await
}

async fn a_protected_event_is_refused_from_somebody_else(relay: &Relay) -> Result<()> {
    let [author, other] = relay.authors();
    let mut client = relay.client().await?;
    client.authenticate(&other).await?;
    client.publish(&protected(&author)).await?.is_refused()
}

async fn a_protected_event_is_taken_from_its_author(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.authenticate(&author).await?;
    client.publish(&protected(&author)).await?.is_taken()
}

async fn one_of_several_keys_is_enough(relay: &Relay) -> Result<()> {
    let [author, other] = relay.authors();
    let mut client = relay.client().await?;
    client.authenticate(&author).await?;
    client.authenticate(&other).await?;
    client.put(&[&protected(&author), &protected(&other)]).await
}

async fn everybody_may_read_a_protected_event(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let event = protected(&author);
    let mut client = relay.client().await?;
    client.authenticate(&author).await?;
    client.put(&[&event]).await?;
    relay.client().await?.finds(&[json!({"authors": [author.pubkey()]})], &[&event]).await
}
