//! `http_request`: figures for Prometheus at `/metrics`, and a page for people at `/`.
//!
//! Nothing here is certified: ask the raw domain (`https://<canister-id>.raw.icp0.io/`), where gateways
//! pass on what one replica says. It is for watching, not for deciding. Events are not served here.

use std::fmt::{Display, Write};

use index::Seq;
use interface::{ByteBuf, HttpRequest, HttpResponse, Status};

use super::{relays::listed, status};
use crate::{reserve, runtime, state::State};

const DAY_SECONDS: u64 = 86_400;

pub fn http_request(state: &State, request: &HttpRequest) -> HttpResponse {
    let path = request.url.split(['?', '#']).next().unwrap_or_default();
    match (request.method.as_str(), path) {
        ("GET" | "HEAD", "/metrics") => respond(200, "text/plain; version=0.0.4", metrics(state)),
        ("GET" | "HEAD", "/" | "") => respond(200, "text/html", page(state)),
        ("GET" | "HEAD", _) => {
            respond(404, "text/plain", "there is / and there is /metrics\n".into())
        }
        _ => respond(405, "text/plain", "this can only be read\n".into()),
    }
}

fn respond(status_code: u16, kind: &str, body: String) -> HttpResponse {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = vec![
        header("content-type", &format!("{kind}; charset=utf-8")),
        header("cache-control", "no-store"),
        header("x-content-type-options", "nosniff"),
        header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ];
    HttpResponse { status_code, headers, body: ByteBuf::from(body.into_bytes()), upgrade: None }
}

/// Prometheus' text format, version 0.0.4.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP aquifer_{name} {help}"));
        self.line(format_args!("# TYPE aquifer_{name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.line(format_args!("aquifer_{name} {value}"));
    }

    /// Label values here are words of ours, so nothing needs to be escaped.
    fn labelled<V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        values: impl IntoIterator<Item = (impl Display, V)>,
    ) {
        self.family(name, kind, help);
        for (word, value) in values {
            self.line(format_args!("aquifer_{name}{{{label}=\"{word}\"}} {value}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a String takes all");
    }
}

fn metrics(state: &State) -> String {
    let status = status(state);
    let mut out = Exposition::default();
    out.gauge("events", "Events held.", status.events);
    out.gauge("log_length", "Entries of the log.", status.length);
    out.gauge(
        "log_entries_last_day",
        "Entries of the last day.",
        entries_since(state, DAY_SECONDS),
    );
    out.gauge("stable_bytes", "Stable memory that is paid for.", status.stable_bytes);
    out.gauge("heap_bytes", "Wasm memory.", status.heap_bytes);
    let pages = ("memory_pages", "gauge", "Pages of 64 KiB of each stable memory.");
    out.labelled(pages, "memory", status.memories);
    out.gauge("cycles", "Cycle balance.", &status.cycles.0);
    out.gauge("liquid_cycles", "Cycles above the freezing threshold.", &status.liquid_cycles.0);
    out.gauge("rent_cycles_per_day", "What the memory costs.", reserve::rent_a_day(state));
    let is_read_only = u8::from(status.read_only.is_some());
    out.gauge("read_only", "1 if nothing can be saved at present.", is_read_only);
    out.gauge("members", "Principals with a role.", state.members.len());
    out.gauge("relays", "Relays heard of lately.", listed(state).len());
    let metrics = &state.metrics;
    let outcomes = ("saves_total", "counter", "Events that save_events looked at, by outcome.");
    out.labelled(outcomes, "outcome", metrics.outcomes());
    let saved_at = metrics.last_saved_at.unwrap_or(0);
    out.gauge("last_saved_timestamp_seconds", "When an event was saved last.", saved_at);
    let most =
        [("save_events", metrics.save_instructions_most), ("tidy", metrics.tidy_instructions_most)];
    let help = "The most instructions that one message took.";
    out.labelled(("instructions_most", "gauge", help), "method", most);
    if let Some(cost) = metrics.last_save {
        let parts = [
            ("decode", cost.decode),
            ("verify", cost.verify),
            ("index", cost.index),
            ("log", cost.log),
        ];
        let help = "Instructions that the last save_events took.";
        out.labelled(("last_save_instructions", "gauge", help), "part", parts);
        out.gauge("last_save_events", "Events of the last save_events.", cost.events);
    }
    out.0
}

fn entries_since(state: &State, seconds: u64) -> u64 {
    let log = state.events.log();
    let Seq(first) = log.first_arrived_at(runtime::now().saturating_sub(seconds));
    log.length().0 - first
}

fn page(state: &State) -> String {
    let status = status(state);
    let mut rows = String::new();
    let mut row = |name: &str, value: &dyn Display| {
        write!(rows, "<tr><th>{name}<td>{value}").expect("a String takes all");
    };
    match &status.read_only {
        Some(reason) => row("Saving", &format_args!("<b>read-only</b>: {}", escaped(reason))),
        None => row("Saving", &"yes"),
    }
    row("Events", &status.events);
    row("Entries in the log", &status.length);
    row("Entries of the last day", &entries_since(state, DAY_SECONDS));
    row("Relays heard of lately", &listed(state).len());
    row("Memory", &format_args!("{} MiB", (status.stable_bytes + status.heap_bytes) >> 20));
    for (name, value) in money(state, &status) {
        row(name, &value);
    }
    let last = status.last_saved_at.map_or("none since the last upgrade".into(), |at| {
        format!("{} seconds ago", runtime::now().saturating_sub(at))
    });
    row("Last event saved", &last);
    row("Version", &status.version);
    let id = runtime::canister_id();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content='width=device-width'><title>Aquifer {id}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44em;margin:2em auto;padding:0 1em}}\
         th{{text-align:left;font-weight:normal;color:#666;padding-right:2em;vertical-align:top}}</style>\
         <h1>Aquifer</h1><p>An event store that nostr relays share: canister <code>{id}</code>. \
         One replica says so; nothing on this page is certified.\
         <table>{rows}</table><p>For machines: <a href=/metrics>/metrics</a>.\n"
    )
}

/// What there is to spend, and how long the rent can be paid from it if nothing else happens.
fn money(state: &State, status: &Status) -> [(&'static str, String); 3] {
    let trillions =
        |cycles: u128| format!("{}.{:03} T", cycles / TERA, cycles % TERA / 1_000_000_000);
    let liquid = u128::try_from(status.liquid_cycles.0.clone()).unwrap_or(u128::MAX);
    let rent = reserve::rent_a_day(state);
    [
        ("Cycles to spend", trillions(liquid)),
        ("Rent a day", trillions(rent)),
        ("Days of rent left", (liquid / rent.max(1)).to_string()),
    ]
}

const TERA: u128 = 1_000_000_000_000;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
