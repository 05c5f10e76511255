//! The canister alone, as its wasm: who may call what, and what it does when nobody calls it.

use std::time::Duration;

use candid::{CandidType, Principal, utils::ArgumentEncoder};
use event::{Event, twin::Author};
use interface::{
    Answer, Argument, ByteBuf, ChangesFrom, ChangesPage, ChangesRequest, Config, Count,
    DeleteOutcome, Deletion, Done, Encoding, EventBytes, HttpRequest, HttpResponse, IdBytes, Init,
    Member, QueryPage, QueryRequest, RelayEntry, RelayInfo, Role, SaveOutcome, Status, Tip, What,
};
use pocket_ic::{CanisterSettings, PocketIcBuilder, RejectResponse, nonblocking::PocketIc};
use serde::de::DeserializeOwned;

use crate::world::{artifacts, server};

const PLENTY: u128 = 1_000_000_000_000_000;

fn principal(number: u8) -> Principal {
    Principal::self_authenticating([number])
}

/// Who calls. The controller is an owner without being listed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Controller,
    Owner,
    RelayA,
    RelayB,
    Reader,
    Stranger,
    Anonymous,
}

impl Who {
    const ALL: [Who; 7] = [
        Who::Controller,
        Who::Owner,
        Who::RelayA,
        Who::RelayB,
        Who::Reader,
        Who::Stranger,
        Who::Anonymous,
    ];
    const OWNERS: &[Who] = &[Who::Controller, Who::Owner];
    const WRITERS: &[Who] = &[Who::Controller, Who::Owner, Who::RelayA, Who::RelayB];
    const READERS: &[Who] = &[Who::Controller, Who::Owner, Who::RelayA, Who::RelayB, Who::Reader];

    fn principal(self) -> Principal {
        match self {
            Who::Anonymous => Principal::anonymous(),
            other => principal(other as u8),
        }
    }
}

/// An instance without a clock of its own, and the event store on it.
struct Canister {
    pic: PocketIc,
    id: Principal,
}

impl Canister {
    async fn install(config: Config) -> Canister {
        Canister::install_with(config, PLENTY).await
    }

    async fn install_with(config: Config, cycles: u128) -> Canister {
        let builder = PocketIcBuilder::new().with_server_url(server().await.url().clone());
        let pic = builder.with_application_subnet().build_async().await;
        let controller = Some(Who::Controller.principal());
        let id = pic.create_canister_with_settings(controller, None).await;
        pic.add_cycles(id, cycles).await;
        let init = Init {
            owners: vec![Who::Owner.principal()],
            relays: vec![Who::RelayA.principal(), Who::RelayB.principal()],
            config: Some(config),
        };
        let argument = candid::encode_one(Some(Argument::Init(init))).unwrap();
        pic.install_canister(id, artifacts().wasm().unwrap(), argument, controller).await;
        let canister = Canister { pic, id };
        let granted = (Who::Reader.principal(), Role::Reader, "a friend");
        assert_eq!(canister.update::<_, Done>(Who::Owner, "grant", granted).await, Done::Ok(()));
        canister
    }

    async fn upgrade(&self) {
        let argument = candid::encode_one(None::<Argument>).unwrap();
        let wasm = artifacts().wasm().unwrap();
        let controller = Some(Who::Controller.principal());
        self.pic.upgrade_canister(self.id, wasm, argument, controller).await.unwrap();
    }

    async fn try_update<A: ArgumentEncoder, T: CandidType + DeserializeOwned>(
        &self,
        who: Who,
        method: &str,
        arguments: A,
    ) -> Result<T, RejectResponse> {
        let payload = candid::encode_args(arguments).unwrap();
        let reply = self.pic.update_call(self.id, who.principal(), method, payload).await?;
        Ok(candid::decode_one(&reply).unwrap())
    }

    async fn update<A: ArgumentEncoder, T: CandidType + DeserializeOwned>(
        &self,
        who: Who,
        method: &str,
        arguments: A,
    ) -> T {
        let answer = self.try_update(who, method, arguments).await;
        answer.unwrap_or_else(|reject| panic!("{method}: {reject:?}"))
    }

