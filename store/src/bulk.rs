//! What the archive is measured against (`natterjack bench archive`): how quickly its engine takes in the same rows by itself, and
//! how much room they need.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use natterjack_nats_config::tail::Log;
use sea_orm::sqlx::postgres::PgPoolCopyExt;
use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, DbErr, Order, QueryFilter, QueryOrder, QuerySelect, Statement};

use crate::archive::{Database, Insert, sql};
use crate::entity::event;

/// The table that is loaded: the same columns, key and index as the archive's `event`.
const TABLE: &str = "bulk_event";
/// Rows that are read at a time.
const ROWS: u64 = 10_000;

/// A bulk load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// How many rows.
    pub rows: u64,
    /// How long the engine took, to the last commit. Making the rows ready is not in it.
    pub took: Duration,
    /// By which of its ways.
    pub how: &'static str,
}

/// Whether nothing was ever archived here.
pub async fn is_empty(database: &Database, log: &Log) -> Result<bool, DbErr> {
    Ok(sql::watermark(database.connection(), log).await?.is_none())
}

/// What the database takes on disk, in bytes, with its indexes.
pub async fn size(database: &Database) -> Result<u64, DbErr> {
    let backend = database.connection().get_database_backend();
    let sql = match backend {
        DbBackend::Postgres => "SELECT pg_database_size(current_database())",
        DbBackend::MySql => {
            "SELECT CAST(SUM(file_size) AS SIGNED) FROM information_schema.innodb_sys_tablespaces \
             WHERE name LIKE CONCAT(DATABASE(), '/%')"
        }
        _ => "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    };
    let row = database
        .connection()
        .query_one_raw(Statement::from_string(backend, sql))
        .await?;
    let bytes: i64 = match row {
        Some(row) => row.try_get_by_index(0)?,
        None => 0,
    };
    Ok(bytes.unsigned_abs())
}

/// Loads all events of the log into a table of its own by the engine's quickest way, in one transaction, and drops that table:
/// `COPY` on PostgreSQL, `LOAD DATA INFILE` on MySQL and MariaDB where the server may read a file of `folder`, else prepared
/// `INSERT`s of many rows. `progress` is told how many rows are done.
pub async fn load(database: &Database, log: &Log, folder: &Path, progress: impl FnMut(u64)) -> Result<Loaded, DbErr> {
    make_table(database).await?;
    let load = Load {
        database,
        log,
        progress,
    };
    let loaded = match database.connection().get_database_backend() {
        DbBackend::Postgres => load.copy().await,
        DbBackend::MySql => load.file(folder).await,
        _ => load.insert().await,
    };
    let drop_table = format!("DROP TABLE {TABLE}");
    database.connection().execute_unprepared(&drop_table).await?;
    loaded
}

struct Load<'a, P> {
    database: &'a Database,
    log: &'a Log,
    progress: P,
}

impl<P: FnMut(u64)> Load<'_, P> {
    async fn copy(mut self) -> Result<Loaded, DbErr> {
        let pool = self.database.connection().get_postgres_connection_pool();
        let sql = format!("COPY {TABLE} FROM STDIN");
        let mut loaded = Loaded::by("COPY");
        let mut copy = pool.copy_in_raw(&sql).await.map_err(custom)?;
        let mut after = -1;
        loop {
            let rows = self.rows(after).await?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            let text: String = rows.iter().map(|row| line(row, r"\\x")).collect();
            let begun = Instant::now();
            copy.send(text.into_bytes()).await.map_err(custom)?;
            loaded.add(rows.len(), begun.elapsed());
            (self.progress)(loaded.rows);
        }
        let begun = Instant::now();
        copy.finish().await.map_err(custom)?;
        loaded.took += begun.elapsed();
        Ok(loaded)
    }

    /// The file must be readable for the server, which is another user.
    async fn file(mut self, folder: &Path) -> Result<Loaded, DbErr> {
        let path = folder.join("rows.tsv");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).map_err(custom)?);
        let mut loaded = Loaded::by("LOAD DATA INFILE");
        let mut after = -1;
        loop {
            let rows = self.rows(after).await?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            for row in &rows {
                file.write_all(line(row, "").as_bytes()).map_err(custom)?;
            }
            loaded.rows += rows.len() as u64;
        }
        file.flush().map_err(custom)?;
        let columns = "epoch, shard, seq, tenant, room, n, prev, id, from_user, kind, at, `key`, @bytes, @hash";
        let sql = format!(
            "LOAD DATA INFILE '{}' INTO TABLE {TABLE} CHARACTER SET utf8mb4 ({columns}) \
             SET bytes = UNHEX(@bytes), hash = UNHEX(@hash)",
            path.display()
        );
        let begun = Instant::now();
        let done = self.database.connection().execute_unprepared(&sql).await;
        loaded.took = begun.elapsed();
        std::fs::remove_file(&path).map_err(custom)?;
        match done {
            Ok(_) => {
                (self.progress)(loaded.rows);
                Ok(loaded)
            }
            Err(error) => {
                tracing::info!(%error, "the server does not read files, so rows are inserted");
                self.insert().await
            }
        }
    }

    async fn insert(mut self) -> Result<Loaded, DbErr> {
        let insert = Insert::into(self.database.connection().get_database_backend(), TABLE);
        let mut loaded = Loaded::by("prepared INSERTs");
        let transaction = sql::begin(self.database.connection()).await?;
        let mut after = -1;
        loop {
            let rows = self.rows(after).await?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            let (count, begun) = (rows.len(), Instant::now());
            insert.run(&transaction, rows).await?;
            loaded.add(count, begun.elapsed());
            (self.progress)(loaded.rows);
        }
        let begun = Instant::now();
        transaction.commit().await?;
        loaded.took += begun.elapsed();
        Ok(loaded)
    }

    async fn rows(&self, after: i64) -> Result<Vec<event::Model>, DbErr> {
        sql::of_log(self.log)
            .filter(event::Column::Seq.gt(after))
            .order_by(event::Column::Seq, Order::Asc)
            .limit(ROWS)
            .all(self.database.connection())
            .await
    }
}

