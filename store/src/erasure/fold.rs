use std::collections::{BTreeMap, HashMap, HashSet};

use natterjack_nats_config::contract::{EraseBody, Erased, Event, Kind, Seq, redacted};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, Order,
    QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::redact::{self, Redacted};
use crate::archive::sql;
use crate::entity::{edit, erasure, event};

/// Rows of one statement.
const ROWS: usize = 500;

/// What events of a log say of erasures.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Erasing {
    /// The erasures, by their places.
    pub(crate) erasures: BTreeMap<i64, erasure::Model>,
    /// The targets of edits: what is said anew of an erased message is erased as well.
    edited: HashSet<i64>,
}

/// All erasures of a log, for who compares or hands out.
#[derive(Debug, Default)]
pub(crate) struct Known {
    by_tenant: HashMap<String, Erased>,
    unfinished: HashSet<i64>,
}

impl Erasing {
    pub(crate) fn of(rows: &[event::Model]) -> Self {
        let mut erasing = Self::default();
        for row in rows {
            if row.kind == Kind::Erase.as_str() {
                let read = erasure(row).map(|erasure| (row.seq, erasure));
                erasing.erasures.extend(read);
            } else if row.kind == Kind::Edit.as_str() {
                erasing.edited.extend(target(row));
            }
        }
        erasing
    }

    /// Adds what other events come to.
    pub(crate) fn extend(&mut self, other: Self) {
        self.erasures.extend(other.erasures);
    }
}

/// The row of an erasure of which nothing is done.
fn erasure(row: &event::Model) -> Option<erasure::Model> {
    let event: Event = serde_json::from_slice(&row.bytes).ok()?;
    let body: EraseBody = serde_json::from_str(event.body.get()).ok()?;
    let (from_user, target, upto) = match (event.target, body.user) {
        (Some(target), None) => (String::new(), sql::bound(target.seq), row.seq),
        (None, Some(user)) => {
            let upto = sql::bound(body.upto.unwrap_or_default()).min(row.seq);
            (user.to_string(), 0, upto)
        }
        _ => return None,
    };
    Some(erasure::Model {
        epoch: row.epoch,
        shard: row.shard,
        seq: row.seq,
        tenant: row.tenant.clone(),
        room: row.room.clone(),
        from_user,
        target,
        upto,
        looked: -1,
        complete: 0,
        messages: 0,
        edits: 0,
        reactions: 0,
        words: 0,
        last: 0,
        in_rooms: 1,
    })
}

fn target(row: &event::Model) -> Option<i64> {
    let event: Event = serde_json::from_slice(&row.bytes).ok()?;
    Some(sql::bound(event.target?.seq))
}

impl erasure::Model {
    /// What the events say, without how far it is done.
    fn said(&self) -> Self {
        Self {
            looked: -1,
            complete: 0,
            messages: 0,
            edits: 0,
            reactions: 0,
            words: 0,
            last: 0,
            in_rooms: 1,
            ..self.clone()
        }
    }

    /// Counts what was erased by it.
    pub(super) fn count(&mut self, redacted: &Redacted) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.messages += number(redacted.counted.messages);
        self.edits += number(redacted.counted.edits);
        self.reactions += number(redacted.counted.reactions);
        self.words += number(redacted.counted.search);
        self.last = self.last.max(redacted.last);
    }
}

/// Stores the erasures that events say, erases the messages that are erased one by one, and edits of what is erased already.
/// The events are stored.
pub(crate) async fn store(db: &DatabaseTransaction, of: (i64, i64), erasing: Erasing) -> Result<(), DbErr> {
    let Erasing { erasures, edited } = erasing;
    let mut of_messages = late(db, of, &edited).await?;
    for (seq, new) in erasures {
        let key = (of.0, of.1, seq);
        let there = erasure::Entity::find_by_id(key).one(db).await?;
        if there.as_ref().is_none_or(|there| there.said() != new) {
            erasure::Entity::delete_by_id(key).exec(db).await?;
            erasure::Entity::insert(new.clone().into_active_model())
                .exec_without_returning(db)
                .await?;
            if new.target != 0 {
                of_messages.insert(seq, new);
            }
        }
    }
    for one in of_messages.into_values() {
        message(db, one).await?;
    }
    Ok(())
}

/// The erasures of messages that are edited after that.
async fn late(
    db: &DatabaseTransaction,
    (epoch, shard): (i64, i64),
    edited: &HashSet<i64>,
) -> Result<BTreeMap<i64, erasure::Model>, DbErr> {
    let edited: Vec<i64> = edited.iter().copied().collect();
    let mut found = BTreeMap::new();
    for targets in edited.chunks(ROWS) {
        let rows = erasure::Entity::find()
            .filter(erasure::Column::Epoch.eq(epoch))
            .filter(erasure::Column::Shard.eq(shard))
            .filter(erasure::Column::Target.is_in(targets.iter().copied()))
            .all(db)
            .await?;
        found.extend(rows.into_iter().map(|row| (row.seq, row)));
    }
    Ok(found)
}

