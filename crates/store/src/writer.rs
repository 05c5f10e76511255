//! The writer: one thread, one queue, one transaction and one fsync for all that waits in it.

use std::{
    ffi::CString,
    io, mem,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use event::{EventId, Filter, Timestamp, Verified};
use heed::MdbError;
use index::Seq;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::{error, info, warn};

use crate::{
    Batch,
    change::{Change, Layer2Change, New, NewChange, Origin, Outcome},
    collect::Terms,
    coverage::notes_max,
    databases::NEXT_SEQ,
    environment::CannotGrow,
    outbox::{Millis, Rows, Settlement},
    shared::ByHand,
    store::Inner,
    usage::Usage,
};

/// Jobs that wait for the writer. Beyond it, whoever brings one more waits too.
const QUEUE_JOBS_MAX: usize = 1_024;
/// How many events one transaction takes, so that the first of them is not kept waiting for ever.
const BATCH_EVENTS_MAX: usize = 1_000;
/// How many expired events one transaction removes besides: the rest follows with the next.
const EXPIRED_MAX: usize = 500;
/// How long a task of a collection works before it leaves the rest to the next. To write its pages
/// takes about as long again.
const COLLECTION_TIME_MAX: Duration = Duration::from_millis(5);
/// After so many collections in a row that found nothing to give up, a write is refused.
const FRUITLESS_MAX: u32 = 10;
/// Between two of them: pages that are free, but that somebody still reads, are so no longer.
const READERS_PAUSE: Duration = Duration::from_millis(20);
/// How many packed bytes one transaction takes: large events make others wait for their commit.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// More than one transaction writes, with its index pages.
const COMMIT_BYTES_MAX: u64 = 64 << 20;

/// Why a write did not happen. Nothing of it is stored then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no room, on the disk or up to the store's limit. Reading goes on, and so does writing
    /// once there is room again.
    #[error("the store is full")]
    Full,
    /// The disk or the file failed, now or before. Nothing can be written until a restart.
    #[error("the store takes no more writes: {0}")]
    Failed(Arc<str>),
    /// The writer was stopped.
    #[error("the store is stopping")]
    Stopped,
}

/// The way to the writer thread. Each call returns after the commit that holds what it brought; a
/// call that is dropped half way may or may not have written.
///
/// When the last clone is dropped, the thread writes what is queued and ends; the drop waits for it.
#[derive(Clone)]
pub struct Writer {
    thread: Arc<Thread>,
}

struct Thread {
    inner: Arc<Inner>,
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Message>>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Job(Job),
    Stop,
}

struct Job {
    task: Task,
    reply: oneshot::Sender<Result<Vec<Outcome>, Refused>>,
}

/// A task that was not done, given back: there may be room for it later.
struct Refused {
    task: Task,
    cause: WriteError,
}

enum Task {
    Put {
        events: Vec<New>,
        origin: Origin,
    },
    /// Without a cursor: the first part of a page.
    Layer2 {
        changes: Vec<NewChange>,
        cursor: Option<u64>,
    },
    Settle {
        rows: Vec<(Seq, Settlement)>,
    },
    Retry {
        rows: Rows,
        done: Arc<AtomicUsize>,
    },
    GiveUp {
        rows: Rows,
        done: Arc<AtomicUsize>,
    },
    Adopt {
        before: Millis,
        done: Arc<AtomicUsize>,
    },
    Offer {
        from: Seq,
        next: Arc<Mutex<Option<Seq>>>,
    },
    StartOver,
    SpareAll,
    Fill {
        events: Vec<New>,
        as_of: u64,
        is_stale: Arc<AtomicBool>,
    },
    Cover {
        asked: Box<Filter>,
        from: Timestamp,
        held: Vec<EventId>,
        notes_max: u64,
    },
    Revive {
        events: Vec<New>,
    },
    NoteServed {
        seqs: Vec<Seq>,
    },
    Collect {
        seqs: Vec<Seq>,
        terms: Arc<Terms>,
        done: Arc<Done>,
    },
    Prune {
        seqs: Vec<Seq>,
        done: Arc<Done>,
    },
    ForgetArrivals,
    Delete {
        ids: Vec<EventId>,
    },
    Remove {
        ids: Vec<EventId>,
        how: ByHand,
        removed: Arc<Mutex<Vec<Option<Seq>>>>,
    },
    Empty,
    Text {
        name: &'static str,
        text: String,
    },
}

