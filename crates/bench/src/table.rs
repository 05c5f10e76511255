//! The comparison as one table in Markdown: a measure a row, a relay a column.
//!
//! Behind each figure of another relay stands how many times better the first one's is: more events, or
//! less time. Passes are averaged.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

use crate::measured::{Compared, Measured, Pass};

/// Between these the table of the comparison stands.
pub const FIGURES: Marks = Marks { begin: "<!-- figures -->", end: "<!-- end of figures -->" };

/// Two lines of a file, and what stands between them is ours to write.
pub struct Marks {
    pub begin: &'static str,
    pub end: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Better {
    More,
    Less,
}

struct Row {
    name: String,
    better: Better,
    figure: Figure,
}

/// What a pass says to a row, if it was measured.
type Figure = Box<dyn Fn(&Pass) -> Option<f64>>;

/// Replaces what stands between the marks in `file`.
pub fn put(markdown: &str, marks: &Marks, file: &Path) -> Result<()> {
    let Marks { begin, end } = marks;
    let name = file.display();
    let text = fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    let (head, rest) = text.split_once(begin).with_context(|| format!("{name} has no {begin}"))?;
    let (_, tail) = rest.split_once(end).with_context(|| format!("{name} has no {end}"))?;
    fs::write(file, format!("{head}{begin}\n{markdown}{end}{tail}"))
        .with_context(|| format!("writing {name}"))
}

/// The table, with what it was measured on above and what is wrong with it below.
pub fn markdown(compared: &Compared) -> String {
    let mut out = String::new();
    let Compared { machine, corpus_sha256, stored, json_bytes_per_event, relays } = compared;
    let (fsync, verify) = (machine.fsync, &machine.verify);
    let per_core = verify.per_cpu_second;
    let _ = writeln!(
        out,
        "{} cores. The disk alone syncs 16 KiB in {:.2} ms (p50), {:.2} ms (p99); libsecp256k1 alone \
         checks {per_core:.0} signatures in a second of processor time.\n{stored} events of \
         {json_bytes_per_event:.0} bytes of JSON on average, sha256 `{}…`.\n",
        verify.cores,
        fsync.p50_us / 1e3,
        fsync.p99_us / 1e3,
        &corpus_sha256[..16],
    );
    line(&mut out, "", relays.iter().map(|relay| format!("{} {}", relay.name, relay.version)));
    line(&mut out, "---", relays.iter().map(|_| "---:".into()));
    let durable = |relay: &Measured| if relay.durable { "durable" } else { "not durable" };
    line(&mut out, "When it says OK, the event is", relays.iter().map(|r| durable(r).into()));
    for row in rows(relays, per_core) {
        let figures: Vec<_> = relays.iter().map(|relay| row.mean(relay)).collect();
        let cells = figures
            .iter()
            .enumerate()
            .map(|(place, figure)| row.cell(*figure, if place == 0 { None } else { figures[0] }));
        line(&mut out, &row.name, cells);
    }
    line(&mut out, "Answers (50 filters of each shape)", relays.iter().map(answers));
    complaints(&mut out, relays);
    out
}

/// One row.
pub fn line(out: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<String> = cells.collect();
    let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
}

impl Row {
    fn new(name: &str, better: Better, figure: impl Fn(&Pass) -> Option<f64> + 'static) -> Row {
        Row { name: name.into(), better, figure: Box::new(figure) }
    }

