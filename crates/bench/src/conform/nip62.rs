//! NIP-62: an author asks to vanish, and is gone.

use anyhow::Result;
use event::Event;
use serde_json::{Value, json};

use super::{
    Relay,
    author::{Author, now, word},
    cases,
};

const ALL_RELAYS: &str = "ALL_RELAYS";

cases! {
    "nip62" needs [62]:
        a_request_to_all_relays_removes_everything,
        a_request_to_this_relay_removes_everything,
        a_request_to_another_relay_has_no_effect,
        a_request_without_a_relay_has_no_effect,
        one_of_several_relays_is_enough,
        what_is_newer_than_the_request_stays,
        what_vanished_does_not_come_back,
        what_was_never_there_does_not_come,
        a_newer_event_is_taken_afterwards,
        nobody_else_vanishes,
        a_deletion_of_the_request_has_no_effect;
    "nip62" needs [62, 9]:
        requests_for_deletion_vanish_too;
    "nip62" needs [62, 59]:
        gift_wraps_to_who_vanished_go;
    "nip62" needs [62, 45]:
        what_vanished_is_not_counted;
}

fn request(author: &Author, age: u64, relays: &[&str]) -> Event {
    let tags: Vec<[&str; 2]> = relays.iter().map(|url| ["relay", *url]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
    author.sign(now() - age, 62, &tags, "forget me")
}

/// All of an author but such a request, which a relay may keep.
fn by(author: &Author) -> [Value; 1] {
    let kinds = [0, 1, 3, 5, 7, 10_002, 30_023];
    [json!({"authors": [author.pubkey()], "kinds": kinds})]
}

/// An event of each class, the newest first.
fn life(author: &Author) -> [Event; 4] {
    let at = now() - 20;
    [
        author.sign(at, 1, &[], "a note"),
        author.sign(at - 1, 0, &[], "{}"),
        author.sign(at - 2, 10_002, &[], ""),
        author.sign(at - 3, 30_023, &[&["d", "x"]], "an article"),
    ]
}

async fn vanishes(relay: &Relay, tagged: &[&str]) -> Result<()> {
    let author = relay.author();
    let life = life(&author);
    let mut client = relay.client().await?;
    client.put(&life.each_ref()).await?;
    client.finds_all(&by(&author), &life.each_ref()).await?;
    client.put(&[&request(&author, 1, tagged)]).await?;
    client.finds_none(&by(&author)).await
}

async fn stays(relay: &Relay, tagged: &[&str]) -> Result<()> {
    let author = relay.author();
    let life = life(&author);
    let mut client = relay.client().await?;
    client.put(&life.each_ref()).await?;
    // Whether it is taken is the relay's affair.
    client.publish(&request(&author, 1, tagged)).await?;
    client.within(relay.silence, |_| false).await?;
    client.finds_all(&by(&author), &life.each_ref()).await
}

async fn a_request_to_all_relays_removes_everything(relay: &Relay) -> Result<()> {
    vanishes(relay, &[ALL_RELAYS]).await
}

async fn a_request_to_this_relay_removes_everything(relay: &Relay) -> Result<()> {
    vanishes(relay, &[&relay.known_as]).await?;
    let slashed = format!("{}/", relay.known_as.trim_end_matches('/'));
    vanishes(relay, &[&slashed]).await
}

async fn a_request_to_another_relay_has_no_effect(relay: &Relay) -> Result<()> {
    stays(relay, &["wss://relay.elsewhere.example", "all_relays"]).await
}

async fn a_request_without_a_relay_has_no_effect(relay: &Relay) -> Result<()> {
    stays(relay, &[]).await
}

async fn one_of_several_relays_is_enough(relay: &Relay) -> Result<()> {
    vanishes(relay, &["wss://relay.elsewhere.example", &relay.known_as]).await
}

async fn what_is_newer_than_the_request_stays(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let (old, new) = (author.note(20), author.note(2));
    let mut client = relay.client().await?;
    client.put(&[&old, &new, &request(&author, 10, &[ALL_RELAYS])]).await?;
    client.finds(&by(&author), &[&new]).await
}

async fn what_vanished_does_not_come_back(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let life = life(&author);
    let mut client = relay.client().await?;
    client.put(&life.each_ref()).await?;
    client.put(&[&request(&author, 1, &[ALL_RELAYS])]).await?;
    client.finds_none(&by(&author)).await?;
    for event in &life {
        client.publish(event).await?.is_refused()?;
    }
    client.keeps_none(&by(&author)).await
}

async fn what_was_never_there_does_not_come(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.put(&[&request(&author, 1, &[ALL_RELAYS])]).await?;
    client.publish(&author.note(20)).await?.is_refused()?;
    client.keeps_none(&by(&author)).await
}

async fn a_newer_event_is_taken_afterwards(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.put(&[&author.note(20), &request(&author, 10, &[ALL_RELAYS])]).await?;
    let new = author.note(1);
    client.put(&[&new]).await?;
    client.finds(&by(&author), &[&new]).await
}

async fn nobody_else_vanishes(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let (of_ann, of_bob) = (ann.note(20), bob.note(20));
    let mut client = relay.client().await?;
    client.put(&[&of_ann, &of_bob]).await?;
    let names_bob = ann.sign(now() - 1, 62, &[&["relay", ALL_RELAYS], &["p", &bob.pubkey()]], "");
    client.put(&[&names_bob]).await?;
    client.finds_none(&by(&ann)).await?;
    client.finds(&by(&bob), &[&of_bob]).await
}

async fn a_deletion_of_the_request_has_no_effect(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(20);
    let request = request(&author, 10, &[ALL_RELAYS]);
    let mut client = relay.client().await?;
    client.put(&[&note, &request]).await?;
    let id = request.id.to_string();
    client.publish(&author.sign(now(), 5, &[&["e", &id]], "")).await?;
    client.within(relay.silence, |_| false).await?;
    client.publish(&note).await?.is_refused()?;
    client.keeps_none(&[json!({"ids": [note.id]})]).await
}

async fn requests_for_deletion_vanish_too(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(30);
    let id = note.id.to_string();
    let deletion = author.sign(now() - 20, 5, &[&["e", &id]], "");
    let mut client = relay.client().await?;
    client.put(&[&note, &deletion, &request(&author, 1, &[ALL_RELAYS])]).await?;
    client.finds_none(&by(&author)).await
}

async fn gift_wraps_to_who_vanished_go(relay: &Relay) -> Result<()> {
    let [sender, receiver] = relay.authors();
    let wrap = sender.sign(now() - 20, 1_059, &[&["p", &receiver.pubkey()]], &word());
    let mut client = relay.client().await?;
    // Where nobody has to say who they are to see it, everybody may look.
    let _ = client.authenticate(&receiver).await;
    client.put(&[&wrap]).await?;
    let mine = [json!({"kinds": [1_059], "#p": [receiver.pubkey()]})];
    client.finds(&mine, &[&wrap]).await?;
    client.put(&[&request(&receiver, 1, &[ALL_RELAYS])]).await?;
    client.finds_none(&mine).await
}

async fn what_vanished_is_not_counted(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.put(&[&author.note(20), &author.note(21)]).await?;
    client.counts_to(&by(&author), 2).await?;
    client.put(&[&request(&author, 1, &[ALL_RELAYS])]).await?;
    client.counts_to(&by(&author), 0).await
}
