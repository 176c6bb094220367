use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::log::broken;

/// A text column that is compared byte for byte: ids are case-sensitive on every engine, also where an engine's own
/// collation would hold `Bob` and `bob` for one. The length is in characters.
pub(crate) fn plain_text(backend: DbBackend, name: &str, length: u32) -> ColumnDef {
    let collation = match backend {
        DbBackend::MySql if broken("archive-collation") => "",
        DbBackend::MySql => "COLLATE utf8mb4_bin",
        DbBackend::Postgres => "COLLATE \"C\"",
        _ => "COLLATE BINARY",
    };
    ColumnDef::new(Alias::new(name))
        .string_len(length)
        .extra(collation)
        .take()
}

/// A column for bytes of any length up to 16 MB: MySQL's plain `blob` ends at 64 KiB, an event may have 128.
pub(crate) fn bytes(backend: DbBackend, name: &str) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    match backend {
        DbBackend::MySql => column.custom(Alias::new("mediumblob")),
        _ => column.blob(),
    };
    column.take()
}

/// A 64-bit number that is always there.
pub(crate) fn number(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name)).big_integer().not_null().take()
}

/// A SHA-256.
pub(crate) fn sha256(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name)).binary_len(32).not_null().take()
}

/// An empty table; on MySQL and MariaDB with a character set that holds any Unicode, whatever the server's default.
pub(crate) fn table(backend: DbBackend, name: &str) -> TableCreateStatement {
    let mut table = Table::create();
    table.table(Alias::new(name)).if_not_exists();
    // Only there: sea-query would write these options for the other engines too, which refuse them.
    if backend == DbBackend::MySql {
        table.engine("InnoDB").character_set("utf8mb4");
        if !broken("archive-collation") {
            table.collate("utf8mb4_bin");
        }
    }
    table
}

/// The primary key of a table.
pub(crate) fn primary_key(table: &str, columns: &[&str]) -> IndexCreateStatement {
    let mut key = Index::create();
    key.name(format!("pk_{table}"));
    for column in columns {
        key.col(Alias::new(*column));
    }
    key
}

/// Makes an index, unless an attempt before was cut off behind it: MySQL has no CREATE INDEX IF NOT EXISTS.
pub(crate) async fn add_index(
    manager: &SchemaManager<'_>,
    table: &str,
    name: &str,
    columns: &[&str],
) -> Result<(), DbErr> {
    if manager.has_index(table, name).await? {
        return Ok(());
    }
    let mut index = Index::create();
    index.name(name).table(Alias::new(table));
    for column in columns {
        index.col(Alias::new(*column));
    }
    manager.create_index(index).await
}
