//! Messages as they are shown.

use std::collections::HashMap;

use natterjack_nats_config::contract::{Event, Id, Kind, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::replies;
use super::events_at;
use crate::entity::{changed, reaction};
use crate::erasure::Known;

/// What `edited_at`, or who deleted or pinned it and when, add to a message, in bytes.
const EXTRA_BYTES: usize = 320;
/// The most kinds of reactions that are shown with a message, those of most users.
const MAX_REACTIONS: usize = 20;
/// What they take, in bytes.
const REACTIONS_BYTES: usize = MAX_REACTIONS * 112;

/// A message as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    v: u8,
    seq: Seq,
    n: u64,
    prev: Seq,
    id: &'a str,
    tenant: &'a str,
    room: &'a str,
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'a str>,
    kind: Kind,
    at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    erased: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<By<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<By<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reactions: Vec<Reaction<'a>>,
}

#[derive(Serialize)]
struct By<'a> {
    at: &'a str,
    by: &'a str,
}

/// How many users reacted so.
#[derive(Serialize)]
struct Reaction<'a> {
    emoji: &'a str,
    count: i64,
}

/// Reactions and how many users each, by the place of the message.
type Counts = HashMap<i64, Vec<(String, i64)>>;

/// Lines of messages as they now stand. The caller knows that they are few; `changes` are those of its messages, and `unfinished`
/// what was to be erased before it read the lines.
pub(crate) async fn show(
    db: &impl ConnectionTrait,
    log: &Log,
    (lines, unfinished): (Vec<(i64, Vec<u8>)>, &Known),
    changes: &HashMap<i64, changed::Model>,
) -> Result<Vec<(i64, Vec<u8>)>, DbErr> {
    let shown = |seq: &i64| changes.get(seq).filter(|change| change.deleted.is_none());
    let edits: Vec<i64> = lines
        .iter()
        .filter_map(|(seq, _)| shown(seq).and_then(|change| change.edited))
        .collect();
    let edits = if edits.is_empty() {
        HashMap::new()
    } else {
        events_at(log, edits)
            .into_tuple::<(i64, Vec<u8>)>()
            .all(db)
            .await?
            .into_iter()
            .collect()
    };
    let hide = |(seq, line): (i64, Vec<u8>)| (seq, unfinished.hide(line));
    let lines: Vec<(i64, Vec<u8>)> = lines.into_iter().map(hide).collect();
    let edits: HashMap<i64, Vec<u8>> = edits.into_iter().map(hide).collect();
    let counts = counts(db, log, changes.values().filter(|change| shown(&change.seq).is_some())).await?;
    let now = |(seq, line): (i64, Vec<u8>)| match changes.get(&seq) {
        None => (seq, line),
        Some(change) => {
            let edit = change.edited.and_then(|edited| edits.get(&edited));
            let changed = change.shown(&line, edit.map(Vec::as_slice), counts.get(&seq));
            (seq, changed.unwrap_or(line))
        }
    };
    replies::add(db, log, lines.into_iter().map(now).collect()).await
}

/// How many users reacted how. The caller knows that the messages are few.
async fn counts(
    db: &impl ConnectionTrait,
    log: &Log,
    of: impl Iterator<Item = &changed::Model>,
) -> Result<Counts, DbErr> {
    let targets: Vec<i64> = of
        .filter(|change| change.reacted.is_some())
        .map(|change| change.seq)
        .collect();
    let mut counts = Counts::new();
    if targets.is_empty() {
        return Ok(counts);
    }
    let rows: Vec<(i64, String, i64)> = reaction::Entity::find()
        .select_only()
        .columns([reaction::Column::Target, reaction::Column::Emoji])
        .column_as(reaction::Column::FromUser.count(), "users")
        .filter(reaction::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(reaction::Column::Shard.eq(i64::from(log.shard)))
        .filter(reaction::Column::Target.is_in(targets))
        .filter(reaction::Column::Present.eq(1))
        .group_by(reaction::Column::Target)
        .group_by(reaction::Column::Emoji)
        .into_tuple()
        .all(db)
        .await?;
    for (target, emoji, users) in rows {
        counts.entry(target).or_default().push((emoji, users));
    }
    for of_message in counts.values_mut() {
        of_message.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        of_message.truncate(MAX_REACTIONS);
    }
    Ok(counts)
}

impl changed::Model {
    /// The most bytes that a message of so many takes as it now stands.
    pub(crate) fn size(&self, size: usize) -> usize {
        let edit = self.edit_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let reactions = self.reacted.map_or(0, |_| REACTIONS_BYTES);
        size.saturating_add(edit.unwrap_or_default())
            .saturating_add(EXTRA_BYTES + reactions)
    }

    /// The message as it now stands: with its last edit's body, or with none if it was deleted. None if a line is no event,
    /// which the archive never stores.
    pub(super) fn shown(
        &self,
        line: &[u8],
        edit: Option<&[u8]>,
        reactions: Option<&Vec<(String, i64)>>,
    ) -> Option<Vec<u8>> {
        let event: Event = serde_json::from_slice(line).ok()?;
        let edit: Option<Event> = edit.and_then(|edit| serde_json::from_slice(edit).ok());
        let deleted = self.deleted_at.as_deref().zip(self.deleted_by.as_deref());
        // What is left of an erased message is shown as of a deleted one.
        let is_gone = deleted.is_some() || event.erased.is_some();
        let pinned = self.pinned_at.as_deref().zip(self.pinned_by.as_deref());
        let is_pinned = !is_gone && self.pinned > self.unpinned;
        let reactions = reactions.into_iter().flatten().filter(|_| !is_gone);
        let body = edit.as_ref().map_or(&event.body, |edit| &edit.body);
        let shown = Shown {
            v: event.v,
            seq: event.seq,
            n: event.n,
            prev: event.prev,
            id: &event.id,
            tenant: event.tenant.as_str(),
            room: event.room.as_str(),
            from: event.from.as_str(),
            via: event.via.as_ref().map(Id::as_str),
            kind: event.kind,
            at: &event.at,
            key: event.key.as_deref().filter(|_| !is_gone),
            reply_to: event.reply_to.as_deref(),
            body: (!is_gone).then_some(body),
            erased: event.erased,
            edited_at: self.edited_at.as_deref().filter(|_| !is_gone),
            deleted: deleted.map(|(at, by)| By { at, by }),
            pinned: pinned.filter(|_| is_pinned).map(|(at, by)| By { at, by }),
            reactions: reactions
                .map(|(emoji, count)| Reaction { emoji, count: *count })
                .collect(),
        };
        serde_json::to_vec(&shown).ok()
    }
}
