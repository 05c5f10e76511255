//! What a filter finds, in which order, and how much of it.

use anyhow::{Result, ensure};
use event::Event;
use serde_json::{Value, json};

use crate::conform::{
    Relay,
    author::{Author, digits, now, word},
    cases,
    client::{Client, ids},
};

cases! {
    "nip01" needs [1]:
        ids_find_exactly_these,
        ids_take_no_prefixes,
        authors_take_no_prefixes,
        tag_e_takes_no_prefixes,
        stored_events_come_newest_first,
        since_and_until_are_inclusive,
        limit_takes_the_newest,
        limit_takes_the_newest_of_many_authors,
        limit_takes_the_newest_of_several_kinds,
        each_filter_has_a_limit_of_its_own,
        ties_come_lowest_id_first,
        ties_come_lowest_id_first_across_a_limit,
        ties_of_many_authors_come_lowest_id_first_across_a_limit,
        ties_of_a_tag_come_lowest_id_first_across_a_limit,
        limit_zero_means_eose_at_once_then_live,
        an_empty_list_matches_nothing,
        all_fields_must_match,
        any_of_the_filters_may_match,
        an_event_that_matches_two_filters_comes_once,
        an_event_with_two_of_the_values_comes_once,
        only_the_first_value_of_a_tag_is_indexed,
        every_letter_is_indexed,
        letters_in_capitals_are_other_letters,
        tag_values_match_exactly,
        long_tag_values_are_found,
        two_tags_must_both_match,
        five_hundred_authors_fit_into_a_filter;
}

/// Notes of one author, the newest first, a second apart.
fn notes(author: &Author, count: u64) -> Vec<Event> {
    let at = now() - 5;
    (0..count).map(|age| author.sign(at - age, 1, &[], &format!("note {age}"))).collect()
}

fn all(events: &[Event]) -> Vec<&Event> {
    events.iter().collect()
}

/// Notes of one second, the lowest id first.
fn tied(authors: &[&Author], count: usize, tags: &[&[&str]]) -> Vec<Event> {
    let at = now() - 5;
    let note = |number: usize| {
        authors[number % authors.len()].sign(at, 1, tags, &format!("note {number}"))
    };
    let mut notes: Vec<Event> = (0..count).map(note).collect();
    notes.sort_by_key(|note| note.id);
    notes
}

/// A client, once the relay holds these.
async fn holding(relay: &Relay, events: &[Event]) -> Result<Client> {
    let mut client = relay.client().await?;
    // Neither order is that of the answer.
    let (odd, even): (Vec<_>, Vec<_>) =
        events.iter().enumerate().partition(|(place, _)| place % 2 == 1);
    let shuffled: Vec<&Event> = even.into_iter().rev().chain(odd).map(|(_, event)| event).collect();
    client.put(&shuffled).await?;
    client.finds_all(&[json!({"ids": ids_of(events)})], &all(events)).await?;
    Ok(client)
}

fn ids_of(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

async fn ids_find_exactly_these(relay: &Relay) -> Result<()> {
    let notes = notes(&relay.author(), 4);
    let mut client = holding(relay, &notes).await?;
    let wanted = json!({"ids": [notes[2].id, notes[0].id, digits()]});
    client.finds_all(&[wanted], &[&notes[0], &notes[2]]).await
}

async fn ids_take_no_prefixes(relay: &Relay) -> Result<()> {
    let note = relay.author().note(5);
    let id = note.id.to_string();
    let mut client = holding(relay, &[note]).await?;
    for length in [8, 32, 63] {
        client.is_shown_none(&[json!({"ids": [id[..length]]})]).await?;
        client = relay.client().await?;
    }
    Ok(())
}

async fn authors_take_no_prefixes(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &[author.note(5)]).await?;
    for length in [8, 32, 63] {
        client.is_shown_none(&[json!({"authors": [author.pubkey()[..length]]})]).await?;
        client = relay.client().await?;
    }
    Ok(())
}

async fn tag_e_takes_no_prefixes(relay: &Relay) -> Result<()> {
    let target = digits();
    let reply = relay.author().sign(now(), 1, &[&["e", &target]], "");
    let mut client = holding(relay, &[reply]).await?;
    client.is_shown_none(&[json!({"#e": [target[..16]]})]).await
}

async fn stored_events_come_newest_first(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes = notes(&author, 12);
    let mut client = holding(relay, &notes).await?;
    // NIP-01 speaks of an order where there is a limit.
    client.finds(&[json!({"authors": [author.pubkey()], "limit": 50})], &all(&notes)).await?;
    client.finds(&[json!({"ids": ids_of(&notes), "limit": 50})], &all(&notes)).await
}

async fn since_and_until_are_inclusive(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes = notes(&author, 5);
    let mut client = holding(relay, &notes).await?;
    let (since, until) = (notes[3].created_at, notes[1].created_at);
    let window = json!({"authors": [author.pubkey()], "since": since, "until": until});
    client.finds_all(&[window], &all(&notes[1..4])).await?;
    let moment = json!({"authors": [author.pubkey()], "since": since, "until": since});
    client.finds(&[moment], &[&notes[3]]).await?;
    let never = json!({"authors": [author.pubkey()], "since": until, "until": since});
    client.is_shown_none(&[never]).await
}

