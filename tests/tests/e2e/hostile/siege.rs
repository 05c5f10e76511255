//! A relay that is attacked, a client that behaves, and what it is like for the two of them.

use std::time::{Duration, Instant};

use event::twin::Author;
use futures_util::{SinkExt, StreamExt, future::join_all};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message,
};

use crate::{
    observed::{Metrics, memory_bytes, memory_of},
    world::{PATIENCE, Relay, eventually, number, tell},
};

/// How long each attack goes on, if nobody says otherwise.
const SECONDS: f64 = 1.0;
/// How long 99 of 100 answers may take. Other tests want the machine, too.
const LATENCY_MS: u64 = 2_000;
/// By how much the relay may grow, whatever is done to it.
const GROWTH_BYTES_MAX: u64 = 300 << 20;
/// How often the good client asks for something, unless it has to wait.
const PACE: Duration = Duration::from_millis(4);
/// How often the relay's memory is looked at.
const LOOKS: Duration = Duration::from_millis(20);

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The next frame of nostr.
pub async fn answer(socket: &mut Socket) -> String {
    let answer = async {
        loop {
            if let Message::Text(text) = socket.next().await.expect("it is open").unwrap() {
                return text.to_string();
            }
        }
    };
    timeout(PATIENCE, answer).await.expect("it is answered")
}

pub struct Siege {
    name: &'static str,
    pub relay: Relay,
    _folder: TempDir,
    memory_before: u64,
    until: Instant,
    is_over: watch::Sender<bool>,
    /// How long each answer took.
    served: JoinHandle<Vec<Duration>>,
    /// The most that the relay took.
    memory: JoinHandle<u64>,
}

impl Siege {
    pub async fn begin(name: &'static str) -> Siege {
        let folder = tempfile::tempdir().unwrap();
        let relay = Relay::alone_with(folder.path(), &["--metrics-listen", "127.0.0.1:0"]).await;
        let (is_over, over) = watch::channel(false);
        let memory_before = memory_bytes(&relay.run);
        let served = tokio::spawn(behave(connect(&relay).await, over.clone()));
        let memory = tokio::spawn(watch_memory(relay.run.process().id(), over));
        let until = Instant::now() + Duration::from_secs_f64(number("TEST_SECONDS", SECONDS));
        Siege { name, relay, _folder: folder, memory_before, until, is_over, served, memory }
    }

    pub async fn connect(&self) -> Socket {
        connect(&self.relay).await
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::of(&self.relay.run).await
    }

    /// So many do this again and again, until time is up.
    pub async fn attack(&self, width: usize, deed: impl AsyncFn(usize)) {
        let again = async |first| {
            for turn in (first..).step_by(width) {
                deed(turn).await;
                if Instant::now() >= self.until {
                    return;
                }
            }
        };
        join_all((0..width).map(again)).await;
    }

    /// So many do this once, and hold on to what they have.
    pub async fn hold<T>(&self, width: usize, deed: impl AsyncFn(usize) -> T) -> Vec<T> {
        join_all((0..width).map(async |turn| deed(turn).await)).await
    }

    /// Until time is up.
    pub async fn wait(&self) {
        sleep_until(self.until.into()).await;
    }

    /// When all attackers are gone: nothing is left of them, and the good client was served.
    pub async fn end(self) {
        self.is_over.send_replace(true);
        let mut served = self.served.await.expect("the good client is served");
        let most = self.memory.await.unwrap();
        eventually(async || {
            let metrics = Metrics::of(&self.relay.run).await;
            ["aquifer_connections", "aquifer_subscriptions"].map(|name| metrics.value(name))
                == [0.0; 2]
        })
        .await;
        served.sort_unstable();
        let share = |percent: usize| served[(served.len() - 1) * percent / 100];
        let growth = most.saturating_sub(self.memory_before);
        tell(&format!(
            "hostile, {}: {} answers, p50 {:.1?}, p99 {:.1?}, the last {:.1?}; memory grew by {} MiB",
            self.name,
            served.len(),
            share(50),
            share(99),
            share(100),
            growth >> 20,
        ));
        let latency_max = Duration::from_millis(number("TEST_LATENCY_MS", LATENCY_MS));
        assert!(share(99) <= latency_max, "99 of 100 answers took up to {:?}", share(99));
        assert!(growth <= GROWTH_BYTES_MAX, "memory grew by {growth} bytes");
        self.relay.stop().await;
    }
}

async fn connect(relay: &Relay) -> Socket {
    // Small messages go out at once.
    connect_async_with_config(relay.run.url(), None, true).await.unwrap().0
}

/// Publishes, and asks for what it published; says how long each took.
async fn behave(mut socket: Socket, is_over: watch::Receiver<bool>) -> Vec<Duration> {
    let author = Author::new(1);
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut took = Vec::new();
    for number in 0.. {
        let note = author.sign(1_700_000_000 + number, 1, &[], "all is well");
        let question = json!(["REQ", "mine", {"ids": [note.id]}]).to_string();
        let [accepted, event] = [format!("[\"OK\",\"{}\",true", note.id), "[\"EVENT\"".to_owned()];
        let publication = format!("[\"EVENT\",{}]", note.to_json());
        for (frame, expected) in [(publication, accepted), (question, event)] {
            pace.tick().await;
            let asked = Instant::now();
            socket.send(Message::text(frame)).await.unwrap();
            let said = answer(&mut socket).await;
            took.push(asked.elapsed());
            assert!(said.starts_with(&expected), "{said}");
        }
        assert!(answer(&mut socket).await.starts_with("[\"EOSE\""));
        socket.send(Message::text("[\"CLOSE\",\"mine\"]")).await.unwrap();
        if *is_over.borrow() {
            break;
        }
    }
    took
}

async fn watch_memory(process: u32, is_over: watch::Receiver<bool>) -> u64 {
    let mut looks = interval(LOOKS);
    let mut most = 0;
    while !*is_over.borrow() {
        looks.tick().await;
        most = most.max(memory_of(process));
    }
    most
}
