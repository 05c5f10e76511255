//! Processes that die, and a disk that fails under one. The test binary runs itself as the child.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use event::{EventId, Filter, Verified, twin::Author};
use store::{Layer2Change, OpenError, Options, Origin, Outcome, Seq, Store, WriteError};
use tokio::runtime::Builder;

use crate::{all, folder, note, open, options, outbox, query};

const ROLE: &str = "AQUIFER_STORE_TEST_ROLE";
const FOLDER: &str = "AQUIFER_STORE_TEST_FOLDER";
const ATTEMPT: &str = "AQUIFER_STORE_TEST_ATTEMPT";

/// `TEST_KILLS` in the environment says otherwise.
const KILLS: u64 = 20;
const WRITERS: u8 = 8;

/// What the child processes run; in any other run it does nothing.
#[test]
fn child() {
    let Ok(role) = env::var(ROLE) else { return };
    println!(); // The test harness has begun a line.
    let folder = env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    match role.as_str() {
        "write" => write_until_killed(folder, env::var(ATTEMPT).unwrap().parse().unwrap()),
        "open" => println!("{}", Store::open(folder, options()).err().unwrap()),
        "break" => break_the_disk(folder),
        "cramp" => fill_the_address_space(folder),
        other => panic!("no such role: {other}"),
    }
}

fn spawn(role: &str, folder: &Path, attempt: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(ROLE, role)
        .env(FOLDER, folder)
        .env(ATTEMPT, attempt.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whole lines only: the last one may have been cut by the kill.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    std::iter::from_fn(move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line.strip_suffix('\n').map(str::to_owned)
    })
}

/// Runs a child to its good end.
fn all_that_says(role: &str, folder: &Path) -> Vec<String> {
    let mut child = spawn(role, folder, 0);
    let said = lines(&mut child).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    said
}

/// Page `number` of a feed: one event.
fn page(number: u64) -> Verified {
    Author::new(99).sign(2_000 + number, 1, &[&["t", "page"]], "")
}

fn write_until_killed(folder: &Path, attempt: u64) {
    let (store, writer) = Store::open(folder, Options::default()).unwrap();
    Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(async {
        for author in 0..WRITERS {
            let writer = writer.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    let content = format!("{attempt} {number}");
                    let event = Author::new(author).sign(1_000, 1, &[&["t", "x"]], &content);
                    let id = event.id;
                    let Outcome::Saved(seq) = writer.put(event, Origin::Client).await.unwrap()
                    else {
                        panic!("it was new");
                    };
                    println!("acked {seq} {id}");
                }
            });
        }
        for number in store.l2_cursor().unwrap().unwrap_or(0).. {
            let changes = vec![Layer2Change::Saved(page(number))];
            writer.apply_layer2(changes, number + 1).await.unwrap();
            println!("paged {}", number + 1);
        }
    });
}

#[test]
fn all_that_was_acknowledged_survives_a_kill() {
    // On a real disk, unlike the others.
    let folder = tempfile::tempdir().unwrap();
    let mut acked: BTreeMap<Seq, EventId> = BTreeMap::new();
    let mut paged = 0;
    for attempt in 0..env::var("TEST_KILLS").map_or(KILLS, |count| count.parse().unwrap()) {
        let mut child = spawn("write", folder.path(), attempt);
        let patience = 1 + attempt * 37 % 150;
        let mut seen = 0;
        for line in lines(&mut child) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["acked", seq, id] => {
                    let seq = Seq(seq.parse().unwrap());
                    let before = acked.insert(seq, id.parse().unwrap());
                    assert_eq!(before, None, "seq {seq} was used twice");
                }
                ["paged", number] => paged = number.parse().unwrap(),
                _ => continue,
            }
            seen += 1;
            if seen == patience {
                child.kill().unwrap(); // SIGKILL
            }
        }
        assert!(!child.wait().unwrap().success(), "it was killed");
        assert!(seen >= patience, "it wrote until it was killed");
        check(folder.path(), &acked, paged);
    }
}

