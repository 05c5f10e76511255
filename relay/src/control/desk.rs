//! What requests are carried out on: a store, and what of a relay stands around it.

use std::sync::Arc;

use layer2::Layer2;
use store::{Store, Writer};

use crate::{
    collector::AskCollector, moderation::Moderator, peers::tapper::Tapper, quotas::Quotas,
};

/// What requests are carried out on.
#[derive(Clone)]
pub struct Desk {
    pub store: Store,
    pub writer: Writer,
    /// None: the store has no limit, or was opened for something else.
    pub(crate) collector: Option<AskCollector>,
    pub(crate) moderator: Arc<Moderator>,
    /// None: there is none, or it was opened for something else.
    pub(crate) layer2: Option<Arc<dyn Layer2>>,
    /// None: nobody else writes.
    pub(crate) quotas: Option<Arc<Quotas>>,
    /// None: no relay runs.
    pub(crate) tapper: Option<Arc<Tapper>>,
    /// Whether nobody else writes to the store.
    pub is_alone: bool,
}
