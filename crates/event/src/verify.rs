//! The check that makes an event one: its id is the hash of what it says, and its author signed it.
//!
//! Machines use libsecp256k1, which is the fastest there; wasm32 uses k256, which needs no C compiler in
//! the canister's build, and checks many signatures at once (`schnorr.rs`).

#[cfg(target_family = "wasm")]
use crate::schnorr as engine;
use crate::{Event, EventId, PublicKey, Signature, claim::Claim};

/// Why an event cannot be what its author published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("id is not the hash of the event")]
    Id,
    #[error("signature does not verify")]
    Signature,
}

/// An event whose id and signature hold. Only [`verify`] and [`verify_all`] make
/// one, and stores take nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Event);

/// Checks id and signature (NIP-01, BIP-340).
pub fn verify(event: Event) -> Result<Verified, Invalid> {
    if event.computed_id() != event.id {
        return Err(Invalid::Id);
    }
    if !check_signature(&event.pubkey, &event.id, &event.sig) {
        return Err(Invalid::Signature);
    }
    Ok(Verified(event))
}

/// [`verify`] for each event, in their order. On wasm32 this costs about a third of it.
pub fn verify_all(events: Vec<Event>) -> Vec<Result<Verified, Invalid>> {
    let has_its_id: Vec<bool> =
        events.iter().map(|event| event.computed_id() == event.id).collect();
    let signed = events.iter().zip(&has_its_id).filter(|(_, has_its_id)| **has_its_id);
    let signed: Vec<&Event> = signed.map(|(event, _)| event).collect();
    let mut is_signed = are_signed(&signed).into_iter();
    let verdict = |(event, has_its_id)| match has_its_id {
        false => Err(Invalid::Id),
        true if is_signed.next() == Some(true) => Ok(Verified(event)),
        true => Err(Invalid::Signature),
    };
    events.into_iter().zip(has_its_id).map(verdict).collect()
}

impl Verified {
    pub fn into_inner(self) -> Event {
        self.0
    }
}

impl std::ops::Deref for Verified {
    type Target = Event;
    fn deref(&self) -> &Event {
        &self.0
    }
}

/// Whether `sig` is the BIP-340 signature of `pubkey` over `id`. A key that is no point of the curve
/// has signed nothing.
pub fn check_signature(pubkey: &PublicKey, id: &EventId, sig: &Signature) -> bool {
    engine::check(Claim { pubkey, id, sig })
}

fn are_signed(events: &[&Event]) -> Vec<bool> {
    let claims =
        events.iter().map(|event| Claim { pubkey: &event.pubkey, id: &event.id, sig: &event.sig });
    engine::check_all(&claims.collect::<Vec<_>>())
}

#[cfg(not(target_family = "wasm"))]
mod engine {
    use secp256k1::{XOnlyPublicKey, schnorr};

    use crate::claim::Claim;

    pub fn check(claim: Claim<'_>) -> bool {
        XOnlyPublicKey::from_byte_array(claim.pubkey.0).is_ok_and(|key| {
            let sig = schnorr::Signature::from_byte_array(claim.sig.0);
            schnorr::verify(&sig, &claim.id.0, &key).is_ok()
        })
    }

    pub fn check_all(claims: &[Claim<'_>]) -> Vec<bool> {
        claims.iter().map(|claim| check(*claim)).collect()
    }
}
