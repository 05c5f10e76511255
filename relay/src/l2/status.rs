//! `aquifer l2 status`: what a shared store holds, what it costs, and how long it can pay for that.

use clap::Args;
use indicatif::{HumanBytes, HumanCount};
use layer2::{Status as Told, UsageFigures};
use serde::Serialize;
use store::is_store;

use super::{Who, insist};
use crate::{
    client::Progress,
    config::Config,
    control::{Place, Purpose, Reply, Request},
    costs::{Ledger, days_left, number},
    store_in,
};

/// Show what a shared store holds, what it costs, and for how many days it can pay
///
/// What this relay's own calls came to, and how fast the balance falls, the relay notes every ten
/// minutes while it runs.
#[derive(Args)]
pub struct Status {
    /// The store's URL [default: the one in the configuration]
    layer2: Option<String>,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    who: Who,
}

/// What is shown.
#[derive(Serialize)]
struct Shown {
    store: String,
    version: String,
    events: u64,
    length: u64,
    stable_bytes: u64,
    heap_bytes: u64,
    cycles: u128,
    liquid_cycles: u128,
    read_only: Option<String>,
    cycles_per_day: Option<f64>,
    days_left: Option<f64>,
    /// By the relay whose data folder it is, over all its runs.
    used: Option<UsageFigures>,
}

/// Runs the command.
pub async fn status(arguments: Status) -> anyhow::Result<()> {
    let store = arguments.who.open(arguments.layer2.as_deref())?;
    let told = insist(async || store.status().await, &Progress::of_entries()).await?;
    let name = store.name();
    let ledger = ledger(&arguments.who.config()?).await?.filter(|ledger| ledger.of == name);
    let shown = Shown::new(name, told, ledger);
    if arguments.json {
        println!("{}", serde_json::to_string(&shown)?);
    } else {
        shown.print();
    }
    Ok(())
}

/// What the relay of this machine noted, if there is one.
async fn ledger(config: &Config) -> anyhow::Result<Option<Ledger>> {
    if !is_store(&store_in(&config.data)) {
        return Ok(None);
    }
    let place = Place::open(config, Purpose::Use).await?;
    let mut answers = place.ask(&Request::Stats).await?;
    let mut ledger = None;
    while let Some(reply) = answers.next().await? {
        if let Reply::Stats(figures) = reply {
            ledger = figures.layer2_costs;
        }
    }
    place.close().await;
    Ok(ledger)
}

impl Shown {
    fn new(store: String, told: Told, ledger: Option<Ledger>) -> Shown {
        let rate = ledger.as_ref().and_then(Ledger::cycles_per_second);
        Shown {
            store,
            days_left: days_left(&told, rate),
            cycles_per_day: rate.map(|rate| rate * 86_400.0),
            cycles: number(&told.cycles),
            liquid_cycles: number(&told.liquid_cycles),
            version: told.version,
            events: told.events,
            length: told.length,
            stable_bytes: told.stable_bytes,
            heap_bytes: told.heap_bytes,
            read_only: told.read_only,
            used: ledger.map(|ledger| ledger.used),
        }
    }

    fn print(&self) {
        let line = |label: &str, value: String, about: &str| {
            println!("{label:14} {value:>18}   {about}");
        };
        let count = |count: u64| HumanCount(count).to_string();
        let bytes = |bytes: u64| HumanBytes(bytes).to_string();
        println!("{} (version {})", self.store, self.version);
        line("events", count(self.events), "held now");
        line("log", count(self.length), "entries");
        line("memory", bytes(self.stable_bytes + self.heap_bytes), "");
        if self.cycles > 0 {
            let about =
                format!("{} of them above the freezing threshold", tera(self.liquid_cycles));
            line("cycles", tera(self.cycles), &about);
        }
        if let Some(rate) = self.cycles_per_day {
            line("spent", tera(rate as u128), "a day, as seen by this relay");
        }
        if let Some(days) = self.days_left {
            let about =
                if self.cycles_per_day.is_some() { "at this rate" } else { "for its memory alone" };
            line("days left", format!("{days:.1}"), about);
        }
        if let Some(used) = &self.used {
            println!("this relay's calls:");
            line("queries", count(used.queries), "free of charge");
            line(
                "updates",
                count(used.updates),
                &format!("about {} cycles", tera(used.cycles.into())),
            );
            line("failed", count(used.failures), "");
            line("sent", bytes(used.bytes_up), "");
            line("received", bytes(used.bytes_down), "");
        }
        if let Some(reason) = &self.read_only {
            println!("it saves nothing at present: {reason}");
        }
    }
}

/// Cycles come by the million million.
fn tera(cycles: u128) -> String {
    format!("{:.3} T", cycles as f64 / 1e12)
}
