mod since_4;
mod since_5;
mod tokens;

use hashbrown::HashMap;
use natterjack_nats_config::contract::{Id, InvalidId, RoleScope, RoomBody, RoomHistory, RoomKind, Seq};
use serde::{Deserialize, Serialize};

use super::ban::Ban;
use super::claims::Claimed;
use super::role::Role;
use super::view::{Hashed, Membership, Tenant, User, View};
use super::{PermissionSet, Prefixes};

/// The version of a view's bytes and of its hash. Raise it when either changes: when a view keeps another fact, spells one
/// differently, or folds an event differently. Bytes of another version are not read.
pub const SNAPSHOT_VERSION: u16 = 5;

/// Since this version a view knows which events made rooms and gave tenant roles.
pub(super) const KEEPS_PLACES: u16 = 3;

/// Since this version a view knows which roles tokens claim, what is erased, and of the last legal hold.
pub(super) const KEEPS_CLAIMS_AND_ERASURES: u16 = 4;

/// Since this version a view knows under which prefixes a role lets others be spoken for.
pub(super) const KEEPS_PREFIXES: u16 = 5;

/// Version 1 knew nothing of revoked tokens, version 2 nothing of API keys and of when a revoked token expires, nor of roles,
/// bans, settings of rooms and the events that made them, version 3 nothing of claimed roles and erasures, version 4 nothing of prefixes:
/// the same bytes without those records.
const OLDEST_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"nj-polic";

