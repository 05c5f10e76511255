//! One who listens: what it heard, and what it should have heard.

use std::collections::HashMap;

use event::{
    Event, EventId, Filter, PublicKey,
    twin::{Author, answer},
};
use serde_json::{Value, json};

use super::Past;
use crate::harness::Client;

/// Of the event that ends a story.
pub const END_KIND: u16 = 29_999;
const END: &str = "end";
const AFTERWARDS: &str = "afterwards";
/// Kinds that are not for everybody.
const GUARDED: [u16; 3] = [4, 1_059, 21_059];

/// A client with some authors' keys.
pub struct Listener {
    client: Client,
    keys: Vec<PublicKey>,
    heard: HashMap<String, Heard>,
}

/// What came for one subscription, in order.
#[derive(Debug, Default)]
struct Heard {
    /// The number of the event that had not yet been published then.
    opened_before: usize,
    stored: Vec<EventId>,
    /// What EOSE said of it.
    hint: Option<String>,
    closed: Option<String>,
    live: Vec<EventId>,
}

impl Listener {
    pub async fn new(client: Client, authors: &[Author]) -> Listener {
        let keys = authors.iter().map(Author::pubkey).collect();
        let mut listener = Listener { client, keys, heard: HashMap::new() };
        listener.req(END, json!([{"kinds": [END_KIND]}]), 0).await;
        listener.hear_until(END, |heard| heard.hint.is_some()).await;
        listener
    }

    /// Opens a subscription.
    pub async fn open(&mut self, name: usize, filters: &[Filter], opened_before: usize) {
        self.req(&name.to_string(), json!(filters), opened_before).await;
    }

    async fn req(&mut self, name: &str, filters: Value, opened_before: usize) {
        self.heard.insert(name.to_owned(), Heard { opened_before, ..Heard::default() });
        self.client.req(name, filters.as_array().unwrap()).await;
    }

    /// Until what is stored was sent, or refused.
    pub async fn hear_answer(&mut self, name: usize) {
        self.hear_until(&name.to_string(), |heard| heard.hint.is_some() || heard.closed.is_some())
            .await;
    }

    /// Until the story's last event. Then nothing is on its way any more.
    pub async fn hear_the_end(&mut self) {
        self.hear_until(END, |heard| !heard.live.is_empty()).await;
        // The end itself may be on its way to other subscriptions: EOSE comes when it was handed out.
        self.req(AFTERWARDS, json!([{"limit": 0}]), 0).await;
        let names: Vec<String> = self.heard.keys().cloned().collect();
        for name in names {
            self.hear_until(&name, |heard| heard.hint.is_some() || heard.closed.is_some()).await;
        }
    }

    pub fn hear_what_is_here(&mut self) {
        while let Some(frame) = self.client.frame_here() {
            self.note(&frame);
        }
    }

    async fn hear_until(&mut self, name: &str, is_enough: impl Fn(&Heard) -> bool) {
        while !is_enough(&self.heard[name]) {
            let frame = self.client.next_frame().await;
            self.note(&frame);
        }
    }

    fn note(&mut self, frame: &Value) {
        let heard = frame[1].as_str().and_then(|name| self.heard.get_mut(name));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        match (frame[0].as_str().unwrap(), heard) {
            ("EVENT", Some(heard)) => {
                let id = frame[2]["id"].as_str().unwrap().parse().unwrap();
                let list = if heard.hint.is_some() { &mut heard.live } else { &mut heard.stored };
                list.push(id);
            }
            ("EOSE", Some(heard)) => {
                assert_eq!(heard.hint.replace(text(&frame[2][0])), None, "a second EOSE")
            }
            ("CLOSED", Some(heard)) => heard.closed = Some(text(&frame[2])),
            // The challenge that comes with a refusal.
            ("AUTH", _) => {}
            _ => panic!("nobody asked for {frame}"),
        }
    }

    /// Whether a subscription got all that it should have, and nothing else.
    pub fn check(&self, name: usize, filters: &[Filter], is_awaited: bool, past: &Past) {
        let heard = &self.heard[&name.to_string()];
        if self.is_refused(heard, filters) {
            return;
        }
        let began = heard.opened_before;
        let choices = if is_awaited { began..began + 1 } else { began..past.held.len() };
        let is_right = choices.clone().any(|noted| {
            self.is_live_right(heard, filters, noted, is_awaited, past)
                && (noted..choices.end)
                    .any(|read| self.is_stored_right(heard, filters, noted, read, past))
        });
        assert!(
            is_right,
            "{:?} hears of {filters:?}, opened before event {began}: {heard:#?}\n\
             but then there was {:#?}\nand came {:#?}",
            self.keys,
            ids(&self.answer(&past.held[began], filters)),
            self.live(filters, began, past).collect::<Vec<_>>(),
        );
    }

    /// Whether these are what was held when the relay `read` its store, without what was not yet there
    /// when it `noted` how far it would read: that is to come live.
    fn is_stored_right(
        &self,
        heard: &Heard,
        filters: &[Filter],
        noted: usize,
        read: usize,
        past: &Past,
    ) -> bool {
        let is_later = |event: &Event| {
            past.handed_out[noted..].iter().flatten().any(|later| later == event)
                && !past.held[noted].contains(event)
        };
        let held = past.held[read].iter().filter(|event| !is_later(event));
        let held: Vec<Event> = held.cloned().collect();
        ids(&self.answer(&held, filters)) == heard.stored
    }

