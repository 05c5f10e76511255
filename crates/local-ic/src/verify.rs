//! Who sent a request: signatures, delegations, expiry.

use std::collections::BTreeSet;

use candid::Principal;
use ic_certification::{Certificate, HashTree, LookupResult};
use ic_transport_types::{DelegationPermissions, Envelope, EnvelopeContent, SignedDelegation};
use serde::Deserialize;
use sha2::{Digest, Sha256};

const NANOS: u64 = 1_000_000_000;
/// Requests may expire this far ahead, and clocks may differ by a little more.
const EXPIRY_NANOS_MAX: u64 = (5 * 60 + 60) * NANOS;
const DELEGATIONS_MAX: usize = 20;
const TARGETS_MAX: usize = 1000;
const BLS_KEY_BYTES: usize = 96;

/// The canisters that a signer may speak to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    All,
    /// What every delegation of the chain permits.
    Only(BTreeSet<Principal>),
}

impl Targets {
    pub fn contains(&self, canister: Principal) -> bool {
        match self {
            Targets::All => true,
            Targets::Only(canisters) => canisters.contains(&canister),
        }
    }

    fn restrict(&mut self, to: &[Principal]) {
        let to = to.iter().copied().filter(|canister| self.contains(*canister)).collect();
        *self = Targets::Only(to);
    }
}

/// Checks everything about an envelope that does not need the state, and tells what its signer may
/// speak to. Calls and queries have been checked against that; what a `read_state` reads has not.
pub fn verify(envelope: &Envelope<'_>, now: u64, root_key: &[u8]) -> Result<Targets, String> {
    let content = &*envelope.content;
    check_expiry(content.ingress_expiry(), now)?;
    let sender = *content.sender();
    if sender == Principal::anonymous() {
        let is_signed = envelope.sender_pubkey.is_some()
            || envelope.sender_sig.is_some()
            || envelope.sender_delegation.is_some();
        return match is_signed {
            true => Err("Anonymous sender with a public key, signature or delegation".to_owned()),
            false => Ok(Targets::All),
        };
    }
    let (Some(key), Some(signature)) = (&envelope.sender_pubkey, &envelope.sender_sig) else {
        return Err("Missing signature or public key of the sender".to_owned());
    };
    if Principal::self_authenticating(key) != sender {
        return Err(format!("Public key does not belong to sender {sender}"));
    }
    let chain = envelope.sender_delegation.as_deref().unwrap_or_default();
    let (signer, targets) = verify_chain(key, chain, content, now, root_key)?;
    check_targets(&targets, content)?;
    let message = content.to_request_id().signable();
    verify_signature(&signer, &message, signature, root_key)
        .map_err(|why| format!("Invalid signature: {why}"))?;
    Ok(targets)
}

fn check_expiry(expiry: u64, now: u64) -> Result<(), String> {
    if expiry > now && expiry - now <= EXPIRY_NANOS_MAX {
        return Ok(());
    }
    Err(format!(
        "Invalid request expiry: Specified ingress_expiry not within expected range: Minimum allowed expiry: {now}, Maximum allowed expiry: {}, Provided expiry: {expiry}",
        now + EXPIRY_NANOS_MAX
    ))
}

/// Follows the delegations from the sender's key to the key that signed, and what that may do.
fn verify_chain(
    key: &[u8],
    chain: &[SignedDelegation],
    content: &EnvelopeContent,
    now: u64,
    root_key: &[u8],
) -> Result<(Vec<u8>, Targets), String> {
    if chain.len() > DELEGATIONS_MAX {
        return Err(format!("Chain of delegations is longer than {DELEGATIONS_MAX}"));
    }
    let (mut signer, mut targets) = (key.to_vec(), Targets::All);
    for SignedDelegation { delegation, signature } in chain {
        if delegation.expiration < now {
            return Err("Invalid delegation expiry: it has passed".to_owned());
        }
        if let Some(permitted) = &delegation.targets {
            if permitted.len() > TARGETS_MAX {
                return Err(format!("A delegation has more than {TARGETS_MAX} targets"));
            }
            targets.restrict(permitted);
        }
        let is_call = matches!(content, EnvelopeContent::Call { .. });
        if is_call && matches!(delegation.permissions, Some(DelegationPermissions::Queries)) {
            return Err("The delegation permits queries only".to_owned());
        }
        verify_signature(&signer, &delegation.signable(), signature, root_key)
            .map_err(|why| format!("Invalid delegation: {why}"))?;
        signer.clone_from(&delegation.pubkey);
    }
    Ok((signer, targets))
}

