//! What an engine that checks signatures is asked.

use crate::{EventId, PublicKey, Signature};

/// That `pubkey` signed `id` with `sig`.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    pub pubkey: &'a PublicKey,
    pub id: &'a EventId,
    pub sig: &'a Signature,
}
