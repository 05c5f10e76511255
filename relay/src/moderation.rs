//! What admins have decided while the relay runs (NIP-86), kept across restarts, over what the
//! configuration says; and the reading of that anew.
//!
//! Decisions lie in a file of their own, since the configuration is the operator's to write. Of two that
//! contradict each other the admins' wins: it is the later one. A decision is on the disk before it is in
//! force.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use event::{EventId, Kind, PublicKey};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    access::{Access, Noted},
    config::{
        Config, Settings, Source,
        terms::{InForce, Terms},
    },
    local::KindRange,
    network::Network,
};

/// The file's name in the data folder.
const FILE: &str = "moderation.json";

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decisions {
    pub banned_keys: Noted<PublicKey>,
    pub allowed_keys: Noted<PublicKey>,
    pub banned_events: Noted<EventId>,
    /// They were looked at, and found to be in order.
    pub allowed_events: Noted<EventId>,
    pub disallowed_kinds: BTreeSet<Kind>,
    pub allowed_kinds: BTreeSet<Kind>,
    pub blocked_ips: Noted<Network>,
    /// The configuration blocks them.
    pub unblocked_ips: BTreeSet<Network>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub icon: Option<String>,
}

impl Decisions {
    pub fn ban_key(&mut self, key: PublicKey, reason: String) {
        self.allowed_keys.remove(&key);
        self.banned_keys.insert(key, reason);
    }

    pub fn allow_key(&mut self, key: PublicKey, reason: String) {
        self.banned_keys.remove(&key);
        self.allowed_keys.insert(key, reason);
    }

    pub fn ban_event(&mut self, id: EventId, reason: String) {
        self.allowed_events.remove(&id);
        self.banned_events.insert(id, reason);
    }

    pub fn allow_event(&mut self, id: EventId, reason: String) {
        self.banned_events.remove(&id);
        self.allowed_events.insert(id, reason);
    }

    pub fn allow_kind(&mut self, kind: Kind) {
        self.disallowed_kinds.remove(&kind);
        self.allowed_kinds.insert(kind);
    }

    pub fn disallow_kind(&mut self, kind: Kind) {
        self.allowed_kinds.remove(&kind);
        self.disallowed_kinds.insert(kind);
    }

    pub fn block_ip(&mut self, network: Network, reason: String) {
        self.unblocked_ips.remove(&network);
        self.blocked_ips.insert(network, reason);
    }

    pub fn unblock_ip(&mut self, network: Network) {
        self.blocked_ips.remove(&network);
        self.unblocked_ips.insert(network);
    }

    /// What the configuration says, with these over it.
    fn over(&self, terms: &Terms) -> Terms {
        let mut terms = terms.clone();
        let about = &mut terms.about;
        about.name = self.name.clone().unwrap_or_else(|| about.name.clone());
        about.description = self.description.clone().unwrap_or_else(|| about.description.clone());
        about.icon = self.icon.clone().or_else(|| about.icon.take());
        self.change(&mut terms.access);
        terms
    }

    fn change(&self, access: &mut Access) {
        overrule(&mut access.banned_keys, &self.banned_keys, |key| {
            self.allowed_keys.contains_key(key)
        });
        overrule(&mut access.allowed_keys, &self.allowed_keys, |key| {
            self.banned_keys.contains_key(key)
        });
        overrule(&mut access.banned_events, &self.banned_events, |id| {
            self.allowed_events.contains_key(id)
        });
        overrule(&mut access.blocked_ips, &self.blocked_ips, |network| {
            self.unblocked_ips.contains(network)
        });
        let mut ranges = |kind: &Kind, is_allowed: bool| {
            access.banned_kinds = without(&access.banned_kinds, *kind);
            access.allowed_kinds = access.allowed_kinds.as_deref().map(|all| without(all, *kind));
            let alone = KindRange(kind.0..=kind.0);
            match &mut access.allowed_kinds {
                Some(allowed) if is_allowed => allowed.push(alone),
                None if !is_allowed => access.banned_kinds.push(alone),
                _ => {}
            }
        };
        self.allowed_kinds.iter().for_each(|kind| ranges(kind, true));
        self.disallowed_kinds.iter().for_each(|kind| ranges(kind, false));
    }
}

