//! The asking side: finds out who has the store open, and reads the replies.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use layer2::Layer2;
use store::{OpenError, Store, Writer, is_store};
use tokio::{
    io::{
        AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines,
        duplex, split,
    },
    net::UnixStream,
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    conversation::converse,
    desk::Desk,
    protocol::{Greeting, PROTOCOL, Reply, Request},
    socket::path_in,
};
use crate::{
    collector::collecting, config::Config, identity::Identity, moderation::Moderator,
    poll::CURSOR_OF,
};

/// How long to wait for a store that is in use and whose user cannot be asked.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(3);
const OPEN_PAUSE: Duration = Duration::from_millis(50);
/// Bytes on their way through the pipe within this process.
const PIPE_BYTES: usize = 1 << 16;

type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Who carries requests out.
pub enum Place {
    /// We do: no relay runs on the store, and none can meanwhile.
    Here(Opened),
    /// The relay that listens on this socket.
    Relay(Box<Path>),
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To do something with what is in it.
    Use,
    /// The same, and if there is none it is made.
    Fill,
    /// To take something out of L2, too.
    Remove,
    /// To give up what is above its marks. For everything else no collector stands ready: an import that
    /// finds no room should say so, rather than take out what lies there.
    Collect,
}

/// A store that we have for ourselves.
pub struct Opened {
    desk: Desk,
    stop: CancellationToken,
    collecting: Option<JoinHandle<()>>,
}

impl Opened {
    /// Where a canister was followed once, what is here may be from there or on its way to it, whatever
    /// the configuration says now: so bodies alone are given up, and only those that are there too.
    fn new(
        store: Store,
        writer: Writer,
        config: &Config,
        purpose: Purpose,
    ) -> anyhow::Result<Opened> {
        let has_layer2 = config.layer2.is_some() || store.meta(CURSOR_OF)?.is_some();
        let stop = CancellationToken::new();
        let (mut collector, mut running) = (None, None);
        if let (Some(cache), Purpose::Collect) = (&config.cache, purpose) {
            check_followed(&store, config)?;
            let (collecting, ask) = collecting(&store, &writer, cache.policy(has_layer2));
            running = Some(tokio::spawn(collecting.run(stop.clone())));
            collector = Some(ask);
        }
        let moderator = Arc::new(Moderator::open(config)?);
        let layer2 = if purpose == Purpose::Remove { layer2_of(config)? } else { None };
        let (quotas, tapper) = (None, None);
        let desk =
            Desk { store, writer, collector, moderator, layer2, quotas, tapper, is_alone: true };
        Ok(Opened { desk, stop, collecting: running })
    }

    /// Writes all that is queued.
    async fn close(self) {
        self.stop.cancel();
        if let Some(collecting) = self.collecting {
            collecting.await.expect("collecting does not panic");
        }
        self.desk.writer.stop().await;
    }
}

/// Replies, as they come.
pub struct Answers {
    lines: Lines<BufReader<Box<dyn AsyncRead + Send + Unpin>>>,
    output: Option<Output>,
}

impl Place {
    /// The relay's store.
    pub async fn open(config: &Config, purpose: Purpose) -> anyhow::Result<Place> {
        let folder = crate::store_in(&config.data);
        ensure!(
            purpose == Purpose::Fill || is_store(&folder),
            "there is no store in {}: does --data name the relay's folder?",
            folder.display()
        );
        let path = path_in(&config.data);
        let started = Instant::now();
        loop {
            match Store::open(&folder, config.store_options()) {
                Ok((store, writer)) => {
                    return Ok(Place::Here(Opened::new(store, writer, config, purpose)?));
                }
                Err(OpenError::InUse(_)) => {}
                Err(error) => return Err(error.into()),
            }
            match UnixStream::connect(&path).await {
                Ok(_) => return Ok(Place::Relay(path.into())),
                // A relay that starts listens in a moment, and another command ends.
                Err(_) if started.elapsed() < OPEN_WAIT_MAX => sleep(OPEN_PAUSE).await,
                Err(error) => return Err(error).with_context(|| nobody_answers(&path)),
            }
        }
    }

