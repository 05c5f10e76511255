//! `save_events`: each event is read, verified, judged and stored, or there is a reason why not.

use event::{
    Event, Invalid, Packed, Timestamp, Verified, packed,
    rules::{Effects, Verdict, judge},
    verify, verify_all,
};
use index::{CREATED_AT_MAX, Seq};
use interface::{EventBytes, SAVE_EVENTS_MAX, SaveCost, SaveOutcome, TOO_FAR_AHEAD};

use super::cut;
use crate::{
    config::Limits, members::Account, reserve, room::is_time_to_save, runtime, state::State,
};

/// So many signatures are checked at once. Each becomes cheaper by it, down to about 300; and as long
/// as a batch takes, no other call is served and nobody looks at the time.
const BATCH_EVENTS_MAX: usize = 500;

pub fn save_events(state: &mut State, events: &[EventBytes]) -> Vec<SaveOutcome> {
    let events = &events[..events.len().min(SAVE_EVENTS_MAX)];
    if !state.caller_may_write() {
        return vec![SaveOutcome::Refused("the caller is no relay".into()); events.len()];
    }
    let outcomes = match reserve::prepare(state) {
        Some(reason) => {
            vec![SaveOutcome::Refused(format!("read-only: {reason}")); events.len()]
        }
        None => save_all(state, events),
    };
    state.metrics.count(&outcomes);
    outcomes
}

fn save_all(state: &mut State, events: &[EventBytes]) -> Vec<SaveOutcome> {
    let mut saving = Saving::new(state);
    saving.expire();
    let batches = events.chunks(BATCH_EVENTS_MAX);
    let outcomes = batches.flat_map(|batch| saving.save(batch)).collect();
    saving.end();
    outcomes
}

/// What is known of an event before its id and its signature are checked.
enum Arrived {
    /// It cannot be stored.
    Refused(SaveOutcome),
    /// Its id was held when its batch came.
    Held(Event),
    /// To be checked, together with the batch's other fresh ones.
    Fresh,
}

/// One call's work.
struct Saving<'a> {
    state: &'a mut State,
    limits: Limits,
    now: u64,
    /// Of the caller. An owner who is no member has none.
    account: Option<Account>,
    has_saved: bool,
    cost: SaveCost,
    /// The instruction counter when the last part of the work was done.
    counted: u64,
}