/// A list of the configuration: without what was decided otherwise, and with what was decided.
fn overrule<T: Ord + Clone>(
    list: &mut Noted<T>,
    decided: &Noted<T>,
    otherwise: impl Fn(&T) -> bool,
) {
    list.retain(|subject, _| !otherwise(subject));
    list.extend(decided.iter().map(|(subject, reason)| (subject.clone(), reason.clone())));
}

/// The ranges, one kind cut out.
fn without(ranges: &[KindRange], kind: Kind) -> Vec<KindRange> {
    let cut = |KindRange(range): &KindRange| {
        let (first, last) = (*range.start(), *range.end());
        if !range.contains(&kind.0) {
            return vec![KindRange(first..=last)];
        }
        let below = kind.0.checked_sub(1).map(|end| first..=end);
        let above = kind.0.checked_add(1).map(|start| start..=last);
        let parts = below.into_iter().chain(above).filter(|part| !part.is_empty());
        parts.map(KindRange).collect()
    };
    ranges.iter().flat_map(cut).collect()
}

/// What came of reading the configuration anew, by names of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// In force now.
    pub changed: Vec<String>,
    /// Different from what the relay was started with, and without effect until it is started again.
    pub after_restart: Vec<String>,
}

impl Reloaded {
    pub fn log(&self) {
        let (changed, later) = (self.changed.join(", "), self.after_restart.join(", "));
        info!(changed, "the configuration was read again");
        if !later.is_empty() {
            warn!(settings = later, "these have changed, too, and take a restart");
        }
    }
}

/// Whose word is law: keeps the terms in force.
pub struct Moderator {
    file: PathBuf,
    source: Source,
    /// What the relay was started with.
    started: Settings,
    state: Mutex<State>,
    in_force: InForce,
}

struct State {
    written: Settings,
    configured: Terms,
    decisions: Decisions,
}

impl Moderator {
    /// Reads what was decided before.
    pub fn open(config: &Config) -> anyhow::Result<Moderator> {
        let file = config.data.join(FILE);
        let decisions = read(&file)?;
        let in_force = Arc::new(ArcSwap::from_pointee(decisions.over(&config.terms)));
        let (written, configured) = (config.written.clone(), config.terms.clone());
        Ok(Moderator {
            file,
            source: config.source.clone(),
            started: written.clone(),
            state: Mutex::new(State { written, configured, decisions }),
            in_force,
        })
    }

    /// The terms, for whoever keeps to them.
    pub fn in_force(&self) -> InForce {
        self.in_force.clone()
    }

    /// What was decided so far.
    pub fn decisions(&self) -> Decisions {
        self.state.lock().expect("no holder panics").decisions.clone()
    }

    /// Decides something. It writes a file.
    pub fn decide(&self, decide: impl FnOnce(&mut Decisions)) -> anyhow::Result<()> {
        let mut state = self.state.lock().expect("no holder panics");
        let mut decisions = state.decisions.clone();
        decide(&mut decisions);
        if decisions != state.decisions {
            write(&self.file, &decisions)?;
            state.decisions = decisions;
            self.in_force.store(Arc::new(state.decisions.over(&state.configured)));
        }
        Ok(())
    }

    /// Reads the configuration anew. If there is something wrong with it, all stays as it is.
    pub fn reload(&self) -> anyhow::Result<Reloaded> {
        let settings = self.source.read()?;
        let terms = settings.clone().resolve()?.terms;
        let mut state = self.state.lock().expect("no holder panics");
        let (changed, _) = state.written.changes(&settings);
        let (_, after_restart) = self.started.changes(&settings);
        state.written = settings;
        state.configured = terms;
        self.in_force.store(Arc::new(state.decisions.over(&state.configured)));
        Ok(Reloaded { changed, after_restart })
    }
}

