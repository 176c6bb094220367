use std::collections::BTreeMap;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{
    Erased, Event, Id, Kind, MemberBody, RoleScope, RoomBody, RoomHistory, RoomKind, Seq, UserBody,
};

use super::ban::Ban;
use super::by_id::ById;
use super::claims::Claims;
use super::erasure::KEEPS_ERASURES;
use super::role::Role;
use super::send_as::KEEPS_PREFIXES;
use super::snapshot::{
    KEEPS_CLAIMS_AND_ERASURES as KEEPS_CLAIMS_AND_ERASURES_SINCE, KEEPS_PLACES as KEEPS_PLACES_SINCE,
    KEEPS_PREFIXES as KEEPS_PREFIXES_SINCE,
};
use super::tokens::Tokens;
use super::{BLOCKED, Fact, PermissionSet, SetHash, built_in, kind};

/// What the log says about who may do what, up to a sequence. The same events give the same view everywhere.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct View {
    pub(super) tenants: HashMap<Id, Tenant>,
    pub(super) seq: Seq,
    pub(super) hash: SetHash,
    /// Whether a writer of an earlier version is at work, which does not know which events made rooms and gave tenant roles:
    /// they are then noted by nobody, so that all know the same.
    pub(super) keeps_no_places: bool,
    /// The same for erasures and holds.
    pub(super) keeps_no_erasures: bool,
    /// The same for the prefixes of roles.
    pub(super) keeps_no_prefixes: bool,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) rooms: HashMap<Id, Room>,
    pub(super) users: HashMap<Id, User>,
    pub(super) roles: BTreeMap<Id, Role>,
    /// Everybody's tokens.
    pub(super) tokens: Tokens,
    /// Whose API keys there are, to find one by its id.
    pub(super) key_owners: HashMap<Id, Id>,
    /// What is erased, and so must not be handed out.
    pub(super) erased: Erased,
    /// The last event about a legal hold.
    pub(super) last_hold: Seq,
}