/// Bytes that are no view, or not one of this version.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// They do not begin as a view does.
    #[error("these are not the bytes of a view")]
    NotAView,
    /// Another version of this program made them.
    #[error("the view is of version {0}, this program reads version {SNAPSHOT_VERSION}")]
    Version(u16),
    /// They are cut off, or damaged.
    #[error("the view is damaged: {0}")]
    Damaged(#[from] postcard::Error),
    /// A name in them is none.
    #[error("the view is damaged: {0}")]
    Name(#[from] InvalidId),
    /// What they say does not fit together.
    #[error("the view is damaged: {0}")]
    Order(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Head {
    magic: [u8; 8],
    version: u16,
    seq: u64,
    records: u64,
}

/// A fact of a view. Each is about the tenant, and a member about the room, that was named last. All are in the order of
/// their names, so that equal views have equal bytes.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Record<'a> {
    Tenant(&'a str),
    User {
        user: &'a str,
        role: Option<&'a str>,
        changed_ms: i64,
    },
    Room {
        room: &'a str,
        kind: RoomKind,
        title: Option<&'a str>,
    },
    Member {
        user: &'a str,
        role: &'a str,
        visible_from: u64,
        since: u64,
    },
    // From here on since version 2. Of everybody's tokens where no user is named.
    ValidAfter {
        user: Option<&'a str>,
        valid_after_ms: i64,
        changed_ms: i64,
    },
    Revoked {
        user: Option<&'a str>,
        jti: &'a str,
    },
    Open {
        user: Option<&'a str>,
        seq: u64,
    },
    // From here on since version 3.
    RevokedUntil {
        user: Option<&'a str>,
        jti: &'a str,
        until_ms: i64,
    },
    Key {
        user: &'a str,
        id: &'a str,
        name: &'a str,
        sha256: [u8; 32],
        created_ms: i64,
        expires_ms: Option<i64>,
    },
    /// Before all tenants: which events made rooms and gave tenant roles is noted.
    KeepsPlaces,
    UserSince {
        user: &'a str,
        since: u64,
    },
    Role {
        role: &'a str,
        scope: RoleScope,
        permissions: u32,
        since: u64,
    },
    /// Of the room that was named last.
    RoomSettings {
        history: RoomHistory,
        since: u64,
    },
    /// From the room that was named last.
    Ban {
        user: &'a str,
        reason: Option<&'a str>,
        since: u64,
    },
    // From here on since version 4.
    Claimed {
        user: &'a str,
        issuer: &'a str,
        role: Option<&'a str>,
        issued_at_ms: i64,
        since: u64,
    },
    /// Before all tenants: what is erased is noted.
    KeepsErasures,
    /// The last erasure, and the last event about a hold.
    LastErased {
        seq: u64,
        hold: u64,
    },
    ErasedUser {
        user: &'a str,
        upto: u64,
        by: u64,
    },
    ErasedMessage {
        seq: u64,
        by: u64,
    },
    // From here on since version 5.
    /// Before all tenants: prefixes of roles are noted.
    KeepsPrefixes,
    /// Of a role that was told before.
    SendAs {
        role: &'a str,
        prefix: &'a str,
    },
}

/// Record after record, into bytes.
struct Writer {
    bytes: Vec<u8>,
    records: u64,
}

/// Record after record, into a view. Roles are few and told often, so each is kept once.
#[derive(Default)]
struct Reader<'a> {
    roles: HashMap<&'a str, Id>,
    room: Option<Id>,
    /// What the room is and by which event, until it is known whether its settings follow.
    unsettled: Option<(RoomBody, Seq)>,
}

impl View {
    /// The whole view as bytes; equal views give equal bytes. Some tens of bytes for each room and each membership.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SnapshotError> {
        let mut records = Writer {
            bytes: Vec::new(),
            records: 0,
        };
        if !self.keeps_no_places {
            records.put(&Record::KeepsPlaces)?;
        }
        if !self.keeps_no_erasures {
            records.put(&Record::KeepsErasures)?;
        }
        if !self.keeps_no_prefixes {
            records.put(&Record::KeepsPrefixes)?;
        }
        let mut tenants: Vec<_> = self.tenants.iter().collect();
        tenants.sort_unstable_by_key(|(name, _)| *name);
        for (name, tenant) in tenants {
            records.put(&Record::Tenant(name.as_str()))?;
            records.put_roles(tenant)?;
            records.put_prefixes(tenant)?;
            records.put_users(tenant)?;
            records.put_claims(tenant)?;
            records.put_tokens(None, &tenant.tokens)?;
            records.put_tokens_of_users(tenant)?;
            records.put_rooms(tenant)?;
            records.put_erased(tenant)?;
        }
        let head = Head {
            magic: MAGIC,
            version: SNAPSHOT_VERSION,
            seq: self.seq.0,
            records: records.records,
        };
        let mut bytes = postcard::to_allocvec(&head)?;
        bytes.append(&mut records.bytes);
        Ok(bytes)
    }

    /// The view that [`to_bytes`](Self::to_bytes) was asked of. Its hash is made anew from what was read.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (head, mut rest) = postcard::take_from_bytes::<Head>(bytes).map_err(|_| SnapshotError::NotAView)?;
        if head.magic != MAGIC {
            return Err(SnapshotError::NotAView);
        }
        if !(OLDEST_VERSION..=SNAPSHOT_VERSION).contains(&head.version) {
            return Err(SnapshotError::Version(head.version));
        }
        let mut view = Self {
            keeps_no_places: true,
            keeps_no_erasures: true,
            keeps_no_prefixes: true,
            ..Self::default()
        };
        let mut reader = Reader::default();
        let mut tenant: Option<Id> = None;
        for _ in 0..head.records {
            let (record, after) = postcard::take_from_bytes::<Record<'_>>(rest)?;
            rest = after;
            if view.takes_mark(&record) {
                continue;
            }
            if let Record::Tenant(name) = record {
                let name: Id = name.parse()?;
                reader.settle_in(&mut view, tenant.as_ref());
                view.tenant(&name);
                (tenant, reader.room) = (Some(name), None);
                continue;
            }
            let name = tenant.as_ref().ok_or(SnapshotError::Order("no tenant is named"))?;
            let (found, mut hashed) = view.tenant(name);
            reader.take(found, &mut hashed, record)?;
        }
        if !rest.is_empty() {
            return Err(SnapshotError::Order("something follows the last record"));
        }
        reader.settle_in(&mut view, tenant.as_ref());
        view.seq = Seq(head.seq);
        Ok(view)
    }

    /// What stands before all tenants says what the view notes.
    fn takes_mark(&mut self, record: &Record<'_>) -> bool {
        let noted = match record {
            Record::KeepsPlaces => &mut self.keeps_no_places,
            Record::KeepsErasures => &mut self.keeps_no_erasures,
            Record::KeepsPrefixes => &mut self.keeps_no_prefixes,
            _ => return false,
        };
        *noted = false;
        true
    }
}

