//! NIP-67: EOSE says whether that was all, in a list of hints behind the subscription's name.

use anyhow::{Result, bail, ensure};
use event::Event;
use serde_json::{Value, json};

use super::{
    Relay,
    author::{Author, now},
    cases,
    client::{Client, End},
};

cases! {
    "nip67" needs [67]:
        hints_are_a_list,
        finish_means_that_all_was_sent,
        nothing_to_send_is_all_there_is,
        a_limit_that_cuts_is_no_finish,
        a_limit_that_is_just_enough_is_not_called_more,
        what_one_of_several_filters_cuts_is_no_finish;
}

async fn hints(client: &mut Client, filters: &[Value]) -> Result<Vec<Value>> {
    match client.ask(filters).await?.1 {
        End::Eose(frame) => match &frame[2] {
            Value::Null => Ok(Vec::new()),
            Value::Array(hints) => Ok(hints.clone()),
            // The draft had a bare word here, and who offers that is held to what it means.
            Value::String(hint) => Ok(vec![json!(hint)]),
            other => bail!("expected a list of hints, came {other}"),
        },
        End::Closed(reason) => bail!("expected EOSE, came CLOSED {reason}"),
    }
}

async fn holding(relay: &Relay, author: &Author, count: u64) -> Result<Client> {
    let at = now() - 1;
    let notes: Vec<Event> = (0..count).map(|age| author.sign(at - age, 1, &[], "")).collect();
    let mut client = relay.client().await?;
    client.put_many(&notes).await?;
    client
        .finds_all(&[json!({"authors": [author.pubkey()]})], &notes.iter().collect::<Vec<_>>())
        .await?;
    Ok(client)
}

async fn hints_are_a_list(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &author, 1).await?;
    match client.ask(&[json!({"authors": [author.pubkey()]})]).await?.1 {
        End::Eose(frame) => ensure!(frame[2].is_array(), "expected [\"finish\"], came {frame}"),
        End::Closed(reason) => bail!("expected EOSE, came CLOSED {reason}"),
    }
    Ok(())
}

async fn finish_means_that_all_was_sent(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &author, 3).await?;
    let hints = hints(&mut client, &[json!({"authors": [author.pubkey()], "limit": 50})]).await?;
    ensure!(hints.contains(&json!("finish")), "expected finish, came {hints:?}");
    Ok(())
}

async fn nothing_to_send_is_all_there_is(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    let hints = hints(&mut client, &[json!({"authors": [relay.author().pubkey()]})]).await?;
    ensure!(hints.contains(&json!("finish")), "expected finish, came {hints:?}");
    Ok(())
}

async fn a_limit_that_cuts_is_no_finish(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &author, 3).await?;
    for limit in [0, 1, 2] {
        let filter = json!({"authors": [author.pubkey()], "limit": limit});
        let hints = hints(&mut client, &[filter]).await?;
        let is_false = hints.contains(&json!("finish"));
        ensure!(!is_false, "expected no finish for {limit} of 3 events, came {hints:?}");
    }
    Ok(())
}

async fn a_limit_that_is_just_enough_is_not_called_more(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &author, 3).await?;
    let hints = hints(&mut client, &[json!({"authors": [author.pubkey()], "limit": 3})]).await?;
    ensure!(!hints.contains(&json!("more")), "expected no more for 3 of 3 events, came {hints:?}");
    Ok(())
}

async fn what_one_of_several_filters_cuts_is_no_finish(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &author, 3).await?;
    let cut = json!({"authors": [author.pubkey()], "limit": 2});
    let whole = json!({"authors": [relay.author().pubkey()]});
    let hints = hints(&mut client, &[cut, whole]).await?;
    ensure!(!hints.contains(&json!("finish")), "expected no finish, came {hints:?}");
    Ok(())
}
