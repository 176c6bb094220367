use async_nats::Client;
use natterjack_nats_config::contract::{
    CONTENT, Counted, Erasable, ErasableQuery, EraseBody, Erasure, ErasureState, ErasuresPage, ErasuresQuery, Event,
    Kind, MAX_ERASURES, PendingPart, Seq,
};
use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect};

use super::fold::of_log;
use crate::archive::{now, sql};
use crate::entity::{erasure, event};
use crate::retention::holds;

/// Whether a legal hold covers something, and where the message stands.
pub(crate) async fn erasable(db: &DatabaseConnection, log: &Log, query: &ErasableQuery) -> Result<Erasable, DbErr> {
    // First: holds of up to here are known then.
    let watermark = sql::archived(db, log).await?;
    let tenant = query.tenant.as_str();
    let rooms = holds(db, log, (tenant, "room")).await?;
    let users = holds(db, log, (tenant, "user")).await?;
    let mut found = Erasable {
        watermark,
        held: false,
        seq: None,
        from: None,
    };
    if let Some(user) = &query.user {
        found.held = users.contains(user.as_str());
        for room in &rooms {
            found.held = found.held || has_said(db, log, (tenant, room, user.as_str())).await?;
        }
    }
    if let Some((room, id)) = query.room.as_ref().zip(query.message.as_ref()) {
        let of = sql::Room {
            log,
            tenant: &query.tenant,
            id: room,
        };
        let Some((_, line)) = sql::by_id(db, of, id).await? else {
            return Ok(found);
        };
        let event: Event = serde_json::from_slice(&line).map_err(|error| DbErr::Custom(error.to_string()))?;
        found.held = rooms.contains(room.as_str()) || users.contains(event.from.as_str());
        (found.seq, found.from) = (Some(event.seq), Some(event.from));
    }
    Ok(found)
}

/// Whether a user has said anything in a room that is there still.
async fn has_said(db: &DatabaseConnection, log: &Log, (tenant, room, user): (&str, &str, &str)) -> Result<bool, DbErr> {
    let said: Option<i64> = event::Entity::find()
        .select_only()
        .column(event::Column::Seq)
        .filter(event::Column::Tenant.eq(tenant))
        .filter(event::Column::Room.eq(room))
        .filter(event::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(event::Column::Shard.eq(i64::from(log.shard)))
        .filter(event::Column::FromUser.eq(user))
        .filter(event::Column::Kind.is_in(CONTENT.map(Kind::as_str)))
        .limit(1)
        .into_tuple()
        .one(db)
        .await?;
    Ok(said.is_some())
}

/// Receipts of a tenant's erasures, the newest first.
pub(crate) async fn erasures(
    (db, client): (&DatabaseConnection, &Client),
    log: &Log,
    query: &ErasuresQuery,
) -> Result<ErasuresPage, DbErr> {
    let watermark = sql::archived(db, log).await?;
    let mut select = of_log(log).filter(erasure::Column::Tenant.eq(query.tenant.as_str()));
    if let Some(seq) = query.seq {
        select = select.filter(erasure::Column::Seq.eq(sql::bound(seq)));
    }
    if let Some(before) = query.before {
        select = select.filter(erasure::Column::Seq.lt(sql::bound(before)));
    }
    let rows = select
        .order_by(erasure::Column::Seq, Order::Desc)
        .limit(MAX_ERASURES)
        .all(db)
        .await?;
    let places: Vec<i64> = rows.iter().map(|row| row.seq).collect();
    let events = sql::lines_of(db, now::events_of(log, &places)).await?;
    let first = log.bounds(client).await.ok().map(|bounds| bounds.first);
    let said = |seq: i64| {
        let line = events.iter().find(|(place, _)| *place == seq)?;
        serde_json::from_slice::<Event>(&line.1).ok()
    };
    let erasures = rows.iter().filter_map(|row| Some(receipt(row, said(row.seq)?, first)));
    Ok(ErasuresPage {
        watermark,
        erasures: erasures.collect(),
    })
}

/// A receipt; `first` is the log's first frame, if it answers.
fn receipt(row: &erasure::Model, event: Event, first: Option<u64>) -> Erasure {
    let body = serde_json::from_str::<EraseBody>(event.body.get()).unwrap_or_default();
    let pending = pending(row, first);
    let count = |number: i64| number.unsigned_abs();
    Erasure {
        seq: event.seq,
        at: event.at,
        by: event.from.to_string(),
        reason: body.reason,
        user: body.user.map(|user| user.to_string()),
        room: event.target.as_ref().map(|_| row.room.clone()),
        message: event.target.map(|target| target.id),
        state: if pending.is_empty() {
            ErasureState::Done
        } else {
            ErasureState::Pending
        },
        counted: Counted {
            messages: count(row.messages),
            edits: count(row.edits),
            reactions: count(row.reactions),
            search: count(row.words),
        },
        pending,
    }
}

/// Where it still is. What cannot be asked may have it.
fn pending(row: &erasure::Model, first: Option<u64>) -> Vec<PendingPart> {
    let part = |part: &str, upto: Seq, until: &str| PendingPart {
        part: part.to_owned(),
        upto,
        until: until.to_owned(),
    };
    let mut pending = Vec::new();
    if row.complete == 0 {
        let upto = Seq(row.upto.unsigned_abs());
        pending.push(part("archive", upto, "it is erased in pieces, at once"));
    }
    let last = Seq(row.last.unsigned_abs());
    let nothing = last == Seq::ZERO;
    if !nothing && first.is_none_or(|first| first <= last.frame()) {
        let until = "the log is trimmed past this: `store.log_keep_bytes` and `store.log_keep_secs` say when";
        pending.push(part("log", last, until));
    }
    if row.in_rooms != 0 {
        let until = "it is taken out of the rooms' stream, once the archive is done";
        pending.push(part("rooms", last, until));
    }
    pending
}
