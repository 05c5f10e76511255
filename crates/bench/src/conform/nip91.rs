//! NIP-91: `&t` asks for events that have all of the values.

use anyhow::Result;
use event::Event;
use serde_json::json;

use super::{
    Relay,
    author::{Author, now, word},
    cases,
    client::Client,
};

cases! {
    "nip91" needs [91]:
        all_of_the_values_must_be_there,
        one_value_is_like_any_other_filter,
        it_goes_with_any_of_other_values,
        it_goes_with_other_tags_and_fields,
        it_counts_for_live_events,
        it_holds_across_a_limit;
    "nip91" needs [91, 45]:
        it_counts_for_counts;
}

/// Notes with the first, the second, and both of two words.
struct Scene {
    words: [String; 2],
    author: Author,
    both: Event,
    client: Client,
}

fn tagged(author: &Author, age: u64, words: &[&str]) -> Event {
    let tags: Vec<[&str; 2]> = words.iter().map(|word| ["t", *word]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
    author.sign(now() - age, 1, &tags, "")
}

impl Scene {
    async fn with(relay: &Relay) -> Result<Scene> {
        let (words, author) = ([word(), word()], relay.author());
        let both = tagged(&author, 9, &[&words[0], "x", &words[1]]);
        let mut client = relay.client().await?;
        let one = tagged(&author, 5, &[&words[0], "x"]);
        let other = tagged(&author, 6, &[&words[1]]);
        client.put(&[&one, &other, &both]).await?;
        client.finds_all(&[json!({"#t": words})], &[&one, &other, &both]).await?;
        Ok(Scene { words, author, both, client })
    }
}

async fn all_of_the_values_must_be_there(relay: &Relay) -> Result<()> {
    let mut scene = Scene::with(relay).await?;
    scene.client.finds(&[json!({"&t": scene.words})], &[&scene.both]).await?;
    scene.client.is_shown_none(&[json!({"&t": [scene.words[0], word()]})]).await
}

async fn one_value_is_like_any_other_filter(relay: &Relay) -> Result<()> {
    let word = word();
    let note = tagged(&relay.author(), 5, &[&word]);
    let mut client = relay.client().await?;
    client.put(&[&note]).await?;
    client.finds(&[json!({"&t": [word]})], &[&note]).await
}

async fn it_goes_with_any_of_other_values(relay: &Relay) -> Result<()> {
    let mut scene = Scene::with(relay).await?;
    let [one, two] = scene.words.clone();
    let with_both = json!({"&t": [one], "#t": [two, "nothing"]});
    scene.client.finds(&[with_both], &[&scene.both]).await?;
    scene.client.is_shown_none(&[json!({"&t": scene.words, "#t": [word()]})]).await
}

async fn it_goes_with_other_tags_and_fields(relay: &Relay) -> Result<()> {
    let mut scene = Scene::with(relay).await?;
    let mine = json!({"&t": scene.words, "authors": [scene.author.pubkey()], "kinds": [1]});
    scene.client.finds(&[mine], &[&scene.both]).await?;
    let of_others = json!({"&t": scene.words, "authors": [relay.author().pubkey()]});
    scene.client.is_shown_none(&[of_others]).await?;
    scene.client.is_shown_none(&[json!({"&t": scene.words, "#r": [word()]})]).await
}

async fn it_counts_for_live_events(relay: &Relay) -> Result<()> {
    let mut scene = Scene::with(relay).await?;
    scene.client.subscribe("live", &[json!({"&t": scene.words, "limit": 0})]).await?;
    let [one, two] = scene.words.each_ref().map(String::as_str);
    let both = tagged(&scene.author, 0, &[two, one]);
    scene.client.put(&[&tagged(&scene.author, 1, &[one]), &both]).await?;
    scene.client.hears("live", &both).await?;
    scene.client.hears_nothing("live").await
}

async fn it_holds_across_a_limit(relay: &Relay) -> Result<()> {
    let mut scene = Scene::with(relay).await?;
    // Two newer events match a part of it.
    scene.client.finds(&[json!({"&t": scene.words, "limit": 1})], &[&scene.both]).await
}

async fn it_counts_for_counts(relay: &Relay) -> Result<()> {
    let mut scene = Scene::with(relay).await?;
    scene.client.counts_to(&[json!({"&t": scene.words})], 1).await
}
