//! The process: its instances, blobs and gateways, and when it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use axum::Router;
use pocket_ic::common::rest::{
    HttpGatewayBackend, HttpGatewayConfig, HttpGatewayInfo, IcpFeatures, InitialTime,
    InstanceConfig, InstanceHttpGatewayConfig, SubnetSpec, Topology,
};

use crate::activity::Activity;
use crate::gateway::Gateway;
use crate::ic::{GENESIS_NANOS, Ic};
use crate::instance::{Instance, StateDir};
use crate::instance_api::Blobs;
use crate::topology::{self, Subnets};
use crate::wasm::Runner;
use crate::{instance_api, mem, save};

/// A live instance with a state directory loses at most this much when it is killed, and what
/// happened while it was being saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(3);
/// Rounds wait while the state is saved: a large state is saved less often, so that all but one
/// part in so many of the time is left for them.
const SAVING_SHARE: u32 = 20;

pub struct Server {
    runner: Arc<Runner>,
    instances: RwLock<Vec<Option<Handle>>>,
    gateways: Mutex<BTreeMap<usize, Gateway>>,
    next_gateway: AtomicUsize,
    blobs: Arc<Blobs>,
    activity: Arc<Activity>,
}

/// An instance and the routes to it.
#[derive(Clone)]
pub struct Handle {
    pub instance: Arc<Instance>,
    pub router: Router,
}

impl Server {
    pub fn new(cache_dir: Option<PathBuf>) -> Result<Arc<Server>> {
        ensure!(
            mem::host_has_our_pages(),
            "not supported by local-ic: memory pages of other than 4 KiB"
        );
        let runner = Runner::new(cache_dir).map_err(|e| anyhow!("{e:#}"))?;
        Ok(Arc::new(Server {
            runner: Arc::new(runner),
            instances: RwLock::default(),
            gateways: Mutex::default(),
            next_gateway: AtomicUsize::new(0),
            blobs: Arc::default(),
            activity: Arc::default(),
        }))
    }

    pub fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Completes when nobody has asked for anything for so long.
    pub async fn idle(&self, ttl: Duration) {
        loop {
            let idle = self.activity.idle_for();
            if idle >= ttl {
                return;
            }
            tokio::time::sleep((ttl - idle).min(Duration::from_secs(1))).await;
        }
    }

    pub fn handle(&self, id: usize) -> Option<Handle> {
        self.instances.read().unwrap().get(id)?.clone()
    }

