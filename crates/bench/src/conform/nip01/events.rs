//! What an event is, and what its publisher is told.

use anyhow::{Result, ensure};
use event::Event;
use serde_json::{Value, json};

use crate::conform::{
    Relay,
    author::{json_of, now, word},
    cases,
    client::{Client, begins_with},
};

cases! {
    "nip01" needs [1]:
        a_good_event_is_ok_true,
        an_event_is_served_as_it_was_signed,
        each_of_many_events_gets_its_ok,
        duplicates_are_ok_true_duplicate,
        ok_names_the_id_even_when_the_signature_is_wrong,
        ok_names_the_id_even_when_the_id_is_wrong,
        a_refusal_begins_with_a_word_and_a_colon,
        a_signature_of_somebody_else_is_refused,
        a_known_id_lets_no_other_content_in,
        ids_are_hashes_with_the_seven_escapes,
        ids_are_hashes_of_unicode_as_it_is,
        ids_are_hashes_of_control_characters_verbatim,
        ids_do_not_depend_on_how_the_json_is_escaped,
        tags_are_hashed_with_the_same_escapes,
        tags_may_have_any_number_of_values,
        an_empty_content_and_no_tags_are_an_event,
        kinds_up_to_65535_are_taken,
        a_kind_beyond_65535_is_refused,
        a_negative_kind_is_refused,
        hex_in_capitals_is_refused,
        an_event_that_lacks_a_field_is_refused,
        a_date_that_is_no_whole_number_is_refused,
        a_tag_that_is_no_list_of_strings_is_refused,
        ephemeral_events_are_passed_on_and_not_stored,
        nonsense_does_not_end_the_connection;
}

async fn a_good_event_is_ok_true(relay: &Relay) -> Result<()> {
    relay.client().await?.publish(&relay.author().note(5)).await?.is_taken()
}

async fn an_event_is_served_as_it_was_signed(relay: &Relay) -> Result<()> {
    let tags: [&[&str]; 3] = [&["t", "a tag"], &["alt", ""], &["client", "x", "y", "z"]];
    is_served_unchanged(relay, &relay.author().sign(now(), 1, &tags, "as it is")).await
}

async fn each_of_many_events_gets_its_ok(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes: Vec<Event> = (0..50).map(|age| author.note(age)).collect();
    relay.client().await?.put_many(&notes).await
}

async fn duplicates_are_ok_true_duplicate(relay: &Relay) -> Result<()> {
    let note = relay.author().note(5);
    let mut client = relay.client().await?;
    client.put(&[&note]).await?;
    client.finds(&[json!({"ids": [note.id]})], &[&note]).await?;
    let said = client.publish(&note).await?;
    said.is_taken()?;
    begins_with(&said.message, "duplicate")
}

async fn ok_names_the_id_even_when_the_signature_is_wrong(relay: &Relay) -> Result<()> {
    let note = relay.author().note(5);
    let bent = with(&note, "sig", json!("ab".repeat(64)));
    relay.client().await?.publish_json(&bent, &note.id).await?.is_refused()
}

async fn ok_names_the_id_even_when_the_id_is_wrong(relay: &Relay) -> Result<()> {
    let note = relay.author().note(5);
    let bent = with(&note, "content", json!("something else"));
    relay.client().await?.publish_json(&bent, &note.id).await?.is_refused()
}

async fn a_refusal_begins_with_a_word_and_a_colon(relay: &Relay) -> Result<()> {
    let note = relay.author().note(5);
    let bent = with(&note, "sig", json!("ab".repeat(64)));
    relay.client().await?.publish_json(&bent, &note.id).await?.is_refused_as("invalid")
}

async fn a_signature_of_somebody_else_is_refused(relay: &Relay) -> Result<()> {
    let (note, other) = (relay.author().note(5), relay.author().note(5));
    let mut client = relay.client().await?;
    let bent = with(&note, "sig", json!(other.sig));
    client.publish_json(&bent, &note.id).await?.is_refused()?;
    client.keeps_none(&[json!({"ids": [note.id]})]).await
}

async fn a_known_id_lets_no_other_content_in(relay: &Relay) -> Result<()> {
    let note = relay.author().note(5);
    let mut client = relay.client().await?;
    client.put(&[&note]).await?;
    // Whether it is told of the duplicate or of the forgery is all the same.
    client.publish_json(&with(&note, "content", json!("forged")), &note.id).await?;
    serves_it(&mut client, &note).await
}

async fn ids_are_hashes_with_the_seven_escapes(relay: &Relay) -> Result<()> {
    let content = "line\nquote\" back\\slash\r tab\t backspace\u{8} feed\u{c} slash/";
    is_served_unchanged(relay, &relay.author().sign(now(), 1, &[], content)).await
}

async fn ids_are_hashes_of_unicode_as_it_is(relay: &Relay) -> Result<()> {
    // Composed and decomposed are different texts; so are the separators that JavaScript once escaped.
    let content = "é e\u{301} 日本語 🦀 👩\u{200d}🚀 \u{2028}\u{2029} \u{feff} <b>&amp;</b>";
    is_served_unchanged(relay, &relay.author().sign(now(), 1, &[], content)).await
}

async fn ids_are_hashes_of_control_characters_verbatim(relay: &Relay) -> Result<()> {
    let content = "one \u{1}, escape \u{1b}, unit \u{1f}, delete \u{7f}, next line \u{85}";
    is_served_unchanged(relay, &relay.author().sign(now(), 1, &[], content)).await
}

