//! Managing a relay (NIP-86): what each method does. Admins call them over HTTP, and `aquifer admin` calls
//! the same on the machine itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use anyhow::{Context, anyhow, bail, ensure};
use event::{EventId, Filter, Kind, PublicKey};
use index::{Found, Reader, Scan, Take};
use serde::Deserialize;
use serde_json::{Value, json};
use store::Store;

use crate::{
    access::{Access, Noted, Role},
    identity::key_of,
    local::KindRange,
    moderation::{Decisions, Moderator},
    network::Network,
};

/// What says that a request's body is a call.
pub const CONTENT_TYPE: &str = "application/nostr+json+rpc";

/// Reports (NIP-56).
const REPORT: Kind = Kind(1_984);
/// How many of the newest reports are looked at.
const REPORTS_MAX: u64 = 1_000;

/// A method of this relay.
struct Method {
    name: &'static str,
    /// Who may call it, and who is above them.
    role: Role,
    /// Whether a call decides something; else it only tells.
    decides: bool,
}

const fn tells(name: &'static str) -> Method {
    Method { name, role: Role::Admin, decides: false }
}

const fn decides(name: &'static str, role: Role) -> Method {
    Method { name, role, decides: true }
}

const METHODS: [Method; 24] = [
    tells("supportedmethods"),
    decides("banpubkey", Role::Admin),
    decides("unbanpubkey", Role::Admin),
    tells("listbannedpubkeys"),
    decides("allowpubkey", Role::Admin),
    decides("unallowpubkey", Role::Admin),
    tells("listallowedpubkeys"),
    tells("listeventsneedingmoderation"),
    decides("allowevent", Role::Admin),
    decides("banevent", Role::Admin),
    tells("listbannedevents"),
    decides("allowkind", Role::Admin),
    decides("disallowkind", Role::Admin),
    tells("listallowedkinds"),
    tells("listdisallowedkinds"),
    decides("blockip", Role::Admin),
    decides("unblockip", Role::Admin),
    tells("listblockedips"),
    decides("changerelayname", Role::Owner),
    decides("changerelaydescription", Role::Owner),
    decides("changerelayicon", Role::Owner),
    // Beyond the NIP.
    tells("listallowedevents"),
    tells("stats"),
    decides("reload", Role::Owner),
];

fn method(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

/// What the methods work on.
#[derive(Clone, Copy)]
pub struct Office<'o> {
    pub moderator: &'o Moderator,
    pub store: &'o Store,
}

/// A call: a method and what it is given.
#[derive(Deserialize)]
pub struct Call {
    method: String,
    #[serde(default)]
    params: Vec<Value>,
}

impl Call {
    pub fn new(method: String, params: Vec<Value>) -> Call {
        Call { method, params }
    }

    /// Reads a request's body.
    pub fn read(body: &[u8]) -> anyhow::Result<Call> {
        serde_json::from_slice(body).map_err(|error| anyhow!("not a call: {error}"))
    }

    /// Whether it decides something: then nobody may send it a second time.
    pub fn decides(&self) -> bool {
        method(&self.method).is_some_and(|method| method.decides)
    }

    /// Carries it out. It reads L1 and writes a file, so it blocks. An error is for whoever called.
    pub fn answer(&self, office: Office<'_>, role: Role) -> anyhow::Result<Value> {
        let name = self.method.as_str();
        let may_call = method(name).is_some_and(|method| role >= method.role);
        ensure!(may_call, "{name:?} is no method that you may call; supportedmethods lists them");
        if let Some(told) = tell(office, role, name)? {
            return Ok(told);
        }
        let params = Params(&self.params);
        office.moderator.decide(decision(name, &params)?)?;
        check_effect(&office.moderator.in_force().load().access, name, &params)?;
        Ok(json!(true))
    }
}

/// Whether what was taken back is in force no more. Else the error says what keeps it there.
fn check_effect(access: &Access, method: &str, params: &Params<'_>) -> anyhow::Result<()> {
    match method {
        "unbanpubkey" => {
            let is_banned = access.banned_keys.contains_key(&params.key()?);
            ensure!(!is_banned, "the configuration bans this key: allowpubkey overrules that");
        }
        "unallowpubkey" => {
            let is_allowed = access.allowed_keys.contains_key(&params.key()?);
            ensure!(!is_allowed, "the configuration allows this key: banpubkey overrules that");
        }
        "unblockip" => {
            let unblocked = params.network()?;
            let blocked = access.blocked_ips.keys().find(|blocked| blocked.covers(&unblocked));
            if let Some(blocked) = blocked {
                bail!("{blocked} is still blocked, and this is part of it");
            }
        }
        _ => {}
    }
    Ok(())
}

/// What a method says that decides nothing itself.
fn tell(office: Office<'_>, role: Role, method: &str) -> anyhow::Result<Option<Value>> {
    let (terms, decisions) =
        (office.moderator.in_force().load_full(), office.moderator.decisions());
    let access = &terms.access;
    Ok(Some(match method {
        "supportedmethods" => {
            let methods = METHODS.iter().filter(|method| role >= method.role);
            json!(methods.map(|method| method.name).collect::<Vec<_>>())
        }
        "listbannedpubkeys" => noted("pubkey", &access.banned_keys),
        "listallowedpubkeys" => noted("pubkey", &access.allowed_keys),
        "listbannedevents" => noted("id", &access.banned_events),
        "listallowedevents" => noted("id", &decisions.allowed_events),
        "listblockedips" => noted("ip", &access.blocked_ips),
        "listallowedkinds" => match &access.allowed_kinds {
            Some(ranges) => kinds(ranges),
            // All are, but for those that are not.
            None => json!(decisions.allowed_kinds),
        },
        "listdisallowedkinds" => kinds(&access.banned_kinds),
        "listeventsneedingmoderation" => noted("id", &reported(office, &decisions)?),
        "stats" => stats(office)?,
        "reload" => serde_json::to_value(office.moderator.reload()?)?,
        _ => return Ok(None),
    }))
}

