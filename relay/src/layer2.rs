//! L2, as the rest of the relay sees it: a narrow trait, and the canister behind it.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use candid::{CandidType, Decode, Principal, utils::ArgumentEncoder};
use event::EventId;
use ic_agent::{Agent, AgentError, agent::RejectCode};
use interface::{Answer, ChangesFrom, ChangesRequest, Encoding, ReadError};
pub use interface::{Change, ChangesPage, Role, SaveOutcome, What};
use serde_bytes::{ByteBuf, Bytes};
use tokio::sync::OnceCell;

use crate::{config::Layer2Config, identity::Identity};

/// How long one call may take before it counts as failed. An update that outlives it is harmless:
/// saving is idempotent.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Ids asked for in one call.
const IDS_AT_ONCE: usize = 1_000;

/// Why L2 did not do what was asked. The variants are what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Layer2Error {
    /// Not done, or not known to be done: ask again later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It does not let us, whatever we send: find out whether we are still granted.
    #[error("refused: {0}")]
    Refused(String),
    /// Too much at once: send less.
    #[error("too large: {0}")]
    TooLarge(String),
    /// We and it disagree about the interface: an operator must look.
    #[error("interface: {0}")]
    Interface(String),
}

/// The shared store.
#[async_trait]
pub trait Layer2: Send + Sync + 'static {
    /// What to call it in logs, and what a poll cursor belongs to.
    fn name(&self) -> String;
    /// Who this relay is to it.
    fn principal(&self) -> Principal;
    /// Stores packed events; says for each, in order, what became of it. Safe to repeat.
    async fn save(&self, events: &[Vec<u8>]) -> Result<Vec<SaveOutcome>, Layer2Error>;
    /// What happened from `seq` on, oldest first, and where to go on.
    async fn changes(&self, seq: u64) -> Result<ChangesPage, Layer2Error>;
    /// Those of these events that it holds, packed, in whatever order.
    async fn get(&self, ids: &[EventId]) -> Result<Vec<Vec<u8>>, Layer2Error>;
    /// What this relay may do.
    async fn role(&self) -> Result<Option<Role>, Layer2Error>;
}

/// An event store canister on the Internet Computer.
pub struct Canister {
    agent: Agent,
    id: Principal,
    principal: Principal,
    /// Empty until the gateway of a test network has told its root key.
    root_key: OnceCell<()>,
}

impl Canister {
    /// Makes no call yet: the gateway may be down when a relay starts.
    pub fn new(config: &Layer2Config, identity: &Identity) -> Result<Canister, AgentError> {
        let agent = Agent::builder()
            .with_url(config.gateway.as_str())
            .with_identity(identity.agent_identity())
            .build()?;
        let trusts_built_in_key = !config.fetch_root_key;
        Ok(Canister {
            agent,
            id: config.canister,
            principal: identity.principal(),
            root_key: OnceCell::new_with(trusts_built_in_key.then_some(())),
        })
    }

    /// One round of negentropy (NIP-77, without its hex) against all that the canister holds.
    pub async fn reconcile(&self, message: &[u8]) -> Result<Vec<u8>, Layer2Error> {
        let filter: Option<interface::Filter> = None;
        let message = Bytes::new(message);
        let answer: Answer<ByteBuf, ReadError> = self.query("reconcile", (message, filter)).await?;
        readable(answer).map(ByteBuf::into_vec)
    }

    async fn query<T>(
        &self,
        method: &str,
        arguments: impl ArgumentEncoder,
    ) -> Result<T, Layer2Error>
    where
        T: CandidType + for<'de> candid::Deserialize<'de>,
    {
        let query = self.agent.query(&self.id, method).with_arg(encode(arguments)?);
        decode(&self.call(query.call()).await?)
    }

    async fn call(
        &self,
        call: impl Future<Output = Result<Vec<u8>, AgentError>>,
    ) -> Result<Vec<u8>, Layer2Error> {
        let in_time = tokio::time::timeout(CALL_TIMEOUT, async {
            self.root_key.get_or_try_init(|| self.agent.fetch_root_key()).await?;
            call.await
        });
        match in_time.await {
            Ok(answer) => answer.map_err(|error| classify(&error)),
            Err(_) => Err(Layer2Error::Unavailable("no answer in time".into())),
        }
    }
}

