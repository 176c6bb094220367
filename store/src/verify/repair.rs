use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, Statement};

use super::read::Part;
use crate::archive::{Database, members, now, project, replies, rooms, sql, trail};
use crate::entity::{event, quarantine, search_mark};
use crate::erasure::{self, is_erased};

/// Puts in place what the log has in a part's frames. What stood there otherwise is kept in quarantine.
pub(super) async fn repair(
    database: &Database,
    log: &Log,
    part: &Part,
    archived: &[event::Model],
) -> Result<(), DbErr> {
    let expected = &part.rows;
    let transaction = sql::begin(database.connection()).await?;
    let (mut wrong, mut first) = (Vec::new(), i64::MAX);
    for row in archived.iter().filter(|row| !expected.events.contains(row)) {
        // What is erased is kept nowhere.
        let is_left = |left: &event::Model| left.seq == row.seq && is_erased(&left.bytes);
        if !expected.events.iter().any(is_left) {
            sql::insert_quarantined(&transaction, &replaced(row)).await?;
        }
        wrong.push(row.seq);
    }
    event::Entity::delete_many()
        .filter(event::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(event::Column::Shard.eq(i64::from(log.shard)))
        .filter(event::Column::Seq.is_in(wrong.iter().copied()))
        .exec(&transaction)
        .await?;
    let lacking: Vec<event::Model> = expected
        .events
        .iter()
        .filter(|row| !archived.contains(row))
        .cloned()
        .collect();
    for seq in wrong.into_iter().chain(lacking.iter().map(|row| row.seq)) {
        first = first.min(seq);
    }
    database.insert().run(&transaction, lacking).await?;
    for row in &expected.quarantined {
        sql::insert_quarantined(&transaction, row).await?;
    }
    index_again(&transaction, log, first).await?;
    transaction.commit().await
}

/// Makes the view of messages as they now stand anew.
pub(super) async fn rebuild(database: &Database, log: &Log) -> Result<(), DbErr> {
    let transaction = sql::begin(database.connection()).await?;
    sql::lock(&transaction, log).await?;
    now::rebuild(&transaction, log).await?;
    rooms::rebuild(&transaction, log).await?;
    replies::rebuild(&transaction, log).await?;
    trail::rebuild(&transaction, log).await?;
    members::rebuild(&transaction, log).await?;
    erasure::rebuild(&transaction, log).await?;
    transaction.commit().await
}

fn replaced(row: &event::Model) -> quarantine::Model {
    quarantine::Model {
        epoch: row.epoch,
        shard: row.shard,
        stream_seq: row.seq >> 10,
        line: row.seq & 1023,
        // Of the bytes as they are: the stored one may be wrong as well.
        hash: project::hash(&row.bytes),
        reason: "verify: the log has another event at this place, or none; this is what the archive had".to_owned(),
        bytes: row.bytes.clone(),
    }
}

/// Sets the index of words back, so that it is filled again from a place on.
async fn index_again(db: &DatabaseTransaction, log: &Log, first: i64) -> Result<(), DbErr> {
    if first == i64::MAX {
        return Ok(());
    }
    let moved = search_mark::Entity::update_many()
        .col_expr(search_mark::Column::Seq, Expr::value(first - 1))
        .filter(search_mark::Column::Shard.eq(i64::from(log.shard)))
        .filter(search_mark::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(search_mark::Column::Seq.gte(first))
        .exec(db)
        .await?;
    if moved.rows_affected > 0 {
        let (epoch, shard) = (log.epoch, log.shard);
        let sql = format!("DELETE FROM search WHERE epoch = {epoch} AND shard = {shard} AND seq >= {first}");
        db.execute_raw(Statement::from_string(db.get_database_backend(), sql))
            .await?;
    }
    Ok(())
}
