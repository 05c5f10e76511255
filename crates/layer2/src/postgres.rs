//! A Postgres database as an L2, for relays on several machines that are run by one operator.
//!
//! Who writes locks the one row of `store` first, so all writing stands in one line, as in the canister:
//! the rules look at what is held, and seqs become visible in their order. The rules themselves are
//! those of `event`, judged here and not in SQL; no relay is trusted with an id or a signature, but
//! whoever has the password can do to the tables whatever it allows. Readers wait for nobody.

mod filters;
mod read;
mod rules;
mod write;

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;
use candid::Principal;
use event::{EventId, Filter, Timestamp};
use interface::ByteBuf;
use sqlx::{
    ConnectOptions, Executor, PgPool, PgTransaction, Row, SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    postgres::{PgPoolOptions, PgRow},
    query_scalar,
};
use tokio::sync::OnceCell;

use crate::{
    ChangesFrom, ChangesPage, Count, DeleteOutcome, Deletion, Detail, Layer2, Layer2Error,
    PostgresUrl, QueryPage, Role, SaveOutcome, Status,
    arriving::{check_all, in_order, part, reason},
    now,
    paging::{self, check_values, cursor_of},
};
use write::{Writing, fixed};

/// How long one call may take before it counts as failed. One that outlives it is rolled back, or
/// harmless: saving is idempotent.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a call waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of one relay.
const CONNECTIONS_MAX: u32 = 8;

/// On the server, too: a relay that hangs in the middle of writing must not keep the others from it.
const SESSION: &str = "SET statement_timeout = '60s'; SET lock_timeout = '30s';
     SET idle_in_transaction_session_timeout = '60s'";

/// What the tables were and are, oldest first. A number is never given again.
const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "events", include_str!("postgres/1_events.sql"))];

type Pool = PgPool;

/// A Postgres database.
pub struct Postgres {
    name: String,
    pool: Pool,
    /// Empty until the tables were found to be this version's.
    migrated: OnceCell<()>,
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Migration(#[from] MigrateError),
    #[error("the tables are damaged: {0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Answered(#[from] Layer2Error),
}

impl Postgres {
    /// Connects when it is first asked for something: the server may be down when a relay starts.
    pub fn new(url: &PostgresUrl) -> Postgres {
        let options = url.options.clone().disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(|connection, _| {
                Box::pin(async { connection.execute(SESSION).await.map(drop) })
            })
            .connect_lazy_with(options);
        Postgres { name: url.to_string(), pool, migrated: OnceCell::new() }
    }

    /// Does it within the time there is, on tables that are this version's.
    async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Layer2Error> {
        let in_time = tokio::time::timeout(CALL_TIMEOUT, async {
            self.migrated.get_or_try_init(|| migrate(&self.pool)).await?;
            work.await
        });
        match in_time.await {
            Ok(answer) => answer.map_err(classify),
            Err(_) => Err(Layer2Error::Unavailable("no answer in time".into())),
        }
    }

    /// A transaction that sees one state.
    async fn reading(&self) -> Result<PgTransaction<'static>, Failure> {
        begin(&self.pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
    }
}

async fn begin(pool: &Pool, statement: &'static str) -> Result<PgTransaction<'static>, Failure> {
    Ok(pool.begin_with(statement).await?)
}

async fn migrate(pool: &Pool) -> Result<(), Failure> {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        let sql = sql.into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    };
    let migrations = Cow::Owned(MIGRATIONS.map(migration).to_vec());
    Ok(Migrator { migrations, ..Migrator::DEFAULT }.run(pool).await?)
}

fn id_of(row: &PgRow, column: usize) -> Result<EventId, Failure> {
    Ok(EventId(fixed(row.try_get(column)?)?))
}

#[async_trait]
impl Layer2 for Postgres {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn principal(&self) -> Option<Principal> {
        None
    }

    async fn save(&self, events: &[Vec<u8>]) -> Result<Vec<SaveOutcome>, Layer2Error> {
        let (refused, sound) = part(check_all(events, now()).await?);
        let stored = self.call(async {
            let mut writing = Writing::begin(&self.pool, now()).await?;
            let outcomes = writing.save(&sound).await?;
            writing.commit().await?;
            Ok(outcomes)
        });
        Ok(in_order(refused, stored.await?))
    }

    async fn query(
        &self,
        filters: &[Filter],
        cursor: Option<&[u8]>,
    ) -> Result<QueryPage, Layer2Error> {
        check_values(filters)?;
        let cursor = cursor_of(cursor, filters)?;
        self.call(async {
            let mut txn = self.reading().await?;
            let page = read::page(&mut txn, filters, cursor, now()).await?;
            let length = read::length(&mut txn).await?;
            let cursor = page.cursor.map(|cursor| ByteBuf::from(cursor.to_bytes()));
            Ok(QueryPage { events: page.events, cursor, length })
        })
        .await
    }