impl Saving<'_> {
    fn new(state: &mut State) -> Saving<'_> {
        let limits = state.settings.limits();
        let now = runtime::now();
        let account = state.members.account(&runtime::caller());
        let cost = SaveCost::default();
        Saving { state, limits, now, account, has_saved: false, cost, counted: 0 }
    }

    /// What has expired must not be in the way of what comes.
    fn expire(&mut self) {
        self.cost.decode += self.lap();
        self.state.events.expire(self.now, is_time_to_save);
        self.cost.index += self.lap();
    }

    fn save(&mut self, batch: &[EventBytes]) -> Vec<SaveOutcome> {
        let mut fresh = Vec::new();
        let mut read = |bytes: &EventBytes| self.read(bytes, &mut fresh);
        let arrived: Vec<Arrived> = batch.iter().map(&mut read).collect();
        let mut verified = verify_all(fresh).into_iter();
        self.cost.verify += self.lap();
        let outcome = |arrived| match arrived {
            Arrived::Refused(outcome) => outcome,
            Arrived::Fresh => self.store(verified.next().expect("each fresh one has a verdict")),
            Arrived::Held(event) => match self.state.events.not_leaving().find(&event.id) {
                Some(Seq(seq)) => SaveOutcome::Duplicate(seq),
                // An event before it in this batch has removed it.
                None => self.store(verify(event)),
            },
        };
        arrived.into_iter().map(outcome).collect()
    }

    /// Adds the event to the fresh ones, if it is one.
    fn read(&mut self, bytes: &[u8], fresh: &mut Vec<Event>) -> Arrived {
        if !is_time_to_save() {
            return Arrived::Refused(out_of_time());
        }
        self.cost.events += 1;
        let event = decode(bytes, &self.limits, self.now);
        self.cost.decode += self.lap();
        let event = match event {
            Ok(event) => event,
            Err(outcome) => return Arrived::Refused(outcome),
        };
        // Before the costly check: a relay whose answer got lost sends all of its batch again.
        let is_held = self.state.events.not_leaving().find(&event.id).is_some();
        self.cost.index += self.lap();
        if is_held {
            return Arrived::Held(event);
        }
        if let Err(outcome) = self.check_quota() {
            return Arrived::Refused(outcome);
        }
        fresh.push(event);
        Arrived::Fresh
    }

    fn store(&mut self, event: Result<Verified, Invalid>) -> SaveOutcome {
        let saved = event.map_err(invalid).and_then(|event| {
            if !is_time_to_save() {
                return Err(out_of_time());
            }
            let effects = self.judge(&event)?;
            self.check_quota()?;
            self.remove(&effects)?;
            Ok(self.insert(&event, &effects))
        });
        saved.map_or_else(|outcome| outcome, |Seq(seq)| SaveOutcome::Saved(seq))
    }

    /// One event may go beyond a quota: how long it is packed is known only when it is stored.
    fn check_quota(&self) -> Result<(), SaveOutcome> {
        let account = self.account.as_ref();
        let reason = account.and_then(|account| account.used_up(&self.limits, self.now));
        reason.map_or(Ok(()), |reason| Err(SaveOutcome::Refused(reason)))
    }

    fn judge(&self, event: &Verified) -> Result<Effects, SaveOutcome> {
        let Ok(verdict) = judge(&*self.state, event, Timestamp(self.now));
        match verdict {
            Verdict::Save(effects) => Ok(effects),
            // It stands twice in this batch.
            Verdict::Duplicate => match self.state.events.find(&event.id) {
                Some(Seq(seq)) => Err(SaveOutcome::Duplicate(seq)),
                None => Err(SaveOutcome::Other("held, and not found".into())),
            },
            Verdict::Superseded => Err(SaveOutcome::Superseded),
            Verdict::Deleted => Err(SaveOutcome::Deleted),
            Verdict::Expired => Err(SaveOutcome::Expired),
            Verdict::Ephemeral => Err(SaveOutcome::Ephemeral),
        }
    }

    /// Removes what the event removes. Many large events can be too many for one call: then those
    /// that are gone are gone, as their author wants it, and the rest goes when the event is sent
    /// again.
    fn remove(&mut self, effects: &Effects) -> Result<(), SaveOutcome> {
        for (id, why) in &effects.remove {
            if !is_time_to_save() {
                return Err(SaveOutcome::Refused("deleted a part of it: send it again".into()));
            }
            self.state.events.remove(id, why.as_str(), self.now);
        }
        Ok(())
    }

    fn insert(&mut self, event: &Event, effects: &Effects) -> Seq {
        let bytes = event.pack();
        let packed = Packed::trusted(&bytes).expect("it was packed a line ago");
        self.cost.index += self.lap();
        let seq = self.state.events.append(&packed, self.now);
        self.cost.log += self.lap();
        self.state.events.index(seq, &packed, event, effects);
        self.cost.index += self.lap();
        self.has_saved = true;
        if let Some(account) = &mut self.account {
            account.add(bytes.len() as u64, self.now);
        }
        seq
    }

    fn end(self) {
        if let Some(account) = self.account {
            self.state.members.settle(account);
        }
        let metrics = &mut self.state.metrics;
        metrics.last_save = Some(self.cost);
        if self.has_saved {
            metrics.last_saved_at = Some(self.now);
        }
        metrics.save_instructions_most =
            metrics.save_instructions_most.max(runtime::instructions());
    }

    /// Instructions since the last time. The first lap begins with the message, so it counts the
    /// decoding of all arguments.
    fn lap(&mut self) -> u64 {
        let counted = runtime::instructions();
        counted - std::mem::replace(&mut self.counted, counted)
    }
}

fn out_of_time() -> SaveOutcome {
    SaveOutcome::Refused("this call has done enough: send it again".into())
}

/// The event that these bytes are, within all limits.
fn decode(bytes: &[u8], limits: &Limits, now: u64) -> Result<Event, SaveOutcome> {
    if bytes.len() > limits.event_bytes_max as usize {
        return Err(SaveOutcome::TooLarge(limits.event_bytes_max.into()));
    }
    let event = match bytes.first() {
        Some(b'{') => Event::from_json(bytes).map_err(invalid)?,
        Some(&packed::VERSION) => Packed::parse(bytes).map_err(invalid)?.unpack(),
        _ => return Err(invalid("neither JSON nor a packed event")),
    };
    if event.tags.len() > limits.tags_max as usize {
        return Err(invalid(format!("more than {} tags", limits.tags_max)));
    }
    let latest = now.saturating_add(limits.future_seconds_max).min(CREATED_AT_MAX.0);
    if event.created_at.0 > latest {
        return Err(invalid(TOO_FAR_AHEAD));
    }
    Ok(event)
}

/// The reason, cut: it may quote what its sender wrote.
fn invalid(reason: impl ToString) -> SaveOutcome {
    SaveOutcome::Invalid(cut(&reason.to_string()).into())
}
