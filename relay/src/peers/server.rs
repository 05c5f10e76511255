//! The server: a peer's end of a tap. It is a streamer with a live stage alone, for events that clients of
//! this relay brought.
//!
//! A peer that does not keep up misses what it has no room for: that reaches it by L2 a moment later, and
//! nobody here waits. It is shown messages only in a chunk that asks for nothing else, and then those
//! whose receiver or author the chunk names.

use std::sync::Arc;

use event::{Filter, Kind, PublicKey};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::Members;
use crate::{
    config::terms::InForce,
    delta::{Delta, Listener},
    metrics::{Counted, Metrics},
    sight::Sight,
    wire::{self, Frame, SubscriptionId},
};

/// Chunks that one peer may listen to at a time.
pub const SERVED_CHUNKS_MAX: usize = 2 * super::demand::CHUNKS_MAX;

/// One chunk of a peer's demand.
pub struct Server {
    pub id: SubscriptionId,
    pub peer: PublicKey,
    pub filters: Vec<Filter>,
    pub members: watch::Receiver<Members>,
    pub delta: Delta,
    pub frames: mpsc::Sender<Frame>,
    pub metrics: Arc<Metrics>,
}

impl Server {
    /// Serves until the session ends, or the peer is none any more.
    pub async fn run(mut self, in_force: InForce) {
        let _counted = Counted::one_of(&self.metrics.peer_chunks_served);
        let guarded = in_force.load().guarded_kinds.clone();
        let sight = Sight::of_named(in_force, named_in(&self.filters, &guarded));
        let mut members = self.members.clone();
        let peer = self.peer;
        let left = async {
            // An error is the end of the directory, and so of the relay.
            drop(members.wait_for(|members| !members.contains_key(&peer)).await);
        };
        tokio::select! {
            () = self.serve(&sight) => {}
            () = left => {
                let closed = wire::closed(&self.id, "restricted: you are not listed any more");
                let _ = self.frames.send(Frame::Text(closed)).await;
            }
        }
    }

    async fn serve(&mut self, sight: &Sight) {
        loop {
            // EOSE says that it listens from here on; later, that it does again.
            let Ok(place) = self.frames.reserve().await else { return };
            let mut following = self.delta.join_now(Listener {
                id: &self.id,
                sight,
                filters: &self.filters,
                frames: &self.frames,
                peer: Some(self.peer),
            });
            place.send(Frame::Text(wire::eose(&self.id, wire::Completeness::Finish)));
            let from = following.fell_behind().await;
            self.metrics.peers_behind.inc();
            debug!(peer = %self.peer, from = from.0, "a peer does not keep up");
        }
    }
}

/// Whose messages these filters ask for.
fn named_in(filters: &[Filter], guarded: &[Kind]) -> Vec<PublicKey> {
    let asks_for_messages = |filter: &&Filter| {
        let kinds = filter.kinds.as_ref();
        kinds.is_some_and(|kinds| kinds.iter().all(|kind| guarded.contains(kind)))
    };
    let mut named = Vec::new();
    for filter in filters.iter().filter(asks_for_messages) {
        named.extend(filter.authors.iter().flatten());
        let receivers = filter.tags.iter().filter(|(name, _)| name.byte() == b'p');
        let receivers = receivers.flat_map(|(_, keys)| keys);
        named.extend(receivers.filter_map(|key| key.parse::<PublicKey>().ok()));
    }
    named
}
