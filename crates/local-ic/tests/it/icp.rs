//! `icp`, the Internet Computer's command line, deploys to `local-ic` as to any other network.
//!
//! The program comes from its npm package, once per target folder and through npm's own settings.
//! Where npm cannot be asked, the test says so and proves nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pocket_ic::PocketIc;

use crate::support::*;

const VERSION: &str = "1.5.0";

/// The program, from the cache or from npm; or why it cannot be had.
fn icp() -> Result<PathBuf, String> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let package = format!("@icp-sdk/icp-cli-linux-{arch}@{VERSION}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("icp-{VERSION}"));
    let program = folder.join("package/bin/icp");
    if program.exists() {
        return Ok(program);
    }
    // Unpacked aside and renamed: another test run may be looking for it at this moment.
    fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).map_err(|e| e.to_string())?;
    let aside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|e| e.to_string())?;
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", "--fetch-retries=0", &package]).current_dir(aside.path());
    let packed = run(&mut npm)?;
    let archive = String::from_utf8_lossy(&packed.stdout).trim().to_owned();
    run(Command::new("tar").args(["xzf", &archive]).current_dir(aside.path()))?;
    // Somebody may have been faster, which is as well.
    fs::rename(aside.path(), &folder).ok();
    program.exists().then_some(program).ok_or_else(|| format!("{package} holds no bin/icp"))
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(output),
        false => Err(format!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// A project with the test canister, deployed to an instance's gateway.
struct Project {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Project {
    fn new(program: PathBuf, gateway: &str) -> Project {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("canister.wasm"), canister_wasm()).unwrap();
        let manifest = format!(
            "canisters:
  - name: counter
    build:
      steps:
        - type: script
          commands:
            - cp canister.wasm \"$ICP_WASM_OUTPUT_PATH\"
networks:
  - name: here
    mode: connected
    url: {gateway}
    root-key: fetch
environments:
  - name: here
    network: here
    canisters: [counter]
"
        );
        fs::write(folder.path().join("icp.yaml"), manifest).unwrap();
        Project { program, folder }
    }

    #[track_caller]
    fn icp(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        // Identities and caches of its own: a person's are none of a test's business.
        command.env("HOME", self.folder.path()).env_remove("XDG_CONFIG_HOME");
        command.env_remove("XDG_DATA_HOME").env_remove("XDG_CACHE_HOME").env("DO_NOT_TRACK", "1");
        let output = run(command.args(args).current_dir(self.folder.path()));
        let output = output.unwrap_or_else(|why| panic!("{why}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn live() -> (PocketIc, String) {
    let mut pic = builder().with_ii_subnet().build();
    let port = pic.make_live(None).port().unwrap();
    (pic, format!("http://127.0.0.1:{port}"))
}

#[test]
fn icp_deploys_a_new_canister_and_upgrades_it() {
    let program = match icp() {
        Ok(program) => program,
        Err(why) => return eprintln!("SKIPPED: icp cannot be had from npm: {why}"),
    };
    let (pic, gateway) = live();
    let project = Project::new(program, &gateway);
    project.icp(&["deploy", "-e", "here", "-y"]);
    let id = project.icp(&["canister", "status", "counter", "-e", "here", "-i"]);
    let canister = candid::Principal::from_text(id.trim()).unwrap();
    assert_eq!(inc(&pic, canister), [1, 1, 1]);
    project.icp(&["deploy", "--mode", "upgrade", "-e", "here", "-y"]);
    assert_eq!(inc(&pic, canister), [1, 1, 2], "an upgrade keeps stable memory");
}
