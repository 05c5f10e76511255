//! The table of figures: Markdown, for people and for the next measurement to compare itself with.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result};

const HEAD: &str = "\
# What the event store's work costs

Instructions on the Internet Computer, unless bytes are named: one cycle each in an update, free in a
query. Measured by `canister-bench` on synthetic events of about 600 bytes of JSON, 280 packed, with
three tags, by 2,000 authors. The columns are how many events the store had been sent. Sending a reply,
at 50 instructions a byte, is not counted: 500 packed events are about 7 M.
";

/// A row for each kind of work, a column for each size of the store.
pub struct Results {
    stores: Vec<usize>,
    rows: Vec<(String, Vec<Option<u64>>)>,
}

impl Results {
    pub fn new(stores: Vec<usize>) -> Results {
        Results { stores, rows: Vec::new() }
    }

    pub fn set(&mut self, work: String, column: usize, figure: u64) {
        let place = self.rows.iter().position(|(name, _)| *name == work).unwrap_or_else(|| {
            self.rows.push((work, vec![None; self.stores.len()]));
            self.rows.len() - 1
        });
        self.rows[place].1[column] = Some(figure);
    }

    fn get(&self, work: &str, store: usize) -> Option<u64> {
        let column = self.stores.iter().position(|it| *it == store)?;
        self.rows.iter().find(|(name, _)| name == work)?.1[column]
    }

    /// What costs over so many percent more here than there, in words. What only one of them has is
    /// not compared.
    pub fn dearer_than(&self, kept: &Results, percent: u64) -> Vec<String> {
        let mut dearer = Vec::new();
        for (work, figures) in &self.rows {
            for (store, figure) in self.stores.iter().zip(figures) {
                if let (Some(now), Some(then)) = (*figure, kept.get(work, *store))
                    && now * 100 > then * (100 + percent)
                {
                    dearer.push(format!("{work}, {store} events: {now}, was {then}"));
                }
            }
        }
        dearer
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = |cells: Vec<String>| cells.join(" | ");
        let stores = self.stores.iter().map(|size| grouped(*size as u64)).collect();
        writeln!(f, "{HEAD}\n| work | {} |", cells(stores))?;
        writeln!(f, "|---|{}", "---:|".repeat(self.stores.len()))?;
        for (work, figures) in &self.rows {
            let figures = figures.iter().map(|it| it.map(grouped).unwrap_or_default()).collect();
            writeln!(f, "| {work} | {} |", cells(figures))?;
        }
        Ok(())
    }
}

impl FromStr for Results {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Results> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
        let head = lines.next().context("the table has no head")?;
        let stores = head.split(" | ").skip(1).map(number).collect::<Result<Vec<u64>>>()?;
        let mut results = Results::new(stores.iter().map(|store| *store as usize).collect());
        for line in lines {
            let mut cells = line.split(" | ");
            let work = cells.next().unwrap_or_default();
            for (column, cell) in cells.take(stores.len()).enumerate() {
                if !cell.trim().is_empty() {
                    results.set(work.to_owned(), column, number(cell)?);
                }
            }
        }
        Ok(results)
    }
}

fn number(cell: &str) -> Result<u64> {
    cell.trim().replace(',', "").parse().with_context(|| format!("no number: {cell}"))
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(figures: [u64; 2]) -> Results {
        let mut results = Results::new(vec![10_000, 1_000_000]);
        results.set("saving".into(), 0, figures[0]);
        results.set("saving".into(), 1, figures[1]);
        results.set("asking".into(), 1, 7);
        results
    }

    #[test]
    fn a_written_table_is_read_back() {
        let written = table([999, 1_234_567]).to_string();
        assert!(written.contains("| saving | 999 | 1,234,567 |"), "{written}");
        let read: Results = written.parse().unwrap();
        assert_eq!(read.to_string(), written);
        assert_eq!((read.get("asking", 10_000), read.get("asking", 1_000_000)), (None, Some(7)));
    }

    #[test]
    fn only_what_got_dearer_by_more_than_allowed_is_named() {
        let kept = table([100, 1_000]);
        assert!(table([105, 900]).dearer_than(&kept, 5).is_empty());
        assert_eq!(
            table([106, 1_000]).dearer_than(&kept, 5),
            ["saving, 10000 events: 106, was 100"]
        );
    }
}
