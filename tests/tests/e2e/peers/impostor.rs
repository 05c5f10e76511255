//! Peers that are not what they should be, on either end of a tap.

use event::{Event, twin::Author};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

use super::{Ear, PEERING, SELDOM, is_asked_for, list, note, now, peers, typing, until};
use crate::{
    observed::Metrics,
    world::{PATIENCE, Relay, World},
};

/// Events of a flood: more than a tap reads in some seconds.
const FLOOD: u64 = 20_000;

/// A relay that is none.
struct Impostor {
    url: String,
    _serving: JoinHandle<()>,
}

/// What it does once it is asked for something.
#[derive(Clone, Copy)]
enum Way {
    /// It shows another key than the one that is listed.
    Stranger,
    /// It sends what nobody signed, nobody asked for, and what is no frame; and something true.
    Liar,
    /// It sends as much as goes through.
    Flood,
}

impl Impostor {
    async fn start(author: Author, way: Way) -> Impostor {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let at = url.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (author, at) = (author.clone(), at.clone());
                // Whoever taps it may leave at any time.
                tokio::spawn(async move { serve(stream, &author, &at, way).await });
            }
        });
        Impostor { url, _serving: serving }
    }
}

async fn serve(stream: TcpStream, author: &Author, url: &str, way: Way) -> Option<()> {
    let mut socket = accept_async(stream).await.ok()?;
    loop {
        let Message::Text(text) = socket.next().await?.ok()? else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        let name = frame[1].as_str().unwrap_or_default().to_owned();
        let Some(nonce) = name.strip_prefix("aquifer-tap:greeting:") else {
            if frame[0] == "REQ" {
                misbehave(&mut socket, &name, author, way).await?;
            }
            continue;
        };
        if frame[0] != "REQ" {
            continue;
        }
        let signer = if matches!(way, Way::Stranger) { &Author::new(99) } else { author };
        let proof = signer.sign(now(), 22_242, &[&["relay", url], &["challenge", nonce]], "");
        say(&mut socket, &name, &proof.to_json()).await?;
        let eose = json!(["EOSE", name]).to_string();
        socket.send(Message::text(eose)).await.ok()?;
    }
}

async fn say(socket: &mut WebSocketStream<TcpStream>, name: &str, json: &str) -> Option<()> {
    socket.send(Message::text(format!("[\"EVENT\",\"{name}\",{json}]"))).await.ok()
}

async fn misbehave(
    socket: &mut WebSocketStream<TcpStream>,
    name: &str,
    author: &Author,
    way: Way,
) -> Option<()> {
    match way {
        Way::Stranger => {}
        Way::Liar => {
            for text in ["[]", "{", "[\"EVENT\",\"x\",{}]", "[\"EVENT\"]", "[\"NOTICE\",\"hello\"]"]
            {
                socket.send(Message::text(text)).await.ok()?;
            }
            let forged = typing(7, 1).to_json().replace("typing", "lying");
            say(socket, name, &forged).await?;
            say(socket, name, &note(7, 2).to_json()).await?;
            say(socket, name, &typing(7, 3).to_json()).await?;
        }
        Way::Flood => {
            for number in 0..FLOOD {
                let event = author.sign(now(), 20_001, &[&["n", &number.to_string()]], "typing");
                say(socket, name, &event.to_json()).await?;
            }
        }
    }
    Some(())
}

/// A relay whose peer is listed as this one, and somebody who listens to it.
async fn with_peer(way: Way) -> (World, Relay, Ear, Impostor) {
    let world = World::new().await;
    let relay = world.relay_that_polls_with(SELDOM, &PEERING).await;
    let author = Author::new(50);
    let impostor = Impostor::start(author.clone(), way).await;
    list(&world, &impostor.url, &author).await;
    until(&relay, "aquifer_peers_known", 1.0).await;
    let mut ear = Ear::open(&relay.run.url()).await;
    ear.listen("all", json!({ "kinds": [20_001] })).await;
    (world, relay, ear, impostor)
}

