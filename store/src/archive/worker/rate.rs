//! A measurement, not a test:
//!
//!     scripts/databases cargo nextest run --release -p natterjack-store --run-ignored only -E 'test(archive_rate)' --no-capture -j 1

use std::fmt::Write;
use std::time::{Duration, Instant};

use sea_orm::sqlx::postgres::PgPoolCopyExt;
use sea_orm::sqlx::{MySql, QueryBuilder, Sqlite};

use super::super::testing::{Engine, House, events};
use crate::archive::Database;
use crate::entity::event;

const FRAMES: usize = 500;
const EVENTS: usize = 200;
/// As many rows as the archive has in a transaction here.
const TRANSACTION: usize = 64 * EVENTS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures the archive against a bare bulk load, and says what it found"]
async fn archive_rate_sqlite() {
    archive_rate(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures the archive against a bare bulk load, and says what it found"]
async fn archive_rate_postgres() {
    archive_rate(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures the archive against a bare bulk load, and says what it found"]
async fn archive_rate_mariadb() {
    archive_rate(Engine::MariaDb).await;
}

async fn archive_rate(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(FRAMES, EVENTS).await;
    let database = house.database("archive").await;
    let begun = Instant::now();
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    let archive = begun.elapsed();
    worker.stop().await;
    let rows = events(&database).await;
    assert_eq!(rows.len(), FRAMES * EVENTS);
    let count = u32::try_from(rows.len()).unwrap();
    let bytes: usize = rows.iter().map(|row| row.bytes.len()).sum();

    let bare = house.database("bare").await;
    let begun = Instant::now();
    let how = bare_load(engine, &bare, &rows).await;
    let load = begun.elapsed();
    assert_eq!(events(&bare).await, rows);
    let rate = |took: Duration| f64::from(count) / took.as_secs_f64();
    println!(
        "{engine:?}: {count} events of {} bytes in {FRAMES} frames",
        bytes / rows.len()
    );
    println!(
        "  archive:   {archive:?}, {:.0} events/s, from the log to the last commit",
        rate(archive)
    );
    println!("  bare load: {load:?}, {:.0} events/s, ready rows, {how}", rate(load));
}

/// Many rows in one statement, by sqlx alone.
macro_rules! insert_many {
    ($engine:ty, $pool:expr, $rows:expr) => {
        for transaction_rows in $rows.chunks(TRANSACTION) {
            let mut transaction = $pool.begin().await.unwrap();
            for chunk in transaction_rows.chunks(250) {
                let mut insert = QueryBuilder::<$engine>::new("INSERT INTO event ");
                insert.push_values(chunk, |mut one, row| {
                    one.push_bind(row.epoch).push_bind(row.shard).push_bind(row.seq);
                    one.push_bind(&row.tenant).push_bind(&row.room).push_bind(row.n);
                    one.push_bind(row.prev).push_bind(&row.id).push_bind(&row.from_user);
                    one.push_bind(&row.kind).push_bind(&row.at).push_bind(&row.key);
                    one.push_bind(&row.bytes[..]).push_bind(&row.hash[..]);
                });
                insert.build().execute(&mut *transaction).await.unwrap();
            }
            transaction.commit().await.unwrap();
        }
    };
}

/// The rows, ready as they are, in transactions as large as the archive's, by the quickest way that the driver has.
async fn bare_load(engine: Engine, bare: &Database, rows: &[event::Model]) -> &'static str {
    let connection = bare.connection();
    match engine {
        Engine::Sqlite => {
            insert_many!(Sqlite, connection.get_sqlite_connection_pool(), rows);
            "INSERT of 250 rows"
        }
        Engine::MariaDb => {
            insert_many!(MySql, connection.get_mysql_connection_pool(), rows);
            "INSERT of 250 rows"
        }
        Engine::Postgres => {
            for chunk in rows.chunks(TRANSACTION) {
                let pool = connection.get_postgres_connection_pool();
                let mut copy = pool.copy_in_raw("COPY event FROM STDIN").await.unwrap();
                copy.send(chunk.iter().map(copied).collect::<String>().into_bytes())
                    .await
                    .unwrap();
                copy.finish().await.unwrap();
            }
            "COPY"
        }
    }
}

/// A row as COPY takes it.
fn copied(row: &event::Model) -> String {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    };
    let (numbers, key) = ((row.epoch, row.shard, row.seq), row.key.as_deref().unwrap_or(r"\N"));
    let (bytes, hash) = (hex(&row.bytes), hex(&row.hash));
    let event::Model {
        tenant,
        room,
        n,
        prev,
        id,
        from_user,
        kind,
        at,
        ..
    } = row;
    let (epoch, shard, seq) = numbers;
    format!(
        "{epoch}\t{shard}\t{seq}\t{tenant}\t{room}\t{n}\t{prev}\t{id}\t{from_user}\t{kind}\t{at}\t{key}\t\\\\x{bytes}\t\\\\x{hash}\n"
    )
}
