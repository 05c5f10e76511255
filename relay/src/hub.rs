//! L1 is the hub: it, and what runs beside it. Each of these follows L1's order of commits and knows none
//! of the others; here they are started, and here they end.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use event::Timestamp;
use layer2::Layer2;
use search::Words;
use store::{Options, ReadError, Store, Writer};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use crate::{
    Relay,
    auth::RelayUrl,
    collector::{AskCollector, collecting},
    config::{Config, terms::InForce},
    control::{Control, Desk},
    costs::Costs,
    deliveries::Deliveries,
    delta::Delta,
    gateway_tap::GatewayTap,
    indexer::{self, Indexer},
    ingest::{Ingest, Parts},
    inquiry::{Inquiry, Sources},
    local::LocalOnly,
    membership::{Membership, watch_membership},
    metrics::Metrics,
    moderation::Moderator,
    outbox::{Outbox, Waiters},
    own_seqs::OwnSeqs,
    peers::{Members, directory::Directory, tapper::Tapper},
    plugin::{Policy, Side},
    poll::{CURSOR_OF, Poll, Standing},
    quotas::{self, Quotas},
    reads::Reads,
    removals::Removals,
    retention::Retention,
    revive::Revival,
    searcher::Searcher,
    store_in,
    throttle::Throttle,
    under_way::UnderWay,
};

/// How often to look whether another L2 was turned to.
const TURN_PAUSE: Duration = Duration::from_millis(100);
/// How often the directory is read between two announcements: reading costs the canister nothing.
const LOOKS_IN_A_HEARTBEAT: u32 = 3;

/// The hub, and the tasks around it.
pub struct Hub {
    pub store: Store,
    pub writer: Writer,
    pub reads: Reads,
    pub delta: Delta,
    pub metrics: Arc<Metrics>,
    pub tasks: TaskTracker,
    around: Around,
    /// The last client has left.
    emptied: CancellationToken,
}

/// What the hub is given.
pub struct Around {
    pub in_force: InForce,
    /// None: events stay on this relay alone.
    pub layer2: Option<Arc<dyn Layer2>>,
    pub deliveries: Deliveries,
    pub stop: CancellationToken,
}

/// How ingest and what talks to L2 know of each other.
#[derive(Clone)]
pub struct Link {
    pub waiters: Arc<Waiters>,
    pub local: Arc<LocalOnly>,
    pub membership: watch::Receiver<Membership>,
}

/// What it takes to find the other relays.
pub struct Found {
    pub membership: watch::Receiver<Membership>,
    pub members: watch::Sender<Members>,
    pub doubt: Arc<Notify>,
}

impl Hub {
    /// Opens L1, and starts to hand out what comes into it.
    pub fn open(config: &Config, url: RelayUrl, around: Around) -> anyhow::Result<Hub> {
        let metrics = Arc::new(Metrics::default());
        let folder = store_in(&config.data);
        let is_ours = Arc::new(move |relay: &str| url.is(relay));
        let options = Options { observer: metrics.clone(), is_ours, ..config.store_options() };
        let (store, writer) = Store::open(&folder, options)
            .with_context(|| format!("opening the store in {}", folder.display()))?;
        let (delta, tasks) = (Delta::new(&store, around.deliveries.clone()), TaskTracker::new());
        let reads = Reads::new(store.clone(), around.in_force.clone());
        let tap = GatewayTap { store: store.clone(), delta: delta.clone() };
        tasks.spawn(tap.run(around.stop.clone()));
        let emptied = CancellationToken::new();
        Ok(Hub { store, writer, reads, delta, metrics, tasks, around, emptied })
    }

    /// What ends everything.
    pub fn stop(&self) -> CancellationToken {
        self.around.stop.clone()
    }

    pub fn deliveries(&self) -> Deliveries {
        self.around.deliveries.clone()
    }

    /// Keeps L1 below its limit, if it has one. Returns the way to ask for a collection.
    pub fn collect(&self, config: &Config) -> Result<Option<AskCollector>, ReadError> {
        let Some(cache) = &config.cache else { return Ok(None) };
        let policy = cache.policy(self.around.layer2.is_some());
        let (collecting, ask) = collecting(&self.store, &self.writer, policy);
        let (delta, metrics) = (self.delta.clone(), self.metrics.clone());
        let collecting = collecting.beside(delta, cache.gc_interval, metrics);
        let followed = self.store.meta(CURSOR_OF)?;
        let layer2 = self.around.layer2.as_ref().map(|layer2| layer2.name());
        // The poll will turn to another L2, which has nothing yet of what is here.
        let turns = followed.is_some() && layer2.is_some_and(|name| followed != Some(name));
        let (store, stop) = (self.store.clone(), self.stop());
        self.tasks.spawn(async move {
            if turns {
                let turned = has_turned(&store, followed);
                if stop.run_until_cancelled(turned).await.is_none() {
                    return;
                }
            }
            collecting.run(stop).await;
        });
        Ok(Some(ask))
    }

