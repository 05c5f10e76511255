//! How events are found: index keys, the choice of an index, and the merge that answers filters.
//!
//! Both stores, the relay's on LMDB and the canister's in stable memory, keep the same five sets of
//! small fixed-size keys ([`Index`]). A key is a prefix (whose events?) and an order (which of them
//! first?), and the order is NIP-01's: newest first, ties by lowest id. So every question becomes a
//! few ascending walks, one for each prefix, merged by their order ([`Scan`]).
//!
//! Prefixes and ids are cut to a few bytes, because a store pays for every byte of every entry for
//! ever. What a cut prefix lets through by accident, the [`Matcher`] settles on the event itself;
//! events whose order is equal as far as the key goes are put in order by their whole id.

mod cursor;
mod keys;
mod matcher;
mod merge;
mod plan;
mod scan;

pub use cursor::Cursor;
pub use keys::{
    CREATED_AT_MAX, Index, KEY_BYTES_MAX, Key, Order, Seq, address_digest, date_of, keys_of,
    reversed_date, seq_of, tombstone,
};
pub use matcher::Matcher;
use plan::Plan;
pub use scan::{Found, Position, Reader, Scan, Shows, Source, Take, WORK_BYTES};
