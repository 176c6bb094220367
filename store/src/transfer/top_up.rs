use async_nats::Client;
use natterjack_nats_config::tail::Log;

use super::TransferError;
use crate::archive::project::{self, Rows};
use crate::archive::{Database, sql};
use crate::entity::watermark;
use crate::verify::read::{self, Part};

/// Frames that are taken in in one transaction.
const FRAMES: usize = 64;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToppedUp {
    /// The archive has all that the log had when it was asked: up to this frame.
    Level(u64),
    /// The log does not reach back to the archive's end any more: copy again what another archive has by now.
    Trimmed,
}

/// Takes into an archive what a log has and it has not, up to where the log ends now. Nobody else writes to that archive.
pub async fn top_up(
    client: &Client,
    database: &Database,
    log: &Log,
    progress: impl Fn(u64, u64),
) -> Result<ToppedUp, TransferError> {
    let db = database.connection();
    if sql::watermark(db, log).await?.is_none() {
        sql::begin_watermark(db, log).await?;
    }
    let mut at = sql::archived(db, log).await?.frame();
    let bounds = log.bounds(client).await.map_err(silent)?;
    if bounds.first > at + 1 {
        return Ok(ToppedUp::Trimmed);
    }
    let upto = bounds.last.max(at);
    progress(at, upto);
    if at == upto {
        return Ok(ToppedUp::Level(at));
    }
    let mut frames = read::frames(client, log, at + 1, upto).await.map_err(silent)?;
    while let Some(part) = frames.next(FRAMES).await.map_err(silent)? {
        let last = part.last;
        store(database, log, (at, part)).await?;
        at = last;
        progress(at, upto);
    }
    Ok(ToppedUp::Level(at))
}

async fn store(database: &Database, log: &Log, (at, part): (u64, Part)) -> Result<(), TransferError> {
    let number = |frame: u64| i64::try_from(frame).unwrap_or(i64::MAX);
    let old = watermark::Model {
        shard: i64::from(log.shard),
        epoch: i64::from(log.epoch),
        stream_seq: number(at),
        replies: 0,
    };
    let transaction = sql::begin(database.connection()).await?;
    if !sql::move_watermark(&transaction, &old, (old.epoch, number(part.last))).await? {
        transaction.rollback().await?;
        return Err(TransferError::Overtaken);
    }
    let Rows {
        events,
        mut quarantined,
    } = part.rows;
    let mut next = at + 1;
    for frame in part.frames {
        if frame > next {
            quarantined.extend(project::absent(log, next, frame).quarantined);
        }
        next = frame + 1;
    }
    sql::keep(database, &transaction, events).await?;
    for row in &quarantined {
        sql::insert_quarantined(&transaction, row).await?;
    }
    transaction.commit().await?;
    Ok(())
}

fn silent(error: impl std::fmt::Display) -> TransferError {
    TransferError::Log(error.to_string())
}
