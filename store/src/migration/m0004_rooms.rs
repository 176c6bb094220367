use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::ConnectionTrait;

use super::columns::{number, plain_text, primary_key, table};

/// `room` and `read_mark`. What is in the archive already is counted; nobody has marked any of it as read, since a log before
/// this has no such events.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0004_rooms"
    }
}

/// From nothing, so that it may be done twice.
const COUNT: [&str; 2] = [
    "DELETE FROM room",
    "INSERT INTO room (epoch, shard, tenant, room, seq, n, message) \
     SELECT epoch, shard, tenant, room, MAX(seq), MAX(n), \
     COALESCE(MAX(CASE WHEN kind IN ('msg', 'command', 'reply') THEN seq END), 0) \
     FROM event GROUP BY epoch, shard, tenant, room",
];

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(room(manager)).await?;
        manager.create_table(read_mark(manager)).await?;
        for sql in COUNT {
            manager.get_connection().execute_unprepared(sql).await?;
        }
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// Where each room stands: its last event, and its last message (0 for none).
fn room(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    table(backend, "room")
        .col(number("epoch"))
        .col(number("shard"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(number("seq"))
        .col(number("n"))
        .col(number("message"))
        .primary_key(&mut primary_key("room", &["epoch", "shard", "tenant", "room"]))
        .take()
}

/// Up to which event of a room a user has read, and that event's number in the room.
fn read_mark(manager: &SchemaManager<'_>) -> TableCreateStatement {
    let backend = manager.get_database_backend();
    table(backend, "read_mark")
        .col(number("epoch"))
        .col(number("shard"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "from_user", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(number("seq"))
        .col(number("n"))
        .primary_key(&mut primary_key(
            "read_mark",
            &["epoch", "shard", "tenant", "from_user", "room"],
        ))
        .take()
}
