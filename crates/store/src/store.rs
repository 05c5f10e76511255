//! Opening the store, and reading it.

use std::{
    fs::{self, File, TryLockError},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use event::{EventId, Filter, Packed, Timestamp};
use heed::{RoTxn, WithoutTls};
use index::{Reader, Scan, Seq, Source};
use tokio::sync::watch;

use crate::{
    collector::row_at,
    databases::{
        COMPLETE_SINCE, Databases, FORMAT, FORMAT_BEFORE_COLLECTION, FORMAT_BEFORE_COVERAGE,
        FORMAT_BEFORE_DATES, FORMAT_BEFORE_TAPS, FORMAT_NAME, FORMAT_SHARED, LAYER2_CURSOR, MADE,
        NEXT_SEQ, OUTBOX_BYTES, SPARES_ALL,
    },
    environment::Environment,
    holds::{Hold, Holds},
    observer::Observer,
    outbox::{Millis, OutboxRow, add_dates},
    room::{Pauses, Room},
    served::Notes,
    snapshot::{Before, Snapshot},
    unannounced::{Mark, Unannounced},
    usage::Usage,
    writer::Writer,
};

/// How long [`Store::count`] stays in one read transaction, from the first key that it counts.
const COUNT_PAGE_TIME: Duration = Duration::from_millis(10);

/// What time it is. Asked once for each batch that is written.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Whether a URL means this store.
pub type IsOurs = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// How much of the file is mapped at first: address space, not disk. It doubles whenever the file
    /// has grown that far; it is less where the process gets less.
    pub map_bytes: usize,
    /// How far the file may grow. At this size the store is full.
    pub bytes_max: usize,
    /// Where the rules take the time from.
    pub clock: Clock,
    /// Which URL in a request to vanish means this store (NIP-62); `ALL_RELAYS` always does.
    pub is_ours: IsOurs,
    /// Who is told how writing goes.
    pub observer: Arc<dyn Observer>,
}

impl Default for Options {
    /// 64 GiB mapped, no limit but the disk's, the system's time, and no URL.
    fn default() -> Options {
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            Timestamp(since.map_or(0, |since| since.as_secs()))
        };
        Options {
            map_bytes: 64 << 30,
            bytes_max: usize::MAX,
            clock: Arc::new(now),
            is_ours: Arc::new(|_| false),
            observer: Arc::new(()),
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody, here or in another process, has it open.
    #[error("the store in {} is in use", .0.display())]
    InUse(PathBuf),
    /// Another version of this program wrote it.
    #[error(
        "the store in {} has format {found}, this program knows format {format}{}",
        folder.display(), of_the_other_kind(*found, *format)
    )]
    Format { folder: PathBuf, found: u64, format: u64 },
    #[error("the store in {} cannot be opened: {cause}", folder.display())]
    Failed { folder: PathBuf, cause: heed::Error },
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Too many reads are under way: try again.
    #[error("too many reads at once")]
    Busy,
    /// The file or the disk is damaged.
    #[error("the store cannot be read: {0}")]
    Failed(heed::Error),
}

impl From<heed::Error> for ReadError {
    fn from(error: heed::Error) -> ReadError {
        match error {
            heed::Error::Mdb(heed::MdbError::ReadersFull) => ReadError::Busy,
            other => ReadError::Failed(other),
        }
    }
}

/// A few numbers about the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Events held.
    pub events: u64,
    /// Of these, events whose bodies only L2 holds.
    pub stubs: u64,
    /// The seq that the next event will get.
    pub next_seq: Seq,
    /// Events that L2 has not answered for.
    pub outbox: u64,
    /// How many bytes they have, packed.
    pub outbox_bytes: u64,
    /// Since when the first of them waits.
    pub outbox_since: Option<Millis>,
    /// Events that L2 refused.
    pub aside: u64,
    /// Events that L2 is never to hear of.
    pub local: u64,
    /// Events that a peer brought, and that L2 is not known to have.
    pub tapped: u64,
    /// Size of the data file. It does not shrink: free pages are used again.
    pub bytes_on_disk: u64,
    /// What of it is in use.
    pub bytes_in_use: u64,
    /// Notes of what L1 can answer alone though it is old.
    pub covered: u64,
    /// Transactions that were committed and synced, since the store was made.
    pub commits: u64,
}

