//! `query_events`, `get_events` and `count`: filters and ids in, events out.

use event::{EventId, Filter};
use index::{Cursor, Found, Reader, Scan, Seq, Take};
use interface::{
    ByteBuf, Count, Encoding, EventBytes, IdBytes, QueryPage, QueryRequest, ReadError, id_of,
};

use super::check_reader;
use crate::{
    events::Visible,
    room::{Room, encode, is_time_to_read},
    runtime,
    state::State,
};

/// Filters and their values in one call. To open the walk for one costs about 20 k instructions.
const VALUES_MAX: usize = 10_000;
/// What an item of a reply takes beside its bytes.
const ITEM_BYTES: usize = 8;

pub fn query_events(state: &State, request: QueryRequest) -> Result<QueryPage, ReadError> {
    check_reader(state)?;
    let Seq(length) = state.events.log().length();
    if request.min_seq.is_some_and(|seq| seq >= length) {
        return Err(ReadError::Lagging(length));
    }
    let filters = filters_of(request.filters)?;
    let mut scan = match &request.cursor {
        Some(bytes) => Scan::resume(&filters, &cursor_of(bytes, filters.len())?),
        None => Scan::new(&filters),
    };
    let start = scan.cursor();
    let mut page = Page {
        events: Vec::new(),
        room: Room::new(request.max_bytes),
        encoding: request.encoding.unwrap_or_default(),
    };
    let Ok(is_done) = scan.page(&state.events.visible(runtime::now()), &mut page);
    let cursor = scan.cursor();
    if !is_done && cursor == start {
        return Err(ReadError::Other("too much to look through: ask for less at once".into()));
    }
    let cursor = (!is_done).then(|| ByteBuf::from(cursor.to_bytes()));
    Ok(QueryPage { events: page.events, cursor, length })
}

/// In the order of the ids. The answer is shorter than the question when the reply is full.
pub fn get_events(
    state: &State,
    ids: &[IdBytes],
    encoding: Option<Encoding>,
) -> Result<Vec<Option<EventBytes>>, ReadError> {
    check_reader(state)?;
    let events = state.events.visible(runtime::now());
    let mut room = Room::new(None);
    let mut found = Vec::new();
    for id in ids {
        let event = get(&events, &id_of(id)?, encoding.unwrap_or_default());
        let bytes = ITEM_BYTES + event.as_ref().map_or(0, |event| event.len());
        if !is_time_to_read() || !room.take(bytes) {
            break;
        }
        found.push(event);
    }
    Ok(found)
}

fn get(events: &Visible<'_>, id: &EventId, encoding: Encoding) -> Option<EventBytes> {
    Some(encode(events.packed(events.find(id)?)?, encoding))
}

pub fn count(state: &State, filters: Vec<interface::Filter>) -> Result<Count, ReadError> {
    check_reader(state)?;
    let mut scan = Scan::new(&filters_of(filters)?);
    let Ok((count, complete)) = scan.count(&state.events.visible(runtime::now()), is_time_to_read);
    Ok(Count { count, complete })
}

pub fn filters_of(filters: Vec<interface::Filter>) -> Result<Vec<Filter>, ReadError> {
    let filters: Vec<Filter> =
        filters.into_iter().map(Filter::try_from).collect::<Result<_, _>>()?;
    let values = filters.len() + filters.iter().map(Filter::values).sum::<usize>();
    if values > VALUES_MAX {
        let reason = format!("{values} filters and values: at most {VALUES_MAX} in one call");
        return Err(ReadError::Invalid(reason));
    }
    Ok(filters)
}

/// Takes events until the reply is full.
struct Page {
    events: Vec<EventBytes>,
    room: Room,
    encoding: Encoding,
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        let event = encode(found.packed.into_owned(), self.encoding);
        if !self.room.take(ITEM_BYTES + event.len()) {
            return Take::NotThis;
        }
        self.events.push(event);
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        is_time_to_read()
    }
}

fn cursor_of(bytes: &[u8], filters: usize) -> Result<Cursor, ReadError> {
    Cursor::from_bytes(bytes, filters)
        .ok_or_else(|| ReadError::Invalid("the cursor is not one of these filters'".into()))
}
