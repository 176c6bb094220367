use std::collections::{BTreeMap, BTreeSet, HashMap};

use natterjack_nats_config::contract::{Event, Id, Kind, MemberBody, RoomBody, RoomKind, Seq, UserBody};

use super::{Permission, room_role, tenant_role};

/// What the log says about who may do what, up to a sequence. The same events give the same view everywhere.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct View {
    tenants: HashMap<Id, Tenant>,
    seq: Seq,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Tenant {
    rooms: HashMap<Id, Room>,
    roles: HashMap<Id, Id>,
    rooms_of: HashMap<Id, BTreeSet<Id>>,
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
    /// Whose rights.
    pub user: Id,
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

    /// Applies an event; one that was passed before, or that is no policy, changes nothing.
    pub fn apply(&mut self, event: &Event) -> Option<Change> {
        if event.seq <= self.seq {
            return None;
        }
        self.seq = event.seq;
        if !event.kind.is_policy() {
            return None;
        }
        let tenant = self.tenants.entry(event.tenant.clone()).or_default();
        let body = event.body.get();
        match event.kind {
            Kind::Room => {
                let body: RoomBody = serde_json::from_str(body).ok()?;
                let room = tenant.rooms.entry(event.room.clone()).or_default();
                (room.kind, room.title) = (body.kind, body.title);
                None
            }
            Kind::Member => tenant.apply_member(event, serde_json::from_str(body).ok()?),
            Kind::User => tenant.apply_user(event, serde_json::from_str(body).ok()?),
            _ => None,
        }
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

    /// A user's place in a room.
    #[must_use]
    pub fn membership(&self, tenant: &Id, room: &Id, user: &Id) -> Option<&Membership> {
        self.room(tenant, room)?.members.get(user)
    }

    /// The rooms that a user is a member of, in the order of their names.
    pub fn rooms_of<'a>(&'a self, tenant: &Id, user: &'a Id) -> impl Iterator<Item = (&'a Id, &'a Room)> {
        let tenant = self.tenants.get(tenant);
        let names = tenant
            .and_then(|tenant| tenant.rooms_of.get(user))
            .into_iter()
            .flatten();
        names.filter_map(move |name| Some((name, tenant?.rooms.get(name)?)))
    }

    /// The user's role in the tenant, `member` if no event says otherwise.
    #[must_use]
    pub fn tenant_role(&self, tenant: &Id, user: &Id) -> &str {
        self.tenants
            .get(tenant)
            .and_then(|tenant| tenant.roles.get(user))
            .map_or("member", Id::as_str)
    }
}

impl Tenant {
    fn apply_member(&mut self, event: &Event, body: MemberBody) -> Option<Change> {
        let room = self.rooms.get_mut(&event.room)?;
        let before = room.members.get(&body.user).map(|member| member.role.clone());
        let rooms_of = self.rooms_of.entry(body.user.clone()).or_default();
        if let Some(role) = &body.role {
            let visible_from = body.visible_from.unwrap_or_default();
            let member = Membership {
                role: role.clone(),
                visible_from,
                since: event.seq,
            };
            room.members.insert(body.user.clone(), member);
            rooms_of.insert(event.room.clone());
        } else {
            room.members.remove(&body.user);
            rooms_of.remove(&event.room);
        }
        let effect = effect(
            permissions(room_role, before.as_ref()),
            permissions(room_role, body.role.as_ref()),
        )?;
        Some(Change {
            tenant: event.tenant.clone(),
            user: body.user,
            effect,
            seq: event.seq,
        })
    }

    fn apply_user(&mut self, event: &Event, body: UserBody) -> Option<Change> {
        let before = match &body.role {
            Some(role) => self.roles.insert(body.user.clone(), role.clone()),
            None => self.roles.remove(&body.user),
        };
        let permissions = |role: Option<&Id>| tenant_role(role.map_or("member", Id::as_str)).unwrap_or_default();
        let effect = effect(permissions(before.as_ref()), permissions(body.role.as_ref()))?;
        Some(Change {
            tenant: event.tenant.clone(),
            user: body.user,
            effect,
            seq: event.seq,
        })
    }
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
