//! Where rooms stand for a reader: their last events and messages, and what is unread.

use std::collections::HashMap;

use natterjack_nats_config::contract::{
    Head, MAX_LAST_MESSAGE_BYTES, MAX_LAST_MESSAGES_BYTES, Problem, RoomStanding, RoomsPage, RoomsQuery, SearchRoom,
    Seq,
};
use natterjack_nats_config::tail::Log;
use sea_orm::{DatabaseConnection, DbErr, Order, QuerySelect};

use crate::archive::{now, rooms as archived, sql};
use crate::entity::{event, read_mark, room};
use crate::erasure::Known;
use crate::history::raw;

/// A last message: its number in the room, who wrote it, and as it now stands if it is small.
struct Last {
    n: i64,
    from: String,
    line: Option<Vec<u8>>,
}

/// Where the rooms of a query stand, as far as the archive has read the log.
pub(crate) async fn rooms(
    db: &DatabaseConnection,
    log: &Log,
    query: &RoomsQuery,
) -> Result<Result<RoomsPage, Problem>, DbErr> {
    let names: Vec<&str> = query.rooms.iter().map(|room| room.id.as_str()).collect();
    let reader = (query.tenant.as_str(), query.user.as_str());
    let (standings, marks) = archived::of_user(db, log, reader, &names).await?;
    let standings: HashMap<&str, &room::Model> = standings.iter().map(|row| (row.room.as_str(), row)).collect();
    let marks: HashMap<&str, &read_mark::Model> = marks.iter().map(|row| (row.room.as_str(), row)).collect();
    let may_see = |room: &&SearchRoom| {
        let standing = standings.get(room.id.as_str())?;
        (standing.message > 0 && standing.message >= sql::bound(room.visible_from)).then_some(standing.message)
    };
    let places: Vec<i64> = query.rooms.iter().filter_map(|room| may_see(&room)).collect();
    let mut last = last_messages(db, log, &places).await?;
    let hidden = hidden(db, log, query, &marks).await?;
    // Nothing on it is later.
    let watermark = sql::archived(db, log).await?;
    let rooms = query.rooms.iter().filter_map(|asked| {
        let name = asked.id.as_str();
        let standing = standings.get(name)?;
        let message = last.remove(&standing.message);
        Some(show(
            asked,
            standing,
            (marks.get(name).copied(), hidden.get(name).copied().unwrap_or_default()),
            (message, query.user.as_str()),
        ))
    });
    let rooms: Result<Vec<RoomStanding>, Problem> = rooms.collect();
    Ok(rooms.map(|rooms| RoomsPage { watermark, rooms }))
}

fn show(
    asked: &SearchRoom,
    standing: &room::Model,
    (mark, hidden): (Option<&read_mark::Model>, i64),
    (message, user): (Option<Last>, &str),
) -> Result<RoomStanding, Problem> {
    let mut read = mark.map_or((0, 0), |mark| (mark.seq, mark.n));
    if let Some(own) = message
        .as_ref()
        .filter(|message| message.from == user && message.n > read.1)
    {
        read = (standing.message, own.n);
    }
    let line = message.and_then(|message| message.line);
    let head = |(seq, n): (i64, i64)| Head {
        seq: Seq(seq.unsigned_abs()),
        n: n.unsigned_abs(),
    };
    Ok(RoomStanding {
        room: asked.id.clone(),
        last: head((standing.seq, standing.n)),
        last_message: line.map(raw).transpose()?,
        read: head(read),
        unread: standing.n.saturating_sub(read.1.max(hidden)).unsigned_abs(),
    })
}

/// Of each room how many of its first events its reader may not see, where that is more than what is read: they are not unread.
async fn hidden<'a>(
    db: &DatabaseConnection,
    log: &Log,
    query: &'a RoomsQuery,
    marks: &HashMap<&str, &read_mark::Model>,
) -> Result<HashMap<&'a str, i64>, DbErr> {
    let mut hidden = HashMap::new();
    for room in &query.rooms {
        let (name, from) = (room.id.as_str(), sql::bound(room.visible_from));
        let read = marks.get(name).map_or(0, |mark| mark.seq);
        if from <= read.max(1) {
            continue;
        }
        let last_hidden = read_mark::Model {
            epoch: i64::from(log.epoch),
            shard: i64::from(log.shard),
            tenant: query.tenant.to_string(),
            room: name.to_owned(),
            from_user: query.user.to_string(),
            seq: from - 1,
            n: 0,
        };
        hidden.insert(name, archived::number_at(db, &last_hidden).await?);
    }
    Ok(hidden)
}

async fn last_messages(db: &DatabaseConnection, log: &Log, places: &[i64]) -> Result<HashMap<i64, Last>, DbErr> {
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(i64, i64, String)> = now::events_of(log, places)
        .select_only()
        .columns([event::Column::Seq, event::Column::N, event::Column::FromUser])
        .into_tuple()
        .all(db)
        .await?;
    let mut last: HashMap<i64, Last> = rows
        .into_iter()
        .map(|(seq, n, from)| (seq, Last { n, from, line: None }))
        .collect();
    let changes = now::at(db, (i64::from(log.epoch), i64::from(log.shard)), places).await?;
    let sizes = sql::sizes_of(db, now::events_of(log, places), (Order::Desc, places.len() as u64)).await?;
    let mut bytes = 0usize;
    let fitting = sizes.iter().filter_map(|(seq, size)| {
        let size = changes
            .get(&sql::bound(*seq))
            .map_or(*size, |change| change.size(*size));
        if size > MAX_LAST_MESSAGE_BYTES || bytes + size > MAX_LAST_MESSAGES_BYTES {
            return None;
        }
        bytes += size;
        Some(sql::bound(*seq))
    });
    let fitting: Vec<i64> = fitting.collect();
    let unfinished = Known::unfinished(db, log).await?;
    let lines = sql::lines_of(db, now::events_of(log, &fitting)).await?;
    for (seq, line) in now::show(db, log, (lines, &unfinished), &changes).await? {
        if let Some(last) = last.get_mut(&seq) {
            last.line = Some(line);
        }
    }
    Ok(last)
}