    async fn query<A: ArgumentEncoder, T: CandidType + DeserializeOwned>(
        &self,
        who: Who,
        method: &str,
        arguments: A,
    ) -> T {
        let payload = candid::encode_args(arguments).unwrap();
        let reply = self.pic.query_call(self.id, who.principal(), method, payload).await;
        candid::decode_one(&reply.unwrap_or_else(|reject| panic!("{method}: {reject:?}"))).unwrap()
    }

    async fn save(&self, who: Who, events: &[Event]) -> Vec<SaveOutcome> {
        let events: Vec<EventBytes> =
            events.iter().map(|event| EventBytes::from(event.pack())).collect();
        self.update(who, "save_events", (events,)).await
    }

    /// All there is to be seen.
    async fn everything(&self) -> Vec<Event> {
        let mut request =
            QueryRequest { filters: vec![interface::Filter::default()], ..Default::default() };
        let mut found = Vec::new();
        loop {
            let page: Answer<QueryPage> =
                self.query(Who::Reader, "query_events", (request.clone(),)).await;
            let page = page.into_result().unwrap();
            let events = page.events.iter();
            found.extend(events.map(|bytes| event::Packed::parse(bytes).unwrap().unpack()));
            request.cursor = page.cursor;
            if request.cursor.is_none() {
                return found;
            }
        }
    }

    /// Why the log says that an event went.
    async fn reasons(&self) -> Vec<String> {
        let page: Answer<ChangesPage> = self.query(Who::Reader, "changes", (from_zero(),)).await;
        let changes = page.into_result().unwrap().changes.into_iter();
        let why = |what| match what {
            What::Removed { why, .. } => Some(why),
            _ => None,
        };
        changes.filter_map(|change| why(change.what)).collect()
    }

    async fn status(&self) -> Status {
        self.query(Who::Stranger, "status", ()).await
    }

    async fn configure(&self, config: Config) {
        let done: Done = self.update(Who::Owner, "configure", (config,)).await;
        assert_eq!(done, Done::Ok(()));
    }

    /// Sets the limit of the wasm memory, and how little room left makes the system call the hook.
    async fn limit_heap(&self, limit: u64, threshold: u64) {
        let settings = CanisterSettings {
            wasm_memory_limit: Some(limit.into()),
            wasm_memory_threshold: Some(threshold.into()),
            ..CanisterSettings::default()
        };
        let controller = Some(Who::Controller.principal());
        self.pic.update_canister_settings(self.id, controller, settings).await.unwrap();
        self.pic.tick().await;
    }

    /// Unix time, there.
    async fn now(&self) -> u64 {
        self.pic.get_time().await.as_nanos_since_unix_epoch() / 1_000_000_000
    }

    /// Lets the time pass, and the canister do what it has to do then.
    async fn pass(&self, seconds: u64) {
        self.pic.advance_time(Duration::from_secs(seconds)).await;
        for _ in 0..5 {
            self.pic.tick().await;
        }
    }

    async fn end(self) {
        self.pic.drop().await;
    }
}

fn from_zero() -> ChangesRequest {
    ChangesRequest {
        from: ChangesFrom::Seq(0),
        max_bytes: None,
        max_entries: None,
        proof: true,
        ids_only: false,
        encoding: None,
    }
}

fn note(author: u8, at: u64, content: &str) -> Event {
    Author::new(author).sign(at, 1, &[], content).into_inner()
}

fn info() -> RelayInfo {
    RelayInfo {
        url: "wss://relay.example".into(),
        key: ByteBuf::from([2; 32]),
        version: "0.1.0".into(),
        connections: 0,
        subscriptions: 0,
        lag_ms: 0,
    }
}

