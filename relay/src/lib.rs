//! The relay: a fast cache (L1) in front of a store that many relays share (L2).
//!
//! L1 is the hub. Two things write to it: [`ingest`] (what clients publish) and [`poll`] (what other
//! relays brought to L2). Two follow it: [`outbox`] (up to L2) and [`delta`] (live events to
//! subscribers). None of them knows another: each follows L1's order of commits. A client's side is
//! [`session`], with one [`streamer`] for each subscription.
//!
//! [`run`] gets its socket and its stop signal from outside, so a test can be the operator.

mod auth;
mod backoff;
mod bits;
pub mod client;
mod clock;
mod collector;
pub mod config;
pub mod control;
mod costs;
mod count;
pub mod db;
mod delta;
pub mod identity;
mod indexer;
mod ingest;
mod inquiry;
pub mod l2;
mod local;
mod membership;
mod metrics;
mod neg;
mod nip11;
mod outbox;
mod own_seqs;
mod poll;
mod reads;
mod refusals;
mod revive;
mod searcher;
mod server;
mod session;
mod sight;
mod sketch;
mod streamer;
mod subscriptions;
mod under_way;
mod verdict;
mod verifier;
mod websocket;
mod wire;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use event::{Filter, Kind, Timestamp};
use layer2::Layer2;
use search::Words;
use store::{Options, Store, Writer};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Notify, Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    auth::RelayUrl,
    collector::collecting,
    config::Config,
    control::{Control, Desk},
    costs::Costs,
    delta::Delta,
    identity::Identity,
    indexer::Indexer,
    ingest::{Ingest, Parts},
    inquiry::{Inquiry, Sources},
    local::LocalOnly,
    membership::{Membership, watch_membership},
    metrics::Metrics,
    outbox::{Outbox, Waiters},
    own_seqs::OwnSeqs,
    poll::{Poll, Standing},
    reads::Reads,
    revive::Revival,
    searcher::Searcher,
    under_way::UnderWay,
};

/// What all sessions share.
pub(crate) struct Relay {
    pub config: Config,
    pub identity: Identity,
    /// Where clients reach it.
    pub url: RelayUrl,
    /// Kinds that are not for everybody.
    pub guarded: Arc<[Kind]>,
    /// Places for reconciliations.
    pub reconciliations: Arc<Semaphore>,
    pub store: Store,
    pub reads: Reads,
    pub delta: Delta,
    pub revival: Arc<Revival>,
    /// None: there is nobody to ask.
    pub inquiry: Option<Arc<Inquiry>>,
    /// None: it does not search.
    pub searcher: Option<Arc<Searcher>>,
    pub ingest: Ingest,
    pub metrics: Arc<Metrics>,
}

impl Relay {
    /// Filters with the limits that this relay keeps.
    pub fn clamp(&self, mut filters: Vec<Filter>) -> Vec<Filter> {
        let limits = &self.config.limits;
        for filter in &mut filters {
            let wanted = filter.limit.unwrap_or(limits.limit_default);
            filter.limit = Some(wanted.min(limits.limit_max));
        }
        filters
    }

    /// The metrics, with what is not counted along. It reads L1.
    pub fn scrape(&self) -> String {
        self.metrics.verify_queue.set(self.ingest.verifier.waiting() as i64);
        if let Some(used) = self.revival.layer2.as_ref().and_then(|layer2| layer2.usage()) {
            self.metrics.note_usage(&used);
        }
        if let Ok(date) = self.store.complete_since() {
            self.metrics.complete_since_timestamp_seconds.set(date.0 as i64);
        }
        if let Some(searcher) = &self.searcher {
            searcher.note(&self.metrics);
        }
        match self.store.stats() {
            Ok(stats) => self.metrics.note_store(&stats),
            // All the more somebody should see the others.
            Err(error) => warn!(%error, "L1 cannot be read for the metrics"),
        }
        self.metrics.text()
    }
}

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Where a relay is reached.
pub struct Listeners {
    pub clients: TcpListener,
    /// Where its metrics are served, if anywhere.
    pub metrics: Option<TcpListener>,
}