/// How far a task of a collection came.
#[derive(Debug, Default)]
pub(crate) struct Done {
    looked_at: AtomicUsize,
    given_up: AtomicUsize,
}

impl Done {
    /// Events that it looked at: the first of those it was given.
    pub fn looked_at(&self) -> usize {
        self.looked_at.load(Ordering::Relaxed)
    }

    /// Those of them that it took the body of, or the stub.
    pub fn given_up(&self) -> usize {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Why a transaction was not committed.
enum Failure {
    /// Only the reserve for collections would be left.
    Reserve {
        expired: usize,
    },
    Lmdb(heed::Error),
}

impl From<heed::Error> for Failure {
    fn from(cause: heed::Error) -> Failure {
        Failure::Lmdb(cause)
    }
}

impl Writer {
    pub(crate) fn start(inner: Arc<Inner>) -> std::io::Result<Writer> {
        let (sender, queue) = mpsc::channel(QUEUE_JOBS_MAX);
        let follower = Loop::new(inner.clone(), queue);
        let handle = thread::Builder::new().name("store-writer".into()).spawn(|| follower.run())?;
        let thread = Thread { inner, queue: Some(sender), handle: Mutex::new(Some(handle)) };
        Ok(Writer { thread: Arc::new(thread) })
    }

    /// Stores one event, if the rules let it in.
    pub async fn put(&self, event: Verified, origin: Origin) -> Result<Outcome, WriteError> {
        let task = Task::Put { events: vec![New::from(event)], origin };
        let outcomes = self.call(task).await?;
        Ok(outcomes.into_iter().next().expect("an event has an outcome"))
    }

    /// Stores many events, in order, and says of each what became of it. They may be spread over
    /// several transactions; after an error the first of them may be stored.
    pub async fn put_all(
        &self,
        events: Vec<Verified>,
        origin: Origin,
    ) -> Result<Vec<Outcome>, WriteError> {
        let mut outcomes = Vec::with_capacity(events.len());
        let mut events = events.into_iter().map(New::from).peekable();
        while events.peek().is_some() {
            let events = events.by_ref().take(BATCH_EVENTS_MAX).collect();
            outcomes.extend(self.call(Task::Put { events, origin }).await?);
        }
        Ok(outcomes)
    }

    /// The same in one transaction, however many they are: quicker by far, and whoever else writes waits
    /// for all of them.
    pub async fn put_at_once(
        &self,
        events: Vec<Verified>,
        origin: Origin,
    ) -> Result<Vec<Outcome>, WriteError> {
        let events = events.into_iter().map(New::from).collect();
        self.call(Task::Put { events, origin }).await
    }

    /// Applies a page of L2's feed, in its order, together with `cursor`, the place in L2's log to go
    /// on from. A page that is too much for a small store at once is applied in parts, the cursor with
    /// the last of them: after a crash the page is read again. The outcomes are those of the saved events.
    ///
    /// A removal leaves an event alone that L2 has not yet answered for (see the crate's invariants).
    pub async fn apply_layer2(
        &self,
        changes: Vec<Layer2Change>,
        cursor: u64,
    ) -> Result<Vec<Outcome>, WriteError> {
        let changes = changes.into_iter().map(NewChange::from).collect();
        self.call(Task::Layer2 { changes, cursor: Some(cursor) }).await
    }

    /// Notes what L2 answered about rows of the outbox. A row that is gone by now is passed over.
    pub async fn settle(&self, rows: Vec<(Seq, Settlement)>) -> Result<(), WriteError> {
        self.call(Task::Settle { rows }).await.map(drop)
    }

    /// Puts what L2 had refused back into the outbox: for an operator who removed the cause. Says how
    /// many events that were.
    pub async fn retry(&self, rows: Rows) -> Result<usize, WriteError> {
        let done = Arc::new(AtomicUsize::new(0));
        self.call(Task::Retry { rows, done: done.clone() }).await?;
        Ok(done.load(Ordering::Relaxed))
    }

    /// Gives up sending these to L2: they stay here, and nobody else will have them from here. What L2
    /// has been sent already it may take. Says how many events that were.
    pub async fn give_up(&self, rows: Rows) -> Result<usize, WriteError> {
        let done = Arc::new(AtomicUsize::new(0));
        self.call(Task::GiveUp { rows, done: done.clone() }).await?;
        Ok(done.load(Ordering::Relaxed))
    }

    /// Puts into the outbox what peers brought before `before` and L2 is not known to have: who brought it
    /// does not seem to get it there. Says how many events that were.
    pub async fn adopt(&self, before: Millis) -> Result<usize, WriteError> {
        let mut adopted = 0;
        loop {
            let done = Arc::new(AtomicUsize::new(0));
            self.call(Task::Adopt { before, done: done.clone() }).await?;
            let more = done.load(Ordering::Relaxed);
            adopted += more;
            if more < BATCH_EVENTS_MAX {
                return Ok(adopted);
            }
        }
    }

    /// From now on nothing is given up, until another L2 was turned to: what is here may be all there is.
    pub async fn spare_all(&self) -> Result<(), WriteError> {
        self.call(Task::SpareAll).await.map(drop)
    }

    /// Turns to an L2 of which nothing is known: another one, or one that was begun anew. All events that
    /// are held here go into the outbox, stubs go, and L2's log is read from its start. A crash on the
    /// way leaves the cursor where it was: then this has to be done once more, and does no harm.
    pub async fn turn_to_other_layer2(&self) -> Result<(), WriteError> {
        self.spare_all().await?;
        let mut from = Some(Seq(0));
        while let Some(seq) = from {
            let next = Arc::new(Mutex::new(None));
            self.call(Task::Offer { from: seq, next: next.clone() }).await?;
            from = *next.lock().expect("nobody panics holding it");
        }
        self.call(Task::StartOver).await.map(drop)
    }

    /// Stores the bodies of stubs again. What is not held any more is passed over. A store that is full
    /// does not take them, and makes no room for them: L2 has them.
    pub async fn revive(&self, events: Vec<Verified>) -> Result<(), WriteError> {
        let events = events.into_iter().map(New::from).collect();
        self.call(Task::Revive { events }).await.map(drop)
    }

    /// Stores what L2 answered to a question when its log was `as_of` long. None: more of the log is known
    /// here by now, and L2 has to be asked again; some of the events may be stored.
    pub async fn fill(
        &self,
        events: Vec<Verified>,
        as_of: u64,
    ) -> Result<Option<Vec<Outcome>>, WriteError> {
        let is_stale = Arc::new(AtomicBool::new(false));
        let mut outcomes = Vec::with_capacity(events.len());
        let mut events = events.into_iter().map(New::from).peekable();
        while events.peek().is_some() {
            let events = events.by_ref().take(BATCH_EVENTS_MAX).collect();
            let task = Task::Fill { events, as_of, is_stale: is_stale.clone() };
            outcomes.extend(self.call(task).await?);
        }
        Ok(Some(outcomes).filter(|_| !is_stale.load(Ordering::Relaxed)))
    }

    /// Notes that L2 was asked for `asked` and has answered, so that from `from` on nothing of it is
    /// missing here. `held` is what of the answer is stored: if something of it is gone, there is no note.
    pub async fn note_covered(
        &self,
        asked: Filter,
        from: Timestamp,
        held: Vec<EventId>,
    ) -> Result<(), WriteError> {
        let notes_max = notes_max(self.thread.inner.room.limit());
        self.call(Task::Cover { asked: asked.into(), from, held, notes_max }).await.map(drop)
    }

    pub(crate) async fn note_served(&self, seqs: Vec<Seq>) -> Result<(), WriteError> {
        self.call(Task::NoteServed { seqs }).await.map(drop)
    }

    /// Gives up the first of these events, as many as there is time for.
    pub(crate) async fn collect(
        &self,
        seqs: Vec<Seq>,
        terms: Arc<Terms>,
    ) -> Result<Arc<Done>, WriteError> {
        let done = Arc::<Done>::default();
        self.call(Task::Collect { seqs, terms, done: done.clone() }).await?;
        Ok(done)
    }

    /// As [`Writer::collect`], for stubs.
    pub(crate) async fn prune(&self, seqs: Vec<Seq>) -> Result<Arc<Done>, WriteError> {
        let done = Arc::<Done>::default();
        self.call(Task::Prune { seqs, done: done.clone() }).await?;
        Ok(done)
    }

    pub(crate) async fn forget_arrivals(&self) -> Result<(), WriteError> {
        self.call(Task::ForgetArrivals).await.map(drop)
    }

    /// Takes events out of this store, because whoever runs it says so. They leave no tombstones: a
    /// client, or L2, may bring them again. What L2 had not got yet it will not get from here.
    pub async fn delete(&self, ids: Vec<EventId>) -> Result<(), WriteError> {
        for ids in ids.chunks(BATCH_EVENTS_MAX) {
            self.call(Task::Delete { ids: ids.into() }).await?;
        }
        Ok(())
    }

    /// As [`Writer::delete`], and says so in the log: for each id where, if it was held.
    pub(crate) async fn remove(
        &self,
        ids: Vec<EventId>,
        how: ByHand,
    ) -> Result<Vec<Option<Seq>>, WriteError> {
        let removed = Arc::new(Mutex::new(Vec::new()));
        self.call(Task::Remove { ids, how, removed: removed.clone() }).await?;
        let mut removed = removed.lock().expect("nobody panics holding it");
        Ok(mem::take(&mut *removed))
    }

    /// Takes everything out, tombstones too, and says so in the log.
    pub(crate) async fn empty(&self) -> Result<(), WriteError> {
        self.call(Task::Empty).await.map(drop)
    }

    /// Keeps a small text of the relay's under a name of 1 to 100 bytes. To turn to another L2, first
    /// set the cursor back ([`Writer::apply_layer2`] with no changes), then note whose it is: a crash
    /// between the two costs some reading, where the other order would lose changes.
    pub async fn put_meta(&self, name: &'static str, text: String) -> Result<(), WriteError> {
        assert!((1..=100).contains(&name.len()), "LMDB takes no such key: {name:?}");
        self.call(Task::Text { name, text }).await.map(drop)
    }

    /// Writes all that is queued, and ends the thread. Later calls, by any clone, are refused.
    pub async fn stop(self) {
        // An error means that another clone was first.
        let _ = self.queue().send(Message::Stop).await;
        let handle = self.thread.handle.lock().expect("nobody panics holding it").take();
        if let Some(handle) = handle {
            let joined = tokio::task::spawn_blocking(|| join(handle)).await;
            joined.expect("joining does not panic");
        }
    }

    /// Has the task done, in parts if there is no room for all of it at once. A part for which there is
    /// none either waits, as long as somebody can make some.
    async fn call(&self, task: Task) -> Result<Vec<Outcome>, WriteError> {
        let room = &self.thread.inner.room;
        let mut progress = room.progress();
        let (mut outcomes, mut parts) = (Vec::new(), vec![task]);
        let mut fruitless = 0;
        while let Some(task) = parts.pop() {
            progress.mark_unchanged();
            let before = *progress.borrow();
            let (mut task, cause) = match self.ask(task).await? {
                Ok(of_part) => {
                    outcomes.extend(of_part);
                    continue;
                }
                Err(Refused { task, cause }) => (task, cause),
            };
            if cause != WriteError::Full {
                return Err(cause);
            }
            match task.split_off_half() {
                Some(rest) => parts.push(rest),
                None if !task.waits_for_room() || fruitless == FRUITLESS_MAX => return Err(cause),
                None if room.wait(&mut progress, before).await => fruitless = 0,
                None if !room.is_collected() => return Err(cause),
                None => {
                    fruitless += 1;
                    sleep(READERS_PAUSE).await;
                }
            }
            parts.push(task);
        }
        Ok(outcomes)
    }

    async fn ask(&self, task: Task) -> Result<Result<Vec<Outcome>, Refused>, WriteError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Job(Job { task, reply });
        self.queue().send(message).await.map_err(|_| WriteError::Stopped)?;
        // A thread that is stopped answers all it has received: no answer means that it panicked.
        answer.await.map_err(|_| WriteError::Failed("the writer panicked".into()))
    }

    fn queue(&self) -> &mpsc::Sender<Message> {
        self.thread.queue.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(handle) = self.handle.get_mut().expect("nobody panics holding it").take() {
            join(handle);
        }
    }
}

fn join(handle: JoinHandle<()>) {
    if handle.join().is_err() {
        error!("the store's writer had panicked");
    }
}

/// What the thread owns.
struct Loop {
    inner: Arc<Inner>,
    queue: mpsc::Receiver<Message>,
    /// What every write is answered since a commit failed.
    failed: Option<WriteError>,
    /// Whether the last write was refused for want of room. Only for the log.
    is_full: bool,
    /// Whether pages were turned since the last commit that did something.
    has_turned: bool,
    /// How much of what has expired the next transaction removes,
    expires: usize,
    /// and whether that was all the last time.
    has_expired_all: bool,
}

impl Loop {
    fn new(inner: Arc<Inner>, queue: mpsc::Receiver<Message>) -> Loop {
        Loop {
            inner,
            queue,
            failed: None,
            is_full: false,
            has_turned: false,
            expires: EXPIRED_MAX,
            has_expired_all: true,
        }
    }

