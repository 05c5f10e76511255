//! `aquifer l2 compare`: whether a file and a shared store hold the same events, by negentropy
//! (NIP-77), so that only what differs travels.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use event::EventId;
use layer2::Layer2;
use negentropy::{Id, Negentropy, NegentropyStorageBase, NegentropyStorageVector};

use super::{Where, insist};
use crate::client::{Lines, Progress};

/// Ids that are named of each side.
const NAMED_MAX: usize = 10;

/// Compare a JSONL file with what a shared store holds, by id
///
/// Ends with 0 when both hold the same events. Prints negentropy's fingerprint of the file: stores that
/// compare equal to one file are equal.
#[derive(Args)]
pub struct Compare {
    /// The file, or - for standard input
    file: PathBuf,

    #[command(flatten)]
    at: Where,
}

/// Runs the command.
pub async fn compare(arguments: Compare) -> anyhow::Result<()> {
    let store = arguments.at.open()?;
    let lines = Lines::open(&arguments.file).await?;
    let progress = Progress::of_bytes(lines.bytes());
    let result = async {
        let file = read(lines, &progress).await?;
        anyhow::Ok((Difference::between(&file, store.as_ref(), &progress).await?, file))
    };
    let result = result.await;
    progress.finish();
    let (difference, file) = result?;
    let fingerprint = hex::encode(file.fingerprint(0, file.size()?)?.to_bytes());
    println!("file: {} events, fingerprint {fingerprint}", file.size()?);
    difference.tell()
}

/// The ids of a file's events, each once.
async fn read(mut lines: Lines, progress: &Progress) -> anyhow::Result<NegentropyStorageVector> {
    let mut ids = NegentropyStorageVector::new();
    while let Some(line) = lines.next().await? {
        match line.event() {
            Some(Ok(event)) => {
                ids.insert(event.created_at.0, Id::from_byte_array(event.id.0))?;
            }
            Some(Err(error)) => progress.report(&error.to_string()),
            None => {}
        }
        progress.advance(line.bytes(), "reading".into());
    }
    ids.seal()?;
    Ok(ids)
}

#[derive(Default)]
struct Difference {
    only_in_file: BTreeSet<EventId>,
    only_in_store: BTreeSet<EventId>,
}

impl Difference {
    async fn between(
        file: &NegentropyStorageVector,
        store: &dyn Layer2,
        progress: &Progress,
    ) -> anyhow::Result<Difference> {
        let mut negentropy = Negentropy::borrowed(file, 0)?;
        let mut message = negentropy.initiate()?;
        let (mut have, mut need) = (Vec::new(), Vec::new());
        loop {
            let answer = insist(async || store.reconcile(&message, None).await, progress)
                .await
                .context("comparing with the store")?;
            let next = negentropy
                .reconcile_with_ids(&answer, &mut have, &mut need)
                .context("the store's answer is not negentropy")?;
            progress.advance(0, format!("{} differ", have.len() + need.len()));
            match next {
                Some(next) => message = next,
                None => break,
            }
        }
        let ids = |ids: Vec<Id>| ids.into_iter().map(|id| EventId(id.to_bytes())).collect();
        Ok(Difference { only_in_file: ids(have), only_in_store: ids(need) })
    }

    fn tell(&self) -> anyhow::Result<()> {
        let sides = [("file", &self.only_in_file), ("store", &self.only_in_store)];
        for (place, ids) in sides.iter().filter(|(_, ids)| !ids.is_empty()) {
            println!("only in the {place}: {}", ids.len());
            ids.iter().take(NAMED_MAX).for_each(|id| println!("  {id}"));
            if ids.len() > NAMED_MAX {
                println!("  and {} more", ids.len() - NAMED_MAX);
            }
        }
        if sides.iter().any(|(_, ids)| !ids.is_empty()) {
            bail!("the file and the store differ");
        }
        println!("the store holds the same");
        Ok(())
    }
}
