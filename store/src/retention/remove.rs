use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Event, Id, Kind, TENANT_ROOM};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, Order, QueryFilter,
    QueryOrder, QuerySelect, Select, Statement,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::plan::{AGEING, Aged, cut, step};
use super::rules::{holds, put};
use crate::archive::{Database, sql};
use crate::entity::{event, retention, room};

/// Events that are looked at in one transaction: some tens of milliseconds, for which the archive waits.
const EVENTS: u64 = 500;
/// The pause between two transactions: the archive comes first.
const BETWEEN: Duration = Duration::from_millis(50);
/// How often all rooms are looked at.
const EVERY: Duration = Duration::from_mins(1);
/// Places in one statement.
const ROWS: usize = 500;

/// What retention needs to know.
#[derive(Debug, Clone)]
pub struct RetentionConfig {
    /// Of which log.
    pub log: Log,
    /// The days that messages are kept where the room does not say; 0 for ever.
    pub days: u32,
    /// The same, for one tenant each.
    pub tenants: BTreeMap<Id, u32>,
}

/// A room whose messages grow old.
struct Ageing {
    row: retention::Model,
    days: u32,
}

/// Removes what is too old, in small steps, while `leading` says that this process has the writer, until it is told to stop.
pub async fn keep_retention(
    database: Database,
    config: RetentionConfig,
    leading: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.cancelled() => return,
        }
        if !*leading.borrow() {
            continue;
        }
        tokio::select! {
            done = round(&database, &config, clock::now_ms()) => match done {
                Ok(0) => {}
                Ok(events) => tracing::info!(events, "events were removed from the archive: they were kept as long as is said"),
                Err(error) => tracing::warn!(%error, "what is too old is not removed now"),
            },
            () = shutdown.cancelled() => return,
        }
    }
}

/// Looks at every room once, and gives how many events were removed.
pub(super) async fn round(database: &Database, config: &RetentionConfig, now_ms: i64) -> Result<u64, DbErr> {
    let db = database.connection();
    let Some(last) = sql::last_event(db, &config.log).await? else {
        return Ok(0);
    };
    let last_ms = clock::parse_ms(&last.at).unwrap_or_default();
    let mut held: HashMap<String, HashSet<String>> = HashMap::new();
    let mut removed = 0;
    for ageing in ageing(database, config).await? {
        let Ageing { row, days } = ageing;
        let before = cut(now_ms, last_ms, days);
        if !held.contains_key(&row.tenant) {
            let rooms = holds(db, &config.log, (&row.tenant, "room")).await?;
            held.insert(row.tenant.clone(), rooms);
        }
        if held.get(&row.tenant).is_some_and(|rooms| rooms.contains(&row.room)) {
            continue;
        }
        while let Some(count) = remove_some(database, config, (&row, &before)).await? {
            removed += count;
            tokio::time::sleep(BETWEEN).await;
        }
    }
    Ok(removed)
}

/// The rooms that do not keep everything, each with its row or the one that it would have.
async fn ageing(database: &Database, config: &RetentionConfig) -> Result<Vec<Ageing>, DbErr> {
    let (db, log) = (database.connection(), &config.log);
    let (epoch, shard) = (i64::from(log.epoch), i64::from(log.shard));
    let rows = retention::Entity::find()
        .filter(retention::Column::Epoch.eq(epoch))
        .filter(retention::Column::Shard.eq(shard))
        .all(db)
        .await?;
    let mut rows: HashMap<(String, String), retention::Model> = rows
        .into_iter()
        .map(|row| ((row.tenant.clone(), row.room.clone()), row))
        .collect();
    let rooms = room::Entity::find()
        .filter(room::Column::Epoch.eq(epoch))
        .filter(room::Column::Shard.eq(shard))
        .filter(room::Column::Room.ne(TENANT_ROOM))
        .all(db)
        .await?;
    let mut found = Vec::new();
    for stands in rooms {
        let row = rows
            .remove(&(stands.tenant.clone(), stands.room.clone()))
            .unwrap_or(retention::Model {
                epoch,
                shard,
                tenant: stands.tenant,
                room: stands.room,
                days: None,
                ruled: 0,
                looked: 0,
                horizon: 0,
            });
        let by_default = || {
            let of_tenant = row.tenant.parse::<Id>().ok();
            let of_tenant = of_tenant.and_then(|tenant| config.tenants.get(&tenant));
            of_tenant.copied().unwrap_or(config.days)
        };
        let days = row.days.and_then(|days| u32::try_from(days).ok());
        let days = days.unwrap_or_else(by_default);
        if days > 0 {
            found.push(Ageing { row, days });
        }
    }
    Ok(found)
}

