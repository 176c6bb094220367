//! What a view tells of what it has read.

use natterjack_nats_config::contract::{Event, Id, Principal, Seq, TokenBody};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::testing::{ROOMS, TENANTS, USERS, events, give, id, of, own_role as role, view_of, who, whole};
use super::{
    BLOCKED, Change, Effect, MAX_LIFETIME_MS, Permission, SetHash, View, all_in_room, all_in_tenant, is_revoking,
    last_revocation_ms, may, may_in_tenant, open_revocations, revocation_is_open, revoked_one_by_one, would_void,
};

const AT: i64 = 1_795_413_600_000;
const KEY: &str = "0123456789abcdef01234567";

fn member(user: &str, role: Option<&str>) -> Value {
    of("member", "r", json!({"user": user, "role": role}))
}

/// Erases the message at a place in the room `r`.
fn erase(seq: u64) -> Value {
    let mut erasure = of("erase", "r", json!({}));
    erasure["target"] = json!({"id": format!("m{seq}"), "seq": seq});
    erasure
}

/// Applies one event more, and gives whose rights it changed.
fn then(view: &mut View, event: &Value) -> Vec<(Option<String>, Effect)> {
    let event = whole(event, view.seq().0 + 1, "2026-11-23T06:00:01.000Z");
    let changes: Vec<Change> = view.apply(&event);
    assert!(
        changes
            .iter()
            .all(|change| change.seq == event.seq && change.tenant == id("t"))
    );
    let of = |change: Change| (change.user.map(|user| user.to_string()), change.effect);
    changes.into_iter().map(of).collect()
}

