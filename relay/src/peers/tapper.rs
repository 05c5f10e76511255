//! The tapper: sums up what the streamers demand, and sees to it that each peer has a tap that asks for
//! it, if anybody wants anything.
//!
//! A streamer leaves its demand here before it joins delta, and takes it back after it has left delta.
//! Neither waits for anything: demands are counted under a lock, and what follows from them happens in
//! the tapper's own task, a moment later and once for all that changed meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use event::{Filter, PublicKey};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Member, Members,
    demand::{Demands, Piece, Plan, pieces_of},
    tap::PeerTap,
    taps::{TapState, TapStates},
};
use crate::{Relay, clock, metrics::Metrics, sight::Sight};

/// How long changes of what is demanded gather before peers hear of them.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How long taps stay open after the last demand.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Sums up demands, and taps peers for them.
pub struct Tapper {
    table: Mutex<Table>,
    changed: Notify,
    plan: watch::Sender<Arc<Plan>>,
    states: TapStates,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Table {
    next: u64,
    wanted: HashMap<u64, Wanted>,
    demands: Demands,
    /// Without peers nobody sums up anything.
    has_peers: bool,
}

impl Table {
    fn wanted_by(&self, is_meant: impl Fn(&Wanted) -> bool) -> Vec<(u64, Arc<[Filter]>, Sight)> {
        let meant = self.wanted.iter().filter(|(_, wanted)| self.has_peers && is_meant(wanted));
        let copy = |(number, wanted): (&u64, &Wanted)| {
            (*number, wanted.filters.clone(), wanted.sight.clone())
        };
        meant.map(copy).collect()
    }
}

/// What one subscription wants.
struct Wanted {
    filters: Arc<[Filter]>,
    sight: Sight,
    /// What it came to when it was added to the sum, each once.
    pieces: Vec<Piece>,
}

/// What these filters come to for one who sees this.
fn pieces(filters: &[Filter], sight: &Sight) -> Vec<Piece> {
    let all = pieces_of(filters, &sight.keys(), &sight.terms().guarded_kinds, clock::now());
    let mut pieces: Vec<Piece> = Vec::with_capacity(all.len());
    for piece in all {
        if !pieces.contains(&piece) {
            pieces.push(piece);
        }
    }
    pieces
}

/// A demand. Dropped, it is withdrawn.
pub struct Demand {
    tapper: Arc<Tapper>,
    number: u64,
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.tapper.withdraw(self.number);
    }
}

impl Tapper {
    pub fn new(metrics: Arc<Metrics>) -> Tapper {
        Tapper {
            table: Mutex::default(),
            changed: Notify::new(),
            plan: watch::Sender::default(),
            states: TapStates::default(),
            metrics,
        }
    }

    /// How the taps stand that are to be open.
    pub fn taps(&self) -> Vec<TapState> {
        self.states.all()
    }

    /// Somebody wants what matches these filters, as long as it keeps the answer.
    pub fn demand(self: &Arc<Self>, filters: &[Filter], sight: &Sight) -> Demand {
        // Long filters take their time: nobody waits for that.
        let (had_peers, keys) = (self.lock().has_peers, sight.keys());
        let found = if had_peers { pieces(filters, sight) } else { Vec::new() };
        let mut wanted =
            Wanted { filters: filters.into(), sight: sight.clone(), pieces: Vec::new() };
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        if table.has_peers {
            // A key that was shown meanwhile found nothing to look at again.
            let is_true = had_peers && keys == sight.keys();
            let found = if is_true { found } else { pieces(filters, sight) };
            wanted.turn_to(found, &mut table.demands);
            self.changed.notify_one();
        }
        table.wanted.insert(number, wanted);
        self.metrics.demands.set(table.wanted.len() as i64);
        Demand { tapper: self.clone(), number }
    }

    fn withdraw(&self, number: u64) {
        let mut table = self.lock();
        let Some(wanted) = table.wanted.remove(&number) else { return };
        table.demands.remove(&wanted.pieces);
        self.metrics.demands.set(table.wanted.len() as i64);
        if table.has_peers {
            self.changed.notify_one();
        }
    }

    /// One who sees has shown another key: more may be for it.
    pub fn look_again(&self, sight: &Sight) {
        let is_theirs = |wanted: &Wanted| wanted.sight.is_same(sight);
        let theirs = self.lock().wanted_by(is_theirs);
        self.add(theirs);
    }

