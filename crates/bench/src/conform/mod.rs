//! `aquifer-bench conform`: does a relay do what the NIPs say? A named case for each of their edges, tried
//! over the relay's websocket and nothing else.
//!
//! A case is a function that fails with one line: what was expected, and what came. It makes keys of its
//! own and opens connections of its own, so cases run side by side, against a relay with any content, and
//! again. Times are real: what must come has [`Relay::patience`], and what must not come is believed to
//! stay away after [`Relay::silence`].

mod author;
mod client;
mod document;
mod lists;
mod messages;
mod nip01;
mod nip09;
mod nip11;
mod nip13;
mod nip40;
mod nip42;
mod nip45;
mod nip50;
mod nip62;
mod nip67;
mod nip70;
mod nip77;
mod nip86;
mod nip91;
pub mod peers;
mod report;

use std::{fmt, process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use futures_util::{StreamExt, future::BoxFuture, stream};
use indicatif::ProgressBar;
use serde_json::Value;
use tokio::time::timeout;

use crate::progress;
use author::Author;
use client::Client;
use document::Document;
use report::{Outcome, Report};

/// A case that takes so many times the patience is broken off.
const PATIENCES_MAX: u32 = 20;

/// Try a relay, any relay, against the NIPs it says it supports
///
/// Each case is a fact about a relay, as nip01/since_and_until_are_inclusive. What a relay's NIP-11 document does
/// not list is not tried, and counts as not offered. A relay without the document is tried with what
/// every relay has to do. Ends with 1 if a case failed.
///
///     aquifer-bench conform wss://relay.example.com
///     aquifer-bench conform ws://127.0.0.1:7777 --only nip09
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Conform {
    /// The relay, as ws://… or wss://…
    #[arg(required_unless_present = "list")]
    url: Option<String>,

    #[command(flatten)]
    how: How,

    /// What the relay takes itself to be called, if that is not how it is reached (NIP-42, NIP-62)
    #[arg(long, value_name = "URL")]
    known_as: Option<String>,

    /// The secret key of somebody who may manage the relay (NIP-86)
    #[arg(long, value_name = "HEX")]
    admin_key: Option<String>,

    /// Print the names of all cases, and try nothing
    #[arg(long)]
    list: bool,
}

/// What is tried, and with how much patience.
#[derive(Args, Clone)]
pub struct How {
    /// Only cases whose names contain this
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,

    /// Try what the relay does not say it supports, too
    #[arg(long)]
    all: bool,

    /// Cases at a time
    #[arg(long, default_value_t = 4)]
    jobs: usize,

    /// Seconds to wait for what must come
    #[arg(long, default_value_t = 3.0)]
    patience: f64,

    /// Seconds after which what must not come is believed not to
    #[arg(long, default_value_t = 0.3)]
    silence: f64,
}

/// One fact about a relay.
#[derive(Clone, Copy)]
pub struct Case {
    /// `nip01/…`: the NIP that says so, and the fact.
    pub name: &'static str,
    /// The NIPs that a relay has to support for it to hold.
    pub needs: &'static [u16],
    try_on: for<'r> fn(&'r Relay) -> BoxFuture<'r, Result<()>>,
}

/// Lists a file's cases: the NIP in their names, the NIPs they need, and the functions, each named as
/// its case.
macro_rules! cases {
    ($($nip:literal needs $needs:tt: $($case:ident),+ $(,)?;)+) => {
        pub const CASES: &[$crate::conform::Case] = &[$($($crate::conform::Case {
            name: concat!($nip, "/", stringify!($case)),
            needs: &$needs,
            try_on: |relay| Box::pin($case(relay)),
        }),+),+];
    };
}
use cases;

/// All there are, in the order of the NIPs.
fn all_cases() -> Vec<Case> {
    let mut cases = [
        nip01::events::CASES,
        nip01::filters::CASES,
        nip01::versions::CASES,
        nip01::subscriptions::CASES,
        lists::CASES,
        messages::CASES,
        nip09::CASES,
        nip11::CASES,
        nip13::CASES,
        nip40::CASES,
        nip42::CASES,
        nip45::CASES,
        nip50::CASES,
        nip62::CASES,
        nip67::CASES,
        nip70::CASES,
        nip77::CASES,
        nip86::CASES,
        nip91::CASES,
    ]
    .concat();
    cases.sort_by_key(Case::nip);
    cases
}