fn check_targets(targets: &Targets, content: &EnvelopeContent) -> Result<(), String> {
    match content {
        EnvelopeContent::Call { canister_id, .. } | EnvelopeContent::Query { canister_id, .. }
            if !targets.contains(*canister_id) =>
        {
            Err(format!("Canister {canister_id} is not one of the delegation targets"))
        }
        _ => Ok(()),
    }
}

/// Verifies with whatever kind of key the DER holds.
pub fn verify_signature(
    der: &[u8],
    message: &[u8],
    signature: &[u8],
    root_key: &[u8],
) -> Result<(), String> {
    let is_valid = if let Some(canister) = CanisterKey::parse(der) {
        return canister.verify(message, signature, root_key);
    } else if let Ok(key) = ic_ed25519::PublicKey::deserialize_rfc8410_der(der) {
        key.verify_signature(message, signature).is_ok()
    } else if let Ok(key) = ic_secp256k1::PublicKey::deserialize_der(der) {
        key.verify_ecdsa_signature(message, signature)
    } else if let Ok(key) = ic_secp256r1::PublicKey::deserialize_der(der) {
        key.verify_signature(message, signature)
    } else {
        return Err("unsupported public key".to_owned());
    };
    match is_valid {
        true => Ok(()),
        false => Err("signature does not verify".to_owned()),
    }
}

/// The public key of a canister signature: the signing canister and a seed of its choice.
struct CanisterKey<'a> {
    canister: Principal,
    seed: &'a [u8],
}

#[derive(Deserialize)]
struct CanisterSignature {
    certificate: serde_bytes::ByteBuf,
    tree: HashTree,
}

