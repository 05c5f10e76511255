//! Instances on disk.
//!
//! A state directory holds
//!
//! * `local-ic.json`, which names the current state directory, `state-<n>`;
//! * `state-<n>/state.json`, everything that is plain data, and `state-<n>/pages`, the memory pages
//!   that have changed since the state before;
//! * `memory/`, a sparse file for each heap and stable memory, and `blobs/`, modules and chunks
//!   under their hashes.
//!
//! So saving again costs what has changed, not what there is. A state is complete before
//! `local-ic.json` names it; only then do its pages go into the files of `memory/`, and reading a
//! state writes them there again. Wherever a process is killed, one of two whole states is found.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::canister::{Body, Canister};
use crate::ic::Ic;
use crate::mem::{Image, PAGE};
use crate::message::{CallContext, Ingress, IngressHistory, Message, MessageId, Outcall};
use crate::topology::{SubnetPlan, Subnets};
use crate::wasm::{Hash, Runner};

const POINTER: &str = "local-ic.json";
const FORMAT: u32 = 2;

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
    body: BodyFiles,
    snapshots: Vec<(u64, BodyFiles)>,
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
    body: BodyFiles,
    snapshots: Vec<(u64, BodyFiles)>,
}

/// Where the parts of a [`Body`] are.
#[derive(Serialize, Deserialize)]
struct BodyFiles {
    heap: MemoryFile,
    stable: MemoryFile,
    module: Option<Hash>,
    chunks: Vec<Hash>,
}

#[derive(Serialize, Deserialize)]
struct MemoryFile {
    name: String,
    len: u64,
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

/// Brings the directory up to date; it is always the same one for the same instance.
pub fn save(ic: &Ic, dir: &Path) -> Result<()> {
    let number = read_pointer(dir).ok().and_then(|pointer| number_of(&pointer.checkpoint));
    let mut writer = Writer::new(dir, number.unwrap_or(0) + 1)?;
    writer.write(ic).inspect_err(|_| forget_saved(ic))?;
    writer.clean()
}

fn number_of(checkpoint: &str) -> Option<u64> {
    checkpoint.strip_prefix("state-")?.parse().ok()
}

/// After a failure nobody knows which pages are on disk, so all of them are written next time.
fn forget_saved(ic: &Ic) {
    for canister in ic.canisters.values() {
        let snapshots = canister.snapshots.all.values().map(|snapshot| &snapshot.body);
        for body in snapshots.chain([&canister.body]) {
            body.heap.saved().file = None;
            body.stable.saved().file = None;
        }
    }
}

/// Writes one state.
struct Writer<'a> {
    dir: &'a Path,
    checkpoint: String,
    pages: BufWriter<File>,
    /// Files that this state refers to.
    memories: HashSet<String>,
    blobs: HashSet<String>,
}

impl Writer<'_> {
    fn new(dir: &Path, number: u64) -> Result<Writer<'_>> {
        let checkpoint = format!("state-{number}");
        let to = dir.join(&checkpoint);
        fs::remove_dir_all(&to).ok(); // Left behind by a crash.
        for needed in [&to, &dir.join("memory"), &dir.join("blobs")] {
            fs::create_dir_all(needed)
                .with_context(|| format!("cannot create {}", needed.display()))?;
        }
        let pages = BufWriter::new(File::create(to.join("pages"))?);
        Ok(Writer { dir, checkpoint, pages, memories: HashSet::new(), blobs: HashSet::new() })
    }

    fn write(&mut self, ic: &Ic) -> Result<()> {
        let mut canisters = Vec::new();
        for canister in ic.canisters.values() {
            let mut snapshots = Vec::new();
            for (number, snapshot) in &canister.snapshots.all {
                snapshots.push((*number, self.body(&snapshot.body)?));
            }
            canisters.push(SavingCanister {
                canister,
                body: self.body(&canister.body)?,
                snapshots,
            });
        }
        self.pages.flush()?;
        self.pages.get_ref().sync_all()?;
        let state = Saving {
            plans: ic.subnets.plans(),
            time: ic.time,
            next_number: ic.next_number,
            random: ic.random,
            canisters,
            queue: &ic.queue,
            ingress: ic.ingress.worth_saving(),
            contexts: ic.contexts.iter().collect(),
            outcalls: ic.outcalls.iter().collect(),
            compiled: &ic.compiled,
        };
        write_json(&self.dir.join(&self.checkpoint).join("state.json"), &state)?;
        let pointer = Pointer { format: FORMAT, checkpoint: self.checkpoint.clone() };
        write_json(&self.dir.join(POINTER), &pointer)?;
        apply_pages(self.dir, &self.checkpoint)
    }

    fn body(&mut self, body: &Body) -> Result<BodyFiles> {
        let heap = self.memory(&body.heap)?;
        let stable = self.memory(&body.stable)?;
        let module = body.code.as_ref().map(|code| code.hash);
        if let Some(code) = &body.code {
            self.blob(&code.hash, &code.sent)?;
        }
        for (hash, chunk) in &body.chunks {
            self.blob(hash, chunk)?;
        }
        let chunks = body.chunks.keys().copied().collect();
        Ok(BodyFiles { heap, stable, module, chunks })
    }

    /// A memory seen for the first time gets a file of its own, the others give their new pages.
    fn memory(&mut self, image: &Image) -> Result<MemoryFile> {
        let mut saved = image.saved();
        let changed = saved.take_changed();
        let name = match &saved.file {
            Some(name) => {
                for page in changed {
                    write_page(&mut self.pages, name, page, image.page(page))?;
                }
                name.clone()
            }
            None => {
                let name = format!("{}-{}", self.checkpoint, self.memories.len());
                image.save(&self.dir.join("memory").join(&name))?;
                name
            }
        };
        saved.file = Some(name.clone());
        self.memories.insert(name.clone());
        Ok(MemoryFile { name, len: image.len() })
    }

    fn blob(&mut self, hash: &Hash, content: &[u8]) -> Result<()> {
        let name = hex::encode(hash);
        let path = self.dir.join("blobs").join(&name);
        if self.blobs.insert(name) && !path.exists() {
            let part = path.with_extension("part");
            let mut file = File::create(&part)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
        }
        Ok(())
    }

    /// Removes what no state refers to any more.
    fn clean(&self) -> Result<()> {
        let keep = HashSet::from([self.checkpoint.clone()]);
        let states = |name: &str| name.starts_with("state-") || name.starts_with("checkpoint-");
        remove_others(self.dir, &keep, states)?;
        remove_others(&self.dir.join("memory"), &self.memories, |_| true)?;
        remove_others(&self.dir.join("blobs"), &self.blobs, |_| true)
    }
}

