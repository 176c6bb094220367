use std::ops::RangeInclusive;

use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::compare::Witness;
use crate::entity::event;

/// What the archive has of a range of frames.
pub(crate) async fn witness(
    database: &DatabaseConnection,
    log: &Log,
    frames: &RangeInclusive<u64>,
) -> Result<Witness, DbErr> {
    let first = i64::try_from(*frames.start()).unwrap_or(i64::MAX >> 10) << 10;
    let last = i64::try_from(*frames.end()).unwrap_or(i64::MAX >> 10) << 10 | 1023;
    let rows: Vec<(i64, Vec<u8>)> = event::Entity::find()
        .select_only()
        .columns([event::Column::Seq, event::Column::Hash])
        .filter(event::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(event::Column::Shard.eq(i64::from(log.shard)))
        .filter(event::Column::Seq.between(first, last))
        .order_by_asc(event::Column::Seq)
        .into_tuple()
        .all(database)
        .await?;
    let mut witness = Witness::new();
    for (seq, hash) in rows {
        let frame = (seq >> 10).unsigned_abs();
        witness.entry(frame).or_default().push((seq, hash));
    }
    Ok(witness)
}
