//! Messages as they now stand: what later events made of them. A view of the archive's events, kept in the same transaction
//! as they are, and the same in whatever portions and however often they are taken in.

mod fold;
mod show;

use std::collections::{BTreeMap, HashMap, HashSet};

use natterjack_nats_config::contract::Kind;
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, Order,
    QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::sql::{EVENTS, Range, Room, bound, next_events, of_log};
use crate::entity::{changed, edit, event, reaction};
use crate::retention::Horizons;

use fold::CHANGES;
pub(crate) use fold::Changes;
pub(crate) use show::show;

/// Rows of one statement, of 16 parameters at most.
const ROWS: usize = 500;

/// Takes in events that are stored.
pub(crate) async fn take_in(db: &DatabaseTransaction, rows: &[event::Model]) -> Result<(), DbErr> {
    match rows.first() {
        Some(row) => store(db, (row.epoch, row.shard), Changes::of(rows)).await,
        None => Ok(()),
    }
}

/// Stores what events of a log come to, beside what is there.
pub(crate) async fn store(db: &DatabaseTransaction, log: (i64, i64), changes: Changes) -> Result<(), DbErr> {
    let targets: Vec<i64> = changes.changed.keys().copied().collect();
    for targets in targets.chunks(ROWS) {
        store_changed(db, log, targets, &changes.changed).await?;
    }
    for edits in changes.edits.chunks(ROWS) {
        store_edits(db, log, edits).await?;
    }
    let reactions: Vec<reaction::Model> = changes.reactions.into_values().collect();
    for reactions in reactions.chunks(ROWS) {
        store_reactions(db, log, reactions).await?;
    }
    Ok(())
}

/// Makes all of it anew from a log's events.
pub(crate) async fn rebuild(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
    changed::Entity::delete_many()
        .filter(changed::Column::Epoch.eq(epoch))
        .filter(changed::Column::Shard.eq(shard))
        .exec(db)
        .await?;
    edit::Entity::delete_many()
        .filter(edit::Column::Epoch.eq(epoch))
        .filter(edit::Column::Shard.eq(shard))
        .exec(db)
        .await?;
    reaction::Entity::delete_many()
        .filter(reaction::Column::Epoch.eq(epoch))
        .filter(reaction::Column::Shard.eq(shard))
        .exec(db)
        .await?;
    let mut after = -1;
    loop {
        let rows = next_events((epoch, shard), after)
            .filter(event::Column::Kind.is_in(CHANGES.map(Kind::as_str)))
            .all(db)
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.seq;
        take_in(db, &rows).await?;
    }
}

/// The places of messages that stand otherwise than `expected`, which is what all events up to `upto` come to. What was changed
/// later too cannot be compared, nor what the archive has only some events of.
pub(crate) async fn differing(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Changes,
    (upto, horizons): (i64, &Horizons),
) -> Result<Vec<i64>, DbErr> {
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
    let is_past = |row: &changed::Model| row.seq < horizons.of(&row.tenant, &row.room);
    let mut past: HashSet<i64> = expected
        .changed
        .values()
        .filter(|row| is_past(row))
        .map(|row| row.seq)
        .collect();
    let mut wrong: HashSet<i64> = expected.changed.keys().copied().collect();
    let mut after = -1;
    loop {
        let rows = changed::Entity::find()
            .filter(changed::Column::Epoch.eq(epoch))
            .filter(changed::Column::Shard.eq(shard))
            .filter(changed::Column::Seq.gt(after))
            .order_by(changed::Column::Seq, Order::Asc)
            .limit(EVENTS)
            .all(db)
            .await?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for row in &rows {
            if is_past(row) {
                past.insert(row.seq);
            }
            if expected.changed.get(&row.seq) == Some(row) || row.last() > Some(upto) {
                wrong.remove(&row.seq);
            } else {
                wrong.insert(row.seq);
            }
        }
    }
    wrong.extend(differing_edits(db, log, expected, upto).await?);
    wrong.extend(differing_reactions(db, log, expected, upto).await?);
    wrong.retain(|seq| !past.contains(seq));
    let mut wrong: Vec<i64> = wrong.into_iter().collect();
    wrong.sort_unstable();
    Ok(wrong)
}

