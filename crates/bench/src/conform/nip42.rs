//! NIP-42: clients say who they are, by signing what the relay asks them to.

use anyhow::{Result, anyhow, ensure};
use event::Event;
use serde_json::json;

use super::{
    Relay,
    author::{Author, json_of, now},
    cases,
    client::{Client, End, begins_with},
    messages::is_not_stored,
};

cases! {
    "nip42" needs [42]:
        a_right_answer_is_ok_true,
        several_keys_may_authenticate_on_one_connection,
        the_same_key_may_authenticate_again,
        each_connection_has_a_challenge_of_its_own,
        another_connections_challenge_is_refused,
        a_challenge_that_nobody_gave_is_refused,
        another_relays_url_is_refused,
        an_answer_without_a_relay_is_refused,
        a_slash_at_the_end_of_the_url_makes_no_difference,
        an_old_date_is_refused,
        a_date_far_ahead_is_refused,
        another_kind_is_refused,
        a_forged_answer_is_refused,
        nonsense_does_not_end_the_connection,
        an_answer_is_not_stored,
        answers_are_not_sent_to_subscribers,
        answers_to_others_are_not_stored;
    "nip42" needs [42, 70]:
        an_event_is_refused_with_auth_required_before_and_restricted_after,
        who_is_told_auth_required_has_been_given_a_challenge;
    "nip42" needs [42, 59]:
        a_req_is_closed_with_auth_required_before_and_restricted_after,
        a_req_that_was_closed_is_answered_after_auth;
}

/// A client that has a challenge.
async fn challenged(relay: &Relay) -> Result<(Client, String)> {
    let mut client = relay.client().await?;
    let challenge = client.challenge().await?;
    Ok((client, challenge))
}

/// An answer with other tags or another date.
fn bent(author: &Author, at: u64, url: &str, challenge: &str) -> Event {
    author.sign(at, 22_242, &[&["relay", url], &["challenge", challenge]], "")
}

async fn a_right_answer_is_ok_true(relay: &Relay) -> Result<()> {
    relay.client().await?.authenticate(&relay.author()).await
}

async fn several_keys_may_authenticate_on_one_connection(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    for author in relay.authors::<3>() {
        client.authenticate(&author).await?;
    }
    Ok(())
}

async fn the_same_key_may_authenticate_again(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.authenticate(&author).await?;
    client.authenticate(&author).await
}

async fn each_connection_has_a_challenge_of_its_own(relay: &Relay) -> Result<()> {
    let [one, other] = [challenged(relay).await?.1, challenged(relay).await?.1];
    ensure!(one != other, "expected two challenges, came {one:?} twice");
    Ok(())
}

async fn another_connections_challenge_is_refused(relay: &Relay) -> Result<()> {
    let (mut client, _) = challenged(relay).await?;
    let (_other, stolen) = challenged(relay).await?;
    let answer = client.answer(&relay.author(), &stolen);
    client.auth(&answer).await?.is_refused()
}

async fn a_challenge_that_nobody_gave_is_refused(relay: &Relay) -> Result<()> {
    let (mut client, _) = challenged(relay).await?;
    for made_up in ["", "made up"] {
        let answer = client.answer(&relay.author(), made_up);
        client.auth(&answer).await?.is_refused()?;
    }
    Ok(())
}

async fn another_relays_url_is_refused(relay: &Relay) -> Result<()> {
    let (mut client, challenge) = challenged(relay).await?;
    let answer = bent(&relay.author(), now(), "wss://relay.elsewhere.example/", &challenge);
    client.auth(&answer).await?.is_refused()
}

async fn an_answer_without_a_relay_is_refused(relay: &Relay) -> Result<()> {
    let (mut client, challenge) = challenged(relay).await?;
    let answer = relay.author().sign(now(), 22_242, &[&["challenge", &challenge]], "");
    client.auth(&answer).await?.is_refused()
}

async fn a_slash_at_the_end_of_the_url_makes_no_difference(relay: &Relay) -> Result<()> {
    let bare = relay.known_as.trim_end_matches('/');
    for url in [bare.to_owned(), format!("{bare}/")] {
        let (mut client, challenge) = challenged(relay).await?;
        client.auth(&bent(&relay.author(), now(), &url, &challenge)).await?.is_taken()?;
    }
    Ok(())
}

async fn an_old_date_is_refused(relay: &Relay) -> Result<()> {
    let (mut client, challenge) = challenged(relay).await?;
    let answer = bent(&relay.author(), now() - 3_600, &relay.known_as, &challenge);
    client.auth(&answer).await?.is_refused()
}