/// The readers' side. Clones are cheap; calls block, but only for as long as LMDB needs.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What reading and writing share.
pub(crate) struct Inner {
    pub clock: Clock,
    pub is_ours: IsOurs,
    pub observer: Arc<dyn Observer>,
    /// The next seq, as of the last commit.
    pub next: watch::Sender<Seq>,
    pub databases: Databases<'static>,
    /// What was served, until the writer writes it down.
    pub notes: Notes,
    pub unannounced: Unannounced,
    pub holds: Arc<Holds>,
    pub room: Room,
    pub environment: Environment,
    /// Whether other processes have it open, too, and follow its log.
    pub is_shared: bool,
    /// Given back when the environment is closed, so it stands behind it.
    _lock: Lock,
}

/// The folder, taken for this process.
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// To close the file would not do: a child process that is being spawned on another thread holds
    /// a copy of it until it has become another program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Store {
    /// Opens the store in `folder`, or creates it, for this process alone.
    pub fn open(folder: &Path, options: Options) -> Result<(Store, Writer), OpenError> {
        Store::open_as(folder, options, FORMAT, lock(folder)?)
    }

    pub(crate) fn open_as(
        folder: &Path,
        options: Options,
        format: u64,
        lock: Lock,
    ) -> Result<(Store, Writer), OpenError> {
        let failed = |cause| match cause {
            heed::Error::EnvAlreadyOpened => OpenError::InUse(folder.into()),
            cause => OpenError::Failed { folder: folder.into(), cause },
        };
        let is_shared = format == FORMAT_SHARED;
        let Options { map_bytes, bytes_max, clock, is_ours, observer } = options;
        let environment = Environment::open(folder, map_bytes, bytes_max).map_err(failed)?;
        let databases = Databases::create(environment.env()).map_err(failed)?;
        match check_format(&environment, &databases, format).map_err(failed)? {
            found if found == format => {}
            found => return Err(OpenError::Format { folder: folder.into(), found, format }),
        }
        sync_names(folder).map_err(|cause| failed(cause.into()))?;
        let next = Snapshot::open(&environment, &databases, clock()).and_then(|now| now.next_seq());
        let next = watch::Sender::new(next.map_err(failed)?);
        let room = Room::new((bytes_max < usize::MAX).then_some(bytes_max as u64));
        let notes = Notes::default();
        let inner = Arc::new(Inner {
            clock,
            is_ours,
            observer,
            next,
            databases,
            notes,
            unannounced: Unannounced::default(),
            holds: Arc::default(),
            room,
            environment,
            is_shared,
            _lock: lock,
        });
        let writer = Writer::start(inner.clone()).map_err(|cause| failed(cause.into()))?;
        Ok((Store { inner }, writer))
    }

    /// The place of the newest event there ever was here; [`Scan::up_to`] it sees all there is.
    pub fn newest(&self) -> Option<Seq> {
        self.next_seq().0.checked_sub(1).map(Seq)
    }

    /// The place that the next event will get.
    pub fn next_seq(&self) -> Seq {
        *self.inner.next.borrow()
    }

    /// Follows [`Store::next_seq`]. It changes after each commit that stored an event, never before,
    /// and before the writer's callers are answered; and it is sent again when events that had been stored
    /// went back into the outbox.
    pub fn follow(&self) -> watch::Receiver<Seq> {
        self.inner.next.subscribe()
    }

    /// Gives the next page of `scan` to `reader`. True: there are no more.
    pub fn page(&self, scan: &mut Scan, reader: &mut impl Reader) -> Result<bool, ReadError> {
        Ok(scan.page(&self.snapshot()?, reader)?)
    }

    /// As [`Store::page`], without the news: what was stored at `horizon` or later, unless it was read
    /// through. It uses up no limit.
    pub fn page_before(
        &self,
        horizon: Seq,
        scan: &mut Scan,
        reader: &mut impl Reader,
    ) -> Result<bool, ReadError> {
        Ok(scan.page(&Before { snapshot: &self.snapshot()?, horizon }, reader)?)
    }

    /// The event with this id, packed; a stub, if its body is in L2 alone.
    pub fn get(&self, id: &EventId) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.find(id)?.map(|(_, event)| event))
    }

    /// As [`Store::get`], with its place.
    pub fn find(&self, id: &EventId) -> Result<Option<(Seq, Vec<u8>)>, ReadError> {
        let snapshot = self.snapshot()?;
        let Some(seq) = snapshot.seq_of(id)? else { return Ok(None) };
        Ok(snapshot.event(seq)?.map(|event| (seq, event.into_owned())))
    }

    /// Whether an event with this id is held.
    pub fn contains(&self, id: &EventId) -> Result<bool, ReadError> {
        let Snapshot { databases, txn, .. } = &self.snapshot()?;
        Ok(databases.ids.get(txn, &id.0)?.is_some())
    }

    /// Those of these ids under which nothing is held, or nothing but what was read through.
    pub fn unknown(&self, ids: &[EventId]) -> Result<Vec<EventId>, ReadError> {
        self.those(ids, |databases, txn, seq| {
            databases.quiet.get(txn, &seq).map(|row| row.is_some())
        })
    }

    /// Those of these ids under which no body is held.
    pub fn without_body(&self, ids: &[EventId]) -> Result<Vec<EventId>, ReadError> {
        self.those(ids, |databases, txn, seq| {
            databases.stubs.get(txn, &seq).map(|row| row.is_some())
        })
    }

    /// Ids that are not held, and those of whose places `is_one` says so.
    fn those(
        &self,
        ids: &[EventId],
        is_one: impl Fn(&Databases<'static>, &RoTxn<'_, WithoutTls>, u64) -> Result<bool, heed::Error>,
    ) -> Result<Vec<EventId>, ReadError> {
        let Snapshot { databases, txn, .. } = &self.snapshot()?;
        let mut found = Vec::new();
        for id in ids {
            match databases.ids.get(txn, &id.0)? {
                Some(seq) if !is_one(databases, txn, seq)? => {}
                _ => found.push(*id),
            }
        }
        Ok(found)
    }

    /// Calls `each` for the events stored at `from` or later and before `to`, in order, until it
    /// breaks; some may be stubs, and those that were read through are left out. Returns where to go on: behind the last event that `each` saw, or, when it saw all,
    /// at `to` or at the end of the store. One read transaction is open meanwhile.
    pub fn since(
        &self,
        from: Seq,
        to: Seq,
        each: impl FnMut(Seq, &Packed<'_>) -> ControlFlow<()>,
    ) -> Result<Seq, ReadError> {
        self.walk(from, to, false, each)
    }

    /// As [`Store::since`], with those that were read through: for who has to know all that is held.
    pub fn since_with_quiet(
        &self,
        from: Seq,
        to: Seq,
        each: impl FnMut(Seq, &Packed<'_>) -> ControlFlow<()>,
    ) -> Result<Seq, ReadError> {
        self.walk(from, to, true, each)
    }

    fn walk(
        &self,
        from: Seq,
        to: Seq,
        with_quiet: bool,
        mut each: impl FnMut(Seq, &Packed<'_>) -> ControlFlow<()>,
    ) -> Result<Seq, ReadError> {
        let snapshot = self.snapshot()?;
        let to = to.min(snapshot.next_seq()?);
        if from >= to {
            return Ok(from);
        }
        let Snapshot { databases, txn, .. } = &snapshot;
        let mut quiet = databases.quiet.range(txn, &(from.0..to.0))?.peekable();
        for row in snapshot.in_order(from..to)? {
            let (seq, bytes) = row?;
            if row_at(&mut quiet, seq.0)?.is_some() && !with_quiet {
                continue;
            }
            let event = packed(bytes)?;
            if snapshot.hides(&event) {
                continue;
            }
            if each(seq, &event).is_break() {
                return Ok(seq.next());
            }
        }
        Ok(to)
    }

    /// A place in the order of what [`Store::since`] does not tell: removals, and what was read through.
    pub fn mark(&self) -> Mark {
        self.inner.unannounced.mark()
    }

    /// The events that were removed, or read through, since `mark`, or are over without having been
    /// removed yet. Some may be held again. None: that is not known any more.
    pub fn touched_since(&self, mark: Mark) -> Result<Option<Vec<EventId>>, ReadError> {
        let Some(mut touched) = self.inner.unannounced.since(mark) else { return Ok(None) };
        touched.extend(self.snapshot()?.expired()?);
        Ok(Some(touched))
    }

    /// Calls `each` with what is held at each of these places, in their order, until it breaks: an event,
    /// a stub, or nothing any more. One read transaction is open meanwhile.
    pub fn at(
        &self,
        places: impl IntoIterator<Item = Seq>,
        mut each: impl FnMut(Seq, Option<&Packed<'_>>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let snapshot = self.snapshot()?;
        for seq in places {
            let bytes = snapshot.event(seq)?;
            let event = bytes.as_deref().map(packed).transpose()?;
            if each(seq, event.as_ref()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// How many events match one of the filters, as NIP-45 asks. Each filter counts up to its limit.
    pub fn count(&self, filters: &[Filter]) -> Result<u64, ReadError> {
        let (mut scan, mut total) = (Scan::new(filters), 0);
        loop {
            let mut until = None;
            let may_go_on = || {
                let now = Instant::now();
                now <= *until.get_or_insert(now + COUNT_PAGE_TIME)
            };
            let (count, is_done) = self.count_page(&mut scan, may_go_on)?;
            total += count;
            if is_done {
                return Ok(total);
            }
        }
    }

    /// Counts on where `scan` is, in one read transaction, as long as `may_go_on`. Says how many more there
    /// were, and whether that is all.
    pub fn count_page(
        &self,
        scan: &mut Scan,
        may_go_on: impl FnMut() -> bool,
    ) -> Result<(u64, bool), ReadError> {
        Ok(scan.count(&self.snapshot()?, may_go_on)?)
    }

    /// Numbers for people and dashboards.
    pub fn stats(&self) -> Result<Stats, ReadError> {
        let snapshot = self.snapshot()?;
        let Snapshot { databases, txn, .. } = &snapshot;
        Ok(Stats {
            events: databases.ids.len(txn)?,
            stubs: databases.stubs.len(txn)?,
            bytes_in_use: Usage::read(databases, txn)?.bytes,
            next_seq: snapshot.next_seq()?,
            covered: databases.covered.len(txn)?,
            outbox: databases.outbox.len(txn)?,
            outbox_bytes: databases.numbers.get(txn, OUTBOX_BYTES)?.unwrap_or(0),
            outbox_since: databases.outbox.first(txn)?.map(|(_, row)| OutboxRow::read(row).since),
            aside: databases.aside.len(txn)?,
            local: databases.local.len(txn)?,
            tapped: databases.tapped.len(txn)?,
            bytes_on_disk: self.inner.environment.env().real_disk_size()?,
            commits: self.inner.environment.env().info().last_txn_id as u64,
        })
    }

    /// When the store was made, in nanoseconds since 1970: two that lay in one folder, one after the other,
    /// differ in it.
    pub fn made(&self) -> Result<u64, ReadError> {
        let Snapshot { databases, txn, .. } = &self.snapshot()?;
        Ok(databases.numbers.get(txn, MADE)?.unwrap_or(0))
    }

    /// The place in L2's log to ask for next, as the last page of its feed gave it.
    pub fn l2_cursor(&self) -> Result<Option<u64>, ReadError> {
        let Snapshot { databases, txn, .. } = &self.snapshot()?;
        Ok(databases.numbers.get(txn, LAYER2_CURSOR)?)
    }

    /// The text that [`Writer::put_meta`] kept under this name.
    pub fn meta(&self, name: &str) -> Result<Option<String>, ReadError> {
        let Snapshot { databases, txn, .. } = &self.snapshot()?;
        Ok(databases.texts.get(txn, name)?.map(str::to_owned))
    }

    /// The date from which on every event is found that ever came, be it as a stub. What is older may
    /// have been given up for want of room, and L2 has to be asked.
    pub fn complete_since(&self) -> Result<Timestamp, ReadError> {
        let Snapshot { databases, txn, .. } = &self.snapshot()?;
        Ok(Timestamp(databases.numbers.get(txn, COMPLETE_SINCE)?.unwrap_or(0)))
    }

    /// Notes that these events went to clients: what is served stays longer. Costs no write now.
    pub fn note_served(&self, served: impl IntoIterator<Item = Seq>) {
        // Where nothing is ever given up, nobody asks.
        if self.inner.room.is_limited() {
            self.inner.notes.add(served);
        }
    }

    /// Whether nothing is given up: another L2 is being turned to, or was, and it is not finished.
    pub fn spares_all(&self) -> Result<bool, ReadError> {
        let Snapshot { databases, txn, .. } = &self.snapshot()?;
        Ok(databases.numbers.get(txn, SPARES_ALL)?.is_some())
    }

    /// Begins an answer: for ten seconds, what is stored from now on is given up last.
    pub fn hold(&self) -> Hold {
        Hold::begin(&self.inner.holds, self.next_seq())
    }

    /// How long collections kept the writer from other work.
    pub fn pauses(&self) -> Pauses {
        self.inner.room.pauses()
    }

    pub(crate) fn notes(&self) -> &Notes {
        &self.inner.notes
    }

    pub(crate) fn holds(&self) -> &Holds {
        &self.inner.holds
    }

    pub(crate) fn room(&self) -> &Room {
        &self.inner.room
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>, ReadError> {
        Ok(Snapshot::open(&self.inner.environment, &self.inner.databases, (self.inner.clock)())?)
    }
}

fn packed(bytes: &[u8]) -> Result<Packed<'_>, ReadError> {
    Packed::trusted(bytes).map_err(|error| ReadError::Failed(heed::Error::Decoding(error.into())))
}

/// Makes the folder and takes it. LMDB's own lock lets several processes in; two relays on one L1 would
/// each believe to be the one writer, and followers would not hear of the other's commits.
pub(crate) fn lock(folder: &Path) -> Result<Lock, OpenError> {
    take(folder, File::try_lock)
}

/// As [`lock`], together with all who take it the same way.
pub(crate) fn lock_shared(folder: &Path) -> Result<Lock, OpenError> {
    take(folder, File::try_lock_shared)
}

fn take(
    folder: &Path,
    lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<Lock, OpenError> {
    let failed =
        |cause: io::Error| OpenError::Failed { folder: folder.into(), cause: cause.into() };
    fs::create_dir_all(folder).map_err(failed)?;
    let file = File::create(folder.join("in-use.lock")).map_err(failed)?;
    match lock(&file) {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(folder.into())),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

fn of_the_other_kind(found: u64, format: u64) -> &'static str {
    match (found == FORMAT_SHARED, format == FORMAT_SHARED) {
        (true, false) => ": it is a shared one, and no relay's own",
        (false, true) => ": it is a relay's own, and no shared one",
        _ => "",
    }
}

/// The format of what is there. A new store gets `ours`, and its first seq; an older one of a relay's own
/// becomes what it is now.
fn check_format(
    environment: &Environment,
    databases: &Databases<'static>,
    ours: u64,
) -> Result<u64, heed::Error> {
    let mut txn = environment.write()?;
    match databases.numbers.get(&txn, FORMAT_NAME)? {
        Some(found) if found == ours => return Ok(ours),
        Some(FORMAT_BEFORE_COLLECTION | FORMAT_BEFORE_DATES) if ours == FORMAT => {
            add_dates(databases, &mut txn)?;
        }
        Some(FORMAT_BEFORE_COVERAGE | FORMAT_BEFORE_TAPS) if ours == FORMAT => {}
        Some(found) => return Ok(found),
        None => {
            databases.numbers.put(&mut txn, NEXT_SEQ, &0)?;
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            databases.numbers.put(&mut txn, MADE, &(since_1970.as_nanos() as u64))?;
        }
    }
    databases.numbers.put(&mut txn, FORMAT_NAME, &ours)?;
    txn.commit()?;
    Ok(ours)
}

/// A new file survives a power cut only once the folders that name it are synced.
fn sync_names(folder: &Path) -> io::Result<()> {
    let folder = folder.canonicalize()?;
    File::open(&folder)?.sync_all()?;
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
