//! Databases of a test's own: files, or databases on the servers that `scripts/test` starts. Dropped with the test.

use std::collections::BTreeSet;
use std::path::PathBuf;

use parking_lot::Mutex;
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection};
use tempfile::TempDir;

use crate::archive::{Address, Database, Tables};

/// Where a test's databases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
    MariaDb,
}

/// Makes, for each test, one on every engine: `name::sqlite` and so on.
macro_rules! on_each_engine {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use crate::archive::testing::Engine;

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn sqlite() {
                super::$test(Engine::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn postgres() {
                super::$test(Engine::Postgres).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn mariadb() {
                super::$test(Engine::MariaDb).await;
            }
        })*
    };
}
pub(crate) use on_each_engine;

/// The databases of one test, each under a name of the test's choice.
pub(crate) struct Databases {
    pub(crate) engine: Engine,
    folder: TempDir,
    prefix: String,
    made: Mutex<BTreeSet<String>>,
}

impl Engine {
    /// A server where databases can be made. Without one the test fails: an engine that is not tested is not supported.
    fn server(self) -> String {
        let name = match self {
            Self::Sqlite => panic!("SQLite has no server"),
            Self::Postgres => "TEST_POSTGRES",
            Self::MariaDb => "TEST_MARIADB",
        };
        std::env::var(name).unwrap_or_else(|_| {
            panic!(
                "{name} is not set: run the tests by `scripts/test`, or others by `scripts/databases cargo nextest …`"
            )
        })
    }

    /// Bytes, as SQL has them.
    pub(crate) fn bytes(self, hex: &str) -> String {
        match self {
            Self::Postgres => format!(r"'\x{hex}'"),
            _ => format!("x'{hex}'"),
        }
    }
}

impl Databases {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine,
            folder: tempfile::tempdir().unwrap(),
            // The end of such an id is random.
            prefix: format!("nj_{}", &uuid::Uuid::now_v7().simple().to_string()[20..]),
            made: Mutex::default(),
        }
    }

    /// The folder of files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The address of a database, which is made empty if it is not there.
    pub(crate) async fn address(&self, name: &str) -> Address {
        if self.engine == Engine::Sqlite {
            return Address::file(&self.path(&format!("{name}.db")));
        }
        let database = self.name_of(name);
        if self.made.lock().insert(database.clone()) {
            let admin = admin(self.engine).await;
            admin
                .execute_unprepared(&format!("CREATE DATABASE {database}"))
                .await
                .unwrap();
            admin.close().await.unwrap();
        }
        Address::parse(&within(&self.engine.server(), &database), None).unwrap()
    }

    /// The address of a database that was made, as a user gives it.
    pub(crate) fn url(&self, name: &str) -> String {
        match self.engine {
            Engine::Sqlite => self.path(&format!("{name}.db")).display().to_string(),
            engine => within(&engine.server(), &self.name_of(name)),
        }
    }

    /// A database with the archive's tables.
    pub(crate) async fn open(&self, name: &str) -> Database {
        Database::open(&self.address(name).await, Tables::Migrate)
            .await
            .unwrap()
    }

    /// A copy of a database that nobody uses, as it stands.
    pub(crate) async fn copy(&self, from: &str, to: &str) {
        let (source, target) = (self.name_of(from), self.name_of(to));
        match self.engine {
            Engine::Sqlite => {
                let path = |name: &str| self.path(&format!("{name}.db"));
                std::fs::copy(path(from), path(to)).unwrap();
            }
            Engine::Postgres => {
                let admin = admin(self.engine).await;
                let sql = format!("CREATE DATABASE {target} TEMPLATE {source}");
                admin.execute_unprepared(&sql).await.unwrap();
                self.made.lock().insert(target);
            }
            Engine::MariaDb => {
                let database = self.open(to).await;
                for table in ["event", "watermark", "quarantine"] {
                    let sql = format!("INSERT INTO {target}.{table} SELECT * FROM {source}.{table}");
                    database.connection().execute_unprepared(&sql).await.unwrap();
                }
            }
        }
    }

    fn name_of(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        let (engine, made) = (self.engine, std::mem::take(&mut *self.made.lock()));
        if made.is_empty() {
            return;
        }
        let drop_all = async move {
            let admin = admin(engine).await;
            let force = if engine == Engine::Postgres {
                " WITH (FORCE)"
            } else {
                ""
            };
            for database in made {
                let sql = format!("DROP DATABASE {database}{force}");
                admin.execute_unprepared(&sql).await.unwrap();
            }
            admin.close().await.unwrap();
        };
        // In a thread: this one may be inside a runtime already.
        let dropping = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(drop_all);
        });
        let dropped = dropping.join();
        assert!(
            dropped.is_ok() || std::thread::panicking(),
            "databases were left behind"
        );
    }
}

async fn admin(engine: Engine) -> DatabaseConnection {
    let mut options = ConnectOptions::new(engine.server());
    options.max_connections(1).sqlx_logging(false);
    sea_orm::Database::connect(options).await.unwrap()
}

/// A server's URL with another database.
fn within(server: &str, database: &str) -> String {
    let mut url = url::Url::parse(server).unwrap();
    url.set_path(database);
    url.into()
}
