//! Messages between people: direct messages (NIP-04) and gift wraps (NIP-59, which carry those of NIP-17).
//! Who may see them is asked on every way that leads to an event, and nobody else may learn of them.

use anyhow::{Result, anyhow, ensure};
use event::Event;
use serde_json::{Value, json};

use super::{
    Relay,
    author::{Author, json_of, now},
    cases,
    client::{Client, End, begins_with},
    nip77::Other,
};

const DIRECT_MESSAGE: u16 = 4;
const GIFT_WRAP: u16 = 1_059;
const PASSING_GIFT_WRAP: u16 = 21_059;

cases! {
    "nip04" needs [4, 42]:
        a_stranger_finds_no_direct_message,
        an_authenticated_stranger_finds_no_direct_message,
        a_stranger_hears_no_direct_message,
        the_receiver_finds_and_hears_direct_messages,
        the_sender_finds_and_hears_direct_messages;
    "nip04" needs [4, 42, 45]:
        a_stranger_counts_no_direct_message;
    "nip04" needs [4, 42, 77]:
        a_stranger_reconciles_no_direct_message;
    "nip59" needs [59, 42]:
        anybody_may_send_a_gift_wrap,
        a_stranger_finds_no_gift_wrap,
        an_authenticated_stranger_finds_no_gift_wrap,
        a_stranger_hears_no_gift_wrap,
        the_receiver_finds_and_hears_gift_wraps,
        several_keys_find_the_gift_wraps_of_each,
        an_open_subscription_does_not_show_what_is_not_for_its_keys,
        withheld_events_use_up_no_limit,
        who_asks_for_gift_wraps_alone_is_told_auth_required,
        passing_gift_wraps_are_heard_by_their_receiver_alone;
    "nip59" needs [59, 42, 45]:
        a_stranger_counts_no_gift_wrap,
        the_receiver_counts_gift_wraps;
    "nip59" needs [59, 42, 77]:
        a_stranger_reconciles_no_gift_wrap,
        the_receiver_reconciles_gift_wraps;
    "nip59" needs [59]:
        a_seal_without_its_wrap_is_not_stored,
        zap_requests_are_not_stored;
}

/// Two people, and a relay that holds a message from one to the other, with a note for all beside it.
struct Scene {
    sender: Author,
    receiver: Author,
    message: Event,
    note: Event,
}

impl Scene {
    async fn with(relay: &Relay, kind: u16) -> Result<Scene> {
        let [sender, receiver] = relay.authors();
        let message = sign(&sender, &receiver, kind, 5);
        let note = sender.note(10);
        let mut client = relay.client().await?;
        client.put(&[&note, &message]).await?;
        client.finds(&[json!({"ids": [note.id]})], &[&note]).await?;
        Ok(Scene { sender, receiver, message, note })
    }

    fn next_message(&self) -> Event {
        sign(&self.sender, &self.receiver, self.message.kind.0, 1)
    }

    /// All questions that the message is an answer to.
    fn ways_to_it(&self) -> [Value; 6] {
        let (kind, id) = (self.message.kind, self.message.id);
        let (from, to) = (self.sender.pubkey(), self.receiver.pubkey());
        [
            json!({"ids": [id]}),
            json!({"authors": [from]}),
            json!({"#p": [to]}),
            json!({"kinds": [kind], "#p": [to]}),
            json!({"kinds": [kind], "authors": [from]}),
            json!({"kinds": [kind], "since": self.message.created_at, "limit": 500}),
        ]
    }

    /// Whatever is asked, the message does not come.
    async fn is_kept_from(&self, client: &mut Client) -> Result<()> {
        for filter in self.ways_to_it() {
            let (found, _) = client.ask(std::slice::from_ref(&filter)).await?;
            self.is_not_among(&found, &filter)?;
        }
        let everything = json!({"since": self.message.created_at, "limit": 500});
        let (found, _) = client.ask(std::slice::from_ref(&everything)).await?;
        self.is_not_among(&found, &everything)
    }

    fn is_not_among(&self, found: &[Value], filter: &Value) -> Result<()> {
        let id = self.message.id.to_string();
        let is_it = |event: &&Value| event["id"] == id.as_str();
        ensure!(!found.iter().any(|event| is_it(&event)), "{filter} shows somebody else's message");
        Ok(())
    }

