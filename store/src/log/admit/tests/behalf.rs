//! Gateways, who send in the names of others.

use serde_json::{Value, json};

use super::*;

type Outcome = Result<Receipt, ProblemCode>;

const FORBIDDEN: Outcome = Err(ProblemCode::Forbidden);
const INVALID: Outcome = Err(ProblemCode::InvalidRequest);

/// A lobby with a gateway, a device and a reader.
fn book() -> Book {
    let mut book = Book::founded();
    let role = json!({"body": {"role": "gateway", "scope": "tenant", "permissions": ["send.as"]}});
    book.ask("admin", "_", Kind::Role, &role).unwrap();
    book.give("gw", Some("gateway"));
    for (user, role) in [("gw", "member"), ("dev1", "device"), ("rita", "reader")] {
        book.set_member("alice", user, Some(role)).unwrap();
    }
    book
}

impl Book {
    fn give(&mut self, user: &str, role: Option<&str>) {
        let body = json!({"body": {"user": user, "role": role}});
        self.ask("admin", "_", Kind::User, &body).unwrap();
    }

    fn send_as(&mut self, by: &str, kind: Kind, payload: &Value) -> Outcome {
        self.ask(by, "lobby", kind, payload).map_err(|problem| problem.code)
    }
}

fn of(user: &str) -> Value {
    json!({"as": user, "body": {"temp": 21}})
}

#[test]
fn a_gateways_message_is_from_whom_it_names_and_says_who_sent_it() {
    let mut book = book();
    let receipt = book.send_as("gw", Kind::Msg, &of("dev1")).unwrap();
    let event = book.events().pop().unwrap();
    assert_eq!(
        (event.id, event.from, event.via),
        (receipt.id, id("dev1"), Some(id("gw")))
    );
    book.send_as("gw", Kind::Msg, &json!({"body": 1})).unwrap();
    let own = book.events().pop().unwrap();
    assert_eq!((own.from, own.via), (id("gw"), None));
}

#[test]
fn it_takes_the_permission_and_the_rights_of_both() {
    let mut book = book();
    assert_eq!(book.send_as("alice", Kind::Msg, &of("dev1")), FORBIDDEN, "no gateway");
    assert_eq!(book.send_as("gw", Kind::Msg, &of("rita")), FORBIDDEN, "a reader");
    assert_eq!(book.send_as("gw", Kind::Msg, &of("stranger")), FORBIDDEN);
    assert_eq!(book.send_as("gw", Kind::Msg, &of("gw")), INVALID, "oneself");
    book.send_as("gw", Kind::Command, &of("dev1")).unwrap();
    book.give("dev1", Some("blocked"));
    assert_eq!(book.send_as("gw", Kind::Msg, &of("dev1")), FORBIDDEN, "blocked");
    book.give("dev1", None);
    book.send_as("gw", Kind::Reply, &of("dev1")).unwrap();
    let ban = json!({"body": {"user": "dev1", "banned": true}});
    book.ask("alice", "lobby", Kind::Ban, &ban).unwrap();
    assert_eq!(book.send_as("gw", Kind::Msg, &of("dev1")), FORBIDDEN, "banned");
    book.set_member("alice", "dev1", Some("device")).unwrap();
    book.set_member("alice", "gw", Some("reader")).unwrap();
    assert_eq!(
        book.send_as("gw", Kind::Msg, &of("dev1")),
        FORBIDDEN,
        "the gateway only reads"
    );
    book.set_member("alice", "gw", Some("member")).unwrap();
    book.give("gw", None);
    assert_eq!(
        book.send_as("gw", Kind::Msg, &of("dev1")),
        FORBIDDEN,
        "no gateway any more"
    );
}