    fn run(mut self) {
        while let Some(message) = self.queue.blocking_recv() {
            let batch = self.fill(message);
            self.commit(batch);
            // While nobody waits.
            while !self.has_expired_all && self.queue.is_empty() && self.transact(&[]).is_ok() {}
        }
        self.write_last_notes();
    }

    /// What was served lately would be forgotten.
    fn write_last_notes(&mut self) {
        loop {
            let seqs = self.inner.notes.take();
            if seqs.is_empty() {
                return;
            }
            let (reply, _) = oneshot::channel();
            self.commit(vec![Job { task: Task::NoteServed { seqs }, reply }]);
        }
    }

    /// The message and all that waits behind it, as far as one transaction should go.
    fn fill(&mut self, first: Message) -> Vec<Job> {
        let mut batch = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        let mut message = Ok(first);
        loop {
            match message {
                Ok(Message::Job(job)) => {
                    let size = job.task.size();
                    (events, bytes) = (events + size.0, bytes + size.1);
                    batch.push(job);
                }
                // What was queued before is still received.
                Ok(Message::Stop) => self.queue.close(),
                Err(_) => return batch,
            }
            if events >= BATCH_EVENTS_MAX || bytes >= BATCH_BYTES_MAX {
                return batch;
            }
            message = self.queue.try_recv();
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        match self.transact(&jobs) {
            Ok(outcomes) => {
                for (job, outcomes) in jobs.into_iter().zip(outcomes) {
                    // Whoever asked may have left.
                    let _ = job.reply.send(Ok(outcomes));
                }
            }
            // One that fits, or makes room, must not fail for another that does not fit.
            Err(WriteError::Full) if jobs.len() > 1 => {
                jobs.into_iter().for_each(|job| self.commit(vec![job]));
            }
            Err(cause) => {
                // With somebody to make room, a full store is nothing to speak of.
                if cause != WriteError::Full || !self.inner.room.is_collected() {
                    self.note(&cause);
                }
                for Job { task, reply } in jobs {
                    let _ = reply.send(Err(Refused { task, cause: cause.clone() }));
                }
            }
        }
    }

    fn transact(&mut self, jobs: &[Job]) -> Result<Vec<Vec<Outcome>>, WriteError> {
        if let Some(cause) = &self.failed {
            return Err(cause.clone());
        }
        loop {
            match self.attempt(jobs) {
                Ok(outcomes) => return Ok(outcomes),
                // What has expired goes before anything that somebody may ask for.
                Err(Failure::Reserve { expired }) if expired > 0 => drop(self.transact(&[])?),
                Err(Failure::Reserve { .. }) => return Err(WriteError::Full),
                Err(Failure::Lmdb(heed::Error::Mdb(MdbError::MapFull))) if self.has_grown() => {}
                Err(Failure::Lmdb(heed::Error::Mdb(MdbError::MapFull))) if self.may_turn() => {
                    self.turn_pages().map_err(|cause| self.judge(&cause))?;
                }
                // To remove takes pages, too; what has expired nobody is shown meanwhile.
                Err(Failure::Lmdb(heed::Error::Mdb(MdbError::MapFull))) if self.expires > 0 => {
                    self.expires /= 4;
                }
                Err(Failure::Lmdb(cause)) => return Err(self.judge(&cause)),
            }
        }
    }

    fn attempt(&mut self, jobs: &[Job]) -> Result<Vec<Vec<Outcome>>, Failure> {
        let started = Instant::now();
        let Inner { environment, databases, clock, is_ours, is_shared, .. } = &*self.inner;
        if *is_shared {
            // Another process may have been killed while it read, and would keep its pages for ever.
            environment.env().clear_stale_readers()?;
        }
        let mut change = Change::begin(environment, databases, clock(), &**is_ours, *is_shared)?;
        let expired = change.expire(self.expires)?;
        let takes_room = jobs.iter().any(|job| job.task.takes_room());
        if takes_room && self.is_reserve_all(&change)? {
            return Err(Failure::Reserve { expired });
        }
        let outcomes: Vec<Vec<Outcome>> =
            jobs.iter().map(|job| job.task.apply(&mut change)).collect::<Result<_, _>>()?;
        // A store without the reserve could not even give things up.
        if takes_room && self.is_reserve_all(&change)? {
            return Err(Failure::Reserve { expired });
        }
        let touched = mem::take(&mut change.touched);
        self.inner.holds.going(mem::take(&mut change.given_up));
        let next = change.commit()?;
        self.inner.holds.gone();
        self.inner.unannounced.add(touched);
        self.has_turned = false;
        self.has_expired_all = expired < self.expires;
        self.expires = (2 * self.expires).clamp(1, EXPIRED_MAX);
        if jobs.iter().any(|job| job.task.is_collection()) {
            self.inner.room.note_pause(started.elapsed());
        }
        // Before the answers: whoever has one finds its event below the horizon.
        let refills = jobs.iter().any(|job| job.task.refills_outbox());
        self.inner.next.send_if_modified(|seq| mem::replace(seq, next) != next || refills);
        if !jobs.is_empty() {
            let entries = jobs.iter().map(|job| job.task.size().0).sum();
            self.inner.observer.committed(Batch { entries, took: started.elapsed() });
        }
        if mem::take(&mut self.is_full) {
            info!("there is room again: the store takes writes");
        }
        Ok(outcomes)
    }

    /// Once is enough: then all that commits left behind can be used, but for a few pages.
    fn may_turn(&mut self) -> bool {
        self.inner.room.is_limited() && !mem::replace(&mut self.has_turned, true)
    }

    /// Pages that a commit leaves behind can be used by the next but one. While all that is tried wants
    /// more than there are, that one would never come: so here is a commit that wants next to none.
    fn turn_pages(&self) -> Result<(), heed::Error> {
        let Inner { environment, databases, .. } = &*self.inner;
        let mut txn = environment.write()?;
        let next = databases.numbers.get(&txn, NEXT_SEQ)?.unwrap_or(0);
        databases.numbers.put(&mut txn, NEXT_SEQ, &next)?;
        txn.commit()
    }

    fn has_grown(&self) -> bool {
        let grown = self.inner.environment.grow();
        if let (Err(CannotGrow::AddressSpace), false) = (&grown, self.is_full) {
            warn!("the process gets no address space for a larger map");
        }
        grown.is_ok()
    }

    fn judge(&self, cause: &heed::Error) -> WriteError {
        let is_full = match cause {
            heed::Error::Mdb(MdbError::MapFull) => true,
            heed::Error::Io(cause) => is_want_of_room(cause, self.inner.environment.env().path()),
            _ => false,
        };
        if is_full { WriteError::Full } else { WriteError::Failed(cause.to_string().into()) }
    }

    /// Whether only the reserve for collections is left.
    fn is_reserve_all(&self, change: &Change<'_>) -> Result<bool, heed::Error> {
        let Some(full_at) = self.inner.room.full_at() else { return Ok(false) };
        Ok(Usage::read(&self.inner.databases, &change.txn)?.bytes >= full_at)
    }

    fn note(&mut self, cause: &WriteError) {
        self.inner.observer.refused(cause);
        match cause {
            WriteError::Failed(reason) if self.failed.is_none() => {
                error!(%reason, "a commit failed: the store is read-only until a restart");
                self.failed = Some(cause.clone());
            }
            WriteError::Full if !mem::replace(&mut self.is_full, true) => {
                error!("the store is full: it takes no writes until there is room");
            }
            WriteError::Full | WriteError::Failed(_) | WriteError::Stopped => {}
        }
    }
}

/// Whether a commit failed because the disk, or somebody's share of it, is used up. It failed before
/// LMDB named its pages: for a failure after that LMDB itself ends all work.
fn is_want_of_room(cause: &io::Error, folder: &Path) -> bool {
    match cause.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => true,
        // So LMDB calls a write that ended half way, which is what the last free blocks make of it.
        Some(libc::EIO) => free_bytes(folder).is_some_and(|bytes| bytes < COMMIT_BYTES_MAX),
        _ => false,
    }
}

/// What an ordinary process may still write to the disk that the folder is on.
fn free_bytes(folder: &Path) -> Option<u64> {
    let folder = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: the path ends with a zero, and the numbers are written by the call.
    unsafe {
        let mut disk: libc::statvfs = mem::zeroed();
        let is_known = libc::statvfs(folder.as_ptr(), &mut disk) == 0;
        is_known.then(|| disk.f_bavail as u64 * disk.f_frsize as u64)
    }
}

impl Task {
    /// How many events it brings, and how many bytes.
    fn size(&self) -> (usize, usize) {
        match self {
            Task::Put { events, .. } => (events.len(), events.iter().map(New::bytes).sum()),
            Task::Layer2 { changes, .. } => {
                let bytes = |change: &NewChange| match change {
                    NewChange::Saved(new) => new.bytes(),
                    NewChange::Held(_) | NewChange::Removed(_) | NewChange::Cleared => 0,
                };
                (changes.len(), changes.iter().map(bytes).sum())
            }
            Task::Settle { rows } => (rows.len(), 0),
            Task::Delete { ids } | Task::Remove { ids, .. } => (ids.len(), 0),
            Task::Cover { held, .. } => (held.len(), 0),
            Task::Revive { events } | Task::Fill { events, .. } => {
                (events.len(), events.iter().map(New::bytes).sum())
            }
            Task::Collect { seqs, .. } | Task::Prune { seqs, .. } => (seqs.len(), 0),
            Task::NoteServed { seqs } => (seqs.len(), 0),
            Task::Retry { .. } | Task::GiveUp { .. } | Task::Empty => (1, 0),
            Task::Offer { .. } | Task::Adopt { .. } => (BATCH_EVENTS_MAX, 0),
            Task::StartOver | Task::SpareAll | Task::ForgetArrivals | Task::Text { .. } => (1, 0),
        }
    }

