use natterjack_nats_config::contract::{Id, Principal, Subjects};

use super::{View, readable};

/// The most rooms that are written into a connection's permissions: 1,000 cost 2.3 MB of server memory each.
/// A principal with more reads the rest through `events.get` or HTTP.
pub const MAX_LISTED_ROOMS: usize = 200;

/// What a connection may publish and hear. Allow-lists only: whatever is not listed is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPermissions {
    /// Subjects to publish to.
    pub publish: Vec<String>,
    /// Subjects to subscribe to.
    pub subscribe: Vec<String>,
    /// Readable rooms beyond [`MAX_LISTED_ROOMS`].
    pub rooms_left_out: usize,
}

/// Compiles a principal's rights into subject permissions.
#[must_use]
pub fn subject_permissions(view: &View, subjects: &Subjects, who: &Principal) -> SubjectPermissions {
    let (tenant, user) = (&who.tenant, &who.user);
    let rooms: Vec<&Id> = view
        .rooms_of(tenant, user)
        .map(|(room, _)| room)
        .filter(|room| readable(view, who, room).is_some())
        .collect();
    let mut subscribe = vec![Subjects::user_inbox_all(tenant, user), subjects.user(tenant, user)];
    subscribe.extend(
        rooms
            .iter()
            .take(MAX_LISTED_ROOMS)
            .map(|room| subjects.room_all(tenant, room)),
    );
    SubjectPermissions {
        publish: vec![
            subjects.inbound_of_user(tenant, user),
            subjects.api_of_user(tenant, user),
        ],
        subscribe,
        rooms_left_out: rooms.len().saturating_sub(MAX_LISTED_ROOMS),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{ROOMS, TENANTS, USERS, events, id, view_of};
    use crate::policy::{Permission, may};

    /// Whether a subject meets a pattern, by the words of the NATS protocol: `*` is one token, `>` at the end one or more.
    fn meets(pattern: &str, subject: &str) -> bool {
        let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
        loop {
            match (pattern.next(), subject.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(token), Some(other)) if token == other => {}
                _ => return false,
            }
        }
    }

    /// Whether everything that meets `wanted` meets `allowed`: what the server asks of a subscription with wildcards.
    fn covers(allowed: &str, wanted: &str) -> bool {
        let (mut allowed, mut wanted) = (allowed.split('.'), wanted.split('.'));
        loop {
            match (allowed.next(), wanted.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(token)) if token != ">" => {}
                (Some(token), Some(other)) if token == other && !["*", ">"].contains(&token) => {}
                _ => return false,
            }
        }
    }

    /// A subject, and whether a principal may use it: to publish, to subscribe.
    type Judged = (String, bool, bool);

    /// Every subject of the contract for these names, judged by `decide` alone, and some of the server's own.
    fn subjects_for(view: &View, who: &Principal) -> Vec<Judged> {
        let mut all = Vec::new();
        for tenant in TENANTS {
            for user in USERS {
                let own = who.tenant.as_str() == tenant && who.user.as_str() == user;
                for room in ROOMS {
                    all.push((format!("chat.in.{tenant}.{user}.{room}.msg"), own, false));
                    all.push((format!("chat.in.{tenant}.{user}.{room}.token"), own, false));
                }
                all.push((format!("chat.api.{tenant}.{user}.events.get"), own, false));
                all.push((format!("chat.user.{tenant}.{user}"), false, own));
                all.push((format!("_INBOX.{tenant}.{user}.1.2"), false, own));
                all.push((format!("_INBOX_{user}.1"), false, false));
            }
            for room in ROOMS {
                let reads = who.tenant.as_str() == tenant && may(view, who, &id(room), Permission::RoomRead).is_ok();
                for last in ["log", "now"] {
                    all.push((format!("chat.room.{tenant}.{room}.{last}"), false, reads));
                }
                all.push((format!("chat.fan.{tenant}.{room}"), false, false));
            }
        }
        let others = [
            "chat.log.0.1",
            "chat.write.0",
            "chat.authz.a.settle",
            "$SYS.REQ.USER.AUTH",
            "$JS.API.INFO",
            "$MQTT.msgs.x",
            "chat",
        ];
        all.extend(others.map(|subject| (subject.to_owned(), false, false)));
        all
    }

    /// What an attacker would subscribe to.
    const WILD: [&str; 10] = [
        ">",
        "*.>",
        "chat.>",
        "chat.*.*.*.*",
        "chat.room.>",
        "chat.room.*.*.log",
        "chat.room.t.*.log",
        "chat.user.t.*",
        "_INBOX.>",
        "_INBOX.t.*.>",
    ];

    proptest! {
        #[test]
        fn what_is_compiled_allows_what_is_decided_and_nothing_else(events in events()) {
            let view = view_of(&events);
            for (tenant, user) in TENANTS.iter().flat_map(|tenant| USERS.map(|user| (tenant, user))) {
                let who = Principal { tenant: id(tenant), user: id(user) };
                let compiled = subject_permissions(&view, &Subjects::default(), &who);
                prop_assert!(!compiled.publish.is_empty() && !compiled.subscribe.is_empty(), "an empty list allows everything");
                let allows = |list: &[String], subject: &str| list.iter().any(|allowed| meets(allowed, subject));
                let judged = subjects_for(&view, &who);
                for (subject, publish, subscribe) in &judged {
                    prop_assert_eq!(allows(&compiled.publish, subject), *publish, "{:?} publishes {}", &who, subject);
                    prop_assert_eq!(allows(&compiled.subscribe, subject), *subscribe, "{:?} hears {}", &who, subject);
                }
                for wild in WILD {
                    let granted = compiled.subscribe.iter().any(|allowed| covers(allowed, wild));
                    let heard = judged.iter().filter(|(subject, _, _)| meets(wild, subject));
                    let all_his = heard.clone().all(|(_, _, subscribe)| *subscribe);
                    prop_assert!(!granted || all_his, "{:?} hears {}", &who, wild);
                }
            }
        }
    }

    #[test]
    fn the_reference_matcher_is_that_of_nats() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("a", "A", false),
        ] {
            assert_eq!(meets(pattern, subject), expected, "{pattern} {subject}");
        }
        for (allowed, wanted, expected) in [
            ("a.>", "a.*", true),
            ("a.>", "a.>", true),
            ("a.>", ">", false),
            ("a.*", "a.>", false),
            ("a.*", "a.*", true),
            ("a.b", "a.*", false),
            ("a.*.c", "a.b.*", false),
        ] {
            assert_eq!(covers(allowed, wanted), expected, "{allowed} {wanted}");
        }
    }

    #[test]
    fn at_most_so_many_rooms_are_listed_and_it_is_said_how_many_are_left_out() {
        let rooms = (0..=MAX_LISTED_ROOMS).flat_map(|number| {
            let room = format!("room{number}");
            [
                json!({"tenant": "t", "room": room, "kind": "room", "body": {}}),
                json!({"tenant": "t", "room": room, "kind": "member", "body": {"user": "u", "role": "reader"}}),
            ]
        });
        let view = view_of(&rooms.collect::<Vec<_>>());
        let who = Principal {
            tenant: id("t"),
            user: id("u"),
        };
        let compiled = subject_permissions(&view, &Subjects::default(), &who);
        assert_eq!(
            (compiled.subscribe.len(), compiled.rooms_left_out),
            (2 + MAX_LISTED_ROOMS, 1)
        );
    }
}
