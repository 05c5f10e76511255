//! What an operator can set, and where from: a TOML file, then `AQUIFER_…` variables, then flags;
//! the later wins.
//!
//! [`Settings`] is the configuration as written: every field may be missing, and one struct is file,
//! environment and `--help` at once. [`Config`] is the configuration as run: defaults chosen, values
//! checked against each other. What clients meet of it stands in [`terms`].

pub mod terms;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::{Args, Command, ValueEnum};
use event::Kind;
use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use layer2::Layer2Url;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Options, Policy};

use self::terms::{TermSettings, Terms};
use crate::auth::RelayUrl;
pub use crate::local::{KindRange, LocalOnly};
pub use crate::peers::Member;

/// A smaller store than this holds little but its own structure.
const CACHE_BYTES_MIN: u64 = 8 << 20;
/// More batches at a time would be more than one canister works off.
const OUTBOX_BATCHES_MAX: usize = 64;
/// Ten years.
const DELIVERY_LOG_DAYS_MAX: usize = 3_650;
/// Profiles, contacts and relay lists: every client asks for them all the time.
const PROTECTED_KINDS: [u16; 3] = [0, 3, 10_002];

/// Settings as written. Every one has a flag, a key in the file (with `_` for `-`), and a variable
/// (`AQUIFER_` and the key in capitals).
#[derive(Args, Clone, Debug, Default, Deserialize, Serialize)]
pub struct Settings {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:7777]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Address and port for Prometheus, at `/metrics`; not for the public [default: none]
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,

    /// Folder for the relay's key and events; made if missing [default: aquifer-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// The store to share: ic://CANISTER, lmdb:FOLDER for relays on one machine, or
    /// postgres://USER@HOST/DATABASE; without one the
    /// relay keeps its events to itself. A canister of a local network:
    /// 'ic://CANISTER?gateway=http://127.0.0.1:8000&fetch_root_key=true'
    #[arg(long, value_name = "URL")]
    layer2: Option<String>,

    /// Seconds between two looks at the shared store for what other relays brought [default: 5]
    #[arg(long, value_name = "SECONDS")]
    poll_interval: Option<f64>,

    /// Batches of events on their way to the canister at a time [default: 4]
    #[arg(long, value_name = "COUNT")]
    outbox_batches: Option<usize>,

    /// When a client gets its OK: once the event is on this relay's disk, or once the canister has it
    /// [default: layer1]
    #[arg(long, value_enum)]
    ok_after: Option<OkAfter>,

    /// Seconds that an OK waits for the canister, with --ok-after layer2 [default: 10]
    #[arg(long, value_name = "SECONDS")]
    ok_timeout: Option<f64>,

    /// Kinds, or ranges of kinds, that never leave this relay: `4,1000-1999`
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    local_kinds: Option<Vec<KindRange>>,

    /// Public keys, in hex, of authors whose events never leave this relay
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    local_authors: Option<Vec<String>>,

    /// Seconds for which what arrived at the canister is read once more, by its ids, to be sure
    /// [default: three poll intervals]
    #[arg(long, value_name = "SECONDS")]
    poll_overlap: Option<f64>,

    /// What to do with new events while the canister has not granted this relay [default: keep]
    #[arg(long, value_enum)]
    not_granted: Option<NotGranted>,

    /// The URL under which clients reach this relay, as wss://relay.example.com: who authenticates signs it
    /// (NIP-42) [default: ws:// and the address listened on]
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Whether this relay tells the others of the cluster where it is, and gets their live events at once
    /// instead of with the next poll [default: on]
    #[arg(long, value_enum)]
    peering: Option<Switch>,

    /// Other relays of the cluster, as wss://relay.example.com=KEY; for shared stores that are no canister,
    /// where relays find each other by themselves
    #[arg(long, value_name = "PEERS", value_delimiter = ',')]
    peers: Option<Vec<String>>,

    /// Seconds between two announcements of this relay in the canister's directory, each of them a call
    /// that costs it cycles; after 90 (unless it is configured otherwise) an entry is taken out [default: 30]
    #[arg(long, value_name = "SECONDS")]
    heartbeat: Option<f64>,

    /// Bytes that the store of events may take of the disk; what was not asked for the longest time goes
    /// [default: no limit]
    #[arg(long, value_name = "BYTES")]
    cache_bytes_max: Option<u64>,

    /// Per cent of that limit at which garbage is collected [default: 80]
    #[arg(long, value_name = "PERCENT")]
    cache_high_percent: Option<u8>,

    /// Per cent of that limit down to which it is [default: 70]
    #[arg(long, value_name = "PERCENT")]
    cache_low_percent: Option<u8>,

    /// Seconds between two looks whether garbage has to be collected [default: 10]
    #[arg(long, value_name = "SECONDS")]
    gc_interval: Option<f64>,

    /// Kinds that are given up last, beside 0, 3 and 10002
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    protected_kinds: Option<Vec<u16>>,

    /// Seconds that an answer waits for bodies that only the canister holds [default: 2]
    #[arg(long, value_name = "SECONDS")]
    l2_timeout: Option<f64>,

    /// Whether events are found by their words (NIP-50); the index lies in `search`, in the data folder
    /// [default: on]
    #[arg(long, value_enum)]
    search: Option<Switch>,

    /// Whether messages and sessions are told in `log`, in the data folder, a file a day: keys, ids and
    /// times, never an address or a content [default: on]
    #[arg(long, value_enum)]
    delivery_log: Option<Switch>,

    /// Days for which these files are kept, beside today's [default: 14]
    #[arg(long, value_name = "DAYS")]
    delivery_log_days: Option<usize>,

    /// What to log, as `info` or `aquifer=debug,warn` [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,

    /// How log lines look [default: text]
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,

    #[command(flatten)]
    #[serde(flatten)]
    pub terms: TermSettings,
}

