use async_nats::Client;
use async_nats::jetstream::{self, stream::LastRawMessageErrorKind, stream::Stream};
use natterjack_nats_config::contract::Id;
use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QuerySelect};

use super::redact::erased_by;
use crate::archive::sql::{self, of_log};
use crate::entity::{erasure, event};
use crate::log::rooms_reached;

/// Events that are looked for in the archive at a time.
const EVENTS: usize = 500;

/// Nothing is known to be left; try again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unclear {
    #[error("the archive's database: {0}")]
    Database(#[from] DbErr),
    #[error("the rooms' stream: {0}")]
    Rooms(String),
}

/// Takes what is erased out of the rooms' stream, whose bytes the server overwrites. A quiet room would keep them for ever.
/// `false` while the stream is not as far as the erasure: then it could get them still.
pub(super) async fn clear(
    client: &Client,
    db: &DatabaseConnection,
    log: &Log,
    of: &erasure::Model,
) -> Result<bool, Unclear> {
    let reached = rooms_reached(client, log).await.map_err(Unclear::Rooms)?;
    if sql::bound(reached) < of.seq {
        return Ok(false);
    }
    let stream = jetstream::new(client.clone())
        .get_stream(log.subjects.rooms_stream(log.shard))
        .await
        .map_err(|error| Unclear::Rooms(error.to_string()))?;
    let tenant: Id = of.tenant.parse().map_err(|_| DbErr::Custom("no tenant".to_owned()))?;
    for room in rooms(db, log, of).await? {
        let room: Id = room.parse().map_err(|_| DbErr::Custom("no room".to_owned()))?;
        clear_room(&stream, db, log, &log.subjects.held(&tenant, &room)).await?;
    }
    Ok(true)
}

/// The rooms in which something was erased.
async fn rooms(db: &DatabaseConnection, log: &Log, of: &erasure::Model) -> Result<Vec<String>, DbErr> {
    if of.target != 0 {
        return Ok(vec![of.room.clone()]);
    }
    of_log(log)
        .select_only()
        .column(event::Column::Room)
        .distinct()
        .filter(event::Column::Tenant.eq(of.tenant.as_str()))
        .filter(event::Column::FromUser.eq(of.from_user.as_str()))
        .filter(event::Column::Seq.lte(of.upto))
        .into_tuple()
        .all(db)
        .await
}

async fn clear_room(stream: &Stream, db: &DatabaseConnection, log: &Log, subject: &str) -> Result<(), Unclear> {
    let mut held = Vec::new();
    let mut next = 1;
    loop {
        let message = match stream.get_first_raw_message_by_subject(subject, next).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
            Err(error) => return Err(Unclear::Rooms(error.to_string())),
        };
        next = message.sequence + 1;
        let place = message
            .headers
            .get("Chat-Seq")
            .and_then(|seq| seq.as_str().parse::<i64>().ok());
        held.extend(place.map(|place| (place, message.sequence)));
    }
    for held in held.chunks(EVENTS) {
        let places = held.iter().map(|(place, _)| *place);
        let rows = of_log(log).filter(event::Column::Seq.is_in(places)).all(db).await?;
        let erased: Vec<i64> = rows
            .iter()
            .filter(|row| erased_by(row).is_some())
            .map(|row| row.seq)
            .collect();
        for (_, sequence) in held.iter().filter(|(place, _)| erased.contains(place)) {
            let gone = stream.delete_message(*sequence).await;
            gone.map_err(|error| Unclear::Rooms(error.to_string()))?;
        }
    }
    Ok(())
}

/// Notes that the rooms have nothing of it any more.
pub(super) async fn note(db: &DatabaseConnection, of: &erasure::Model) -> Result<(), DbErr> {
    erasure::Entity::update_many()
        .col_expr(erasure::Column::InRooms, sea_orm::sea_query::Expr::value(0))
        .filter(erasure::Column::Epoch.eq(of.epoch))
        .filter(erasure::Column::Shard.eq(of.shard))
        .filter(erasure::Column::Seq.eq(of.seq))
        .exec(db)
        .await
        .map(drop)
}
