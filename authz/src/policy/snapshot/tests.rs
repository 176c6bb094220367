use natterjack_nats_config::contract::{Event, Kind, Target};
use proptest::prelude::*;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use super::*;
use crate::policy::Permission;

const AT: i64 = 1_795_413_600_000;

/// What an event of the tests is about: few names, so that the same ones meet often.
#[derive(Debug, Clone)]
struct Step {
    tenant: usize,
    room: usize,
    user: usize,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Room(Option<String>, bool),
    Member(Option<&'static str>, Option<u64>),
    User(Option<&'static str>),
    Token(bool, u8, u64),
    Key(u8, Option<i64>),
    Role(Option<u8>),
    /// A role in the tenant that lets others be spoken for.
    Gateway(Vec<&'static str>),
    Ban(bool, Option<String>),
    Claimed(u8, Option<&'static str>, i64),
    /// Of a message, or of a user up to a place.
    Erase(Option<u64>, u64),
    Hold,
    /// A writer whose view is of this version begins.
    Term(u16),
    Odd,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let role = prop_oneof![Just("owner"), Just("member"), Just("reader"), Just("role1")];
    let what = prop_oneof![
        (prop::option::of("\\PC{0,8}"), any::<bool>()).prop_map(|(title, joined)| What::Room(title, joined)),
        prop::option::of(1u8..9).prop_map(What::Role),
        prop::sample::subsequence(vec!["a", "a-", "{user}-", "x.y"], 0..4).prop_map(What::Gateway),
        (any::<bool>(), prop::option::of("\\PC{0,3}")).prop_map(|(banned, reason)| What::Ban(banned, reason)),
        (prop::option::of(1u64..5), 0u64..9).prop_map(|(message, upto)| What::Erase(message, upto)),
        Just(What::Hold),
        (2u16..6).prop_map(What::Term),
        (prop::option::of(role), prop::option::of(0u64..99)).prop_map(|(role, from)| What::Member(role, from)),
        prop::option::of(Just("admin")).prop_map(What::User),
        (
            0u8..3,
            prop::option::of(prop_oneof![Just("guest"), Just("admin")]),
            0i64..9
        )
            .prop_map(|(issuer, role, at)| What::Claimed(issuer, role, at)),
        (any::<bool>(), 0u8..6, 0u64..8).prop_map(|(one, form, value)| What::Token(one, form, value)),
        (0u8..4, prop::option::of(AT..AT + 60)).prop_map(|(key, expires)| What::Key(key, expires)),
        Just(What::Odd),
    ];
    let step = (0usize..2, 0usize..4, 0usize..4, what);
    let step = step.prop_map(|(tenant, room, user, what)| Step {
        tenant,
        room,
        user,
        what,
    });
    prop::collection::vec(step, 0..60)
}

fn token_body(step: &Step, one: bool, (form, value): (u8, u64)) -> serde_json::Value {
    let mut body = match form {
        0 => json!({"jti": format!("j{value}")}),
        1 => json!({"valid_after_ms": value}),
        3 => json!({"jti": format!("j{value}"), "until_ms": AT + 8 * i64::try_from(value).unwrap()}),
        4 => json!({"valid_after_ms": AT + 8 * i64::try_from(value).unwrap(), "covers_all": true}),
        5 => {
            json!({"jti": format!("nj_{}{value:022}{}", step.tenant, step.user), "voids_nothing": value % 2 == 0})
        }
        _ => json!({"settled": Seq::of(value, 0)}),
    };
    if one || body.get("jti").is_some() {
        body["user"] = json!(format!("u{}", step.user));
    }
    body
}

fn target(step: &Step) -> Option<Target> {
    let What::Erase(Some(message), _) = step.what else {
        return None;
    };
    Some(Target {
        id: String::new(),
        seq: Seq(message),
    })
}

fn said(step: &Step) -> (Kind, Value) {
    let user = format!("u{}", step.user);
    match &step.what {
        What::Room(title, joined) => {
            let history = if *joined { "joined" } else { "all" };
            let kind = if *joined { "announcement" } else { "group" };
            (Kind::Room, json!({"title": title, "history": history, "kind": kind}))
        }
        What::Role(bits) => {
            let permissions = bits.map(|bits| PermissionSet::from_bits(u32::from(bits)).unwrap());
            let verbs = permissions.map(|set| set.iter().map(Permission::as_str).collect::<Vec<_>>());
            let role = format!("role{}", step.room);
            (Kind::Role, json!({"role": role, "scope": "room", "permissions": verbs}))
        }
        What::Gateway(prefixes) => {
            let verbs: Vec<_> = prefixes.iter().map(|prefix| format!("send.as:{prefix}")).collect();
            let role = format!("role{}", step.room);
            (
                Kind::Role,
                json!({"role": role, "scope": "tenant", "permissions": verbs}),
            )
        }
        What::Ban(banned, reason) => (Kind::Ban, json!({"user": user, "banned": banned, "reason": reason})),
        What::Erase(Some(_), _) => (Kind::Erase, json!({})),
        What::Erase(None, upto) => (Kind::Erase, json!({"user": user, "upto": upto})),
        What::Hold => (Kind::Hold, json!({"user": user, "held": true})),
        What::Term(_) => (Kind::Msg, json!({})),
        What::Member(role, from) => (Kind::Member, json!({"user": user, "role": role, "visible_from": from})),
        What::User(role) => (Kind::User, json!({"user": user, "role": role})),
        What::Claimed(issuer, role, at) => {
            let claimed = json!({"issuer": format!("https://id{issuer}"), "issued_at_ms": at});
            (Kind::User, json!({"user": user, "role": role, "claimed": claimed}))
        }
        What::Token(one, form, value) => (Kind::Token, token_body(step, *one, (*form, *value))),
        What::Key(key, expires) => {
            // Ids are those of one user each.
            let (id, sha256) = (format!("{}{key:022}{}", step.tenant, step.user), "5a".repeat(32));
            let body = json!({"user": user, "id": id, "name": "n", "sha256": sha256, "expires_ms": expires});
            (Kind::Key, body)
        }
        What::Odd => (Kind::Member, json!("no membership")),
    }
}

fn event(number: usize, step: &Step) -> Event {
    let (kind, body) = said(step);
    Event {
        v: 1,
        seq: Seq::of(number as u64 + 1, 0),
        n: 1,
        prev: Seq::ZERO,
        id: String::new(),
        tenant: format!("t{}", step.tenant).parse().unwrap(),
        room: format!("r{}", step.room).parse().unwrap(),
        from: "root".parse().unwrap(),
        via: None,
        kind,
        at: natterjack_nats_config::clock::format_ms(AT + i64::try_from(number).unwrap()),
        key: None,
        reply_to: None,
        target: target(step),
        body: to_raw_value(&body).unwrap(),
        erased: None,
    }
}

fn fold(mut view: View, steps: &[Step], from: usize) -> View {
    for (number, step) in steps.iter().enumerate().skip(from) {
        view.apply(&event(number, step));
        if let What::Term(version) = step.what {
            view.begin_term(version);
        }
    }
    view
}

proptest! {
    #[test]
    fn a_view_that_was_put_away_and_taken_up_again_is_the_same(steps in steps(), cut in 0usize..60) {
        let cut = cut.min(steps.len());
        let whole = fold(View::default(), &steps, 0);
        let first = fold(View::default(), &steps[..cut], 0);
        let taken_up = View::from_bytes(&first.to_bytes().unwrap()).unwrap();
        prop_assert_eq!(taken_up.hash(), first.hash(), "the hash is that of what was read");
        let resumed = fold(taken_up, &steps, cut);
        prop_assert_eq!(resumed.hash(), whole.hash());
        prop_assert_eq!(resumed.to_bytes().unwrap(), whole.to_bytes().unwrap());
        prop_assert_eq!(resumed.seq(), whole.seq());
    }

    #[test]
    fn views_that_differ_have_other_hashes(steps in steps(), other in steps()) {
        let (one, two) = (fold(View::default(), &steps, 0), fold(View::default(), &other, 0));
        let bytes = |view: &View| View { seq: Seq::ZERO, ..view.clone() }.to_bytes().unwrap();
        prop_assert_eq!(one.hash() == two.hash(), bytes(&one) == bytes(&two));
    }

    #[test]
    fn whether_places_are_kept_is_part_of_the_hash(steps in steps()) {
        let view = fold(View::default(), &steps, 0);
        let other = View { keeps_no_places: !view.keeps_no_places, ..view.clone() };
        prop_assert_ne!(view.hash(), other.hash());
        prop_assert_ne!(view.to_bytes().unwrap(), other.to_bytes().unwrap());
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_as_another_view(steps in steps(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let view = fold(View::default(), &steps, 0);
        let mut bytes = view.to_bytes().unwrap();
        let cut = at.index(bytes.len());
        prop_assert!(View::from_bytes(&bytes[..cut]).is_err(), "cut off at {}", cut);
        bytes[cut] ^= flip;
        // A SHA-256 stands beside the bytes; here it is enough that nothing panics.
        let _ = View::from_bytes(&bytes);
    }
}

#[test]
fn the_version_before_is_read() {
    let steps = [
        What::Term(2),
        What::Room(None, false),
        What::Member(Some("member"), Some(3)),
        What::User(Some("admin")),
    ];
    let steps = steps.map(|what| Step {
        tenant: 0,
        room: 0,
        user: 0,
        what,
    });
    let view = fold(View::default(), &steps, 0);
    let mut bytes = view.to_bytes().unwrap();
    // What versions 1 to 4 wrote of this view: nothing but their number is other. The kind of the room is one that they know.
    for version in [1, 2, 3, 4] {
        bytes[8] = version;
        assert_eq!(View::from_bytes(&bytes).unwrap(), view);
    }
}

#[test]
fn another_version_is_told_apart_from_damage() {
    let mut bytes = View::default().to_bytes().unwrap();
    bytes[8] += 1;
    assert!(matches!(View::from_bytes(&bytes), Err(SnapshotError::Version(6))));
    bytes[8] = 0;
    assert!(matches!(View::from_bytes(&bytes), Err(SnapshotError::Version(0))));
    assert!(matches!(View::from_bytes(b"something"), Err(SnapshotError::NotAView)));
}

#[test]
fn a_rooms_settings_are_told_once_and_behind_it() {
    let read = |records: &[Record<'_>]| {
        let head = Head {
            magic: MAGIC,
            version: SNAPSHOT_VERSION,
            seq: 1,
            records: records.len() as u64,
        };
        let mut bytes = postcard::to_allocvec(&head).unwrap();
        for record in records {
            bytes.extend(postcard::to_allocvec(record).unwrap());
        }
        View::from_bytes(&bytes)
    };
    let tenant = || Record::Tenant("t");
    let room = || Record::Room {
        room: "r",
        kind: RoomKind::Group,
        title: None,
    };
    let settings = || Record::RoomSettings {
        history: RoomHistory::Joined,
        since: 1,
    };
    assert!(read(&[tenant(), room(), settings()]).is_ok());
    for records in [
        vec![tenant(), settings()],
        vec![tenant(), settings(), room()],
        vec![tenant(), room(), settings(), settings()],
    ] {
        let refused = read(&records);
        assert!(matches!(refused, Err(SnapshotError::Order(_))), "{refused:?}");
    }
}
