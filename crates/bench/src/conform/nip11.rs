//! NIP-11: the document that tells what a relay is and allows, and whether it is true.

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, Response, header};
use serde_json::{Value, json};

use super::{
    Relay,
    author::{Author, now},
    cases,
    client::Client,
    document::DOCUMENT,
    not_offered,
};

/// A limit that is larger is believed.
const EVENTS_MAX: u64 = 1_000;
const SUBSCRIPTIONS_MAX: u64 = 1_000;

cases! {
    "nip11" needs [11]:
        the_document_is_where_the_websocket_is,
        accept_may_list_several_types_with_weights,
        accept_does_not_care_for_capitals,
        head_gets_the_headers_and_no_body,
        answers_may_be_read_from_any_origin,
        options_are_answered_for_any_origin,
        its_fields_have_the_types_they_should,
        supported_nips_lists_each_once,
        the_limits_that_clients_meet_are_stated,
        max_message_length_is_kept,
        max_subscriptions_can_be_open,
        max_filters_are_taken,
        max_subid_length_is_taken,
        max_limit_is_kept,
        default_limit_is_kept,
        max_event_tags_is_kept,
        max_content_length_is_kept,
        created_at_upper_limit_is_kept,
        created_at_lower_limit_is_kept;
}

async fn asked(relay: &Relay, method: Method, accept: &str) -> Result<Response> {
    let asking = relay.http(method)?.header(header::ACCEPT, accept);
    asking.header(header::ORIGIN, "https://client.example").send().await.context("asking by HTTP")
}

fn header_of<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn is_document(answer: Response) -> Result<()> {
    let content_type = header_of(&answer, "content-type").to_owned();
    ensure!(content_type.starts_with(DOCUMENT), "expected {DOCUMENT}, came {content_type:?}");
    let body = answer.bytes().await.context("reading the document")?;
    let document: Value = serde_json::from_slice(&body).context("reading the document")?;
    ensure!(document.is_object(), "expected an object, came {document:.100}");
    Ok(())
}

async fn the_document_is_where_the_websocket_is(relay: &Relay) -> Result<()> {
    is_document(asked(relay, Method::GET, DOCUMENT).await?).await
}

async fn accept_may_list_several_types_with_weights(relay: &Relay) -> Result<()> {
    for accept in [
        "application/nostr+json, */*",
        "application/nostr+json, application/json;q=0.9, text/plain;q=0.5",
        "text/html;q=0.3, application/nostr+json;q=0.8",
    ] {
        let answer = asked(relay, Method::GET, accept).await?;
        is_document(answer).await.with_context(|| format!("Accept: {accept}"))?;
    }
    Ok(())
}

async fn accept_does_not_care_for_capitals(relay: &Relay) -> Result<()> {
    is_document(asked(relay, Method::GET, "Application/Nostr+JSON").await?).await
}

async fn head_gets_the_headers_and_no_body(relay: &Relay) -> Result<()> {
    let answer = asked(relay, Method::HEAD, DOCUMENT).await?;
    let status = answer.status();
    ensure!(status.is_success(), "expected success for HEAD, came {status}");
    let content_type = header_of(&answer, "content-type");
    ensure!(content_type.starts_with(DOCUMENT), "expected {DOCUMENT}, came {content_type:?}");
    Ok(())
}

fn is_open_to_all(answer: &Response) -> Result<()> {
    let origin = header_of(answer, "access-control-allow-origin");
    let is_open = matches!(origin, "*" | "https://client.example");
    ensure!(is_open, "expected access-control-allow-origin: *, came {origin:?}");
    Ok(())
}

async fn answers_may_be_read_from_any_origin(relay: &Relay) -> Result<()> {
    is_open_to_all(&asked(relay, Method::GET, DOCUMENT).await?)
}

