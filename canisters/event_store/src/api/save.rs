//! `save_events`: each event is read, verified, judged and stored, or there is a reason why not.

use event::{
    Event, Packed, Timestamp, Verified, packed,
    rules::{Effects, Verdict, judge},
    verify,
};
use index::{CREATED_AT_MAX, Seq};
use interface::{EventBytes, SAVE_EVENTS_MAX, SaveCost, SaveOutcome};

use crate::{config::Limits, room::is_time_to_save, runtime, state::State};

const REASON_BYTES_MAX: usize = 200;

pub fn save_events(state: &mut State, events: &[EventBytes]) -> Vec<SaveOutcome> {
    let events = &events[..events.len().min(SAVE_EVENTS_MAX)];
    if !state.caller_may_write() {
        return vec![SaveOutcome::Refused("the caller is no relay".into()); events.len()];
    }
    let mut saving = Saving::new(state);
    let outcomes = events.iter().map(|bytes| saving.save(bytes)).collect();
    saving.end();
    outcomes
}

/// One call's work.
struct Saving<'a> {
    state: &'a mut State,
    limits: Limits,
    now: u64,
    saved: u64,
    bytes: u64,
    cost: SaveCost,
    /// The instruction counter when the last part of the work was done.
    counted: u64,
}

impl Saving<'_> {
    fn new(state: &mut State) -> Saving<'_> {
        let limits = state.settings.limits();
        let now = runtime::now();
        Saving { state, limits, now, saved: 0, bytes: 0, cost: SaveCost::default(), counted: 0 }
    }

    fn save(&mut self, bytes: &[u8]) -> SaveOutcome {
        if !is_time_to_save() {
            return SaveOutcome::Refused("this call has done enough: send it again".into());
        }
        self.cost.events += 1;
        match self.store(bytes) {
            Ok(seq) => SaveOutcome::Saved(seq.0),
            Err(outcome) => outcome,
        }
    }

    /// Err: what became of it instead.
    fn store(&mut self, bytes: &[u8]) -> Result<Seq, SaveOutcome> {
        let event = decode(bytes, &self.limits, self.now);
        self.cost.decode += self.lap();
        let event = event?;
        // Before the costly check: a relay whose answer got lost sends all of its batch again.
        let held = self.state.events.find(&event.id);
        self.cost.index += self.lap();
        if let Some(Seq(seq)) = held {
            return Err(SaveOutcome::Duplicate(seq));
        }
        let event = verify(event).map_err(invalid);
        self.cost.verify += self.lap();
        let event = event?;
        let effects = self.judge(&event)?;
        self.remove(&effects)?;
        Ok(self.insert(&event, &effects))
    }

    fn judge(&self, event: &Verified) -> Result<Effects, SaveOutcome> {
        let Ok(verdict) = judge(&self.state.events, event, Timestamp(self.now));
        match verdict {
            Verdict::Save(effects) => Ok(effects),
            Verdict::Duplicate => {
                Err(SaveOutcome::Other("held, and not found a moment ago".into()))
            }
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
            self.state.events.remove(id, *why, self.now);
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
        self.saved += 1;
        self.bytes += bytes.len() as u64;
        seq
    }

    fn end(self) {
        self.state.members.credit(&runtime::caller(), self.saved, self.bytes);
        self.state.last_save = Some(self.cost);
    }

    /// Instructions since the last time. The first lap begins with the message, so it counts the
    /// decoding of all arguments.
    fn lap(&mut self) -> u64 {
        let counted = runtime::instructions();
        counted - std::mem::replace(&mut self.counted, counted)
    }
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
        return Err(invalid("created_at is too far in the future"));
    }
    Ok(event)
}

/// The reason, cut: it may quote what its sender wrote.
fn invalid(reason: impl ToString) -> SaveOutcome {
    let mut reason = reason.to_string();
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    SaveOutcome::Invalid(reason)
}