/// Everybody tries; only `allowed` must succeed.
async fn check_all(what: &str, allowed: &[Who], try_as: impl AsyncFn(Who) -> bool) {
    for who in Who::ALL {
        assert_eq!(try_as(who).await, allowed.contains(&who), "{what} as {who:?}");
    }
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for_and_no_more() {
    let it = Canister::install(Config::default()).await;
    let event = note(1, 1_000, "hello");
    let events = vec![EventBytes::from(event.pack())];
    let id: IdBytes = ByteBuf::from(event.id.0);
    it.save(Who::RelayA, &[event]).await;
    updates_are_for_those_who_may(&it, &events).await;
    queries_are_for_those_who_may(&it, &id).await;
    queries_as_updates_are_for_owners(&it).await;
    check_all("clear", Who::OWNERS, async |who| {
        it.try_update::<_, Done>(who, "clear", (it.id.to_text(),)).await == Ok(Done::Ok(()))
    })
    .await;
    assert_eq!((it.status().await.events, it.status().await.length), (0, 3));
    it.configure(Config { public_read: Some(true), ..Config::default() }).await;
    check_all("reading in public", &Who::ALL, async |who| {
        let page: Answer<QueryPage> =
            it.query(who, "query_events", (QueryRequest::default(),)).await;
        page.into_result().is_ok()
    })
    .await;
    it.end().await;
}

/// Others do not even get into a block.
async fn updates_are_for_those_who_may(it: &Canister, events: &[EventBytes]) {
    check_all("save_events", Who::WRITERS, async |who| {
        it.try_update::<_, Vec<SaveOutcome>>(who, "save_events", (events.to_vec(),)).await.is_ok()
    })
    .await;
    check_all("announce", Who::WRITERS, async |who| {
        it.try_update::<_, Done>(who, "announce", (info(),)).await == Ok(Done::Ok(()))
    })
    .await;
    check_all("grant", Who::OWNERS, async |who| {
        let granted = (principal(50), Role::Reader, "");
        it.try_update::<_, Done>(who, "grant", granted).await == Ok(Done::Ok(()))
    })
    .await;
    check_all("revoke", Who::OWNERS, async |who| {
        it.try_update::<_, Done>(who, "revoke", (principal(50),)).await == Ok(Done::Ok(()))
    })
    .await;
    check_all("configure", Who::OWNERS, async |who| {
        it.try_update::<_, Done>(who, "configure", (Config::default(),)).await == Ok(Done::Ok(()))
    })
    .await;
    check_all("delete_events", Who::OWNERS, async |who| {
        let arguments = (vec![ByteBuf::from([9; 32])], Deletion::default());
        let outcomes = it.try_update(who, "delete_events", arguments).await;
        outcomes == Ok(vec![DeleteOutcome::Unknown])
    })
    .await;
}

/// Anybody can ask.
async fn queries_are_for_those_who_may(it: &Canister, id: &IdBytes) {
    check_all("query_events", Who::READERS, async |who| {
        let page: Answer<QueryPage> =
            it.query(who, "query_events", (QueryRequest::default(),)).await;
        page.into_result().is_ok()
    })
    .await;
    check_all("get_events", Who::READERS, async |who| {
        let arguments = (vec![id.clone()], None::<Encoding>);
        let got: Answer<Vec<Option<EventBytes>>> = it.query(who, "get_events", arguments).await;
        got.into_result().is_ok_and(|got| got[0].is_some())
    })
    .await;
    check_all("count", Who::READERS, async |who| {
        let all = (vec![interface::Filter::default()],);
        it.query::<_, Answer<Count>>(who, "count", all).await.into_result().is_ok()
    })
    .await;
    check_all("changes", Who::READERS, async |who| {
        let page: Answer<ChangesPage> = it.query(who, "changes", (from_zero(),)).await;
        page.into_result().is_ok_and(|page| page.proof.is_some())
    })
    .await;
    check_all("members", Who::READERS, async |who| {
        !it.query::<_, Vec<Member>>(who, "members", ()).await.is_empty()
    })
    .await;
    check_all("relays", Who::READERS, async |who| {
        !it.query::<_, Vec<RelayEntry>>(who, "relays", ()).await.is_empty()
    })
    .await;
    check_all("my_role", Who::READERS, async |who| {
        it.query::<_, Option<Role>>(who, "my_role", ()).await.is_some()
    })
    .await;
    check_all("status", &Who::ALL, async |who| {
        it.query::<_, Status>(who, "status", ()).await.events == 1
    })
    .await;
    check_all("config", &Who::ALL, async |who| {
        it.query::<_, Config>(who, "config", ()).await.tags_max == Some(5_000)
    })
    .await;
    check_all("tip", &Who::ALL, async |who| it.query::<_, Tip>(who, "tip", ()).await.length == 1)
        .await;
    check_all("http_request", &Who::ALL, async |who| {
        it.query::<_, HttpResponse>(who, "http_request", (get("/metrics"),)).await.status_code
            == 200
    })
    .await;
}

/// As updates they would be ordered and paid for.
async fn queries_as_updates_are_for_owners(it: &Canister) {
    for method in ["query_events", "changes", "members", "my_role", "config", "status", "tip"] {
        // Relays may make sure where the log ends.
        let allowed = if method == "tip" { Who::WRITERS } else { Who::OWNERS };
        check_all(method, allowed, async |who| {
            let payload = match method {
                "query_events" => candid::encode_one(QueryRequest::default()),
                "changes" => candid::encode_one(from_zero()),
                _ => candid::encode_args(()),
            };
            it.pic.update_call(it.id, who.principal(), method, payload.unwrap()).await.is_ok()
        })
        .await;
    }
}

fn get(path: &str) -> HttpRequest {
    HttpRequest {
        method: "GET".into(),
        url: path.into(),
        headers: Vec::new(),
        body: ByteBuf::new(),
    }
}

#[tokio::test]
async fn expired_events_are_hidden_at_once_and_swept_out_by_themselves() {
    let it = Canister::install(Config::default()).await;
    let expiring = |date: u64| {
        let tags: &[&[&str]] = &[&["expiration", &date.to_string()]];
        Author::new(1).sign(1_000, 1, tags, "for a while").into_inner()
    };
    let now = it.now().await;
    let events = [expiring(now + 100), expiring(now + 10_000), note(1, 999, "for ever")];
    it.save(Who::RelayA, &events).await;
    it.pass(50).await;
    assert_eq!(it.everything().await.len(), 3);
    it.pass(51).await;
    assert_eq!(it.everything().await, events[1..]);
    it.upgrade().await;
    it.pass(100).await;
    assert_eq!(it.everything().await, events[1..]);
    assert_eq!((it.status().await.events, it.reasons().await), (2, vec!["expired".to_owned()]));
    it.pass(10_000).await;
    assert_eq!(it.everything().await, events[2..]);
    assert_eq!(it.status().await.events, 1);
    it.end().await;
}

#[tokio::test]
async fn who_vanishes_is_gone_with_the_answer_and_swept_out_by_itself() {
    let it = Canister::install(Config::default()).await;
    let notes: Vec<Event> = (0..400).map(|at| note(1, at, &"x".repeat(600))).collect();
    it.save(Who::RelayA, &notes).await;
    let others = note(2, 5, "of somebody else");
    let request = Author::new(1).sign(1_000, 62, &[&["relay", "ALL_RELAYS"]], "").into_inner();
    it.save(Who::RelayB, &[others.clone(), request.clone()]).await;
    assert_eq!(it.everything().await, [request.clone(), others.clone()]);
    it.pass(10).await;
    assert_eq!(it.everything().await, [request, others]);
    assert_eq!(it.status().await.events, 2);
    assert_eq!(it.save(Who::RelayA, &notes[..1]).await, [SaveOutcome::Deleted]);
    it.end().await;
}

#[tokio::test]
async fn quotas_are_each_relays_own_and_survive_an_upgrade() {
    let quota = Config { relay_events_per_hour: Some(2), ..Config::default() };
    let it = Canister::install(quota).await;
    let events: Vec<Event> = (0..5).map(|at| note(1, at, "")).collect();
    let outcomes = it.save(Who::RelayA, &events[..3]).await;
    let is_refused = |outcome: &SaveOutcome| matches!(outcome, SaveOutcome::Refused(why) if why.contains("relay_events_per_hour"));
    assert!(is_refused(&outcomes[2]), "{outcomes:?}");
    it.upgrade().await;
    assert!(is_refused(&it.save(Who::RelayA, &events[2..3]).await[0]));
    assert!(matches!(it.save(Who::RelayB, &events[2..3]).await[0], SaveOutcome::Saved(_)));
    it.pass(3_600).await;
    assert!(matches!(it.save(Who::RelayA, &events[3..4]).await[0], SaveOutcome::Saved(_)));
    it.end().await;
}

fn is_read_only(outcome: &SaveOutcome) -> bool {
    matches!(outcome, SaveOutcome::Refused(why) if why.starts_with("read-only: "))
}

#[tokio::test]
async fn a_canister_short_of_cycles_is_read_only_until_it_is_topped_up() {
    let it = Canister::install_with(Config::default(), 2_000_000_000_000).await;
    assert!(matches!(it.save(Who::RelayA, &[note(1, 1, "")]).await[0], SaveOutcome::Saved(_)));
    it.configure(Config { cycles_days_min: Some(100_000), ..Config::default() }).await;
    let outcomes = it.save(Who::RelayA, &[note(1, 2, "")]).await;
    assert!(is_read_only(&outcomes[0]), "{outcomes:?}");
    let reason = it.status().await.read_only.expect("the status says so too");
    assert!(reason.contains("top the canister up"), "{reason}");
    let page: HttpResponse = it.query(Who::Anonymous, "http_request", (get("/"),)).await;
    assert!(String::from_utf8_lossy(&page.body).contains("read-only"));
    it.pic.add_cycles(it.id, PLENTY).await;
    assert!(matches!(it.save(Who::RelayA, &[note(1, 2, "")]).await[0], SaveOutcome::Saved(_)));
    assert_eq!(it.status().await.read_only, None);
    it.end().await;
}

#[tokio::test]
async fn a_canister_whose_heap_is_nearly_full_is_read_only_until_it_has_a_higher_limit() {
    let it = Canister::install(Config::default()).await;
    assert!(matches!(it.save(Who::RelayA, &[note(1, 1, "")]).await[0], SaveOutcome::Saved(_)));
    let heap = it.status().await.heap_bytes;
    it.limit_heap(heap + (8 << 20), 16 << 20).await;
    let reason = it.status().await.read_only.expect("the system has called the hook");
    assert!(reason.starts_with("the wasm memory is nearly full"), "{reason}");
    let outcomes = it.save(Who::RelayA, &[note(1, 2, "")]).await;
    assert_eq!(outcomes, [SaveOutcome::Refused(format!("read-only: {reason}"))]);
    let log = it.pic.fetch_canister_logs(it.id, Who::Controller.principal()).await.unwrap();
    let line = format!("read-only: {reason}");
    assert!(log.iter().any(|record| record.content == line.as_bytes()), "{log:?}");
    assert_eq!(it.everything().await.len(), 1, "reading goes on");

    it.limit_heap(heap + (64 << 20), 16 << 20).await;
    assert!(is_read_only(&it.save(Who::RelayA, &[note(1, 2, "")]).await[0]), "nobody told it");
    it.configure(Config::default()).await;
    assert!(matches!(it.save(Who::RelayA, &[note(1, 2, "")]).await[0], SaveOutcome::Saved(_)));
    assert_eq!(it.status().await.read_only, None);
    it.end().await;
}

#[tokio::test]
async fn a_canister_at_its_memory_limit_refuses_and_never_traps() {
    let it = Canister::install(Config::default()).await;
    // The second time makes up for the memory that the first took.
    it.save(Who::RelayA, &[note(1, 0, "first")]).await;
    it.save(Who::RelayA, &[note(1, 0, "first")]).await;
    let limit = it.status().await.stable_bytes;
    it.configure(Config { stable_bytes_max: Some(limit), ..Config::default() }).await;
    let content = "x".repeat(100_000);
    let mut saved = 0;
    let mut at = 1;
    loop {
        let events: Vec<Event> = (at..at + 18).map(|at| note(1, at, &content)).collect();
        at += 18;
        let outcomes = it.save(Who::RelayA, &events).await;
        if is_read_only(&outcomes[0]) {
            break;
        }
        saved += outcomes.iter().filter(|it| matches!(it, SaveOutcome::Saved(_))).count();
        assert!(at < 1_000, "a bucket of 16 MiB was full long ago");
    }
    assert!(saved > 36, "some room there was: {saved}");
    let status = it.status().await;
    assert!(status.stable_bytes <= limit && status.read_only.is_some(), "{status:?}");
    assert_eq!(it.everything().await.len(), saved + 1);
    let deletion = (vec![ByteBuf::from(note(1, 0, "first").id.0)], Deletion::default());
    let outcomes: Vec<DeleteOutcome> = it.update(Who::Owner, "delete_events", deletion).await;
    assert!(matches!(outcomes[..], [DeleteOutcome::Removed(_)]), "deletions go on: {outcomes:?}");
    it.configure(Config { stable_bytes_max: Some(500 << 30), ..Config::default() }).await;
    assert!(matches!(it.save(Who::RelayA, &[note(2, 1, "")]).await[0], SaveOutcome::Saved(_)));
    it.end().await;
}
