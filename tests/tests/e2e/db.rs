//! `aquifer db`, on relays that run and on what stopped ones left.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use event::{Event, twin::Author};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use crate::{
    events::{Events, by_id, difference, jsonl, left_of, notes, real_events_and_a_life},
    world::{PATIENCE, Relay, World, aquifer},
};

/// The data folder of one relay, which may run or not.
struct Data {
    folder: TempDir,
}

impl Data {
    fn new() -> Data {
        Data { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn socket(&self) -> PathBuf {
        self.path().join("control.sock")
    }

    async fn try_db(&self, words: &[&str], input: &str) -> Output {
        db(self.path(), words, input).await
    }

    /// What it prints when it goes well.
    async fn db(&self, words: &[&str], input: &str) -> String {
        let output = self.try_db(words, input).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "aquifer db {words:?}: {}: {told}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it ends with 1.
    async fn db_fails(&self, words: &[&str], input: &str) -> String {
        let output = self.try_db(words, input).await;
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    async fn stats(&self) -> serde_json::Value {
        serde_json::from_str(&self.db(&["stats", "--json"], "").await).unwrap()
    }

    async fn export(&self, words: &[&str]) -> Vec<Event> {
        let lines = self.db(&[&["export"], words].concat(), "").await;
        lines.lines().map(|line| Event::from_json(line.as_bytes()).unwrap()).collect()
    }

    async fn holds(&self) -> Events {
        by_id(self.export(&[]).await)
    }
}

async fn db(data: &Path, words: &[&str], input: &str) -> Output {
    let data = data.display().to_string();
    let words = ["db", "--data", &data].into_iter().chain(words.iter().copied());
    aquifer(words, input.as_bytes().to_vec()).await
}

/// As NIP-01 orders answers.
fn newest_first(events: &Events) -> Vec<Event> {
    let mut events: Vec<Event> = events.values().cloned().collect();
    events.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
    events
}

#[tokio::test]
async fn a_stopped_relays_store_and_a_running_one_answer_the_same() {
    let data = Data::new();
    let events = real_events_and_a_life();
    let expected = left_of(&events);
    let summary = data.db(&["import", "-", "--json"], &jsonl(&events)).await;
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["invalid"], 0, "{summary}");
    let stopped = answers(&data, &expected).await;

    let relay = Relay::alone(data.path()).await;
    let mode = fs::metadata(data.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others are kept out");
    assert_eq!(answers(&data, &expected).await, stopped);
    assert_eq!(difference(&expected, &relay.client().await.fetch_all().await), None);
    relay.stop().await;
    assert!(!data.socket().exists(), "a relay that stops leaves no socket");
}

/// Everything that can be asked, checked, as text.
async fn answers(data: &Data, expected: &Events) -> Vec<String> {
    let mut order = newest_first(expected);
    assert_eq!(data.export(&[]).await, order);
    let of_kind_1 = |event: &&Event| event.kind.0 == 1;
    let kind_1: Vec<Event> = order.iter().filter(of_kind_1).take(7).cloned().collect();
    let filter = r#"{"kinds":[1],"limit":7}"#;
    assert_eq!(data.export(&["--filter", filter]).await, kind_1);
    order.reverse();
    assert_eq!(data.export(&["--oldest-first"]).await, order);
    let mut kind_1 = kind_1;
    kind_1.reverse();
    assert_eq!(data.export(&["--oldest-first", "--filter", filter]).await, kind_1);
    let stats = data.stats().await;
    assert_eq!(stats["events"], expected.len(), "{stats}");
    let verified = data.db(&["verify"], "").await;
    assert!(verified.contains("ok        ids") && !verified.contains("VIOLATED"), "{verified}");
    vec![data.db(&["stats"], "").await, verified, data.db(&["verify", "--json"], "").await]
}

#[tokio::test]
async fn an_import_counts_every_line_and_tells_the_first_reasons() {
    let data = Data::new();
    let relay = Relay::alone(data.path()).await;
    let author = Author::new(1);
    let notes = notes(2, 30, 600);
    let mut forged = notes[0].clone();
    forged.content += "!";
    let old = author.sign(1_000, 0, &[], "an old profile").into_inner();
    let new = author.sign(2_000, 0, &[], "a new profile").into_inner();
    let mut lines = jsonl(&[notes.as_slice(), &[notes[1].clone(), new, old, forged]].concat());
    lines += "\nno event\n";
    let output = data.try_db(&["import", "-"], &lines).await;
    let (said, told) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    let (said, told) = (said.unwrap(), told.unwrap());
    assert!(output.status.success(), "{told}");
    assert!(said.starts_with("accepted 31, duplicate 1, refused 1, not an event 2\n"), "{said}");
    assert!(said.contains("1 × a newer version is here"), "{said}");
    assert!(told.contains("line 34: id is not the hash of the event"), "{told}");
    assert!(told.contains("line 36: not an event"), "{told}");
    assert_eq!(data.stats().await["events"], 31);
    relay.stop().await;
}

#[tokio::test]
async fn what_is_imported_into_a_running_relay_is_live_and_goes_up_to_the_canister() {
    let world = World::new().await;
    let (a, b) = world.two_relays().await;
    let events = notes(1, 1_200, 600);
    let mut subscription = a.client().await.subscribe().await;
    let data = a.run.options().data.clone();
    let output = db(&data, &["import", "-"], &jsonl(&events)).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    subscription.gets(&events[700]).await;
    world.settles_on(&left_of(&events), &[&a, &b]).await;
    let output = db(&data, &["stats", "--json"], "").await;
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stats["layer2"], world.ic.canister().to_text(), "{stats}");
    world.end([a, b]).await;
}

#[tokio::test]
async fn a_deletion_is_asked_for_with_the_count_and_takes_what_matches_here() {
    let data = Data::new();
    let (here, there) = (notes(1, 1_100, 400), notes(2, 20, 400));
    data.db(&["import", "-"], &jsonl(&[here.clone(), there.clone()].concat())).await;
    let relay = Relay::alone(data.path()).await;
    let filter = format!(r#"{{"authors":["{}"]}}"#, here[0].pubkey);
    let delete = ["delete", "--filter", &filter];
    let told = data.db_fails(&delete, "no\n").await;
    let question = "1100 events match, of which the canister does not have 1100.";
    assert!(told.contains(question) && told.contains("nothing was done"), "{told}");
    assert_eq!(data.stats().await["events"], 1_120);
    assert_eq!(data.db(&delete, "yes\n").await, "deleted 1100 events\n");
    assert_eq!(difference(&by_id(there.clone()), &data.holds().await), None);
    assert_eq!(data.db(&delete, "").await, "no event matches\n");
    relay.client().await.publish(&here[5]).await;
    relay.stop().await;
    assert_eq!(data.db(&[&delete[..], &["--yes"]].concat(), "").await, "deleted 1 events\n");
    let stats = data.stats().await;
    assert_eq!((&stats["events"], &stats["outbox"]), (&20.into(), &20.into()), "{stats}");
    data.db(&["verify"], "").await;
}

#[tokio::test]
async fn compacting_gives_room_back_and_keeps_what_is_held() {
    let data = Data::new();
    let events = notes(1, 2_000, 1_500);
    data.db(&["import", "-"], &jsonl(&events)).await;
    data.db(&["delete", "--yes", "--filter", r#"{"until":1700002900}"#], "").await;
    let held = data.holds().await;
    assert_eq!(held.len(), 99, "those of the last seconds");
    let before = data.stats().await;
    let said = data.db(&["compact"], "").await;
    assert!(said.starts_with("before ") && said.contains("\nafter "), "{said}");
    let after = data.stats().await;
    let bytes = |stats: &serde_json::Value| stats["bytes_on_disk"].as_u64().unwrap();
    assert!(bytes(&after) < bytes(&before) / 4, "{before} {after}");
    assert_eq!(after["next_seq"], before["next_seq"], "no seq is given again");
    assert_eq!(difference(&held, &data.holds().await), None);
    data.db(&["verify"], "").await;
}

/// What a collection of the relay in `data` came to.
async fn gc(data: &Data, config: &str) -> serde_json::Value {
    serde_json::from_str(&data.db(&["gc", "--json", "--config", config], "").await).unwrap()
}

#[tokio::test]
async fn garbage_is_collected_when_asked_for_on_a_stopped_relay_and_a_running_one() {
    let data = Data::new();
    let file = data.path().join("relay.toml");
    // All of the test's events are below the high mark, so nothing goes by itself.
    let marks = "cache_bytes_max = 8388608\ncache_low_percent = 25\ncache_high_percent = 80\n";
    fs::write(&file, marks).unwrap();
    let config = file.to_str().unwrap();
    let (events, more) = (notes(1, 100, 30_000), notes(2, 40, 30_000));
    let import = ["import", "-", "--config", config];
    data.db(&import, &jsonl(&events[..50])).await;
    let said = data.db(&["gc", "--config", config], "").await;
    assert!(said.starts_with("nothing had to go: "), "{said}");
    data.db(&import, &jsonl(&events[50..])).await;
    let gone = took_the_oldest(&gc(&data, config).await);
    assert_eq!(difference(&by_id(events[gone..].to_vec()), &data.holds().await), None);

    let relay = Relay::alone_with(data.path(), &["--config", config]).await;
    relay.client().await.publish_all(&more).await;
    let gone = gone + took_the_oldest(&gc(&data, config).await);
    let expected = by_id([&events[gone..], &more].concat());
    assert_eq!(difference(&expected, &data.holds().await), None);
    let said = data.db(&["gc"], "").await;
    assert!(said.starts_with("nothing had to go: "), "the relay knows its marks: {said}");
    relay.stop().await;
    data.db(&["verify"], "").await;
}

/// How many events went: whole ones, without a canister.
fn took_the_oldest(freed: &serde_json::Value) -> usize {
    let figure = |name: &str| freed[name].as_u64().unwrap();
    assert_eq!((&freed["was_due"], figure("stubs")), (&true.into(), 0), "{freed}");
    assert!(figure("bytes_before") > figure("bytes_low"), "{freed}");
    assert!(figure("bytes_after") <= figure("bytes_low"), "{freed}");
    assert!(figure("bodies") > 0, "{freed}");
    figure("bodies") as usize
}

#[tokio::test]
async fn a_store_without_a_limit_is_not_collected() {
    let data = Data::new();
    data.db(&["import", "-"], &jsonl(&notes(1, 3, 400))).await;
    let told = data.db_fails(&["gc"], "").await;
    assert!(told.contains("this store has no limit (`cache_bytes_max`)"), "{told}");
    let relay = Relay::alone(data.path()).await;
    let told = data.db_fails(&["gc"], "").await;
    assert!(told.contains("this store has no limit (`cache_bytes_max`)"), "{told}");
    relay.stop().await;
    assert_eq!(data.stats().await["events"], 3);
}

#[tokio::test]
async fn nuking_is_asked_for_with_what_is_lost_and_leaves_the_key() {
    let data = Data::new();
    let relay = Relay::alone(data.path()).await;
    relay.client().await.publish_all(&notes(1, 3, 400)).await;
    for words in [&["nuke", "--yes"][..], &["compact"]] {
        let told = data.db_fails(words, "").await;
        assert!(told.contains("stop the relay first"), "{told}");
    }
    relay.stop().await;
    let key = fs::read(data.path().join("relay.key")).unwrap();
    let told = data.db_fails(&["nuke"], "yes\n").await;
    assert!(told.contains("holds 3 events. 3 wait for the canister"), "{told}");
    assert_eq!(data.stats().await["events"], 3);
    data.db(&["nuke"], "nuke\n").await;
    let told = data.db_fails(&["stats"], "").await;
    assert!(told.contains("there is no store in"), "{told}");
    assert_eq!(fs::read(data.path().join("relay.key")).unwrap(), key);
    let relay = Relay::alone(data.path()).await;
    assert_eq!(data.stats().await["events"], 0);
    relay.stop().await;
}

#[tokio::test]
async fn a_damaged_event_is_named_and_the_answer_is_1() {
    let data = Data::new();
    let mut events = notes(1, 50, 400);
    events[20] = Author::new(3).sign(1_700_000_000, 1, &[], "a needle in the hay").into_inner();
    data.db(&["import", "-"], &jsonl(&events)).await;
    let file = data.path().join("events/data.mdb");
    let mut bytes = fs::read(&file).unwrap();
    let needle = b"a needle in the hay";
    let places = bytes.windows(needle.len()).enumerate().filter(|(_, bytes)| bytes == needle);
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    assert!(!places.is_empty(), "contents lie in the file as they are");
    // Pages that were written anew may have left copies.
    places.iter().for_each(|place| bytes[*place] = b'A');
    fs::write(&file, bytes).unwrap();
    let output = data.try_db(&["verify"], "").await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("VIOLATED  events"), "{said}");
    assert!(said.contains("seq 20: id is not the hash of the event"), "{said}");
    assert!(said.contains("ok        ids"), "{said}");
}

#[tokio::test]
async fn a_socket_that_a_killed_relay_left_is_in_nobodys_way() {
    let data = Data::new();
    let relay = Relay::alone(data.path()).await;
    relay.client().await.publish_all(&notes(1, 5, 400)).await;
    relay.run.process().kill().await;
    assert!(data.socket().exists());
    assert_eq!(data.stats().await["events"], 5);
    let relay = Relay::alone(data.path()).await;
    assert_eq!(data.stats().await["events"], 5);
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_speaks_another_version_is_named_and_silence_too() {
    let data = Data::new();
    data.db(&["import", "-"], "").await;
    let lock = File::create(data.path().join("events/in-use.lock")).unwrap();
    lock.lock().unwrap();
    let told = data.db_fails(&["stats"], "").await;
    assert!(told.contains("the store is in use, but nobody answers at"), "{told}");
    let listener = UnixListener::bind(data.socket()).unwrap();
    std::thread::spawn(move || {
        // The first connection only asks whether somebody is there.
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let _ = writeln!(stream, r#"{{"protocol":99,"version":"9.9.9"}}"#);
            let _ = stream.read(&mut [0]);
        }
    });
    let told = data.db_fails(&["stats"], "").await;
    assert!(told.contains("the relay that runs is version 9.9.9"), "{told}");
}

#[tokio::test]
async fn clients_that_say_nothing_or_nonsense_harm_nobody() {
    const MOST: usize = 16;
    let data = Data::new();
    let relay = Relay::alone(data.path()).await;
    let mut silent = Vec::new();
    for _ in 0..MOST {
        let mut stream = BufReader::new(UnixStream::connect(data.socket()).await.unwrap());
        let greeting = line(&mut stream).await;
        assert!(greeting.contains("protocol"), "{greeting}");
        silent.push(stream);
    }
    relay.client().await.publish_all(&notes(1, 5, 400)).await;
    let told = data.db_fails(&["stats"], "").await;
    assert!(told.contains("16 others are being served"), "{told}");
    let mut nonsense = silent.pop().unwrap();
    nonsense.write_all(b"{\"conquer\":\"the world\"}\n").await.unwrap();
    let reply = line(&mut nonsense).await;
    assert!(reply.contains("failed") && reply.contains("not a request"), "{reply}");
    assert_eq!(line(&mut nonsense).await, "", "that was all");
    drop(nonsense);
    let started = Instant::now();
    while !data.try_db(&["stats"], "").await.status.success() {
        assert!(started.elapsed() < PATIENCE, "its place is free again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // And a stop does not wait for them.
    relay.stop().await;
    assert_eq!(line(silent.last_mut().unwrap()).await, "");
}

async fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line
}
