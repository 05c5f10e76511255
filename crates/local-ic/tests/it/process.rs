//! The process: what the `pocket-ic` crate expects of its arguments, its port file and its end.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use pocket_ic::{PocketIcBuilder, PocketIcState};

use crate::support::*;

fn server(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn port(file: &Path) -> u16 {
    wait_for(|| {
        let text = std::fs::read_to_string(file).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
}

fn exit_code(mut child: Child) -> Option<i32> {
    wait_for(|| child.try_wait().unwrap()).code()
}

fn terminate(child: &Child) {
    // SAFETY: a plain system call; the child is ours and has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
}

#[test]
fn the_version_line_is_the_one_that_clients_compare() {
    let output = server(&["--version"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"pocket-ic-server 16.1.0\n");
}

#[test]
fn one_port_file_has_one_server_and_is_gone_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("port");
    let args = ["--ttl", "1", "--port-file", file.to_str().unwrap()];
    let first = server(&args).spawn().unwrap();
    let port_before = port(&file);
    let second = server(&args).spawn().unwrap();
    assert_eq!(exit_code(second), Some(0), "it leaves the file to the first");
    assert_eq!(port(&file), port_before);
    assert_eq!(exit_code(first), Some(0), "it ends when nobody asks anything");
    assert!(!file.exists());
}

#[test]
fn a_hard_ttl_ends_a_server_that_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("port");
    let args = ["--hard-ttl", "1", "--port-file", file.to_str().unwrap()];
    let child = server(&args).spawn().unwrap();
    port(&file);
    assert_eq!(exit_code(child), Some(0));
}

#[test]
fn a_terminated_server_saves_its_instances() {
    let dir = tempfile::tempdir().unwrap();
    let (file, state) = (dir.path().join("port"), dir.path().join("state"));
    std::fs::create_dir(&state).unwrap();
    let state = || PocketIcState::new_from_path(state.clone());
    let child = server(&["--port-file", file.to_str().unwrap()]).spawn().unwrap();
    let url = format!("http://localhost:{}/", port(&file)).parse().unwrap();
    let pic = PocketIcBuilder::new()
        .with_server_url(url)
        .with_nns_subnet()
        .with_application_subnet()
        .with_state(state())
        .build();
    let canister = install(&pic);
    inc(&pic, canister);
    terminate(&child);
    assert_eq!(exit_code(child), Some(0));
    assert!(!file.exists());
    std::mem::forget(pic); // Its server is gone, so it cannot be told goodbye.

    let pic = PocketIcBuilder::new().with_server_binary(binary()).with_state(state()).build();
    assert_eq!(read(&pic, canister), [1, 1, 1]);
}

#[test]
fn a_state_directory_of_the_official_server_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("topology.json"), "{}").unwrap();
    let state = PocketIcState::new_from_path(dir.path().to_owned());
    let refused = std::panic::catch_unwind(|| builder().with_state(state).build());
    let message = refused.err().unwrap();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("official PocketIC server"), "{message}");
}