async fn ids_do_not_depend_on_how_the_json_is_escaped(relay: &Relay) -> Result<()> {
    let note = relay.author().sign(now(), 1, &[], "a/é🦀");
    let mut client = relay.client().await?;
    let escaped = r#""\u0061\/\u00e9\ud83e\udd80""#;
    let text = json!(["EVENT", json_of(&note)]).to_string().replace("\"a/é🦀\"", escaped);
    ensure!(text.contains(escaped), "the case itself is wrong");
    client.send_text(text).await?;
    client.ok(&note.id).await?.is_taken()?;
    serves_it(&mut client, &note).await
}

async fn tags_are_hashed_with_the_same_escapes(relay: &Relay) -> Result<()> {
    let tags: [&[&str]; 2] = [&["alt", "line\nquote\" back\\slash\u{8}\u{c}"], &["t", "é🦀/"]];
    is_served_unchanged(relay, &relay.author().sign(now(), 1, &tags, "")).await
}

async fn tags_may_have_any_number_of_values(relay: &Relay) -> Result<()> {
    let many: Vec<String> = (0..100).map(|value| value.to_string()).collect();
    let mut long = vec!["list"];
    long.extend(many.iter().map(String::as_str));
    let tags: [&[&str]; 3] = [&["t"], &["x", ""], &long];
    is_served_unchanged(relay, &relay.author().sign(now(), 1, &tags, "")).await
}

async fn an_empty_content_and_no_tags_are_an_event(relay: &Relay) -> Result<()> {
    is_served_unchanged(relay, &relay.author().sign(now(), 1, &[], "")).await
}

async fn kinds_up_to_65535_are_taken(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    for kind in [2, 9_999, 40_000, 65_535] {
        let event = author.sign(now(), kind, &[], "");
        client.put(&[&event]).await?;
        let filter = json!({"authors": [author.pubkey()], "kinds": [kind]});
        client.finds(&[filter], &[&event]).await?;
    }
    Ok(())
}

async fn a_kind_beyond_65535_is_refused(relay: &Relay) -> Result<()> {
    // Read as sixteen bits this would be the kind that was signed.
    let bent = with(&relay.author().note(5), "kind", json!(65_537));
    relay.client().await?.is_refused(&bent).await
}

async fn a_negative_kind_is_refused(relay: &Relay) -> Result<()> {
    let bent = with(&relay.author().note(5), "kind", json!(-1));
    relay.client().await?.is_refused(&bent).await
}

async fn hex_in_capitals_is_refused(relay: &Relay) -> Result<()> {
    for field in ["id", "pubkey", "sig"] {
        let note = relay.author().note(5);
        let capitals = json_of(&note)[field].as_str().unwrap_or_default().to_uppercase();
        relay.client().await?.is_refused(&with(&note, field, json!(capitals))).await?;
    }
    Ok(())
}

async fn an_event_that_lacks_a_field_is_refused(relay: &Relay) -> Result<()> {
    for field in ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"] {
        let mut bent = json_of(&relay.author().note(5));
        bent.as_object_mut().expect("an event is an object").remove(field);
        relay.client().await?.is_refused(&bent).await?;
    }
    Ok(())
}

async fn a_date_that_is_no_whole_number_is_refused(relay: &Relay) -> Result<()> {
    let note = relay.author().note(5);
    for date in [json!(note.created_at.0 as f64 + 0.5), json!(note.created_at.to_string())] {
        relay.client().await?.is_refused(&with(&note, "created_at", date)).await?;
    }
    Ok(())
}

async fn a_tag_that_is_no_list_of_strings_is_refused(relay: &Relay) -> Result<()> {
    for tags in [json!([["t", 1]]), json!(["t"]), json!([["t", null]]), json!({})] {
        let bent = with(&relay.author().note(5), "tags", tags);
        relay.client().await?.is_refused(&bent).await?;
    }
    Ok(())
}

async fn ephemeral_events_are_passed_on_and_not_stored(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut listener = relay.client().await?;
    let filter = json!({"authors": [author.pubkey()]});
    listener.subscribe("live", std::slice::from_ref(&filter)).await?;
    let mut client = relay.client().await?;
    for kind in [20_000, 29_999] {
        let event = author.sign(now(), kind, &[], &word());
        client.put(&[&event]).await?;
        listener.hears("live", &event).await?;
    }
    client.keeps_none(&[filter]).await
}

async fn nonsense_does_not_end_the_connection(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    let nonsense = ["[\"HELLO\",1]", "{}", "[]", "no JSON", "[\"REQ\"]", "[\"EVENT\",7]"];
    for text in nonsense {
        client.send_text(text.into()).await?;
    }
    client.publish(&relay.author().note(5)).await?.is_taken()
}

/// The event with one field changed, and the id and signature it had.
fn with(event: &Event, field: &str, value: Value) -> Value {
    let mut json = json_of(event);
    json[field] = value;
    json
}

async fn is_served_unchanged(relay: &Relay, event: &Event) -> Result<()> {
    let mut client = relay.client().await?;
    client.put(&[event]).await?;
    serves_it(&mut client, event).await
}

async fn serves_it(client: &mut Client, event: &Event) -> Result<()> {
    let filter = [json!({"ids": [event.id]})];
    client.finds(&filter, &[event]).await?;
    let (served, signed) = (client.query(&filter).await?, json_of(event));
    ensure!(served == [signed.clone()], "expected {signed}, came {served:?}");
    Ok(())
}