    /// Stored and live.
    async fn is_shown_to(&self, relay: &Relay, someone: &Author) -> Result<()> {
        let mut client = relay.client().await?;
        client.authenticate(someone).await?;
        client.finds(&[json!({"ids": [self.message.id]})], &[&self.message]).await?;
        let by_receiver = json!({"kinds": [self.message.kind], "#p": [self.receiver.pubkey()]});
        client.finds(std::slice::from_ref(&by_receiver), &[&self.message]).await?;
        client.subscribe("live", &[by_receiver]).await?;
        let next = self.next_message();
        relay.client().await?.put(&[&next]).await?;
        client.hears("live", &next).await
    }

    async fn is_not_heard(&self, relay: &Relay) -> Result<()> {
        let mut stranger = relay.client().await?;
        let (from, to) = (self.sender.pubkey(), self.receiver.pubkey());
        for (name, filter) in [("from", json!({"authors": [from]})), ("to", json!({"#p": [to]}))] {
            stranger.req(name, &[filter]).await?;
        }
        let note = self.sender.note(0);
        relay.client().await?.put(&[&self.next_message(), &note]).await?;
        stranger.hears("from", &note).await?;
        stranger.hears_nothing("to").await
    }

    async fn is_not_counted(&self, relay: &Relay) -> Result<()> {
        let mut stranger = relay.client().await?;
        let mine = json!({"authors": [self.sender.pubkey()]});
        stranger.counts_to(&[mine], 1).await?;
        for filter in [json!({"ids": [self.message.id]}), json!({"#p": [self.receiver.pubkey()]})] {
            // A refusal says nothing, either.
            if let Ok(told) = stranger.counts(std::slice::from_ref(&filter)).await? {
                ensure!(told["count"] == 0, "expected a count of 0 for {filter}, came {told}");
            }
        }
        Ok(())
    }

    async fn is_not_reconciled(&self, relay: &Relay) -> Result<()> {
        let mut other = Other::with(&[])?;
        let filter = json!({"authors": [self.sender.pubkey()]});
        other.reconcile(&mut relay.client().await?, "neg", &filter).await?;
        other.needs(&[&self.note])
    }
}

fn sign(from: &Author, to: &Author, kind: u16, age: u64) -> Event {
    from.sign(now() - age, kind, &[&["p", &to.pubkey()]], "sealed?iv=AA==")
}

async fn stranger_with_a_key(relay: &Relay) -> Result<Client> {
    let mut stranger = relay.client().await?;
    stranger.authenticate(&relay.author()).await?;
    Ok(stranger)
}

async fn a_stranger_finds_no_direct_message(relay: &Relay) -> Result<()> {
    Scene::with(relay, DIRECT_MESSAGE).await?.is_kept_from(&mut relay.client().await?).await
}

async fn an_authenticated_stranger_finds_no_direct_message(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, DIRECT_MESSAGE).await?;
    scene.is_kept_from(&mut stranger_with_a_key(relay).await?).await
}

async fn a_stranger_hears_no_direct_message(relay: &Relay) -> Result<()> {
    Scene::with(relay, DIRECT_MESSAGE).await?.is_not_heard(relay).await
}

async fn the_receiver_finds_and_hears_direct_messages(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, DIRECT_MESSAGE).await?;
    scene.is_shown_to(relay, &scene.receiver).await
}

async fn the_sender_finds_and_hears_direct_messages(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, DIRECT_MESSAGE).await?;
    scene.is_shown_to(relay, &scene.sender).await
}

async fn a_stranger_counts_no_direct_message(relay: &Relay) -> Result<()> {
    Scene::with(relay, DIRECT_MESSAGE).await?.is_not_counted(relay).await
}

async fn a_stranger_reconciles_no_direct_message(relay: &Relay) -> Result<()> {
    Scene::with(relay, DIRECT_MESSAGE).await?.is_not_reconciled(relay).await
}

async fn anybody_may_send_a_gift_wrap(relay: &Relay) -> Result<()> {
    let [sender, receiver] = relay.authors();
    relay.client().await?.put(&[&sign(&sender, &receiver, GIFT_WRAP, 5)]).await
}

async fn a_stranger_finds_no_gift_wrap(relay: &Relay) -> Result<()> {
    Scene::with(relay, GIFT_WRAP).await?.is_kept_from(&mut relay.client().await?).await
}

async fn an_authenticated_stranger_finds_no_gift_wrap(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, GIFT_WRAP).await?;
    scene.is_kept_from(&mut stranger_with_a_key(relay).await?).await
}

async fn a_stranger_hears_no_gift_wrap(relay: &Relay) -> Result<()> {
    Scene::with(relay, GIFT_WRAP).await?.is_not_heard(relay).await
}

