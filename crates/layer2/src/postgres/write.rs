//! One write transaction: it locks the store's one row, so it is the only one until it ends.

use event::{
    Event, EventId, Kind, Packed, PublicKey, Timestamp, Verified,
    rules::{Effects, Held, Removal, Vanish, Verdict, judge},
};
use index::{address_digest, tombstone};
use interface::SaveOutcome;
use sqlx::{PgTransaction, Row, postgres::PgRow, query};

use super::{
    Failure, Pool, begin,
    filters::{number, tag_digest, tags_of},
    id_of,
    rules::{Digest, KeptOut, Known, NOBODY, Place, Questions},
};

/// A transaction that writes. Dropped without [`Writing::commit`], it leaves no trace.
pub struct Writing {
    txn: PgTransaction<'static>,
    now: Timestamp,
    /// When what is written counts as arrived.
    arrived: i64,
    first: i64,
    next: i64,
    removals: Removals,
}

/// Entries of the log to be written.
#[derive(Default)]
struct Removals {
    seqs: Vec<i64>,
    ids: Vec<Vec<u8>>,
    whys: Vec<String>,
}

/// Events to be written, a list for each column.
#[derive(Default)]
struct Rows {
    seqs: Vec<i64>,
    ids: Vec<Vec<u8>>,
    pubkeys: Vec<Vec<u8>>,
    dates: Vec<i64>,
    kinds: Vec<i32>,
    /// As Postgres writes lists: lists of lists of unequal lengths are none to it.
    tags: Vec<String>,
    addresses: Vec<Option<Vec<u8>>>,
    expiries: Vec<Option<i64>>,
    packed: Vec<Vec<u8>>,
}