/// What is known of a user besides the memberships, which stand in the rooms.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// The role in the tenant, where somebody gave one.
    pub(super) role: Option<Id>,
    /// The event that gave it or took it back last; 0 if that is not known.
    pub(super) role_since: Seq,
    /// The rooms with a membership of theirs.
    pub(super) rooms: ById<()>,
    /// When their rights last changed, in log time; 0 for never.
    pub(super) changed_ms: i64,
    /// Which of their tokens are good no longer, if any were revoked. A box, because that is rare.
    pub(super) tokens: Option<Box<Tokens>>,
    /// Which role their tokens claim, if any ever did.
    pub(super) claims: Option<Box<Claims>>,
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
    /// From where on new members may read.
    pub history: RoomHistory,
    /// The event that made it what it is; 0 if that is not known.
    pub since: Seq,
    /// Who is in it.
    pub members: ById<Membership>,
    /// Who may not be in it.
    pub bans: ById<Ban>,
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
        let mut hash = self.hash;
        // A view of an earlier version has the hash that it had then.
        if !self.keeps_no_places {
            hash.add(&Fact::new(KEEPS_PLACES));
        }
        if !self.keeps_no_erasures {
            hash.add(&Fact::new(KEEPS_ERASURES));
        }
        if !self.keeps_no_prefixes {
            hash.add(&Fact::new(KEEPS_PREFIXES));
        }
        hash
    }

    /// Applies an event; one that was passed before, or that is no policy, changes nothing. Whose rights it changed: one
    /// user's or everybody's, or, where a role was changed, those of each who holds it.
    pub fn apply(&mut self, event: &Event) -> Vec<Change> {
        if event.seq <= self.seq {
            return Vec::new();
        }
        self.seq = event.seq;
        if !event.kind.is_policy() {
            return Vec::new();
        }
        self.apply_policy(event).unwrap_or_default()
    }

    /// `None` where the body cannot be read.
    fn apply_policy(&mut self, event: &Event) -> Option<Vec<Change>> {
        let place = if self.keeps_no_places { Seq::ZERO } else { event.seq };
        let (keeps_erasures, keeps_prefixes) = (!self.keeps_no_erasures, !self.keeps_no_prefixes);
        let (tenant, mut hashed) = self.tenant(&event.tenant);
        let body = event.body.get();
        let change = match event.kind {
            Kind::Room => {
                tenant.put_room(&mut hashed, &event.room, serde_json::from_str(body).ok()?, place);
                None
            }
            Kind::Member => tenant.apply_member(&mut hashed, event, serde_json::from_str(body).ok()?),
            Kind::User => tenant.apply_user(&mut hashed, event, serde_json::from_str(body).ok()?, place),
            Kind::Token => tenant.apply_token(&mut hashed, event, &serde_json::from_str(body).ok()?),
            Kind::Key => {
                tenant.apply_key(&mut hashed, event, serde_json::from_str(body).ok()?);
                None
            }
            Kind::Ban => {
                tenant.apply_ban(&mut hashed, event, serde_json::from_str(body).ok()?);
                None
            }
            Kind::Erase if keeps_erasures => {
                tenant.apply_erase(&mut hashed, event);
                None
            }
            Kind::Hold if keeps_erasures => {
                tenant.apply_hold(&mut hashed, event);
                None
            }
            Kind::Role => {
                let body = serde_json::from_str(body).ok()?;
                return Some(tenant.apply_role(&mut hashed, event, body, keeps_prefixes));
            }
            _ => None,
        };
        Some(change.into_iter().collect())
    }

    /// Another writer has begun, whose view is of a version: that says whether it notes which events made rooms and gave
    /// tenant roles, what tokens claim, what is erased, and prefixes of roles. Nothing of that is kept from before one that does not, so that a worker
    /// which begins with that one's checkpoint knows what all others know.
    pub fn begin_term(&mut self, version: u16) {
        self.keeps_no_places = version < KEEPS_PLACES_SINCE;
        self.keeps_no_erasures = version < KEEPS_CLAIMS_AND_ERASURES_SINCE;
        self.keeps_no_prefixes = version < KEEPS_PREFIXES_SINCE;
        for (tenant, known) in &mut self.tenants {
            let mut hashed = Hashed {
                tenant,
                hash: &mut self.hash,
            };
            if self.keeps_no_places {
                known.forget_places(&mut hashed);
            }
            if self.keeps_no_erasures {
                known.forget_claims(&mut hashed);
                known.forget_erasures(&mut hashed);
            }
            if self.keeps_no_prefixes {
                known.forget_prefixes(&mut hashed);
            }
        }
    }

    /// From here on all of that is noted, whatever the writer does: for readers, whose view is compared with nobody's.
    pub fn keep_all(&mut self) {
        (self.keeps_no_places, self.keeps_no_erasures) = (false, false);
        self.keeps_no_prefixes = false;
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

    /// How many rooms a tenant has.
    #[must_use]
    pub fn rooms(&self, tenant: &Id) -> usize {
        self.tenants.get(tenant).map_or(0, |tenant| tenant.rooms.len())
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
            .flat_map(|user| user.rooms.keys());
        names.filter_map(move |name| Some((name, tenant?.rooms.get(name)?)))
    }

    /// Everybody in the tenant whom an event gave a role or a membership, in no order.
    pub fn users(&self, tenant: &Id) -> impl Iterator<Item = &Id> {
        let users = self.tenants.get(tenant).into_iter().flat_map(|tenant| &tenant.users);
        users
            .filter(|(_, known)| known.role().is_some() || !known.rooms.is_empty())
            .map(|(user, _)| user)
    }

    /// Whether any event ever was about this user.
    #[must_use]
    pub fn knows(&self, tenant: &Id, user: &Id) -> bool {
        self.tenants
            .get(tenant)
            .is_some_and(|tenant| tenant.users.contains_key(user))
    }

    /// The permissions of a role in a tenant; `None` if there is no such role.
    #[must_use]
    pub fn in_tenant(&self, tenant: &Id, role: &Id) -> Option<PermissionSet> {
        let own = self.tenants.get(tenant).and_then(|tenant| tenant.roles.get(role));
        built_in(RoleScope::Tenant, role.as_str()).or_else(|| of_scope(own, RoleScope::Tenant))
    }

    /// The permissions of a role in rooms of a kind; `None` if there is no such role.
    #[must_use]
    pub fn in_room(&self, tenant: &Id, kind: RoomKind, role: &Id) -> Option<PermissionSet> {
        match self.tenants.get(tenant) {
            Some(tenant) => tenant.in_room(kind, role),
            None => Tenant::default().in_room(kind, role),
        }
    }

    /// The user's role in the tenant: given by somebody, else claimed by tokens, else `member`.
    #[must_use]
    pub fn tenant_role(&self, tenant: &Id, user: &Id) -> &str {
        self.tenants
            .get(tenant)
            .and_then(|tenant| tenant.users.get(user)?.role())
            .map_or(DEFAULT_ROLE, Id::as_str)
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
    pub(super) fn put_room(&mut self, hashed: &mut Hashed<'_>, name: &Id, body: RoomBody, since: Seq) {
        let room = match self.rooms.entry(name.clone()) {
            Entry::Occupied(known) => {
                let room = known.into_mut();
                room_facts(hashed.tenant, name, room).for_each(|fact| hashed.hash.remove(&fact));
                room
            }
            Entry::Vacant(free) => free.insert(Room::default()),
        };
        (room.kind, room.title) = (body.kind, body.title);
        (room.history, room.since) = (body.history, since);
        room_facts(hashed.tenant, name, room).for_each(|fact| hashed.hash.add(&fact));
    }

    /// Forgets which events made rooms and gave tenant roles.
    fn forget_places(&mut self, hashed: &mut Hashed<'_>) {
        for (name, room) in &mut self.rooms {
            room_facts(hashed.tenant, name, room).for_each(|fact| hashed.hash.remove(&fact));
            room.since = Seq::ZERO;
            room_facts(hashed.tenant, name, room).for_each(|fact| hashed.hash.add(&fact));
        }
        for (name, user) in &mut self.users {
            user_facts(hashed.tenant, name, user).for_each(|fact| hashed.hash.remove(&fact));
            user.role_since = Seq::ZERO;
            user_facts(hashed.tenant, name, user).for_each(|fact| hashed.hash.add(&fact));
        }
        self.users.retain(|_, user| !user.is_nothing());
    }

    /// The permissions of a role in rooms of a kind; `None` if there is no such role.
    pub(super) fn in_room(&self, kind: RoomKind, role: &Id) -> Option<PermissionSet> {
        let built_in = built_in(RoleScope::Room, role.as_str());
        let built_in = built_in.map(|permissions| permissions.without(kind::lacking(kind, role)));
        let permissions = built_in.or_else(|| of_scope(self.roles.get(role), RoleScope::Room))?;
        Some(permissions.without(kind::forbidden(kind)))
    }

    /// Gives or (with none) takes a membership; the one before. The room must be there.
    pub(super) fn put_member(
        &mut self,
        hashed: &mut Hashed<'_>,
        (room, user): (&Id, &Id),
        member: Option<Membership>,
    ) -> Option<Membership> {
        // Names are kept once, however often they are told: a million memberships are as many names of rooms and users.
        let (room, Room { members, .. }) = self.rooms.get_key_value_mut(room)?;
        let (user, known) = match self.users.entry(user.clone()) {
            Entry::Occupied(known) => (known.key().clone(), known.into_mut()),
            Entry::Vacant(free) => (user.clone(), free.insert(User::default())),
        };
        let place = (room, &user);
        let before = if let Some(member) = member {
            hashed.hash.add(&member_fact(hashed.tenant, place, &member));
            known.rooms.insert(room.clone(), ());
            members.insert(user.clone(), member)
        } else {
            known.rooms.remove(room);
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
        user_facts(hashed.tenant, user, known).for_each(|fact| hashed.hash.remove(&fact));
        change(known);
        user_facts(hashed.tenant, user, known).for_each(|fact| hashed.hash.add(&fact));
        if known.is_nothing() {
            self.users.remove(user);
        }
    }

    fn apply_member(&mut self, hashed: &mut Hashed<'_>, event: &Event, body: MemberBody) -> Option<Change> {
        let kind = self.rooms.get(&event.room)?.kind;
        let member = body.role.clone().map(|role| Membership {
            role,
            visible_from: body.visible_from.unwrap_or_default(),
            since: event.seq,
        });
        if member.is_some() {
            // Who may add somebody who was banned lifts the ban by that.
            self.put_ban(hashed, (&event.room, &body.user), None);
        }
        let before = self.put_member(hashed, (&event.room, &body.user), member);
        let permissions = |role: Option<&Id>| role.and_then(|role| self.in_room(kind, role)).unwrap_or_default();
        let effect = Effect::of(
            permissions(before.map(|before| before.role).as_ref()),
            permissions(body.role.as_ref()),
        )?;
        Some(self.changed(hashed, event, body.user, effect))
    }

    fn apply_user(&mut self, hashed: &mut Hashed<'_>, event: &Event, body: UserBody, place: Seq) -> Option<Change> {
        if let Some(by) = body.claimed {
            return self.apply_claim(hashed, event, (body.user, body.role, by));
        }
        let (mut before, mut after) = (None, None);
        self.change_user(hashed, &body.user, |user| {
            before = user.role().cloned();
            user.role.clone_from(&body.role);
            user.role_since = place;
            after = user.role().cloned();
        });
        let is_blocked = |role: Option<&Id>| role.is_some_and(|role| role.as_str() == BLOCKED);
        let permissions = |role: Option<&Id>| self.permissions(role);
        // Who is blocked has nothing of what rooms give, either.
        let effect = match (is_blocked(before.as_ref()), is_blocked(after.as_ref())) {
            (false, true) => Effect::Restriction,
            (true, false) => Effect::Grant,
            _ => Effect::of(permissions(before.as_ref()), permissions(after.as_ref()))?,
        };
        Some(self.changed(hashed, event, body.user, effect))
    }

    /// The permissions of a user's role in the tenant.
    pub(super) fn permissions(&self, role: Option<&Id>) -> PermissionSet {
        let name = role.map_or(DEFAULT_ROLE, Id::as_str);
        let own = || of_scope(self.roles.get(name), RoleScope::Tenant);
        built_in(RoleScope::Tenant, name).or_else(own).unwrap_or_default()
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

    /// The same for everybody in the tenant.
    pub(super) fn changed_for_all(&mut self, hashed: &mut Hashed<'_>, event: &Event, effect: Effect) -> Change {
        let at_ms = clock::parse_ms(&event.at).unwrap_or(i64::MAX);
        self.change_tokens(hashed, None, |tokens| tokens.changed_ms = at_ms);
        Change {
            tenant: event.tenant.clone(),
            user: None,
            effect,
            seq: event.seq,
        }
    }
}

impl Effect {
    /// What becomes of rights: a restriction if any is lost; `None` if they stay the same.
    pub(super) fn of(before: PermissionSet, after: PermissionSet) -> Option<Self> {
        if !before.without(after).is_empty() {
            Some(Self::Restriction)
        } else if before == after {
            None
        } else {
            Some(Self::Grant)
        }
    }
}

impl User {
    /// Whether there is something to keep of this user besides memberships.
    pub(super) fn is_worth_telling(&self) -> bool {
        self.role.is_some() || self.changed_ms != 0 || self.role_since != Seq::ZERO
    }

    /// Whether there is nothing to keep at all.
    pub(super) fn is_nothing(&self) -> bool {
        !self.is_worth_telling() && self.rooms.is_empty() && self.tokens.is_none() && self.claims.is_none()
    }
}

/// The role in a tenant of those to whom no event gave one.
pub(crate) const DEFAULT_ROLE: &str = "member";

fn of_scope(role: Option<&Role>, scope: RoleScope) -> Option<PermissionSet> {
    role.filter(|role| role.scope == scope).map(|role| role.permissions)
}

// The kinds of facts in the hash. A number is never used for anything else: see `SNAPSHOT_VERSION`.
const TENANT: u8 = 1;
const ROOM: u8 = 2;
const MEMBER: u8 = 3;
const USER: u8 = 4;
// 12 is a role's, 13 a ban's, 17 a claim's.
const ROOM_SETTINGS: u8 = 14;
const USER_SINCE: u8 = 15;
const KEEPS_PLACES: u8 = 16;

fn room_facts(tenant: &Id, name: &Id, room: &Room) -> impl Iterator<Item = Fact> {
    let kind = match room.kind {
        RoomKind::Group => 0,
        RoomKind::Direct => 1,
        RoomKind::Announcement => 2,
        RoomKind::Device => 3,
        // Kinds that are unknown here are refused when the event is read.
        _ => u64::MAX,
    };
    let about = |kind| Fact::new(kind).text(tenant.as_str()).text(name.as_str());
    let mut fact = about(ROOM).number(kind);
    if let Some(title) = &room.title {
        fact = fact.text(title);
    }
    let settings = (room.history, room.since);
    let settings = (settings != (RoomHistory::All, Seq::ZERO)).then(|| {
        about(ROOM_SETTINGS)
            .number(u64::from(room.history != RoomHistory::All))
            .number(room.since.0)
    });
    std::iter::once(fact).chain(settings)
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

/// None of a user of whom nothing is kept but memberships and tokens.
fn user_facts(tenant: &Id, user: &Id, known: &User) -> impl Iterator<Item = Fact> {
    let about = |kind| Fact::new(kind).text(tenant.as_str()).text(user.as_str());
    let fact = known.is_worth_telling().then(|| {
        about(USER)
            .text(known.role.as_ref().map_or("", Id::as_str))
            .number(known.changed_ms.cast_unsigned())
    });
    let since = (known.role_since != Seq::ZERO).then(|| about(USER_SINCE).number(known.role_since.0));
    fact.into_iter().chain(since)
}
