use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use natterjack_nats_config::contract::Subjects;
use natterjack_nats_config::tail::Log;
use sea_orm::sqlx::mysql::MySqlConnectOptions;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, ConnectOptions as _};
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, RuntimeErr, Statement};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::Url;

use super::address::{Address, Place};
use super::insert::Insert;
use super::schema::{self, Schema};
use super::{release, sql};

/// How long a statement waits for another connection's write before it fails and is tried again (SQLite).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const BUSY_AGAIN: Duration = Duration::from_millis(50);
/// How long a request waits for a free connection, and a start for a server.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages of 4 KiB that the write-ahead log gathers before they are moved into the database: 32 MiB. Each move flushes both
/// files, and a page that was changed many times is moved once.
const WAL_PAGES: &str = "8192";
/// Rows that wait between SQLite's thread and the reader: few, and each wakes the other for one row.
const ROWS_WAITING: usize = 1024;
/// One writes, the others read. On SQLite, WAL lets them work at once.
const MAX_CONNECTIONS: u32 = 8;
/// What a connection to PostgreSQL is set to, whatever the server's or the user's defaults. A commit is on the disk when it
/// returns; and the locks of a store that vanished without a word are given up soon, so that another one goes on.
const POSTGRES_SETTINGS: [(&str, &str); 2] = [
    ("synchronous_commit", "on"),
    ("idle_in_transaction_session_timeout", "30s"),
];

/// The archive's database, with its tables as this program needs them. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Database {
    connection: DatabaseConnection,
    insert: Arc<Insert>,
}

/// What happens to tables that are older than this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// They are brought up to date.
    Migrate,
    /// They are refused: somebody runs `natterjack migrate up` with rights that this program has not.
    Refuse,
}

/// A database that cannot be used. Nothing was changed in it, except by a migration that is named.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite keeps further files beside the database, so its folder must be writable.
    #[error("the archive's folder {folder} is not writable: {source}", folder = folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Nobody answers, or not yet, or no longer. It may be tried again.
    #[error("the archive {at} is not reached: {source}")]
    Away {
        /// The database, without a password.
        at: String,
        /// What the system says.
        source: DbErr,
    },
    /// The file is there but is no database, or is locked; or the server refuses.
    #[error("the archive {at} cannot be opened: {source}")]
    Open {
        /// The database, without a password.
        at: String,
        /// What the engine says.
        source: DbErr,
    },
    /// Its texts cannot hold every character.
    #[error(
        "the archive {at} has the encoding {encoding}: make the database anew with UTF8 (`CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`)"
    )]
    Encoding {
        /// The database, without a password.
        at: String,
        /// Its encoding.
        encoding: String,
    },
    /// A newer program has been here.
    #[error(
        "the archive {at} is newer than this program: it has {unknown}, which is not known here. Start the newer \
         program, or restore the archive from before its upgrade"
    )]
    Newer {
        /// The database, without a password.
        at: String,
        /// The migrations that are not known.
        unknown: String,
    },
    /// The tables are older than this program, and it is not to change them.
    #[error("the archive {at} lacks {pending}: run `natterjack migrate up`, or set `store.migrate`")]
    Older {
        /// The database, without a password.
        at: String,
        /// The migrations that it lacks.
        pending: String,
    },
    /// A migration failed.
    #[error("the tables of the archive {at} could not be brought up to date: {source}")]
    Migrate {
        /// The database, without a password.
        at: String,
        /// What the engine says.
        source: DbErr,
    },
}

impl OpenError {
    pub(crate) fn open(at: &str, source: DbErr) -> Self {
        Self::unless_away(at, source, |at, source| Self::Open { at, source })
    }

    pub(crate) fn migrate(at: &str, source: DbErr) -> Self {
        Self::unless_away(at, source, |at, source| Self::Migrate { at, source })
    }

    /// A server that went away in the middle of a step is one that is away, whichever step it was.
    fn unless_away(at: &str, source: DbErr, failed: fn(String, DbErr) -> Self) -> Self {
        let at = at.to_owned();
        if is_away(&source) {
            Self::Away { at, source }
        } else {
            failed(at, source)
        }
    }
}

