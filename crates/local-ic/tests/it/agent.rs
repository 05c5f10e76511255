//! `ic-agent` against a live instance, with every check of it switched on; and what the HTTPS
//! interface refuses.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use candid::Principal;
use ic_agent::agent::EnvelopeContent;
use ic_agent::identity::{AnonymousIdentity, BasicIdentity, DelegatedIdentity};
use ic_agent::{Agent, AgentError, Identity};
use ic_certification::{Certificate, LookupResult};
use ic_transport_types::{Delegation, Envelope, SignedDelegation};
use pocket_ic::PocketIc;

use crate::support::*;

/// Calls in the clock's time, whatever the test does meanwhile.
struct Live {
    pic: PocketIc,
    canister: Principal,
    url: String,
    runtime: tokio::runtime::Runtime,
}

fn live() -> Live {
    let (mut pic, canister) = with_canister();
    let url = pic.make_live(None).to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    Live { pic, canister, url, runtime }
}

fn basic(seed: u8) -> BasicIdentity {
    BasicIdentity::from_raw_key(&[seed; 32])
}

impl Live {
    fn agent(&self, identity: impl Identity + 'static) -> Agent {
        let agent = Agent::builder().with_url(&self.url).with_identity(identity).build().unwrap();
        self.runtime.block_on(agent.fetch_root_key()).unwrap();
        assert_eq!(Some(agent.read_root_key()), self.pic.root_key());
        agent
    }

    fn update(&self, agent: &Agent, method: &str, arg: &[u8]) -> Result<Vec<u8>, AgentError> {
        let call = agent.update(&self.canister, method).with_arg(arg);
        self.runtime.block_on(call.call_and_wait())
    }

    fn query(&self, agent: &Agent, method: &str) -> Result<Vec<u8>, AgentError> {
        let query = agent.query(&self.canister, method).with_arg(vec![]);
        self.runtime.block_on(query.call())
    }

    fn read(&self) -> Counters {
        read(&self.pic, self.canister)
    }
}

#[test]
fn an_agent_updates_and_queries_with_verification() {
    let live = live();
    let agent = live.agent(basic(1));
    assert_eq!(counters(&live.update(&agent, "inc", &[]).unwrap()), [1, 1, 1]);
    assert_eq!(counters(&live.query(&agent, "read").unwrap()), [1, 1, 1]);
    let caller = live.query(&agent, "whoami").unwrap();
    assert_eq!(caller, basic(1).sender().unwrap().as_slice());
    let anonymous = live.agent(AnonymousIdentity);
    assert_eq!(live.query(&anonymous, "whoami").unwrap(), [4]);
}

