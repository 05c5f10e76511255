//! The other relays of the cluster, and the live events that go between them.
//!
//! [`directory`] knows who they are, [`demand`] sums up what this relay's subscriptions want of them, the
//! [`tapper`] opens and closes a [`tap`] to each, and [`server`] is the other end of a tap: what a peer
//! listens to here. What a tap brings goes into L1 as everything does, and from there to delta, so that
//! nobody gets it twice when the poll brings it, too; only what is stored nowhere goes to delta at once.
//! One hop: what came from a peer goes to no peer.
//!
//! A tap is a websocket connection of NIP-01 frames. It greets with the REQ [`greeting`], authenticates
//! with the relay's key when asked to (NIP-42), and the peer answers the greeting with an event of the
//! same kind that its own key signed over the greeting's nonce. Then each chunk of the demand is a REQ
//! of its own.

pub mod demand;
pub mod directory;
pub mod server;
pub mod tap;
pub mod tapper;
pub mod taps;

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use anyhow::Context;
use event::{Event, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};

use tokio::sync::{Notify, watch};

use self::{demand::ChunkId, tapper::Tapper};
use crate::{
    auth::{AUTH, RelayUrl},
    identity::{Identity, key_of},
    wire::SubscriptionId,
};

/// What the names of peers' subscriptions begin with.
const TAP: &str = "aquifer-tap:";
/// What follows in the first one, before its nonce.
const GREETING: &str = "greeting:";
/// The longest nonce, in characters.
const NONCE_CHARS_MAX: usize = 40;

/// Another relay of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub url: String,
    pub key: PublicKey,
}

impl FromStr for Member {
    type Err = anyhow::Error;

    /// `wss://HOST=KEY`, as the configuration has it.
    fn from_str(text: &str) -> anyhow::Result<Member> {
        let (url, key) = text.rsplit_once('=').context("expected URL=KEY")?;
        let _: RelayUrl = url.parse()?;
        Ok(Member { url: url.into(), key: key_of(key)? })
    }
}

/// All of them, as far as is known; this relay is not among them.
pub type Members = Arc<BTreeMap<PublicKey, Member>>;

/// What sessions know of the other relays.
pub struct Peers {
    pub tapper: Arc<Tapper>,
    pub members: watch::Receiver<Members>,
    /// Asks for another look at the directory.
    pub doubt: Arc<Notify>,
}

/// What a peer's REQ asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum TapRequest<'a> {
    /// Prove who you are, by this nonce.
    Greeting(&'a str),
    Chunk,
}

impl TapRequest<'_> {
    /// None: it is no peer's, or none of ours.
    pub fn read(id: &SubscriptionId) -> Option<TapRequest<'_>> {
        let rest = id.as_str().strip_prefix(TAP)?;
        let Some(nonce) = rest.strip_prefix(GREETING) else { return Some(TapRequest::Chunk) };
        (nonce.len() <= NONCE_CHARS_MAX).then_some(TapRequest::Greeting(nonce))
    }
}

/// The name of the first subscription of a tap.
fn greeting(nonce: &str) -> String {
    format!("{TAP}{GREETING}{nonce}")
}

/// The name of a chunk's.
fn chunk_name(chunk: ChunkId) -> String {
    format!("{TAP}{}", chunk.0)
}

/// The chunk of which this is the name.
fn chunk_of(name: &str) -> Option<ChunkId> {
    name.strip_prefix(TAP)?.parse().ok().map(ChunkId)
}

/// What shows a peer that this is the relay it thinks: an answer to its nonce, for nowhere else.
pub fn proof(identity: &Identity, url: &RelayUrl, nonce: &str, now: Timestamp) -> Event {
    let relay = ["relay".into(), url.to_string()];
    let challenge = ["challenge".into(), nonce.into()];
    identity.sign(AUTH, &[&relay, &challenge], now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_written_as_its_url_and_its_key() {
        let key = "ab".repeat(32);
        let member: Member = format!("wss://relay.example/?a=b={key}").parse().unwrap();
        assert_eq!(
            (member.url.as_str(), member.key.to_string()),
            ("wss://relay.example/?a=b", key)
        );
        for wrong in ["wss://relay.example", "https://relay.example=", "wss://relay.example=me"] {
            assert!(wrong.parse::<Member>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_taps_are_told_from_others() {
        let read = |name: &str| {
            let id = SubscriptionId::new(name.into()).unwrap();
            TapRequest::read(&id).map(|request| format!("{request:?}"))
        };
        assert_eq!(read(&greeting("ab")).as_deref(), Some("Greeting(\"ab\")"));
        assert_eq!(read(&chunk_name(ChunkId(7))).as_deref(), Some("Chunk"));
        assert_eq!(read("feed"), None);
        assert_eq!(read(&greeting(&"a".repeat(41))), None);
    }
}