fn remove_others(dir: &Path, keep: &HashSet<String>, is_ours: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !is_ours(&name) || keep.contains(&*name) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// A page in `pages`: length and bytes of its file's name, its number, its content.
fn write_page(to: &mut impl Write, file: &str, number: u64, content: &[u8]) -> io::Result<()> {
    to.write_all(&[file.len() as u8])?;
    to.write_all(file.as_bytes())?;
    to.write_all(&number.to_le_bytes())?;
    to.write_all(content)
}

/// Writes the pages of a state into the files of `memory/`; doing it again changes nothing.
fn apply_pages(dir: &Path, checkpoint: &str) -> Result<()> {
    let mut from = BufReader::new(File::open(dir.join(checkpoint).join("pages"))?);
    let mut files: HashMap<String, File> = HashMap::new();
    let mut content = [0; PAGE];
    while let Some((name, number)) = read_page(&mut from, &mut content)? {
        if !files.contains_key(&name) {
            let path = dir.join("memory").join(&name);
            files.insert(name.clone(), File::options().write(true).open(path)?);
        }
        files[&name].write_all_at(&content, number * PAGE as u64)?;
    }
    files.values().try_for_each(|file| Ok(file.sync_data()?))
}

fn read_page(from: &mut impl Read, content: &mut [u8]) -> io::Result<Option<(String, u64)>> {
    let mut len = [0];
    if from.read(&mut len)? == 0 {
        return Ok(None);
    }
    let mut name = vec![0; len[0] as usize];
    let mut number = [0; 8];
    from.read_exact(&mut name)?;
    from.read_exact(&mut number)?;
    from.read_exact(content)?;
    let name = String::from_utf8(name).map_err(io::Error::other)?;
    Ok(Some((name, u64::from_le_bytes(number))))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let part = path.with_extension("json.part");
    let mut file = BufWriter::new(File::create(&part)?);
    serde_json::to_writer(&mut file, value)?;
    file.flush()?;
    file.get_ref().sync_all()?;
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
    apply_pages(dir, &pointer.checkpoint)?;
    let file = File::open(dir.join(pointer.checkpoint).join("state.json"))?;
    let saved: Saved = serde_json::from_reader(BufReader::new(file))?;
    let subnets = Subnets::new(with_missing(saved.plans, wanted));
    let mut ic = Ic::new(runner, subnets, saved.time);
    for saved in saved.canisters {
        let mut canister = saved.canister;
        canister.body = load_body(&ic.runner, saved.body, dir)?;
        for (number, files) in saved.snapshots {
            let snapshot = canister.snapshots.all.get_mut(&number);
            snapshot.context("a snapshot is missing")?.body = load_body(&ic.runner, files, dir)?;
        }
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

fn load_body(runner: &Runner, files: BodyFiles, dir: &Path) -> Result<Body> {
    let blob = |hash: &Hash| fs::read(dir.join("blobs").join(hex::encode(hash)));
    let mut body = Body {
        heap: load_memory(Image::heap()?, files.heap, dir)?,
        stable: load_memory(Image::stable()?, files.stable, dir)?,
        ..Default::default()
    };
    if let Some(hash) = files.module {
        body.code = Some(runner.code(&blob(&hash)?).map_err(anyhow::Error::msg)?);
    }
    for hash in files.chunks {
        body.chunks.insert(hash, blob(&hash)?);
    }
    Ok(body)
}

fn load_memory(empty: Image, file: MemoryFile, dir: &Path) -> Result<Image> {
    let path = dir.join("memory").join(&file.name);
    let image =
        empty.load(&path, file.len).with_context(|| format!("cannot read {}", path.display()))?;
    image.saved().file = Some(file.name);
    Ok(image)
}
