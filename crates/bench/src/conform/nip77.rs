//! NIP-77: client and relay find out by negentropy what each lacks. The other side here is the `negentropy`
//! crate, which neither we nor the relays that we try have written.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, bail, ensure};
use event::Event;
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::{Value, json};

use super::{
    Relay,
    author::{Author, now},
    cases,
    client::Client,
    nip40::{soon, until_expired},
    text_of,
};

/// More than so many rounds do not come to an end.
const ROUNDS_MAX: usize = 100;

cases! {
    "nip77" needs [77]:
        both_sides_find_out_what_they_lack,
        sides_that_agree_find_nothing,
        hundreds_of_events_are_reconciled_exactly,
        only_what_the_filter_matches_is_reconciled,
        neg_ids_are_a_space_of_their_own,
        two_reconciliations_go_side_by_side,
        the_same_id_replaces,
        another_version_is_answered_with_ours,
        a_malformed_message_gets_neg_err_never_a_notice,
        a_malformed_filter_gets_neg_err_never_a_notice,
        a_message_without_its_neg_open_gets_neg_err_never_a_notice,
        a_message_after_neg_close_gets_neg_err_never_a_notice,
        a_superseded_version_is_not_told_of;
    "nip77" needs [77, 9]:
        deleted_events_are_not_told_of;
    "nip77" needs [77, 40]:
        expired_events_are_not_told_of;
}

/// The other side: what it has, and what it finds that each lacks.
pub struct Other {
    negentropy: Negentropy<'static, NegentropyStorageVector>,
    have: BTreeSet<String>,
    need: BTreeSet<String>,
}

impl Other {
    pub fn with(events: &[Event]) -> Result<Other> {
        let mut storage = NegentropyStorageVector::new();
        for event in events {
            storage.insert(event.created_at.0, Id::from_byte_array(event.id.0))?;
        }
        storage.seal()?;
        let negentropy = Negentropy::owned(storage, 0)?;
        Ok(Other { negentropy, have: BTreeSet::new(), need: BTreeSet::new() })
    }

    /// All rounds, under a name.
    pub async fn reconcile(
        &mut self,
        client: &mut Client,
        name: &str,
        filter: &Value,
    ) -> Result<()> {
        let first = hex::encode(self.negentropy.initiate()?);
        client.send(json!(["NEG-OPEN", name, filter, first])).await?;
        for _ in 0..ROUNDS_MAX {
            let said = message(client, name).await?;
            let Some(next) = self.answer(&said)? else {
                return client.send(json!(["NEG-CLOSE", name])).await;
            };
            client.send(json!(["NEG-MSG", name, next])).await?;
        }
        bail!("expected an end, came {ROUNDS_MAX} rounds")
    }

    fn answer(&mut self, said: &str) -> Result<Option<String>> {
        let said = hex::decode(said).context("expected a message in hex")?;
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = self.negentropy.reconcile_with_ids(&said, &mut have, &mut need)?;
        let text = |id: &Id| hex::encode(id.as_bytes());
        self.have.extend(have.iter().map(text));
        self.need.extend(need.iter().map(text));
        Ok(next.map(hex::encode))
    }

    /// Exactly these are what the relay has and this side lacks.
    pub fn needs(&self, expected: &[&Event]) -> Result<()> {
        is_set("to need", &self.need, expected)
    }

    /// Exactly these are what this side has and the relay lacks.
    fn has(&self, expected: &[&Event]) -> Result<()> {
        is_set("to have", &self.have, expected)
    }
}

fn is_set(what: &str, found: &BTreeSet<String>, expected: &[&Event]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|event| event.id.to_string()).collect();
    let missing = expected.difference(found).count();
    let beyond = found.difference(&expected).count();
    ensure!(
        missing + beyond == 0,
        "expected {what} {} events, came all but {missing}, and {beyond} others",
        expected.len()
    );
    Ok(())
}

