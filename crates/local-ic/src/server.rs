//! The process: its instances, blobs and gateways, and when it ends.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use pocket_ic::common::rest::{
    HttpGatewayBackend, HttpGatewayConfig, HttpGatewayInfo, IcpFeatures, InitialTime,
    InstanceConfig, InstanceHttpGatewayConfig, SubnetSpec, Topology,
};

use crate::gateway::Gateway;
use crate::ic::{GENESIS_NANOS, Ic};
use crate::instance::Instance;
use crate::topology::{self, Subnets};
use crate::wasm::Runner;
use crate::{mem, rest, save};

pub struct Server {
    runner: Arc<Runner>,
    instances: RwLock<Vec<Option<Handle>>>,
    gateways: Mutex<BTreeMap<usize, Gateway>>,
    next_gateway: AtomicUsize,
    pub blobs: RwLock<HashMap<Vec<u8>, Vec<u8>>>,
    activity: Arc<Activity>,
}

/// An instance and the routes to it.
#[derive(Clone)]
pub struct Handle {
    pub instance: Arc<Instance>,
    pub router: Router,
}

/// When there was last something to do; idle servers end themselves.
pub struct Activity {
    pending: AtomicUsize,
    last: Mutex<Instant>,
}

impl Activity {
    fn idle_for(&self) -> Duration {
        match self.pending.load(Ordering::SeqCst) {
            0 => self.last.lock().unwrap().elapsed(),
            _ => Duration::ZERO,
        }
    }
}

/// Counts a request as pending until its answer is made, or its client is gone.
struct Pending(Arc<Activity>);

impl Drop for Pending {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap() = Instant::now();
        self.0.pending.fetch_sub(1, Ordering::SeqCst);
    }
}

pub async fn count_request(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    server.activity.pending.fetch_add(1, Ordering::SeqCst);
    let _pending = Pending(Arc::clone(&server.activity));
    next.run(request).await
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
            blobs: RwLock::default(),
            activity: Arc::new(Activity {
                pending: AtomicUsize::new(0),
                last: Mutex::new(Instant::now()),
            }),
        }))
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

    /// Reads or makes the state an instance is to have, and starts it.
    pub fn create(self: &Arc<Server>, config: InstanceConfig) -> Result<(usize, Topology)> {
        refuse_unsupported(&config)?;
        let ic = self.initial_state(&config)?;
        let topology = ic.subnets.topology();
        let is_live = matches!(config.initial_time, Some(InitialTime::AutoProgress(_)));
        let validates = config.disable_ingress_validation != Some(true);
        let mut instances = self.instances.write().unwrap();
        let id = instances.len();
        let instance = Arc::new(Instance::new(id, ic, config.state_dir, validates));
        if is_live {
            instance.start_live();
        }
        let router = rest::instance_router(Arc::clone(&instance), Arc::clone(self));
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
        handle.instance.stop_live();
        match &handle.instance.state_dir {
            Some(dir) => save::save(&handle.instance.read(), dir),
            None => Ok(()),
        }
    }

    /// Ends every instance, for when the process is asked to stop.
    pub fn delete_all(&self) {
        let count = self.instances.read().unwrap().len();
        for id in (0..count).filter(|id| self.handle(*id).is_some()) {
            if let Err(error) = self.delete(id) {
                tracing::error!(instance = id, "state not saved: {error:#}");
            }
        }
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
        let gateway = Gateway::start(Arc::clone(self), handle, &config).await?;
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
pub fn gateway_of(instance: usize, config: InstanceHttpGatewayConfig) -> HttpGatewayConfig {
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