#[test]
fn a_certified_reject_has_its_error_code() {
    let live = live();
    let agent = live.agent(basic(1));
    match live.update(&agent, "inc_and_trap", &[]).unwrap_err() {
        AgentError::CertifiedReject { reject, .. } => {
            assert_eq!(reject.error_code.as_deref(), Some("IC0503"));
            assert!(reject.reject_message.contains("boom"));
        }
        other => panic!("{other:?}"),
    }
    match live.query(&agent, "nope").unwrap_err() {
        AgentError::UncertifiedReject { reject, .. } => {
            assert_eq!(reject.error_code.as_deref(), Some("IC0536"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_agent_reads_the_state_tree() {
    let live = live();
    let agent = live.agent(basic(1));
    let hash = agent.read_state_canister_module_hash(live.canister);
    let hash = live.runtime.block_on(hash).unwrap();
    let status = live.pic.canister_status(live.canister, None).unwrap();
    assert_eq!(Some(hash), status.module_hash);
    let controllers = agent.read_state_canister_controllers(live.canister);
    let controllers = live.runtime.block_on(controllers).unwrap();
    assert_eq!(controllers, [anyone()]);
    let public = agent.read_state_canister_metadata(live.canister, "candid:service");
    assert_eq!(live.runtime.block_on(public).unwrap(), b"service : {}");
    let private = agent.read_state_canister_metadata(live.canister, "secret");
    assert_status(live.runtime.block_on(private).unwrap_err(), 403);
    let private = live.agent(AnonymousIdentity);
    let private = private.read_state_canister_metadata(live.canister, "secret");
    let private = live.runtime.block_on(private).unwrap();
    assert_eq!(private, b"only for controllers");
}

#[test]
fn an_agent_reads_about_subnets() {
    let live = live();
    let agent = live.agent(basic(1));
    let topology = live.pic.topology();
    for subnet in topology.subnet_configs.keys() {
        let ranges = agent.read_state_subnet_canister_ranges(*subnet);
        assert!(!live.runtime.block_on(ranges).unwrap().is_empty());
        let metrics = agent.read_state_subnet_metrics(*subnet);
        let metrics = live.runtime.block_on(metrics).unwrap();
        let is_app = topology.get_app_subnets().contains(subnet);
        assert_eq!(metrics.num_canisters, is_app as u64);
    }
    let subnet = agent.get_subnet_by_canister(&live.canister);
    let subnet = live.runtime.block_on(subnet).unwrap();
    assert!(subnet.contains_canister(&live.canister));
}

#[test]
fn canisters_of_the_root_subnet_answer_without_a_delegation() {
    let mut pic = builder().build();
    let nns = pic.topology().get_nns().unwrap();
    let canister = pic.create_canister_on_subnet(None, None, nns);
    pic.install_canister(canister, canister_wasm(), vec![], None);
    let url = pic.make_live(None).to_string();
    let live = Live { pic, canister, url, runtime: tokio::runtime::Runtime::new().unwrap() };
    let agent = live.agent(basic(1));
    assert_eq!(counters(&live.update(&agent, "inc", &[]).unwrap()), [1, 1, 1]);
    assert_eq!(counters(&live.query(&agent, "read").unwrap()), [1, 1, 1]);
}

#[test]
fn certified_data_is_certified_through_the_query_only() {
    let live = live();
    let agent = live.agent(basic(1));
    live.update(&agent, "certify", b"thirty-two bytes at the most....").unwrap();
    let certificate = live.query(&agent, "certificate").unwrap();
    let certificate: Certificate = serde_cbor::from_slice(&certificate).unwrap();
    agent.verify(&certificate, live.canister).unwrap();
    let path = [&b"canister"[..], live.canister.as_slice(), b"certified_data"];
    assert_eq!(
        certificate.tree.lookup_path(&path),
        LookupResult::Found(b"thirty-two bytes at the most....")
    );
    // As on the Internet Computer, where tests that read it here would fail.
    let read = agent.read_state_canister_info(live.canister, "certified_data");
    assert_status(live.runtime.block_on(read).unwrap_err(), 400);
}

#[test]
fn a_delegated_identity_is_its_delegator() {
    let live = live();
    let (alice, session) = (basic(1), basic(2));
    let delegation = Delegation {
        pubkey: session.public_key().unwrap(),
        expiration: now_nanos() + 60_000_000_000,
        targets: None,
        permissions: None,
    };
    let signature = alice.sign_delegation(&delegation).unwrap();
    let chain = vec![SignedDelegation { delegation, signature: signature.signature.unwrap() }];
    let identity =
        DelegatedIdentity::new(alice.public_key().unwrap(), Box::new(session), chain).unwrap();
    let agent = live.agent(identity);
    let caller = live.query(&agent, "whoami").unwrap();
    assert_eq!(caller, alice.sender().unwrap().as_slice());
    live.update(&agent, "inc", &[]).unwrap();
}

#[test]
fn an_agent_installs_code() {
    let live = live();
    let agent = live.agent(AnonymousIdentity);
    let args = ic_management_canister_types::InstallCodeArgs {
        mode: ic_management_canister_types::CanisterInstallMode::Reinstall,
        canister_id: live.canister,
        wasm_module: canister_wasm(),
        arg: vec![],
        sender_canister_version: None,
    };
    let call = agent
        .update(&Principal::management_canister(), "install_code")
        .with_effective_canister_id(live.canister)
        .with_arg(candid::encode_one(args).unwrap());
    live.runtime.block_on(call.call_and_wait()).unwrap();
    assert_eq!(live.read(), [0, 0, 0]);
}

#[track_caller]
fn assert_status(error: AgentError, status: u16) {
    match error {
        AgentError::HttpError(payload) => assert_eq!(payload.status, status, "{payload}"),
        other => panic!("{other:?}"),
    }
}

/// A call made by hand, to get wrong what an agent gets right.
struct RawCall {
    identity: BasicIdentity,
    /// Whose key signs, and on whose behalf: the last of the chain.
    signer: BasicIdentity,
    chain: Vec<SignedDelegation>,
    expiry: u64,
    nonce: u8,
    spoil: fn(&mut Envelope<'static>),
}

impl RawCall {
    fn new() -> RawCall {
        RawCall {
            identity: basic(1),
            signer: basic(1),
            chain: Vec::new(),
            expiry: now_nanos() + 120_000_000_000,
            nonce: 0,
            spoil: |_| {},
        }
    }

    fn content(&self, canister: Principal) -> EnvelopeContent {
        EnvelopeContent::Call {
            nonce: Some(vec![self.nonce]),
            ingress_expiry: self.expiry,
            sender: self.identity.sender().unwrap(),
            canister_id: canister,
            method_name: "inc".to_owned(),
            arg: vec![],
            sender_info: None,
        }
    }

    fn bytes(&self, canister: Principal) -> Vec<u8> {
        self.envelope(self.content(canister))
    }

    fn envelope(&self, content: EnvelopeContent) -> Vec<u8> {
        let signed = self.signer.sign(&content).unwrap();
        let mut envelope = Envelope {
            content: Cow::Owned(content),
            sender_pubkey: self.identity.public_key(),
            sender_sig: signed.signature,
            sender_delegation: (!self.chain.is_empty()).then(|| self.chain.clone()),
        };
        (self.spoil)(&mut envelope);
        envelope.encode_bytes()
    }

    /// Delegates from who signs now to somebody new, who signs from now on.
    fn delegate(&mut self, expiration: u64, targets: Option<Vec<Principal>>) {
        let next = basic(100 + self.chain.len() as u8);
        let pubkey = next.public_key().unwrap();
        let delegation = Delegation { pubkey, expiration, targets, permissions: None };
        let signed = self.signer.sign_delegation(&delegation).unwrap();
        self.chain.push(SignedDelegation { delegation, signature: signed.signature.unwrap() });
        self.signer = next;
    }

    #[track_caller]
    fn refused(&self, live: &Live, why: &str) {
        let (status, text) = self.send(live, live.canister);
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(why), "{text}");
        assert_eq!(live.read(), [0, 0, 0]);
    }

    /// The status and the body of the answer.
    fn send(&self, live: &Live, address: Principal) -> (u16, String) {
        let url = format!("{}api/v4/canister/{address}/call", live.url);
        http("POST", &url, &self.bytes(live.canister))
    }
}

/// The status, and head and body as one text.
fn http(method: &str, url: &str, body: &[u8]) -> (u16, String) {
    let answer = send(method, url, body);
    (answer.status, format!("{}\r\n\r\n{}", answer.head, String::from_utf8_lossy(&answer.body)))
}

#[test]
fn a_good_call_made_by_hand_is_answered() {
    let live = live();
    assert_eq!(RawCall::new().send(&live, live.canister).0, 200);
    assert_eq!(live.read(), [1, 1, 1]);
}

#[test]
fn a_call_sent_twice_runs_once() {
    let live = live();
    let mut call = RawCall::new();
    assert_eq!(call.send(&live, live.canister).0, 200);
    assert_eq!(call.send(&live, live.canister).0, 200);
    assert_eq!(live.read(), [1, 1, 1]);
    call.nonce = 1;
    assert_eq!(call.send(&live, live.canister).0, 200);
    assert_eq!(live.read(), [2, 2, 2]);
}

#[test]
fn a_call_with_a_wrong_signature_is_refused() {
    let live = live();
    let mut call = RawCall::new();
    call.spoil = |envelope| envelope.sender_sig.as_mut().unwrap()[5] ^= 1;
    let (status, text) = call.send(&live, live.canister);
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("Invalid signature"), "{text}");
    call.spoil = |envelope| envelope.sender_pubkey = basic(2).public_key();
    assert_eq!(call.send(&live, live.canister).0, 400);
    call.spoil = |envelope| envelope.sender_sig = None;
    assert_eq!(call.send(&live, live.canister).0, 400);
    assert_eq!(live.read(), [0, 0, 0]);
}

#[test]
fn a_call_in_the_name_of_another_is_refused() {
    let live = live();
    let mut call = RawCall::new();
    call.spoil = |envelope| match envelope.content.to_mut() {
        EnvelopeContent::Call { sender, .. } => *sender = basic(2).sender().unwrap(),
        _ => unreachable!("it is a call"),
    };
    call.refused(&live, "does not belong to sender");
    call.spoil = |envelope| match envelope.content.to_mut() {
        EnvelopeContent::Call { sender, .. } => *sender = anyone(),
        _ => unreachable!("it is a call"),
    };
    call.refused(&live, "Anonymous sender");
}

#[test]
fn a_call_whose_content_was_changed_is_refused() {
    let live = live();
    let mut call = RawCall::new();
    call.spoil = |envelope| match envelope.content.to_mut() {
        EnvelopeContent::Call { arg, .. } => arg.push(0),
        _ => unreachable!("it is a call"),
    };
    call.refused(&live, "Invalid signature");
}

#[test]
fn a_chain_of_delegations_speaks_for_its_first_key() {
    let live = live();
    let mut call = RawCall::new();
    for _ in 0..20 {
        call.delegate(now_nanos() + 60_000_000_000, Some(vec![anyone(), live.canister]));
    }
    assert_eq!(call.send(&live, live.canister).0, 200);
    assert_eq!(live.read(), [1, 1, 1]);
}

#[test]
fn a_chain_longer_than_twenty_is_refused() {
    let live = live();
    let mut call = RawCall::new();
    for _ in 0..21 {
        call.delegate(now_nanos() + 60_000_000_000, None);
    }
    call.refused(&live, "Chain of delegations");
}

#[test]
fn a_delegation_to_other_canisters_is_refused() {
    let live = live();
    let mut call = RawCall::new();
    call.delegate(now_nanos() + 60_000_000_000, Some(vec![live.canister]));
    call.delegate(now_nanos() + 60_000_000_000, Some(vec![Principal::management_canister()]));
    call.refused(&live, "not one of the delegation targets");
}

#[test]
fn an_expired_delegation_is_refused() {
    let live = live();
    let mut call = RawCall::new();
    call.delegate(now_nanos() - 2_000_000_000, None);
    call.refused(&live, "Invalid delegation expiry");
}

#[test]
fn a_delegation_that_its_giver_did_not_sign_is_refused() {
    let live = live();
    let mut call = RawCall::new();
    call.delegate(now_nanos() + 60_000_000_000, None);
    call.chain[0].signature[5] ^= 1;
    call.refused(&live, "Invalid delegation");
}

#[test]
fn every_version_of_the_interface_takes_calls() {
    let live = live();
    for (nonce, (version, status)) in (0..).zip([("v2", 202), ("v3", 200), ("v4", 200)]) {
        let call = RawCall { nonce, ..RawCall::new() };
        let url = format!("{}api/{version}/canister/{}/call", live.url, live.canister);
        assert_eq!(http("POST", &url, &call.bytes(live.canister)).0, status, "{version}");
    }
    let deadline = SystemTime::now() + Duration::from_secs(10);
    while live.read() != [3, 3, 3] {
        assert!(SystemTime::now() < deadline, "the call of v2 never ran");
    }
    let url = format!("{}api/v9/canister/{}/call", live.url, live.canister);
    assert_eq!(http("POST", &url, &RawCall::new().bytes(live.canister)).0, 404);
}

#[test]
fn an_expired_or_far_off_call_is_refused() {
    let live = live();
    let mut call = RawCall::new();
    // The instance may lag behind the clock by a round.
    for expiry in [now_nanos() - 2_000_000_000, now_nanos() + 600_000_000_000] {
        call.expiry = expiry;
        let (status, text) = call.send(&live, live.canister);
        assert_eq!(status, 400, "{text}");
        assert!(text.contains("Invalid request expiry"), "{text}");
    }
    assert_eq!(live.read(), [0, 0, 0]);
}

#[test]
fn a_call_to_another_canister_than_the_url_names_is_refused() {
    let live = live();
    let other = install(&live.pic);
    let (status, text) = RawCall::new().send(&live, other);
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("does not match effective canister id"), "{text}");
}

#[test]
fn a_call_larger_than_two_mebibytes_is_refused() {
    let live = live();
    let agent = live.agent(basic(1));
    let large = vec![0; 2 << 20];
    assert_status(live.update(&agent, "inc", &large).unwrap_err(), 413);
    live.update(&agent, "inc", &large[..2_000_000]).unwrap();
}

#[test]
fn the_gateway_serves_what_the_canister_answers() {
    let live = live();
    let (status, text) =
        http("GET", &format!("{}page?canisterId={}", live.url, live.canister), &[]);
    assert_eq!(status, 203, "{text}");
    assert!(text.contains("x-from: canister") && text.ends_with("a page"), "{text}");
    let by_host = live.url.replace("localhost", &format!("{}.localhost", live.canister));
    assert_eq!(http("GET", &by_host, &[]).0, 203);
    assert_eq!(http("GET", &format!("{}page", live.url), &[]).0, 400, "no canister is named");
}

#[test]
fn a_page_got_by_canister_id_may_ask_for_its_parts() {
    let live = live();
    let referer = format!("referer: {}?canisterId={}\r\n", live.url, live.canister);
    let answer = send_with("GET", &format!("{}style.css", live.url), &referer, &[]);
    assert_eq!(answer.status, 203);
}

#[test]
fn a_web_request_that_changes_something_becomes_an_update() {
    #[derive(candid::CandidType)]
    struct HttpResponse {
        status_code: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
        upgrade: Option<bool>,
    }
    let reply = |status_code, body: &[u8], upgrade| {
        let (headers, body) = (vec![], body.to_vec());
        candid::encode_one(HttpResponse { status_code, headers, body, upgrade }).unwrap()
    };
    let escaped = |bytes: &[u8]| bytes.iter().map(|b| format!("\\{b:02x}")).collect::<String>();
    let (upgrade, done) = (reply(200, b"", Some(true)), reply(201, b"changed", None));
    let wat = format!(
        r#"(module
          (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
          (import "ic0" "msg_reply" (func $reply))
          (memory 1)
          (data (i32.const 0) "{}")
          (data (i32.const 1000) "{}")
          (func (export "canister_query http_request")
            (call $append (i32.const 0) (i32.const {})) (call $reply))
          (func (export "canister_update http_request_update")
            (call $append (i32.const 1000) (i32.const {})) (call $reply)))"#,
        escaped(&upgrade),
        escaped(&done),
        upgrade.len(),
        done.len(),
    );
    let live = live();
    let canister = live.pic.create_canister();
    live.pic.install_canister(canister, wat::parse_str(wat).unwrap(), vec![], None);
    let url = format!("{}change?canisterId={canister}", live.url);
    let answer = send("POST", &url, b"");
    assert_eq!((answer.status, &answer.body[..]), (201, &b"changed"[..]));
}

#[test]
fn the_dashboard_shows_canisters_and_what_they_did() {
    let live = live();
    let agent = live.agent(basic(1));
    live.update(&agent, "inc", &[]).unwrap();
    live.update(&agent, "inc_and_trap", &[]).unwrap_err();
    let (status, page) = http("GET", &live.url, &[]);
    assert_eq!(status, 200);
    for part in [&*live.canister.to_text(), "update inc<", "update inc_and_trap<", "boom"] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    // Without scripts, and nothing may be loaded: a canister's texts stay texts.
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    let server = http("GET", live.pic.get_server_url().as_str(), &[]).1;
    assert!(server.contains(&live.canister.to_text()), "the server shows all its instances");
}

#[test]
fn a_target_limits_what_may_be_read_too() {
    let live = live();
    let call = RawCall::new();
    assert_eq!(call.send(&live, live.canister).0, 200);
    let id = call.content(live.canister).to_request_id();
    let read = |targets: Vec<Principal>| {
        let mut reader = RawCall::new();
        reader.delegate(now_nanos() + 60_000_000_000, Some(targets));
        let content = EnvelopeContent::ReadState {
            ingress_expiry: reader.expiry,
            sender: reader.identity.sender().unwrap(),
            paths: vec![vec!["request_status".into(), id.to_vec().into()]],
        };
        let url = format!("{}api/v3/canister/{}/read_state", live.url, live.canister);
        http("POST", &url, &reader.envelope(content)).0
    };
    assert_eq!(read(vec![live.canister]), 200);
    assert_eq!(read(vec![anyone()]), 403);
}

#[test]
fn the_server_says_who_it_is() {
    let live = live();
    let (status, text) = http("GET", &format!("{}_/localic", live.url), &[]);
    assert_eq!(status, 200);
    assert!(text.contains("\"server\":\"local-ic\""), "{text}");
}

#[test]
fn live_mode_moves_timers_and_stops_when_told() {
    let live = live();
    let agent = live.agent(basic(1));
    let delay: u64 = 1_000_000;
    live.update(&agent, "set_timer", &delay.to_le_bytes()).unwrap();
    let deadline = SystemTime::now() + Duration::from_secs(10);
    while live.read() != [1, 1, 1] {
        assert!(SystemTime::now() < deadline, "the timer never fired");
        std::thread::yield_now();
    }
    live.pic.stop_progress();
    assert!(!live.pic.auto_progress_enabled());
    let stopped = live.pic.get_time();
    assert_eq!(live.pic.get_time(), stopped);
}

#[test]
fn a_closed_gateway_answers_nobody_and_its_port_can_be_used_again() {
    let mut live = live();
    let agent = live.agent(basic(1));
    live.update(&agent, "inc", &[]).unwrap();
    let port = live.url.trim_end_matches('/').rsplit_once(':').unwrap().1;
    let port = port.parse().unwrap();
    live.pic.stop_live();
    // Not over the connection that the agent has kept open either.
    assert!(live.query(&agent, "read").is_err());
    live.pic.make_live(Some(port));
    assert_eq!(counters(&live.query(&agent, "read").unwrap()), [1, 1, 1]);
}

#[test]
fn a_canister_signs_through_its_certified_data() {
    use ic_certification::{HashTree, labeled, leaf};
    use sha2::{Digest, Sha256};

    #[derive(serde::Serialize)]
    struct CanisterSignature {
        certificate: serde_bytes::ByteBuf,
        tree: HashTree,
    }
    let live = live();
    let agent = live.agent(AnonymousIdentity);
    let hash = |bytes: &[u8]| Sha256::digest(bytes).to_vec();
    let (seed, message) = (b"a seed", b"a message");
    let tree = labeled("sig", labeled(hash(seed), labeled(hash(message), leaf(vec![]))));
    live.update(&agent, "certify", &tree.digest()).unwrap();
    let certificate = serde_bytes::ByteBuf::from(live.query(&agent, "certificate").unwrap());
    let signature = serde_cbor::to_vec(&CanisterSignature { certificate, tree }).unwrap();

    let raw = [&[live.canister.as_slice().len() as u8], live.canister.as_slice(), seed].concat();
    let bits = [&[0x03, raw.len() as u8 + 1, 0], &raw[..]].concat();
    let oid = b"\x30\x0c\x06\x0a\x2b\x06\x01\x04\x01\x83\xb8\x43\x01\x02";
    let body = [&oid[..], &bits].concat();
    let key = [&[0x30, body.len() as u8], &body[..]].concat();
    let verify = |message: &[u8]| {
        let root_key = live.pic.root_key().unwrap();
        let (message, signature) = (message.to_vec(), signature.clone());
        live.pic.verify_canister_signature(message, signature, key.clone(), root_key)
    };
    assert_eq!(verify(message), Ok(()));
    assert!(verify(b"another message").is_err());
}
