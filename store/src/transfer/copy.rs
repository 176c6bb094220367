use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, Order, QueryFilter, QueryOrder};

use super::TransferError;
use crate::archive::{Database, sql};
use crate::entity::{event, quarantine, watermark};
use crate::retention;

/// Frames that are moved in one transaction.
const FRAMES: i64 = 64;

/// Copies what one archive has of a log into another one, which may be empty or have the beginning already. Gives the last
/// frame that was copied. The source may be in use meanwhile; what it gets later is copied by another call, or comes from
/// the log once a store uses the target.
pub async fn copy(
    from: &Database,
    to: &Database,
    log: &Log,
    progress: impl Fn(u64, u64),
) -> Result<u64, TransferError> {
    let (source, target) = (from.connection(), to.connection());
    if sql::watermark(target, log).await?.is_none() {
        if sql::last_event(target, log).await?.is_some() {
            return Err(TransferError::Target("it has events, and no watermark".to_owned()));
        }
        sql::begin_watermark(target, log).await?;
    }
    // As a store does before it goes on: the target may have been filled by a program that knew less.
    sql::catch_up(to, log).await?;
    loop {
        let upto = place(source, log).await?.ok_or(TransferError::Nothing)?;
        let Some(mut at) = place(target, log).await? else {
            return Err(TransferError::Target("it follows another epoch".to_owned()));
        };
        if at > upto {
            return Err(TransferError::Target(format!(
                "it is at frame {at}, the source at {upto}"
            )));
        }
        if at == upto {
            let transaction = sql::begin(target).await?;
            retention::carry_over(source, &transaction, log).await?;
            transaction.commit().await?;
            return Ok(at.unsigned_abs());
        }
        while at < upto {
            let next = (at + FRAMES).min(upto);
            move_frames(source, to, log, (at, next)).await?;
            at = next;
            progress(at.unsigned_abs(), upto.unsigned_abs());
        }
    }
}

/// The last frame that an archive has; none if it follows another epoch or none.
async fn place(db: &DatabaseConnection, log: &Log) -> Result<Option<i64>, DbErr> {
    let row = sql::watermark(db, log).await?;
    Ok(row
        .filter(|row| row.epoch == i64::from(log.epoch))
        .map(|row| row.stream_seq))
}

/// Moves the frames behind one, up to another, and the watermark with them.
async fn move_frames(
    source: &DatabaseConnection,
    to: &Database,
    log: &Log,
    (after, upto): (i64, i64),
) -> Result<(), TransferError> {
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
    let events = event::Entity::find()
        .filter(event::Column::Epoch.eq(epoch))
        .filter(event::Column::Shard.eq(shard))
        .filter(event::Column::Seq.gte((after + 1) << 10))
        .filter(event::Column::Seq.lt((upto + 1) << 10))
        .order_by(event::Column::Seq, Order::Asc)
        .all(source)
        .await?;
    let kept = quarantine::Entity::find()
        .filter(quarantine::Column::Epoch.eq(epoch))
        .filter(quarantine::Column::Shard.eq(shard))
        .filter(quarantine::Column::StreamSeq.gt(after))
        .filter(quarantine::Column::StreamSeq.lte(upto))
        .all(source)
        .await?;
    let old = watermark::Model {
        shard,
        epoch,
        stream_seq: after,
        replies: 0,
    };
    let transaction = sql::begin(to.connection()).await?;
    if !sql::move_watermark(&transaction, &old, (epoch, upto)).await? {
        transaction.rollback().await?;
        return Err(TransferError::Overtaken);
    }
    sql::keep(to, &transaction, events).await?;
    for row in &kept {
        sql::insert_quarantined(&transaction, row).await?;
    }
    transaction.commit().await?;
    Ok(())
}
