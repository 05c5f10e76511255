//! How an operator's commands reach a store: `aquifer db` asks, and whoever has the store open carries
//! it out.
//!
//! A relay that runs has its store for itself, so it listens on a socket in its data folder. If no
//! relay runs, the command opens the store and holds the very same conversation with itself, over a
//! pipe: each request is carried out by one piece of code ([`execute`]), wherever that runs.
//!
//! A conversation is one request. Both sides speak JSON lines: the relay greets with its version, the
//! client asks, and replies follow until `done` or `failed`. The lines of a file to be imported come
//! behind the request.

mod client;
mod collect;
mod conversation;
mod desk;
mod execute;
mod export;
mod import;
mod matching;
mod messages;
mod protocol;
mod replies;
mod socket;

pub use self::{
    client::{Answers, Place, Purpose},
    protocol::{
        Checked, Counted, Figures, Freed, MessageTotal, MessagesOf, Outbox, ReceiverUsage, Refused,
        RemovedMessages, Reply, Request, Which,
    },
};
pub(crate) use self::{desk::Desk, socket::Control};
