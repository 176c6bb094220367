//! Roles of a tenant's own, kinds of rooms, direct rooms, bans, blocked users.

use natterjack_nats_config::contract::direct_room;
use serde_json::{Value, json};

use super::*;

type Outcome = Result<Receipt, ProblemCode>;

impl Book {
    fn policy(&mut self, by: &str, room: &str, kind: Kind, body: &Value) -> Outcome {
        let asked = self.ask(by, room, kind, &json!({"body": body}));
        asked.map_err(|problem| problem.code)
    }

    fn role(&mut self, by: &str, role: &str, scope: &str, permissions: &Value) -> Outcome {
        let body = json!({"role": role, "scope": scope, "permissions": permissions});
        self.policy(by, "_", Kind::Role, &body)
    }

    fn user(&mut self, by: &str, user: &str, role: Option<&str>) -> Outcome {
        self.policy(by, "_", Kind::User, &json!({"user": user, "role": role}))
    }

    fn ban(&mut self, by: &str, user: &str, banned: bool) -> Outcome {
        self.policy(
            by,
            "lobby",
            Kind::Ban,
            &json!({"user": user, "banned": banned, "reason": "spam"}),
        )
    }

    fn send(&mut self, by: &str, kind: Kind) -> Outcome {
        self.policy(by, "lobby", kind, &json!({"text": "x"}))
    }

    fn is_member(&self, room: &str, user: &str) -> bool {
        self.state.view.membership(&id("main"), &id(room), &id(user)).is_some()
    }
}

const FORBIDDEN: Outcome = Err(ProblemCode::Forbidden);
const CONFLICT: Outcome = Err(ProblemCode::Conflict);
const INVALID: Outcome = Err(ProblemCode::InvalidRequest);
const NOT_FOUND: Outcome = Err(ProblemCode::NotFound);

#[test]
fn a_role_of_ones_own_gives_what_it_says_until_it_is_changed() {
    let mut book = Book::founded();
    book.role(
        "admin",
        "speaker",
        "room",
        &json!(["room.send", "room.read", "room.read"]),
    )
    .unwrap();
    book.set_member("alice", "bob", Some("speaker")).unwrap();
    book.send("bob", Kind::Msg).unwrap();
    assert_eq!(book.send("bob", Kind::Command), FORBIDDEN);
    book.role("admin", "speaker", "room", &json!(["room.read"])).unwrap();
    assert_eq!(book.send("bob", Kind::Msg), FORBIDDEN);
    assert_eq!(
        book.role("admin", "speaker", "room", &Value::Null),
        CONFLICT,
        "bob holds it"
    );
    assert_eq!(
        book.role("admin", "speaker", "tenant", &json!([])),
        CONFLICT,
        "of another scope"
    );
    book.set_member("alice", "bob", Some("member")).unwrap();
    book.role("admin", "speaker", "room", &Value::Null).unwrap();
    assert_eq!(book.role("admin", "speaker", "room", &Value::Null), NOT_FOUND);
    assert_eq!(
        book.set_member("alice", "bob", Some("speaker")),
        Err(ProblemCode::InvalidRequest)
    );
    let written = book
        .events()
        .into_iter()
        .find(|event| event.kind == Kind::Role)
        .unwrap();
    assert_eq!(
        written.body.get(),
        r#"{"role":"speaker","scope":"room","permissions":["room.read","room.send"]}"#,
        "each verb once, in one order"
    );
}

#[test]
fn what_is_no_role_is_refused() {
    let mut book = Book::founded();
    for built_in in ["member", "owner", "admin", "blocked", "device"] {
        for scope in ["room", "tenant"] {
            assert_eq!(
                book.role("admin", built_in, scope, &json!(["room.read"])),
                CONFLICT,
                "{built_in}"
            );
            assert_eq!(
                book.role("admin", built_in, scope, &Value::Null),
                CONFLICT,
                "{built_in}"
            );
        }
    }
    for (scope, verb) in [("room", "room.fly"), ("room", "tenant.admin"), ("tenant", "room.read")] {
        assert_eq!(
            book.role("admin", "odd", scope, &json!([verb])),
            INVALID,
            "{scope} {verb}"
        );
    }
    assert_eq!(book.role("admin", "odd", "planet", &json!([])), INVALID);
    let elsewhere = json!({"role": "odd", "scope": "room", "permissions": []});
    assert_eq!(book.policy("admin", "lobby", Kind::Role, &elsewhere), INVALID);
}

