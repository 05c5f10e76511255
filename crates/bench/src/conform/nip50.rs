//! NIP-50: events are found by what they say.

use anyhow::Result;
use event::Event;
use serde_json::{Value, json};

use super::{
    Relay,
    author::{Author, now, word},
    cases,
    client::Client,
    nip40::{soon, until_expired},
};

cases! {
    "nip50" needs [50]:
        a_word_is_found,
        all_words_are_found_in_any_order,
        capitals_make_no_difference,
        another_word_is_not_found,
        the_best_match_comes_first,
        the_limit_applies_after_ranking,
        unknown_keys_are_ignored,
        search_goes_with_all_other_fields,
        several_filters_may_search,
        japanese_is_found_without_spaces,
        chinese_is_found_without_spaces,
        words_with_accents_are_found,
        the_words_of_articles_are_found,
        a_superseded_version_is_not_found;
    "nip50" needs [50, 9]:
        deleted_events_are_not_found;
    "nip50" needs [50, 40]:
        what_has_expired_is_not_found;
    "nip50" needs [50, 59, 42]:
        what_is_not_for_everybody_is_not_found;
}

fn search(words: &str) -> [Value; 1] {
    [json!({"search": words, "limit": 20})]
}

fn note(author: &Author, age: u64, content: &str) -> Event {
    author.sign(now() - age, 1, &[], content)
}

async fn holding(relay: &Relay, events: &[&Event]) -> Result<Client> {
    let mut client = relay.client().await?;
    client.put(events).await?;
    Ok(client)
}

async fn a_word_is_found(relay: &Relay) -> Result<()> {
    let word = word();
    let note = note(&relay.author(), 5, &format!("somewhere in it, {word}, and more"));
    holding(relay, &[&note]).await?.finds(&search(&word), &[&note]).await
}

async fn all_words_are_found_in_any_order(relay: &Relay) -> Result<()> {
    let [one, two] = [word(), word()];
    let note = note(&relay.author(), 5, &format!("{one} before {two}"));
    holding(relay, &[&note]).await?.finds(&search(&format!("{two} {one}")), &[&note]).await
}

async fn capitals_make_no_difference(relay: &Relay) -> Result<()> {
    let word = word();
    let note = note(&relay.author(), 5, &word.to_uppercase());
    holding(relay, &[&note]).await?.finds(&search(&word), &[&note]).await
}

async fn another_word_is_not_found(relay: &Relay) -> Result<()> {
    let note = note(&relay.author(), 5, &word());
    holding(relay, &[&note]).await?.keeps_none(&search(&word())).await
}

/// An older note that is about nothing else, and a newer one that mentions the word in passing.
fn better_and_worse(relay: &Relay, word: &str) -> [Event; 2] {
    let [ann, bob] = relay.authors();
    let passing = "some other words that say nothing about it at all ".repeat(20);
    [
        note(&ann, 500, &format!("{word} {word}: all about {word}")),
        note(&bob, 5, &format!("{passing} {word} {passing}")),
    ]
}

async fn the_best_match_comes_first(relay: &Relay) -> Result<()> {
    let word = word();
    let [better, worse] = better_and_worse(relay, &word);
    holding(relay, &[&better, &worse]).await?.finds(&search(&word), &[&better, &worse]).await
}

async fn the_limit_applies_after_ranking(relay: &Relay) -> Result<()> {
    let word = word();
    let [better, worse] = better_and_worse(relay, &word);
    let best = json!({"search": word, "limit": 1});
    holding(relay, &[&better, &worse]).await?.finds(&[best], &[&better]).await
}

async fn unknown_keys_are_ignored(relay: &Relay) -> Result<()> {
    let word = word();
    let note = note(&relay.author(), 5, &word);
    let mut client = holding(relay, &[&note]).await?;
    client.finds(&search(&format!("{word} nosuchkey:nosuchvalue")), &[&note]).await?;
    client.finds(&search(&format!("nosuchkey:nosuchvalue {word}")), &[&note]).await
}

