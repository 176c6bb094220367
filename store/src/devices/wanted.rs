use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use natterjack_nats_config::contract::Id;
use parking_lot::RwLock;

/// The rooms whose events are kept for MQTT sessions of `QoS` 1: those that such a session listens to.
#[derive(Debug, Clone, Default)]
pub struct Wanted(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rooms: RwLock<HashMap<Id, HashMap<Id, usize>>>,
    refused: AtomicBool,
}

impl Wanted {
    /// Whether a copy of each event of this room is kept now, so that sessions need not hear it otherwise.
    pub(crate) fn want(&self, tenant: &Id, room: &Id) -> bool {
        !self.0.refused.load(Ordering::Relaxed) && self.keep(tenant, room)
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
