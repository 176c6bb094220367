//! Who is or was in which room, and since when: a view of the archive's events, kept in the same transaction as they are, and the
//! same in whatever portions they are taken in.

use std::collections::BTreeMap;

use natterjack_nats_config::contract::{Event, Kind, MemberBody};
use natterjack_nats_config::tail::Log;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, Order,
    QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::sql::{EVENTS, Room, next_events, of_log};
use crate::entity::{audit, event, member};

/// Rows of one statement, of 12 parameters each.
const ROWS: usize = 500;

type RoomKey = (String, String);

/// What an event says of a membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    row: member::Model,
    /// It ends.
    leaves: bool,
}

/// Memberships, by tenant and room, and by user.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Members(BTreeMap<RoomKey, BTreeMap<String, member::Model>>);

impl Members {
    /// What some events say, in log order.
    pub(crate) fn changes(rows: &[event::Model]) -> Vec<Change> {
        rows.iter().filter_map(change).collect()
    }

    /// Takes in events that follow all that were taken in before.
    pub(crate) fn extend(&mut self, rows: &[event::Model]) {
        for change in rows.iter().filter_map(change) {
            self.take(change);
        }
    }

    /// A change of role leaves the time of joining as it is; who comes back has joined anew.
    fn take(&mut self, Change { row, leaves }: Change) {
        let room = self.0.entry((row.tenant.clone(), row.room.clone())).or_default();
        match room.get_mut(&row.user_id) {
            Some(known) if known.left_seq.is_some() && leaves => known.seq = row.seq,
            Some(known) if known.left_seq.is_none() && leaves => {
                (known.seq, known.left_seq, known.left_at) = (row.seq, row.left_seq, row.left_at);
            }
            Some(known) if known.left_seq.is_none() => {
                (known.seq, known.role, known.visible_from) = (row.seq, row.role, row.visible_from);
            }
            _ => drop(room.insert(row.user_id.clone(), row)),
        }
    }

    fn rows(self) -> impl Iterator<Item = member::Model> {
        self.0.into_values().flat_map(BTreeMap::into_values)
    }
}

/// The membership as it were if nothing was known of it before this event.
fn change(row: &event::Model) -> Option<Change> {
    if row.kind != Kind::Member.as_str() {
        return None;
    }
    let event = serde_json::from_slice::<Event>(&row.bytes).ok()?;
    let body = serde_json::from_str::<MemberBody>(event.body.get()).ok()?;
    let leaves = body.role.is_none();
    let here = || (Some(row.seq), Some(row.at.clone()));
    let (joined, left) = if leaves {
        ((None, None), here())
    } else {
        (here(), (None, None))
    };
    Some(Change {
        leaves,
        row: member::Model {
            epoch: row.epoch,
            shard: row.shard,
            tenant: row.tenant.clone(),
            room: row.room.clone(),
            user_id: body.user.to_string(),
            role: body.role.map(|role| role.to_string()),
            visible_from: i64::try_from(body.visible_from.unwrap_or_default().0).unwrap_or(i64::MAX),
            seq: row.seq,
            joined_seq: joined.0,
            joined_at: joined.1,
            left_seq: left.0,
            left_at: left.1,
        },
    })
}

/// Stores what events of a log come to, beside what is there. The events are there already.
pub(crate) async fn store(db: &DatabaseTransaction, of: (i64, i64), changes: Vec<Change>) -> Result<(), DbErr> {
    if append(db, of, changes).await? {
        return Ok(());
    }
    // Something was put in before the end: what that changed of what is behind it, the events tell.
    rebuild_of(db, of).await
}

