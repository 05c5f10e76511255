//! A client that a case drives: it sends frames as they are told, and waits for what must come no longer
//! than its patience lasts.
//!
//! Frames that nobody has asked for yet wait in the order they came. Whoever looks for an answer takes it
//! from among them, so answers to several questions may come in any order.

use std::{collections::VecDeque, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use event::{Event, EventId};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::{
    Relay,
    author::{Author, json_of, now},
    difference, text_of,
};

/// Between two looks whether a relay has an answer right: some say OK before they can find an event.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Events on their way at a time.
const UNANSWERED_MAX: usize = 100;

pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    relay_url: String,
    patience: Duration,
    silence: Duration,
    waiting: VecDeque<Value>,
    challenge: Option<String>,
    questions: usize,
}

/// What a relay says to an event.
#[derive(Debug)]
pub struct Said {
    pub accepted: bool,
    pub message: String,
}

/// How a relay's answer to a REQ ends.
#[derive(Debug)]
pub enum End {
    /// The whole frame: it may have a hint (NIP-67).
    Eose(Value),
    Closed(String),
}

impl Client {
    pub async fn connect(relay: &Relay) -> Result<Client> {
        let connecting = timeout_at(Instant::now() + relay.patience, connect_async(&relay.url));
        let (socket, _) = connecting
            .await
            .map_err(|_| anyhow!("it takes no connection"))?
            .context("it takes no connection")?;
        Ok(Client {
            socket,
            relay_url: relay.known_as.clone(),
            patience: relay.patience,
            silence: relay.silence,
            waiting: VecDeque::new(),
            challenge: None,
            questions: 0,
        })
    }

    /// How long to wait for what must come.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// How long to wait for what must not.
    pub fn silence(&self) -> Duration {
        self.silence
    }

    pub async fn send(&mut self, frame: Value) -> Result<()> {
        self.send_text(frame.to_string()).await
    }

    pub async fn send_text(&mut self, text: String) -> Result<()> {
        self.socket.send(Message::text(text)).await.context("the connection broke")
    }

