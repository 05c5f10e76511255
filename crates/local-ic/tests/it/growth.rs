//! What an instance no longer needs, its process gives back.

use std::process::{Child, Command, Stdio};

use pocket_ic::{PocketIc, PocketIcBuilder};

use crate::support::*;

/// A server of our own, so that no other test moves its numbers.
struct Server {
    /// Dropped, and so deleted, while the process is still there.
    pic: PocketIc,
    process: Process,
}

struct Process(Child);

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("port");
        let process = Command::new(binary())
            .args(["--ttl", "20", "--port-file", file.to_str().unwrap()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let port: u16 =
            wait_for(|| std::fs::read_to_string(&file).ok()?.strip_suffix('\n')?.parse().ok());
        let pic = PocketIcBuilder::new()
            .with_server_url(format!("http://localhost:{port}/").parse().unwrap())
            .with_application_subnet()
            .build();
        Server { pic, process: Process(process) }
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id()));
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.0.id())).unwrap().count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn fifty_thousand_updates_leave_memory_and_descriptors_as_they_were() {
    const BATCH: usize = 1_000;
    let server = Server::start();
    let pic = &server.pic;
    let canister = install(pic);
    let updates = |count: usize| {
        for _ in 0..count / BATCH {
            let submit = |_| pic.submit_call(canister, anyone(), "inc", vec![]).unwrap();
            let mut submitted: Vec<_> = (0..BATCH).map(submit).collect();
            pic.await_call(submitted.pop().unwrap()).unwrap();
        }
    };
    // By then as many answers are remembered as ever will be.
    updates(25_000);
    let (memory, descriptors) = (server.resident_kib(), server.descriptors());
    updates(25_000);
    assert_eq!(read(pic, canister), [50_000; 3]);
    let grown = server.resident_kib().saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB on top of {memory}");
    assert_eq!(server.descriptors(), descriptors);
}

#[test]
fn deleted_canisters_snapshots_and_instances_leave_nothing_open() {
    let server = Server::start();
    let pic = &server.pic;
    let come_and_go = |count| {
        for _ in 0..count {
            let canister = install(pic);
            inc(pic, canister);
            pic.take_canister_snapshot(canister, None, None).unwrap();
            pic.stop_canister(canister, None).unwrap();
            pic.delete_canister(canister, None).unwrap();
        }
    };
    come_and_go(10);
    let (memory, descriptors) = (server.resident_kib(), server.descriptors());
    come_and_go(200);
    assert_eq!(server.descriptors(), descriptors);
    let grown = server.resident_kib().saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB on top of {memory}");
}
