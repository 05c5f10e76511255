//! What a subscriber is told, from REQ to CLOSE.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use event::Event;
use serde_json::{Value, json};

use crate::conform::{
    Relay,
    author::{Author, json_of, now},
    cases,
    client::{Client, End, begins_with, frame},
    not_offered, text_of,
};

/// Where we stop looking for a limit that is not stated.
const MANY: u64 = 500;
/// Subscribers, and events, for the race between what is stored and what is live.
const RACING_SUBSCRIPTIONS: usize = 10;
const RACING_EVENTS: u64 = 100;

cases! {
    "nip01" needs [1]:
        eose_comes_even_if_nothing_is_stored,
        live_events_come_to_those_who_want_them_and_to_nobody_else,
        live_events_come_to_their_publisher_too,
        live_events_have_to_match_since_and_until,
        limits_do_not_count_live_events,
        a_live_event_that_matches_two_filters_comes_once,
        a_duplicate_is_not_sent_again,
        a_refused_event_is_not_sent,
        live_events_are_neither_lost_nor_doubled_between_the_stored_scan_and_eose,
        the_same_subscription_id_replaces,
        subscription_ids_are_of_one_connection,
        close_ends_live_events,
        close_of_an_unknown_id_does_no_harm,
        subscription_ids_of_64_characters_are_taken,
        subscription_ids_are_echoed_exactly,
        a_subscription_id_of_65_characters_is_refused,
        an_empty_subscription_id_is_refused,
        a_malformed_filter_gets_closed_with_its_id,
        a_filter_that_is_no_object_gets_closed_with_its_id,
        a_refused_req_gets_closed_with_its_id_never_a_bare_notice,
        too_many_filters_get_closed_with_their_id;
}

fn by(author: &Author) -> Value {
    json!({"authors": [author.pubkey()]})
}

/// One who listens to an author, and one who publishes.
async fn listener_and_publisher(relay: &Relay, filters: &[Value]) -> Result<[Client; 2]> {
    let [mut listener, publisher] = [relay.client().await?, relay.client().await?];
    listener.subscribe("live", filters).await?;
    Ok([listener, publisher])
}

async fn eose_comes_even_if_nothing_is_stored(relay: &Relay) -> Result<()> {
    let stored = relay.client().await?.subscribe("none", &[by(&relay.author())]).await?;
    ensure!(stored.is_empty(), "expected no events of somebody new, came {}", stored.len());
    Ok(())
}

async fn live_events_come_to_those_who_want_them_and_to_nobody_else(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let [mut listener, mut publisher] = listener_and_publisher(relay, &[by(&ann)]).await?;
    let note = ann.note(0);
    publisher.put(&[&bob.note(0), &note]).await?;
    listener.hears("live", &note).await?;
    listener.hears_nothing("live").await
}

async fn live_events_come_to_their_publisher_too(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.subscribe("own", &[by(&author)]).await?;
    let note = author.note(0);
    client.put(&[&note]).await?;
    client.hears("own", &note).await
}

async fn live_events_have_to_match_since_and_until(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let window = json!({"authors": [author.pubkey()], "since": now() - 100, "until": now() - 50});
    let [mut listener, mut publisher] = listener_and_publisher(relay, &[window]).await?;
    let within = author.note(70);
    publisher.put(&[&author.note(150), &author.note(0), &within]).await?;
    listener.hears("live", &within).await?;
    listener.hears_nothing("live").await
}

async fn limits_do_not_count_live_events(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let filter = json!({"authors": [author.pubkey()], "limit": 1});
    let [mut listener, mut publisher] = listener_and_publisher(relay, &[filter]).await?;
    for age in [2, 1, 0] {
        let note = author.note(age);
        publisher.put(&[&note]).await?;
        listener.hears("live", &note).await?;
    }
    Ok(())
}

async fn a_live_event_that_matches_two_filters_comes_once(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let filters = [by(&author), json!({"authors": [author.pubkey()], "kinds": [1]})];
    let [mut listener, mut publisher] = listener_and_publisher(relay, &filters).await?;
    let note = author.note(0);
    publisher.put(&[&note]).await?;
    listener.hears("live", &note).await?;
    listener.hears_nothing("live").await
}