    /// Adds what these want, one by one: others come in between.
    fn add(&self, all: Vec<(u64, Arc<[Filter]>, Sight)>) {
        for (number, filters, sight) in all {
            let found = pieces(&filters, &sight);
            let mut table = self.lock();
            let Table { wanted, demands, has_peers, .. } = &mut *table;
            if let (Some(wanted), true) = (wanted.get_mut(&number), *has_peers) {
                wanted.turn_to(found, demands);
            }
        }
        self.changed.notify_one();
    }

    /// Whether there is anybody to ask.
    fn set_has_peers(&self, has_peers: bool) {
        let mut table = self.lock();
        if table.has_peers == has_peers {
            return;
        }
        table.has_peers = has_peers;
        if !has_peers {
            table.wanted.values_mut().for_each(|wanted| wanted.pieces.clear());
            table.demands.clear();
        }
        let all = table.wanted_by(|_| has_peers);
        drop(table);
        self.add(all);
    }

    /// Keeps taps open, until `stop`; they have ended when it returns.
    pub async fn run(
        self: Arc<Self>,
        relay: Arc<Relay>,
        mut members: watch::Receiver<Members>,
        stop: CancellationToken,
    ) {
        let states = self.states.clone();
        let mut taps =
            Taps { open: HashMap::new(), tasks: JoinSet::new(), states, relay, stop: stop.clone() };
        let mut idle_since: Option<Instant> = None;
        members.mark_changed();
        loop {
            let idle_until = idle_since.filter(|_| !taps.open.is_empty());
            let idle_until = idle_until.map(|since| since + IDLE_MAX);
            tokio::select! {
                () = stop.cancelled() => break,
                changed = members.changed() => if changed.is_err() { break },
                () = self.changed.notified() => sleep(DEBOUNCE).await,
                () = until(idle_until) => {}
            }
            let known = members.borrow_and_update().clone();
            self.set_has_peers(!known.is_empty());
            let plan = self.lock().demands.plan();
            self.metrics.demand_chunks.set(plan.len() as i64);
            idle_since = plan.is_empty().then(|| idle_since.unwrap_or_else(Instant::now));
            self.plan.send_replace(Arc::new(plan));
            let is_idle = idle_since.is_some_and(|since| since.elapsed() >= IDLE_MAX);
            // One that is open stays open for a while; nobody opens one for nothing.
            taps.keep(&known, is_idle, idle_since.is_none(), &self.plan);
        }
        taps.close().await;
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nobody panics holding it")
    }
}

impl Wanted {
    /// Adds to the sum what it comes to now, in place of what it came to before.
    fn turn_to(&mut self, pieces: Vec<Piece>, demands: &mut Demands) {
        let before = std::mem::take(&mut self.pieces);
        for piece in pieces.iter().filter(|piece| !before.contains(piece)) {
            demands.add(std::slice::from_ref(piece));
        }
        for piece in before.iter().filter(|piece| !pieces.contains(piece)) {
            demands.remove(std::slice::from_ref(piece));
        }
        self.pieces = pieces;
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The taps that are open, each with what ends it.
struct Taps {
    open: HashMap<PublicKey, (Member, CancellationToken)>,
    tasks: JoinSet<()>,
    states: TapStates,
    relay: Arc<Relay>,
    stop: CancellationToken,
}

impl Taps {
    /// Ends those of who is no peer any more, or all of them if they are idle, and opens what is missing if
    /// somebody wants something.
    fn keep(
        &mut self,
        members: &Members,
        is_idle: bool,
        is_wanted: bool,
        plan: &watch::Sender<Arc<Plan>>,
    ) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|key, (member, stop)| {
            let stays = !is_idle && members.get(key) == Some(member);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (key, member) in members.iter().filter(|_| is_wanted) {
            self.open.entry(*key).or_insert_with(|| {
                let (member, stop) = (member.clone(), self.stop.child_token());
                let (plan, relay) = (plan.subscribe(), self.relay.clone());
                let line = self.states.begin(member.clone());
                let tap = PeerTap { member: member.clone(), plan, line, relay };
                self.tasks.spawn(tap.run(stop.clone()));
                (member, stop)
            });
        }
    }

    async fn close(mut self) {
        self.open.values().for_each(|(_, stop)| stop.cancel());
        while self.tasks.join_next().await.is_some() {}
    }
}