impl Loaded {
    fn by(how: &'static str) -> Self {
        Self {
            rows: 0,
            took: Duration::ZERO,
            how,
        }
    }

    fn add(&mut self, rows: usize, took: Duration) {
        self.rows += rows as u64;
        self.took += took;
    }
}

async fn make_table(database: &Database) -> Result<(), DbErr> {
    let db = database.connection();
    let backend = db.get_database_backend();
    let drop_table = format!("DROP TABLE IF EXISTS {TABLE}");
    db.execute_unprepared(&drop_table).await?;
    match backend {
        DbBackend::Postgres => {
            let sql = format!("CREATE TABLE {TABLE} (LIKE event INCLUDING ALL)");
            db.execute_unprepared(&sql).await?;
        }
        DbBackend::MySql => {
            let sql = format!("CREATE TABLE {TABLE} LIKE event");
            db.execute_unprepared(&sql).await?;
        }
        _ => {
            let sql = "SELECT sql FROM sqlite_master WHERE name IN ('event', 'event_by_room') ORDER BY type DESC";
            for row in db.query_all_raw(Statement::from_string(backend, sql)).await? {
                let sql: String = row.try_get_by_index(0)?;
                let sql = sql.replace("\"event\"", &format!("\"{TABLE}\""));
                db.execute_unprepared(&sql.replace("event_by_room", "bulk_event_by_room"))
                    .await?;
            }
        }
    }
    Ok(())
}

/// A row as `COPY` and `LOAD DATA` take it. No text of ours has a tab, a line's end or a backslash, but for a key.
fn line(row: &event::Model, before_hex: &str) -> String {
    let event::Model {
        epoch,
        shard,
        seq,
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
    let (key, bytes, hash) = (
        row.key.as_deref().map_or_else(|| r"\N".to_owned(), escape),
        hex(&row.bytes),
        hex(&row.hash),
    );
    format!(
        "{epoch}\t{shard}\t{seq}\t{tenant}\t{room}\t{n}\t{prev}\t{id}\t{from_user}\t{kind}\t{at}\t{key}\t{before_hex}{bytes}\t{before_hex}{hash}\n"
    )
}

fn escape(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('\t', r"\t");
    escaped.replace('\n', r"\n").replace('\r', r"\r")
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().map_or('0', char::from);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn custom(error: impl std::fmt::Display) -> DbErr {
    DbErr::Custom(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{Engine, House, on_each_engine};

    on_each_engine!(all_rows_are_loaded_and_nothing_is_left_of_it);

    async fn all_rows_are_loaded_and_nothing_is_left_of_it(engine: Engine) {
        let house = House::new(engine).await;
        let mut scribe = house.scribe().await;
        let database = house.database("archive").await;
        assert!(is_empty(&database, &house.log).await.unwrap());
        scribe.chatter(50, 300).await;
        let mut worker = house.start(&database, "one").await;
        worker.reached(scribe.end()).await;
        worker.stop().await;
        assert!(!is_empty(&database, &house.log).await.unwrap());
        assert!(size(&database).await.unwrap() > 50 * 300 * 200);
        let folder = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        for _ in 0..2 {
            let loaded = load(&database, &house.log, folder.path(), |rows| told.push(rows))
                .await
                .unwrap();
            assert_eq!(loaded.rows, 15_000);
        }
        assert!(told.ends_with(&[15_000]), "{told:?}");
        let there = format!("SELECT COUNT(*) FROM {TABLE}");
        assert!(database.connection().execute_unprepared(&there).await.is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_line_holds_any_key() {
        let row = event::Model {
            epoch: 1,
            shard: 0,
            seq: 7,
            tenant: "main".to_owned(),
            room: "lobby".to_owned(),
            n: 1,
            prev: 0,
            id: "i".to_owned(),
            from_user: "alice".to_owned(),
            kind: "msg".to_owned(),
            at: "a".to_owned(),
            key: Some("a\tb\\c\nd".to_owned()),
            bytes: vec![0x00, 0xfe],
            hash: vec![0x1a],
        };
        assert_eq!(
            line(&row, r"\\x"),
            "1\t0\t7\tmain\tlobby\t1\t0\ti\talice\tmsg\ta\ta\\tb\\\\c\\nd\t\\\\x00fe\t\\\\x1a\n"
        );
        let keyless = event::Model { key: None, ..row };
        assert!(line(&keyless, "").ends_with("\ta\t\\N\t00fe\t1a\n"));
    }
}
