//! Who the other relays of the cluster are: this relay says in the canister's directory that it is there,
//! and reads who else is. Where L2 has no directory, the configuration names them.
//!
//! Only whom the canister has granted is listed there, and nobody else is taken for a peer. While L2 does
//! not answer, those known last stay.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use interface::{ByteBuf, pubkey_of};
use layer2::{Layer2, Layer2Error, RelayEntry, RelayInfo};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Member, Members};
use crate::{
    auth::RelayUrl,
    clock,
    identity::{Identity, is_one},
    membership::Membership,
    metrics::Metrics,
};

/// Somebody whom the directory did not list wants to be a peer: it is read again at once, but not more
/// often than this.
const DOUBT_PAUSE: Duration = Duration::from_secs(2);

/// The relay's place in the directory, and its view of it.
pub struct Directory {
    pub layer2: Arc<dyn Layer2>,
    pub identity: Identity,
    /// Where peers reach this relay. None: nowhere, so that it is not announced.
    pub url: Option<RelayUrl>,
    /// Those that the configuration names.
    pub configured: Vec<Member>,
    pub membership: watch::Receiver<Membership>,
    pub members: watch::Sender<Members>,
    /// Somebody has reason to think that there are others by now.
    pub doubt: Arc<Notify>,
    /// Between two announcements,
    pub heartbeat: Duration,
    /// and between two looks.
    pub interval: Duration,
    pub metrics: Arc<Metrics>,
}

impl Directory {
    /// Keeps the entry and the view fresh, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        self.publish(&[]);
        let (mut beats, mut looks) = (interval(self.heartbeat), interval(self.interval));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = None;
        loop {
            let is_beat = tokio::select! {
                () = stop.cancelled() => return,
                _ = beats.tick() => true,
                // A grant is no reason to wait for the next beat.
                Ok(()) = self.membership.changed() => true,
                _ = looks.tick() => false,
                () = self.doubt.notified() => {
                    if looked.is_some_and(|at: Instant| at.elapsed() < DOUBT_PAUSE) {
                        continue;
                    }
                    false
                }
            };
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = async { if is_beat { self.announce().await } else { self.look().await } } => done,
            };
            if !is_beat {
                looked = Some(Instant::now());
            }
            if let Err(error) = done {
                debug!(%error, "the directory cannot be reached; the peers known last stay");
            }
        }
    }

    async fn announce(&self) -> Result<(), Layer2Error> {
        let Some(url) = &self.url else { return Ok(()) };
        if *self.membership.borrow() != Membership::Granted {
            return Ok(());
        }
        let polled = self.metrics.poll_success_timestamp_seconds.get().max(0) as u64;
        let small = |gauge: i64| u32::try_from(gauge).unwrap_or(0);
        let info = RelayInfo {
            url: url.to_string(),
            key: ByteBuf::from(self.identity.public_key().0),
            version: env!("CARGO_PKG_VERSION").into(),
            connections: small(self.metrics.connections.get()),
            subscriptions: small(self.metrics.subscriptions.get()),
            lag_ms: clock::now().0.saturating_sub(polled).saturating_mul(1_000),
        };
        match self.layer2.announce(info).await {
            Err(Layer2Error::Refused(reason)) => {
                warn!(reason, "the directory does not list this relay");
                Ok(())
            }
            announced => announced,
        }
    }

    async fn look(&self) -> Result<(), Layer2Error> {
        let entries = self.layer2.relays().await?;
        self.publish(&entries);
        Ok(())
    }

    fn publish(&self, entries: &[RelayEntry]) {
        let own = self.identity.public_key();
        let all = known(entries, &self.configured).filter(|member| member.key != own);
        let all: BTreeMap<_, _> = all.map(|member| (member.key, member)).collect();
        self.metrics.peers_known.set(all.len() as i64);
        let all = Arc::new(all);
        let has_changed = self.members.send_if_modified(|before| {
            let has_changed = *before != all;
            *before = all.clone();
            has_changed
        });
        if has_changed {
            info!(peers = all.len(), "the relays of the cluster");
        }
    }
}

/// Whom these name, the later ones over the earlier: a relay that another lists is where it says itself, and
/// the operator knows best.
fn known(entries: &[RelayEntry], configured: &[Member]) -> impl Iterator<Item = Member> {
    let (mut own, mut of_others) = (Vec::new(), Vec::new());
    for entry in entries {
        if let Some(member) = member(entry) {
            let is_own = is_one(&entry.who, &member.key);
            if is_own { own.push(member) } else { of_others.push(member) }
        }
    }
    of_others.into_iter().chain(own).chain(configured.to_vec())
}

/// An entry that leads somewhere.
fn member(entry: &RelayEntry) -> Option<Member> {
    let key = pubkey_of(&entry.info.key).ok()?;
    entry.info.url.parse::<RelayUrl>().ok()?;
    Some(Member { url: entry.info.url.clone(), key })
}

#[cfg(test)]
mod tests {
    use candid::Principal;
    use event::PublicKey;

    use super::*;

    fn entry(who: Principal, url: &str, key: PublicKey) -> RelayEntry {
        let (version, key) = ("0".into(), ByteBuf::from(key.0));
        let (connections, subscriptions, lag_ms) = (0, 0, 0);
        let info = RelayInfo { url: url.into(), key, version, connections, subscriptions, lag_ms };
        RelayEntry { who, info, first_seen: 0, last_seen: 0 }
    }

    #[test]
    fn nobody_takes_the_place_of_a_relay_that_lists_itself() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::open(folder.path()).unwrap();
        let (key, relay) = (identity.public_key(), "wss://relay.example");
        let other = Principal::management_canister();
        let own = entry(identity.principal(), relay, key);
        let foreign = entry(other, "wss://elsewhere.example", key);
        let url_of = |entries: &[RelayEntry], configured: &[Member]| {
            known(entries, configured).last().map(|member| member.url)
        };
        for entries in [[own.clone(), foreign.clone()], [foreign.clone(), own]] {
            assert_eq!(url_of(&entries, &[]).as_deref(), Some(relay));
        }
        // The operator may list one that does not do so itself.
        assert_eq!(url_of(std::slice::from_ref(&foreign), &[]).unwrap(), foreign.info.url);
        let configured = Member { url: "ws://10.0.0.2".into(), key };
        assert_eq!(url_of(&[foreign], std::slice::from_ref(&configured)), Some(configured.url));
    }
}
