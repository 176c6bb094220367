use std::collections::{BTreeMap, BTreeSet, HashMap};

use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Event, Id, Kind, MemberBody, RoomBody, RoomKind, Seq, UserBody};

use super::tokens::Tokens;
use super::{Fact, Permission, SetHash, room_role, tenant_role};

/// What the log says about who may do what, up to a sequence. The same events give the same view everywhere.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct View {
    pub(super) tenants: HashMap<Id, Tenant>,
    pub(super) seq: Seq,
    pub(super) hash: SetHash,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) rooms: HashMap<Id, Room>,
    pub(super) users: HashMap<Id, User>,
    /// Everybody's tokens.
    pub(super) tokens: Tokens,
    /// Whose API keys there are, to find one by its id.
    pub(super) key_owners: HashMap<Id, Id>,
}

/// What is known of a user besides the memberships, which stand in the rooms.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// The role in the tenant, where an event gave one.
    pub(super) role: Option<Id>,
    /// The rooms with a membership of theirs.
    pub(super) rooms: BTreeSet<Id>,
    /// When their rights last changed, in log time; 0 for never.
    pub(super) changed_ms: i64,
    /// Which of their tokens are good no longer, if any were revoked. A box, because that is rare.
    pub(super) tokens: Option<Box<Tokens>>,
}

/// What changes at once in the view and in its hash.
pub(super) struct Hashed<'a> {
    pub(super) tenant: &'a Id,
    pub(super) hash: &'a mut SetHash,
}

/// A room as it is now.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Room {
    /// What it is for.
    pub kind: RoomKind,
    /// What people call it.
    pub title: Option<String>,
    /// Who is in it.
    pub members: BTreeMap<Id, Membership>,
}

/// A user's place in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The role's name.
    pub role: Id,
    /// The first sequence this member may see.
    pub visible_from: Seq,
    /// The event that gave the present role.
    pub since: Seq,
}

/// Whether a policy event gave rights or took some away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Rights were added; live connections may be renewed when it suits.
    Grant,
    /// Rights were taken away; live connections must end.
    Restriction,
}

/// What a policy event changed for a user's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The tenant.
    pub tenant: Id,
    /// Whose rights; everybody's in the tenant without.
    pub user: Option<Id>,
    /// In which direction.
    pub effect: Effect,
    /// By which event.
    pub seq: Seq,
}

impl View {
    /// The last sequence that this view has passed.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Notes that everything up to `seq` has been applied (events that are no policy need not be).
    pub fn pass(&mut self, seq: Seq) {
        self.seq = self.seq.max(seq);
    }

    /// A hash of everything in the view, except how far it has read. Views that know the same have the same.
    #[must_use]
    pub fn hash(&self) -> SetHash {
        self.hash
    }

    /// Applies an event; one that was passed before, or that is no policy, changes nothing.
    pub fn apply(&mut self, event: &Event) -> Option<Change> {
        if event.seq <= self.seq {
            return None;
        }
        self.seq = event.seq;
        if !event.kind.is_policy() {
            return None;
        }
        let (tenant, mut hashed) = self.tenant(&event.tenant);
        let body = event.body.get();
        match event.kind {
            Kind::Room => {
                tenant.put_room(&mut hashed, &event.room, serde_json::from_str(body).ok()?);
                None
            }
            Kind::Member => tenant.apply_member(&mut hashed, event, serde_json::from_str(body).ok()?),
            Kind::User => tenant.apply_user(&mut hashed, event, serde_json::from_str(body).ok()?),
            Kind::Token => tenant.apply_token(&mut hashed, event, &serde_json::from_str(body).ok()?),
            Kind::Key => {
                tenant.apply_key(&mut hashed, event, serde_json::from_str(body).ok()?);
                None
            }
            _ => None,
        }
    }

