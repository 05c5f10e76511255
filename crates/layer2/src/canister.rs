//! The event store canister as an L2: what the trait asks for, as calls through `ic-agent`.
//!
//! Updates are certified by the Internet Computer. Of queries the agent checks that a node of the
//! subnet signed them; one node can lie or lag, so a page of the log brings a proof, and is used only
//! if that holds. No event is given up on the word of somebody who has not signed it.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use candid::{CandidType, Decode, Principal, utils::ArgumentEncoder};
use event::{EventId, Filter};
use feed::verify::Verifier;
use ic_agent::{Agent, AgentError, Identity, agent::RejectCode};
use interface::{
    Answer, ChangesFrom, ChangesPage, ChangesRequest, Count, DeleteOutcome, Deletion, Done,
    Encoding, QueryPage, QueryRequest, ReadError, RelayEntry, RelayInfo, Role, SAVE_EVENTS_MAX,
    SaveOutcome, Status, Tip,
};
use serde_bytes::{ByteBuf, Bytes};
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    CanisterUrl, Detail, Layer2, Layer2Error, UsageFigures, clock, now,
    usage::{Called, Usage},
};

/// How long one call may take before it counts as failed. An update that outlives it is harmless:
/// saving is idempotent.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Ids asked for in one call.
const IDS_AT_ONCE: usize = 1_000;

/// What fits into any ingress message.
const SAVE_BYTES_SAFE: usize = 1_500_000;

/// How old a certificate may be. Nodes that lag further are not asked for news.
const CERTIFICATE_AGE_MAX: Duration = Duration::from_secs(300);

/// An event store canister on the Internet Computer.
pub struct Canister {
    agent: Agent,
    gateway: Url,
    id: Principal,
    principal: Principal,
    /// Empty until the gateway of a test network has told its root key.
    root_key: OnceCell<()>,
    usage: Usage,
}

impl Canister {
    /// Makes no call yet: the gateway may be down when a relay starts.
    pub fn new(
        url: &CanisterUrl,
        identity: impl Identity + 'static,
    ) -> Result<Canister, AgentError> {
        let principal = identity.sender().map_err(AgentError::SigningError)?;
        let agent =
            Agent::builder().with_url(url.gateway.as_str()).with_identity(identity).build()?;
        let trusts_built_in_key = !url.fetch_root_key;
        Ok(Canister {
            agent,
            gateway: url.gateway.clone(),
            id: url.canister,
            principal,
            root_key: OnceCell::new_with(trusts_built_in_key.then_some(())),
            usage: Usage::default(),
        })
    }

    /// A query, answered by one node.
    async fn ask<T>(&self, method: &str, arguments: impl ArgumentEncoder) -> Result<T, Layer2Error>
    where
        T: CandidType + for<'de> candid::Deserialize<'de>,
    {
        let arguments = encode(arguments)?;
        self.usage.asked(Called::Query, arguments.len());
        let query = self.agent.query(&self.id, method).with_arg(arguments);
        decode(&self.call(query.call(), classify).await?)
    }

    /// An update, or a query as one: the whole subnet answers for it.
    async fn update<T>(
        &self,
        method: &str,
        arguments: impl ArgumentEncoder,
    ) -> Result<T, Layer2Error>
    where
        T: CandidType + for<'de> candid::Deserialize<'de>,
    {
        let arguments = encode(arguments)?;
        self.usage.asked(Called::Update, arguments.len());
        let update = self.agent.update(&self.id, method).with_arg(arguments);
        decode(&self.call(update.call_and_wait(), classify_update).await?)
    }

    /// Checks a page's proof where two signatures (some milliseconds) hold nobody up.
    async fn prove(
        &self,
        request: ChangesRequest,
        page: ChangesPage,
    ) -> Result<ChangesPage, Layer2Error> {
        let verifier = Verifier::new(&self.agent.read_root_key(), self.id, CERTIFICATE_AGE_MAX);
        let checking = tokio::task::spawn_blocking(move || {
            verifier.page(&request, &page, now()).map(|_| page)
        });
        match checking.await {
            Ok(checked) => checked.map_err(|error| Layer2Error::Unproven(error.to_string())),
            Err(error) => Err(Layer2Error::Unproven(error.to_string())),
        }
    }

