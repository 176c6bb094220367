use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, DatabaseConnection, DbErr};
use sea_orm_migration::MigratorTrait;

use super::insert::Insert;
use crate::migration::Migrator;

/// How long a statement waits for another connection's write before it fails and is tried again.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages of 4 KiB that the write-ahead log gathers before they are moved into the database: 32 MiB. Each move flushes both
/// files, and a page that was changed many times is moved once.
const WAL_PAGES: &str = "8192";
/// One writes, the others read; WAL lets them work at once.
const MAX_CONNECTIONS: u32 = 8;

/// The archive's database, with its tables as this program needs them. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Database {
    connection: DatabaseConnection,
    insert: Arc<Insert>,
}

/// A database that cannot be used. Nothing was changed in it, except by a migration that is named.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not an engine that this program speaks.
    #[error("the archive's database must be a path or a URL `sqlite:…`; the scheme {0:?} is not spoken here")]
    Scheme(String),
    /// SQLite keeps further files beside the database, so its folder must be writable.
    #[error("the archive's folder {folder} is not writable: {source}", folder = folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is there but is no database, or is locked.
    #[error("the archive {at} cannot be opened: {source}")]
    Open {
        /// The database, without credentials.
        at: String,
        /// What the engine says.
        source: DbErr,
    },
    /// A newer program has been here.
    #[error(
        "the archive {at} is newer than this program: it has {unknown}, which is not known here. Start the newer \
         program, or restore the archive from before its upgrade"
    )]
    Newer {
        /// The database, without credentials.
        at: String,
        /// The migrations that are not known.
        unknown: String,
    },
    /// A migration failed.
    #[error("the tables of the archive {at} could not be brought up to date: {source}")]
    Migrate {
        /// The database, without credentials.
        at: String,
        /// What the engine says.
        source: DbErr,
    },
}

impl Database {
    /// Opens the archive by a URL (`sqlite:…`) or by the path of a SQLite file, as [`Database::open_file`] does.
    pub async fn open(url_or_path: &str) -> Result<Self, OpenError> {
        if let Some(rest) = url_or_path.strip_prefix("sqlite:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return Self::open_file(Path::new(path)).await;
        }
        match url_or_path.split_once("://") {
            Some((scheme, _)) => Err(OpenError::Scheme(scheme.to_owned())),
            None => Self::open_file(Path::new(url_or_path)).await,
        }
    }

    /// Opens a SQLite file, making it when it is missing, and brings its tables up to date.
    ///
    /// A commit is on the disk when it returns (`synchronous=FULL`), and readers do not wait for the writer (WAL).
    pub async fn open_file(path: &Path) -> Result<Self, OpenError> {
        probe_folder(path).await?;
        let file = path.to_owned();
        let mut options = ConnectOptions::new("sqlite:");
        options
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .sqlx_logging(false)
            .map_sqlx_sqlite_opts(move |_| {
                SqliteConnectOptions::new()
                    .filename(&file)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .pragma("wal_autocheckpoint", WAL_PAGES)
                    .busy_timeout(BUSY_TIMEOUT)
                    .foreign_keys(true)
            });
        Self::connect(options, path.display().to_string()).await
    }

    /// Ends all connections; what was committed stays.
    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the archive's connections were not closed cleanly");
        }
    }

    pub(crate) fn connection(&self) -> &DatabaseConnection {
        &self.connection
    }

    pub(crate) fn insert(&self) -> &Insert {
        &self.insert
    }

    /// `at` names the database in errors and logs and holds no credentials.
    async fn connect(options: ConnectOptions, at: String) -> Result<Self, OpenError> {
        let connection = match sea_orm::Database::connect(options).await {
            Ok(connection) => connection,
            Err(source) => return Err(OpenError::Open { at, source }),
        };
        migrate(&connection, &at).await?;
        let insert = Arc::new(Insert::new(connection.get_database_backend()));
        Ok(Self { connection, insert })
    }
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

async fn migrate(connection: &DatabaseConnection, at: &str) -> Result<(), OpenError> {
    let applied = match Migrator::get_migration_models(connection).await {
        Ok(applied) => applied,
        // Not a database, locked, read-only: nothing has been migrated yet.
        Err(source) => {
            return Err(OpenError::Open {
                at: at.to_owned(),
                source,
            });
        }
    };
    let failed = |source| OpenError::Migrate {
        at: at.to_owned(),
        source,
    };
    let known: BTreeSet<String> = Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect();
    let unknown: Vec<String> = applied
        .into_iter()
        .map(|one| one.version)
        .filter(|version| !known.contains(version))
        .collect();
    if !unknown.is_empty() {
        return Err(OpenError::Newer {
            at: at.to_owned(),
            unknown: unknown.join(", "),
        });
    }
    for pending in Migrator::get_pending_migrations(connection).await.map_err(failed)? {
        tracing::info!(
            archive = at,
            migration = pending.name(),
            "bringing the archive's tables up to date"
        );
    }
    let Err(error) = Migrator::up(connection, None).await else {
        return Ok(());
    };
    // Stores that start at once all find work to do; one does it, and what it did makes the others fail.
    match Migrator::get_pending_migrations(connection).await {
        Ok(pending) if pending.is_empty() => Ok(()),
        _ => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait, Statement};

    use super::*;

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

    #[tokio::test]
    async fn opening_again_changes_nothing_and_a_newer_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.db");
        let url = format!("sqlite://{}", path.display());
        Database::open(&url).await.unwrap().close().await;
        let database = Database::open(path.to_str().unwrap()).await.unwrap();
        database
            .connection()
            .execute_unprepared("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_later', 0)")
            .await
            .unwrap();
        database.close().await;
        let error = Database::open(&url).await.unwrap_err();
        assert!(
            matches!(&error, OpenError::Newer { unknown, .. } if unknown == "m9999_later"),
            "{error}"
        );
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }

    #[tokio::test]
    async fn a_migration_that_was_cut_off_is_done_again_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.db");
        let cut_off = Database::open_file(&path).await.unwrap();
        let undo = "DROP INDEX event_by_room; DROP TABLE watermark; DELETE FROM seaql_migrations";
        cut_off.connection().execute_unprepared(undo).await.unwrap();
        cut_off.close().await;
        let database = Database::open_file(&path).await.unwrap();
        let count = "SELECT CAST(COUNT(*) AS TEXT) FROM sqlite_master WHERE name IN ('event_by_room', 'watermark')";
        let sql = Statement::from_string(sea_orm::DbBackend::Sqlite, count);
        let row = database.connection().query_one_raw(sql).await.unwrap().unwrap();
        assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "2");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn several_may_open_a_new_database_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.db");
        let opening = (0..6).map(|_| {
            let path = path.clone();
            tokio::spawn(async move { Database::open_file(&path).await })
        });
        for opened in futures_util::future::join_all(opening).await {
            opened.unwrap().unwrap();
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

        let error = Database::open("postgres://user:secret@host/db").await.unwrap_err();
        assert!(
            matches!(&error, OpenError::Scheme(scheme) if scheme == "postgres"),
            "{error}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
