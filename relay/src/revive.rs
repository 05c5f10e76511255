//! Bodies that L1 gave up, back from L2.
//!
//! Nobody has to trust L2 for them: id and signature of each are checked, as of any event from
//! outside. What came is stored again, so that who asks next finds it here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use event::{EventId, Packed, Verified, verify};
use futures_util::FutureExt;
use layer2::{Layer2, Layer2Error};
use store::{WriteError, Writer};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::{backoff::backoff, metrics::Metrics, under_way::UnderWay};

/// The way back of single events.
pub struct Revival {
    /// Without an L2 no body is ever given up.
    pub layer2: Option<Arc<dyn Layer2>>,
    pub writer: Writer,
    /// How long an answer waits for L2.
    pub patience: Duration,
    pub metrics: Arc<Metrics>,
    pub under_way: UnderWay<Vec<EventId>, Result<Whole, Arc<Layer2Error>>>,
}

/// Events by id.
pub type Whole = HashMap<EventId, Verified>;

impl Revival {
    /// These events, as far as L2 gives them before `deadline`.
    pub async fn fetch_until(self: &Arc<Self>, ids: &[EventId], deadline: Instant) -> Whole {
        match timeout_at(deadline, self.fetch(ids)).await {
            Ok(Ok(whole)) => whole,
            Ok(Err(cause)) => {
                warn!(%cause, events = ids.len(), "bodies are in L2 alone, and it does not give them");
                Whole::new()
            }
            Err(_) => {
                warn!(events = ids.len(), "L2 is slow with bodies; an answer goes on without them");
                Whole::new()
            }
        }
    }

    /// These events, as soon as L2 answers. Those that are not in the answer, L2 does not hold.
    pub async fn fetch_patiently(self: &Arc<Self>, ids: &[EventId]) -> Whole {
        let mut failures = 0u32;
        loop {
            match self.fetch(ids).await {
                Ok(whole) => return whole,
                Err(cause) => debug!(%cause, events = ids.len(), "L2 still does not give bodies"),
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(backoff(failures)).await;
        }
    }

    /// Whoever asks for the same meanwhile gets the same answer.
    async fn fetch(self: &Arc<Self>, ids: &[EventId]) -> Result<Whole, Arc<Layer2Error>> {
        let (this, wanted) = (self.clone(), ids.to_vec());
        let answer = self.under_way.join(ids.to_vec(), || {
            async move { this.ask(&wanted).await.map_err(Arc::new) }.boxed()
        });
        answer.await
    }

    async fn ask(&self, ids: &[EventId]) -> Result<Whole, Layer2Error> {
        let Some(layer2) = &self.layer2 else { return Ok(Whole::new()) };
        let bytes = layer2.get(ids).await?;
        let wanted = ids.to_vec();
        let read = tokio::task::spawn_blocking(move || read(&bytes, &wanted)).await;
        let whole = read.map_err(|error| Layer2Error::Interface(error.to_string()))?;
        self.metrics.revived.inc_by(whole.len() as u64);
        match self.writer.revive(whole.values().cloned().collect()).await {
            Ok(()) | Err(WriteError::Full) => {}
            Err(cause) => warn!(%cause, "bodies from L2 could not be kept"),
        }
        Ok(whole)
    }
}

/// The events among `bytes` that were asked for and are sound.
fn read(bytes: &[Vec<u8>], wanted: &[EventId]) -> Whole {
    let mut whole = Whole::new();
    for bytes in bytes {
        let event = match Packed::parse(bytes) {
            Ok(packed) if wanted.contains(&packed.id()) => packed.unpack(),
            Ok(_) => continue,
            Err(error) => {
                warn!(%error, "L2 gives what is no event");
                continue;
            }
        };
        match verify(event) {
            Ok(event) => drop(whole.insert(event.id, event)),
            Err(invalid) => warn!(%invalid, "L2 gives an event that does not verify"),
        }
    }
    whole
}
