//! An answer with one thing wrong is refused: by `ic-agent`'s own code, not by ours.
//!
//! The keys are public, so a forger can sign what he likes: each forgery here is flawless but for
//! the one thing that its test is named after. The first two tests show that forgeries without a
//! flaw pass, so that the others are refused for their flaw.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Bytes;
use axum::http::{Request, Response};
use candid::Principal;
use ic_agent::agent::HttpService;
use ic_agent::{Agent, AgentError};
use ic_certification::{Certificate, Delegation, HashTree, LookupResult};
use ic_transport_types::{
    Envelope, NodeSignature, QueryResponse, ReplyResponse, TransportCallResponse,
};
use local_ic::cert::{Authority, SubnetKeys, Tree, cbor};
use local_ic::topology::{self, Subnets};
use pocket_ic::common::rest::{ExtendedSubnetConfigSet, SubnetSpec};
use serde::de::DeserializeOwned;

use crate::support::*;

const MINUTE_NANOS: u64 = 60_000_000_000;

/// The keys of an instance as [`builder`] makes it, had from the public seeds.
struct Keys {
    nns: Arc<SubnetKeys>,
    app: Arc<SubnetKeys>,
    app_ranges: Vec<(Principal, Principal)>,
}

impl Keys {
    fn new() -> Keys {
        let subnets = Subnets::new(topology::plans(&ExtendedSubnetConfigSet {
            nns: Some(SubnetSpec::default()),
            application: vec![SubnetSpec::default()],
            ..Default::default()
        }));
        let keys = |index: usize| Arc::clone(&subnets.all[index].authority.keys);
        let app_ranges = subnets.all[1].plan.ranges.clone();
        Keys { nns: keys(0), app: keys(1), app_ranges }
    }

