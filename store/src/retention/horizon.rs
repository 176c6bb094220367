use std::collections::{HashMap, HashSet};

use natterjack_nats_config::contract::Seq;
use natterjack_nats_config::tail::Log;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, Order,
    QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::plan::ages;
use super::rules::put;
use crate::entity::{event, hold, retention, room};

/// Up to where rooms were removed: the recorded reason of what is missing there.
#[derive(Debug, Default, Clone)]
pub(crate) struct Horizons(HashMap<(String, String), i64>);

impl Horizons {
    /// Those of all rooms of which something was removed.
    pub(crate) async fn load(db: &impl ConnectionTrait, log: &Log) -> Result<Self, DbErr> {
        let rows = of_log(log).filter(retention::Column::Horizon.gt(0)).all(db).await?;
        let rows = rows.into_iter().map(|row| ((row.tenant, row.room), row.horizon));
        Ok(Self(rows.collect()))
    }

    /// A room's; 0 where nothing of it was removed.
    pub(crate) fn of(&self, tenant: &str, room: &str) -> i64 {
        // A lookup by borrowed halves would need a map of maps; there are few of them, and few are asked for.
        self.0
            .get(&(tenant.to_owned(), room.to_owned()))
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this event may be missing.
    pub(crate) fn explain(&self, row: &event::Model) -> bool {
        ages(&row.kind) && row.seq < self.of(&row.tenant, &row.room)
    }
}

/// Up to where a room was removed; 0 where nothing of it was.
pub(crate) async fn of_room(db: &DatabaseConnection, log: &Log, (tenant, room): (&str, &str)) -> Result<Seq, DbErr> {
    let row = of_log(log)
        .filter(retention::Column::Tenant.eq(tenant))
        .filter(retention::Column::Room.eq(room))
        .one(db)
        .await?;
    Ok(row.map_or(Seq::ZERO, |row| Seq(row.horizon.unsigned_abs())))
}

/// The latest place up to which something of a tenant was removed; 0 where nothing was.
pub(crate) async fn of_tenant(db: &DatabaseConnection, log: &Log, tenant: &str) -> Result<Seq, DbErr> {
    let row = of_log(log)
        .filter(retention::Column::Tenant.eq(tenant))
        .order_by(retention::Column::Horizon, Order::Desc)
        .limit(1)
        .one(db)
        .await?;
    Ok(row.map_or(Seq::ZERO, |row| Seq(row.horizon.unsigned_abs())))
}

/// What a log's events up to a place do not say of the rooms of which something was removed: up to where that was, and where
/// those stand that have no later event.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    rows: Vec<retention::Model>,
    stand: Vec<room::Model>,
}

impl Removed {
    /// Of an archive's log, before the place `end`: what comes from there on is there in full.
    pub(crate) async fn load(db: &DatabaseConnection, log: &Log, end: i64) -> Result<Self, DbErr> {
        let mut removed = Self::default();
        for row in of_log(log).filter(retention::Column::Horizon.gt(0)).all(db).await? {
            let key = (row.epoch, row.shard, row.tenant.clone(), row.room.clone());
            let stands = room::Entity::find_by_id(key).one(db).await?;
            removed.stand.extend(stands.filter(|stands| stands.seq < end));
            let horizon = row.horizon.min(end);
            removed.rows.push(retention::Model {
                looked: 0,
                horizon,
                ..row
            });
        }
        Ok(removed)
    }

    /// Notes it for a log of an epoch.
    pub(crate) async fn store(self, db: &DatabaseTransaction, epoch: i64) -> Result<(), DbErr> {
        for row in self.rows {
            put(db, retention::Model { epoch, ..row }).await?;
        }
        for row in self.stand {
            crate::archive::rooms::raise(db, room::Model { epoch, ..row }).await?;
        }
        Ok(())
    }
}

/// Gives another archive, to which all events were copied, what events alone do not say: up to where rooms were removed, where
/// those stand, and what is held.
pub(crate) async fn carry_over(from: &DatabaseConnection, to: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
    for row in of_log(log).all(from).await? {
        let stands = room::Entity::find_by_id((epoch, shard, row.tenant.clone(), row.room.clone()));
        let stands = stands.one(from).await?;
        if let Some(stands) = stands.filter(|_| row.horizon > 0) {
            crate::archive::rooms::raise(to, stands).await?;
            super::remove::remove_as(from, to, &row).await?;
        }
        put(to, row).await?;
    }
    let held = hold::Entity::find()
        .filter(hold::Column::Epoch.eq(epoch))
        .filter(hold::Column::Shard.eq(shard))
        .all(from)
        .await?;
    for row in held {
        let key = (epoch, shard, row.tenant.clone(), row.what.clone(), row.name.clone());
        hold::Entity::delete_by_id(key).exec(to).await?;
        hold::Entity::insert(row.into_active_model())
            .exec_without_returning(to)
            .await?;
    }
    Ok(())
}

fn of_log(log: &Log) -> Select<retention::Entity> {
    retention::Entity::find()
        .filter(retention::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(retention::Column::Shard.eq(i64::from(log.shard)))
}

/// Takes out of what the log has those events that the archive has not, for a reason that is recorded.
pub(crate) async fn forgive(
    db: &DatabaseConnection,
    log: &Log,
    (expected, archived): (&mut Vec<event::Model>, &[event::Model]),
) -> Result<(), DbErr> {
    let there: HashSet<i64> = archived.iter().map(|row| row.seq).collect();
    if expected.iter().all(|row| there.contains(&row.seq)) {
        return Ok(());
    }
    // Now, and not before they were read: removing goes on.
    let horizons = Horizons::load(db, log).await?;
    expected.retain(|row| there.contains(&row.seq) || !horizons.explain(row));
    Ok(())
}
