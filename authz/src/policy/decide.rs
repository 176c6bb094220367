use natterjack_nats_config::contract::{EventHead, Id, Principal, Problem, ProblemCode, Seq};

use super::{Permission, View, room_role, tenant_role};

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// What was missing.
    pub permission: Permission,
    /// Whether the caller may know that the room exists.
    pub room_is_visible: bool,
}

/// Whether a principal may do something in a room.
pub fn may(view: &View, who: &Principal, room: &Id, permission: Permission) -> Result<(), Denied> {
    let membership = view.membership(&who.tenant, room, &who.user);
    let in_room = membership
        .and_then(|member| room_role(member.role.as_str()))
        .unwrap_or_default();
    let in_tenant = tenant_role(view.tenant_role(&who.tenant, &who.user)).unwrap_or_default();
    let manages_all = in_tenant.contains(&Permission::TenantAdmin);
    let exists = view.room(&who.tenant, room).is_some();
    if exists && (in_room.contains(&permission) || (manages_all && in_tenant.contains(&permission))) {
        return Ok(());
    }
    Err(Denied {
        permission,
        room_is_visible: exists && (membership.is_some() || manages_all),
    })
}

/// Whether a principal may do something in its tenant.
pub fn may_in_tenant(view: &View, who: &Principal, permission: Permission) -> Result<(), Denied> {
    let role = tenant_role(view.tenant_role(&who.tenant, &who.user)).unwrap_or_default();
    if view.has_tenant(&who.tenant) && role.contains(&permission) {
        return Ok(());
    }
    Err(Denied {
        permission,
        room_is_visible: true,
    })
}

/// From which sequence on a principal may read a room; `None` if it may not.
#[must_use]
pub fn readable(view: &View, who: &Principal, room: &Id) -> Option<Seq> {
    may(view, who, room, Permission::RoomRead).ok()?;
    view.membership(&who.tenant, room, &who.user)
        .map(|member| member.visible_from)
}

/// Whether a principal may see an event, with the rights of now: the room is readable and the event is not
/// from before the membership's `visible_from`. One's own member and user events are always visible.
#[must_use]
pub fn visible(view: &View, who: &Principal, event: &EventHead) -> bool {
    if event.tenant != who.tenant {
        return false;
    }
    if readable(view, who, &event.room).is_some_and(|from| event.seq >= from) {
        return true;
    }
    event.concerns.as_ref() == Some(&who.user)
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
            self.view.apply(&event)
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
            kind,
            at: String::new(),
            key: None,
            reply_to: None,
            target: None,
            body: to_raw_value(body).unwrap(),
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
