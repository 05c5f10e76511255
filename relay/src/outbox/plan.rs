//! What goes up when, and what becomes of a batch that fails.
//!
//! The plan knows neither L1 nor L2, only the places of events. A failed batch is held back, whole, and
//! sent again after a pause; meanwhile others go on. If others get through where it does not, it is cut
//! in two, until an event is alone with its fault. That one is sent apart, seldom and more seldom, and
//! is poison only if L2 *failed at it* again and again and took others each time in between: an L2 that
//! is away, stopped or not reachable never makes an event poison, however long that lasts, and neither
//! does one that fails at everything.

use std::{collections::BTreeSet, time::Duration};

use layer2::Layer2Error;
use store::Seq;
use tokio::time::Instant;

use crate::backoff::{BACKOFF_MAX, BACKOFF_MIN, pause};

/// How long a batch is let gather beside one that is under way. Most answers come sooner.
const GATHER_MAX: Duration = Duration::from_secs(2);
/// Into so many parts batches are cut while nothing shows that L2 takes anything at all.
const PARTS_MAX: usize = 16;
/// So many events may be under suspicion before they count as batches that fail.
const SUSPECTS_MAX: usize = 16;
/// How often L2 fails at an event alone, and takes others, before the event is poison.
const STRIKES: u32 = 5;
/// The longest pause between two attempts at an event that L2 fails at.
const SUSPECT_PAUSE_MAX: Duration = Duration::from_secs(600);
/// Pauses between two attempts at events that L2 takes later. How far ahead of its own clock it lets
/// them be it does not say.
const EARLY_PAUSE_MIN: Duration = Duration::from_secs(2);
const EARLY_PAUSE_MAX: Duration = Duration::from_secs(900);
/// Events that are ahead of L2's clock. More only come if this machine's clock is wrong.
const EARLY_EVENTS_MAX: usize = 20_000;
/// When nothing has got through for so long, everything is read and cut anew: what stands in the way
/// may have been put together badly, and may be gone.
const START_OVER: Duration = Duration::from_secs(300);

/// Events that go up together.
#[derive(Debug)]
pub struct Batch {
    pub seqs: Vec<Seq>,
    track: Track,
    failures: u32,
    strikes: u32,
    /// How many batches L2 had taken when this one was made, or failed last.
    taken: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Track {
    Main,
    /// L2 takes it when its time has come.
    Early,
    /// One event, which L2 fails at.
    Suspect,
}

/// How a batch came back.
#[derive(Debug)]
pub enum Ended {
    /// L2 answered. So many are settled; some are to be sent again, `early` ones when it is time.
    Answered {
        taken: usize,
        early: Vec<Seq>,
        later: Vec<Seq>,
    },
    Failed(Layer2Error),
    /// L1 could not be read, or not note the answer.
    NotNoted,
}

/// An event that L2 will not take, though it takes others.
#[derive(Debug, PartialEq, Eq)]
pub struct Poison {
    pub seq: Seq,
    pub reason: String,
}

/// Whether a batch of what has gathered may start.
#[derive(Debug, PartialEq, Eq)]
pub enum Fresh {
    Now,
    At(Instant),
    No,
}

pub struct Plan {
    batches_max: usize,
    events_max: usize,
    /// What is under way or held back: it is not sent twice.
    spared: BTreeSet<Seq>,
    /// Batches under way, on the main track and beside it.
    main: usize,
    beside: usize,
    held: Vec<(Instant, Batch)>,
    /// When what had gathered was sent last.
    started: Instant,
    /// Batches that L2 took anything of.
    taken: u64,
    got_through: Instant,
    failures: u32,
}

impl Plan {
    pub fn new(batches_max: usize, events_max: usize, now: Instant) -> Plan {
        Plan {
            batches_max,
            events_max,
            spared: BTreeSet::new(),
            main: 0,
            beside: 0,
            held: Vec::new(),
            started: now,
            taken: 0,
            got_through: now,
            failures: 0,
        }
    }

    /// What is not to be read again for a fresh batch.
    pub fn spared(&self) -> &BTreeSet<Seq> {
        &self.spared
    }

