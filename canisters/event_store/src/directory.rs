//! The directory of the cluster: what relays say about themselves, so that they find each other. An
//! entry is good for as long as its relay repeats it; each relay has one.

use std::borrow::Cow;

use candid::Principal;
use ic_stable_structures::{StableBTreeMap, Storable, storable::Bound};
use interface::{RelayEntry, RelayInfo, pubkey_of};

use crate::memory::Memory;

const URL_BYTES_MAX: usize = 255;
const VERSION_BYTES_MAX: usize = 64;

pub struct Directory {
    entries: StableBTreeMap<Principal, Stored, Memory>,
    /// Of all entries, comparable: a request to vanish may name thousands.
    urls: Vec<String>,
}

/// As Candid, which carries its field names: entries of older versions can be read.
struct Stored(RelayEntry);

impl Directory {
    /// Panics if what is stored cannot be read.
    pub fn open(memory: Memory) -> Directory {
        let mut directory = Directory { entries: StableBTreeMap::init(memory), urls: Vec::new() };
        directory.note_urls();
        directory
    }

    fn note_urls(&mut self) {
        let entries = self.entries.iter();
        self.urls = entries.map(|entry| comparable(&entry.value().0.info.url)).collect();
    }

    /// Lists `who`, or hears of it again. Whoever has not been heard of for `ttl` seconds leaves.
    pub fn announce(
        &mut self,
        who: Principal,
        info: RelayInfo,
        now: u64,
        ttl: u64,
    ) -> Result<(), String> {
        check(&info)?;
        let entries = self.entries.iter().map(|entry| entry.value().0);
        let silent: Vec<Principal> =
            entries.filter(|entry| !is_heard(entry, now, ttl)).map(|entry| entry.who).collect();
        silent.iter().for_each(|who| drop(self.entries.remove(who)));
        let first_seen = self.entries.get(&who).map_or(now, |Stored(entry)| entry.first_seen);
        self.entries.insert(who, Stored(RelayEntry { who, info, first_seen, last_seen: now }));
        self.note_urls();
        Ok(())
    }

    pub fn forget(&mut self, who: &Principal) {
        self.entries.remove(who);
        self.note_urls();
    }

    /// Those heard of within `ttl` seconds.
    pub fn list(&self, now: u64, ttl: u64) -> Vec<RelayEntry> {
        let entries = self.entries.iter().map(|entry| entry.value().0);
        entries.filter(|entry| is_heard(entry, now, ttl)).collect()
    }

    /// Whether one of the relays is known by this URL.
    pub fn knows(&self, url: &str) -> bool {
        self.urls.contains(&comparable(url))
    }
}

fn is_heard(entry: &RelayEntry, now: u64, ttl: u64) -> bool {
    now < entry.last_seen.saturating_add(ttl)
}

fn check(info: &RelayInfo) -> Result<(), String> {
    pubkey_of(&info.key).map_err(|reason| reason.to_string())?;
    if info.version.len() > VERSION_BYTES_MAX || info.version.chars().any(char::is_control) {
        return Err(format!("a version is a line of {VERSION_BYTES_MAX} bytes at most"));
    }
    check_url(&info.url)
}

/// Loosely: clients will find out whether it leads anywhere. It must be safe to show.
fn check_url(url: &str) -> Result<(), String> {
    let Some(rest) = url.strip_prefix("wss://").or_else(|| url.strip_prefix("ws://")) else {
        return Err("a relay's URL begins with ws:// or wss://".into());
    };
    if url.len() > URL_BYTES_MAX {
        return Err(format!("a relay's URL has {URL_BYTES_MAX} bytes at most"));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%:[]/?&=+,".contains(&byte);
    let has_host = rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    if !has_host || !rest.bytes().all(is_plain) {
        return Err("a relay's URL has a host, and plain characters only".into());
    }
    Ok(())
}

/// URLs that lead to the same place, as far as one can tell without going there.
fn comparable(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
    let port = if scheme == "wss" { ":443" } else { ":80" };
    format!("{scheme}://{}{path}", host.strip_suffix(port).unwrap_or(&host))
}

impl Storable for Stored {
    const BOUND: Bound = Bound::Unbounded;

    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(candid::encode_one(&self.0).expect("plain texts and numbers encode"))
    }

    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }

    fn from_bytes(bytes: Cow<'_, [u8]>) -> Stored {
        Stored(candid::decode_one(&bytes).expect("it was encoded by this canister"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_websockets_are_listed() {
        for url in ["wss://relay.example", "ws://127.0.0.1:7777/", "wss://[::1]:7777/a?b=c"] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in ["", "wss://", "https://relay.example", "wss:///x", "wss://a b", "wss://<b>"] {
            assert!(check_url(url).is_err(), "{url}");
        }
        assert!(check_url(&format!("wss://{}", "a".repeat(250))).is_err());
        assert!(check_url("wss://user@host").is_err());
    }

    #[test]
    fn one_place_has_many_spellings() {
        for url in ["WSS://Relay.example/", "wss://relay.example:443", " wss://relay.example"] {
            assert_eq!(comparable(url), "wss://relay.example", "{url}");
        }
        for url in ["ws://relay.example", "wss://relay.example/Path", "wss://relay.example:80"] {
            assert_ne!(comparable(url), "wss://relay.example", "{url}");
        }
    }
}
