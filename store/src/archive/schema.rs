//! Which migrations a database has had, and the missing ones.

use std::collections::BTreeSet;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};
use sea_orm_migration::MigratorTrait;

use super::database::{OpenError, is_away};
use crate::migration::Migrator;

/// How often migrations are tried, and the pause between. Each attempt waits for another's write by itself.
const ATTEMPTS: usize = 10;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

/// The tables of an archive, as a list of migrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Those that it has had and this program knows, oldest first.
    pub applied: Vec<String>,
    /// Those that it lacks.
    pub pending: Vec<String>,
    /// Those that it has had and this program does not know: a newer program has been here.
    pub unknown: Vec<String>,
}

impl Schema {
    /// Reads it, and changes nothing.
    pub(crate) async fn read(connection: &DatabaseConnection) -> Result<Self, DbErr> {
        let had: BTreeSet<String> = if manager(connection).has_table("seaql_migrations").await? {
            let models = Migrator::get_migration_models(connection).await?;
            models.into_iter().map(|model| model.version).collect()
        } else {
            BTreeSet::new()
        };
        let known: Vec<String> = Migrator::migrations().iter().map(|one| one.name().to_owned()).collect();
        let unknown = had.iter().filter(|one| !known.contains(one)).cloned().collect();
        let (applied, pending) = known.into_iter().partition(|one| had.contains(one));
        Ok(Self {
            applied,
            pending,
            unknown,
        })
    }

    /// Refuses the tables of a newer program.
    pub(crate) fn check(&self, at: &str) -> Result<(), OpenError> {
        if self.unknown.is_empty() {
            return Ok(());
        }
        Err(OpenError::Newer {
            at: at.to_owned(),
            unknown: self.unknown.join(", "),
        })
    }
}

/// Does what is missing and names it. `connection` is one connection, not a pool of several: the lock that keeps others
/// waiting meanwhile belongs to it, and ends with it.
pub(crate) async fn migrate(connection: &DatabaseConnection, at: &str) -> Result<Vec<String>, OpenError> {
    let failed = |source| OpenError::migrate(at, source);
    lock(connection, at).await.map_err(failed)?;
    let before = Schema::read(connection)
        .await
        .map_err(|source| OpenError::open(at, source))?;
    before.check(at)?;
    for migration in &before.pending {
        tracing::info!(archive = at, migration, "bringing the archive's tables up to date");
    }
    // SQLite has no lock that outlives a transaction: of several that start at once one does a step, and what it did makes
    // the others fail. They look what is left.
    for attempt in 1.. {
        let Err(error) = Migrator::up(connection, None).await else {
            break;
        };
        // Another connection would not have the lock.
        if is_away(&error) {
            return Err(failed(error));
        }
        let left = Schema::read(connection).await.map_err(failed)?.pending;
        if left.is_empty() {
            break;
        }
        if attempt == ATTEMPTS {
            return Err(failed(error));
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
    Ok(before.pending)
}

/// Lets one program at a time change the tables of a database. MySQL commits each change by itself, so that two at once
/// would find the half of each other's work.
async fn lock(connection: &DatabaseConnection, at: &str) -> Result<(), DbErr> {
    let backend = connection.get_database_backend();
    match backend {
        // The number is "natterja" in ASCII; locks of PostgreSQL are a database's own.
        DbBackend::Postgres => {
            let sql = "SELECT pg_advisory_lock(7953764142025337441)";
            connection.execute_unprepared(sql).await.map(drop)
        }
        DbBackend::MySql => loop {
            let sql = "SELECT GET_LOCK(CONCAT('natterjack.', LEFT(SHA1(DATABASE()), 32)), 60)";
            let row = connection.query_one_raw(Statement::from_string(backend, sql)).await?;
            match row.map(|row| row.try_get_by_index::<Option<i64>>(0)).transpose()? {
                Some(Some(1)) => return Ok(()),
                Some(Some(_)) => tracing::warn!(archive = at, "waiting for another program to change the tables"),
                _ => return Err(DbErr::Custom("the database gives no lock".to_owned())),
            }
        },
        _ => Ok(()),
    }
}

fn manager(connection: &DatabaseConnection) -> sea_orm_migration::SchemaManager<'_> {
    sea_orm_migration::SchemaManager::new(connection)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::archive::testing::{Cut, Databases, Engine};
    use crate::archive::{Address, Database, Tables};

    /// Whichever request the server dies at, the archive is away and no more; and the next attempt goes on from there.
    async fn a_server_may_die_at_any_step_of_opening(engine: Engine) {
        let databases = Databases::new(engine);
        databases.address("archive").await;
        let mut through = Url::parse(&databases.url("archive")).unwrap();
        let server = format!("{}:{}", through.host_str().unwrap(), through.port().unwrap());
        let mut broken = 0;
        for requests in 0.. {
            let cut = Cut::after(requests, server.clone()).await;
            through.set_port(Some(cut.address.port())).unwrap();
            let address = Address::parse(through.as_str(), None).unwrap();
            match Database::open(&address, Tables::Migrate).await {
                Ok(database) => {
                    database.close().await;
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, OpenError::Away { .. }), "{requests}: {error:?}");
                    assert!(cut.is_broken(), "{requests}: {error:?}");
                    broken += 1;
                }
            }
        }
        assert!(
            broken > 20,
            "{broken} is few: the way was not broken where it should be"
        );
        Database::open(&databases.address("archive").await, Tables::Refuse)
            .await
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn postgres_may_die_at_any_step_of_opening() {
        a_server_may_die_at_any_step_of_opening(Engine::Postgres).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn mariadb_may_die_at_any_step_of_opening() {
        a_server_may_die_at_any_step_of_opening(Engine::MariaDb).await;
    }
}
