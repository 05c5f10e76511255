//! NIP-09: what authors have deleted is gone and stays gone, and nobody else can do that for them.

use anyhow::Result;
use event::Event;
use serde_json::{Value, json};

use super::{
    Relay,
    author::{Author, now},
    cases,
};

cases! {
    "nip09" needs [9]:
        an_author_deletes_by_id,
        a_stranger_deletes_nothing,
        a_strangers_request_blocks_no_id_that_is_not_there_yet,
        an_authors_request_blocks_an_id_that_is_not_there_yet,
        a_deleted_event_does_not_come_back,
        publishing_a_deleted_event_again_is_refused,
        one_request_deletes_many,
        a_request_deletes_what_is_its_authors_and_nothing_else,
        the_request_is_kept_and_served,
        the_request_is_sent_to_subscribers,
        a_request_deletes_no_request,
        a_version_that_was_deleted_by_id_is_gone,
        an_address_deletes_all_versions_up_to_the_requests_date,
        an_address_of_a_replaceable_kind_deletes,
        an_address_deletes_no_other_address,
        an_address_deletes_nothing_of_others,
        an_address_leaves_a_version_that_is_newer_than_the_request,
        a_newer_version_is_taken_after_an_address_was_deleted,
        an_older_version_does_not_come_back_after_an_address_was_deleted,
        a_strangers_request_for_an_address_blocks_nothing;
    "nip09" needs [9, 40]:
        a_request_that_expires_deletes_all_the_same;
    "nip09" needs [9, 59]:
        a_receiver_deletes_a_gift_wrap;
}

fn by(author: &Author) -> [Value; 1] {
    [json!({"authors": [author.pubkey()], "kinds": [0, 1, 3, 10_002, 30_023]})]
}

