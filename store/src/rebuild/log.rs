use std::collections::HashMap;

use async_nats::{Client, jetstream};
use bytes::Bytes;
use natterjack_nats_config::contract::{Event, EventLine, Id, Seq};
use natterjack_nats_config::epoch;
use natterjack_nats_config::stream::{ROOM_EVENTS_KEPT, log_config, reconcile};
use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect};

use super::difference::first_difference;
use super::held::Held;
use super::rekey::rekey;
use super::{RebuildConfig, RebuildError, Rebuilt};
use crate::archive::project::{self, Rows};
use crate::archive::{Database, sql};
use crate::entity::{event, room, watermark};
use crate::log::Renewal;
use crate::verify::read;

/// Events that are read at a time.
const EVENTS: u64 = 2000;
/// Frames that are kept apart in one transaction.
const FRAMES: usize = 64;

/// The frames of a log that the archive has not got, or has otherwise: from the first one to the last.
type Apart = (Log, u64, u64);

/// Makes a log of a new epoch that goes on where the archive ends: the sequences go on, the writers' state is a fold of the
/// archive's events, and the rooms hold their last events. Every cursor of before is answered `410 epoch-changed`.
///
/// Where a log is still there that is not the archive's, what it has otherwise is kept in the archive under its own epoch,
/// and the log can be written no more. Stores must not run. `progress` is told what is done, and of how much, in frames.
pub async fn rebuild_log(
    client: &Client,
    database: &Database,
    config: &RebuildConfig,
    progress: impl Fn(u64, u64),
) -> Result<Rebuilt, RebuildError> {
    let shard = Log::first(config.subjects.clone()).shard;
    let held = Held::take(client, config, &[format!("writer.{shard}"), format!("archive.{shard}")]).await?;
    held.hold(Box::pin(renew(client, database, config, &progress))).await
}

async fn renew(
    client: &Client,
    database: &Database,
    config: &RebuildConfig,
    progress: &impl Fn(u64, u64),
) -> Result<Rebuilt, RebuildError> {
    let archived = database.log(&config.subjects).await?;
    let row = sql::watermark(database.connection(), &archived).await?;
    let row = row.filter(|row| row.stream_seq > 0).ok_or(RebuildError::Empty)?;
    let upto = row.stream_seq.unsigned_abs();
    let newest = epoch::newest(client, &config.subjects, archived.shard).await?;
    let old = newest.map(|epoch| Log {
        epoch,
        ..archived.clone()
    });
    let apart = match &old {
        Some(old) => apart(client, database, (&archived, upto), old).await?,
        None => None,
    };
    let epoch = archived.epoch.max(newest.unwrap_or_default()).saturating_add(1);
    let log = Log {
        epoch: epoch.max(config.now),
        ..archived.clone()
    };
    // Frames that the old log has are not counted again: their events may have been told to somebody.
    let last = apart.as_ref().map_or(upto, |(_, _, last)| upto.max(*last));
    let events = prepare(client, database, (&archived, &log), (config, last, progress)).await?;
    move_over(database, (&row, &log), last).await?;
    let kept = match &apart {
        Some(apart) => Some((keep_apart(client, database, apart).await?, i64::from(apart.0.epoch))),
        None => None,
    };
    let mut wanted = log_config(&log, config.replicas, config.log_max_bytes);
    wanted.first_sequence = Some(last + 1);
    reconcile(client, wanted, &[]).await?;
    if let Some(old) = &old {
        seal(client, old).await?;
    }
    Ok(Rebuilt {
        log,
        upto: last,
        events,
        apart: kept,
    })
}

/// What of an old log is not the archive's; an error if all of it is.
async fn apart(
    client: &Client,
    database: &Database,
    (archived, upto): (&Log, u64),
    old: &Log,
) -> Result<Option<Apart>, RebuildError> {
    let bounds = old.bounds(client).await?;
    let differs = first_difference(client, old, (database, archived), upto).await?;
    let from = match differs {
        Some(frame) => frame,
        None if bounds.last >= upto && old.epoch == archived.epoch => {
            return Err(RebuildError::Agree { stream: old.stream() });
        }
        None if bounds.last <= upto => return Ok(None),
        None => upto + 1,
    };
    Ok(Some((old.clone(), from.max(bounds.first), bounds.last)))
}