    /// The first frame of this kind, which must come.
    pub async fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        match self.within(self.patience, is_it).await? {
            Some(frame) => Ok(frame),
            None => bail!("expected {what}, came {}", self.unasked()),
        }
    }

    /// The first frame of this kind, if one comes in time.
    pub async fn within(
        &mut self,
        time: Duration,
        is_it: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>> {
        if let Some(place) = self.waiting.iter().position(&is_it) {
            return Ok(self.waiting.remove(place));
        }
        let end = Instant::now() + time;
        while let Ok(frame) = timeout_at(end, self.receive()).await {
            let frame = frame?;
            if is_it(&frame) {
                return Ok(Some(frame));
            }
            self.waiting.push_back(frame);
        }
        Ok(None)
    }

    async fn receive(&mut self) -> Result<Value> {
        loop {
            let text = match self.socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_))) | None => bail!("the relay closed the connection"),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(error).context("the connection broke"),
            };
            let frame: Value = serde_json::from_str(&text)
                .with_context(|| format!("the relay says what is no JSON: {text:.100}"))?;
            if frame[0] != "AUTH" {
                return Ok(frame);
            }
            self.challenge = Some(text_of(&frame[1]).to_owned());
        }
    }

    /// What came and was not waited for.
    fn unasked(&self) -> String {
        match self.waiting.back() {
            None => "nothing".into(),
            Some(last) => format!("{last:.200}"),
        }
    }

    /// Publishes, and waits for the OK.
    pub async fn publish(&mut self, event: &Event) -> Result<Said> {
        self.publish_json(&json_of(event), &event.id).await
    }

    /// The same with an event that may have been bent.
    pub async fn publish_json(&mut self, event: &Value, id: &EventId) -> Result<Said> {
        self.send(json!(["EVENT", event])).await?;
        self.ok(id).await
    }

    pub async fn ok(&mut self, id: &EventId) -> Result<Said> {
        let id = json!(id.to_string());
        let frame = self
            .wait_for("an OK with the event's id", |frame| frame[0] == "OK" && frame[1] == id)
            .await?;
        match (frame[2].as_bool(), frame[3].as_str()) {
            (Some(accepted), Some(message)) => Ok(Said { accepted, message: message.to_owned() }),
            _ => bail!("expected OK with true or false and a message, came {frame}"),
        }
    }

    /// Publishes what has to be taken, one after the other.
    pub async fn put(&mut self, events: &[&Event]) -> Result<()> {
        for event in events {
            self.publish(event).await?.is_taken()?;
        }
        Ok(())
    }

    /// The same with many, which may be taken in any order: a relay need not answer one before it looks at
    /// the next.
    pub async fn put_many(&mut self, events: &[Event]) -> Result<()> {
        for some in events.chunks(UNANSWERED_MAX) {
            for event in some {
                self.send(json!(["EVENT", json_of(event)])).await?;
            }
            for event in some {
                self.ok(&event.id).await?.is_taken()?;
            }
        }
        Ok(())
    }

    /// Sends what is no event, in a frame that is whole: it has to be refused, in whatever way.
    pub async fn is_refused(&mut self, event: &Value) -> Result<()> {
        self.send(json!(["EVENT", event])).await?;
        let verdict = |frame: &Value| frame[0] == "OK" || frame[0] == "NOTICE";
        match self.within(self.patience, verdict).await {
            Ok(Some(frame)) if frame[0] == "OK" && frame[2] != false => {
                bail!("expected a refusal, came {frame}")
            }
            Ok(None) => bail!("expected a refusal, came {}", self.unasked()),
            // Whoever hangs up has not taken it.
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    /// Subscribes, and reads what is stored until the answer ends.
    pub async fn req(&mut self, name: &str, filters: &[Value]) -> Result<(Vec<Value>, End)> {
        self.send(frame("REQ", name, filters)).await?;
        self.stored(name).await
    }

    /// What is stored, until the answer ends.
    pub async fn stored(&mut self, name: &str) -> Result<(Vec<Value>, End)> {
        let mut events = Vec::new();
        loop {
            let is_ours = |frame: &Value| {
                matches!(text_of(&frame[0]), "EVENT" | "EOSE" | "CLOSED") && frame[1] == name
            };
            let mut frame = self.wait_for("EVENT, EOSE or CLOSED with its name", is_ours).await?;
            match text_of(&frame[0]) {
                "EVENT" => events.push(frame[2].take()),
                "EOSE" => return Ok((events, End::Eose(frame))),
                _ => return Ok((events, End::Closed(text_of(&frame[2]).to_owned()))),
            }
        }
    }

    /// Subscribes, and stays so. Gives the ids of what was stored.
    pub async fn subscribe(&mut self, name: &str, filters: &[Value]) -> Result<Vec<String>> {
        match self.req(name, filters).await? {
            (events, End::Eose(_)) => Ok(ids(&events)),
            (_, End::Closed(reason)) => bail!("expected EOSE, came CLOSED {reason}"),
        }
    }

    /// Asks once, under a name of its own.
    pub async fn query(&mut self, filters: &[Value]) -> Result<Vec<Value>> {
        match self.ask(filters).await? {
            (events, End::Eose(_)) => Ok(events),
            (_, End::Closed(reason)) => bail!("expected EOSE, came CLOSED {reason}"),
        }
    }

    /// The same where a refusal is an answer, too.
    pub async fn ask(&mut self, filters: &[Value]) -> Result<(Vec<Value>, End)> {
        let name = self.name();
        let answer = self.req(&name, filters).await?;
        if matches!(answer.1, End::Eose(_)) {
            self.send(json!(["CLOSE", name])).await?;
        }
        Ok(answer)
    }

    fn name(&mut self) -> String {
        self.questions += 1;
        format!("question {}", self.questions)
    }

    /// These events are found, in this order.
    pub async fn finds(&mut self, filters: &[Value], expected: &[&Event]) -> Result<()> {
        let expected: Vec<String> = expected.iter().map(|event| event.id.to_string()).collect();
        self.comes_to(filters, &expected, |found| found == expected).await
    }

    /// These events are found, in whatever order.
    pub async fn finds_all(&mut self, filters: &[Value], expected: &[&Event]) -> Result<()> {
        let mut expected: Vec<String> = expected.iter().map(|event| event.id.to_string()).collect();
        expected.sort();
        let is_right = |found: &[String]| {
            let mut found = found.to_vec();
            found.sort();
            found == expected
        };
        self.comes_to(filters, &expected, is_right).await
    }

    /// Nothing is found, at the latest when patience ends.
    pub async fn finds_none(&mut self, filters: &[Value]) -> Result<()> {
        self.finds(filters, &[]).await
    }

    /// Nothing is found, nor after a while.
    pub async fn keeps_none(&mut self, filters: &[Value]) -> Result<()> {
        sleep(self.silence).await;
        let found = ids(&self.query(filters).await?);
        ensure!(found.is_empty(), "{}", difference(&[], &found));
        Ok(())
    }

    /// It shows nothing, whether it says so or refuses in whatever way.
    pub async fn is_shown_none(&mut self, filters: &[Value]) -> Result<()> {
        let name = self.name();
        self.send(frame("REQ", &name, filters)).await?;
        let is_answer = |frame: &Value| match text_of(&frame[0]) {
            "EVENT" | "EOSE" | "CLOSED" => frame[1] == name.as_str(),
            verb => verb == "NOTICE",
        };
        match self.within(self.patience, is_answer).await {
            Ok(Some(frame)) if frame[0] == "EVENT" => {
                bail!("expected no events, came one")
            }
            // Whoever hangs up shows nothing, either.
            Ok(Some(_)) | Err(_) => Ok(()),
            Ok(None) => bail!("expected an answer, came {}", self.unasked()),
        }
    }

    async fn comes_to(
        &mut self,
        filters: &[Value],
        expected: &[String],
        is_right: impl Fn(&[String]) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + self.patience;
        loop {
            let found = ids(&self.query(filters).await?);
            if is_right(&found) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{}", difference(expected, &found));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// A live event comes.
    pub async fn hears(&mut self, name: &str, event: &Event) -> Result<()> {
        let came =
            self.wait_for("a live event", |frame| frame[0] == "EVENT" && frame[1] == name).await?;
        let id = event.id.to_string();
        ensure!(came[2]["id"] == id, "expected the live event {id:.8}, came {came:.200}");
        Ok(())
    }

    /// No live event comes.
    pub async fn hears_nothing(&mut self, name: &str) -> Result<()> {
        let is_ours = |frame: &Value| frame[0] == "EVENT" && frame[1] == name;
        match self.within(self.silence, is_ours).await? {
            Some(frame) => bail!("expected no live event, came {frame:.200}"),
            None => Ok(()),
        }
    }

    /// The whole answer to a COUNT, or why there is none.
    pub async fn counts(&mut self, filters: &[Value]) -> Result<Result<Value, String>> {
        let name = self.name();
        self.send(frame("COUNT", &name, filters)).await?;
        let is_ours = |frame: &Value| {
            matches!(text_of(&frame[0]), "COUNT" | "CLOSED") && frame[1] == name.as_str()
        };
        let mut answer = self.wait_for("COUNT or CLOSED with its name", is_ours).await?;
        Ok(match text_of(&answer[0]) {
            "COUNT" => Ok(answer[2].take()),
            _ => Err(text_of(&answer[2]).to_owned()),
        })
    }

    /// COUNT comes to this number.
    pub async fn counts_to(&mut self, filters: &[Value], expected: u64) -> Result<()> {
        let end = Instant::now() + self.patience;
        loop {
            let told = self.counts(filters).await?.map_err(|reason| anyhow!("CLOSED {reason}"))?;
            if told["count"] == expected {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("expected a count of {expected}, came {told:.100}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What to sign. A relay may tell it at once, or when something is asked for that it does not give to
    /// everybody.
    pub async fn challenge(&mut self) -> Result<String> {
        self.within(self.silence, |_| false).await?;
        if self.challenge.is_none() {
            let protected = Author::anybody(0).sign(now(), 1, &[&["-"]], "");
            self.send(json!(["REQ", "provoked", {"kinds": [4, 1059], "limit": 1}])).await?;
            self.send(json!(["EVENT", json_of(&protected)])).await?;
            // A relay answers both, with a challenge or without.
            let id = json!(protected.id.to_string());
            self.within(self.patience, |frame| frame[0] == "OK" && frame[1] == id).await?;
            if self.challenge.is_none() {
                self.within(self.silence, |_| false).await?;
            }
            self.send(json!(["CLOSE", "provoked"])).await?;
        }
        self.challenge.clone().context("expected a challenge (AUTH), came none")
    }

    /// The challenge, if the relay has told it already.
    pub fn told_challenge(&self) -> Option<String> {
        self.challenge.clone()
    }

    /// Signs in, which has to work.
    pub async fn authenticate(&mut self, author: &Author) -> Result<()> {
        let challenge = self.challenge().await?;
        let answer = self.answer(author, &challenge);
        self.auth(&answer).await?.is_taken().context("signing in")
    }

    /// What answers a challenge.
    pub fn answer(&self, author: &Author, challenge: &str) -> Event {
        let tags: [&[&str]; 2] = [&["relay", &self.relay_url], &["challenge", challenge]];
        author.sign(now(), 22_242, &tags, "")
    }

    /// Answers a challenge, however well.
    pub async fn auth(&mut self, answer: &Event) -> Result<Said> {
        self.send(json!(["AUTH", json_of(answer)])).await?;
        self.ok(&answer.id).await
    }
}

impl Said {
    pub fn is_taken(&self) -> Result<()> {
        ensure!(self.accepted, "expected OK true, came OK false {:?}", self.message);
        Ok(())
    }

    pub fn is_refused(&self) -> Result<()> {
        ensure!(!self.accepted, "expected OK false, came OK true {:?}", self.message);
        Ok(())
    }

    /// Refused, with this word before the colon.
    pub fn is_refused_as(&self, prefix: &str) -> Result<()> {
        self.is_refused()?;
        begins_with(&self.message, prefix)
    }
}

/// Whether a message begins with this word and a colon.
pub fn begins_with(message: &str, prefix: &str) -> Result<()> {
    let has_it = message.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(':'));
    ensure!(has_it, "expected a message that begins with {prefix}: and came {message:?}");
    Ok(())
}

/// `[verb, name, filters …]`
pub fn frame(verb: &str, name: &str, filters: &[Value]) -> Value {
    let mut frame = vec![json!(verb), json!(name)];
    frame.extend_from_slice(filters);
    Value::Array(frame)
}

pub fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| text_of(&event["id"]).to_owned()).collect()
}
