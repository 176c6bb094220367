//! Who may not be in a room.

use natterjack_nats_config::contract::{BanBody, Event, Id, Seq};

use super::view::{Hashed, Tenant};
use super::{Fact, View};

/// The most bans of a room: with their reasons some 4 MB.
pub const MAX_BANS: usize = 10_000;

/// That somebody may not be in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Why, where that was said.
    pub reason: Option<Box<str>>,
    /// The event that says so.
    pub since: Seq,
}

// The kind of facts in the hash: see `role`.
const BAN: u8 = 13;

impl View {
    /// That a user may not be in a room, if it is so.
    #[must_use]
    pub fn ban(&self, tenant: &Id, room: &Id, user: &Id) -> Option<&Ban> {
        self.room(tenant, room)?.bans.get(user)
    }
}

impl Tenant {
    pub(super) fn apply_ban(&mut self, hashed: &mut Hashed<'_>, event: &Event, body: BanBody) {
        let ban = body.banned.then(|| Ban {
            reason: body.reason.filter(|reason| !reason.is_empty()).map(Into::into),
            since: event.seq,
        });
        self.put_ban(hashed, (&event.room, &body.user), ban);
    }

    /// Bans somebody from a room, or (with none) lets them in again. Nothing if there is no such room.
    pub(super) fn put_ban(&mut self, hashed: &mut Hashed<'_>, (name, user): (&Id, &Id), ban: Option<Ban>) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let place = (name, user);
        let before = match ban {
            Some(ban) => {
                hashed.hash.add(&ban_fact(hashed.tenant, place, &ban));
                room.bans.insert(user.clone(), ban)
            }
            None => room.bans.remove(user),
        };
        if let Some(before) = &before {
            hashed.hash.remove(&ban_fact(hashed.tenant, place, before));
        }
    }
}

fn ban_fact(tenant: &Id, (room, user): (&Id, &Id), ban: &Ban) -> Fact {
    Fact::new(BAN)
        .text(tenant.as_str())
        .text(room.as_str())
        .text(user.as_str())
        .number(ban.since.0)
        .text(ban.reason.as_deref().unwrap_or_default())
}
