//! What clients published here, on its way up to L2.
//!
//! The outbox follows L1's commits. A batch starts with the first event and waits for no later ones:
//! while one is under way the next gathers by itself, and goes beside it as soon as it is full, or the
//! first one takes its time. Nothing leaves the outbox before L2 has answered for it, and what L2 will
//! never take is kept aside with its reason, as is what was banned here while it waited.
//!
//! Batches may arrive in any order: a deletion before its target, a new version before an old one. The
//! rules ask for no order (`event::rules`), so neither does the outbox, and a batch that fails holds up
//! no other. What goes when, and what becomes of a batch that fails, says [`plan`].

mod plan;
mod told;

use std::{sync::Arc, time::Duration};

use event::{EventId, Packed};
use interface::TOO_FAR_AHEAD;
use layer2::{Layer2, Layer2Error, SaveOutcome};
use store::{Millis, ReadError, Seq, Settlement, Store, Waiting, Writer};
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::plan::{Batch, Ended, Fresh, Plan, Poison};
pub use self::told::{Said, UntilLayer2, Waiters};
use crate::{
    backoff::BACKOFF_MAX,
    config::terms::InForce,
    delta::Delta,
    local::LocalOnly,
    metrics::{self, Counted, Metrics},
    own_seqs::OwnSeqs,
};

/// Events of one batch. Among so many each costs the canister about 0.9 M instructions, so a batch takes
/// half of what a canister may do in one round, which is about a second.
const BATCH_EVENTS_MAX: usize = 1_000;
/// How long a relay that stops sends on what still waits.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// How long L2's answer waits for the live stage, which is further on as a rule.
const LIVE_STAGE_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of one batch: an ingress message may have 2 MiB.
const BATCH_BYTES_MAX: usize = 1_500_000;

/// The way up to L2.
pub struct Outbox {
    pub store: Store,
    pub writer: Writer,
    pub layer2: Arc<dyn Layer2>,
    /// What never goes up, even if it was queued before the operator said so.
    pub local: Arc<LocalOnly>,
    /// What was banned since it was queued does not go up either.
    pub in_force: InForce,
    pub batches_max: usize,
    /// Who wants to know what L2 said.
    pub waiters: Arc<Waiters>,
    /// Rung when L2 refuses everything: somebody should ask whether we are still granted.
    pub doubt: Arc<Notify>,
    /// Which of our events are ours the live stage reads here.
    pub delta: Delta,
    /// Told where in L2's log our events are.
    pub own: Arc<OwnSeqs>,
    pub metrics: Arc<Metrics>,
}

type Flights = JoinSet<(Batch, Ended)>;

/// L2's word on one event.
enum Word {
    Final(Settlement, Said),
    /// Its date lies too far ahead, for now.
    Early,
    /// It is to be sent again.
    Later,
}

