use sea_orm_migration::prelude::*;

use super::columns::{add_index, number, plain_text, primary_key, table};

/// `changed`, `edit` and `reaction`, and the index by which a message is found by its id.
///
/// The tables begin empty, which is right: no log before this has an event that changes a message.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_changes"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(changed(manager)).await?;
        for (name, on, columns) in [
            ("changed_by_room", "changed", &["tenant", "room", "seq"][..]),
            // The ids begin with the time, so the index grows at its end.
            ("event_by_id", "event", &["id"]),
        ] {
            add_index(manager, on, name, columns).await?;
        }
        manager.create_table(edit(manager)).await?;
        manager.create_table(reaction(manager)).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// A row for each message that is not as it was said any more; `seq` is the message's.
fn changed(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    let number_or_none = |name: &str| ColumnDef::new(Alias::new(name)).big_integer().null().take();
    table(backend, "changed")
        .col(number("epoch"))
        .col(number("shard"))
        .col(number("seq"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(number_or_none("edited"))
        .col(number_or_none("edit_bytes"))
        .col(plain_text(backend, "edited_at", 32).null())
        .col(number_or_none("deleted"))
        .col(plain_text(backend, "deleted_at", 32).null())
        .col(plain_text(backend, "deleted_by", 64).null())
        .col(number_or_none("pinned"))
        .col(plain_text(backend, "pinned_at", 32).null())
        .col(plain_text(backend, "pinned_by", 64).null())
        .col(number_or_none("unpinned"))
        .col(number_or_none("reacted"))
        .primary_key(&mut primary_key("changed", &["epoch", "shard", "seq"]))
        .take()
}

/// Which events edited a message.
fn edit(manager: &SchemaManager<'_>) -> TableCreateStatement {
    table(manager.get_database_backend(), "edit")
        .col(number("epoch"))
        .col(number("shard"))
        .col(number("target"))
        .col(number("seq"))
        .primary_key(&mut primary_key("edit", &["epoch", "shard", "target", "seq"]))
        .take()
}

/// Who has reacted to a message, and with what; `present` is 0 where it was taken back.
fn reaction(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    table(backend, "reaction")
        .col(number("epoch"))
        .col(number("shard"))
        .col(number("target"))
        .col(plain_text(backend, "emoji", 64).not_null())
        .col(plain_text(backend, "from_user", 64).not_null())
        .col(number("seq"))
        .col(number("present"))
        .primary_key(&mut primary_key(
            "reaction",
            &["epoch", "shard", "target", "emoji", "from_user"],
        ))
        .take()
}
