//! Where rooms stand, and what of them users have read: a view of the archive's events, kept in the same transaction as they
//! are, and the same in whatever portions and however often they are taken in.

use std::collections::BTreeMap;

use natterjack_nats_config::contract::{Event, Kind, ReadBody};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, Order,
    QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::sql::{MESSAGES, next_events};
use crate::entity::{event, read_mark, room};
use crate::retention::Horizons;

/// Rows of one statement, of 7 parameters each.
const ROWS: usize = 500;

type RoomKey = (String, String);
type MarkKey = (String, String, String);

/// What events come to, whatever was there before: by tenant and room, and by tenant, user and room.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Standings {
    pub(crate) rooms: BTreeMap<RoomKey, room::Model>,
    /// Their `n` is not known from the events alone: 0.
    pub(crate) marks: BTreeMap<MarkKey, read_mark::Model>,
}

impl Standings {
    pub(crate) fn of(rows: &[event::Model]) -> Self {
        let mut standings = Self::default();
        for row in rows {
            standings.take(row);
        }
        standings
    }

    /// Adds what other events come to.
    pub(crate) fn extend(&mut self, other: Self) {
        for room in other.rooms.into_values() {
            self.put(room);
        }
        for mark in other.marks.into_values() {
            self.mark(mark);
        }
    }

    fn take(&mut self, row: &event::Model) {
        let is_message = MESSAGES.iter().any(|kind| kind.as_str() == row.kind);
        self.put(room::Model {
            epoch: row.epoch,
            shard: row.shard,
            tenant: row.tenant.clone(),
            room: row.room.clone(),
            seq: row.seq,
            n: row.n,
            message: if is_message { row.seq } else { 0 },
        });
        if row.kind != Kind::Read.as_str() {
            return;
        }
        let body = serde_json::from_slice::<Event>(&row.bytes)
            .and_then(|event| serde_json::from_str::<ReadBody>(event.body.get()));
        let Ok(ReadBody { room, seq }) = body else { return };
        self.mark(read_mark::Model {
            epoch: row.epoch,
            shard: row.shard,
            tenant: row.tenant.clone(),
            from_user: row.from_user.clone(),
            room: room.to_string(),
            seq: i64::try_from(seq.0).unwrap_or(i64::MAX),
            n: 0,
        });
    }

    /// The last event counts, and the last message.
    fn put(&mut self, new: room::Model) {
        match self.rooms.get_mut(&(new.tenant.clone(), new.room.clone())) {
            Some(room) => room.follow(&new),
            None => drop(self.rooms.insert((new.tenant.clone(), new.room.clone()), new)),
        }
    }

    /// A mark never goes back.
    fn mark(&mut self, new: read_mark::Model) {
        let key = (new.tenant.clone(), new.from_user.clone(), new.room.clone());
        if self.marks.get(&key).is_none_or(|old| old.seq < new.seq) {
            self.marks.insert(key, new);
        }
    }
}

impl room::Model {
    fn follow(&mut self, other: &Self) {
        if self.seq < other.seq {
            (self.seq, self.n) = (other.seq, other.n);
        }
        self.message = Ord::max(self.message, other.message);
    }
}

/// Takes in events that are stored.
pub(crate) async fn take_in(db: &DatabaseTransaction, rows: &[event::Model]) -> Result<(), DbErr> {
    match rows.first() {
        Some(row) => store(db, (row.epoch, row.shard), Standings::of(rows)).await,
        None => Ok(()),
    }
}

/// Stores what events of a log come to, beside what is there. The events are there already.
pub(crate) async fn store(
    db: &DatabaseTransaction,
    (epoch, shard): (i64, i64),
    Standings { rooms, marks }: Standings,
) -> Result<(), DbErr> {
    let rooms: Vec<room::Model> = rooms.into_values().collect();
    let by_tenant = rooms.chunk_by(|one, other| one.tenant == other.tenant);
    for rooms in by_tenant.flat_map(|rooms| rooms.chunks(ROWS)) {
        store_rooms(db, (epoch, shard), rooms).await?;
    }
    let marks: Vec<read_mark::Model> = marks.into_values().collect();
    for marks in marks.chunks(ROWS) {
        store_marks(db, (epoch, shard), marks).await?;
    }
    Ok(())
}

/// Makes all of it anew from a log's events.
pub(crate) async fn rebuild(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
    let horizons = Horizons::load(db, log).await?;
    let mut past = Vec::new();
    if !horizons.is_empty() {
        let rows = room::Entity::find()
            .filter(room::Column::Epoch.eq(epoch))
            .filter(room::Column::Shard.eq(shard))
            .all(db)
            .await?;
        past.extend(
            rows.into_iter()
                .filter(|row| row.seq < horizons.of(&row.tenant, &row.room)),
        );
    }
    room::Entity::delete_many()
        .filter(room::Column::Epoch.eq(epoch))
        .filter(room::Column::Shard.eq(shard))
        .exec(db)
        .await?;
    read_mark::Entity::delete_many()
        .filter(read_mark::Column::Epoch.eq(epoch))
        .filter(read_mark::Column::Shard.eq(shard))
        .exec(db)
        .await?;
    take_in_behind(db, log, -1).await?;
    // Rooms whose last events are not there any more.
    for row in past {
        raise(db, row).await?;
    }
    Ok(())
}

