//! System calls, each with a native twin, so that plain tests can be the replica: they set the
//! clock, the caller and the price of work.

pub use system::*;

#[cfg(target_family = "wasm")]
mod system {
    use candid::Principal;
    use ic_cdk::api;
    use ic_stable_structures::DefaultMemoryImpl;

    /// Unix time, in seconds.
    pub fn now() -> u64 {
        api::time() / 1_000_000_000
    }

    pub fn caller() -> Principal {
        api::msg_caller()
    }

    pub fn is_controller(who: &Principal) -> bool {
        api::is_controller(who)
    }

    /// Instructions since this message began, decoding of its arguments included.
    pub fn instructions() -> u64 {
        api::instruction_counter()
    }

    pub fn cycles() -> u128 {
        api::canister_cycle_balance()
    }

    /// What is left above the freezing threshold.
    pub fn liquid_cycles() -> u128 {
        api::canister_liquid_cycle_balance()
    }

    pub fn heap_bytes() -> u64 {
        core::arch::wasm32::memory_size(0) as u64 * 65_536
    }

    pub fn canister_id() -> Principal {
        api::canister_self()
    }

    /// Has the canister woken at this unix time, once. None: it sleeps.
    pub fn set_alarm(at: Option<u64>) {
        // 0 is no time but the word for none.
        let nanoseconds = at.map_or(0, |at| at.max(1).saturating_mul(1_000_000_000));
        api::global_timer_set(nanoseconds);
    }

    /// A line in the canister's log, for its operators.
    pub fn print(line: &str) {
        ic_cdk::println!("{line}");
    }

    pub fn stable_memory() -> DefaultMemoryImpl {
        DefaultMemoryImpl::default()
    }

    /// What the subnet signs from now on, 32 bytes.
    pub fn certify(digest: &[u8]) {
        api::certified_data_set(digest);
    }

    /// The subnet's signature under what was certified. Only queries have it.
    pub fn data_certificate() -> Option<Vec<u8>> {
        api::data_certificate()
    }

    pub fn method() -> String {
        api::msg_method_name()
    }

    pub fn accept_message() {
        api::accept_message();
    }

    /// Ends the message; nothing that it did remains.
    pub fn reject(reason: &str) -> ! {
        api::trap(reason)
    }
}

#[cfg(not(target_family = "wasm"))]
mod system {
    use std::cell::{Cell, RefCell};

    use candid::Principal;
    use ic_stable_structures::DefaultMemoryImpl;

    thread_local! {
        pub static NOW: Cell<u64> = const { Cell::new(0) };
        pub static CALLER: Cell<Principal> = const { Cell::new(Principal::anonymous()) };
        pub static CONTROLLER: Cell<Option<Principal>> = const { Cell::new(None) };
        pub static INSTRUCTIONS: Cell<u64> = const { Cell::new(0) };
        /// What the counter advances by each time it is read.
        pub static INSTRUCTIONS_STEP: Cell<u64> = const { Cell::new(0) };
        pub static STABLE: RefCell<DefaultMemoryImpl> = RefCell::default();
        pub static LIQUID: Cell<u128> = const { Cell::new(1 << 60) };
        pub static ALARM: Cell<Option<u64>> = const { Cell::new(None) };
        pub static PRINTED: RefCell<Vec<String>> = RefCell::default();
        pub static METHOD: RefCell<String> = RefCell::default();
        pub static ACCEPTED: Cell<bool> = const { Cell::new(false) };
        pub static CERTIFIED: RefCell<Vec<u8>> = RefCell::default();
        pub static IS_QUERY: Cell<bool> = const { Cell::new(true) };
    }

    pub fn now() -> u64 {
        NOW.get()
    }

    pub fn caller() -> Principal {
        CALLER.get()
    }

    pub fn is_controller(who: &Principal) -> bool {
        CONTROLLER.get().as_ref() == Some(who)
    }

    pub fn instructions() -> u64 {
        INSTRUCTIONS.set(INSTRUCTIONS.get() + INSTRUCTIONS_STEP.get());
        INSTRUCTIONS.get()
    }

    pub fn cycles() -> u128 {
        LIQUID.get()
    }

    pub fn liquid_cycles() -> u128 {
        LIQUID.get()
    }

    pub fn heap_bytes() -> u64 {
        1 << 20
    }

    pub fn canister_id() -> Principal {
        Principal::from_slice(&[1; 10])
    }

    pub fn set_alarm(at: Option<u64>) {
        ALARM.set(at);
    }

    pub fn print(line: &str) {
        PRINTED.with_borrow_mut(|lines| lines.push(line.into()));
    }

    pub fn stable_memory() -> DefaultMemoryImpl {
        STABLE.with_borrow(DefaultMemoryImpl::clone)
    }

    pub fn certify(digest: &[u8]) {
        CERTIFIED.set(digest.to_vec());
    }

    /// Nobody signs here: the data itself.
    pub fn data_certificate() -> Option<Vec<u8>> {
        IS_QUERY.get().then(|| CERTIFIED.with_borrow(Vec::clone))
    }

    pub fn method() -> String {
        METHOD.with_borrow(String::clone)
    }

    pub fn accept_message() {
        ACCEPTED.set(true);
    }

    pub fn reject(reason: &str) -> ! {
        panic!("{reason}")
    }
}