    async fn get(&self, ids: &[EventId]) -> Result<Vec<Vec<u8>>, Layer2Error> {
        self.call(async { read::get(&mut *self.pool.acquire().await?, ids, now()).await }).await
    }

    async fn count(&self, filters: &[Filter]) -> Result<Count, Layer2Error> {
        check_values(filters)?;
        self.call(async {
            let count = read::count(&mut *self.pool.acquire().await?, filters, now()).await?;
            Ok(Count { count, complete: true })
        })
        .await
    }

    async fn changes(&self, from: ChangesFrom, detail: Detail) -> Result<ChangesPage, Layer2Error> {
        self.call(async {
            let mut txn = self.reading().await?;
            let length = read::length(&mut txn).await?;
            let from = match from {
                ChangesFrom::Seq(seq) if seq > length => {
                    return Err(Layer2Error::Behind(length).into());
                }
                ChangesFrom::Seq(seq) => seq,
                ChangesFrom::Arrived(time) => {
                    read::first_arrived_at(&mut txn, time).await?.unwrap_or(length)
                }
            };
            let (changes, next) = read::changes(&mut txn, from, detail, now()).await?;
            Ok(ChangesPage { changes, next: next.unwrap_or(length), length, proof: None })
        })
        .await
    }

    async fn length(&self) -> Result<u64, Layer2Error> {
        self.call(async { read::length(&mut *self.pool.acquire().await?).await }).await
    }

    async fn reconcile(
        &self,
        message: &[u8],
        filter: Option<&Filter>,
    ) -> Result<Vec<u8>, Layer2Error> {
        let filter = filter.cloned().unwrap_or_default();
        check_values(std::slice::from_ref(&filter))?;
        let reading = async { read::items(&mut *self.pool.acquire().await?, &filter, now()).await };
        paging::reconcile(self.call(reading).await?, message)
    }

    async fn delete(
        &self,
        ids: &[EventId],
        deletion: &Deletion,
    ) -> Result<Vec<DeleteOutcome>, Layer2Error> {
        let places = self.call(async {
            let mut writing = Writing::begin(&self.pool, now()).await?;
            let places = writing.remove(ids, deletion.tombstone, reason(&deletion.why)).await?;
            writing.commit().await?;
            Ok(places)
        });
        let outcome =
            |place: Option<u64>| place.map_or(DeleteOutcome::Unknown, DeleteOutcome::Removed);
        Ok(places.await?.into_iter().map(outcome).collect())
    }

    async fn clear(&self, confirmation: &str) -> Result<(), Layer2Error> {
        paging::check_confirmation(confirmation, &self.name)?;
        self.call(async {
            let mut writing = Writing::begin(&self.pool, now()).await?;
            writing.clear().await?;
            writing.commit().await
        })
        .await
    }

    /// What the database lets its user do.
    async fn role(&self) -> Result<Option<Role>, Layer2Error> {
        const ALLOWED: &str = "SELECT has_table_privilege('events', 'insert')
             AND has_table_privilege('events', 'delete')";
        let may_write = self.call(async {
            Ok(query_scalar(ALLOWED).fetch_one(&mut *self.pool.acquire().await?).await?)
        });
        Ok(Some(if may_write.await? { Role::Owner } else { Role::Reader }))
    }

    async fn status(&self) -> Result<Status, Layer2Error> {
        const BYTES: &str = "SELECT (pg_total_relation_size('events')
             + pg_total_relation_size('removals') + pg_total_relation_size('tombstones')
             + pg_total_relation_size('address_tombstones') + pg_total_relation_size('vanished'))";
        self.call(async {
            let mut txn = self.reading().await?;
            let length = read::length(&mut txn).await?;
            let events = read::count(&mut txn, &[Filter::default()], Timestamp(0)).await?;
            let bytes: i64 = query_scalar(BYTES).fetch_one(&mut *txn).await?;
            Ok(crate::status(events, length, bytes as u64))
        })
        .await
    }
}

/// What can be done about a failure. Whatever is not known to be final is worth another try.
fn classify(failure: Failure) -> Layer2Error {
    let said = failure.to_string();
    match failure {
        Failure::Answered(error) => error,
        Failure::Damaged(_) => Layer2Error::Interface(said),
        Failure::Database(error) => classify_database(&error, said),
        Failure::Migration(
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
        ) => classify_database(&error, said),
        // The tables are those of another version, and older ones are brought up to date.
        Failure::Migration(_) => Layer2Error::Interface(said),
    }
}

fn classify_database(error: &sqlx::Error, said: String) -> Layer2Error {
    let code = error.as_database_error().and_then(|error| error.code());
    match (code.as_deref(), error) {
        // No such user or a wrong password, no such database, and missing rights.
        (Some("28000" | "28P01" | "3D000" | "42501"), _) => Layer2Error::Refused(said),
        // What is not there, or is not what it was.
        (Some(code), _) if code.starts_with("42") => Layer2Error::Interface(said),
        (None, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
            Layer2Error::Interface(said)
        }
        _ => Layer2Error::Unavailable(said),
    }
}
