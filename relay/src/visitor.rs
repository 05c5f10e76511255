//! Where a connection comes from: its own address, or the one that a trusted proxy forwards.
//!
//! Addresses live in memory for as long as they are needed for limits. They are in no log, no metric and
//! no store.

use std::net::{IpAddr, Ipv6Addr};

use warp::http::HeaderMap;

use crate::network::Network;

/// Where proxies say whom they forward: each adds who connected to it.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visitor {
    pub ip: IpAddr,
    /// From this machine, with no proxy in between that is known: the operator. No limit holds for them.
    pub is_local: bool,
    /// By a proxy.
    pub is_forwarded: bool,
}

impl Visitor {
    /// Who is behind a connection from `remote`. Of the addresses that were forwarded the last one counts
    /// that no trusted proxy has: all before it a client could have made up.
    pub fn of(remote: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> Visitor {
        let remote = remote.to_canonical();
        let is_trusted = |ip: IpAddr| trusted.iter().any(|network| network.contains(ip));
        let lines = headers.get_all(FORWARDED_FOR).iter();
        let forwarded: Vec<&str> =
            lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).collect();
        let mut ip = remote;
        for hop in forwarded.iter().rev() {
            if !is_trusted(ip) {
                break;
            }
            let Ok(behind) = hop.trim().parse::<IpAddr>() else { break };
            ip = behind.to_canonical();
        }
        let is_forwarded = ip != remote;
        // Whom a proxy forwards without saying whom is a stranger.
        let is_of_proxy = !forwarded.is_empty() && is_trusted(remote);
        Visitor { ip, is_local: ip.is_loopback() && !is_of_proxy, is_forwarded }
    }

    /// What is limited together: an address, of IPv6 a network such as one household has.
    pub fn origin(&self) -> IpAddr {
        match self.ip {
            IpAddr::V4(_) => self.ip,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        }
    }
}

/// Whether somebody says whom it forwards, and is not believed.
pub fn is_unheard(visitor: &Visitor, headers: &HeaderMap) -> bool {
    visitor.is_local && headers.contains_key(FORWARDED_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(remote: &str, forwarded: &[&str], expected: &str) {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<Network> =
            ["127.0.0.1", "10.0.0.0/8"].map(|network| network.parse().unwrap()).into();
        let visitor = Visitor::of(remote.parse().unwrap(), &headers, &trusted);
        assert_eq!(visitor.ip.to_string(), expected, "{remote} {forwarded:?}");
    }

    #[test]
    fn only_what_trusted_proxies_added_is_believed() {
        check("192.0.2.1", &[], "192.0.2.1");
        check("192.0.2.1", &["198.51.100.1"], "192.0.2.1");
        check("127.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("::ffff:127.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("127.0.0.1", &["203.0.113.9, 198.51.100.1"], "198.51.100.1");
        check("127.0.0.1", &["203.0.113.9", "198.51.100.1, 10.1.1.1"], "198.51.100.1");
        check("127.0.0.1", &["203.0.113.9, nonsense"], "127.0.0.1");
        check("127.0.0.1", &["2001:db8::1"], "2001:db8::1");
    }

    #[test]
    fn this_machine_is_the_operators_unless_it_forwards() {
        let visitor = |remote: &str| Visitor::of(remote.parse().unwrap(), &HeaderMap::new(), &[]);
        assert!(visitor("127.0.0.1").is_local && visitor("::1").is_local);
        assert!(!visitor("192.0.2.1").is_local);
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_FOR, "127.0.0.1".parse().unwrap());
        let proxy = ["10.0.0.0/8".parse().unwrap()];
        assert!(!Visitor::of("10.0.0.1".parse().unwrap(), &headers, &proxy).is_local);
    }

    #[test]
    fn an_ipv6_address_is_limited_with_its_household() {
        let origin = |ip: &str| {
            let visitor = Visitor::of(ip.parse().unwrap(), &HeaderMap::new(), &[]);
            visitor.origin().to_string()
        };
        assert_eq!(origin("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(origin("192.0.2.7"), "192.0.2.7");
    }
}
