//! Somebody who counts what comes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use event::{EventId, Filter};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::{events::Events, world::PATIENCE};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Somebody who listens from the first event to the last.
pub struct Subscriber {
    filter: Filter,
    url: String,
    seen: Arc<Mutex<HashMap<EventId, usize>>>,
    _listening: JoinHandle<()>,
}

impl Subscriber {
    /// Returns after EOSE.
    pub async fn open(url: String, filter: &Value) -> Subscriber {
        let (mut socket, _) = connect_async(&url).await.unwrap();
        socket.send(Message::text(json!(["REQ", "all", filter]).to_string())).await.unwrap();
        // Pings come between.
        let eose = loop {
            if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
                break text;
            }
        };
        assert!(eose.starts_with("[\"EOSE\""), "{eose}");
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let listening = tokio::spawn(listen(socket, seen.clone()));
        let filter = Filter::from_json(filter.to_string().as_bytes()).unwrap();
        Subscriber { filter: Filter { limit: None, ..filter }, url, seen, _listening: listening }
    }

    /// All that is left in the end was seen, each event once. Of what was replaced or deleted on its
    /// way some may never have come here; but nothing came twice, and nothing that was not asked for.
    pub async fn saw_each_once(&self, expected: &Events) {
        let wanted: Vec<EventId> =
            expected.values().filter(|e| self.filter.matches(e)).map(|e| e.id).collect();
        let started = Instant::now();
        let missing = || {
            let seen = self.seen.lock().unwrap();
            wanted.iter().filter(|id| !seen.contains_key(id)).count()
        };
        while missing() > 0 {
            assert!(started.elapsed() < PATIENCE, "{}: {} never came", self.url, missing());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let seen = self.seen.lock().unwrap();
        let twice = seen.iter().filter(|(_, times)| **times > 1).count();
        assert_eq!(twice, 0, "{}: events came more than once", self.url);
        let unasked = expected.values().filter(|e| !self.filter.matches(e));
        let unasked = unasked.filter(|event| seen.contains_key(&event.id)).count();
        assert_eq!(unasked, 0, "{}: nobody asked for these", self.url);
    }
}

async fn listen(mut socket: Socket, seen: Arc<Mutex<HashMap<EventId, usize>>>) {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame[0], "EVENT", "{frame}");
        let id: EventId = frame[2]["id"].as_str().unwrap().parse().unwrap();
        *seen.lock().unwrap().entry(id).or_default() += 1;
    }
}