    /// Cuts it in two, and returns what has to be done second. LMDB copies every page that a transaction
    /// touches, so one half needs fewer at once. None: it has to be done as a whole.
    fn split_off_half(&mut self) -> Option<Task> {
        match self {
            Task::Put { events, origin } if events.len() > 1 => {
                Some(Task::Put { events: events.split_off(events.len() / 2), origin: *origin })
            }
            Task::Layer2 { changes, cursor } if changes.len() > 1 => {
                let changes = changes.split_off(changes.len() / 2);
                Some(Task::Layer2 { changes, cursor: cursor.take() })
            }
            Task::Settle { rows } if rows.len() > 1 => {
                Some(Task::Settle { rows: rows.split_off(rows.len() / 2) })
            }
            Task::Delete { ids } if ids.len() > 1 => {
                Some(Task::Delete { ids: ids.split_off(ids.len() / 2) })
            }
            Task::Fill { events, as_of, is_stale } if events.len() > 1 => {
                let events = events.split_off(events.len() / 2);
                Some(Task::Fill { events, as_of: *as_of, is_stale: is_stale.clone() })
            }
            _ => None,
        }
    }

    /// Whether it may have to wait until there is room. What only fills the cache does without.
    fn waits_for_room(&self) -> bool {
        matches!(self, Task::Put { .. } | Task::Layer2 { .. } | Task::Fill { .. })
    }

