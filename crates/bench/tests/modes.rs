//! Every mode against a relay of ours, in small: what each says must fit what it was told to do.

use std::{fs, net::SocketAddr, path::Path, process, time::Duration};

use aquifer::{Listeners, Signals, config::Settings, identity::Identity};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Command, task::JoinHandle, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: u64 = 1_500;
const EVENTS_LATER: u64 = 300;

/// A relay in this process, and a corpus beside it.
struct Bench {
    folder: TempDir,
    url: String,
    signals: Signals,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Bench {
    async fn start() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Settings::default().resolve().unwrap();
        config.data = folder.path().to_owned();
        let identity = Identity::open(folder.path()).unwrap();
        let listeners = Listeners::bind(SocketAddr::from(([127, 0, 0, 1], 0)), None).unwrap();
        let url = format!("ws://{}", listeners.clients.local_addr().unwrap());
        let signals = Signals::default();
        let running =
            tokio::spawn(aquifer::run(config, identity, None, listeners, signals.clone()));
        Bench { folder, url, signals, running }
    }

    async fn corpus(&self) -> Value {
        let events = (EVENTS + EVENTS_LATER).to_string();
        run("corpus", &["--events", &events, "--authors", "60", &self.file()]).await.unwrap()
    }

    fn file(&self) -> String {
        self.folder.path().join("corpus.jsonl").display().to_string()
    }

    async fn mode(&self, mode: &str, arguments: &[&str]) -> Result<Value, String> {
        run(mode, &[&["--relay", &self.url], arguments].concat()).await
    }

    /// A mode that is given the first events of the corpus.
    async fn mode_with_corpus(&self, mode: &str, arguments: &[&str]) -> Result<Value, String> {
        let (file, events) = (self.file(), EVENTS.to_string());
        let corpus = ["--corpus", &file, "--events", &events];
        self.mode(mode, &[&corpus, arguments].concat()).await
    }

    async fn stop(self) {
        self.signals.stop.cancel();
        timeout(PATIENCE, self.running).await.expect("a stop ends").unwrap().unwrap();
    }
}

/// What the program prints, or how it fails.
async fn run(mode: &str, arguments: &[&str]) -> Result<Value, String> {
    let running = Command::new(env!("CARGO_BIN_EXE_aquifer-bench"))
        .arg(mode)
        .args(arguments)
        .arg("--json")
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, running).await.expect("a mode ends").unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// This process: the relay runs in it.
fn pid() -> String {
    process::id().to_string()
}