impl Listeners {
    /// Binds them, in a runtime. Sockets that are accepted inherit that nothing waits for a full segment, those too
    /// that connect before anybody serves them.
    pub fn bind(clients: SocketAddr, metrics: Option<SocketAddr>) -> anyhow::Result<Listeners> {
        let metrics = metrics.map(bind).transpose()?;
        Ok(Listeners { clients: bind(clients)?, metrics })
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_nodelay(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("listening on {address}"))
}

/// Serves clients until `stop`, then lets every session and every task end. Without `layer2` its events
/// stay on this relay alone.
pub async fn run(
    config: Config,
    identity: Identity,
    layer2: Option<Arc<dyn Layer2>>,
    listeners: Listeners,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let (store, writer) = open_store(&config, metrics.clone())?;
    let tasks = TaskTracker::new();
    let delta = Delta::start(&store);
    tasks.spawn(delta.clone().follow_commits(store.clone(), stop.clone()));
    let mut collector = None;
    if let Some(cache) = &config.cache {
        let (collecting, ask) = collecting(&store, &writer, cache.policy(layer2.is_some()));
        let collecting = collecting.beside(delta.clone(), cache.gc_interval, metrics.clone());
        tasks.spawn(collecting.run(stop.clone()));
        collector = Some(ask);
    }
    let desk = Desk { store: store.clone(), writer: writer.clone(), collector };
    take_requests(&config.data, desk, &tasks, &stop);
    let revival = Revival {
        layer2: layer2.clone(),
        writer: writer.clone(),
        patience: config.layer2_timeout,
        metrics: metrics.clone(),
        under_way: UnderWay::default(),
    };
    let reads = Reads::new(store.clone());
    let searcher = start_searching(&config, &reads, &store, &tasks, &stop);
    let (standing, known) = watch::channel(Standing::Unknown);
    let may_be_pruned = config.cache.is_some() || store.complete_since()? > Timestamp(0);
    let inquiry = layer2.clone().map(|layer2| {
        let sources = Sources { layer2, reads: reads.clone(), writer: writer.clone() };
        Arc::new(Inquiry::new(sources, known, may_be_pruned, config.poll_interval, metrics.clone()))
    });
    let (waiters, local) = (Arc::new(Waiters::default()), Arc::new(config.local.clone()));
    let membership = match layer2 {
        Some(layer2) => {
            let (store, writer, metrics) = (store.clone(), writer.clone(), metrics.clone());
            let (waiters, local) = (waiters.clone(), local.clone());
            let shared = Shared { layer2, store, writer, waiters, local, metrics };
            shared.follow(&config, standing, &tasks, &stop)
        }
        None => {
            warn!("no shared store is set: events stay on this relay alone");
            watch::channel(Membership::Unknown).1
        }
    };
    let parts = Parts {
        store: store.clone(),
        writer: writer.clone(),
        delta: delta.clone(),
        membership,
        waiters,
        local,
        metrics: metrics.clone(),
    };
    let ingest = Ingest::start(&config, parts).context("starting the verifier's threads")?;
    let revival = Arc::new(revival);
    let url = config.url_or(listeners.clients.local_addr()?);
    let guarded = config.guarded_kinds.clone();
    let reconciliations = Arc::new(Semaphore::new(neg::AT_ONCE_MAX));
    let relay = Relay {
        config,
        identity,
        url,
        guarded,
        reconciliations,
        store,
        reads,
        delta,
        revival,
        inquiry,
        searcher,
        ingest,
        metrics,
    };
    let relay = Arc::new(relay);
    if let Some(listener) = listeners.metrics {
        tasks.spawn(server::serve_metrics(listener, relay.clone(), stop.clone()));
    }
    server::serve(listeners.clients, relay, stop).await;
    tasks.close();
    tasks.wait().await;
    writer.stop().await;
    info!("stopped");
    Ok(())
}

fn open_store(config: &Config, metrics: Arc<Metrics>) -> anyhow::Result<(Store, Writer)> {
    let folder = store_in(&config.data);
    let options = Options { observer: metrics, ..config.store_options() };
    Store::open(&folder, options)
        .with_context(|| format!("opening the store in {}", folder.display()))
}

/// Where the store is, in a relay's data folder.
fn store_in(data: &Path) -> PathBuf {
    data.join("events")
}

/// Opens the index of words, and has it follow L1. A relay can do without.
fn start_searching(
    config: &Config,
    reads: &Reads,
    store: &Store,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Option<Arc<Searcher>> {
    if !config.search {
        return None;
    }
    let guarded = config.guarded_kinds.clone();
    let folder = config.data.join("search");
    match indexer::open(&folder, store, &guarded) {
        Ok(index) => {
            let (index, words) = (Arc::new(index), Arc::new(Words::default()));
            let indexer = Indexer::new(store.clone(), index.clone(), words.clone(), guarded);
            tasks.spawn(indexer.run(stop.clone()));
            Some(Arc::new(Searcher::new(index, words, reads.clone())))
        }
        Err(cause) => {
            let folder = folder.display();
            error!(%cause, %folder, "the index of words cannot be opened: this relay does not search");
            None
        }
    }
}

/// Opens the control socket. A relay can do without, where its folder's name is too long for one.
fn take_requests(data: &Path, desk: Desk, tasks: &TaskTracker, stop: &CancellationToken) {
    match Control::open(data) {
        Ok(control) => drop(tasks.spawn(control.serve(desk, stop.clone()))),
        Err(cause) => warn!(%cause, "no control socket: `aquifer db` has to wait for a stop"),
    }
}

/// What everything that talks to L2 needs.
struct Shared {
    layer2: Arc<dyn Layer2>,
    store: Store,
    writer: Writer,
    waiters: Arc<Waiters>,
    local: Arc<LocalOnly>,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Starts outbox, poll and the watch over our standing; returns the last.
    fn follow(
        self,
        config: &Config,
        standing: watch::Sender<Standing>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> watch::Receiver<Membership> {
        let Shared { layer2, store, writer, waiters, local, metrics } = self;
        let (interval, overlap) = (config.poll_interval, config.poll_overlap);
        let (doubt, own) = (Arc::new(Notify::new()), Arc::new(OwnSeqs::default()));
        let (membership, known) = watch::channel(Membership::Unknown);
        let watching =
            watch_membership(layer2.clone(), membership, doubt.clone(), interval, stop.clone());
        let outbox = Outbox {
            store: store.clone(),
            writer: writer.clone(),
            layer2: layer2.clone(),
            local,
            batches_max: config.outbox_batches,
            waiters,
            doubt: doubt.clone(),
            own: own.clone(),
            metrics: metrics.clone(),
        };
        let costs = Costs {
            layer2: layer2.clone(),
            store: store.clone(),
            writer: writer.clone(),
            metrics: metrics.clone(),
        };
        let poll = Poll { store, writer, layer2, doubt, own, interval, overlap, standing, metrics };
        tasks.spawn(costs.run(stop.clone()));
        tasks.spawn(watching);
        tasks.spawn(outbox.follow(stop.clone()));
        tasks.spawn(poll.run(stop.clone()));
        known
    }
}
