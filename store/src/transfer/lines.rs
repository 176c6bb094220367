use std::io::{BufRead, Write};

use bytes::Bytes;
use natterjack_nats_config::contract::{Event, EventLine, Id, Subjects};
use natterjack_nats_config::tail::Log;
use sea_orm::{
    ColumnTrait, DatabaseConnection, DbErr, EntityTrait, Order, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    Select,
};
use serde::{Deserialize, Serialize};

use super::TransferError;
use crate::archive::{Database, project, sql};
use crate::entity::{event, watermark};
use crate::erasure::Known;

/// The name of the format, in its first line.
const FORMAT: &str = "natterjack-export";
/// Its version.
const VERSION: u32 = 1;
/// Events that are read, or written in one transaction, at a time.
const EVENTS: u64 = 1000;

/// The first line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: String,
    version: u32,
    /// The log that it is from.
    pub shard: u16,
    /// Its epoch.
    pub epoch: u32,
    /// Whose room.
    pub tenant: Id,
    /// The room.
    pub room: Id,
    /// The archive's last frame.
    pub upto: u64,
    /// How many events follow, one a line, exactly as they stand in the log.
    pub events: u64,
}

/// A room, to be exported.
#[derive(Debug, Clone, Copy)]
pub struct Exported<'a> {
    /// The log.
    pub log: &'a Log,
    /// The tenant.
    pub tenant: &'a Id,
    /// The room.
    pub room: &'a Id,
    /// The epoch or the label of what is kept apart, instead of what the archive shows.
    pub apart: Option<i64>,
}

/// Writes a header and all events of a room, of every kind, one a line, in log order. Gives how many.
pub async fn export(
    database: &Database,
    what: Exported<'_>,
    out: &mut impl Write,
    progress: impl Fn(u64, u64),
) -> Result<u64, TransferError> {
    let db = database.connection();
    let upto = upto(db, what).await?;
    if upto == 0 {
        return Err(TransferError::Nothing);
    }
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        shard: what.log.shard,
        epoch: what.log.epoch,
        tenant: what.tenant.clone(),
        room: what.room.clone(),
        upto,
        events: of_room(what, upto).count(db).await?,
    };
    writeln!(out, "{}", serde_json::to_string(&header).map_err(std::io::Error::from)?)?;
    let (mut after, mut done) = (-1, 0);
    while done < header.events {
        let unfinished = Known::unfinished(db, what.log).await?;
        let rows: Vec<(i64, Vec<u8>)> = of_room(what, upto)
            .filter(event::Column::Seq.gt(after))
            .select_only()
            .columns([event::Column::Seq, event::Column::Bytes])
            .order_by(event::Column::Seq, Order::Asc)
            .limit(EVENTS)
            .into_tuple()
            .all(db)
            .await?;
        let Some((last, _)) = rows.last() else { break };
        after = *last;
        let count = rows.len() as u64;
        for (_, bytes) in rows {
            out.write_all(&unfinished.hide(bytes))?;
            out.write_all(b"\n")?;
        }
        done += count;
        progress(done, header.events);
    }
    out.flush()?;
    Ok(done)
}

/// Reads an export into an empty archive, which then has that room's events at the same places, byte for byte, and a record
/// that it has nothing else up to there. Gives the header.
pub async fn import(
    database: &Database,
    subjects: &Subjects,
    input: &mut impl BufRead,
    progress: impl Fn(u64, u64),
) -> Result<Header, TransferError> {
    let mut lines = (1u64..).zip(input.lines());
    let Some((line, first)) = lines.next() else {
        return Err(wrong(1, "the file is empty"));
    };
    let header: Header = serde_json::from_str(&first?).map_err(|error| wrong(line, error))?;
    if (header.format.as_str(), header.version) != (FORMAT, VERSION) {
        return Err(wrong(line, format!("it is no {FORMAT} of version {VERSION}")));
    }
    let log = Log {
        subjects: subjects.clone(),
        shard: header.shard,
        epoch: header.epoch,
    };
    let db = database.connection();
    if event::Entity::find().count(db).await? > 0 || watermark::Entity::find().count(db).await? > 0 {
        return Err(TransferError::Target("it has events already".to_owned()));
    }
    let (mut rows, mut done, mut last) = (Vec::new(), 0, 0);
    for (line, text) in lines {
        let row = row(&header, &log, line, text?)?;
        if row.seq <= last {
            return Err(wrong(line, "it stands before the one above it"));
        }
        last = row.seq;
        rows.push(row);
        if rows.len() as u64 == EVENTS {
            done += rows.len() as u64;
            store(database, std::mem::take(&mut rows)).await?;
            progress(done, header.events);
        }
    }
    done += rows.len() as u64;
    if done != header.events {
        return Err(wrong(
            done + 1,
            format!("the file ends, and {} events were announced", header.events),
        ));
    }
    finish(database, &log, &header, rows).await?;
    progress(done, header.events);
    Ok(header)
}

