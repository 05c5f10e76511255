//! `aquifer l2 verify`: whether two stores, or a file and a store, hold the same events. They are
//! compared by negentropy (NIP-77), so only fingerprints travel where they agree.

use std::{collections::BTreeSet, convert::Infallible, path::PathBuf, sync::Arc};

use anyhow::{Context, bail, ensure};
use clap::Args;
use event::EventId;
use layer2::{Layer2, Layer2Url};
use reconcile::{Between, Item, Refusal, Sorted, answer};

use super::{Who, insist};
use crate::client::{Lines, Progress};

/// Ids that are named of each side.
const NAMED_MAX: usize = 10;
/// Bytes of an answer out of a file.
const FRAME_BYTES_MAX: usize = 500_000;
/// Questions without an end: the stores change faster than they are compared.
const ROUNDS_MAX: usize = 10_000;

/// Check whether two stores hold the same events, or a JSONL file and a store
///
/// Ends with 0 when they do, and else names what is missing on either side. Nothing is changed.
#[derive(Args)]
pub struct Verify {
    /// A store's URL, a JSONL file, or - for standard input
    from: String,

    /// A store's URL [default: the one in the configuration]
    to: Option<String>,

    #[command(flatten)]
    who: Who,
}

/// Runs the command.
pub async fn verify(arguments: Verify) -> anyhow::Result<()> {
    let right = Side::Store(arguments.who.open(arguments.to.as_deref())?);
    let progress = Progress::of_entries();
    let compared = async {
        let left = match is_url(&arguments.from) {
            true => Side::Store(arguments.who.open(Some(&arguments.from))?),
            false => Side::File(read(&PathBuf::from(&arguments.from), &progress).await?),
        };
        compare(&[left, right], &progress).await
    };
    let compared = compared.await;
    progress.finish();
    tell(&compared?)
}

/// A file's name has no scheme before it.
fn is_url(text: &str) -> bool {
    text.parse::<Layer2Url>().is_ok() || text.contains("://")
}

enum Side {
    Store(Arc<dyn Layer2>),
    File(Sorted),
}

impl Side {
    async fn answer(&self, question: &[u8], progress: &Progress) -> anyhow::Result<Vec<u8>> {
        match self {
            Side::Store(store) => insist(async || store.reconcile(question, None).await, progress)
                .await
                .with_context(|| format!("comparing with {}", store.name())),
            Side::File(items) => answer(items, question, FRAME_BYTES_MAX).map_err(|refusal| {
                let Refusal::<Infallible>::Malformed(malformed) = refusal;
                anyhow::Error::new(malformed).context("the store's answer is not negentropy")
            }),
        }
    }
}

/// The events of a file.
async fn read(file: &std::path::Path, progress: &Progress) -> anyhow::Result<Sorted> {
    let mut lines = Lines::open(file).await?;
    let mut items = Vec::new();
    while let Some(line) = lines.next().await? {
        match line.event() {
            Some(Ok(event)) => items.push(Item { created_at: event.created_at, id: event.id }),
            Some(Err(error)) => progress.report(&error.to_string()),
            None => {}
        }
        progress.advance(1, "reading".into());
    }
    Ok(Sorted::new(items))
}

/// What only the one has, and what only the other.
async fn compare(sides: &[Side; 2], progress: &Progress) -> anyhow::Result<[BTreeSet<EventId>; 2]> {
    let (mut between, question) = Between::begin();
    let mut question = Some(question);
    let mut rounds = 0;
    while let Some(asked) = question {
        let side = &sides[usize::from(!between.is_left_asked())];
        let answered = side.answer(&asked, progress).await?;
        question = between.take(&answered).context("the store's answer is not negentropy")?;
        progress.advance(1, format!("questions; {} events differ", between.known()));
        rounds += 1;
        ensure!(rounds < ROUNDS_MAX, "the stores change faster than they can be compared");
    }
    Ok(between.finish())
}

fn tell([left, right]: &[BTreeSet<EventId>; 2]) -> anyhow::Result<()> {
    for (place, ids) in [("first", left), ("second", right)] {
        if ids.is_empty() {
            continue;
        }
        println!("only in the {place}: {}", ids.len());
        ids.iter().take(NAMED_MAX).for_each(|id| println!("  {id}"));
        if ids.len() > NAMED_MAX {
            println!("  and {} more", ids.len() - NAMED_MAX);
        }
    }
    if !left.is_empty() || !right.is_empty() {
        bail!("they do not hold the same");
    }
    println!("both hold the same events");
    Ok(())
}
