//! The relay: a fast cache (L1) in front of a store that many relays share (L2).
//!
//! L1 is the hub. Two things write to it: [`ingest`] (what clients publish) and [`poll`] (what other
//! relays brought to L2). Two follow it: [`outbox`] (up to L2) and [`delta`] (live events to
//! subscribers). None of them knows another: each follows L1's order of commits. A client's side is
//! [`session`], with one [`streamer`] for each subscription.
//!
//! [`run`] gets its socket and its stop signal from outside, so a test can be the operator.

mod accept;
mod access;
pub mod admin;
mod auth;
mod backlog;
mod backoff;
mod bits;
pub mod client;
mod clock;
pub mod cluster;
mod collector;
pub mod config;
pub mod control;
mod costs;
mod count;
pub mod db;
mod deliveries;
mod delta;
mod filter_room;
mod gateway_tap;
mod hot;
mod hub;
pub mod identity;
mod indexer;
mod ingest;
mod inquiry;
pub mod l2;
mod local;
mod membership;
mod message;
mod metrics;
mod moderation;
mod neg;
mod network;
mod nip11;
mod nip86;
mod nip98;
mod outbox;
mod own_seqs;
mod peers;
mod plugin;
mod poll;
mod quotas;
mod reads;
mod refusals;
mod removals;
mod retention;
mod revive;
mod searcher;
mod server;
mod session;
mod sight;
mod sketch;
mod streamer;
mod subscriptions;
mod throttle;
mod under_way;
mod verdict;
mod verifier;
mod visitor;
mod walk;
mod websocket;
/// Public for the fuzz targets alone, which lie outside the workspace.
#[doc(hidden)]
pub mod wire;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use event::Filter;
use layer2::Layer2;
use store::Store;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Handle,
    sync::{Notify, Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    auth::RelayUrl,
    config::{Config, terms::Terms},
    deliveries::{Deliveries, Fact},
    delta::Delta,
    filter_room::FilterRoom,
    hot::HotLists,
    hub::{Around, Found, Hub},
    identity::Identity,
    ingest::Ingest,
    inquiry::Inquiry,
    metrics::Metrics,
    moderation::Moderator,
    peers::{Peers, tapper::Tapper},
    plugin::{Policy, Side},
    poll::Standing,
    reads::Reads,
    revive::Revival,
    searcher::Searcher,
    throttle::Throttle,
};

/// What all sessions share.
pub(crate) struct Relay {
    pub config: Config,
    pub identity: Identity,
    /// Where clients reach it.
    pub url: RelayUrl,
    /// Who keeps the terms that are in force.
    pub moderator: Arc<Moderator>,
    /// What authorized a request (NIP-98).
    pub used: nip98::Used,
    pub throttle: Arc<Throttle>,
    pub filter_room: FilterRoom,
    pub read_policy: Policy,
    /// Places for reconciliations.
    pub reconciliations: Arc<Semaphore>,
    pub hot_lists: Arc<HotLists>,
    pub store: Store,
    pub reads: Reads,
    pub delta: Delta,
    pub revival: Arc<Revival>,
    /// None: there is nobody to ask.
    pub inquiry: Option<Arc<Inquiry>>,
    /// None: it does not search.
    pub searcher: Option<Arc<Searcher>>,
    pub ingest: Ingest,
    /// The other relays of the cluster.
    pub peers: Peers,
    pub deliveries: Deliveries,
    pub metrics: Arc<Metrics>,
}

