//! Replaceable and addressable events: which version stays.

use anyhow::Result;
use event::Event;
use serde_json::json;

use crate::conform::{
    Relay,
    author::{Author, now, word},
    cases,
    client::Client,
};

cases! {
    "nip01" needs [1]:
        the_newest_version_replaces,
        an_older_version_does_not_come_back,
        of_two_versions_of_one_second_the_lowest_id_stays,
        of_two_versions_of_one_second_the_lowest_id_stays_if_it_was_first,
        a_superseded_version_is_not_found_by_its_id,
        authors_and_kinds_have_versions_of_their_own,
        kinds_10000_and_19999_are_replaceable,
        kinds_30000_and_39999_are_addressable,
        kinds_9999_and_40000_are_neither,
        each_d_tag_has_versions_of_its_own,
        addressable_versions_of_one_second_keep_the_lowest_id,
        an_older_addressable_version_does_not_come_back,
        a_missing_d_tag_is_an_empty_one,
        a_d_tag_may_stand_anywhere,
        only_the_first_d_tag_counts,
        d_tags_match_exactly,
        a_replaceable_event_with_a_d_tag_is_replaced_all_the_same;
}

/// The older one first.
fn two_versions(author: &Author, kind: u16, tags: &[&[&str]]) -> [Event; 2] {
    [author.sign(now() - 20, kind, tags, "older"), author.sign(now() - 10, kind, tags, "newer")]
}

/// Of one second, the one that has to stay first.
fn tied(author: &Author, kind: u16, tags: &[&[&str]]) -> [Event; 2] {
    let at = now() - 10;
    let mut versions = ["one", "two"].map(|content| author.sign(at, kind, tags, content));
    versions.sort_by_key(|version| version.id);
    versions
}

/// Sends them in this order; what is answered to a version that does not stay is the relay's affair.
async fn send(client: &mut Client, events: &[&Event]) -> Result<()> {
    for event in events {
        client.publish(event).await?;
    }
    Ok(())
}

/// Whatever was sent, this is what is left of the author.
async fn leaves(relay: &Relay, author: &Author, sent: &[&Event], left: &[&Event]) -> Result<()> {
    let mut client = relay.client().await?;
    send(&mut client, sent).await?;
    client.finds_all(&[json!({"authors": [author.pubkey()]})], left).await
}

async fn the_newest_version_replaces(relay: &Relay) -> Result<()> {
    for kind in [0, 3, 10_002] {
        let author = relay.author();
        let [old, new] = two_versions(&author, kind, &[]);
        leaves(relay, &author, &[&old, &new], &[&new]).await?;
    }
    Ok(())
}

async fn an_older_version_does_not_come_back(relay: &Relay) -> Result<()> {
    for kind in [0, 3, 10_002] {
        let author = relay.author();
        let [old, new] = two_versions(&author, kind, &[]);
        leaves(relay, &author, &[&new, &old], &[&new]).await?;
    }
    Ok(())
}

async fn of_two_versions_of_one_second_the_lowest_id_stays(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [lowest, other] = tied(&author, 0, &[]);
    leaves(relay, &author, &[&other, &lowest], &[&lowest]).await
}

async fn of_two_versions_of_one_second_the_lowest_id_stays_if_it_was_first(
    relay: &Relay,
) -> Result<()> {
    let author = relay.author();
    let [lowest, other] = tied(&author, 0, &[]);
    leaves(relay, &author, &[&lowest, &other], &[&lowest]).await
}

async fn a_superseded_version_is_not_found_by_its_id(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [old, new] = two_versions(&author, 0, &[]);
    let mut client = relay.client().await?;
    send(&mut client, &[&old, &new]).await?;
    client.finds(&[json!({"ids": [old.id, new.id]})], &[&new]).await
}

async fn authors_and_kinds_have_versions_of_their_own(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let [of_ann, of_bob] = [&ann, &bob].map(|author| author.sign(now(), 0, &[], ""));
    let follows = ann.sign(now() - 1, 3, &[], "");
    let mut client = relay.client().await?;
    send(&mut client, &[&of_ann, &follows, &of_bob]).await?;
    let filter = json!({"authors": [ann.pubkey(), bob.pubkey()]});
    client.finds_all(&[filter], &[&of_ann, &of_bob, &follows]).await
}

async fn kinds_10000_and_19999_are_replaceable(relay: &Relay) -> Result<()> {
    for kind in [10_000, 19_999] {
        let author = relay.author();
        let [old, new] = two_versions(&author, kind, &[]);
        leaves(relay, &author, &[&old, &new], &[&new]).await?;
    }
    Ok(())
}

