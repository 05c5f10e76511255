//! A folder on this machine as an L2: what the trait asks for, done by `store` itself. The relays of
//! one machine share it, each its own process; LMDB sees to it that they do not get in each other's way.
//!
//! Reads block for as long as LMDB needs, so they run where that holds nobody up.

use std::{ops::ControlFlow, path::Path};

use async_trait::async_trait;
use candid::Principal;
use event::{EventId, Filter, Timestamp};
use index::{Found, Reader, Scan, Seq, Take};
use interface::ByteBuf;
use reconcile::Item;
use store::{ByHand, Clock, Entry, Options, Outcome, ReadError, Shared, WriteError};

use crate::{
    Change, ChangesFrom, ChangesPage, Count, DeleteOutcome, Deletion, Detail, Layer2, Layer2Error,
    QueryPage, Role, SaveOutcome, Status, What,
    arriving::{check_all, in_order, part, reason},
    paging::{self, Room, check_values, cursor_of},
};

/// A store in a folder of this machine.
pub struct Lmdb {
    /// Who deletes the folder and begins anew has another store, whose log starts again.
    name: String,
    shared: Shared,
    clock: Clock,
}

impl Lmdb {
    /// Opens the store in `folder`, or creates it. Unlike a canister it is there or it is not, so
    /// whoever starts a relay hears of it at once.
    pub fn open(folder: &Path) -> anyhow::Result<Lmdb> {
        let options = Options::default();
        let clock = options.clock.clone();
        let shared = Shared::open(folder, options)?;
        let name =
            format!("lmdb:{}#{:x}", folder.canonicalize()?.display(), shared.store().made()?);
        Ok(Lmdb { name, shared, clock })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, Layer2Error> + Send + 'static,
    ) -> Result<T, Layer2Error> {
        let shared = self.shared.clone();
        let reading = tokio::task::spawn_blocking(move || read(&shared));
        reading.await.unwrap_or_else(|error| Err(Layer2Error::Unavailable(error.to_string())))
    }
}

#[async_trait]
impl Layer2 for Lmdb {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn principal(&self) -> Option<Principal> {
        None
    }

    async fn save(&self, events: &[Vec<u8>]) -> Result<Vec<SaveOutcome>, Layer2Error> {
        let (refused, sound) = part(check_all(events, (self.clock)()).await?);
        let stored = self.shared.save(sound).await.map_err(unwritten)?;
        Ok(in_order(refused, stored.into_iter().map(told)))
    }

    async fn query(
        &self,
        filters: &[Filter],
        cursor: Option<&[u8]>,
    ) -> Result<QueryPage, Layer2Error> {
        check_values(filters)?;
        let cursor = cursor_of(cursor, filters)?;
        let filters = filters.to_vec();
        self.read(move |shared| {
            let mut scan = Scan::resume(&filters, &cursor);
            let mut page = Page { events: Vec::new(), room: Room::new() };
            let Seq(length) = shared.length().map_err(unread)?;
            let is_done = shared.store().page(&mut scan, &mut page).map_err(unread)?;
            let cursor = (!is_done).then(|| ByteBuf::from(scan.cursor().to_bytes()));
            Ok(QueryPage { events: page.events, cursor, length })
        })
        .await
    }

    async fn get(&self, ids: &[EventId]) -> Result<Vec<Vec<u8>>, Layer2Error> {
        let filter = Filter { ids: Some(ids.to_vec()), ..Filter::default() };
        self.read(move |shared| {
            let mut page = All(Vec::new());
            shared.store().page(&mut Scan::new(&[filter]), &mut page).map_err(unread)?;
            Ok(page.0)
        })
        .await
    }

    async fn count(&self, filters: &[Filter]) -> Result<Count, Layer2Error> {
        check_values(filters)?;
        let filters = filters.to_vec();
        let count = self.read(move |shared| shared.store().count(&filters).map_err(unread)).await?;
        Ok(Count { count, complete: true })
    }

    async fn changes(&self, from: ChangesFrom, detail: Detail) -> Result<ChangesPage, Layer2Error> {
        self.read(move |shared| {
            let from = match from {
                ChangesFrom::Seq(seq) => Seq(seq),
                ChangesFrom::Arrived(time) => {
                    shared.first_arrived_at(Timestamp(time)).map_err(unread)?
                }
            };
            changes(shared, from, detail)
        })
        .await
    }

    async fn length(&self) -> Result<u64, Layer2Error> {
        self.read(|shared| Ok(shared.length().map_err(unread)?.0)).await
    }

