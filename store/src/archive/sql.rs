//! Every query of the archive. All of them name the epoch and the shard, those for readers the tenant and the room too.

use std::time::Duration;

use natterjack_nats_config::contract::{Id, Kind, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Expr, ExprTrait, Func, SimpleExpr};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    IntoActiveModel, IsolationLevel, Order, QueryFilter, QueryOrder, QuerySelect, Select, TransactionTrait,
};

use super::batch::Batch;
use super::database::Database;
use super::members::{self, Members};
use super::now::{self, Changes};
use super::project::{self, Rows};
use super::replies::{self, Replies};
use super::rooms::{self, Standings};
use super::step::{Step, passed};
use super::trail::{self, Trail};
use crate::entity::{event, quarantine, watermark};
use crate::erasure::{self, Erasing};
use crate::log::broken;
use crate::retention::{self, Rules};

/// Events that are read at a time when something is made of all of them anew.
pub(crate) const EVENTS: u64 = 2000;
/// How long a read of one row may take before the server is given up for lost: a line that was cut says nothing.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// How long a transaction may take: far more than a full batch does on a slow disk.
const COMMIT_LIMIT: Duration = Duration::from_mins(1);

/// The kinds that history shows.
pub(crate) const MESSAGES: [Kind; 3] = [Kind::Msg, Kind::Command, Kind::Reply];

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commit {
    /// It is stored, flushed to disk, and the watermark moved.
    Done,
    /// Another worker moved the watermark first; nothing of the batch was stored.
    Overtaken,
}

/// A room, as a reader's query names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room<'a> {
    pub(crate) log: &'a Log,
    pub(crate) tenant: &'a Id,
    pub(crate) id: &'a Id,
}

/// Which of a room's messages: `first` and `last` are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
}

/// The shard's watermark as it stands; none if nothing was ever archived.
pub(crate) async fn watermark(db: &impl ConnectionTrait, log: &Log) -> Result<Option<watermark::Model>, DbErr> {
    let read = watermark::Entity::find_by_id(i64::from(log.shard)).one(db);
    within(READ_LIMIT, read).await
}

/// How far the log is archived, for readers: nothing of another epoch counts.
pub(crate) async fn archived(db: &impl ConnectionTrait, log: &Log) -> Result<Seq, DbErr> {
    let row = watermark(db, log).await?;
    Ok(row
        .filter(|row| row.epoch == i64::from(log.epoch))
        .and_then(|row| u64::try_from(row.stream_seq).ok())
        .filter(|stream_seq| *stream_seq > 0)
        .map_or(Seq::ZERO, Seq::end_of_frame))
}

