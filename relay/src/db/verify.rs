//! `aquifer db verify`.

use anyhow::bail;
use clap::Args;

use super::{conclude, not_an_answer};
use crate::{
    client::Progress,
    control::{Checked, Place, Reply, Request},
};

/// Check that what lies on the disk keeps every invariant of the store
///
/// All of it is read once, signatures included, on one consistent snapshot. As long as that takes, a
/// relay that runs on the store cannot use pages again that become free, so its file may grow. Ends
/// with 1 if an invariant is violated.
#[derive(Args)]
pub struct Verify {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub async fn verify(place: &Place, arguments: &Verify) -> anyhow::Result<()> {
    let answers = place.ask(&Request::Verify).await?;
    let findings = match conclude(answers, &Progress::of_entries()).await? {
        Some(Reply::Verified(findings)) => findings,
        other => return Err(not_an_answer(other)),
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&findings)?);
    } else {
        findings.iter().for_each(print);
    }
    match findings.iter().filter(|finding| finding.violations > 0).count() {
        0 => Ok(()),
        violated => bail!("{violated} of {} invariants are violated", findings.len()),
    }
}

fn print(finding: &Checked) {
    let Checked { invariant, statement, checked, violations, examples } = finding;
    if *violations == 0 {
        println!("ok        {invariant:18} {checked:>10} checked: {statement}");
        return;
    }
    println!("VIOLATED  {invariant:18} {violations:>10} times: not true that {statement}");
    examples.iter().for_each(|example| println!("            {example}"));
    if *violations > examples.len() as u64 {
        println!("            and {} more", violations - examples.len() as u64);
    }
}
