use natterjack_nats_config::contract::{EventHead, Id, Principal, Problem, ProblemCode, Seq};
use serde::Serialize;

use super::view::{Membership, Room, User};
use super::{BLOCKED, Permission, PermissionSet, View, kind};

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// What was missing.
    pub permission: Permission,
    /// Whether the caller may know that the room exists.
    pub room_is_visible: bool,
}

/// The rule by which something was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Yes: the role in the room has the permission.
    RoomRole,
    /// Yes: the role in the tenant has it, for every room or for the tenant.
    TenantRole,
    /// No: the user is blocked in the tenant.
    Blocked,
    /// No: nothing is known of the tenant.
    NoSuchTenant,
    /// No: there is no such room.
    NoSuchRoom,
    /// No: rooms of this kind let nobody do that, or not by this built-in role.
    RoomKind,
    /// No: the user is no member, and the role in the tenant does not have it.
    NoMember,
    /// No: neither the role in the room nor that in the tenant has it.
    RoleLacks,
}

/// A decision, and what it rests on. [`may`], [`may_in_tenant`] and [`explain`](super::explain) are made of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judgement<'a> {
    pub(super) rule: Rule,
    pub(super) room: Option<&'a Room>,
    pub(super) member: Option<&'a Membership>,
    pub(super) user: Option<&'a User>,
    /// Whether who asks may know that the room exists.
    pub(super) room_is_visible: bool,
}

impl Rule {
    /// Whether it allows.
    #[must_use]
    pub fn allows(self) -> bool {
        matches!(self, Self::RoomRole | Self::TenantRole)
    }
}

/// Decides: the one place where it is.
pub(super) fn judge<'a>(view: &'a View, who: &Principal, room: Option<&Id>, permission: Permission) -> Judgement<'a> {
    let mut judged = Judgement {
        rule: Rule::NoSuchTenant,
        room: None,
        member: None,
        user: None,
        room_is_visible: room.is_none(),
    };
    let Some(tenant) = view.tenants.get(&who.tenant) else {
        return judged;
    };
    judged.user = tenant.users.get(&who.user);
    let role = judged.user.and_then(User::role);
    if role.is_some_and(|role| role.as_str() == BLOCKED) {
        judged.rule = Rule::Blocked;
        return judged;
    }
    let in_tenant = tenant.permissions(role);
    let Some(name) = room else {
        let has = in_tenant.contains(permission);
        judged.rule = if has { Rule::TenantRole } else { Rule::RoleLacks };
        return judged;
    };
    judged.room = tenant.rooms.get(name);
    let Some(room) = judged.room else {
        judged.rule = Rule::NoSuchRoom;
        return judged;
    };
    judged.member = room.members.get(&who.user);
    // A role in the tenant that is for rooms is for all of them.
    let by_tenant = in_tenant.and(MANAGING);
    judged.room_is_visible = judged.member.is_some() || !by_tenant.is_empty();
    let in_room = judged.member.and_then(|member| tenant.in_room(room.kind, &member.role));
    judged.rule = if in_room.is_some_and(|in_room| in_room.contains(permission)) {
        Rule::RoomRole
    } else if by_tenant.without(kind::forbidden(room.kind)).contains(permission) {
        Rule::TenantRole
    } else if is_by_kind(room, judged.member, permission) {
        Rule::RoomKind
    } else if judged.member.is_some() {
        Rule::RoleLacks
    } else {
        Rule::NoMember
    };
    judged
}

/// What a role in the tenant may give for all its rooms: whatever a room is managed by, and nothing of what is said in it.
const MANAGING: PermissionSet = PermissionSet::of(&[
    Permission::RoomManage,
    Permission::MemberInvite,
    Permission::MemberRemove,
    Permission::MessageDeleteAny,
]);

fn is_by_kind(room: &Room, member: Option<&Membership>, permission: Permission) -> bool {
    let lacking = member.is_some_and(|member| kind::lacking(room.kind, &member.role).contains(permission));
    lacking || kind::forbidden(room.kind).contains(permission)
}