/// Begins the watermark of a shard that has none.
pub(crate) async fn begin_watermark(db: &DatabaseConnection, log: &Log) -> Result<(), DbErr> {
    let row = watermark::Model {
        shard: i64::from(log.shard),
        epoch: i64::from(log.epoch),
        stream_seq: 0,
        replies: 0,
    };
    watermark::Entity::insert(row.into_active_model())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Moves the watermark to the beginning of the log's epoch. `false`: another worker was faster.
pub(crate) async fn begin_epoch(db: &DatabaseConnection, log: &Log, old: &watermark::Model) -> Result<bool, DbErr> {
    move_watermark(db, old, (i64::from(log.epoch), 0)).await
}

/// Takes in what a program archived that does not know all views of this one, before this one goes on.
pub(crate) async fn catch_up(database: &Database, log: &Log) -> Result<(), DbErr> {
    let transaction = begin(database.connection()).await?;
    lock(&transaction, log).await?;
    rooms::catch_up(&transaction, log).await?;
    replies::catch_up(&transaction, log).await?;
    trail::catch_up(&transaction, log).await?;
    // Behind the trail, which it goes by.
    members::catch_up(&transaction, log).await?;
    transaction.commit().await
}

/// Keeps whoever archives from going on until the transaction ends. SQLite has one writer at a time, and whoever wrote on what
/// another has changed meanwhile fails.
pub(crate) async fn lock(db: &DatabaseTransaction, log: &Log) -> Result<(), DbErr> {
    if db.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let row = watermark::Entity::find_by_id(i64::from(log.shard)).lock_exclusive();
    row.one(db).await.map(drop)
}

/// The last event that is archived of this log, if there is one.
pub(crate) async fn last_event(db: &DatabaseConnection, log: &Log) -> Result<Option<event::Model>, DbErr> {
    of_log(log).order_by(event::Column::Seq, Order::Desc).one(db).await
}

/// Stores a batch and moves the watermark, or does neither. Without an answer within [`COMMIT_LIMIT`] nobody knows which:
/// the watermark tells, once it can be read again.
pub(crate) async fn commit(database: &Database, log: &Log, batch: Batch) -> Result<Commit, DbErr> {
    within(COMMIT_LIMIT, store(database, log, batch)).await
}

async fn store(database: &Database, log: &Log, batch: Batch) -> Result<Commit, DbErr> {
    let old = watermark::Model {
        shard: i64::from(log.shard),
        epoch: i64::from(log.epoch),
        stream_seq: number(batch.old_watermark())?,
        replies: 0,
    };
    let new = number(batch.new_watermark())?;
    let transaction = begin(database.connection()).await?;
    // First of all: it fences rivals and takes the write lock, so that nothing that is read below can change.
    if !move_watermark(&transaction, &old, (old.epoch, new)).await? {
        transaction.rollback().await?;
        return Ok(Commit::Overtaken);
    }
    passed(Step::WatermarkMoved);
    let mut rows = batch.into_rows();
    set_apart(&transaction, log, &mut rows).await?;
    keep(database, &transaction, rows.events).await?;
    for row in &rows.quarantined {
        insert_quarantined(&transaction, row).await?;
    }
    passed(Step::Projected);
    transaction.commit().await?;
    for row in rows.quarantined {
        let quarantine::Model {
            stream_seq,
            line,
            reason,
            ..
        } = row;
        tracing::error!(
            stream_seq,
            line,
            reason,
            "the archive keeps in quarantine what it cannot store as an event"
        );
    }
    Ok(Commit::Done)
}

/// Stores events that the archive has not got, and what they make of those that it has.
pub(crate) async fn keep(
    database: &Database,
    transaction: &DatabaseTransaction,
    events: Vec<event::Model>,
) -> Result<(), DbErr> {
    let (changes, standings) = (Changes::of(&events), Standings::of(&events));
    let replies = Replies::of(&events);
    let (rules, erasing) = (Rules::of(&events), Erasing::of(&events));
    let Some(of) = events.first().map(|row| (row.epoch, row.shard)) else {
        return Ok(());
    };
    let (of_interest, memberships) = (Trail::of_interest(&events), Members::changes(&events));
    database.insert().run(transaction, events).await?;
    passed(Step::Inserted);
    trail::store(transaction, &of_interest).await?;
    members::store(transaction, of, memberships).await?;
    now::store(transaction, of, changes).await?;
    rooms::store(transaction, of, standings).await?;
    replies::store(transaction, of, replies).await?;
    retention::store(transaction, of, rules).await?;
    // Last: what is erased is stored by now.
    // Boxed: it is large, and most batches erase nothing.
    Box::pin(erasure::store(transaction, of, erasing)).await
}

/// A transaction that sees what others committed before each of its statements, on every engine: MySQL's own default shows
/// it an old picture. SQLite has one writer at a time and knows no levels.
pub(crate) async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let level = match db.get_database_backend() {
        DbBackend::Sqlite => None,
        _ => Some(IsolationLevel::ReadCommitted),
    };
    db.begin_with_config(level, None).await
}

/// The room's messages in a range: sequence and size in bytes, from its beginning or from its end.
pub(crate) async fn sizes(
    db: &DatabaseConnection,
    room: Room<'_>,
    range: Range,
    (order, limit): (Order, u64),
) -> Result<Vec<(Seq, usize)>, DbErr> {
    sizes_of(db, messages_of(room, range), (order, limit)).await
}

/// The lines of the room's messages in a range, oldest first. The caller knows that they are few.
pub(crate) async fn lines(db: &DatabaseConnection, room: Room<'_>, range: Range) -> Result<Vec<(i64, Vec<u8>)>, DbErr> {
    lines_of(db, messages_of(room, range)).await
}

/// A message by its id: its place and its line.
pub(crate) async fn by_id(db: &DatabaseConnection, room: Room<'_>, id: &str) -> Result<Option<(i64, Vec<u8>)>, DbErr> {
    // By the index of ids, and by no other; an id is that of one event.
    let found = event::Entity::find().filter(event::Column::Id.eq(id)).all(db).await?;
    let is_wanted = |row: &event::Model| {
        (row.epoch, row.shard) == (i64::from(room.log.epoch), i64::from(room.log.shard))
            && (row.tenant.as_str(), row.room.as_str()) == (room.tenant.as_str(), room.id.as_str())
            && MESSAGES.iter().any(|kind| kind.as_str() == row.kind)
    };
    Ok(found.into_iter().find(is_wanted).map(|row| (row.seq, row.bytes)))
}

