//! What a relay says about itself (NIP-11), and plain HTTP to where its websocket is.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Method, RequestBuilder, header};
use serde_json::Value;

use super::Relay;

/// What a relay without a document is tried with. NIPs that only name kinds come with NIP-01.
const BASE: [u16; 2] = [1, 9];

/// The type of the document.
pub const DOCUMENT: &str = "application/nostr+json";

/// A relay's document, if it has one.
pub struct Document(pub Option<Value>);

impl Document {
    pub async fn of(url: &str, patience: Duration) -> Result<Document> {
        let asking = http(url, Method::GET, patience)?.header(header::ACCEPT, DOCUMENT);
        // What knows no HTTP but the handshake of a websocket may answer anything, or hang up.
        let Ok(answer) = asking.send().await else { return Ok(Document(None)) };
        let body = answer.bytes().await.unwrap_or_default();
        Ok(Document(serde_json::from_slice(&body).ok().filter(Value::is_object)))
    }

    /// Whether it says that it supports a NIP.
    pub fn offers(&self, nip: u16) -> bool {
        match &self.0 {
            _ if nip == 1 => true,
            Some(document) => {
                let nips = document["supported_nips"].as_array();
                nips.is_some_and(|nips| nips.iter().any(|stated| stated == nip))
            }
            None => BASE.contains(&nip),
        }
    }

    /// One of its limitations, if it is stated.
    pub fn limit(&self, name: &str) -> Option<u64> {
        self.0.as_ref()?["limitation"][name].as_u64()
    }
}

/// A request to where the websocket is.
fn http(url: &str, method: Method, patience: Duration) -> Result<RequestBuilder> {
    let url = http_url(url);
    let client = Client::builder().timeout(patience).build().context("making an HTTP client")?;
    Ok(client.request(method, url))
}

/// The same address, as HTTP has it.
pub fn http_url(url: &str) -> String {
    match url.strip_prefix("ws") {
        Some(rest) => format!("http{rest}"),
        None => url.to_owned(),
    }
}

impl Relay {
    pub fn http(&self, method: Method) -> Result<RequestBuilder> {
        http(&self.url, method, self.patience)
    }
}
