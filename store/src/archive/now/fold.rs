//! What events come to: pure.

use std::collections::BTreeMap;

use natterjack_nats_config::contract::{Event, Kind, ReactBody};

use crate::entity::{changed, edit, event, reaction};

/// The kinds that change a message.
pub(super) const CHANGES: [Kind; 6] = [
    Kind::Edit,
    Kind::Delete,
    Kind::React,
    Kind::Unreact,
    Kind::Pin,
    Kind::Unpin,
];

/// What events come to, whatever was there before.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    /// By the place of the message.
    pub(crate) changed: BTreeMap<i64, changed::Model>,
    pub(crate) edits: Vec<edit::Model>,
    /// By message, reaction and user.
    pub(crate) reactions: BTreeMap<(i64, String, String), reaction::Model>,
}

impl Changes {
    /// What some events change; those of other kinds, and those that name no target, change nothing.
    pub(crate) fn of(rows: &[event::Model]) -> Self {
        let mut changes = Self::default();
        for row in rows {
            if let Some(kind) = CHANGES.into_iter().find(|kind| kind.as_str() == row.kind) {
                changes.take(kind, row);
            }
        }
        changes
    }

    /// Adds what other events change.
    pub(crate) fn extend(&mut self, other: Self) {
        for new in other.changed.into_values() {
            self.put(new);
        }
        self.edits.extend(other.edits);
        for new in other.reactions.into_values() {
            self.react(new);
        }
    }

    fn take(&mut self, kind: Kind, row: &event::Model) {
        let Ok(event) = serde_json::from_slice::<Event>(&row.bytes) else {
            return;
        };
        let Some(target) = event.target.and_then(|target| i64::try_from(target.seq.0).ok()) else {
            return;
        };
        let mut change = untouched(row, target);
        match kind {
            Kind::Edit => {
                change.edited = Some(row.seq);
                change.edit_bytes = i64::try_from(row.bytes.len()).ok();
                change.edited_at = Some(row.at.clone());
                self.edits.push(edit::Model {
                    epoch: row.epoch,
                    shard: row.shard,
                    target,
                    seq: row.seq,
                });
            }
            Kind::Delete => {
                change.deleted = Some(row.seq);
                change.deleted_at = Some(row.at.clone());
                change.deleted_by = Some(row.from_user.clone());
            }
            Kind::Pin => {
                change.pinned = Some(row.seq);
                change.pinned_at = Some(row.at.clone());
                change.pinned_by = Some(row.from_user.clone());
            }
            Kind::Unpin => change.unpinned = Some(row.seq),
            _ => {
                change.reacted = Some(row.seq);
                // Of what is erased it is known that somebody reacted, and not how.
                if event.erased.is_some() {
                    return self.put(change);
                }
                let Ok(body) = serde_json::from_str(event.body.get()) else {
                    return;
                };
                self.react(reaction(row, target, (kind, body)));
            }
        }
        self.put(change);
    }

    fn put(&mut self, change: changed::Model) {
        let merged = match self.changed.get(&change.seq) {
            Some(old) => change.merged(old),
            None => change,
        };
        self.changed.insert(merged.seq, merged);
    }

    fn react(&mut self, new: reaction::Model) {
        let key = (new.target, new.emoji.clone(), new.from_user.clone());
        if self.reactions.get(&key).is_none_or(|old| old.seq < new.seq) {
            self.reactions.insert(key, new);
        }
    }
}

impl changed::Model {
    /// This and what else is known: the last edit counts, the last pinning, and the first deletion.
    pub(super) fn merged(mut self, other: &Self) -> Self {
        if self.edited < other.edited {
            self.edited = other.edited;
            self.edit_bytes = other.edit_bytes;
            self.edited_at.clone_from(&other.edited_at);
        }
        if other
            .deleted
            .is_some_and(|deleted| self.deleted.is_none_or(|own| deleted < own))
        {
            self.deleted = other.deleted;
            self.deleted_at.clone_from(&other.deleted_at);
            self.deleted_by.clone_from(&other.deleted_by);
        }
        if self.pinned < other.pinned {
            self.pinned = other.pinned;
            self.pinned_at.clone_from(&other.pinned_at);
            self.pinned_by.clone_from(&other.pinned_by);
        }
        self.unpinned = self.unpinned.max(other.unpinned);
        self.reacted = self.reacted.max(other.reacted);
        self
    }

    /// The place of the last event that changed it.
    pub(super) fn last(&self) -> Option<i64> {
        let places = [self.edited, self.deleted, self.pinned, self.unpinned, self.reacted];
        places.into_iter().flatten().max()
    }
}

fn reaction(row: &event::Model, target: i64, (kind, ReactBody { emoji }): (Kind, ReactBody)) -> reaction::Model {
    reaction::Model {
        epoch: row.epoch,
        shard: row.shard,
        target,
        emoji,
        from_user: row.from_user.clone(),
        seq: row.seq,
        present: i64::from(kind == Kind::React),
    }
}

fn untouched(row: &event::Model, target: i64) -> changed::Model {
    changed::Model {
        epoch: row.epoch,
        shard: row.shard,
        seq: target,
        tenant: row.tenant.clone(),
        room: row.room.clone(),
        edited: None,
        edit_bytes: None,
        edited_at: None,
        deleted: None,
        deleted_at: None,
        deleted_by: None,
        pinned: None,
        pinned_at: None,
        pinned_by: None,
        unpinned: None,
        reacted: None,
    }
}
