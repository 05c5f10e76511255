//! What an operator sees of a relay: its metrics, and what memory it takes.

use cluster::RelayProcess;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What `/metrics` said.
pub struct Metrics(String);

impl Metrics {
    /// Asks a relay that was started with `--metrics-listen`.
    pub async fn of(relay: &RelayProcess) -> Metrics {
        let address = relay.listening().metrics.as_ref().expect("it has a port for metrics");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        Metrics(response)
    }

    pub fn value(&self, name: &str) -> f64 {
        self.values(name).next().unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }

    /// A bound below which this share of what a histogram was told lies: the best that its buckets tell.
    pub fn bound(&self, histogram: &str, share: f64) -> f64 {
        let enough = self.value(&format!("{histogram}_count")) * share;
        let bucket = format!("{histogram}_bucket{{le=\"");
        let buckets = self.0.lines().filter_map(|line| {
            let (bound, count) = line.strip_prefix(&bucket)?.split_once("\"} ")?;
            Some((bound.parse().unwrap_or(f64::INFINITY), count.parse::<f64>().ok()?))
        });
        let mut buckets: Vec<(f64, f64)> = buckets.collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let bound = buckets.into_iter().find(|(_, count)| *count >= enough);
        bound.expect("the last bucket has everything").0
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = f64> + 'a {
        self.0.lines().filter_map(move |line| {
            line.strip_prefix(name)?.strip_prefix(' ').and_then(|value| value.parse().ok())
        })
    }
}

/// Bytes of memory that are a relay's own. The file of its store, which it maps, is left out: the kernel
/// keeps as much of it as it has room for.
pub fn memory_bytes(relay: &RelayProcess) -> u64 {
    memory_of(relay.process().id())
}

/// The same of a process by its id.
pub fn memory_of(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = kibibytes.expect("Linux says so").trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().expect("it is a number") * 1_024
}