/// Whether a principal may do something in a room.
pub fn may(view: &View, who: &Principal, room: &Id, permission: Permission) -> Result<(), Denied> {
    let judged = judge(view, who, Some(room), permission);
    if judged.rule.allows() {
        return Ok(());
    }
    Err(Denied {
        permission,
        room_is_visible: judged.room_is_visible,
    })
}

/// Whether a principal may do something in its tenant.
pub fn may_in_tenant(view: &View, who: &Principal, permission: Permission) -> Result<(), Denied> {
    if judge(view, who, None, permission).rule.allows() {
        return Ok(());
    }
    Err(Denied {
        permission,
        room_is_visible: true,
    })
}

/// Whether a user may do nothing in the tenant, whatever else is given to them.
#[must_use]
pub fn is_blocked(view: &View, who: &Principal) -> bool {
    view.tenant_role(&who.tenant, &who.user) == BLOCKED
}

/// Everything that a principal may do in a room.
#[must_use]
pub fn all_in_room(view: &View, who: &Principal, room: &Id) -> PermissionSet {
    let all = Permission::ALL.into_iter();
    all.filter(|permission| judge(view, who, Some(room), *permission).rule.allows())
        .collect()
}

/// Everything that a principal may do in its tenant.
#[must_use]
pub fn all_in_tenant(view: &View, who: &Principal) -> PermissionSet {
    let all = Permission::ALL.into_iter();
    all.filter(|permission| judge(view, who, None, *permission).rule.allows())
        .collect()
}

/// From which sequence on a principal may read a room; `None` if it may not.
#[must_use]
pub fn readable(view: &View, who: &Principal, room: &Id) -> Option<Seq> {
    may(view, who, room, Permission::RoomRead).ok()?;
    view.membership(&who.tenant, room, &who.user)
        .map(|member| member.visible_from)
}

