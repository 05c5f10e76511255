//! Libraries that people write clients with, against a real relay: each publishes, asks, listens,
//! authenticates and reconciles.
//!
//! Those for JavaScript and Python are installed with the versions that `tests/data/clients` names, once,
//! in the target folder. Where that cannot be done, a line says that they were skipped.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use nostr_sdk::{
    Event, EventBuilder, EventId, Filter, Keys, Kind, RelayMessage, SubscribeOptions, SyncOptions,
    Tag, Timestamp,
    pool::{RelayNotification, relay::ReqExitPolicy},
};
use tokio::{process::Command, time::timeout};

use crate::world::{PATIENCE, Relay, artifacts, tell};

/// A registry that takes longer is not there.
const INSTALLING_MAX: Duration = Duration::from_secs(90);
/// What each client says, line by line.
const FACTS: &str = "publishes\nqueries\nsubscribes\nauthenticates\nreconciles\n";

#[tokio::test]
async fn nostr_tools_for_javascript_gets_along_with_the_relay() {
    let npm = ["npm", "ci", "--no-audit", "--no-fund", "--fetch-retries=0"];
    match Library::named("nostr-tools").installed(&[&npm]).await {
        Ok(library) => library.gets_along(Path::new("node"), "client.js").await,
        Err(why) => tell(&format!("skipped: nostr-tools for JavaScript: {why}")),
    }
}

#[tokio::test]
async fn nostr_sdk_for_python_gets_along_with_the_relay() {
    let venv = ["python3", "-m", "venv", "venv"];
    let pip = ["venv/bin/pip", "install", "--quiet", "--retries=0", "-r", "requirements.txt"];
    match Library::named("nostr-sdk-python").installed(&[&venv, &pip]).await {
        Ok(library) => library.gets_along(Path::new("venv/bin/python"), "client.py").await,
        Err(why) => tell(&format!("skipped: nostr-sdk for Python: {why}")),
    }
}

/// A library, and a client that is written with it.
struct Library {
    name: &'static str,
    source: PathBuf,
    /// Where it is installed.
    folder: PathBuf,
}

impl Library {
    fn named(name: &'static str) -> Library {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/clients").join(name);
        let folder = artifacts().servers().with_file_name("clients").join(name);
        Library { name, source, folder }
    }

    /// Copies the client beside the library, and installs that, unless it was installed for the very same
    /// files.
    async fn installed(self, commands: &[&[&str]]) -> Result<Library, String> {
        fs::create_dir_all(&self.folder).unwrap();
        let mut state = String::new();
        for file in fs::read_dir(&self.source).unwrap().map(Result::unwrap) {
            let text = fs::read_to_string(file.path()).unwrap();
            fs::write(self.folder.join(file.file_name()), &text).unwrap();
            let is_program = file.path().extension().is_some_and(|end| end == "js" || end == "py");
            state += if is_program { "" } else { &text };
        }
        let stamp = self.folder.join("installed");
        if fs::read_to_string(&stamp).is_ok_and(|before| before == state) {
            return Ok(self);
        }
        for words in commands {
            let output = timeout(INSTALLING_MAX, self.run(Path::new(words[0]), &words[1..])).await;
            let output = output.map_err(|_| format!("{words:?} takes too long"))?;
            let output = output.map_err(|error| format!("{}: {error}", words[0]))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{words:?}: {}", said.lines().last().unwrap_or_default()));
            }
        }
        fs::write(stamp, state).unwrap();
        Ok(self)
    }

    async fn gets_along(&self, interpreter: &Path, program: &str) {
        let folder = tempfile::tempdir().unwrap();
        let relay = Relay::alone(folder.path()).await;
        let url = relay.run.url();
        let output = timeout(PATIENCE, self.run(interpreter, &[program, &url])).await;
        let output = output.expect("it comes to an end").unwrap();
        let [said, complaint] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert_eq!(said, FACTS, "{}: {complaint}", self.name);
        relay.stop().await;
    }

    async fn run(&self, program: &Path, words: &[&str]) -> std::io::Result<Output> {
        // A program of the folder goes by its whole path; others are looked for.
        let local = self.folder.join(program);
        let program = if local.exists() { &local } else { program };
        let mut command = Command::new(program);
        command.args(words).current_dir(&self.folder).kill_on_drop(true);
        command.stdin(Stdio::null()).output().await
    }
}