impl<'a> CanisterKey<'a> {
    fn parse(der: &'a [u8]) -> Option<CanisterKey<'a>> {
        const OID: &[u8] = b"\x30\x0c\x06\x0a\x2b\x06\x01\x04\x01\x83\xb8\x43\x01\x02";
        let body = der.get(der.get(1).map(|len| if *len < 0x80 { 2 } else { 3 })?..)?;
        let bits = body.strip_prefix(OID)?;
        let skipped = if *bits.get(1)? < 0x80 { 3 } else { 4 }; // Tag, length, unused bits.
        let raw = bits.get(skipped..)?;
        let (len, rest) = raw.split_first()?;
        let (canister, seed) = rest.split_at_checked(*len as usize)?;
        let canister = Principal::try_from_slice(canister).ok()?;
        Some(CanisterKey { canister, seed })
    }

    fn verify(&self, message: &[u8], signature: &[u8], root_key: &[u8]) -> Result<(), String> {
        let malformed = |e: serde_cbor::Error| format!("malformed canister signature: {e}");
        let signature: CanisterSignature = serde_cbor::from_slice(signature).map_err(malformed)?;
        let certificate: Certificate =
            serde_cbor::from_slice(&signature.certificate).map_err(malformed)?;
        verify_certificate(&certificate, self.canister, root_key)?;
        let path = [&b"canister"[..], self.canister.as_slice(), b"certified_data"];
        match certificate.tree.lookup_path(&path) {
            LookupResult::Found(data) if data == signature.tree.digest() => {}
            _ => return Err("the certificate is of other data".to_owned()),
        }
        let path = [&b"sig"[..], &Sha256::digest(self.seed), &Sha256::digest(message)];
        match signature.tree.lookup_path(&path) {
            LookupResult::Found([]) => Ok(()),
            _ => Err("the canister did not sign this message".to_owned()),
        }
    }
}

/// Whether a certificate speaks for a canister, under the given root key.
fn verify_certificate(
    certificate: &Certificate,
    canister: Principal,
    root_key: &[u8],
) -> Result<(), String> {
    let key = match &certificate.delegation {
        None => root_key.to_vec(),
        Some(delegation) => {
            let parent: Certificate = serde_cbor::from_slice(&delegation.certificate)
                .map_err(|e| format!("malformed delegation: {e}"))?;
            if parent.delegation.is_some() {
                return Err("a delegation of a delegation".to_owned());
            }
            verify_certificate(&parent, canister, root_key)?;
            delegated_key(&parent, &delegation.subnet_id, canister)?
        }
    };
    let message = [&b"\x0Dic-state-root"[..], &certificate.tree.digest()].concat();
    let raw = &key[key.len().saturating_sub(BLS_KEY_BYTES)..];
    ic_verify_bls_signature::verify_bls_signature(&certificate.signature, &message, raw)
        .map_err(|()| "the certificate's signature does not verify".to_owned())
}

fn delegated_key(
    parent: &Certificate,
    subnet: &[u8],
    canister: Principal,
) -> Result<Vec<u8>, String> {
    let found = |name: &[u8]| match parent.tree.lookup_path([b"subnet", subnet, name]) {
        LookupResult::Found(bytes) => Ok(bytes.to_vec()),
        _ => Err("the delegation lacks the subnet".to_owned()),
    };
    let ranges: Vec<(Principal, Principal)> =
        serde_cbor::from_slice(&found(b"canister_ranges")?)
            .map_err(|e| format!("malformed canister ranges: {e}"))?;
    if !ranges.iter().any(|(a, b)| *a <= canister && canister <= *b) {
        return Err("the subnet does not speak for the canister".to_owned());
    }
    found(b"public_key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    const NOW: u64 = 1_700_000_000 * NANOS;

    fn envelope(key: &ic_ed25519::PrivateKey, expiry: u64) -> Envelope<'static> {
        let der = key.public_key().serialize_rfc8410_der();
        let content = EnvelopeContent::Call {
            nonce: None,
            ingress_expiry: expiry,
            sender: Principal::self_authenticating(&der),
            canister_id: Principal::management_canister(),
            method_name: "m".to_owned(),
            arg: vec![],
            sender_info: None,
        };
        let signature = key.sign_message(&content.to_request_id().signable());
        Envelope {
            content: Cow::Owned(content),
            sender_pubkey: Some(der),
            sender_sig: Some(signature.to_vec()),
            sender_delegation: None,
        }
    }

    fn key(seed: &str) -> ic_ed25519::PrivateKey {
        ic_ed25519::PrivateKey::generate_from_seed(seed.as_bytes())
    }

    #[test]
    fn a_signed_request_passes_and_a_changed_one_does_not() {
        let mut signed = envelope(&key("alice"), NOW + 60 * NANOS);
        assert_eq!(verify(&signed, NOW, &[]), Ok(Targets::All));
        signed.sender_sig.as_mut().unwrap()[0] ^= 1;
        assert!(verify(&signed, NOW, &[]).unwrap_err().contains("Invalid signature"));
    }

    #[test]
    fn expiry_must_be_near_and_ahead() {
        for expiry in [NOW - 1, NOW, NOW + 7 * 60 * NANOS] {
            let refused = verify(&envelope(&key("alice"), expiry), NOW, &[]).unwrap_err();
            assert!(refused.contains("Invalid request expiry"), "{refused}");
        }
    }

    #[test]
    fn a_delegated_key_signs_for_its_delegator() {
        let (alice, session) = (key("alice"), key("session"));
        let mut signed = envelope(&alice, NOW + NANOS);
        let delegation = ic_transport_types::Delegation {
            pubkey: session.public_key().serialize_rfc8410_der(),
            expiration: NOW + NANOS,
            targets: None,
            permissions: None,
        };
        let signature = alice.sign_message(&delegation.signable()).to_vec();
        signed.sender_delegation = Some(vec![SignedDelegation { delegation, signature }]);
        let message = signed.content.to_request_id().signable();
        signed.sender_sig = Some(session.sign_message(&message).to_vec());
        assert_eq!(verify(&signed, NOW, &[]), Ok(Targets::All));
        assert!(verify(&signed, NOW + 2 * NANOS, &[]).is_err());
        let chain = signed.sender_delegation.as_mut().unwrap();
        chain[0].delegation.targets = Some(vec![Principal::anonymous()]);
        chain[0].signature = alice.sign_message(&chain[0].delegation.signable()).to_vec();
        assert!(verify(&signed, NOW, &[]).unwrap_err().contains("targets"));
    }

    #[test]
    fn a_chain_permits_what_all_its_delegations_permit() {
        let [a, b, c] = [1, 2, 3].map(|n| Principal::from_slice(&[n]));
        let mut targets = Targets::All;
        targets.restrict(&[a, b]);
        targets.restrict(&[b, c]);
        assert_eq!(targets, Targets::Only([b].into()));
        targets.restrict(&[]);
        assert!(!targets.contains(b));
    }

    #[test]
    fn ecdsa_keys_of_both_curves_verify() {
        let k1 = ic_secp256k1::PrivateKey::generate_from_seed(b"k1");
        let r1 = ic_secp256r1::PrivateKey::generate_insecure_key_for_testing(1);
        let (k1_der, r1_der) = (k1.public_key().serialize_der(), r1.public_key().serialize_der());
        let k1_signature = k1.sign_message_with_ecdsa(b"message");
        let r1_signature = r1.sign_message(b"message");
        assert_eq!(verify_signature(&k1_der, b"message", &k1_signature, &[]), Ok(()));
        assert_eq!(verify_signature(&r1_der, b"message", &r1_signature, &[]), Ok(()));
        assert!(verify_signature(&k1_der, b"other", &k1_signature, &[]).is_err());
        assert!(verify_signature(&r1_der, b"other", &r1_signature, &[]).is_err());
    }
}