/// `false`: there is something of later already.
async fn append(db: &DatabaseTransaction, of: (i64, i64), changes: Vec<Change>) -> Result<bool, DbErr> {
    let mut by_room: BTreeMap<RoomKey, Vec<Change>> = BTreeMap::new();
    for change in changes {
        let key = (change.row.tenant.clone(), change.row.room.clone());
        by_room.entry(key).or_default().push(change);
    }
    for (room, changes) in by_room {
        if !append_in(db, of, (&room.0, &room.1), changes).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same in one room.
async fn append_in(
    db: &DatabaseTransaction,
    (epoch, shard): (i64, i64),
    (tenant, room): (&str, &str),
    changes: Vec<Change>,
) -> Result<bool, DbErr> {
    let mut first: BTreeMap<String, i64> = BTreeMap::new();
    for Change { row, .. } in &changes {
        first.entry(row.user_id.clone()).or_insert(row.seq);
    }
    let users: Vec<&str> = first.keys().map(String::as_str).collect();
    let mut members = Members::default();
    for users in users.chunks(ROWS) {
        let these = Condition::all()
            .add(member::Column::Epoch.eq(epoch))
            .add(member::Column::Shard.eq(shard))
            .add(member::Column::Tenant.eq(tenant))
            .add(member::Column::Room.eq(room))
            .add(member::Column::UserId.is_in(users.iter().copied()));
        let old = member::Entity::find().filter(these.clone()).all(db).await?;
        if old
            .iter()
            .any(|row| first.get(&row.user_id).is_some_and(|seq| *seq <= row.seq))
        {
            return Ok(false);
        }
        if !old.is_empty() {
            member::Entity::delete_many().filter(these).exec(db).await?;
        }
        let room = members.0.entry((tenant.to_owned(), room.to_owned())).or_default();
        room.extend(old.into_iter().map(|row| (row.user_id.clone(), row)));
    }
    for change in changes {
        members.take(change);
    }
    let rows: Vec<member::Model> = members.rows().collect();
    for rows in rows.chunks(ROWS) {
        let rows = rows.iter().cloned().map(IntoActiveModel::into_active_model);
        member::Entity::insert_many(rows).exec_without_returning(db).await?;
    }
    Ok(true)
}

/// Makes all of it anew from a log's events.
pub(crate) async fn rebuild(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    rebuild_of(db, (i64::from(log.epoch), i64::from(log.shard))).await
}

async fn rebuild_of(db: &DatabaseTransaction, of: (i64, i64)) -> Result<(), DbErr> {
    member::Entity::delete_many()
        .filter(member::Column::Epoch.eq(of.0))
        .filter(member::Column::Shard.eq(of.1))
        .exec(db)
        .await?;
    let mut after = -1;
    loop {
        let rows = next_events(of, after)
            .filter(event::Column::Kind.eq(Kind::Member.as_str()))
            .all(db)
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.seq;
        append(db, of, Members::changes(&rows)).await?;
    }
}

/// Takes in what was archived by a program that knew nothing of this, which may have gone on beside this one. The audit trail, which
/// is caught up by then, knows where that is.
pub(crate) async fn catch_up(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    let of = (i64::from(log.epoch), i64::from(log.shard));
    let known: Option<Option<i64>> = of_members(of)
        .select_only()
        .column_as(member::Column::Seq.max(), "seq")
        .into_tuple()
        .one(db)
        .await?;
    let mut after = known.flatten().unwrap_or(-1);
    loop {
        let places: Vec<i64> = audit::Entity::find()
            .select_only()
            .column(audit::Column::Seq)
            .filter(audit::Column::Epoch.eq(of.0))
            .filter(audit::Column::Shard.eq(of.1))
            .filter(audit::Column::Kind.eq(Kind::Member.as_str()))
            .filter(audit::Column::Seq.gt(after))
            .order_by(audit::Column::Seq, Order::Asc)
            .limit(EVENTS)
            .into_tuple()
            .all(db)
            .await?;
        let Some(last) = places.last() else { return Ok(()) };
        after = *last;
        for places in places.chunks(ROWS) {
            let rows = of_log(log)
                .filter(event::Column::Seq.is_in(places.iter().copied()))
                .order_by(event::Column::Seq, Order::Asc)
                .all(db)
                .await?;
            store(db, of, Members::changes(&rows)).await?;
        }
    }
}

/// The places where memberships stand otherwise than `expected`, which is what all events up to `upto` come to. What was changed
/// later too cannot be compared.
pub(crate) async fn differing(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Members,
    upto: i64,
) -> Result<Vec<i64>, DbErr> {
    let mut missing = expected.clone();
    let mut wrong = Vec::new();
    let stored = of_members((i64::from(log.epoch), i64::from(log.shard))).all(db).await?;
    for row in stored {
        let room = missing.0.get_mut(&(row.tenant.clone(), row.room.clone()));
        let known = room.and_then(|room| room.remove(&row.user_id));
        if known.as_ref() != Some(&row) && row.seq <= upto {
            wrong.push(row.seq);
        }
    }
    wrong.extend(missing.rows().map(|row| row.seq));
    wrong.sort_unstable();
    Ok(wrong)
}

/// Those of some users who are in a room.
pub(crate) async fn of_room(
    db: &impl ConnectionTrait,
    room: Room<'_>,
    users: &[&str],
) -> Result<Vec<member::Model>, DbErr> {
    of_members((i64::from(room.log.epoch), i64::from(room.log.shard)))
        .filter(member::Column::Tenant.eq(room.tenant.as_str()))
        .filter(member::Column::Room.eq(room.id.as_str()))
        .filter(member::Column::UserId.is_in(users.iter().copied()))
        .filter(member::Column::LeftSeq.is_null())
        .all(db)
        .await
}

fn of_members((epoch, shard): (i64, i64)) -> Select<member::Entity> {
    member::Entity::find()
        .filter(member::Column::Epoch.eq(epoch))
        .filter(member::Column::Shard.eq(shard))
}

#[cfg(test)]
mod tests;