/// What becomes of new events while the canister has not granted this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NotGranted {
    /// They are stored here and sent up once the grant is there.
    Keep,
    /// They are refused with `restricted:`.
    Refuse,
}

/// What an OK promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OkAfter {
    /// The event is on this relay's disk.
    Layer1,
    /// And the canister has it.
    Layer2,
}

/// Whether a relay does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    On,
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The configuration as run.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub metrics_listen: Option<SocketAddr>,
    pub data: PathBuf,
    pub layer2: Option<Layer2Url>,
    pub poll_interval: Duration,
    pub poll_overlap: Duration,
    /// How long an answer waits for L2.
    pub layer2_timeout: Duration,
    pub outbox_batches: usize,
    pub ok_after: OkAfter,
    /// How long an OK waits for L2.
    pub ok_timeout: Duration,
    pub local: LocalOnly,
    /// None: L1 may take the whole disk.
    pub cache: Option<CacheConfig>,
    pub not_granted: NotGranted,
    pub url: Option<RelayUrl>,
    pub terms: Terms,
    pub peering: Peering,
    /// Whether it finds events by their words.
    pub search: bool,
    /// How long files of the delivery log are kept. None: there is none.
    pub delivery_log_days: Option<usize>,
    pub log: String,
    pub log_format: LogFormat,
    /// What all of this was made of,
    pub written: Settings,
    /// and where to read it again.
    pub source: Source,
}

/// Where settings come from, beside the environment.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub flags: Settings,
    pub file: Option<PathBuf>,
}

impl Source {
    /// The settings as they are written now.
    pub fn read(&self) -> anyhow::Result<Settings> {
        self.flags.clone().over(self.file.clone())
    }

    /// The configuration as it is now.
    pub fn config(self) -> anyhow::Result<Config> {
        let config = self.read()?.resolve()?;
        Ok(Config { source: self, ..config })
    }
}

impl Config {
    /// Where clients reach the relay, going by where it listens if nobody has said.
    pub fn url_or(&self, listens: SocketAddr) -> RelayUrl {
        let local = || format!("ws://{listens}").parse().expect("an address makes a URL");
        self.url.clone().unwrap_or_else(local)
    }

    /// How L1 is opened.
    pub fn store_options(&self) -> Options {
        let bytes_max = self.cache.as_ref().map_or(usize::MAX, |cache| cache.bytes_max as usize);
        Options { bytes_max, ..Options::default() }
    }
}

/// How this relay gets on with the others of the cluster.
#[derive(Clone, Debug)]
pub struct Peering {
    pub is_on: bool,
    /// Whether others can do something with its URL.
    pub is_reachable: bool,
    pub heartbeat: Duration,
    /// Those that the directory does not have to name.
    pub peers: Vec<Member>,
}

/// What L1 may take of the disk, and how it is kept to that.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    pub bytes_max: u64,
    pub high_percent: u8,
    pub low_percent: u8,
    pub gc_interval: Duration,
    pub protected_kinds: Vec<Kind>,
}

