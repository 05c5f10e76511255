//! L1: a relay's own store of events, on LMDB.
//!
//! One [`Writer`] thread drains its queue into one transaction: events, index keys, outbox rows and
//! the place reached in L2's log, all or nothing. Then comes one fsync, and only then the answers
//! (group commit; there is no timer, so an idle store answers after one fsync). Each stored event
//! gets a [`Seq`]. Everything else reads, through [`Store`], and asks for what came after some `Seq`:
//! streamers, the outbox, a restarted relay. So no part has to tell another about a new event.
//!
//! A read opens a transaction and closes it before it returns; between two pages of a scan a client
//! holds a key. A slow reader pins nothing.
//!
//! ## Invariants
//! * An event, its keys and its outbox row are written by one transaction, or none of them is.
//! * A `Seq` is given once: the next one is stored, and no removal or restart takes it back.
//! * Who follows [`Store::follow`] can read every event below the number it sees.
//! * An outbox row means: a client put this event, and L2 is not known to have heard of it. A row
//!   exists only beside its event, and it goes only when
//!   1. L2 has answered for it ([`Writer::settle`]), or
//!   2. the event itself came from L2 later, so L2 holds it, or
//!   3. another event superseded it, deleted it or made it vanish, and that one has a row of its own or came from L2.
//!      L2 would refuse the old event once it has the new one, and it has it or is going to be asked, or
//!   4. the event expired, and L2 would refuse it, or
//!   5. whoever runs the relay deleted the event ([`Writer::delete`]), or keeps it here alone ([`Writer::give_up`]), or
//!   6. there is no L2, and a collection took the event.
//! * What L2 refuses is not lost: its event stays here, and its row is kept aside with the reason.
//! * What came as [`Origin::Local`], or was given up, never goes up: a row in `local` says so, and goes only with the event
//!   or when L2 turns out to hold it all the same.
//! * An event that came from L2 never gets a row, so nothing echoes.
//! * What a peer brought ([`Origin::Peer`]) has a row in `tapped` instead, until L2's log brings it too, or it is adopted
//!   ([`Writer::adopt`]) because that takes too long. So two relays do not both send it up, and it is not lost with one.
//! * A body that only this store has, by an outbox row, aside, local or tapped, is never given up while there is an L2.
//! * An event lies in one of the trees `events`, `kept` and `stubs`, and in one only; while it lies in any, it has all
//!   its keys. So filters, counts, duplicates and the rules see a stub as they see its event.
//! * From [`Store::complete_since`] on nothing is missing but what the rules took out. Older events may
//!   have been given up with their stubs.
//! * An event that was read through stands beside a row in `quiet`: who follows the store is not told of it.
//! * A note in `covered` is true together with `Store::complete_since`: of its part, and in its range of dates, L2 has
//!   nothing that is not here or in what L2's log says from the cursor on.
//! * The file never grows beyond `Options::bytes_max`. While there is a collector, what is stored leaves it
//!   a reserve: even giving up takes pages.
//! * What has expired is not read any more, and goes with the next writes, some hundreds with each.
//! * After a commit failed, nothing is written any more: what lies on the disk is then unknown, and a
//!   second fsync may succeed without having written what the first could not. A want of room is no such
//!   failure: LMDB writes to free pages alone and names them last, so a commit that found no room has
//!   changed nothing, and the next one writes every page anew that it needs.
//! * The map grows while nobody reads, and a thread that reads does not begin a second read meanwhile.
//!
//! [`Store::verify`] checks on the disk what of this lies there.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! use store::{Options, Origin, Outcome, Seq, Store};
//!
//! let note = event::twin::Author::new(1).sign(1_700_000_000, 1, &[], "hello");
//! let (store, writer) = Store::open(folder.path(), Options::default())?;
//! let outcome = runtime.block_on(writer.put(note.clone(), Origin::Client))?;
//! assert_eq!(outcome, Outcome::Saved(Seq(0)));
//! assert!(store.contains(&note.id)?);
//! # Ok(()) }
//! ```

mod change;
mod collect;
mod collector;
mod coverage;
mod databases;
mod environment;
mod holds;
mod observer;
mod offline;
mod outbox;
mod past;
mod room;
mod served;
mod shared;
mod snapshot;
mod store;
mod unannounced;
mod usage;
mod verify;
mod writer;

pub use change::{Layer2Change, Origin, Outcome};
pub use collector::{CollectError, Collected, Collector, Headway, Occasion, Policy};
pub use coverage::Reach;
pub use holds::{Hold, Stub};
pub use index::Seq;
pub use observer::{Batch, Observer};
pub use offline::{Compacted, compact, destroy, is_store};
pub use outbox::{Aside, Millis, Rows, Settlement, Standing, Waiting};
pub use room::Pauses;
pub use shared::{ByHand, Entry, Shared};
pub use store::{Clock, IsOurs, OpenError, Options, ReadError, Stats, Store};
pub use unannounced::Mark;
pub use usage::Usage;
pub use verify::{Finding, Invariant};
pub use writer::{WriteError, Writer};
