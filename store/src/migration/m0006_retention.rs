use sea_orm_migration::prelude::*;

use super::columns::{number, plain_text, primary_key, table};

/// `retention` and `hold`. Both begin empty, which is right: no log before this has an event that says how long a room is kept or
/// that something is held, and nothing was removed.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0006_retention"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(retention(manager)).await?;
        manager.create_table(hold(manager)).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// How long a room's messages are kept, by which of its events; up to where they were removed, and up to where was looked.
fn retention(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    table(backend, "retention")
        .col(number("epoch"))
        .col(number("shard"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(ColumnDef::new(Alias::new("days")).big_integer().null())
        .col(number("ruled"))
        .col(number("looked"))
        .col(number("horizon"))
        .primary_key(&mut primary_key("retention", &["epoch", "shard", "tenant", "room"]))
        .take()
}

/// What must not be removed: `what` is `room` or `user`, `held` is 0 where it was given free again.
fn hold(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    table(backend, "hold")
        .col(number("epoch"))
        .col(number("shard"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "what", 8).not_null())
        .col(plain_text(backend, "name", 64).not_null())
        .col(number("seq"))
        .col(number("held"))
        .primary_key(&mut primary_key("hold", &["epoch", "shard", "tenant", "what", "name"]))
        .take()
}