impl Case {
    /// `nip01`, as its name says.
    pub fn nip(&self) -> &'static str {
        self.name.split('/').next().expect("a split has a first part")
    }

    async fn outcome(&self, relay: &Relay, try_all: bool) -> Outcome {
        let lacks = |nip: &&u16| !relay.document.offers(**nip);
        if let Some(nip) = self.needs.iter().find(lacks).filter(|_| !try_all) {
            return Outcome::NotOffered(format!("NIP-{nip:02} is not among its supported_nips"));
        }
        let tried = timeout(relay.patience * PATIENCES_MAX, (self.try_on)(relay)).await;
        match tried.unwrap_or_else(|_| Err(anyhow!("it took too long"))) {
            Ok(()) => Outcome::Passed,
            Err(error) => match error.downcast_ref::<NotOffered>() {
                Some(NotOffered(what)) => Outcome::NotOffered(what.clone()),
                None => Outcome::Failed(one_line(&format!("{error:#}"))),
            },
        }
    }
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(400).collect()
}

/// What a case finds out while it runs: the relay does not do this at all, nor says that it does.
#[derive(Debug)]
struct NotOffered(String);

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotOffered {}

fn not_offered<T>(what: impl Into<String>) -> Result<T> {
    Err(NotOffered(what.into()).into())
}

/// The relay that is tried.
pub struct Relay {
    url: String,
    known_as: String,
    document: Document,
    admin: Option<Author>,
    patience: Duration,
    silence: Duration,
}

impl Relay {
    /// Asks it what it offers.
    async fn meet(url: &str, how: &How) -> Result<Relay> {
        let mut relay = Relay {
            url: url.to_owned(),
            known_as: url.to_owned(),
            document: Document(None),
            admin: None,
            patience: Duration::from_secs_f64(how.patience),
            silence: Duration::from_secs_f64(how.silence),
        };
        relay.client().await.with_context(|| format!("connecting to {url}"))?;
        relay.document = Document::of(url, relay.patience).await?;
        Ok(relay)
    }

    /// A connection of its own.
    async fn client(&self) -> Result<Client> {
        Client::connect(self).await
    }

    /// Somebody whom nobody has seen before.
    fn author(&self) -> Author {
        Author::anybody(self.document.limit("min_pow_difficulty").unwrap_or(0) as u32)
    }

    /// So many of them.
    fn authors<const N: usize>(&self) -> [Author; N] {
        std::array::from_fn(|_| self.author())
    }
}

impl How {
    fn selected(&self) -> Vec<Case> {
        let pattern = self.only.as_deref().unwrap_or_default();
        all_cases().into_iter().filter(|case| case.name.contains(pattern)).collect()
    }

    async fn try_on(&self, relay: &Relay) -> Result<Report> {
        let cases = self.selected();
        if cases.is_empty() {
            bail!("no case has such a name; --list prints them all");
        }
        let progress = progress::cases(cases.len());
        let trying = stream::iter(cases).map(|case| self.watched(case, relay, &progress));
        let outcomes = trying.buffered(self.jobs.max(1)).collect::<Vec<_>>().await;
        progress.finish_and_clear();
        Ok(Report::of(&relay.url, outcomes))
    }

    async fn watched(&self, case: Case, relay: &Relay, progress: &ProgressBar) -> (Case, Outcome) {
        progress.set_message(case.name);
        let outcome = case.outcome(relay, self.all).await;
        progress.inc(1);
        (case, outcome)
    }
}

impl Conform {
    /// Prints what came of it, and ends with 1 if a case failed.
    pub async fn run_and_tell(&self, json: bool) -> Result<ExitCode> {
        if self.list {
            self.how.selected().iter().for_each(|case| println!("{}", case.name));
            return Ok(ExitCode::SUCCESS);
        }
        let report = self.run().await?;
        if json {
            println!("{}", serde_json::to_string(&report)?)
        } else {
            println!("{report}")
        }
        Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn run(&self) -> Result<Report> {
        let url = self.url.as_deref().expect("clap asks for it");
        let mut relay = Relay::meet(url, &self.how).await?;
        if let Some(url) = &self.known_as {
            relay.known_as.clone_from(url);
        }
        if let Some(secret) = &self.admin_key {
            relay.admin = Some(Author::of_secret(secret).context("reading --admin-key")?);
        }
        self.how.try_on(&relay).await
    }
}

/// How what was found differs from what was expected. Ids are random, so none is told.
fn difference(expected: &[String], found: &[String]) -> String {
    let missing = expected.iter().filter(|id| !found.contains(id)).count();
    let beyond = found.iter().filter(|id| !expected.contains(id)).count();
    let wanted = match expected.len() {
        0 => "no events".to_owned(),
        1 => "one event".to_owned(),
        many => format!("{many} events"),
    };
    match (missing, beyond) {
        (0, 0) if expected.len() == found.len() => {
            format!("expected {wanted} in their order, came another order")
        }
        (0, 0) => format!("expected {wanted} once each, came {}", found.len()),
        (missing, 0) => format!("expected {wanted}, came {missing} fewer"),
        (0, beyond) => format!("expected {wanted}, came {beyond} more"),
        _ => format!("expected {wanted}, came {missing} fewer, and {beyond} others"),
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