/// Erases a message and its edits.
pub(super) async fn message(db: &DatabaseTransaction, mut of: erasure::Model) -> Result<(), DbErr> {
    let edits: Vec<i64> = edit::Entity::find()
        .select_only()
        .column(edit::Column::Seq)
        .filter(edit::Column::Epoch.eq(of.epoch))
        .filter(edit::Column::Shard.eq(of.shard))
        .filter(edit::Column::Target.eq(of.target))
        .into_tuple()
        .all(db)
        .await?;
    // Counted anew, where it is erased again because of an edit.
    (of.messages, of.edits, of.reactions) = (0, 0, 0);
    let mut places = vec![of.target];
    places.extend(edits);
    for places in places.chunks(ROWS) {
        let rows = event::Entity::find()
            .filter(event::Column::Epoch.eq(of.epoch))
            .filter(event::Column::Shard.eq(of.shard))
            .filter(event::Column::Seq.is_in(places.iter().copied()))
            .filter(event::Column::Tenant.eq(of.tenant.as_str()))
            .all(db)
            .await?;
        let redacted = redact::redact(db, rows, of.seq).await?;
        of.count(&redacted);
    }
    (of.looked, of.complete) = (of.upto, 1);
    put(db, &of).await
}

/// Writes how far an erasure is done.
pub(super) async fn put(db: &DatabaseTransaction, row: &erasure::Model) -> Result<(), DbErr> {
    erasure::Entity::update_many()
        .col_expr(erasure::Column::Looked, Expr::value(row.looked))
        .col_expr(erasure::Column::Complete, Expr::value(row.complete))
        .col_expr(erasure::Column::Messages, Expr::value(row.messages))
        .col_expr(erasure::Column::Edits, Expr::value(row.edits))
        .col_expr(erasure::Column::Reactions, Expr::value(row.reactions))
        .col_expr(erasure::Column::Words, Expr::value(row.words))
        .col_expr(erasure::Column::Last, Expr::value(row.last))
        .col_expr(erasure::Column::InRooms, Expr::value(1))
        .filter(erasure::Column::Epoch.eq(row.epoch))
        .filter(erasure::Column::Shard.eq(row.shard))
        .filter(erasure::Column::Seq.eq(row.seq))
        .exec(db)
        .await
        .map(drop)
}

/// Makes all of it anew from a log's events: what is there still is erased again.
pub(crate) async fn rebuild(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    let of = (i64::from(log.epoch), i64::from(log.shard));
    erasure::Entity::delete_many()
        .filter(erasure::Column::Epoch.eq(of.0))
        .filter(erasure::Column::Shard.eq(of.1))
        .exec(db)
        .await?;
    let rows = sql::of_log(log)
        .filter(event::Column::Kind.eq(Kind::Erase.as_str()))
        .order_by(event::Column::Seq, Order::Asc)
        .all(db)
        .await?;
    store(db, of, Erasing::of(&rows)).await
}

/// The places, in a range, of the erasures of what users of a tenant wrote: events that stand in no room of theirs, and that all are
/// told.
pub(crate) async fn of_users(
    db: &impl ConnectionTrait,
    log: &Log,
    tenant: &str,
    (first, last): (i64, i64),
) -> Result<Vec<i64>, DbErr> {
    of_log(log)
        .select_only()
        .column(erasure::Column::Seq)
        .filter(erasure::Column::Tenant.eq(tenant))
        .filter(erasure::Column::Target.eq(0))
        .filter(erasure::Column::Seq.gte(first))
        .filter(erasure::Column::Seq.lte(last))
        .into_tuple()
        .all(db)
        .await
}

/// The places of erasures up to `upto` that are not what the events say.
pub(crate) async fn differing(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Erasing,
    upto: i64,
) -> Result<Vec<i64>, DbErr> {
    let stored = rows(db, log).await?;
    let stored: BTreeMap<i64, erasure::Model> = stored.iter().map(|row| (row.seq, row.said())).collect();
    let places = stored.keys().chain(expected.erasures.keys());
    let wrong = places.filter(|seq| **seq <= upto && stored.get(seq) != expected.erasures.get(seq));
    let wrong: HashSet<i64> = wrong.copied().collect();
    Ok(wrong.into_iter().collect())
}