impl Writing {
    pub async fn begin(pool: &Pool, now: Timestamp) -> Result<Writing, Failure> {
        let mut txn = begin(pool, "BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let row = query("SELECT next_seq, arrived_last FROM store FOR UPDATE")
            .fetch_one(&mut *txn)
            .await?;
        let (next, arrived_last): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        // The search by arrival needs an order that no clock is asked to promise.
        let arrived = number(now.0).max(arrived_last);
        let removals = Removals::default();
        let mut writing = Writing { txn, now, arrived, first: next, next, removals };
        // The rules expect that nothing is held that has expired.
        writing.expire().await?;
        Ok(writing)
    }

    pub async fn commit(mut self) -> Result<(), Failure> {
        self.write_removals().await?;
        if self.next > self.first {
            query("UPDATE store SET next_seq = $1, arrived_last = $2")
                .bind(self.next)
                .bind(self.arrived)
                .execute(&mut *self.txn)
                .await?;
        }
        Ok(self.txn.commit().await?)
    }

    /// Stores events, in order, and says of each what became of it. A request to vanish is a group of
    /// its own: what it takes is looked for in what is written.
    pub async fn save(&mut self, events: &[Verified]) -> Result<Vec<SaveOutcome>, Failure> {
        let mut outcomes = Vec::with_capacity(events.len());
        let alone = |event: &Verified| event.kind == Kind::VANISH;
        for group in events.chunk_by(|one, other| !alone(one) && !alone(other)) {
            outcomes.extend(self.save_group(group).await?);
        }
        Ok(outcomes)
    }

    async fn save_group(&mut self, events: &[Verified]) -> Result<Vec<SaveOutcome>, Failure> {
        let mut known = self.look_up(Questions::of(events.iter().map(|event| &**event))).await?;
        let mut outcomes = Vec::with_capacity(events.len());
        let (mut rows, mut kept_out) = (Rows::default(), KeptOut::default());
        let (mut gone, mut vanish) = (Vec::new(), None);
        for event in events {
            let Ok(verdict) = judge(&known, event, self.now);
            let outcome = match verdict {
                Verdict::Save(effects) => {
                    gone.extend(self.supersede(&effects, &mut known));
                    kept_out.note(event, &effects, &mut known);
                    vanish = effects.vanish.or(vanish);
                    let seq = self.next_place();
                    known.hold(rows.add(event, seq));
                    known.address_wrap(event);
                    SaveOutcome::Saved(seq as u64)
                }
                Verdict::Duplicate => match known.place_of(&event.id) {
                    Some(place) => SaveOutcome::Duplicate(place.seq as u64),
                    None => SaveOutcome::Other("held, and not found".into()),
                },
                Verdict::Superseded => SaveOutcome::Superseded,
                Verdict::Deleted => SaveOutcome::Deleted,
                Verdict::Expired => SaveOutcome::Expired,
                Verdict::Ephemeral => SaveOutcome::Ephemeral,
            };
            outcomes.push(outcome);
        }
        self.take_out(&gone).await?;
        rows.retain_unless(&gone);
        self.write(rows).await?;
        self.keep_out(kept_out).await?;
        if let Some(vanish) = vanish {
            self.vanish(&vanish).await?;
        }
        Ok(outcomes)
    }

    /// Notes what goes for a new event; says where that is.
    fn supersede(&mut self, effects: &Effects, known: &mut Known) -> Vec<i64> {
        let mut gone = Vec::new();
        for (id, why) in &effects.remove {
            if let Some(place) = known.forget(id) {
                gone.push(place.seq);
                self.note_removal(id, why.as_str());
            }
        }
        gone
    }

    async fn look_up(&mut self, questions: Questions) -> Result<Known, Failure> {
        let mut known = Known::default();
        let Questions { ids, addresses, tombstones, people } = questions;
        let ids: Vec<&[u8]> = ids.iter().map(|id| &id.0[..]).collect();
        let addresses: Vec<&[u8]> = addresses.iter().map(|digest| &digest[..]).collect();
        let tombstones: Vec<&[u8]> = tombstones.iter().map(|digest| &digest[..]).collect();
        let people: Vec<&[u8]> = people.iter().map(|who| &who.0[..]).collect();
        let held = query(
            "SELECT seq, id, pubkey, created_at, kind, address,
                    CASE WHEN kind = $3 THEN packed END FROM events
             WHERE id = ANY($1) OR address = ANY($2)",
        );
        let held = held.bind(&ids).bind(&addresses).bind(i32::from(Kind::GIFT_WRAP.0));
        for row in held.fetch_all(&mut *self.txn).await? {
            known.hold(place(&row)?);
            if let Some(packed) = row.try_get::<Option<&[u8]>, _>(6)? {
                let wrap = Packed::trusted(packed);
                let wrap = wrap.map_err(|_| Failure::Damaged("a packed event is none"))?;
                known.address_wrap(&wrap.unpack());
            }
        }
        let found = query("SELECT digest FROM tombstones WHERE digest = ANY($1)");
        for row in found.bind(&tombstones).fetch_all(&mut *self.txn).await? {
            known.tombstones.insert(fixed(row.try_get(0)?)?);
        }
        let found = query("SELECT address, until FROM address_tombstones WHERE address = ANY($1)");
        for row in found.bind(&addresses).fetch_all(&mut *self.txn).await? {
            known.deleted_until.insert(fixed(row.try_get(0)?)?, row.try_get(1)?);
        }
        let found = query("SELECT pubkey, until FROM vanished WHERE pubkey = ANY($1)");
        for row in found.bind(&people).fetch_all(&mut *self.txn).await? {
            known.vanished_until.insert(PublicKey(fixed(row.try_get(0)?)?), row.try_get(1)?);
        }
        Ok(known)
    }

    async fn write(&mut self, rows: Rows) -> Result<(), Failure> {
        if rows.seqs.is_empty() {
            return Ok(());
        }
        query(
            "INSERT INTO events
                 (seq, arrived, id, pubkey, created_at, kind, tags, address, expires, packed)
             SELECT seq, $1, id, pubkey, created_at, kind, tags::bigint[], address, expires, packed
             FROM unnest($2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[], $6::integer[],
                         $7::text[], $8::bytea[], $9::bigint[], $10::bytea[])
                 AS new (seq, id, pubkey, created_at, kind, tags, address, expires, packed)",
        )
        .bind(self.arrived)
        .bind(rows.seqs)
        .bind(rows.ids)
        .bind(rows.pubkeys)
        .bind(rows.dates)
        .bind(rows.kinds)
        .bind(rows.tags)
        .bind(rows.addresses)
        .bind(rows.expiries)
        .bind(rows.packed)
        .execute(&mut *self.txn)
        .await?;
        Ok(())
    }

    async fn keep_out(&mut self, kept_out: KeptOut) -> Result<(), Failure> {
        let KeptOut { tombstones, addresses } = kept_out;
        self.write_tombstones(&tombstones).await?;
        if addresses.is_empty() {
            return Ok(());
        }
        let (addresses, dates): (Vec<Digest>, Vec<i64>) = addresses.into_iter().unzip();
        let addresses: Vec<&[u8]> = addresses.iter().map(|digest| &digest[..]).collect();
        // What was there was looked up, so these dates are the later ones.
        query(
            "INSERT INTO address_tombstones SELECT * FROM unnest($1::bytea[], $2::bigint[])
             ON CONFLICT (address) DO UPDATE SET until = excluded.until",
        )
        .bind(addresses)
        .bind(dates)
        .execute(&mut *self.txn)
        .await?;
        Ok(())
    }

    async fn write_tombstones(&mut self, digests: &[Digest]) -> Result<(), Failure> {
        if digests.is_empty() {
            return Ok(());
        }
        let digests: Vec<&[u8]> = digests.iter().map(|digest| &digest[..]).collect();
        query("INSERT INTO tombstones SELECT * FROM unnest($1::bytea[]) ON CONFLICT DO NOTHING")
            .bind(digests)
            .execute(&mut *self.txn)
            .await?;
        Ok(())
    }

    /// Takes out all that a request to vanish takes, however much it is.
    async fn vanish(&mut self, vanish: &Vanish) -> Result<(), Failure> {
        let Vanish { who, until } = vanish;
        let until = until.0 as i64;
        query(
            "INSERT INTO vanished VALUES ($1, $2)
             ON CONFLICT (pubkey) DO UPDATE SET until = greatest(vanished.until, excluded.until)",
        )
        .bind(&who.0[..])
        .bind(until)
        .execute(&mut *self.txn)
        .await?;
        let theirs = query(
            "SELECT seq, id, packed FROM events
             WHERE created_at <= $2 AND (pubkey = $1 OR kind = $3 AND tags @> $4) ORDER BY seq",
        );
        let p = event::TagName::new("p").expect("a letter");
        let found = theirs
            .bind(&who.0[..])
            .bind(until)
            .bind(i32::from(Kind::GIFT_WRAP.0))
            .bind(vec![tag_digest(p, &who.to_string())])
            .fetch_all(&mut *self.txn)
            .await?;
        let mut gone = Vec::new();
        for row in found {
            let bytes: &[u8] = row.try_get(2)?;
            if Packed::trusted(bytes).is_ok_and(|event| vanish.takes(&event)) {
                gone.push(row.try_get(0)?);
                self.note_removal(&id_of(&row, 1)?, Removal::Vanished.as_str());
            }
        }
        self.take_out(&gone).await
    }

    async fn expire(&mut self) -> Result<(), Failure> {
        let over = query("DELETE FROM events WHERE expires <= $1 RETURNING id, expires");
        let mut gone: Vec<(i64, EventId)> = Vec::new();
        for row in over.bind(number(self.now.0)).fetch_all(&mut *self.txn).await? {
            gone.push((row.try_get(1)?, id_of(&row, 0)?));
        }
        gone.sort_unstable();
        for (_, id) in gone {
            self.note_removal(&id, Removal::Expired.as_str());
        }
        Ok(())
    }

    /// Takes events out by hand; says for each where the log has it. None: it is not held.
    pub async fn remove(
        &mut self,
        ids: &[EventId],
        for_ever: bool,
        why: &str,
    ) -> Result<Vec<Option<u64>>, Failure> {
        let questions = Questions { ids: ids.to_vec(), ..Questions::default() };
        let mut known = self.look_up(questions).await?;
        let (mut gone, mut barred) = (Vec::new(), Vec::new());
        let mut places = Vec::with_capacity(ids.len());
        for id in ids {
            let place = known.forget(id);
            if let Some(Place { held, seq, .. }) = place {
                gone.push(seq);
                let author = match held.kind {
                    Kind::DELETION | Kind::VANISH => NOBODY,
                    _ => held.pubkey,
                };
                barred.push(tombstone(id, &author));
            }
            places.push(place.map(|_| self.note_removal(id, why) as u64));
        }
        self.take_out(&gone).await?;
        if for_ever {
            self.write_tombstones(&barred).await?;
        }
        Ok(places)
    }

    /// Takes everything out, tombstones too. The entries of the log before this one say nothing any
    /// more, so they go as well. (TRUNCATE would be faster, and those who read would see too little.)
    pub async fn clear(&mut self) -> Result<(), Failure> {
        self.removals = Removals::default();
        for table in [
            "DELETE FROM events",
            "DELETE FROM removals",
            "DELETE FROM tombstones",
            "DELETE FROM address_tombstones",
            "DELETE FROM vanished",
        ] {
            query(table).execute(&mut *self.txn).await?;
        }
        let seq = self.next_place();
        query("INSERT INTO removals (seq, arrived, why) VALUES ($1, $2, 'cleared')")
            .bind(seq)
            .bind(self.arrived)
            .execute(&mut *self.txn)
            .await?;
        Ok(())
    }

    async fn take_out(&mut self, seqs: &[i64]) -> Result<(), Failure> {
        if seqs.is_empty() {
            return Ok(());
        }
        query("DELETE FROM events WHERE seq = ANY($1)").bind(seqs).execute(&mut *self.txn).await?;
        Ok(())
    }

    async fn write_removals(&mut self) -> Result<(), Failure> {
        let Removals { seqs, ids, whys } = std::mem::take(&mut self.removals);
        if seqs.is_empty() {
            return Ok(());
        }
        query(
            "INSERT INTO removals (seq, arrived, id, why)
             SELECT seq, $1, id, why
             FROM unnest($2::bigint[], $3::bytea[], $4::text[]) AS new (seq, id, why)",
        )
        .bind(self.arrived)
        .bind(seqs)
        .bind(ids)
        .bind(whys)
        .execute(&mut *self.txn)
        .await?;
        Ok(())
    }

    fn note_removal(&mut self, id: &EventId, why: &str) -> i64 {
        let seq = self.next_place();
        self.removals.seqs.push(seq);
        self.removals.ids.push(id.0.to_vec());
        // The one character that a text of Postgres cannot have.
        self.removals.whys.push(why.replace('\0', ""));
        seq
    }

    fn next_place(&mut self) -> i64 {
        let seq = self.next;
        self.next += 1;
        seq
    }
}

impl Rows {
    fn add(&mut self, event: &Event, seq: i64) -> Place {
        let address = event.address().as_ref().map(address_digest);
        let tags: Vec<String> = tags_of(event).iter().map(i64::to_string).collect();
        self.seqs.push(seq);
        self.ids.push(event.id.0.to_vec());
        self.pubkeys.push(event.pubkey.0.to_vec());
        self.dates.push(event.created_at.0 as i64);
        self.kinds.push(event.kind.0.into());
        self.tags.push(format!("{{{}}}", tags.join(",")));
        self.addresses.push(address.map(|digest| digest.to_vec()));
        self.expiries.push(event.expiration().map(|date| date.0.min(i64::MAX as u64) as i64));
        self.packed.push(event.pack());
        let Event { id, pubkey, created_at, kind, .. } = *event;
        Place { held: Held { id, pubkey, created_at, kind }, address, seq }
    }

