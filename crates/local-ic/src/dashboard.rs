//! The page at `/`: what is on an instance and what it did last, for people.
//!
//! One self-contained document without scripts, made anew for each request. Everything that comes
//! from a canister is escaped, and a policy forbids the browser to load or run anything.

use std::fmt::{self, Display, Formatter, Write};

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

use crate::canister::{Canister, Status};
use crate::ic::Ic;
use crate::instance::now_nanos;
use crate::journal::Executed;

const SECOND_NANOS: u64 = 1_000_000_000;
/// An instance this near to the clock is taken to follow it.
const LIVE_NANOS: u64 = 2 * SECOND_NANOS;

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="5">
<title>local-ic</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin-bottom: 1.5rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; }
th { font-weight: 600; } .number { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: .9em; overflow-wrap: anywhere; } .failed { color: #c33; }
:root { color-scheme: light dark; }
</style>
"#;

/// The page, with what a browser must be told about it.
pub fn response(page: String) -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

/// A page about these instances, each with its number.
pub fn page<'a>(instances: impl IntoIterator<Item = (usize, &'a Ic)>) -> String {
    let mut page = String::from(HEAD);
    let version = env!("CARGO_PKG_VERSION");
    write(&mut page, format_args!("<h1>local-ic {version}</h1>\n"));
    page.push_str(
        "<p>A local Internet Computer for tests and development. Its keys are public: \
         never a place for real value.</p>\n",
    );
    for (number, ic) in instances {
        write(&mut page, format_args!("<h2>Instance {number}</h2>\n"));
        instance(&mut page, ic);
    }
    page.push_str("</html>\n");
    page
}

fn write(page: &mut String, text: fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes it all");
}

fn instance(page: &mut String, ic: &Ic) {
    let time = match ic.time.abs_diff(now_nanos()) < LIVE_NANOS {
        true => "the clock's".to_owned(),
        false => format!("{} s after 1970", Grouped((ic.time / SECOND_NANOS).into())),
    };
    write(page, format_args!("<p>Time: {time}. Messages waiting: {}.</p>\n", ic.queue.len()));
    if let Some(key) = ic.subnets.root_key() {
        let key = hex::encode(key);
        write(page, format_args!("<details><summary>Root key</summary><code>{key}</code>"));
        page.push_str("</details>\n");
    }
    subnets(page, ic);
    canisters(page, ic);
    messages(page, ic);
}

fn table(page: &mut String, title: &str, columns: &[&str]) {
    write(page, format_args!("<h3>{title}</h3>\n<table>\n<tr>"));
    for column in columns {
        write(page, format_args!("<th>{column}</th>"));
    }
    page.push_str("</tr>\n");
}

fn subnets(page: &mut String, ic: &Ic) {
    table(page, "Subnets", &["Kind", "Id", "Canisters"]);
    for subnet in &ic.subnets.all {
        let count = ic.canisters.keys().filter(|id| subnet.plan.contains(**id)).count();
        let kind = format!("{:?}", subnet.plan.kind);
        let (kind, id) = (Escaped(&kind), subnet.id());
        write(
            page,
            format_args!("<tr><td>{kind}</td><td><code>{id}</code></td><td>{count}</td></tr>\n"),
        );
    }
    page.push_str("</table>\n");
}

fn canisters(page: &mut String, ic: &Ic) {
    let columns = ["Canister", "Status", "Cycles", "Heap", "Stable memory", "Module"];
    table(page, "Canisters", &columns);
    for canister in ic.canisters.values() {
        let (heap, stable) = (&canister.body.heap, &canister.body.stable);
        write(
            page,
            format_args!(
                "<tr><td><code>{}</code></td><td>{}</td><td class=\"number\">{}</td>\
                 <td class=\"number\">{}</td><td class=\"number\">{}</td><td><code>{}</code></td></tr>\n",
                canister.id,
                status(canister),
                Grouped(canister.cycles),
                Bytes(heap.len()),
                Bytes(stable.len()),
                module(canister),
            ),
        );
    }
    page.push_str("</table>\n");
}

fn status(canister: &Canister) -> &'static str {
    match canister.status {
        Status::Running => "running",
        Status::Stopping(_) => "stopping",
        Status::Stopped => "stopped",
    }
}

fn module(canister: &Canister) -> String {
    match &canister.body.code {
        Some(code) => hex::encode(&code.hash[..8]),
        None => "none".to_owned(),
    }
}

fn messages(page: &mut String, ic: &Ic) {
    let columns = ["Ago", "Canister", "What", "Instructions", "Cycles", "Outcome"];
    table(page, "Latest messages", &columns);
    for executed in ic.journal.latest() {
        message(page, executed, ic.time);
    }
    page.push_str("</table>\n<p>Queries are not listed: they change nothing.</p>\n");
}

fn message(page: &mut String, executed: &Executed, now: u64) {
    let ago_ms = now.saturating_sub(executed.time) / 1_000_000;
    let outcome = match &executed.error {
        None => "done".to_owned(),
        Some(error) => format!("<span class=\"failed\">{}</span>", Escaped(error)),
    };
    write(
        page,
        format_args!(
            "<tr><td>{}.{:03} s</td><td><code>{}</code></td><td>{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td><td>{outcome}</td></tr>\n",
            ago_ms / 1000,
            ago_ms % 1000,
            executed.canister,
            Escaped(&executed.what),
            Grouped(executed.instructions.into()),
            Grouped(executed.cycles),
        ),
    );
}

/// Text as it may stand in HTML, in an attribute too.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '&' => f.write_str("&amp;"),
                '<' => f.write_str("&lt;"),
                '>' => f.write_str("&gt;"),
                '"' => f.write_str("&quot;"),
                '\'' => f.write_str("&#39;"),
                char => f.write_char(char),
            }?;
        }
        Ok(())
    }
}

/// A number with its thousands set apart.
struct Grouped(u128);

impl Display for Grouped {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.iter().find(|(_, shift)| self.0 >> shift > 0) {
            Some((unit, shift)) => {
                write!(f, "{:.1} {unit}", self.0 as f64 / (1u64 << shift) as f64)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_canister_says_cannot_become_markup() {
        let hostile = Escaped("<script>alert('a & \"b\"')</script>").to_string();
        assert_eq!(hostile, "&lt;script&gt;alert(&#39;a &amp; &quot;b&quot;&#39;)&lt;/script&gt;");
    }

    #[test]
    fn numbers_are_written_for_people() {
        let numbers = [0, 999, 1_000, 12_345, 100_000_000_000_000];
        let texts = numbers.map(|number| Grouped(number).to_string());
        assert_eq!(texts, ["0", "999", "1,000", "12,345", "100,000,000,000,000"]);
        let sizes = [0, 1023, 65_536, 3 << 20, 5 << 29].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(sizes, ["0 B", "1023 B", "64.0 KiB", "3.0 MiB", "2.5 GiB"]);
    }
}