    async fn call(
        &self,
        call: impl Future<Output = Result<Vec<u8>, AgentError>>,
        classify: fn(&AgentError) -> Layer2Error,
    ) -> Result<Vec<u8>, Layer2Error> {
        let in_time = tokio::time::timeout(CALL_TIMEOUT, async {
            self.root_key.get_or_try_init(|| self.agent.fetch_root_key()).await?;
            call.await
        });
        let answer = match in_time.await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(self.blame_clock(&error).await.unwrap_or(classify(&error))),
            Err(_) => Err(Layer2Error::Unavailable("no answer in time".into())),
        };
        self.usage.answered(answer.as_ref().ok().map(Vec::len));
        answer
    }

    /// The same error, if this machine's clock is its cause.
    async fn blame_clock(&self, error: &AgentError) -> Option<Layer2Error> {
        if !clock::would_explain(error) {
            return None;
        }
        clock::complaint(&self.gateway).await.map(Layer2Error::Unavailable)
    }
}

#[async_trait]
impl Layer2 for Canister {
    fn name(&self) -> String {
        self.id.to_text()
    }

    fn principal(&self) -> Option<Principal> {
        Some(self.principal)
    }

    async fn save(&self, events: &[Vec<u8>]) -> Result<Vec<SaveOutcome>, Layer2Error> {
        if events.len() > SAVE_EVENTS_MAX {
            return Err(Layer2Error::TooLarge(format!("{} events in one call", events.len())));
        }
        let blobs: Vec<&Bytes> = events.iter().map(|event| Bytes::new(event)).collect();
        let answer = self.update("save_events", (blobs,)).await;
        let outcomes = one_for_each(events.len(), answer.map_err(|error| sized(error, events))?)?;
        self.usage.saved(outcomes.len());
        Ok(outcomes)
    }

    async fn query(
        &self,
        filters: &[Filter],
        cursor: Option<&[u8]>,
    ) -> Result<QueryPage, Layer2Error> {
        let request = QueryRequest {
            filters: filters.iter().cloned().map(interface::Filter::from).collect(),
            cursor: cursor.map(ByteBuf::from),
            ..QueryRequest::default()
        };
        readable(self.ask("query_events", (request,)).await?)
    }

    async fn get(&self, ids: &[EventId]) -> Result<Vec<Vec<u8>>, Layer2Error> {
        let mut events = Vec::with_capacity(ids.len());
        let mut left = ids;
        while !left.is_empty() {
            let asked = &left[..left.len().min(IDS_AT_ONCE)];
            let blobs: Vec<&Bytes> = asked.iter().map(|id| Bytes::new(&id.0)).collect();
            let encoding: Option<Encoding> = None;
            let answer: Answer<Vec<Option<ByteBuf>>, ReadError> =
                self.ask("get_events", (blobs, encoding)).await?;
            let found = readable(answer)?;
            // It ends where the reply was full, and says nothing of the others.
            if found.is_empty() || found.len() > asked.len() {
                let (asked, told) = (asked.len(), found.len());
                return Err(Layer2Error::Interface(format!("{told} answers for {asked} ids")));
            }
            left = &left[found.len()..];
            events.extend(found.into_iter().flatten().map(ByteBuf::into_vec));
        }
        Ok(events)
    }

    async fn count(&self, filters: &[Filter]) -> Result<Count, Layer2Error> {
        let filters: Vec<interface::Filter> = filters.iter().cloned().map(Into::into).collect();
        readable(self.ask("count", (filters,)).await?)
    }

    async fn changes(&self, from: ChangesFrom, detail: Detail) -> Result<ChangesPage, Layer2Error> {
        let request = ChangesRequest {
            from,
            max_bytes: None,
            max_entries: None,
            proof: true,
            ids_only: detail == Detail::Ids,
            encoding: None,
        };
        let page: ChangesPage = readable(self.ask("changes", (&request,)).await?)?;
        self.prove(request, page).await
    }

    async fn length(&self) -> Result<u64, Layer2Error> {
        let tip: Tip = self.update("tip", ()).await?;
        Ok(tip.length)
    }

