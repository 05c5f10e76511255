//! The local Internet Computer with the event store on it.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use candid::{CandidType, Nat, Principal, utils::ArgumentEncoder};
use futures_util::FutureExt;
use interface::{Answer, Argument, Done, Init, Member, Role, Status};
use pocket_ic::{
    CanisterSettings, PocketIcBuilder, RejectResponse, common::rest::BlobCompression,
    nonblocking::PocketIc,
};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::Server;

/// Added to the canister each time it is opened: nobody pays on a laptop.
const CYCLES: u128 = 1_000_000_000_000_000;

/// How long a canister's cycles are to last before it is frozen, if nobody says otherwise.
const FREEZING_SECONDS: u64 = 2_592_000;
/// A hundred thousand years: what was added does not last so long.
const LONG_SECONDS: u64 = 100_000 * 365 * 86_400;
/// This does.
const LONG_CYCLES: u128 = 1_000_000 * CYCLES;

/// Who owns the canister here. A principal without a key: PocketIC takes the sender's word.
pub fn operator() -> Principal {
    Principal::self_authenticating(b"the operator of a local Aquifer")
}

/// Where an instance lives.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Folder that keeps its state; without one it is forgotten.
    pub state: Option<PathBuf>,
    /// Port of its gateway; any free one if absent.
    pub gateway_port: Option<u16>,
}

/// An instance in live mode: its time is ours, and it answers agents at its gateway.
pub struct Ic {
    pic: PocketIc,
    gateway_port: u16,
    canister: Option<Principal>,
}

impl Ic {
    pub async fn open(server: &Server, placement: &Placement) -> Result<Ic> {
        let mut builder = PocketIcBuilder::new().with_server_url(server.url().clone());
        // A state folder brings its subnets along; naming them again would add to them.
        if !placement.state.as_deref().is_some_and(has_state) {
            // The Internet Identity subnet is where icp-cli looks for the cycles ledger.
            builder = builder.with_nns_subnet().with_ii_subnet().with_application_subnet();
        }
        if let Some(folder) = &placement.state {
            std::fs::create_dir_all(folder)?;
            // The server has a working directory of its own.
            builder = builder.with_state_dir(folder.canonicalize()?);
        }
        let mut pic = unpanicked("making an instance", builder.build_async()).await?;
        let gateway =
            unpanicked("starting the gateway", pic.make_live(placement.gateway_port)).await?;
        let gateway_port = gateway.port().context("the gateway's URL has a port")?;
        Ok(Ic { pic, gateway_port, canister: None })
    }

    /// Where agents reach it. An address and not a name: `localhost` may mean another one first.
    pub fn gateway(&self) -> String {
        format!("http://127.0.0.1:{}", self.gateway_port)
    }

    pub fn gateway_port(&self) -> u16 {
        self.gateway_port
    }

    /// The event store. Install or adopt one first.
    pub fn canister(&self) -> Principal {
        self.canister.expect("the canister was installed or adopted")
    }

    /// Makes a canister and installs the event store in it.
    pub async fn install(&mut self, wasm: Vec<u8>) -> Result<Principal> {
        let owner = operator();
        let pic = &self.pic;
        let install = async {
            let canister = pic.create_canister_with_settings(Some(owner), None).await;
            pic.add_cycles(canister, CYCLES).await;
            pic.install_canister(canister, wasm, init(owner)?, Some(owner)).await;
            anyhow::Ok(canister)
        };
        let canister = unpanicked("installing the canister", install).await??;
        self.canister = Some(canister);
        Ok(canister)
    }

    /// Goes on with a canister that is there already, and upgrades it if `wasm` is another.
    pub async fn adopt(&mut self, canister: Principal, wasm: Vec<u8>) -> Result<()> {
        let pic = &self.pic;
        let exists = pic.canister_exists(canister);
        let exists = unpanicked("looking for the canister", exists).await?;
        ensure!(exists, "there is no canister {canister}");
        self.canister = Some(canister);
        unpanicked("adding cycles", pic.add_cycles(canister, CYCLES)).await?;
        let status = pic.canister_status(canister, Some(operator())).await.map_err(rejected)?;
        if status.module_hash.as_deref() != Some(&Sha256::digest(&wasm)[..]) {
            self.upgrade(wasm).await?;
        }
        self.start().await
    }

    /// Upgrades the canister; its stable memory stays.
    pub async fn upgrade(&self, wasm: Vec<u8>) -> Result<()> {
        let argument = candid::encode_one(Some(Argument::Upgrade(None)))?;
        let upgrade = self.pic.upgrade_canister(self.canister(), wasm, argument, Some(operator()));
        unpanicked("upgrading", upgrade).await?.map_err(rejected)
    }

    /// Begins anew under the same id: all that the canister held is gone, grants included.
    pub async fn reinstall(&self, wasm: Vec<u8>) -> Result<()> {
        let owner = operator();
        let (canister, argument) = (self.canister(), init(owner)?);
        let reinstall = self.pic.reinstall_canister(canister, wasm, argument, Some(owner));
        unpanicked("reinstalling", reinstall).await?.map_err(rejected)
    }

    /// Stops the canister: all calls are refused until it is started.
    pub async fn stop(&self) -> Result<()> {
        let stop = self.pic.stop_canister(self.canister(), Some(operator()));
        unpanicked("stopping", stop).await?.map_err(rejected)
    }

