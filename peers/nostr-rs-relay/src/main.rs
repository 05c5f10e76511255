//! nostr-rs-relay on a folder and a port, with its limits raised and nothing logged.
//!
//! Its own settings file cannot say how SQLite syncs: the program always asks for `NORMAL`, and then
//! an OK comes before the disk has the event. scripts/bench-peers measures it so, and once more with
//! that word changed in a copy of this program.

use std::sync::mpsc;

use nostr_rs_relay::{config::Settings, server::start_server};
use tikv_jemallocator::Jemalloc;

/// As in the program that its authors release.
#[global_allocator]
static GLOBAL: Jemalloc = Jemalloc;

const EVERYTHING_BYTES: usize = 8 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (folder, port) = (arguments.next(), arguments.next());
    let mut settings = Settings::default();
    settings.database.data_directory = folder.expect("a folder comes first");
    settings.network.address = "127.0.0.1".into();
    settings.network.port = port.and_then(|port| port.parse().ok()).expect("then a port");
    settings.limits.max_event_bytes = Some(EVERYTHING_BYTES);
    settings.limits.max_ws_message_bytes = Some(EVERYTHING_BYTES);
    settings.limits.max_ws_frame_bytes = Some(EVERYTHING_BYTES);
    let (_stop, stopped) = mpsc::channel();
    start_server(&settings, stopped).expect("the relay runs");
}
