//! Why a decision came out as it did.

use natterjack_nats_config::contract::{Id, Principal, RoleScope, RoomKind, Seq};
use serde::Serialize;

use super::decide::{Judgement, judge};
use super::send_as::judge_sending_as;
use super::view::{DEFAULT_ROLE, User};
use super::{Permission, Rule, View};

/// A decision, its rule and the events that it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether it is allowed.
    pub allowed: bool,
    /// By which rule.
    pub rule: Rule,
    /// What the log says that the rule looked at.
    pub facts: Vec<PolicyFact>,
    /// Whether the user may know that the room exists.
    #[serde(skip)]
    pub room_is_visible: bool,
}

/// Something that the log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyFact {
    /// What it says.
    #[serde(flatten)]
    pub says: Says,
    /// The event that says so. None where none does (a default), or where a checkpoint of an earlier version did not tell.
    pub seq: Option<Seq>,
}

/// What a fact of the policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Says {
    /// The user's role in the tenant.
    TenantRole {
        /// Its name.
        role: Id,
        /// The issuer whose tokens claim it, where nobody gave it.
        #[serde(skip_serializing_if = "Option::is_none")]
        issuer: Option<String>,
    },
    /// There is this room.
    Room {
        /// What it is for.
        kind: RoomKind,
    },
    /// The user is in the room.
    Member {
        /// The role in the room.
        role: Id,
        /// The first sequence that may be seen.
        visible_from: Seq,
    },
    /// The user may not be in the room.
    Ban,
    /// What a role of the tenant's own gives.
    Role {
        /// Its name.
        role: Id,
        /// Where it is given.
        scope: RoleScope,
        /// The verbs.
        permissions: Vec<String>,
    },
}

/// Explains a decision. It is the one that [`may`](super::may) and [`may_in_tenant`](super::may_in_tenant) come to: one
/// function decides.
#[must_use]
pub fn explain(view: &View, who: &Principal, permission: Permission, room: Option<&Id>) -> Explanation {
    let judged = judge(view, who, room, permission);
    explained(view, who, room, &judged)
}

/// Explains whether somebody may send in another's name, which is the tenant's to say: see [`may_send_as`](super::may_send_as).
#[must_use]
pub fn explain_send_as(view: &View, who: &Principal, named: &Id) -> Explanation {
    explained(view, who, None, &judge_sending_as(view, who, named))
}

fn explained(view: &View, who: &Principal, room: Option<&Id>, judged: &Judgement<'_>) -> Explanation {
    Explanation {
        allowed: judged.rule.allows(),
        rule: judged.rule,
        facts: facts(view, who, room, judged),
        room_is_visible: judged.room_is_visible,
    }
}

impl Explanation {
    /// As it is told to the user whom it is about: a room that they may not know of is to them as if it were not there.
    #[must_use]
    pub fn as_told_to_oneself(mut self) -> Self {
        if !self.room_is_visible && !matches!(self.rule, Rule::Blocked | Rule::NoSuchTenant) {
            self.rule = Rule::NoSuchRoom;
            self.facts.retain(|fact| matches!(fact.says, Says::TenantRole { .. }));
        }
        self
    }
}

