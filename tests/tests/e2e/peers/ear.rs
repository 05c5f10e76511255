//! A client that hears every frame there is, and may show who it is.

use std::time::Duration;

use event::{Event, twin::Author};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::now;
use crate::world::PATIENCE;

/// How long nothing has to come, for it to count as nothing.
const SILENCE: Duration = Duration::from_secs(2);

pub struct Ear {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    url: String,
}

impl Ear {
    pub async fn open(url: &str) -> Ear {
        let (socket, _) = connect_async(url).await.unwrap();
        Ear { socket, url: url.to_owned() }
    }

    /// One that has authenticated.
    pub async fn of(author: &Author, url: &str) -> Ear {
        let mut ear = Ear::open(url).await;
        ear.say(json!(["REQ", "who", { "kinds": [4], "limit": 0 }])).await;
        let challenge = ear.frame("AUTH").await[1].as_str().unwrap().to_owned();
        ear.frame("CLOSED").await;
        ear.show(author, &challenge).await;
        ear
    }

    /// Signs a challenge.
    pub async fn show(&mut self, author: &Author, challenge: &str) {
        let tags: &[&[&str]] = &[&["relay", &self.url], &["challenge", challenge]];
        let answer = author.sign(now(), 22_242, tags, "").into_inner();
        let answer: Value = serde_json::from_str(&answer.to_json()).unwrap();
        self.say(json!(["AUTH", answer])).await;
        let ok = self.frame("OK").await;
        assert_eq!(ok[2], true, "{ok}");
    }

    /// Subscribes; gives what is stored, after EOSE.
    pub async fn listen(&mut self, name: &str, filter: Value) -> Vec<Event> {
        self.say(json!(["REQ", name, filter])).await;
        let mut stored = Vec::new();
        loop {
            let frame = self.any().await;
            match frame[0].as_str() {
                Some("EVENT") if frame[1] == name => stored.push(event_in(&frame[2])),
                Some("EOSE") if frame[1] == name => return stored,
                Some("CLOSED") => panic!("{frame}"),
                _ => {}
            }
        }
    }

    pub async fn publish(&mut self, event: &Event) {
        let json: Value = serde_json::from_str(&event.to_json()).unwrap();
        self.say(json!(["EVENT", json])).await;
        let ok = self.frame("OK").await;
        assert_eq!(ok[2], true, "{ok}");
    }

    pub async fn say(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next event that comes.
    pub async fn event(&mut self) -> Event {
        event_in(&self.frame("EVENT").await[2])
    }

    /// The next frame with this verb.
    pub async fn frame(&mut self, verb: &str) -> Value {
        loop {
            let frame = self.any().await;
            if frame[0] == verb {
                return frame;
            }
        }
    }

    /// The events that come until nothing does for a while.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(text) = timeout(SILENCE, self.text()).await {
            let frame: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(frame[0], "EVENT", "{frame}");
            events.push(event_in(&frame[2]));
        }
        events
    }

    /// Nothing comes for a while.
    pub async fn hears_nothing(&mut self) {
        if let Ok(frame) = timeout(SILENCE, self.text()).await {
            panic!("{}: it said {frame}", self.url);
        }
    }

    async fn any(&mut self) -> Value {
        let text = timeout(PATIENCE, self.text()).await;
        let text = text.unwrap_or_else(|_| panic!("{}: it says nothing", self.url));
        serde_json::from_str(&text).unwrap()
    }

    async fn text(&mut self) -> String {
        loop {
            if let Message::Text(text) = self.socket.next().await.expect("it is open").unwrap() {
                return text.to_string();
            }
        }
    }
}

fn event_in(value: &Value) -> Event {
    Event::from_json(value.to_string().as_bytes()).unwrap()
}
