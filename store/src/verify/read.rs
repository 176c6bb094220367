use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use futures_util::StreamExt;
use natterjack_nats_config::tail::{Log, is_frame};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, Order, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{VerifyError, extend};
use crate::archive::Database;
use crate::archive::project::{self, Rows};
use crate::entity::{event, quarantine};

/// Events that are read at a time.
const EVENTS: u64 = 2000;
/// A log that gives nothing for so long is given up.
const SILENT: Duration = Duration::from_secs(20);

/// Frames of the log in a row, but for those that are not there, and what they must come to.
pub(crate) struct Part {
    pub(crate) last: u64,
    pub(crate) frames: Vec<u64>,
    pub(crate) rows: Rows,
}

/// The frames of the log, up to one.
pub(crate) struct Frames<'a> {
    log: &'a Log,
    upto: u64,
    passed: u64,
    messages: pull::Ordered,
}

pub(crate) async fn frames<'a>(
    client: &Client,
    log: &'a Log,
    first: u64,
    upto: u64,
) -> Result<Frames<'a>, VerifyError> {
    let broke = |error: &dyn std::fmt::Display| VerifyError::Log(error.to_string());
    let stream = jetstream::new(client.clone())
        .get_stream_no_info(log.stream())
        .await
        .map_err(|error| broke(&error))?;
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first },
        ..pull::OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| broke(&error))?;
    let messages = consumer.messages().await.map_err(|error| broke(&error))?;
    Ok(Frames {
        log,
        upto,
        passed: first.saturating_sub(1),
        messages,
    })
}

impl Frames<'_> {
    /// The next frames; none at the end.
    pub(crate) async fn next(&mut self, count: usize) -> Result<Option<Part>, VerifyError> {
        let mut part = Part {
            last: self.passed,
            frames: Vec::new(),
            rows: Rows::default(),
        };
        while self.passed < self.upto && part.frames.len() < count {
            let silent = |_| VerifyError::Log(format!("nothing came for {SILENT:?}"));
            let message = tokio::time::timeout(SILENT, self.messages.next())
                .await
                .map_err(silent)?
                .ok_or_else(|| VerifyError::Log("the consumer ended".to_owned()))?
                .map_err(|error| VerifyError::Log(error.to_string()))?;
            let info = message.info().map_err(|error| VerifyError::Log(error.to_string()))?;
            let stream_seq = info.stream_sequence;
            self.passed = stream_seq;
            if stream_seq > self.upto {
                break;
            }
            let rows = if is_frame(message.headers.as_ref(), stream_seq) {
                project::frame(self.log, stream_seq, &message.payload)
            } else {
                project::foreign(self.log, stream_seq, &message.payload)
            };
            extend(&mut part.rows, rows);
            part.frames.push(stream_seq);
            part.last = stream_seq;
        }
        Ok((!part.frames.is_empty()).then_some(part))
    }
}

/// Events behind a place, of frames before `first`.
pub(crate) async fn events_after(
    database: &Database,
    log: &Log,
    after: i64,
    first: u64,
) -> Result<Vec<event::Model>, DbErr> {
    event::Entity::find()
        .filter(event::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(event::Column::Shard.eq(i64::from(log.shard)))
        .filter(event::Column::Seq.gt(after))
        .filter(event::Column::Seq.lt(begin_of(first)))
        .order_by(event::Column::Seq, Order::Asc)
        .limit(EVENTS)
        .all(database.connection())
        .await
}

/// What the archive has of the frames of a part.
pub(crate) async fn archived(
    database: &Database,
    log: &Log,
    part: &Part,
) -> Result<(Vec<event::Model>, Vec<quarantine::Model>), DbErr> {
    let (Some(first), Some(last)) = (part.frames.first(), part.frames.last()) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let of_part = |stream_seq: i64| part.frames.binary_search(&stream_seq.unsigned_abs()).is_ok();
    let events = event::Entity::find()
        .filter(event::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(event::Column::Shard.eq(i64::from(log.shard)))
        .filter(event::Column::Seq.gte(begin_of(*first)))
        .filter(event::Column::Seq.lt(begin_of(last + 1)))
        .order_by(event::Column::Seq, Order::Asc)
        .all(database.connection())
        .await?;
    let kept = quarantine::Entity::find()
        .filter(quarantine::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(quarantine::Column::Shard.eq(i64::from(log.shard)))
        .filter(quarantine::Column::StreamSeq.between(number(*first), number(*last)))
        .all(database.connection())
        .await?;
    Ok((
        events.into_iter().filter(|row| of_part(row.seq >> 10)).collect(),
        kept.into_iter().filter(|row| of_part(row.stream_seq)).collect(),
    ))
}

/// Whether something is recorded from one frame to another that could not be stored as an event, or that the log had lost.
pub(crate) async fn anything_apart(database: &Database, log: &Log, (from, to): (u64, u64)) -> Result<bool, DbErr> {
    let count = quarantine::Entity::find()
        .filter(quarantine::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(quarantine::Column::Shard.eq(i64::from(log.shard)))
        .filter(quarantine::Column::StreamSeq.between(number(from), number(to)))
        .count(database.connection())
        .await?;
    Ok(count > 0)
}

fn begin_of(frame: u64) -> i64 {
    number(frame.saturating_mul(1024))
}

fn number(frame: u64) -> i64 {
    i64::try_from(frame).unwrap_or(i64::MAX)
}
