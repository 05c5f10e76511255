//! What the relay's process takes, as Linux tells it under `/proc`.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// `/proc` counts processor time in hundredths of a second on every machine that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;
/// Memory is at rest when so many looks in a row found the same.
const LOOKS_ALIKE: usize = 5;
const LOOKS_MAX: usize = 100;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// What it has used up so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    cpu_seconds: f64,
    written_bytes: u64,
}

/// What a number of events cost it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    pub cpu_seconds: f64,
    pub cpu_us_per_event: f64,
    pub events_per_cpu_second: f64,
    pub written_bytes_per_event: f64,
    pub memory_bytes: u64,
}

impl Process {
    pub fn usage(self) -> Result<Usage> {
        let stat = self.read("stat")?;
        // The second field is the program's name in parentheses, and may itself hold spaces.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat names no program")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let ticks = |place: usize| -> Result<f64> {
            Ok(fields.get(place).context("/proc/PID/stat is short")?.parse()?)
        };
        let cpu_seconds = (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND;
        // `write_bytes` would count a large folio whole each time that a page of it is written.
        Ok(Usage { cpu_seconds, written_bytes: self.number("io", "wchar:")? })
    }

    /// Memory that is its own. Files that it maps are left out: the kernel keeps as much of them as it
    /// has room for.
    pub fn memory_bytes(self) -> Result<u64> {
        Ok(self.number("status", "RssAnon:")? * 1024)
    }

    /// The same once it no longer changes.
    pub fn memory_bytes_at_rest(self) -> Result<u64> {
        let mut last = self.memory_bytes()?;
        let mut alike = 0;
        for _ in 0..LOOKS_MAX {
            thread::sleep(LOOK_EVERY);
            let now = self.memory_bytes()?;
            alike = if now == last { alike + 1 } else { 0 };
            last = now;
            if alike == LOOKS_ALIKE {
                break;
            }
        }
        Ok(last)
    }

    /// What `events` events cost since `before`.
    pub fn cost(self, before: Usage, events: u64) -> Result<Cost> {
        let after = self.usage()?;
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        let events = events.max(1) as f64;
        Ok(Cost {
            cpu_seconds,
            cpu_us_per_event: cpu_seconds * 1e6 / events,
            events_per_cpu_second: events / cpu_seconds,
            written_bytes_per_event: (after.written_bytes - before.written_bytes) as f64 / events,
            memory_bytes: self.memory_bytes()?,
        })
    }

    fn number(self, file: &str, name: &str) -> Result<u64> {
        let text = self.read(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.split_ascii_whitespace().next());
        Ok(value.with_context(|| format!("/proc/PID/{file} has no {name}"))?.parse()?)
    }

    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    }
}
