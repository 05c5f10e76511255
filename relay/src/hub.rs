//! L1 is the hub: it, and what runs beside it. Each of these follows L1's order of commits and knows none
//! of the others; here they are started, and here they end.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use event::{Kind, Timestamp};
use layer2::Layer2;
use search::Words;
use store::{Options, Store, Writer};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use crate::{
    auth::RelayUrl,
    collector::{AskCollector, collecting},
    config::Config,
    control::{Control, Desk},
    costs::Costs,
    delta::Delta,
    indexer::{self, Indexer},
    inquiry::{Inquiry, Sources},
    local::LocalOnly,
    membership::{Membership, watch_membership},
    metrics::Metrics,
    moderation::Moderator,
    outbox::{Outbox, Waiters},
    own_seqs::OwnSeqs,
    poll::{Poll, Standing},
    reads::Reads,
    searcher::Searcher,
    store_in,
};

/// The hub, and the tasks around it.
pub struct Hub {
    pub store: Store,
    pub writer: Writer,
    pub delta: Delta,
    pub metrics: Arc<Metrics>,
    pub tasks: TaskTracker,
    stop: CancellationToken,
}

/// What everything that talks to L2 needs.
pub struct Shared {
    pub layer2: Arc<dyn Layer2>,
    pub waiters: Arc<Waiters>,
    pub local: Arc<LocalOnly>,
    /// Where the poll says how far it is.
    pub standing: watch::Sender<Standing>,
}

impl Hub {
    /// Opens L1, and starts to hand out what comes into it.
    pub fn open(config: &Config, url: RelayUrl, stop: CancellationToken) -> anyhow::Result<Hub> {
        let metrics = Arc::new(Metrics::default());
        let folder = store_in(&config.data);
        let is_ours = Arc::new(move |relay: &str| url.is(relay));
        let options = Options { observer: metrics.clone(), is_ours, ..config.store_options() };
        let (store, writer) = Store::open(&folder, options)
            .with_context(|| format!("opening the store in {}", folder.display()))?;
        let (delta, tasks) = (Delta::start(&store), TaskTracker::new());
        tasks.spawn(delta.clone().follow_commits(store.clone(), stop.clone()));
        Ok(Hub { store, writer, delta, metrics, tasks, stop })
    }

    /// Keeps L1 below its limit, if it has one. Returns the way to ask for a collection.
    pub fn collect(&self, config: &Config, has_layer2: bool) -> Option<AskCollector> {
        let cache = config.cache.as_ref()?;
        let (collecting, ask) = collecting(&self.store, &self.writer, cache.policy(has_layer2));
        let (delta, metrics) = (self.delta.clone(), self.metrics.clone());
        let collecting = collecting.beside(delta, cache.gc_interval, metrics);
        self.tasks.spawn(collecting.run(self.stop.clone()));
        Some(ask)
    }

    /// Opens the control socket. A relay can do without, where its folder's name is too long for one.
    pub fn take_requests(
        &self,
        data: &Path,
        collector: Option<AskCollector>,
        moderator: Arc<Moderator>,
    ) {
        let (store, writer) = (self.store.clone(), self.writer.clone());
        let desk = Desk { store, writer, collector, moderator, is_alone: false };
        match Control::open(data) {
            Ok(control) => drop(self.tasks.spawn(control.serve(desk, self.stop.clone()))),
            Err(cause) => warn!(%cause, "no control socket: `aquifer db` has to wait for a stop"),
        }
    }

    /// Opens the index of words, and has it follow L1. A relay can do without.
    pub fn search(
        &self,
        config: &Config,
        reads: &Reads,
        guarded: &[Kind],
    ) -> Option<Arc<Searcher>> {
        if !config.search {
            return None;
        }
        let folder = config.data.join("search");
        match indexer::open(&folder, &self.store, guarded) {
            Ok(index) => {
                let (index, words) = (Arc::new(index), Arc::new(Words::default()));
                let (store, guarded) = (self.store.clone(), guarded.into());
                let indexer = Indexer::new(store, index.clone(), words.clone(), guarded);
                self.tasks.spawn(indexer.run(self.stop.clone()));
                Some(Arc::new(Searcher::new(index, words, reads.clone())))
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
        layer2: Option<Arc<dyn Layer2>>,
        reads: &Reads,
        standing: watch::Receiver<Standing>,
    ) -> anyhow::Result<Option<Arc<Inquiry>>> {
        let Some(layer2) = layer2 else { return Ok(None) };
        let may_be_pruned = config.cache.is_some() || self.store.complete_since()? > Timestamp(0);
        let sources = Sources { layer2, reads: reads.clone(), writer: self.writer.clone() };
        let (interval, metrics) = (config.poll_interval, self.metrics.clone());
        Ok(Some(Arc::new(Inquiry::new(sources, standing, may_be_pruned, interval, metrics))))
    }

    /// Starts outbox, poll, and the watches over what L2 can pay for and over our standing; returns the
    /// last.
    pub fn share(&self, config: &Config, shared: Shared) -> watch::Receiver<Membership> {
        let Shared { layer2, waiters, local, standing } = shared;
        let (interval, overlap) = (config.poll_interval, config.poll_overlap);
        let (doubt, own) = (Arc::new(Notify::new()), Arc::new(OwnSeqs::default()));
        let (membership, known) = watch::channel(Membership::Unknown);
        let watching = watch_membership(
            layer2.clone(),
            membership,
            doubt.clone(),
            interval,
            self.stop.clone(),
        );
        let outbox = Outbox {
            store: self.store.clone(),
            writer: self.writer.clone(),
            layer2: layer2.clone(),
            local,
            batches_max: config.outbox_batches,
            waiters,
            doubt: doubt.clone(),
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
        self.tasks.spawn(costs.run(self.stop.clone()));
        self.tasks.spawn(watching);
        self.tasks.spawn(outbox.follow(self.stop.clone()));
        self.tasks.spawn(poll.run(self.stop.clone()));
        known
    }

    /// After the stop: waits until everything has ended and all that is queued is written.
    pub async fn close(self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.writer.stop().await;
    }
}
