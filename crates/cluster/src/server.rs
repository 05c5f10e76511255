//! The PocketIC server: which one, and running it.
//!
//! In this order: the one that `POCKET_IC_BIN` names; the official server of the version that the
//! `pocket-ic` crate wants, downloaded once into the target folder; our own `local-ic`, which stands
//! in where nothing can be downloaded. A download that failed is not tried again for a while: where
//! there is no network, nobody should wait for it before every test run.
//!
//! State folders of the two are not interchangeable, so a cluster that has one stays with its
//! server: that is what [`Chooser::prefer`] is for.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use pocket_ic::LATEST_SERVER_VERSION as VERSION;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Artifacts, Echo, Process};

const RELEASES: &str = "https://github.com/dfinity/pocketic/releases/download";
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Between two pieces of a download that has begun.
const READ_MAX: Duration = Duration::from_secs(10);
const FAILURE_REMEMBERED: Duration = Duration::from_secs(60 * 60);
const START_MAX: Duration = Duration::from_secs(30);
/// The server ends itself after this long without a request. It is asked more often than that
/// ([`Server::keep_alive`]) for as long as we live.
const TTL: Duration = Duration::from_secs(10 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Official,
    LocalIc,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Official => "the official server",
            Kind::LocalIc => "local-ic",
        })
    }
}

/// Which server, and why that one.
#[derive(Clone, Debug)]
pub struct Choice {
    pub kind: Kind,
    pub binary: PathBuf,
    why: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PocketIC server: {} ({}), {}", self.kind, self.binary.display(), self.why)
    }
}

/// Finds a server.
#[derive(Clone, Debug)]
pub struct Chooser {
    given: Option<PathBuf>,
    cache: PathBuf,
    local_ic: PathBuf,
    releases: String,
    preferred: Option<Kind>,
}

impl Chooser {
    pub fn new(artifacts: &Artifacts) -> Chooser {
        let given = std::env::var_os("POCKET_IC_BIN").filter(|path| !path.is_empty());
        Chooser {
            given: given.map(PathBuf::from),
            cache: artifacts.servers().join(VERSION),
            local_ic: artifacts.local_ic(),
            releases: RELEASES.to_owned(),
            preferred: None,
        }
    }

    /// Stays with the kind of server that a state folder was made by.
    pub fn prefer(mut self, kind: Option<Kind>) -> Chooser {
        self.preferred = kind;
        self
    }

    pub async fn choose(&self) -> Result<Choice> {
        if let Some(binary) = &self.given {
            check_version(binary).context("POCKET_IC_BIN")?;
            let why = "because POCKET_IC_BIN names it".to_owned();
            return Ok(Choice { kind: kind_of(binary), binary: binary.clone(), why });
        }
        if self.preferred == Some(Kind::LocalIc) {
            return self.local_ic("because the data was made with it".to_owned());
        }
        match self.official().await {
            Ok(choice) => Ok(choice),
            Err(reason) if self.preferred == Some(Kind::Official) => {
                Err(reason.context("the data was made with the official server, which is not here"))
            }
            Err(reason) => {
                self.local_ic(format!("because the official {VERSION} is not here: {reason:#}"))
            }
        }
    }

    fn local_ic(&self, why: String) -> Result<Choice> {
        check_version(&self.local_ic)
            .with_context(|| format!("local-ic is needed, {why}; `cargo build -p local-ic`"))?;
        Ok(Choice { kind: Kind::LocalIc, binary: self.local_ic.clone(), why })
    }

    /// The official server from the cache, or downloaded into it.
    async fn official(&self) -> Result<Choice> {
        // It insists on this file name.
        let binary = self.cache.join("pocket-ic");
        let chosen = |why: &str| Choice {
            kind: Kind::Official,
            binary: binary.clone(),
            why: why.to_owned(),
        };
        if check_version(&binary).is_ok() {
            return Ok(chosen("downloaded earlier"));
        }
        fs::create_dir_all(&self.cache).context("making the cache folder")?;
        let failure = self.cache.join("failure");
        if let Some(reason) = recent_failure(&failure) {
            bail!("{reason} (not tried again for an hour; remove {} to)", failure.display());
        }
        match self.download(&binary).await {
            Ok(()) => Ok(chosen("downloaded now")),
            Err(reason) => {
                // Only costs a wait next time if it cannot be written.
                let _ = fs::write(&failure, format!("{reason:#}"));
                Err(reason)
            }
        }
    }

