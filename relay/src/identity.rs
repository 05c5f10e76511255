//! The relay's one secret key, and the two identities it gives: a nostr key (BIP-340) and an
//! Internet Computer principal (ECDSA on the same curve).
//!
//! One secret means one file to back up, and that whoever knows a relay's principal in the canister
//! can be shown the nostr key that belongs to it.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use bech32::{Bech32, Hrp};
use candid::Principal;
use event::{Event, EventId, Kind, PublicKey, Signature, Tag, Timestamp};
use ic_agent::{Identity as _, identity::Secp256k1Identity};
use secp256k1::{Keypair, Parity, SecretKey, XOnlyPublicKey, schnorr};

/// What stands before a point of the curve in a public key as the IC has it (DER of RFC 5480, uncompressed).
const DER_HEAD: [u8; 23] = [
    0x30, 0x56, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x0a, 0x03, 0x42, 0x00,
];

/// The key file's name in the data folder.
const FILE: &str = "relay.key";

/// Who this relay is.
#[derive(Clone)]
pub struct Identity {
    secret: [u8; 32],
    public_key: PublicKey,
    principal: Principal,
    file: PathBuf,
}

impl Identity {
    /// Reads the key in `folder`, or makes one there. The file is readable by its owner alone.
    pub fn open(folder: &Path) -> anyhow::Result<Identity> {
        let file = folder.join(FILE);
        let secret = match read_key(&file)? {
            Some(secret) => secret,
            None => make_key(folder, &file)?,
        };
        Identity::new(secret, file)
    }

    fn new(secret: [u8; 32], file: PathBuf) -> anyhow::Result<Identity> {
        let key = SecretKey::from_secret_bytes(secret).context("the key is not a valid secret")?;
        let (public_key, _) = Keypair::from_secret_key(&key).x_only_public_key();
        let agent = agent_identity(&secret)?;
        let principal = agent.sender().map_err(anyhow::Error::msg)?;
        Ok(Identity { secret, public_key: PublicKey(public_key.to_byte_array()), principal, file })
    }

    /// The key that clients and peers know the relay by.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Its NIP-19 spelling.
    pub fn npub(&self) -> String {
        let prefix = Hrp::parse("npub").expect("it is lower-case ASCII");
        bech32::encode::<Bech32>(prefix, &self.public_key.0).expect("32 bytes are short enough")
    }

    /// Who the relay is to the canister.
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// Where the secret lies.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// An event without content, signed with the nostr key.
    pub fn sign(&self, kind: Kind, tags: &[&[String]], created_at: Timestamp) -> Event {
        let mut event = Event {
            id: EventId([0; 32]),
            pubkey: self.public_key,
            created_at,
            kind,
            tags: tags.iter().map(|tag| Tag(tag.to_vec())).collect(),
            content: String::new(),
            sig: Signature([0; 64]),
        };
        event.id = event.computed_id();
        let key = SecretKey::from_secret_bytes(self.secret).expect("it was accepted before");
        let key = Keypair::from_secret_key(&key);
        event.sig = Signature(schnorr::sign_no_aux_rand(&event.id.0, &key).to_byte_array());
        event
    }

    /// What signs calls to the canister.
    pub fn agent_identity(&self) -> Secp256k1Identity {
        agent_identity(&self.secret).expect("the same key was accepted when this was made")
    }
}

/// Whether a principal and a nostr key are of one secret. A nostr key is one of two points (BIP-340), and
/// either of them may be the principal's.
pub fn is_one(principal: &Principal, key: &PublicKey) -> bool {
    let Ok(x) = XOnlyPublicKey::from_byte_array(key.0) else { return false };
    [Parity::Even, Parity::Odd].into_iter().any(|parity| {
        let point = x.public_key(parity).serialize_uncompressed();
        let der = [&DER_HEAD[..], &point].concat();
        *principal == Principal::self_authenticating(der)
    })
}

/// Reads a public key as people write it: in hex, or as npub1… (NIP-19).
pub fn key_of(text: &str) -> anyhow::Result<PublicKey> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let decoded = bech32::decode(text).ok().filter(|(prefix, _)| prefix.as_str() == "npub");
    let bytes = decoded.and_then(|(_, bytes)| bytes.try_into().ok());
    let key = bytes.with_context(|| format!("{text:?} is no public key, in hex or as npub1…"))?;
    Ok(PublicKey(key))
}

fn agent_identity(secret: &[u8; 32]) -> anyhow::Result<Secp256k1Identity> {
    let key = agent_k256::SecretKey::from_slice(secret).context("the key is not a valid secret")?;
    Ok(Secp256k1Identity::from_private_key(key))
}

fn read_key(file: &Path) -> anyhow::Result<Option<[u8; 32]>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let mode = fs::metadata(file)?.permissions().mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "{} can be read by others (mode {mode:o}): run chmod 600 on it, or make a new key",
        file.display()
    );
    let key: PublicKey = text
        .trim()
        .parse()
        .with_context(|| format!("{} does not hold 64 hex digits", file.display()))?;
    Ok(Some(key.0))
}

fn make_key(folder: &Path, file: &Path) -> anyhow::Result<[u8; 32]> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let secret = SecretKey::new(&mut rand::rng()).to_secret_bytes();
    // Written elsewhere first: a crash must leave either no key or a whole one.
    let unfinished = file.with_extension("key.new");
    let _ = fs::remove_file(&unfinished);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
    let mut written = written.with_context(|| format!("making {}", unfinished.display()))?;
    writeln!(written, "{}", PublicKey(secret))?;
    written.sync_all()?;
    fs::rename(&unfinished, file)?;
    File::open(folder)?.sync_all()?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let made = Identity::open(&folder.path().join("new")).unwrap();
        let read = Identity::open(&folder.path().join("new")).unwrap();
        assert_eq!(made.public_key(), read.public_key());
        assert_eq!(made.principal(), read.principal());
        assert_eq!(fs::metadata(made.file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(made.npub().starts_with("npub1"));
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::open(folder.path()).unwrap();
        fs::set_permissions(identity.file(), fs::Permissions::from_mode(0o644)).unwrap();
        let refusal = Identity::open(folder.path()).err().unwrap().to_string();
        assert!(refusal.contains("chmod 600"), "{refusal}");
        fs::set_permissions(identity.file(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(identity.file(), "not hex").unwrap();
        let refusal = Identity::open(folder.path()).err().unwrap().to_string();
        assert!(refusal.contains("64 hex digits"), "{refusal}");
    }

    #[test]
    fn a_principal_and_a_key_of_one_secret_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let identities: Vec<Identity> = (0..16)
            .map(|number| Identity::open(&folder.path().join(number.to_string())).unwrap())
            .collect();
        for (at, one) in identities.iter().enumerate() {
            for (other_at, other) in identities.iter().enumerate() {
                assert_eq!(is_one(&one.principal(), &other.public_key()), at == other_at);
            }
        }
    }

    #[test]
    fn what_it_signs_verifies() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::open(folder.path()).unwrap();
        let tag = ["relay".to_owned(), "wss://a".to_owned()];
        let event = identity.sign(Kind(22_242), &[&tag], Timestamp(7));
        assert_eq!(event.pubkey, identity.public_key());
        assert!(event::verify(event).is_ok());
    }

    #[test]
    fn npub_is_spelled_as_in_nip_19() {
        // The example of NIP-19.
        let key = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d";
        let identity = Identity {
            secret: [1; 32],
            public_key: key.parse().unwrap(),
            principal: Principal::anonymous(),
            file: PathBuf::new(),
        };
        let npub = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6";
        assert_eq!(identity.npub(), npub);
    }
}
