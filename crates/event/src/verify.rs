//! The check that makes an event one: its id is the hash of what it says, and its author signed it.
//!
//! Machines use libsecp256k1, which is about twice as fast; wasm32 uses k256, which needs no C
//! compiler in the canister's build. [`check_signature`] is the one place where they meet.

use crate::{Event, EventId, PublicKey, Signature};

/// Why an event cannot be what its author published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("id is not the hash of the event")]
    Id,
    #[error("signature does not verify")]
    Signature,
}

/// An event whose id and signature hold. Only [`verify`] makes one, and stores take nothing else.
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
#[cfg(not(target_family = "wasm"))]
pub fn check_signature(pubkey: &PublicKey, id: &EventId, sig: &Signature) -> bool {
    use secp256k1::{XOnlyPublicKey, schnorr};
    XOnlyPublicKey::from_byte_array(pubkey.0).is_ok_and(|key| {
        schnorr::verify(&schnorr::Signature::from_byte_array(sig.0), &id.0, &key).is_ok()
    })
}

/// Whether `sig` is the BIP-340 signature of `pubkey` over `id`. A key that is no point of the curve
/// has signed nothing.
#[cfg(target_family = "wasm")]
pub fn check_signature(pubkey: &PublicKey, id: &EventId, sig: &Signature) -> bool {
    use k256::schnorr::{Signature as Schnorr, VerifyingKey};
    let (Ok(key), Ok(signature)) =
        (VerifyingKey::from_slice(&pubkey.0), Schnorr::try_from(&sig.0[..]))
    else {
        return false;
    };
    // Nostr signs the 32 bytes of the id themselves; `Verifier::verify` would hash them once more.
    key.verify_raw(&id.0, &signature).is_ok()
}