impl Writer {
    fn put(&mut self, record: &Record<'_>) -> Result<(), SnapshotError> {
        self.bytes = postcard::to_extend(record, std::mem::take(&mut self.bytes))?;
        self.records += 1;
        Ok(())
    }

    fn put_roles(&mut self, tenant: &Tenant) -> Result<(), SnapshotError> {
        for (name, role) in &tenant.roles {
            self.put(&Record::Role {
                role: name.as_str(),
                scope: role.scope,
                permissions: role.permissions.bits(),
                since: role.since.0,
            })?;
        }
        Ok(())
    }

    fn put_users(&mut self, tenant: &Tenant) -> Result<(), SnapshotError> {
        let mut users: Vec<_> = tenant
            .users
            .iter()
            .filter(|(_, user)| user.is_worth_telling())
            .collect();
        users.sort_unstable_by_key(|(name, _)| *name);
        for (name, user) in users {
            self.put(&Record::User {
                user: name.as_str(),
                role: user.role.as_ref().map(Id::as_str),
                changed_ms: user.changed_ms,
            })?;
            if user.role_since != Seq::ZERO {
                self.put(&Record::UserSince {
                    user: name.as_str(),
                    since: user.role_since.0,
                })?;
            }
        }
        Ok(())
    }

    fn put_rooms(&mut self, tenant: &Tenant) -> Result<(), SnapshotError> {
        let mut rooms: Vec<_> = tenant.rooms.iter().collect();
        rooms.sort_unstable_by_key(|(name, _)| *name);
        for (name, room) in rooms {
            self.put(&Record::Room {
                room: name.as_str(),
                kind: room.kind,
                title: room.title.as_deref(),
            })?;
            if (room.history, room.since) != (RoomHistory::All, Seq::ZERO) {
                self.put(&Record::RoomSettings {
                    history: room.history,
                    since: room.since.0,
                })?;
            }
            for (user, ban) in &room.bans {
                self.put(&Record::Ban {
                    user: user.as_str(),
                    reason: ban.reason.as_deref(),
                    since: ban.since.0,
                })?;
            }
            for (user, member) in &room.members {
                self.put(&Record::Member {
                    user: user.as_str(),
                    role: member.role.as_str(),
                    visible_from: member.visible_from.0,
                    since: member.since.0,
                })?;
            }
        }
        Ok(())
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, tenant: &mut Tenant, hashed: &mut Hashed<'_>, record: Record<'a>) -> Result<(), SnapshotError> {
        if let Record::RoomSettings { history, since } = record {
            let none = SnapshotError::Order("no room is named before its settings");
            let (room, made) = self.unsettled.as_mut().ok_or(none)?;
            (room.history, *made) = (history, Seq(since));
            self.settle(tenant, hashed);
            return Ok(());
        }
        self.settle(tenant, hashed);
        match record {
            Record::Tenant(_)
            | Record::KeepsPlaces
            | Record::KeepsErasures
            | Record::KeepsPrefixes
            | Record::RoomSettings { .. } => {}
            Record::SendAs { role, prefix } => since_5::take_prefix(tenant, hashed, (role, prefix))?,
            Record::User { user, role, changed_ms } => {
                let role = role.map(|role| self.role(role)).transpose()?;
                tenant.change_user(hashed, &user.parse()?, |user: &mut User| {
                    (user.role, user.changed_ms) = (role, changed_ms);
                });
            }
            Record::Room { room, kind, title } => {
                self.room = Some(room.parse()?);
                let body = RoomBody {
                    kind,
                    title: title.map(str::to_owned),
                    ..RoomBody::default()
                };
                self.unsettled = Some((body, Seq::ZERO));
            }
            Record::UserSince { user, since } => {
                tenant.change_user(hashed, &user.parse()?, |user| user.role_since = Seq(since));
            }
            record @ Record::Claimed { .. } => self.take_claim(tenant, hashed, record)?,
            record @ (Record::Role { .. } | Record::Ban { .. }) => {
                self.take_settings(tenant, hashed, record)?;
            }
            record @ (Record::LastErased { .. } | Record::ErasedUser { .. } | Record::ErasedMessage { .. }) => {
                since_4::take_erased(tenant, hashed, record)?;
            }
            record @ (Record::ValidAfter { .. }
            | Record::Revoked { .. }
            | Record::RevokedUntil { .. }
            | Record::Open { .. }
            | Record::Key { .. }) => {
                tokens::take_tokens(tenant, hashed, record)?;
            }
            record @ Record::Member { .. } => self.take_member(tenant, hashed, record)?,
        }
        Ok(())
    }

