//! How often, and how many times at once: limits for each address and each key.
//!
//! An address has its share however many keys it makes up, and a key has its own wherever it comes from.
//! Who runs the relay has none: visitors from this machine, owners and admins.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use event::PublicKey;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::{
    config::terms::{InForce, PerSecond, Rates},
    verdict::TooFast,
    visitor::Visitor,
};

/// How many seconds' worth may come at once: clients ask for much when they start, and then for little.
const BURST_SECONDS: u32 = 10;
/// How often those are forgotten who have their whole share again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// What somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// An EVENT.
    Event,
    /// A REQ, a COUNT, a NEG-OPEN.
    Request,
}

/// What everybody has done lately.
pub struct Throttle {
    in_force: InForce,
    limiters: ArcSwap<Limiters>,
    connected: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Made for one set of rates.
struct Limiters {
    rates: Rates,
    ip_events: Limiter<IpAddr>,
    ip_requests: Limiter<IpAddr>,
    key_events: Limiter<PublicKey>,
    key_requests: Limiter<PublicKey>,
}

/// None: no limit.
struct Limiter<K: Hash + Eq + Clone>(Option<(u32, DefaultKeyedRateLimiter<K>)>);

impl<K: Hash + Eq + Clone> Limiter<K> {
    fn new(rate: PerSecond) -> Limiter<K> {
        Limiter(rate.map(|rate| {
            let burst = rate.saturating_mul(BURST_SECONDS.try_into().expect("it is not zero"));
            (rate.get(), RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)))
        }))
    }

    fn take(&self, who: &K) -> Result<(), TooFast> {
        let Some((rate, limiter)) = &self.0 else { return Ok(()) };
        limiter.check_key(who).map_err(|_| TooFast(*rate))
    }

    fn sweep(&self) {
        if let Some((_, limiter)) = &self.0 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

impl Limiters {
    fn new(rates: Rates) -> Limiters {
        Limiters {
            rates,
            ip_events: Limiter::new(rates.ip_events),
            ip_requests: Limiter::new(rates.ip_requests),
            key_events: Limiter::new(rates.key_events),
            key_requests: Limiter::new(rates.key_requests),
        }
    }
}

/// A place for one connection of an address. Dropped, it is free again.
pub struct Place {
    connected: Arc<Mutex<HashMap<IpAddr, usize>>>,
    origin: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = self.connected.lock().expect("no holder panics");
        if let Some(count) = connected.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.origin);
            }
        }
    }
}

impl Throttle {
    pub fn new(in_force: InForce) -> Throttle {
        let limiters = ArcSwap::from_pointee(Limiters::new(in_force.load().rates));
        Throttle { in_force, limiters, connected: Arc::default() }
    }

    /// One more of what this visitor does.
    pub fn visitor_does(&self, act: Act, visitor: &Visitor) -> Result<(), TooFast> {
        if visitor.is_local {
            return Ok(());
        }
        let limiters = self.limiters();
        match act {
            Act::Event => limiters.ip_events.take(&visitor.origin()),
            Act::Request => limiters.ip_requests.take(&visitor.origin()),
        }
    }

    /// One more of what this key's owner does, who comes as this visitor.
    pub fn key_does(&self, act: Act, key: &PublicKey, visitor: &Visitor) -> Result<(), TooFast> {
        if visitor.is_local || self.in_force.load().access.role_of(key).is_some() {
            return Ok(());
        }
        let limiters = self.limiters();
        match act {
            Act::Event => limiters.key_events.take(key),
            Act::Request => limiters.key_requests.take(key),
        }
    }

