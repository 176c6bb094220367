use sea_orm_migration::prelude::*;

use super::columns::{add_index, bytes, number, plain_text, primary_key, sha256, table};
use crate::log::broken;

/// `event`, `watermark` and `quarantine`.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_archive"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(event(manager)).await?;
        add_index(manager, "event", "event_by_room", &["tenant", "room", "seq"]).await?;
        manager.create_table(watermark(manager)).await?;
        manager.create_table(quarantine(manager)).await
    }

    /// All or nothing: a kill in the middle must leave a database that can be opened again. On MySQL each statement
    /// commits by itself whatever is said here, so each does nothing where its work is done already.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// Append-only: one row per event of the log, with the line as it stands there.
fn event(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    let mut event = table(backend, "event");
    event
        .col(number("epoch"))
        .col(number("shard"))
        .col(number("seq"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(number("n"))
        .col(number("prev"))
        .col(plain_text(backend, "id", 64).not_null())
        .col(plain_text(backend, "from_user", 64).not_null())
        .col(plain_text(backend, "kind", 16).not_null())
        .col(plain_text(backend, "at", 32).not_null())
        .col(plain_text(backend, "key", 128).null())
        .col(bytes(backend, "bytes").not_null())
        .col(sha256("hash"));
    if !broken("archive-unique-key") {
        event.primary_key(&mut primary_key("event", &["epoch", "shard", "seq"]));
    }
    event
}

/// One row per shard: the last frame that is wholly in the archive. Moved only by compare-and-set.
fn watermark(manager: &SchemaManager<'_>) -> TableCreateStatement {
    table(manager.get_database_backend(), "watermark")
        .col(number("shard"))
        .col(number("epoch"))
        .col(number("stream_seq"))
        .primary_key(&mut primary_key("watermark", &["shard"]))
        .take()
}

/// What could not be stored as an event, and why. `line` is the line in the frame, -1 for the whole frame.
fn quarantine(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    table(backend, "quarantine")
        .col(number("epoch"))
        .col(number("shard"))
        .col(number("stream_seq"))
        .col(number("line"))
        .col(sha256("hash"))
        .col(ColumnDef::new(Alias::new("reason")).text().not_null())
        .col(bytes(backend, "bytes").not_null())
        .primary_key(&mut primary_key(
            "quarantine",
            &["epoch", "shard", "stream_seq", "line", "hash"],
        ))
        .take()
}

#[cfg(test)]
mod tests {
    use sea_orm_migration::sea_orm::DbBackend;

    use super::*;

    #[test]
    fn text_is_compared_byte_for_byte_on_every_engine() {
        for (backend, collation) in [
            (DbBackend::Sqlite, "COLLATE BINARY"),
            (DbBackend::Postgres, "COLLATE \"C\""),
            (DbBackend::MySql, "COLLATE utf8mb4_bin"),
        ] {
            let mut room = plain_text(backend, "room", 64).not_null().take();
            let table = table(backend, "event").col(&mut room).take();
            let sql = backend.build(&table).sql;
            assert!(sql.contains(collation), "{sql}");
            assert_eq!(sql.contains("CHARSET"), backend == DbBackend::MySql, "{sql}");
        }
    }

    #[test]
    fn an_event_fits_its_column_on_mysql() {
        let table = table(DbBackend::MySql, "event")
            .col(bytes(DbBackend::MySql, "bytes"))
            .take();
        assert!(DbBackend::MySql.build(&table).sql.contains("mediumblob"));
    }
}