async fn the_receiver_finds_and_hears_gift_wraps(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, GIFT_WRAP).await?;
    scene.is_shown_to(relay, &scene.receiver).await
}

async fn several_keys_find_the_gift_wraps_of_each(relay: &Relay) -> Result<()> {
    let [one, two] = [Scene::with(relay, GIFT_WRAP).await?, Scene::with(relay, GIFT_WRAP).await?];
    let mut client = relay.client().await?;
    for receiver in [&one.receiver, &two.receiver] {
        client.authenticate(receiver).await?;
    }
    let ids = json!({"ids": [one.message.id, two.message.id]});
    client.finds_all(&[ids], &[&one.message, &two.message]).await
}

async fn an_open_subscription_does_not_show_what_is_not_for_its_keys(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, GIFT_WRAP).await?;
    let mut stranger = stranger_with_a_key(relay).await?;
    stranger.req("all", &[json!({"authors": [scene.sender.pubkey()], "limit": 0})]).await?;
    let note = scene.sender.note(0);
    relay.client().await?.put(&[&scene.next_message(), &note]).await?;
    stranger.hears("all", &note).await?;
    stranger.hears_nothing("all").await
}

async fn withheld_events_use_up_no_limit(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, GIFT_WRAP).await?;
    let newest = json!({"authors": [scene.sender.pubkey()], "limit": 1});
    relay.client().await?.finds(&[newest], &[&scene.note]).await
}

async fn who_asks_for_gift_wraps_alone_is_told_auth_required(relay: &Relay) -> Result<()> {
    let filter = json!({"kinds": [GIFT_WRAP], "#p": [relay.author().pubkey()]});
    match relay.client().await?.ask(&[filter]).await? {
        (_, End::Closed(reason)) => begins_with(&reason, "auth-required"),
        (_, End::Eose(_)) => Err(anyhow!("expected CLOSED with auth-required: and came EOSE")),
    }
}

async fn passing_gift_wraps_are_heard_by_their_receiver_alone(relay: &Relay) -> Result<()> {
    let [sender, receiver] = relay.authors();
    let filter = [json!({"authors": [sender.pubkey()]})];
    let [mut to, mut stranger] = [relay.client().await?, relay.client().await?];
    to.authenticate(&receiver).await?;
    to.subscribe("live", &filter).await?;
    stranger.subscribe("live", &filter).await?;
    let passing = sign(&sender, &receiver, PASSING_GIFT_WRAP, 0);
    relay.client().await?.put(&[&passing]).await?;
    to.hears("live", &passing).await?;
    stranger.hears_nothing("live").await?;
    to.keeps_none(&[json!({"ids": [passing.id]})]).await
}

async fn a_stranger_counts_no_gift_wrap(relay: &Relay) -> Result<()> {
    Scene::with(relay, GIFT_WRAP).await?.is_not_counted(relay).await
}

async fn the_receiver_counts_gift_wraps(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, GIFT_WRAP).await?;
    let mut client = relay.client().await?;
    client.authenticate(&scene.receiver).await?;
    let mine = json!({"kinds": [GIFT_WRAP], "#p": [scene.receiver.pubkey()]});
    client.counts_to(&[mine], 1).await
}

async fn a_stranger_reconciles_no_gift_wrap(relay: &Relay) -> Result<()> {
    Scene::with(relay, GIFT_WRAP).await?.is_not_reconciled(relay).await
}

async fn the_receiver_reconciles_gift_wraps(relay: &Relay) -> Result<()> {
    let scene = Scene::with(relay, GIFT_WRAP).await?;
    let mut client = relay.client().await?;
    client.authenticate(&scene.receiver).await?;
    let mut other = Other::with(&[])?;
    other.reconcile(&mut client, "neg", &json!({"#p": [scene.receiver.pubkey()]})).await?;
    other.needs(&[&scene.message])
}

async fn a_seal_without_its_wrap_is_not_stored(relay: &Relay) -> Result<()> {
    is_not_stored(relay, 13).await
}

async fn zap_requests_are_not_stored(relay: &Relay) -> Result<()> {
    is_not_stored(relay, 9_734).await
}

/// It is refused, or at least not to be found.
pub async fn is_not_stored(relay: &Relay, kind: u16) -> Result<()> {
    let event = relay.author().sign(now(), kind, &[], "");
    let mut client = relay.client().await?;
    client.send(json!(["EVENT", json_of(&event)])).await?;
    client.keeps_none(&[json!({"ids": [event.id]})]).await
}
