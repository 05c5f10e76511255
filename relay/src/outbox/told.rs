//! Who wants to hear what L2 says of an event: with `ok_after = "layer2"`, every client that publishes.
//!
//! The outbox tells them when the answer is written down. An event may also leave the outbox without an
//! answer (a newer version came, or the poll brought it back first, or its deletion). That can happen in
//! any transaction of the writer, so no one is told of it: each who waits looks again now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use event::EventId;
use store::{Standing, Store};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::id_of;
use crate::verdict::{Accepted, Rejection};

/// How often one who waits looks whether the event still does.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What L2 said of an event, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It holds it.
    Shared,
    /// It is not asked about this one.
    Local,
    /// Nor about this one: it was banned here while it waited.
    Banned,
    Superseded,
    Deleted,
    Expired,
    /// It does not take it, and says why.
    Refused(String),
}

/// Those who wait, by event.
#[derive(Default)]
pub struct Waiters(Mutex<HashMap<EventId, Vec<oneshot::Sender<Said>>>>);

impl Waiters {
    /// Tells those who wait for this event, packed.
    pub fn tell(&self, event: &[u8], said: &Said) {
        let mut waiters = self.0.lock().expect("nobody panics holding it");
        // By default nobody ever waits.
        if waiters.is_empty() {
            return;
        }
        for waiter in waiters.remove(&id_of(event)).unwrap_or_default() {
            // Its client may have left.
            let _ = waiter.send(said.clone());
        }
    }

    fn wait(&self, id: EventId) -> Wait<'_> {
        let (sender, said) = oneshot::channel();
        let mut waiters = self.0.lock().expect("nobody panics holding it");
        waiters.entry(id).or_default().push(sender);
        Wait { waiters: self, id, said }
    }
}

/// One who waits, until this is dropped.
struct Wait<'w> {
    waiters: &'w Waiters,
    id: EventId,
    said: oneshot::Receiver<Said>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.said.close();
        let mut waiters = self.waiters.0.lock().expect("nobody panics holding it");
        if let Some(others) = waiters.get_mut(&self.id) {
            others.retain(|waiter| !waiter.is_closed());
            if others.is_empty() {
                waiters.remove(&self.id);
            }
        }
    }
}

/// What holds an OK back until L2 has the event.
pub struct UntilLayer2 {
    pub store: Store,
    pub waiters: Arc<Waiters>,
    /// How long a client waits.
    pub patience: Duration,
}

impl UntilLayer2 {
    /// What a client is told of an event that L1 has.
    pub async fn answer(&self, id: EventId, taken: Accepted) -> Result<Accepted, Rejection> {
        // In this order: an answer that comes now finds either us, or its trace in L1.
        let mut wait = self.waiters.wait(id);
        let until = Instant::now() + self.patience;
        loop {
            if let Some(answer) = self.known(&id, taken)? {
                return answer;
            }
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left.min(LOOK_EVERY), &mut wait.said).await {
                Ok(Ok(said)) => return answer(said, taken),
                // The relay stops.
                Ok(Err(_)) => return Err(Rejection::Unconfirmed),
                Err(_) if left.is_zero() => return Err(Rejection::Unconfirmed),
                Err(_) => {}
            }
        }
    }

    /// What L1 knows by itself; `None`: L2 has not answered.
    fn known(
        &self,
        id: &EventId,
        taken: Accepted,
    ) -> Result<Option<Result<Accepted, Rejection>>, Rejection> {
        let standing = self.store.standing(id);
        Ok(match standing.map_err(|_| Rejection::Error("the relay cannot read its store"))? {
            Standing::Waiting => None,
            Standing::Shared | Standing::Local => Some(Ok(taken)),
            Standing::Aside(reason) => Some(Err(Rejection::NotShared(reason))),
            Standing::NotHeld => Some(Err(Rejection::Gone)),
        })
    }
}

fn answer(said: Said, taken: Accepted) -> Result<Accepted, Rejection> {
    match said {
        Said::Shared | Said::Local => Ok(taken),
        Said::Banned => Err(Rejection::Banned),
        Said::Superseded => Ok(Accepted::Superseded),
        Said::Deleted => Err(Rejection::Deleted),
        Said::Expired => Err(Rejection::Expired),
        Said::Refused(reason) => Err(Rejection::NotShared(reason)),
    }
}