/// Whether a principal may see an event, with the rights of now: the room is readable and the event is not
/// from before the membership's `visible_from`. One's own member and user events, and what is for all, are always visible.
#[must_use]
pub fn visible(view: &View, who: &Principal, event: &EventHead) -> bool {
    if event.tenant != who.tenant {
        return false;
    }
    if readable(view, who, &event.room).is_some_and(|from| event.seq >= from) {
        return true;
    }
    (event.for_all || event.concerns.as_ref() == Some(&who.user)) && !is_blocked(view, who)
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        if !denied.room_is_visible {
            return Self::no_such_room();
        }
        Self::new(
            ProblemCode::Forbidden,
            format!("this needs the permission {}", denied.permission),
        )
    }
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{Event, Kind};
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::policy::{Change, Effect};

    struct Log {
        view: View,
        seq: u64,
    }

    impl Log {
        fn new() -> Self {
            let mut log = Self {
                view: View::default(),
                seq: 0,
            };
            log.event("_", Kind::User, &json!({"user": "root", "role": "admin"}));
            log.event("lobby", Kind::Room, &json!({"kind": "group"}));
            log.member("alice", Some("owner"));
            log
        }

        fn event(&mut self, room: &str, kind: Kind, body: &serde_json::Value) -> Option<Change> {
            self.seq += 1;
            let event = event(self.seq, room, kind, body);
            self.view.apply(&event).pop()
        }

        fn member(&mut self, user: &str, role: Option<&str>) -> Option<Change> {
            self.event("lobby", Kind::Member, &json!({"user": user, "role": role}))
        }

        fn may(&self, user: &str, permission: Permission) -> Result<(), Denied> {
            may(&self.view, &who(user), &"lobby".parse().unwrap(), permission)
        }
    }

    fn who(user: &str) -> Principal {
        Principal {
            tenant: "main".parse().unwrap(),
            user: user.parse().unwrap(),
        }
    }

    fn event(seq: u64, room: &str, kind: Kind, body: &serde_json::Value) -> Event {
        Event {
            v: 1,
            seq: Seq(seq),
            n: seq,
            prev: Seq(0),
            id: String::new(),
            tenant: "main".parse().unwrap(),
            room: room.parse().unwrap(),
            from: "root".parse().unwrap(),
            via: None,
            kind,
            at: String::new(),
            key: None,
            reply_to: None,
            target: None,
            body: to_raw_value(body).unwrap(),
            erased: None,
        }
    }

    #[test]
    fn roles_give_what_they_say_and_nothing_more() {
        let mut log = Log::new();
        log.member("mod", Some("moderator"));
        log.member("mem", Some("member"));
        log.member("red", Some("reader"));
        let table = [
            ("alice", Permission::RoomManage, true),
            ("mod", Permission::RoomManage, false),
            ("mod", Permission::MemberInvite, true),
            ("mem", Permission::RoomSend, true),
            ("mod", Permission::MessageDeleteAny, true),
            ("mod", Permission::MessagePin, true),
            ("mem", Permission::MessagePin, false),
            ("mem", Permission::RoomReact, true),
            ("red", Permission::RoomReact, false),
            ("mem", Permission::MessageEditOwn, true),
            ("mem", Permission::MessageDeleteOwn, true),
            ("mem", Permission::MessageDeleteAny, false),
            ("red", Permission::MessageEditOwn, false),
            ("root", Permission::MessageDeleteAny, true),
            ("root", Permission::MessageEditOwn, false),
            ("mem", Permission::MemberInvite, false),
            ("red", Permission::RoomRead, true),
            ("red", Permission::RoomSend, false),
            ("erin", Permission::RoomRead, false),
            ("root", Permission::RoomManage, true),
            ("root", Permission::RoomRead, false),
        ];
        for (user, permission, expected) in table {
            assert_eq!(log.may(user, permission).is_ok(), expected, "{user} {permission}");
        }
        assert!(!log.may("erin", Permission::RoomRead).unwrap_err().room_is_visible);
        assert!(log.may("red", Permission::RoomSend).unwrap_err().room_is_visible);
    }

    #[test]
    fn who_may_not_see_a_room_hears_that_there_is_none() {
        let mut log = Log::new();
        log.member("red", Some("reader"));
        let code = |user| Problem::from(log.may(user, Permission::RoomSend).unwrap_err()).code;
        assert_eq!(
            (code("red"), code("erin")),
            (ProblemCode::Forbidden, ProblemCode::NotFound)
        );
    }

    #[test]
    fn a_role_in_one_tenant_means_nothing_in_another() {
        let log = Log::new();
        let stranger = Principal {
            tenant: "other".parse().unwrap(),
            user: "alice".parse().unwrap(),
        };
        assert!(may(&log.view, &stranger, &"lobby".parse().unwrap(), Permission::RoomRead).is_err());
        assert!(may_in_tenant(&log.view, &stranger, Permission::RoomCreate).is_err());
    }

    #[test]
    fn changes_say_whether_connections_must_end() {
        let mut log = Log::new();
        assert_eq!(log.member("bob", Some("member")).unwrap().effect, Effect::Grant);
        assert_eq!(log.member("bob", Some("member")), None);
        assert_eq!(log.member("bob", Some("reader")).unwrap().effect, Effect::Restriction);
        assert_eq!(log.member("bob", None).unwrap().effect, Effect::Restriction);
        assert_eq!(log.member("bob", None), None);
    }

    #[test]
    fn an_event_is_visible_by_the_rights_of_now_and_ones_own_membership_always() {
        let mut log = Log::new();
        let message = event(2, "lobby", Kind::Msg, &json!({"text": "x"}));
        log.member("bob", Some("member"));
        assert!(visible(&log.view, &who("bob"), &message.head()));
        log.event(
            "lobby",
            Kind::Member,
            &json!({"user": "carol", "role": "member", "visible_from": 3}),
        );
        assert!(!visible(&log.view, &who("carol"), &message.head()));
        log.member("bob", None);
        assert!(!visible(&log.view, &who("bob"), &message.head()));
        let removal = event(9, "lobby", Kind::Member, &json!({"user": "bob", "role": null}));
        assert!(visible(&log.view, &who("bob"), &removal.head()));
        assert!(!visible(&log.view, &who("erin"), &removal.head()));
        assert!(
            log.view
                .rooms_of(&"main".parse().unwrap(), &"bob".parse().unwrap())
                .next()
                .is_none()
        );
    }

    #[test]
    fn an_event_that_was_passed_changes_nothing() {
        let mut log = Log::new();
        log.view.pass(Seq(100));
        assert_eq!(log.member("bob", Some("member")), None);
        assert!(log.may("bob", Permission::RoomRead).is_err());
    }
}
