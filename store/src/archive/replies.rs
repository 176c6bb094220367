//! Which messages answer which: a view of the archive's events, kept in the same transaction as they are, and the same in
//! whatever portions and however often they are taken in.

use std::collections::{BTreeMap, HashMap, HashSet};

use natterjack_nats_config::contract::{Event, Kind};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait, IntoActiveModel, JoinType, Order,
    QueryFilter, QueryOrder, QuerySelect, RelationDef,
};
use serde::Deserialize;

use super::sql::{EVENTS, MESSAGES, Range, Room, bound, next_events};
use crate::entity::{changed, event, reply, watermark};
use crate::retention::Horizons;

/// Rows of one statement, of 6 parameters each.
const ROWS: usize = 500;
/// The longest id that a message may answer, in bytes: what the column holds.
const MAX_TARGET_BYTES: usize = 128;
/// What stands in the line of a message that answers another one, and in few others.
const MARK: &[u8] = b"\"reply_to\":";

/// What events come to, by the places of the messages that answer others.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Replies(BTreeMap<i64, reply::Model>);

/// The answers to a message that are not deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answered {
    count: i64,
    last: i64,
}

/// Whose answers are looked for.
#[derive(Deserialize)]
struct Asked<'a> {
    id: &'a str,
    tenant: &'a str,
    room: &'a str,
}

impl Replies {
    pub(crate) fn of(rows: &[event::Model]) -> Self {
        let replies = rows.iter().filter_map(|row| Some((row.seq, reply(row)?)));
        Self(replies.collect())
    }

