//! End-to-end tests: the canister, relays and nostr clients together. All of it is in `tests/e2e`.
