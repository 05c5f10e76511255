//! Our relay against our own cases, with a store that it shares and without one.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use aquifer::{Listeners, Signals, config::Settings, identity::Identity};
use layer2::Layer2;
use serde_json::Value;
use tokio::{process::Command, time::timeout};

const PATIENCE: Duration = Duration::from_secs(300);

/// What our relay does not do yet. A case that passes has to go from here.
const OWED: [&str; 0] = [];

/// The names of the cases that fail, with what they say.
async fn failed(url: &str) -> Vec<(String, String)> {
    // Patience for a machine that runs other tests meanwhile.
    let trying = Command::new(env!("CARGO_BIN_EXE_aquifer-bench"))
        .args(["conform", url, "--patience", "10", "--jobs", "16", "--json"])
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, trying).await.expect("a run ends").unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let failed = report["failed"].as_array().unwrap();
    assert_eq!(output.status.success(), failed.is_empty());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    failed.iter().map(|told| (text(&told["case"]), text(&told["why"]))).collect()
}

async fn the_relay_conforms(shares: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Settings::default().resolve().unwrap();
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

    let failed = failed(&url).await;
    let names: BTreeSet<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, OWED.into(), "{failed:#?}");

    signals.stop.cancel();
    timeout(PATIENCE, running).await.expect("a stop ends").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_conforms_alone() {
    the_relay_conforms(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_conforms_with_a_shared_store() {
    the_relay_conforms(true).await;
}
