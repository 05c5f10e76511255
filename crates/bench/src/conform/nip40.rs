//! NIP-40: what has expired is neither taken nor shown.

use std::time::Duration;

use anyhow::Result;
use event::Event;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Relay,
    author::{Author, now},
    cases,
};

cases! {
    "nip40" needs [40]:
        what_has_expired_is_refused,
        what_has_not_expired_is_taken_and_served,
        what_expires_is_served_until_then_and_never_later,
        what_expires_uses_up_no_limit,
        what_has_expired_is_not_sent_to_subscribers,
        an_expiration_that_is_no_number_is_ignored;
    "nip40" needs [40, 45]:
        what_has_expired_is_not_counted;
}

/// How long an event lives that a case sees expire: long enough for it to be stored and found before, at
/// least where patience fits the relay and the machine.
const SHORT_SECONDS_MIN: u64 = 2;

/// When an event that is signed now expires, as its tag says it.
pub fn soon(relay: &Relay) -> String {
    (now() + short_seconds(relay)).to_string()
}

fn short_seconds(relay: &Relay) -> u64 {
    (relay.patience.as_secs() * 2 / 3).max(SHORT_SECONDS_MIN)
}

/// Waits until it has. A second is lost to clocks that differ in their parts.
pub async fn until_expired(relay: &Relay) {
    sleep(Duration::from_secs(short_seconds(relay)) + Duration::from_millis(1_100)).await;
}

fn expiring(author: &Author, age: u64, at: &str) -> Event {
    author.sign(now() - age, 1, &[&["expiration", at]], "passing")
}

fn by(author: &Author) -> [Value; 1] {
    [json!({"authors": [author.pubkey()]})]
}

async fn what_has_expired_is_refused(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let past = expiring(&author, 100, &(now() - 50).to_string());
    let mut client = relay.client().await?;
    client.publish(&past).await?.is_refused()?;
    client.keeps_none(&by(&author)).await
}

async fn what_has_not_expired_is_taken_and_served(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let later = expiring(&author, 5, &(now() + 600).to_string());
    let mut client = relay.client().await?;
    client.put(&[&later]).await?;
    client.finds(&by(&author), &[&later]).await
}

async fn what_expires_is_served_until_then_and_never_later(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let soon = expiring(&author, 5, &soon(relay));
    let mut client = relay.client().await?;
    client.put(&[&soon]).await?;
    client.finds(&by(&author), &[&soon]).await?;
    until_expired(relay).await;
    client.is_shown_none(&by(&author)).await?;
    client.is_shown_none(&[json!({"ids": [soon.id]})]).await
}

async fn what_expires_uses_up_no_limit(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let note = author.note(9);
    let mut client = relay.client().await?;
    client.put(&[&note, &expiring(&author, 5, &soon(relay))]).await?;
    until_expired(relay).await;
    client.finds(&[json!({"authors": [author.pubkey()], "limit": 1})], &[&note]).await
}

async fn what_has_expired_is_not_sent_to_subscribers(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.subscribe("live", &by(&author)).await?;
    client.publish(&expiring(&author, 100, &(now() - 50).to_string())).await?;
    client.hears_nothing("live").await
}

async fn an_expiration_that_is_no_number_is_ignored(relay: &Relay) -> Result<()> {
    for nonsense in ["tomorrow", "", "-1.5"] {
        let author = relay.author();
        let note = expiring(&author, 5, nonsense);
        let mut client = relay.client().await?;
        client.put(&[&note]).await?;
        client.finds(&by(&author), &[&note]).await?;
    }
    Ok(())
}

async fn what_has_expired_is_not_counted(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    client.put(&[&author.note(9)]).await?;
    client.put(&[&expiring(&author, 5, &soon(relay))]).await?;
    client.counts_to(&by(&author), 2).await?;
    until_expired(relay).await;
    client.counts_to(&by(&author), 1).await
}