    /// Puts the room in that was named last, if it is not there yet.
    fn settle(&mut self, tenant: &mut Tenant, hashed: &mut Hashed<'_>) {
        if let (Some(room), Some((body, since))) = (&self.room, self.unsettled.take()) {
            tenant.put_room(hashed, room, body, since);
        }
    }

    /// The same where no record of the tenant follows.
    fn settle_in(&mut self, view: &mut View, tenant: Option<&Id>) {
        if let Some(tenant) = tenant {
            let (found, mut hashed) = view.tenant(tenant);
            self.settle(found, &mut hashed);
        }
    }

    fn take_member(
        &mut self,
        tenant: &mut Tenant,
        hashed: &mut Hashed<'_>,
        record: Record<'a>,
    ) -> Result<(), SnapshotError> {
        let Record::Member {
            user,
            role,
            visible_from,
            since,
        } = record
        else {
            return Ok(());
        };
        let member = Membership {
            role: self.role(role)?,
            visible_from: Seq(visible_from),
            since: Seq(since),
        };
        let room = self.room.as_ref().ok_or(SnapshotError::Order("no room is named"))?;
        tenant.put_member(hashed, (room, &user.parse()?), Some(member));
        Ok(())
    }

    /// Of those that there are since version 3: roles, bans.
    fn take_settings(
        &self,
        tenant: &mut Tenant,
        hashed: &mut Hashed<'_>,
        record: Record<'a>,
    ) -> Result<(), SnapshotError> {
        let room = || self.room.as_ref().ok_or(SnapshotError::Order("no room is named"));
        match record {
            Record::Role {
                role,
                scope,
                permissions,
                since,
            } => {
                let permissions = PermissionSet::from_bits(permissions)
                    .ok_or(SnapshotError::Order("a role has a permission that is unknown"))?;
                let made = Role {
                    scope,
                    permissions,
                    send_as: Prefixes::default(),
                    since: Seq(since),
                };
                tenant.put_role(hashed, &role.parse()?, Some(made));
            }
            Record::Ban { user, reason, since } => {
                let ban = Ban {
                    reason: reason.map(Into::into),
                    since: Seq(since),
                };
                tenant.put_ban(hashed, (room()?, &user.parse()?), Some(ban));
            }
            _ => {}
        }
        Ok(())
    }

    /// Of those that there are since version 4.
    fn take_claim(
        &mut self,
        tenant: &mut Tenant,
        hashed: &mut Hashed<'_>,
        record: Record<'a>,
    ) -> Result<(), SnapshotError> {
        if let Record::Claimed {
            user,
            issuer,
            role,
            issued_at_ms,
            since,
        } = record
        {
            let claimed = Claimed {
                role: role.map(|role| self.role(role)).transpose()?,
                issued_at_ms,
                since: Seq(since),
            };
            tenant.put_claim(hashed, (&user.parse()?, issuer), claimed);
        }
        Ok(())
    }

    fn role(&mut self, name: &'a str) -> Result<Id, InvalidId> {
        if let Some(role) = self.roles.get(name) {
            return Ok(role.clone());
        }
        let role: Id = name.parse()?;
        self.roles.insert(name, role.clone());
        Ok(role)
    }
}

#[cfg(test)]
mod tests;
