//! `aquifer l2 copy`: moves house, from any kind of shared store to any other.
//!
//! It follows the log of the one and saves its events in the other, which checks them and applies its
//! rules by itself: so copying again does no harm, and deletions arrive as the events that ask for
//! them. Only what an operator took out by hand has to be taken out there too. How far it came is kept
//! in the data folder, written after the other store has answered, so a stopped copy goes on by itself.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use event::EventId;
use futures_util::{StreamExt, TryStreamExt, stream};
use layer2::{
    Change, ChangesFrom, ChangesPage, DeleteOutcome, Deletion, Detail, Layer2, Layer2Error,
    SaveOutcome, What,
};

use super::{
    Who,
    import::{BATCHES_AT_A_TIME, Summary, pieces, save},
    insist,
};
use crate::client::Progress;

/// Why events go that nobody's hand took out: the other store finds that out by itself.
const BY_RULES: [&str; 4] = ["superseded", "deleted", "expired", "vanished"];
/// Where it is written how far copies came.
const FILE: &str = "l2-copies.json";

/// Copy everything a shared store holds into another one, of any kind
///
/// Goes on where an earlier copy between the two ended. It may run while relays use either store;
/// `aquifer l2 verify FROM TO` says whether both are equal in the end.
#[derive(Args)]
pub struct Copy {
    /// The URL of the store that is read
    from: String,

    /// The URL of the store that is filled
    to: String,

    /// Begin at this seq of the log instead of where an earlier copy ended
    #[arg(long, value_name = "SEQ")]
    from_seq: Option<u64>,

    /// Print the summary as one line of JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    who: Who,
}

/// Runs the command. An error means that it stopped early; what was answered is printed all the same.
pub async fn copy(arguments: Copy) -> anyhow::Result<()> {
    let (from, to) =
        (arguments.who.open(Some(&arguments.from))?, arguments.who.open(Some(&arguments.to))?);
    let places = Places::of(&arguments.who.data()?, from.as_ref(), to.as_ref());
    let first = match arguments.from_seq {
        Some(seq) => seq,
        None => places.read()?,
    };
    let progress = Progress::of_entries();
    if first > 0 {
        progress.report(&format!("going on at seq {first} of {}", from.name()));
    }
    let mut copying = Copying {
        from: from.as_ref(),
        to: to.as_ref(),
        progress: &progress,
        summary: Summary::default(),
    };
    let result = copying.run(first, &places).await;
    progress.finish();
    if arguments.json {
        println!("{}", serde_json::to_string(&copying.summary)?);
    } else {
        println!("{}", copying.summary);
    }
    result
}

struct Copying<'a> {
    from: &'a dyn Layer2,
    to: &'a dyn Layer2,
    progress: &'a Progress,
    summary: Summary,
}

impl Copying<'_> {
    async fn run(&mut self, first: u64, places: &Places) -> anyhow::Result<()> {
        let mut page = self.page(first).await?;
        loop {
            let (next, is_last) = (page.next, page.next >= page.length);
            self.progress.set_ahead(page.length.saturating_sub(next) + page.changes.len() as u64);
            // The next page is read while this one is saved.
            let following =
                async { if is_last { Ok(None) } else { self.page(next).await.map(Some) } };
            let (saved, following) = tokio::join!(self.carry(page.changes), following);
            let summary = saved?;
            self.summary.add(summary);
            places.write(next)?;
            match following? {
                Some(following) => page = following,
                None => return Ok(()),
            }
        }
    }

    async fn page(&self, seq: u64) -> anyhow::Result<ChangesPage> {
        let from = ChangesFrom::Seq(seq);
        insist(async || self.from.changes(from, Detail::Events).await, self.progress)
            .await
            .with_context(|| format!("reading the log of {} at seq {seq}", self.from.name()))
    }

    /// Does in the other store what a page says, in its order.
    async fn carry(&self, changes: Vec<Change>) -> anyhow::Result<Summary> {
        let mut summary = Summary::default();
        let mut events = Vec::new();
        for change in changes {
            match change.what {
                What::Saved(bytes) => events.push(bytes.into_vec()),
                What::Removed { id, why } if !BY_RULES.contains(&why.as_str()) => {
                    self.save(std::mem::take(&mut events), &mut summary).await?;
                    let id = interface::id_of(&id).context("what the log says was removed")?;
                    self.remove(id, why).await?;
                }
                What::Cleared => self.progress.report(&format!(
                    "{} was cleared at seq {}; what {} holds stays there",
                    self.from.name(),
                    change.seq,
                    self.to.name()
                )),
                What::Removed { .. } | What::Gone(_) => {}
            }
            self.progress.advance(1, "copied".into());
        }
        self.save(events, &mut summary).await?;
        Ok(summary)
    }

    async fn save(&self, events: Vec<Vec<u8>>, summary: &mut Summary) -> anyhow::Result<()> {
        let saving = stream::iter(pieces(events))
            .map(|piece| save(piece, self.to, self.progress))
            .buffered(BATCHES_AT_A_TIME);
        let outcomes: Vec<Vec<SaveOutcome>> =
            saving.try_collect().await.with_context(|| format!("saving in {}", self.to.name()))?;
        outcomes.into_iter().flatten().for_each(|outcome| summary.tally(outcome));
        Ok(())
    }

    /// An operator's deletion. Without the right to delete there is only a word about it.
    async fn remove(&self, id: EventId, why: String) -> anyhow::Result<()> {
        let deletion = Deletion { tombstone: false, why };
        let deleted = insist(async || self.to.delete(&[id], &deletion).await, self.progress).await;
        match deleted {
            Ok(outcomes) if outcomes.contains(&DeleteOutcome::Forbidden) => {}
            Err(Layer2Error::Refused(_)) => {}
            Err(error) => return Err(error).context("taking out what an operator took out"),
            Ok(_) => return Ok(()),
        }
        let (from, to) = (self.from.name(), self.to.name());
        self.progress.report(&format!(
            "an operator took {id} out of {from}; only an owner can take it out of {to}"
        ));
        Ok(())
    }
}

/// How far copies between two stores came.
struct Places {
    file: PathBuf,
    name: String,
}

impl Places {
    fn of(folder: &Path, from: &dyn Layer2, to: &dyn Layer2) -> Places {
        Places { file: folder.join(FILE), name: format!("{} to {}", from.name(), to.name()) }
    }

    fn all(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let text = match fs::read(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", self.file.display()));
            }
        };
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged: remove it to begin anew", self.file.display()))
    }

    fn read(&self) -> anyhow::Result<u64> {
        Ok(self.all()?.get(&self.name).copied().unwrap_or(0))
    }

    fn write(&self, next: u64) -> anyhow::Result<()> {
        let mut all = self.all()?;
        all.insert(self.name.clone(), next);
        let new = self.file.with_extension("new");
        fs::write(&new, serde_json::to_vec(&all)?)
            .and_then(|()| fs::rename(&new, &self.file))
            .with_context(|| format!("writing {}", self.file.display()))
    }
}
