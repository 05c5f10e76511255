//! The socket in the data folder, and who is served on it.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net},
    path::{Path, PathBuf},
    sync::Arc,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error};

use super::{conversation::converse, desk::Desk, protocol::Reply};

/// Its name in the data folder.
const FILE: &str = "control.sock";
/// Conversations at a time.
const CONVERSATIONS_MAX: usize = 16;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// Where the relay with this data folder listens.
pub fn path_in(data: &Path) -> PathBuf {
    data.join(FILE)
}

/// The open socket. Its name goes with it.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens in `data`. Whoever calls this has the store there for itself, so a socket that is there
    /// already was left by a relay that died.
    pub fn open(data: &Path) -> io::Result<Control> {
        let path = path_in(data);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&path)?)?;
        // Nobody gets in before it listens, and from then on its owner alone.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(net::UnixListener::from(socket))?;
        Ok(Control { listener, path })
    }

    /// Serves whoever connects until `stop`, and waits until all have gone.
    pub async fn serve(self, desk: Desk, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        let conversations = TaskTracker::new();
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(cause) => {
                        error!(%cause, "the control socket is closed until a restart");
                        break;
                    }
                },
                () = stop.cancelled() => break,
            };
            match room.clone().try_acquire_owned() {
                Ok(place) => {
                    let (desk, stop) = (desk.clone(), stop.clone());
                    conversations.spawn(async move {
                        let _place = place;
                        tokio::select! {
                            () = serve_one(stream, desk) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                Err(_) => turn_away(&stream),
            }
        }
        conversations.close();
        conversations.wait().await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // If it is gone already, that is as well.
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve_one(stream: UnixStream, desk: Desk) {
    let (input, output) = stream.into_split();
    if let Err(cause) = converse(input, output, desk).await {
        debug!(%cause, "a control client left");
    }
}

/// Tells one too many so, if that takes no waiting.
fn turn_away(stream: &UnixStream) {
    let reason = format!("{CONVERSATIONS_MAX} others are being served");
    if let Ok(mut line) = serde_json::to_vec(&Reply::Failed(reason)) {
        line.push(b'\n');
        let _ = stream.try_write(&line);
    }
}
