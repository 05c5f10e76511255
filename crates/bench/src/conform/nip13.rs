//! NIP-13: work that a relay wants to see in an event's id.

use anyhow::Result;

use super::{
    Relay,
    author::{Author, now, zero_bits},
    cases, not_offered,
};

/// More than this takes a case too long.
const BITS_MAX: u64 = 22;

cases! {
    "nip13" needs [13]:
        enough_work_is_taken,
        too_little_work_is_refused,
        luck_that_was_not_committed_to_does_not_count;
}

fn wanted(relay: &Relay) -> Result<u32> {
    match relay.document.limit("min_pow_difficulty") {
        Some(bits) if (1..=BITS_MAX).contains(&bits) => Ok(bits as u32),
        Some(0) | None => not_offered("no work is wanted"),
        Some(bits) => not_offered(format!("{bits} bits of work take too long")),
    }
}

async fn enough_work_is_taken(relay: &Relay) -> Result<()> {
    let bits = wanted(relay)?;
    let worked = Author::anybody(0).mine(now(), 1, &[], "worked", bits);
    relay.client().await?.publish(&worked).await?.is_taken()
}

async fn too_little_work_is_refused(relay: &Relay) -> Result<()> {
    let bits = wanted(relay)?;
    let author = Author::anybody(0);
    let mut idle = (0..).map(|number: u32| author.sign(now(), 1, &[], &number.to_string()));
    let idle = idle.find(|event| zero_bits(event) < bits).expect("most have no zeros");
    relay.client().await?.publish(&idle).await?.is_refused_as("pow")
}

async fn luck_that_was_not_committed_to_does_not_count(relay: &Relay) -> Result<()> {
    let bits = wanted(relay)?;
    let author = Author::anybody(0);
    let committed = bits.saturating_sub(1).to_string();
    let tried = |nonce: u64| {
        let nonce = nonce.to_string();
        author.sign(now(), 1, &[&["nonce", &nonce, &committed]], "lucky")
    };
    let lucky = (0..).map(tried).find(|event| zero_bits(event) >= bits);
    let lucky = lucky.expect("there is no end of nonces");
    relay.client().await?.publish(&lucky).await?.is_refused_as("pow")
}