    /// `Available` or `Deleted`, for each instance there ever was.
    pub fn list(&self) -> Vec<&'static str> {
        let instances = self.instances.read().unwrap();
        let state = |handle: &Option<Handle>| match handle {
            Some(_) => "Available",
            None => "Deleted",
        };
        instances.iter().map(state).collect()
    }

    /// Makes an instance and, if the configuration has one, its gateway.
    pub async fn open(
        self: &Arc<Server>,
        mut config: InstanceConfig,
    ) -> Result<(usize, Topology, Option<HttpGatewayInfo>)> {
        let gateway = config.http_gateway_config.take();
        let making = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || making.create(config)).await?;
        let (id, topology) = made?;
        let gateway = match gateway {
            None => None,
            Some(config) => Some(self.start_gateway(gateway_of(id, config)).await?),
        };
        Ok((id, topology, gateway))
    }

    /// Reads or makes the state an instance is to have, and starts it.
    fn create(self: &Arc<Server>, config: InstanceConfig) -> Result<(usize, Topology)> {
        refuse_unsupported(&config)?;
        let state_dir = config.state_dir.as_deref().map(StateDir::open).transpose()?;
        let ic = self.initial_state(&config)?;
        let topology = ic.subnets.topology();
        let is_live = matches!(config.initial_time, Some(InitialTime::AutoProgress(_)));
        let validates = config.disable_ingress_validation != Some(true);
        let mut instances = self.instances.write().unwrap();
        let id = instances.len();
        let instance = Arc::new(Instance::new(id, ic, state_dir, validates));
        if is_live {
            instance.start_live();
        }
        let router = instance_api::router(Arc::clone(&instance), Arc::clone(&self.blobs));
        instances.push(Some(Handle { instance, router }));
        Ok((id, topology))
    }

    fn initial_state(&self, config: &InstanceConfig) -> Result<Ic> {
        let plans = topology::plans(&config.subnet_config_set);
        let runner = Arc::clone(&self.runner);
        let mut ic = match &config.state_dir {
            Some(dir) if save::exists(dir)? => save::load(runner, dir, plans)
                .with_context(|| format!("cannot load the state in {}", dir.display()))?,
            _ => {
                config.subnet_config_set.validate().map_err(anyhow::Error::msg)?;
                Ic::new(runner, Subnets::new(plans), GENESIS_NANOS)
            }
        };
        if let Some(InitialTime::Timestamp(time)) = &config.initial_time {
            if time.nanos_since_epoch < ic.time {
                bail!("The initial timestamp must be at least {}", ic.time);
            }
            ic.time = time.nanos_since_epoch;
        }
        Ok(ic)
    }

    /// Ends an instance; its state is on disk when this returns.
    pub fn delete(&self, id: usize) -> Result<()> {
        let handle = self.instances.write().unwrap().get_mut(id).and_then(Option::take);
        let Some(handle) = handle else {
            bail!("Instance {id} not found");
        };
        self.gateways.lock().unwrap().retain(|_, gateway| gateway.instance != id);
        handle.instance.end()
    }

    /// The instances there are.
    pub fn available(&self) -> Vec<Arc<Instance>> {
        let instances = self.instances.read().unwrap();
        instances.iter().flatten().map(|handle| Arc::clone(&handle.instance)).collect()
    }

    /// Ends every instance, for when the process is asked to stop; false if a state was not saved.
    pub fn delete_all(&self) -> bool {
        let mut are_saved = true;
        for instance in self.available() {
            if let Err(error) = self.delete(instance.id) {
                tracing::error!(instance = instance.id, "state not saved: {error:#}");
                are_saved = false;
            }
        }
        are_saved
    }

    /// Saves live instances again and again, for the case that nobody will ask the process to stop.
    ///
    /// Only live ones: what a test moves by hand is saved when the test ends it, and a test that is
    /// killed has no use for half of it.
    pub async fn save_for_ever(self: Arc<Server>) {
        let mut pause = SAVE_INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            let server = Arc::clone(&self);
            let saving = tokio::task::spawn_blocking(move || server.save_live());
            let took = saving.await.unwrap_or_default();
            pause = SAVE_INTERVAL.max(took * SAVING_SHARE);
        }
    }

    /// Returns how long it took.
    fn save_live(&self) -> Duration {
        let begun = Instant::now();
        for instance in self.available().iter().filter(|instance| instance.is_live()) {
            if let Err(error) = instance.save_changes() {
                tracing::error!(instance = instance.id, "state not saved: {error:#}");
            }
        }
        begun.elapsed()
    }

    pub async fn start_gateway(
        self: &Arc<Server>,
        config: HttpGatewayConfig,
    ) -> Result<HttpGatewayInfo> {
        let HttpGatewayBackend::PocketIcInstance(id) = config.forward_to else {
            bail!("not supported by local-ic: a gateway to a replica");
        };
        if config.https_config.is_some() {
            bail!("not supported by local-ic: a gateway with TLS");
        }
        let Some(handle) = self.handle(id) else {
            bail!("Instance {id} not found");
        };
        let number = self.next_gateway.fetch_add(1, Ordering::SeqCst);
        let gateway =
            Gateway::start(&handle.instance, handle.router, self.activity(), &config).await?;
        let port = gateway.port;
        self.gateways.lock().unwrap().insert(number, gateway);
        Ok(HttpGatewayInfo { instance_id: number, port })
    }

    pub async fn stop_gateway(&self, number: usize) {
        let gateway = self.gateways.lock().unwrap().remove(&number);
        if let Some(gateway) = gateway {
            gateway.stop().await;
        }
    }
}

/// The gateway an instance is created with.
fn gateway_of(instance: usize, config: InstanceHttpGatewayConfig) -> HttpGatewayConfig {
    HttpGatewayConfig {
        ip_addr: config.ip_addr,
        port: config.port,
        forward_to: HttpGatewayBackend::PocketIcInstance(instance),
        domains: config.domains,
        https_config: config.https_config,
        domain_custom_provider_local_file: config.domain_custom_provider_local_file,
    }
}

/// What is not there must not look as if it were.
fn refuse_unsupported(config: &InstanceConfig) -> Result<()> {
    if config.bitcoind_addr.is_some() || config.dogecoind_addr.is_some() {
        bail!("not supported by local-ic: Bitcoin and Dogecoin");
    }
    if config.mainnet_nns_subnet_id == Some(true) {
        bail!("not supported by local-ic: the mainnet's NNS subnet id");
    }
    if config.icp_features.as_ref().is_some_and(has_feature) {
        bail!("not supported by local-ic: icp_features");
    }
    let set = &config.subnet_config_set;
    let named =
        [&set.nns, &set.sns, &set.ii, &set.fiduciary, &set.bitcoin, &set.test_threshold_keys];
    let unnamed = [&set.system, &set.application, &set.cloud_engine, &set.verified_application];
    let mut specs = named.into_iter().flatten().chain(unnamed.into_iter().flatten());
    if specs.any(|spec: &SubnetSpec| spec.get_state_path().is_some() || !spec.is_supported()) {
        bail!("not supported by local-ic: a subnet with a state of its own");
    }
    Ok(())
}

fn has_feature(features: &IcpFeatures) -> bool {
    *features != IcpFeatures::default()
}
