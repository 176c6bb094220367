use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend};

use super::columns::{number, plain_text, primary_key, table};

/// `search` and `search_mark`.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_search"
    }
}

/// A row for each message that has words. The index holds tokens only, and no text.
const SQLITE: &str = "CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(tokens, epoch UNINDEXED, shard UNINDEXED, \
                      seq UNINDEXED, tenant UNINDEXED, room UNINDEXED, from_user UNINDEXED, tokenize = 'ascii', \
                      content = '', contentless_unindexed = 1, contentless_delete = 1)";

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let (backend, db) = (manager.get_database_backend(), manager.get_connection());
        if backend == DbBackend::Sqlite {
            db.execute_unprepared(SQLITE).await?;
        } else {
            manager.create_table(search(backend)).await?;
            if !manager.has_index("search", "search_tokens").await? {
                let index = match backend {
                    DbBackend::Postgres => "CREATE INDEX search_tokens ON search USING gin (tokens)",
                    _ => "CREATE FULLTEXT INDEX search_tokens ON search (tokens)",
                };
                db.execute_unprepared(index).await?;
            }
        }
        let mut mark = table(backend, "search_mark");
        for column in ["shard", "epoch", "seq"] {
            mark.col(number(column));
        }
        mark.primary_key(&mut primary_key("search_mark", &["shard"]));
        manager.create_table(mark).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

fn search(backend: DbBackend) -> TableCreateStatement {
    let mut tokens = ColumnDef::new(Alias::new("tokens"));
    match backend {
        DbBackend::Postgres => tokens.custom(Alias::new("tsvector")),
        _ => tokens.custom(Alias::new("mediumtext CHARACTER SET ascii COLLATE ascii_bin")),
    };
    table(backend, "search")
        .col(number("epoch"))
        .col(number("shard"))
        .col(number("seq"))
        .col(plain_text(backend, "tenant", 64).not_null())
        .col(plain_text(backend, "room", 64).not_null())
        .col(plain_text(backend, "from_user", 64).not_null())
        .col(tokens.not_null())
        .primary_key(&mut primary_key("search", &["epoch", "shard", "seq"]))
        .take()
}
