use sea_orm_migration::prelude::*;

use super::columns::{add_index, number, plain_text, primary_key, table};

/// `erasure`. It begins empty, which is right: no log before this has an event that erases something.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0008_erasure"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(erasure(manager)).await?;
        // What is not done is asked for by every page of history.
        for (name, columns) in [
            ("erasure_by_target", &["target"][..]),
            ("erasure_by_state", &["complete", "in_rooms"]),
        ] {
            add_index(manager, "erasure", name, columns).await?;
        }
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// A row for each erasure: of a user's words up to a place, or of one message; and how far it is done.
fn erasure(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    let mut table = table(backend, "erasure");
    table
        .col(number("epoch"))
        .col(number("shard"))
        .col(number("seq"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(plain_text(backend, "from_user", 64).not_null());
    let numbers = [
        "target",
        "upto",
        "looked",
        "complete",
        "messages",
        "edits",
        "reactions",
        "words",
        "last",
        "in_rooms",
    ];
    for name in numbers {
        table.col(number(name));
    }
    table
        .primary_key(&mut primary_key("erasure", &["epoch", "shard", "seq"]))
        .take()
}
