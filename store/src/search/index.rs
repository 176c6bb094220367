use std::time::Duration;

use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    IntoActiveModel, Order, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Statement, Value,
};
use tokio_util::sync::CancellationToken;

use super::{text, words};
use crate::archive::now::{self, Changes};
use crate::archive::{Database, sql};
use crate::entity::{event, search_mark};

/// Events that are looked at in one transaction: well under a second of work.
const BATCH: u64 = 500;
/// Rows of one statement, of 7 parameters each.
const ROWS: usize = 100;
/// How soon what was archived can be found.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// What became of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// There may be more.
    Indexed,
    /// Everything that was archived is indexed, or another store was faster.
    Idle,
}

/// Keeps the index behind the archive until `shutdown`. A database that fails is waited for.
pub async fn keep(database: Database, log: Log, shutdown: CancellationToken) {
    let mut failing = false;
    loop {
        let pause = match round(&database, &log).await {
            Ok(Round::Indexed) => Duration::ZERO,
            Ok(Round::Idle) => LOOK_EVERY,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "what is said is not indexed for search now");
                }
                failing = true;
                PAUSE
            }
        };
        failing &= pause == PAUSE;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// How far the index is, for readers: nothing of another epoch counts.
pub(super) async fn mark(db: &DatabaseConnection, log: &Log) -> Result<Option<search_mark::Model>, DbErr> {
    search_mark::Entity::find_by_id(i64::from(log.shard)).one(db).await
}

pub(super) async fn round(database: &Database, log: &Log) -> Result<Round, DbErr> {
    let db = database.connection();
    let Some(old) = mark(db, log).await? else {
        return begin(db, log).await;
    };
    let (last, count) = next_places(db, &old).await?;
    let new = match last {
        Some(last) => search_mark::Model { seq: last, ..old },
        // Events of an epoch that is over have all been seen.
        None if old.epoch < archived_epoch(db, log).await? => search_mark::Model {
            epoch: old.epoch + 1,
            seq: 0,
            ..old
        },
        None => return Ok(Round::Idle),
    };
    let transaction = sql::begin(db).await?;
    if !move_mark(&transaction, &old, &new).await? {
        transaction.rollback().await?;
        return Ok(Round::Idle);
    }
    // Behind the mark's move, which whoever erases waits for: what was erased before is not there any more.
    let events: Vec<event::Model> = event::Entity::find()
        .filter(event::Column::Epoch.eq(old.epoch))
        .filter(event::Column::Shard.eq(old.shard))
        .filter(event::Column::Seq.gt(old.seq))
        .filter(event::Column::Seq.lte(new.seq))
        .order_by(event::Column::Seq, Order::Asc)
        .all(&transaction)
        .await?;
    for rows in rows_of(&transaction, &events, &old).await?.chunks(ROWS) {
        insert(&transaction, rows).await?;
    }
    transaction.commit().await?;
    // Each round is a flush of the disk, which the log's own flushes wait for: few events are left until there are more.
    let may_be_more = count == 0 || count == BATCH.cast_signed();
    Ok(if may_be_more { Round::Indexed } else { Round::Idle })
}

/// The last of the next events, and how many they are: one row, since each row wakes two threads on SQLite.
async fn next_places(db: &DatabaseConnection, mark: &search_mark::Model) -> Result<(Option<i64>, i64), DbErr> {
    let next = event::Entity::find()
        .select_only()
        .column(event::Column::Seq)
        .filter(event::Column::Epoch.eq(mark.epoch))
        .filter(event::Column::Shard.eq(mark.shard))
        .filter(event::Column::Seq.gt(mark.seq))
        .order_by(event::Column::Seq, Order::Asc)
        .limit(BATCH);
    let seq = || Expr::col(event::Column::Seq);
    let mut both = Query::select();
    both.expr_as(seq().max(), "last")
        .expr_as(seq().count(), "count")
        .from_subquery(next.into_query(), "next");
    let row = db.query_one(&both).await?;
    row.map_or(Ok((None, 0)), |row| {
        Ok((row.try_get("", "last")?, row.try_get("", "count")?))
    })
}

async fn begin(db: &DatabaseConnection, log: &Log) -> Result<Round, DbErr> {
    let first: Option<i64> = event::Entity::find()
        .select_only()
        .column(event::Column::Epoch)
        .filter(event::Column::Shard.eq(i64::from(log.shard)))
        .order_by(event::Column::Epoch, Order::Asc)
        .into_tuple()
        .one(db)
        .await?;
    let row = search_mark::Model {
        shard: i64::from(log.shard),
        epoch: first.unwrap_or(i64::from(log.epoch)),
        seq: 0,
    };
    match search_mark::Entity::insert(row.into_active_model())
        .exec_without_returning(db)
        .await
    {
        Ok(_) => Ok(Round::Indexed),
        // Another store has begun it meanwhile.
        Err(_) if mark(db, log).await?.is_some() => Ok(Round::Idle),
        Err(error) => Err(error),
    }
}