    /// Failures since L2 last took anything.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether nothing is under way or held back.
    pub fn is_idle(&self) -> bool {
        self.main + self.beside + self.held.len() == 0
    }

    /// Whether a batch of what has gathered may start, of `rows` in the outbox altogether. With none
    /// under way it starts with the first event; beside others it had better be full.
    pub fn fresh(&self, rows: u64, now: Instant) -> Fresh {
        let early = self.of(Track::Early).map(|batch| batch.seqs.len()).sum::<usize>();
        if self.has_no_room() || early > EARLY_EVENTS_MAX {
            return Fresh::No;
        }
        let gathered = rows.saturating_sub(self.spared.len() as u64);
        if self.main == 0 || gathered >= self.events_max as u64 || now >= self.started + GATHER_MAX
        {
            return Fresh::Now;
        }
        Fresh::At(self.started + GATHER_MAX)
    }

    pub fn start(&mut self, seqs: Vec<Seq>, now: Instant) -> Batch {
        self.spared.extend(&seqs);
        self.main += 1;
        self.started = now;
        Batch { seqs, track: Track::Main, failures: 0, strikes: 0, taken: self.taken }
    }

    /// A batch that was held back until now.
    pub fn next_held(&mut self, now: Instant) -> Option<Batch> {
        let at = self.held.iter().position(|(due, batch)| *due <= now && self.has_way(batch))?;
        let (_, batch) = self.held.swap_remove(at);
        *self.under_way(batch.track) += 1;
        Some(batch)
    }

    /// When the next of those held back is due.
    pub fn wake_at(&self) -> Option<Instant> {
        let due = self.held.iter().filter(|(_, batch)| self.has_way(batch)).map(|(due, _)| *due);
        due.min()
    }

    /// Starts over if nothing has got through for long and nothing new can be tried.
    pub fn tend(&mut self, now: Instant) {
        if self.has_no_room() && self.main == 0 && now >= self.got_through + START_OVER {
            self.got_through = now;
            for (_, batch) in std::mem::take(&mut self.held) {
                self.release(&batch.seqs);
            }
        }
    }

    /// Decides what becomes of a batch that came back.
    pub fn ended(&mut self, batch: Batch, ended: Ended, now: Instant) -> Option<Poison> {
        let under_way = self.under_way(batch.track);
        *under_way = under_way.saturating_sub(1);
        self.release(&batch.seqs);
        match ended {
            Ended::Answered { taken, early, later } => {
                self.answered(&batch, taken, early, later, now);
                None
            }
            Ended::Failed(cause) => {
                self.failures = self.failures.saturating_add(1);
                self.failed(batch, &cause, now)
            }
            Ended::NotNoted => {
                self.hold_back(batch, now);
                None
            }
        }
    }

    fn answered(
        &mut self,
        batch: &Batch,
        taken: usize,
        early: Vec<Seq>,
        later: Vec<Seq>,
        now: Instant,
    ) {
        if taken > 0 {
            self.taken += 1;
            self.failures = 0;
            self.got_through = now;
            // L2 is there: what waits for that need not wait longer.
            let main = self.held.iter_mut().filter(|(_, batch)| batch.track == Track::Main);
            main.for_each(|(due, _)| *due = now);
        }
        if !early.is_empty() {
            self.hold_early(batch, early, now);
        }
        if !later.is_empty() {
            // It had enough for one call, or enough altogether: the next call tells.
            let failures = if taken > 0 { 0 } else { batch.failures };
            let batch = Batch { failures, ..self.part(later, batch) };
            if taken > 0 { self.hold(batch, now) } else { self.hold_back(batch, now) }
        }
    }

    fn hold_early(&mut self, batch: &Batch, early: Vec<Seq>, now: Instant) {
        let room = self.events_max.saturating_sub(early.len());
        let other = self.held.iter_mut().find(|(_, other)| {
            other.track == Track::Early && other.seqs.len() <= room && batch.track != Track::Early
        });
        if let Some((_, other)) = other {
            other.seqs.extend(&early);
            self.spared.extend(&early);
            return;
        }
        let failures = if batch.track == Track::Early { batch.failures } else { 0 };
        let early = Batch { track: Track::Early, failures, ..self.part(early, batch) };
        self.hold_back(early, now);
    }

