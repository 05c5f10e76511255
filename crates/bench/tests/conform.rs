//! Our relay against our own cases, with a store that it shares and without one.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use aquifer::{
    Listeners, Signals,
    config::{Settings, terms::TermSettings},
    identity::Identity,
};
use layer2::Layer2;
use serde_json::Value;
use tokio::{process::Command, time::timeout};

const PATIENCE: Duration = Duration::from_secs(300);

/// What our relay does not do yet. A case that passes has to go from here.
const OWED: [&str; 0] = [];

/// What a relay of the default settings does not offer: it wants no work, and takes events of any age.
const NOT_OFFERED: [&str; 4] = [
    "nip11/created_at_lower_limit_is_kept",
    "nip13/enough_work_is_taken",
    "nip13/luck_that_was_not_committed_to_does_not_count",
    "nip13/too_little_work_is_refused",
];

/// Secret and public key of the relay's owner.
const OWNER: [&str; 2] = [
    "0000000000000000000000000000000000000000000000000000000000000001",
    "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
];

/// The cases of a report that are under this name, with what is said of them.
fn told(report: &Value, name: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let told = report[name].as_array().unwrap().iter();
    told.map(|told| (text(&told["case"]), text(&told["why"]))).collect()
}

/// What is said of those cases whose names have this in them.
async fn report(url: &str, only: &str) -> Value {
    // Patience for a machine that runs other tests meanwhile.
    let trying = Command::new(env!("CARGO_BIN_EXE_aquifer-bench"))
        .args(["conform", url, "--patience", "10", "--jobs", "16", "--json"])
        .args(["--admin-key", OWNER[0], "--only", only])
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, trying).await.expect("a run ends").unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.success(), told(&report, "failed").is_empty());
    report
}

/// Tries a relay of these settings.
async fn try_relay(terms: TermSettings, shares: bool, only: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let terms = TermSettings { owners: Some(vec![OWNER[1].into()]), ..terms };
    let mut config = Settings::default().resolve().unwrap();
    config.terms = terms.resolve().unwrap();
    config.data = folder.path().join("relay");
    config.poll_interval = Duration::from_millis(500);
    let identity = Identity::open(&config.data).unwrap();
    if shares {
        let url = format!("lmdb:{}", folder.path().join("shared").display());
        config.layer2 = Some(url.parse().unwrap());
    }
    let open = |url| layer2::open(url, identity.agent_identity()).unwrap();
    let layer2: Option<Arc<dyn Layer2>> = config.layer2.as_ref().map(open);
    let listeners = Listeners::bind(SocketAddr::from(([127, 0, 0, 1], 0)), None).unwrap();
    let url = format!("ws://{}", listeners.clients.local_addr().unwrap());
    let signals = Signals::default();
    let running = tokio::spawn(aquifer::run(config, identity, layer2, listeners, signals.clone()));
    let report = report(&url, only).await;
    signals.stop.cancel();
    timeout(PATIENCE, running).await.expect("a stop ends").unwrap().unwrap();
    report
}

fn check(report: &Value, not_offered: &[&str]) {
    let failed = told(report, "failed");
    let names = |told: &[(String, String)]| -> BTreeSet<String> {
        told.iter().map(|(name, _)| name.clone()).collect()
    };
    let expected = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    };
    assert_eq!(names(&failed), expected(&OWED), "{failed:#?}");
    assert_eq!(names(&told(report, "not_offered")), expected(not_offered));
}

/// No larger than what the cases try.
fn usual() -> TermSettings {
    TermSettings { limit_max: Some(1_000), ..TermSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_conforms_alone() {
    check(&try_relay(usual(), false, "").await, &NOT_OFFERED);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_conforms_with_a_shared_store() {
    check(&try_relay(usual(), true, "").await, &NOT_OFFERED);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_conforms_where_work_is_wanted() {
    let terms = TermSettings { pow_min: Some(8), ..TermSettings::default() };
    let report = try_relay(terms, false, "nip13").await;
    check(&report, &[]);
    assert_eq!(report["passed"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_conforms_where_events_may_not_be_old() {
    let terms = TermSettings { past_seconds_max: Some(86_400), ..TermSettings::default() };
    let report = try_relay(terms, false, "created_at_lower_limit").await;
    check(&report, &[]);
    assert_eq!(report["passed"], 1);
}