    /// Leaves out what later events of the same group have removed.
    fn retain_unless(&mut self, gone: &[i64]) {
        for at in (0..self.seqs.len()).rev().filter(|_| !gone.is_empty()) {
            if gone.contains(&self.seqs[at]) {
                self.remove(at);
            }
        }
    }

    fn remove(&mut self, at: usize) {
        self.seqs.remove(at);
        self.ids.remove(at);
        self.pubkeys.remove(at);
        self.dates.remove(at);
        self.kinds.remove(at);
        self.tags.remove(at);
        self.addresses.remove(at);
        self.expiries.remove(at);
        self.packed.remove(at);
    }
}

fn place(row: &PgRow) -> Result<Place, Failure> {
    let address: Option<&[u8]> = row.try_get(5)?;
    Ok(Place {
        seq: row.try_get(0)?,
        held: Held {
            id: id_of(row, 1)?,
            pubkey: PublicKey(fixed(row.try_get(2)?)?),
            created_at: Timestamp(row.try_get::<i64, _>(3)? as u64),
            kind: Kind(row.try_get::<i32, _>(4)? as u16),
        },
        address: address.map(fixed).transpose()?,
    })
}

/// Bytes of a length that the store has given them.
pub fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Failure> {
    bytes.try_into().map_err(|_| Failure::Damaged("a column has the wrong length"))
}
