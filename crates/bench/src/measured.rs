//! What a comparison comes to: every figure of every relay.

use anyhow::Result;
use serde::Serialize;

use crate::{
    contender::Contender, fanout::FannedOut, idle::Idled, ingest::Ingested, latency::Summary,
    machine::Verified, query::Answered,
};

/// All that was measured.
#[derive(Serialize)]
pub struct Compared {
    pub machine: Machine,
    pub corpus_sha256: String,
    pub stored: usize,
    pub json_bytes_per_event: f64,
    pub relays: Vec<Measured>,
}

#[derive(Serialize)]
pub struct Machine {
    pub fsync: Summary,
    pub verify: Verified,
}

/// One relay, over all passes.
#[derive(Serialize)]
pub struct Measured {
    pub name: String,
    pub version: String,
    pub durable: bool,
    pub passes: Vec<Pass>,
    /// What could not be measured, and why.
    pub complaints: Vec<String>,
}

/// One relay, once. What failed is missing.
#[derive(Default, Serialize)]
pub struct Pass {
    pub ingest: Option<Ingested>,
    pub duplicates: Option<Ingested>,
    pub lone: Option<Ingested>,
    pub disk_bytes_per_event: Option<f64>,
    pub shapes: Vec<Answered>,
    pub fanout: Option<FannedOut>,
    pub idle: Option<Idled>,
}

impl Measured {
    pub fn nothing(contender: &Contender) -> Measured {
        let Contender { name, version, durable, .. } = contender.clone();
        Measured { name, version, durable, passes: Vec::new(), complaints: Vec::new() }
    }

    /// What failed is told and left out; the rest goes on.
    pub fn take<T>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.complain(what, &error)).ok()
    }

    pub fn complain(&mut self, what: &str, error: &anyhow::Error) {
        let complaint = format!("{what}: {error:#}");
        eprintln!("{}: {complaint}", self.name);
        if !self.complaints.contains(&complaint) {
            self.complaints.push(complaint);
        }
    }
}
