//! A store that several processes have open at once. The test binary runs itself as the others.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    ops::ControlFlow,
    path::Path,
    process::{Child, Command, Stdio},
};

use event::{EventId, Filter, Packed, Timestamp, Verified, twin::Author};
use index::Scan;
use store::{Entry, OpenError, Options, Outcome, Seq, Shared, Store};
use tokio::runtime::Builder;

use crate::{Page, folder, note, open, options};

const ROLE: &str = "AQUIFER_SHARED_TEST_ROLE";
const FOLDER: &str = "AQUIFER_SHARED_TEST_FOLDER";
/// Far less than is written.
const SMALL_MAP: usize = 1 << 20;

/// What the other processes run; in any other run it does nothing.
#[test]
fn other_process() {
    let Ok(role) = env::var(ROLE) else { return };
    println!(); // The test harness has begun a line.
    let folder = env::var(FOLDER).unwrap();
    match role.as_str() {
        "fill" => fill(Path::new(&folder)),
        "write" => write_until_killed(Path::new(&folder)),
        "read" => read_until_killed(Path::new(&folder)),
        other => panic!("no such role: {other}"),
    }
}

fn spawn(role: &str, folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "shared::other_process", "--nocapture"])
        .env(ROLE, role)
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

fn save(shared: &Shared, events: Vec<Verified>) -> Vec<Outcome> {
    Builder::new_current_thread().build().unwrap().block_on(shared.save(events)).unwrap()
}

fn large_notes(author: u8) -> Vec<Verified> {
    let text = "x".repeat(100_000);
    (0..60).map(|at| Author::new(author).sign(100 + at, 1, &[], &text)).collect()
}

fn fill(folder: &Path) {
    save(&Shared::open(folder, options()).unwrap(), large_notes(2));
}

fn write_until_killed(folder: &Path) {
    let shared = Shared::open(folder, options()).unwrap();
    for number in 0.. {
        let event = Author::new(3).sign(100 + number, 1, &[], "");
        let id = event.id;
        save(&shared, vec![event]);
        println!("acked {id}");
    }
}

fn read_until_killed(folder: &Path) {
    let shared = Shared::open(folder, options()).unwrap();
    let _ = shared.changes(Seq(0), |_, _, _| {
        println!("reading");
        std::io::stdout().flush().unwrap();
        std::thread::park();
        ControlFlow::Continue(())
    });
}

fn count(shared: &Shared) -> usize {
    let mut page = Page { events: Vec::new(), room: usize::MAX };
    shared.store().page(&mut Scan::new(&[Filter::default()]), &mut page).unwrap();
    page.events.len()
}

/// What who follows the log from its start holds at its end.
fn follow(shared: &Shared) -> BTreeMap<Seq, EventId> {
    let mut held = BTreeMap::new();
    let mut last = Timestamp(0);
    let (next, length) = shared
        .changes(Seq(0), |seq, arrived, entry| {
            assert!(last <= arrived);
            last = arrived;
            match entry {
                Entry::Saved(bytes) => drop(held.insert(seq, Packed::parse(bytes).unwrap().id())),
                Entry::Removed { id, .. } => held.retain(|_, other| *other != id),
                Entry::Cleared => held.clear(),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(next, length);
    held
}

#[test]
fn a_process_follows_when_another_outgrows_its_map() {
    let folder = folder();
    let small = Options { map_bytes: SMALL_MAP, ..options() };
    let shared = Shared::open(folder.path(), small).unwrap();
    save(&shared, vec![note("first")]);
    assert!(spawn("fill", folder.path()).wait().unwrap().success());
    assert_eq!(count(&shared), 61, "reading maps more");
    assert!(spawn("fill", folder.path()).wait().unwrap().success());
    save(&shared, large_notes(4));
    assert_eq!((count(&shared), follow(&shared).len()), (121, 121), "and so does writing");
}

#[test]
fn a_process_that_writes_first_after_another_outgrew_its_map_follows_too() {
    let folder = folder();
    let small = Options { map_bytes: SMALL_MAP, ..options() };
    let shared = Shared::open(folder.path(), small).unwrap();
    assert!(spawn("fill", folder.path()).wait().unwrap().success());
    save(&shared, vec![note("last")]);
    assert_eq!(count(&shared), 61);
}

#[test]
fn what_a_process_acknowledged_before_it_was_killed_is_there_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let shared = Shared::open(folder.path(), options()).unwrap();
    let mut acked = Vec::new();
    for _ in 0..5 {
        let mut child = spawn("write", folder.path());
        let mut said = lines(&mut child);
        let mut ids = said.by_ref().filter_map(|line| {
            line.strip_prefix("acked ").and_then(|id| id.parse::<EventId>().ok())
        });
        acked.extend(ids.by_ref().take(20));
        save(&shared, vec![note("while the other writes")]);
        child.kill().unwrap();
        child.wait().unwrap();
        acked.extend(ids);
        save(&shared, vec![note("and after its end")]);
    }
    let held = follow(&shared);
    assert!(acked.iter().all(|id| held.values().any(|other| other == id)));
    assert_eq!(count(&shared), held.len());
}

#[test]
fn a_process_killed_while_it_reads_keeps_no_pages_from_being_used_again() {
    let folder = folder();
    let shared = Shared::open(folder.path(), options()).unwrap();
    save(&shared, vec![note("something to read")]);
    let mut child = spawn("read", folder.path());
    assert!(lines(&mut child).any(|line| line == "reading"));
    child.kill().unwrap();
    child.wait().unwrap();
    let profile = |at: u64| vec![Author::new(5).sign(100 + at, 0, &[], &"x".repeat(50_000))];
    (0..20).for_each(|at| drop(save(&shared, profile(at))));
    let before = shared.store().stats().unwrap().bytes_on_disk;
    (20..60).for_each(|at| drop(save(&shared, profile(at))));
    assert_eq!(shared.store().stats().unwrap().bytes_on_disk, before);
}

#[test]
fn a_shared_store_and_a_relays_own_are_never_taken_for_each_other() {
    let folder = folder();
    drop(open(folder.path()));
    let refused = Shared::open(folder.path(), options()).err().unwrap();
    assert!(matches!(refused, OpenError::Format { .. }), "{refused}");
    assert!(refused.to_string().contains("a relay's own"), "{refused}");

    let folder = crate::folder();
    let shared = Shared::open(folder.path(), options()).unwrap();
    let refused = Store::open(folder.path(), options()).err().unwrap();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    drop(shared);
    let refused = Store::open(folder.path(), options()).err().unwrap();
    assert!(refused.to_string().contains("a shared one"), "{refused}");
}