async fn kinds_30000_and_39999_are_addressable(relay: &Relay) -> Result<()> {
    for kind in [30_000, 39_999] {
        let author = relay.author();
        let [old, new] = two_versions(&author, kind, &[&["d", "x"]]);
        let other = author.sign(now() - 30, kind, &[&["d", "y"]], "");
        leaves(relay, &author, &[&other, &old, &new], &[&new, &other]).await?;
    }
    Ok(())
}

async fn kinds_9999_and_40000_are_neither(relay: &Relay) -> Result<()> {
    for kind in [9_999, 40_000] {
        let author = relay.author();
        let [old, new] = two_versions(&author, kind, &[&["d", "x"]]);
        leaves(relay, &author, &[&old, &new], &[&new, &old]).await?;
    }
    Ok(())
}

async fn each_d_tag_has_versions_of_its_own(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [old, new] = two_versions(&author, 30_023, &[&["d", "one"]]);
    let other = author.sign(now() - 30, 30_023, &[&["d", "two"]], "");
    let mut client = relay.client().await?;
    send(&mut client, &[&other, &old, &new]).await?;
    let by_address = |d: &str| json!({"kinds": [30_023], "authors": [author.pubkey()], "#d": [d]});
    client.finds(&[by_address("one")], &[&new]).await?;
    client.finds(&[by_address("two")], &[&other]).await
}

async fn addressable_versions_of_one_second_keep_the_lowest_id(relay: &Relay) -> Result<()> {
    for lowest_is_first in [true, false] {
        let author = relay.author();
        let [lowest, other] = tied(&author, 30_023, &[&["d", "x"]]);
        let sent = if lowest_is_first { [&lowest, &other] } else { [&other, &lowest] };
        leaves(relay, &author, &sent, &[&lowest]).await?;
    }
    Ok(())
}

async fn an_older_addressable_version_does_not_come_back(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [old, new] = two_versions(&author, 30_023, &[&["d", "x"]]);
    leaves(relay, &author, &[&new, &old], &[&new]).await
}

async fn a_missing_d_tag_is_an_empty_one(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let at = now();
    let none = author.sign(at - 30, 30_023, &[], "no d tag");
    let bare = author.sign(at - 20, 30_023, &[&["d"]], "no value");
    let empty = author.sign(at - 10, 30_023, &[&["d", ""]], "an empty value");
    leaves(relay, &author, &[&none, &bare, &empty], &[&empty]).await?;
    let author = relay.author();
    let empty = author.sign(at - 30, 30_023, &[&["d", ""]], "an empty value");
    let none = author.sign(at - 20, 30_023, &[&["t", "x"]], "no d tag");
    leaves(relay, &author, &[&empty, &none], &[&none]).await
}

async fn a_d_tag_may_stand_anywhere(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [old, new] = two_versions(&author, 30_023, &[&["title", "x"], &["t", "y"], &["d", "z"]]);
    let other = author.sign(now() - 5, 30_023, &[&["title", "x"], &["d", "another"]], "");
    leaves(relay, &author, &[&old, &other, &new], &[&other, &new]).await
}

async fn only_the_first_d_tag_counts(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let old = author.sign(now() - 20, 30_023, &[&["d", "one"], &["d", "two"]], "");
    let new = author.sign(now() - 10, 30_023, &[&["d", "one"], &["d", "three"]], "");
    let other = author.sign(now() - 5, 30_023, &[&["d", "two"]], "");
    leaves(relay, &author, &[&old, &new, &other], &[&other, &new]).await
}

async fn d_tags_match_exactly(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let word = word();
    let values = [word.clone(), word.to_uppercase(), format!("{word} "), format!("{word}:x")];
    let age = |(age, value): (usize, &String)| {
        author.sign(now() - age as u64, 30_023, &[&["d", value]], "")
    };
    let events: Vec<Event> = values.iter().enumerate().map(age).collect();
    let all: Vec<&Event> = events.iter().collect();
    leaves(relay, &author, &all, &all).await
}

async fn a_replaceable_event_with_a_d_tag_is_replaced_all_the_same(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let old = author.sign(now() - 20, 10_002, &[&["d", "one"]], "");
    let new = author.sign(now() - 10, 10_002, &[&["d", "two"]], "");
    leaves(relay, &author, &[&old, &new], &[&new]).await
}
