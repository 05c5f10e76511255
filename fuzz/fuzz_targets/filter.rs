//! Filters as clients write them: read, written, read again; and held against events, by the matcher
//! that relays use and by the one that is obviously right.
#![no_main]

use event::{Event, EventId, Filter, Kind, Packed, PublicKey, Signature, Tag, Timestamp};
use index::Matcher;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(filter) = Filter::from_json(bytes) else { return };
    let written = serde_json::to_vec(&filter).expect("a filter can be written");
    assert_eq!(Filter::from_json(&written).ok().as_ref(), Some(&filter), "it reads as the same");
    let matcher = Matcher::new(&filter);
    for event in events_about(&filter) {
        let packed = event.pack();
        let packed = Packed::trusted(&packed).expect("it was packed a line ago");
        assert_eq!(matcher.matches(&packed), filter.matches(&event), "{filter:?} {event:?}");
    }
});

/// An event that the filter asks for, if it asks for anything; and that one with one thing wrong each.
fn events_about(filter: &Filter) -> Vec<Event> {
    let wanted = wanted(filter);
    let mut events = vec![
        Event { id: EventId([0xa5; 32]), ..wanted.clone() },
        Event { pubkey: PublicKey([0xa5; 32]), ..wanted.clone() },
        Event { kind: Kind(wanted.kind.0 ^ 1), ..wanted.clone() },
        Event { created_at: Timestamp(wanted.created_at.0.wrapping_sub(1)), ..wanted.clone() },
        Event { created_at: Timestamp(wanted.created_at.0.wrapping_add(1)), ..wanted.clone() },
        Event { tags: Vec::new(), ..wanted.clone() },
    ];
    for missing in 0..wanted.tags.len().min(8) {
        let mut event = wanted.clone();
        event.tags.remove(missing);
        events.push(event);
    }
    events.push(wanted);
    events
}

fn wanted(filter: &Filter) -> Event {
    // In the middle of each list, so that those who look at its ends alone are found out.
    fn one<T: Copy>(list: &Option<Vec<T>>) -> Option<T> {
        list.as_ref().and_then(|list| list.get(list.len() / 2)).copied()
    }
    let any = filter.tags.iter().flat_map(|(name, values)| {
        values.get(values.len() / 2).map(|value| Tag(vec![name.to_string(), value.clone()]))
    });
    let all = filter.all_tags.iter().flat_map(|(name, values)| {
        values.iter().map(|value| Tag(vec![name.to_string(), value.clone(), "more".into()]))
    });
    Event {
        id: one(&filter.ids).unwrap_or(EventId([1; 32])),
        pubkey: one(&filter.authors).unwrap_or(PublicKey([2; 32])),
        created_at: filter.since.or(filter.until).unwrap_or(Timestamp(1_700_000_000)),
        kind: one(&filter.kinds).unwrap_or(Kind(1)),
        tags: any.chain(all).collect(),
        content: String::new(),
        sig: Signature([3; 64]),
    }
}