    async fn reconcile(
        &self,
        message: &[u8],
        filter: Option<&Filter>,
    ) -> Result<Vec<u8>, Layer2Error> {
        let filter: Option<interface::Filter> = filter.cloned().map(Into::into);
        let answer: ByteBuf =
            readable(self.ask("reconcile", (Bytes::new(message), filter)).await?)?;
        Ok(answer.into_vec())
    }

    async fn delete(
        &self,
        ids: &[EventId],
        deletion: &Deletion,
    ) -> Result<Vec<DeleteOutcome>, Layer2Error> {
        let blobs: Vec<&Bytes> = ids.iter().map(|id| Bytes::new(&id.0)).collect();
        one_for_each(ids.len(), self.update("delete_events", (blobs, deletion)).await?)
    }

    async fn clear(&self, confirmation: &str) -> Result<(), Layer2Error> {
        let done: Done = self.update("clear", (confirmation,)).await?;
        done.into_result().map_err(Layer2Error::Refused)
    }

    async fn role(&self) -> Result<Option<Role>, Layer2Error> {
        self.ask("my_role", ()).await
    }

    async fn status(&self) -> Result<Status, Layer2Error> {
        self.ask("status", ()).await
    }

    fn has_directory(&self) -> bool {
        true
    }

    async fn announce(&self, info: RelayInfo) -> Result<(), Layer2Error> {
        let done: Done = self.update("announce", (info,)).await?;
        done.into_result().map_err(Layer2Error::Refused)
    }

    async fn relays(&self) -> Result<Vec<RelayEntry>, Layer2Error> {
        self.ask("relays", ()).await
    }

    fn usage(&self) -> Option<UsageFigures> {
        Some(self.usage.figures())
    }
}

/// Acknowledge nothing on an answer we misread: that would lose events silently.
fn one_for_each<T>(asked: usize, outcomes: Vec<T>) -> Result<Vec<T>, Layer2Error> {
    if outcomes.len() == asked {
        return Ok(outcomes);
    }
    Err(Layer2Error::Interface(format!("{} outcomes for {asked} of what was sent", outcomes.len())))
}

/// What can be done about the canister's own errors.
fn readable<T>(answer: Answer<T, ReadError>) -> Result<T, Layer2Error> {
    match answer {
        Answer::Ok(value) => Ok(value),
        Answer::Err(ReadError::Forbidden) => {
            Err(Layer2Error::Refused("this relay may not read".into()))
        }
        Answer::Err(ReadError::Lagging(length)) => Err(Layer2Error::Behind(length)),
        Answer::Err(error) => Err(Layer2Error::Interface(error.to_string())),
    }
}

fn encode(arguments: impl ArgumentEncoder) -> Result<Vec<u8>, Layer2Error> {
    candid::encode_args(arguments).map_err(interface)
}

fn decode<T>(reply: &[u8]) -> Result<T, Layer2Error>
where
    T: CandidType + for<'de> candid::Deserialize<'de>,
{
    Decode!(reply, T).map_err(interface)
}

fn interface(error: candid::Error) -> Layer2Error {
    Layer2Error::Interface(error.to_string())
}

/// How a canister fails at what it is asked: it traps, breaks the rules of its runtime, or takes too much
/// memory or too many instructions. All else (it is stopped, out of cycles, not installed) is no matter
/// of the question.
const FAILED_AT_IT: [&str; 8] =
    ["IC0502", "IC0503", "IC0504", "IC0506", "IC0507", "IC0522", "IC0524", "IC0539"];