    /// A tenant, made if no event named it before.
    pub(super) fn tenant<'a>(&'a mut self, tenant: &'a Id) -> (&'a mut Tenant, Hashed<'a>) {
        if !self.tenants.contains_key(tenant) {
            self.hash.add(&Fact::new(TENANT).text(tenant.as_str()));
        }
        let hash = &mut self.hash;
        let found = self.tenants.entry(tenant.clone()).or_default();
        (found, Hashed { tenant, hash })
    }

    /// Whether any event ever named this tenant.
    #[must_use]
    pub fn has_tenant(&self, tenant: &Id) -> bool {
        self.tenants.contains_key(tenant)
    }

    /// A room; `None` if there is none of that name.
    #[must_use]
    pub fn room(&self, tenant: &Id, room: &Id) -> Option<&Room> {
        self.tenants.get(tenant)?.rooms.get(room)
    }

    /// The names of a tenant and a room as the view holds them, so that who keeps many of them can share the memory.
    #[must_use]
    pub fn names(&self, tenant: &str, room: &str) -> Option<(&Id, &Id)> {
        let (tenant, rooms) = self.tenants.get_key_value(tenant)?;
        Some((tenant, rooms.rooms.get_key_value(room)?.0))
    }

    /// A user's place in a room.
    #[must_use]
    pub fn membership(&self, tenant: &Id, room: &Id, user: &Id) -> Option<&Membership> {
        self.room(tenant, room)?.members.get(user)
    }

    /// The rooms that a user is a member of, in the order of their names.
    pub fn rooms_of<'a>(&'a self, tenant: &Id, user: &'a Id) -> impl Iterator<Item = (&'a Id, &'a Room)> {
        let tenant = self.tenants.get(tenant);
        let names = tenant
            .and_then(|tenant| tenant.users.get(user))
            .into_iter()
            .flat_map(|user| &user.rooms);
        names.filter_map(move |name| Some((name, tenant?.rooms.get(name)?)))
    }

    /// Everybody in the tenant whom an event gave a role or a membership, in no order.
    pub fn users(&self, tenant: &Id) -> impl Iterator<Item = &Id> {
        let users = self.tenants.get(tenant).into_iter().flat_map(|tenant| &tenant.users);
        users
            .filter(|(_, known)| known.role.is_some() || !known.rooms.is_empty())
            .map(|(user, _)| user)
    }

    /// The user's role in the tenant, `member` if no event says otherwise.
    #[must_use]
    pub fn tenant_role(&self, tenant: &Id, user: &Id) -> &str {
        self.tenants
            .get(tenant)
            .and_then(|tenant| tenant.users.get(user)?.role.as_ref())
            .map_or("member", Id::as_str)
    }

    /// Everybody whose rights ever changed: tenant, user (none: everybody in it), and when last, in log time (milliseconds
    /// since 1970).
    ///
    /// Who did not watch the log all the time learns from this which connections may have rights from before a change.
    pub fn last_changes(&self) -> impl Iterator<Item = (&Id, Option<&Id>, i64)> {
        self.tenants.iter().flat_map(|(name, tenant)| {
            let users = tenant.users.iter().map(|(user, known)| (Some(user), known.changed_ms));
            let all = std::iter::once((None, tenant.tokens.changed_ms)).chain(users);
            all.filter(|(_, at_ms)| *at_ms != 0)
                .map(move |(user, at_ms)| (name, user, at_ms))
        })
    }
}

impl Tenant {
    pub(super) fn put_room(&mut self, hashed: &mut Hashed<'_>, name: &Id, body: RoomBody) {
        if let Some(before) = self.rooms.get(name) {
            hashed.hash.remove(&room_fact(hashed.tenant, name, before));
        }
        let room = self.rooms.entry(name.clone()).or_default();
        (room.kind, room.title) = (body.kind, body.title);
        hashed.hash.add(&room_fact(hashed.tenant, name, room));
    }

    /// Gives or (with none) takes a membership; the one before. The room must be there.
    pub(super) fn put_member(
        &mut self,
        hashed: &mut Hashed<'_>,
        (room, user): (&Id, &Id),
        member: Option<Membership>,
    ) -> Option<Membership> {
        // Names are kept once, however often they are told: a million memberships are as many names of rooms and users.
        let room = self.rooms.get_key_value(room)?.0.clone();
        let user = self.users.get_key_value(user).map_or(user, |(known, _)| known).clone();
        let members = &mut self.rooms.get_mut(&room)?.members;
        let known = self.users.entry(user.clone()).or_default();
        let place = (&room, &user);
        let before = if let Some(member) = member {
            hashed.hash.add(&member_fact(hashed.tenant, place, &member));
            known.rooms.insert(room.clone());
            members.insert(user.clone(), member)
        } else {
            known.rooms.remove(&room);
            members.remove(&user)
        };
        if known.is_nothing() {
            self.users.remove(&user);
        }
        if let Some(before) = &before {
            hashed.hash.remove(&member_fact(hashed.tenant, place, before));
        }
        before
    }