impl Relay {
    /// Starts everything that a session needs, in the order in which one part needs another.
    fn start(
        config: Config,
        identity: Identity,
        url: RelayUrl,
        moderator: Arc<Moderator>,
        hub: &Hub,
    ) -> anyhow::Result<Arc<Relay>> {
        let throttle = Arc::new(Throttle::new(moderator.in_force()));
        hub.tasks.spawn(throttle.clone().sweep(hub.stop()));
        let collector = hub.collect(&config)?;
        let quotas = hub.keep_messages();
        let tapper = Arc::new(Tapper::new(hub.metrics.clone()));
        hub.take_requests(&config.data, collector, &moderator, &quotas, &tapper);
        let searcher = hub.search(&config);
        let (standing, known) = watch::channel(Standing::Unknown);
        let inquiry = hub.inquire(&config, known)?;
        let link = hub.share(&config, standing);
        let membership = link.membership.clone();
        let (members, doubt) = (watch::Sender::default(), Arc::new(Notify::new()));
        let peers = Peers { tapper, members: members.subscribe(), doubt: doubt.clone() };
        let relay = Arc::new(Relay {
            url,
            identity,
            moderator,
            used: nip98::Used::default(),
            read_policy: hub.policy(Side::Read),
            reconciliations: Arc::new(Semaphore::new(neg::AT_ONCE_MAX)),
            hot_lists: Arc::default(),
            store: hub.store.clone(),
            reads: hub.reads.clone(),
            delta: hub.delta.clone(),
            revival: hub.revive(&config),
            inquiry,
            searcher,
            ingest: hub.take_events(&config, link, &throttle, quotas)?,
            throttle,
            filter_room: FilterRoom::default(),
            peers,
            deliveries: hub.deliveries(),
            metrics: hub.metrics.clone(),
            config,
        });
        hub.find_peers(&relay, Found { membership, members, doubt });
        Ok(relay)
    }

    /// What clients meet at present.
    pub fn terms(&self) -> Arc<Terms> {
        self.moderator.in_force().load_full()
    }

    /// Filters with the limits that this relay keeps.
    pub fn clamp(&self, mut filters: Vec<Filter>) -> Vec<Filter> {
        let terms = self.terms();
        let limits = &terms.limits;
        for filter in &mut filters {
            let wanted = filter.limit.unwrap_or(limits.limit_default);
            filter.limit = Some(wanted.min(limits.limit_max));
        }
        filters
    }

    /// The metrics, with what is not counted along. It reads L1.
    pub fn scrape(&self) -> String {
        let tasks = Handle::current().metrics().num_alive_tasks();
        self.metrics.tasks.set(tasks as i64);
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
        self.metrics.note_lost_lines(self.deliveries.lost());
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

/// What a relay is told from outside while it runs.
#[derive(Clone, Default)]
pub struct Signals {
    /// To end.
    pub stop: CancellationToken,
    /// To read its configuration again.
    pub reload: Arc<Notify>,
}

/// Serves clients until it is told to stop, then lets every session and every task end. Without `layer2`
/// its events stay on this relay alone.
pub async fn run(
    config: Config,
    identity: Identity,
    layer2: Option<Arc<dyn Layer2>>,
    listeners: Listeners,
    signals: Signals,
) -> anyhow::Result<()> {
    let Signals { stop, reload } = signals;
    let moderator = Arc::new(Moderator::open(&config)?);
    let in_force = moderator.in_force();
    let url = config.url_or(listeners.clients.local_addr()?);
    let (deliveries, scribe) =
        Deliveries::open(&config.data, config.delivery_log_days, in_force.clone());
    deliveries
        .note(Fact::Started { version: env!("CARGO_PKG_VERSION"), key: identity.public_key() });
    let around = Around { in_force, layer2, deliveries: deliveries.clone(), stop: stop.clone() };
    let hub = Hub::open(&config, url.clone(), around)?;
    hub.tasks.spawn(reload_when_told(moderator.clone(), reload, stop.clone()));
    let relay = Relay::start(config, identity, url, moderator, &hub)?;
    if let Some(listener) = listeners.metrics {
        hub.tasks.spawn(server::serve_metrics(listener, relay.clone(), stop.clone()));
    }
    server::serve(listeners.clients, relay, stop).await;
    hub.close().await;
    deliveries.note(Fact::Stopped);
    scribe.end().await;
    info!("stopped");
    Ok(())
}

/// Has the configuration read again whenever somebody says so, until `stop`.
async fn reload_when_told(moderator: Arc<Moderator>, told: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = told.notified() => {}
        }
        let moderator = moderator.clone();
        let reloading = tokio::task::spawn_blocking(move || moderator.reload());
        match reloading.await {
            Ok(Ok(reloaded)) => reloaded.log(),
            Ok(Err(cause)) => error!("the configuration stays as it was: {cause:#}"),
            Err(error) => error!(%error, "reading the configuration failed"),
        }
    }
}

/// Where the store is, in a relay's data folder.
fn store_in(data: &Path) -> PathBuf {
    data.join("events")
}
