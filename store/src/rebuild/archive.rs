use async_nats::Client;
use natterjack_nats_config::contract::Seq;
use natterjack_nats_config::epoch;
use natterjack_nats_config::tail::Log;
use sea_orm::{
    ColumnTrait, DatabaseConnection, EntityTrait, Order, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::difference::first_difference;
use super::held::Held;
use super::rekey::{free_label, set_aside};
use super::{RebuildConfig, RebuildError, Rebuilt};
use crate::archive::{Database, sql};
use crate::entity::{event, quarantine, watermark};
use crate::retention::Removed;
use crate::verify::compare;

/// Events that are moved in one transaction.
const EVENTS: u64 = 1000;

/// Where what was trimmed from the log is taken from.
#[derive(Debug, Clone, Copy)]
pub enum Past<'a> {
    /// From what the archive has, as far as it belongs to the log.
    Archive,
    /// From a backup.
    Backup(&'a Database),
    /// From nowhere: the archive begins where the log does, and says so.
    Nowhere,
}

/// Makes the archive anew for the log that is there: what was trimmed from the log comes from a backup, or from the archive as
/// it is where that and the log agree; the rest is read from the log by the next store. What the archive had is kept in it
/// under a label, a number below zero.
///
/// No store may archive meanwhile. `progress` is told what is done, and of how much, in frames.
pub async fn rebuild_archive(
    client: &Client,
    database: &Database,
    past: Past<'_>,
    config: &RebuildConfig,
    progress: impl Fn(u64, u64),
) -> Result<Rebuilt, RebuildError> {
    let shard = Log::first(config.subjects.clone()).shard;
    let held = Held::take(client, config, &[format!("archive.{shard}")]).await?;
    held.hold(Box::pin(renew(client, database, (past, config), &progress)))
        .await
}

async fn renew(
    client: &Client,
    database: &Database,
    (past, config): (Past<'_>, &RebuildConfig),
    progress: &impl Fn(u64, u64),
) -> Result<Rebuilt, RebuildError> {
    let old = database.log(&config.subjects).await?;
    let newest = epoch::newest(client, &config.subjects, old.shard).await?;
    let log = Log {
        epoch: newest.ok_or(RebuildError::NoLog)?,
        ..old.clone()
    };
    let first = log.bounds(client).await?.first;
    // Asked before anything is changed.
    let from = match past {
        Past::Archive => Some((database, old.clone())),
        Past::Backup(backup) => Some((backup, backup.log(&config.subjects).await?)),
        Past::Nowhere => None,
    };
    let (upto, removed) = match &from {
        Some((of, as_log)) => {
            let upto = common(client, &log, (of, as_log), first).await?;
            let end = sql::bound(Seq::of(upto + 1, 0));
            (upto, Removed::load(of.connection(), as_log, end).await?)
        }
        None => (0, Removed::default()),
    };
    let (label, apart) = put_aside(database, (&old, &log), removed).await?;
    let label_log = |epoch: i64| (epoch, i64::from(log.shard));
    let source = match (past, from) {
        (Past::Backup(backup), Some((_, of))) => (backup.connection(), label_log(i64::from(of.epoch))),
        _ => (database.connection(), label_log(label)),
    };
    let events = take_over(source, (database, &log), upto, progress).await?;
    Ok(Rebuilt {
        log,
        upto,
        events,
        apart: (apart > 0).then_some((apart, label)),
    })
}

/// Up to which frame an archive can be taken for the past of a log that begins at frame `first`: what the log still has is read
/// from there.
async fn common(
    client: &Client,
    log: &Log,
    (database, archived_as): (&Database, &Log),
    first: u64,
) -> Result<u64, RebuildError> {
    if first <= 1 {
        return Ok(0);
    }
    let archived = sql::archived(database.connection(), archived_as).await?.frame();
    let differs = first_difference(client, log, (database, archived_as), archived).await?;
    // It has to have something of what the log has, to show that both are of one history.
    if archived < first || differs.is_some_and(|frame| frame <= first) {
        return Err(RebuildError::NoPast { first });
    }
    Ok(first - 1)
}

/// Puts all that is archived of the log under a label, and begins the log's archive before its first frame, with what was
/// removed of what will be taken over. Gives the label, and how many events have it.
async fn put_aside(
    database: &Database,
    (old, log): (&Log, &Log),
    removed: Removed,
) -> Result<(i64, u64), RebuildError> {
    let db = database.connection();
    if sql::watermark(db, old).await?.is_none() {
        sql::begin_watermark(db, log).await?;
    }
    let row = sql::watermark(db, old).await?.ok_or(RebuildError::Lost)?;
    let transaction = sql::begin(db).await?;
    if !sql::move_watermark(&transaction, &row, (i64::from(log.epoch), 0)).await? {
        transaction.rollback().await?;
        return Err(RebuildError::Lost);
    }
    let label = free_label(&transaction, row.shard).await?;
    let epoch = i64::from(log.epoch);
    // First what an earlier attempt left.
    if row.epoch != epoch {
        set_aside(&transaction, row.shard, (epoch, label - 1), None).await?;
    }
    set_aside(&transaction, row.shard, (row.epoch, label), Some(epoch)).await?;
    removed.store(&transaction, epoch).await?;
    let apart = event::Entity::find()
        .filter(event::Column::Epoch.eq(label))
        .filter(event::Column::Shard.eq(row.shard))
        .count(&transaction)
        .await?;
    transaction.commit().await?;
    Ok((label, apart))
}

/// Takes over the events of frames up to `upto` that are whole, and the record of what was no event. Gives how many events.
async fn take_over(
    (source, (epoch, shard)): (&DatabaseConnection, (i64, i64)),
    (database, log): (&Database, &Log),
    upto: u64,
    progress: &impl Fn(u64, u64),
) -> Result<u64, RebuildError> {
    let end = i64::try_from(upto).unwrap_or(i64::MAX);
    let (mut after, mut count) = (-1, 0);
    loop {
        let rows: Vec<event::Model> = event::Entity::find()
            .filter(event::Column::Epoch.eq(epoch))
            .filter(event::Column::Shard.eq(shard))
            .filter(event::Column::Seq.gt(after))
            .filter(event::Column::Seq.lt((end + 1) << 10))
            .order_by(event::Column::Seq, Order::Asc)
            .limit(EVENTS)
            .all(source)
            .await?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        let rows: Vec<event::Model> = rows.into_iter().map(|row| ours(row, log)).collect();
        if let Some(damaged) = rows.iter().find(|row| compare::alone(log, row).is_some()) {
            return Err(RebuildError::Damaged { seq: damaged.seq });
        }
        count += rows.len() as u64;
        let transaction = sql::begin(database.connection()).await?;
        sql::keep(database, &transaction, rows).await?;
        transaction.commit().await?;
        progress(after.unsigned_abs() >> 10, upto);
    }
    finish((source, (epoch, shard)), (database, log), end).await?;
    progress(upto, upto);
    Ok(count)
}

/// Takes over the record of what was no event, and moves the watermark.
async fn finish(
    (source, (epoch, shard)): (&DatabaseConnection, (i64, i64)),
    (database, log): (&Database, &Log),
    end: i64,
) -> Result<(), RebuildError> {
    let records: Vec<quarantine::Model> = quarantine::Entity::find()
        .filter(quarantine::Column::Epoch.eq(epoch))
        .filter(quarantine::Column::Shard.eq(shard))
        .filter(quarantine::Column::StreamSeq.lte(end))
        .all(source)
        .await?;
    let begun = watermark::Model {
        shard,
        epoch: i64::from(log.epoch),
        stream_seq: 0,
        replies: 0,
    };
    let transaction = sql::begin(database.connection()).await?;
    for row in records {
        let row = quarantine::Model {
            epoch: begun.epoch,
            ..row
        };
        sql::insert_quarantined(&transaction, &row).await?;
    }
    // Last: nobody reads the others without it.
    if !sql::move_watermark(&transaction, &begun, (begun.epoch, end)).await? {
        transaction.rollback().await?;
        return Err(RebuildError::Lost);
    }
    Ok(transaction.commit().await?)
}

fn ours(row: event::Model, log: &Log) -> event::Model {
    event::Model {
        epoch: i64::from(log.epoch),
        ..row
    }
}