/// Whose events, as they stood in the log: of a tenant, or of one room of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past<'a> {
    pub(crate) log: &'a Log,
    pub(crate) tenant: &'a Id,
    pub(crate) room: Option<&'a Id>,
    /// Places of events in other rooms that a reader of one room is told too.
    pub(crate) told_to_all: &'a [i64],
}

/// Sequence and size in bytes of the first `limit` events in a range, of every kind.
pub(crate) async fn past_sizes(
    db: &DatabaseConnection,
    of: Past<'_>,
    range: Range,
    limit: u64,
) -> Result<Vec<(Seq, usize)>, DbErr> {
    sizes_of(db, past_events(of, range), (Order::Asc, limit)).await
}

/// The lines of all events in a range, in log order. The caller knows that they are few.
pub(crate) async fn past_lines(db: &DatabaseConnection, of: Past<'_>, range: Range) -> Result<Vec<Vec<u8>>, DbErr> {
    let lines = lines_of(db, past_events(of, range)).await?;
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// First and last of the last frames, up to a frame, that the log had not got any more when it was archived.
pub(crate) async fn last_absence(db: &DatabaseConnection, log: &Log, up_to: u64) -> Result<Option<(u64, u64)>, DbErr> {
    let row: Option<(i64, Vec<u8>)> = quarantine::Entity::find()
        .select_only()
        .columns([quarantine::Column::StreamSeq, quarantine::Column::Bytes])
        .filter(quarantine::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(quarantine::Column::Shard.eq(i64::from(log.shard)))
        .filter(quarantine::Column::StreamSeq.lte(i64::try_from(up_to).unwrap_or(i64::MAX)))
        .filter(quarantine::Column::Reason.starts_with(project::ABSENT))
        .order_by(quarantine::Column::StreamSeq, Order::Desc)
        .into_tuple()
        .one(db)
        .await?;
    Ok(row.map(|(first, last)| {
        let first = first.unsigned_abs();
        let last = String::from_utf8(last).ok().and_then(|last| last.parse().ok());
        (first, last.unwrap_or(first))
    }))
}

fn past_events(of: Past<'_>, range: Range) -> Select<event::Entity> {
    let events = match of.room {
        // By the room's index, as in `messages_of`.
        Some(room) => event::Entity::find()
            .filter(Expr::col(event::Column::Epoch).add(0).eq(i64::from(of.log.epoch)))
            .filter(Expr::col(event::Column::Shard).add(0).eq(i64::from(of.log.shard)))
            .filter(match of.told_to_all {
                [] => event::Column::Room.eq(room.as_str()),
                places => event::Column::Room
                    .eq(room.as_str())
                    .or(event::Column::Seq.is_in(places.iter().copied())),
            }),
        None => of_log(of.log),
    };
    events
        .filter(event::Column::Tenant.eq(of.tenant.as_str()))
        .filter(event::Column::Seq.gte(bound(range.first)))
        .filter(event::Column::Seq.lte(bound(range.last)))
}

pub(crate) async fn sizes_of(
    db: &DatabaseConnection,
    events: Select<event::Entity>,
    (order, limit): (Order, u64),
) -> Result<Vec<(Seq, usize)>, DbErr> {
    // In bytes for a BLOB on SQLite, a bytea on PostgreSQL and everything on MySQL.
    let length = Func::cust("LENGTH").arg(Expr::col(event::Column::Bytes));
    let length: SimpleExpr = match db.get_database_backend() {
        // A number of 32 bits there.
        DbBackend::Postgres => Expr::expr(length).cast_as("bigint"),
        _ => length.into(),
    };
    let rows: Vec<(i64, i64)> = events
        .select_only()
        .column(event::Column::Seq)
        .expr(length)
        .order_by(event::Column::Seq, order)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(seq, size)| (Seq(seq.unsigned_abs()), usize::try_from(size).unwrap_or(usize::MAX)))
        .collect())
}

pub(crate) async fn lines_of(
    db: &DatabaseConnection,
    events: Select<event::Entity>,
) -> Result<Vec<(i64, Vec<u8>)>, DbErr> {
    events
        .select_only()
        .columns([event::Column::Seq, event::Column::Bytes])
        .order_by(event::Column::Seq, Order::Asc)
        .into_tuple()
        .all(db)
        .await
}

pub(crate) fn of_log(log: &Log) -> Select<event::Entity> {
    of_epoch((i64::from(log.epoch), i64::from(log.shard)))
}

fn of_epoch((epoch, shard): (i64, i64)) -> Select<event::Entity> {
    event::Entity::find()
        .filter(event::Column::Epoch.eq(epoch))
        .filter(event::Column::Shard.eq(shard))
}

