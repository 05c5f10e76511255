//! Memory for the filters of open subscriptions: so much for one address, and so much for all together.
//!
//! How many values a filter may have says nothing of how many filters are open, and each is held several
//! times: by its answer, by what matches live events, and by what peers are asked for.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use event::Filter;

use crate::visitor::Visitor;

/// What the filters of all open subscriptions may take, as they came,
const BYTES_MAX: usize = 128 << 20;
/// and those of one address: of the longest filters there may be, a dozen or two.
const ORIGIN_BYTES_MAX: usize = 16 << 20;
/// What a value takes beside its text.
const VALUE_BYTES: usize = 64;

/// The room, and who has taken of it.
#[derive(Clone, Default)]
pub struct FilterRoom(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    bytes: usize,
    by_origin: HashMap<IpAddr, usize>,
}

/// Room that one subscription takes. Dropped, it is free again.
pub struct Filters {
    taken: FilterRoom,
    /// None: from this machine, where no limit holds but that for all.
    origin: Option<IpAddr>,
    bytes: usize,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("rate-limited: the subscriptions of your address are too large; close some first")]
    OfYourAddress,
    #[error("rate-limited: the relay has enough large subscriptions; try again later")]
    AtAll,
}

impl FilterRoom {
    /// Room for filters that came in a message of so many bytes.
    pub fn take(
        &self,
        visitor: &Visitor,
        filters: &[Filter],
        message_bytes: usize,
    ) -> Result<Filters, NoRoom> {
        let values: usize = filters.iter().map(Filter::values).sum();
        let bytes = message_bytes + values * VALUE_BYTES;
        let origin = (!visitor.is_local).then(|| visitor.origin());
        let mut taken = self.0.lock().expect("no holder panics");
        if taken.bytes + bytes > BYTES_MAX {
            return Err(NoRoom::AtAll);
        }
        if let Some(origin) = origin {
            let of_origin = taken.by_origin.get(&origin).copied().unwrap_or(0) + bytes;
            if of_origin > ORIGIN_BYTES_MAX {
                return Err(NoRoom::OfYourAddress);
            }
            taken.by_origin.insert(origin, of_origin);
        }
        taken.bytes += bytes;
        Ok(Filters { taken: self.clone(), origin, bytes })
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        let mut taken = self.taken.0.lock().expect("no holder panics");
        taken.bytes -= self.bytes;
        let Some(origin) = self.origin else { return };
        if let Some(of_origin) = taken.by_origin.get_mut(&origin) {
            *of_origin -= self.bytes;
            if *of_origin == 0 {
                taken.by_origin.remove(&origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(ip: &str) -> Visitor {
        Visitor::of(ip.parse().unwrap(), &Default::default(), &[])
    }

    #[test]
    fn an_address_has_a_share_of_the_room_and_gets_it_back() {
        let room = FilterRoom::default();
        let take = |ip: &str| room.take(&visitor(ip), &[Filter::default()], 1 << 20);
        let mut open: Vec<Filters> = (0..16).map(|_| take("192.0.2.1").unwrap()).collect();
        assert_eq!(take("192.0.2.1").err(), Some(NoRoom::OfYourAddress));
        // Others have theirs, and the operator all that there is.
        open.extend((0..16).map(|_| take("192.0.2.2").unwrap()));
        open.extend((32..128).map(|_| take("127.0.0.1").unwrap()));
        assert_eq!(take("192.0.2.3").err(), Some(NoRoom::AtAll));
        open.clear();
        let taken = room.0.lock().unwrap();
        assert!(taken.bytes == 0 && taken.by_origin.is_empty());
    }

    #[test]
    fn short_values_count_for_what_they_take() {
        let room = FilterRoom::default();
        let tags: Vec<String> = (0..10_000).map(|number| format!("\"{number}\"")).collect();
        let json = format!(r##"{{"#t":[{}]}}"##, tags.join(","));
        let filter = [Filter::from_json(json.as_bytes()).unwrap()];
        let take = || room.take(&visitor("192.0.2.1"), &filter, json.len());
        let open: Vec<Filters> = (0..100).map_while(|_| take().ok()).collect();
        assert!((10..30).contains(&open.len()), "{}", open.len());
    }
}
