//! L2, the store that relays share, behind one trait.
//!
//! Which one it is, a URL says ([`Layer2Url`]). The trait speaks the types of `interface`, which are
//! the canister's: it is the store that all others are measured by, and what it says of an event, of
//! its log, or of a filter, each of them says in the same words.

mod arriving;
mod canister;
mod clock;
mod lmdb;
mod paging;
mod postgres;
mod url;
mod usage;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use candid::Principal;
use event::{EventId, Filter, Timestamp};
pub use ic_agent::Identity;
pub use interface::{
    Change, ChangesFrom, ChangesPage, Count, DeleteOutcome, Deletion, QueryPage, RelayEntry,
    RelayInfo, Role, SaveOutcome, Status, What,
};

pub use crate::{
    canister::Canister,
    lmdb::Lmdb,
    postgres::Postgres,
    url::{CanisterUrl, Layer2Url, LmdbUrl, PostgresUrl, UrlError},
    usage::UsageFigures,
};

/// Why L2 did not do what was asked. The variants are what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Layer2Error {
    /// Not done, or not known to be done: ask again later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It does not let us, whatever we send: find out whether we are still granted.
    #[error("refused: {0}")]
    Refused(String),
    /// Too much at once: send less.
    #[error("too large: {0}")]
    TooLarge(String),
    /// It broke off over what was asked, as a canister traps: send less, or leave out what it fails at.
    #[error("failed: {0}")]
    Failed(String),
    /// What came was not what the store holds: do not use it, and ask again.
    #[error("not proven: {0}")]
    Unproven(String),
    /// Who answers has seen less of the log than we have: it lags, or the store was begun anew.
    #[error("its log ends at {0}, and we were further")]
    Behind(u64),
    /// We and it disagree about the interface: an operator must look.
    #[error("interface: {0}")]
    Interface(String),
}

/// How much a page of the log says of an event that was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// All of it, packed.
    Events,
    /// Its id.
    Ids,
}

/// The shared store. Events are packed on their way up and on their way down; ids are 32 bytes; dates
/// are unix time in seconds.
#[async_trait]
pub trait Layer2: Send + Sync + 'static {
    /// What to call it in logs, what a poll cursor belongs to, and what confirms that it is to be
    /// cleared. No password is in it.
    fn name(&self) -> String;

    /// Who this relay is to it; None where whoever can reach it may do everything.
    fn principal(&self) -> Option<Principal>;

    /// Stores events; says for each, in order, what became of it. Safe to repeat. Those beyond
    /// [`interface::SAVE_EVENTS_MAX`] are [`Layer2Error::TooLarge`].
    async fn save(&self, events: &[Vec<u8>]) -> Result<Vec<SaveOutcome>, Layer2Error>;

    /// The events that match one of the filters, newest first, ties by lowest id, each once; a page at
    /// a time. A filter's limit holds over all its pages. A page may be short, or even empty: what is
    /// left begins at its `cursor`, with the same filters.
    async fn query(
        &self,
        filters: &[Filter],
        cursor: Option<&[u8]>,
    ) -> Result<QueryPage, Layer2Error>;

    /// Those of these events that it holds, in whatever order.
    async fn get(&self, ids: &[EventId]) -> Result<Vec<Vec<u8>>, Layer2Error>;

    /// How many events match one of the filters, as far as there is time to count them.
    async fn count(&self, filters: &[Filter]) -> Result<Count, Layer2Error>;

    /// A page of the log: what happened from there on, oldest first, and where to go on. Each entry
    /// was shown to be in the log, with none left out, where somebody stands between who could lie.
    async fn changes(&self, from: ChangesFrom, detail: Detail) -> Result<ChangesPage, Layer2Error>;

    /// How long the log is, told by the store itself and not by a copy that may lag.
    async fn length(&self) -> Result<u64, Layer2Error>;

    /// One round of negentropy (NIP-77, without its hex) against all that it holds, or all of that
    /// which matches a filter.
    async fn reconcile(
        &self,
        message: &[u8],
        filter: Option<&Filter>,
    ) -> Result<Vec<u8>, Layer2Error>;

    /// Takes events out, as an operator. Says for each, in order, what became of it.
    async fn delete(
        &self,
        ids: &[EventId],
        deletion: &Deletion,
    ) -> Result<Vec<DeleteOutcome>, Layer2Error>;

    /// Takes all events out and forgets all tombstones. The log goes on. `confirmation` is
    /// [`Layer2::name`], so that nobody empties another store than the one they mean.
    async fn clear(&self, confirmation: &str) -> Result<(), Layer2Error>;

    /// What this relay may do.
    async fn role(&self) -> Result<Option<Role>, Layer2Error>;

    /// What it holds and what it costs. Fields that mean nothing for it are 0.
    async fn status(&self) -> Result<Status, Layer2Error>;

    /// Whether relays find each other in it.
    fn has_directory(&self) -> bool {
        false
    }

    /// Lists this relay in the directory, or keeps it listed.
    async fn announce(&self, _info: RelayInfo) -> Result<(), Layer2Error> {
        Ok(())
    }

    /// The relays that the directory has heard of lately.
    async fn relays(&self) -> Result<Vec<RelayEntry>, Layer2Error> {
        Ok(Vec::new())
    }

    /// What our calls came to. None where they cost nothing.
    fn usage(&self) -> Option<UsageFigures> {
        None
    }
}

/// Opens the store at a URL. `identity` is who we are to a canister. Nothing is asked over a network yet:
/// L2 may be down when a relay starts.
pub fn open(url: &Layer2Url, identity: impl Identity + 'static) -> anyhow::Result<Arc<dyn Layer2>> {
    match url {
        Layer2Url::Canister(url) => Ok(Arc::new(Canister::new(url, identity)?)),
        Layer2Url::Lmdb(url) => Ok(Arc::new(Lmdb::open(&url.folder)?)),
        Layer2Url::Postgres(url) => Ok(Arc::new(Postgres::new(url))),
    }
}

fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since_1970.map_or(0, |elapsed| elapsed.as_secs()))
}

/// The status of a store that is no canister.
fn status(events: u64, length: u64, bytes: u64) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        events,
        length,
        stable_bytes: bytes,
        heap_bytes: 0,
        cycles: 0u8.into(),
        liquid_cycles: 0u8.into(),
        read_only: None,
        memories: Vec::new(),
        last_saved_at: None,
        last_save: None,
    }
}