    async fn reconcile(
        &self,
        message: &[u8],
        filter: Option<&Filter>,
    ) -> Result<Vec<u8>, Layer2Error> {
        let filters = [filter.cloned().unwrap_or_default()];
        check_values(&filters)?;
        let message = message.to_vec();
        self.read(move |shared| {
            let mut items = Items(Vec::new());
            shared.store().page(&mut Scan::new(&filters), &mut items).map_err(unread)?;
            paging::reconcile(items.0, &message)
        })
        .await
    }

    async fn delete(
        &self,
        ids: &[EventId],
        deletion: &Deletion,
    ) -> Result<Vec<DeleteOutcome>, Layer2Error> {
        let why = reason(&deletion.why).to_owned();
        let how = ByHand { for_ever: deletion.tombstone, why };
        let removed = self.shared.remove(ids.to_vec(), how).await.map_err(unwritten)?;
        let outcome = |place: Option<Seq>| {
            place.map_or(DeleteOutcome::Unknown, |Seq(seq)| DeleteOutcome::Removed(seq))
        };
        Ok(removed.into_iter().map(outcome).collect())
    }

    async fn clear(&self, confirmation: &str) -> Result<(), Layer2Error> {
        paging::check_confirmation(confirmation, &self.name)?;
        self.shared.clear().await.map_err(unwritten)
    }

    /// Whoever can open the folder may do everything.
    async fn role(&self) -> Result<Option<Role>, Layer2Error> {
        Ok(Some(Role::Owner))
    }

    async fn status(&self) -> Result<Status, Layer2Error> {
        let Seq(length) = self.read(|shared| shared.length().map_err(unread)).await?;
        let stats = self.read(|shared| shared.store().stats().map_err(unread)).await?;
        Ok(crate::status(stats.events, length, stats.bytes_on_disk))
    }
}

fn changes(shared: &Shared, from: Seq, detail: Detail) -> Result<ChangesPage, Layer2Error> {
    let mut room = Room::new();
    let mut changes = Vec::new();
    let read = shared.changes(from, |Seq(seq), arrived, entry| {
        let what = what(entry, detail);
        if !room.take(what.bytes()) {
            return ControlFlow::Break(());
        }
        changes.push(Change { seq, arrived: arrived.0, what });
        ControlFlow::Continue(())
    });
    let (Seq(next), Seq(length)) = read.map_err(unread)?;
    if from.0 > length {
        return Err(Layer2Error::Behind(length));
    }
    Ok(ChangesPage { changes, next, length, proof: None })
}

fn what(entry: Entry<'_>, detail: Detail) -> What {
    match (entry, detail) {
        (Entry::Saved(event), Detail::Events) => What::Saved(ByteBuf::from(event)),
        (Entry::Saved(event), Detail::Ids) => What::Saved(paging::id_in(event)),
        (Entry::Removed { id, why }, _) => {
            What::Removed { id: ByteBuf::from(id.0), why: why.to_owned() }
        }
        (Entry::Cleared, _) => What::Cleared,
    }
}

/// Takes events until the page is full.
struct Page {
    events: Vec<ByteBuf>,
    room: Room,
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        if !self.room.take(found.packed.len()) {
            return Take::NotThis;
        }
        self.events.push(ByteBuf::from(found.packed.into_owned()));
        Take::More
    }
}

/// Takes all events.
struct All(Vec<Vec<u8>>);

impl Reader for All {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.0.push(found.packed.into_owned());
        Take::More
    }
}

/// Takes what negentropy sees of events.
struct Items(Vec<Item>);

impl Reader for Items {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.0.push(Item { created_at: found.position.created_at, id: found.position.id });
        Take::More
    }
}

fn told(outcome: Outcome) -> SaveOutcome {
    match outcome {
        Outcome::Saved(Seq(seq)) => SaveOutcome::Saved(seq),
        Outcome::Duplicate(Some(Seq(seq))) => SaveOutcome::Duplicate(seq),
        Outcome::Duplicate(None) => SaveOutcome::Other("held, and not found".into()),
        Outcome::Superseded => SaveOutcome::Superseded,
        Outcome::Deleted => SaveOutcome::Deleted,
        Outcome::Expired => SaveOutcome::Expired,
        Outcome::Ephemeral => SaveOutcome::Ephemeral,
        Outcome::Invalid(reason) => SaveOutcome::Invalid(reason.into()),
    }
}

/// Whatever is wrong with the disk may be mended while the relay keeps its events.
fn unread(error: ReadError) -> Layer2Error {
    Layer2Error::Unavailable(error.to_string())
}

fn unwritten(error: WriteError) -> Layer2Error {
    Layer2Error::Unavailable(error.to_string())
}