/// Asks for these ids to be deleted, so many seconds ago.
fn delete(author: &Author, age: u64, events: &[&Event]) -> Event {
    let ids: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
    let tags: Vec<[&str; 2]> = ids.iter().map(|id| ["e", id.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
    author.sign(now() - age, 5, &tags, "by mistake")
}

fn address(author: &Author, kind: u16, d: &str) -> String {
    format!("{kind}:{}:{d}", author.pubkey())
}

/// Asks for this address to be deleted, so many seconds ago.
fn delete_address(author: &Author, age: u64, address: &str) -> Event {
    author.sign(now() - age, 5, &[&["a", address]], "by mistake")
}

fn article(author: &Author, age: u64, d: &str) -> Event {
    author.sign(now() - age, 30_023, &[&["d", d]], &format!("of {age} seconds ago"))
}

async fn an_author_deletes_by_id(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let (note, kept) = (author.note(9), author.note(8));
    let mut client = relay.client().await?;
    client.put(&[&note, &kept]).await?;
    client.finds_all(&by(&author), &[&kept, &note]).await?;
    client.put(&[&delete(&author, 1, &[&note])]).await?;
    client.finds(&by(&author), &[&kept]).await?;
    client.finds_none(&[json!({"ids": [note.id]})]).await
}

async fn a_stranger_deletes_nothing(relay: &Relay) -> Result<()> {
    let [author, stranger] = relay.authors();
    let note = author.note(9);
    let mut client = relay.client().await?;
    client.put(&[&note]).await?;
    client.publish(&delete(&stranger, 1, &[&note])).await?;
    client.within(relay.silence, |_| false).await?;
    client.finds(&by(&author), &[&note]).await
}

async fn a_strangers_request_blocks_no_id_that_is_not_there_yet(relay: &Relay) -> Result<()> {
    let [author, stranger] = relay.authors();
    let note = author.note(9);
    let mut client = relay.client().await?;
    client.publish(&delete(&stranger, 1, &[&note])).await?;
    client.put(&[&note]).await?;
    client.finds(&by(&author), &[&note]).await
}

async fn an_authors_request_blocks_an_id_that_is_not_there_yet(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(9);
    let mut client = relay.client().await?;
    client.put(&[&delete(&author, 1, &[&note])]).await?;
    client.publish(&note).await?;
    client.keeps_none(&by(&author)).await
}

async fn a_deleted_event_does_not_come_back(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(9);
    let mut client = relay.client().await?;
    client.put(&[&note, &delete(&author, 1, &[&note])]).await?;
    client.finds_none(&by(&author)).await?;
    client.publish(&note).await?;
    client.keeps_none(&by(&author)).await
}

async fn publishing_a_deleted_event_again_is_refused(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(9);
    let mut client = relay.client().await?;
    client.put(&[&note, &delete(&author, 1, &[&note])]).await?;
    client.publish(&note).await?.is_refused()
}

async fn one_request_deletes_many(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes: Vec<Event> = (5..25).map(|age| author.note(age)).collect();
    let mut client = relay.client().await?;
    client.put_many(&notes).await?;
    client.put(&[&delete(&author, 1, &notes.iter().collect::<Vec<_>>())]).await?;
    client.finds_none(&by(&author)).await
}

async fn a_request_deletes_what_is_its_authors_and_nothing_else(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let (of_ann, of_bob) = (ann.note(9), bob.note(9));
    let mut client = relay.client().await?;
    client.put(&[&of_ann, &of_bob]).await?;
    // A relay may refuse the whole. If it does not, half of it is good.
    if client.publish(&delete(&ann, 1, &[&of_bob, &of_ann])).await?.accepted {
        client.finds_none(&by(&ann)).await?;
    }
    client.finds(&by(&bob), &[&of_bob]).await
}

async fn the_request_is_kept_and_served(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(9);
    let request = delete(&author, 1, &[&note]);
    let mut client = relay.client().await?;
    client.put(&[&note, &request]).await?;
    client.finds(&[json!({"kinds": [5], "authors": [author.pubkey()]})], &[&request]).await?;
    client.finds(&[json!({"#e": [note.id]})], &[&request]).await
}

async fn the_request_is_sent_to_subscribers(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(9);
    let [mut client, mut listener] = [relay.client().await?, relay.client().await?];
    client.put(&[&note]).await?;
    listener.subscribe("live", &[json!({"kinds": [5], "authors": [author.pubkey()]})]).await?;
    let request = delete(&author, 1, &[&note]);
    client.put(&[&request]).await?;
    listener.hears("live", &request).await
}

async fn a_request_deletes_no_request(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(9);
    let request = delete(&author, 5, &[&note]);
    let mut client = relay.client().await?;
    client.put(&[&note, &request]).await?;
    client.publish(&delete(&author, 1, &[&request])).await?;
    client.within(relay.silence, |_| false).await?;
    client.finds(&[json!({"ids": [request.id]})], &[&request]).await
}

async fn a_version_that_was_deleted_by_id_is_gone(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let old = article(&author, 9, "x");
    let mut client = relay.client().await?;
    client.put(&[&old, &delete(&author, 5, &[&old])]).await?;
    client.finds_none(&by(&author)).await?;
    let new = article(&author, 2, "x");
    client.put(&[&new]).await?;
    client.finds(&by(&author), &[&new]).await
}

async fn an_address_deletes_all_versions_up_to_the_requests_date(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let at = now() - 9;
    let mut client = relay.client().await?;
    // Of the request's own second, too.
    for article_at in [at - 10, at] {
        let article = author.sign(article_at, 30_023, &[&["d", &article_at.to_string()]], "");
        let address = address(&author, 30_023, &article_at.to_string());
        client.put(&[&article]).await?;
        client.finds(&by(&author), &[&article]).await?;
        client.put(&[&author.sign(at, 5, &[&["a", &address]], "")]).await?;
        client.finds_none(&by(&author)).await?;
    }
    Ok(())
}

async fn an_address_of_a_replaceable_kind_deletes(relay: &Relay) -> Result<()> {
    for kind in [0, 3, 10_002] {
        let author = relay.author();
        let mut client = relay.client().await?;
        client.put(&[&author.sign(now() - 9, kind, &[], "")]).await?;
        client.put(&[&delete_address(&author, 1, &address(&author, kind, ""))]).await?;
        client.finds_none(&by(&author)).await?;
    }
    Ok(())
}

async fn an_address_deletes_no_other_address(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let kept = [
        article(&author, 8, "y"),
        article(&author, 9, ""),
        article(&author, 10, "x:y"),
        author.sign(now() - 11, 10_002, &[], ""),
        author.note(12),
    ];
    let kept: Vec<&Event> = kept.iter().collect();
    let gone = article(&author, 7, "x");
    let mut client = relay.client().await?;
    client.put(&kept).await?;
    client.put(&[&gone, &delete_address(&author, 1, &address(&author, 30_023, "x"))]).await?;
    client.within(relay.silence, |_| false).await?;
    let ids: Vec<String> = kept.iter().map(|event| event.id.to_string()).collect();
    client.finds_all(&[json!({"ids": ids})], &kept).await
}

async fn an_address_deletes_nothing_of_others(relay: &Relay) -> Result<()> {
    let [author, stranger] = relay.authors();
    let article = article(&author, 9, "x");
    let mut client = relay.client().await?;
    client.put(&[&article]).await?;
    client.publish(&delete_address(&stranger, 1, &address(&author, 30_023, "x"))).await?;
    client.within(relay.silence, |_| false).await?;
    client.finds(&by(&author), &[&article]).await
}

async fn an_address_leaves_a_version_that_is_newer_than_the_request(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let article = article(&author, 2, "x");
    let mut client = relay.client().await?;
    client.put(&[&article]).await?;
    client.put(&[&delete_address(&author, 9, &address(&author, 30_023, "x"))]).await?;
    client.within(relay.silence, |_| false).await?;
    client.finds(&by(&author), &[&article]).await
}

async fn a_newer_version_is_taken_after_an_address_was_deleted(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.put(&[&article(&author, 9, "x")]).await?;
    client.put(&[&delete_address(&author, 5, &address(&author, 30_023, "x"))]).await?;
    let new = article(&author, 1, "x");
    client.put(&[&new]).await?;
    client.finds(&by(&author), &[&new]).await
}

async fn an_older_version_does_not_come_back_after_an_address_was_deleted(
    relay: &Relay,
) -> Result<()> {
    let author = relay.author();
    let (older, old) = (article(&author, 12, "x"), article(&author, 9, "x"));
    let mut client = relay.client().await?;
    client.put(&[&old]).await?;
    client.put(&[&delete_address(&author, 5, &address(&author, 30_023, "x"))]).await?;
    client.publish(&old).await?;
    client.publish(&older).await?;
    client.keeps_none(&by(&author)).await
}

async fn a_strangers_request_for_an_address_blocks_nothing(relay: &Relay) -> Result<()> {
    let [author, stranger] = relay.authors();
    let article = article(&author, 9, "x");
    let mut client = relay.client().await?;
    client.publish(&delete_address(&stranger, 1, &address(&author, 30_023, "x"))).await?;
    client.put(&[&article]).await?;
    client.finds(&by(&author), &[&article]).await
}

async fn a_request_that_expires_deletes_all_the_same(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(9);
    let (id, soon) = (note.id.to_string(), (now() + 600).to_string());
    let mut client = relay.client().await?;
    client.put(&[&note]).await?;
    client.put(&[&author.sign(now(), 5, &[&["e", &id], &["expiration", &soon]], "")]).await?;
    client.finds_none(&by(&author)).await
}

async fn a_receiver_deletes_a_gift_wrap(relay: &Relay) -> Result<()> {
    let [sender, receiver] = relay.authors();
    let wrap = sender.sign(now() - 9, 1_059, &[&["p", &receiver.pubkey()]], "sealed");
    let mut client = relay.client().await?;
    // Where nobody has to say who they are to see it, everybody may look.
    let _ = client.authenticate(&receiver).await;
    client.put(&[&wrap]).await?;
    client.finds(&[json!({"ids": [wrap.id]})], &[&wrap]).await?;
    let id = wrap.id.to_string();
    client.put(&[&receiver.sign(now(), 5, &[&["e", &id], &["k", "1059"]], "")]).await?;
    client.finds_none(&[json!({"ids": [wrap.id]})]).await
}