impl CacheConfig {
    /// How the store is collected.
    pub fn policy(&self, has_layer2: bool) -> Policy {
        Policy {
            bytes_max: self.bytes_max,
            high_percent: self.high_percent,
            low_percent: self.low_percent,
            protected_kinds: self.protected_kinds.clone(),
            has_layer2,
        }
    }
}

impl Settings {
    /// Settings that say which relay on this machine.
    pub fn of_data(data: Option<PathBuf>) -> Settings {
        Settings { data, ..Settings::default() }
    }

    /// Settings that say which shared store, and who asks.
    pub fn of_layer2(layer2: Option<String>, data: Option<PathBuf>) -> Settings {
        Settings { layer2, data, ..Settings::default() }
    }

    /// These settings over those of the environment, over those of `file`.
    pub fn over(self, file: Option<PathBuf>) -> anyhow::Result<Settings> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            ensure!(file.is_file(), "there is no configuration file {}", file.display());
            figment = figment.merge(Toml::file_exact(file));
        }
        let figment = figment
            .merge(Env::prefixed("AQUIFER_").ignore(&["config_file"]))
            .merge(Serialized::defaults(self.given()));
        check_names(&figment)?;
        figment.extract().context("reading the configuration")
    }

    /// Names and values of what is set.
    fn given(&self) -> BTreeMap<String, Value> {
        let Ok(Value::Object(values)) = serde_json::to_value(self) else {
            unreachable!("settings are an object of plain values");
        };
        values.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    /// The names of settings that differ, of two lots: those of [`Terms`], and all others.
    pub fn changes(&self, other: &Settings) -> (Vec<String>, Vec<String>) {
        let (ours, theirs) = (self.given(), other.given());
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let changed = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name));
        let terms = names_of::<TermSettings>();
        changed.cloned().partition(|name| terms.contains(name))
    }

    /// The folder for key and events.
    pub fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| PathBuf::from("aquifer-data"))
    }

    /// Chooses defaults and checks.
    pub fn resolve(self) -> anyhow::Result<Config> {
        let data = self.data();
        let layer2 = self.layer2()?;
        let poll_interval = self.poll_interval()?;
        let poll_overlap = match self.poll_overlap {
            Some(overlap) => seconds("poll-overlap", overlap)?,
            None => 3 * poll_interval,
        };
        let layer2_timeout = seconds("l2-timeout", self.l2_timeout.unwrap_or(2.0))?;
        let ok_timeout = seconds("ok-timeout", self.ok_timeout.unwrap_or(10.0))?;
        let outbox_batches = self.outbox_batches.unwrap_or(4);
        ensure!(
            (1..=OUTBOX_BATCHES_MAX).contains(&outbox_batches),
            "`outbox-batches` is {outbox_batches}; it must lie between 1 and {OUTBOX_BATCHES_MAX}"
        );
        let ok_after = self.ok_after.unwrap_or(OkAfter::Layer1);
        ensure!(
            ok_after == OkAfter::Layer1 || layer2.is_some(),
            "`ok-after` is layer2, and there is no `layer2`"
        );
        let local = self.local()?;
        let delivery_log_days = self.delivery_log_days()?;
        let (cache, peering) = (self.cache()?, self.peering()?);
        let written = self.clone();
        let source = Source { flags: self.clone(), file: None };
        let url = self.url.as_deref().map(str::parse).transpose().context("`url`")?;
        Ok(Config {
            listen: self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7777))),
            metrics_listen: self.metrics_listen,
            data,
            layer2,
            poll_interval,
            poll_overlap,
            layer2_timeout,
            outbox_batches,
            ok_after,
            ok_timeout,
            local,
            cache,
            not_granted: self.not_granted.unwrap_or(NotGranted::Keep),
            url,
            terms: self.terms.resolve()?,
            peering,
            search: self.search != Some(Switch::Off),
            delivery_log_days,
            log: self.log.unwrap_or_else(|| "info".into()),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            written,
            source,
        })
    }

    /// Which store to share, if any.
    pub fn layer2(&self) -> anyhow::Result<Option<Layer2Url>> {
        let Some(layer2) = &self.layer2 else { return Ok(None) };
        let url = layer2.parse().context("`layer2`")?;
        Ok(Some(url))
    }

    /// What stays on this relay.
    fn local(&self) -> anyhow::Result<LocalOnly> {
        let authors = self.local_authors.iter().flatten().map(|key| {
            key.parse()
                .with_context(|| format!("`local-authors` has {key:?}, which is no key in hex"))
        });
        let authors = authors.collect::<anyhow::Result<_>>()?;
        Ok(LocalOnly { kinds: self.local_kinds.clone().unwrap_or_default(), authors })
    }

    /// How it gets on with the others. Without a URL of its own it is known by where it listens, which
    /// leads somewhere on this machine alone.
    fn peering(&self) -> anyhow::Result<Peering> {
        let listens_here = self.listen.is_none_or(|listen| listen.ip().is_loopback());
        let peers = self.peers.iter().flatten().map(|text| text.parse());
        let peers = peers.collect::<anyhow::Result<Vec<Member>>>().context("`peers`")?;
        ensure!(
            peers.is_empty() || self.layer2.is_some(),
            "`peers` are relays that share a store, and there is no `layer2`"
        );
        Ok(Peering {
            is_on: self.peering != Some(Switch::Off),
            is_reachable: self.url.is_some() || listens_here,
            heartbeat: seconds("heartbeat", self.heartbeat.unwrap_or(30.0))?,
            peers,
        })
    }

    fn delivery_log_days(&self) -> anyhow::Result<Option<usize>> {
        let days = self.delivery_log_days.unwrap_or(14);
        ensure!(
            (1..=DELIVERY_LOG_DAYS_MAX).contains(&days),
            "`delivery-log-days` is {days}; it must lie between 1 and {DELIVERY_LOG_DAYS_MAX}"
        );
        Ok((self.delivery_log != Some(Switch::Off)).then_some(days))
    }

    fn poll_interval(&self) -> anyhow::Result<Duration> {
        seconds("poll-interval", self.poll_interval.unwrap_or(5.0))
    }

    /// What L1 may take, if that is limited.
    fn cache(&self) -> anyhow::Result<Option<CacheConfig>> {
        let high_percent = self.cache_high_percent.unwrap_or(80);
        let low_percent = self.cache_low_percent.unwrap_or(70);
        ensure!(
            0 < low_percent && low_percent < high_percent,
            "`cache-low-percent` ({low_percent}) must lie above 0 and below `cache-high-percent` ({high_percent})"
        );
        ensure!(
            high_percent <= Policy::HIGH_PERCENT_MAX,
            "`cache-high-percent` is {high_percent}; above {} there is no room to work in",
            Policy::HIGH_PERCENT_MAX
        );
        let gc_interval = seconds("gc-interval", self.gc_interval.unwrap_or(10.0))?;
        let Some(bytes_max) = self.cache_bytes_max else { return Ok(None) };
        ensure!(
            bytes_max >= CACHE_BYTES_MIN,
            "`cache-bytes-max` is {bytes_max}; less than {CACHE_BYTES_MIN} is no use"
        );
        let more = self.protected_kinds.iter().flatten().copied();
        let protected_kinds = PROTECTED_KINDS.into_iter().chain(more).map(Kind).collect();
        Ok(Some(CacheConfig { bytes_max, high_percent, low_percent, gc_interval, protected_kinds }))
    }
}