    /// Signs for the application subnet, with a delegation by the root.
    fn certify(&self, tree: HashTree) -> Vec<u8> {
        let ranges = self.app_ranges.clone();
        Authority::new(Arc::clone(&self.app), Arc::clone(&self.nns), ranges)
            .certify(tree, now_nanos())
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> T {
    serde_cbor::from_slice(bytes).unwrap()
}

/// What the tree says, said anew: at another time, or with another reply.
fn retold(tree: &HashTree, time: u64, reply: Option<&[u8]>) -> HashTree {
    let mut told = Tree::at_time(time);
    for path in tree.list_paths() {
        let labels: Vec<&[u8]> = path.iter().map(|label| label.as_bytes()).collect();
        if let (LookupResult::Found(leaf), [first, ..]) = (tree.lookup_path(&path), &labels[..])
            && *first != b"time"
        {
            let is_reply = labels.last() == Some(&&b"reply"[..]);
            let leaf = reply.filter(|_| is_reply).unwrap_or(leaf);
            told.insert(&labels, leaf.to_vec());
        }
    }
    told.witness(|root| root == "request_status")
}

type ForgeCertificate = fn(&Keys, Certificate) -> Vec<u8>;
type ForgeQuery = fn(&Keys, &Envelope<'_>, QueryResponse) -> QueryResponse;

/// Stands between an agent and the gateway, and forges the answers to calls and queries.
#[derive(Debug)]
struct Forger {
    certificate: Option<ForgeCertificate>,
    query: Option<ForgeQuery>,
}

impl Forger {
    fn forge(&self, path: &str, asked: &[u8], answered: Vec<u8>) -> Vec<u8> {
        match (self.certificate, self.query) {
            (Some(forge), _) if path.ends_with("/call") => {
                let TransportCallResponse::Replied { certificate } = parse(&answered) else {
                    panic!("the call is answered at once");
                };
                let certificate = forge(&Keys::new(), parse(&certificate));
                cbor(&TransportCallResponse::Replied { certificate })
            }
            (_, Some(forge)) if path.ends_with("/query") => {
                let envelope: Envelope<'_> = serde_cbor::from_slice(asked).unwrap();
                cbor(&forge(&Keys::new(), &envelope, parse(&answered)))
            }
            _ => answered,
        }
    }
}

#[async_trait]
impl HttpService for Forger {
    async fn call<'a>(
        &'a self,
        request: &'a (dyn Fn() -> Result<Request<Bytes>, AgentError> + Send + Sync),
        _max_retries: usize,
        _size_limit: Option<usize>,
    ) -> Result<Response<Bytes>, AgentError> {
        let request = request()?;
        let uri = request.uri();
        let answer = send(request.method().as_str(), &uri.to_string(), request.body());
        let body = self.forge(uri.path(), request.body(), answer.body);
        let response = Response::builder().status(answer.status);
        let response = response.header("content-type", "application/cbor").body(body.into());
        Ok(response.unwrap())
    }
}

/// What an agent makes of an answer to `inc` with this done to its certificate.
fn call_with(forge: ForgeCertificate) -> Result<Vec<u8>, AgentError> {
    ask(Forger { certificate: Some(forge), query: None }, async |agent, canister| {
        agent.update(&canister, "inc").with_arg(vec![]).call_and_wait().await
    })
}

fn query_with(forge: ForgeQuery) -> Result<Vec<u8>, AgentError> {
    ask(Forger { certificate: None, query: Some(forge) }, async |agent, canister| {
        agent.query(&canister, "read").with_arg(vec![]).call().await
    })
}

fn ask(
    forger: Forger,
    asks: impl AsyncFnOnce(Agent, Principal) -> Result<Vec<u8>, AgentError>,
) -> Result<Vec<u8>, AgentError> {
    let (mut pic, canister) = with_canister();
    let url = pic.make_live(None).to_string();
    let agent =
        Agent::builder().with_url(url).with_arc_http_middleware(Arc::new(forger)).build().unwrap();
    agent.set_root_key(pic.root_key().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(asks(agent, canister))
}

#[track_caller]
fn refused(result: Result<Vec<u8>, AgentError>, why: &str) {
    let error = format!("{:?}", result.unwrap_err());
    assert!(error.starts_with(why), "{error}, and not {why}");
}

#[test]
fn a_flawless_certificate_passes() {
    let passed =
        call_with(|keys, real| keys.certify(retold(&real.tree, now_nanos(), Some(&[7; 12]))));
    assert_eq!(passed.unwrap(), [7; 12], "only the keys make a certificate true");
}

#[test]
fn a_flawless_answer_to_a_query_passes() {
    let passed = query_with(|keys, asked, _| signed(keys, asked, now_nanos()));
    assert_eq!(passed.unwrap(), [7; 12]);
}

#[test]
fn an_altered_tree_is_refused() {
    let altered = call_with(|_, real| {
        let tree = retold(&real.tree, now_nanos(), Some(&[7; 12]));
        cbor(&Certificate { tree, ..real })
    });
    refused(altered, "CertificateVerificationFailed");
}

#[test]
fn a_signature_of_another_subnet_is_refused() {
    let by_another = call_with(|keys, real| {
        let other = Arc::new(SubnetKeys::from_seed(&[9; 32]));
        let authority = Authority::new(Arc::clone(&other), other, keys.app_ranges.clone());
        let forged: Certificate = parse(&authority.certify(real.tree, now_nanos()));
        cbor(&Certificate { delegation: real.delegation, ..forged })
    });
    refused(by_another, "CertificateVerificationFailed");
}

#[test]
fn another_root_key_is_refused() {
    let other_root = call_with(|keys, real| {
        let root = Arc::new(SubnetKeys::from_seed(&[9; 32]));
        Authority::new(Arc::clone(&keys.app), root, keys.app_ranges.clone())
            .certify(real.tree, now_nanos())
    });
    refused(other_root, "CertificateVerificationFailed");
}

#[test]
fn a_stale_certificate_is_refused() {
    let stale = call_with(|keys, real| {
        keys.certify(retold(&real.tree, now_nanos() - 10 * MINUTE_NANOS, None))
    });
    refused(stale, "CertificateOutdated");
}

#[test]
fn a_subnet_does_not_speak_for_the_canisters_of_others() {
    let out_of_range = call_with(|keys, real| {
        let ranges = vec![(topology::id_of(0), topology::id_of(99))];
        Authority::new(Arc::clone(&keys.app), Arc::clone(&keys.nns), ranges)
            .certify(real.tree, now_nanos())
    });
    refused(out_of_range, "CertificateNotAuthorized");
}

#[test]
fn a_certificate_without_its_delegation_is_refused() {
    let bare = call_with(|_, real| cbor(&Certificate { delegation: None, ..real }));
    refused(bare, "CertificateVerificationFailed");
}

#[test]
fn a_delegation_of_a_delegation_is_refused() {
    let twice = call_with(|_, real| {
        let Some(delegation) = real.delegation.clone() else {
            panic!("an application subnet has one");
        };
        let inner: Certificate = parse(&delegation.certificate);
        let inner = Certificate { delegation: Some(delegation.clone()), ..inner };
        let delegation = Delegation { certificate: cbor(&inner), ..delegation };
        cbor(&Certificate { delegation: Some(delegation), ..real })
    });
    refused(twice, "CertificateHasTooManyDelegations");
}

/// An answer of sevens, signed by the subnet's node.
fn signed(keys: &Keys, asked: &Envelope<'_>, timestamp: u64) -> QueryResponse {
    let answer = |signatures| QueryResponse::Replied {
        reply: ReplyResponse { arg: vec![7; 12] },
        signatures,
    };
    let message = answer(vec![]).signable(asked.content.to_request_id(), timestamp);
    let signature = keys.app.sign_as_node(&message);
    answer(vec![NodeSignature { timestamp, signature, identity: keys.app.node }])
}

/// The same answer with its signatures changed.
fn with_signatures(
    response: QueryResponse,
    change: impl FnOnce(&mut Vec<NodeSignature>),
) -> QueryResponse {
    let QueryResponse::Replied { reply, mut signatures } = response else {
        panic!("a reply");
    };
    change(&mut signatures);
    QueryResponse::Replied { reply, signatures }
}

#[test]
fn an_altered_answer_to_a_query_is_refused() {
    let altered = query_with(|_, _, real| match real {
        QueryResponse::Replied { signatures, .. } => {
            QueryResponse::Replied { reply: ReplyResponse { arg: vec![7; 12] }, signatures }
        }
        rejected => rejected,
    });
    refused(altered, "QuerySignatureVerificationFailed");
}

#[test]
fn an_altered_signature_of_a_node_is_refused() {
    let altered = query_with(|_, _, real| {
        with_signatures(real, |signatures| signatures[0].signature[5] ^= 1)
    });
    refused(altered, "QuerySignatureVerificationFailed");
}

#[test]
fn an_unsigned_answer_to_a_query_is_refused() {
    let unsigned = query_with(|_, _, real| with_signatures(real, Vec::clear));
    refused(unsigned, "MissingSignature");
}

#[test]
fn more_signatures_than_nodes_are_refused() {
    let doubled = query_with(|_, _, real| {
        with_signatures(real, |signatures| signatures.push(signatures[0].clone()))
    });
    refused(doubled, "TooManySignatures");
}

#[test]
fn a_stale_answer_to_a_query_is_refused() {
    let stale = query_with(|keys, asked, _| signed(keys, asked, now_nanos() - 10 * MINUTE_NANOS));
    refused(stale, "CertificateOutdated");
}

#[test]
fn a_node_of_another_subnet_does_not_sign_for_this_one() {
    let stranger = query_with(|keys, asked, _| {
        let nns = Keys { app: Arc::clone(&keys.nns), ..Keys::new() };
        signed(&nns, asked, now_nanos())
    });
    refused(stranger, "CertificateNotAuthorized");
}