fn facts(view: &View, who: &Principal, room: Option<&Id>, judged: &Judgement<'_>) -> Vec<PolicyFact> {
    let mut facts = Vec::new();
    let mut add = |says, seq: Seq| {
        let seq = (seq != Seq::ZERO).then_some(seq);
        facts.push(PolicyFact { says, seq });
    };
    if judged.rule == Rule::NoSuchTenant {
        return facts;
    }
    let role = judged.user.and_then(User::role).cloned();
    if let Some(role) = role.clone().or_else(|| DEFAULT_ROLE.parse().ok()) {
        let given = judged.user.filter(|user| user.role.is_some());
        let claimed = judged.user.filter(|_| given.is_none()).and_then(User::claimed);
        let since = judged.user.map_or(Seq::ZERO, |user| user.role_since);
        let since = claimed.map_or(since, |(_, _, since)| since);
        let issuer = claimed.map(|(issuer, _, _)| issuer.to_owned());
        add(Says::TenantRole { role, issuer }, since);
    }
    if let Some(room) = judged.room {
        add(Says::Room { kind: room.kind }, room.since);
    }
    if let Some(member) = judged.member {
        let (role, visible_from) = (member.role.clone(), member.visible_from);
        add(Says::Member { role, visible_from }, member.since);
    }
    if let Some(ban) = room.and_then(|room| view.ban(&who.tenant, room, &who.user)) {
        add(Says::Ban, ban.since);
    }
    for name in role.iter().chain(judged.member.map(|member| &member.role)) {
        if let Some(role) = view.role(&who.tenant, name) {
            let says = Says::Role {
                role: name.clone(),
                scope: role.scope,
                permissions: role.rights().verbs(),
            };
            add(says, role.since);
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{ROOMS, TENANTS, USERS, events, id, view_of};
    use crate::policy::{may, may_in_tenant};

    fn who(tenant: &str, user: &str) -> Principal {
        Principal {
            tenant: id(tenant),
            user: id(user),
        }
    }

    proptest! {
        #[test]
        fn what_is_explained_is_what_is_decided(events in events()) {
            let view = view_of(&events);
            let seqs = 1..=events.len() as u64;
            for (tenant, user) in TENANTS.iter().flat_map(|tenant| USERS.map(|user| (tenant, user))) {
                let who = who(tenant, user);
                for permission in Permission::ALL {
                    let explained = explain(&view, &who, permission, None);
                    prop_assert_eq!(explained.allowed, may_in_tenant(&view, &who, permission).is_ok());
                    for room in ROOMS {
                        let explained = explain(&view, &who, permission, Some(&id(room)));
                        prop_assert_eq!(explained.allowed, may(&view, &who, &id(room), permission).is_ok());
                        let facts = explained.facts.iter().filter_map(|fact| fact.seq);
                        for seq in facts {
                            prop_assert!(seqs.contains(&seq.0), "{} is no event of this log", seq);
                            prop_assert_eq!(&events[usize::try_from(seq.0).unwrap() - 1]["tenant"], *tenant);
                        }
                    }
                }
            }
        }
    }

    fn known() -> View {
        view_of(&[
            json!({"tenant": "t", "room": "_", "kind": "role", "body": {"role": "watch", "scope": "room", "permissions": ["room.read"]}}),
            json!({"tenant": "t", "room": "r", "kind": "room", "body": {"kind": "announcement"}}),
            json!({"tenant": "t", "room": "r", "kind": "member", "body": {"user": "u", "role": "member"}}),
            json!({"tenant": "t", "room": "r", "kind": "member", "body": {"user": "u1", "role": "watch"}}),
            json!({"tenant": "t", "room": "_", "kind": "user", "body": {"user": "in", "role": "blocked"}}),
            json!({"tenant": "t", "room": "r", "kind": "ban", "body": {"user": "U", "banned": true}}),
            json!({"tenant": "t", "room": "_", "kind": "user", "body": {"user": "U", "role": "admin"}}),
        ])
    }

    #[test]
    fn the_rule_and_the_events_are_told() {
        let view = known();
        // 0 for a default, which no event gave.
        let table: &[(&str, Permission, &str, Rule, &[u64])] = &[
            ("u", Permission::RoomRead, "r", Rule::RoomRole, &[0, 2, 3]),
            ("u", Permission::RoomSend, "r", Rule::RoomKind, &[0, 2, 3]),
            ("u", Permission::RoomManage, "r", Rule::RoleLacks, &[0, 2, 3]),
            ("u1", Permission::RoomRead, "r", Rule::RoomRole, &[0, 2, 4, 1]),
            ("in", Permission::RoomRead, "r", Rule::Blocked, &[5]),
            ("U", Permission::RoomManage, "r", Rule::TenantRole, &[7, 2, 6]),
            ("U", Permission::RoomRead, "r", Rule::NoMember, &[7, 2, 6]),
            ("u", Permission::RoomRead, "r1", Rule::NoSuchRoom, &[0]),
        ];
        for (user, permission, room, rule, facts) in table {
            let explained = explain(&view, &who("t", user), *permission, Some(&id(room)));
            let seqs = explained.facts.iter().map(|fact| fact.seq.map_or(0, |seq| seq.0));
            let seqs: Vec<_> = seqs.collect();
            assert_eq!(
                (explained.rule, &seqs[..]),
                (*rule, *facts),
                "{user} {permission} {room}"
            );
        }
        let nobody = explain(&view, &who("T", "u"), Permission::RoomCreate, None);
        assert_eq!((nobody.rule, nobody.facts), (Rule::NoSuchTenant, Vec::new()));
    }

    #[test]
    fn whether_a_room_exists_is_not_told_to_strangers() {
        let view = known();
        let banned = explain(&view, &who("t", "U"), Permission::RoomRead, Some(&id("r")));
        assert_eq!(banned.clone().as_told_to_oneself(), banned, "he may know of it");
        let hidden = explain(&view, &who("t", "log"), Permission::RoomRead, Some(&id("r"))).as_told_to_oneself();
        let nowhere = explain(&view, &who("t", "log"), Permission::RoomRead, Some(&id("r1"))).as_told_to_oneself();
        assert_eq!(hidden, nowhere, "whether a room exists is not told");
    }
}