impl Database {
    /// Opens the archive. A missing SQLite file is made; a database on a server must be there.
    ///
    /// A commit is on the disk when it returns, as far as the client can say so: MySQL and MariaDB are warned about.
    pub async fn open(address: &Address, tables: Tables) -> Result<Self, OpenError> {
        let at = address.to_string();
        let schema = Self::schema(address).await?;
        schema.check(&at)?;
        match tables {
            Tables::Migrate => Self::migrate(address).await.map(drop)?,
            Tables::Refuse if schema.pending.is_empty() => {}
            Tables::Refuse => {
                let pending = schema.pending.join(", ");
                return Err(OpenError::Older { at, pending });
            }
        }
        let connection = connect(address, MAX_CONNECTIONS).await?;
        look_at_settings(&connection, &at).await?;
        let insert = Arc::new(Insert::new(connection.get_database_backend()));
        Ok(Self { connection, insert })
    }

    /// Opens a SQLite file.
    pub async fn open_file(path: &Path) -> Result<Self, OpenError> {
        Self::open(&Address::file(path), Tables::Migrate).await
    }

    /// What the database's tables have had, and what they lack. Nothing is changed.
    pub async fn schema(address: &Address) -> Result<Schema, OpenError> {
        let connection = connect(address, 1).await?;
        let schema = Schema::read(&connection).await;
        close(connection).await;
        schema.map_err(|source| OpenError::open(&address.to_string(), source))
    }

    /// Brings the tables up to date, and names what was missing.
    pub async fn migrate(address: &Address) -> Result<Vec<String>, OpenError> {
        let connection = connect(address, 1).await?;
        let done = schema::migrate(&connection, &address.to_string()).await;
        close(connection).await;
        done
    }

    /// The log that the archive follows: of the first shard, in the epoch of its watermark; in the first one where it is empty.
    pub async fn log(&self, subjects: &Subjects) -> Result<Log, DbErr> {
        let first = Log::first(subjects.clone());
        let row = sql::watermark(&self.connection, &first).await?;
        let epoch = row.and_then(|row| u32::try_from(row.epoch).ok());
        Ok(Log {
            epoch: epoch.unwrap_or(first.epoch),
            ..first
        })
    }

    /// Ends all connections; what was committed stays.
    pub async fn close(self) {
        close(self.connection).await;
    }

    pub(crate) fn connection(&self) -> &DatabaseConnection {
        &self.connection
    }

    pub(crate) fn insert(&self) -> &Insert {
        &self.insert
    }
}

async fn connect(address: &Address, connections: u32) -> Result<DatabaseConnection, OpenError> {
    let password = address.password.clone();
    let mut options = match &address.place {
        Place::Sqlite(path) => {
            probe_folder(path).await?;
            sqlite(path.clone())
        }
        Place::Postgres(url) => postgres(url, password),
        Place::MySql(url) => mysql(url, password),
    };
    options
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .sqlx_logging(false);
    let connected = unless_busy(options).await;
    connected.map_err(|source| OpenError::open(&address.to_string(), source))
}

/// Tries again while another process is making the same new file: SQLite does not wait by itself when two turn its write-ahead
/// log on at once.
async fn unless_busy(options: ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    let until = Instant::now() + BUSY_TIMEOUT;
    loop {
        match sea_orm::Database::connect(options.clone()).await {
            Err(error) if is_busy(&error) && Instant::now() < until => tokio::time::sleep(BUSY_AGAIN).await,
            connected => return connected,
        }
    }
}

fn is_busy(error: &DbErr) -> bool {
    matches!(engine_error(error), Some(sqlx::Error::Database(error)) if error.message() == "database is locked")
}

async fn close(connection: DatabaseConnection) {
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the archive's connections were not closed cleanly");
    }
}

fn sqlite(path: PathBuf) -> ConnectOptions {
    let mut options = ConnectOptions::new("sqlite:");
    options.map_sqlx_sqlite_opts(move |_| {
        SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", WAL_PAGES)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROWS_WAITING)
            .foreign_keys(true)
            .disable_statement_logging()
    });
    options
}