fn read(file: &Path) -> anyhow::Result<Decisions> {
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what admins decided", file.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Decisions::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// The old file stays whole until the new one is on the disk.
fn write(file: &Path, decisions: &Decisions) -> anyhow::Result<()> {
    let new = file.with_extension("json.new");
    let write = || {
        let mut text = serde_json::to_vec_pretty(decisions)?;
        text.push(b'\n');
        let mut to = File::create(&new)?;
        to.write_all(&text)?;
        to.sync_all()?;
        fs::rename(&new, file)?;
        let folder = file.parent().expect("it lies in the data folder");
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;
    use crate::{config::terms::TermSettings, verdict::Rejection};

    fn terms(settings: TermSettings) -> Terms {
        settings.resolve().unwrap()
    }

    #[test]
    fn what_admins_decide_wins_over_the_configuration() {
        let (ann, bob) = (Author::new(1), Author::new(2));
        let banned_keys = Some(vec![ann.pubkey().to_string()]);
        let configured = terms(TermSettings { banned_keys, ..TermSettings::default() });
        let mut decisions = Decisions::default();
        decisions.allow_key(ann.pubkey(), String::new());
        decisions.ban_key(bob.pubkey(), "spam".into());
        decisions.name = Some("spring".into());
        let terms = decisions.over(&configured);
        assert_eq!(terms.access.check(&ann.sign(1, 1, &[], "")), Ok(()));
        assert_eq!(terms.access.check(&bob.sign(1, 1, &[], "")), Err(Rejection::Banned));
        assert_eq!(terms.about.name, "spring");
        decisions.allow_key(bob.pubkey(), String::new());
        decisions.ban_key(ann.pubkey(), String::new());
        let access = decisions.over(&configured).access;
        assert_eq!(access.check(&ann.sign(1, 1, &[], "")), Err(Rejection::Banned));
        assert_eq!(access.check(&bob.sign(1, 1, &[], "")), Ok(()));
    }

    #[track_caller]
    fn check_kinds(allowed: Option<&str>, banned: Option<&str>, taken: &[u16], refused: &[u16]) {
        let ranges = |text: Option<&str>| text.map(|text| vec![text.parse::<KindRange>().unwrap()]);
        let (allowed_kinds, banned_kinds) = (ranges(allowed), ranges(banned));
        let settings = TermSettings { allowed_kinds, banned_kinds, ..TermSettings::default() };
        let mut decisions = Decisions::default();
        decisions.allow_kind(Kind(5));
        decisions.disallow_kind(Kind(7));
        let access = decisions.over(&terms(settings)).access;
        let takes = |kind: &u16| access.check(&Author::new(1).sign(1, *kind, &[], "")).is_ok();
        assert!(taken.iter().all(takes), "{allowed:?} {banned:?}");
        assert!(!refused.iter().any(takes), "{allowed:?} {banned:?}");
    }

    #[test]
    fn a_kind_is_cut_out_of_ranges_or_added_to_them() {
        check_kinds(None, None, &[0, 5, 6, 8, 65_535], &[7]);
        check_kinds(Some("6-8"), None, &[5, 6, 8], &[4, 7, 9]);
        check_kinds(Some("7"), None, &[5], &[4, 6, 7]);
        check_kinds(None, Some("4-8"), &[3, 5, 9], &[4, 6, 7, 8]);
        check_kinds(None, Some("5"), &[5, 6], &[7]);
    }

    #[test]
    fn decisions_are_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::of_data(Some(folder.path().into()));
        let config = settings.resolve().unwrap();
        let moderator = Moderator::open(&config).unwrap();
        let ann = Author::new(1).pubkey();
        let network: Network = "192.0.2.0/24".parse().unwrap();
        moderator
            .decide(|decisions| {
                decisions.ban_key(ann, "spam".into());
                decisions.disallow_kind(Kind(7));
                decisions.block_ip(network, String::new());
            })
            .unwrap();
        let again = Moderator::open(&config).unwrap();
        assert_eq!(again.decisions(), moderator.decisions());
        assert!(again.in_force().load().access.blocks([192, 0, 2, 1].into()));
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Moderator::open(&config).is_err(), "what cannot be read is not forgotten");
    }

    #[test]
    fn a_configuration_that_is_wrong_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.toml");
        fs::write(&file, "name = 'spring'\n").unwrap();
        let flags = Settings::of_data(Some(folder.path().into()));
        let config = Source { flags, file: Some(file.clone()) }.config().unwrap();
        let moderator = Moderator::open(&config).unwrap();
        fs::write(&file, "name = 'well'\nlimit_max = 700\npoll_interval = 9\n").unwrap();
        let reloaded = moderator.reload().unwrap();
        assert_eq!(reloaded.changed, ["limit_max", "name"]);
        assert_eq!(reloaded.after_restart, ["poll_interval"]);
        assert_eq!(moderator.in_force().load().limits.limit_max, 700);
        fs::write(&file, "limit_max = 1\n").unwrap();
        let error = moderator.reload().unwrap_err();
        assert!(format!("{error:#}").contains("limit-default"), "{error:#}");
        assert_eq!(moderator.in_force().load().about.name, "well");
    }
}
