use std::time::Duration;

use async_nats::Client;
use natterjack_nats_config::contract::{CONTENT, Kind};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::rooms::{self, Unclear};
use super::{fold, redact};
use crate::archive::{Database, sql};
use crate::entity::{erasure, event};

/// Events that are erased in one transaction, for which the archive waits.
const EVENTS: u64 = 500;
/// The pause between two transactions: the archive comes first.
const BETWEEN: Duration = Duration::from_millis(20);
/// How soon an erasure is begun.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// Erases what users wrote, in small steps, while `leading` says that this process has the writer, until it is told to stop. Where
/// it was stopped, by whatever, it goes on.
pub async fn keep_erased(
    (client, database): (Client, Database),
    log: Log,
    leading: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        pause = LOOK_EVERY;
        if !*leading.borrow() {
            continue;
        }
        tokio::select! {
            done = round(&database, &log) => if let Err(error) = done {
                tracing::warn!(%error, "what is to be erased is not erased now");
                pause = PAUSE;
                continue;
            },
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            done = clear_rooms(&client, &database, &log) => if let Err(error) = done {
                tracing::warn!(%error, "what is erased stays in the rooms for now");
                pause = PAUSE;
            },
            () = shutdown.cancelled() => return,
        }
    }
}

/// Takes out of the rooms what is erased in the archive.
async fn clear_rooms(client: &Client, database: &Database, log: &Log) -> Result<(), Unclear> {
    let db = database.connection();
    let open = fold::of_log(log)
        .filter(erasure::Column::Complete.eq(1))
        .filter(erasure::Column::InRooms.eq(1))
        .all(db)
        .await?;
    for row in open {
        if rooms::clear(client, db, log, &row).await? {
            rooms::note(db, &row).await?;
        }
    }
    Ok(())
}

/// Does all that is not done.
pub(super) async fn round(database: &Database, log: &Log) -> Result<(), DbErr> {
    let open = fold::of_log(log)
        .filter(erasure::Column::Complete.eq(0))
        .order_by(erasure::Column::Seq, Order::Asc)
        .all(database.connection())
        .await?;
    for mut row in open {
        while let Some(next) = step(database, log, row.clone()).await? {
            row = next;
            tokio::time::sleep(BETWEEN).await;
        }
        tracing::info!(seq = row.seq, "what is to be erased was erased in the archive");
    }
    Ok(())
}

/// One step; the row behind it, or none when it is done or another worker was faster.
pub(super) async fn step(database: &Database, log: &Log, old: erasure::Model) -> Result<Option<erasure::Model>, DbErr> {
    let db = database.connection();
    // Before the transaction: of somebody who wrote little it may look through all there is.
    let places = places(db, &old).await?;
    let transaction = sql::begin(db).await?;
    if !take(&transaction, &old).await? {
        transaction.rollback().await?;
        return Ok(None);
    }
    sql::lock(&transaction, log).await?;
    if old.target != 0 {
        fold::message(&transaction, old).await?;
        transaction.commit().await?;
        return Ok(None);
    }
    let mut row = old;
    let rows = event::Entity::find()
        .filter(event::Column::Epoch.eq(row.epoch))
        .filter(event::Column::Shard.eq(row.shard))
        .filter(event::Column::Seq.is_in(places.iter().copied()))
        .all(&transaction)
        .await?;
    let redacted = redact::redact(&transaction, rows, row.seq).await?;
    row.count(&redacted);
    let is_last = (places.len() as u64) < EVENTS;
    row.looked = places.last().copied().filter(|_| !is_last).unwrap_or(row.upto);
    row.complete = i64::from(is_last);
    fold::put(&transaction, &row).await?;
    transaction.commit().await?;
    Ok((!is_last).then_some(row))
}

/// The next places of what the user wrote.
async fn places(db: &impl ConnectionTrait, of: &erasure::Model) -> Result<Vec<i64>, DbErr> {
    event::Entity::find()
        .select_only()
        .column(event::Column::Seq)
        .filter(event::Column::Epoch.eq(of.epoch))
        .filter(event::Column::Shard.eq(of.shard))
        .filter(event::Column::Seq.gt(of.looked))
        .filter(event::Column::Seq.lte(of.upto))
        .filter(event::Column::Tenant.eq(of.tenant.as_str()))
        .filter(event::Column::FromUser.eq(of.from_user.as_str()))
        .filter(event::Column::Kind.is_in(CONTENT.map(Kind::as_str)))
        .order_by(event::Column::Seq, Order::Asc)
        .limit(EVENTS)
        .into_tuple()
        .all(db)
        .await
}

/// Takes the erasure where it stands: whoever took it there first has it. A write, so that `SQLite` has its one writer.
async fn take(db: &DatabaseTransaction, row: &erasure::Model) -> Result<bool, DbErr> {
    let taken = erasure::Entity::update_many()
        .col_expr(erasure::Column::Words, Expr::col(erasure::Column::Words))
        .filter(erasure::Column::Epoch.eq(row.epoch))
        .filter(erasure::Column::Shard.eq(row.shard))
        .filter(erasure::Column::Seq.eq(row.seq))
        .filter(erasure::Column::Looked.eq(row.looked))
        .filter(erasure::Column::Complete.eq(0))
        .exec(db)
        .await?;
    Ok(taken.rows_affected == 1)
}