async fn options_are_answered_for_any_origin(relay: &Relay) -> Result<()> {
    let asking = relay
        .http(Method::OPTIONS)?
        .header(header::ORIGIN, "https://client.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "accept");
    let answer = asking.send().await.context("asking by HTTP")?;
    ensure!(answer.status().is_success(), "expected success, came {}", answer.status());
    is_open_to_all(&answer)?;
    for name in ["access-control-allow-headers", "access-control-allow-methods"] {
        ensure!(!header_of(&answer, name).is_empty(), "expected {name}, came none");
    }
    Ok(())
}

fn document(relay: &Relay) -> Result<&Value> {
    relay.document.0.as_ref().context("expected a document, came none")
}

async fn its_fields_have_the_types_they_should(relay: &Relay) -> Result<()> {
    let document = document(relay)?;
    let check = |of: &Value, names: &[&str], what: &str, is_right: fn(&Value) -> bool| {
        let wrong = names.iter().find(|name| !of[**name].is_null() && !is_right(&of[**name]));
        match wrong {
            Some(name) => bail!("expected {name} to be {what}, came {}", of[*name]),
            None => Ok(()),
        }
    };
    let texts = ["name", "description", "contact", "software", "version", "icon", "posting_policy"];
    check(document, &texts, "a text", Value::is_string)?;
    check(document, &["pubkey", "self"], "a key in hex", |key| {
        key.as_str().is_some_and(|key| key.parse::<event::PublicKey>().is_ok())
    })?;
    check(document, &["limitation", "fees"], "an object", Value::is_object)?;
    check(document, &["retention", "supported_nips"], "a list", Value::is_array)?;
    let limits = &document["limitation"];
    check(limits, &NUMBERS, "a number", Value::is_u64)?;
    let claims = ["auth_required", "payment_required", "restricted_writes"];
    check(limits, &claims, "true or false", Value::is_boolean)
}

const NUMBERS: [&str; 11] = [
    "max_message_length",
    "max_subscriptions",
    "max_filters",
    "max_subid_length",
    "max_limit",
    "default_limit",
    "max_event_tags",
    "max_content_length",
    "min_pow_difficulty",
    "created_at_lower_limit",
    "created_at_upper_limit",
];

async fn supported_nips_lists_each_once(relay: &Relay) -> Result<()> {
    let nips = document(relay)?["supported_nips"].as_array().context("expected supported_nips")?;
    for (place, nip) in nips.iter().enumerate() {
        ensure!(nip.is_u64() || nip.is_string(), "expected numbers, came {nip}");
        ensure!(!nips[..place].contains(nip), "expected each NIP once, came {nip} twice");
    }
    for nip in [1, 11] {
        ensure!(nips.contains(&json!(nip)), "expected NIP-{nip:02} in supported_nips");
    }
    Ok(())
}

async fn the_limits_that_clients_meet_are_stated(relay: &Relay) -> Result<()> {
    document(relay)?;
    let met = ["max_message_length", "max_subscriptions", "max_subid_length", "max_limit"];
    let missing: Vec<&str> =
        met.into_iter().filter(|name| relay.document.limit(name).is_none()).collect();
    ensure!(missing.is_empty(), "expected limitations, {} missing", missing.join(", "));
    Ok(())
}

fn stated(relay: &Relay, name: &str) -> Result<u64> {
    match relay.document.limit(name) {
        Some(limit) => Ok(limit),
        None => not_offered(format!("{name} is not stated")),
    }
}

async fn max_message_length_is_kept(relay: &Relay) -> Result<()> {
    let most = stated(relay, "max_message_length")? as usize;
    if most > 16 << 20 {
        return not_offered("max_message_length is too large to try");
    }
    // Space between the last two brackets changes nothing but the length.
    let filled = |name: &str, length: usize| {
        let head = format!("[\"REQ\",\"{name}\",{{\"ids\":[\"{}\"]}}", relay.author().pubkey());
        format!("{head}{}]", " ".repeat(length - head.len() - 1))
    };
    let mut client = relay.client().await?;
    client.send_text(filled("full", most)).await?;
    client.stored("full").await.context("a message of the full length")?;
    let over = client.send_text(filled("over", most + 1)).await;
    let is_eose = |frame: &Value| frame[0] == "EOSE" && frame[1] == "over";
    if let (Ok(()), Ok(Some(_))) = (over, client.within(relay.silence, is_eose).await) {
        bail!("expected a message of {} bytes to be refused, came EOSE", most + 1);
    }
    Ok(())
}

async fn max_subscriptions_can_be_open(relay: &Relay) -> Result<()> {
    let most = stated(relay, "max_subscriptions")?;
    if most > SUBSCRIPTIONS_MAX {
        return not_offered(format!("max_subscriptions is {most}"));
    }
    let author = relay.author();
    let mut client = relay.client().await?;
    for number in 0..most {
        let filter = json!({"authors": [author.pubkey()]});
        let name = number.to_string();
        client.subscribe(&name, &[filter]).await.with_context(|| format!("number {number}"))?;
    }
    let note = author.note(0);
    client.put(&[&note]).await?;
    for number in 0..most {
        client.hears(&number.to_string(), &note).await?;
    }
    Ok(())
}

async fn max_filters_are_taken(relay: &Relay) -> Result<()> {
    let most = stated(relay, "max_filters")?.min(EVENTS_MAX);
    let filters: Vec<Value> =
        (0..most).map(|_| json!({"authors": [relay.author().pubkey()]})).collect();
    relay.client().await?.subscribe("many", &filters).await.map(drop)
}

async fn max_subid_length_is_taken(relay: &Relay) -> Result<()> {
    let most = stated(relay, "max_subid_length")?.min(10_000) as usize;
    let filter = json!({"authors": [relay.author().pubkey()]});
    relay.client().await?.subscribe(&"n".repeat(most), &[filter]).await.map(drop)
}

async fn max_limit_is_kept(relay: &Relay) -> Result<()> {
    let most = stated(relay, "max_limit")?;
    if most > EVENTS_MAX {
        return not_offered(format!("max_limit is {most}: too much to fill"));
    }
    let (mut client, author) = filled_with(relay, most + 1).await?;
    let filter = json!({"authors": [author.pubkey()], "limit": most + 1});
    comes_to(&mut client, &filter, most).await
}

async fn default_limit_is_kept(relay: &Relay) -> Result<()> {
    let most = stated(relay, "default_limit")?;
    if most > EVENTS_MAX {
        return not_offered(format!("default_limit is {most}: too much to fill"));
    }
    let (mut client, author) = filled_with(relay, most + 1).await?;
    comes_to(&mut client, &json!({"authors": [author.pubkey()]}), most).await
}

/// So many notes of somebody.
async fn filled_with(relay: &Relay, count: u64) -> Result<(Client, Author)> {
    let (author, mut client) = (relay.author(), relay.client().await?);
    let at = now() - 1;
    let notes: Vec<_> = (0..count).map(|age| author.sign(at - age, 1, &[], "")).collect();
    client.put_many(&notes).await?;
    client
        .finds(&[json!({"ids": [notes[count as usize - 1].id]})], &[&notes[count as usize - 1]])
        .await?;
    Ok((client, author))
}

async fn comes_to(client: &mut Client, filter: &Value, expected: u64) -> Result<()> {
    let came = client.query(std::slice::from_ref(filter)).await?.len() as u64;
    ensure!(came == expected, "expected the {expected} newest events, came {came}");
    Ok(())
}

async fn max_event_tags_is_kept(relay: &Relay) -> Result<()> {
    let most = stated(relay, "max_event_tags")? as usize;
    if most > 20_000 {
        return not_offered(format!("max_event_tags is {most}: too many to try"));
    }
    let with = |count: usize| relay.author().sign(now(), 1, &vec![&["x"][..]; count], "");
    let mut client = relay.client().await?;
    client.publish(&with(most)).await?.is_taken().with_context(|| format!("{most} tags"))?;
    client
        .publish(&with(most + 1))
        .await?
        .is_refused()
        .with_context(|| format!("{} tags", most + 1))
}

async fn max_content_length_is_kept(relay: &Relay) -> Result<()> {
    let most = stated(relay, "max_content_length")? as usize;
    let room = relay.document.limit("max_message_length").unwrap_or(u64::MAX);
    if most as u64 + 1_000 > room.min(4 << 20) {
        return not_offered(format!("max_content_length is {most}: no message is so long"));
    }
    let with = |count: usize| relay.author().sign(now(), 1, &[], &"x".repeat(count));
    let mut client = relay.client().await?;
    client.publish(&with(most)).await?.is_taken().with_context(|| format!("{most} characters"))?;
    let said = client.publish(&with(most + 1)).await?;
    said.is_refused().with_context(|| format!("{} characters", most + 1))
}

async fn created_at_upper_limit_is_kept(relay: &Relay) -> Result<()> {
    let most = stated(relay, "created_at_upper_limit")?;
    let ahead = |seconds: u64| relay.author().sign(now() + seconds, 1, &[], "");
    let mut client = relay.client().await?;
    if most > 20 {
        client.publish(&ahead(most - 10)).await?.is_taken().context("10 s within the limit")?;
    }
    client.publish(&ahead(most + 60)).await?.is_refused().context("60 s beyond the limit")
}

async fn created_at_lower_limit_is_kept(relay: &Relay) -> Result<()> {
    let most = stated(relay, "created_at_lower_limit")?;
    if most + 60 > now() {
        return not_offered("created_at_lower_limit lies before 1970");
    }
    let mut client = relay.client().await?;
    if most > 20 {
        client.publish(&relay.author().note(most - 10)).await?.is_taken().context("10 s within")?;
    }
    client.publish(&relay.author().note(most + 60)).await?.is_refused().context("60 s beyond")
}