impl Outbox {
    /// Sends up whatever L1 commits, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let outbox = Arc::new(self);
        let mut newest = outbox.store.follow();
        let mut plan = outbox.plan();
        let mut flights = Flights::new();
        loop {
            newest.mark_unchanged();
            let wake = outbox.start_all(&mut plan, &mut flights).await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = newest.changed() => if changed.is_err() { break },
                Some(landed) = flights.join_next() => match landed {
                    Ok((batch, ended)) => outbox.land(batch, ended, &mut plan).await,
                    Err(cause) => {
                        note_panic(&cause);
                        (plan, flights) = (outbox.plan(), Flights::new());
                    }
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
        if timeout(FAREWELL_MAX, outbox.say_farewell(&mut plan, &mut flights)).await.is_err() {
            debug!("what still waits goes up after the next start");
        }
        flights.shutdown().await;
    }

    /// Sends what still waits, as long as L2 takes it: this relay may not come back.
    async fn say_farewell(self: &Arc<Self>, plan: &mut Plan, flights: &mut Flights) {
        while plan.failures() == 0 {
            let wake = self.start_all(plan, flights).await;
            match flights.join_next().await {
                Some(Ok((batch, ended))) => self.land(batch, ended, plan).await,
                Some(Err(_)) => return,
                None => match wake {
                    Some(at) if self.store.outbox_len().unwrap_or(0) > 0 => sleep_until(at).await,
                    _ => return,
                },
            }
        }
    }

    fn plan(&self) -> Plan {
        Plan::new(self.batches_max, BATCH_EVENTS_MAX, Instant::now())
    }

    /// Starts all batches that may go now. Returns when to look again if nothing happens until then.
    async fn start_all(
        self: &Arc<Self>,
        plan: &mut Plan,
        flights: &mut Flights,
    ) -> Option<Instant> {
        loop {
            let now = Instant::now();
            plan.tend(now);
            if let Some(batch) = plan.next_held(now) {
                self.start_held(batch, plan, flights).await;
                continue;
            }
            match plan.fresh(self.store.outbox_len().unwrap_or(0), now) {
                Fresh::No => return plan.wake_at(),
                Fresh::At(then) => return Some(plan.wake_at().map_or(then, |at| at.min(then))),
                Fresh::Now => {}
            }
            let but = plan.spared().clone();
            let read = move |store: &Store| store.outbox(&but, BATCH_EVENTS_MAX, BATCH_BYTES_MAX);
            let Some(rows) = self.read(read).await else { return Some(now + BACKOFF_MAX) };
            if rows.is_empty() {
                if plan.is_idle() {
                    metrics::stamp(&self.metrics.outbox_clear_timestamp_seconds);
                }
                return plan.wake_at();
            }
            let batch = plan.start(rows.iter().map(|row| row.seq).collect(), now);
            flights.spawn(self.clone().send(batch, rows));
        }
    }

    /// Starts a batch that was held back, with what of it still waits.
    async fn start_held(self: &Arc<Self>, batch: Batch, plan: &mut Plan, flights: &mut Flights) {
        let seqs = batch.seqs.clone();
        match self.read(move |store| store.still_waiting(&seqs)).await {
            Some(rows) => drop(flights.spawn(self.clone().send(batch, rows))),
            None => drop(plan.ended(batch, Ended::NotNoted, Instant::now())),
        }
    }

    async fn read(
        &self,
        read: impl FnOnce(&Store) -> Result<Vec<Waiting>, ReadError> + Send + 'static,
    ) -> Option<Vec<Waiting>> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || read(&store)).await {
            Ok(Ok(rows)) => Some(rows),
            Ok(Err(cause)) => {
                error!(%cause, "the outbox cannot be read");
                None
            }
            // The runtime is shutting down.
            Err(_) => None,
        }
    }

    async fn send(self: Arc<Self>, batch: Batch, rows: Vec<Waiting>) -> (Batch, Ended) {
        let under_way = Counted::one_of(&self.metrics.outbox_batches);
        let ended = self.try_send(rows).await;
        drop(under_way);
        (batch, ended)
    }

    async fn try_send(&self, rows: Vec<Waiting>) -> Ended {
        let started = Instant::now();
        let (local, rows): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| self.local.keeps_packed(&row.event));
        let local = local.into_iter().map(|row| (row, Word::Final(Settlement::Local, Said::Local)));
        let access = &self.in_force.load_full().access;
        let (banned, rows): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|row| Packed::trusted(&row.event).is_ok_and(|event| access.hides(&event)));
        let aside = Settlement::Refused("it was banned here while it waited".into());
        let banned = banned.into_iter().map(|row| (row, Word::Final(aside.clone(), Said::Banned)));
        let mut words: Vec<(Waiting, Word)> = local.chain(banned).collect();
        if !rows.is_empty() {
            let (lines, events) = split(rows);
            let outcomes = match self.layer2.save(&events).await {
                Ok(outcomes) => outcomes,
                Err(cause) => return Ended::Failed(cause),
            };
            let rows = lines.into_iter().zip(events).zip(outcomes);
            words.extend(rows.map(|(((seq, since), event), outcome)| {
                if let SaveOutcome::Saved(place) | SaveOutcome::Duplicate(place) = outcome {
                    self.own.note(place);
                }
                let word = word(&event, outcome);
                (Waiting { seq, since, event }, word)
            }));
        }
        self.note(words, started).await
    }

    /// Writes down what L2 said, then tells those who wait for it.
    async fn note(&self, words: Vec<(Waiting, Word)>, started: Instant) -> Ended {
        let (mut early, mut later, mut settled, mut said) = (vec![], vec![], vec![], vec![]);
        for (row, word) in words {
            match word {
                Word::Early => early.push(row.seq),
                Word::Later => later.push(row.seq),
                Word::Final(settlement, word) => {
                    settled.push((row.seq, settlement));
                    said.push((row, word));
                }
            }
        }
        if let Some(last) = settled.iter().map(|(seq, _)| *seq).max() {
            self.let_live_stage_pass(last).await;
        }
        if let Err(cause) = self.writer.settle(settled).await {
            error!(%cause, "L2's answer could not be noted; the batch will be sent again");
            return Ended::NotNoted;
        }
        if said.iter().any(|(_, word)| matches!(word, Said::Superseded | Said::Deleted)) {
            // What stands in the way there is not here yet, and ours is gone.
            self.own.ring();
        }
        let (now, mut taken) = (Millis::now(), 0);
        for (row, word) in &said {
            self.waiters.tell(&row.event, word);
            // What it was not asked about says nothing of L2.
            if !matches!(word, Said::Local | Said::Banned) {
                let lag_ms = now.0.saturating_sub(row.since.0);
                self.metrics.outbox_lag_seconds.observe(lag_ms as f64 / 1e3);
                taken += 1;
            }
        }
        info!(events = said.len(), took_ms = started.elapsed().as_millis() as u64, "outbox pushed");
        Ended::Answered { taken, early, later }
    }

    /// Of an event whose row is gone nobody could tell that it is ours, and so peers would not get it from
    /// here. Where L1 cannot be read the live stage does not go on, and L2 is what they have.
    async fn let_live_stage_pass(&self, last: Seq) {
        if self.delta.has_peers() {
            let _ = timeout(LIVE_STAGE_PATIENCE, self.delta.passed(last)).await;
        }
    }

    /// A batch came back.
    async fn land(&self, batch: Batch, ended: Ended, plan: &mut Plan) {
        match &ended {
            Ended::Answered { taken, early, later } => {
                if *taken > 0 {
                    metrics::stamp(&self.metrics.outbox_clear_timestamp_seconds);
                }
                for (reason, seqs) in [("early", early), ("later", later)] {
                    if !seqs.is_empty() {
                        self.metrics.count_retry(reason);
                    }
                }
            }
            Ended::Failed(cause) => self.note_failure(cause, &batch, plan.failures()),
            Ended::NotNoted => self.metrics.count_retry("l1"),
        }
        if let Some(poison) = plan.ended(batch, ended, Instant::now()) {
            self.set_aside(poison).await;
        }
    }

    fn note_failure(&self, cause: &Layer2Error, batch: &Batch, failures: u32) {
        self.metrics.count_retry(match cause {
            Layer2Error::TooLarge(_) => "too_large",
            Layer2Error::Refused(_) => "refused",
            Layer2Error::Failed(_) => "failed",
            Layer2Error::Interface(_) => "interface",
            _ => "unavailable",
        });
        match cause {
            Layer2Error::TooLarge(_) => {
                debug!(%cause, events = batch.seqs.len(), "a batch is cut in two");
                return;
            }
            Layer2Error::Refused(_) => self.doubt.notify_one(),
            _ => {}
        }
        // The first failure is news, and so is one that lasts; those between are not.
        if failures == 0 || failures.is_power_of_two() {
            warn!(%cause, failures, events = batch.seqs.len(), "L2 does not take events; they wait here");
        }
    }

    /// Keeps an event aside that L2 fails at, again and again, while it takes others.
    async fn set_aside(&self, poison: Poison) {
        let Poison { seq, reason } = poison;
        let Some(rows) = self.read(move |store| store.still_waiting(&[seq])).await else { return };
        let Some(row) = rows.first() else { return };
        error!(id = %id_of(&row.event), reason, "L2 fails at an event; it is kept aside");
        match self.writer.settle(vec![(seq, Settlement::Refused(reason.clone()))]).await {
            Ok(()) => self.waiters.tell(&row.event, &Said::Refused(reason)),
            Err(cause) => error!(%cause, "it could not be set aside, and will be sent again"),
        }
    }
}

