//! Instances on disk.
//!
//! A state directory holds `local-ic.json`, which names the current checkpoint directory, and that
//! directory: `state.json` with everything that is plain data, and for each canister its heap,
//! stable memory, module and chunks as files. A checkpoint is complete before `local-ic.json`
//! names it, so a crash while saving leaves the one before.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candid::Principal;
use serde::{Deserialize, Serialize};

use crate::ic::{CallContext, Canister, Ic, Ingress, IngressHistory, Message, MessageId};
use crate::mem::Image;
use crate::outcalls::Outcall;
use crate::topology::{SubnetPlan, Subnets};
use crate::wasm::{Hash, Runner};

const POINTER: &str = "local-ic.json";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Pointer {
    format: u32,
    checkpoint: String,
}

/// Written from the state as it lies in memory; read back as a [`Saved`].
///
/// Typed on both sides: a `serde_json::Value` cannot hold cycles, which have 128 bits.
#[derive(Serialize)]
struct Saving<'a> {
    plans: Vec<SubnetPlan>,
    time: u64,
    next_number: u64,
    random: [u8; 32],
    canisters: Vec<SavingCanister<'a>>,
    queue: &'a VecDeque<Message>,
    ingress: Vec<(&'a MessageId, &'a Ingress)>,
    contexts: Vec<(&'a u64, &'a CallContext)>,
    outcalls: Vec<(&'a u64, &'a Outcall)>,
    compiled: &'a BTreeSet<Hash>,
}

#[derive(Serialize)]
struct SavingCanister<'a> {
    canister: &'a Canister,
    has_module: bool,
    chunks: Vec<&'a Hash>,
}

#[derive(Deserialize)]
struct Saved {
    plans: Vec<SubnetPlan>,
    time: u64,
    next_number: u64,
    random: [u8; 32],
    canisters: Vec<SavedCanister>,
    queue: VecDeque<Message>,
    ingress: Vec<(MessageId, Ingress)>,
    contexts: Vec<(u64, CallContext)>,
    outcalls: Vec<(u64, Outcall)>,
    compiled: BTreeSet<Hash>,
}

#[derive(Deserialize)]
struct SavedCanister {
    canister: Canister,
    has_module: bool,
    chunks: Vec<Hash>,
}

/// Whether there is a state to load; an error if there is somebody else's.
pub fn exists(dir: &Path) -> Result<bool> {
    if dir.join("topology.json").exists() {
        bail!(
            "{} was written by the official PocketIC server; local-ic cannot read it",
            dir.display()
        );
    }
    Ok(dir.join(POINTER).exists())
}

pub fn save(ic: &Ic, dir: &Path) -> Result<()> {
    let before = read_pointer(dir).ok();
    let number = before
        .as_ref()
        .and_then(|pointer| pointer.checkpoint.strip_prefix("checkpoint-")?.parse().ok())
        .unwrap_or(0u64);
    let checkpoint = format!("checkpoint-{}", number + 1);
    let to = dir.join(&checkpoint);
    fs::remove_dir_all(&to).ok(); // Left behind by a crash.
    fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
    for canister in ic.canisters.values() {
        save_body(canister, &to)?;
    }
    write_json(&to.join("state.json"), &saving(ic))?;
    let pointer = Pointer { format: FORMAT, checkpoint };
    write_json(&dir.join(POINTER), &pointer)?;
    if let Some(before) = before {
        fs::remove_dir_all(dir.join(before.checkpoint)).ok();
    }
    Ok(())
}

fn saving(ic: &Ic) -> Saving<'_> {
    let canister = |canister| SavingCanister {
        canister,
        has_module: canister.body.code.is_some(),
        chunks: canister.chunks.keys().collect(),
    };
    Saving {
        plans: ic.subnets.plans(),
        time: ic.time,
        next_number: ic.next_number,
        random: ic.random,
        canisters: ic.canisters.values().map(canister).collect(),
        queue: &ic.queue,
        ingress: ic.ingress.messages.iter().collect(),
        contexts: ic.contexts.iter().collect(),
        outcalls: ic.outcalls.iter().collect(),
        compiled: &ic.compiled,
    }
}

fn save_body(canister: &Canister, dir: &Path) -> Result<()> {
    let path = |kind: &str| dir.join(format!("{}.{kind}", canister.id));
    canister.body.heap.save(&path("heap"))?;
    canister.body.stable.save(&path("stable"))?;
    if let Some(code) = &canister.body.code {
        fs::write(path("wasm"), &code.sent)?;
    }
    for (hash, chunk) in &canister.chunks {
        fs::write(path(&format!("chunk-{}", hex::encode(hash))), chunk)?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let part = path.with_extension("json.part");
    let file = fs::File::create(&part)?;
    serde_json::to_writer(std::io::BufWriter::new(&file), value)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    Ok(())
}

fn read_pointer(dir: &Path) -> Result<Pointer> {
    let text = fs::read_to_string(dir.join(POINTER))?;
    Ok(serde_json::from_str(&text)?)
}

/// The saved state, with the subnets of `wanted` that it does not have yet.
pub fn load(runner: Arc<Runner>, dir: &Path, wanted: Vec<SubnetPlan>) -> Result<Ic> {
    let pointer = read_pointer(dir)?;
    if pointer.format != FORMAT {
        bail!("the state has format {}, expected {FORMAT}", pointer.format);
    }
    let from = dir.join(pointer.checkpoint);
    let file = fs::File::open(from.join("state.json"))?;
    let saved: Saved = serde_json::from_reader(std::io::BufReader::new(file))?;
    let subnets = Subnets::new(with_missing(saved.plans, wanted));
    let mut ic = Ic::new(runner, subnets, saved.time);
    for saved in saved.canisters {
        let canister = load_body(&ic, saved, &from)?;
        ic.canisters.insert(canister.id, canister);
    }
    ic.next_number = saved.next_number;
    ic.random = saved.random;
    ic.queue = saved.queue;
    ic.ingress = IngressHistory::restore(saved.ingress);
    ic.contexts = saved.contexts.into_iter().collect();
    ic.outcalls = saved.outcalls.into_iter().collect();
    ic.compiled = saved.compiled;
    Ok(ic)
}

/// A subnet of a kind that is there as often as wanted is that one; others are added.
fn with_missing(mut have: Vec<SubnetPlan>, wanted: Vec<SubnetPlan>) -> Vec<SubnetPlan> {
    let mut unmatched: Vec<_> = have.iter().map(|plan| plan.kind).collect();
    for plan in wanted {
        match unmatched.iter().position(|kind| *kind == plan.kind) {
            Some(found) => drop(unmatched.swap_remove(found)),
            None if have.iter().all(|other| other.allocation != plan.allocation) => have.push(plan),
            None => {} // Its id range is taken; the caller asked for something else before.
        }
    }
    have
}

fn load_body(ic: &Ic, saved: SavedCanister, dir: &Path) -> Result<Canister> {
    let mut canister = saved.canister;
    let id: Principal = canister.id;
    let path = |kind: &str| -> PathBuf { dir.join(format!("{id}.{kind}")) };
    canister.body.heap = Image::heap()?.load(&path("heap"))?;
    canister.body.stable = Image::stable()?.load(&path("stable"))?;
    if saved.has_module {
        let code = ic.runner.code(&fs::read(path("wasm"))?);
        canister.body.code = Some(code.map_err(anyhow::Error::msg)?);
    }
    for hash in saved.chunks {
        let chunk = fs::read(path(&format!("chunk-{}", hex::encode(hash))))?;
        canister.chunks.insert(hash, chunk);
    }
    Ok(canister)
}