async fn says(relay: &Relay, text: &str) {
    let source = cluster::Source::Stderr;
    relay.run.process().line(source, |line| line.contains(text), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_entry_that_leads_to_nobody_or_to_somebody_else_hurts_no_one() {
    let world = World::new().await;
    let relays = peers(&world, 2).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("ws://{}", nobody.local_addr().unwrap());
    drop(nobody);
    list(&world, &dead, &Author::new(50)).await;
    until(&relays[0], "aquifer_peers_known", 2.0).await;
    let mut ear = Ear::open(&relays[0].run.url()).await;
    ear.listen("all", json!({ "kinds": [20_001] })).await;
    says(&relays[0], "peer down").await;
    is_asked_for(&relays[1], 1).await;
    let mut publisher = Ear::open(&relays[1].run.url()).await;
    let event = typing(1, 1);
    publisher.publish(&event).await;
    assert_eq!(ear.event().await, event);

    let stranger = Impostor::start(Author::new(50), Way::Stranger).await;
    list(&world, &stranger.url, &Author::new(50)).await;
    says(&relays[0], "does not have the key").await;
    let event = typing(1, 2);
    publisher.publish(&event).await;
    assert_eq!(ear.event().await, event);
    world.end(relays).await;
}

#[tokio::test]
async fn of_a_peer_that_lies_nothing_is_believed() {
    let (world, relay, mut ear, _liar) = with_peer(Way::Liar).await;
    // What it signed and what was asked for: that much is true.
    let event = ear.event().await;
    assert_eq!((event.content.as_str(), event.pubkey), ("typing", Author::new(7).pubkey()));
    ear.hears_nothing().await;
    let metrics = Metrics::of(&relay.run).await;
    let count = |outcome| metrics.value(&format!("aquifer_tapped_total{{outcome=\"{outcome}\"}}"));
    assert_eq!((count("forged"), count("unwanted"), count("new")), (1.0, 1.0, 1.0));
    world.end([relay]).await;
}

#[tokio::test]
async fn a_peer_that_floods_is_read_slowly_and_others_are_served() {
    let (world, relay, mut ear, _flood) = with_peer(Way::Flood).await;
    ear.event().await;
    let mut publisher = Ear::open(&relay.run.url()).await;
    for number in 0..50 {
        publisher.publish(&note(1, number)).await;
    }
    let mut reader = Ear::open(&relay.run.url()).await;
    assert_eq!(reader.listen("notes", json!({ "kinds": [1] })).await.len(), 50);
    world.end([relay]).await;
}

#[tokio::test]
async fn only_whom_the_canister_lists_is_served_as_a_peer() {
    let world = World::new().await;
    let relay = world.relay_that_polls_with(SELDOM, &PEERING).await;
    let (member, other) = (Author::new(50), Author::new(51));
    list(&world, "ws://127.0.0.1:9", &member).await;
    until(&relay, "aquifer_peers_known", 1.0).await;
    let url = relay.run.url();
    let ask = json!(["REQ", "aquifer-tap:7", { "kinds": [1] }]);

    let mut nobody = Ear::open(&url).await;
    nobody.say(ask.clone()).await;
    nobody.frame("AUTH").await;
    assert!(nobody.frame("CLOSED").await[2].as_str().unwrap().starts_with("auth-required:"));
    let mut stranger = Ear::of(&other, &url).await;
    stranger.say(ask).await;
    assert!(stranger.frame("CLOSED").await[2].as_str().unwrap().starts_with("restricted:"));

    let mut peer = Ear::of(&member, &url).await;
    let proofs = peer.listen("aquifer-tap:greeting:abc", json!({ "kinds": [22_242] })).await;
    let key = relay.run.listening().public_key.clone();
    assert_eq!(proofs.iter().map(|proof| proof.pubkey.to_string()).collect::<Vec<_>>(), [key]);
    assert!(proofs[0].tags.iter().any(|tag| tag.value() == Some("abc")));
    peer.listen("aquifer-tap:7", json!({ "kinds": [1] })).await;
    let event = note(1, 1);
    Ear::open(&url).await.publish(&event).await;
    assert_eq!(peer.event().await, event);
    world.end([relay]).await;
}

#[tokio::test]
async fn a_member_gets_messages_for_those_it_names_and_none_as_a_client() {
    let world = World::new().await;
    let relay = world.relay_that_polls_with(SELDOM, &PEERING).await;
    let [ann, bob, member] = [1, 2, 50].map(Author::new);
    list(&world, "ws://127.0.0.1:9", &member).await;
    until(&relay, "aquifer_peers_known", 1.0).await;
    let url = relay.run.url();
    let to_bob = |number: u64| -> Event {
        let tags: &[&[&str]] = &[&["p", &bob.pubkey().to_string()]];
        ann.sign(now() - number, 1_059, tags, "sealed").into_inner()
    };
    let mut publisher = Ear::open(&url).await;
    publisher.publish(&to_bob(9)).await;

    let mut client = Ear::of(&member, &url).await;
    for filter in
        [json!({ "kinds": [1_059] }), json!({}), json!({ "ids": [to_bob(9).id.to_string()] })]
    {
        assert!(client.listen("all", filter).await.is_empty());
    }
    client.say(json!(["COUNT", "all", {}])).await;
    assert_eq!(client.frame("COUNT").await[2]["count"], 0);
    let mut unnamed = Ear::of(&member, &url).await;
    unnamed.listen("aquifer-tap:1", json!({ "kinds": [1_059] })).await;
    unnamed.listen("aquifer-tap:2", json!({})).await;
    let all_kinds = json!({ "#p": [bob.pubkey().to_string()] });
    unnamed.listen("aquifer-tap:3", all_kinds).await;
    let mut named = Ear::of(&member, &url).await;
    let for_bob = json!({ "kinds": [1_059], "#p": [bob.pubkey().to_string()] });
    named.listen("aquifer-tap:1", for_bob).await;
    let message = to_bob(1);
    publisher.publish(&message).await;
    assert_eq!(named.event().await, message);
    unnamed.hears_nothing().await;
    client.hears_nothing().await;
    world.end([relay]).await;
}