    /// A place for one more connection, unless its address has enough of them.
    pub fn place_for(&self, visitor: &Visitor) -> Option<Place> {
        let max = match visitor.is_local {
            true => usize::MAX,
            false => self.in_force.load().limits.ip_connections_max.unwrap_or(usize::MAX),
        };
        let origin = visitor.origin();
        let mut connected = self.connected.lock().expect("no holder panics");
        let count = connected.entry(origin).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place { connected: self.connected.clone(), origin })
    }

    /// Those for the rates that are in force. When rates change everybody begins anew.
    fn limiters(&self) -> Arc<Limiters> {
        let rates = self.in_force.load().rates;
        let limiters = self.limiters.load_full();
        if limiters.rates == rates {
            return limiters;
        }
        let limiters = Arc::new(Limiters::new(rates));
        self.limiters.store(limiters.clone());
        limiters
    }

    /// Forgets who has not done anything lately, until `stop`.
    pub async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        let mut sweeps = interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = sweeps.tick() => {}
            }
            let limiters = self.limiters.load();
            limiters.ip_events.sweep();
            limiters.ip_requests.sweep();
            limiters.key_events.sweep();
            limiters.key_requests.sweep();
        }
    }
}

#[cfg(test)]
mod tests {
    use event::twin::Author;

    use super::*;
    use crate::config::terms::TermSettings;

    fn throttle(settings: TermSettings) -> Throttle {
        Throttle::new(Arc::new(ArcSwap::from_pointee(settings.resolve().unwrap())))
    }

    fn visitor(ip: &str) -> Visitor {
        Visitor::of(ip.parse().unwrap(), &Default::default(), &[])
    }

    #[test]
    fn an_address_has_a_share_of_its_own_and_the_operator_has_no_limit() {
        let ip_events_per_second = Some(1);
        let throttle = throttle(TermSettings { ip_events_per_second, ..TermSettings::default() });
        let does = |ip: &str| throttle.visitor_does(Act::Event, &visitor(ip));
        for _ in 0..10 {
            assert_eq!(does("192.0.2.1"), Ok(()));
        }
        assert_eq!(does("192.0.2.1"), Err(TooFast(1)));
        assert_eq!(does("192.0.2.2"), Ok(()));
        assert_eq!(throttle.visitor_does(Act::Request, &visitor("192.0.2.1")), Ok(()));
        assert!((0..1_000).all(|_| does("127.0.0.1").is_ok()));
    }

    #[test]
    fn a_key_has_its_share_wherever_it_comes_from_and_owners_have_no_limit() {
        let owners = Some(vec![Author::new(2).pubkey().to_string()]);
        let settings =
            TermSettings { key_events_per_second: Some(1), owners, ..Default::default() };
        let throttle = throttle(settings);
        let does = |author, ip: &str| {
            throttle.key_does(Act::Event, &Author::new(author).pubkey(), &visitor(ip))
        };
        let allowed = (0..10).filter(|at| does(1, &format!("192.0.2.{at}")).is_ok()).count();
        assert_eq!((allowed, does(1, "192.0.2.99")), (10, Err(TooFast(1))));
        assert!((0..1_000).all(|_| does(2, "192.0.2.1").is_ok()));
    }

    #[test]
    fn new_rates_hold_at_once() {
        let throttle =
            throttle(TermSettings { ip_requests_per_second: Some(0), ..Default::default() });
        let does = || throttle.visitor_does(Act::Request, &visitor("192.0.2.1"));
        assert!((0..1_000).all(|_| does().is_ok()));
        let mut terms = (**throttle.in_force.load()).clone();
        terms.rates.ip_requests = PerSecond::None.or(std::num::NonZeroU32::new(1));
        throttle.in_force.store(Arc::new(terms));
        assert_eq!((0..1_000).filter(|_| does().is_ok()).count(), 10);
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let throttle = throttle(TermSettings { ip_connections_max: Some(1), ..Default::default() });
        let place = throttle.place_for(&visitor("192.0.2.1"));
        assert!(place.is_some() && throttle.place_for(&visitor("192.0.2.1")).is_none());
        assert!(throttle.place_for(&visitor("192.0.2.2")).is_some());
        drop(place);
        assert!(throttle.place_for(&visitor("192.0.2.1")).is_some());
    }
}