/// What one struct of settings has, by name.
fn names_of<S: Args>() -> BTreeSet<String> {
    let command = S::augment_args(Command::new("settings"));
    command.get_arguments().map(|argument| argument.get_id().to_string()).collect()
}

/// A name that no setting has is a mistake that would go unnoticed.
fn check_names(figment: &Figment) -> anyhow::Result<()> {
    let given: BTreeMap<String, figment::value::Value> =
        figment.extract().context("reading the configuration")?;
    let known = names_of::<Settings>();
    let unknown: Vec<&str> =
        given.keys().filter(|name| !known.contains(*name)).map(String::as_str).collect();
    ensure!(unknown.is_empty(), "the configuration has what no setting is: {}", unknown.join(", "));
    Ok(())
}

fn seconds(name: &str, seconds: f64) -> anyhow::Result<Duration> {
    ensure!(
        (0.05..=86_400.0).contains(&seconds),
        "`{name}` is {seconds} s; it must lie between 0.05 and 86400"
    );
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(terms: TermSettings) -> Settings {
        Settings { terms, ..Settings::default() }
    }

    #[track_caller]
    fn check_refused(settings: Settings, reason: &str) {
        let refusal = format!("{:#}", settings.resolve().unwrap_err());
        assert!(refusal.contains(reason), "{refusal:?} does not speak of {reason:?}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_their_name() {
        check_refused(
            Settings { layer2: Some("ic://nonsense".into()), ..Settings::default() },
            "no canister id",
        );
        check_refused(
            Settings { poll_interval: Some(0.0), ..Settings::default() },
            "poll-interval",
        );
        check_refused(
            Settings { outbox_batches: Some(0), ..Settings::default() },
            "outbox-batches",
        );
        let ok_after = Some(OkAfter::Layer2);
        check_refused(Settings { ok_after, ..Settings::default() }, "ok-after");
        check_refused(
            Settings { url: Some("https://x".into()), ..Settings::default() },
            "ws://HOST",
        );
        check_refused(of(TermSettings { pow_min: Some(65), ..TermSettings::default() }), "pow-min");
        let operator = Some("me".into());
        check_refused(of(TermSettings { operator, ..TermSettings::default() }), "operator");
        let owners = Some(vec!["me".into()]);
        check_refused(of(TermSettings { owners, ..TermSettings::default() }), "owners");
        let peers = Some(vec!["wss://relay.example".into()]);
        check_refused(Settings { peers, ..Settings::default() }, "peers");
        let delivery_log_days = Some(0);
        check_refused(Settings { delivery_log_days, ..Settings::default() }, "delivery-log-days");
        let local_authors = Some(vec!["me".into()]);
        check_refused(Settings { local_authors, ..Settings::default() }, "local-authors");
        check_refused(Settings { l2_timeout: Some(-1.0), ..Settings::default() }, "l2-timeout");
        check_refused(
            Settings { cache_bytes_max: Some(1_000), ..Settings::default() },
            "cache-bytes-max",
        );
        check_refused(
            Settings { cache_low_percent: Some(80), ..Settings::default() },
            "cache-low-percent",
        );
        check_refused(
            Settings { cache_high_percent: Some(95), ..Settings::default() },
            "cache-high-percent",
        );
        check_refused(
            of(TermSettings { event_bytes_max: Some(1 << 30), ..TermSettings::default() }),
            "event-bytes-max",
        );
        let message_days_max = Some(2);
        let terms = TermSettings { message_days_max, ..TermSettings::default() };
        check_refused(of(terms), "message-days-max");
        let message_bytes_per_key_max = Some(1);
        let terms = TermSettings { message_bytes_per_key_max, ..TermSettings::default() };
        check_refused(of(terms), "message-bytes-per-key-max");
        let message_bytes_total_max = Some(1);
        let terms = TermSettings { message_bytes_total_max, ..TermSettings::default() };
        check_refused(of(terms), "message-bytes-total-max");
        check_refused(
            of(TermSettings {
                limit_default: Some(9),
                limit_max: Some(8),
                ..TermSettings::default()
            }),
            "limit-default",
        );
    }

    #[test]
    fn what_differs_is_told_apart_by_whether_it_takes_a_restart() {
        let name = Some("spring".into());
        let before = of(TermSettings { name, ..TermSettings::default() });
        let mut after = Settings::of_data(Some("elsewhere".into()));
        after.terms.limit_max = Some(600);
        let (terms, others) = before.changes(&after);
        assert_eq!(terms, ["limit_max", "name"]);
        assert_eq!(others, ["data"]);
    }

    #[test]
    #[allow(clippy::result_large_err)] // figment's own closure type.
    fn flags_win_over_variables_and_variables_over_the_file() {
        figment::Jail::expect_with(|jail| {
            jail.create_file("relay.toml", "name = 'file'\ncontact = 'file'\nlimit_max = 600\n")?;
            jail.set_env("AQUIFER_NAME", "variable");
            jail.set_env("AQUIFER_CONTACT", "variable");
            let flags = of(TermSettings { name: Some("flag".into()), ..TermSettings::default() });
            let config = flags.over(Some("relay.toml".into())).and_then(Settings::resolve).unwrap();
            assert_eq!(config.terms.about.name, "flag");
            assert_eq!(config.terms.about.contact.as_deref(), Some("variable"));
            assert_eq!(config.terms.limits.limit_max, 600);
            jail.create_file("local.toml", "local_kinds = [4, '1000-1999']\nok_timeout = 3\n")?;
            let config = Settings::default().over(Some("local.toml".into()));
            let config = config.and_then(Settings::resolve).unwrap();
            assert_eq!(config.local.kinds, [KindRange(4..=4), KindRange(1_000..=1_999)]);
            jail.create_file("wrong.toml", "nme = 'x'")?;
            let error = Settings::default().over(Some("wrong.toml".into())).unwrap_err();
            assert!(format!("{error:#}").contains("nme"), "{error:#}");
            Ok(())
        });
    }
}