    /// Changes what is known of a user besides memberships.
    pub(super) fn change_user(&mut self, hashed: &mut Hashed<'_>, user: &Id, change: impl FnOnce(&mut User)) {
        let known = self.users.entry(user.clone()).or_default();
        if known.is_worth_telling() {
            hashed.hash.remove(&user_fact(hashed.tenant, user, known));
        }
        change(known);
        if known.is_worth_telling() {
            hashed.hash.add(&user_fact(hashed.tenant, user, known));
        }
        if known.is_nothing() {
            self.users.remove(user);
        }
    }

    fn apply_member(&mut self, hashed: &mut Hashed<'_>, event: &Event, body: MemberBody) -> Option<Change> {
        self.rooms.get(&event.room)?;
        let member = body.role.clone().map(|role| Membership {
            role,
            visible_from: body.visible_from.unwrap_or_default(),
            since: event.seq,
        });
        let before = self.put_member(hashed, (&event.room, &body.user), member);
        let effect = effect(
            permissions(room_role, before.map(|before| before.role).as_ref()),
            permissions(room_role, body.role.as_ref()),
        )?;
        Some(self.changed(hashed, event, body.user, effect))
    }

    fn apply_user(&mut self, hashed: &mut Hashed<'_>, event: &Event, body: UserBody) -> Option<Change> {
        let mut before = None;
        self.change_user(hashed, &body.user, |user| {
            before = std::mem::replace(&mut user.role, body.role.clone());
        });
        let permissions = |role: Option<&Id>| tenant_role(role.map_or("member", Id::as_str)).unwrap_or_default();
        let effect = effect(permissions(before.as_ref()), permissions(body.role.as_ref()))?;
        Some(self.changed(hashed, event, body.user, effect))
    }

    /// Forgets that tokens of a user were ever revoked.
    pub(super) fn drop_tokens(&mut self, user: &Id) {
        if let Some(known) = self.users.get_mut(user) {
            known.tokens = None;
            if known.is_nothing() {
                self.users.remove(user);
            }
        }
    }

    pub(super) fn changed(&mut self, hashed: &mut Hashed<'_>, event: &Event, user: Id, effect: Effect) -> Change {
        // A time that cannot be read is later than everything: connections are then closed rather than kept.
        let at_ms = clock::parse_ms(&event.at).unwrap_or(i64::MAX);
        self.change_user(hashed, &user, |user| user.changed_ms = at_ms);
        Change {
            tenant: event.tenant.clone(),
            user: Some(user),
            effect,
            seq: event.seq,
        }
    }
}

impl User {
    /// Whether there is something to keep of this user besides memberships.
    pub(super) fn is_worth_telling(&self) -> bool {
        self.role.is_some() || self.changed_ms != 0
    }

    /// Whether there is nothing to keep at all.
    fn is_nothing(&self) -> bool {
        !self.is_worth_telling() && self.rooms.is_empty() && self.tokens.is_none()
    }
}

// The kinds of facts in the hash. A number is never used for anything else: see `SNAPSHOT_VERSION`.
const TENANT: u8 = 1;
const ROOM: u8 = 2;
const MEMBER: u8 = 3;
const USER: u8 = 4;

fn room_fact(tenant: &Id, name: &Id, room: &Room) -> Fact {
    let kind = match room.kind {
        RoomKind::Group => 0,
        // Kinds that are unknown here are refused when the event is read.
        _ => u64::MAX,
    };
    let fact = Fact::new(ROOM).text(tenant.as_str()).text(name.as_str()).number(kind);
    match &room.title {
        Some(title) => fact.text(title),
        None => fact,
    }
}

fn member_fact(tenant: &Id, (room, user): (&Id, &Id), member: &Membership) -> Fact {
    Fact::new(MEMBER)
        .text(tenant.as_str())
        .text(room.as_str())
        .text(user.as_str())
        .text(member.role.as_str())
        .number(member.visible_from.0)
        .number(member.since.0)
}

fn user_fact(tenant: &Id, user: &Id, known: &User) -> Fact {
    Fact::new(USER)
        .text(tenant.as_str())
        .text(user.as_str())
        .text(known.role.as_ref().map_or("", Id::as_str))
        .number(known.changed_ms.cast_unsigned())
}

fn permissions(of: fn(&str) -> Option<&'static [Permission]>, role: Option<&Id>) -> &'static [Permission] {
    role.and_then(|role| of(role.as_str())).unwrap_or_default()
}

fn effect(before: &[Permission], after: &[Permission]) -> Option<Effect> {
    if before.iter().any(|permission| !after.contains(permission)) {
        Some(Effect::Restriction)
    } else if after.iter().any(|permission| !before.contains(permission)) {
        Some(Effect::Grant)
    } else {
        None
    }
}
