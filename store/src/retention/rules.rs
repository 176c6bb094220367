use std::collections::{BTreeMap, HashSet};

use natterjack_nats_config::contract::{Event, HoldBody, Kind, RoomBody};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter};

use crate::entity::{event, hold, retention};

type RoomKey = (String, String);
type HoldKey = (String, String, String);

/// What events say of how long things are kept: the last word on each.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    rooms: BTreeMap<RoomKey, (i64, Option<i64>)>,
    holds: BTreeMap<HoldKey, (i64, bool)>,
}

impl Rules {
    /// Of events in log order.
    pub(crate) fn of(rows: &[event::Model]) -> Self {
        let mut rules = Self::default();
        for row in rows {
            rules.take(row);
        }
        rules
    }

    fn take(&mut self, row: &event::Model) {
        let is = |kind: Kind| row.kind == kind.as_str();
        if !is(Kind::Room) && !is(Kind::Hold) {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event>(&row.bytes) else {
            return;
        };
        let body = event.body.get();
        if is(Kind::Room) {
            let Ok(body) = serde_json::from_str::<RoomBody>(body) else {
                return;
            };
            let days = body.retention.map(|retention| i64::from(retention.days));
            self.rooms
                .insert((row.tenant.clone(), row.room.clone()), (row.seq, days));
            return;
        }
        let Ok(body) = serde_json::from_str::<HoldBody>(body) else {
            return;
        };
        let key = |what: &str, name: String| (row.tenant.clone(), what.to_owned(), name);
        let key = match (body.room, body.user) {
            (Some(room), None) => key("room", room.to_string()),
            (None, Some(user)) => key("user", user.to_string()),
            _ => return,
        };
        self.holds.insert(key, (row.seq, body.held));
    }
}

/// Stores what events of a log say, beside what is there.
pub(crate) async fn store(db: &DatabaseTransaction, (epoch, shard): (i64, i64), rules: Rules) -> Result<(), DbErr> {
    for ((tenant, room), (ruled, days)) in rules.rooms {
        let key = (epoch, shard, tenant.clone(), room.clone());
        let old = retention::Entity::find_by_id(key).one(db).await?;
        match old {
            Some(old) if old.ruled >= ruled || (old.days.is_none() && days.is_none()) => {}
            Some(old) => put(db, retention::Model { days, ruled, ..old }).await?,
            // Most rooms say nothing of it.
            None if days.is_none() => {}
            None => {
                let new = retention::Model {
                    epoch,
                    shard,
                    tenant,
                    room,
                    days,
                    ruled,
                    looked: 0,
                    horizon: 0,
                };
                retention::Entity::insert(new.into_active_model())
                    .exec_without_returning(db)
                    .await?;
            }
        }
    }
    for (key, (seq, held)) in rules.holds {
        store_hold(db, (epoch, shard), key, (seq, held)).await?;
    }
    Ok(())
}

async fn store_hold(
    db: &DatabaseTransaction,
    (epoch, shard): (i64, i64),
    (tenant, what, name): HoldKey,
    (seq, held): (i64, bool),
) -> Result<(), DbErr> {
    let key = (epoch, shard, tenant.clone(), what.clone(), name.clone());
    let old = hold::Entity::find_by_id(key.clone()).one(db).await?;
    if old.as_ref().is_some_and(|old| old.seq >= seq) {
        return Ok(());
    }
    hold::Entity::delete_by_id(key).exec(db).await?;
    let new = hold::Model {
        epoch,
        shard,
        tenant: tenant.clone(),
        what,
        name,
        seq,
        held: i64::from(held),
    };
    hold::Entity::insert(new.into_active_model())
        .exec_without_returning(db)
        .await?;
    if !held {
        // What was passed over because of it is looked at again.
        retention::Entity::update_many()
            .col_expr(retention::Column::Looked, Expr::value(0))
            .filter(retention::Column::Epoch.eq(epoch))
            .filter(retention::Column::Shard.eq(shard))
            .filter(retention::Column::Tenant.eq(tenant))
            .exec(db)
            .await?;
    }
    Ok(())
}

/// Puts a row in the place of the one of its room.
pub(super) async fn put(db: &DatabaseTransaction, row: retention::Model) -> Result<(), DbErr> {
    let key = (row.epoch, row.shard, row.tenant.clone(), row.room.clone());
    retention::Entity::delete_by_id(key).exec(db).await?;
    retention::Entity::insert(row.into_active_model())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// The names of what of a tenant is held now: its rooms, or its users.
pub(crate) async fn holds(
    db: &impl ConnectionTrait,
    log: &Log,
    (tenant, what): (&str, &str),
) -> Result<HashSet<String>, DbErr> {
    let rows = hold::Entity::find()
        .filter(hold::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(hold::Column::Shard.eq(i64::from(log.shard)))
        .filter(hold::Column::Tenant.eq(tenant))
        .filter(hold::Column::What.eq(what))
        .filter(hold::Column::Held.eq(1))
        .all(db)
        .await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}