async fn limit_takes_the_newest(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes = notes(&author, 9);
    let mut client = holding(relay, &notes).await?;
    for limit in [1, 4, 9] {
        let filter = json!({"authors": [author.pubkey()], "limit": limit});
        client.finds(&[filter], &all(&notes[..limit])).await?;
    }
    Ok(())
}

async fn limit_takes_the_newest_of_many_authors(relay: &Relay) -> Result<()> {
    let authors: [Author; 5] = relay.authors();
    let at = now() - 5;
    let note = |age: usize| authors[age % 5].sign(at - age as u64, 1, &[], "");
    let notes: Vec<Event> = (0..15).map(note).collect();
    let mut client = holding(relay, &notes).await?;
    let keys: Vec<String> = authors.iter().map(Author::pubkey).collect();
    client.finds(&[json!({"authors": keys, "limit": 7})], &all(&notes[..7])).await
}

async fn limit_takes_the_newest_of_several_kinds(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let at = now();
    let events: Vec<Event> =
        (0..9).map(|age| author.sign(at - age, 1 + age as u16 % 2 * 6, &[], "")).collect();
    let mut client = holding(relay, &events).await?;
    let filter = json!({"authors": [author.pubkey()], "kinds": [7, 1], "limit": 5});
    client.finds(&[filter], &all(&events[..5])).await
}

async fn each_filter_has_a_limit_of_its_own(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let (of_ann, of_bob) = (notes(&ann, 3), notes(&bob, 3));
    let mut client = holding(relay, &[&of_ann[..], &of_bob[..]].concat()).await?;
    let filters = [
        json!({"authors": [ann.pubkey()], "limit": 1}),
        json!({"authors": [bob.pubkey()], "limit": 2}),
    ];
    client.finds_all(&filters, &[&of_ann[0], &of_bob[0], &of_bob[1]]).await
}

async fn ties_come_lowest_id_first(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes = tied(&[&author], 8, &[]);
    let mut client = holding(relay, &notes).await?;
    client.finds(&[json!({"authors": [author.pubkey()], "limit": 50})], &all(&notes)).await
}

async fn ties_come_lowest_id_first_across_a_limit(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes = tied(&[&author], 8, &[]);
    let mut client = holding(relay, &notes).await?;
    let filter = json!({"authors": [author.pubkey()], "kinds": [1], "limit": 3});
    client.finds(&[filter], &all(&notes[..3])).await
}

async fn ties_of_many_authors_come_lowest_id_first_across_a_limit(relay: &Relay) -> Result<()> {
    let authors: [Author; 4] = relay.authors();
    let notes = tied(&authors.each_ref(), 8, &[]);
    let mut client = holding(relay, &notes).await?;
    let keys: Vec<String> = authors.iter().map(Author::pubkey).collect();
    client.finds(&[json!({"authors": keys, "limit": 3})], &all(&notes[..3])).await
}

async fn ties_of_a_tag_come_lowest_id_first_across_a_limit(relay: &Relay) -> Result<()> {
    let word = word();
    let authors: [Author; 2] = relay.authors();
    let notes = tied(&authors.each_ref(), 8, &[&["t", &word]]);
    let mut client = holding(relay, &notes).await?;
    client.finds(&[json!({"#t": [word], "limit": 3})], &all(&notes[..3])).await
}

async fn limit_zero_means_eose_at_once_then_live(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &[author.note(5)]).await?;
    let filter = json!({"authors": [author.pubkey()], "limit": 0});
    let stored = client.subscribe("live", &[filter]).await?;
    ensure!(stored.is_empty(), "expected no stored events, came {}", stored.len());
    let next = author.note(0);
    client.put(&[&next]).await?;
    client.hears("live", &next).await
}

async fn an_empty_list_matches_nothing(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &[author.note(5)]).await?;
    for field in ["ids", "kinds", "#t", "#e"] {
        let mut filter = json!({"authors": [author.pubkey()]});
        filter[field] = json!([]);
        client.is_shown_none(&[filter]).await?;
        client = relay.client().await?;
    }
    client.is_shown_none(&[json!({"authors": [], "limit": 10})]).await
}

async fn all_fields_must_match(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let word = word();
    let at = now() - 5;
    let right = ann.sign(at, 1, &[&["t", &word]], "");
    let others = [
        bob.sign(at, 1, &[&["t", &word]], ""),
        ann.sign(at, 7, &[&["t", &word]], ""),
        ann.sign(at, 1, &[], ""),
        ann.sign(at - 100, 1, &[&["t", &word]], ""),
    ];
    let mut client = holding(relay, &[std::slice::from_ref(&right), &others[..]].concat()).await?;
    let filter = json!({"authors": [ann.pubkey()], "kinds": [1], "#t": [word], "since": at - 50});
    client.finds(&[filter], &[&right]).await
}

