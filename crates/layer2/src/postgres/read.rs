//! What is read. A question of several statements is asked in one transaction that sees one state.

use std::collections::BTreeMap;

use event::{EventId, Filter, Packed, Timestamp};
use index::{Cursor, Matcher, Position};
use interface::{ByteBuf, Change, What};
use reconcile::Item;
use sqlx::{PgConnection, Postgres, QueryBuilder, Row, query, query_scalar};

use super::{
    Failure,
    filters::{number, push_after, push_condition, push_order},
    id_of,
};
use crate::{Detail, paging::Room};

/// Rows that one filter looks at for one page.
const FILTER_ROWS: u64 = 500;
/// Entries of the log in one page.
const ENTRIES: i64 = 2_000;

/// The seq that comes next.
pub async fn length(db: &mut PgConnection) -> Result<u64, Failure> {
    let next: i64 = query_scalar("SELECT next_seq FROM store").fetch_one(db).await?;
    Ok(next as u64)
}

/// One page of an answer.
pub struct Page {
    pub events: Vec<ByteBuf>,
    /// Where the next begins; None: that was all.
    pub cursor: Option<Cursor>,
}

/// An event that filters may want: where it is, how long, and which they are.
struct Candidate {
    seq: i64,
    bytes: usize,
    wanting: Vec<usize>,
}

/// By their place in NIP-01's order.
type Candidates = BTreeMap<(std::cmp::Reverse<Timestamp>, EventId), Candidate>;

/// The next page. Each filter gives the places of its next events; as far as all of them are known,
/// the first of these are the page, and only their bodies are read.
pub async fn page(
    db: &mut PgConnection,
    filters: &[Filter],
    mut cursor: Cursor,
    now: Timestamp,
) -> Result<Page, Failure> {
    let mut candidates = Candidates::new();
    let mut known_to = None;
    for (at, filter) in filters.iter().enumerate() {
        let limit = cursor.remaining[at].min(FILTER_ROWS);
        if limit == 0 {
            continue;
        }
        let last = find(db, filter, cursor.after, limit, now, at, &mut candidates).await?;
        // Behind the last of a full list there may be more.
        known_to = [known_to, last].into_iter().flatten().min().or(known_to);
    }
    let mut room = Room::new();
    let has_room = |(place, candidate): &(_, Candidate)| {
        known_to.is_none_or(|end| *place <= end) && room.take(candidate.bytes)
    };
    let found = candidates.len();
    let taken: Vec<_> = candidates.into_iter().take_while(has_room).collect();
    let is_all = known_to.is_none() && taken.len() == found;
    let seqs: Vec<i64> = taken.iter().map(|(_, candidate)| candidate.seq).collect();
    let mut bodies = bodies(db, &seqs).await?;
    let matchers: Vec<Matcher> = filters.iter().map(Matcher::new).collect();
    let mut events = Vec::with_capacity(taken.len());
    for ((std::cmp::Reverse(created_at), id), Candidate { seq, wanting, .. }) in taken {
        cursor.after = Some(Position { created_at, id });
        let Some(body) = bodies.remove(&seq) else { continue };
        let Ok(event) = Packed::trusted(&body) else { continue };
        let mut is_wanted = false;
        for at in wanting {
            if cursor.remaining[at] > 0 && matchers[at].matches(&event) {
                cursor.remaining[at] -= 1;
                is_wanted = true;
            }
        }
        if is_wanted {
            events.push(ByteBuf::from(body));
        }
    }
    let is_done = is_all || cursor.remaining.iter().all(|remaining| *remaining == 0);
    Ok(Page { events, cursor: (!is_done).then_some(cursor) })
}

/// Adds the next events of one filter to the candidates. If these are as many as were asked for, says
/// which was the last.
async fn find(
    db: &mut PgConnection,
    filter: &Filter,
    after: Option<Position>,
    limit: u64,
    now: Timestamp,
    at: usize,
    candidates: &mut Candidates,
) -> Result<Option<(std::cmp::Reverse<Timestamp>, EventId)>, Failure> {
    let mut sql = select("seq, created_at, id, octet_length(packed)", filter, now);
    if let Some(after) = &after {
        push_after(&mut sql, after);
    }
    push_order(&mut sql, limit);
    let rows = sql.build().fetch_all(db).await?;
    let mut last = None;
    for row in &rows {
        let created_at = Timestamp(row.try_get::<i64, _>(1)? as u64);
        let place = (std::cmp::Reverse(created_at), id_of(row, 2)?);
        let (seq, bytes) = (row.try_get(0)?, row.try_get::<i32, _>(3)? as usize);
        let candidate = Candidate { seq, bytes, wanting: Vec::new() };
        candidates.entry(place).or_insert(candidate).wanting.push(at);
        last = Some(place);
    }
    Ok(last.filter(|_| rows.len() as u64 == limit))
}

fn select(what: &'static str, filter: &Filter, now: Timestamp) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new("SELECT ");
    sql.push(what).push(" FROM events WHERE ");
    push_condition(&mut sql, filter, now);
    sql
}

