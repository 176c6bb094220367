use std::collections::HashMap;

use natterjack_nats_config::contract::{Counted, Event, Kind, Seq, redacted};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter, Statement,
};
use serde::Deserialize;

use super::fold::Known;
use crate::archive::{project, sql};
use crate::entity::{changed, event, reaction, search_mark};

/// Rows of one statement, of 14 parameters each.
const ROWS: usize = 100;
/// What stands in the line of an event that was erased, and in few others, which are all that is parsed.
const MARK: &[u8] = b"\"erased\":";

/// What was erased in one go.
#[derive(Debug, Default)]
pub(super) struct Redacted {
    pub(super) counted: Counted,
    /// The last event.
    pub(super) last: i64,
}

/// What is left of an event's row; none if there is nothing to erase.
pub(super) fn without(row: &event::Model, by: Seq) -> Option<event::Model> {
    let event = serde_json::from_slice::<Event>(&row.bytes).ok()?;
    if event.erased.is_some() {
        return Some(row.clone());
    }
    let bytes = redacted(event, by)?;
    Some(event::Model {
        key: None,
        hash: project::hash(&bytes),
        bytes,
        ..row.clone()
    })
}

/// By which erasure a row was erased, if it was.
pub(super) fn erased_by(row: &event::Model) -> Option<Seq> {
    erased_in(&row.bytes)
}

/// Whether a line, as it is kept or shown, is of something that was erased.
pub(crate) fn is_erased(line: &[u8]) -> bool {
    erased_in(line).is_some()
}

fn erased_in(line: &[u8]) -> Option<Seq> {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(default)]
        erased: Option<Seq>,
    }
    if !line.windows(MARK.len()).any(|part| part == MARK) {
        return None;
    }
    serde_json::from_slice::<Probe>(line).ok()?.erased
}

/// Whether a row that is stored is that of an event of the log: as it stands there, or what an erasure left of it.
pub(crate) fn is_same(of_log: &event::Model, stored: &event::Model) -> bool {
    if of_log.hash == stored.hash {
        return true;
    }
    erased_by(stored)
        .and_then(|by| without(of_log, by))
        .is_some_and(|left| left.hash == stored.hash)
}

/// Takes for what the log has what an erasure left of it, where that is what the archive has.
pub(crate) fn as_erased(expected: &mut [event::Model], archived: &[event::Model]) {
    let by_place: HashMap<i64, &event::Model> = archived.iter().map(|row| (row.seq, row)).collect();
    for row in expected {
        if let Some(stored) = by_place.get(&row.seq)
            && row.hash != stored.hash
            && let Some(left) = erased_by(stored).and_then(|by| without(row, by))
        {
            *row = left;
        }
    }
}

/// Erases events of one log by an erasure: their bodies, their words in the index, and what was made of them. Those that were
/// erased before are counted to the erasure that did it.
pub(super) async fn redact(db: &DatabaseTransaction, rows: Vec<event::Model>, by: i64) -> Result<Redacted, DbErr> {
    let mut done = Redacted::default();
    let Some((epoch, shard)) = rows.first().map(|row| (row.epoch, row.shard)) else {
        return Ok(done);
    };
    // Whoever fills the index waits, and then reads what is left.
    search_mark::Entity::update_many()
        .col_expr(search_mark::Column::Seq, Expr::col(search_mark::Column::Seq))
        .filter(search_mark::Column::Shard.eq(shard))
        .exec(db)
        .await?;
    let own = Seq(by.unsigned_abs());
    for rows in rows.chunks(ROWS) {
        // An earlier one that covers it too may not have got here: what is left says the same, whichever comes first.
        let known = Known::covering(db, rows, by).await?;
        let (mut left, mut places) = (Vec::new(), Vec::new());
        for row in rows {
            let Ok(event) = serde_json::from_slice::<Event>(&row.bytes) else {
                continue;
            };
            let by = known.by(&event).unwrap_or(own);
            if event.erased.unwrap_or(by) == own {
                done.take(row, event.kind);
            }
            let target = event.target.as_ref().map(|target| sql::bound(target.seq));
            places.push(target.filter(|_| event.kind == Kind::Edit).unwrap_or(row.seq));
            if event.erased.is_some() {
                continue;
            }
            if let Some(new) = without(row, by) {
                follow(db, (&new, event.kind), target).await?;
                left.push(new);
            }
        }
        replace(db, (epoch, shard), left).await?;
        done.counted.search += forget_words(db, (epoch, shard), &places).await?;
    }
    Ok(done)
}

impl Redacted {
    fn take(&mut self, row: &event::Model, kind: Kind) {
        self.last = self.last.max(row.seq);
        match kind {
            Kind::Edit => self.counted.edits += 1,
            Kind::React | Kind::Unreact => self.counted.reactions += 1,
            _ => self.counted.messages += 1,
        }
    }
}

/// What was made of an event follows it.
async fn follow(
    db: &DatabaseTransaction,
    (new, kind): (&event::Model, Kind),
    target: Option<i64>,
) -> Result<(), DbErr> {
    let Some(target) = target else { return Ok(()) };
    match kind {
        Kind::Edit => {
            changed::Entity::update_many()
                .col_expr(
                    changed::Column::EditBytes,
                    Expr::value(i64::try_from(new.bytes.len()).ok()),
                )
                .filter(changed::Column::Epoch.eq(new.epoch))
                .filter(changed::Column::Shard.eq(new.shard))
                .filter(changed::Column::Seq.eq(target))
                .filter(changed::Column::Edited.eq(new.seq))
                .exec(db)
                .await?;
        }
        Kind::React | Kind::Unreact => {
            reaction::Entity::delete_many()
                .filter(reaction::Column::Epoch.eq(new.epoch))
                .filter(reaction::Column::Shard.eq(new.shard))
                .filter(reaction::Column::Target.eq(target))
                .filter(reaction::Column::Seq.eq(new.seq))
                .exec(db)
                .await?;
        }
        _ => {}
    }
    Ok(())
}

async fn replace(db: &DatabaseTransaction, (epoch, shard): (i64, i64), new: Vec<event::Model>) -> Result<(), DbErr> {
    if new.is_empty() {
        return Ok(());
    }
    event::Entity::delete_many()
        .filter(event::Column::Epoch.eq(epoch))
        .filter(event::Column::Shard.eq(shard))
        .filter(event::Column::Seq.is_in(new.iter().map(|row| row.seq)))
        .exec(db)
        .await?;
    let new = new.into_iter().map(IntoActiveModel::into_active_model);
    event::Entity::insert_many(new).exec_without_returning(db).await?;
    Ok(())
}

async fn forget_words(db: &DatabaseTransaction, (epoch, shard): (i64, i64), seqs: &[i64]) -> Result<u64, DbErr> {
    if seqs.is_empty() {
        return Ok(0);
    }
    let list: Vec<String> = seqs.iter().map(i64::to_string).collect();
    let list = list.join(", ");
    let sql = format!("DELETE FROM search WHERE epoch = {epoch} AND shard = {shard} AND seq IN ({list})");
    let done = db
        .execute_raw(Statement::from_string(db.get_database_backend(), sql))
        .await?;
    Ok(done.rows_affected())
}