    /// Whether all came that was to come, in order. A relay that is still busy with what is stored may
    /// miss what is gone again, or is stored nowhere.
    fn is_live_right(
        &self,
        heard: &Heard,
        filters: &[Filter],
        noted: usize,
        is_awaited: bool,
        past: &Past,
    ) -> bool {
        let mut came = heard.live.iter().peekable();
        let has_come = |(number, id): (usize, EventId)| {
            let is_held = |held: &Vec<Event>| held.iter().any(|event| event.id == id);
            came.next_if_eq(&&id).is_some()
                || !is_awaited && !past.held[number + 1..].iter().all(is_held)
        };
        self.live(filters, noted, past).all(has_come) && came.next().is_none()
    }

    /// What is to come after the first so many events, with its number.
    fn live(
        &self,
        filters: &[Filter],
        noted: usize,
        past: &Past,
    ) -> impl Iterator<Item = (usize, EventId)> {
        let came = past.handed_out.iter().enumerate().skip(noted);
        let came = came.filter_map(|(number, event)| Some((number, event.as_ref()?)));
        let wanted = came.filter(|(_, event)| {
            self.is_shown(event) && filters.iter().any(|filter| filter.matches(event))
        });
        wanted.map(|(number, event)| (number, event.id))
    }

    /// Asks for what is stored, and for how much.
    pub async fn ask(&mut self, filters: &[Filter], held: &[Event]) {
        const NAME: &str = "question";
        self.req(NAME, json!(filters), 0).await;
        self.hear_until(NAME, |heard| heard.hint.is_some() || heard.closed.is_some()).await;
        let heard = self.heard.remove(NAME).unwrap();
        if self.is_refused(&heard, filters) {
            return;
        }
        let expected = self.answer(held, filters);
        assert_eq!(heard.stored, ids(&expected), "to {:?}, who asks {filters:?}", self.keys);
        self.check_hint(heard.hint.as_deref(), filters, &expected, held);
        self.client.send(json!(["CLOSE", NAME])).await;
        let filters_json = json!(filters);
        let told = self.client.count(filters_json.as_array().unwrap()).await;
        assert_eq!(told["count"], expected.len(), "{:?} counts {filters:?}", self.keys);
        assert_eq!(told["approximate"], Value::Null);
    }

    /// It may say that there is more where it does not know, but with several filters only.
    fn check_hint(
        &self,
        hint: Option<&str>,
        filters: &[Filter],
        answered: &[Event],
        held: &[Event],
    ) {
        let unlimited = |filter: &Filter| Filter { limit: None, ..filter.clone() };
        let all: Vec<Filter> = filters.iter().map(unlimited).collect();
        let is_all = self.answer(held, &all).len() == answered.len();
        let is_right = match hint {
            Some("finish") => is_all,
            Some("more") => !is_all || filters.len() > 1,
            _ => false,
        };
        assert!(is_right, "{hint:?} of {filters:?}");
    }

    /// Whether the relay refused an answer; that it did so rightly is asserted.
    fn is_refused(&self, heard: &Heard, filters: &[Filter]) -> bool {
        let reason = heard.closed.as_deref();
        match self.refusal(filters) {
            Some(expected) => {
                let is_right = reason.is_some_and(|reason| reason.starts_with(expected));
                assert!(is_right, "{expected} of {filters:?}, not {reason:?}");
                assert!(heard.stored.is_empty() && heard.live.is_empty(), "{heard:?}");
                true
            }
            None => {
                assert_eq!(reason, None, "{filters:?}");
                false
            }
        }
    }

    /// Who asks for guarded kinds and nothing else has to be somebody, and one of whom they tell.
    fn refusal(&self, filters: &[Filter]) -> Option<&'static str> {
        filters.iter().find_map(|filter| {
            let kinds = filter.kinds.as_ref()?;
            if kinds.is_empty() || !kinds.iter().all(|kind| GUARDED.contains(&kind.0)) {
                return None;
            }
            if self.keys.is_empty() {
                return Some("auth-required: ");
            }
            let authors = filter.authors.as_ref()?;
            let (_, named) = filter.tags.iter().find(|(name, _)| name.byte() == b'p')?;
            let is_mine = self
                .keys
                .iter()
                .any(|key| authors.contains(key) || named.contains(&key.to_string()));
            (!is_mine).then_some("restricted: ")
        })
    }

    fn answer(&self, held: &[Event], filters: &[Filter]) -> Vec<Event> {
        let shown: Vec<&Event> = held.iter().filter(|event| self.is_shown(event)).collect();
        answer(shown.iter().copied(), filters)
    }

    fn is_shown(&self, event: &Event) -> bool {
        let is_named = |key: &PublicKey| {
            let key = key.to_string();
            event.tags.iter().any(|tag| tag.name() == Some("p") && tag.value() == Some(&key))
        };
        !GUARDED.contains(&event.kind.0)
            || self.keys.contains(&event.pubkey)
            || self.keys.iter().any(is_named)
    }
}

fn ids(events: &[Event]) -> Vec<EventId> {
    events.iter().map(|event| event.id).collect()
}
