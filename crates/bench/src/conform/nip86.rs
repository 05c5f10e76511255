//! NIP-86, managing a relay by HTTP, and NIP-98, by which it knows that an operator asks.
//!
//! What a stranger is refused says little about why, so a request is spoilt in each way only where an
//! operator's key is known (`--admin-key`). Nothing is changed: `supportedmethods` only reads.

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use event::Event;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Relay,
    author::{Author, json_of, now},
    cases,
    document::http_url,
    not_offered,
};

const RPC: &str = "application/nostr+json+rpc";

cases! {
    "nip86" needs [86]:
        without_authorization_it_is_401,
        a_stranger_is_refused,
        an_operator_is_told_the_supported_methods,
        an_unknown_method_is_an_error;
    "nip98" needs [86]:
        a_request_for_another_url_is_401,
        a_request_for_another_method_is_401,
        a_request_with_another_payload_is_401,
        a_request_without_its_payload_is_401,
        an_old_request_is_401,
        a_request_of_another_kind_is_401,
        a_forged_request_is_401;
}

fn asking(method: &str) -> String {
    json!({"method": method, "params": []}).to_string()
}

/// What a request says of itself, to be spoilt.
struct Claim {
    at: u64,
    kind: u16,
    url: String,
    method: &'static str,
    payload: Option<String>,
}

impl Claim {
    fn of(relay: &Relay, body: &str) -> Claim {
        let payload = Some(hex::encode(Sha256::digest(body)));
        Claim { at: now(), kind: 27_235, url: http_url(&relay.known_as), method: "POST", payload }
    }

    fn signed(&self, author: &Author) -> Event {
        let mut tags: Vec<Vec<&str>> = vec![vec!["u", &self.url], vec!["method", self.method]];
        if let Some(payload) = &self.payload {
            tags.push(vec!["payload", payload]);
        }
        let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
        author.sign(self.at, self.kind, &tags, "")
    }
}

async fn post(
    relay: &Relay,
    body: String,
    authorization: Option<&Value>,
) -> Result<(StatusCode, Value)> {
    let mut asking = relay.http(Method::POST)?.header(header::CONTENT_TYPE, RPC).body(body);
    if let Some(event) = authorization {
        let claim = STANDARD.encode(event.to_string());
        asking = asking.header(header::AUTHORIZATION, format!("Nostr {claim}"));
    }
    let answer = asking.send().await.context("asking by HTTP")?;
    let status = answer.status();
    let body = answer.bytes().await.context("reading the answer")?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

fn is_unauthorized((status, body): &(StatusCode, Value)) -> Result<()> {
    ensure!(*status == StatusCode::UNAUTHORIZED, "expected 401, came {status} {body:.100}");
    Ok(())
}

fn admin(relay: &Relay) -> Result<&Author> {
    match &relay.admin {
        Some(admin) => Ok(admin),
        None => not_offered("no --admin-key was given"),
    }
}

async fn without_authorization_it_is_401(relay: &Relay) -> Result<()> {
    is_unauthorized(&post(relay, asking("supportedmethods"), None).await?)
}

async fn a_stranger_is_refused(relay: &Relay) -> Result<()> {
    let body = asking("listbannedpubkeys");
    let claim = json_of(&Claim::of(relay, &body).signed(&relay.author()));
    let (status, answer) = post(relay, body, Some(&claim)).await?;
    let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    ensure!(is_refused, "expected 401 or 403, came {status} {answer:.100}");
    Ok(())
}

async fn an_operator_is_told_the_supported_methods(relay: &Relay) -> Result<()> {
    let (admin, body) = (admin(relay)?, asking("supportedmethods"));
    let claim = json_of(&Claim::of(relay, &body).signed(admin));
    let (status, answer) = post(relay, body, Some(&claim)).await?;
    let methods = answer["result"].as_array();
    let is_list = methods.is_some_and(|methods| methods.iter().all(Value::is_string));
    ensure!(
        status.is_success() && is_list,
        "expected a list of methods, came {status} {answer:.100}"
    );
    Ok(())
}

async fn an_unknown_method_is_an_error(relay: &Relay) -> Result<()> {
    let (admin, body) = (admin(relay)?, asking("nosuchmethod"));
    let claim = json_of(&Claim::of(relay, &body).signed(admin));
    let (status, answer) = post(relay, body, Some(&claim)).await?;
    let is_error = answer["error"].is_string() || status.is_client_error();
    ensure!(is_error, "expected an error, came {status} {answer:.100}");
    Ok(())
}

/// A request that is right but for one thing.
async fn spoilt(relay: &Relay, spoil: impl FnOnce(&mut Claim)) -> Result<()> {
    let (admin, body) = (admin(relay)?, asking("supportedmethods"));
    let mut claim = Claim::of(relay, &body);
    spoil(&mut claim);
    is_unauthorized(&post(relay, body, Some(&json_of(&claim.signed(admin)))).await?)
}

async fn a_request_for_another_url_is_401(relay: &Relay) -> Result<()> {
    spoilt(relay, |claim| claim.url = "https://relay.elsewhere.example/".into()).await
}

async fn a_request_for_another_method_is_401(relay: &Relay) -> Result<()> {
    spoilt(relay, |claim| claim.method = "GET").await
}

async fn a_request_with_another_payload_is_401(relay: &Relay) -> Result<()> {
    spoilt(relay, |claim| claim.payload = Some(hex::encode(Sha256::digest("other")))).await
}

async fn a_request_without_its_payload_is_401(relay: &Relay) -> Result<()> {
    spoilt(relay, |claim| claim.payload = None).await
}

async fn an_old_request_is_401(relay: &Relay) -> Result<()> {
    spoilt(relay, |claim| claim.at -= 600).await
}

async fn a_request_of_another_kind_is_401(relay: &Relay) -> Result<()> {
    spoilt(relay, |claim| claim.kind = 1).await
}

async fn a_forged_request_is_401(relay: &Relay) -> Result<()> {
    let (admin, body) = (admin(relay)?, asking("supportedmethods"));
    let mut claim = json_of(&Claim::of(relay, &body).signed(&relay.author()));
    claim["pubkey"] = json!(admin.pubkey());
    is_unauthorized(&post(relay, body, Some(&claim)).await?)
}