/// One step in a room; none when there is nothing more to look at. Gives how many events were removed.
async fn remove_some(
    database: &Database,
    config: &RetentionConfig,
    (found, cut): (&retention::Model, &str),
) -> Result<Option<u64>, DbErr> {
    let db = database.connection();
    // Without a transaction, which is what most looks come to.
    let (_, looked) = place(db, found).await?;
    match events(found, looked, 1).one(db).await? {
        Some(first) if first.at.as_str() < cut => {}
        _ => return Ok(None),
    }
    let transaction = sql::begin(db).await?;
    // Whoever archives waits: a hold that is archived counts from there on. SQLite has one writer at a time: whoever reads
    // first, and then writes what another has changed meanwhile, fails. So it begins with a write, of nothing.
    retention::Entity::delete_many()
        .filter(retention::Column::Shard.lt(0))
        .exec(&transaction)
        .await?;
    sql::lock(&transaction, &config.log).await?;
    let (row, looked) = place(&transaction, found).await?;
    let is_held = holds(&transaction, &config.log, (&found.tenant, "room"))
        .await?
        .contains(&found.room);
    let held = holds(&transaction, &config.log, (&found.tenant, "user")).await?;
    let aged: Vec<Aged> = events(found, looked, EVENTS)
        .all(&transaction)
        .await?
        .into_iter()
        .map(aged)
        .collect();
    let there = there(&transaction, found, &aged).await?;
    let step = step(&aged, cut, &held, &there);
    let Some(looked) = step.looked.filter(|_| !is_held) else {
        transaction.rollback().await?;
        return Ok(None);
    };
    remove(&transaction, (found.epoch, found.shard), &step.remove).await?;
    let horizon = step
        .remove
        .last()
        .map_or(row.horizon, |last| Ord::max(row.horizon, last + 1));
    let row = retention::Model { looked, horizon, ..row };
    put(&transaction, row).await?;
    transaction.commit().await?;
    Ok(Some(step.remove.len() as u64))
}

/// The room's row as it now is, and from where on is to be looked.
async fn place(db: &impl ConnectionTrait, found: &retention::Model) -> Result<(retention::Model, i64), DbErr> {
    let key = (found.epoch, found.shard, found.tenant.clone(), found.room.clone());
    let row = retention::Entity::find_by_id(key).one(db).await?;
    let row = row.unwrap_or_else(|| found.clone());
    let looked = row.looked;
    Ok((row, looked))
}

fn events(of: &retention::Model, from: i64, limit: u64) -> Select<event::Entity> {
    // By the room's index, as history reads.
    event::Entity::find()
        .filter(Expr::col(event::Column::Epoch).add(0).eq(of.epoch))
        .filter(Expr::col(event::Column::Shard).add(0).eq(of.shard))
        .filter(event::Column::Tenant.eq(of.tenant.as_str()))
        .filter(event::Column::Room.eq(of.room.as_str()))
        .filter(event::Column::Seq.gte(from))
        .order_by(event::Column::Seq, Order::Asc)
        .limit(limit)
}

fn aged(row: event::Model) -> Aged {
    let target = serde_json::from_slice::<Event>(&row.bytes).ok();
    let target = target.and_then(|event| i64::try_from(event.target?.seq.0).ok());
    Aged {
        seq: row.seq,
        kind: row.kind,
        from: row.from_user,
        at: row.at,
        target,
    }
}

/// Of the targets of some events those that are stored.
async fn there(db: &impl ConnectionTrait, of: &retention::Model, aged: &[Aged]) -> Result<HashSet<i64>, DbErr> {
    let targets: HashSet<i64> = aged.iter().filter_map(|event| event.target).collect();
    if targets.is_empty() {
        return Ok(targets);
    }
    let there: Vec<i64> = event::Entity::find()
        .select_only()
        .column(event::Column::Seq)
        .filter(event::Column::Epoch.eq(of.epoch))
        .filter(event::Column::Shard.eq(of.shard))
        .filter(event::Column::Seq.is_in(targets))
        .into_tuple()
        .all(db)
        .await?;
    Ok(there.into_iter().collect())
}

/// Removes events, what was made of them, and their words.
pub(super) async fn remove(db: &DatabaseTransaction, (epoch, shard): (i64, i64), seqs: &[i64]) -> Result<(), DbErr> {
    for seqs in seqs.chunks(ROWS) {
        let list: Vec<String> = seqs.iter().map(i64::to_string).collect();
        let list = list.join(", ");
        for (table, column) in [
            ("event", "seq"),
            ("changed", "seq"),
            ("edit", "target"),
            ("reaction", "target"),
            ("reply", "seq"),
            ("search", "seq"),
        ] {
            let sql = format!("DELETE FROM {table} WHERE epoch = {epoch} AND shard = {shard} AND {column} IN ({list})");
            db.execute_raw(Statement::from_string(db.get_database_backend(), sql))
                .await?;
        }
    }
    Ok(())
}

/// Removes from an archive what another one, of the same log, has removed already by a room's row.
pub(super) async fn remove_as(
    from: &DatabaseConnection,
    to: &DatabaseTransaction,
    row: &retention::Model,
) -> Result<(), DbErr> {
    let before = |select: Select<event::Entity>| {
        select
            .filter(event::Column::Seq.lt(row.horizon))
            .filter(event::Column::Kind.is_in(AGEING.map(Kind::as_str)))
            .select_only()
            .column(event::Column::Seq)
            .into_tuple::<i64>()
    };
    let mut after = 0;
    loop {
        let there: Vec<i64> = before(events(row, after, EVENTS)).all(to).await?;
        let Some(last) = there.last() else { return Ok(()) };
        after = last + 1;
        // Few: what is held.
        let kept = before(events(row, 0, EVENTS).filter(event::Column::Seq.is_in(there.iter().copied())));
        let kept: HashSet<i64> = kept.all(from).await?.into_iter().collect();
        let gone: Vec<i64> = there.into_iter().filter(|seq| !kept.contains(seq)).collect();
        remove(to, (row.epoch, row.shard), &gone).await?;
    }
}