async fn archived_epoch(db: &DatabaseConnection, log: &Log) -> Result<i64, DbErr> {
    Ok(sql::watermark(db, log).await?.map_or(0, |row| row.epoch))
}

async fn move_mark(
    db: &DatabaseTransaction,
    old: &search_mark::Model,
    new: &search_mark::Model,
) -> Result<bool, DbErr> {
    let moved = search_mark::Entity::update_many()
        .col_expr(search_mark::Column::Epoch, Expr::value(new.epoch))
        .col_expr(search_mark::Column::Seq, Expr::value(new.seq))
        .filter(search_mark::Column::Shard.eq(old.shard))
        .filter(search_mark::Column::Epoch.eq(old.epoch))
        .filter(search_mark::Column::Seq.eq(old.seq))
        .exec(db)
        .await?;
    Ok(moved.rows_affected == 1)
}

/// The index's rows for events. What stood there for messages that they change is taken out.
async fn rows_of(
    db: &DatabaseTransaction,
    events: &[event::Model],
    mark: &search_mark::Model,
) -> Result<Vec<Vec<Value>>, DbErr> {
    let changes = Changes::of(events).changed;
    let changed: Vec<i64> = changes.keys().copied().collect();
    take_out(db, mark, &changed).await?;
    // As the archive knows it by now: what was deleted later than these events is not put in any more.
    let messages = events.iter().filter(|event| is_message(event)).map(|event| event.seq);
    let places: Vec<i64> = messages.chain(changed).collect();
    let now = now::at(db, (mark.epoch, mark.shard), &places).await?;
    let is_deleted = |seq: i64| now.get(&seq).is_some_and(|change| change.deleted.is_some());
    let said = events
        .iter()
        .filter(|event| is_message(event) && !changes.contains_key(&event.seq) && !is_deleted(event.seq))
        .filter_map(|event| row(event, event.seq));
    // Of several edits the last counts; it may stand among these events or not.
    let edited = changes
        .values()
        .filter(|change| !is_deleted(change.seq))
        .filter_map(|change| {
            let edit = events.iter().find(|event| Some(event.seq) == change.edited)?;
            row(edit, change.seq)
        });
    Ok(said.chain(edited).collect())
}

async fn take_out(db: &DatabaseTransaction, mark: &search_mark::Model, seqs: &[i64]) -> Result<(), DbErr> {
    for seqs in seqs.chunks(ROWS) {
        let list: Vec<String> = seqs.iter().map(i64::to_string).collect();
        let sql = format!(
            "DELETE FROM search WHERE epoch = {} AND shard = {} AND seq IN ({})",
            mark.epoch,
            mark.shard,
            list.join(", ")
        );
        db.execute_raw(Statement::from_string(db.get_database_backend(), sql))
            .await?;
    }
    Ok(())
}

fn is_message(event: &event::Model) -> bool {
    sql::MESSAGES.iter().any(|kind| kind.as_str() == event.kind)
}

/// The index's row of a message at `seq` that an event says, or says anew; none if it has no words.
fn row(event: &event::Model, seq: i64) -> Option<Vec<Value>> {
    let tokens = words::tokens(&text::text_of(&event.bytes));
    (!tokens.is_empty()).then(|| {
        vec![
            event.epoch.into(),
            event.shard.into(),
            seq.into(),
            event.tenant.clone().into(),
            event.room.clone().into(),
            event.from_user.clone().into(),
            tokens.into(),
        ]
    })
}

async fn insert(db: &DatabaseTransaction, rows: &[Vec<Value>]) -> Result<(), DbErr> {
    let backend = db.get_database_backend();
    let mut sql = "INSERT INTO search (epoch, shard, seq, tenant, room, from_user, tokens) VALUES ".to_owned();
    for place in 0..rows.len() {
        let first = place * 7;
        let row = match backend {
            DbBackend::Postgres => {
                let numbers: Vec<String> = (first + 1..first + 7).map(|number| format!("${number}")).collect();
                format!("({}, to_tsvector('simple', ${}))", numbers.join(", "), first + 7)
            }
            _ => "(?, ?, ?, ?, ?, ?, ?)".to_owned(),
        };
        sql.push_str(if place == 0 { "" } else { ", " });
        sql.push_str(&row);
    }
    let values: Vec<Value> = rows.iter().flatten().cloned().collect();
    db.execute_raw(Statement::from_sql_and_values(backend, sql, values))
        .await?;
    Ok(())
}
