//! rnostr's relay library on a folder and a port, with its limits raised and without full-text search.
//!
//! It sends an OK before it commits the event: whatever it is fast at, it is not durable then.

use std::{fs, path::PathBuf};

use nostr_relay::App;

const SETTINGS: &str = r#"
[limitation]
max_message_length = 8388608
max_subscriptions = 10000
max_filters = 100
max_limit = 10000
max_event_tags = 10000
max_event_time_older_than_now = 0
max_event_time_newer_than_now = 0
"#;

#[actix_web::main]
async fn main() -> nostr_relay::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder comes first"));
    let port = arguments.next().expect("then a port");
    let file = folder.join("settings.toml");
    fs::write(&file, format!("[network]\nport = {port}\n{SETTINGS}"))?;
    App::create(Some(file), false, None, Some(folder))?.web_server()?.await?;
    Ok(())
}