async fn a_duplicate_is_not_sent_again(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [mut listener, mut publisher] = listener_and_publisher(relay, &[by(&author)]).await?;
    let note = author.note(0);
    publisher.put(&[&note]).await?;
    listener.hears("live", &note).await?;
    publisher.publish(&note).await?;
    listener.hears_nothing("live").await
}

async fn a_refused_event_is_not_sent(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [mut listener, mut publisher] = listener_and_publisher(relay, &[by(&author)]).await?;
    let mut forged = json_of(&author.note(0));
    forged["content"] = json!("forged");
    publisher.is_refused(&forged).await?;
    listener.hears_nothing("live").await
}

async fn live_events_are_neither_lost_nor_doubled_between_the_stored_scan_and_eose(
    relay: &Relay,
) -> Result<()> {
    let author = relay.author();
    let events: Vec<Event> = (0..RACING_EVENTS).map(|age| author.note(age)).collect();
    let [mut publisher, mut listener] = [relay.client().await?, relay.client().await?];
    let names: Vec<String> = (0..RACING_SUBSCRIPTIONS).map(|name| name.to_string()).collect();
    // They subscribe one after the other while the events are on their way.
    for (part, name) in events.chunks(RACING_EVENTS as usize / RACING_SUBSCRIPTIONS).zip(&names) {
        for event in part {
            publisher.send(json!(["EVENT", json_of(event)])).await?;
        }
        listener.send(frame("REQ", name, &[by(&author)])).await?;
    }
    for event in &events {
        publisher.ok(&event.id).await?.is_taken()?;
    }
    let heard = heard_by_all(&mut listener, &names, events.len()).await?;
    for (name, heard) in heard {
        let came: Vec<usize> = events
            .iter()
            .map(|event| heard.get(&event.id.to_string()).copied().unwrap_or(0))
            .collect();
        let count = |times: fn(&usize) -> bool| came.iter().filter(|came| times(came)).count();
        let (lost, doubled) = (count(|came| *came == 0), count(|came| *came > 1));
        ensure!(
            lost + doubled == 0,
            "expected {RACING_EVENTS} events once each, came {lost} never and {doubled} more than once to \
             subscription {name}"
        );
    }
    Ok(())
}

/// Under each name, how often each event came. Waits until all have come to all, and a little longer.
async fn heard_by_all(
    listener: &mut Client,
    names: &[String],
    events: usize,
) -> Result<BTreeMap<String, BTreeMap<String, usize>>> {
    let mut heard: BTreeMap<String, BTreeMap<String, usize>> =
        names.iter().map(|name| (name.clone(), BTreeMap::new())).collect();
    loop {
        let is_done = heard.values().all(|ids| ids.len() == events);
        let time = if is_done { listener.silence() } else { listener.patience() };
        let Some(frame) = listener.within(time, |frame| frame[0] == "EVENT").await? else {
            return Ok(heard);
        };
        let ids = heard.entry(text_of(&frame[1]).to_owned()).or_default();
        *ids.entry(text_of(&frame[2]["id"]).to_owned()).or_default() += 1;
    }
}

async fn the_same_subscription_id_replaces(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let [mut listener, mut publisher] = listener_and_publisher(relay, &[by(&ann)]).await?;
    listener.subscribe("live", &[by(&bob)]).await?;
    let note = bob.note(0);
    publisher.put(&[&ann.note(0), &note]).await?;
    listener.hears("live", &note).await?;
    listener.hears_nothing("live").await
}

async fn subscription_ids_are_of_one_connection(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let [mut of_ann, mut publisher] = listener_and_publisher(relay, &[by(&ann)]).await?;
    let [mut of_bob, mut closing] = listener_and_publisher(relay, &[by(&bob)]).await?;
    closing.send(json!(["CLOSE", "live"])).await?;
    let (from_ann, from_bob) = (ann.note(0), bob.note(0));
    publisher.put(&[&from_ann, &from_bob]).await?;
    of_ann.hears("live", &from_ann).await?;
    of_bob.hears("live", &from_bob).await?;
    of_ann.hears_nothing("live").await
}

async fn close_ends_live_events(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [mut listener, mut publisher] = listener_and_publisher(relay, &[by(&author)]).await?;
    listener.send(json!(["CLOSE", "live"])).await?;
    // An answer to something sent later says that the CLOSE was read.
    listener.subscribe("later", &[by(&relay.author())]).await?;
    publisher.put(&[&author.note(0)]).await?;
    listener.hears_nothing("live").await
}