    fn mean(&self, relay: &Measured) -> Option<f64> {
        let figures: Vec<f64> =
            relay.passes.iter().filter_map(|pass| (self.figure)(pass)).collect();
        (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
    }

    fn cell(&self, figure: Option<f64>, ours: Option<f64>) -> String {
        let Some(figure) = figure else { return "–".into() };
        match ours {
            Some(ours) if self.better == Better::More => with_ratio(figure, ours / figure),
            Some(ours) => with_ratio(figure, figure / ours),
            None => digits(figure),
        }
    }
}

fn with_ratio(figure: f64, ratio: f64) -> String {
    if ratio.is_finite() { format!("{} ({ratio:.1}×)", digits(figure)) } else { digits(figure) }
}

/// Three digits, which is more than two runs agree on.
fn digits(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn rows(relays: &[Measured], per_core: f64) -> Vec<Row> {
    use Better::{Less, More};
    let ms = |us: f64| us / 1e3;
    let passes = || relays.iter().flat_map(|relay| &relay.passes);
    let subscribers =
        passes().find_map(|pass| Some(pass.fanout.as_ref()?.subscribers)).unwrap_or(0);
    let idle = passes().find_map(|pass| Some(pass.idle.as_ref()?.connections)).unwrap_or(0);
    let mut rows = vec![
        Row::new("New events a second: 8 connections, 256 in flight", More, |pass| {
            Some(pass.ingest.as_ref()?.events_per_second)
        }),
        Row::new("… OK p50, ms", Less, move |pass| Some(ms(pass.ingest.as_ref()?.ok.p50_us))),
        Row::new("… OK p99, ms", Less, move |pass| Some(ms(pass.ingest.as_ref()?.ok.p99_us))),
        Row::new("… processor time of the relay for each, µs", Less, |pass| {
            Some(pass.ingest.as_ref()?.relay?.cpu_us_per_event)
        }),
        Row::new("… of what libsecp256k1 alone would check in that time, %", More, move |pass| {
            Some(pass.ingest.as_ref()?.relay?.events_per_cpu_second / per_core * 100.0)
        }),
        Row::new("… written to the disk for each, bytes", Less, |pass| {
            Some(pass.ingest.as_ref()?.relay?.written_bytes_per_event)
        }),
        Row::new("On the disk for each event kept, bytes", Less, |pass| pass.disk_bytes_per_event),
        Row::new("A lone client's OK p50, ms", Less, move |pass| {
            Some(ms(pass.lone.as_ref()?.ok.p50_us))
        }),
        Row::new("… p99, ms", Less, move |pass| Some(ms(pass.lone.as_ref()?.ok.p99_us))),
        Row::new("Known events again: processor time for each, µs", Less, |pass| {
            Some(pass.duplicates.as_ref()?.relay?.cpu_us_per_event)
        }),
        Row::new(
            &format!("{subscribers} subscribers: the first has it, p50, ms"),
            Less,
            move |pass| Some(ms(pass.fanout.as_ref()?.first.p50_us)),
        ),
        Row::new("… the first has it, p99, ms", Less, move |pass| {
            Some(ms(pass.fanout.as_ref()?.first.p99_us))
        }),
        Row::new("… the last has it, p50, ms", Less, move |pass| {
            Some(ms(pass.fanout.as_ref()?.last.p50_us))
        }),
        Row::new("… the last has it, p99, ms", Less, move |pass| {
            Some(ms(pass.fanout.as_ref()?.last.p99_us))
        }),
        Row::new(&format!("{idle} idle connections: memory for each, kB"), Less, |pass| {
            Some(pass.idle.as_ref()?.memory_bytes_per_connection as f64 / 1e3)
        }),
    ];
    let longest = passes().map(|pass| &pass.shapes).max_by_key(|shapes| shapes.len());
    for (place, answered) in longest.into_iter().flatten().enumerate() {
        let name = answered.shape.in_words();
        let events = answered.events_per_answer;
        rows.extend([
            Row::new(&format!("{name} ({events:.0} events): requests a second"), More, {
                move |pass| measured(pass.shapes.get(place)?.requests_per_second)
            }),
            Row::new("… first event p50, ms", Less, move |pass| {
                measured(ms(pass.shapes.get(place)?.first.p50_us))
            }),
            Row::new("… EOSE p99, ms", Less, move |pass| {
                measured(ms(pass.shapes.get(place)?.eose.p99_us))
            }),
            Row::new("… processor time of the relay for each, µs", Less, move |pass| {
                pass.shapes.get(place)?.relay_cpu_us_per_request
            }),
        ]);
    }
    rows
}

/// Nothing is timed where every answer is wrong.
fn measured(figure: f64) -> Option<f64> {
    (figure > 0.0).then_some(figure)
}

fn answers(relay: &Measured) -> String {
    let all: Vec<_> = relay.passes.iter().flat_map(|pass| &pass.shapes).collect();
    let [wrong, ties] = [
        all.iter().map(|answered| answered.wrong).sum::<usize>(),
        all.iter().map(|answered| answered.ties_astray).sum(),
    ];
    match (all.is_empty(), wrong, ties) {
        (true, _, _) => "–".into(),
        (_, 0, 0) => "all right".into(),
        (_, wrong, ties) => format!("{wrong} wrong, {ties} in another order within a second"),
    }
}

fn complaints(out: &mut String, relays: &[Measured]) {
    out.push('\n');
    for relay in relays {
        for complaint in &relay.complaints {
            let _ = writeln!(out, "- {}: {complaint}", relay.name);
        }
        let shapes = relay.passes.iter().take(1).flat_map(|pass| &pass.shapes);
        for answered in shapes.filter(|answered| answered.wrong > 0) {
            let what = answered.complaint.as_deref().unwrap_or_default();
            let shape = answered.shape.in_words();
            let _ = writeln!(
                out,
                "- {}: {} of 50 wrong: {shape}: {what:.120}…",
                relay.name, answered.wrong
            );
        }
    }
}
