//! The audit trail: a view of the archive's events, kept in the same transaction as they are, each row with a hash over it and
//! all before it. The same events give the same hashes, so a trail that was made anew is the one that was there.

use natterjack_nats_config::contract::{Event, Kind, LoginBody};
use natterjack_nats_config::tail::Log;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, Order, QueryFilter,
    QueryOrder, QuerySelect,
};
use sha2::{Digest, Sha256};

use super::sql::next_events;
use crate::entity::{audit, event};

/// The kinds that it shows.
pub(crate) const KINDS: [Kind; 10] = [
    Kind::Room,
    Kind::Member,
    Kind::User,
    Kind::Token,
    Kind::Role,
    Kind::Ban,
    Kind::Key,
    Kind::Hold,
    Kind::Erase,
    Kind::Login,
];
/// Rows of one statement, of 7 parameters each.
const ROWS: usize = 500;

/// A piece of the trail: it goes on behind a hash.
#[derive(Debug, Clone)]
pub(crate) struct Trail {
    last: Vec<u8>,
    pub(crate) rows: Vec<audit::Model>,
}

impl Default for Trail {
    /// From its beginning.
    fn default() -> Self {
        Self::after(vec![0; 32])
    }
}

impl Trail {
    /// Those of some events that belong there.
    pub(crate) fn of_interest(events: &[event::Model]) -> Vec<event::Model> {
        events.iter().filter(|row| is_of_interest(row)).cloned().collect()
    }

    fn after(last: Vec<u8>) -> Self {
        Self { last, rows: Vec::new() }
    }

    /// Takes in the events that belong there, in log order.
    pub(crate) fn extend(&mut self, events: &[event::Model]) {
        for row in events.iter().filter(|row| is_of_interest(row)) {
            let link = Sha256::new().chain_update(&self.last).chain_update(&row.hash);
            self.last = link.finalize().to_vec();
            self.rows.push(audit::Model {
                epoch: row.epoch,
                shard: row.shard,
                seq: row.seq,
                tenant: row.tenant.clone(),
                actor: actor(row),
                kind: row.kind.clone(),
                hash: self.last.clone(),
            });
        }
    }
}

fn is_of_interest(row: &event::Model) -> bool {
    KINDS.iter().any(|kind| kind.as_str() == row.kind)
}

/// Who did it; of a refused login who it was said to be, if anybody was named.
fn actor(row: &event::Model) -> String {
    let claimed = || {
        let event = serde_json::from_slice::<Event>(&row.bytes).ok()?;
        serde_json::from_str::<LoginBody>(event.body.get()).ok()?.user
    };
    if row.kind == Kind::Login.as_str()
        && let Some(user) = claimed()
    {
        return user.to_string();
    }
    row.from_user.clone()
}

/// Takes in events that are stored, which follow all that are there.
pub(crate) async fn store(db: &DatabaseTransaction, events: &[event::Model]) -> Result<(), DbErr> {
    let Some(first) = events.iter().find(|row| is_of_interest(row)) else {
        return Ok(());
    };
    let of = (first.epoch, first.shard);
    match last(db, of).await? {
        // Something was put in before the end: then all behind it changes.
        Some(last) if last.seq >= first.seq => rebuild_of(db, of).await,
        Some(last) => append(db, Trail::after(last.hash), events).await,
        None => append(db, Trail::default(), events).await,
    }
}

/// Makes all of it anew from a log's events.
pub(crate) async fn rebuild(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    rebuild_of(db, (i64::from(log.epoch), i64::from(log.shard))).await
}

/// Takes in what was archived by a program that knew nothing of this.
pub(crate) async fn catch_up(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    let of = (i64::from(log.epoch), i64::from(log.shard));
    match last(db, of).await? {
        Some(last) => go_on(db, of, (last.seq, last.hash)).await,
        None => go_on(db, of, (-1, Trail::default().last)).await,
    }
}

/// How many rows stand otherwise than `expected`, which is what all events up to `upto` come to.
pub(crate) async fn differing(
    db: &impl ConnectionTrait,
    log: &Log,
    expected: &Trail,
    upto: i64,
) -> Result<Vec<i64>, DbErr> {
    let stored = audit::Entity::find()
        .filter(audit::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(audit::Column::Shard.eq(i64::from(log.shard)))
        .filter(audit::Column::Seq.lte(upto))
        .order_by(audit::Column::Seq, Order::Asc)
        .all(db)
        .await?;
    let known: std::collections::BTreeMap<i64, &audit::Model> = stored.iter().map(|row| (row.seq, row)).collect();
    let wanted: std::collections::BTreeMap<i64, &audit::Model> =
        expected.rows.iter().map(|row| (row.seq, row)).collect();
    let lacking = wanted
        .iter()
        .filter(|(seq, row)| known.get(seq) != Some(row))
        .map(|(seq, _)| *seq);
    let extra = known.keys().filter(|seq| !wanted.contains_key(seq)).copied();
    let mut wrong: Vec<i64> = lacking.chain(extra).collect();
    wrong.sort_unstable();
    Ok(wrong)
}

async fn rebuild_of(db: &DatabaseTransaction, (epoch, shard): (i64, i64)) -> Result<(), DbErr> {
    audit::Entity::delete_many()
        .filter(audit::Column::Epoch.eq(epoch))
        .filter(audit::Column::Shard.eq(shard))
        .exec(db)
        .await?;
    go_on(db, (epoch, shard), (-1, Trail::default().last)).await
}

/// Takes in all events behind a place, which has a hash.
async fn go_on(db: &DatabaseTransaction, of: (i64, i64), (mut after, mut hash): (i64, Vec<u8>)) -> Result<(), DbErr> {
    loop {
        let rows = next_events(of, after)
            .filter(event::Column::Kind.is_in(KINDS.map(Kind::as_str)))
            .all(db)
            .await?;
        let Some(end) = rows.last() else { return Ok(()) };
        after = end.seq;
        let mut trail = Trail::after(hash);
        trail.extend(&rows);
        hash = trail.last;
        insert(db, trail.rows).await?;
    }
}

async fn append(db: &DatabaseTransaction, mut trail: Trail, events: &[event::Model]) -> Result<(), DbErr> {
    trail.extend(events);
    insert(db, trail.rows).await
}

async fn insert(db: &DatabaseTransaction, rows: Vec<audit::Model>) -> Result<(), DbErr> {
    for rows in rows.chunks(ROWS) {
        let rows = rows.iter().cloned().map(IntoActiveModel::into_active_model);
        audit::Entity::insert_many(rows).exec_without_returning(db).await?;
    }
    Ok(())
}

async fn last(db: &DatabaseTransaction, (epoch, shard): (i64, i64)) -> Result<Option<audit::Model>, DbErr> {
    audit::Entity::find()
        .filter(audit::Column::Epoch.eq(epoch))
        .filter(audit::Column::Shard.eq(shard))
        .order_by(audit::Column::Seq, Order::Desc)
        .limit(1)
        .one(db)
        .await
}

#[cfg(test)]
mod tests;