#[track_caller]
fn positive(figures: &Value, pointer: &str) {
    let figure = figures.pointer(pointer).and_then(Value::as_f64);
    assert!(figure.is_some_and(|figure| figure > 0.0), "{pointer} is {figure:?} in {figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_found_and_known_again() {
    let bench = Bench::start().await;
    let corpus = bench.corpus().await;
    assert_eq!(corpus["events"], EVENTS + EVENTS_LATER);

    let asked_too_early = ["--shapes", "kinds", "--seconds", "0.1"];
    let answered = bench.mode_with_corpus("query", &asked_too_early).await.unwrap();
    assert_eq!(answered[0]["wrong"], 50, "an empty relay was right: {answered}");

    let ingested = bench.mode_with_corpus("ingest", &["--pid", &pid()]).await.unwrap();
    assert_eq!(ingested["events"], EVENTS);
    assert_eq!(ingested["ok"]["count"], EVENTS);
    positive(&ingested, "/events_per_second");
    positive(&ingested, "/relay/memory_bytes");

    let again = ["--connections", "2", "--rate", "3000"];
    let duplicates = bench.mode_with_corpus("duplicates", &again).await.unwrap();
    // What was superseded meanwhile is no duplicate any more.
    let known = duplicates["duplicate"].as_u64().unwrap();
    assert!(known > EVENTS * 9 / 10 && known <= EVENTS, "{duplicates}");

    let answered = bench.mode_with_corpus("query", &["--seconds", "0.1"]).await.unwrap();
    let shapes = answered.as_array().unwrap();
    assert_eq!(shapes.len(), 8);
    for shape in shapes {
        assert_eq!(shape["wrong"], 0, "{shape}");
        assert_eq!(shape["ties_astray"], 0, "{shape}");
        positive(shape, "/requests_per_second");
        positive(shape, "/events_per_answer");
        positive(shape, "/first/p50_us");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_is_counted_once() {
    let bench = Bench::start().await;
    let arguments = ["--subscribers", "25", "--events", "20", "--rate", "200"];
    let fanned_out = bench.mode("fanout", &arguments).await.unwrap();
    assert_eq!(fanned_out["each"]["count"], 25 * 20);
    assert_eq!(fanned_out["last"]["count"], 20);
    assert_eq!((&fanned_out["missing"], &fanned_out["repeated"]), (&0.into(), &0.into()));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_load_ends_without_errors() {
    let bench = Bench::start().await;
    bench.corpus().await;
    let (skip, file) = (EVENTS.to_string(), bench.file());
    let corpus = ["--corpus", &file, "--skip", &skip, "--pid", &pid()];
    let load = ["--seconds", "1", "--publish-rate", "300", "--query-rate", "20"];
    let watching = ["--subscribers", "3", "--sample", "0.2"];
    let soaked = bench.mode("soak", &[&corpus[..], &load, &watching].concat()).await.unwrap();
    assert_eq!(soaked["errors"], Value::Array(Vec::new()));
    assert_eq!(soaked["published"]["events"], EVENTS_LATER);
    assert_eq!(soaked["queries"]["count"], 20);
    positive(&soaked, "/delivered");
    positive(&soaked, "/memory/1/memory_bytes");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_opened_and_subscribed() {
    let bench = Bench::start().await;
    let arguments = ["--connections", "40", "--subscribe", "--pid", &pid()];
    let idled = bench.mode("idle", &arguments).await.unwrap();
    assert_eq!(idled["connections"], 40);
    positive(&idled, "/memory_bytes_with");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_is_measured_without_a_relay() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = folder.path();
    let fsync = run("fsync", &["--writes", "20", path.to_str().unwrap()]).await.unwrap();
    assert_eq!(fsync["count"], 20);
    positive(&run("verify", &["--seconds", "0.05"]).await.unwrap(), "/per_second");
}

/// Ours against itself: the program stands beside the one that is tested.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_starts_its_relays_and_writes_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let within = |name: &str| folder.path().join(name).display().to_string();
    let (corpus, list, table) = (within("corpus"), within("relays.json"), within("table.md"));
    run("corpus", &["--events", "420", "--authors", "40", &corpus]).await.unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_aquifer-bench")).with_file_name("aquifer");
    let command = json!([program, "run", "--data", "{folder}", "--listen", "127.0.0.1:{port}"]);
    let relay = |name, durable| json!({ "name": name, "version": "1", "durable": durable, "command": command });
    fs::write(&list, json!([relay("one", true), relay("other", false)]).to_string()).unwrap();
    fs::write(&table, "before <!-- figures -->old<!-- end of figures --> after").unwrap();

    let files =
        ["--contenders", &list, "--corpus", &corpus, "--folder", &within(""), "--write", &table];
    let events = ["--stored", "400", "--lone", "20", "--fanned-out", "3", "--connections", "10"];
    let compared =
        run("compare", &[&files[..], &events, &["--seconds", "0.05"]].concat()).await.unwrap();
    for relay in compared["relays"].as_array().unwrap() {
        assert_eq!(
            relay["complaints"],
            json!([]),
            "cargo build --workspace makes what this starts"
        );
        assert_eq!(relay["passes"].as_array().unwrap().len(), 2);
    }
    let table = fs::read_to_string(&table).unwrap();
    assert!(table.starts_with("before <!-- figures -->\n") && table.ends_with(" after"), "{table}");
    assert!(!table.contains("old") && table.contains("| one 1 | other 1 |"), "{table}");
    assert!(table.contains("| all right | all right |"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_not_there_is_an_error() {
    let failure = run("fanout", &["--relay", "ws://127.0.0.1:1"]).await.unwrap_err();
    assert!(failure.contains("connecting to ws://127.0.0.1:1"), "{failure}");
}