#[test]
fn nobody_gives_what_they_lack() {
    let mut book = Book::founded();
    assert_eq!(
        book.role("alice", "x", "room", &json!(["room.read"])),
        FORBIDDEN,
        "no admin"
    );
    book.role("admin", "clerk", "tenant", &json!(["tenant.admin"])).unwrap();
    book.user("admin", "carl", Some("clerk")).unwrap();
    assert_eq!(
        book.role("carl", "x", "room", &json!(["room.read"])),
        FORBIDDEN,
        "lacks room.manage"
    );
    assert_eq!(book.role("carl", "x", "tenant", &json!(["tenant.audit"])), FORBIDDEN);
    assert_eq!(
        book.role("carl", "clerk", "tenant", &json!(["tenant.admin", "room.manage"])),
        FORBIDDEN
    );
    assert_eq!(book.user("carl", "carl", Some("admin")), FORBIDDEN);
    assert_eq!(book.user("carl", "admin", Some("guest")), FORBIDDEN, "nor takes it");
    book.user("carl", "dora", Some("guest")).unwrap();
    book.user("carl", "dora", Some("clerk")).unwrap();
    book.role("admin", "boss", "tenant", &json!(["tenant.admin", "tenant.audit"]))
        .unwrap();
    assert_eq!(
        book.role("carl", "boss", "tenant", &json!(["tenant.admin"])),
        FORBIDDEN,
        "nor takes it from all who hold a role"
    );

    // In a room: who may invite and no more.
    book.role("admin", "greeter", "room", &json!(["room.read", "member.invite"]))
        .unwrap();
    book.role("admin", "watcher", "room", &json!(["room.read"])).unwrap();
    book.set_member("alice", "gus", Some("greeter")).unwrap();
    book.set_member("gus", "walt", Some("watcher")).unwrap();
    book.set_member("gus", "rita", Some("reader")).unwrap();
    assert_eq!(
        book.set_member("gus", "mary", Some("member")),
        FORBIDDEN,
        "lacks room.send"
    );
    assert_eq!(
        book.set_member("gus", "mary", Some("greeter")),
        FORBIDDEN,
        "is for who manages the room"
    );
    assert_eq!(book.set_member("gus", "gus", Some("moderator")), FORBIDDEN);
    assert_eq!(book.set_member("gus", "walt", None), FORBIDDEN);
}

#[test]
fn a_role_in_the_tenant_may_be_for_all_its_rooms() {
    let mut book = Book::founded();
    book.role("admin", "helper", "tenant", &json!(["member.remove"]))
        .unwrap();
    book.user("admin", "hal", Some("helper")).unwrap();
    book.set_member("alice", "bob", Some("member")).unwrap();
    book.set_member("hal", "bob", None).unwrap();
    assert_eq!(book.set_member("hal", "bob", Some("reader")), FORBIDDEN);
    assert_eq!(book.send("hal", Kind::Msg), FORBIDDEN);
    assert_eq!(book.user("admin", "hal", Some("owner")), INVALID, "no role of a tenant");
}

#[test]
fn kinds_say_who_sends() {
    let table = [
        ("group", "member", Kind::Msg, true),
        ("group", "device", Kind::Command, true),
        ("group", "reader", Kind::Msg, false),
        ("announcement", "owner", Kind::Msg, true),
        ("announcement", "moderator", Kind::Msg, true),
        ("announcement", "member", Kind::Msg, false),
        ("announcement", "device", Kind::Msg, false),
        ("announcement", "speaker", Kind::Msg, true),
        ("device", "device", Kind::Msg, true),
        ("device", "device", Kind::Reply, true),
        ("device", "device", Kind::Command, false),
        ("device", "member", Kind::Command, true),
        ("device", "member", Kind::Msg, false),
        ("device", "owner", Kind::Msg, true),
    ];
    for (kind, role, sent, expected) in table {
        let mut book = Book::founded();
        book.role("admin", "speaker", "room", &json!(["room.read", "room.send"]))
            .unwrap();
        book.set_member("alice", "bob", Some(role)).unwrap();
        book.policy("alice", "lobby", Kind::Room, &json!({"kind": kind}))
            .unwrap();
        assert_eq!(book.send("bob", sent).is_ok(), expected, "{kind} {role} {sent:?}");
    }
}