/// The next NEG-MSG of this name.
async fn message(client: &mut Client, name: &str) -> Result<String> {
    let is_ours = |frame: &Value| text_of(&frame[0]).starts_with("NEG-") && frame[1] == name;
    let frame = client.wait_for("NEG-MSG with its name", is_ours).await?;
    match text_of(&frame[0]) {
        "NEG-MSG" => Ok(text_of(&frame[2]).to_owned()),
        _ => bail!("expected NEG-MSG, came {frame:.200}"),
    }
}

/// NEG-ERR of this name, with a reason.
async fn refusal(client: &mut Client, name: &str) -> Result<()> {
    let is_it = |frame: &Value| frame[0] == "NEG-ERR" && frame[1] == name;
    let frame = client.wait_for("NEG-ERR with its name", is_it).await?;
    ensure!(text_of(&frame[2]).contains(':'), "expected a word and a colon, came {frame}");
    Ok(())
}

fn by(author: &Author) -> Value {
    json!({"authors": [author.pubkey()]})
}

/// Notes of an author, three in each second.
fn notes(author: &Author, count: u64) -> Vec<Event> {
    let at = now() - 1;
    let note = |number: u64| author.sign(at - number / 3, 1, &[], &format!("note {number}"));
    (0..count).map(note).collect()
}

async fn holding(relay: &Relay, events: &[Event]) -> Result<Client> {
    let mut client = relay.client().await?;
    client.put_many(events).await?;
    if let Some(last) = events.last() {
        client.finds(&[json!({"ids": [last.id]})], &[last]).await?;
    }
    Ok(client)
}

/// The relay has some of them, the other side has some, and both find out.
async fn is_reconciled(relay: &Relay, count: u64) -> Result<()> {
    let author = relay.author();
    let notes = notes(&author, count);
    let third = notes.len() / 3;
    let mut client = holding(relay, &notes[..2 * third]).await?;
    let mut other = Other::with(&notes[third..])?;
    other.reconcile(&mut client, "neg", &by(&author)).await?;
    other.needs(&notes[..third].iter().collect::<Vec<_>>())?;
    other.has(&notes[2 * third..].iter().collect::<Vec<_>>())
}

async fn both_sides_find_out_what_they_lack(relay: &Relay) -> Result<()> {
    is_reconciled(relay, 9).await
}

async fn hundreds_of_events_are_reconciled_exactly(relay: &Relay) -> Result<()> {
    is_reconciled(relay, 600).await
}

async fn sides_that_agree_find_nothing(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes = notes(&author, 50);
    let mut client = holding(relay, &notes).await?;
    let mut other = Other::with(&notes)?;
    other.reconcile(&mut client, "neg", &by(&author)).await?;
    other.needs(&[])?;
    other.has(&[])
}

async fn only_what_the_filter_matches_is_reconciled(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let at = now();
    let events: Vec<Event> =
        (0..6).map(|age| author.sign(at - age, [1, 7][age as usize % 2], &[], "")).collect();
    let mut client = holding(relay, &events).await?;
    let mut other = Other::with(&[])?;
    let filter = json!({"authors": [author.pubkey()], "kinds": [7], "until": at - 2});
    other.reconcile(&mut client, "neg", &filter).await?;
    other.needs(&[&events[3], &events[5]])
}

async fn neg_ids_are_a_space_of_their_own(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes = notes(&author, 3);
    let mut client = holding(relay, &notes).await?;
    client.subscribe("same", &[json!({"authors": [author.pubkey()], "limit": 0})]).await?;
    let mut other = Other::with(&[])?;
    other.reconcile(&mut client, "same", &by(&author)).await?;
    other.needs(&notes.iter().collect::<Vec<_>>())?;
    // The NEG-CLOSE at its end was not meant for the subscription.
    let live = author.note(0);
    client.put(&[&live]).await?;
    client.hears("same", &live).await
}