fn names<'a>(ids: impl Iterator<Item = &'a Id>) -> Vec<String> {
    let mut names: Vec<_> = ids.map(ToString::to_string).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_changed_role_is_a_change_of_those_who_hold_it_and_of_no_others() {
    let mut view = view_of(&[
        of("room", "r", json!({})),
        role("ops", "tenant", json!(["tenant.audit"])),
        role("see", "room", json!(["room.read"])),
        give("a", Some("ops")),
        give("b", Some("auditor")),
        of(
            "user",
            "_",
            json!({"user": "b", "role": "ops", "claimed": {"issuer": "i", "issued_at_ms": 1}}),
        ),
        member("a", Some("see")),
        member("c", Some("see")),
        member("d", Some("reader")),
    ]);
    let tenant = id("t");
    let holders = |view: &View, name: &str| names(view.holders(&tenant, &id(name)).into_iter());
    // What is claimed is held too: it counts once what is given is taken back.
    assert_eq!(holders(&view, "ops"), ["a", "b"]);
    assert_eq!(holders(&view, "see"), ["a", "c"]);
    assert_eq!(holders(&view, "reader"), ["d"]);
    assert_eq!(names(view.roles(&tenant).map(|(name, _)| name)), ["ops", "see"]);
    assert!(view.roles(&id("T")).next().is_none() && view.role(&tenant, &id("ops")).is_some());
    let some = |user: &str, effect| (Some(user.to_owned()), effect);
    let (grant, restriction) = (Effect::Grant, Effect::Restriction);
    let more = role("see", "room", json!(["room.read", "room.send"]));
    assert_eq!(then(&mut view, &more), [some("a", grant), some("c", grant)]);
    assert_eq!(then(&mut view, &more), [], "nothing new");
    assert_eq!(
        then(&mut view, &role("see", "room", json!(["room.send"]))),
        [some("a", restriction), some("c", restriction)]
    );
    assert_eq!(
        then(&mut view, &role("ops", "tenant", Value::Null)),
        [some("a", restriction), some("b", restriction)]
    );
    assert!(view.role(&tenant, &id("ops")).is_none());
}

#[test]
fn a_changed_role_of_very_many_is_a_change_of_everybodys_rights() {
    let holders = |count: usize| {
        let first = [of("room", "r", json!({})), role("see", "room", json!(["room.read"]))];
        let members = (0..count).map(|number| member(&format!("u{number}"), Some("see")));
        view_of(&first.into_iter().chain(members).collect::<Vec<_>>())
    };
    let less = role("see", "room", json!([]));
    assert_eq!(then(&mut holders(1000), &less).len(), 1000);
    let mut view = holders(1001);
    assert_eq!(then(&mut view, &less), [(None, Effect::Restriction)]);
    let (tenant, at_ms) = (id("t"), AT + 1000);
    assert!(view.last_changes().any(|change| change == (&tenant, None, at_ms)));
}

#[test]
fn a_role_in_the_tenant_that_changes_is_told_as_what_it_gives_or_takes() {
    let mut view = view_of(&[
        role("ops", "tenant", json!(["tenant.audit"])),
        role("none", "tenant", json!([])),
    ]);
    let some = |effect| vec![(Some("u".to_owned()), effect)];
    let (grant, restriction) = (Effect::Grant, Effect::Restriction);
    for (role, expected) in [
        (Some("guest"), some(restriction)),
        (Some("device"), vec![]),
        (None, some(grant)),
        (Some("member"), vec![]),
        (Some("ops"), some(restriction)),
        (Some("auditor"), vec![]),
        (Some("admin"), some(grant)),
        (Some("none"), some(restriction)),
        (Some("guest"), vec![]),
        // Who is blocked has nothing of what rooms give, either, and neither here nor there any permission in the tenant.
        (Some(BLOCKED), some(restriction)),
        (Some(BLOCKED), vec![]),
        (Some("guest"), some(grant)),
    ] {
        assert_eq!(then(&mut view, &give("u", role)), expected, "{role:?}");
        assert_eq!(view.tenant_role(&id("t"), &id("u")), role.unwrap_or("member"));
    }
}

fn some_people() -> View {
    view_of(&[
        of("room", "r", json!({"title": "R"})),
        of("room", "s", json!({})),
        member("m", Some("reader")),
        give("g", Some("guest")),
        member("gone", Some("reader")),
        member("gone", None),
        of(
            "key",
            "_",
            json!({"user": "k", "id": KEY, "name": "n", "sha256": "ab".repeat(32)}),
        ),
        of(
            "user",
            "_",
            json!({"user": "c", "role": "guest", "claimed": {"issuer": "i", "issued_at_ms": 1}}),
        ),
    ])
}

#[test]
fn what_a_view_has_read_is_found_by_its_names() {
    let view = some_people();
    let (t, other) = (id("t"), id("T"));
    assert!(view.has_tenant(&t) && !view.has_tenant(&other));
    assert_eq!(names(view.users(&t)), ["c", "g", "m"], "with a role or a room");
    assert!(view.users(&other).next().is_none());
    for (user, known) in [
        ("m", true),
        ("g", true),
        ("k", true),
        ("c", true),
        ("gone", true),
        ("x", false),
    ] {
        assert_eq!(view.knows(&t, &id(user)), known, "{user}");
        assert!(!view.knows(&other, &id(user)));
    }
    let (tenant, room) = view.names("t", "r").unwrap();
    assert_eq!((tenant.as_str(), room.as_str()), ("t", "r"));
    assert!(view.names("t", "x").is_none() && view.names("T", "r").is_none());
    assert_eq!(view.room(&t, &id("r")).unwrap().title.as_deref(), Some("R"));
    let m = id("m");
    let rooms: Vec<_> = view.rooms_of(&t, &m).map(|(name, _)| name.as_str()).collect();
    assert_eq!(rooms, ["r"]);
    assert!(view.membership(&t, &id("s"), &m).is_none() && view.membership(&t, &id("r"), &m).is_some());
}

#[test]
fn whose_rights_ever_changed_is_told_and_when() {
    let view = some_people();
    let changed: Vec<_> = view.last_changes().collect();
    let at = |user: &str| {
        changed
            .iter()
            .find(|(_, of, _)| of.is_some_and(|of| of.as_str() == user))
            .map(|one| one.2)
    };
    assert_eq!(
        (at("m"), at("g"), at("gone"), at("k")),
        (Some(AT), Some(AT), Some(AT), None)
    );
    assert!(
        changed
            .iter()
            .all(|(tenant, user, _)| **tenant == id("t") && user.is_some())
    );
}

#[test]
fn roles_are_those_of_their_scope() {
    let view = view_of(&[
        role("both", "room", json!(["room.read"])),
        role("ops", "tenant", json!(["tenant.audit"])),
    ]);
    let t = id("t");
    let has = |tenant: &str, role: &str| view.in_tenant(&id(tenant), &id(role)).is_some();
    assert!(has("t", "ops") && !has("t", "both") && !has("T", "ops") && has("T", "admin") && !has("t", "owner"));
    let kind = natterjack_nats_config::contract::RoomKind::Group;
    let in_room = |tenant: &str, role: &str| view.in_room(&id(tenant), kind, &id(role)).is_some();
    assert!(in_room("t", "both") && !in_room("t", "ops") && !in_room("T", "both") && in_room("T", "owner"));
    let view = view_of(&[role("ops", "room", json!(["room.read"])), give("u", Some("ops"))]);
    assert!(
        may_in_tenant(&view, &who("u"), Permission::RoomCreate).is_err(),
        "a room's role gives nothing in the tenant"
    );
    assert!(view.ban(&t, &id("r"), &id("u")).is_none());
}

fn token(body: Value) -> Value {
    of("token", "_", body)
}

fn revoked() -> View {
    view_of(&[
        token(json!({"user": "u", "jti": "one", "until_ms": AT + 100, "revoked_ms": AT})),
        token(json!({"user": "u", "jti": "old", "until_ms": AT - 1, "revoked_ms": AT - 9})),
        token(json!({"user": "u", "valid_after_ms": 500_000})),
        token(json!({"valid_after_ms": 400_000})),
        of(
            "key",
            "_",
            json!({"user": "k", "id": KEY, "name": "n", "sha256": "ab".repeat(32)}),
        ),
    ])
}

#[test]
fn only_what_voids_something_ends_connections() {
    let view = revoked();
    let voids = |tenant: &str, body: Value, now_ms: i64| {
        let body: TokenBody = serde_json::from_value(body).unwrap();
        would_void(&view, &id(tenant), &body, now_ms)
    };
    let early = 1_000_000;
    for (body, expected) in [
        (json!({"user": "u", "jti": "one"}), false),
        (json!({"user": "u", "jti": "two"}), true),
        (json!({"user": "x", "jti": "one"}), true),
        (json!({"user": "u", "valid_after_ms": 500_000}), false),
        (json!({"user": "u", "valid_after_ms": 500_001}), true),
        (json!({"user": "x", "valid_after_ms": 500_000}), true),
        (json!({"user": "x", "valid_after_ms": 400_000}), false),
        (json!({"valid_after_ms": 400_000}), false),
        (json!({"valid_after_ms": 400_001}), true),
        // Keys were made at some time too.
        (json!({"user": "k", "valid_after_ms": AT}), true),
        (json!({"user": "k"}), true),
    ] {
        assert_eq!(voids("t", body.clone(), early), expected, "{body}");
    }
    // No token is older than the longest time that one is good for; keys may be.
    let late = AT + MAX_LIFETIME_MS;
    for (body, expected) in [
        (json!({"user": "u", "valid_after_ms": AT}), false),
        (json!({"user": "u", "valid_after_ms": AT + 1}), true),
        (json!({"user": "k", "valid_after_ms": AT}), false),
        (json!({"user": "k", "valid_after_ms": AT + 1}), true),
        (json!({"valid_after_ms": AT}), false),
    ] {
        assert_eq!(voids("t", body.clone(), late), expected, "{body}");
    }
    let later = late + 1000;
    for (body, expected) in [
        (json!({"user": "u", "valid_after_ms": AT + 1}), false),
        (json!({"user": "k", "valid_after_ms": AT + 1}), true),
        (json!({"valid_after_ms": AT + 1}), true),
    ] {
        assert_eq!(voids("t", body.clone(), later), expected, "with a key of then: {body}");
    }
    assert!(
        voids("T", json!({"user": "u", "jti": "one"}), early),
        "nothing is known of that tenant"
    );
}

#[test]
fn tokens_that_were_revoked_one_by_one_are_counted_until_they_expire() {
    let (view, t) = (revoked(), id("t"));
    let one_by_one = |tenant: &Id, user: &str, now_ms: i64| revoked_one_by_one(&view, tenant, &id(user), now_ms);
    assert_eq!(one_by_one(&t, "u", AT - 1), 2);
    assert_eq!(one_by_one(&t, "u", AT + 100), 1);
    assert_eq!(one_by_one(&t, "u", AT + 101), 0);
    assert_eq!((one_by_one(&t, "x", 0), one_by_one(&id("T"), "u", 0)), (0, 0));
}

#[test]
fn what_was_revoked_alone_is_forgotten_once_it_is_void_anyway() {
    let one =
        |jti: &str, until_ms: i64| token(json!({"user": "u", "jti": jti, "until_ms": until_ms, "revoked_ms": AT}));
    let left = |last: Value| {
        let view = view_of(&[one("gone", AT - 1), one("then", AT), one("later", AT + 1), last]);
        revoked_one_by_one(&view, &id("t"), &id("u"), 0)
    };
    // Each has gone by when it has surely expired, and the last one beside those that have not.
    assert_eq!(left(one("x", AT)), 3);
    assert_eq!(
        left(token(json!({"user": "u", "valid_after_ms": 1}))),
        2,
        "one had gone before"
    );
    assert_eq!(
        left(token(
            json!({"user": "u", "valid_after_ms": AT + 5000, "covers_all": true})
        )),
        0
    );
    assert_eq!(
        left(token(
            json!({"user": "x", "valid_after_ms": AT + 5000, "covers_all": true})
        )),
        2
    );
}

#[test]
fn when_something_was_revoked_last_is_known_until_it_has_settled_and_after() {
    let mut view = view_of(&[of("room", "r", json!({}))]);
    let last = |view: &View, user: &str| last_revocation_ms(view, &who(user));
    assert_eq!((last(&view, "u"), last(&view, "x")), (0, 0));
    let change = then(&mut view, &token(json!({"user": "u", "jti": "j", "revoked_ms": AT})));
    assert_eq!(change, [(Some("u".to_owned()), Effect::Restriction)]);
    assert_eq!(
        (last(&view, "u"), last(&view, "x")),
        (AT + 1000, 0),
        "by the event's time"
    );
    let seq = view.seq();
    let is_open =
        |view: &View, user: Option<&str>, seq: Seq| revocation_is_open(view, &id("t"), user.map(id).as_ref(), seq);
    assert!(is_open(&view, Some("u"), seq) && !is_open(&view, Some("x"), seq) && !is_open(&view, None, seq));
    assert!(!is_open(&view, Some("u"), Seq(seq.0 + 1)) && is_revoking(&view, &who("u")));
    assert_eq!(open_revocations(&view).count(), 1);
    then(
        &mut view,
        &token(json!({"user": "u", "settled": seq.0, "revoked_ms": AT + 3000})),
    );
    assert_eq!(last(&view, "u"), AT + 3000, "that it settled is later");
    assert!(!is_revoking(&view, &who("u")) && open_revocations(&view).next().is_none());
    let nothing = json!({"user": "u", "jti": "k", "revoked_ms": AT + 9000, "voids_nothing": true});
    assert_eq!(then(&mut view, &token(nothing)), []);
    assert!(!is_revoking(&view, &who("u")), "nobody has to go");
    assert_eq!(last(&view, "u"), AT + 3000);
    assert_eq!(
        then(&mut view, &token(json!({"valid_after_ms": 7}))),
        [(None, Effect::Restriction)]
    );
    assert!(
        is_revoking(&view, &who("x")) && last(&view, "x") == AT + 1000,
        "everybody's"
    );
    let (t, at) = (id("t"), AT + 1000);
    assert!(view.last_changes().any(|change| change == (&t, None, at)));
}

#[test]
fn what_is_erased_is_handed_out_no_more() {
    let line = |seq: u64, from: &str, kind: &str, target: Value| {
        json!({
            "v": 1, "seq": seq, "n": 1, "prev": 0, "id": format!("m{seq}"), "tenant": "t", "room": "r", "from": from, "kind": kind,
            "at": "2026-11-23T06:00:00.000Z", "target": target, "body": {"text": "words"},
        })
        .to_string()
    };
    let (said, by_bob) = (line(1, "u", "msg", Value::Null), line(2, "bob", "msg", Value::Null));
    let edit = line(9, "bob", "edit", json!({"id": "m2", "seq": 2}));
    let later = line(10, "u", "msg", Value::Null);
    let mut view = view_of(&[
        of("room", "r", json!({})),
        of("room", "s", json!({})),
        of("erase", "_", json!({"user": "u", "upto": 2})),
        erase(2),
    ]);
    let shown = |view: &View, line: &str| {
        let event: Event = serde_json::from_str(line).unwrap();
        let out = view.without_erased(&event.head(), line.as_bytes());
        String::from_utf8(out.to_vec()).unwrap().contains("words")
    };
    for (line, expected) in [(&said, false), (&by_bob, false), (&edit, false), (&later, true)] {
        assert_eq!(shown(&view, line), expected, "{line}");
        assert!(shown(&View::default(), line), "{line}");
    }
    assert_eq!(view.erased(&id("t")).last, Seq(4));
    assert!(view.erased(&id("T")).is_empty());
    assert_eq!(view.all_erased().keys().map(Id::as_str).collect::<Vec<_>>(), ["t"]);
    assert!(view_of(&[of("room", "r", json!({}))]).all_erased().is_empty());
    assert_eq!(view.last_hold(&id("t")), Seq::ZERO);
    then(&mut view, &of("hold", "_", json!({"user": "u", "held": true})));
    assert_eq!(
        (view.last_hold(&id("t")), view.last_hold(&id("T"))),
        (Seq(5), Seq::ZERO)
    );
}

#[test]
fn a_hash_is_that_of_what_is_known_whatever_came_before() {
    let first = of("room", "r", json!({}));
    // Each pair comes to the same, and every step of the second is another one.
    let log = [
        first,
        member("u", Some("reader")),
        give("u", Some("guest")),
        of("ban", "r", json!({"user": "b", "banned": true})),
        role("ops", "tenant", json!(["tenant.audit"])),
        of(
            "user",
            "_",
            json!({"user": "c", "role": "ops", "claimed": {"issuer": "i", "issued_at_ms": 1}}),
        ),
        of(
            "key",
            "_",
            json!({"user": "k", "id": KEY, "name": "n", "sha256": "ab".repeat(32)}),
        ),
        token(json!({"user": "u", "jti": "j", "until_ms": AT + 9, "revoked_ms": AT})),
        token(json!({"valid_after_ms": 9})),
        erase(7),
        of("erase", "_", json!({"user": "u", "upto": 3})),
        of("hold", "_", json!({"user": "u", "held": true})),
    ];
    let mut seen = Vec::new();
    for end in 0..=log.len() {
        let view = view_of(&log[..end]);
        let read = View::from_bytes(&view.to_bytes().unwrap()).unwrap();
        assert_eq!((read.hash(), &read), (view.hash(), &view), "{end}");
        assert!(!seen.contains(&view.hash()), "{end} changes nothing in the hash");
        seen.push(view.hash());
    }
    // And what is forgotten leaves no trace: as if a writer of an earlier version had led from the beginning.
    for version in [1, 2, 3, 4] {
        let mut view = view_of(&log);
        view.begin_term(version);
        let read = View::from_bytes(&view.to_bytes().unwrap()).unwrap();
        assert_eq!(read.hash(), view.hash(), "{version}");
        let mut again = view.clone();
        again.begin_term(version);
        assert_eq!(again.hash(), view.hash(), "{version}");
    }
}

#[test]
fn a_view_notes_what_the_writers_version_notes() {
    let log = [
        of("room", "r", json!({})),
        role("plant", "tenant", json!(["send.as:p7-"])),
        erase(1),
        of("hold", "_", json!({"user": "u", "held": true})),
    ];
    let noted = |view: &View| {
        let tenant = id("t");
        let place = view.room(&tenant, &id("r")).unwrap().since;
        let prefixes = view.rights_of_role(&tenant, &id("plant")).unwrap().send_as;
        [
            place != Seq::ZERO,
            !view.erased(&tenant).is_empty(),
            view.last_hold(&tenant) != Seq::ZERO,
            !prefixes.is_empty(),
        ]
    };
    let table = [
        (2, [false; 4]),
        (3, [true, false, false, false]),
        (4, [true, true, true, false]),
        (5, [true; 4]),
        (6, [true; 4]),
    ];
    for (version, expected) in table {
        // What was noted before is forgotten, and nothing is noted from then on.
        let mut before = view_of(&log);
        before.begin_term(version);
        assert_eq!(noted(&before), expected, "before a writer of version {version}");
        let mut behind = View::default();
        behind.begin_term(version);
        for event in &log {
            then(&mut behind, event);
        }
        assert_eq!(noted(&behind), expected, "behind a writer of version {version}");
    }
    // Nothing at all is known to a view of the first version: its hash is that of nothing.
    let mut nothing = View::default();
    nothing.begin_term(1);
    assert_eq!(nothing.hash(), SetHash::default());
    nothing.keep_all();
    assert_eq!(nothing.hash(), View::default().hash());
}

#[test]
fn of_whom_nothing_is_left_nothing_is_kept() {
    let room = of("room", "r", json!({}));
    let alone = view_of(std::slice::from_ref(&room));
    let rest = [
        // A role that there is not gives nothing, so nothing of it is to be told of later.
        vec![member("u", Some("nowhere")), member("u", None)],
        vec![
            of(
                "key",
                "_",
                json!({"user": "u", "id": KEY, "name": "n", "sha256": "ab".repeat(32)}),
            ),
            token(json!({"user": "u", "jti": format!("nj_{KEY}"), "voids_nothing": true})),
        ],
    ];
    for events in rest {
        let mut view = view_of(&[std::slice::from_ref(&room), &events[..1]].concat());
        assert!(view.knows(&id("t"), &id("u")));
        then(&mut view, &events[1]);
        assert!(!view.knows(&id("t"), &id("u")), "{events:?}");
        assert_eq!(view.hash(), alone.hash());
    }
    assert_eq!((alone.rooms(&id("t")), alone.rooms(&id("T"))), (1, 0));
    let two = view_of(&[room, of("room", "s", json!({}))]);
    assert_eq!(two.rooms(&id("t")), 2);
}

#[test]
fn views_that_know_another_end_of_tokens_differ() {
    let hash = |after_ms: i64| view_of(&[token(json!({"valid_after_ms": after_ms}))]).hash();
    assert_ne!(hash(9), hash(10));
}

#[test]
fn a_ban_says_why_where_that_was_said() {
    let ban = |reason: Value| {
        let banned = of("ban", "r", json!({"user": "u", "banned": true, "reason": reason}));
        let view = view_of(&[of("room", "r", json!({})), banned]);
        let ban = view.ban(&id("t"), &id("r"), &id("u")).expect("a ban");
        assert_eq!(ban.since, Seq(2));
        ban.reason.as_deref().map(str::to_owned)
    };
    assert_eq!(ban(json!("spam")).as_deref(), Some("spam"));
    assert_eq!((ban(json!("")), ban(Value::Null)), (None, None));
    let nowhere = view_of(&[of("ban", "r", json!({"user": "u", "banned": true}))]);
    assert!(nowhere.ban(&id("t"), &id("r"), &id("u")).is_none());
}

proptest! {
    #[test]
    fn all_that_somebody_may_is_each_thing_that_they_may(events in events()) {
        let view = view_of(&events);
        for (tenant, user) in TENANTS.iter().flat_map(|tenant| USERS.map(|user| (tenant, user))) {
            let who = Principal { tenant: id(tenant), user: id(user) };
            let all = all_in_tenant(&view, &who);
            for permission in Permission::ALL {
                prop_assert_eq!(all.contains(permission), may_in_tenant(&view, &who, permission).is_ok());
            }
            for room in ROOMS.map(id) {
                let all = all_in_room(&view, &who, &room);
                for permission in Permission::ALL {
                    prop_assert_eq!(all.contains(permission), may(&view, &who, &room, permission).is_ok());
                }
            }
        }
    }
}
