use sea_orm_migration::prelude::*;

use super::columns::{add_index, number, plain_text, primary_key, table};

/// `member`: who is or was in which room, and since when. It begins empty; what is in the archive already is taken in when a store
/// begins, since the bodies of events are not SQL's to read.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0009_members"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(member(manager)).await?;
        for (name, columns) in [
            // Where somebody is.
            ("member_by_user", &["tenant", "user_id"][..]),
            // Up to where memberships are taken in is asked at each start.
            ("member_by_seq", &["epoch", "shard", "seq"]),
        ] {
            add_index(manager, "member", name, columns).await?;
        }
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// A row for each room and user of it: the present membership, or the last one. Of somebody of whom only is known that they went,
/// since the archive begins later, nothing is said of how they came.
fn member(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    let number_or_none = |name: &str| ColumnDef::new(Alias::new(name)).big_integer().null().take();
    table(backend, "member")
        .col(number("epoch"))
        .col(number("shard"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(plain_text(backend, "user_id", 64).not_null())
        .col(plain_text(backend, "role", 64).null())
        .col(number("visible_from"))
        .col(number("seq"))
        .col(number_or_none("joined_seq"))
        .col(plain_text(backend, "joined_at", 32).null())
        .col(number_or_none("left_seq"))
        .col(plain_text(backend, "left_at", 32).null())
        .primary_key(&mut primary_key(
            "member",
            &["epoch", "shard", "tenant", "room", "user_id"],
        ))
        .take()
}