    /// Adds what other events come to.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

fn reply(row: &event::Model) -> Option<reply::Model> {
    let is_message = MESSAGES.iter().any(|kind| kind.as_str() == row.kind);
    // Most messages answer none, and are not parsed.
    if !is_message || !row.bytes.windows(MARK.len()).any(|part| part == MARK) {
        return None;
    }
    let target = serde_json::from_slice::<Event>(&row.bytes).ok()?.reply_to?;
    let fits = (1..=MAX_TARGET_BYTES).contains(&target.len()) && !target.contains('\0');
    fits.then(|| reply::Model {
        epoch: row.epoch,
        shard: row.shard,
        seq: row.seq,
        tenant: row.tenant.clone(),
        room: row.room.clone(),
        target,
    })
}

/// Stores what events of a log come to, beside what is there.
pub(crate) async fn store(
    db: &DatabaseTransaction,
    (epoch, shard): (i64, i64),
    Replies(replies): Replies,
) -> Result<(), DbErr> {
    let replies: Vec<reply::Model> = replies.into_values().collect();
    for replies in replies.chunks(ROWS) {
        let known: HashSet<i64> = reply::Entity::find()
            .select_only()
            .column(reply::Column::Seq)
            .filter(reply::Column::Epoch.eq(epoch))
            .filter(reply::Column::Shard.eq(shard))
            .filter(reply::Column::Seq.is_in(replies.iter().map(|row| row.seq)))
            .into_tuple::<i64>()
            .all(db)
            .await?
            .into_iter()
            .collect();
        let new = replies.iter().filter(|row| !known.contains(&row.seq)).cloned();
        let new: Vec<_> = new.map(IntoActiveModel::into_active_model).collect();
        if !new.is_empty() {
            reply::Entity::insert_many(new).exec_without_returning(db).await?;
        }
    }
    Ok(())
}

/// Makes all of it anew from a log's events.
pub(crate) async fn rebuild(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    reply::Entity::delete_many()
        .filter(reply::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(reply::Column::Shard.eq(i64::from(log.shard)))
        .exec(db)
        .await?;
    take_in_behind(db, log, -1).await
}

/// Takes in what was archived by a program that knew nothing of this, which may have gone on beside this one.
pub(crate) async fn catch_up(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
    let mark = watermark::Entity::find_by_id(shard).one(db).await?;
    let Some(mark) = mark.filter(|mark| mark.epoch == epoch && mark.replies < mark.stream_seq) else {
        return Ok(());
    };
    take_in_behind(db, log, ((mark.replies + 1) << 10) - 1).await?;
    watermark::Entity::update_many()
        .col_expr(watermark::Column::Replies, Expr::col(watermark::Column::StreamSeq))
        .filter(watermark::Column::Shard.eq(shard))
        .filter(watermark::Column::Epoch.eq(epoch))
        .exec(db)
        .await
        .map(drop)
}

/// Takes in all events of a log behind a place. The database passes over those that answer nothing, which are most.
async fn take_in_behind(db: &DatabaseTransaction, log: &Log, mut after: i64) -> Result<(), DbErr> {
    let has_mark = match db.get_database_backend() {
        DbBackend::Postgres => r"position('\x227265706c795f746f223a'::bytea in bytes) > 0",
        DbBackend::MySql => "LOCATE(x'227265706c795f746f223a', bytes) > 0",
        _ => "instr(bytes, x'227265706c795f746f223a') > 0",
    };
    let of = (i64::from(log.epoch), i64::from(log.shard));
    loop {
        let rows = next_events(of, after)
            .filter(event::Column::Kind.is_in(MESSAGES.map(Kind::as_str)))
            .filter(Expr::cust(has_mark))
            .all(db)
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.seq;
        store(db, of, Replies::of(&rows)).await?;
    }
}

/// Up to where answers are taken in; what is archived behind that waits for whoever archives next.
async fn taken_in(db: &impl ConnectionTrait, log: &Log) -> Result<i64, DbErr> {
    let mark = watermark::Entity::find_by_id(i64::from(log.shard)).one(db).await?;
    let behind = mark.filter(|mark| mark.epoch == i64::from(log.epoch) && mark.replies < mark.stream_seq);
    Ok(behind.map_or(i64::MAX, |mark| ((mark.replies + 1) << 10) - 1))
}

/// The places where answers stand otherwise than `expected`, which is what all events up to `upto` come to, as far as they are
/// taken in.
pub(crate) async fn differing(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Replies,
    (upto, horizons): (i64, &Horizons),
) -> Result<Vec<i64>, DbErr> {
    let upto = Ord::min(upto, taken_in(db, log).await?);
    let is_past = |row: &reply::Model| row.seq < horizons.of(&row.tenant, &row.room);
    let mut missing = expected.0.clone();
    missing.retain(|seq, row| *seq <= upto && !is_past(row));
    let mut wrong = Vec::new();
    let mut after = -1;
    loop {
        let rows = reply::Entity::find()
            .filter(reply::Column::Epoch.eq(i64::from(log.epoch)))
            .filter(reply::Column::Shard.eq(i64::from(log.shard)))
            .filter(reply::Column::Seq.gt(after))
            .filter(reply::Column::Seq.lte(upto))
            .order_by(reply::Column::Seq, Order::Asc)
            .limit(EVENTS)
            .all(db)
            .await?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        let is_wrong = |row: &reply::Model, known: Option<reply::Model>| known.as_ref() != Some(row);
        for row in rows.iter().filter(|row| !is_past(row)) {
            if is_wrong(row, missing.remove(&row.seq)) {
                wrong.push(row.seq);
            }
        }
    }
    wrong.extend(missing.into_keys());
    Ok(wrong)
}

/// The places of the first so many answers to a message of a room, in an order; deleted ones too.
pub(crate) async fn of_thread(
    db: &impl ConnectionTrait,
    room: Room<'_>,
    target: &str,
    (range, order, limit): (Range, Order, u64),
) -> Result<Vec<i64>, DbErr> {
    reply::Entity::find()
        .select_only()
        .column(reply::Column::Seq)
        .filter(reply::Column::Target.eq(target))
        .filter(reply::Column::Tenant.eq(room.tenant.as_str()))
        .filter(reply::Column::Room.eq(room.id.as_str()))
        // As with messages: by the index of targets, and by no other.
        .filter(Expr::col(reply::Column::Epoch).add(0).eq(i64::from(room.log.epoch)))
        .filter(Expr::col(reply::Column::Shard).add(0).eq(i64::from(room.log.shard)))
        .filter(reply::Column::Seq.gte(bound(range.first)))
        .filter(reply::Column::Seq.lte(bound(range.last)))
        .order_by(reply::Column::Seq, order)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await
}

/// Adds to messages, as they are shown, how many answers they have. The caller knows that they are few; an answer adds some
/// 60 bytes to one.
pub(crate) async fn add(
    db: &impl ConnectionTrait,
    log: &Log,
    mut lines: Vec<(i64, Vec<u8>)>,
) -> Result<Vec<(i64, Vec<u8>)>, DbErr> {
    let asked: Vec<String> = lines
        .iter()
        .filter_map(|(_, line)| Some(serde_json::from_slice::<Asked<'_>>(line).ok()?.id.to_owned()))
        .collect();
    let answered = answered(db, log, &asked).await?;
    if answered.is_empty() {
        return Ok(lines);
    }
    for (_, line) in &mut lines {
        let found = serde_json::from_slice::<Asked<'_>>(line)
            .ok()
            .and_then(|asked| answered.get(&(asked.tenant.to_owned(), asked.room.to_owned(), asked.id.to_owned())));
        if let Some(Answered { count, last }) = found
            && line.last() == Some(&b'}')
        {
            line.pop();
            line.extend_from_slice(format!(r#","replies":{{"count":{count},"last":{last}}}}}"#).as_bytes());
        }
    }
    Ok(lines)
}

/// Which of some messages have answers, by tenant, room and id.
async fn answered(
    db: &impl ConnectionTrait,
    log: &Log,
    ids: &[String],
) -> Result<HashMap<(String, String, String), Answered>, DbErr> {
    let mut found = HashMap::new();
    for ids in ids.chunks(ROWS) {
        let rows: Vec<(String, String, String, i64, i64)> = reply::Entity::find()
            .select_only()
            .columns([reply::Column::Tenant, reply::Column::Room, reply::Column::Target])
            .column_as(reply::Column::Seq.count(), "replies")
            .column_as(reply::Column::Seq.max(), "last")
            .join(JoinType::LeftJoin, to_changed())
            .filter(reply::Column::Target.is_in(ids))
            .filter(
                Expr::col((reply::Entity, reply::Column::Epoch))
                    .add(0)
                    .eq(i64::from(log.epoch)),
            )
            .filter(
                Expr::col((reply::Entity, reply::Column::Shard))
                    .add(0)
                    .eq(i64::from(log.shard)),
            )
            .filter(changed::Column::Deleted.is_null())
            .group_by(reply::Column::Tenant)
            .group_by(reply::Column::Room)
            .group_by(reply::Column::Target)
            .into_tuple()
            .all(db)
            .await?;
        let rows = rows.into_iter();
        found
            .extend(rows.map(|(tenant, room, target, count, last)| ((tenant, room, target), Answered { count, last })));
    }
    Ok(found)
}

/// What became of an answer.
fn to_changed() -> RelationDef {
    reply::Entity::belongs_to(changed::Entity)
        .from((reply::Column::Epoch, reply::Column::Shard, reply::Column::Seq))
        .to((changed::Column::Epoch, changed::Column::Shard, changed::Column::Seq))
        .into()
}

#[cfg(test)]
mod tests;