#[test]
fn two_people_have_one_room_whoever_asks() {
    let mut book = Book::founded();
    book.set_member("alice", "bob", Some("member")).unwrap();
    let room = direct_room(&id("alice"), &id("bob")).unwrap();
    let (room, with) = (room.as_str(), |user: &str| json!({"kind": "direct", "with": user}));
    let before = book.events().len();
    book.policy("bob", room, Kind::Room, &with("alice")).unwrap();
    let kinds: Vec<_> = book.events()[before..]
        .iter()
        .map(|event| (event.kind, event.seq.frame()))
        .collect();
    assert_eq!(
        kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        [Kind::Room, Kind::Member, Kind::Member]
    );
    assert!(kinds.iter().all(|(_, frame)| *frame == kinds[0].1), "in one frame");
    assert_eq!(
        book.policy("alice", room, Kind::Room, &with("bob")),
        CONFLICT,
        "the one who came later"
    );
    for user in ["alice", "bob"] {
        book.policy(user, room, Kind::Msg, &json!({"text": "x"})).unwrap();
        let member = |who: &str, role: Option<&str>| json!({"user": who, "role": role});
        for by in [user, "admin"] {
            assert!(
                book.policy(by, room, Kind::Member, &member("eve", Some("member")))
                    .is_err(),
                "{by} adds"
            );
            assert!(
                book.policy(by, room, Kind::Member, &member("bob", Some("reader")))
                    .is_err()
            );
            assert!(book.policy(by, room, Kind::Room, &json!({"title": "mine"})).is_err());
            assert!(
                book.policy(by, room, Kind::Ban, &json!({"user": "alice", "banned": true}))
                    .is_err()
            );
        }
        assert_eq!(
            book.policy(user, room, Kind::Member, &member(user, None)),
            CONFLICT,
            "nobody leaves"
        );
    }
}

#[test]
fn not_everybody_has_a_direct_room_with_everybody() {
    let mut book = Book::founded();
    for (user, role) in [("gast", "guest"), ("mal", "blocked"), ("dev", "device")] {
        book.user("admin", user, Some(role)).unwrap();
    }
    let with = |user: &str| json!({"kind": "direct", "with": user});
    let of = |one: &str, other: &str| direct_room(&id(one), &id(other)).unwrap();
    let table = [
        ("alice", "nobody", NOT_FOUND),
        ("alice", "mal", NOT_FOUND),
        ("alice", "gast", FORBIDDEN),
        ("alice", "dev", FORBIDDEN),
        ("gast", "alice", FORBIDDEN),
        ("mal", "alice", FORBIDDEN),
    ];
    for (who, other, expected) in table {
        let outcome = book.policy(who, of(who, other).as_str(), Kind::Room, &with(other));
        assert_eq!(outcome, expected, "{who} {other}");
    }
    // Nobody takes another pair's id, for whatever kind of room.
    let theirs = of("alice", "admin");
    assert_eq!(book.policy("bob", theirs.as_str(), Kind::Room, &with("alice")), INVALID);
    assert_eq!(book.policy("bob", theirs.as_str(), Kind::Room, &json!({})), INVALID);
    assert_eq!(book.policy("alice", "alice2", Kind::Room, &with("alice")), INVALID);
    assert_eq!(
        book.policy("alice", "x", Kind::Room, &json!({"kind": "direct"})),
        INVALID
    );
    assert_eq!(
        book.policy("alice", "lobby", Kind::Room, &json!({"kind": "group", "with": "bob"})),
        INVALID
    );
}

