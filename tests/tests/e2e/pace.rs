//! Publishing at a fixed rate.

use std::{collections::HashSet, time::Duration};

use event::{Event, EventId};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{sync::watch, time::interval};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// Publishes so many events a second at one relay, whatever it answers, over as many connections as it takes: what was not answered for before one
/// broke is sent again.
pub async fn publish(url: String, events: Vec<Event>, rate: u32, count: watch::Sender<usize>) {
    let ids: HashSet<EventId> = events.iter().map(|event| event.id).collect();
    let mut answered = HashSet::new();
    let mut pace = interval(Duration::from_secs(1) / rate);
    while answered.len() < ids.len() {
        let Ok((socket, _)) = connect_async(&url).await else {
            // It is down, and comes back.
            pace.tick().await;
            continue;
        };
        let (mut sink, mut stream) = socket.split();
        let left: Vec<&Event> = events.iter().filter(|e| !answered.contains(&e.id)).collect();
        let sending = async {
            for event in left {
                pace.tick().await;
                let frame = format!(r#"["EVENT",{}]"#, event.to_json());
                if sink.send(Message::text(frame)).await.is_err() {
                    return;
                }
            }
        };
        let hearing = async {
            while answered.len() < ids.len() {
                let Some(Ok(message)) = stream.next().await else { return };
                let Message::Text(text) = message else { continue };
                if answered.insert(answered_for(&text)) {
                    count.send_modify(|count| *count += 1);
                }
            }
        };
        tokio::join!(sending, hearing);
    }
}

/// Which event this OK is for. What was deleted already is refused, and rightly; nothing else is.
fn answered_for(text: &str) -> EventId {
    let frame: Value = serde_json::from_str(text).unwrap();
    let is_deleted = frame[3].as_str().is_some_and(|reason| reason.starts_with("blocked: "));
    assert!(frame[0] == "OK" && (frame[2] == true || is_deleted), "{frame}");
    frame[1].as_str().unwrap().parse().unwrap()
}