async fn search_goes_with_all_other_fields(relay: &Relay) -> Result<()> {
    let (word, tag) = (word(), word());
    let [ann, bob] = relay.authors();
    let at = now();
    let right = ann.sign(at - 10, 1, &[&["t", &tag]], &word);
    let others = [
        bob.sign(at - 10, 1, &[&["t", &tag]], &word),
        ann.sign(at - 10, 1_111, &[&["t", &tag]], &word),
        ann.sign(at - 10, 1, &[], &word),
        ann.sign(at - 900, 1, &[&["t", &tag]], &word),
        ann.sign(at - 10, 1, &[&["t", &tag]], "something else"),
    ];
    let mut client = holding(relay, &[&right]).await?;
    client.put_many(&others).await?;
    let filter = json!({
        "search": word, "authors": [ann.pubkey()], "kinds": [1], "#t": [tag],
        "since": at - 500, "until": at, "limit": 20,
    });
    client.finds(&[filter], &[&right]).await
}

async fn several_filters_may_search(relay: &Relay) -> Result<()> {
    let words = [word(), word()];
    let author = relay.author();
    let notes = [note(&author, 5, &words[0]), note(&author, 6, &words[1]), author.note(7)];
    let mut client = holding(relay, &[&notes[0], &notes[1], &notes[2]]).await?;
    let [one, two] = words.map(|word| json!({"search": word, "limit": 20}));
    client.finds_all(&[one, two], &[&notes[0], &notes[1]]).await
}

/// What an author wrote, among the rest of what that author wrote.
async fn finds_of(relay: &Relay, content: &str, words: &str) -> Result<()> {
    let author = relay.author();
    let (right, other) = (note(&author, 5, content), note(&author, 6, "something else / 別のもの"));
    let filter = json!({"search": words, "authors": [author.pubkey()], "limit": 20});
    holding(relay, &[&right, &other]).await?.finds(&[filter], &[&right]).await
}

async fn japanese_is_found_without_spaces(relay: &Relay) -> Result<()> {
    finds_of(relay, "昨日は東京タワーへ行きました。とても高かったです。", "東京タワー").await?;
    finds_of(relay, "カタカナとひらがなが混ざった文章", "ひらがな").await
}

async fn chinese_is_found_without_spaces(relay: &Relay) -> Result<()> {
    finds_of(relay, "我昨天去了北京大学图书馆看书。", "图书馆").await
}

async fn words_with_accents_are_found(relay: &Relay) -> Result<()> {
    finds_of(relay, "Un café à Zürich, naïvement.", "Zürich").await
}

async fn the_words_of_articles_are_found(relay: &Relay) -> Result<()> {
    let word = word();
    let article = relay.author().sign(now(), 30_023, &[&["d", "x"]], &format!("# On {word}"));
    holding(relay, &[&article]).await?.finds(&search(&word), &[&article]).await
}

async fn a_superseded_version_is_not_found(relay: &Relay) -> Result<()> {
    let (old, new) = (word(), word());
    let author = relay.author();
    let versions = [
        author.sign(now() - 9, 30_023, &[&["d", "x"]], &old),
        author.sign(now(), 30_023, &[&["d", "x"]], &new),
    ];
    let mut client = holding(relay, &[&versions[0], &versions[1]]).await?;
    client.finds(&search(&new), &[&versions[1]]).await?;
    client.finds_none(&search(&old)).await
}

async fn deleted_events_are_not_found(relay: &Relay) -> Result<()> {
    let word = word();
    let author = relay.author();
    let note = note(&author, 5, &word);
    let mut client = holding(relay, &[&note]).await?;
    client.finds(&search(&word), &[&note]).await?;
    let id = note.id.to_string();
    client.put(&[&author.sign(now(), 5, &[&["e", &id]], "")]).await?;
    client.finds_none(&search(&word)).await
}

async fn what_has_expired_is_not_found(relay: &Relay) -> Result<()> {
    let word = word();
    let soon = soon(relay);
    let passing = relay.author().sign(now() - 5, 1, &[&["expiration", &soon]], &word);
    let mut client = holding(relay, &[&passing]).await?;
    until_expired(relay).await;
    client.is_shown_none(&search(&word)).await
}

async fn what_is_not_for_everybody_is_not_found(relay: &Relay) -> Result<()> {
    let word = word();
    let [sender, receiver] = relay.authors();
    let wrap = sender.sign(now() - 5, 1_059, &[&["p", &receiver.pubkey()]], &word);
    let note = note(&sender, 5, &word);
    holding(relay, &[&wrap, &note]).await?.finds(&search(&word), &[&note]).await
}