async fn two_reconciliations_go_side_by_side(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let (of_ann, of_bob) = (notes(&ann, 3), notes(&bob, 5));
    let mut client = holding(relay, &[&of_ann[..], &of_bob[..]].concat()).await?;
    let mut others = [Other::with(&[])?, Other::with(&[])?];
    for (name, other, author) in [("a", 0, &ann), ("b", 1, &bob)] {
        let first = hex::encode(others[other].negentropy.initiate()?);
        client.send(json!(["NEG-OPEN", name, by(author), first])).await?;
    }
    for (name, other) in [("b", 1), ("a", 0)] {
        let said = message(&mut client, name).await?;
        others[other].answer(&said)?;
    }
    others[0].needs(&of_ann.iter().collect::<Vec<_>>())?;
    others[1].needs(&of_bob.iter().collect::<Vec<_>>())
}

async fn the_same_id_replaces(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let of_bob = notes(&bob, 3);
    let mut client = holding(relay, &[&notes(&ann, 3)[..], &of_bob[..]].concat()).await?;
    let first = hex::encode(Other::with(&[])?.negentropy.initiate()?);
    client.send(json!(["NEG-OPEN", "neg", by(&ann), first])).await?;
    message(&mut client, "neg").await?;
    let mut other = Other::with(&[])?;
    other.reconcile(&mut client, "neg", &by(&bob)).await?;
    other.needs(&of_bob.iter().collect::<Vec<_>>())
}

async fn another_version_is_answered_with_ours(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    client.send(json!(["NEG-OPEN", "neg", by(&relay.author()), "62"])).await?;
    let said = message(&mut client, "neg").await?;
    ensure!(said == "61", "expected the version byte 61 alone, came {said:.20}");
    Ok(())
}

async fn a_malformed_message_gets_neg_err_never_a_notice(relay: &Relay) -> Result<()> {
    for malformed in ["no hex", "61ff", "6100000203"] {
        let mut client = relay.client().await?;
        client.send(json!(["NEG-OPEN", "neg", by(&relay.author()), malformed])).await?;
        refusal(&mut client, "neg").await.map_err(|error| anyhow!("{malformed:?}: {error:#}"))?;
    }
    Ok(())
}

async fn a_malformed_filter_gets_neg_err_never_a_notice(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    client.send(json!(["NEG-OPEN", "neg", {"kinds": ["one"]}, "6100000200"])).await?;
    refusal(&mut client, "neg").await
}

async fn a_message_without_its_neg_open_gets_neg_err_never_a_notice(relay: &Relay) -> Result<()> {
    let mut client = relay.client().await?;
    client.send(json!(["NEG-MSG", "never opened", "6100000200"])).await?;
    refusal(&mut client, "never opened").await
}

async fn a_message_after_neg_close_gets_neg_err_never_a_notice(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = holding(relay, &notes(&author, 3)).await?;
    Other::with(&[])?.reconcile(&mut client, "neg", &by(&author)).await?;
    client.send(json!(["NEG-MSG", "neg", "6100000200"])).await?;
    refusal(&mut client, "neg").await
}

async fn is_all_told(client: &mut Client, author: &Author, expected: &[&Event]) -> Result<()> {
    let mut other = Other::with(&[])?;
    other.reconcile(client, "neg", &json!({"authors": [author.pubkey()], "kinds": [0, 1]})).await?;
    other.needs(expected)
}

async fn a_superseded_version_is_not_told_of(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let versions = [author.sign(now() - 9, 0, &[], "old"), author.sign(now() - 5, 0, &[], "new")];
    let mut client = holding(relay, &versions).await?;
    is_all_told(&mut client, &author, &[&versions[1]]).await
}

async fn deleted_events_are_not_told_of(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes = notes(&author, 2);
    let mut client = holding(relay, &notes).await?;
    let id = notes[0].id.to_string();
    client.put(&[&author.sign(now(), 5, &[&["e", &id]], "")]).await?;
    client.finds(&[json!({"authors": [author.pubkey()], "kinds": [1]})], &[&notes[1]]).await?;
    is_all_told(&mut client, &author, &[&notes[1]]).await
}

async fn expired_events_are_not_told_of(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let soon = soon(relay);
    let events = [author.sign(now() - 5, 1, &[&["expiration", &soon]], ""), author.note(9)];
    let mut client = holding(relay, &events).await?;
    until_expired(relay).await;
    is_all_told(&mut client, &author, &[&events[1]]).await
}