#[tokio::test]
async fn nostr_sdk_for_rust_gets_along_with_the_relay() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::alone(folder.path()).await;
    let keys = Keys::generate();
    let sdk = nostr_sdk::Client::new(keys.clone());
    let mine = Filter::new().author(keys.public_key()).kind(Kind::TextNote);
    let client = connected(&sdk, &relay).await;

    let notes = [1_000, 1_001, 1_002, 1_003].map(|date| note(&keys, date));
    for note in &notes {
        client.send_event(note).await.unwrap();
    }
    let deletion = sign(&keys, Kind::EventDeletion, 2_000, &["e", &notes[0].id.to_hex()]);
    client.send_event(&deletion).await.unwrap();
    let refusal = client.send_event(&notes[0]).await.unwrap_err().to_string();
    assert!(refusal.contains("blocked: "), "{refusal}");

    let left = [&notes[3], &notes[2], &notes[1]].map(|note| note.id);
    assert_eq!(fetched(&client, mine.clone()).await, left);
    assert_eq!(fetched(&client, mine.clone().hashtag("water").limit(1)).await, left[..1]);

    let live = note(&keys, 3_000);
    let publisher = nostr_sdk::Client::default();
    let mut frames = client.notifications();
    client.subscribe(mine.clone().limit(0), SubscribeOptions::default()).await.unwrap();
    heard(&mut frames, |frame| matches!(frame, RelayMessage::EndOfStoredEvents(_))).await;
    connected(&publisher, &relay).await.send_event(&live).await.unwrap();
    heard(
        &mut frames,
        |frame| matches!(frame, RelayMessage::Event { event, .. } if event.id == live.id),
    )
    .await;

    let wrap = sign(&Keys::generate(), Kind::GiftWrap, 1_000, &["p", &keys.public_key().to_hex()]);
    client.send_event(&wrap).await.unwrap();
    let inbox = Filter::new().kind(Kind::GiftWrap).pubkey(keys.public_key());
    assert_eq!(fetched(&client, inbox).await, [wrap.id]);

    let only_here = note(&keys, 1_500);
    let here = [&notes[1], &only_here].map(|event| (event.id, event.created_at));
    let lacking = client.sync_with_items(mine, here.into(), &SyncOptions::new().dry_run()).await;
    let lacking = lacking.unwrap();
    assert_eq!(lacking.local, HashSet::from([only_here.id]));
    assert_eq!(lacking.remote, HashSet::from([notes[2].id, notes[3].id, live.id]));
    relay.stop().await;
}

async fn connected(sdk: &nostr_sdk::Client, relay: &Relay) -> nostr_sdk::Relay {
    sdk.add_relay(relay.run.url()).await.unwrap();
    let connection = sdk.relay(relay.run.url()).await.unwrap();
    connection.try_connect(PATIENCE).await.unwrap();
    connection
}

fn note(keys: &Keys, date: u64) -> Event {
    sign(keys, Kind::TextNote, date, &["t", "water"])
}

fn sign(keys: &Keys, kind: Kind, date: u64, tag: &[&str]) -> Event {
    let event =
        EventBuilder::new(kind, format!("of {date}")).tag(Tag::parse(tag.iter().copied()).unwrap());
    let event = event.allow_self_tagging().custom_created_at(Timestamp::from_secs(date));
    event.sign_with_keys(keys).unwrap()
}

async fn fetched(client: &nostr_sdk::Relay, filter: Filter) -> Vec<EventId> {
    let events = client.fetch_events(filter, PATIENCE, ReqExitPolicy::ExitOnEOSE).await.unwrap();
    events.into_iter().map(|event| event.id).collect()
}

async fn heard(
    frames: &mut tokio::sync::broadcast::Receiver<RelayNotification>,
    is_wanted: impl Fn(&RelayMessage<'_>) -> bool,
) {
    let hearing = async {
        loop {
            let notification = frames.recv().await.expect("the client keeps up");
            if let RelayNotification::Message { message } = notification
                && is_wanted(&message)
            {
                return;
            }
        }
    };
    timeout(PATIENCE, hearing).await.expect("it comes");
}
