use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, Statement};

/// The tables whose rows are told apart by the epoch of their log, but for `watermark`, and for the index of words, which is
/// filled again by itself.
pub(super) const TABLES: [&str; 13] = [
    "event",
    "quarantine",
    "changed",
    "edit",
    "reaction",
    "read_mark",
    "room",
    "retention",
    "hold",
    "reply",
    "audit",
    "member",
    "erasure",
];

/// Gives all that the archive has of one epoch to another, which has nothing yet.
pub(super) async fn rekey(db: &DatabaseTransaction, shard: i64, (from, to): (i64, i64)) -> Result<(), DbErr> {
    for name in TABLES {
        run(
            db,
            format!("UPDATE {name} SET epoch = {to} WHERE shard = {shard} AND epoch = {from}"),
        )
        .await?;
    }
    forget_words(db, shard, (from, to)).await
}

/// Puts what the archive has of an epoch under a label, a number below zero that nobody reads: the events and what was no
/// event. What is made of them is forgotten. What is said of how long they are kept goes to the epoch `to`, where it is looked at
/// again; without one it is forgotten too.
pub(super) async fn set_aside(
    db: &DatabaseTransaction,
    shard: i64,
    (epoch, label): (i64, i64),
    to: Option<i64>,
) -> Result<(), DbErr> {
    for name in TABLES {
        let sql = match (name, to) {
            ("event" | "quarantine", _) => format!("UPDATE {name} SET epoch = {label} WHERE"),
            ("retention", Some(to)) => format!("UPDATE retention SET epoch = {to}, looked = 0 WHERE"),
            ("hold", Some(to)) => format!("UPDATE hold SET epoch = {to} WHERE"),
            (name, _) => format!("DELETE FROM {name} WHERE"),
        };
        run(db, format!("{sql} shard = {shard} AND epoch = {epoch}")).await?;
    }
    forget_words(db, shard, (epoch, epoch)).await
}

/// A label that nothing has yet.
pub(super) async fn free_label(db: &DatabaseTransaction, shard: i64) -> Result<i64, DbErr> {
    let sql = format!("SELECT MIN(epoch) FROM event WHERE shard = {shard}");
    let row = db
        .query_one_raw(Statement::from_string(db.get_database_backend(), sql))
        .await?;
    let least: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?.flatten();
    Ok(least.unwrap_or_default().min(0) - 1)
}

/// The index of words begins anew, with the epoch `to`.
async fn forget_words(db: &DatabaseTransaction, shard: i64, (from, to): (i64, i64)) -> Result<(), DbErr> {
    run(
        db,
        format!("DELETE FROM search WHERE shard = {shard} AND epoch = {from}"),
    )
    .await?;
    run(
        db,
        format!("UPDATE search_mark SET epoch = {to}, seq = 0 WHERE shard = {shard}"),
    )
    .await
}

async fn run(db: &DatabaseTransaction, sql: String) -> Result<(), DbErr> {
    db.execute_raw(Statement::from_string(db.get_database_backend(), sql))
        .await
        .map(drop)
}
