//! One message: as it now stands, as it was said, and what edited it.

use std::collections::HashMap;

use natterjack_nats_config::contract::{MAX_HISTORY_BYTES, MessageQuery, MessageShown, Problem, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::{DatabaseConnection, DbErr, Order, QueryOrder};

use crate::archive::{now, sql};
use crate::entity::{changed, event};
use crate::erasure::{Known, is_erased};
use crate::history::raw;

/// The most edits that are shown, the latest.
const MAX_EDITS: u64 = 200;
/// What is left for the message itself, said and edited, in an answer's megabyte.
const EDIT_BYTES: usize = MAX_HISTORY_BYTES;

/// A message, if the archive has it and the reader may see it.
pub(crate) async fn message(
    db: &DatabaseConnection,
    log: &Log,
    query: &MessageQuery,
) -> Result<Result<MessageShown, Problem>, DbErr> {
    let room = sql::Room {
        log,
        tenant: &query.tenant,
        id: &query.room,
    };
    let mut shown = MessageShown {
        watermark: sql::archived(db, log).await?,
        message: None,
        original: None,
        edits: Vec::new(),
    };
    let unfinished = Known::unfinished(db, log).await?;
    let found = sql::by_id(db, room, &query.id).await?;
    let Some((seq, line)) = found.filter(|(seq, _)| *seq >= sql::bound(query.visible_from)) else {
        return Ok(Ok(shown));
    };
    let place = (i64::from(log.epoch), i64::from(log.shard));
    let mut changes = now::at(db, place, &[seq]).await?;
    loop {
        let edits = match changes.get(&seq) {
            Some(changed::Model { deleted: None, .. }) => edits(db, log, seq).await?,
            _ => Vec::new(),
        };
        let now = now::show(db, log, (vec![(seq, line.clone())], &unfinished), &changes).await?;
        // What was read since is not later than this.
        shown.watermark = sql::archived(db, log).await?;
        // What was edited or deleted while it was read is read again: each part is as of one moment.
        let since = now::at(db, place, &[seq]).await?;
        let text = |changes: &HashMap<i64, changed::Model>| changes.get(&seq).map(|one| (one.edited, one.deleted));
        if text(&since) == text(&changes) {
            return Ok(put_together(shown.watermark, (now.into_iter().next(), line), edits));
        }
        changes = since;
    }
}

/// The message as it now stands, as it was said, and the lines that edited it.
fn put_together(
    watermark: Seq,
    (now, line): (Option<(i64, Vec<u8>)>, Vec<u8>),
    edits: Vec<Vec<u8>>,
) -> Result<MessageShown, Problem> {
    let is_erased = now.as_ref().is_some_and(|(_, line)| is_erased(line));
    let edits = if is_erased { Vec::new() } else { edits };
    let original = (!edits.is_empty()).then_some(line);
    Ok(MessageShown {
        watermark,
        message: now.map(|(_, line)| raw(line)).transpose()?,
        original: original.map(raw).transpose()?,
        edits: edits.into_iter().map(raw).collect::<Result<_, _>>()?,
    })
}

/// The lines of the events that edited a message, oldest first: the latest ones that fit.
async fn edits(db: &DatabaseConnection, log: &Log, target: i64) -> Result<Vec<Vec<u8>>, DbErr> {
    let seqs = now::edits_of(db, log, target, MAX_EDITS).await?;
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let sizes = sql::sizes_of(db, now::events_of(log, &seqs), (Order::Desc, MAX_EDITS)).await?;
    let mut bytes = 0usize;
    let fitting = sizes.iter().take_while(|(_, size)| {
        bytes = bytes.saturating_add(*size);
        bytes <= EDIT_BYTES
    });
    let fitting: Vec<i64> = fitting.map(|(seq, _)| sql::bound(*seq)).collect();
    let lines = now::events_at(log, fitting)
        .order_by(event::Column::Seq, Order::Asc)
        .into_tuple::<(i64, Vec<u8>)>()
        .all(db)
        .await?;
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}
