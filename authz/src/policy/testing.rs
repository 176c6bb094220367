//! Random logs for the tests of what is decided by a view.

use natterjack_nats_config::contract::{Event, Id, Principal, RoomKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Permission, ROOM_ROLES, TENANT_ROLES, View};

/// Few names, so that they meet often, and some that are the beginning of others.
pub(super) const TENANTS: [&str; 3] = ["t", "t1", "T"];
pub(super) const ROOMS: [&str; 4] = ["r", "r1", "_", "log"];
pub(super) const USERS: [&str; 4] = ["u", "u1", "U", "in"];
/// A tenant's own roles: what a scope allows and what it does not, because a view holds whatever the log says.
const OWN_ROLES: [&str; 3] = ["watch", "help", "all"];

pub(super) fn id(name: &str) -> Id {
    name.parse().unwrap()
}

/// Somebody in the tenant `t`.
pub(super) fn who(user: &str) -> Principal {
    Principal {
        tenant: id("t"),
        user: id(user),
    }
}

/// An event in the tenant `t`.
pub(super) fn of(kind: &str, room: &str, body: Value) -> Value {
    let mut event = json!({"tenant": "t", "room": room, "kind": kind});
    event["body"] = body;
    event
}

/// A role of the tenant's own.
pub(super) fn own_role(name: &str, scope: &str, verbs: Value) -> Value {
    let mut body = json!({"role": name, "scope": scope});
    body["permissions"] = verbs;
    of("role", "_", body)
}

/// A role in the tenant for somebody.
pub(super) fn give(user: &str, role: Option<&str>) -> Value {
    of("user", "_", json!({"user": user, "role": role}))
}

fn name(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(names)
}

/// A role of these, one of the tenant's own, or none.
fn role(roles: &'static [(&'static str, &'static [Permission])]) -> impl Strategy<Value = Option<&'static str>> {
    let built_in = prop::sample::select(roles).prop_map(|(name, _)| name);
    prop::option::of(prop_oneof![3 => built_in, 2 => name(&OWN_ROLES)])
}

/// Policy events of rooms of all kinds, roles of tenants' own, members, bans and roles in tenants, blocked users too.
pub(super) fn events() -> impl Strategy<Value = Vec<Value>> {
    let permissions = prop::sample::subsequence(Permission::ALL.to_vec(), 0..=Permission::ALL.len());
    let what = prop_oneof![
        3 => prop::sample::select(&RoomKind::ALL[..]).prop_map(|kind| ("room", json!({"kind": kind}))),
        2 => (name(&USERS), role(TENANT_ROLES)).prop_map(|(user, role)| ("user", json!({"user": user, "role": role}))),
        6 => (name(&USERS), role(ROOM_ROLES)).prop_map(|(user, role)| ("member", json!({"user": user, "role": role}))),
        1 => (name(&USERS), any::<bool>()).prop_map(|(user, banned)| ("ban", json!({"user": user, "banned": banned}))),
        3 => (name(&OWN_ROLES), any::<bool>(), prop::option::weighted(0.9, permissions)).prop_map(|(role, tenant, given)| {
            let scope = if tenant { "tenant" } else { "room" };
            let verbs = given.map(|given| given.iter().map(|one| one.as_str()).collect::<Vec<_>>());
            ("role", json!({"role": role, "scope": scope, "permissions": verbs}))
        }),
    ];
    let event = (name(&TENANTS), name(&ROOMS), what).prop_map(|(tenant, room, (kind, body))| {
        let room = if matches!(kind, "user" | "role") { "_" } else { room };
        json!({"tenant": tenant, "room": room, "kind": kind, "body": body})
    });
    prop::collection::vec(event, 0..60)
}

pub(super) fn view_of(events: &[Value]) -> View {
    let mut view = View::default();
    for (seq, event) in (1..).zip(events) {
        view.apply(&whole(event, seq, "2026-11-23T06:00:00.000Z"));
    }
    view
}

/// The event with all that every event has.
pub(super) fn whole(event: &Value, seq: u64, at: &str) -> Event {
    let mut event = event.clone();
    let rest = json!({"v": 1, "seq": seq, "n": 1, "prev": 0, "id": "x", "from": "root", "at": at});
    event.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    serde_json::from_str(&event.to_string()).unwrap()
}