async fn differing_edits(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Changes,
    upto: i64,
) -> Result<HashSet<i64>, DbErr> {
    let mut edits: HashSet<(i64, i64)> = expected.edits.iter().map(|edit| (edit.target, edit.seq)).collect();
    let mut stored: Vec<(i64, i64)> = edit::Entity::find()
        .select_only()
        .columns([edit::Column::Target, edit::Column::Seq])
        .filter(edit::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(edit::Column::Shard.eq(i64::from(log.shard)))
        .filter(edit::Column::Seq.lte(upto))
        .into_tuple()
        .all(db)
        .await?;
    stored.retain(|edit| !edits.remove(edit));
    Ok(stored.into_iter().chain(edits).map(|(target, _)| target).collect())
}

async fn differing_reactions(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Changes,
    upto: i64,
) -> Result<HashSet<i64>, DbErr> {
    let mut missing = expected.reactions.clone();
    let stored = reaction::Entity::find()
        .filter(reaction::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(reaction::Column::Shard.eq(i64::from(log.shard)))
        .all(db)
        .await?;
    let mut wrong = HashSet::new();
    for row in stored {
        let key = (row.target, row.emoji.clone(), row.from_user.clone());
        let is_as_expected = missing.remove(&key).as_ref() == Some(&row);
        if !is_as_expected && row.seq <= upto {
            wrong.insert(row.target);
        }
    }
    wrong.extend(missing.into_keys().map(|(target, ..)| target));
    Ok(wrong)
}

/// How the messages of a room that were changed stand, by their places.
pub(crate) async fn of_room(
    db: &impl ConnectionTrait,
    room: Room<'_>,
    range: Range,
) -> Result<HashMap<i64, changed::Model>, DbErr> {
    let rows = changed::Entity::find()
        .filter(changed::Column::Tenant.eq(room.tenant.as_str()))
        .filter(changed::Column::Room.eq(room.id.as_str()))
        .filter(changed::Column::Seq.gte(bound(range.first)))
        .filter(changed::Column::Seq.lte(bound(range.last)))
        .all(db)
        .await?;
    let ours = |row: &changed::Model| (row.epoch, row.shard) == (i64::from(room.log.epoch), i64::from(room.log.shard));
    Ok(rows.into_iter().filter(ours).map(|row| (row.seq, row)).collect())
}

/// How some messages stand, by their places; none for those that nobody changed.
pub(crate) async fn at(
    db: &impl ConnectionTrait,
    (epoch, shard): (i64, i64),
    seqs: &[i64],
) -> Result<HashMap<i64, changed::Model>, DbErr> {
    let mut found = HashMap::new();
    for seqs in seqs.chunks(ROWS) {
        let rows = changed::Entity::find()
            .filter(changed::Column::Epoch.eq(epoch))
            .filter(changed::Column::Shard.eq(shard))
            .filter(changed::Column::Seq.is_in(seqs.iter().copied()))
            .all(db)
            .await?;
        found.extend(rows.into_iter().map(|row| (row.seq, row)));
    }
    Ok(found)
}

/// The events that edited a message, the latest first, at most `limit`: their places.
pub(crate) async fn edits_of(db: &impl ConnectionTrait, log: &Log, target: i64, limit: u64) -> Result<Vec<i64>, DbErr> {
    edit::Entity::find()
        .select_only()
        .column(edit::Column::Seq)
        .filter(edit::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(edit::Column::Shard.eq(i64::from(log.shard)))
        .filter(edit::Column::Target.eq(target))
        .order_by(edit::Column::Seq, Order::Desc)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await
}

/// The messages of a room that are pinned: the places of the first so many in an order.
pub(crate) async fn pinned(
    db: &impl ConnectionTrait,
    room: Room<'_>,
    range: Range,
    (order, limit): (Order, u64),
) -> Result<Vec<i64>, DbErr> {
    let unpinned = Expr::col(changed::Column::Unpinned).is_null();
    let before = Expr::col(changed::Column::Unpinned).lt(Expr::col(changed::Column::Pinned));
    changed::Entity::find()
        .select_only()
        .column(changed::Column::Seq)
        .filter(changed::Column::Tenant.eq(room.tenant.as_str()))
        .filter(changed::Column::Room.eq(room.id.as_str()))
        .filter(Expr::col(changed::Column::Epoch).add(0).eq(i64::from(room.log.epoch)))
        .filter(Expr::col(changed::Column::Shard).add(0).eq(i64::from(room.log.shard)))
        .filter(changed::Column::Seq.gte(bound(range.first)))
        .filter(changed::Column::Seq.lte(bound(range.last)))
        .filter(changed::Column::Deleted.is_null())
        .filter(changed::Column::Pinned.is_not_null())
        .filter(unpinned.or(before))
        .order_by(changed::Column::Seq, order)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await
}

/// Some events, by their places.
pub(crate) fn events_of(log: &Log, seqs: &[i64]) -> Select<event::Entity> {
    of_log(log).filter(event::Column::Seq.is_in(seqs.iter().copied()))
}

/// Place and line of some events.
pub(crate) fn events_at(log: &Log, seqs: impl IntoIterator<Item = i64>) -> Select<event::Entity> {
    of_log(log)
        .select_only()
        .columns([event::Column::Seq, event::Column::Bytes])
        .filter(event::Column::Seq.is_in(seqs))
}

async fn store_changed(
    db: &DatabaseTransaction,
    (epoch, shard): (i64, i64),
    targets: &[i64],
    new: &BTreeMap<i64, changed::Model>,
) -> Result<(), DbErr> {
    let old = at(db, (epoch, shard), targets).await?;
    let merged = targets.iter().filter_map(|target| {
        let new = new.get(target)?.clone();
        Some(match old.get(target) {
            Some(old) => new.merged(old),
            None => new,
        })
    });
    let merged: Vec<_> = merged.map(IntoActiveModel::into_active_model).collect();
    if !old.is_empty() {
        changed::Entity::delete_many()
            .filter(changed::Column::Epoch.eq(epoch))
            .filter(changed::Column::Shard.eq(shard))
            .filter(changed::Column::Seq.is_in(targets.iter().copied()))
            .exec(db)
            .await?;
    }
    changed::Entity::insert_many(merged).exec_without_returning(db).await?;
    Ok(())
}

async fn store_edits(db: &DatabaseTransaction, (epoch, shard): (i64, i64), edits: &[edit::Model]) -> Result<(), DbErr> {
    let known: HashSet<(i64, i64)> = edit::Entity::find()
        .select_only()
        .columns([edit::Column::Target, edit::Column::Seq])
        .filter(edit::Column::Epoch.eq(epoch))
        .filter(edit::Column::Shard.eq(shard))
        .filter(edit::Column::Target.is_in(edits.iter().map(|edit| edit.target)))
        .filter(edit::Column::Seq.is_in(edits.iter().map(|edit| edit.seq)))
        .into_tuple()
        .all(db)
        .await?
        .into_iter()
        .collect();
    let new: Vec<_> = edits
        .iter()
        .filter(|edit| !known.contains(&(edit.target, edit.seq)))
        .cloned()
        .map(IntoActiveModel::into_active_model)
        .collect();
    if !new.is_empty() {
        edit::Entity::insert_many(new).exec_without_returning(db).await?;
    }
    Ok(())
}

async fn store_reactions(
    db: &DatabaseTransaction,
    (epoch, shard): (i64, i64),
    reactions: &[reaction::Model],
) -> Result<(), DbErr> {
    let keys = || {
        reactions
            .iter()
            .map(|row| (row.target, row.emoji.clone(), row.from_user.clone()))
    };
    let key = || {
        Expr::tuple([
            Expr::col(reaction::Column::Target),
            Expr::col(reaction::Column::Emoji),
            Expr::col(reaction::Column::FromUser),
        ])
    };
    let of_log = Condition::all()
        .add(reaction::Column::Epoch.eq(epoch))
        .add(reaction::Column::Shard.eq(shard));
    let later: HashSet<(i64, String, String)> = reaction::Entity::find()
        .filter(of_log.clone())
        .filter(key().in_tuples(keys()))
        .all(db)
        .await?
        .into_iter()
        .filter(|old| reactions.iter().any(|new| is_same(old, new) && old.seq >= new.seq))
        .map(|old| (old.target, old.emoji, old.from_user))
        .collect();
    let new = reactions
        .iter()
        .filter(|row| !later.contains(&(row.target, row.emoji.clone(), row.from_user.clone())))
        .cloned();
    let new: Vec<reaction::Model> = new.collect();
    if new.is_empty() {
        return Ok(());
    }
    let replaced = new
        .iter()
        .map(|row| (row.target, row.emoji.clone(), row.from_user.clone()));
    reaction::Entity::delete_many()
        .filter(of_log)
        .filter(key().in_tuples(replaced))
        .exec(db)
        .await?;
    let new = new.into_iter().map(IntoActiveModel::into_active_model);
    reaction::Entity::insert_many(new).exec_without_returning(db).await?;
    Ok(())
}

fn is_same(one: &reaction::Model, other: &reaction::Model) -> bool {
    (one.target, &one.emoji, &one.from_user) == (other.target, &other.emoji, &other.from_user)
}

#[cfg(test)]
mod tests;
