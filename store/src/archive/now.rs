//! Messages as they now stand: what later events made of them. A view of the archive's events, kept in the same transaction
//! as they are, and the same in whatever portions and however often they are taken in.

use std::collections::{BTreeMap, HashMap, HashSet};

use natterjack_nats_config::contract::{Event, Kind, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, Order, QueryFilter,
    QueryOrder, QuerySelect, Select,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::sql::{Range, Room, bound, of_log};
use crate::entity::{changed, edit, event};

/// Rows of one statement, of 11 parameters at most.
const ROWS: usize = 500;
/// Events that are read at a time when all of it is made anew.
const EVENTS: u64 = 2000;
/// What `edited_at`, or who deleted it and when, add to a message, in bytes.
const EXTRA_BYTES: usize = 192;

/// The kinds that change a message.
const CHANGES: [Kind; 2] = [Kind::Edit, Kind::Delete];

/// What events come to, whatever was there before.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    /// By the place of the message.
    pub(crate) changed: BTreeMap<i64, changed::Model>,
    pub(crate) edits: Vec<edit::Model>,
}

/// A message as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    v: u8,
    seq: Seq,
    n: u64,
    prev: Seq,
    id: &'a str,
    tenant: &'a str,
    room: &'a str,
    from: &'a str,
    kind: Kind,
    at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Deleted<'a>>,
}

#[derive(Serialize)]
struct Deleted<'a> {
    at: &'a str,
    by: &'a str,
}

/// Takes in events that were just stored.
pub(crate) async fn take_in(db: &DatabaseTransaction, rows: &[event::Model]) -> Result<(), DbErr> {
    let changes = Changes::of(rows);
    let Some(log) = rows.first().map(|row| (row.epoch, row.shard)) else {
        return Ok(());
    };
    let targets: Vec<i64> = changes.changed.keys().copied().collect();
    for targets in targets.chunks(ROWS) {
        store_changed(db, log, targets, &changes.changed).await?;
    }
    for edits in changes.edits.chunks(ROWS) {
        store_edits(db, log, edits).await?;
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
    let mut after = -1;
    loop {
        let rows = of_log(log)
            .filter(event::Column::Kind.is_in(CHANGES.map(Kind::as_str)))
            .filter(event::Column::Seq.gt(after))
            .order_by(event::Column::Seq, Order::Asc)
            .limit(EVENTS)
            .all(db)
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.seq;
        take_in(db, &rows).await?;
    }
}

/// The places of messages that stand otherwise than `expected`, which is what all events up to `upto` come to. What was changed
/// later too cannot be compared.
pub(crate) async fn differing(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Changes,
    upto: i64,
) -> Result<Vec<i64>, DbErr> {
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
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
            if expected.changed.get(&row.seq) == Some(row) || row.edited.max(row.deleted) > Some(upto) {
                wrong.remove(&row.seq);
            } else {
                wrong.insert(row.seq);
            }
        }
    }
    let mut edits: HashSet<(i64, i64)> = expected.edits.iter().map(|edit| (edit.target, edit.seq)).collect();
    let mut stored: Vec<(i64, i64)> = edit::Entity::find()
        .select_only()
        .columns([edit::Column::Target, edit::Column::Seq])
        .filter(edit::Column::Epoch.eq(epoch))
        .filter(edit::Column::Shard.eq(shard))
        .filter(edit::Column::Seq.lte(upto))
        .into_tuple()
        .all(db)
        .await?;
    stored.retain(|edit| !edits.remove(edit));
    wrong.extend(stored.into_iter().chain(edits).map(|(target, _)| target));
    let mut wrong: Vec<i64> = wrong.into_iter().collect();
    wrong.sort_unstable();
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