/// The next events of an epoch and shard behind a place, for whoever makes something of all of them anew.
pub(crate) fn next_events(of: (i64, i64), after: i64) -> Select<event::Entity> {
    of_epoch(of)
        .filter(event::Column::Seq.gt(after))
        .order_by(event::Column::Seq, Order::Asc)
        .limit(EVENTS)
}

/// What readers see of a room.
///
/// Epoch and shard are filtered by expressions that no index serves: named plainly they lead SQLite, which has no
/// statistics, to the primary key, and it reads the whole log for each page instead of the room by its index.
fn messages_of(room: Room<'_>, range: Range) -> Select<event::Entity> {
    event::Entity::find()
        .filter(Expr::col(event::Column::Epoch).add(0).eq(i64::from(room.log.epoch)))
        .filter(Expr::col(event::Column::Shard).add(0).eq(i64::from(room.log.shard)))
        .filter(event::Column::Tenant.eq(room.tenant.as_str()))
        .filter(event::Column::Room.eq(room.id.as_str()))
        .filter(event::Column::Kind.is_in(MESSAGES.map(Kind::as_str)))
        .filter(event::Column::Seq.gte(bound(range.first)))
        .filter(event::Column::Seq.lte(bound(range.last)))
}

/// A place that a reader names may be any number; beyond the column's range nothing is stored.
pub(crate) fn bound(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

pub(crate) async fn move_watermark(
    db: &impl ConnectionTrait,
    old: &watermark::Model,
    (epoch, stream_seq): (i64, i64),
) -> Result<bool, DbErr> {
    // With it where it was as far. MySQL assigns from left to right, so this is first.
    let replies = if epoch == old.epoch {
        let is_as_far = Expr::col(watermark::Column::Replies).eq(Expr::col(watermark::Column::StreamSeq));
        Expr::case(is_as_far, stream_seq)
            .finally(Expr::col(watermark::Column::Replies))
            .into()
    } else {
        Expr::value(stream_seq)
    };
    let mut update = watermark::Entity::update_many()
        .col_expr(watermark::Column::Replies, replies)
        .col_expr(watermark::Column::Epoch, Expr::value(epoch))
        .col_expr(watermark::Column::StreamSeq, Expr::value(stream_seq))
        .filter(watermark::Column::Shard.eq(old.shard));
    if !broken("archive-watermark") {
        update = update
            .filter(watermark::Column::Epoch.eq(old.epoch))
            .filter(watermark::Column::StreamSeq.eq(old.stream_seq));
    }
    let moved = update.exec(db).await?;
    Ok(moved.rows_affected == 1)
}

/// Takes out of `rows` what the archive has already, and moves to the quarantine what it has otherwise.
///
/// There is nothing to find unless somebody turned the watermark back: it and the events move together.
async fn set_apart(db: &DatabaseTransaction, log: &Log, rows: &mut Rows) -> Result<(), DbErr> {
    let (Some(first), Some(last)) = (rows.events.first(), rows.events.last()) else {
        return Ok(());
    };
    let stored: std::collections::HashMap<i64, Vec<u8>> = of_log(log)
        .select_only()
        .columns([event::Column::Seq, event::Column::Hash])
        .filter(event::Column::Seq.between(first.seq, last.seq))
        .into_tuple::<(i64, Vec<u8>)>()
        .all(db)
        .await?
        .into_iter()
        .collect();
    if stored.is_empty() {
        return Ok(());
    }
    let (known, new) = std::mem::take(&mut rows.events)
        .into_iter()
        .partition(|row| stored.contains_key(&row.seq));
    rows.events = new;
    let known: Vec<event::Model> = known;
    for row in known.into_iter().filter(|row| stored.get(&row.seq) != Some(&row.hash)) {
        let there = event::Entity::find_by_id((row.epoch, row.shard, row.seq))
            .one(db)
            .await?;
        if there.is_some_and(|there| erasure::is_same(&row, &there)) {
            continue;
        }
        tracing::error!(
            seq = row.seq,
            epoch = log.epoch,
            shard = log.shard,
            "FORK: the log has another event than the archive at the same place. Both are kept; find out which log this is"
        );
        rows.quarantined.push(project::fork(row));
    }
    Ok(())
}

/// Keeps a row in quarantine, unless the very same is there.
pub(crate) async fn insert_quarantined(db: &DatabaseTransaction, row: &quarantine::Model) -> Result<(), DbErr> {
    let key = (row.epoch, row.shard, row.stream_seq, row.line, row.hash.clone());
    if quarantine::Entity::find_by_id(key).one(db).await?.is_none() {
        quarantine::Entity::insert(row.clone().into_active_model())
            .exec_without_returning(db)
            .await?;
    }
    Ok(())
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(DbErr::Custom(format!("the database has not answered for {limit:?}"))))
}