/// Rows, and the events that go up.
fn split(rows: Vec<Waiting>) -> (Vec<(Seq, Millis)>, Vec<Vec<u8>>) {
    rows.into_iter().map(|row| ((row.seq, row.since), row.event)).unzip()
}

/// What L2's answer for an event comes to.
fn word(event: &[u8], outcome: SaveOutcome) -> Word {
    let reason = match outcome {
        SaveOutcome::Saved(_) | SaveOutcome::Duplicate(_) => {
            return Word::Final(Settlement::Delivered, Said::Shared);
        }
        SaveOutcome::Superseded => return Word::Final(Settlement::Gone, Said::Superseded),
        SaveOutcome::Deleted => return Word::Final(Settlement::Gone, Said::Deleted),
        SaveOutcome::Expired => return Word::Final(Settlement::Gone, Said::Expired),
        SaveOutcome::Refused(reason) => {
            warn!(id = %id_of(event), reason, "L2 refuses an event for now");
            return Word::Later;
        }
        SaveOutcome::Invalid(reason) if reason.contains(TOO_FAR_AHEAD) => {
            warn!(id = %id_of(event), reason, "L2 takes an event later; is this machine's clock ahead?");
            return Word::Early;
        }
        SaveOutcome::Ephemeral => "its kind is never stored".to_owned(),
        SaveOutcome::TooLarge(limit) => format!("it is larger than {limit} bytes"),
        SaveOutcome::Invalid(reason) | SaveOutcome::Other(reason) => reason,
    };
    error!(id = %id_of(event), reason, "L2 does not take an event; it is kept aside");
    Word::Final(Settlement::Refused(reason.clone()), Said::Refused(reason))
}

fn id_of(event: &[u8]) -> EventId {
    // It was packed by us, and lay in L1.
    Packed::trusted(event).map_or(EventId([0; 32]), |event| event.id())
}

fn note_panic(cause: &JoinError) {
    error!(%cause, "a batch was lost on its way up; all that waits is sent again");
}