async fn a_date_far_ahead_is_refused(relay: &Relay) -> Result<()> {
    let (mut client, challenge) = challenged(relay).await?;
    let answer = bent(&relay.author(), now() + 3_600, &relay.known_as, &challenge);
    client.auth(&answer).await?.is_refused()
}

async fn another_kind_is_refused(relay: &Relay) -> Result<()> {
    let (mut client, challenge) = challenged(relay).await?;
    let tags: [&[&str]; 2] = [&["relay", &relay.known_as], &["challenge", &challenge]];
    client.auth(&relay.author().sign(now(), 1, &tags, "")).await?.is_refused()
}

async fn a_forged_answer_is_refused(relay: &Relay) -> Result<()> {
    let (mut client, challenge) = challenged(relay).await?;
    let [victim, forger] = relay.authors();
    let answer = client.answer(&forger, &challenge);
    let mut forged = json_of(&answer);
    forged["pubkey"] = json!(victim.pubkey());
    client.send(json!(["AUTH", forged])).await?;
    client.ok(&answer.id).await?.is_refused()
}

async fn nonsense_does_not_end_the_connection(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    for nonsense in [json!(["AUTH"]), json!(["AUTH", 7]), json!(["AUTH", {}])] {
        client.send(nonsense).await?;
    }
    client.publish(&relay.author().note(5)).await?.is_taken()
}

async fn an_answer_is_not_stored(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.authenticate(&author).await?;
    client.keeps_none(&[json!({"authors": [author.pubkey()]})]).await
}

async fn answers_are_not_sent_to_subscribers(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut listener = relay.client().await?;
    listener.subscribe("live", &[json!({"authors": [author.pubkey()]})]).await?;
    let mut client = relay.client().await?;
    client.authenticate(&author).await?;
    // Nor if it is published like any event.
    let challenge = client.challenge().await?;
    let answer = client.answer(&author, &challenge);
    client.publish(&answer).await?;
    listener.hears_nothing("live").await
}

/// To another relay, a media server, or over HTTP.
async fn answers_to_others_are_not_stored(relay: &Relay) -> Result<()> {
    for kind in [22_242, 24_242, 27_235] {
        is_not_stored(relay, kind).await?;
    }
    Ok(())
}

async fn an_event_is_refused_with_auth_required_before_and_restricted_after(
    relay: &Relay,
) -> Result<()> {
    let protected = relay.author().sign(now(), 1, &[&["-"]], "for here");
    let mut client = relay.client().await?;
    client.publish(&protected).await?.is_refused_as("auth-required")?;
    client.authenticate(&relay.author()).await?;
    client.publish(&protected).await?.is_refused_as("restricted")
}

async fn who_is_told_auth_required_has_been_given_a_challenge(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let protected = author.sign(now(), 1, &[&["-"]], "for here");
    let mut client = relay.client().await?;
    client.publish(&protected).await?.is_refused_as("auth-required")?;
    // The challenge stands before the refusal, so that it can be answered at once.
    let challenge = client.told_challenge();
    let challenge = challenge.ok_or_else(|| anyhow!("expected a challenge before the refusal"))?;
    let answer = client.answer(&author, &challenge);
    client.auth(&answer).await?.is_taken()?;
    client.publish(&protected).await?.is_taken()
}

async fn a_req_is_closed_with_auth_required_before_and_restricted_after(
    relay: &Relay,
) -> Result<()> {
    let [ann, bob] = relay.authors();
    let between_others =
        [json!({"kinds": [1_059], "authors": [ann.pubkey()], "#p": [bob.pubkey()]})];
    let mut client = relay.client().await?;
    is_closed(&client.ask(&between_others).await?.1, "auth-required")?;
    client.authenticate(&relay.author()).await?;
    is_closed(&client.ask(&between_others).await?.1, "restricted")
}

fn is_closed(end: &End, prefix: &str) -> Result<()> {
    match end {
        End::Closed(reason) => begins_with(reason, prefix),
        End::Eose(_) => Err(anyhow!("expected CLOSED with {prefix}: and came EOSE")),
    }
}

async fn a_req_that_was_closed_is_answered_after_auth(relay: &Relay) -> Result<()> {
    let [sender, receiver] = relay.authors();
    let wrap = sender.sign(now(), 1_059, &[&["p", &receiver.pubkey()]], "sealed");
    let mut client = relay.client().await?;
    client.put(&[&wrap]).await?;
    let mine = [json!({"kinds": [1_059], "#p": [receiver.pubkey()]})];
    client.is_shown_none(&mine).await?;
    client.authenticate(&receiver).await?;
    client.finds(&mine, &[&wrap]).await
}