fn number(stream_seq: u64) -> Result<i64, DbErr> {
    i64::try_from(stream_seq).map_err(|error| DbErr::Custom(error.to_string()))
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::Subjects;
    use sea_orm::{QueryTrait, Statement};

    use super::*;
    use crate::archive::testing::{Databases, Engine, on_each_engine};

    on_each_engine!(
        nothing_of_another_shard_epoch_tenant_or_room_is_seen,
        a_place_in_the_log_is_taken_once,
    );

    async fn a_place_in_the_log_is_taken_once(engine: Engine) {
        let databases = Databases::new(engine);
        let database = databases.open("archive").await;
        let row = |epoch, seq| event::Model {
            epoch,
            shard: 0,
            seq,
            tenant: "main".to_owned(),
            room: "lobby".to_owned(),
            n: 1,
            prev: 0,
            id: String::new(),
            from_user: "alice".to_owned(),
            kind: "msg".to_owned(),
            at: String::new(),
            key: None,
            bytes: b"{}".to_vec(),
            hash: vec![0; 32],
        };
        for (epoch, seq, taken) in [(1, 7, false), (1, 8, false), (2, 7, false), (1, 7, true), (2, 7, true)] {
            let transaction = begin(database.connection()).await.unwrap();
            let stored = database.insert().run(&transaction, vec![row(epoch, seq)]).await;
            assert_eq!(stored.is_err(), taken, "{epoch} {seq}: {stored:?}");
            if stored.is_ok() {
                transaction.commit().await.unwrap();
            }
        }
    }

    async fn nothing_of_another_shard_epoch_tenant_or_room_is_seen(engine: Engine) {
        let databases = Databases::new(engine);
        let database = databases.open("archive").await;
        let connection = database.connection();
        let log = Log::first(Subjects::default());
        let row = |epoch, shard, seq, tenant: &str, room: &str| event::Model {
            epoch,
            shard,
            seq,
            tenant: tenant.to_owned(),
            room: room.to_owned(),
            n: 1,
            prev: 0,
            id: String::new(),
            from_user: "alice".to_owned(),
            kind: "msg".to_owned(),
            at: String::new(),
            key: None,
            bytes: b"{}".to_vec(),
            hash: Vec::new(),
        };
        let rows = [
            row(1, 0, 7, "main", "lobby"),
            row(2, 0, 8, "main", "lobby"),
            row(1, 1, 9, "main", "lobby"),
            row(1, 0, 10, "Main", "lobby"),
            row(1, 0, 11, "main", "Lobby"),
        ];
        event::Entity::insert_many(rows.map(IntoActiveModel::into_active_model))
            .exec_without_returning(connection)
            .await
            .unwrap();
        let (tenant, room) = ("main".parse().unwrap(), "lobby".parse().unwrap());
        let room = Room {
            log: &log,
            tenant: &tenant,
            id: &room,
        };
        let range = Range {
            first: Seq::ZERO,
            last: Seq(u64::MAX),
        };
        assert_eq!(
            sizes(connection, room, range, (Order::Asc, 9)).await.unwrap(),
            [(Seq(7), 2)]
        );
        assert_eq!(lines(connection, room, range).await.unwrap(), [(7, b"{}".to_vec())]);
    }

    #[tokio::test]
    async fn a_room_is_read_by_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.db");
        Database::open_file(&path).await.unwrap().close().await;
        // Opened again: EXPLAIN, unlike a query, believes a connection that opened before the tables were made.
        let database = Database::open_file(&path).await.unwrap();
        let connection = database.connection();
        let log = Log::first(Subjects::default());
        let (tenant, room) = ("main".parse().unwrap(), "lobby".parse().unwrap());
        let room = Room {
            log: &log,
            tenant: &tenant,
            id: &room,
        };
        let select = messages_of(
            room,
            Range {
                first: Seq(1),
                last: Seq(9),
            },
        )
        .order_by_desc(event::Column::Seq);
        let Statement {
            sql,
            values,
            db_backend,
            ..
        } = select.build(connection.get_database_backend());
        let explain = Statement {
            sql: format!("EXPLAIN QUERY PLAN {sql}"),
            values,
            db_backend,
        };
        let rows = connection.query_all_raw(explain).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.try_get("", "detail").unwrap()).collect();
        let [step] = plan.as_slice() else { panic!("{plan:?}") };
        assert!(step.contains("event_by_room") && step.contains("seq>"), "{plan:?}");
    }
}