/// Folds all that is archived, fills the rooms, and puts the state away. Gives how many events that were.
async fn prepare(
    client: &Client,
    database: &Database,
    (archived, log): (&Log, &Log),
    (config, last, progress): (&RebuildConfig, u64, &impl Fn(u64, u64)),
) -> Result<u64, RebuildError> {
    let db = database.connection();
    let rooms = room::Entity::find()
        .filter(room::Column::Epoch.eq(i64::from(archived.epoch)))
        .filter(room::Column::Shard.eq(i64::from(archived.shard)))
        .all(db)
        .await?;
    let heads: HashMap<(&str, &str), i64> = rooms
        .iter()
        .map(|row| ((row.tenant.as_str(), row.room.as_str()), row.n))
        .collect();
    let mut renewal = Renewal::begin(client, log, config.replicas).await?;
    let (mut after, mut events) = (-1, 0);
    loop {
        let rows = sql::of_log(archived)
            .filter(event::Column::Seq.gt(after))
            .order_by(event::Column::Seq, Order::Asc)
            .limit(EVENTS)
            .all(db)
            .await?;
        let Some(end) = rows.last() else { break };
        after = end.seq;
        events += rows.len() as u64;
        for row in rows {
            let head = heads.get(&(row.tenant.as_str(), row.room.as_str()));
            let is_recent = head.is_none_or(|head| head - row.n < ROOM_EVENTS_KEPT);
            renewal.take(&line(row)?, is_recent).await?;
        }
        renewal.look().await?;
        progress(after.unsigned_abs() >> 10, last);
    }
    for row in &rooms {
        let name = |text: &str| text.parse::<Id>().map_err(|_| RebuildError::Damaged { seq: row.seq });
        let stands = (Seq(row.seq.unsigned_abs()), row.n.unsigned_abs());
        renewal.room(&name(&row.tenant)?, &name(&row.room)?, stands);
    }
    renewal.finish(last, &config.worker).await?;
    progress(last, last);
    Ok(events)
}

fn line(row: event::Model) -> Result<EventLine, RebuildError> {
    let event: Event = serde_json::from_slice(&row.bytes).map_err(|_| RebuildError::Damaged { seq: row.seq })?;
    Ok(EventLine {
        event,
        bytes: Bytes::from(row.bytes),
    })
}

/// Gives the archive to the new epoch, all of it or nothing.
async fn move_over(database: &Database, (row, log): (&watermark::Model, &Log), last: u64) -> Result<(), RebuildError> {
    let transaction = sql::begin(database.connection()).await?;
    let (epoch, end) = (i64::from(log.epoch), i64::try_from(last).unwrap_or(i64::MAX));
    if !sql::move_watermark(&transaction, row, (epoch, end)).await? {
        transaction.rollback().await?;
        return Err(RebuildError::Lost);
    }
    rekey(&transaction, row.shard, (row.epoch, epoch)).await?;
    if end > row.stream_seq {
        let gap = project::passed_over(log, row.stream_seq.unsigned_abs() + 1, last);
        sql::insert_quarantined(&transaction, &gap).await?;
    }
    Ok(transaction.commit().await?)
}

/// Keeps what an old log has otherwise than the archive, under the log's own epoch. Gives how many events that are.
async fn keep_apart(client: &Client, database: &Database, (old, from, last): &Apart) -> Result<u64, RebuildError> {
    let mut frames = read::frames(client, old, *from, *last).await?;
    let mut count = 0;
    while let Some(part) = frames.next(FRAMES).await? {
        let (there, _) = read::archived(database, old, &part).await?;
        let Rows { events, quarantined } = part.rows;
        count += events.len() as u64;
        let new = |row: &event::Model| there.iter().all(|kept| kept.seq != row.seq);
        let transaction = sql::begin(database.connection()).await?;
        let insert = database.insert();
        insert
            .run(&transaction, events.into_iter().filter(new).collect())
            .await?;
        for row in &quarantined {
            sql::insert_quarantined(&transaction, row).await?;
        }
        transaction.commit().await?;
    }
    Ok(count)
}

/// Keeps a log from being written, for good: a store that was forgotten somewhere fails.
async fn seal(client: &Client, log: &Log) -> Result<(), RebuildError> {
    let failed = |error: &dyn std::fmt::Display| RebuildError::Nats(format!("{} is not sealed: {error}", log.stream()));
    let jetstream = jetstream::new(client.clone());
    let stream = jetstream
        .get_stream(log.stream())
        .await
        .map_err(|error| failed(&error))?;
    let config = jetstream::stream::Config {
        sealed: true,
        ..stream.cached_info().config.clone()
    };
    jetstream.update_stream(config).await.map_err(|error| failed(&error))?;
    Ok(())
}
