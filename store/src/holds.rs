//! What is held, for those who may know.

use natterjack_nats_config::contract::{Event, Hold, HoldBody, HoldsPage, HoldsQuery, MAX_HOLDS, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::archive::{now, sql};
use crate::entity::hold;

/// The holds of a tenant, as far as the archive has read the log.
pub(crate) async fn holds(db: &DatabaseConnection, log: &Log, query: &HoldsQuery) -> Result<HoldsPage, DbErr> {
    let watermark = sql::archived(db, log).await?;
    let rows = hold::Entity::find()
        .filter(hold::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(hold::Column::Shard.eq(i64::from(log.shard)))
        .filter(hold::Column::Tenant.eq(query.tenant.as_str()))
        .filter(hold::Column::Held.eq(1))
        .order_by_asc(hold::Column::Seq)
        .limit(MAX_HOLDS)
        .all(db)
        .await?;
    let places: Vec<i64> = rows.iter().map(|row| row.seq).collect();
    let events = sql::lines_of(db, now::events_of(log, &places)).await?;
    let said = |seq: i64| {
        let line = events.iter().find(|(place, _)| *place == seq)?;
        serde_json::from_slice::<Event>(&line.1).ok()
    };
    let holds = rows
        .into_iter()
        .filter_map(|row| Some(show(&row, said(row.seq)?)))
        .collect();
    Ok(HoldsPage { watermark, holds })
}

fn show(row: &hold::Model, event: Event) -> Hold {
    let name = |what: &str| (row.what == what).then(|| row.name.clone());
    let body = serde_json::from_str::<HoldBody>(event.body.get()).ok();
    Hold {
        room: name("room"),
        user: name("user"),
        seq: Seq(row.seq.unsigned_abs()),
        at: event.at,
        by: event.from.to_string(),
        reason: body.and_then(|body| body.reason),
    }
}