type Decide = Box<dyn FnOnce(&mut Decisions)>;

/// What a method decides.
fn decision(method: &str, params: &Params<'_>) -> anyhow::Result<Decide> {
    let reason = params.text(1).unwrap_or_default().to_owned();
    Ok(match method {
        "banpubkey" => with(params.key()?, |to, key| to.ban_key(key, reason)),
        "unbanpubkey" => with(params.key()?, |to, key| drop(to.banned_keys.remove(&key))),
        "allowpubkey" => with(params.key()?, |to, key| to.allow_key(key, reason)),
        "unallowpubkey" => with(params.key()?, |to, key| drop(to.allowed_keys.remove(&key))),
        "banevent" => with(params.id()?, |to, id| to.ban_event(id, reason)),
        "allowevent" => with(params.id()?, |to, id| to.allow_event(id, reason)),
        "allowkind" => with(params.kind()?, Decisions::allow_kind),
        "disallowkind" => with(params.kind()?, Decisions::disallow_kind),
        "blockip" => with(params.network()?, |to, network| to.block_ip(network, reason)),
        "unblockip" => with(params.network()?, Decisions::unblock_ip),
        "changerelayname" => with(params.said()?, |to, text| to.name = Some(text)),
        "changerelaydescription" => with(params.said()?, |to, text| to.description = Some(text)),
        "changerelayicon" => with(params.said()?, |to, text| to.icon = Some(text)),
        _ => bail!("{method:?} decides nothing"),
    })
}

fn with<T: 'static>(subject: T, decide: impl FnOnce(&mut Decisions, T) + 'static) -> Decide {
    Box::new(move |decisions| decide(decisions, subject))
}

fn kinds(ranges: &[KindRange]) -> Value {
    json!(ranges.iter().flat_map(|range| range.0.clone()).collect::<BTreeSet<u16>>())
}

fn noted<T: ToString>(name: &str, list: &Noted<T>) -> Value {
    let entry = |(subject, reason): (&T, &String)| {
        let mut entry = json!({ name: subject.to_string() });
        if !reason.is_empty() {
            entry["reason"] = json!(reason);
        }
        entry
    };
    Value::Array(list.iter().map(entry).collect())
}

/// Events that somebody reported, and about which nothing was decided.
fn reported(office: Office<'_>, decisions: &Decisions) -> anyhow::Result<Noted<EventId>> {
    let filters =
        [Filter { kinds: Some(vec![REPORT]), limit: Some(REPORTS_MAX), ..Filter::default() }];
    let mut reports = Reports(BTreeMap::new());
    office.store.page(&mut Scan::new(&filters), &mut reports)?;
    let Reports(mut reported) = reports;
    reported.retain(|id, _| {
        !decisions.allowed_events.contains_key(id) && !decisions.banned_events.contains_key(id)
    });
    Ok(reported)
}

/// What reports are about, with the reasons that they give.
struct Reports(Noted<EventId>);

impl Reader for Reports {
    fn take(&mut self, found: Found<'_>) -> Take {
        for mut tag in found.event().tags() {
            let is_about_event = tag.next().is_some_and(|name| name.is("e"));
            let id = tag.next().and_then(|id| id.to_text().parse().ok());
            if let Some(id) = id.filter(|_| is_about_event) {
                let reason = tag.next().map(|reason| reason.to_text()).unwrap_or_default();
                self.0.entry(id).or_insert(reason);
            }
        }
        Take::More
    }
}

fn stats(office: Office<'_>) -> anyhow::Result<Value> {
    let stats = office.store.stats()?;
    Ok(json!({
        "events": stats.events,
        "stubs": stats.stubs,
        "outbox": stats.outbox,
        "bytes_on_disk": stats.bytes_on_disk,
        "bytes_in_use": stats.bytes_in_use,
    }))
}

/// What a method is given.
struct Params<'p>(&'p [Value]);

impl Params<'_> {
    fn text(&self, at: usize) -> Option<&str> {
        self.0.get(at)?.as_str()
    }

    fn said(&self) -> anyhow::Result<String> {
        Ok(self.text(0).context("the first parameter must be a text")?.to_owned())
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, what: &str) -> anyhow::Result<T> {
        let text = self.text(0).with_context(|| format!("the first parameter must be {what}"))?;
        text.parse().map_err(|error| anyhow!("{text:?} is not {what}: {error}"))
    }

    fn key(&self) -> anyhow::Result<PublicKey> {
        key_of(self.text(0).context("the first parameter must be a public key")?)
    }

    fn id(&self) -> anyhow::Result<EventId> {
        self.parsed("an event's id")
    }

    fn network(&self) -> anyhow::Result<Network> {
        self.parsed("an address or a network")
    }

    /// A number, also as text: command lines have nothing else.
    fn kind(&self) -> anyhow::Result<Kind> {
        let given = self.0.first();
        let number = given.and_then(|kind| match kind {
            Value::String(text) => text.parse().ok(),
            kind => kind.as_u64().and_then(|kind| u16::try_from(kind).ok()),
        });
        number.map(Kind).context("the first parameter must be a kind, 0 to 65535")
    }
}