async fn close_of_an_unknown_id_does_no_harm(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let [mut listener, mut publisher] = listener_and_publisher(relay, &[by(&author)]).await?;
    listener.send(json!(["CLOSE", "unknown"])).await?;
    let note = author.note(0);
    publisher.put(&[&note]).await?;
    listener.hears("live", &note).await
}

async fn subscription_ids_of_64_characters_are_taken(relay: &Relay) -> Result<()> {
    relay.client().await?.subscribe(&"x".repeat(64), &[by(&relay.author())]).await.map(drop)
}

async fn subscription_ids_are_echoed_exactly(relay: &Relay) -> Result<()> {
    for name in ["quote \" and \\", " ", "日本語 🦀", "line\nbreak", "[\"EOSE\"]"] {
        relay.client().await?.subscribe(name, &[by(&relay.author())]).await?;
    }
    Ok(())
}

async fn a_subscription_id_of_65_characters_is_refused(relay: &Relay) -> Result<()> {
    has_no_eose(relay, json!("x".repeat(65))).await
}

async fn an_empty_subscription_id_is_refused(relay: &Relay) -> Result<()> {
    has_no_eose(relay, json!("")).await
}

async fn has_no_eose(relay: &Relay, name: Value) -> Result<()> {
    let mut client = relay.client().await?;
    client.send(json!(["REQ", name, by(&relay.author())])).await?;
    match client.within(relay.silence, |frame| frame[0] == "EOSE").await {
        Ok(Some(frame)) => bail!("expected a refusal, came {frame:.100}"),
        // Whoever hangs up refuses, too.
        Ok(None) | Err(_) => Ok(()),
    }
}

async fn a_malformed_filter_gets_closed_with_its_id(relay: &Relay) -> Result<()> {
    for filter in [
        json!({"kinds": ["one"]}),
        json!({"authors": "nobody"}),
        json!({"ids": [7]}),
        json!({"since": "yesterday"}),
        json!({"#t": "word"}),
        json!({"limit": -1}),
    ] {
        is_closed(relay, &[filter]).await?;
    }
    Ok(())
}

async fn a_filter_that_is_no_object_gets_closed_with_its_id(relay: &Relay) -> Result<()> {
    for filter in [json!("everything"), json!(7), json!(["kinds", 1])] {
        is_closed(relay, &[filter]).await?;
    }
    Ok(())
}

async fn is_closed(relay: &Relay, filters: &[Value]) -> Result<()> {
    let mut client = relay.client().await?;
    match client.req("refused", filters).await? {
        (_, End::Closed(reason)) => has_a_prefix(&reason),
        (_, End::Eose(_)) => bail!("expected CLOSED for {}, came EOSE", filters[0]),
    }
}

fn has_a_prefix(reason: &str) -> Result<()> {
    let prefix = reason.split(':').next().unwrap_or_default();
    ensure!(!prefix.contains(' '), "expected a reason with a word and a colon, came {reason:?}");
    begins_with(reason, prefix)
}

async fn a_refused_req_gets_closed_with_its_id_never_a_bare_notice(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    let filter = json!({"authors": [relay.author().pubkey()], "limit": 1});
    let most = relay.document.limit("max_subscriptions").unwrap_or(MANY);
    for number in 0..=most {
        if let (_, End::Closed(reason)) =
            client.req(&number.to_string(), std::slice::from_ref(&filter)).await?
        {
            return has_a_prefix(&reason);
        }
    }
    match relay.document.limit("max_subscriptions") {
        Some(most) => bail!("expected CLOSED for more than {most} subscriptions, came EOSE"),
        None => not_offered(format!("{MANY} subscriptions are not too many")),
    }
}

async fn too_many_filters_get_closed_with_their_id(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    let filter = json!({"authors": [relay.author().pubkey()]});
    for count in [11, 21, 33, 65, 129, 257, MANY] {
        let filters = vec![filter.clone(); count as usize];
        if let (_, End::Closed(reason)) = client.req("many", &filters).await? {
            return has_a_prefix(&reason);
        }
    }
    not_offered(format!("{MANY} filters are not too many"))
}