    pub async fn start(&self) -> Result<()> {
        let start = self.pic.start_canister(self.canister(), Some(operator()));
        unpanicked("starting", start).await?.map_err(rejected)
    }

    /// The canister runs out of cycles: it is to keep back more for its memory than it has, so it is
    /// frozen.
    pub async fn run_dry(&self) -> Result<()> {
        self.keep_back(LONG_SECONDS).await
    }

    /// It has cycles enough again, and keeps back what canisters do.
    pub async fn top_up(&self) -> Result<()> {
        let add = self.pic.add_cycles(self.canister(), LONG_CYCLES);
        unpanicked("adding cycles", add).await?;
        self.keep_back(FREEZING_SECONDS).await
    }

    async fn keep_back(&self, seconds: u64) -> Result<()> {
        let settings = CanisterSettings {
            freezing_threshold: Some(Nat::from(seconds)),
            ..CanisterSettings::default()
        };
        let set = self.pic.update_canister_settings(self.canister(), Some(operator()), settings);
        unpanicked("setting the freezing threshold", set).await?.map_err(rejected)
    }

    /// Closes the gateway: the canister runs on, but nobody reaches it.
    pub async fn cut_off(&mut self) -> Result<()> {
        unpanicked("stopping the gateway", self.pic.stop_live()).await
    }

    /// Opens the gateway again, where it was.
    pub async fn reconnect(&mut self) -> Result<()> {
        let live = self.pic.make_live(Some(self.gateway_port));
        unpanicked("starting the gateway", live).await.map(drop)
    }

    pub async fn grant(&self, who: Principal, role: Role, note: &str) -> Result<()> {
        done("grant", self.update("grant", (who, role, note)).await?)
    }

    pub async fn revoke(&self, who: Principal) -> Result<()> {
        done("revoke", self.update("revoke", (who,)).await?)
    }

    pub async fn members(&self) -> Result<Vec<Member>> {
        self.query("members", ()).await
    }

    pub async fn status(&self) -> Result<Status> {
        self.query("status", ()).await
    }

    /// The canister's stable memory, as it is between two messages.
    pub async fn stable_memory(&self) -> Result<Vec<u8>> {
        unpanicked("reading stable memory", self.pic.get_stable_memory(self.canister())).await
    }

    /// Puts another stable memory under the canister. What runs keeps a heap that does not fit it:
    /// upgrade next.
    pub async fn set_stable_memory(&self, gzipped: Vec<u8>) -> Result<()> {
        let set = self.pic.set_stable_memory(self.canister(), gzipped, BlobCompression::Gzip);
        unpanicked("writing stable memory", set).await
    }

    /// Asks the canister, as its operator.
    pub async fn query<A: ArgumentEncoder, T: CandidType + DeserializeOwned>(
        &self,
        method: &str,
        arguments: A,
    ) -> Result<T> {
        let payload = candid::encode_args(arguments)?;
        let call = self.pic.query_call(self.canister(), operator(), method, payload);
        let reply = unpanicked(method, call).await?.map_err(rejected)?;
        Ok(candid::decode_one(&reply)?)
    }

    /// Calls the canister, as its operator.
    pub async fn update<A: ArgumentEncoder, T: CandidType + DeserializeOwned>(
        &self,
        method: &str,
        arguments: A,
    ) -> Result<T> {
        let payload = candid::encode_args(arguments)?;
        let call = self.pic.update_call(self.canister(), operator(), method, payload);
        let reply = unpanicked(method, call).await?.map_err(rejected)?;
        Ok(candid::decode_one(&reply)?)
    }

    /// Ends the instance; if it has a state folder, its state is there when this returns.
    pub async fn close(self) -> Result<()> {
        unpanicked("saving the instance", self.pic.drop()).await
    }
}

/// What a new event store is told.
fn init(owner: Principal) -> Result<Vec<u8>> {
    let init = Init { owners: vec![owner], ..Init::default() };
    Ok(candid::encode_one(Some(Argument::Init(init)))?)
}

/// Whether a server has saved an instance there: each of the two leaves a file by which we know it.
/// What a server left that was killed before it had saved is none.
fn has_state(folder: &Path) -> bool {
    ["topology.json", "local-ic.json"].iter().any(|name| folder.join(name).exists())
}

fn rejected(reject: RejectResponse) -> anyhow::Error {
    anyhow!("{:?}: {}", reject.error_code, reject.reject_message)
}

fn done(what: &str, answer: Done) -> Result<()> {
    match answer {
        Answer::Ok(()) => Ok(()),
        Answer::Err(reason) => bail!("{what}: {reason}"),
    }
}

/// The `pocket-ic` crate panics where we return an error: it is made for tests, and in one a panic
/// is as good. For somebody who runs `scripts/up` it is not.
async fn unpanicked<T>(doing: &str, future: impl Future<Output = T>) -> Result<T> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| {
        let reason = panic.downcast_ref::<String>().map(String::as_str);
        let reason = reason.or_else(|| panic.downcast_ref::<&str>().copied());
        anyhow!("{doing}: {}", reason.unwrap_or("the pocket-ic crate gave up"))
    })
}
