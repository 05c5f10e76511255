//! `aquifer l2 export`: a backup of a shared store, as JSONL on standard output.
//!
//! It follows the log, so a backup can be continued later, and one taken while the store changes is
//! whole up to the seq it names. An event that goes after it was written stays in the file. That does
//! no harm where the file holds the reason too (a newer version, a deletion); what an operator deletes
//! by hand meanwhile has to be deleted again after the file is put back.

use anyhow::{Context, ensure};
use clap::Args;
use event::{Event, Packed, verify};
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
}

/// Runs the command.
pub async fn export(arguments: Export) -> anyhow::Result<()> {
    let store = arguments.at.open()?;
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
                    self.write(&packed, change.seq, progress)?;
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

    fn write(&mut self, packed: &[u8], seq: u64, progress: &Progress) -> anyhow::Result<()> {
        match check(packed) {
            Ok(event) => check_is_read(self.output.write(&event.to_json())?)?,
            Err(error) => {
                self.invalid += 1;
                progress.report(&format!("left out seq {seq}: {error}"));
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
