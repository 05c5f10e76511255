//! The one global: the open structures. Installing and upgrading open them, so that no query has to:
//! what a query builds in the heap is thrown away when it ends.

use std::cell::RefCell;

use ic_stable_structures::StableCell;
use index::Seq;
use interface::{Argument, Config, Init, Role};

use crate::{
    config::Settings,
    directory::Directory,
    events::Events,
    members::Members,
    memory::{self, Memories, Memory},
    metrics::Metrics,
    proof::Proofs,
    runtime,
};

/// How all that is in stable memory is laid out. Whoever changes that raises the number, and teaches
/// [`upgrade`] to carry over what an older one left.
const LAYOUT_VERSION: u32 = 1;
/// Expired events wait so long for others: they are hidden, and to wake up costs more than to wait.
const EXPIRY_PATIENCE_SECONDS: u64 = 60;

pub struct State {
    pub memories: Memories,
    pub settings: Settings,
    pub members: Members,
    pub events: Events,
    pub directory: Directory,
    pub proofs: Proofs<Memory>,
    pub metrics: Metrics,
    /// The system said so. An upgrade begins with an empty heap.
    pub is_heap_low: bool,
    /// The last message asked for stable memory, and got none.
    pub is_growth_refused: bool,
    /// What the canister's log last said about it.
    pub read_only: Option<String>,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

const OPENED: &str = "init or post_upgrade has opened it";

pub fn read<T>(look: impl FnOnce(&State) -> T) -> T {
    STATE.with_borrow(|state| look(state.as_ref().expect(OPENED)))
}

/// The one way to change anything: what it did to the log is certified when it is done, and the
/// canister wakes when there is something to tidy.
pub fn change<T>(change: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(|state| {
        let state = state.as_mut().expect(OPENED);
        let answer = change(state);
        if state.proofs.follow(state.events.log()) {
            state.certify();
        }
        state.set_alarm();
        answer
    })
}

/// A new canister. Whoever installs it by a tool's default argument gets a working store, of which
/// the controllers are the owners.
pub fn install(argument: Option<Argument>) {
    let mut state = State::open();
    match argument {
        Some(Argument::Init(init)) => state.begin(init),
        Some(Argument::Upgrade(upgrade)) => state.configure(upgrade.and_then(|it| it.config)),
        None => {}
    }
    state.begin_service();
}

/// A new version over an old one's memory. Tools send the install argument on upgrades too, so an
/// `init` here is not an error: its config is applied, and members stay who they are.
pub fn upgrade(argument: Option<Argument>) {
    let mut state = State::open();
    state.events.check();
    state.members.check();
    state.configure(match argument {
        Some(Argument::Init(init)) => init.config,
        Some(Argument::Upgrade(upgrade)) => upgrade.and_then(|it| it.config),
        None => None,
    });
    state.begin_service();
}

impl State {
    fn open() -> State {
        let memories = Memories::open(runtime::stable_memory());
        check_layout(&memories);
        State {
            settings: Settings::open(memories.get(memory::CONFIG)),
            members: Members::open(memories.get(memory::MEMBERS)),
            events: Events::open(&memories),
            directory: Directory::open(memories.get(memory::DIRECTORY)),
            proofs: Proofs::open(memories.get(memory::LOG_TREE)),
            metrics: Metrics::default(),
            is_heap_low: false,
            is_growth_refused: false,
            read_only: None,
            memories,
        }
    }

    fn begin(&mut self, init: Init) {
        let owners = init.owners.into_iter().map(|who| (who, Role::Owner));
        let relays = init.relays.into_iter().map(|who| (who, Role::Relay));
        for (who, role) in relays.chain(owners) {
            let granted = self.members.grant(who, role, "install".into(), runtime::now());
            granted.unwrap_or_else(|reason| runtime::reject(&reason));
        }
        self.configure(init.config);
    }

    /// A config that cannot be is refused as a whole: the install does not take place.
    fn configure(&mut self, config: Option<Config>) {
        let applied = self.settings.apply(&config.unwrap_or_default());
        applied.unwrap_or_else(|reason| runtime::reject(&reason));
    }

    /// From here on messages find the state. An upgrade keeps what is certified, but the code that
    /// makes it may have changed.
    fn begin_service(mut self) {
        self.proofs.follow(self.events.log());
        self.certify();
        self.set_alarm();
        let (version, events) = (env!("CARGO_PKG_VERSION"), self.events.len());
        let Seq(length) = self.events.log().length();
        runtime::print(&format!("version {version}: {events} events, a log of {length} entries"));
        STATE.set(Some(self));
    }

    fn set_alarm(&self) {
        let soon = runtime::now() + 1;
        // Nobody is woken for what lies years ahead: the alarm is set again long before.
        let latest = soon + 30 * 86_400;
        let wake_at = |date: u64| date.saturating_add(EXPIRY_PATIENCE_SECONDS).clamp(soon, latest);
        runtime::set_alarm(self.events.is_untidy_at().map(wake_at));
    }

    fn certify(&self) {
        runtime::certify(&self.proofs.head().tree().digest());
    }

    fn role(&self) -> Option<Role> {
        self.members.role(&runtime::caller())
    }

    pub fn caller_is_owner(&self) -> bool {
        self.role() == Some(Role::Owner)
    }

    pub fn caller_may_write(&self) -> bool {
        matches!(self.role(), Some(Role::Owner | Role::Relay))
    }

    pub fn caller_may_read(&self) -> bool {
        self.settings.limits().public_read || self.role().is_some()
    }
}

/// Before anything else is touched: what another version laid out may look like something else here.
/// A canister without a version is being installed, and gets this one.
fn check_layout(memories: &Memories) {
    let layout = StableCell::init(memories.get(memory::LAYOUT), LAYOUT_VERSION);
    let found = *layout.get();
    if found != LAYOUT_VERSION {
        let known = "this version knows layout";
        runtime::reject(&format!("stable memory has layout {found}, {known} {LAYOUT_VERSION}"));
    }
}
