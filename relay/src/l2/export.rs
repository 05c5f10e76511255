//! `aquifer l2 export`: a backup of a shared store, as JSONL on standard output.
//!
//! It follows the log, so a backup can be continued later, and one taken while the store changes is
//! whole up to the seq it names. An event that goes after it was written stays in the file. That does
//! no harm where the file holds the reason too (a newer version, a deletion); what an operator deletes
//! by hand meanwhile has to be deleted again after the file is put back.

use anyhow::{Context, ensure};
use clap::Args;
use event::{Event, Filter, Packed, PublicKey, verify};
use interface::ByteBuf;
use layer2::{ChangesFrom, Detail, Layer2, What};

use super::{Where, insist};
use crate::client::{Output, Progress};

/// Write everything a shared store holds to standard output, one event a line, oldest arrival first
///
/// Every id and signature is checked; an event that fails is reported and left out. Ends by naming the
/// seq up to which the store's log is in the file.
#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    at: Where,

    /// Continue a backup: the seq that the one before ended with
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,

    /// Only what this public key (hex) has signed, newest first; may be given again for more
    #[arg(long = "author", value_name = "PUBKEY", conflicts_with = "from")]
    authors: Vec<PublicKey>,
}

/// Runs the command.
pub async fn export(arguments: Export) -> anyhow::Result<()> {
    let store = arguments.at.open()?;
    if !arguments.authors.is_empty() {
        return export_authors(store.as_ref(), arguments.authors).await;
    }
    let progress = Progress::of_entries();
    let mut exporting = Exporting { next: arguments.from, output: Output::new(), invalid: 0 };
    let result = exporting.run(store.as_ref(), &progress).await;
    progress.finish();
    let flushed = exporting.output.flush();
    eprintln!("wrote {} events; seq {} is next", exporting.output.written, exporting.next);
    if exporting.invalid > 0 {
        eprintln!("left out {} that are not valid", exporting.invalid);
    }
    result.and(flushed.and_then(check_is_read))
}

/// What some authors signed, out of the index instead of the log.
async fn export_authors(store: &dyn Layer2, authors: Vec<PublicKey>) -> anyhow::Result<()> {
    let filters = [Filter { authors: Some(authors), ..Filter::default() }];
    let progress = Progress::of_entries();
    let mut exporting = Exporting { next: 0, output: Output::new(), invalid: 0 };
    let result = exporting.query(store, &filters, &progress).await;
    progress.finish();
    let flushed = exporting.output.flush();
    eprintln!("wrote {} events", exporting.output.written);
    if exporting.invalid > 0 {
        eprintln!("left out {} that are not valid", exporting.invalid);
    }
    result.and(flushed.and_then(check_is_read))
}

struct Exporting {
    /// Up to where the log has been written.
    next: u64,
    output: Output,
    invalid: u64,
}

impl Exporting {
    async fn run(&mut self, store: &dyn Layer2, progress: &Progress) -> anyhow::Result<()> {
        loop {
            let page = insist(
                async || store.changes(ChangesFrom::Seq(self.next), Detail::Events).await,
                progress,
            )
            .await
            .with_context(|| format!("reading the log at seq {}", self.next))?;
            let entries = page.changes.len() as u64;
            for change in page.changes {
                if let What::Saved(packed) = change.what {
                    self.write(&packed, &format!("seq {}", change.seq), progress)?;
                }
            }
            self.next = page.next;
            progress.advance(entries, format!("{} events", self.output.written));
            progress.set_ahead(page.length.saturating_sub(page.next));
            if page.next >= page.length {
                return Ok(());
            }
        }
    }

    async fn query(
        &mut self,
        store: &dyn Layer2,
        filters: &[Filter],
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let mut cursor: Option<Vec<u8>> = None;
        loop {
            let page = insist(async || store.query(filters, cursor.as_deref()).await, progress)
                .await
                .context("asking for what these authors signed")?;
            for packed in &page.events {
                self.write(packed, "an event", progress)?;
            }
            progress.advance(page.events.len() as u64, "events".into());
            cursor = page.cursor.map(ByteBuf::into_vec);
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// `what` names it where it is left out.
    fn write(&mut self, packed: &[u8], what: &str, progress: &Progress) -> anyhow::Result<()> {
        match check(packed) {
            Ok(event) => check_is_read(self.output.write(&event.to_json())?)?,
            Err(error) => {
                self.invalid += 1;
                progress.report(&format!("left out {what}: {error}"));
            }
        }
        Ok(())
    }
}

/// A backup that nobody reads to its end is none.
fn check_is_read(is_read: bool) -> anyhow::Result<()> {
    ensure!(is_read, "standard output was closed");
    Ok(())
}

fn check(packed: &[u8]) -> anyhow::Result<Event> {
    Ok(verify(Packed::parse(packed)?.unpack())?.into_inner())
}