    /// Keeps messages to their quotas and their time, from before anybody writes.
    pub fn keep_messages(&self) -> Arc<Quotas> {
        let Around { in_force, layer2, deliveries, .. } = &self.around;
        let removals = layer2.clone().map_or_else(Removals::nowhere, |layer2| {
            let (removals, remover) = Removals::to(layer2);
            self.tasks.spawn(remover.run(self.stop()));
            removals
        });
        let retention = Retention {
            in_force: in_force.clone(),
            reads: self.reads.clone(),
            writer: self.writer.clone(),
            removals: removals.clone(),
            metrics: self.metrics.clone(),
        };
        self.tasks.spawn(retention.run(self.stop()));
        let parts = quotas::Parts {
            in_force: in_force.clone(),
            reads: self.reads.clone(),
            writer: self.writer.clone(),
            removals,
            deliveries: deliveries.clone(),
            metrics: self.metrics.clone(),
        };
        let quotas = Arc::new(Quotas::new(&self.store, parts));
        self.tasks.spawn(quotas.clone().follow(self.store.clone(), self.stop()));
        quotas
    }

    /// Opens the control socket. A relay can do without, where its folder's name is too long for one.
    pub fn take_requests(
        &self,
        data: &Path,
        collector: Option<AskCollector>,
        moderator: &Arc<Moderator>,
        quotas: &Arc<Quotas>,
        tapper: &Arc<Tapper>,
    ) {
        let desk = Desk {
            store: self.store.clone(),
            writer: self.writer.clone(),
            collector,
            moderator: moderator.clone(),
            layer2: self.around.layer2.clone(),
            quotas: Some(quotas.clone()),
            tapper: Some(tapper.clone()),
            is_alone: false,
        };
        match Control::open(data) {
            Ok(control) => drop(self.tasks.spawn(control.serve(desk, self.stop()))),
            Err(cause) => warn!(%cause, "no control socket: `aquifer db` has to wait for a stop"),
        }
    }

    /// Opens the index of words, and has it follow L1. A relay can do without.
    pub fn search(&self, config: &Config) -> Option<Arc<Searcher>> {
        if !config.search {
            return None;
        }
        let guarded = self.around.in_force.load().guarded_kinds.clone();
        let folder = config.data.join("search");
        match indexer::open(&folder, &self.store, &guarded) {
            Ok(index) => {
                let (index, words) = (Arc::new(index), Arc::new(Words::default()));
                let store = self.store.clone();
                let indexer = Indexer::new(store, index.clone(), words.clone(), guarded.into());
                self.tasks.spawn(indexer.run(self.stop()));
                Some(Arc::new(Searcher::new(index, words, self.reads.clone())))
            }
            Err(cause) => {
                let folder = folder.display();
                error!(%cause, %folder, "the index of words cannot be opened: this relay does not search");
                None
            }
        }
    }

    /// Who asks L2 what L1 cannot know. None: there is nobody to ask.
    pub fn inquire(
        &self,
        config: &Config,
        standing: watch::Receiver<Standing>,
    ) -> anyhow::Result<Option<Arc<Inquiry>>> {
        let Some(layer2) = self.around.layer2.clone() else { return Ok(None) };
        let may_be_pruned = config.cache.is_some() || self.store.complete_since()? > Timestamp(0);
        let sources = Sources { layer2, reads: self.reads.clone(), writer: self.writer.clone() };
        let (interval, metrics) = (config.poll_interval, self.metrics.clone());
        Ok(Some(Arc::new(Inquiry::new(sources, standing, may_be_pruned, interval, metrics))))
    }

