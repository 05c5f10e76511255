//! Frames from clients. What was understood is written down again, and must be understood as the same.
#![no_main]

use aquifer::wire::{ClientMessage, SubscriptionId};
use event::{Event, Filter, stated_id};
use serde_json::{Value, json};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(message) = ClientMessage::read(text) else { return };
    let again = written(&message);
    assert_eq!(ClientMessage::read(&again).ok().as_ref(), Some(&message), "{again}");
    if let ClientMessage::Event(json) | ClientMessage::Auth(json) = message {
        check_stated_id(json);
    }
});

/// The id is looked for before the event is read, and an answer may need nothing else.
fn check_stated_id(json: &str) {
    let stated = stated_id(json.as_bytes());
    if let Ok(event) = Event::from_json(json.as_bytes()) {
        assert_eq!(stated, Some(event.id), "{json}");
    }
}

fn written(message: &ClientMessage<'_>) -> String {
    let frame = match message {
        // Raw JSON stays as it is.
        ClientMessage::Event(json) => return format!(r#"["EVENT",{json}]"#),
        ClientMessage::Auth(json) => return format!(r#"["AUTH",{json}]"#),
        ClientMessage::Req(id, filters) => question("REQ", id, filters),
        ClientMessage::Count(id, filters) => question("COUNT", id, filters),
        ClientMessage::Close(id) => json!(["CLOSE", id.to_string()]),
        ClientMessage::NegOpen(id, filter, message) => {
            json!(["NEG-OPEN", id.to_string(), filter, hex::encode(message)])
        }
        ClientMessage::NegMsg(id, message) => {
            json!(["NEG-MSG", id.to_string(), hex::encode(message)])
        }
        ClientMessage::NegClose(id) => json!(["NEG-CLOSE", id.to_string()]),
    };
    frame.to_string()
}

fn question(verb: &str, id: &SubscriptionId, filters: &[Filter]) -> Value {
    let mut frame = vec![json!(verb), json!(id.to_string())];
    frame.extend(filters.iter().map(|filter| json!(filter)));
    Value::Array(frame)
}