/// The password comes in apart from the URL: that one is written into spans.
fn postgres(url: &Url, password: Option<SecretString>) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.as_str());
    options.map_sqlx_postgres_pool_opts(|pool| {
        pool.after_release(|connection, _| Box::pin(release::postgres(connection)))
    });
    options.map_sqlx_postgres_opts(move |options: PgConnectOptions| {
        let options = options.options(POSTGRES_SETTINGS);
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("natterjack"),
        };
        match &password {
            Some(password) => options.password(password.expose_secret()),
            None => options,
        }
    });
    options
}

fn mysql(url: &Url, password: Option<SecretString>) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.as_str());
    options.map_sqlx_mysql_pool_opts(|pool| pool.after_release(|connection, _| Box::pin(release::mysql(connection))));
    options.map_sqlx_mysql_opts(move |options: MySqlConnectOptions| match &password {
        Some(password) => options.password(password.expose_secret()),
        None => options,
    });
    options
}

/// What the engine or the line to it says, if the error is theirs.
pub(crate) fn engine_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// Whether it may be that the server is only away, or starting. A server that answers and refuses is there.
pub(crate) fn is_away(error: &DbErr) -> bool {
    let Some(said) = engine_error(error) else {
        return matches!(error, DbErr::ConnectionAcquire(_));
    };
    match said {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // How sqlx 0.9 says that PostgreSQL ended the connection before its first byte.
        sqlx::Error::Protocol(text) => text.contains("SSLRequest: 0x00"),
        // 53: it has no room for one more; 57: it starts or stops (PostgreSQL). 08: either (MySQL).
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| ["08", "53", "57"].iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

/// Refuses what would fail later and for ever, and warns of what takes away from what is promised.
async fn look_at_settings(connection: &DatabaseConnection, at: &str) -> Result<(), OpenError> {
    let ask = async |sql: &'static str| {
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        let row = connection.query_one_raw(statement).await;
        row.and_then(|row| row.map(|row| row.try_get_by_index::<String>(0)).transpose())
            .map(Option::unwrap_or_default)
            .map_err(|source| OpenError::open(at, source))
    };
    match connection.get_database_backend() {
        DbBackend::Postgres => {
            let encoding = ask("SELECT current_setting('server_encoding')").await?;
            if encoding != "UTF8" {
                let at = at.to_owned();
                return Err(OpenError::Encoding { at, encoding });
            }
            if ask("SELECT current_setting('fsync')").await? != "on" {
                tracing::warn!(
                    archive = at,
                    "PostgreSQL runs without fsync: a power cut can lose the archive"
                );
            }
        }
        DbBackend::MySql => {
            let flush = ask("SELECT CAST(@@global.innodb_flush_log_at_trx_commit AS CHAR)").await?;
            if flush != "1" {
                tracing::warn!(
                    archive = at,
                    innodb_flush_log_at_trx_commit = flush,
                    "the database does not flush each commit: a power cut can lose what was archived and trimmed from the log. \
                     Set innodb_flush_log_at_trx_commit = 1"
                );
            }
        }
        _ => {}
    }
    Ok(())
}

/// Makes and removes a file beside the database. SQLite itself would say "unable to open database file", and only once
/// it writes.
async fn probe_folder(path: &Path) -> Result<(), OpenError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let probe = folder.join(format!(".natterjack-{}", uuid::Uuid::now_v7()));
    let made = tokio::fs::File::create_new(&probe).await.map(drop);
    let removed = match made {
        Ok(()) => tokio::fs::remove_file(&probe).await,
        Err(error) => Err(error),
    };
    removed.map_err(|source| OpenError::Folder {
        folder: folder.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use sea_orm::TransactionTrait as _;

    use super::*;
    use crate::archive::testing::{Databases, Engine, on_each_engine};

    on_each_engine!(
        opening_again_changes_nothing_and_a_newer_database_is_refused,
        a_migration_that_was_cut_off_is_done_again_whole,
        several_may_open_a_new_database_at_once,
        tables_are_left_as_they_are_if_that_is_asked_for,
        ids_that_differ_only_in_case_are_two,
        a_transaction_that_was_given_up_leaves_nothing_open,
    );

    async fn ask(database: &Database, pragma: &str) -> String {
        let sql = Statement::from_string(sea_orm::DbBackend::Sqlite, format!("PRAGMA {pragma}"));
        let row = database.connection().query_one_raw(sql).await.unwrap().unwrap();
        row.try_get_by_index::<String>(0)
            .or_else(|_| row.try_get_by_index::<i64>(0).map(|n| n.to_string()))
            .unwrap()
    }

    #[tokio::test]
    async fn a_commit_is_flushed_and_readers_do_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open_file(&folder.path().join("a b?#.db")).await.unwrap();
        for (pragma, value) in [
            ("journal_mode", "wal"),
            ("synchronous", "2"),
            ("foreign_keys", "1"),
            ("busy_timeout", "10000"),
        ] {
            assert_eq!(ask(&database, pragma).await, value, "{pragma}");
        }
        assert!(folder.path().join("a b?#.db").exists());
    }

    async fn run(database: &Database, sql: &str) {
        database.connection().execute_unprepared(sql).await.unwrap();
    }

    async fn opening_again_changes_nothing_and_a_newer_database_is_refused(engine: Engine) {
        let databases = Databases::new(engine);
        databases.open("archive").await.close().await;
        let database = databases.open("archive").await;
        run(
            &database,
            "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_later', 0)",
        )
        .await;
        database.close().await;
        let address = databases.address("archive").await;
        for tables in [Tables::Migrate, Tables::Refuse] {
            let error = Database::open(&address, tables).await.unwrap_err();
            assert!(
                matches!(&error, OpenError::Newer { unknown, .. } if unknown == "m9999_later"),
                "{error}"
            );
            assert!(error.to_string().contains(&address.to_string()), "{error}");
        }
        let error = Database::migrate(&address).await.unwrap_err();
        assert!(matches!(&error, OpenError::Newer { .. }), "{error}");
        let schema = Database::schema(&address).await.unwrap();
        assert_eq!((schema.pending.len(), schema.unknown.len()), (0, 1));
    }

    async fn a_migration_that_was_cut_off_is_done_again_whole(engine: Engine) {
        let databases = Databases::new(engine);
        let cut_off = databases.open("archive").await;
        let index = if engine == Engine::MariaDb {
            "event_by_room ON event"
        } else {
            "event_by_room"
        };
        run(&cut_off, &format!("DROP INDEX {index}")).await;
        for undo in ["DROP TABLE watermark", "DELETE FROM seaql_migrations"] {
            run(&cut_off, undo).await;
        }
        cut_off.close().await;
        let database = databases.open("archive").await;
        // Fails if either is not there.
        run(&database, &format!("DROP INDEX {index}")).await;
        run(&database, "DROP TABLE watermark").await;
    }

    async fn several_may_open_a_new_database_at_once(engine: Engine) {
        let databases = Databases::new(engine);
        let address = databases.address("archive").await;
        let opening = (0..6).map(|_| {
            let address = address.clone();
            tokio::spawn(async move { Database::open(&address, Tables::Migrate).await })
        });
        for opened in futures_util::future::join_all(opening).await {
            opened.unwrap().unwrap();
        }
    }

    async fn tables_are_left_as_they_are_if_that_is_asked_for(engine: Engine) {
        let databases = Databases::new(engine);
        let address = databases.address("archive").await;
        let error = Database::open(&address, Tables::Refuse).await.unwrap_err();
        assert!(
            matches!(&error, OpenError::Older { pending, .. } if pending.contains("m0001_archive")),
            "{error}"
        );
        let before = Database::schema(&address).await.unwrap();
        assert_eq!((before.applied.len(), before.unknown.len()), (0, 0));
        assert_eq!(Database::migrate(&address).await.unwrap(), before.pending);
        assert!(Database::migrate(&address).await.unwrap().is_empty());
        let after = Database::schema(&address).await.unwrap();
        assert_eq!((after.applied, after.pending), (before.pending, Vec::new()));
        Database::open(&address, Tables::Refuse).await.unwrap();
    }

    async fn ids_that_differ_only_in_case_are_two(engine: Engine) {
        let databases = Databases::new(engine);
        let database = databases.open("archive").await;
        let connection = database.connection();
        for (seq, room) in [(1, "lobby"), (2, "Lobby"), (3, "LOBBY")] {
            let values = format!("1, 0, {seq}, 'main', '{room}', 1, 0, 'i', 'alice', 'msg', 'a'");
            let columns = "epoch, shard, seq, tenant, room, n, prev, id, from_user, kind, at, bytes, hash";
            let (bytes, hash) = (engine.bytes("7b7d"), engine.bytes(&"00".repeat(32)));
            run(
                &database,
                &format!("INSERT INTO event ({columns}) VALUES ({values}, {bytes}, {hash})"),
            )
            .await;
        }
        let sql = "SELECT COUNT(*), COUNT(DISTINCT room) FROM event WHERE tenant = 'main'";
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        let row = connection.query_one_raw(statement).await.unwrap().unwrap();
        let counts: (i64, i64) = (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap());
        assert_eq!(counts, (3, 3));
        let sql = "SELECT COUNT(*) FROM event WHERE room = 'lobby' AND from_user <> 'Alice'";
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        let row = connection.query_one_raw(statement).await.unwrap().unwrap();
        assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), 1);
    }

    /// Given up at whatever moment: who gets the connection next reads what is there, and is seen to write.
    async fn a_transaction_that_was_given_up_leaves_nothing_open(engine: Engine) {
        let databases = Databases::new(engine);
        let database = databases.open("archive").await;
        run(&database, "CREATE TABLE seen (n INTEGER)").await;
        for n in 1..=60 {
            let begun = tokio::time::timeout(Duration::from_micros(n * 10), database.connection().begin()).await;
            drop(begun);
            run(&database, &format!("INSERT INTO seen VALUES ({n})")).await;
            let read = async || {
                let sql = Statement::from_string(
                    database.connection().get_database_backend(),
                    "SELECT COUNT(*) FROM seen",
                );
                let row = database.connection().query_one_raw(sql).await.unwrap().unwrap();
                row.try_get_by_index::<i64>(0).unwrap().cast_unsigned()
            };
            let all = futures_util::future::join_all((0..MAX_CONNECTIONS).map(|_| read())).await;
            assert!(all.iter().all(|seen| *seen == n), "{n}: {all:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "this is a text and surely no database of any kind".repeat(100)).unwrap();
        let below = file.join("archive.db");
        let error = Database::open_file(&below).await.unwrap_err();
        assert!(
            matches!(&error, OpenError::Folder { folder, .. } if *folder == file),
            "{error}"
        );
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");

        let error = Database::open_file(&file).await.unwrap_err();
        assert!(matches!(&error, OpenError::Open { .. }), "{error}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");

        let nobody = Address::parse("postgres://nj:geheim@127.0.0.1:1/chat", None).unwrap();
        let error = Database::open(&nobody, Tables::Migrate).await.unwrap_err();
        assert!(matches!(&error, OpenError::Away { .. }), "{error}");
        assert!(error.to_string().contains("127.0.0.1:1/chat"), "{error}");
        assert!(!format!("{error} {error:?}").contains("geheim"), "{error:?}");
    }

    #[tokio::test]
    async fn who_is_refused_is_told_so_at_once() {
        for engine in [Engine::Postgres, Engine::MariaDb] {
            let databases = Databases::new(engine);
            let there = databases.address("archive").await.to_string();
            let missing = Address::parse(&format!("{there}_not"), databases.address("archive").await.password).unwrap();
            let error = Database::open(&missing, Tables::Migrate).await.unwrap_err();
            assert!(matches!(&error, OpenError::Open { .. }), "{error}");
            assert!(error.to_string().contains("archive_not"), "{error}");
        }
    }
}
