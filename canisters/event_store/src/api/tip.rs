//! `tip`, and the proof that a page of `changes` comes with.

use interface::{ByteBuf, RangeProof, Tip};

use crate::{runtime, state::State};

/// How long the log is, and its root. It names no event, so anybody may ask.
pub fn tip(state: &State) -> Tip {
    let head = state.proofs.head();
    Tip {
        length: head.length,
        root: ByteBuf::from(head.root),
        certificate: runtime::data_certificate().map(ByteBuf::from),
        witness: witness(state),
    }
}

/// What proves the entries from `first` up to `next`. None in an update: its whole reply is certified.
pub fn prove(state: &State, first: u64, next: u64) -> Option<RangeProof> {
    let certificate = ByteBuf::from(runtime::data_certificate()?);
    let nodes = state.proofs.complete(first, next).into_iter().map(ByteBuf::from).collect();
    Some(RangeProof { certificate, witness: witness(state), nodes })
}

fn witness(state: &State) -> ByteBuf {
    ByteBuf::from(feed::certified::write(&state.proofs.head().tree()))
}
