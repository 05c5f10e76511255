//! The one global: the open structures. Installing and upgrading open them, so that no query has to:
//! what a query builds in the heap is thrown away when it ends.

use std::cell::RefCell;

use interface::{Argument, Config, Init, Role, SaveCost};

use crate::{
    config::Settings,
    events::Events,
    members::Members,
    memory::{self, Memories, Memory},
    proof::Proofs,
    runtime,
};

pub struct State {
    pub memories: Memories,
    pub settings: Settings,
    pub members: Members,
    pub events: Events,
    pub proofs: Proofs<Memory>,
    /// Not kept over an upgrade: a measurement of code that is no longer there.
    pub last_save: Option<SaveCost>,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

const OPENED: &str = "init or post_upgrade has opened it";

pub fn read<T>(look: impl FnOnce(&State) -> T) -> T {
    STATE.with_borrow(|state| look(state.as_ref().expect(OPENED)))
}

/// The one way to change anything: what it did to the log is certified when it is done.
pub fn change<T>(change: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(|state| {
        let state = state.as_mut().expect(OPENED);
        let answer = change(state);
        if state.proofs.follow(state.events.log()) {
            state.certify();
        }
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
        State {
            settings: Settings::open(memories.get(memory::CONFIG)),
            members: Members::open(memories.get(memory::MEMBERS)),
            events: Events::open(&memories),
            proofs: Proofs::open(memories.get(memory::LOG_TREE)),
            last_save: None,
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
        STATE.set(Some(self));
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
