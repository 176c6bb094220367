//! The audit trail for those who may read it: newest first, each with its event and its place in the chain of hashes.

use std::collections::HashMap;

use natterjack_nats_config::contract::{Problem, Seq, TrailEntry, TrailPage, TrailQuery};
use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect};

use crate::archive::{now, sql};
use crate::entity::audit;
use crate::history::raw;

/// One page of a tenant's trail, as far as the archive has read the log.
pub(crate) async fn trail(
    db: &DatabaseConnection,
    log: &Log,
    query: &TrailQuery,
) -> Result<Result<TrailPage, Problem>, DbErr> {
    let mut find = audit::Entity::find()
        .filter(audit::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(audit::Column::Shard.eq(i64::from(log.shard)))
        .filter(audit::Column::Tenant.eq(query.tenant.as_str()));
    if let Some(before) = query.before {
        find = find.filter(audit::Column::Seq.lt(sql::bound(before)));
    }
    if let Some(actor) = &query.actor {
        find = find.filter(audit::Column::Actor.eq(actor.as_str()));
    }
    if let Some(kind) = query.kind {
        find = find.filter(audit::Column::Kind.eq(kind.as_str()));
    }
    let limit = u64::from(query.limit);
    let mut rows = find
        .order_by(audit::Column::Seq, Order::Desc)
        .limit(limit + 1)
        .all(db)
        .await?;
    let more = rows.len() as u64 > limit;
    rows.truncate(usize::from(query.limit));
    let places: Vec<i64> = rows.iter().map(|row| row.seq).collect();
    let lines = sql::lines_of(db, now::events_of(log, &places)).await?;
    let mut lines: HashMap<i64, Vec<u8>> = lines.into_iter().collect();
    // Nothing on it is later.
    let watermark = sql::archived(db, log).await?;
    let next = rows.last().filter(|_| more).map(|row| Seq(row.seq.unsigned_abs()));
    let entries = rows.into_iter().filter_map(|row| {
        let line = lines.remove(&row.seq)?;
        let hash = row
            .hash
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Some(raw(line).map(|event| TrailEntry { event, hash }))
    });
    let entries: Result<Vec<TrailEntry>, Problem> = entries.collect();
    Ok(entries.map(|entries| TrailPage {
        watermark,
        entries,
        next,
    }))
}
