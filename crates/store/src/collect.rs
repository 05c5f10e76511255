//! What a collection does to single events, within the writer's transaction.
//!
//! Readers decide beforehand which events are worth looking at; what becomes of each is decided here,
//! on what the store holds at that moment.

use std::sync::Arc;

use event::{Kind, Packed, Timestamp};
use index::Seq;

use crate::{
    change::{Change, New, damaged},
    databases::{COMPLETE_SINCE, Databases, SPARES_ALL},
    served::{Arrivals, Minute},
};

type Result<T> = std::result::Result<T, heed::Error>;

/// A body that is longer has pages of its own.
const SHARED_PAGE_BYTES_MAX: usize = 2_000;

/// How much an event is missed if it goes: the lowest go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Profiles, contacts and the like: asked for more than any single event, so they go last.
    pub is_protected: bool,
    /// When it was last served.
    pub served: Minute,
}

/// What one collection goes by.
pub struct Terms {
    /// Events up to this rank lose their bodies.
    pub up_to: Rank,
    pub protected: Arc<[Kind]>,
    pub arrivals: Arrivals,
    /// Whether L2 holds what L1 gives up: then a stub stays, and what L2 has not got is spared.
    pub has_layer2: bool,
}

impl Terms {
    pub fn rank(&self, seq: Seq, served: Option<u32>, kind: Kind) -> Rank {
        let served = served.map_or_else(|| self.arrivals.minute_of(seq), Minute);
        Rank { is_protected: self.protected.contains(&kind), served }
    }
}

impl Change<'_> {
    /// Takes the body of the event at `seq`, if the terms say so; returns whether. What is to stay of
    /// those in the order of arrival moves to where holes are filled; a long body leaves no hole, so it
    /// stays there.
    pub fn collect(&mut self, seq: Seq, terms: &Terms) -> Result<bool> {
        let Databases { events, kept, stubs, numbers, .. } = self.databases;
        if terms.has_layer2 && numbers.get(&self.txn, SPARES_ALL)?.is_some() {
            return Ok(false);
        }
        let recent = events.get(&self.txn, &seq.0)?;
        let Some(bytes) = recent.or(kept.get(&self.txn, &seq.0)?) else { return Ok(false) };
        let (is_recent, event) = (recent.is_some(), Packed::trusted(bytes).map_err(damaged)?);
        let served = self.databases.served.get(&self.txn, &seq.0)?;
        let stays = terms.rank(seq, served, event.kind()) > terms.up_to
            || terms.has_layer2 && self.is_only_here(seq)?;
        if stays {
            if is_recent && bytes.len() <= SHARED_PAGE_BYTES_MAX {
                let bytes = bytes.to_vec();
                events.delete(&mut self.txn, &seq.0)?;
                kept.put(&mut self.txn, &seq.0, &bytes)?;
            }
            return Ok(false);
        }
        // Below that date the index is not complete any more, and a stub more would not mend it.
        if terms.has_layer2 && event.created_at() >= self.complete_since()? {
            let stub = event.to_stub();
            self.take_body(seq)?;
            stubs.put(&mut self.txn, &seq.0, &stub)?;
        } else {
            let bytes = bytes.to_vec();
            self.uncover(&Packed::trusted(&bytes).map_err(damaged)?)?;
            self.remove(seq)?;
        }
        Ok(true)
    }

    /// Removes what is left of an event, if no more than a stub is; returns whether.
    pub fn prune(&mut self, seq: Seq) -> Result<bool> {
        let Some(stub) = self.databases.stubs.get(&self.txn, &seq.0)? else { return Ok(false) };
        let stub = stub.to_vec();
        let stub = Packed::trusted(&stub).map_err(damaged)?;
        let date = stub.created_at();
        self.uncover(&stub)?;
        self.remove(seq)?;
        self.raise_floor(date)?;
        Ok(true)
    }

    /// Stores the body of a stub again. An event that is held no more is passed over: it was deleted
    /// or replaced while its body was on its way.
    pub fn revive(&mut self, new: &New) -> Result<()> {
        let Databases { kept, stubs, .. } = self.databases;
        let Some(seq) = self.seq_of(&new.event.id)? else { return Ok(()) };
        if stubs.delete(&mut self.txn, &seq.0)? {
            kept.put(&mut self.txn, &seq.0, &new.packed)?;
            self.note_served(&[seq])?;
        }
        Ok(())
    }

    /// Forgets the minutes before the first event that they could be asked for.
    pub fn forget_arrivals(&mut self) -> Result<()> {
        let Databases { events, kept, arrivals, .. } = self.databases;
        let first = |row: Option<(u64, &[u8])>| row.map_or(u64::MAX, |(seq, _)| seq);
        let oldest = first(events.first(&self.txn)?).min(first(kept.first(&self.txn)?));
        let mut over = Vec::new();
        for row in arrivals.iter(&self.txn)? {
            let (minute, first) = row?;
            if first > oldest {
                break;
            }
            over.push(minute);
        }
        // The last of them is the one in which the oldest came.
        over.pop();
        for minute in over {
            arrivals.delete(&mut self.txn, &minute)?;
        }
        Ok(())
    }

    pub(crate) fn complete_since(&self) -> Result<Timestamp> {
        let date = self.databases.numbers.get(&self.txn, COMPLETE_SINCE)?;
        Ok(Timestamp(date.unwrap_or(0)))
    }

    fn raise_floor(&mut self, pruned: Timestamp) -> Result<()> {
        let floor = self.complete_since()?.0.max(pruned.0 + 1);
        self.set_number(COMPLETE_SINCE, floor)
    }
}
