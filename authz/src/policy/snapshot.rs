use std::collections::HashMap;

use natterjack_nats_config::contract::{Id, InvalidId, RoleScope, RoomBody, RoomHistory, RoomKind, Seq};
use serde::{Deserialize, Serialize};

use super::PermissionSet;
use super::ban::Ban;
use super::role::Role;
use super::tokens::Tokens;
use super::view::{Hashed, Membership, Tenant, User, View};

/// The version of a view's bytes and of its hash. Raise it when either changes: when a view keeps another fact, spells one
/// differently, or folds an event differently. Bytes of another version are not read.
pub const SNAPSHOT_VERSION: u16 = 3;

/// Since this version a view knows which events made rooms and gave tenant roles.
pub const KEEPS_PLACES: u16 = 3;

/// Version 1 knew nothing of revoked tokens, version 2 nothing of roles, bans, settings of rooms and the events that made them:
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
        let mut tenants: Vec<_> = self.tenants.iter().collect();
        tenants.sort_unstable_by_key(|(name, _)| *name);
        for (name, tenant) in tenants {
            records.put(&Record::Tenant(name.as_str()))?;
            records.put_roles(tenant)?;
            records.put_users(tenant)?;
            records.put_tokens(None, &tenant.tokens)?;
            records.put_tokens_of_users(tenant)?;
            records.put_rooms(tenant)?;
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
            ..Self::default()
        };
        let mut reader = Reader::default();
        let mut tenant: Option<Id> = None;
        for _ in 0..head.records {
            let (record, after) = postcard::take_from_bytes::<Record<'_>>(rest)?;
            rest = after;
            if let Record::KeepsPlaces = record {
                view.keeps_no_places = false;
                continue;
            }
            if let Record::Tenant(name) = record {
                let name: Id = name.parse()?;
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
        view.seq = Seq(head.seq);
        Ok(view)
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

    fn put_tokens_of_users(&mut self, tenant: &Tenant) -> Result<(), SnapshotError> {
        let with_tokens = tenant
            .users
            .iter()
            .filter_map(|(name, user)| Some((name, user.tokens.as_ref()?)));
        let mut users: Vec<_> = with_tokens.collect();
        users.sort_unstable_by_key(|(name, _)| *name);
        for (name, tokens) in users {
            self.put_tokens(Some(name.as_str()), tokens)?;
        }
        Ok(())
    }

    fn put_tokens(&mut self, user: Option<&str>, tokens: &Tokens) -> Result<(), SnapshotError> {
        let (valid_after_ms, changed_ms) = (tokens.valid_after_ms, tokens.changed_ms);
        if (valid_after_ms, changed_ms) != (0, 0) {
            self.put(&Record::ValidAfter {
                user,
                valid_after_ms,
                changed_ms,
            })?;
        }
        for jti in &tokens.revoked {
            self.put(&Record::Revoked { user, jti })?;
        }
        for seq in &tokens.open {
            self.put(&Record::Open { user, seq: seq.0 })?;
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
        match record {
            Record::Tenant(_) | Record::KeepsPlaces => {}
            Record::User { user, role, changed_ms } => {
                let role = role.map(|role| self.role(role)).transpose()?;
                tenant.change_user(hashed, &user.parse()?, |user: &mut User| {
                    (user.role, user.changed_ms) = (role, changed_ms);
                });
            }
            Record::Room { room, kind, title } => {
                let room = self.room.insert(room.parse()?);
                let title = title.map(str::to_owned);
                let body = RoomBody {
                    kind,
                    title,
                    ..RoomBody::default()
                };
                tenant.put_room(hashed, room, body, Seq::ZERO);
            }
            Record::UserSince { user, since } => {
                tenant.change_user(hashed, &user.parse()?, |user| user.role_since = Seq(since));
            }
            record @ (Record::Role { .. } | Record::RoomSettings { .. } | Record::Ban { .. }) => {
                self.take_settings(tenant, hashed, record)?;
            }
            record @ (Record::ValidAfter { .. } | Record::Revoked { .. } | Record::Open { .. }) => {
                take_tokens(tenant, hashed, record)?;
            }
            Record::Member {
                user,
                role,
                visible_from,
                since,
            } => {
                let member = Membership {
                    role: self.role(role)?,
                    visible_from: Seq(visible_from),
                    since: Seq(since),
                };
                let room = self.room.as_ref().ok_or(SnapshotError::Order("no room is named"))?;
                tenant.put_member(hashed, (room, &user.parse()?), Some(member));
            }
        }
        Ok(())
    }

    /// Of those that there are since version 3: roles, settings of rooms, bans.
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
                    since: Seq(since),
                };
                tenant.put_role(hashed, &role.parse()?, Some(made));
            }
            Record::RoomSettings { history, since } => {
                let name = room()?;
                let known = tenant.rooms.get(name).ok_or(SnapshotError::Order("no room is there"))?;
                let body = RoomBody {
                    kind: known.kind,
                    title: known.title.clone(),
                    history,
                    with: None,
                };
                tenant.put_room(hashed, name, body, Seq(since));
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

    fn role(&mut self, name: &'a str) -> Result<Id, InvalidId> {
        if let Some(role) = self.roles.get(name) {
            return Ok(role.clone());
        }
        let role: Id = name.parse()?;
        self.roles.insert(name, role.clone());
        Ok(role)
    }
}

/// Of those about tokens.
fn take_tokens(tenant: &mut Tenant, hashed: &mut Hashed<'_>, record: Record<'_>) -> Result<(), SnapshotError> {
    match record {
        Record::ValidAfter {
            user,
            valid_after_ms,
            changed_ms,
        } => tenant.change_tokens(hashed, id(user)?.as_ref(), |tokens| {
            (tokens.valid_after_ms, tokens.changed_ms) = (valid_after_ms, changed_ms);
        }),
        Record::Revoked { user, jti } => tenant.change_tokens(hashed, id(user)?.as_ref(), |tokens| {
            tokens.revoked.insert(jti.into());
        }),
        Record::Open { user, seq } => tenant.change_tokens(hashed, id(user)?.as_ref(), |tokens| {
            tokens.open.insert(Seq(seq));
        }),
        _ => {}
    }
    Ok(())
}

fn id(name: Option<&str>) -> Result<Option<Id>, InvalidId> {
    name.map(str::parse).transpose()
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{Event, Kind};
    use proptest::prelude::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::policy::Permission;

    /// What an event of the tests is about: few names, so that the same ones meet often.
    #[derive(Debug, Clone)]
    struct Step {
        tenant: usize,
        room: usize,
        user: usize,
        what: What,
    }

    #[derive(Debug, Clone)]
    enum What {
        Room(Option<String>, bool),
        Member(Option<&'static str>, Option<u64>),
        User(Option<&'static str>),
        Token(bool, u8, u64),
        Role(Option<u8>),
        Ban(bool, Option<String>),
        /// A writer of this or of an earlier version begins.
        Term(bool),
        Odd,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let role = prop_oneof![Just("owner"), Just("member"), Just("reader"), Just("role1")];
        let what = prop_oneof![
            (prop::option::of("\\PC{0,8}"), any::<bool>()).prop_map(|(title, joined)| What::Room(title, joined)),
            prop::option::of(1u8..9).prop_map(What::Role),
            (any::<bool>(), prop::option::of("\\PC{0,3}")).prop_map(|(banned, reason)| What::Ban(banned, reason)),
            any::<bool>().prop_map(What::Term),
            (prop::option::of(role), prop::option::of(0u64..99)).prop_map(|(role, from)| What::Member(role, from)),
            prop::option::of(Just("admin")).prop_map(What::User),
            (any::<bool>(), 0u8..3, 0u64..8).prop_map(|(one, form, value)| What::Token(one, form, value)),
            Just(What::Odd),
        ];
        let step = (0usize..2, 0usize..4, 0usize..4, what);
        let step = step.prop_map(|(tenant, room, user, what)| Step {
            tenant,
            room,
            user,
            what,
        });
        prop::collection::vec(step, 0..60)
    }

    fn event(number: usize, step: &Step) -> Event {
        let user = format!("u{}", step.user);
        let (kind, body) = match &step.what {
            What::Room(title, joined) => {
                let history = if *joined { "joined" } else { "all" };
                let kind = if *joined { "announcement" } else { "group" };
                (Kind::Room, json!({"title": title, "history": history, "kind": kind}))
            }
            What::Role(bits) => {
                let permissions = bits.map(|bits| PermissionSet::from_bits(u32::from(bits)).unwrap());
                let verbs = permissions.map(|set| set.iter().map(Permission::as_str).collect::<Vec<_>>());
                let role = format!("role{}", step.room);
                (Kind::Role, json!({"role": role, "scope": "room", "permissions": verbs}))
            }
            What::Ban(banned, reason) => (Kind::Ban, json!({"user": user, "banned": banned, "reason": reason})),
            What::Term(_) => (Kind::Msg, json!({})),
            What::Member(role, from) => (Kind::Member, json!({"user": user, "role": role, "visible_from": from})),
            What::User(role) => (Kind::User, json!({"user": user, "role": role})),
            What::Token(one, form, value) => {
                let mut body = match form {
                    0 => json!({"jti": format!("j{value}")}),
                    1 => json!({"valid_after_ms": value}),
                    _ => json!({"settled": Seq::of(*value, 0)}),
                };
                if *one || *form == 0 {
                    body["user"] = json!(user);
                }
                (Kind::Token, body)
            }
            What::Odd => (Kind::Member, json!("no membership")),
        };
        Event {
            v: 1,
            seq: Seq::of(number as u64 + 1, 0),
            n: 1,
            prev: Seq::ZERO,
            id: String::new(),
            tenant: format!("t{}", step.tenant).parse().unwrap(),
            room: format!("r{}", step.room).parse().unwrap(),
            from: "root".parse().unwrap(),
            kind,
            at: natterjack_nats_config::clock::format_ms(1_795_413_600_000 + i64::try_from(number).unwrap()),
            key: None,
            reply_to: None,
            target: None,
            body: to_raw_value(&body).unwrap(),
        }
    }

    fn fold(mut view: View, steps: &[Step], from: usize) -> View {
        for (number, step) in steps.iter().enumerate().skip(from) {
            view.apply(&event(number, step));
            if let What::Term(keeps_places) = step.what {
                view.begin_term(keeps_places);
            }
        }
        view
    }

    proptest! {
        #[test]
        fn a_view_that_was_put_away_and_taken_up_again_is_the_same(steps in steps(), cut in 0usize..60) {
            let cut = cut.min(steps.len());
            let whole = fold(View::default(), &steps, 0);
            let first = fold(View::default(), &steps[..cut], 0);
            let taken_up = View::from_bytes(&first.to_bytes().unwrap()).unwrap();
            prop_assert_eq!(taken_up.hash(), first.hash(), "the hash is that of what was read");
            let resumed = fold(taken_up, &steps, cut);
            prop_assert_eq!(resumed.hash(), whole.hash());
            prop_assert_eq!(resumed.to_bytes().unwrap(), whole.to_bytes().unwrap());
            prop_assert_eq!(resumed.seq(), whole.seq());
        }

        #[test]
        fn views_that_differ_have_other_hashes(steps in steps(), other in steps()) {
            let (one, two) = (fold(View::default(), &steps, 0), fold(View::default(), &other, 0));
            let bytes = |view: &View| View { seq: Seq::ZERO, ..view.clone() }.to_bytes().unwrap();
            prop_assert_eq!(one.hash() == two.hash(), bytes(&one) == bytes(&two));
        }

        #[test]
        fn whether_places_are_kept_is_part_of_the_hash(steps in steps()) {
            let view = fold(View::default(), &steps, 0);
            let other = View { keeps_no_places: !view.keeps_no_places, ..view.clone() };
            prop_assert_ne!(view.hash(), other.hash());
            prop_assert_ne!(view.to_bytes().unwrap(), other.to_bytes().unwrap());
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_as_another_view(steps in steps(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let view = fold(View::default(), &steps, 0);
            let mut bytes = view.to_bytes().unwrap();
            let cut = at.index(bytes.len());
            prop_assert!(View::from_bytes(&bytes[..cut]).is_err(), "cut off at {}", cut);
            bytes[cut] ^= flip;
            // A SHA-256 stands beside the bytes; here it is enough that nothing panics.
            let _ = View::from_bytes(&bytes);
        }
    }

    #[test]
    fn the_version_before_is_read() {
        let steps = [
            What::Term(false),
            What::Room(None, false),
            What::Member(Some("member"), Some(3)),
            What::User(Some("admin")),
        ];
        let steps = steps.map(|what| Step {
            tenant: 0,
            room: 0,
            user: 0,
            what,
        });
        let view = fold(View::default(), &steps, 0);
        let mut bytes = view.to_bytes().unwrap();
        // What versions 1 and 2 wrote of this view: nothing but their number is other. The kind of the room is one that they know.
        for version in [1, 2] {
            bytes[8] = version;
            assert_eq!(View::from_bytes(&bytes).unwrap(), view);
        }
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut bytes = View::default().to_bytes().unwrap();
        bytes[8] += 1;
        assert!(matches!(View::from_bytes(&bytes), Err(SnapshotError::Version(4))));
        bytes[8] = 0;
        assert!(matches!(View::from_bytes(&bytes), Err(SnapshotError::Version(0))));
        assert!(matches!(View::from_bytes(b"something"), Err(SnapshotError::NotAView)));
    }
}