async fn bodies(db: &mut PgConnection, seqs: &[i64]) -> Result<BTreeMap<i64, Vec<u8>>, Failure> {
    let found = query("SELECT seq, packed FROM events WHERE seq = ANY($1)").bind(seqs);
    let rows = found.fetch_all(db).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The events with these ids.
pub async fn get(
    db: &mut PgConnection,
    ids: &[EventId],
    now: Timestamp,
) -> Result<Vec<Vec<u8>>, Failure> {
    let filter = Filter { ids: Some(ids.to_vec()), ..Filter::default() };
    let rows = select("packed", &filter, now).build().fetch_all(db).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// How many events match one of the filters. Where tags are asked for, their hashes decide.
pub async fn count(
    db: &mut PgConnection,
    filters: &[Filter],
    now: Timestamp,
) -> Result<u64, Failure> {
    if filters.is_empty() {
        return Ok(0);
    }
    let mut sql = QueryBuilder::new("SELECT count(*) FROM (");
    for (at, filter) in filters.iter().enumerate() {
        sql.push(if at == 0 {
            "(SELECT seq FROM events WHERE "
        } else {
            " UNION (SELECT seq FROM events WHERE "
        });
        push_condition(&mut sql, filter, now);
        if let Some(limit) = filter.limit {
            push_order(&mut sql, limit);
        }
        sql.push(")");
    }
    let count: i64 = sql.push(") AS found").build_query_scalar().fetch_one(db).await?;
    Ok(count as u64)
}

/// What negentropy sees of the events that match.
pub async fn items(
    db: &mut PgConnection,
    filter: &Filter,
    now: Timestamp,
) -> Result<Vec<Item>, Failure> {
    let mut sql = select("created_at, id", filter, now);
    if let Some(limit) = filter.limit {
        push_order(&mut sql, limit);
    }
    let rows = sql.build().fetch_all(db).await?;
    let item = |row| {
        let created_at = Timestamp(Row::try_get::<i64, _>(row, 0)? as u64);
        Ok(Item { created_at, id: id_of(row, 1)? })
    };
    rows.iter().map(item).collect()
}

/// The first place in the log of what arrived at `time` or later; None: nothing did.
pub async fn first_arrived_at(db: &mut PgConnection, time: u64) -> Result<Option<u64>, Failure> {
    let first: Option<i64> = query_scalar(
        "SELECT least(
             (SELECT seq FROM events WHERE arrived >= $1 ORDER BY arrived, seq LIMIT 1),
             (SELECT seq FROM removals WHERE arrived >= $1 ORDER BY arrived, seq LIMIT 1))",
    )
    .bind(number(time))
    .fetch_one(db)
    .await?;
    Ok(first.map(|seq| seq as u64))
}

/// The log from `from` on, as far as a page goes, and where to go on; None: it is all.
pub async fn changes(
    db: &mut PgConnection,
    from: u64,
    detail: Detail,
    now: Timestamp,
) -> Result<(Vec<Change>, Option<u64>), Failure> {
    let rows = query(
        "SELECT seq, arrived, id, why, bytes FROM (
             (SELECT seq, arrived, id, NULL AS why, octet_length(packed) AS bytes
              FROM events WHERE seq >= $1 AND (expires IS NULL OR expires > $2)
              ORDER BY seq LIMIT $3)
             UNION ALL
             (SELECT seq, arrived, id, why, 0 FROM removals
              WHERE seq >= $1 ORDER BY seq LIMIT $3)
         ) AS log ORDER BY seq LIMIT $3",
    )
    .bind(number(from))
    .bind(number(now.0))
    .bind(ENTRIES)
    .fetch_all(&mut *db)
    .await?;
    let mut room = Room::new();
    let (mut changes, mut seqs) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in &rows {
        let (seq, arrived): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let id: Option<&[u8]> = row.try_get(2)?;
        let why: Option<String> = row.try_get(3)?;
        let (what, bytes) = match (id, why) {
            (None, _) => (What::Cleared, 0),
            (Some(id), Some(why)) => (What::Removed { id: ByteBuf::from(id), why }, 0),
            (Some(id), None) if detail == Detail::Ids => (What::Saved(ByteBuf::from(id)), 0),
            (Some(id), None) => {
                seqs.push(seq);
                (What::Saved(ByteBuf::from(id)), row.try_get::<i32, _>(4)? as usize)
            }
        };
        if !room.take(what.bytes() + bytes) {
            break;
        }
        changes.push(Change { seq: seq as u64, arrived: arrived as u64, what });
    }
    let is_all = changes.len() == rows.len() && (rows.len() as i64) < ENTRIES;
    let next = changes.last().filter(|_| !is_all).map(|change| change.seq + 1);
    if detail == Detail::Events {
        fill_in(&mut changes, bodies(db, &seqs).await?);
    }
    Ok((changes, next))
}

/// Puts the events where so far their ids are.
fn fill_in(changes: &mut [Change], mut bodies: BTreeMap<i64, Vec<u8>>) {
    for change in changes {
        if let (What::Saved(event), Some(body)) =
            (&mut change.what, bodies.remove(&(change.seq as i64)))
        {
            *event = ByteBuf::from(body);
        }
    }
}