    /// Begins a conversation.
    pub async fn ask(&self, request: &Request) -> anyhow::Result<Answers> {
        let mut answers = match self {
            Place::Here(Opened { desk, .. }) => {
                let (ours, theirs) = duplex(PIPE_BYTES);
                let (input, output) = split(theirs);
                // It ends when `ours` is dropped.
                tokio::spawn(converse(input, output, desk.clone()));
                let (input, output) = split(ours);
                Answers::new(Box::new(input), Box::new(output))
            }
            Place::Relay(path) => {
                let stream =
                    UnixStream::connect(path).await.with_context(|| nobody_answers(path))?;
                let (input, output) = stream.into_split();
                Answers::new(Box::new(input), Box::new(output))
            }
        };
        answers.greet().await?;
        answers.say(request).await?;
        Ok(answers)
    }

    /// Writes all that is queued, if that is up to us.
    pub async fn close(self) {
        if let Place::Here(opened) = self {
            opened.close().await;
        }
    }
}

fn nobody_answers(path: &Path) -> String {
    format!(
        "the store is in use, but nobody answers at {}: another `aquifer db` may have it, or a relay \
         without a control socket",
        path.display()
    )
}

impl Answers {
    fn new(input: Box<dyn AsyncRead + Send + Unpin>, output: Output) -> Answers {
        Answers { lines: BufReader::new(input).lines(), output: Some(output) }
    }

    async fn greet(&mut self) -> anyhow::Result<()> {
        let line = self.lines.next_line().await.context("the relay does not greet")?;
        let line = line.context("the relay closed the connection")?;
        let Ok(greeting) = serde_json::from_str::<Greeting>(&line) else {
            if let Ok(Reply::Failed(reason)) = serde_json::from_str(&line) {
                bail!("the relay refuses: {reason}");
            }
            bail!("what listens there is no relay of ours: it says {line:.200}");
        };
        let (theirs, ours) = (greeting.version, env!("CARGO_PKG_VERSION"));
        ensure!(
            greeting.protocol == PROTOCOL,
            "the relay that runs is version {theirs}, this program is {ours}, and they do not \
             understand each other: use the program that the relay was started with"
        );
        Ok(())
    }

    async fn say(&mut self, request: &Request) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let output = self.output.as_mut().expect("nothing was sent yet");
        output.write_all(&line).await.context("asking the relay")
    }

    /// Sends all of `input` behind the request, in the background. The answer is whether it could be
    /// read: to the other side its failure looks like its end. Whoever is asked may stop listening, and
    /// says why in a reply.
    pub fn send(
        &mut self,
        mut input: impl AsyncRead + Send + Unpin + 'static,
    ) -> JoinHandle<io::Result<()>> {
        let mut output = self.output.take().expect("nothing was sent yet");
        tokio::spawn(async move {
            let mut buffer = vec![0; PIPE_BYTES];
            loop {
                let read = input.read(&mut buffer).await?;
                if read == 0 || output.write_all(&buffer[..read]).await.is_err() {
                    // It may have left; then there is nobody to be told of the end.
                    let _ = output.shutdown().await;
                    return Ok(());
                }
            }
        })
    }

    /// The next reply; `None` when all went well. A failure is an error.
    pub async fn next(&mut self) -> anyhow::Result<Option<Reply>> {
        let line = self.lines.next_line().await.context("the conversation broke off")?;
        let line = line.context("the relay stopped before it was done")?;
        match serde_json::from_str(&line).context("a reply that this version does not know")? {
            Reply::Done => Ok(None),
            Reply::Failed(reason) => bail!(reason),
            reply => Ok(Some(reply)),
        }
    }
}

fn layer2_of(config: &Config) -> anyhow::Result<Option<Arc<dyn Layer2>>> {
    let Some(url) = &config.layer2 else { return Ok(None) };
    let identity = Identity::open(&config.data)?;
    Ok(Some(layer2::open(url, identity.agent_identity())?))
}

/// What may be given up is what the L2 has that was followed: another one has nothing of it yet.
fn check_followed(store: &Store, config: &Config) -> anyhow::Result<()> {
    let Some(followed) = store.meta(CURSOR_OF)? else { return Ok(()) };
    let Some(layer2) = layer2_of(config)? else { return Ok(()) };
    let now = layer2.name();
    ensure!(
        followed == now,
        "what is here is known to be in {followed}, and the configuration names {now}: start the relay once, \
         so that it goes there"
    );
    Ok(())
}