    async fn download(&self, binary: &Path) -> Result<()> {
        let url = format!("{}/{VERSION}/{}", self.releases, release_file());
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .read_timeout(READ_MAX)
            .build()?;
        let answer = client.get(&url).send().await.map_err(root_cause)?.error_for_status()?;
        let packed = answer.bytes().await.map_err(root_cause)?;
        // Written aside and renamed: another test run may be looking for it at this moment.
        let aside = self.cache.join(format!("{}/pocket-ic", std::process::id()));
        let folder = self.cache.join(std::process::id().to_string());
        fs::create_dir_all(&folder)?;
        let kept = unpack(&packed, &aside).and_then(|()| {
            check_version(&aside)?;
            Ok(fs::rename(&aside, binary)?)
        });
        let _ = fs::remove_dir_all(&folder);
        kept.with_context(|| format!("what {url} gave"))
    }
}

/// reqwest's own text repeats the URL and stops before the reason.
fn root_cause(error: reqwest::Error) -> anyhow::Error {
    let is_timeout = error.is_timeout();
    let error = anyhow::Error::from(error);
    match error.root_cause().to_string() {
        _ if is_timeout => anyhow::anyhow!("no answer from the network"),
        reason => anyhow::anyhow!("{reason}"),
    }
}

fn unpack(packed: &[u8], binary: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes)?;
    fs::write(binary, bytes)?;
    fs::set_permissions(binary, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn recent_failure(file: &Path) -> Option<String> {
    let written = fs::metadata(file).and_then(|metadata| metadata.modified()).ok()?;
    let age = SystemTime::now().duration_since(written).unwrap_or_default();
    if age > FAILURE_REMEMBERED {
        return None;
    }
    fs::read_to_string(file).ok()
}

fn release_file() -> String {
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    format!("pocket-ic-{arch}-{os}.gz")
}

/// Whether `binary` runs and is the version that the `pocket-ic` crate was made for.
fn check_version(binary: &Path) -> Result<()> {
    let said = output(binary, "--version")?;
    let Some(version) = said.trim().strip_prefix("pocket-ic-server ") else {
        bail!("{} --version says {:?}, which is no PocketIC server", binary.display(), said.trim());
    };
    // The crate takes any server of its own major version.
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    ensure!(
        major(version) == major(VERSION),
        "{} is version {version}, and {VERSION} is wanted",
        binary.display()
    );
    Ok(())
}

/// Both kinds give the same version, as they must; `local-ic` names itself in its help.
fn kind_of(binary: &Path) -> Kind {
    match output(binary, "--help") {
        Ok(help) if help.contains("local-ic") => Kind::LocalIc,
        _ => Kind::Official,
    }
}

fn output(binary: &Path, argument: &str) -> Result<String> {
    let output = run(Command::new(binary).arg(argument))
        .with_context(|| format!("running {}", binary.display()))?;
    ensure!(output.status.success(), "{} {argument}: {}", binary.display(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program that may have been written a moment ago: a fork on another thread holds on to the
/// writing handle until its exec, and for that moment the program cannot be run.
fn run(command: &mut Command) -> io::Result<Output> {
    for _ in 0..100 {
        match command.output() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
    command.output()
}

/// A running server. Instances on it belong to whoever made them.
#[derive(Debug)]
pub struct Server {
    process: Process,
    choice: Choice,
    url: Url,
}

impl Server {
    pub async fn start(choice: Choice, echo: Echo) -> Result<Server> {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let port_file =
            std::env::temp_dir().join(format!("aquifer-{}-{number}.port", std::process::id()));
        // Left by a process that had our id before us; the server would take it for its own.
        let _ = fs::remove_file(&port_file);
        let mut command = Command::new(&choice.binary);
        command.arg("--ttl").arg(TTL.as_secs().to_string()).arg("--port-file").arg(&port_file);
        let process = Process::start("pocket-ic", command, echo)?;
        let port = wait_for_port(&process, &port_file).await?;
        let url = Url::parse(&format!("http://127.0.0.1:{port}/"))?;
        Ok(Server { process, choice, url })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Ends when the server does. Until then it asks it something now and then, for a server that
    /// hears nothing for its time to live ends itself, with all that is on it.
    pub async fn keep_alive(&self) -> anyhow::Error {
        let ask_for_ever = async {
            let mut turns = tokio::time::interval(TTL / 4);
            loop {
                turns.tick().await;
                if let Ok(url) = self.url.join("instances") {
                    // That it is asked is all that matters.
                    let _ = reqwest::get(url).await;
                }
            }
        };
        tokio::select! {
            status = self.process.ended() => self.process.explain(&format!("ended with {status}")),
            () = ask_for_ever => unreachable!("it never ends"),
        }
    }

    /// Stops the server; it saves the state of instances that still run.
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await.map(drop)
    }
}

/// The server writes the file once it listens; the newline says that it is whole.
async fn wait_for_port(process: &Process, port_file: &Path) -> Result<u16> {
    let started = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(port_file)
            && let Some(port) = text.strip_suffix('\n')
        {
            return port.trim().parse().context("the server's port file");
        }
        if started.elapsed() > START_MAX {
            return Err(process.explain("did not start to listen"));
        }
        tokio::select! {
            status = process.ended() => {
                return Err(process.explain(&format!("ended with {status}")));
            }
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A script that answers as a server would; `name` is what its help says.
    fn fake_server(version: &str, name: &str) -> String {
        format!(
            "#!/bin/sh\ncase $1 in\n  --version) echo 'pocket-ic-server {version}' ;;\n  *) echo '{name}' ;;\nesac\n"
        )
    }

    fn write_program(path: &Path, text: &str) -> PathBuf {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_owned()
    }

    /// A chooser in an empty folder, with `local-ic` built and nothing to download.
    fn offline() -> (tempfile::TempDir, Chooser) {
        let folder = tempfile::tempdir().unwrap();
        let local_ic =
            write_program(&folder.path().join("local-ic"), &fake_server("16.1.0", "local-ic"));
        let chooser = Chooser {
            given: None,
            cache: folder.path().join("cache"),
            local_ic,
            // Nothing listens on port 1.
            releases: "http://127.0.0.1:1".to_owned(),
            preferred: None,
        };
        (folder, chooser)
    }

    /// Answers one request with `body` and says where.
    async fn serve_once(status: &'static str, body: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await.unwrap();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
            socket.write_all(head.as_bytes()).await.unwrap();
            socket.write_all(&body).await.unwrap();
        });
        format!("http://{address}")
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(text.as_bytes()).unwrap();
        writer.finish().unwrap()
    }

    #[tokio::test]
    async fn the_given_server_is_taken_before_all_others() {
        let (folder, mut chooser) = offline();
        let given =
            write_program(&folder.path().join("mine"), &fake_server("16.0.3", "the official"));
        chooser.given = Some(given.clone());
        let choice = chooser.choose().await.unwrap();
        assert_eq!((choice.kind, &choice.binary), (Kind::Official, &given));
        assert!(choice.to_string().contains("POCKET_IC_BIN"), "{choice}");
    }

    #[tokio::test]
    async fn a_given_server_that_does_not_fit_is_an_error_and_not_passed_over() {
        let (folder, mut chooser) = offline();
        chooser.given =
            Some(write_program(&folder.path().join("old"), &fake_server("15.0.0", "official")));
        let error = format!("{:#}", chooser.choose().await.unwrap_err());
        assert!(error.contains("POCKET_IC_BIN") && error.contains("15.0.0"), "{error}");
    }

    #[tokio::test]
    async fn without_a_network_local_ic_stands_in_and_the_failure_is_remembered() {
        let (_folder, chooser) = offline();
        let choice = chooser.choose().await.unwrap();
        assert_eq!(choice.kind, Kind::LocalIc);
        assert!(!choice.to_string().contains("not tried again"), "{choice}");
        let again = chooser.choose().await.unwrap();
        assert_eq!(again.kind, Kind::LocalIc);
        assert!(again.to_string().contains("not tried again"), "{again}");
        assert!(!again.to_string().contains('\n'), "it is one line: {again}");
    }

    #[tokio::test]
    async fn a_download_is_checked_kept_and_used_again() {
        let (_folder, mut chooser) = offline();
        chooser.releases = serve_once("200 OK", gzip(&fake_server("16.1.0", "official"))).await;
        for why in ["downloaded now", "downloaded earlier"] {
            let choice = chooser.choose().await.unwrap();
            assert_eq!(choice.kind, Kind::Official);
            assert!(choice.to_string().contains(why), "{choice}");
        }
    }

    #[tokio::test]
    async fn a_download_that_is_something_else_is_not_kept() {
        let (_folder, mut chooser) = offline();
        chooser.releases = serve_once("200 OK", b"<html>sign in first</html>".to_vec()).await;
        assert_eq!(chooser.choose().await.unwrap().kind, Kind::LocalIc);
        assert!(!chooser.cache.join("pocket-ic").exists());
    }

    #[tokio::test]
    async fn data_stays_with_the_server_that_made_it() {
        let (_folder, mut chooser) = offline();
        chooser.releases = serve_once("200 OK", gzip(&fake_server("16.1.0", "official"))).await;
        let local = chooser.clone().prefer(Some(Kind::LocalIc)).choose().await.unwrap();
        assert_eq!(local.kind, Kind::LocalIc);
        chooser.releases = "http://127.0.0.1:1".to_owned();
        let error = chooser.prefer(Some(Kind::Official)).choose().await.unwrap_err();
        assert!(error.to_string().contains("made with the official server"), "{error}");
    }
}
