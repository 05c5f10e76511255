//! Filters in SQL. Tags are looked for by a hash of letter and value, because their authors choose how
//! long they are; where two hashes are equal by accident, the event itself settles it.

use event::{Event, Filter, TagName, Timestamp};
use index::Position;
use sha2::{Digest, Sha256};
use sqlx::{Postgres, QueryBuilder};

/// A stand-in for a tag of this letter and value.
pub fn tag_digest(letter: TagName, value: &str) -> i64 {
    let digest = Sha256::new().chain_update([letter.byte()]).chain_update(value).finalize();
    i64::from_be_bytes(*digest.first_chunk().expect("a hash has 32 bytes"))
}

/// Those of an event, each once.
pub fn tags_of(event: &Event) -> Vec<i64> {
    let digest = |tag: &event::Tag| Some(tag_digest(TagName::new(tag.name()?)?, tag.value()?));
    let mut digests: Vec<i64> = event.tags.iter().filter_map(digest).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// Appends what a row of `events` must be to match the filter, and not to have expired.
pub fn push_condition(sql: &mut QueryBuilder<Postgres>, filter: &Filter, now: Timestamp) {
    sql.push("(expires IS NULL OR expires > ").push_bind(number(now.0)).push(")");
    if let Some(ids) = &filter.ids {
        let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.0.to_vec()).collect();
        sql.push(" AND id = ANY(").push_bind(ids).push(")");
    }
    if let Some(authors) = &filter.authors {
        let authors: Vec<Vec<u8>> = authors.iter().map(|key| key.0.to_vec()).collect();
        sql.push(" AND pubkey = ANY(").push_bind(authors).push(")");
    }
    if let Some(kinds) = &filter.kinds {
        let kinds: Vec<i32> = kinds.iter().map(|kind| kind.0.into()).collect();
        sql.push(" AND kind = ANY(").push_bind(kinds).push(")");
    }
    for (letter, values) in &filter.tags {
        sql.push(" AND tags && ").push_bind(digests(*letter, values));
    }
    for (letter, values) in &filter.all_tags {
        // To want all of none is to want nothing.
        match &values[..] {
            [] => sql.push(" AND false"),
            _ => sql.push(" AND tags @> ").push_bind(digests(*letter, values)),
        };
    }
    if let Some(since) = filter.since {
        sql.push(" AND created_at >= ").push_bind(number(since.0));
    }
    if let Some(until) = filter.until {
        sql.push(" AND created_at <= ").push_bind(number(until.0));
    }
}

/// Appends that a row comes behind this position in NIP-01's order.
pub fn push_after(sql: &mut QueryBuilder<Postgres>, after: &Position) {
    let (date, id) = (number(after.created_at.0), after.id.0.to_vec());
    sql.push(" AND created_at <= ").push_bind(date);
    sql.push(" AND (created_at < ").push_bind(date);
    sql.push(" OR id > ").push_bind(id).push(")");
}

/// Appends NIP-01's order, and how many rows at most.
pub fn push_order(sql: &mut QueryBuilder<Postgres>, limit: u64) {
    sql.push(" ORDER BY created_at DESC, id LIMIT ").push_bind(number(limit));
}

fn digests(letter: TagName, values: &[String]) -> Vec<i64> {
    values.iter().map(|value| tag_digest(letter, value)).collect()
}

/// A number as SQL has it: what is beyond its range is beyond every date, too.
pub fn number(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