#[test]
fn nothing_but_messages_is_sent_so() {
    let mut book = book();
    let target = book.send_as("gw", Kind::Msg, &of("dev1")).unwrap().id;
    for (kind, payload) in [
        (Kind::Edit, json!({"as": "dev1", "target": target, "body": {}})),
        (Kind::Delete, json!({"as": "dev1", "target": target, "body": {}})),
        (
            Kind::Member,
            json!({"as": "alice", "body": {"user": "eve", "role": "owner"}}),
        ),
        (Kind::Read, json!({"as": "dev1", "body": {"seq": 0}})),
    ] {
        assert_eq!(book.send_as("gw", kind, &payload), INVALID, "{kind:?}");
    }
    // Whose it is edits it, and the gateway does not.
    let edit = json!({"target": target, "body": {}});
    assert_eq!(book.send_as("gw", Kind::Edit, &edit), FORBIDDEN);
    book.set_member("alice", "dev1", Some("member")).unwrap();
    book.send_as("dev1", Kind::Edit, &edit).unwrap();
}

#[test]
fn keys_are_the_gateways_also_for_a_successor() {
    let mut book = book();
    let keyed = |user: &str| json!({"key": "k", "as": user, "body": 1});
    let first = book.send_as("gw", Kind::Msg, &keyed("dev1")).unwrap();
    let plain = json!({"key": "k", "body": 1});
    book.set_member("alice", "dev2", Some("device")).unwrap();
    for successor in [false, true] {
        if successor {
            let mut state = State::default();
            state.begin_term(Some(STATE_VERSION));
            for event in book.events() {
                state.apply(&event);
            }
            state.pass_frame(book.state.end());
            book.state = state;
        }
        let again = book.send_as("gw", Kind::Msg, &keyed("dev1")).unwrap();
        assert!(again.duplicate && again.id == first.id);
        for other in [&keyed("dev2"), &plain] {
            assert_eq!(
                book.send_as("gw", Kind::Msg, other),
                Err(ProblemCode::IdempotencyMismatch)
            );
        }
    }
    // The same key is the device's own to use.
    assert!(!book.send_as("dev1", Kind::Msg, &plain).unwrap().duplicate);
}

/// A role in the tenant, as it is asked for.
fn role(name: &str, scope: &str, verbs: &[&str]) -> Value {
    json!({"body": {"role": name, "scope": scope, "permissions": verbs}})
}

#[test]
fn under_a_prefix_a_gateway_sends_for_those_alone_and_with_the_rights_of_both() {
    let mut book = book();
    book.ask(
        "admin",
        "_",
        Kind::Role,
        &role("plant", "tenant", &["send.as:{user}-", "send.as:dev"]),
    )
    .unwrap();
    book.give("gw", Some("plant"));
    for user in ["gw-1", "other"] {
        book.set_member("alice", user, Some("device")).unwrap();
    }
    for (named, may) in [
        ("dev1", true),
        ("gw-1", true),
        ("other", false),
        // Under the prefix, but no member.
        ("dev2", false),
        ("gw", false),
    ] {
        let sent = book.send_as("gw", Kind::Msg, &of(named));
        assert_eq!(sent.is_ok(), may, "{named}");
        if !may {
            assert_eq!(sent, FORBIDDEN, "{named}");
        }
    }
    book.set_member("alice", "dev1", Some("reader")).unwrap();
    assert_eq!(book.send_as("gw", Kind::Msg, &of("dev1")), FORBIDDEN, "only reads");
    book.ask("admin", "_", Kind::Role, &role("plant", "tenant", &["send.as:o"]))
        .unwrap();
    assert_eq!(book.send_as("gw", Kind::Msg, &of("gw-1")), FORBIDDEN, "not any more");
    book.send_as("gw", Kind::Msg, &of("other")).unwrap();
    // It holds as what it is, not as the whole permission.
    let own = json!({"body": {"role": "mine", "scope": "tenant", "permissions": ["send.as:o"]}});
    assert!(book.ask("gw", "_", Kind::Role, &own).is_err());
}