/// The erasures of a log.
pub(super) fn of_log(log: &Log) -> Select<erasure::Entity> {
    erasure::Entity::find()
        .filter(erasure::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(erasure::Column::Shard.eq(i64::from(log.shard)))
}

async fn rows(db: &impl ConnectionTrait, log: &Log) -> Result<Vec<erasure::Model>, DbErr> {
    of_log(log).order_by(erasure::Column::Seq, Order::Asc).all(db).await
}

#[cfg(test)]
impl Known {
    /// One message is erased.
    pub(super) fn of_one(tenant: &str, message: Seq, by: Seq) -> Self {
        let mut known = Self::default();
        let erased = known.by_tenant.entry(tenant.to_owned()).or_default();
        erased.messages.insert(message, by);
        erased.last = by;
        known
    }
}

impl Known {
    /// All of a log.
    pub(crate) async fn load(db: &impl ConnectionTrait, log: &Log) -> Result<Self, DbErr> {
        Ok(Self::of(&rows(db, log).await?))
    }

    /// Those up to `by` that may cover rows of one tenant.
    pub(super) async fn covering(db: &impl ConnectionTrait, rows: &[event::Model], by: i64) -> Result<Self, DbErr> {
        let Some(first) = rows.first() else {
            return Ok(Self::default());
        };
        let users: HashSet<&str> = rows.iter().map(|row| row.from_user.as_str()).collect();
        let mut targets: HashSet<i64> = rows.iter().map(|row| row.seq).collect();
        targets.extend(
            rows.iter()
                .filter(|row| row.kind == Kind::Edit.as_str())
                .filter_map(target),
        );
        let of_users = Condition::all()
            .add(erasure::Column::Target.eq(0))
            .add(erasure::Column::FromUser.is_in(users));
        let covers = Condition::any()
            .add(of_users)
            .add(erasure::Column::Target.is_in(targets));
        let found = erasure::Entity::find()
            .filter(erasure::Column::Epoch.eq(first.epoch))
            .filter(erasure::Column::Shard.eq(first.shard))
            .filter(erasure::Column::Tenant.eq(first.tenant.as_str()))
            .filter(erasure::Column::Seq.lte(by))
            .filter(covers)
            .order_by(erasure::Column::Seq, Order::Asc)
            .all(db)
            .await?;
        Ok(Self::of(&found))
    }

    /// By which erasure an event is erased, if it is.
    pub(super) fn by(&self, event: &Event) -> Option<Seq> {
        self.by_tenant.get(event.tenant.as_str())?.by(event)
    }

    /// Those of which something may still be there: most of the time none.
    pub(crate) async fn unfinished(db: &impl ConnectionTrait, log: &Log) -> Result<Self, DbErr> {
        let rows = of_log(log)
            .filter(erasure::Column::Complete.eq(0))
            .order_by(erasure::Column::Seq, Order::Asc)
            .all(db)
            .await?;
        Ok(Self::of(&rows))
    }

    fn of(rows: &[erasure::Model]) -> Self {
        let mut known = Self::default();
        for row in rows {
            let erased = known.by_tenant.entry(row.tenant.clone()).or_default();
            let place = |seq: i64| Seq(seq.unsigned_abs());
            erased.last = place(row.seq);
            if row.complete == 0 {
                known.unfinished.insert(row.seq);
            }
            match row.from_user.parse() {
                Ok(user) if row.target == 0 => {
                    let erasures: &mut Vec<(Seq, Seq)> = erased.users.entry(user).or_default();
                    erasures.push((place(row.upto), place(row.seq)));
                }
                _ => {
                    erased.messages.entry(place(row.target)).or_insert(place(row.seq));
                }
            }
        }
        known
    }

    /// The line of an event as it may be handed out.
    pub(crate) fn hide(&self, line: Vec<u8>) -> Vec<u8> {
        if self.by_tenant.is_empty() {
            return line;
        }
        let left = serde_json::from_slice::<Event>(&line).ok().and_then(|event| {
            let by = self.by(&event)?;
            redacted(event, by)
        });
        left.unwrap_or(line)
    }

    /// The row as it is once all is erased that is to be, and whether it may be otherwise yet; none if it is not erased.
    pub(crate) fn without(&self, row: &event::Model) -> Option<(event::Model, bool)> {
        let erased = self.by_tenant.get(&row.tenant)?;
        let event: Event = serde_json::from_slice(&row.bytes).ok()?;
        let by = erased.by(&event)?;
        let is_unfinished = self.unfinished.contains(&sql::bound(by));
        Some((redact::without(row, by)?, is_unfinished))
    }

    /// Whether a row that says that it was erased says so rightly.
    pub(crate) fn explains(&self, row: &event::Model) -> bool {
        let Some(by) = redact::erased_by(row) else { return true };
        let event = serde_json::from_slice::<Event>(&row.bytes).ok();
        let erased = self.by_tenant.get(&row.tenant);
        erased
            .zip(event)
            .is_some_and(|(erased, event)| erased.by(&event) == Some(by))
    }
}