    /// Whether it leaves the reserve alone. All others are small, or make room.
    fn takes_room(&self) -> bool {
        match self {
            Task::Put { .. } | Task::Revive { .. } | Task::Fill { .. } => true,
            Task::Layer2 { changes, .. } => {
                changes.iter().any(|change| matches!(change, NewChange::Saved(_)))
            }
            _ => false,
        }
    }

    /// Whether rows of the outbox come from it without new events.
    fn refills_outbox(&self) -> bool {
        matches!(
            self,
            Task::Retry { .. } | Task::Adopt { .. } | Task::Offer { .. } | Task::StartOver
        )
    }

    fn is_collection(&self) -> bool {
        matches!(self, Task::Collect { .. } | Task::Prune { .. })
    }

    fn apply(&self, change: &mut Change<'_>) -> Result<Vec<Outcome>, heed::Error> {
        match self {
            Task::Put { events, origin } => {
                return events.iter().map(|new| change.put(new, *origin)).collect();
            }
            Task::Layer2 { changes, cursor } => return change.apply_layer2(changes, *cursor),
            Task::Settle { rows } => {
                rows.iter().try_for_each(|(seq, said)| change.settle(*seq, said))?;
            }
            Task::Retry { rows, done } => done.store(change.retry(rows)?, Ordering::Relaxed),
            Task::GiveUp { rows, done } => done.store(change.give_up(rows)?, Ordering::Relaxed),
            Task::Adopt { before, done } => {
                done.store(change.adopt(*before, BATCH_EVENTS_MAX)?, Ordering::Relaxed);
            }
            Task::Offer { from, next } => {
                let reached = change.offer(*from, BATCH_EVENTS_MAX)?;
                *next.lock().expect("nobody panics holding it") = reached;
            }
            Task::StartOver => change.start_over()?,
            Task::SpareAll => change.spare_all()?,
            Task::Revive { events } => events.iter().try_for_each(|new| change.revive(new))?,
            Task::Fill { events, as_of, is_stale } => match change.fill(events, *as_of)? {
                Some(outcomes) => return Ok(outcomes),
                None => is_stale.store(true, Ordering::Relaxed),
            },
            Task::Cover { asked, from, held, notes_max } => {
                change.note_covered(asked, *from, held, *notes_max)?;
            }
            Task::NoteServed { seqs } => change.note_served(seqs)?,
            Task::Collect { seqs, terms, done } => {
                for_a_while(seqs, done, |seq| change.collect(seq, terms))?;
            }
            Task::Prune { seqs, done } => for_a_while(seqs, done, |seq| change.prune(seq))?,
            Task::ForgetArrivals => change.forget_arrivals()?,
            Task::Delete { ids } => change.delete(ids)?,
            Task::Remove { ids, how, removed } => {
                *removed.lock().expect("nobody panics holding it") = change.remove_all(ids, how)?;
            }
            Task::Empty => change.empty()?,
            Task::Text { name, text } => change.put_text(name, text)?,
        }
        Ok(Vec::new())
    }
}

/// Does it to the first of these, until time is up; notes how many they were.
fn for_a_while(
    seqs: &[Seq],
    done: &Done,
    mut act: impl FnMut(Seq) -> Result<bool, heed::Error>,
) -> Result<(), heed::Error> {
    let (started, mut given_up) = (Instant::now(), 0);
    for (at, seq) in seqs.iter().enumerate() {
        given_up += usize::from(act(*seq)?);
        done.looked_at.store(at + 1, Ordering::Relaxed);
        done.given_up.store(given_up, Ordering::Relaxed);
        if started.elapsed() > COLLECTION_TIME_MAX {
            break;
        }
    }
    Ok(())
}
