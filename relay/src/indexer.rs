//! Follows L1 and keeps the index of words level with it.
//!
//! Nobody tells the indexer what was written or removed. It reads what L1 has stored since it last did,
//! those events too that were read through, and it goes round the documents of the index, little by
//! little, to see which of their events L1 no longer holds. It has a thread of its own that is
//! nicer than others, and writes at most once a second: commits of L1 wait for the same disk.

use std::{
    fmt::Write,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use event::{Kind, Packed};
use search::{Batch, Document, Index, Place, Words, is_searched};
use store::{ReadError, Seq, Store};
use tokio::{runtime::Handle, sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::verifier::be_nice;

/// From one commit to the next, at least.
const PAUSE: Duration = Duration::from_secs(1);
/// How often L1 is looked at when it says nothing: expiry and operators remove events, too.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Events that are copied from L1 at a time.
const PAGE_EVENTS_MAX: usize = 256;
/// Documents of one commit, and their bytes.
const BATCH_DOCUMENTS_MAX: usize = 8_192;
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Documents looked after at a time.
const SWEEP_DOCUMENTS: usize = 2_048;
/// With so many events to read it is worth a line in the log.
const MANY_EVENTS: u64 = 10_000;
/// So many of the newest documents tell whether L1 is still what was read.
const SAMPLE_DOCUMENTS: usize = 64;

/// The one who writes the index.
pub struct Indexer {
    store: Store,
    index: Arc<Index>,
    words: Arc<Words>,
    guarded: Arc<[Kind]>,
    sweep: Sweep,
}

/// A round over all documents, to see which are gone.
#[derive(Default)]
struct Sweep {
    /// Where it is. None: it rests.
    at: Option<Round>,
    /// L1's commits when the last whole round began. As long as there are no more, nothing can be gone.
    seen: Option<u64>,
}

struct Round {
    place: Place,
    unread: Seq,
    began: u64,
}

/// Why the index is not level with L1.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] ReadError),
    #[error(transparent)]
    Index(#[from] search::Error),
}

/// Opens the index in `folder`, as far as it is L1's; else it begins anew.
pub fn open(folder: &Path, store: &Store, guarded: &[Kind]) -> anyhow::Result<Index> {
    let stamp = stamp(store.made()?, guarded);
    let index = Index::open(folder, &stamp)?;
    if is_of(&index, store)? {
        return Ok(index);
    }
    warn!("L1 is not what the index of words was made from");
    index.discard()?;
    drop(index);
    Ok(Index::open(folder, &stamp)?)
}

/// What the index is made from: which store, and which kinds of it are left out.
fn stamp(made: u64, guarded: &[Kind]) -> String {
    let mut guarded: Vec<Kind> =
        guarded.iter().copied().filter(|kind| is_searched(*kind)).collect();
    guarded.sort_unstable();
    guarded.dedup();
    let mut stamp = format!("{made:x}");
    for kind in guarded {
        write!(stamp, " -{kind}").expect("a string takes every text");
    }
    stamp
}

/// Whether this is the store that was read. Put back from a copy it is an older one, which gives seqs
/// again to other events.
fn is_of(index: &Index, store: &Store) -> Result<bool, Failure> {
    if index.position()? > store.next_seq() {
        return Ok(false);
    }
    let mut newest = index.newest(SAMPLE_DOCUMENTS)?.into_iter();
    let places: Vec<Seq> = newest.clone().map(|hit| hit.seq).collect();
    let mut is_same = true;
    store.at(places, |_, event| {
        let hit = newest.next().expect("there is one for each place");
        is_same &= event.is_none_or(|event| hit.is(&event.id()));
        ControlFlow::Continue(())
    })?;
    Ok(is_same)
}

impl Indexer {
    pub fn new(
        store: Store,
        index: Arc<Index>,
        words: Arc<Words>,
        guarded: Arc<[Kind]>,
    ) -> Indexer {
        Indexer { store, index, words, guarded, sweep: Sweep::default() }
    }

    /// Keeps the index level until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let runtime = Handle::current();
        // Dropped with the thread, however that ends.
        let (alive, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("indexer".into()).spawn(move || {
            let _alive = alive;
            be_nice();
            self.follow(&runtime, &stop);
        });
        match thread {
            Ok(_) => drop(ended.await),
            Err(cause) => error!(%cause, "there is no thread for the index of words"),
        }
    }

    fn follow(mut self, runtime: &Handle, stop: &CancellationToken) {
        let mut newest = self.store.follow();
        while !stop.is_cancelled() {
            newest.mark_unchanged();
            match self.step(stop) {
                Ok(()) => {}
                Err(Failure::Store(cause)) => warn!(%cause, "the index of words waits for L1"),
                Err(Failure::Index(cause)) => return self.give_up(&cause),
            }
            let is_sweeping = self.sweep.at.is_some();
            runtime.block_on(async {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(PAUSE) => {}
                }
                let rest = if is_sweeping { Duration::ZERO } else { LOOK_INTERVAL };
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = newest.changed() => {}
                    () = sleep(rest) => {}
                }
            });
        }
    }

    /// What lies on the disk is unknown after a failed write, and nothing is lost but time: the index is
    /// built anew after a restart.
    fn give_up(&self, cause: &search::Error) {
        error!(%cause, "the index of words cannot be kept; it is built anew after a restart");
        if let Err(cause) = self.index.discard() {
            error!(%cause, "the index of words cannot be removed: remove its folder");
        }
    }

    /// Reads all that is new, puts segments together, and sweeps a little.
    fn step(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        let (started, from) = (Instant::now(), self.index.position()?);
        let many = self.store.next_seq().0.saturating_sub(from.0) >= MANY_EVENTS;
        if many {
            info!(from = from.0, to = self.store.next_seq().0, "reading L1 for the index of words");
        }
        while !stop.is_cancelled() && self.read_on()? {
            self.merge(stop)?;
        }
        self.merge(stop)?;
        if many && !stop.is_cancelled() {
            let seconds = started.elapsed().as_secs();
            info!(to = self.index.position()?.0, seconds, "the index of words is level with L1");
        }
        if stop.is_cancelled() { Ok(()) } else { self.sweep() }
    }

    /// Reads one batch from L1. False: there is nothing new.
    fn read_on(&mut self) -> Result<bool, Failure> {
        let (end, mut bytes) = (self.store.next_seq(), 0);
        let mut batch = Batch { position: self.index.position()?, ..Batch::default() };
        if batch.position >= end {
            return Ok(false);
        }
        while batch.position < end
            && batch.documents.len() < BATCH_DOCUMENTS_MAX
            && bytes < BATCH_BYTES_MAX
        {
            let mut page = Vec::with_capacity(PAGE_EVENTS_MAX);
            batch.position = self.store.since_with_quiet(batch.position, end, |seq, event| {
                page.push((seq, event.as_bytes().to_vec()));
                match page.len() {
                    PAGE_EVENTS_MAX => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            })?;
            // Words are looked for when L1 is no longer held up.
            for (seq, event) in page {
                bytes += event.len();
                self.take(seq, &event, &mut batch);
            }
        }
        self.index.commit(&batch)?;
        Ok(true)
    }

    fn take(&self, seq: Seq, bytes: &[u8], batch: &mut Batch) {
        let Ok(event) = Packed::trusted(bytes) else { return };
        if !is_searched(event.kind()) || self.guarded.contains(&event.kind()) {
            return;
        }
        if event.is_stub() {
            batch.unread.push(seq);
        } else if let Some(document) = Document::of(&event, &self.words) {
            batch.documents.push((seq, document));
        }
    }

    fn merge(&self, stop: &CancellationToken) -> Result<(), Failure> {
        while !stop.is_cancelled() && self.index.merge()? {}
        Ok(())
    }

    /// Looks after some more documents, and after events that had no body to be read.
    fn sweep(&mut self) -> Result<(), Failure> {
        let commits = self.store.stats()?.commits;
        if self.sweep.at.is_none() && self.sweep.seen == Some(commits) {
            return Ok(());
        }
        let begin = || Round { place: Place::FIRST, unread: Seq(0), began: commits };
        let mut round = self.sweep.at.take().unwrap_or_else(begin);
        let documents = self.index.documents(round.place, SWEEP_DOCUMENTS)?;
        let unread = self.index.unread(round.unread, SWEEP_DOCUMENTS / 8)?;
        let mut batch = Batch { position: self.index.position()?, ..Batch::default() };
        let mut looked_at = documents.iter();
        self.store.at(documents.iter().map(|(_, hit)| hit.seq), |_, event| {
            let (place, hit) = looked_at.next().expect("there is one for each place");
            if !event.is_some_and(|event| hit.is(&event.id())) {
                batch.gone.push(*place);
            }
            ControlFlow::Continue(())
        })?;
        let mut revived = Vec::new();
        self.store.at(unread.iter().copied(), |seq, event| {
            match event {
                Some(event) if event.is_stub() => return ControlFlow::Continue(()),
                Some(event) => revived.push((seq, event.as_bytes().to_vec())),
                None => {}
            }
            batch.read.push(seq);
            ControlFlow::Continue(())
        })?;
        for (seq, event) in revived {
            self.take(seq, &event, &mut batch);
        }
        if !batch.gone.is_empty() || !batch.read.is_empty() {
            self.index.commit(&batch)?;
        }
        if documents.is_empty() && unread.is_empty() {
            self.sweep.seen = Some(round.began);
            return Ok(());
        }
        round.place = documents.last().map_or(round.place, |(place, _)| place.next());
        round.unread = unread.last().map_or(round.unread, |seq| seq.next());
        self.sweep.at = Some(round);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_part_of_the_stamp() {
        assert_eq!(stamp(255, &[Kind(4), Kind(1_059)]), "ff");
        assert_eq!(stamp(255, &[Kind(42), Kind(4), Kind(9), Kind(42)]), "ff -9 -42");
    }
}