    fn failed(&mut self, mut batch: Batch, cause: &Layer2Error, now: Instant) -> Option<Poison> {
        let is_alone = batch.seqs.len() == 1;
        let do_others_pass = self.taken > batch.taken;
        batch.taken = self.taken;
        match cause {
            Layer2Error::TooLarge(_) if is_alone => return Some(poison(&batch, cause)),
            Layer2Error::TooLarge(_) => self.cut(batch, now),
            Layer2Error::Refused(_) => self.hold_back(batch, now),
            Layer2Error::Failed(_) | Layer2Error::Interface(_) if is_alone => {
                batch.track = Track::Suspect;
                batch.strikes += u32::from(do_others_pass);
                if batch.strikes >= STRIKES {
                    return Some(poison(&batch, cause));
                }
                self.hold_back(batch, now);
            }
            Layer2Error::Failed(_) | Layer2Error::Interface(_) => {
                if do_others_pass || self.held.len() < PARTS_MAX {
                    self.cut(batch, now);
                } else {
                    self.hold_back(batch, now);
                }
            }
            // It may be chance that it was this one.
            _ if !do_others_pass || batch.failures == 0 => self.hold_back(batch, now),
            _ if is_alone => {
                batch.track = Track::Suspect;
                self.hold_back(batch, now);
            }
            _ => self.cut(batch, now),
        }
        None
    }

    /// Sends the halves, one by one.
    fn cut(&mut self, mut batch: Batch, now: Instant) {
        let second = batch.seqs.split_off(batch.seqs.len() / 2);
        let second = self.part(second, &batch);
        self.hold(Batch { track: Track::Main, ..batch }, now);
        self.hold(second, now);
    }

    /// Some events of a batch, with its past.
    fn part(&self, seqs: Vec<Seq>, of: &Batch) -> Batch {
        let Batch { failures, taken, .. } = *of;
        Batch { seqs, track: Track::Main, failures, strikes: 0, taken }
    }

    /// Holds a batch back for a pause that grows.
    fn hold_back(&mut self, mut batch: Batch, now: Instant) {
        batch.failures = batch.failures.saturating_add(1);
        let (first, longest) = match batch.track {
            Track::Main => (BACKOFF_MIN, BACKOFF_MAX),
            Track::Suspect => (BACKOFF_MIN, SUSPECT_PAUSE_MAX),
            Track::Early => (EARLY_PAUSE_MIN, EARLY_PAUSE_MAX),
        };
        let due = now + pause(first, longest, batch.failures);
        self.hold(batch, due);
    }

    fn hold(&mut self, batch: Batch, due: Instant) {
        self.spared.extend(&batch.seqs);
        self.held.push((due, batch));
    }

    fn release(&mut self, seqs: &[Seq]) {
        for seq in seqs {
            self.spared.remove(seq);
        }
    }

    /// Whether batches that are under way or fail leave no room for another.
    fn has_no_room(&self) -> bool {
        let suspects = self.of(Track::Suspect).count().saturating_sub(SUSPECTS_MAX);
        self.main + self.of(Track::Main).count() + suspects >= self.batches_max
    }

    /// What goes beside the main track goes one at a time, so that it is in nobody's way.
    fn has_way(&self, batch: &Batch) -> bool {
        match batch.track {
            Track::Main => self.main < self.batches_max,
            Track::Early | Track::Suspect => self.beside == 0,
        }
    }

    fn under_way(&mut self, track: Track) -> &mut usize {
        match track {
            Track::Main => &mut self.main,
            Track::Early | Track::Suspect => &mut self.beside,
        }
    }

    fn of(&self, track: Track) -> impl Iterator<Item = &Batch> {
        self.held.iter().map(|(_, batch)| batch).filter(move |batch| batch.track == track)
    }
}

fn poison(batch: &Batch, cause: &Layer2Error) -> Poison {
    Poison { seq: batch.seqs[0], reason: format!("L2 fails at it: {cause}") }
}

#[cfg(test)]
mod tests;