#[test]
fn who_is_banned_is_out_and_comes_back_by_who_manages_the_room() {
    let mut book = Book::founded();
    for (user, role) in [("mod", "moderator"), ("bob", "member"), ("mo2", "moderator")] {
        book.set_member("alice", user, Some(role)).unwrap();
    }
    assert_eq!(book.ban("bob", "mod", true), FORBIDDEN);
    assert_eq!(
        book.ban("mod", "mo2", true),
        FORBIDDEN,
        "only who manages the room bans a moderator"
    );
    assert_eq!(book.ban("mod", "mod", true), FORBIDDEN);
    assert_eq!(book.ban("alice", "alice", true), CONFLICT);
    let before = book.events().len();
    book.ban("mod", "bob", true).unwrap();
    let kinds: Vec<_> = book.events()[before..].iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Ban, Kind::Member]);
    assert!(!book.is_member("lobby", "bob"));
    assert_eq!(book.set_member("mod", "bob", Some("reader")), FORBIDDEN);
    assert_eq!(book.ban("mod", "bob", false), FORBIDDEN);
    // A stranger can be banned before he comes.
    book.ban("mod", "eve", true).unwrap();
    assert_eq!(
        book.set_member("mod", "eve", Some("member")),
        Err(ProblemCode::Forbidden)
    );
    book.ban("alice", "eve", false).unwrap();
    assert_eq!(book.ban("alice", "eve", false), NOT_FOUND);
    book.set_member("mod", "eve", Some("member")).unwrap();
    book.set_member("alice", "bob", Some("member")).unwrap();
    assert!(
        book.state.view.ban(&id("main"), &id("lobby"), &id("bob")).is_none(),
        "lifted by that"
    );
}

#[test]
fn who_is_blocked_does_nothing_at_all() {
    let mut book = Book::founded();
    book.set_member("alice", "bob", Some("owner")).unwrap();
    book.user("admin", "bob", Some("blocked")).unwrap();
    let leave = json!({"user": "bob", "role": null});
    for outcome in [
        book.send("bob", Kind::Msg),
        book.policy("bob", "lobby", Kind::Member, &leave),
        book.policy("bob", "new", Kind::Room, &json!({})),
        book.revoke(By::Connection, "bob", &json!({"body": {"user": "bob"}})),
    ] {
        assert_eq!(outcome, FORBIDDEN);
    }
    assert_eq!(book.user("admin", "admin", Some("blocked")), CONFLICT);
    book.user("admin", "bob", None).unwrap();
    book.send("bob", Kind::Msg).unwrap();
}

#[test]
fn history_since_joining_is_for_those_who_join_from_then_on() {
    let mut book = Book::founded();
    book.set_member("alice", "old", Some("reader")).unwrap();
    book.policy("alice", "lobby", Kind::Room, &json!({"history": "joined"}))
        .unwrap();
    let said = book.send("alice", Kind::Msg).unwrap();
    let joined = book.set_member("alice", "new", Some("reader")).unwrap();
    let from = |book: &Book, user: &str| {
        let member = book.state.view.membership(&id("main"), &id("lobby"), &id(user));
        member.unwrap().visible_from
    };
    assert_eq!((from(&book, "old"), from(&book, "new")), (Seq::ZERO, joined.seq));
    assert!(said.seq < joined.seq);
    let asked = json!({"user": "peek", "role": "reader", "visible_from": 1});
    let joined = book.policy("alice", "lobby", Kind::Member, &asked).unwrap();
    assert_eq!(
        from(&book, "peek"),
        joined.seq,
        "nobody is given more than the room's setting"
    );
    book.set_member("alice", "new", None).unwrap();
    let again = book.set_member("alice", "new", Some("member")).unwrap();
    assert_eq!(from(&book, "new"), again.seq);
    book.policy("alice", "lobby", Kind::Room, &json!({})).unwrap();
    book.set_member("alice", "new", Some("reader")).unwrap();
    assert_eq!(
        from(&book, "new"),
        again.seq,
        "a change of role shows nothing that was hidden"
    );
}