/// Notes where a room stands, unless it stands further on, and how much of it was read by those who have read all that is left.
pub(crate) async fn raise(db: &DatabaseTransaction, row: room::Model) -> Result<(), DbErr> {
    let (epoch, shard) = (row.epoch, row.shard);
    store_rooms(db, (epoch, shard), std::slice::from_ref(&row)).await?;
    let key = (epoch, shard, row.tenant.clone(), row.room.clone());
    let stands = room::Entity::find_by_id(key).one(db).await?.unwrap_or(row);
    let left: Option<Option<i64>> = of_room(epoch, shard, (&stands.tenant, &stands.room))
        .select_only()
        .column_as(event::Column::Seq.max(), "seq")
        .into_tuple()
        .one(db)
        .await?;
    read_mark::Entity::update_many()
        .col_expr(read_mark::Column::N, Expr::value(stands.n))
        .filter(read_mark::Column::Epoch.eq(epoch))
        .filter(read_mark::Column::Shard.eq(shard))
        .filter(read_mark::Column::Tenant.eq(stands.tenant))
        .filter(read_mark::Column::Room.eq(stands.room))
        .filter(read_mark::Column::Seq.gte(left.flatten().unwrap_or_default()))
        .exec(db)
        .await?;
    Ok(())
}

/// Takes in what was archived by a program that knew nothing of this, which may have gone on beside this one.
pub(crate) async fn catch_up(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    let counted: Option<Option<i64>> = room::Entity::find()
        .select_only()
        .column_as(room::Column::Seq.max(), "seq")
        .filter(room::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(room::Column::Shard.eq(i64::from(log.shard)))
        .into_tuple()
        .one(db)
        .await?;
    take_in_behind(db, log, counted.flatten().unwrap_or(-1)).await
}

/// Takes in all events of a log behind a place.
async fn take_in_behind(db: &DatabaseTransaction, log: &Log, mut after: i64) -> Result<(), DbErr> {
    loop {
        let rows = next_events((i64::from(log.epoch), i64::from(log.shard)), after)
            .all(db)
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.seq;
        take_in(db, &rows).await?;
    }
}

/// How many rooms and marks stand otherwise than `expected`, which is what all events up to `upto` come to.
pub(crate) async fn differing(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Standings,
    (upto, horizons): (i64, &Horizons),
) -> Result<u64, DbErr> {
    let (mut rooms, mut marks) = (expected.rooms.clone(), expected.marks.clone());
    // What is not there any more cannot be compared.
    let comparable = |row: &room::Model| {
        let horizon = horizons.of(&row.tenant, &row.room);
        let mut row = row.clone();
        if row.seq < horizon {
            (row.seq, row.n) = (0, 0);
        }
        if row.message < horizon {
            row.message = 0;
        }
        row
    };
    let mut wrong = 0;
    let stored = room::Entity::find()
        .filter(room::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(room::Column::Shard.eq(i64::from(log.shard)))
        .all(db)
        .await?;
    for row in stored {
        let known = rooms.remove(&(row.tenant.clone(), row.room.clone()));
        let is_known = known.is_some_and(|known| comparable(&known) == comparable(&row));
        wrong += u64::from(!is_known && row.seq <= upto);
    }
    let stored = read_mark::Entity::find()
        .filter(read_mark::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(read_mark::Column::Shard.eq(i64::from(log.shard)))
        .all(db)
        .await?;
    for row in stored {
        let known = marks.remove(&(row.tenant.clone(), row.from_user.clone(), row.room.clone()));
        // A mark of later may be in its place, which is no smaller.
        wrong += u64::from(known.is_some_and(|known| known.seq > row.seq));
    }
    Ok(wrong + (rooms.len() + marks.len()) as u64)
}

/// Where rooms of a tenant stand, and a user's marks in them. The caller knows that they are few.
pub(crate) async fn of_user(
    db: &impl ConnectionTrait,
    log: &Log,
    (tenant, user): (&str, &str),
    rooms: &[&str],
) -> Result<(Vec<room::Model>, Vec<read_mark::Model>), DbErr> {
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
    let standings = room::Entity::find()
        .filter(room::Column::Epoch.eq(epoch))
        .filter(room::Column::Shard.eq(shard))
        .filter(room::Column::Tenant.eq(tenant))
        .filter(room::Column::Room.is_in(rooms.iter().copied()))
        .all(db)
        .await?;
    let marks = read_mark::Entity::find()
        .filter(read_mark::Column::Epoch.eq(epoch))
        .filter(read_mark::Column::Shard.eq(shard))
        .filter(read_mark::Column::Tenant.eq(tenant))
        .filter(read_mark::Column::FromUser.eq(user))
        .filter(read_mark::Column::Room.is_in(rooms.iter().copied()))
        .all(db)
        .await?;
    Ok((standings, marks))
}

/// All of one tenant: a list of pairs is compared with each room one by one, a list of names by a hash or the index.
async fn store_rooms(db: &DatabaseTransaction, (epoch, shard): (i64, i64), rooms: &[room::Model]) -> Result<(), DbErr> {
    let Some(first) = rooms.first() else { return Ok(()) };
    let which = Condition::all()
        .add(room::Column::Epoch.eq(epoch))
        .add(room::Column::Shard.eq(shard))
        .add(room::Column::Tenant.eq(first.tenant.as_str()))
        .add(room::Column::Room.is_in(rooms.iter().map(|row| row.room.as_str())));
    let mut merged: BTreeMap<RoomKey, room::Model> = rooms
        .iter()
        .map(|row| ((row.tenant.clone(), row.room.clone()), row.clone()))
        .collect();
    let old = room::Entity::find().filter(which.clone()).all(db).await?;
    for row in &old {
        if let Some(new) = merged.get_mut(&(row.tenant.clone(), row.room.clone())) {
            new.follow(row);
        }
    }
    if !old.is_empty() {
        room::Entity::delete_many().filter(which).exec(db).await?;
    }
    let new = merged.into_values().map(IntoActiveModel::into_active_model);
    room::Entity::insert_many(new).exec_without_returning(db).await?;
    Ok(())
}

async fn store_marks(
    db: &DatabaseTransaction,
    (epoch, shard): (i64, i64),
    marks: &[read_mark::Model],
) -> Result<(), DbErr> {
    let keys = marks
        .iter()
        .map(|row| (row.tenant.clone(), row.from_user.clone(), row.room.clone()));
    let key = Expr::tuple([
        Expr::col(read_mark::Column::Tenant),
        Expr::col(read_mark::Column::FromUser),
        Expr::col(read_mark::Column::Room),
    ]);
    let which = Condition::all()
        .add(read_mark::Column::Epoch.eq(epoch))
        .add(read_mark::Column::Shard.eq(shard))
        .add(read_mark::Column::Tenant.is_in(marks.iter().map(|row| row.tenant.as_str())))
        .add(read_mark::Column::FromUser.is_in(marks.iter().map(|row| row.from_user.as_str())))
        .add(key.in_tuples(keys));
    let mut merged: BTreeMap<MarkKey, read_mark::Model> = BTreeMap::new();
    for mark in marks {
        let n = number_at(db, mark).await?;
        let key = (mark.tenant.clone(), mark.from_user.clone(), mark.room.clone());
        merged.insert(key, read_mark::Model { n, ..mark.clone() });
    }
    let old = read_mark::Entity::find().filter(which.clone()).all(db).await?;
    for row in &old {
        let key = (row.tenant.clone(), row.from_user.clone(), row.room.clone());
        if let Some(new) = merged.get_mut(&key).filter(|new| new.seq < row.seq) {
            *new = row.clone();
        }
    }
    if !old.is_empty() {
        read_mark::Entity::delete_many().filter(which).exec(db).await?;
    }
    let new = merged.into_values().map(IntoActiveModel::into_active_model);
    read_mark::Entity::insert_many(new).exec_without_returning(db).await?;
    Ok(())
}

/// The number of the room's last event up to a mark, which may be removed already: it is told by the first event behind the mark
/// that is there, and if there is none by where the room stands.
pub(crate) async fn number_at(db: &impl ConnectionTrait, mark: &read_mark::Model) -> Result<i64, DbErr> {
    let behind: Option<i64> = of_room(mark.epoch, mark.shard, (&mark.tenant, &mark.room))
        .select_only()
        .column(event::Column::N)
        .filter(event::Column::Seq.gt(mark.seq))
        .order_by(event::Column::Seq, Order::Asc)
        .limit(1)
        .into_tuple()
        .one(db)
        .await?;
    if let Some(behind) = behind {
        return Ok(behind - 1);
    }
    let key = (mark.epoch, mark.shard, mark.tenant.clone(), mark.room.clone());
    let stands = room::Entity::find_by_id(key).one(db).await?;
    Ok(stands.map_or(0, |stands| stands.n))
}

/// The events of a room, by its index.
fn of_room(epoch: i64, shard: i64, (tenant, room): (&str, &str)) -> Select<event::Entity> {
    event::Entity::find()
        .filter(event::Column::Tenant.eq(tenant))
        .filter(event::Column::Room.eq(room))
        .filter(Expr::col(event::Column::Epoch).add(0).eq(epoch))
        .filter(Expr::col(event::Column::Shard).add(0).eq(shard))
}

#[cfg(test)]
mod tests;