async fn any_of_the_filters_may_match(relay: &Relay) -> Result<()> {
    let [ann, bob, eve] = relay.authors();
    let notes = [ann.note(1), bob.note(2), eve.note(3)];
    let mut client = holding(relay, &notes).await?;
    let of = |author: &Author| json!({"authors": [author.pubkey()]});
    client.finds_all(&[of(&ann), of(&eve)], &[&notes[0], &notes[2]]).await
}

async fn an_event_that_matches_two_filters_comes_once(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(5);
    let mut client = holding(relay, std::slice::from_ref(&note)).await?;
    client
        .finds(&[json!({"ids": [note.id]}), json!({"authors": [author.pubkey()]})], &[&note])
        .await
}

async fn an_event_with_two_of_the_values_comes_once(relay: &Relay) -> Result<()> {
    let [one, two] = [word(), word()];
    let note = relay.author().sign(now(), 1, &[&["t", &one], &["t", &two]], "");
    let mut client = holding(relay, std::slice::from_ref(&note)).await?;
    client.finds(&[json!({"#t": [two]})], &[&note]).await?;
    client.finds(&[json!({"#t": [one, two], "limit": 5})], &[&note]).await
}

async fn only_the_first_value_of_a_tag_is_indexed(relay: &Relay) -> Result<()> {
    let [first, second] = [word(), word()];
    let note = relay.author().sign(now(), 1, &[&["t", &first, &second]], "");
    let mut client = holding(relay, std::slice::from_ref(&note)).await?;
    client.finds(&[json!({"#t": [first]})], &[&note]).await?;
    client.is_shown_none(&[json!({"#t": [second]})]).await
}

async fn every_letter_is_indexed(relay: &Relay) -> Result<()> {
    let letters: Vec<String> =
        ('a'..='z').chain('A'..='Z').map(|letter| letter.to_string()).collect();
    // `e` and `p` hold ids and keys, and so must the others whose values a relay may look at.
    let value = digits();
    let author = relay.author();
    let at = now() - 60;
    let tagged =
        |(age, letter): (usize, &String)| author.sign(at - age as u64, 1, &[&[letter, &value]], "");
    let notes: Vec<Event> = letters.iter().enumerate().map(tagged).collect();
    let mut client = holding(relay, &notes).await?;
    let mut lost = Vec::new();
    for (letter, note) in letters.iter().zip(&notes) {
        let filter = json!({format!("#{letter}"): [value]});
        if ids(&client.query(&[filter]).await?) != [note.id.to_string()] {
            lost.push(letter.as_str());
        }
    }
    ensure!(
        lost.is_empty(),
        "expected one event for each letter, came others for {}",
        lost.concat()
    );
    Ok(())
}

async fn letters_in_capitals_are_other_letters(relay: &Relay) -> Result<()> {
    let target = digits();
    let author = relay.author();
    let small = author.sign(now() - 1, 1111, &[&["e", &target]], "");
    let capital = author.sign(now() - 2, 1111, &[&["E", &target]], "");
    let mut client = holding(relay, &[small.clone(), capital.clone()]).await?;
    client.finds(&[json!({"#e": [target]})], &[&small]).await?;
    client.finds(&[json!({"#E": [target]})], &[&capital]).await
}

async fn tag_values_match_exactly(relay: &Relay) -> Result<()> {
    let word = word();
    let note = relay.author().sign(now(), 1, &[&["t", &word]], "");
    let mut client = holding(relay, std::slice::from_ref(&note)).await?;
    client.finds(&[json!({"#t": [word]})], &[&note]).await?;
    let others = [word.to_uppercase(), format!("{word} "), word[..8].into(), format!("{word}1")];
    client.is_shown_none(&[json!({"#t": others})]).await
}

async fn long_tag_values_are_found(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let long = |length: usize| word().repeat(length).chars().take(length).collect::<String>();
    for length in [255, 256, 1_000] {
        let value = long(length);
        let note = author.sign(now(), 1, &[&["r", &value]], "");
        let mut client = holding(relay, std::slice::from_ref(&note)).await?;
        client.finds(&[json!({"#r": [value]})], &[&note]).await?;
    }
    Ok(())
}

async fn two_tags_must_both_match(relay: &Relay) -> Result<()> {
    let (topic, person, author) = (word(), digits(), relay.author());
    let both = author.sign(now() - 1, 1, &[&["t", &topic], &["p", &person]], "");
    let one = author.sign(now() - 2, 1, &[&["t", &topic]], "");
    let other = author.sign(now() - 3, 1, &[&["p", &person]], "");
    let mut client = holding(relay, &[both.clone(), one, other]).await?;
    client.finds(&[json!({"#t": [topic], "#p": [person]})], &[&both]).await
}

async fn five_hundred_authors_fit_into_a_filter(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(5);
    let mut client = holding(relay, std::slice::from_ref(&note)).await?;
    let mut follows: Vec<Value> = (0..499).map(|_| json!(relay.author().pubkey())).collect();
    follows.push(json!(author.pubkey()));
    client.finds(&[json!({"authors": follows, "kinds": [1], "limit": 10})], &[&note]).await
}