fn check(folder: &Path, acked: &BTreeMap<Seq, EventId>, paged: u64) {
    let (store, _writer) = open(folder);
    let held: BTreeMap<Seq, EventId> = all(&store).into_iter().collect();
    for (seq, id) in acked {
        assert_eq!(held.get(seq), Some(id), "acknowledged, and lost");
    }
    // The cursor says exactly which pages are here.
    let cursor = store.l2_cursor().unwrap().unwrap_or(0);
    assert!(cursor >= paged);
    let pages: Vec<EventId> = (0..cursor).map(|number| page(number).id).collect();
    assert!(pages.iter().all(|id| store.contains(id).unwrap()));
    assert!(!store.contains(&page(cursor).id).unwrap());
    // All entries tell the same story.
    let mut by_date: Vec<EventId> =
        query(&store, &[Filter::default()], 100).iter().map(|event| event.id).collect();
    by_date.sort_unstable();
    let mut by_seq: Vec<EventId> = held.values().copied().collect();
    by_seq.sort_unstable();
    assert_eq!(by_date, by_seq);
    let rows: Vec<(Seq, EventId)> =
        held.into_iter().filter(|(_, id)| !pages.contains(id)).collect();
    assert_eq!(outbox(&store), rows);
}

#[test]
fn a_second_process_is_refused() {
    let folder = folder();
    let (_store, _writer) = open(folder.path());
    let refusal = OpenError::InUse(folder.path().into()).to_string();
    assert!(all_that_says("open", folder.path()).contains(&refusal));
}

/// How far files may be written. Beyond it the kernel refuses, and does not kill us.
fn limit_files(bytes: libc::rlim_t) {
    // SAFETY: a plain system call on this process, which runs nothing else.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    limit(libc::RLIMIT_FSIZE, bytes);
}

fn limit(what: libc::__rlimit_resource_t, bytes: libc::rlim_t) {
    // SAFETY: plain system calls on this process, which runs nothing else.
    unsafe {
        let mut limit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(what, &mut limit), 0);
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(what, &limit), 0);
    }
}

/// From now on the process can map so much more than it has.
fn limit_address_space(more: u64) {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    // SAFETY: a question.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    limit(libc::RLIMIT_AS, pages * page + more);
}

fn fill_the_address_space(folder: &Path) {
    // Not the 64 GiB that it would like to have.
    limit_address_space(1 << 30);
    drop(open(folder));
    limit_address_space(128 << 20);
    let small = Options { map_bytes: 48 << 20, ..options() };
    let (store, writer) = Store::open(folder, small).unwrap();
    Builder::new_current_thread().build().unwrap().block_on(async {
        let large = |number: u64| note(&format!("{number}{}", "x".repeat(1_000_000)));
        let mut held = Vec::new();
        let cause = loop {
            let event = large(held.len() as u64);
            match writer.put(event.clone(), Origin::Client).await {
                Ok(_) => held.push((Seq(held.len() as u64), event.id)),
                Err(cause) => break cause,
            }
        };
        assert_eq!(cause, WriteError::Full);
        assert!(held.len() > 30, "{}", held.len());
        assert_eq!(all(&store), held);
        limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        let outcome = writer.put(large(99), Origin::Client).await.unwrap();
        assert!(matches!(outcome, Outcome::Saved(_)));
        writer.stop().await;
    });
    println!("it got by");
}

#[test]
fn a_store_makes_do_with_the_address_space_there_is() {
    let folder = folder();
    assert!(all_that_says("cramp", folder.path()).contains(&"it got by".to_owned()));
}

fn break_the_disk(folder: &Path) {
    let (store, writer) = open(folder);
    Builder::new_current_thread().build().unwrap().block_on(async {
        let held = note("before");
        writer.put(held.clone(), Origin::Client).await.unwrap();
        limit_files(4_096);
        let large = "x".repeat(100_000);
        let first = writer.put(note(&large), Origin::Client).await;
        limit_files(libc::RLIM_INFINITY);
        let then = writer.put(note("small"), Origin::Client).await;
        assert!(matches!(first, Err(WriteError::Failed(_))), "{first:?}");
        assert_eq!(first, then, "the disk is well again, but who knows what lies on it");
        assert_eq!(store.get(&held.id).unwrap(), Some(held.pack()));
        assert_eq!(*store.follow().borrow(), Seq(1));
        writer.stop().await;
    });
    println!("the disk broke");
}

#[test]
fn after_a_failed_commit_the_store_is_read_only() {
    let folder = folder();
    assert!(all_that_says("break", folder.path()).contains(&"the disk broke".to_owned()));
    let (store, _writer) = open(folder.path());
    assert_eq!(all(&store), [(Seq(0), note("before").id)]);
}
