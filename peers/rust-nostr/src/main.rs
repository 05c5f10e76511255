//! rust-nostr's relay builder over its LMDB store, on a folder and a port, with its limits raised.
//!
//! The store drains a queue into one transaction and answers after the commit, as ours does.

use std::{error::Error, future};

use nostr_lmdb::NostrLmdb;
use nostr_relay_builder::{LocalRelay, builder::RateLimit};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("a folder comes first");
    let port = arguments.next().expect("then a port").parse()?;
    let store = NostrLmdb::open(folder).await?;
    let unlimited = RateLimit { max_reqs: usize::MAX, notes_per_minute: u32::MAX };
    let relay = LocalRelay::builder().port(port).database(store).rate_limit(unlimited).build();
    relay.run().await?;
    future::pending().await
}
