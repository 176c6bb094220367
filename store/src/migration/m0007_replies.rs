use sea_orm_migration::prelude::*;

use super::columns::{add_index, number, plain_text, primary_key, table};

/// `reply`, and in `watermark` how far it was filled: not at all. Whoever archives next takes in what is there, before it goes
/// on. (Numbers 5 and 6 are those of migrations that were made at the same time.)
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0007_replies"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(reply(manager)).await?;
        add_index(manager, "reply", "reply_by_target", &["target", "seq"]).await?;
        if !manager.has_column("watermark", "replies").await? {
            // A default: a program of before begins a watermark without it.
            let mut replies = number("replies");
            let mut alter = Table::alter();
            alter.table(Alias::new("watermark")).add_column(replies.default(0));
            manager.alter_table(alter).await?;
        }
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// A row for each message that answers another one: its place, and the other's id.
fn reply(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    table(backend, "reply")
        .col(number("epoch"))
        .col(number("shard"))
        .col(number("seq"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(plain_text(backend, "target", 128).not_null())
        .primary_key(&mut primary_key("reply", &["epoch", "shard", "seq"]))
        .take()
}