fn row(header: &Header, log: &Log, line: u64, text: String) -> Result<event::Model, TransferError> {
    let event: Event = serde_json::from_str(&text).map_err(|error| wrong(line, error))?;
    if (&event.tenant, &event.room) != (&header.tenant, &header.room) || event.seq.frame() > header.upto {
        return Err(wrong(
            line,
            "this event is not of the room, or behind the end, that the first line names",
        ));
    }
    let bytes = Bytes::from(text);
    project::row(log, &EventLine { event, bytes }).map_err(|unfit| wrong(line, unfit))
}

async fn store(database: &Database, rows: Vec<event::Model>) -> Result<(), TransferError> {
    let transaction = sql::begin(database.connection()).await?;
    sql::keep(database, &transaction, rows).await?;
    transaction.commit().await?;
    Ok(())
}

/// The last events, and the watermark, without which nobody reads the others.
async fn finish(database: &Database, log: &Log, header: &Header, rows: Vec<event::Model>) -> Result<(), TransferError> {
    sql::begin_watermark(database.connection(), log).await?;
    let begun = watermark::Model {
        shard: i64::from(log.shard),
        epoch: i64::from(log.epoch),
        stream_seq: 0,
        replies: 0,
    };
    let upto = i64::try_from(header.upto).unwrap_or(i64::MAX);
    let transaction = sql::begin(database.connection()).await?;
    if !sql::move_watermark(&transaction, &begun, (begun.epoch, upto)).await? {
        transaction.rollback().await?;
        return Err(TransferError::Overtaken);
    }
    sql::keep(database, &transaction, rows).await?;
    for row in project::absent(log, 1, header.upto + 1).quarantined {
        sql::insert_quarantined(&transaction, &row).await?;
    }
    transaction.commit().await?;
    Ok(())
}

fn of_room(what: Exported<'_>, upto: u64) -> Select<event::Entity> {
    let end = i64::try_from(upto.saturating_add(1).saturating_mul(1024)).unwrap_or(i64::MAX);
    event::Entity::find()
        .filter(event::Column::Tenant.eq(what.tenant.as_str()))
        .filter(event::Column::Room.eq(what.room.as_str()))
        .filter(event::Column::Epoch.eq(what.epoch()))
        .filter(event::Column::Shard.eq(i64::from(what.log.shard)))
        .filter(event::Column::Seq.lt(end))
}

/// The last frame of what is exported.
async fn upto(db: &DatabaseConnection, what: Exported<'_>) -> Result<u64, DbErr> {
    if what.apart.is_none() {
        return Ok(sql::archived(db, what.log).await?.frame());
    }
    let last: Option<i64> = event::Entity::find()
        .select_only()
        .column(event::Column::Seq)
        .filter(event::Column::Epoch.eq(what.epoch()))
        .filter(event::Column::Shard.eq(i64::from(what.log.shard)))
        .order_by(event::Column::Seq, Order::Desc)
        .into_tuple()
        .one(db)
        .await?;
    Ok(last.map_or(0, |seq| seq.unsigned_abs() >> 10))
}

impl Exported<'_> {
    fn epoch(&self) -> i64 {
        self.apart.unwrap_or(i64::from(self.log.epoch))
    }
}

fn wrong(line: u64, why: impl std::fmt::Display) -> TransferError {
    TransferError::Line {
        line,
        why: why.to_string(),
    }
}