#[async_trait]
impl Layer2 for Canister {
    fn name(&self) -> String {
        self.id.to_text()
    }

    fn principal(&self) -> Principal {
        self.principal
    }

    async fn save(&self, events: &[Vec<u8>]) -> Result<Vec<SaveOutcome>, Layer2Error> {
        let blobs: Vec<&Bytes> = events.iter().map(|event| Bytes::new(event)).collect();
        let update = self.agent.update(&self.id, "save_events").with_arg(encode((blobs,))?);
        let outcomes: Vec<SaveOutcome> = decode(&self.call(update.call_and_wait()).await?)?;
        // Acknowledge nothing on an answer we misread: that would lose events silently.
        if outcomes.len() != events.len() {
            let (asked, told) = (events.len(), outcomes.len());
            return Err(Layer2Error::Interface(format!("{told} outcomes for {asked} events")));
        }
        Ok(outcomes)
    }

    async fn changes(&self, seq: u64) -> Result<ChangesPage, Layer2Error> {
        let request = ChangesRequest {
            from: ChangesFrom::Seq(seq),
            max_bytes: None,
            max_entries: None,
            proof: false,
            ids_only: false,
            encoding: None,
        };
        let answer: Answer<ChangesPage, ReadError> = self.query("changes", (request,)).await?;
        readable(answer)
    }

    async fn get(&self, ids: &[EventId]) -> Result<Vec<Vec<u8>>, Layer2Error> {
        let mut events = Vec::with_capacity(ids.len());
        let mut left = ids;
        while !left.is_empty() {
            let asked = &left[..left.len().min(IDS_AT_ONCE)];
            let blobs: Vec<&Bytes> = asked.iter().map(|id| Bytes::new(&id.0)).collect();
            let encoding: Option<Encoding> = None;
            let answer: Answer<Vec<Option<ByteBuf>>, ReadError> =
                self.query("get_events", (blobs, encoding)).await?;
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

    async fn role(&self) -> Result<Option<Role>, Layer2Error> {
        self.query("my_role", ()).await
    }
}

/// What can be done about the canister's own errors.
fn readable<T>(answer: Answer<T, ReadError>) -> Result<T, Layer2Error> {
    match answer {
        Answer::Ok(value) => Ok(value),
        Answer::Err(ReadError::Forbidden) => {
            Err(Layer2Error::Refused("this relay may not read".into()))
        }
        Answer::Err(error @ ReadError::Lagging(_)) => {
            Err(Layer2Error::Unavailable(error.to_string()))
        }
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

/// What can be done about an agent's error. Whatever is not known to be final is worth another try.
fn classify(error: &AgentError) -> Layer2Error {
    let reject = match error {
        AgentError::CertifiedReject { reject, .. }
        | AgentError::UncertifiedReject { reject, .. } => reject,
        AgentError::HttpError(payload) if payload.status == 413 => {
            return Layer2Error::TooLarge(error.to_string());
        }
        AgentError::CandidError(_) => return Layer2Error::Interface(error.to_string()),
        _ => return Layer2Error::Unavailable(error.to_string()),
    };
    let message = reject.reject_message.clone();
    // IC0536: the canister has no such method.
    match (reject.reject_code, reject.error_code.as_deref()) {
        (_, Some("IC0536")) => Layer2Error::Interface(message),
        (RejectCode::CanisterReject, _) => Layer2Error::Refused(message),
        _ => Layer2Error::Unavailable(message),
    }
}

#[cfg(test)]
mod tests {
    use ic_agent::agent::RejectResponse;

    use super::*;

    fn rejected(reject_code: RejectCode, error_code: &str) -> Layer2Error {
        classify(&AgentError::UncertifiedReject {
            reject: RejectResponse {
                reject_code,
                reject_message: "why".into(),
                error_code: Some(error_code.into()),
            },
            operation: None,
        })
    }

    #[test]
    fn rejections_say_what_can_be_done_about_them() {
        let stopped = rejected(RejectCode::CanisterError, "IC0508");
        assert!(matches!(stopped, Layer2Error::Unavailable(_)));
        let inspected = rejected(RejectCode::CanisterReject, "IC0406");
        assert!(matches!(inspected, Layer2Error::Refused(_)));
        let unknown_method = rejected(RejectCode::DestinationInvalid, "IC0536");
        assert!(matches!(unknown_method, Layer2Error::Interface(_)));
    }
}