/// Lines of messages as they now stand. The caller knows that they are few; `changes` are those of its messages.
pub(crate) async fn show(
    db: &impl ConnectionTrait,
    log: &Log,
    lines: Vec<(i64, Vec<u8>)>,
    changes: &HashMap<i64, changed::Model>,
) -> Result<Vec<(i64, Vec<u8>)>, DbErr> {
    let shown = |seq: &i64| changes.get(seq).filter(|change| change.deleted.is_none());
    let edits: Vec<i64> = lines
        .iter()
        .filter_map(|(seq, _)| shown(seq).and_then(|change| change.edited))
        .collect();
    let edits = if edits.is_empty() {
        HashMap::new()
    } else {
        events_at(log, edits)
            .into_tuple::<(i64, Vec<u8>)>()
            .all(db)
            .await?
            .into_iter()
            .collect()
    };
    let now = |(seq, line): (i64, Vec<u8>)| match changes.get(&seq) {
        None => (seq, line),
        Some(change) => {
            let edit = change.edited.and_then(|edited| edits.get(&edited));
            let changed = change.shown(&line, edit.map(Vec::as_slice));
            (seq, changed.unwrap_or(line))
        }
    };
    Ok(lines.into_iter().map(now).collect())
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
            Some(old) => new.after(old),
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

impl Changes {
    /// What some events change; those of other kinds, and those that name no target, change nothing.
    pub(crate) fn of(rows: &[event::Model]) -> Self {
        let mut changes = Self::default();
        for row in rows
            .iter()
            .filter(|row| CHANGES.iter().any(|kind| kind.as_str() == row.kind))
        {
            changes.take(row);
        }
        changes
    }

    /// Adds what later events change.
    pub(crate) fn extend(&mut self, later: Self) {
        for (target, new) in later.changed {
            let merged = match self.changed.get(&target) {
                Some(old) => new.after(old),
                None => new,
            };
            self.changed.insert(target, merged);
        }
        self.edits.extend(later.edits);
    }

    fn take(&mut self, row: &event::Model) {
        let target = serde_json::from_slice::<Event>(&row.bytes)
            .ok()
            .and_then(|event| event.target);
        let Some(target) = target.and_then(|target| i64::try_from(target.seq.0).ok()) else {
            return;
        };
        let mut change = changed::Model {
            epoch: row.epoch,
            shard: row.shard,
            seq: target,
            tenant: row.tenant.clone(),
            room: row.room.clone(),
            edited: None,
            edit_bytes: None,
            edited_at: None,
            deleted: None,
            deleted_at: None,
            deleted_by: None,
        };
        if row.kind == Kind::Edit.as_str() {
            change.edited = Some(row.seq);
            change.edit_bytes = i64::try_from(row.bytes.len()).ok();
            change.edited_at = Some(row.at.clone());
            self.edits.push(edit::Model {
                epoch: row.epoch,
                shard: row.shard,
                target,
                seq: row.seq,
            });
        } else {
            change.deleted = Some(row.seq);
            change.deleted_at = Some(row.at.clone());
            change.deleted_by = Some(row.from_user.clone());
        }
        let merged = match self.changed.get(&target) {
            Some(old) => change.after(old),
            None => change,
        };
        self.changed.insert(target, merged);
    }
}

impl changed::Model {
    /// This and what was there before: the last edit counts, and the first deletion.
    fn after(mut self, other: &Self) -> Self {
        if self.edited < other.edited {
            self.edited = other.edited;
            self.edit_bytes = other.edit_bytes;
            self.edited_at.clone_from(&other.edited_at);
        }
        if other
            .deleted
            .is_some_and(|deleted| self.deleted.is_none_or(|own| deleted < own))
        {
            self.deleted = other.deleted;
            self.deleted_at.clone_from(&other.deleted_at);
            self.deleted_by.clone_from(&other.deleted_by);
        }
        self
    }

    /// The most bytes that a message of so many takes as it now stands.
    pub(crate) fn size(&self, size: usize) -> usize {
        let edit = self.edit_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        size.saturating_add(edit.unwrap_or_default())
            .saturating_add(EXTRA_BYTES)
    }

    /// The message as it now stands: with its last edit's body, or with none if it was deleted. None if a line is no event,
    /// which the archive never stores.
    fn shown(&self, line: &[u8], edit: Option<&[u8]>) -> Option<Vec<u8>> {
        let event: Event = serde_json::from_slice(line).ok()?;
        let edit: Option<Event> = edit.and_then(|edit| serde_json::from_slice(edit).ok());
        let deleted = self.deleted_at.as_deref().zip(self.deleted_by.as_deref());
        let body = edit.as_ref().map_or(&event.body, |edit| &edit.body);
        let shown = Shown {
            v: event.v,
            seq: event.seq,
            n: event.n,
            prev: event.prev,
            id: &event.id,
            tenant: event.tenant.as_str(),
            room: event.room.as_str(),
            from: event.from.as_str(),
            kind: event.kind,
            at: &event.at,
            key: event.key.as_deref().filter(|_| deleted.is_none()),
            reply_to: event.reply_to.as_deref(),
            body: deleted.is_none().then_some(body),
            edited_at: self.edited_at.as_deref().filter(|_| deleted.is_none()),
            deleted: deleted.map(|(at, by)| Deleted { at, by }),
        };
        serde_json::to_vec(&shown).ok()
    }
}

#[cfg(test)]
mod tests;
