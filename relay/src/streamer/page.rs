//! What is read of an answer at a time: as many events as a slow client may have waiting for it.

use event::{EventId, Packed};
use index::{Found, Reader, Take};
use store::Seq;

use crate::{deliveries::Deliveries, message::Message, reads::Deadline, wire};

/// How much of a subscription's answer is read ahead of a slow client, in bytes of JSON.
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// The same in events.
const PAGE_EVENTS_MAX: usize = 512;

/// Looks whether there is another event.
pub struct Next {
    pub is_there: bool,
    pub deadline: Deadline,
}

impl Reader for Next {
    fn take(&mut self, _: Found<'_>) -> Take {
        self.is_there = true;
        Take::Last
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}

/// A page of events as JSON.
pub struct Page {
    pub events: Vec<Item>,
    bytes: usize,
    deadline: Deadline,
    deliveries: Deliveries,
}

/// One of them.
pub enum Item {
    /// What the delivery log tells of it, too.
    Whole(Seq, EventId, String, Option<Box<Message>>),
    Stub(Seq, EventId),
}

impl Item {
    pub fn seq(&self) -> Seq {
        let (Item::Whole(seq, ..) | Item::Stub(seq, _)) = self;
        *seq
    }

    pub fn id(&self) -> EventId {
        let (Item::Whole(_, id, ..) | Item::Stub(_, id)) = self;
        *id
    }
}

impl Page {
    pub fn new(deadline: Deadline, deliveries: Deliveries) -> Page {
        Page { events: Vec::new(), bytes: 0, deadline, deliveries }
    }

    pub fn push(&mut self, seq: Seq, event: &Packed<'_>) {
        if event.is_stub() {
            self.events.push(Item::Stub(seq, event.id()));
            return;
        }
        let json = wire::json_of(event);
        self.bytes += json.len();
        let message = self.deliveries.message(event).map(Box::new);
        self.events.push(Item::Whole(seq, event.id(), json, message));
    }

    pub fn is_full(&self) -> bool {
        self.events.len() >= PAGE_EVENTS_MAX || self.bytes >= PAGE_BYTES_MAX
    }
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        self.push(found.seq, &found.event());
        if self.is_full() { Take::Last } else { Take::More }
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}
