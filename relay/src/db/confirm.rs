//! The question before something that cannot be undone.

use std::io::{BufRead, Write, stderr, stdin};

use anyhow::{Context, ensure};

/// Goes on only if a person, or a script, answers with this very word.
pub fn ask(question: &str, word: &str) -> anyhow::Result<()> {
    eprint!("{question} Type `{word}` to go on: ");
    stderr().flush()?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer).context("reading the answer")?;
    ensure!(answer.trim() == word, "nothing was done (--yes goes on without asking)");
    Ok(())
}