#[test]
fn prefixes_are_read_and_kept_as_they_count() {
    let mut book = Book::founded();
    let seventeen: Vec<_> = (0..17).map(|number| format!("send.as:p{number}")).collect();
    let seventeen: Vec<_> = seventeen.iter().map(String::as_str).collect();
    for (scope, verbs) in [
        ("room", &["send.as:dev"][..]),
        ("tenant", &["send.as:"]),
        ("tenant", &["send.as:a.b"]),
        ("tenant", &["send.as:*"]),
        ("tenant", &["send.as:{user}{user}"]),
        ("tenant", &["room.read:dev"]),
        ("tenant", &seventeen),
    ] {
        let refused = book.ask("admin", "_", Kind::Role, &role("plant", scope, verbs));
        assert_eq!(refused.unwrap_err().code, ProblemCode::InvalidRequest, "{verbs:?}");
    }
    for (verbs, kept) in [
        (
            &["send.as:b", "send.as:a", "send.as:b"][..],
            json!(["send.as:a", "send.as:b"]),
        ),
        (&["send.as:a", "send.as"], json!(["send.as"])),
        (&["send.as:a", "tenant.audit"], json!(["tenant.audit", "send.as:a"])),
        (&seventeen[..16], Value::Null),
    ] {
        book.ask("admin", "_", Kind::Role, &role("plant", "tenant", verbs))
            .unwrap();
        let event = book.events().pop().unwrap();
        let body: Value = serde_json::from_str(event.body.get()).unwrap();
        assert!(kept.is_null() || body["permissions"] == kept, "{body}");
    }
}

const REFUSED: Result<(), ProblemCode> = Err(ProblemCode::Forbidden);

/// A tenant in which eve may give roles, and may speak for those whose ids begin with `dev`.
fn with_a_clerk() -> Book {
    let mut book = Book::founded();
    let clerk = [
        "tenant.admin",
        "room.manage",
        "room.create",
        "room.direct",
        "send.as:dev",
    ];
    for (name, verbs) in [
        ("clerk", &clerk[..]),
        ("any", &["send.as"]),
        ("under", &["send.as:dev1"]),
        ("beside", &["send.as:d"]),
        ("own", &["send.as:{user}-"]),
        ("high", &["tenant.admin", "send.as:d"]),
    ] {
        book.ask("admin", "_", Kind::Role, &role(name, "tenant", verbs))
            .unwrap();
    }
    for (user, role) in [("eve", "clerk"), ("boss", "high")] {
        book.give(user, Some(role));
    }
    book
}

fn by_eve(book: &mut Book, kind: Kind, body: &Value) -> Result<(), ProblemCode> {
    let token = TokenRef {
        jti: None,
        issued_at_ms: START_MS,
    };
    let asked = book.ask_by(By::Token(token), &request("eve", "_", kind, body));
    asked.map(|_| ()).map_err(|problem| problem.code)
}

#[test]
fn nobody_makes_a_role_for_names_that_they_may_not_speak_for() {
    let mut book = with_a_clerk();
    for (verb, expected) in [
        ("send.as:dev", Ok(())),
        ("send.as:dev{user}", Ok(())),
        ("send.as:de", REFUSED),
        ("send.as:{user}", REFUSED),
        ("send.as", REFUSED),
    ] {
        assert_eq!(
            by_eve(&mut book, Kind::Role, &role("new", "tenant", &[verb])),
            expected,
            "makes {verb}"
        );
    }
    assert_eq!(
        by_eve(&mut book, Kind::Role, &role("high", "tenant", &[])),
        REFUSED,
        "takes from who may more"
    );
}

#[test]
fn nobody_gives_names_that_they_may_not_speak_for() {
    let mut book = with_a_clerk();
    for (user, role, expected) in [
        ("gw", "under", Ok(())),
        ("gw", "beside", REFUSED),
        ("gw", "any", REFUSED),
        ("gw", "own", REFUSED),
        // What the role gives this one is within what she may.
        ("dev9", "own", Ok(())),
        ("boss", "under", REFUSED),
    ] {
        let give = json!({"body": {"user": user, "role": role}});
        assert_eq!(by_eve(&mut book, Kind::User, &give), expected, "gives {user} {role}");
    }
    // With a key comes what its owner may.
    for (number, (owner, expected)) in [("gw", Ok(())), ("dev9", Ok(())), ("boss", REFUSED)]
        .into_iter()
        .enumerate()
    {
        let (key, sha256) = (format!("{number:024}"), "0".repeat(64));
        let body = json!({"body": {"user": owner, "id": key, "name": "x", "sha256": sha256}});
        assert_eq!(by_eve(&mut book, Kind::Key, &body), expected, "a key of {owner}");
    }
}
