use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use natterjack_nats_config::contract::{Id, Seq};
use parking_lot::RwLock;

/// The rooms whose events are kept for MQTT sessions of `QoS` 1: those that such a session listens to.
#[derive(Debug, Clone, Default)]
pub struct Wanted(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rooms: RwLock<HashMap<Id, HashMap<Id, usize>>>,
    refused: AtomicBool,
    since: AtomicU64,
}

impl Wanted {
    /// Whether a copy of this room's event at `seq` is kept, so that sessions need not hear it otherwise.
    pub(crate) fn want(&self, tenant: &Id, room: &Id, seq: Seq) -> bool {
        let is_kept = !self.0.refused.load(Ordering::Relaxed) && seq.0 > self.0.since.load(Ordering::Relaxed);
        is_kept && self.keep(tenant, room)
    }

    /// Says from where on events are kept: a session that was just begun hears those before as they are told. `None`: they
    /// are not yet. A worker that does not keep them cannot know, and takes it that they are.
    pub(super) fn since(&self, seq: Option<Seq>) {
        self.0.since.store(seq.map_or(u64::MAX, |seq| seq.0), Ordering::Relaxed);
    }

    /// Whether a session listens to the room, also while nothing can be kept.
    pub(super) fn keep(&self, tenant: &Id, room: &Id) -> bool {
        let rooms = self.0.rooms.read();
        rooms.get(tenant).is_some_and(|rooms| rooms.contains_key(room))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.rooms.read().is_empty()
    }

    /// While the server refuses to keep more, sessions that are online hear events as `QoS` 0 does, rather than not.
    pub(super) fn refuse(&self, refused: bool) {
        self.0.refused.store(refused, Ordering::Relaxed);
    }

    pub(super) fn add(&self, tenant: &Id, room: &Id) {
        let mut rooms = self.0.rooms.write();
        *rooms
            .entry(tenant.clone())
            .or_default()
            .entry(room.clone())
            .or_default() += 1;
    }

    pub(super) fn remove(&self, tenant: &Id, room: &Id) {
        let mut rooms = self.0.rooms.write();
        let Some(of_tenant) = rooms.get_mut(tenant) else { return };
        if let Some(count) = of_tenant.get_mut(room) {
            *count -= 1;
            if *count == 0 {
                of_tenant.remove(room);
            }
        }
        if of_tenant.is_empty() {
            rooms.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_kept_is_said_to_be() {
        let (wanted, tenant, room): (_, Id, Id) =
            (Wanted::default(), "main".parse().unwrap(), "lobby".parse().unwrap());
        wanted.add(&tenant, &room);
        let is_wanted = |seq| wanted.want(&tenant, &room, Seq(seq));
        for (since, expected) in [
            (None, [false, false, false]),
            (Some(Seq(7)), [false, false, true]),
            (Some(Seq::ZERO), [true, true, true]),
        ] {
            wanted.since(since);
            assert_eq!([6, 7, 8].map(is_wanted), expected, "{since:?}");
        }
        wanted.refuse(true);
        assert!(!is_wanted(8));
    }
}