    /// Starts outbox, poll, and the watches over what L2 can pay for and over our standing there.
    /// `standing` is where the poll says how far it is.
    pub fn share(&self, config: &Config, standing: watch::Sender<Standing>) -> Link {
        let (waiters, local) = (Arc::new(Waiters::default()), Arc::new(config.local.clone()));
        let (tell_membership, membership) = watch::channel(Membership::Unknown);
        let link = Link { waiters, local, membership };
        let Some(layer2) = self.around.layer2.clone() else {
            warn!("no shared store is set: events stay on this relay alone");
            return link;
        };
        let (interval, overlap) = (config.poll_interval, config.poll_overlap);
        let (doubt, own) = (Arc::new(Notify::new()), Arc::new(OwnSeqs::default()));
        let watching =
            watch_membership(layer2.clone(), tell_membership, doubt.clone(), interval, self.stop());
        let outbox = Outbox {
            store: self.store.clone(),
            writer: self.writer.clone(),
            layer2: layer2.clone(),
            local: link.local.clone(),
            in_force: self.around.in_force.clone(),
            batches_max: config.outbox_batches,
            waiters: link.waiters.clone(),
            doubt: doubt.clone(),
            delta: self.delta.clone(),
            own: own.clone(),
            metrics: self.metrics.clone(),
        };
        let costs = Costs {
            layer2: layer2.clone(),
            store: self.store.clone(),
            writer: self.writer.clone(),
            metrics: self.metrics.clone(),
        };
        let poll = Poll {
            store: self.store.clone(),
            writer: self.writer.clone(),
            layer2,
            doubt,
            own,
            interval,
            overlap,
            standing,
            metrics: self.metrics.clone(),
        };
        self.tasks.spawn(costs.run(self.stop()));
        self.tasks.spawn(watching);
        self.tasks.spawn(outbox.follow(self.emptied.clone()));
        self.tasks.spawn(poll.run(self.stop()));
        link
    }

    /// Takes clients' events.
    pub fn take_events(
        &self,
        config: &Config,
        link: Link,
        throttle: &Arc<Throttle>,
        quotas: Arc<Quotas>,
    ) -> anyhow::Result<Ingest> {
        let Link { waiters, local, membership } = link;
        let parts = Parts {
            store: self.store.clone(),
            writer: self.writer.clone(),
            delta: self.delta.clone(),
            membership,
            waiters,
            local,
            in_force: self.around.in_force.clone(),
            policy: self.policy(Side::Write),
            throttle: throttle.clone(),
            deliveries: self.around.deliveries.clone(),
            quotas,
            metrics: self.metrics.clone(),
        };
        Ingest::start(config, parts).context("starting the verifier's threads")
    }

    /// What the operator's plugin says of one side of the traffic.
    pub fn policy(&self, side: Side) -> Policy {
        Policy::new(side, self.around.in_force.clone(), self.stop())
    }

    /// Who brings back bodies that were given up.
    pub fn revive(&self, config: &Config) -> Arc<Revival> {
        Arc::new(Revival {
            layer2: self.around.layer2.clone(),
            writer: self.writer.clone(),
            patience: config.layer2_timeout,
            metrics: self.metrics.clone(),
            under_way: UnderWay::default(),
        })
    }

    /// Finds the other relays of the cluster, and taps them, if there are to be any.
    pub fn find_peers(&self, relay: &Arc<Relay>, found: Found) {
        let Found { membership, members, doubt } = found;
        let peering = &relay.config.peering;
        let Some(layer2) = self.around.layer2.clone().filter(|_| peering.is_on) else { return };
        if !layer2.has_directory() && peering.peers.is_empty() {
            return;
        }
        let tapping =
            relay.peers.tapper.clone().run(relay.clone(), members.subscribe(), self.stop());
        let directory = Directory {
            layer2,
            identity: relay.identity.clone(),
            url: peering.is_reachable.then(|| relay.url.clone()),
            configured: peering.peers.clone(),
            membership,
            members,
            doubt,
            heartbeat: peering.heartbeat,
            interval: peering.heartbeat / LOOKS_IN_A_HEARTBEAT,
            metrics: self.metrics.clone(),
        };
        self.tasks.spawn(tapping);
        self.tasks.spawn(directory.run(self.stop()));
    }

    /// After the stop, and after the last client: waits until everything has ended, all that is queued is
    /// written, and L2 has what it takes at once.
    pub async fn close(self) {
        self.emptied.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.writer.stop().await;
    }
}

/// Waits until another L2 is followed than this one.
async fn has_turned(store: &Store, followed: Option<String>) {
    while store.meta(CURSOR_OF).is_ok_and(|now| now == followed) {
        sleep(TURN_PAUSE).await;
    }
}