/// What can be done about an agent's error. Whatever is not known to be final is worth another try.
fn classify(error: &AgentError) -> Layer2Error {
    let reject = match error {
        AgentError::CertifiedReject { reject, .. }
        | AgentError::UncertifiedReject { reject, .. } => reject,
        AgentError::HttpError(payload) if payload.status == 413 => {
            return Layer2Error::TooLarge(error.to_string());
        }
        AgentError::CertificateVerificationFailed()
        | AgentError::CertificateNotAuthorized()
        | AgentError::CertificateHasTooManyDelegations
        | AgentError::QuerySignatureVerificationFailed
        | AgentError::MissingSignature
        | AgentError::TooManySignatures { .. }
        | AgentError::MalformedSignature
        | AgentError::MalformedPublicKey
        | AgentError::InvalidCborData(_)
        | AgentError::InvalidRequestStatus(..)
        | AgentError::LookupPathAbsent(_)
        | AgentError::LookupPathUnknown(_)
        | AgentError::LookupPathError(_) => return Layer2Error::Unproven(error.to_string()),
        AgentError::CandidError(_) => return Layer2Error::Interface(error.to_string()),
        _ => return Layer2Error::Unavailable(error.to_string()),
    };
    let message = reject.reject_message.clone();
    // IC0536: the canister has no such method.
    match (reject.reject_code, reject.error_code.as_deref()) {
        (_, Some("IC0536")) => Layer2Error::Interface(message),
        (RejectCode::CanisterReject, _) => Layer2Error::Refused(message),
        (_, Some(code)) if FAILED_AT_IT.contains(&code) => Layer2Error::Failed(message),
        _ => Layer2Error::Unavailable(message),
    }
}

/// The same for an update. What the subnet has not signed, anybody on the way may have said.
fn classify_update(error: &AgentError) -> Layer2Error {
    match (error, classify(error)) {
        (
            AgentError::UncertifiedReject { .. },
            Layer2Error::Interface(why) | Layer2Error::Failed(why),
        ) => Layer2Error::Unavailable(why),
        (_, classified) => classified,
    }
}

/// What no gateway finds too large is not: then it is out of order, or lies.
fn sized(error: Layer2Error, events: &[Vec<u8>]) -> Layer2Error {
    match error {
        Layer2Error::TooLarge(why) if matches!(events, [one] if one.len() < SAVE_BYTES_SAFE) => {
            Layer2Error::Unavailable(why)
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use ic_agent::agent::RejectResponse;

    use super::*;

    fn rejection(reject_code: RejectCode, error_code: &str) -> AgentError {
        let reject = RejectResponse {
            reject_code,
            reject_message: "why".into(),
            error_code: Some(error_code.into()),
        };
        AgentError::UncertifiedReject { reject, operation: None }
    }

    fn rejected(reject_code: RejectCode, error_code: &str) -> Layer2Error {
        classify(&rejection(reject_code, error_code))
    }

    #[test]
    fn rejections_say_what_can_be_done_about_them() {
        let stopped = rejected(RejectCode::CanisterError, "IC0508");
        assert!(matches!(stopped, Layer2Error::Unavailable(_)));
        let trapped = rejected(RejectCode::CanisterError, "IC0503");
        assert!(matches!(trapped, Layer2Error::Failed(_)));
        let busy = rejected(RejectCode::SysTransient, "IC0515");
        assert!(matches!(busy, Layer2Error::Unavailable(_)));
        let inspected = rejected(RejectCode::CanisterReject, "IC0406");
        assert!(matches!(inspected, Layer2Error::Refused(_)));
        let unknown_method = rejected(RejectCode::DestinationInvalid, "IC0536");
        assert!(matches!(unknown_method, Layer2Error::Interface(_)));
    }

    #[test]
    fn nothing_is_final_for_an_update_that_nobody_signed() {
        let unknown_method = rejection(RejectCode::DestinationInvalid, "IC0536");
        assert!(matches!(classify_update(&unknown_method), Layer2Error::Unavailable(_)));
        let trapped = rejection(RejectCode::CanisterError, "IC0503");
        assert!(matches!(classify_update(&trapped), Layer2Error::Unavailable(_)));
        let of_sizes = |sizes: &[usize]| {
            let events: Vec<Vec<u8>> = sizes.iter().map(|bytes| vec![0; *bytes]).collect();
            sized(Layer2Error::TooLarge("413".into()), &events)
        };
        assert!(matches!(of_sizes(&[1_000]), Layer2Error::Unavailable(_)));
        assert!(matches!(of_sizes(&[1_000, 1_000]), Layer2Error::TooLarge(_)));
        assert!(matches!(of_sizes(&[3_000_000]), Layer2Error::TooLarge(_)));
    }
}
